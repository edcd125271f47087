//! What released versions left is opened by today's binaries: tasks, events that wait, audit log and its index, dedup
//! state, offsets records and topics. `fixtures/make` writes a fixture with a version's own binaries.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{
    Bootstrap, Method, Outcome, Program, Result, SOON, Service, StatusCode, World, eventually, free_port,
};
use serde_json::Value;
use tempfile::TempDir;

/// Each released version, newest last.
const RELEASED: [&str; 1] = ["0.1.0"];
/// Records in the topic of events: five events and one that is none; the events of two tasks wait in the API's store.
const RECORDS: i64 = 6;
const EVENTS: usize = 5;
const WAITING: i64 = 2;

/// Today's dev broker on the folder of a former one.
struct Former {
    address: String,
    _broker: Service,
    /// Removed when the broker is gone.
    folder: TempDir,
}

impl Bootstrap for Former {
    fn bootstrap(&self) -> String {
        self.address.clone()
    }
}

/// A system as that version left it.
async fn world(version: &str) -> Result<World<Former>> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{version}.tar.gz"));
    let unpacked =
        Command::new("tar").arg("-xzf").args([&fixture, Path::new("-C"), folder.path()]).status().unwrap();
    assert!(unpacked.success(), "{}", fixture.display());
    let data = folder.path().join("broker").display().to_string();
    let mut broker = Program::new("devbroker").args(&["--addr", &address, "--dir", &data]).start()?;
    broker.wait_for_line("devbroker listens on", SOON).await?;
    let world = World::around(Former { address, _broker: broker, folder })?;
    for name in ["state", "audit.log", "tasks.json"] {
        let (from, to) = (world.broker.folder.path().join(name), world.path(name));
        assert!(Command::new("cp").arg("-a").args([&from, &to]).status().unwrap().success(), "{name}");
    }
    Ok(world)
}

#[tokio::test]
async fn what_each_released_version_left_goes_on_with_todays_binaries() -> Outcome {
    for version in RELEASED {
        let world = world(version).await?;
        let before = fs::read_to_string(world.audit_log_path())?;
        assert_eq!(before.lines().count(), EVENTS, "{version}");
        let log = world.audit_log_path().display().to_string();
        let verified = async || {
            let ran = world.taskctl(&["audit", "verify", &log]).await?;
            assert_eq!(ran.code, Some(0), "{version}: {ran:?}");
            Ok::<_, harness::Error>(ran.stdout)
        };
        assert!(verified().await?.contains("5 lines: 0 damaged, 0 repeated, 0 out of order"), "{version}");
        for group in ["audit-service", "notification-service"] {
            let offsets = world.offsets(group).await?;
            assert!(offsets.is_released() && offsets.position() == Some(RECORDS), "{version}: {group}");
        }

        // The API has its tasks, and publishes what waited.
        let (_service, api) = world.start_api().await?;
        let tasks: Value = serde_json::from_str(&fs::read_to_string(world.path("tasks.json"))?).unwrap();
        let tasks = tasks["items"].as_array().unwrap();
        assert_eq!(tasks.len(), 5, "{version}");
        for task in tasks {
            let path = format!("/tasks/{}", task["id"].as_str().unwrap());
            assert_eq!(
                api.call(Method::GET, &path, None).await?,
                (StatusCode::OK, task.clone()),
                "{version}"
            );
        }
        api.delivered().await?;
        let mut consumers = world.start_consumers()?;
        for group in ["audit-service", "notification-service"] {
            world.committed(group, RECORDS + WAITING).await?;
        }
        let after = fs::read_to_string(world.audit_log_path())?;
        assert!(after.starts_with(&before) && after.lines().count() == EVENTS + 2, "{version}: {after}");
        for title in ["waits for Kafka", "waits, too"] {
            let notified = format!("NOTIFICATION: New task created - '{title}'");
            consumers[0].wait_for_line(&notified, SOON).await?;
        }
        let history = consumers[0].history();
        let notified = history.iter().filter(|line| line.contains("NOTIFICATION: ")).count();
        assert_eq!(notified, 2, "{version}: nothing is notified again: {history:?}");

        // Changes go on with the versions that tasks had.
        let renamed = tasks.iter().find(|task| task["title"] == "renamed").unwrap();
        assert_eq!(api.complete(renamed).await?["version"], 3, "{version}");
        world.committed("audit-service", RECORDS + WAITING + 1).await?;

        // The dead letters are there, and the DLQ processor was done with them. What ended without a line behind the last
        // one of the audit log may have gone there once more: the index of 0.1.0 is made again from the log.
        let dead = world.taskctl(&["dlq", "list", "--format", "json"]).await?;
        let letters: Value = serde_json::from_str(&dead.stdout).unwrap();
        let letters: Vec<_> = letters.as_array().unwrap().iter().map(|of| of["group"].clone()).collect();
        assert!(
            letters.iter().filter(|group| *group == "notification-service").count() == 1,
            "{version}: {dead:?}"
        );
        assert!((2..=3).contains(&letters.len()), "{version}: {dead:?}");
        let done = world.offsets_in("dlq-processor", harness::DLQ).await?.position();
        assert!(done >= Some(2), "{version}: {done:?}");

        // All is read again, and the log knows it.
        for consumer in &mut consumers {
            assert!(consumer.terminate(SOON).await?.success(), "{version}");
        }
        let reset = ["offsets", "reset", "audit-service", "--to", "earliest", "--execute"];
        let is_reset = async || Ok((world.taskctl(&reset).await?.code == Some(0)).then_some(()));
        eventually("the reset", SOON, is_reset).await?;
        consumers[1].restart()?;
        world.committed("audit-service", RECORDS + WAITING + 1).await?;
        assert!(verified().await?.contains("8 lines: 0 damaged, 0 repeated, 0 out of order"), "{version}");
    }
    Ok(())
}
