//! SC-8: what cannot be handled ends in the DLQ, and the next event is handled.

use base64::Engine;
use harness::{
    DLQ, EVENTS, Error, Event, GROUPS, OFFSETS, Outcome, Result, SOON, TopicRecord, World, delete_topic,
    produce, produce_compressed, produce_with_headers, record,
};
use serde_json::Value;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// A value that is no event, what is wrong with it, and how its message begins.
struct Poison {
    value: Option<Vec<u8>>,
    kind: &'static str,
    message: &'static str,
}

fn poison() -> Result<Vec<Poison>> {
    let json = "Invalid JSON in message: ";
    let field = "Invalid event: ";
    let of = |value: &[u8], kind, message| Poison { value: Some(value.to_vec()), kind, message };
    let mut no_title = Event::created("x").bytes();
    no_title = String::from_utf8(no_title).unwrap().replace("\"title\"", "\"titel\"").into_bytes();
    Ok(vec![
        of(b"{\"event_id\": ", "invalid_json", json),
        of(b"", "invalid_json", json),
        of(&[0xff, 0xfe, 0x00], "invalid_json", json),
        of(b"\"a\xffb\"", "invalid_json", json),
        of(b"[1, 2]", "invalid_event", field),
        of(&Event::created("x").with("/data/title", 7)?.bytes(), "invalid_event", field),
        of(&Event::created("x").with("/event_id", "no uuid")?.bytes(), "invalid_event", field),
        of(&Event::created("x").with("/occurred_at", "yesterday")?.bytes(), "invalid_event", field),
        of(&no_title, "invalid_event", field),
        Poison { value: None, kind: "no_value", message: field },
    ])
}

/// A DLQ record says everything that the contract names.
fn check(dead: &TopicRecord, original: &TopicRecord, group: &str, kind: &str, message: &str) -> Result<()> {
    let record = dead.json()?;
    let value = original.record.value.as_deref();
    match value.map(serde_json::from_slice::<Value>) {
        Some(Ok(json)) => {
            assert_eq!(record["original_event"], json);
            assert!(record.get("original_value_base64").is_none());
            // Byte for byte, not only in meaning.
            let (bytes, written) = (value.unwrap(), dead.record.value.as_deref().unwrap());
            let prefix = b"\"original_event\":";
            let at = written.windows(prefix.len()).position(|part| part == prefix).unwrap() + prefix.len();
            assert_eq!(written.get(at..at + bytes.len()), Some(bytes));
        }
        Some(Err(_)) => {
            let base64 = base64::engine::general_purpose::STANDARD;
            let text = record["original_value_base64"].as_str().expect("the bytes");
            assert_eq!(Some(base64.decode(text).unwrap().as_slice()), value);
            assert!(record.get("original_event").is_none());
        }
        None => assert_eq!(record.get("original_value_base64"), Some(&Value::Null)),
    }
    assert_eq!(dead.record.key, original.record.key);
    assert_eq!(record["error"]["kind"], kind);
    let said = record["error"]["message"].as_str().unwrap();
    assert!(said.starts_with(message) && said.len() > message.len(), "{said}");
    assert_eq!((&record["retry_count"], &record["group"]), (&0.into(), &group.into()));
    let source = &record["source"];
    assert_eq!((&source["topic"], &source["partition"]), (&EVENTS.into(), &0.into()));
    assert_eq!(source["offset"], original.offset);
    let time = |text: &Value| chrono::DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap();
    let written_at = original.record.timestamp.timestamp_millis();
    assert_eq!(time(&source["timestamp"]).timestamp_millis(), written_at);
    assert!(time(&record["failed_at"]).timestamp_millis() >= written_at);

    let header = |name: &str| {
        let header = dead.header(name)?;
        header.ok_or_else(|| Error::failed(format!("no header {name}")))
    };
    assert_eq!(header("kafka_dlt-original-topic")?, EVENTS);
    assert_eq!(header("kafka_dlt-original-partition")?, "0");
    assert_eq!(header("kafka_dlt-original-offset")?, original.offset.to_string());
    assert_eq!(header("kafka_dlt-original-timestamp")?, written_at.to_string());
    assert_eq!(header("kafka_dlt-original-consumer-group")?, group);
    assert_eq!(header("kafka_dlt-exception-fqcn")?, kind);
    assert_eq!(header("kafka_dlt-exception-message")?, said);
    Ok(())
}

