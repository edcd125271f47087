//! What an operator does with `taskctl` alone: finds a dead letter and redrives it, traces a task, finds the group that lags.

use harness::{DLQ, EVENTS, Event, GROUPS, Outcome, Ran, Result, SOON, World, eventually, produce, record};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn answers(world: &World, args: &[&str]) -> Result<String> {
    let Ran { code, stdout, stderr, .. } = world.taskctl(args).await?;
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    Ok(stdout)
}

/// The dead letters of a group, as an operator sees them.
async fn dead_letters(world: &World, group: &str) -> Result<Vec<Value>> {
    let list = answers(world, &["dlq", "list", "--group", group, "--format", "json"]).await?;
    Ok(serde_json::from_str(&list).unwrap())
}

/// A dead letter as an earlier version of the group left it: the event is a good one.
async fn fails(world: &World, group: &str, event: &Event, offset: i64) -> Result<()> {
    let letter = json!({
        "original_event": serde_json::from_slice::<Value>(&event.bytes()).unwrap(),
        "error": {"kind": "audit_log", "message": "a disk was full"},
        "retry_count": 4,
        "group": group,
        "source": {"topic": EVENTS, "partition": 0, "offset": offset, "timestamp": "2026-01-15T10:30:00Z"},
        "failed_at": "2026-01-15T10:30:00Z",
    });
    let record = record(Some(event.task_id().as_bytes()), Some(letter.to_string().as_bytes()));
    produce(&world.broker.bootstrap(), DLQ, vec![record]).await?;
    Ok(())
}

#[tokio::test]
async fn a_redriven_event_is_handled_once_and_by_the_group_that_failed_it_alone() -> Outcome {
    let world = World::start().await?;
    let mut dlq = world.program("dlq-processor").start()?;
    let mut notification = world.program("notification-service").start()?;
    let mut audit = world.program("audit-service").start()?;

    // Poison for both, and two events that one group each has failed.
    world.produce_values(&[Some(b"{\"event_id\": ")]).await?;
    let (notified, audited) = (Event::created("notified late"), Event::created("audited late"));
    fails(&world, "notification-service", &notified, 0).await?;
    fails(&world, "audit-service", &audited, 0).await?;
    for group in GROUPS {
        world.committed(group, 1).await?;
    }
    assert_eq!(dead_letters(&world, "audit-service").await?.len(), 2);

    // Found by its kind, not redriven without --execute.
    let plan = answers(&world, &["dlq", "redrive", "--kind", "audit_log"]).await?;
    assert_eq!(plan.matches("would be redriven").count(), 2, "{plan}");
    assert_eq!(world.topic(EVENTS).await?.len(), 1);

    // Redriven three times, the last two against advice.
    answers(&world, &["dlq", "redrive", "--kind", "audit_log", "--execute"]).await?;
    for _ in 0..2 {
        answers(&world, &["dlq", "redrive", "--kind", "audit_log", "--again", "--execute"]).await?;
    }
    for group in GROUPS {
        world.committed(group, 7).await?;
    }
    let notification_of = |event: &Event| format!("NOTIFICATION: New task created - '{}'", title(event));
    notification.wait_for_line(&notification_of(&notified), SOON).await?;
    assert_eq!(notification.count(&notification_of(&notified)), 1);
    assert_eq!(notification.count(&notification_of(&audited)), 0, "that one is of the other group");
    let log = world.audit_log()?;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0]["event_id"], audited.id());

    // A poison event that is redriven is a dead letter of its own group again, and of no other.
    let poison =
        dead_letters(&world, "audit-service").await?.into_iter().find(|row| row["kind"] == "invalid_json");
    let id = poison.unwrap()["id"].as_str().unwrap().to_owned();
    let done = answers(&world, &["dlq", "redrive", &id, "--execute"]).await?;
    assert!(done.contains("malformed: only another version"), "{done}");
    for group in GROUPS {
        world.committed(group, 8).await?;
    }
    let audit_letters = dead_letters(&world, "audit-service").await?;
    assert_eq!(audit_letters.len(), 3, "{audit_letters:?}");
    assert_eq!(audit_letters[2]["source"], "task-events/0/7");
    assert_eq!(dead_letters(&world, "notification-service").await?.len(), 2);

    // The DLQ processor tells of each redrive and of the new dead letter.
    dlq.wait_for_line("DLQ: group=audit-service kind=invalid_json source=task-events/0/7", SOON).await?;
    assert_eq!(dlq.counted("kind=redriven dead_letter=task-events-dlq/0/", 7).await?, 7);

    // Everything still starts where it was.
    for service in [&mut notification, &mut audit] {
        service.terminate(SOON).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_task_is_traced_through_all_services_and_the_lagging_group_is_found() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let _notification = world.program("notification-service").start()?;
    let mut audit = world.program("audit-service").start()?;
    let created = api.create("traced").await?;
    let id = harness::id_of(&created)?;
    let address = api.url().trim_start_matches("http://");
    world.committed("audit-service", 1).await?;
    world.committed("notification-service", 1).await?;
    let trace = answers(&world, &["trace", id, "--api", address]).await?;
    for stage in ["task.created", "delivered", "audit.log:1", "notified, on its stdout", "audited; committed"]
    {
        assert!(trace.contains(stage), "{stage}: {trace}");
    }
    assert!(trace.ends_with("Nothing is missing.\n"), "{trace}");

    audit.stop_released().await?;
    api.create("not audited").await?;
    world.committed("notification-service", 2).await?;
    let group_in = |status: &Value, name: &str| {
        status["groups"].as_array().unwrap().iter().find(|row| row["group"] == name).unwrap().clone()
    };
    // An owner that had no core for as long as its lease seems dead until its next commit.
    let active = async || {
        let status = answers(&world, &["status", "--api", address, "--format", "json"]).await?;
        let status: Value = serde_json::from_str(&status)?;
        Ok(Some(status).filter(|status| group_in(status, "notification-service")["state"] == "active"))
    };
    let status = eventually("an active group", SOON, active).await?;
    assert_eq!(status["api"]["ready"], true, "{status}");
    let group = |name: &str| group_in(&status, name);
    let (lagging, other) = (group("audit-service"), group("notification-service"));
    assert_eq!((&lagging["state"], &lagging["lag"]), (&"released".into(), &1.into()), "{status}");
    assert_eq!(other["lag"], 0, "{status}");
    Ok(())
}

