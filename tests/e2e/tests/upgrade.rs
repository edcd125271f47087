//! What released versions left is opened by today's binaries: tasks, events that wait, audit log and its index, dedup
//! state, offsets records and topics. `fixtures/make` writes a fixture with a version's own binaries.
//!
//! Which versions were released is what CHANGELOG.md has headings of: each has a fixture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{
    Bootstrap, Method, Outcome, Program, Result, SOON, Service, StatusCode, SteppedClock, World, eventually,
    free_port,
};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

/// Records in the topic of events: five events and one that is none; the events of two tasks wait in the API's store.
const RECORDS: i64 = 6;
const EVENTS: usize = 5;
const WAITING: i64 = 2;

/// How long the notification service knows an event.
const DEDUP_WINDOW: Duration = Duration::from_secs(8 * 86_400);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The released versions, newest first, of a changelog; or what is to be done where one of them has no fixture, a fixture is
/// of none of them, or the version of today's binaries has no heading.
fn released<'a>(
    changelog: &'a str,
    version: &str,
    fixtures: &BTreeSet<String>,
) -> std::result::Result<Vec<&'a str>, String> {
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let released: Vec<&str> = headings
        .filter_map(|heading| heading.split_whitespace().next())
        .filter(|name| *name != "Unreleased")
        .collect();
    if let Some(missing) = released.iter().find(|version| !fixtures.contains(**version)) {
        return Err(format!(
            "CHANGELOG.md has {missing}, and there is no tests/e2e/fixtures/{missing}.tar.gz: in a checkout of that version \
             `cargo build --release --workspace`, then here `tests/e2e/fixtures/make CHECKOUT/target/release target/kafka {missing}`"
        ));
    }
    if let Some(stranger) = fixtures.iter().find(|fixture| !released.contains(&fixture.as_str())) {
        return Err(format!(
            "tests/e2e/fixtures/{stranger}.tar.gz is of no version of CHANGELOG.md: it lacks `## {stranger}`"
        ));
    }
    match released.contains(&version) {
        true => Ok(released),
        false => Err(format!("Cargo.toml has version {version}, and CHANGELOG.md lacks `## {version}`")),
    }
}

/// The released versions of this checkout.
fn released_here() -> Vec<String> {
    let changelog = fs::read_to_string(fixtures().join("../../../CHANGELOG.md")).unwrap();
    let names =
        fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let fixtures = names.filter_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned)).collect();
    match released(&changelog, env!("CARGO_PKG_VERSION"), &fixtures) {
        Ok(released) => released.into_iter().map(str::to_owned).collect(),
        Err(to_do) => panic!("{to_do}"),
    }
}

#[test]
fn a_released_version_cannot_be_forgotten() {
    let log = "# Changelog\n\n## Unreleased\n\n### Added\n- x\n\n## 0.2.0 (2027-01-02)\n\n## 0.1.0\n\n- y\n";
    let fixtures = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let both = fixtures(&["0.1.0", "0.2.0"]);
    assert_eq!(released(log, "0.2.0", &both), Ok(vec!["0.2.0", "0.1.0"]));
    let forgotten = released(log, "0.2.0", &fixtures(&["0.1.0"])).unwrap_err();
    assert!(
        forgotten.contains("fixtures/0.2.0.tar.gz")
            && forgotten.contains("fixtures/make CHECKOUT/target/release target/kafka 0.2.0"),
        "{forgotten}"
    );
    let stranger = released(log, "0.2.0", &fixtures(&["0.1.0", "0.2.0", "0.3.0"])).unwrap_err();
    assert!(stranger.contains("lacks `## 0.3.0`"), "{stranger}");
    let bumped = released(log, "0.3.0", &both).unwrap_err();
    assert!(bumped.contains("Cargo.toml has version 0.3.0"), "{bumped}");
}

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
    let fixture = fixtures().join(format!("{version}.tar.gz"));
    let unpacked =
        Command::new("tar").arg("-xzf").args([&fixture, Path::new("-C"), folder.path()]).status().unwrap();
    assert!(unpacked.success(), "{}", fixture.display());
    let data = folder.path().join("broker").display().to_string();
    let mut broker = Program::new("devbroker").args(&["--addr", &address, "--dir", &data]).start()?;
    broker.wait_for_line("devbroker listens on", SOON).await?;
    let world = World::around(Former { address, _broker: broker, folder })?;
    for name in ["state", "audit.log", "tasks.json", "version.txt"] {
        let (from, to) = (world.broker.folder.path().join(name), world.path(name));
        assert!(Command::new("cp").arg("-a").args([&from, &to]).status().unwrap().success(), "{name}");
    }
    Ok(world)
}

