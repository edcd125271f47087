//! What is done in the background: retention, compaction, syncs, and what is over in time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::api::transactions;
use crate::clock::now_ms;
use crate::log::compaction::{self, Trigger};
use crate::log::partition::Partition;
use crate::log::retention;
use crate::shared::Shared;
use crate::stop::stopped;

/// A power cut may take offsets that were committed within this time.
const OFFSETS_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How exactly session, rebalance and transaction time-outs are kept.
const GROUP_SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Retention and compaction, until `stop`.
pub(crate) async fn keep_clean(shared: Arc<Shared>, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => shared.clean().await,
            () = stopped(&mut stop) => return,
        }
    }
}

/// Syncs committed offsets, drops group members that went silent and ends transactions that
/// nobody else does, until `stop`.
pub(crate) async fn keep_groups(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut sync = tokio::time::interval(OFFSETS_SYNC_INTERVAL);
    let mut sweep = tokio::time::interval(GROUP_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = sync.tick() => shared.sync_offsets().await,
            _ = sweep.tick() => {
                shared.groups.sweep(Instant::now());
                transactions::sweep(&shared).await;
            }
            () = stopped(&mut stop) => return,
        }
    }
}

impl Shared {
    /// Makes committed offsets survive a power cut.
    pub(crate) async fn sync_offsets(self: &Arc<Self>) {
        let shared = self.clone();
        let synced = tokio::task::spawn_blocking(move || shared.groups.sync_offsets()).await;
        if let Ok(Err(error)) = synced {
            log::error!("cannot sync the committed offsets: {error}");
        }
    }

    /// One round of retention and compaction over all partitions.
    async fn clean(self: &Arc<Self>) {
        for topic in self.topics.all() {
            for partition in topic.partitions() {
                let name = format!("{}-{}", partition.topic, partition.index);
                if let Err(error) = self.clean_partition(partition.clone()).await
                    && !partition.is_deleted()
                {
                    log::error!("cannot clean {name}: {error}");
                }
            }
        }
    }

    async fn clean_partition(&self, partition: Arc<Partition>) -> io::Result<()> {
        if retention::should_roll(&partition, now_ms()) {
            self.writer.roll(partition.clone()).await?;
        }
        let work = move || {
            retention::enforce(&partition, now_ms())?;
            compaction::compact(&partition, Trigger::Due, now_ms()).map(drop)
        };
        tokio::task::spawn_blocking(work).await?
    }
}
