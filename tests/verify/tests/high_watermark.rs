//! A planted bug: a reader that trusts the high watermark, as rskafka's does. An empty answer below it is taken
//! for a gap that compaction left, and it goes on at the end, past what an open transaction of another
//! producer hides. The check has to report it, and has to find nothing where it waits.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consumers::audit;
use harness::requests::Request;
use harness::{EVENTS, OFFSETS, Outcome, Result, SOON, Transaction, World, eventually, until};
use harness::{Load, LoadConfig, Script};
use task_events::event::Event;
use task_events::kafka::{Kafka, OffsetAt};
use task_events::offsets::{Claim, Commit, OffsetsLog, Slot};
use uuid::Uuid;
use verify::check::{Report, check, names};
use verify::evidence::{AuditLog, FOREIGN};
use verify::system::read_kafka;

const GROUP: &str = "audit-service";
const LIMIT: Duration = Duration::from_secs(10);

/// An audit service of a few lines.
struct Reader {
    kafka: Kafka,
    bootstrap: String,
    offsets: OffsetsLog,
    slot: Slot,
    token: i64,
    instance: Uuid,
    log: PathBuf,
    position: i64,
    trusts_the_high_watermark: bool,
}

impl Reader {
    async fn start(bootstrap: &str, log: &Path, trusts_the_high_watermark: bool) -> Self {
        let kafka = Kafka::new(vec![bootstrap.to_owned()], "planted");
        let offsets = OffsetsLog::open(&kafka, OFFSETS);
        let slot = Slot { group: GROUP.to_owned(), topic: EVENTS.to_owned(), partition: 0 };
        let instance = Uuid::new_v4();
        let token = offsets.claim(&slot, &Claim::new(instance, "here", 10_000)).await.unwrap().token;
        let bootstrap = bootstrap.to_owned();
        let log = log.to_owned();
        Self { kafka, bootstrap, offsets, slot, token, instance, log, position: 0, trusts_the_high_watermark }
    }

    async fn end(&self, at: OffsetAt) -> i64 {
        self.kafka.list_offset(EVENTS, 0, at).await.unwrap()
    }

    /// Reads once, writes what came, and commits. Returns whether all is read.
    async fn read(&mut self) -> Result<bool> {
        // Asked first: a topic that grows meanwhile is read the next time.
        let (high_watermark, stable) =
            (self.end(OffsetAt::Latest).await, self.end(OffsetAt::LastStable).await);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut is_empty = true;
        let from = self.position;
        for one in harness::read_topic(&self.bootstrap, EVENTS).await? {
            if one.offset < from || one.offset >= stable {
                continue;
            }
            is_empty = false;
            self.position = one.offset + 1;
            let event = Event::decode(one.record.value.as_deref()).unwrap();
            let at = audit::At { topic: EVENTS.into(), partition: 0, offset: one.offset };
            let time = task_events::time::format_time(chrono::Utc::now());
            file.write_all(&audit::render(&event, &time, at).unwrap()).unwrap();
        }
        if is_empty {
            self.position = if self.trusts_the_high_watermark { high_watermark } else { stable };
        }
        let commit = Commit::new(self.position, self.instance, false);
        self.offsets.commit(&self.slot, self.token, &commit, LIMIT).await.unwrap();
        Ok(is_empty && self.position >= high_watermark)
    }

    async fn read_to_the_end(&mut self) -> Result<()> {
        let start = tokio::time::Instant::now();
        while !self.read().await? {
            assert!(start.elapsed() < SOON, "the end of the topic is not reached");
        }
        Ok(())
    }
}

async fn load(world: &World, url: &str) -> Result<Vec<Request>> {
    let config = LoadConfig::new(url, 4, Some(100), Script::Random { seed: 1 });
    let before = world.topic(EVENTS).await?.len();
    let mut load = Load::start(config, true)?;
    until("some events", SOON, async || load.events() > 20).await?;
    let requests = load.finish().await?.requests;
    let events: usize =
        requests.iter().filter(|one| one.done().is_some()).map(|one| one.kind.events().len()).sum();
    assert!(events > 20, "{events} events");
    let all = async || Ok((world.topic(EVENTS).await?.len() >= before + events).then_some(()));
    eventually("all events in the topic", SOON, all).await?;
    Ok(requests)
}

async fn report(trusts_the_high_watermark: bool) -> Result<Report> {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let bootstrap = world.broker.bootstrap();
    let log = world.audit_log_path();
    let mut reader = Reader::start(&bootstrap, &log, trusts_the_high_watermark).await;
    let mut requests = load(&world, api.url()).await?;
    reader.read_to_the_end().await?;

    let mut transaction = Transaction::begin(&bootstrap, "foreign", EVENTS, 0).await?;
    transaction.send(&[&harness::Event::created(&format!("{FOREIGN}event")).bytes()]).await?;
    requests.extend(load(&world, api.url()).await?);
    reader.read().await?;
    reader.read().await?;
    transaction.commit().await?;
    requests.extend(load(&world, api.url()).await?);
    reader.read_to_the_end().await?;

    let mut evidence = read_kafka(&bootstrap, EVENTS, OFFSETS).await?;
    evidence.requests = requests;
    evidence.audit_group = GROUP.to_owned();
    evidence.audit_logs.push(AuditLog::read(&log, None).unwrap());
    Ok(check(&evidence))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_trusts_the_high_watermark_is_reported() -> Outcome {
    let report = report(true).await?;
    let found = |name: &str, text: &str| report.found(name).iter().any(|one| one.contains(text));
    assert!(found(names::LOST, "answered 2xx, not in the audit log"), "{report}");
    assert!(found(names::LOST, "another producer's, not in the audit log"), "{report}");
    assert!(found(names::AHEAD, "was never handled"), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_for_the_transaction_is_found_sound() -> Outcome {
    let report = report(false).await?;
    assert!(report.is_sound(), "{report}");
    Ok(())
}
