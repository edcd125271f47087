//! What a redrive of the live page leaves that does not come to its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once};
use std::time::Duration;

use chrono::Utc;
use harness::Fault;
use serde_json::{Value, json};
use task_events::kafka::{Compression, NewTopic, ProducerRecord};
use uuid::Uuid;

use crate::relay::Cluster;
use crate::support::{App, eventually};

const DLQ: &str = "task-events-dlq";
/// A request that is answered.
const ANSWERED: Fault = Fault::Slow(Duration::ZERO);

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps what redrives log.
struct Collector;

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().ends_with("::redriving")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Three dead letters of a group, and the application on a broker whose answers may be lost.
async fn with_letters(group: &str, dir: &std::path::Path) -> (Cluster, App) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let cluster = Cluster::behind_proxy().await;
    cluster.create_topic(1, &[]).await;
    for (name, policy) in [("task-events-offsets", "compact"), (DLQ, "delete")] {
        let configs = vec![("cleanup.policy".to_owned(), policy.to_owned())];
        let topic = NewTopic { name: name.to_owned(), partitions: 1, replication_factor: 1, configs };
        cluster.kafka.admin().create_topic(&topic).await.unwrap();
    }
    let letter = |offset: i64| {
        let source =
            json!({"topic": "task-events", "partition": 0, "offset": offset, "timestamp": Utc::now()});
        let value = json!({
            "original_event": {"event_id": Uuid::now_v7()}, "error": {"kind": "output", "message": "-"},
            "retry_count": 4, "group": group, "source": source, "failed_at": Utc::now(),
        });
        let value = Some(value.to_string().into_bytes());
        ProducerRecord { key: None, value, headers: BTreeMap::new(), timestamp: Utc::now() }
    };
    let letters: Vec<_> = (0..3).map(letter).collect();
    cluster.kafka.producer(DLQ, 0).produce(&letters, Compression::NoCompression).await.unwrap();
    let app = App::with_kafka(dir, &cluster.kafka.bootstrap()).await;
    (cluster, app)
}

async fn redrive(address: String) -> (u16, Value) {
    let body = json!({"ids": ["0/0", "0/1", "0/2"], "execute": true});
    let url = format!("http://{address}/live/redrive");
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn logged(parts: &[&str]) -> usize {
    let lines = LINES.lock().unwrap();
    lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[tokio::test]
async fn a_redrive_that_kafka_interrupts_is_logged_and_its_caller_told_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, app) = with_letters("failing", dir.path()).await;
    let proxy = cluster.proxy.clone().unwrap();
    // Copy and note of the first; the copy of the second lands, and its answer is lost.
    proxy.next(&[ANSWERED, ANSWERED, Fault::AnswerLost]);
    let (status, problem) = redrive(app.address.clone()).await;
    let came = "redriven before: 1 of 3; 0/1 may have been";
    assert!(status == 503 && problem["detail"].as_str().unwrap().contains(came), "{problem}");
    assert_eq!(logged(&["redrove dead letter 0/0 of failing to task-events/0/0"]), 1);
    assert!(logged(&["interrupted", came]) > 0);

    let (status, plan) = redrive(app.address.clone()).await;
    assert_eq!((status, &plan["redriven"]), (200, &json!(2)), "{plan}");
    assert_eq!(logged(&["redrove dead letter", "of failing"]), 3);
    assert!(logged(&["redriven by the live page: 2 dead letters, 0 could not be"]) > 0);
    app.stop().await;
}

#[tokio::test]
async fn a_redrive_that_a_stop_interrupts_is_logged_and_its_caller_told_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, app) = with_letters("stopped", dir.path()).await;
    let proxy = cluster.proxy.clone().unwrap();
    let before = proxy.produces();
    proxy.next(&[ANSWERED, ANSWERED, Fault::AnswerHangs]);
    let redriving = tokio::spawn(redrive(app.address.clone()));
    eventually("the second copy", async || proxy.produces() == before + 3).await;
    app.live.close();
    let (status, problem) = redriving.await.unwrap();
    let came = "redriven before: 1 of 3; 0/1 may have been";
    assert!(status == 503 && problem["detail"].as_str().unwrap().contains(came), "{problem}");
    assert_eq!(logged(&["redrove dead letter 0/0 of stopped"]), 1);
    assert!(logged(&["interrupted", came]) > 0);
    app.stop().await;
}