fn title(event: &Event) -> String {
    let value: Value = serde_json::from_slice(&event.bytes()).unwrap();
    value["data"]["title"].as_str().unwrap().to_owned()
}

/// The cell of a table's row that begins so.
fn cell<'a>(table: &'a str, row: &str, column: usize) -> &'a str {
    let line = table.lines().find(|line| line.contains(row));
    let line = line.unwrap_or_else(|| panic!("no row with {row}: {table}"));
    line.split_whitespace().nth(column).unwrap()
}

#[tokio::test]
async fn a_new_operator_finds_lag_and_poison_redrives_and_proves_the_audit_by_the_help_alone() -> Outcome {
    let began = Instant::now();
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let address = api.url().trim_start_matches("http://").to_owned();
    let _notification = world.program("notification-service").start()?;
    let _dlq = world.program("dlq-processor").start()?;
    let mut audit = world.program("audit-service").start()?;
    api.create("audited").await?;
    world.committed("audit-service", 1).await?;
    // What went wrong meanwhile: a full disk, poison, and an auditor that was stopped.
    let failed = Event::created("failed on a full disk");
    fails(&world, "audit-service", &failed, 0).await?;
    world.produce_values(&[Some(b"{\"event_id\": ")]).await?;
    world.committed("audit-service", 2).await?;
    audit.stop_released().await?;
    api.create("not audited").await?;
    world.committed("notification-service", 3).await?;

    // The help names what to look with.
    let help = answers(&world, &["--help"]).await?;
    for (command, what) in
        [("status", "one screen"), ("dlq", "could not handle"), ("trace", "life of an event")]
    {
        assert!(help.lines().any(|line| line.contains(command) && line.contains(what)), "{command}: {help}");
    }
    // The group that lags.
    let active = async || {
        let status = answers(&world, &["status", "--api", &address]).await?;
        Ok(Some(status).filter(|status| cell(status, "notification-service", 1) == "active"))
    };
    let status = eventually("an active group", SOON, active).await?;
    assert_eq!(
        (cell(&status, "audit-service", 1), cell(&status, "audit-service", 4)),
        ("released", "1"),
        "{status}"
    );
    assert!(status.contains("DLQ: 3 open dead letters"), "{status}");
    audit.restart()?;
    world.committed("audit-service", 3).await?;
    let groups = answers(&world, &["groups", "describe", "audit-service"]).await?;
    assert_eq!(cell(&groups, "task-events", 5), "0", "{groups}");

    // The poison events, with their errors.
    let list = answers(&world, &["dlq", "list", "--open", "--group", "audit-service"]).await?;
    let (id, poison) = (cell(&list, "a disk was full", 0), cell(&list, "invalid_json", 0));
    let shown = answers(&world, &["dlq", "show", id]).await?;
    for line in ["ERROR     a disk was full", "STATE     open: not redriven yet", "failed on a full disk"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    // Redriven, after a dry run; and the audit log proved to have it.
    let plan = answers(&world, &["dlq", "redrive", id]).await?;
    assert!(plan.contains("would be redriven") && plan.contains("Add --execute to do it"), "{plan}");
    let done = answers(&world, &["dlq", "redrive", id, "--execute"]).await?;
    assert!(done.contains("redriven to task-events/0/3"), "{done}");
    world.committed("audit-service", 4).await?;
    let trace = answers(&world, &["trace", failed.id(), "--api", &address]).await?;
    for stage in
        ["audit-service failed", "redriven for audit-service alone", "audit.log:3", "audited; committed"]
    {
        assert!(trace.contains(stage), "{stage}: {trace}");
    }
    let shown = answers(&world, &["dlq", "show", id]).await?;
    assert!(shown.contains("which audit-service has passed"), "{shown}");
    let verified =
        answers(&world, &["audit", "verify", &world.audit_log_path().display().to_string()]).await?;
    assert!(verified.contains("3 lines: 0 damaged, 0 repeated, 0 out of order"), "{verified}");
    assert_eq!(world.audit_log()?.iter().filter(|line| line["event_id"] == failed.id()).count(), 1);

    // What is malformed goes back to the DLQ, as was said before.
    let plan = answers(&world, &["dlq", "redrive", poison]).await?;
    assert!(plan.contains("malformed: only another version of the service can handle it"), "{plan}");
    answers(&world, &["dlq", "redrive", poison, "--execute"]).await?;
    world.committed("audit-service", 5).await?;
    let list = answers(&world, &["dlq", "list", "--open", "--group", "audit-service"]).await?;
    assert_eq!(cell(&list, "task-events/0/4", 3), "invalid_json", "{list}");
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
    Ok(())
}
