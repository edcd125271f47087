//! The whole system with the tasks in PostgreSQL: two replicas, and the operator's command.

use harness::{Authority, Outcome, Postgres, Program, SOON, Validity, World, eventually};
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
    for part in ["it keeps what it confirms", "its schema has version 3", "publishes"] {
        assert!(doctor.stdout.contains(part), "{part}: {doctor:?}");
    }
    server.sql("postgres", "ALTER DATABASE tasks SET synchronous_commit = off")?;
    let doctor = taskctl(&["doctor", "--format", "json"]).await?;
    assert!(doctor.stdout.contains("synchronous_commit is off") && doctor.code == Some(1), "{doctor:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_and_taskctl_reach_the_database_by_tls_or_say_in_one_line_why_not() -> Outcome {
    let Some(server) = Postgres::start("")? else { return Ok(()) };
    server.create_database("tasks")?;
    let authority = Authority::new("right")?;
    server.serve_tls(&authority.issue("db", &["127.0.0.1"], Validity::Valid)?, authority.certificate())?;
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'hush'; ALTER DATABASE tasks OWNER TO app")?;
    server.set_login_rules("hostssl all app 127.0.0.1/32 scram-sha-256")?;
    let world = World::start().await?;
    world.create_topics().await?;
    let (right, wrong) = (world.path("right.crt"), world.path("wrong.crt"));
    harness::replace(&right, authority.certificate())?;
    harness::replace(&wrong, Authority::new("wrong")?.certificate())?;
    let plain = server.url("tasks").replace("postgres@", "app:hush@");
    let url = |ca: &std::path::Path| format!("{plain}?sslmode=verify-full&sslrootcert={}", ca.display());
    let taskctl = async |url: &str, args: &[&str]| {
        world.program("taskctl").env("DATABASE_URL", url).args(args).run(SOON).await
    };
    for (url, code, part) in [
        (url(&wrong), "TE0207", "TLS: its certificate is signed by no CA that is trusted here"),
        (format!("{plain}?sslmode=prefer"), "TE0208", "plain text"),
        (url(&world.path("none.crt")), "TE0208", "none.crt"),
        (plain.clone(), "TE0207", "no encryption"),
    ] {
        let refused = taskctl(&url, &["db", "status"]).await?;
        let text = &refused.stderr;
        assert!(refused.code == Some(1) && text.contains(code) && text.contains(part), "{refused:?}");
        assert!(text.trim().lines().count() == 1 && !text.contains("hush"), "{text}");
    }
    let migrated = taskctl(&url(&right), &["db", "migrate"]).await?;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let (_api, client) =
        world.start_api_as(world.program("task-api").env("DATABASE_URL", url(&right))).await?;
    client.create("over TLS").await?;
    let doctor = taskctl(&url(&right), &["doctor", "--format", "json"]).await?;
    assert!(doctor.stdout.contains("its schema has version 3"), "{doctor:?}");
    let doctor = taskctl(&url(&wrong), &["doctor", "--format", "json"]).await?;
    assert!(doctor.stdout.contains("give the CA that signed it"), "{doctor:?}");
    Ok(())
}
