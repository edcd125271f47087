//! The relay's turn: one publisher, whatever becomes of the database.

use std::time::Duration;

use task_api::store::{Delivered, PublishedTopic, Store};
use tokio::time::timeout;
use uuid::Uuid;

use super::replicas;
use super::replicas::titled;
use crate::store::{create, done};
use crate::support::{SOON, eventually};

/// Given back: a turn that ran out is another's later, and never this.
const IS_FREE: &str = "SELECT expires_at = '-infinity' AND holder IS NULL FROM task_events.relay";

/// What the holder has for publishing.
async fn held(store: &Store) -> Vec<u64> {
    let scan = store.outbox_scan(0, 1_000, |_, _| true).await.unwrap();
    scan.entries.iter().map(|entry| entry.seq).collect()
}

async fn waiting(store: &Store) -> usize {
    store.outbox_after(0, usize::MAX).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_is_given_back_at_once_and_one_that_was_taken_deletes_nothing() {
    let Some((server, stores)) = replicas("turns", 2).await else { return };
    let (one, other) = (&stores[0].0, &stores[1].0);
    for _ in 0..5 {
        done(one, create("t")).await;
    }
    let turn = timeout(SOON, one.turn()).await.unwrap();
    assert_eq!(held(one).await.len(), 5, "announced once all is here that may have been sent");
    assert!(one.may_publish() && !other.may_publish());
    let mut waits = Box::pin(other.turn());
    assert!(timeout(Duration::from_millis(600), &mut waits).await.is_err(), "one at a time");
    drop(waits);
    drop(turn);
    let is_free = || async { server.sql("turns", IS_FREE).unwrap() == "t" };
    eventually("it is given back, not run out", is_free).await;
    let mut second = timeout(SOON, other.turn()).await.unwrap();
    assert!(!one.may_publish() && other.may_publish());

    // The lease ran out while the holder was paused, and another has it: what it reports counts for nothing.
    let seqs = held(other).await;
    let third = one.turn();
    server
        .sql("turns", "UPDATE task_events.relay SET expires_at = '-infinity', term = gen_random_uuid()")
        .unwrap();
    let delivered = Delivered { seqs: seqs.clone(), ..Delivered::default() };
    // Refused, or, where it has the turn again by now, about numbers that are none.
    let _ = other.delivered(delivered.clone()).await;
    timeout(SOON, second.lost()).await.unwrap();
    drop(second);
    let _third = timeout(SOON, third).await.unwrap();
    assert_eq!((waiting(one).await, one.positions()), (5, vec![]));
    // Nor does what it reports late: the numbers of an earlier turn are none.
    let own = held(one).await;
    assert_eq!(own.len(), 5);
    one.delivered(Delivered { seqs: own[..2].to_vec(), position: Some(9), ..Delivered::default() })
        .await
        .unwrap();
    assert_eq!((waiting(one).await, one.positions()), (3, vec![(0, 9)]));
    assert!(other.delivered(delivered).await.is_err());
    assert_eq!(waiting(one).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_went_back_voids_the_turn_and_its_numbers() {
    let Some((server, stores)) = replicas("went_back", 1).await else { return };
    let store = &stores[0].0;
    done(store, create("lost")).await;
    let mut turn = timeout(SOON, store.turn()).await.unwrap();
    let first = held(store).await;
    assert_eq!(first.len(), 1);
    // As after a failover to a standby that had less: the row is as it was some renewals ago, by the same term, and the
    // number of a lost event is given to another one.
    server
        .sql(
            "went_back",
            "UPDATE task_events.relay SET turn = turn - 1; \
             UPDATE task_events.outbox SET event_id = gen_random_uuid()",
        )
        .unwrap();
    // Refused, or, where there is another turn by now, about a number that is none.
    let _ = store.delivered(Delivered { seqs: first.clone(), ..Delivered::default() }).await;
    timeout(SOON, turn.lost()).await.unwrap();
    assert_eq!(waiting(store).await, 1);
    drop(turn);
    let _turn = timeout(SOON, store.turn()).await.unwrap();
    let second = held(store).await;
    assert!(
        second.len() == 1 && second[0] > first[0],
        "{second:?} after {first:?}: numbers are not given again"
    );

    // Where nothing of the turn's row shows it, the event's id does.
    server.sql("went_back", "UPDATE task_events.outbox SET event_id = gen_random_uuid()").unwrap();
    store.delivered(Delivered { seqs: second, position: Some(1), ..Delivered::default() }).await.unwrap();
    assert_eq!(waiting(store).await, 1, "another event has that number");
    let is_held = || async { held(store).await.len() == 1 };
    eventually("the other event is pulled", is_held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_visible_late_is_published_and_a_backlog_is_read_by_pages() {
    let Some((server, stores)) = replicas("late", 1).await else { return };
    let store = &stores[0].0;
    for _ in 0..3 {
        done(store, create("t")).await;
    }
    // The first is not visible yet, as if its transaction were still open.
    server
        .sql(
            "late",
            "CREATE TABLE kept AS SELECT * FROM task_events.outbox ORDER BY seq LIMIT 1; \
            DELETE FROM task_events.outbox WHERE seq = (SELECT seq FROM kept)",
        )
        .unwrap();
    let turn = timeout(SOON, store.turn()).await.unwrap();
    assert_eq!(held(store).await.len(), 2);
    server.sql("late", "INSERT INTO task_events.outbox OVERRIDING SYSTEM VALUE SELECT * FROM kept").unwrap();
    let is_held = || async { held(store).await.len() == 3 };
    eventually("the late one is pulled", is_held).await;

    store.publish_to(PublishedTopic { topic_id: Uuid::nil(), partitions: 2 }).await.unwrap();
    let hash: i32 = server.sql("late", "SELECT hash % 2 FROM kept").unwrap().parse().unwrap();
    let backlog = |hash: &str| {
        format!(
            "INSERT INTO task_events.outbox (event_id, task_id, hash, encoding, payload) \
             SELECT gen_random_uuid(), task_id, {hash}, encoding, payload FROM kept, generate_series(1, 30000)"
        )
    };
    server.sql("late", &backlog("hash")).unwrap();
    let is_full = || async { store.outbox().borrow().last_seq >= 4_000 };
    eventually("as many are here as may be", is_full).await;
    let most = store.outbox_scan(0, 100_000, |_, _| true).await.unwrap().entries.len();
    assert!(most < 8_000, "{most} are in memory");
    let is_counted = || async { store.outbox().borrow().waiting >= 30_000 };
    eventually("all are counted", is_counted).await;
    // Of that partition there is more; an event of the other one passes by all of it.
    let has_all_of_other = || async { store.has_scanned_all(1 - hash, u64::MAX) };
    eventually("the other partition is looked through", has_all_of_other).await;
    assert!(!store.has_scanned_all(hash, u64::MAX));
    let before = store.outbox().borrow().last_seq;
    let other = "INSERT INTO task_events.outbox (event_id, task_id, hash, encoding, payload) \
        SELECT gen_random_uuid(), task_id, hash + 1, encoding, payload FROM kept";
    server.sql("late", other).unwrap();
    let is_held = || async { store.outbox().borrow().last_seq > before };
    eventually("it is pulled", is_held).await;

    // Both have their share in memory and more behind it: the turn can be given back and taken again.
    server.sql("late", &backlog("hash + 1")).unwrap();
    let is_full = || async { !store.has_scanned_all(1 - hash, u64::MAX) };
    eventually("as many of the other are here as may be", is_full).await;
    drop(turn);
    eventually("it is given back", || async { !store.may_publish() }).await;
    let _turn = timeout(SOON, store.turn()).await.unwrap();
    let both = store.outbox_scan(0, 100_000, |_, _| true).await.unwrap().entries.len();
    assert!((5_000..16_000).contains(&both), "{both} are in memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_an_event_that_cannot_be_read_waits_for_it_and_other_tasks_do_not() {
    let Some((server, stores)) = replicas("unreadable", 1).await else { return };
    let store = &stores[0].0;
    let damaged = done(store, create("damaged")).await;
    done(store, titled(damaged.id, "renamed")).await;
    let damage = "CREATE TABLE kept AS SELECT seq, payload FROM task_events.outbox ORDER BY seq LIMIT 1; \
        UPDATE task_events.outbox SET payload = '?' WHERE seq = (SELECT seq FROM kept)";
    server.sql("unreadable", damage).unwrap();
    let whole = done(store, create("whole")).await;
    let turn = timeout(SOON, store.turn()).await.unwrap();
    let about = async || {
        let scan = store.outbox_scan(0, 1_000, |_, _| true).await.unwrap();
        let ids: Vec<Uuid> = scan.entries.iter().map(|entry| entry.event.data.task_id).collect();
        (ids, scan.unreadable.len())
    };
    assert_eq!(about().await, (vec![whole.id], 1));
    // Nor do later changes pass it.
    done(store, titled(damaged.id, "renamed again")).await;
    done(store, titled(whole.id, "renamed, too")).await;
    let is_pulled = || async { about().await.0.len() >= 2 };
    eventually("the other task's event is pulled", is_pulled).await;
    assert_eq!(about().await, (vec![whole.id; 2], 1));

    let repair = "UPDATE task_events.outbox o SET payload = k.payload FROM kept k WHERE o.seq = k.seq";
    server.sql("unreadable", repair).unwrap();
    let is_repaired =
        || async { about().await == (vec![whole.id, whole.id, damaged.id, damaged.id, damaged.id], 0) };
    eventually("what waited is published once it can be read", is_repaired).await;
    let entries = store.outbox_after(0, usize::MAX).await.unwrap();
    let titles: Vec<String> = entries
        .iter()
        .filter(|entry| entry.event.data.task_id == damaged.id)
        .map(|entry| entry.event.data.title.to_string())
        .collect();
    assert_eq!(titles, ["damaged", "renamed", "renamed again"]);
    drop(turn);
}

/// As where a newer version wrote them all: this one would hold up what another can publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_can_read_hardly_any_event_leaves_the_turn_to_others() {
    let Some((server, stores)) = replicas("newer", 1).await else { return };
    let store = &stores[0].0;
    let unreadable = "INSERT INTO task_events.outbox (event_id, task_id, hash, encoding, payload) \
        SELECT gen_random_uuid(), gen_random_uuid(), n, 0, '?' FROM generate_series(1, 1100) n";
    server.sql("newer", unreadable).unwrap();
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.turn().await }
    });
    let free = "SELECT turn > 1 AND expires_at = '-infinity' AND holder IS NULL FROM task_events.relay";
    let is_free = || async { server.sql("newer", free).unwrap().trim() == "t" };
    eventually("the turn is given back", is_free).await;
    assert!(!store.may_publish() && !waits.is_finished());
    let is_shown = || async { store.publishing_failure().is_some_and(|why| why.contains("cannot be read")) };
    eventually("it is shown why", is_shown).await;
    server.sql("newer", "DELETE FROM task_events.outbox WHERE payload = '?'").unwrap();
    let _turn = timeout(SOON, waits).await.unwrap().unwrap();
    assert_eq!(store.publishing_failure(), None);
}
