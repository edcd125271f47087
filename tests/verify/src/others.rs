//! Faults that are what others do beside the system: other producers, administrators, backup tools, logrotate.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{DLQ, EVENTS, Event, OFFSETS, Program, Service, Signal, Transaction, eventually, record};
use tokio::time::sleep;

use crate::evidence::{FOREIGN, OffsetsSaid};
use crate::lives::FirstLife;
use crate::plan::Fault;
use crate::system::{System, read_kafka};
use harness::Dice;
use harness::{Error, Result};

/// For what a healthy system does at once.
const LIMIT: Duration = Duration::from_secs(60);
/// Until what a producer sent before it was stopped has reached its broker.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// Too large for a reader that holds it whole, and quickly made.
const BOMB_BYTES: usize = 128 << 20;

/// What the others have begun and not ended.
pub(crate) struct Others {
    dice: Dice,
    events: u32,
    transaction: Option<Transaction>,
    backup: Option<Backup>,
}

/// Copies of an audit log and of its service's state.
struct Backup {
    log: PathBuf,
    state: PathBuf,
}

impl Others {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), events: 0, transaction: None, backup: None }
    }

    pub(crate) async fn begin(&mut self, system: &mut System, fault: Fault) -> Result<()> {
        match fault {
            Fault::ForeignTransaction => self.open_transaction(system, EVENTS).await?,
            Fault::ForeignBatches => self.write_batches(system).await?,
            Fault::RecreateTopic => delete_events(system).await?,
            Fault::RestoreAudit => self.back_up(system)?,
            Fault::RotateAudit => self.rotate(system)?,
            _ => {}
        }
        Ok(())
    }

    pub(crate) async fn end(&mut self, system: &mut System, fault: Fault) -> Result<()> {
        match fault {
            Fault::ForeignTransaction | Fault::ForeignBatches => self.end_transaction().await?,
            Fault::RecreateTopic => {
                let taskctl =
                    Program::new("taskctl").env("KAFKA_BOOTSTRAP_SERVERS", system.broker.bootstrap());
                let made = taskctl.args(&["topics", "create"]).run(LIMIT).await?;
                if made.code != Some(0) {
                    return Err(Error::Failed(format!("taskctl topics create: {}", made.stderr)));
                }
            }
            Fault::RestoreAudit => self.restore(system)?,
            _ => {}
        }
        Ok(())
    }

    /// An event of somebody else.
    fn event(&mut self) -> Vec<u8> {
        self.events += 1;
        Event::created(&format!("{FOREIGN}{}", self.events)).bytes()
    }

    async fn open_transaction(&mut self, system: &System, topic: &str) -> Result<()> {
        let bootstrap = system.broker.bootstrap();
        let mut transaction = Transaction::begin(&bootstrap, "foreign", topic, 0).await?;
        let (one, two) = (self.event(), self.event());
        transaction.send(&[&one, b"no event at all", &two]).await?;
        self.transaction = Some(transaction);
        Ok(())
    }

    async fn end_transaction(&mut self) -> Result<()> {
        let Some(mut transaction) = self.transaction.take() else { return Ok(()) };
        let event = self.event();
        transaction.send(&[&event]).await?;
        if self.dice.percent(50) { transaction.commit().await } else { transaction.abort().await }
    }

    /// All that this system never writes, in both topics.
    async fn write_batches(&mut self, system: &System) -> Result<()> {
        let bootstrap = system.broker.bootstrap();
        let event = self.event();
        let headers: [(&str, Option<&[u8]>); 2] = [("none", None), ("some", Some(b"thing"))];
        harness::produce_with_headers(&bootstrap, EVENTS, &event, &headers).await?;
        harness::produce_with_headers(&bootstrap, EVENTS, b"{\"poison\":", &headers).await?;
        let (one, two) = (self.event(), self.event());
        let records = [Some(one.as_slice()), None, Some(b"\xff"), Some(&two)];
        let records = records.map(|value| record(None, value)).to_vec();
        harness::produce_compressed(&bootstrap, EVENTS, records).await?;
        harness::produce_gzip_bomb(&bootstrap, EVENTS, BOMB_BYTES).await?;
        harness::produce_with_headers(&bootstrap, OFFSETS, b"junk", &headers).await?;
        harness::produce_with_headers(&bootstrap, DLQ, b"junk", &headers).await?;
        let junk = vec![record(Some(b"junk"), Some(b"junk")), record(Some(b"\xff/0/claim"), None)];
        harness::produce_compressed(&bootstrap, OFFSETS, junk).await?;
        self.open_transaction(system, OFFSETS).await
    }

    /// A backup of the moment of a kill.
    fn back_up(&mut self, system: &mut System) -> Result<()> {
        let Some((log, state)) = kill_audit(system)? else { return Ok(()) };
        let backup = Backup { log: log.with_extension("backup"), state: state.with_extension("backup") };
        // A service that was just started may have no log yet.
        fs::write(&backup.log, fs::read(&log).unwrap_or_default())
            .map_err(|error| Error::file(&backup.log, error))?;
        copy_folder(&state, &backup.state)?;
        self.backup = Some(backup);
        first_audit(system, Service::restart)
    }

    /// The log as it was; by chance the state as well.
    fn restore(&mut self, system: &mut System) -> Result<()> {
        let Some(backup) = self.backup.take() else { return Ok(()) };
        let Some((log, state)) = kill_audit(system)? else { return Ok(()) };
        system.keep_audit_lines()?;
        fs::copy(&backup.log, &log).map_err(|error| Error::file(&log, error))?;
        if self.dice.percent(50) {
            fs::remove_dir_all(&state).map_err(|error| Error::file(&state, error))?;
            copy_folder(&backup.state, &state)?;
        }
        first_audit(system, Service::restart)
    }

    /// By SIGHUP, by a rename with and without it, or by what nobody should do: a truncation.
    fn rotate(&mut self, system: &mut System) -> Result<()> {
        let how = self.dice.between(0, 3);
        let Some(log) = system.audits.first().and_then(|audit| audit.audit_log.clone()) else {
            return Ok(());
        };
        if how == 3 {
            first_audit(system, |audit| audit.pause())?;
            system.keep_audit_lines()?;
            let file = fs::OpenOptions::new().write(true).open(&log);
            let cut = file.and_then(|file| file.set_len(0));
            first_audit(system, |audit| audit.resume())?;
            return cut.map_err(|error| Error::file(&log, error));
        }
        if how > 0 {
            let mut segment = log.clone().into_os_string();
            segment.push(".1");
            fs::rename(&log, segment).map_err(|error| Error::file(&log, error))?;
        }
        if how < 2 {
            return first_audit(system, |audit| audit.signal(Signal::HUP));
        }
        Ok(())
    }
}

