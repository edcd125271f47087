//! One partition of one group: waits as standby, claims, and handles events as owner.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::batch::{Batch, Halt};
use super::committer::{Committer, Lease};
use super::reader::{self, ReadAhead};
use super::{
    AbortOnDrop, Backoff, Handler, HandlerError, OwnPosition, PartitionState, Said, Service, Shared,
};
use crate::kafka::{Chunk as Fetched, KafkaError, OffsetAt};
use crate::offsets::{Claimed, Commit, Slot, View};

/// Records handled between two looks at the lease.
const BATCH: usize = 500;
/// Tries to decode the same records before the partition counts as stuck.
const DECODE_TRIES: u32 = 3;
/// Time after which a stuck partition is tried again, though nobody moved its position.
const STUCK_RETRY: Duration = Duration::from_secs(60);
/// Time for the last commit, within the 5 s that a stop may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs one partition until a stop is asked for.
pub(super) async fn run<S: Service>(shared: Arc<Shared<S>>, partition: i32) {
    let slot = Slot { group: shared.config.group.clone(), topic: shared.config.topic.clone(), partition };
    let worker = Worker { shared, slot };
    let shutdown = worker.shared.shutdown.clone();
    let mut backoff = Backoff::for_kafka();
    let mut said = Said::default();
    worker.set(PartitionState::Starting);
    while !shutdown.is_requested() {
        let claimed = async {
            worker.standby().await?;
            let handler = worker.shared.service.open(&worker.slot.topic, partition).await?;
            Ok::<_, Obstacle>((worker.claim().await?, handler))
        };
        let owned = match shutdown.or(claimed).await {
            None => return,
            Some(Ok((claimed, handler))) => worker.own(claimed, handler).await.map_err(Obstacle::Kafka),
            Some(Err(obstacle)) => Err(obstacle),
        };
        match owned {
            Ok(()) => backoff = Backoff::for_kafka(),
            Err(obstacle) => {
                let why = format!("{} {obstacle}", worker.slot);
                said.warn(&why);
                worker.set(PartitionState::Blocked { why });
                if shutdown.or(sleep(backoff.next_delay())).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Why a partition cannot be owned now.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("waits for Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("cannot be opened, and is not claimed: {0}")]
    Open(#[from] HandlerError),
}

struct Worker<S> {
    shared: Arc<Shared<S>>,
    slot: Slot,
}

impl<S: Service> Worker<S> {
    fn set(&self, state: PartitionState) {
        self.shared.status.set(self.slot.partition, state);
    }

    /// Returns when this instance may claim: nobody owns the slot, the owner released it or was this very
    /// instance, or it has been silent for its lease.
    async fn standby(&self) -> Result<(), KafkaError> {
        let mut view = self.shared.offsets.view();
        let mut said_owner = None;
        loop {
            self.shared.offsets.catch_up().await?;
            let wait = match self.owner_in_the_way(&view.borrow_and_update()) {
                None => return Ok(()),
                Some(wait) => wait,
            };
            if said_owner != Some(wait.token) {
                log::info!("standby for {}: {} owns it with token {}", self.slot, wait.owner, wait.token);
                said_owner = Some(wait.token);
            }
            self.set(PartitionState::Standby { owner: wait.owner });
            // Whatever comes first: a record (a release, another claim), or the end of the owner's lease.
            let changed = view.wait_for(|view| {
                view.slot(&self.slot).is_none_or(|state| {
                    state.is_released() || state.owner().is_none_or(|owner| owner.token != wait.token)
                })
            });
            let _ = timeout_at(wait.until, changed).await;
        }
    }

    fn owner_in_the_way(&self, view: &View) -> Option<Wait> {
        let state = view.slot(&self.slot)?;
        let owner = state.owner()?;
        if state.is_released() || owner.claim.instance_id == self.shared.config.instance_id {
            return None;
        }
        let lease = Duration::from_millis(owner.claim.lease_ms);
        let now = Instant::now();
        let until = match view.silent_since(&self.slot) {
            Some(since) if now >= since + lease => return None,
            Some(since) => since + lease,
            // Out of touch with Kafka: nothing can be said of the owner's silence.
            None => now + Duration::from_millis(500),
        };
        Some(Wait {
            token: owner.token,
            owner: format!("{} ({})", owner.claim.host, owner.claim.instance_id),
            until,
        })
    }

    async fn claim(&self) -> Result<Claimed, KafkaError> {
        let config = &self.shared.config;
        self.shared.offsets.claim(&self.slot, config.instance_id, &config.host, config.lease).await
    }

    /// Handles events until a stop, or until another instance claims.
    async fn own(&self, claimed: Claimed, handler: S::Handler) -> Result<(), KafkaError> {
        let config = &self.shared.config;
        let partition = config.kafka.partition(&config.topic, self.slot.partition);
        // The topic has been read past the claim: the position is what stands there, late commits included.
        let committed =
            self.shared.offsets.view().borrow().slot(&self.slot).and_then(|state| state.position());
        let start = match start(committed, handler.own_position()) {
            Some(start) => start,
            None => partition.offset(OffsetAt::Earliest).await?,
        };
        log::info!("claimed {} with token {}, reading from offset {start}", self.slot, claimed.token);

        let (progress, progress_seen) = watch::channel(start);
        let (lease_sender, lease) = watch::channel(claimed.sent + config.lease);
        let committer = Committer {
            shared: Arc::clone(&self.shared),
            slot: self.slot.clone(),
            token: claimed.token,
            progress: progress_seen,
            lease: lease_sender,
            renewed: claimed.sent,
        };
        let (halt_sender, halt) = watch::channel(false);
        let halter =
            halt_on_claim_or_stop(Arc::clone(&self.shared), self.slot.clone(), claimed.token, halt_sender);
        let tasks = AbortOnDrop(vec![
            tokio::spawn(committer.run()).abort_handle(),
            tokio::spawn(halter).abort_handle(),
        ]);

        let mut owner = Owner {
            worker: self,
            handler,
            token: claimed.token,
            progress,
            lease,
            halt,
            high_watermark: start,
        };
        owner.set_active(start);
        let stuck = owner.run(reader::spawn(partition, start)).await;
        drop(tasks);

        let reached = *owner.progress.borrow();
        if self.is_owner(claimed.token) {
            self.release(claimed.token, reached).await;
        } else {
            log::warn!(
                "fenced: another instance has claimed {}; token {} is worth nothing now",
                self.slot,
                claimed.token
            );
        }
        if let Some(stuck) = stuck {
            self.wait_for_operator(stuck).await;
        }
        Ok(())
    }

    /// Returns when the position is another than the one where reading is stuck, or when it is worth
    /// another try. The slot is released meanwhile, so that the operator can move it.
    async fn wait_for_operator(&self, stuck: Stuck) {
        self.set(PartitionState::Blocked { why: stuck.why });
        let mut view = self.shared.offsets.view();
        let moved = view
            .wait_for(|view| view.slot(&self.slot).and_then(|state| state.position()) != Some(stuck.offset));
        let _ = self.shared.shutdown.or(timeout(STUCK_RETRY, moved)).await;
    }

    fn is_owner(&self, token: i64) -> bool {
        owns(&self.shared.offsets.view().borrow(), &self.slot, token)
    }

    async fn release(&self, token: i64, offset: i64) {
        let commit = Commit::new(offset, self.shared.config.instance_id, true);
        let release = self.shared.offsets.commit(&self.slot, token, &commit, RELEASE_TIMEOUT);
        match timeout(RELEASE_TIMEOUT, release).await.unwrap_or_else(|_| {
            Err(KafkaError::Timeout { call: "commit".to_owned(), after: RELEASE_TIMEOUT })
        }) {
            Ok(_) => log::info!("released {} at offset {offset}", self.slot),
            Err(error) => log::warn!(
                "could not release {} at offset {offset}, the next owner waits for the lease to end and repeats a little: {error}",
                self.slot
            ),
        }
    }
}

/// Records that cannot be decoded stand at this offset.
struct Stuck {
    offset: i64,
    why: String,
}

struct Wait {
    token: i64,
    owner: String,
    until: Instant,
}

/// Where to read from: the lower of the committed position and the service's own. `None`: the earliest.
fn start(committed: Option<i64>, own: OwnPosition) -> Option<i64> {
    match own {
        OwnPosition::NotKept => committed,
        OwnPosition::Empty => None,
        OwnPosition::At(own) => Some(committed.map_or(own.offset, |committed| committed.min(own.offset))),
    }
}

pub(super) fn owns(view: &View, slot: &Slot, token: i64) -> bool {
    view.slot(slot).and_then(|state| state.owner()).is_some_and(|owner| owner.token == token)
}

async fn halt_on_claim_or_stop<S>(shared: Arc<Shared<S>>, slot: Slot, token: i64, halt: watch::Sender<bool>) {
    let mut view = shared.offsets.view();
    let fenced = view.wait_for(|view| !owns(view, &slot, token));
    let _ = shared.shutdown.or(fenced).await;
    halt.send_replace(true);
}

/// An owner at work.
struct Owner<'a, S: Service> {
    worker: &'a Worker<S>,
    handler: S::Handler,
    token: i64,
    progress: watch::Sender<i64>,
    lease: Lease,
    halt: Halt,
    high_watermark: i64,
}

impl<S: Service> Owner<'_, S> {
    /// Handles what the reader brings, until halted or stuck.
    async fn run(&mut self, mut chunks: mpsc::Receiver<ReadAhead>) -> Option<Stuck> {
        let mut halted = self.halt.clone();
        let mut undecodable = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                _ = halted.wait_for(|halt| *halt) => return None,
                chunk = chunks.recv() => chunk?,
            };
            match chunk {
                ReadAhead::Chunk(fetched) => {
                    undecodable = 0;
                    self.chunk(fetched).await?;
                }
                ReadAhead::Undecodable { offset, error } => {
                    undecodable += 1;
                    if undecodable == DECODE_TRIES {
                        let (slot, group) = (&self.worker.slot, &self.worker.slot.group);
                        let why = format!(
                            "{slot} is stuck at offset {offset}: {error}; look at what wrote it, then move the group past it with `taskctl offsets reset {group} --to OFFSET --execute`"
                        );
                        log::error!("{why}");
                        return Some(Stuck { offset, why });
                    }
                }
            }
        }
    }

    /// Handles one chunk in batches. `None` when halted.
    async fn chunk(&mut self, fetched: Fetched) -> Option<()> {
        self.high_watermark = fetched.high_watermark;
        let mut left = fetched.records.as_slice();
        while !left.is_empty() {
            self.lease_is_valid().await?;
            let worker = self.worker;
            let (halt, lease) = (self.halt.clone(), self.lease.clone());
            let mut batch = Batch {
                shared: &worker.shared,
                slot: &worker.slot,
                halt: &halt,
                lease: &lease,
                handler: &mut self.handler,
            };
            let records = left.get(..BATCH).unwrap_or(left);
            let Some(outcome) = batch.handle(records).await else {
                if *self.halt.borrow() {
                    return None;
                }
                // The lease ran out before the first event.
                continue;
            };
            // The process may have been stopped for an hour with the batch in hand.
            self.lease_is_valid().await?;
            let batch = Batch {
                shared: &worker.shared,
                slot: &worker.slot,
                halt: &halt,
                lease: &lease,
                handler: &mut self.handler,
            };
            let offset = outcome.offset;
            if !batch.make_durable(&outcome).await {
                return None;
            }
            self.advance(offset);
            if *self.halt.borrow() {
                return None;
            }
            // All of the batch, unless the lease ran out in its middle.
            let taken = left.partition_point(|record| record.offset < offset);
            left = left.get(taken..).unwrap_or_default();
        }
        // Past what holds no records: batches that compaction left empty.
        self.advance(fetched.next_offset);
        Some(())
    }

    fn advance(&self, position: i64) {
        self.progress.send_if_modified(|progress| std::mem::replace(progress, position) != position);
        self.set_active(position);
    }

    fn set_active(&self, position: i64) {
        let high_watermark = self.high_watermark.max(position);
        self.worker.set(PartitionState::Active { token: self.token, position, high_watermark });
    }

    /// Returns at once while the lease is valid and this instance owns. When it has run out: waits for a
    /// renewal to be acknowledged, reads the topic to its end, and goes on if this instance still owns.
    /// `None` when not.
    async fn lease_is_valid(&mut self) -> Option<()> {
        let is_valid = |until: &Instant| Instant::now() < *until;
        if is_valid(&self.lease.borrow()) {
            return self.worker.is_owner(self.token).then_some(());
        }
        let slot = &self.worker.slot;
        log::warn!(
            "the lease of {slot} ran out without a renewal: handling nothing until Kafka acknowledges one"
        );
        self.worker.set(PartitionState::Blocked { why: format!("the lease of {slot} ran out") });
        let mut halted = self.halt.clone();
        let renewed = async {
            loop {
                self.lease.wait_for(is_valid).await.ok()?;
                if self.worker.shared.offsets.catch_up().await.is_ok() && is_valid(&self.lease.borrow()) {
                    return Some(());
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            biased;
            _ = halted.wait_for(|halt| *halt) => None,
            renewed = renewed => renewed.filter(|()| self.worker.is_owner(self.token)),
        }?;
        log::info!("the lease of {slot} is renewed, going on");
        Some(())
    }
}
