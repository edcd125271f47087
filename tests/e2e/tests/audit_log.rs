//! What people, logrotate and backups do to the audit log of a real service: nothing is lost, nothing is there twice
//! in the log and its segments together, and nothing is committed that was written into the void.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Outcome, Result, SOON, Service, World, eventually};
use rustix::process::Signal;

const GROUP: &str = "audit-service";

/// A world, its audit service, and how many events are in the topic.
struct Audited {
    world: World,
    audit: Service,
    end: i64,
}

impl Audited {
    /// With 100 events in the log.
    async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// The same with more in the service's environment.
    async fn with(env: &[(&str, &str)]) -> Result<Self> {
        let world = World::start().await?;
        let mut program = world.program("audit-service").env("HEALTH_ADDR", "127.0.0.1:0");
        for (name, value) in env {
            program = program.env(name, value);
        }
        let audit = program.start()?;
        let mut audited = Self { world, audit, end: 0 };
        audited.events(100).await?;
        Ok(audited)
    }

    /// Writes events to the topic, and waits until they are committed.
    async fn events(&mut self, count: usize) -> Result<()> {
        self.produce(count).await?;
        self.world.committed(GROUP, self.end).await?;
        Ok(())
    }

    async fn produce(&mut self, count: usize) -> Result<()> {
        self.end = self.world.produce_events(count).await?;
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        assert!(self.audit.terminate(SOON).await?.success());
        Ok(())
    }

    fn log(&self) -> std::path::PathBuf {
        self.world.audit_log_path()
    }

    /// The offsets in the log.
    fn offsets(&self) -> Vec<i64> {
        offsets(&self.log())
    }

    /// The offsets in the segments and in the log, sorted.
    fn union(&self) -> Vec<i64> {
        let folder = self.log().parent().unwrap().to_owned();
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let of_log = paths.filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("audit") && !name.contains(".torn-")
        });
        let mut all: Vec<i64> = of_log.flat_map(|path| offsets(&path)).collect();
        all.sort_unstable();
        all
    }

    fn all(&self) -> Vec<i64> {
        (0..self.end).collect()
    }

    /// Waits until the log has every event, each once and in order.
    async fn completed(&self) -> Result<()> {
        let complete = async || Ok((self.offsets() == self.all()).then_some(()));
        eventually("the log to be completed", SOON, complete).await?;
        Ok(())
    }
}

/// Waits until the service has logged that so many times, and no more. Log lines linger, longer than the log's.
async fn tells(service: &Service, line: &str, times: usize, what: &str) -> Result<()> {
    let told = async || Ok((service.count(line) >= times).then_some(()));
    eventually(&format!("{times} lines that tell of {what}"), SOON, told).await?;
    assert_eq!(service.count(line), times, "{what}: {:?}", service.lines());
    Ok(())
}

