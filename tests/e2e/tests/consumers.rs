//! SC-2 and SC-3: what the two services make of the events.

use harness::{EVENTS, Event, Outcome, Result, SOON, TopicRecord, World, id_of, read_audit_log};
use serde_json::json;

/// The part of each log line from this word on.
fn said(lines: &[String], word: &str) -> Vec<String> {
    lines.iter().filter_map(|line| line.find(word).map(|at| line[at..].to_owned())).collect()
}

#[tokio::test]
async fn notifications_tell_of_new_and_completed_tasks_and_of_nothing_else() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let mut notification = world.program("notification-service").start()?;

    let task = api.create("Buy milk").await?;
    let id = id_of(&task)?.to_owned();
    api.patch(&task, json!({"status": "in_progress"})).await?;
    api.complete(&task).await?;
    world.committed("notification-service", 3).await?;
    let created = format!("NOTIFICATION: New task created - 'Buy milk' (ID: {id})");
    let completed = format!("NOTIFICATION: Task completed - 'Buy milk' (ID: {id})");
    notification.counted("NOTIFICATION: ", 2).await?;
    assert_eq!(said(&notification.lines(), "NOTIFICATION"), [created, completed]);

    // Restarted, it goes on where it was; what another writer repeats is known, and a title cannot forge
    // a line.
    notification.terminate(SOON).await?;
    notification.restart()?;
    let again = world.topic(EVENTS).await?[0].record.value.clone();
    let forged = Event::created("a\nNOTIFICATION: b\u{1b}[2J");
    world.produce_values(&[again.as_deref(), Some(&forged.bytes())]).await?;
    world.committed("notification-service", 5).await?;
    let escaped = format!(
        r"NOTIFICATION: New task created - 'a\nNOTIFICATION: b\u{{1b}}[2J' (ID: {})",
        forged.task_id()
    );
    notification.counted("NOTIFICATION: ", 1).await?;
    assert_eq!(said(&notification.lines(), "NOTIFICATION"), [escaped]);
    Ok(())
}

#[tokio::test]
async fn the_audit_log_has_every_event_once_in_order_and_a_restart_adds_nothing() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let mut audit = world.program("audit-service").start()?;

    let task = api.create("Buy milk").await?;
    api.patch(&task, json!({"status": "in_progress"})).await?;
    api.complete(&task).await?;
    world.committed("audit-service", 3).await?;

    let events = world.topic(EVENTS).await?.iter().map(TopicRecord::json).collect::<Result<Vec<_>>>()?;
    let lines = world.audit_log()?;
    assert_eq!(lines.len(), 3, "{lines:?}");
    for ((offset, event), line) in (0..).zip(&events).zip(&lines) {
        let audited_at = line["audited_at"].as_str().unwrap();
        assert_eq!(audited_at.len(), "2026-01-15T10:30:00.000000Z".len(), "{audited_at}");
        let mut expected = event.clone();
        expected["audited_at"] = audited_at.into();
        expected["kafka"] = json!({"topic": EVENTS, "partition": 0, "offset": offset});
        assert_eq!(line, &expected);
    }
    // The fields are in the contract's order.
    let text = std::fs::read_to_string(world.audit_log_path()).unwrap();
    let fields = ["event_id", "event_type", "occurred_at", "data", "metadata", "audited_at", "kafka"];
    for line in text.lines() {
        let places = fields.map(|field| line.find(&format!("\"{field}\":")).unwrap());
        assert!(places.is_sorted(), "{line}");
    }
    let id = id_of(&task)?;
    let told = ["created", "updated", "completed"].map(|one| format!("AUDIT: task.{one} - task_id={id}"));
    // Log lines come a little later than what they tell of.
    audit.wait_for_line(&told[2], SOON).await?;
    assert_eq!(said(&audit.lines(), "AUDIT: "), told);
    assert_eq!(audit.counted("Loaded 0 previously seen events", 1).await?, 1);

    // Restarted: not a byte changes, also where the events are sent once more or read once more.
    audit.terminate(SOON).await?;
    audit.restart()?;
    audit.wait_for_line("Loaded 3 previously seen events", SOON).await?;
    let again: Vec<_> = world.topic(EVENTS).await?.iter().map(|record| record.record.value.clone()).collect();
    let again: Vec<_> = again.iter().map(|value| value.as_deref()).collect();
    world.produce_values(&again).await?;
    world.committed("audit-service", 6).await?;
    assert_eq!(std::fs::read_to_string(world.audit_log_path()).unwrap(), text);
    audit.settled().await?;
    assert_eq!(said(&audit.lines(), "AUDIT: "), [] as [&str; 0]);
    Ok(())
}

#[tokio::test]
async fn the_log_alone_is_enough_to_go_on() -> Outcome {
    let world = World::start().await?;
    let mut audit = world.program("audit-service").start()?;
    let events: Vec<_> = (0..30).map(|n| Event::created(&n.to_string()).bytes()).collect();
    let values: Vec<_> = events.iter().map(|event| Some(event.as_slice())).collect();
    world.produce_values(&values).await?;
    world.committed("audit-service", 30).await?;
    audit.terminate(SOON).await?;

    // All other state is lost, and a line was being written when the power went.
    std::fs::remove_dir_all(world.state_dir()).unwrap();
    let text = std::fs::read_to_string(world.audit_log_path()).unwrap();
    std::fs::write(world.audit_log_path(), format!("{text}{}", &text[..100])).unwrap();
    audit.restart()?;
    audit.wait_for_line("Loaded 30 previously seen events", SOON).await?;
    assert_eq!(audit.counted("ended in a torn line", 1).await?, 1);
    world.produce_values(&values).await?;
    world.committed("audit-service", 60).await?;
    assert_eq!(std::fs::read_to_string(world.audit_log_path()).unwrap(), text);
    Ok(())
}

#[tokio::test]
async fn a_second_group_writes_a_second_log() -> Outcome {
    let world = World::start().await?;
    let other = world.path("other.log");
    let _audit = world.program("audit-service").start()?;
    let second = world.program("audit-service").env("GROUP", "second").env("AUDIT_LOG_PATH", other.display());
    let _second = second.start()?;
    let event = Event::created("seen twice");
    world.produce_values(&[Some(&event.bytes())]).await?;
    world.committed("audit-service", 1).await?;
    world.committed("second", 1).await?;
    assert_eq!(world.audit_log()?[0]["event_id"], event.id());
    assert_eq!(read_audit_log(&other)?[0]["event_id"], event.id());
    Ok(())
}
