//! docs/library.md: its code is that of the example, which does what the page says of it, on either broker.

#[allow(dead_code, reason = "its main is not run here")]
#[path = "../examples/orders.rs"]
mod orders;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use harness::{Broker, create_topic, eventually, produce, read_topic, record};
use orders::{Order, consume};
use serde_json::{Value, json};
use task_events::kafka::{Kafka, NewTopic};
use task_events::shutdown;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

static PACKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[allow(clippy::unwrap_used, reason = "a test may fail loudly, in its helpers too")]
fn packed() -> MutexGuard<'static, Vec<String>> {
    PACKED.lock().unwrap()
}

fn pack(order: &Order) {
    packed().push(order.item.clone());
}

#[test]
fn the_page_shows_the_code_of_the_example_in_40_lines() {
    let (_, after) = include_str!("../examples/orders.rs").split_once("// begin: docs/library.md\n").unwrap();
    let (code, _) = after.split_once("// end: docs/library.md").unwrap();
    let page = include_str!("../../docs/library.md");
    assert!(page.contains(code), "docs/library.md lacks the code of common/examples/orders.rs");
    assert!(code.lines().count() <= 40, "{} lines", code.lines().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_somebody_elses_topic_handles_each_message_once_and_dead_letters_the_rest() {
    let broker = Broker::start().await.unwrap();
    let bootstrap = broker.bootstrap();
    let compacted = NewTopic {
        name: "orders-offsets".to_owned(),
        partitions: 1,
        replication_factor: 1,
        configs: vec![("cleanup.policy".to_owned(), "compact".to_owned())],
    };
    Kafka::new(vec![bootstrap.clone()], "test").admin().create_topic(&compacted).await.unwrap();
    for topic in ["orders", "orders-dlq"] {
        create_topic(&bootstrap, topic, 1).await.unwrap();
    }
    let order = |id: u128, item: &str| json!({"id": Uuid::from_u128(id), "item": item}).to_string();
    let send = async |values: &[String]| {
        let records = values.iter().map(|value| record(None, Some(value.as_bytes()))).collect();
        produce(&bootstrap, "orders", records).await.unwrap();
    };
    send(&[order(1, "tea"), order(2, "cups"), order(1, "tea"), "no order".to_owned(), order(3, "")]).await;

    let folder = tempfile::tempdir().unwrap();
    let run = |folder: &Path| {
        let (bootstrap, folder) = (bootstrap.clone(), folder.to_owned());
        let (trigger, stop) = shutdown::channel();
        let group = tokio::spawn(async move { consume(&bootstrap, &folder, pack, stop).await });
        (trigger, group)
    };
    let (trigger, group) = run(folder.path());
    let dead = eventually("two dead letters", LIMIT, async || {
        let letters = read_topic(&bootstrap, "orders-dlq").await?;
        Ok((letters.len() == 2).then_some(letters))
    });
    let kinds: BTreeMap<i64, String> = dead
        .await
        .unwrap()
        .iter()
        .map(|letter| serde_json::from_slice::<Value>(letter.record.value.as_deref().unwrap()).unwrap())
        .map(|letter| {
            let kind = letter["error"]["kind"].as_str().unwrap().to_owned();
            (letter["source"]["offset"].as_i64().unwrap(), kind)
        })
        .collect();
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(kinds.get(&4).map(String::as_str), Some("order"));
    assert_eq!(*packed(), ["tea", "cups"]);
    trigger.stop();
    group.await.unwrap().unwrap();

    // It resumes at its committed offset, and knows what it has packed.
    send(&[order(2, "cups"), order(4, "milk")]).await;
    let (trigger, group) = run(folder.path());
    eventually("what came meanwhile", LIMIT, async || Ok((packed().len() == 3).then_some(()))).await.unwrap();
    assert_eq!(*packed(), ["tea", "cups", "milk"]);
    trigger.stop();
    group.await.unwrap().unwrap();
}
