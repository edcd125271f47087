//! The whole system with the tasks in PostgreSQL: two replicas, and the operator's command.

use harness::{Outcome, Postgres, Program, SOON, World, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_on_postgresql_reach_the_audit_log_and_taskctl_sees_the_database() -> Outcome {
    let Some(server) = Postgres::start("")? else { return Ok(()) };
    server.create_database("tasks")?;
    let url = server.url("tasks");
    let world = World::start().await?;
    world.create_topics().await?;
    let taskctl =
        async |args: &[&str]| world.program("taskctl").env("DATABASE_URL", &url).args(args).run(SOON).await;
    let before = taskctl(&["db", "status"]).await?;
    assert!(before.code == Some(0) && before.stdout.contains("pending"), "{before:?}");
    let refused = world.program("task-api").env("DATABASE_URL", &url).env("DATABASE_MIGRATE", false);
    let refused = refused.run(SOON).await?;
    assert!(refused.code == Some(1) && format!("{refused:?}").contains("TE0209"), "{refused:?}");
    let migrated = taskctl(&["db", "migrate"]).await?;
    assert!(migrated.code == Some(0) && !migrated.stdout.contains("pending"), "{migrated:?}");

    let _consumers = world.start_consumers()?;
    let with = |program: Program| program.env("DATABASE_URL", &url).env("DATABASE_MIGRATE", false);
    let (_one, first) = world.start_api_as(with(world.program("task-api"))).await?;
    let (_other, second) = world.start_api_as(with(world.instance("task-api", "other"))).await?;
    let id = first.create("on PostgreSQL").await?;
    second.patch(&id, json!({"status": "completed"})).await?;
    let audited = async || {
        let lines = world.audit_log()?;
        let types: Vec<_> = lines.iter().filter_map(|line| line["event_type"].as_str()).collect();
        Ok((types == ["task.created", "task.updated", "task.completed"]).then_some(()))
    };
    eventually("the audit log to have all of it", SOON, audited).await?;

    let doctor = taskctl(&["doctor", "--format", "json"]).await?;
    for part in ["it keeps what it confirms", "its schema has version 1", "publishes"] {
        assert!(doctor.stdout.contains(part), "{part}: {doctor:?}");
    }
    server.sql("postgres", "ALTER DATABASE tasks SET synchronous_commit = off")?;
    let doctor = taskctl(&["doctor", "--format", "json"]).await?;
    assert!(doctor.stdout.contains("synchronous_commit is off") && doctor.code == Some(1), "{doctor:?}");
    Ok(())
}