/// Deletes the topic of events, and keeps what it held. The API is paused meanwhile, so that nothing
/// enters the topic after it was read.
async fn delete_events(system: &mut System) -> Result<()> {
    let bootstrap = system.broker.bootstrap();
    eventually("a commit that names its topic", LIMIT, async || {
        let kafka = read_kafka(&bootstrap, EVENTS, OFFSETS).await?;
        Ok((!topic_ids(&kafka.offsets).is_empty()).then_some(()))
    })
    .await?;
    system.api.pause()?;
    sleep(IN_FLIGHT).await;
    let kafka = read_kafka(&bootstrap, EVENTS, OFFSETS).await?;
    harness::delete_topic(&bootstrap, EVENTS).await?;
    system.first_life = Some(FirstLife {
        ids: topic_ids(&kafka.offsets),
        offsets_end: kafka.offsets.last().map_or(0, |last| last.at + 1),
        topic: kafka.topic.unwrap_or_default(),
    });
    system.api.resume()
}

fn topic_ids(offsets: &[crate::evidence::OffsetsEntry]) -> std::collections::HashSet<String> {
    let ids = offsets.iter().filter_map(|entry| match &entry.said {
        OffsetsSaid::Commit { topic_id, .. } => topic_id.clone(),
        OffsetsSaid::Claim { .. } => None,
    });
    ids.collect()
}

/// Does that to the first audit service.
fn first_audit(system: &mut System, how: impl FnOnce(&mut Service) -> Result<()>) -> Result<()> {
    system.audits.first_mut().map_or(Ok(()), |audit| how(&mut audit.service))
}

/// Kills the first audit service, and returns its log and its state.
fn kill_audit(system: &mut System) -> Result<Option<(PathBuf, PathBuf)>> {
    let Some(audit) = system.audits.first_mut() else { return Ok(None) };
    audit.service.kill9();
    let paths = audit.audit_log.clone().map(|log| (log, audit.state.clone()));
    system.snapshot()?;
    Ok(paths)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = |error| Error::file(to, error);
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(|error| Error::file(from, error))? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(failed)?;
        }
    }
    Ok(())
}
