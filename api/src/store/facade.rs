//! The store as requests and the relay use it, whichever it is.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use task_events::database::{DatabaseError, DatabaseUrl, Session};
use task_events::metrics::Durations;
use tokio::sync::watch;
use uuid::Uuid;

use super::Embedded;
use super::delivery::{Delivered, OutboxEntry, OutboxState, PublishedTopic};
use super::failure::StoreError;
use super::mark;
use super::moved::Moved;
use super::mutation::{Mutation, Outcome};
use super::outbox::OutboxScan;
use super::postgres::{Closing, Postgres, TurnGuard};
use super::query::{Page, Query};
use crate::event_format::EventFormat;
use crate::task::Task;

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Backend);

#[derive(Debug, Clone)]
enum Backend {
    Embedded(Embedded),
    Postgres(Postgres),
}

/// The right to publish the outbox: it ends when it is lost, and is given back when this is dropped, unless something
/// [is in flight](Self::leave_in_flight) then.
#[derive(Debug)]
pub struct Turn(Option<TurnGuard>);

impl Turn {
    /// Ends when another replica may publish. The embedded store has no other.
    pub async fn lost(&mut self) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(guard) => guard.lost().await,
        }
    }

    /// Something that was sent has no answer when this is dropped: another replica may publish once the lease has run
    /// out, and not before.
    pub fn leave_in_flight(&mut self) {
        if let Some(guard) = &mut self.0 {
            guard.leave_in_flight();
        }
    }
}

impl From<Embedded> for Store {
    fn from(embedded: Embedded) -> Self {
        Self(Backend::Embedded(embedded))
    }
}