fn offsets(log: &Path) -> Vec<i64> {
    if !log.exists() {
        return Vec::new();
    }
    // Without a line that is being written.
    let text = fs::read_to_string(log).unwrap();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = whole.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["kafka"]["offset"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_log_that_is_truncated_deleted_or_restored_while_the_service_runs_is_completed() -> Outcome {
    let mut it = Audited::start().await?;
    let log = it.log();
    let backup = it.world.path("backup");
    fs::copy(&log, &backup).unwrap();

    let hands: [(&str, &(dyn Fn() + Sync)); 4] = [
        ("> audit.log", &|| fs::write(&log, b"").unwrap()),
        ("rm audit.log", &|| fs::remove_file(&log).unwrap()),
        ("cp backup audit.log", &|| {
            fs::copy(&backup, &log).unwrap();
        }),
        ("mv backup audit.log", &|| {
            fs::copy(&backup, backup.with_extension("copy")).unwrap();
            fs::rename(backup.with_extension("copy"), &log).unwrap();
        }),
    ];
    for (times, (what, hand)) in hands.into_iter().enumerate() {
        it.events(50).await?;
        hand();
        // Also while nothing is written.
        it.completed().await?;
        tells(&it.audit, "has lost lines", times + 1, what).await?;
        it.events(50).await?;
        assert_eq!(it.offsets(), it.all(), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_renamed_or_rotated_by_sighup_goes_on_in_a_new_file() -> Outcome {
    let mut it = Audited::start().await?;
    let log = it.log();
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    it.events(50).await?;
    assert_eq!(it.offsets(), (100..150).collect::<Vec<_>>());
    // The SIGHUP that belongs to it, and one that does not.
    for (file, lines) in [("nothing to rotate", 50), ("rotated audit log", 0)] {
        it.audit.signal(Signal::HUP)?;
        it.audit.wait_for_line(file, SOON).await?;
        let rotated = async || Ok((it.offsets().len() == lines).then_some(()));
        eventually("the log to be rotated", SOON, rotated).await?;
    }
    it.events(50).await?;
    it.stop().await?;
    it.audit.restart()?;
    it.events(50).await?;
    assert_eq!(it.union(), it.all());
    assert_eq!(it.audit.count("has lost lines"), 0);
    // The group is moved back: what is in the segments is not written again.
    it.stop().await?;
    let reset = ["offsets", "reset", GROUP, "--to", "earliest", "--execute"];
    let moved = async || Ok((it.world.taskctl(&reset).await?.code == Some(0)).then_some(()));
    eventually("the group to be moved back", SOON, moved).await?;
    it.audit.restart()?;
    it.events(10).await?;
    assert_eq!(it.union(), it.all());
    Ok(())
}

#[tokio::test]
async fn logrotate_loses_nothing_with_rename_and_nothing_that_kafka_has_with_copytruncate() -> Outcome {
    if Command::new("logrotate").arg("--version").output().is_err() {
        eprintln!("logrotate is not installed, so it is not tried");
        return Ok(());
    }
    for options in ["nocreate", "create 0644", "nocreate\n compress\n delaycompress", "copytruncate"] {
        let mut it = Audited::start().await?;
        let (config, state) = (it.world.path("logrotate.conf"), it.world.path("logrotate.state"));
        let hup = format!("postrotate\n kill -HUP {}\n endscript", it.audit.id());
        // As operators have it: a service that is itself at rotating the log has no file for a moment.
        let text = format!("{} {{\n rotate 100\n missingok\n {options}\n {hup}\n}}\n", it.log().display());
        fs::write(&config, text).unwrap();
        for _ in 0..3 {
            it.produce(300).await?;
            let mut logrotate = Command::new("logrotate");
            let ran = logrotate.arg("-f").arg("-s").arg(&state).arg(&config).output().unwrap();
            assert!(ran.status.success(), "{options}: {}", String::from_utf8_lossy(&ran.stderr));
            it.events(100).await?;
        }
        let gunzip = format!("gunzip -f {}/audit.log.*.gz", it.world.path("").display());
        if options.contains("compress") {
            assert!(Command::new("sh").arg("-c").arg(gunzip).status().unwrap().success());
        }
        let complete = async || Ok((it.union() == it.all()).then_some(()));
        eventually(&format!("all events, each once, with {options:?}"), SOON, complete).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_log_restored_from_a_backup_while_the_service_was_stopped_is_completed() -> Outcome {
    let mut it = Audited::start().await?;
    let log = it.log();
    let backup = it.world.path("backup");
    fs::copy(&log, &backup).unwrap();
    it.events(100).await?;
    for (what, restore) in [("restored", true), ("missing", false)] {
        it.stop().await?;
        if restore {
            fs::copy(&backup, &log).unwrap();
        } else {
            fs::remove_file(&log).unwrap()
        }
        it.audit.restart()?;
        it.events(10).await?;
        it.completed().await?;
        assert_eq!(it.offsets(), it.all(), "{what}");
        // What is missing, and where it starts.
        tells(&it.audit, "reading again", 2, what).await?;
    }
    // The group is moved ahead by mistake: the log's own position counts.
    it.stop().await?;
    it.produce(20).await?;
    let reset = ["offsets", "reset", GROUP, "--to", "latest", "--execute"];
    let moved = async || Ok((it.world.taskctl(&reset).await?.code == Some(0)).then_some(()));
    eventually("the group to be moved ahead", SOON, moved).await?;
    it.audit.restart()?;
    it.events(10).await?;
    it.completed().await?;
    Ok(())
}

#[tokio::test]
async fn a_new_log_and_state_beside_an_old_group_have_every_event() -> Outcome {
    let mut it = Audited::start().await?;
    it.stop().await?;
    let new = it.world.instance("audit-service", "new").start()?;
    it.events(10).await?;
    let log = it.world.instance_audit_log("new");
    let complete = async || Ok((offsets(&log) == it.all()).then_some(()));
    eventually("the new log to have all", SOON, complete).await?;
    tells(&new, "new log beside an old group", 1, "a new log").await?;
    Ok(())
}

#[tokio::test]
async fn damage_is_refused_in_one_line_and_the_line_that_is_moved_out_is_read_again() -> Outcome {
    let mut it = Audited::start().await?;
    it.stop().await?;
    let text = fs::read_to_string(it.log()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let at = lines[0].len() + lines[1].len() + 2;
    lines[2] = "{\"event_id\":\"damage";
    fs::write(it.log(), lines.join("\n") + "\n").unwrap();
    let ran = it.world.program("audit-service").run(SOON).await?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let line = ran.stderr.trim_end();
    assert!(line.contains(&format!("damaged at line 3, byte {at}: ")) && line.lines().count() == 1, "{line}");
    lines.remove(2);
    fs::write(it.log(), lines.join("\n") + "\n").unwrap();
    it.audit.restart()?;
    it.events(10).await?;
    let mut all = it.offsets();
    all.sort_unstable();
    assert_eq!(all, it.all());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_rotated_after_a_kill_is_not_written_again() -> Outcome {
    let mut audited = Audited::start().await?;
    // Two rotations that no service sees, each behind events that a killed one wrote.
    for segment in ["audit.log.2", "audit.log.1"] {
        audited.audit.kill9();
        fs::rename(audited.log(), audited.log().with_file_name(segment)).unwrap();
        audited.audit.restart()?;
        audited.events(50).await?;
    }
    audited.audit.kill9();
    fs::rename(audited.log(), audited.log().with_file_name("audit.log.0")).unwrap();
    let reset = ["offsets", "reset", GROUP, "--to", "earliest", "--execute"];
    let reset = audited.world.taskctl(&reset).await?;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    audited.audit.restart()?;
    audited.events(1).await?;
    assert_eq!(audited.union(), audited.all());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_line_is_reported_once_and_shown_while_nothing_is_to_be_written() -> Outcome {
    let mut audited = Audited::start().await?;
    let url = audited.audit.health_url().await?;
    let readiness = async |status: u16, part: &str| {
        let answer = harness::http()?.get(format!("{url}/readyz")).send().await?;
        let is_status = answer.status() == status;
        Ok((is_status && answer.text().await?.contains(part)).then_some(()))
    };
    let whole = fs::metadata(audited.log()).unwrap().len();
    let mut log = fs::OpenOptions::new().append(true).open(audited.log()).unwrap();
    std::io::Write::write_all(&mut log, b"no line\n").unwrap();
    eventually("the damage in /readyz", SOON, async || readiness(503, "damaged at line 101").await).await?;
    // The log is looked at each second.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    tells(&audited.audit, "another process wrote", 1, "another process").await?;
    log.set_len(whole).unwrap();
    eventually("readiness", SOON, async || readiness(200, "").await).await?;
    audited.events(3).await?;
    assert_eq!(audited.offsets(), audited.all());
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_sealed_by_size_has_each_event_once_and_is_verified_and_exported_as_one() -> Outcome {
    let mut it = Audited::with(&[("AUDIT_SEGMENT_BYTES", "20000")]).await?;
    for round in 0..5 {
        it.events(100).await?;
        match round {
            1 => it.audit.signal(Signal::HUP)?,
            2 => it.audit.kill9(),
            _ => continue,
        }
        if round == 2 {
            it.audit.restart()?;
        }
    }
    let folder = it.log().parent().unwrap().to_owned();
    let segments = async || {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("audit-0"));
        names.sort();
        names
    };
    let names = segments().await;
    assert!(names.len() >= 5, "{names:?}");
    assert_eq!(it.union(), it.all());
    // Archived compressed, one of them.
    let packed = folder.join(&names[1]);
    assert!(Command::new("gzip").arg(&packed).status().unwrap().success());
    let log = it.log().display().to_string();
    let verified = it.world.taskctl(&["audit", "verify", &log]).await?;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.contains("600 lines: 0 damaged, 0 repeated, 0 out of order"), "{verified:?}");
    let exported = it.world.taskctl(&["audit", "export", &log, "--event-type", "task.created"]).await?;
    let lines = exported.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let offsets: Vec<i64> = lines.map(|line| line["kafka"]["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, it.all());
    Ok(())
}
