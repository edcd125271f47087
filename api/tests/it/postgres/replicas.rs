//! Several replicas on one database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use task_api::relay::Relay;
use task_api::store::{Filter, IdempotencyKey, Outcome, Preconditions, Store, VersionSet};
use task_api::task::{Change, TaskPatch};
use task_api::title::Title;
use task_events::shutdown;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::replicas;
use crate::relay::{Cluster, value};
use crate::store::{change, create, done};
use crate::support::{TOPIC, eventually};

pub(super) fn titled(id: Uuid, title: &str) -> task_api::store::Mutation {
    change(Change::Patch(id, TaskPatch { title: Some(Title::parse(title).unwrap()), ..TaskPatch::default() }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_replicas_that_saw_one_version_one_wins_and_one_key_makes_one_task() {
    let Some((_, stores)) = replicas("versions", 3).await else { return };
    let task = done(&stores[0].0, create("contended")).await;
    for version in 1..=10_u64 {
        let mut racing = JoinSet::new();
        for (number, (store, _)) in stores.iter().enumerate() {
            let mut mutation = titled(task.id, &format!("version {version} of {number}"));
            mutation.preconditions =
                Preconditions { if_match: Some(VersionSet::Versions(vec![version])), if_none_match: None };
            let mut keyed = create("keyed");
            keyed.idempotency =
                Some(IdempotencyKey { key: format!("key {version}"), fingerprint: "aa".to_owned() });
            let store = store.clone();
            racing.spawn(async move {
                let keyed = loop {
                    match store.mutate(keyed.clone()).await.unwrap() {
                        Outcome::KeyInUse => tokio::task::yield_now().await,
                        Outcome::Done(task) | Outcome::Repeated(task) => break task.id,
                        other => panic!("{other:?}"),
                    }
                };
                (store.mutate(mutation).await.unwrap(), keyed)
            });
        }
        let outcomes = racing.join_all().await;
        let winners = outcomes.iter().filter(|(outcome, _)| matches!(outcome, Outcome::Done(_))).count();
        assert_eq!(winners, 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|(_, keyed)| *keyed == outcomes[0].1), "{outcomes:?}");
    }
    for (store, _) in &stores {
        assert_eq!(store.task(task.id).await.unwrap().unwrap().version, 11);
        assert_eq!(store.list(Filter::default(), None, 100).await.unwrap().tasks.len(), 11);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_task_are_published_in_order_and_once_whichever_replicas_change_it() {
    let Some((_, stores)) = replicas("ordered", 3).await else { return };
    let cluster = Cluster::start().await;
    cluster.create_topic(1, &[]).await;
    let mut relays = Vec::new();
    for (store, _) in &stores {
        let (drain, draining) = shutdown::channel();
        relays.push((
            drain,
            tokio::spawn(Relay::new(store.clone(), cluster.kafka.clone(), TOPIC).run(draining)),
        ));
    }
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(done(&stores[0].0, create(&format!("task {number}"))).await.id);
    }
    let mut changing = JoinSet::new();
    for (replica, (store, _)) in stores.iter().enumerate() {
        for client in 0..8 {
            let (store, ids) = (store.clone(), ids.clone());
            changing.spawn(async move {
                for number in 0..25_usize {
                    let id = ids[(client + number) % ids.len()];
                    done(&store, titled(id, &format!("{replica} {client} {number}"))).await;
                    done(&store, create("other")).await;
                }
            });
        }
    }
    changing.join_all().await;
    let store = &stores[0].0;
    let is_empty = || async { store.outbox_after(0, 1).await.unwrap().is_empty() };
    eventually("all events are published", is_empty).await;
    for (drain, relay) in relays {
        drain.stop();
        relay.await.unwrap();
    }
    let records = cluster.records(0).await;
    let events: Vec<Value> = records.iter().map(value).collect();
    let unique: HashSet<&str> = events.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    assert_eq!((events.len(), unique.len()), (4 + 2 * 3 * 8 * 25, events.len()), "each once");
    // Each change of a task gave it a title of its own, and each event was made under the lock of its row: its time
    // and the versions that were answered rise with it.
    let mut last: HashMap<&str, &str> = HashMap::new();
    for event in &events {
        let data = &event["data"];
        last.insert(data["task_id"].as_str().unwrap(), data["title"].as_str().unwrap());
    }
    for id in ids {
        let task = store.task(id).await.unwrap().unwrap();
        assert_eq!(task.version, 1 + 3 * 8 * 25 / 4);
        assert_eq!(last[id.to_string().as_str()], task.title, "the last event is the last change");
    }
    cluster.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_what_was_there_before_it_once_and_in_order_while_replicas_create() {
    let Some((_, stores)) = replicas("listed", 2).await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let mut creating = JoinSet::new();
    for (store, _) in &stores {
        for _ in 0..4 {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            creating.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    done(&store, create("t")).await;
                }
            });
        }
    }
    let store: &Store = &stores[0].0;
    for _ in 0..5 {
        let before: Vec<Uuid> = {
            let made = [done(store, create("mine")).await.id, done(&stores[1].0, create("mine")).await.id];
            made.to_vec()
        };
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let page = store.list(Filter::default(), after, 100).await.unwrap();
            listed.extend(page.tasks.iter().map(|task| task.id));
            // Up to the tasks that were there: more come without an end.
            match page.next {
                Some(next) if before.iter().any(|id| *id > next) => after = Some(next),
                _ => break,
            }
        }
        assert!(listed.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
        assert!(before.iter().all(|id| listed.contains(id)));
    }
    stop.store(true, Ordering::Relaxed);
    creating.join_all().await;
}
