//! Lines that another process appends to the audit log: compared with Kafka, and not signed if Kafka contradicts them.

use std::fs;
use std::io::Write;

use audit_tree::Checkpoint;
use harness::{Event, Outcome, Result, SOON, Service, World, eventually, free_port, http};
use rustix::process::Signal;

const GROUP: &str = "audit-service";

struct Log {
    world: World,
    audit: Service,
    end: i64,
}

impl Log {
    async fn start() -> Result<Self> {
        let world = World::start().await?;
        let key = world.audit_key().await?;
        let health = format!("127.0.0.1:{}", free_port()?);
        let audit = world
            .program("audit-service")
            .env("AUDIT_KEY_FILE", key.display())
            .env("HEALTH_ADDR", &health)
            .start()?;
        Ok(Self { world, audit, end: 0 })
    }

    async fn events(&mut self, count: usize) -> Result<()> {
        self.end = self.world.produce_events(count).await?;
        self.world.committed(GROUP, self.end).await?;
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.world.audit_log_path()).unwrap().lines().map(str::to_owned).collect()
    }

    fn signed(&self) -> u64 {
        let note = fs::read_to_string(self.world.path("audit.log.tree/checkpoint")).unwrap_or_default();
        Checkpoint::read(&note).map_or(0, |checkpoint| checkpoint.size)
    }

    async fn signs(&self, size: u64) -> Result<()> {
        let is_so = async || Ok((self.signed() == size).then_some(()));
        eventually(&format!("a checkpoint of {size} lines"), SOON, is_so).await?;
        Ok(())
    }

    /// Appends a line as the service writes it, changed.
    fn append(&self, change: impl Fn(&str) -> String) {
        let line = change(self.lines().last().unwrap());
        let mut log = fs::OpenOptions::new().append(true).open(self.world.audit_log_path()).unwrap();
        writeln!(log, "{line}").unwrap();
    }
}

#[tokio::test]
async fn a_line_of_an_event_that_kafka_does_not_have_is_never_signed_and_is_named() -> Outcome {
    let mut it = Log::start().await?;
    it.events(5).await?;
    it.signs(5).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let whole = fs::read(it.world.audit_log_path())?;
    // An event that nobody sent, where the next one will be.
    let next = format!("\"offset\":{}}}}}", it.end);
    let forge = |line: &str| {
        let (event, _) = line.rsplit_once("\"offset\":").unwrap();
        format!("{}{next}", event.replacen("\"event_id\":\"0", "\"event_id\":\"1", 1))
    };
    it.append(forge);
    it.audit.restart()?;
    it.audit.wait_for_line("[TE0411]", SOON).await?;
    let place = format!("the line at byte {} of ", whole.len());
    assert!(it.audit.lines().iter().any(|line| line.contains(&place)), "{:?}", it.audit.lines());
    let url = it.audit.health_url().await?;
    let get = async |path: &str| -> Result<String> {
        Ok(http()?.get(format!("{url}/{path}")).send().await?.text().await?)
    };
    assert!(get("readyz").await?.contains(&place));
    let metrics = get("metrics").await?;
    assert!(metrics.contains("task_events_audit_tree_trouble{what=\"foreign\"} 1\n"), "{metrics}");

    // The log goes on, the tree does not; not after a restart either.
    it.events(3).await?;
    it.audit.signal(Signal::KILL)?;
    it.audit.restart()?;
    it.audit.wait_for_line("[TE0411]", SOON).await?;
    it.events(1).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    assert_eq!((it.lines().len(), it.signed()), (10, 5));
    let (log, key) = (it.world.audit_log_path().display().to_string(), it.world.path("audit.key.pub"));
    let verify = ["audit", "verify", &log, "--public-key", &key.display().to_string()];
    let said = it.world.taskctl(&verify).await?.stdout;
    assert!(said.contains("5 lines are behind its checkpoint, from audit.log:6 (byte "), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_line_that_the_service_would_write_is_signed_and_another_is_not() -> Outcome {
    let mut it = Log::start().await?;
    it.events(5).await?;
    it.signs(5).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    // As after a kill between the write and the next checkpoint: its last lines are there, and tree and index are of before.
    let log = it.world.audit_log_path();
    let folder = log.parent().unwrap().to_owned();
    let copy = it.world.path("before");
    let copied =
        std::process::Command::new("cp").arg("-a").args([&folder.join("audit.log.tree"), &copy]).status()?;
    assert!(copied.success());
    it.audit.restart()?;
    it.events(4).await?;
    it.signs(9).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    let newer = it.lines();
    fs::remove_dir_all(folder.join("audit.log.tree"))?;
    fs::rename(&copy, folder.join("audit.log.tree"))?;
    it.audit.restart()?;
    it.audit.wait_for_line("Kafka has 4 of 4 lines that were found in ", SOON).await?;
    it.signs(9).await?;
    assert!(it.audit.terminate(SOON).await?.success());
    assert_eq!(it.lines(), newer);

    // In the place of an event that waits in Kafka: that one is written all the same.
    let event = Event::created("waits").bytes();
    let offset = *it.world.produce_values(&[Some(event.as_slice())]).await?.last().unwrap();
    it.append(|line| {
        let (event, _) = line.rsplit_once("\"offset\":").unwrap();
        format!("{}\"offset\":{offset}}}}}", event.replacen("\"event_id\":\"0", "\"event_id\":\"1", 1))
    });
    it.audit.restart()?;
    it.world.committed(GROUP, offset + 1).await?;
    it.audit.wait_for_line("[TE0411]", SOON).await?;
    let said = it.audit.lines();
    assert!(said.iter().any(|line| line.contains(&format!("offset {offset} is another event"))), "{said:?}");
    assert!(it.audit.terminate(SOON).await?.success());
    assert_eq!((it.lines().len(), it.signed()), (11, 9));
    Ok(())
}