impl Store {
    /// Opens the embedded store in the folder, or makes it. Blocks. The handle is the writer's thread, which ends
    /// when all clones of the store are dropped.
    pub fn open(dir: &Path) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        let (embedded, writer) = Embedded::open(dir)?;
        Ok((embedded.into(), writer))
    }

    /// Whether the folder holds an embedded store.
    pub fn is_in(dir: &Path) -> bool {
        dir.join("tasks.redb").exists()
    }

    /// Where its tasks are, if it was moved into a database. Blocks.
    pub fn moved(dir: &Path) -> Result<Option<Moved>, StoreError> {
        mark::find(dir)
    }

    /// Connects to the database that keeps the tasks, whose schema is brought up to date where `migrates`. To be
    /// called in the runtime that its tasks are to run in, which end when all clones of the store are dropped.
    pub async fn connect(url: &DatabaseUrl, migrates: bool) -> Result<(Self, Closing), DatabaseError> {
        let (store, closing) = Self::start(url).await?;
        store.open_database(migrates, async |_| Ok(())).await?;
        Ok((store, closing))
    }

    /// The same without connecting: all that is asked is refused until [`open_database`](Self::open_database) has
    /// succeeded.
    pub async fn start(url: &DatabaseUrl) -> Result<(Self, Closing), DatabaseError> {
        let (postgres, closing) = Postgres::start(url).await?;
        Ok((Self(Backend::Postgres(postgres)), closing))
    }

    /// Connects to the database, if it is one, whose schema is brought up to date where `migrates`. Before anything is
    /// written there, `check` may refuse it.
    pub async fn open_database(
        &self,
        migrates: bool,
        check: impl AsyncFnOnce(&Session) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
        match &self.0 {
            Backend::Embedded(_) => Ok(()),
            Backend::Postgres(store) => store.open(migrates, check).await,
        }
    }

    /// Whether other replicas may have the same tasks.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Backend::Postgres(_))
    }

    /// Has the events of later changes encoded so: as JSON, unless this is called before the first of them.
    pub fn encode_events_as(&self, format: EventFormat) {
        match &self.0 {
            Backend::Embedded(store) => store.encode_events_as(format),
            Backend::Postgres(store) => store.encode_events_as(format),
        }
    }

    /// Makes a change. When this returns [`Outcome::Done`], change and events are on disk.
    pub async fn mutate(&self, mutation: Mutation) -> Result<Outcome, StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.mutate(mutation).await,
            Backend::Postgres(store) => store.mutate(mutation).await,
        }
    }

    /// One task.
    pub async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.task(id).await,
            Backend::Postgres(store) => store.task(id).await,
        }
    }

    /// Up to `limit` tasks, after the task `after` if given, which need not be there any more.
    pub async fn list(
        &self,
        query: impl Into<Query>,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.list(query, after, limit).await,
            Backend::Postgres(store) => store.list(query.into(), after, limit).await,
        }
    }

    /// Waits until this process may publish the outbox: at once in the embedded store, with a database when no other
    /// replica does.
    pub async fn turn(&self) -> Turn {
        match &self.0 {
            Backend::Embedded(_) => Turn(None),
            Backend::Postgres(store) => Turn(Some(store.turn().await)),
        }
    }

    /// Whether this process may still publish: what it holds of the outbox is valid for longer than an instant.
    pub fn may_publish(&self) -> bool {
        match &self.0 {
            Backend::Embedded(_) => true,
            Backend::Postgres(store) => store.may_publish(),
        }
    }

    /// Takes delivered events out of the outbox. Returns when that is on disk.
    pub async fn delivered(&self, delivered: Delivered) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.delivered(delivered).await,
            Backend::Postgres(store) => store.delivered(delivered, false).await,
        }
    }

    /// The same for deliveries that nothing depends on: they are written with the next changes, or a moment later,
    /// or when somebody [hurries](Self::hurry).
    pub async fn delivered_with_others(&self, delivered: Delivered) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.delivered_with_others(delivered).await,
            Backend::Postgres(store) => store.delivered(delivered, true).await,
        }
    }

    /// Has deliveries written at once that wait for changes. In the database none waits.
    pub fn hurry(&self) {
        if let Backend::Embedded(store) = &self.0 {
            store.hurry();
        }
    }

    /// Notes the topic and the partitions that events go to from now on. Positions in another topic are
    /// forgotten. Returns when that, and whatever was delivered before, is on disk.
    pub async fn publish_to(&self, topic: PublishedTopic) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.publish_to(topic).await,
            Backend::Postgres(store) => store.publish_to(topic).await,
        }
    }

    /// What is in the outbox, and word of what comes. With a database, the sequence number is that of the last event
    /// which this process holds for publishing, and others' events are counted once a second.
    pub fn outbox(&self) -> watch::Receiver<OutboxState> {
        match &self.0 {
            Backend::Embedded(store) => store.outbox(),
            Backend::Postgres(store) => store.outbox(),
        }
    }

    /// Events that are known to be in the topic; with a database, those of this process since its start.
    pub fn sent_events(&self) -> u64 {
        match &self.0 {
            Backend::Embedded(store) => {
                let outbox = *store.outbox().borrow();
                outbox.last_seq.saturating_sub(outbox.waiting)
            }
            Backend::Postgres(store) => store.sent_events(),
        }
    }

    /// Looks at the entries from sequence number `from` on, at most `limit`, and returns those that wait and are
    /// wanted, by sequence number and task. An entry that cannot be read does not hide those after it. With a
    /// database: of those that this process holds for publishing.
    pub async fn outbox_scan<F>(&self, from: u64, limit: usize, wanted: F) -> Result<OutboxScan, StoreError>
    where
        F: FnMut(u64, Uuid) -> bool + Send + 'static,
    {
        match &self.0 {
            Backend::Embedded(store) => store.outbox_scan(from, limit, wanted).await,
            Backend::Postgres(store) => Ok(store.outbox_scan(from, limit, wanted)),
        }
    }

    /// Whether a scan up to that number has seen all events of a partition that wait. With a database there may be more
    /// than this process holds.
    pub fn has_scanned_all(&self, partition: i32, below: u64) -> bool {
        match &self.0 {
            Backend::Embedded(_) => true,
            Backend::Postgres(store) => store.has_all(partition, below),
        }
    }

    /// The first events in the outbox behind `seq`, at most `limit`. One that cannot be read stays there, is
    /// reported, and hides none of those after it.
    pub async fn outbox_after(&self, seq: u64, limit: usize) -> Result<Vec<Arc<OutboxEntry>>, StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.outbox_after(seq, limit).await,
            Backend::Postgres(store) => store.outbox_after(seq, limit).await,
        }
    }

    /// The events in the outbox that have to do with an id (of an event, a task or a request), and whether all of
    /// it was looked at: a long outbox is not, nor are more events found than can be shown.
    pub async fn outbox_about(&self, id: Uuid) -> Result<(Vec<Arc<OutboxEntry>>, bool), StoreError> {
        match &self.0 {
            Backend::Embedded(store) => store.outbox_about(id).await,
            Backend::Postgres(store) => store.outbox_about(id).await,
        }
    }

    /// How long the oldest event has waited; zero where none waits, `None` where the disk does not say in time.
    pub async fn oldest_age(&self) -> Option<Duration> {
        match &self.0 {
            Backend::Embedded(store) => store.oldest_age().await,
            Backend::Postgres(store) => store.oldest_age().await,
        }
    }

    /// For each partition that was ever written to: the offset behind the last acknowledged event.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        match &self.0 {
            Backend::Embedded(store) => store.positions(),
            Backend::Postgres(store) => store.positions(),
        }
    }

    /// The topic that the positions are about.
    pub fn published_topic(&self) -> Option<PublishedTopic> {
        match &self.0 {
            Backend::Embedded(store) => store.published_topic(),
            Backend::Postgres(store) => store.published_topic(),
        }
    }

    /// Groups that were put on disk since the start: under load far fewer than changes.
    pub fn commits(&self) -> u64 {
        match &self.0 {
            Backend::Embedded(store) => store.commits(),
            Backend::Postgres(store) => store.commits(),
        }
    }

    /// How long each of them took: one write and one fdatasync, or one transaction.
    pub fn appends(&self) -> Durations {
        match &self.0 {
            Backend::Embedded(store) => store.appends(),
            Backend::Postgres(store) => store.appends(),
        }
    }

    /// Whether the store takes changes; if not, why. Also where the disk does not answer.
    pub fn failure(&self) -> Option<String> {
        match &self.0 {
            Backend::Embedded(store) => store.failure(),
            Backend::Postgres(store) => store.failure(),
        }
    }

    /// Why this replica does not publish, where it is not for Kafka or another replica.
    pub fn publishing_failure(&self) -> Option<String> {
        match &self.0 {
            Backend::Embedded(_) => None,
            Backend::Postgres(store) => store.publishing_failure(),
        }
    }

    /// How many stored values were found to be unreadable since the start.
    pub fn unreadable_values(&self) -> usize {
        match &self.0 {
            Backend::Embedded(store) => store.unreadable_values(),
            Backend::Postgres(store) => store.unreadable_values(),
        }
    }
}
