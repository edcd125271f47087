//! An embedded store with events that wait is moved to PostgreSQL while Kafka is unreachable, with kill -9 again and
//! again, and tasks are moved back: what was answered before and after is in the topic and in the audit log, once and in order.

use harness::{
    Answers, Api, Load, Method, Outcome, Postgres, Result, SOON, StatusCode, World, alone, eventually,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Time for a clean stop while Kafka is unreachable.
const STOP: Duration = Duration::from_secs(20);
/// The first run is killed after this time, each later one after a quarter more, so that kills hit each part of a move
/// and one run reaches its end.
const FIRST_KILL: Duration = Duration::from_millis(15);
/// More runs than any machine needs.
const MAX_RUNS: usize = 60;

async fn loaded(api: &Api, tasks: usize) -> Result<Answers> {
    let answers = Load::at_full_speed(api.url(), 32, tasks)?.finish().await?;
    assert_eq!((answers.failures, answers.unanswered), (0, 0));
    Ok(answers)
}

/// A create under a key: what is answered, and whether it was answered before.
async fn keyed(api: &Api) -> Result<(StatusCode, Value, bool)> {
    let request = api.request(Method::POST, "/tasks").header("idempotency-key", "moved with the store");
    let answered = request.json(&json!({"title": "keyed"})).send().await?;
    let is_replayed = answered.headers().contains_key("idempotent-replayed");
    Ok((answered.status(), answered.json().await?, is_replayed))
}

/// Changes whose events are delivered, then Kafka is killed, and changes whose events wait. With the task that was made under a key.
async fn loaded_until_kafka_is_unreachable(world: &mut World, api: &Api) -> Result<(Answers, Value)> {
    let mut answers = loaded(api, 1_000).await?;
    api.delivered().await?;
    world.broker.kill9();
    answers.changes.extend(loaded(api, 3_000).await?.changes);
    let (_, task, _) = keyed(api).await?;
    answers.changes.push(harness::Change::new("task.created", &task)?);
    Ok((answers, task))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_moved_under_kills_while_kafka_is_down_loses_and_repeats_nothing() -> Outcome {
    let Some(server) = Postgres::start("")? else { return Ok(()) };
    let _alone = alone().await;
    server.create_database("tasks")?;
    let url = server.url("tasks");
    let mut world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    let _audit = world.program("audit-service").start()?;
    let (mut answers, task) = loaded_until_kafka_is_unreachable(&mut world, &api).await?;
    let waiting = api.readiness().await?.1["outbox"]["waiting"].as_u64();
    assert!(waiting > Some(3_000), "{waiting:?}");
    assert_eq!(service.terminate(STOP).await?.code(), Some(0));

    let taskctl = |args: &[&str]| {
        world.program("taskctl").env("DATABASE_URL", &url).env("LOG_LEVEL", "info").args(args)
    };
    let migrated = taskctl(&["db", "migrate"]).run(SOON).await?;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let planned = taskctl(&["db", "import", "--format", "json"]).run(SOON).await?;
    let plan: Value = serde_json::from_str(&planned.stdout)?;
    assert_eq!(
        (&plan["outcome"], &plan["waiting_events"]),
        (&json!("planned"), &json!(waiting)),
        "{planned:?}"
    );
    let mut kills = 0;
    let mut delay = FIRST_KILL;
    loop {
        let mut run = taskctl(&["db", "import", "--execute"]).start()?;
        match run.wait_exit(delay).await {
            Ok(status) => {
                assert_eq!(status.code(), Some(0), "after {kills} kills: {:?}", run.lines());
                break;
            }
            Err(_) => run.kill9(),
        }
        (kills, delay) = (kills + 1, delay.mul_f64(1.25));
        assert!(kills < MAX_RUNS, "it does not end");
    }
    println!("{kills} kills");
    let again = taskctl(&["db", "import", "--execute"]).run(SOON).await?;
    assert!(again.code == Some(0) && again.stdout.contains("moved before"), "{again:?}");
    let refused = world.program("task-api").run(SOON).await?;
    assert!(refused.code == Some(1) && format!("{refused:?}").contains("TE0210"), "{refused:?}");
    server.create_database("another")?;
    let elsewhere = world.program("task-api").env("DATABASE_URL", server.url("another"));
    let refused = elsewhere.run(SOON).await?;
    assert!(
        refused.code == Some(1) && format!("{refused:?}").contains("does not have the tasks"),
        "{refused:?}"
    );

    world.broker.restart().await?;
    let with = |name: &str| match name {
        "task-api" => world.program("task-api").env("DATABASE_URL", &url),
        other => world.instance("task-api", other).env("DATABASE_URL", &url),
    };
    let (_one, first) = world.start_api_as(with("task-api")).await?;
    let (_other, second) = world.start_api_as(with("other")).await?;
    let replayed = keyed(&second).await?;
    assert_eq!(replayed, (StatusCode::CREATED, task, true));
    answers.changes.extend(loaded(&second, 500).await?.changes);
    let is_empty = async || {
        let left = server.sql("tasks", "SELECT count(*) FROM task_events.outbox")?;
        Ok((left.trim() == "0").then_some(()))
    };
    eventually("the outbox to be empty", SOON, is_empty).await?;
    let history = world.check_history(&first, answers).await?;
    println!("{} changes, {} events", history.answered.len(), history.topic.len());
    assert_eq!(history.topic.len(), history.answered.len(), "each once in the topic");
    Ok(())
}

/// Events are in Kafka that the store has not noted as delivered, and changes are in its log only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_api_was_killed_is_moved_and_none_of_its_events_is_sent_twice() -> Outcome {
    let Some(server) = Postgres::start("")? else { return Ok(()) };
    let _alone = alone().await;
    server.create_database("tasks")?;
    let url = server.url("tasks");
    let world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    let _audit = world.program("audit-service").start()?;
    let mut answers = loaded(&api, 3_000).await?;
    service.kill9();
    let taskctl = |args: &[&str]| world.program("taskctl").env("DATABASE_URL", &url).args(args);
    for args in [&["db", "migrate"][..], &["db", "import"], &["db", "import", "--execute"]] {
        let done = taskctl(args).run(SOON).await?;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let (_service, api) = world.start_api_as(world.program("task-api").env("DATABASE_URL", &url)).await?;
    answers.changes.extend(loaded(&api, 200).await?.changes);
    let is_empty = async || {
        let left = server.sql("tasks", "SELECT count(*) FROM task_events.outbox")?;
        Ok((left.trim() == "0").then_some(()))
    };
    eventually("the outbox to be empty", SOON, is_empty).await?;
    let history = world.check_history(&api, answers).await?;
    assert_eq!(history.topic.len(), history.answered.len(), "each once in the topic");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_are_moved_out_of_the_database_under_kills_while_kafka_is_down_are_neither_lost_nor_repeated()
-> Outcome {
    let Some(server) = Postgres::start("")? else { return Ok(()) };
    let _alone = alone().await;
    server.create_database("tasks")?;
    let url = server.url("tasks");
    let mut world = World::start().await?;
    let replica = world.instance("task-api", "replica").env("DATABASE_URL", &url);
    let (mut service, api) = world.start_api_as(replica).await?;
    let _audit = world.program("audit-service").start()?;
    let (mut answers, task) = loaded_until_kafka_is_unreachable(&mut world, &api).await?;

    let taskctl = |args: &[&str]| {
        world.program("taskctl").env("DATABASE_URL", &url).env("LOG_LEVEL", "info").args(args)
    };
    let refused = taskctl(&["db", "export", "--execute"]).run(SOON).await?;
    assert!(refused.code == Some(1) && format!("{refused:?}").contains("TE0213"), "{refused:?}");
    assert_eq!(service.terminate(STOP).await?.code(), Some(0));
    let planned = taskctl(&["db", "export", "--format", "json"]).run(SOON).await?;
    let plan: Value = serde_json::from_str(&planned.stdout)?;
    let count = server.sql("tasks", "SELECT count(*) FROM task_events.tasks")?;
    let planned_tasks = plan["tasks"].to_string();
    assert_eq!((&plan["outcome"], planned_tasks.as_str()), (&json!("planned"), count.trim()), "{planned:?}");
    assert!(plan["waiting_events"].as_u64() > Some(3_000), "{planned:?}");
    let (mut kills, mut delay) = (0, FIRST_KILL);
    loop {
        let mut run = taskctl(&["db", "export", "--execute"]).start()?;
        match run.wait_exit(delay).await {
            Ok(status) if status.code() == Some(0) => break,
            Ok(status) => {
                let lines = format!("{:?}", run.lines());
                if kills > 0 && lines.contains("holds a store already") {
                    // The run before was killed after its last step.
                    break;
                }
                // Killed between the last batch and the commit: that the database does not know.
                assert!(kills > 0 && lines.contains("knows nothing of the move"), "{status} {lines}");
                let cancelled = taskctl(&["db", "export", "--cancel"]).run(SOON).await?;
                assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
            }
            Err(_) => run.kill9(),
        }
        (kills, delay) = (kills + 1, delay.mul_f64(1.25));
        assert!(kills < MAX_RUNS, "it does not end");
    }
    println!("{kills} kills");
    let again = taskctl(&["db", "export", "--execute"]).run(SOON).await?;
    assert!(again.code == Some(1) && format!("{again:?}").contains("TE0213"), "{again:?}");
    let left = world.instance("task-api", "replica").env("DATABASE_URL", &url).run(SOON).await?;
    assert!(left.code == Some(1) && format!("{left:?}").contains("TE0212"), "{left:?}");

    let (_service, api) = world.start_api().await?;
    let waiting = api.readiness().await?.1["outbox"]["waiting"].clone();
    assert_eq!(waiting, plan["waiting_events"]);
    world.broker.restart().await?;
    assert_eq!(keyed(&api).await?, (StatusCode::CREATED, task, true));
    answers.changes.extend(loaded(&api, 500).await?.changes);
    let is_empty = async || {
        let waiting = &api.readiness().await?.1["outbox"]["waiting"];
        Ok((waiting.as_u64() == Some(0)).then_some(()))
    };
    eventually("the outbox to be empty", SOON, is_empty).await?;
    let history = world.check_history(&api, answers).await?;
    println!("{} changes, {} events", history.answered.len(), history.topic.len());
    assert_eq!(history.topic.len(), history.answered.len(), "each once in the topic");
    Ok(())
}
