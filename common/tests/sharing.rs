//! Instances of one group share its partitions: by giving, to whom makes progress, and over a recreated offsets topic.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use harness::Fault;
use task_events::offsets::{Claim, Commit, OffsetsLog};

use uuid::Uuid;
use world::{Consumer, GROUP, LEASE, Script, World, eventually};

/// Longer than membership has to be unchanged before anything is given.
const SETTLED: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);

fn owned(consumer: &Consumer) -> Vec<i32> {
    (0..4).filter(|partition| consumer.owns(*partition)).collect()
}

/// Whether it can be given partitions, as it says; who is no member says nothing.
fn accepts(offsets: &OffsetsLog, consumer: &Consumer) -> bool {
    let (id, view) = (consumer.identity.id(), offsets.view());
    !view.borrow().fold.members(GROUP).any(|(of, member)| of == id && !member.accepts)
}

fn members(offsets: &OffsetsLog) -> usize {
    offsets.view().borrow().fold.members(GROUP).count()
}

async fn until_committed(world: &World, partition: i32, position: i64) {
    let is_committed = async || world.position(partition).await == Some(position);
    harness::until("its position to be committed", LIMIT, is_committed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_given_its_share_and_one_that_stops_gives_it_back_and_nothing_is_repeated() {
    let world = World::start(4).await.with_long_leases();
    let first = world.consumer(Script::default());
    eventually("the first owns all", || owned(&first).len() == 4).await;
    for partition in 0..4 {
        world.produce(partition, "before").await;
    }
    let second = world.consumer(Script::default());
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    let claims = world.claims_made().await;
    // On a machine that is slow for a moment more may move; how many have to is the model's to assert.
    assert!(claims.len() >= 6, "two moved: {claims:#?}");
    for partition in 0..4 {
        world.produce(partition, "between").await;
    }
    let all = |consumers: &[&Consumer], each: usize| {
        let flushed: Vec<_> = consumers.iter().flat_map(|consumer| consumer.script.flushed()).collect();
        let distinct: BTreeSet<_> = flushed.iter().copied().collect();
        assert_eq!(distinct.len(), flushed.len(), "nothing twice: {flushed:?}");
        distinct.len() == 4 * each
    };
    eventually("each event is handled", || all(&[&first, &second], 2)).await;
    // A release may fail on a machine that stalls: it is not to be the first that says so.
    for partition in 0..4 {
        until_committed(&world, partition, 2).await;
    }

    let script = second.script.clone();
    second.stop().await;
    // Released at the stop: `instances_that_stop_at_once_release_all_that_they_have`.
    eventually("the first owns all again", || owned(&first).len() == 4).await;
    for partition in 0..4 {
        world.produce(partition, "after").await;
    }
    eventually("each event is handled", || {
        let flushed = [first.script.flushed(), script.flushed()].concat();
        assert_eq!(
            flushed.iter().collect::<BTreeSet<_>>().len(),
            flushed.len(),
            "nothing twice: {flushed:?}"
        );
        flushed.len() == 12
    })
    .await;
    let claims = world.claims_made().await;
    assert!(claims.len() >= 8, "what the second had moved: {claims:#?}");
    first.stop().await;
}

/// An instance that is in the middle of a batch of both its partitions, one of which is to be given to the second.
struct Gift {
    world: World,
    first: Consumer,
    second: Consumer,
    claims: (usize, usize),
}

impl Gift {
    /// Both are members, and the first is in the middle of its work.
    async fn begin(world: World, stuck: impl Fn(&Script)) -> Self {
        let world = world.with_long_leases();
        let first = world.consumer(Script::default());
        eventually("the first owns both", || owned(&first).len() == 2).await;
        stuck(&first.script);
        for partition in 0..2 {
            world.produce(partition, "in flight").await;
        }
        eventually("both are in flight", || first.script.handled().len() == 2).await;
        let second = world.consumer(Script::default());
        eventually("the second stands by", || second.status.is_ready()).await;
        Self { world, first, second, claims: (0, 0) }
    }

    async fn pending(world: World, stuck: impl Fn(&Script)) -> Self {
        let mut gift = Self::begin(world, stuck).await;
        tokio::time::sleep(SETTLED).await;
        gift.claims = gift.count_claims().await;
        gift
    }

    /// Of the first and of the second.
    async fn count_claims(&self) -> (usize, usize) {
        let claims = self.world.claims_made().await;
        let of = |consumer: &Consumer| claims.iter().filter(|(_, id)| *id == consumer.identity.id()).count();
        (of(&self.first), of(&self.second))
    }

    /// What both have handled, once one more event of each partition was.
    async fn handled(&self) -> Vec<(i32, i64)> {
        for partition in 0..2 {
            self.world.produce(partition, "after").await;
        }
        let of_both = |what: fn(&Script) -> Vec<(i32, i64)>| {
            let mut events = [what(&self.first.script), what(&self.second.script)].concat();
            events.sort_unstable();
            events
        };
        let all_done = || EACH_ONCE.iter().all(|event| of_both(Script::flushed).contains(event));
        eventually("all are done", all_done).await;
        of_both(Script::handled)
    }

    /// Each was handled once. Returns whether the first had to claim again, and the second could claim only what it was
    /// given: a machine that stalls may have held up the gift, or made another.
    async fn shows(self) -> bool {
        assert_eq!(self.handled().await, EACH_ONCE);
        let (first, _) = self.count_claims().await;
        let is_shown = self.claims.1 == 0 && first > self.claims.0;
        self.end().await;
        is_shown
    }

    async fn end(self) {
        self.first.stop().await;
        self.second.stop().await;
    }
}

/// The events of a gift, each handled once.
const EACH_ONCE: [(i32, i64); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Of a gift on a machine that may stall, one try has to show what is tested.
async fn shown_by(attempt: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if attempt().await {
            return;
        }
    }
    panic!("it never came to what is tested");
}

fn hang(script: &Script) {
    (0..2).for_each(|partition| script.hang_in(partition));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_since_the_other_has_left_goes_on_from_where_it_was() {
    shown_by(async || {
        let gift = Gift::pending(World::start(2).await, hang).await;
        gift.second.ask_to_stop();
        let offsets = gift.world.offsets().await;
        eventually("the second has left", || members(&offsets) == 1).await;
        gift.first.script.release();
        gift.shows().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_given_goes_on_from_where_it_was() {
    shown_by(async || {
        let gift = Gift::pending(World::behind_proxy(2).await, hang).await;
        // The offsets topic's, too.
        let proxy = gift.world.proxy.as_ref().expect("a proxy");
        proxy.take_down(Some(0));
        gift.first.script.release();
        // Longer than a release is tried.
        tokio::time::sleep(SETTLED).await;
        proxy.take_down(None);
        gift.shows().await
    })
    .await;
}

/// What failed may have been done in part, so that it is tried again before the partition is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_for_a_while_is_done_before_its_partition_is_given() {
    /// For so long after the gift it is tried.
    const TRIED: Duration = Duration::from_secs(5);
    shown_by(async || {
        let gift = Gift::begin(World::start(2).await, |script| script.set_failing(true)).await;
        // It says that it makes no progress, and gives both once that is settled, after 2 s.
        let offsets = gift.world.offsets().await;
        let settles = Instant::now();
        eventually("the first is given nothing", || !accepts(&offsets, &gift.first)).await;
        tokio::time::sleep(SETTLED).await;
        gift.first.script.set_failing(false);
        let is_in_time = settles.elapsed() < TRIED;
        let handled = gift.handled().await;
        assert!(!is_in_time || handled == EACH_ONCE, "{handled:?}");
        gift.end().await;
        is_in_time
    })
    .await;
}

/// Both saw it to be free. The later claim fences, and the first has handled nothing by then.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_claim_at_once_one_handles() {
    shown_by(async || {
        let world = World::behind_proxy(2).await.with_long_leases();
        for partition in 0..2 {
            world.produce(partition, &format!("id {partition}")).await;
        }
        // The member's record, then the claims, over one connection.
        let proxy = world.proxy.as_ref().expect("a proxy");
        proxy.next(&[Fault::Slow(Duration::ZERO), Fault::Held]);
        let late = world.consumer(Script::default());
        let offsets = world.offsets().await;
        eventually("the later is a member", || members(&offsets) == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let script = Script::default();
        hang(&script);
        let first = world.consumer(script);
        // Who owned what, since when.
        let mut seen = BTreeMap::<(i32, Uuid), Instant>::new();
        let begun = Instant::now();
        while begun.elapsed() < SETTLED {
            for partition in 0..2 {
                let view = offsets.view();
                let owner =
                    view.borrow().slot(&world.slot(partition)).and_then(|state| state.owner().cloned());
                owner.map(|owner| seen.entry((partition, owner.claim.instance_id)).or_insert(Instant::now()));
            }
            if !seen.is_empty() {
                proxy.release();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        first.script.release();
        let flushed = || [first.script.flushed(), late.script.flushed()].concat();
        eventually("all is done", || flushed().len() >= 2).await;
        let mut is_shown = false;
        for partition in 0..2 {
            let at = |consumer: &Consumer| seen.get(&(partition, consumer.identity.id())).copied();
            let gap = at(&first).zip(at(&late)).and_then(|(first, late)| late.checked_duration_since(first));
            // On a machine that stalls one of them sees that the other owns, or is later than the first waits.
            if gap.is_some_and(|gap| gap < Duration::from_millis(150)) {
                is_shown = true;
                let handled = [first.script.handled(), late.script.handled()].concat();
                let times = handled.iter().filter(|event| **event == (partition, 0)).count();
                assert_eq!(times, 1, "{handled:?}");
            }
        }
        first.stop().await;
        late.stop().await;
        is_shown
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_in_trouble_is_given_nothing_until_it_is_over() {
    let world = World::start(4).await.with_long_leases();
    let first = world.consumer(Script::default());
    eventually("the first owns all", || owned(&first).len() == 4).await;
    let script = Script::default();
    script.set_trouble(true);
    let second = world.consumer(script.clone());
    // It counts as able to for a moment, in which a machine that stalls may have it be given some.
    let offsets = world.offsets().await;
    eventually("the second says so", || !accepts(&offsets, &second)).await;
    eventually("the first owns all", || owned(&first).len() == 4).await;
    let claims = world.claims().await;
    tokio::time::sleep(SETTLED + LEASE).await;
    assert_eq!((owned(&first).len(), world.claims().await), (4, claims));
    script.set_trouble(false);
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    first.stop().await;
    second.stop().await;
}

/// The owner knows where it is, and a standby does not.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_offsets_topic_was_recreated_the_former_owner_goes_on_from_where_it_was() {
    let world = World::start(1).await.with_long_leases();
    let first = world.consumer(Script::default());
    eventually("the first owns", || first.owns(0)).await;
    let others = [world.consumer(Script::default()), world.consumer(Script::default())];
    eventually("the others stand by", || others.iter().all(|other| other.status.is_ready())).await;
    world.produce(0, "before").await;
    eventually("it is handled", || first.script.flushed().contains(&(0, 0))).await;
    world.recreate_offsets().await;
    world.produce(0, "after").await;
    eventually("the next is handled", || first.script.flushed().contains(&(0, 1))).await;
    // Perhaps before it has noticed.
    eventually("the first owns", || first.owns(0)).await;
    assert_eq!(first.script.handled(), [(0, 0), (0, 1)], "nothing is repeated");
    assert!(others.iter().all(|other| other.script.handled().is_empty()), "the others handle nothing");
    tokio::time::sleep(LEASE).await;
    assert!(first.owns(0) && others.iter().all(|other| !other.owns(0)), "exactly one owns");
    for consumer in others.into_iter().chain([first]) {
        consumer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_offsets_topic_was_recreated_each_of_several_owners_goes_on_from_where_it_was() {
    let world = World::start(4).await.with_long_leases();
    let first = world.consumer(Script::default());
    let second = world.consumer(Script::default());
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    for partition in 0..4 {
        world.produce(partition, "before").await;
    }
    let all = |each: usize| {
        let flushed = [first.script.flushed(), second.script.flushed()].concat();
        let distinct: BTreeSet<_> = flushed.iter().copied().collect();
        assert_eq!(distinct.len(), flushed.len(), "nothing twice: {flushed:?}");
        distinct.len() == 4 * each
    };
    eventually("each event is handled", || all(1)).await;
    world.recreate_offsets().await;
    for partition in 0..4 {
        world.produce(partition, "after").await;
    }
    eventually("each event is handled", || all(2)).await;
    eventually("they share", || owned(&first).len() == 2 && owned(&second).len() == 2).await;
    first.stop().await;
    second.stop().await;
}

/// It writes no member record, and knows no names.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_of_an_older_version_owns_stays_its_own_until_it_releases_it() {
    let world = World::start(2).await.with_long_leases();
    let offsets = world.offsets().await;
    let (slot, old) = (world.slot(0), Uuid::new_v4());
    let claimed = offsets.claim(&slot, &Claim::new(old, "old", 15_000)).await.unwrap();
    let commit = async |released: bool| {
        offsets.commit(&slot, claimed.token, &Commit::new(0, old, released), LIMIT).await.unwrap();
    };
    let new = [world.consumer(Script::default()), world.consumer(Script::default())];
    let shares = || new.iter().map(|consumer| owned(consumer).len()).collect::<Vec<_>>();
    let start = Instant::now();
    let mut taken = None::<Instant>;
    // Until what was free is owned, and then for as long as more would move.
    while taken.is_none_or(|taken| taken.elapsed() < SETTLED + LEASE) {
        assert!(start.elapsed() < LIMIT, "what is free is claimed: {:?}", shares());
        commit(false).await;
        tokio::time::sleep(LEASE / 10).await;
        if taken.is_none() && shares().contains(&1) {
            taken = Some(Instant::now());
        }
    }
    assert!(shares().contains(&1) && shares().contains(&0), "one has what was free: {:?}", shares());
    assert!(new.iter().all(|consumer| !consumer.owns(0)));
    commit(true).await;
    eventually("they share", || new.iter().all(|consumer| owned(consumer).len() == 1)).await;
    for consumer in new {
        consumer.stop().await;
    }
}
