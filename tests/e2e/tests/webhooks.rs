//! Webhooks to a receiver that verifies them with the reference library of Standard Webhooks, which `.ci/webhooks` installs
//! (`E2E_WEBHOOK_PYTHON`).

use harness::{Authority, Outcome, Process, Result, SOON, TlsFront, Validity, World, eventually, replace};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const OLD: &str = "whsec_b2xkLXNlY3JldC1vbGQtc2VjcmV0LW9sZC1zZWNyZXQ=";
const NEW: &str = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldy1zZWNyZXQ=";

/// A receiver that knows one secret, and its URL; `None` where the library is not at hand.
async fn receiver(secret: &str) -> Result<Option<(Process, String)>> {
    let Some(python) = std::env::var_os("E2E_WEBHOOK_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("E2E_WEBHOOK_PYTHON is not set: the reference library is not tried");
        return Ok(None);
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/webhooks/receiver.py");
    let mut process = Process::spawn("receiver", Command::new(python).arg(script).arg(secret))?;
    let port = process.wait_for_line("", SOON).await?;
    Ok(Some((process, format!("http://127.0.0.1:{}/hooks?a=b", port.trim()))))
}

fn came(receiver: &Process) -> Vec<Value> {
    receiver.lines().iter().skip(1).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn the_reference_library_verifies_each_webhook_while_secrets_are_replaced() -> Outcome {
    let Some((process, plain)) = receiver(NEW).await? else { return Ok(()) };
    let world = World::start().await?;
    let secrets = world.path("secrets");
    fs::write(&secrets, format!("{OLD}\n")).unwrap();
    // Over https, as a receiver on the internet is reached.
    let authority = Authority::new("ca")?;
    let (host, path) = plain.trim_start_matches("http://").split_once('/').unwrap();
    let certificate = authority.issue("hooks", &["localhost"], Validity::Valid)?;
    let front = TlsFront::start(&certificate, host.parse().unwrap()).await?;
    let url = format!("https://localhost:{}/{path}", front.port());
    let ca = world.path("ca.crt");
    replace(&ca, authority.certificate())?;
    let service = world
        .program("notification-service")
        .env("NOTIFIER", "webhook")
        .env("WEBHOOK_URL", &url)
        .env("WEBHOOK_CA_FILE", ca.display())
        .env("WEBHOOK_SECRET_FILE", secrets.display())
        .env("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8,::1");
    let mut service = service.start()?;
    let (_api, api) = world.start_api().await?;
    let task = api.create("Größe \"zwölf\"").await?;
    // Signed with the old secret alone: the receiver, which knows the new one, refuses it, and it is sent again.
    let refused = async || Ok(came(&process).iter().any(|one| one["refused"].is_string()).then_some(()));
    eventually("a refusal", SOON, refused).await?;
    // While one is replaced, both sign.
    fs::write(&secrets, format!("{NEW}\n{OLD}\n")).unwrap();
    api.complete(&task).await?;
    let verified = async || {
        let came: Vec<_> = came(&process).into_iter().filter(|one| one["title"].is_string()).collect();
        Ok(Some(came).filter(|came| came.len() == 2))
    };
    let came = eventually("both webhooks", SOON, verified).await?;
    let kinds: Vec<_> = came.iter().map(|one| &one["type"]).collect();
    assert_eq!(kinds, [&json!("task.created"), &json!("task.completed")]);
    assert!(came.iter().all(|one| one["title"] == "Größe \"zwölf\""), "{came:?}");
    world.committed("notification-service", 2).await?;
    service.terminate(SOON).await?;
    let log = service.lines().join("\n");
    assert!(!log.contains("whsec_") && !log.contains("hooks?a=b"), "{log}");
    Ok(())
}

#[tokio::test]
async fn an_internal_address_is_not_called_unless_it_is_allowed() -> Outcome {
    let Some((process, url)) = receiver(NEW).await? else { return Ok(()) };
    let world = World::start().await?;
    let secrets = world.path("secrets");
    fs::write(&secrets, format!("{NEW}\n")).unwrap();
    let service = world
        .program("notification-service")
        .env("NOTIFIER", "webhook")
        .env("WEBHOOK_URL", &url)
        .env("WEBHOOK_TRIES", 1)
        .env("WEBHOOK_SECRET_FILE", secrets.display());
    let mut service = service.start()?;
    let (_api, api) = world.start_api().await?;
    api.create("a task").await?;
    world.committed("notification-service", 1).await?;
    assert_eq!(came(&process), Vec::<Value>::new());
    service.wait_for_line("127.0.0.1 is internal", SOON).await?;
    let letters = world.topic(harness::DLQ).await?;
    assert_eq!(letters[0].json()?["error"]["kind"], "webhook");
    Ok(())
}
