//! Two instances of one group: one works, the other stands by, and who was paused changes nothing (SC-7).

use chrono::DateTime;
use harness::{EVENTS, Event, Outcome, Result, SOON, Service, World, alone, eventually, read_audit_log};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So long that an owner on a busy machine does not seem dead.
const LEASE: Duration = Duration::from_secs(8);
/// So long that a take-over within [`SOON`] is not owed to its end.
const LONG_LEASE: Duration = Duration::from_secs(300);
/// Events that are made durable at once: a megabyte of these, about.
const BATCH: usize = 2_500;

/// Two instances of one service, with a state folder and an audit log each.
struct Pair {
    world: World,
    group: &'static str,
    first: Service,
    second: Service,
    produced: Vec<Event>,
}

impl Pair {
    /// The first owns, the second stands by.
    async fn start(group: &'static str, lease: Duration) -> Result<Self> {
        let world = World::start().await?;
        let start = |name| world.instance(group, name).env("LEASE_MS", lease.as_millis()).start();
        let mut first = start("first")?;
        claims(&mut first, 1).await?;
        let mut second = start("second")?;
        second.wait_for_line("standby for ", SOON).await?;
        Ok(Self { world, group, first, second, produced: Vec::new() })
    }

    async fn produce(&mut self, count: usize) -> Result<()> {
        let from = self.produced.len();
        let events: Vec<_> = (from..from + count).map(|n| Event::created(&n.to_string())).collect();
        let bytes: Vec<_> = events.iter().map(Event::bytes).collect();
        let values: Vec<_> = bytes.iter().map(|value| Some(value.as_slice())).collect();
        // As many as one request takes.
        for values in values.chunks(2_000) {
            self.world.produce_values(values).await?;
        }
        self.produced.extend(events);
        Ok(())
    }

    async fn position(&self) -> Result<usize> {
        Ok(usize::try_from(self.world.offsets(self.group).await?.position().unwrap_or(0)).unwrap())
    }

    /// Waits until everything is committed.
    async fn all_committed(&self) -> Result<()> {
        self.world.committed(self.group, i64::try_from(self.produced.len()).unwrap()).await?;
        Ok(())
    }

    /// Which events an instance handled, by their place in the topic, in the order of handling.
    async fn handled(&self, instance: &str) -> Result<Vec<usize>> {
        if self.group == "audit-service" {
            let lines = read_audit_log(&self.world.instance_audit_log(instance))?;
            let offset = |line: &serde_json::Value| line["kafka"]["offset"].as_u64().unwrap();
            return Ok(lines.iter().map(|line| usize::try_from(offset(line)).unwrap()).collect());
        }
        let places: HashMap<_, _> =
            self.produced.iter().enumerate().map(|(place, event)| (event.task_id(), place)).collect();
        let service = if instance == "first" { &self.first } else { &self.second };
        service.settled().await?;
        let lines = service.history();
        let told = lines.iter().filter_map(|line| line.split_once("NOTIFICATION: ")?.1.rsplit_once("(ID: "));
        Ok(told.map(|(_, id)| places[id.trim_end_matches(')')]).collect())
    }

    /// Both together handled each event, in order, and none twice but for the second's repeats of what the
    /// first had done from `overlap` on. An audit log has each event once, whatever is in another's.
    async fn check_union(&self, overlap: std::ops::Range<usize>) -> Result<()> {
        let (first, second) = (self.handled("first").await?, self.handled("second").await?);
        if self.group == "audit-service" {
            assert!(!first.is_empty());
            assert_eq!(first, (0..first.len()).collect::<Vec<_>>());
            assert_eq!(
                second,
                (0..self.produced.len()).collect::<Vec<_>>(),
                "complete, from its own position"
            );
            return Ok(());
        }
        let mut all = first.clone();
        all.extend(&second);
        all.sort_unstable();
        for place in 0..self.produced.len() {
            let times = all.iter().filter(|one| **one == place).count();
            let allowed = if overlap.contains(&place) { 1..=2 } else { 1..=1 };
            assert!(allowed.contains(&times), "event {place} was handled {times} times, not {allowed:?}");
        }
        assert!(first.is_sorted() && second.is_sorted());
        assert!(!first.is_empty() && !second.is_empty(), "both have worked");
        Ok(())
    }
}

