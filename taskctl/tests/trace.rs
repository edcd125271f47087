//! The life of an event, found again from what is durable.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use task_events::event::{TaskData, TaskEvent};
use task_events::kafka::{Compression, ProducerRecord};
use uuid::Uuid;
use world::{World, now};

fn event(task_id: Uuid) -> TaskEvent {
    let data = TaskData { task_id, title: "t".to_owned(), status: "pending".to_owned(), owner_id: None };
    TaskEvent::task_created(data, Uuid::new_v4())
}

async fn produce(world: &World, topic: &str, key: &str, value: &Value) {
    let record = ProducerRecord {
        key: Some(key.into()),
        value: Some(value.to_string().into_bytes()),
        headers: BTreeMap::new(),
        timestamp: now(),
    };
    world.kafka.producer(topic, 0).produce(&[record], Compression::NoCompression).await.unwrap();
}

fn stages(report: &Value) -> Vec<&str> {
    report["timeline"].as_array().unwrap().iter().map(|entry| entry["stage"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_traced_from_its_request_to_the_audit_log_and_what_is_missing_is_said() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let task_id = Uuid::now_v7();
    let (first, second) = (event(task_id), event(task_id));
    for event in [&first, &second, &event(Uuid::now_v7())] {
        produce(&world, "task-events", &event.data.task_id.to_string(), &json!(event)).await;
    }
    // The notification service has passed all, the audit service the first.
    let notification = world.owner("notification-service", Duration::from_secs(1)).await;
    notification.commit(13, true).await;
    let audit = world.owner("audit-service", Duration::from_secs(1)).await;
    audit.commit(11, true).await;
    let mut line = json!(first);
    line["audited_at"] = json!("2100-01-01T00:00:00.000000Z");
    line["kafka"] = json!({"topic": "task-events", "partition": 0, "offset": 10});
    std::fs::write(&log, format!("{line}\n")).unwrap();
    let letter = json!({
        "original_event": second, "error": {"kind": "output", "message": "m"}, "retry_count": 4,
        "group": "notification-service",
        "source": {"topic": "task-events", "partition": 0, "offset": 11, "timestamp": "2026-01-15T10:30:00Z"},
        "failed_at": "2100-01-01T00:00:00Z",
    });
    produce(&world, "task-events-dlq", &task_id.to_string(), &letter).await;

    let log_args = format!("--audit-log-path {} --api 127.0.0.1:1", log.display());
    let of_event = world.answers_json(&format!("trace {} {log_args}", first.event_id)).await;
    assert_eq!(
        stages(&of_event),
        ["task.created", "topic", "notification-service", "audit-service", "audit log"],
        "{of_event}"
    );
    assert_eq!(of_event["timeline"][1]["place"], "task-events/0/10");
    assert!(of_event["timeline"][2]["detail"].as_str().unwrap().starts_with("notified"), "{of_event}");
    assert_eq!(of_event["timeline"][4]["place"], "audit.log:1");
    assert_eq!(of_event["missing"].as_array().unwrap().len(), 1, "the API is not there: {of_event}");

    let of_request = world.answers_json(&format!("trace {} {log_args}", first.metadata.correlation_id)).await;
    assert_eq!(of_request["timeline"], of_event["timeline"]);

    let of_task = world.answers(&format!("trace {task_id} {log_args}")).await;
    assert_eq!(of_task.matches("delivered").count(), 2, "{of_task}");
    assert!(of_task.contains("notification-service failed  DLQ 0/0"), "{of_task}");
    assert!(of_task.contains("sent to the DLQ"), "{of_task}");
    assert!(
        of_task.contains("task-events/0/11: audit-service has not reached it: it is at offset 11"),
        "{of_task}"
    );

    // A group that has passed an event whose line is not in the log.
    let audit = world.owner("audit-service", Duration::from_secs(1)).await;
    audit.commit(13, true).await;
    let of_task = world.answers(&format!("trace {task_id} {log_args}")).await;
    assert!(
        of_task.contains("task-events/0/11: audit-service has passed it, and its line is not in"),
        "{of_task}"
    );

    let error = world.refuses(&format!("trace {} {log_args}", Uuid::new_v4())).await;
    assert!(error.contains("nothing is known of") && error.contains("kept everything"), "{error}");
}