/// A clock of the time at which the fixture was made, so that its dedup state is within its window at any date; the time
/// since then.
fn clock_of(log: &str) -> Result<(Option<SteppedClock>, Duration)> {
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let id: Uuid = last["event_id"].as_str().unwrap().parse().unwrap();
    let (seconds, _) = id.get_timestamp().unwrap().to_unix();
    // The ids were recorded before that.
    let made = UNIX_EPOCH + Duration::from_secs(seconds + 60);
    let age = SystemTime::now().duration_since(made).unwrap_or_default();
    let clock = SteppedClock::find()?;
    if let Some(clock) = &clock {
        clock.set(-i64::try_from(age.as_secs()).unwrap())?;
    }
    Ok((clock, age))
}

#[tokio::test]
async fn what_each_released_version_left_goes_on_with_todays_binaries() -> Outcome {
    for version in released_here() {
        let world = world(&version).await?;
        let made_by = fs::read_to_string(world.path("version.txt"))?;
        assert_eq!(made_by.split_whitespace().nth(1), Some(version.as_str()), "of that version: {made_by}");
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
        let (clock, age) = clock_of(&before)?;
        let notifier = world.program("notification-service");
        let notifier = clock.iter().fold(notifier, |notifier, clock| clock.on(notifier));
        let mut consumers = [notifier, world.program("audit-service"), world.program("dlq-processor")]
            .into_iter()
            .map(Program::start)
            .collect::<Result<Vec<_>>>()?;
        for group in ["audit-service", "notification-service"] {
            world.committed(group, RECORDS + WAITING).await?;
        }
        let after = fs::read_to_string(world.audit_log_path())?;
        assert!(after.starts_with(&before) && after.lines().count() == EVENTS + 2, "{version}: {after}");
        for title in ["waits for Kafka", "waits, too"] {
            let notified = format!("NOTIFICATION: New task created - '{title}'");
            consumers[0].wait_for_line(&notified, SOON).await?;
        }
        let notified = |notifier: &Service| {
            let lines = notifier.history().into_iter().filter(|line| line.contains("NOTIFICATION: "));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(notified(&consumers[0]).len(), 2, "{version}: {:?}", consumers[0].history());

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

        // All is read again: the log knows it, and so does the dedup state.
        world.committed("notification-service", RECORDS + WAITING + 1).await?;
        for consumer in &mut consumers {
            assert!(consumer.terminate(SOON).await?.success(), "{version}");
        }
        let before = notified(&consumers[0]);
        for (group, consumer) in ["notification-service", "audit-service"].into_iter().zip(&mut consumers) {
            let reset = ["offsets", "reset", group, "--to", "earliest", "--execute"];
            let is_reset = async || Ok((world.taskctl(&reset).await?.code == Some(0)).then_some(()));
            eventually("the reset", SOON, is_reset).await?;
            consumer.restart()?;
            world.committed(group, RECORDS + WAITING + 1).await?;
        }
        match clock.is_some() || age < DEDUP_WINDOW {
            true => assert_eq!(notified(&consumers[0]), before, "{version}: nothing is notified again"),
            false => {
                eprintln!("{version}: its dedup state is older than its window, and there is no other clock")
            }
        }
        assert!(verified().await?.contains("8 lines: 0 damaged, 0 repeated, 0 out of order"), "{version}");
    }
    Ok(())
}