/// Waits until the service has claimed so many times in this run.
async fn claims(service: &mut Service, times: usize) -> Result<Instant> {
    eventually("a claim", SOON, async || Ok((service.count(": claimed ") >= times).then(Instant::now))).await
}

/// A stop that the machine held up beyond its limit hands nothing over: then another pair tries.
async fn hands_over_at_once(group: &'static str) -> Result<()> {
    for _ in 0..5 {
        let mut pair = Pair::start(group, LONG_LEASE).await?;
        pair.produce(3_000).await?;
        pair.world.committed(group, 1).await?;
        // In the middle of its work.
        assert_eq!(pair.first.terminate(SOON).await?.code(), Some(0));
        if !pair.first.missed_release() {
            return is_handed_over(pair).await;
        }
    }
    panic!("five stops in a row were held up");
}

async fn is_handed_over(mut pair: Pair) -> Result<()> {
    claims(&mut pair.second, 1).await?;
    pair.produce(500).await?;
    pair.all_committed().await?;
    pair.check_union(0..0).await?;
    Ok(())
}

#[tokio::test]
async fn a_notifier_that_stops_hands_over_at_once_and_nothing_is_repeated() -> Outcome {
    hands_over_at_once("notification-service").await?;
    Ok(())
}

#[tokio::test]
async fn an_auditor_that_stops_hands_over_at_once_and_nothing_is_repeated() -> Outcome {
    hands_over_at_once("audit-service").await?;
    Ok(())
}

async fn takes_over_after_the_lease(group: &'static str) -> Result<()> {
    let _alone = alone().await;
    let mut pair = Pair::start(group, LEASE).await?;
    pair.produce(3_000).await?;
    pair.world.committed(group, 1).await?;
    let killed = Instant::now();
    pair.first.kill9();
    let before = pair.world.offsets(group).await?;
    let position = usize::try_from(before.position().unwrap()).unwrap();
    let waited = claims(&mut pair.second, 1).await? - killed;
    println!("{group}: taken over {waited:?} after kill -9, the lease is {LEASE:?}");
    // Not before the lease that began with the last sign of life. What was under way then may have come after it.
    let time = |text: &serde_json::Value| DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap();
    let last_sign = time(&before.commits.last_key_value().unwrap().1["committed_at"]);
    let claimed = time(&pair.world.offsets(group).await?.claims.last().unwrap().1["claimed_at"]);
    let silent_for = (claimed - last_sign).to_std().unwrap_or_default();
    assert!(silent_for > LEASE - Duration::from_millis(100), "taken over after {silent_for:?}");
    pair.produce(500).await?;
    pair.all_committed().await?;
    pair.first.has_ended()?;
    let done = pair.handled("first").await?.len();
    pair.check_union(position..done).await?;
    Ok(())
}

#[tokio::test]
async fn a_notifier_that_was_killed_is_replaced_after_its_lease() -> Outcome {
    takes_over_after_the_lease("notification-service").await?;
    Ok(())
}

#[tokio::test]
async fn an_auditor_that_was_killed_is_replaced_after_its_lease() -> Outcome {
    takes_over_after_the_lease("audit-service").await?;
    Ok(())
}

#[tokio::test]
async fn an_instance_that_restarts_takes_over_from_itself_at_once() -> Outcome {
    let mut pair = Pair::start("audit-service", LONG_LEASE).await?;
    pair.produce(100).await?;
    pair.all_committed().await?;
    pair.first.kill9();
    pair.first.restart()?;
    claims(&mut pair.first, 1).await?;
    pair.produce(100).await?;
    pair.all_committed().await?;
    assert_eq!(pair.handled("first").await?, (0..200).collect::<Vec<_>>());
    assert_eq!(pair.second.count(": claimed "), 0);
    Ok(())
}

