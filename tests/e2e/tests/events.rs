//! SC-1: what the API puts into the topic.

use harness::{EVENTS, Method, Outcome, Result, SOON, StatusCode, TopicRecord, World, eventually, id_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A record as any consumer sees it.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    offset: i64,
    key: String,
    headers: BTreeMap<String, String>,
    value: String,
}

/// The topic's records, once there are so many: by Kafka's console consumer, if it is at hand.
async fn records(world: &World, count: usize) -> Result<Vec<Record>> {
    let all = async || Ok(Some(world.topic(EVENTS).await?).filter(|records| records.len() >= count));
    let read = eventually("the events", SOON, all).await?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let read = read.iter().map(|one| {
        Ok(Record {
            offset: one.offset,
            key: one.key()?,
            headers: one.record.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            value: text(one.record.value.as_deref().expect("a value")),
        })
    });
    let read = read.collect::<Result<Vec<_>>>()?;
    let Some(tools) = world.kafka_tools() else { return Ok(read) };
    let shown = tools.console_consumer(EVENTS, count, Duration::from_secs(20)).await?;
    let shown: Vec<_> = shown
        .into_iter()
        .map(|one| Record {
            offset: one.offset,
            key: one.key.expect("a key"),
            headers: one.headers.into_iter().collect(),
            value: one.value.expect("a value"),
        })
        .collect();
    assert_eq!(shown, read, "Kafka's console consumer sees what another client sees");
    Ok(shown)
}

#[tokio::test]
async fn each_change_puts_its_event_with_every_field_into_the_topic() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let correlation = "7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10";
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let owner = "0b1f6c1e-5a57-4a3f-8d6e-111111111111";

    let create =
        api.request(Method::POST, "/tasks").json(&json!({"title": "Größe – 日本", "owner_id": owner}));
    let create = create.header("X-Correlation-ID", correlation).header("traceparent", traceparent);
    let answer = create.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["x-correlation-id"], correlation);
    let created: Value = answer.json().await.unwrap();
    let updated = api.patch(&created, json!({"status": "in_progress"})).await?;
    // A patch that changes nothing tells nothing.
    api.patch(&created, json!({"status": "in_progress"})).await?;
    let completed = api.complete(&created).await?;
    api.complete(&created).await?;

    let records = records(&world, 3).await?;
    assert_eq!(records.len(), 3, "{records:?}");
    let told = [("task.created", &created), ("task.updated", &updated), ("task.completed", &completed)];
    let mut event_ids = Vec::new();
    for ((offset, record), (event_type, task)) in (0..).zip(&records).zip(told) {
        let event: Value = serde_json::from_str(&record.value).unwrap();
        let task_id = id_of(task)?;
        assert_eq!((record.offset, record.key.as_str()), (offset, task_id));

        let event_id = event["event_id"].as_str().unwrap();
        let correlation_id = event["metadata"]["correlation_id"].as_str().unwrap();
        let occurred_at = event["occurred_at"].as_str().unwrap();
        // No field more, none less.
        let expected = json!({
            "event_id": event_id,
            "event_type": event_type,
            "occurred_at": occurred_at,
            "data": {"task_id": task_id, "title": "Größe – 日本", "status": task["status"], "owner_id": owner},
            "metadata": {"correlation_id": correlation_id, "source": "task-api"},
        });
        assert_eq!(event, expected);
        assert_eq!(uuid::Uuid::parse_str(event_id).unwrap().get_version_num(), 7);
        assert_eq!(occurred_at.len(), "2026-01-15T10:30:00.000000Z".len());
        assert!(occurred_at.ends_with('Z'));
        assert_eq!(correlation_id == correlation, event_type == "task.created");
        uuid::Uuid::parse_str(correlation_id).unwrap();

        let mut headers = BTreeMap::from([
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", event_id),
            ("ce_type", event_type),
            ("ce_source", "/task-api"),
            ("ce_subject", task_id),
            ("ce_time", occurred_at),
        ]);
        if event_type == "task.created" {
            headers.insert("traceparent", traceparent);
        }
        let found: BTreeMap<_, _> =
            record.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, headers);
        event_ids.push(event_id.to_owned());
    }
    assert!(event_ids.is_sorted() && event_ids.windows(2).all(|pair| pair[0] != pair[1]));
    Ok(())
}

#[tokio::test]
async fn a_patch_that_completes_tells_of_both_changes_in_one_transaction() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let task = api.create("no owner").await?;
    api.patch(&task, json!({"title": "renamed", "status": "completed"})).await?;

    let all = async || Ok(Some(world.topic(EVENTS).await?).filter(|records| records.len() >= 3));
    let events = eventually("the events", SOON, all).await?;
    let events = events.iter().map(TopicRecord::json).collect::<Result<Vec<_>>>()?;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event["event_type"].as_str().unwrap(), event["data"]["title"].as_str().unwrap()))
        .collect();
    let expected = [("task.created", "no owner"), ("task.updated", "renamed"), ("task.completed", "renamed")];
    assert_eq!(told, expected);
    assert!(events.iter().all(|event| event["data"]["owner_id"].is_null()));
    assert_eq!(events[1]["metadata"]["correlation_id"], events[2]["metadata"]["correlation_id"]);
    Ok(())
}
