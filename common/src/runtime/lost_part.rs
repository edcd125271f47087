//! Reports it where the state of a standby lacks what this instance had committed before others went on. As an owner
//! it says so, and reads it again, when it starts.
//!
//! The service is opened beside the standby, which goes on: an open that hangs holds up no claim, is never given up, and
//! nothing is opened beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::handler::{Handler, OwnPosition, Service};
use super::own_part::suspected_loss;
use super::shared::Shared;
use super::start::has_lost;
use crate::error_code::Code;
use crate::offsets::Slot;

/// A comparison that failed is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The comparison of one partition, which is made once.
#[derive(Debug, Default)]
pub(super) struct LostPart {
    is_compared: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
    begun: Option<Instant>,
}

impl LostPart {
    /// Starts the comparison, if it was not made and is not on its way.
    pub(super) fn compare<S: Service>(&mut self, shared: &Arc<Shared<S>>, slot: &Slot) {
        let is_running = self.running.as_ref().is_some_and(|task| !task.is_finished());
        let is_recent = self.begun.is_some_and(|begun| begun.elapsed() < RETRY_AFTER);
        if self.is_compared.load(Ordering::Relaxed) || is_running || is_recent {
            return;
        }
        self.begun = Some(Instant::now());
        let (shared, slot, is_compared) = (Arc::clone(shared), slot.clone(), Arc::clone(&self.is_compared));
        self.running = Some(tokio::spawn(async move {
            is_compared.store(report(&shared, &slot).await, Ordering::Relaxed);
        }));
    }

    /// An owner compares by itself.
    pub(super) fn is_owner(&self) {
        self.is_compared.store(true, Ordering::Relaxed);
    }

    /// The comparison that is on its way, to be waited for before the service is opened again.
    pub(super) fn take(&mut self) -> Option<JoinHandle<()>> {
        self.running.take()
    }
}

impl Drop for LostPart {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}

/// Whether it could be compared.
async fn report<S: Service>(shared: &Arc<Shared<S>>, slot: &Slot) -> bool {
    let Some((committed, done)) = suspected_loss(shared, slot) else { return true };
    let Ok(handler) = shared.service.open(&slot.topic, slot.partition).await else { return false };
    let own = handler.own_position();
    let from = match own {
        // It is of another topic of this name.
        OwnPosition::At(own) if own.topic_id.zip(committed.topic_id).is_some_and(|(own, now)| own != now) => {
            return true;
        }
        OwnPosition::At(own) => own.offset,
        OwnPosition::Empty | OwnPosition::NotKept => 0,
    };
    if has_lost(own, Some(done)) {
        let Slot { group, topic, partition } = slot;
        log::error!(
            group, topic, partition, from, done;
            "{slot}: this instance had committed all below offset {done}, and its own state ends before offset {from} (lost, or restored from a backup?): it reads again from there when it owns the partition next {}",
            Code::OwnStateBehind
        );
    }
    true
}