/// Paused past its lease. What came meanwhile waits in its connection when it wakes up.
async fn a_paused_owner_changes_nothing(group: &'static str) -> Result<()> {
    let mut pair = Pair::start(group, LEASE).await?;
    pair.produce(100).await?;
    pair.all_committed().await?;
    pair.first.pause()?;
    pair.produce(100).await?;
    claims(&mut pair.second, 1).await?;
    pair.all_committed().await?;
    let taken_over = pair.world.offsets(group).await?;

    pair.first.resume()?;
    pair.first.wait_for_line("fenced: another instance has claimed", SOON).await?;
    let standby = async || Ok((pair.first.count("standby for ") == 1).then_some(()));
    eventually("the first to stand by", SOON, standby).await?;
    let after = pair.world.offsets(group).await?;
    assert_eq!(after.owner(), taken_over.owner());
    assert!(after.position() >= taken_over.position());
    assert_eq!(after.commits.last_key_value().map(|(token, _)| *token), after.owner());
    assert_eq!(pair.handled("first").await?, (0..100).collect::<Vec<_>>());
    // An audit log goes on from its own end, a notifier from what is committed.
    let (behind, second_from) = if group == "audit-service" { (100, 0) } else { (250, 100) };
    assert_eq!(pair.handled("second").await?, (second_from..200).collect::<Vec<_>>());

    // The new owner works on, and the old one is a standby like any other.
    pair.produce(50).await?;
    pair.all_committed().await?;
    assert_eq!(pair.handled("second").await?, (second_from..250).collect::<Vec<_>>());
    pair.second.terminate(SOON).await?;
    claims(&mut pair.first, 2).await?;
    pair.produce(50).await?;
    pair.all_committed().await?;
    assert_eq!(pair.handled("first").await?, (0..100).chain(behind..300).collect::<Vec<_>>());
    assert_eq!(pair.handled("second").await?, (second_from..250).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_notifier_that_was_paused_past_its_lease_changes_nothing() -> Outcome {
    a_paused_owner_changes_nothing("notification-service").await?;
    Ok(())
}

#[tokio::test]
async fn an_auditor_that_was_paused_past_its_lease_changes_nothing() -> Outcome {
    a_paused_owner_changes_nothing("audit-service").await?;
    Ok(())
}

#[tokio::test]
async fn an_auditor_that_was_paused_in_the_middle_of_its_work_changes_nothing_of_the_group() -> Outcome {
    let mut pair = Pair::start("audit-service", LEASE).await?;
    pair.produce(6_000).await?;
    pair.world.committed(pair.group, 1).await?;
    pair.first.pause()?;
    let position = pair.position().await?;
    let written = pair.handled("first").await?.len();
    claims(&mut pair.second, 1).await?;
    // By the new owner itself: the first may have committed everything before it was paused, and the new one, whose
    // log lacks it, reads it once more.
    let end = i64::try_from(pair.produced.len()).unwrap();
    let taken_over = eventually("the new owner to commit everything", SOON, async || {
        let offsets = pair.world.offsets(pair.group).await?;
        let has_committed = offsets.owner().is_some_and(|token| offsets.commits.contains_key(&token));
        Ok((has_committed && offsets.position() == Some(end)).then_some(offsets))
    });
    let taken_over = taken_over.await?;
    pair.first.resume()?;
    pair.first.wait_for_line("fenced: another instance has claimed", SOON).await?;

    let after = pair.world.offsets(pair.group).await?;
    assert_eq!((after.owner(), after.position()), (taken_over.owner(), taken_over.position()));
    assert_eq!(after.commits.last_key_value().map(|(token, _)| *token), after.owner());
    // A write that was under way may still have reached its own log, and no more than that.
    let first = pair.handled("first").await?;
    assert!(first.len() <= written + BATCH, "{} lines, {written} before", first.len());
    pair.check_union(position..first.len()).await?;
    assert_eq!(pair.world.topic(EVENTS).await?.len(), pair.produced.len());
    Ok(())
}