/// The dead letters of a group, in the order of their sources.
async fn dead_letters(world: &World, group: &str) -> Result<Vec<TopicRecord>> {
    let mut letters = world.topic(DLQ).await?;
    for index in (0..letters.len()).rev() {
        if letters[index].json()?["group"] != group {
            letters.remove(index);
        }
    }
    Ok(letters)
}

#[tokio::test]
async fn poison_ends_in_the_dlq_whole_and_the_next_event_is_handled() -> Outcome {
    let world = World::start().await?;
    let mut dlq = world.program("dlq-processor").start()?;
    let notification = world.program("notification-service").start()?;
    let audit = world.program("audit-service").start()?;

    // After each poison a good event.
    let poison = poison()?;
    let good: Vec<_> = (0..poison.len()).map(|n| Event::created(&format!("good {n}"))).collect();
    let bytes: Vec<_> = good.iter().map(Event::bytes).collect();
    let pairs = poison.iter().zip(&bytes);
    let values: Vec<_> =
        pairs.flat_map(|(poison, good)| [poison.value.as_deref(), Some(good.as_slice())]).collect();
    world.produce_values(&values).await?;
    let end = i64::try_from(values.len()).unwrap();
    for group in GROUPS {
        world.committed(group, end).await?;
    }

    let originals = world.topic(EVENTS).await?;
    for group in GROUPS {
        let dead = dead_letters(&world, group).await?;
        assert_eq!(dead.len(), poison.len());
        for ((dead, poison), original) in dead.iter().zip(&poison).zip(originals.iter().step_by(2)) {
            check(dead, original, group, poison.kind, poison.message)?;
        }
    }
    let audited = world.audit_log()?;
    assert_eq!(audited.len(), good.len());
    for (line, good) in audited.iter().zip(&good) {
        assert_eq!(line["event_id"], good.id());
        assert_eq!(notification.counted(&format!("(ID: {})", good.task_id()), 1).await?, 1);
    }
    // What is wrong is said where it happens, too.
    for service in [&notification, &audit] {
        assert_eq!(service.counted("Invalid JSON in message: ", 4).await?, 4);
    }

    // The processor tells of each and counts them.
    let dead = i64::try_from(2 * poison.len()).unwrap();
    world.committed_in("dlq-processor", DLQ, dead).await?;
    for group in GROUPS {
        for (n, poison) in poison.iter().enumerate() {
            let told = format!(
                "DLQ: group={group} kind={} source={EVENTS}/0/{} retries=0 message={}",
                poison.kind,
                2 * n,
                poison.message
            );
            assert_eq!(dlq.counted(&told, 1).await?, 1, "{told}");
        }
    }
    dlq.terminate(SOON).await?;
    let totals =
        GROUPS.map(|group| format!("{group}/invalid_event=5 {group}/invalid_json=4 {group}/no_value=1"));
    // The last of them: it writes some while it works, too.
    let lines = dlq.lines();
    let line = lines.iter().rfind(|line| line.contains("DLQ totals: ")).expect("totals at the end");
    assert!(totals.iter().all(|total| line.contains(total)), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_and_its_redriven_copy_are_of_the_same_trace() -> Outcome {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = World::start().await?;
    let _audit = world.program("audit-service").start()?;
    let headers = [("traceparent", Some(traceparent.as_bytes()))];
    produce_with_headers(&world.broker.bootstrap(), EVENTS, b"no event", &headers).await?;
    world.committed("audit-service", 1).await?;
    let dead = dead_letters(&world, "audit-service").await?;
    assert_eq!(dead[0].header("traceparent")?.as_deref(), Some(traceparent));
    let redriven = world.taskctl(&["dlq", "redrive", "--all", "--execute"]).await?;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    let copy = world.topic(EVENTS).await?.pop().unwrap();
    assert_eq!((copy.offset, copy.header("traceparent")?.as_deref()), (1, Some(traceparent)));
    Ok(())
}

#[tokio::test]
async fn an_event_of_a_mebibyte_ends_in_the_dlq_with_all_its_bytes() -> Outcome {
    let world = World::start().await?;
    let _notification = world.program("notification-service").start()?;
    let _audit = world.program("audit-service").start()?;
    let bootstrap = world.broker.bootstrap();

    // An event of 1 MiB, which fits into the topic in a compressed batch; the largest one that fits as it
    // is; and the same that is not even JSON, so that base64 makes it a third larger.
    let large = |size: usize| {
        let empty = Event::created("").bytes().len();
        let title: String = (0..size - empty).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
        Event::created(&title).bytes()
    };
    let compressed = large(MIB);
    assert_eq!(compressed.len(), MIB);
    let fits = large(MIB - 200);
    let mut no_json = fits.clone();
    no_json[0] = b'!';
    produce_compressed(&bootstrap, EVENTS, vec![record(Some(b"key"), Some(&compressed))]).await?;
    for value in [&fits, &no_json] {
        produce(&bootstrap, EVENTS, vec![record(Some(b"key"), Some(value))]).await?;
    }
    let good = Event::created("after the large ones");
    world.produce_values(&[Some(&good.bytes())]).await?;
    for group in GROUPS {
        world.committed(group, 4).await?;
    }
    let originals = world.topic(EVENTS).await?;
    for group in GROUPS {
        let dead = dead_letters(&world, group).await?;
        assert_eq!(dead.len(), 3);
        for (dead, original) in dead.iter().zip(&originals) {
            check(dead, original, group, "too_large", "Invalid event: ")?;
        }
    }
    let audited = world.audit_log()?;
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0]["event_id"], good.id());
    Ok(())
}

