//! Callers with identities, as the README turns them on: from the token to the audit log.

use harness::{Authority, Method, Outcome, SOON, StatusCode, Validity, World, eventually, replace};
use serde_json::{Value, json};

#[tokio::test]
async fn two_lines_turn_tokens_on_and_the_audit_log_names_the_caller() -> Outcome {
    let world = World::start().await?;
    let file = world.path("tokens").display().to_string();
    // The first line of the README, and the second.
    let made = world.taskctl(&["token", "create", "alice", "--scope", "read,write", "--file", &file]).await?;
    assert_eq!(made.code, Some(0), "{made:?}");
    let token = made.stdout.trim().to_owned();
    let (mut service, api) =
        world.start_api_as(world.program("task-api").env("API_TOKENS_FILE", &file)).await?;
    let _audit = world.program("audit-service").start()?;

    let create = || api.request(Method::POST, "/tasks").json(&json!({"title": "Water the plants"}));
    assert_eq!(create().send().await?.status(), StatusCode::UNAUTHORIZED);
    let answer = create().bearer_auth(&token).send().await?;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let task: Value = answer.json().await?;
    let audited = async || Ok(world.audit_log().ok().filter(|lines| !lines.is_empty()));
    let lines = eventually("the audit line", SOON, audited).await?;
    assert_eq!((&lines[0]["metadata"]["actor"], lines.len()), (&json!("alice"), 1));

    // The operator's command sees the task with a token, and says what is missing without one.
    let trace = ["trace", task["id"].as_str().unwrap(), "--api", api.url().trim_start_matches("http://")];
    let taskctl = || world.program("taskctl").args(&trace);
    let seen = taskctl().env("API_TOKEN", &token).run(SOON).await?;
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert!(seen.stdout.contains("Water the plants"), "{seen:?}");
    let denied = taskctl().run(SOON).await?;
    assert!(format!("{denied:?}").contains("API_TOKEN"), "{denied:?}");

    // A name of another token is another caller, at once; no output has a token.
    let made = world.taskctl(&["token", "create", "bob", "--scope", "write", "--file", &file]).await?;
    let other = made.stdout.trim().to_owned();
    let by_bob = async || {
        let answer = create().bearer_auth(&other).send().await?;
        Ok((answer.status() == StatusCode::CREATED).then_some(()))
    };
    eventually("the new token to be known", SOON, by_bob).await?;
    let audited = async || Ok(Some(world.audit_log()?).filter(|lines| lines.len() == 2));
    let lines = eventually("bob's line", SOON, audited).await?;
    assert_eq!(lines[1]["metadata"]["actor"], "bob");
    service.terminate(SOON).await?;
    let log = service.lines();
    assert!(log.iter().any(|line| line.contains("POST /tasks 201") && line.ends_with("by bob")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains(&token) || line.contains(&other)), "{log:#?}");
    Ok(())
}

#[tokio::test]
async fn a_service_that_cannot_know_its_callers_does_not_start_and_one_that_knows_none_says_so() -> Outcome {
    let world = World::start().await?;
    let missing = world.path("nowhere").display().to_string();
    let refused = world.program("task-api").env("API_TOKENS_FILE", &missing).run(SOON).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = format!("{refused:?}");
    assert!(said.contains("API_TOKENS_FILE") && said.contains("TE0109"), "{said}");

    let (service, _) = world.start_api_as(world.program("task-api").env("HOST", "0.0.0.0")).await?;
    assert_eq!(service.counted("callers have no identity", 1).await?, 1, "{:#?}", service.lines());
    let (service, _) =
        world.start_api_as(world.program("task-api").env("STATE_DIR", world.path("other").display())).await?;
    assert_eq!(service.count("callers have no identity"), 0, "{:#?}", service.lines());
    Ok(())
}

#[tokio::test]
async fn the_api_speaks_https_and_the_operators_command_verifies_it() -> Outcome {
    let world = World::start().await?;
    let (ca, other) = (Authority::new("ca")?, Authority::new("other")?);
    let folder = world.path("tls");
    std::fs::create_dir(&folder)?;
    replace(&folder.join("ca.crt"), ca.certificate())?;
    replace(&folder.join("other.crt"), other.certificate())?;
    let (certificate, key) = ca.issue("api", &["localhost"], Validity::Valid)?.write(&folder, "api")?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let api = || world.program("task-api").env("API_TLS_CERTIFICATE_FILE", &certificate);
    let mut service = api().env("API_TLS_KEY_FILE", &key).start()?;
    let line = service.wait_for_line("listening on https://127.0.0.1:", SOON).await?;
    let port = line.rsplit(':').next().unwrap();
    let address = format!("localhost:{port}");
    let status = || world.program("taskctl").args(&["status", "--api", &address]);
    let trusting = |ca: &str| status().env("API_CA_FILE", folder.join(ca).display());
    let seen = trusting("ca.crt").run(SOON).await?;
    assert!(seen.stdout.contains("ready"), "{seen:?}");
    let refused = format!("{:?}", trusting("other.crt").run(SOON).await?);
    assert!(refused.contains("API_CA_FILE") && refused.contains("signed by no CA"), "{refused}");
    let refused = format!("{:?}", status().run(SOON).await?);
    assert!(refused.contains("HTTPS"), "{refused}");

    // One without the other, and a pair that is none.
    let alone = world.program("task-api").env("API_TLS_KEY_FILE", &key).run(SOON).await?;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    replace(std::path::Path::new(&key), &ca.issue("api", &["localhost"], Validity::Valid)?.key)?;
    let state = world.path("other-state");
    let refused = api().env("API_TLS_KEY_FILE", &key).env("STATE_DIR", state.display()).run(SOON).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = format!("{refused:?}");
    assert!(
        said.contains("API_TLS_CERTIFICATE_FILE and API_TLS_KEY_FILE") && said.contains("TE0109"),
        "{said}"
    );
    Ok(())
}
