//! `taskctl doctor` finds nothing in a sound system, and each thing that is wrong around one.

use harness::{
    EVENTS, GROUPS, Kind, OFFSETS, Outcome, Result, SOON, Transaction, World, create_topic, delete_topic,
    eventually, free_port,
};
use serde_json::Value;
use std::io::Write;

/// Its exit code and its findings.
async fn doctor(world: &World, more: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let ran = world.taskctl(&[&["doctor", "--format", "json"], more].concat()).await?;
    let findings = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    Ok((ran.code, findings))
}

/// Whether something of that level is found whose text has all these parts.
fn found(findings: &[Value], level: &str, parts: &[&str]) -> bool {
    findings.iter().any(|finding| {
        let text = finding.to_string();
        finding["level"] == level && parts.iter().all(|part| text.contains(part))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_system_is_found_sound() -> Outcome {
    let world = World::start().await?;
    let (_api, client) = world.start_api().await?;
    let _consumers = world.start_consumers()?;
    client.create("a task").await?;
    client.delivered().await?;
    for group in GROUPS {
        world.committed(group, 1).await?;
    }
    let api = client.url().strip_prefix("http://").unwrap();
    let (code, findings) = doctor(&world, &["--api", api]).await?;
    assert_eq!(code, Some(0), "{findings:#?}");
    for (subject, part) in [
        ("bootstrap address", "answers"),
        ("broker ", "answers"),
        ("topic task-events-offsets", "configs are those"),
        ("topic task-events", "configs are those"),
        ("group audit-service/task-events/0", "alive"),
        ("group notification-service/task-events/0", "lag 0"),
        ("Task API", "ready"),
        ("audit log", "ends with task-events/0 offset 0"),
        ("state folder", "free"),
    ] {
        assert!(found(&findings, "ok", &[subject, part]), "{subject}: {part} in {findings:#?}");
    }
    if world.broker.kind() == Kind::Kafka {
        assert!(found(&findings, "ok", &["client quotas", "none"]), "{findings:#?}");
    }
    // One line each, for people.
    let ran = world.taskctl(&["doctor", "--api", api]).await?;
    assert!(
        ran.stdout.lines().skip(1).all(|line| line.starts_with("ok ") || line.starts_with("warn ")),
        "{ran:?}"
    );
    Ok(())
}

/// On Apache Kafka alone: the dev broker has no quotas.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_found_whoever_they_are_for() -> Outcome {
    let world = World::start().await?;
    let Some(tools) = world.kafka_tools().filter(|_| world.broker.kind() == Kind::Kafka) else {
        return Ok(());
    };
    let (_, findings) = doctor(&world, &[]).await?;
    assert!(found(&findings, "ok", &["client quotas", "none"]), "{findings:#?}");
    for entity in [
        &["--entity-type", "clients", "--entity-default"][..],
        &["--entity-type", "clients", "--entity-name", "task-api"],
        &[
            "--entity-type",
            "users",
            "--entity-name",
            "ann",
            "--entity-type",
            "clients",
            "--entity-name",
            "task-api",
        ],
    ] {
        let quota = ["--alter", "--add-config", "producer_byte_rate=5000"];
        tools.run("kafka.admin.ConfigCommand", &[&quota[..], entity].concat()).await?;
    }
    let (_, findings) = doctor(&world, &[]).await?;
    let quotas =
        findings.iter().filter(|finding| finding["subject"].as_str().unwrap().starts_with("client quota "));
    assert_eq!(quotas.count(), 3, "{findings:#?}");
    for entity in ["client-id=<default>", "client-id=task-api", "user=ann"] {
        assert!(found(&findings, "warn", &[entity, "producer_byte_rate = 5000"]), "{entity}: {findings:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found_with_what_to_do() -> Outcome {
    let world = World::without_topics().await?;
    let bootstrap = world.broker.bootstrap();
    // Made with the broker's defaults: not compacted, and stamped by producers.
    create_topic(&bootstrap, OFFSETS, 1).await?;
    create_topic(&bootstrap, EVENTS, 1).await?;
    let dead = format!("127.0.0.1:{}", free_port()?);
    let both = format!("{bootstrap},{dead}");
    let (code, findings) = doctor(&world, &["--kafka-bootstrap-servers", &both, "--api", &dead]).await?;
    assert_eq!(code, Some(1));
    for (level, parts) in [
        ("fail", ["bootstrap address", &dead]),
        ("fail", ["topic task-events-offsets", "cleanup.policy is delete, not compact"]),
        ("warn", ["topic task-events", "message.timestamp.type is CreateTime, not LogAppendTime"]),
        ("fail", ["topic task-events-dlq", "does not exist"]),
        ("warn", ["Task API", "--api"]),
        ("warn", ["audit log", "cannot be read"]),
        ("warn", ["state folder", "cannot be read"]),
    ] {
        assert!(found(&findings, level, &parts), "{level} {parts:?} in {findings:#?}");
    }
    delete_topic(&bootstrap, OFFSETS).await?;
    delete_topic(&bootstrap, EVENTS).await?;
    world.create_topics().await?;

    let (_api, client) = world.start_api().await?;
    let mut audit = world.program("audit-service").start()?;
    client.create("a task").await?;
    let audited = async || Ok((!world.audit_log()?.is_empty()).then_some(()));
    eventually("the audit line", SOON, audited).await?;
    audit.terminate(SOON).await?;
    let state = world.state_dir().join("audit-service/instance_id");
    std::fs::create_dir(world.state_dir().join("copy")).unwrap();
    std::fs::copy(state, world.state_dir().join("copy/instance_id")).unwrap();
    let mut open = Transaction::begin(&bootstrap, "other", EVENTS, 0).await?;
    open.send(&[b"not yet"]).await?;
    let mut log = std::fs::File::options().append(true).open(world.audit_log_path()).unwrap();
    log.write_all(b"not a line\n").unwrap();
    let (code, findings) = doctor(&world, &[]).await?;
    assert_eq!(code, Some(1));
    for (level, parts) in [
        ("fail", ["state folder", "one is a copy of another"]),
        ("warn", ["open transaction", "partition 0"]),
        ("fail", ["audit log", "its last line is no audit line"]),
        ("warn", ["group audit-service/task-events/0", "nobody owns it"]),
    ] {
        assert!(found(&findings, level, &parts), "{level} {parts:?} in {findings:#?}");
        let all = findings.iter().filter(|finding| finding["level"] != "ok");
        all.for_each(|finding| assert!(finding["remedy"].is_string(), "{finding}"));
    }
    Ok(())
}

/// A file of certificates that is broken: services do not start with it; the operator's command says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_certificates_that_cannot_be_used_is_a_finding_and_stops_nothing_else() -> Outcome {
    let world = World::start().await?;
    let (broken, missing) = (world.path("broken.crt"), world.path("missing.crt"));
    std::fs::write(&broken, "no certificate").unwrap();
    let taskctl = async |args: &[&str]| {
        let program = world.program("taskctl").env("KAFKA_SSL_CA_FILE", broken.display());
        let program = program.env("SCHEMA_REGISTRY_URL", "https://localhost:1");
        let program = program.env("SCHEMA_REGISTRY_CA_FILE", missing.display());
        let program = program.env("API_TOKEN_FILE", missing.display());
        program.args(args).run(SOON).await
    };
    let ran = taskctl(&["doctor", "--format", "json"]).await?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let findings: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    for parts in [
        ["connections to Kafka", "KAFKA_SSL_CA_FILE: ", "has no certificate in PEM"],
        ["Schema Registry", "SCHEMA_REGISTRY_CA_FILE: ", "No such file"],
        ["Task API", "API_TOKEN_FILE: ", "No such file"],
    ] {
        assert!(found(&findings, "fail", &parts), "{parts:?} in {findings:#?}");
    }
    let is_examined = ["ok", "warn"].iter().any(|level| found(&findings, level, &["state folder"]));
    assert!(is_examined, "the rest is examined: {findings:#?}");
    for args in [&["explain", "TE0520"][..], &["completions", "bash"], &["man"]] {
        let ran = taskctl(args).await?;
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }
    let ran = taskctl(&["groups", "list"]).await?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr.starts_with("error: KAFKA_SSL_CA_FILE: ") && ran.stderr.ends_with("[TE0511]\n"),
        "{ran:?}"
    );
    // With Kafka alone in order, it is examined, without the registry.
    let program = world.program("taskctl").env("SCHEMA_REGISTRY_URL", "https://localhost:1");
    let program = program.env("SCHEMA_REGISTRY_CA_FILE", missing.display());
    let ran = program.args(&["doctor", "--format", "json"]).run(SOON).await?;
    let findings: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        found(&findings, "fail", &["Schema Registry"]) && found(&findings, "ok", &["bootstrap address"]),
        "{findings:#?}"
    );
    Ok(())
}