#[tokio::test]
async fn what_a_newer_writer_adds_is_no_poison_and_a_repeat_is_handled_once() -> Outcome {
    let world = World::start().await?;
    let notification = world.program("notification-service").start()?;
    let _audit = world.program("audit-service").start()?;
    let unknown = Event::of("task.archived", "x").with("/data", serde_json::json!({"anything": [1, 2]}))?;
    let twice = Event::created("twice");
    let wider = String::from_utf8(Event::created("wider").bytes()).unwrap();
    let wider = wider.replacen('{', "{\"new_field\":{\"a\":1},", 1).replacen(
        "\"data\":{",
        "\"data\":{\"priority\":\"high\",",
        1,
    );
    world
        .produce_values(&[
            Some(&unknown.bytes()),
            Some(&twice.bytes()),
            Some(&twice.bytes()),
            Some(wider.as_bytes()),
        ])
        .await?;
    // Again in a batch of its own.
    world.produce_values(&[Some(&twice.bytes()), Some(&unknown.bytes())]).await?;
    for group in GROUPS {
        world.committed(group, 6).await?;
    }
    assert_eq!(world.topic(DLQ).await?.len(), 0);
    let audited = world.audit_log()?;
    let types: Vec<_> = audited.iter().map(|line| line["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["task.archived", "task.created", "task.created"]);
    assert_eq!(audited[0]["data"], serde_json::json!({"anything": [1, 2]}));
    assert_eq!(audited[2]["data"]["priority"], "high");
    assert_eq!(notification.counted("NOTIFICATION: ", 2).await?, 2);
    assert_eq!(notification.count("'twice'"), 1);
    Ok(())
}

#[tokio::test]
async fn nothing_is_committed_past_poison_before_the_dlq_has_it() -> Outcome {
    let world = World::start().await?;
    let mut audit = world.program("audit-service").start()?;
    let before = Event::created("before");
    world.produce_values(&[Some(&before.bytes())]).await?;
    world.committed("audit-service", 1).await?;

    delete_topic(&world.broker.bootstrap(), DLQ).await?;
    let after = Event::created("after");
    world.produce_values(&[Some(b"poison"), Some(&after.bytes())]).await?;
    let line = audit.wait_for_line("is blocked, will try again", SOON).await?;
    assert!(line.contains(DLQ) && line.contains("taskctl topics create"), "{line}");
    // Some renewals of the lease later: they carry the position.
    let commits = world.topic(OFFSETS).await?.len();
    let renewed = async || Ok((world.topic(OFFSETS).await?.len() >= commits + 4).then_some(()));
    harness::eventually("renewals of the lease", SOON, renewed).await?;
    assert_eq!(world.offsets("audit-service").await?.position(), Some(1));
    assert_eq!(world.audit_log()?.len(), 1);

    world.create_topics().await?;
    world.committed("audit-service", 3).await?;
    assert_eq!(dead_letters(&world, "audit-service").await?.len(), 1);
    assert_eq!(world.audit_log()?[1]["event_id"], after.id());
    assert_eq!(audit.terminate(Duration::from_secs(20)).await?.code(), Some(0));
    Ok(())
}
