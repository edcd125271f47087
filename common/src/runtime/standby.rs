//! Waits until nobody is in the way of a claim.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::claims::{Before, Candidate, Sight, Verdict, verdict};
use super::handler::Service;
use super::status::Role;
use super::trouble::Trouble;
use super::twin::take_new_id;
use super::worker::Worker;
use crate::kafka::KafkaError;
use crate::offsets::{Slot, View};

impl<S: Service> Worker<S> {
    /// Reads the offsets topic to its end, and judges.
    pub(super) async fn look(&mut self) -> Result<Verdict, KafkaError> {
        self.shared.offsets.catch_up().await?;
        let view = self.shared.offsets.view();
        let view = view.borrow();
        self.own.started(&view);
        // Before this process claims anything: afterwards it would find itself.
        self.shared.membership.veterans(&view, &self.slot);
        self.keep_what_counts(&view);
        let config = &self.shared.config;
        let now = Instant::now();
        let sight = self.sight(&view);
        let since = match self.seen {
            Some((known, since)) if known == sight => since,
            _ => now,
        };
        self.seen = Some((sight, since));
        let candidate = Candidate {
            service: &config.service,
            instance_id: config.identity.id(),
            lease: config.lease,
            own: &self.own,
            roster: &self.shared.roster(&view, now),
            since,
            before: match (self.reached, self.stood_by_in) {
                (Some(_), _) => Before::Owner,
                (None, Some(life)) if life != view.lives => Before::Standby,
                _ => Before::Nothing,
            },
        };
        Ok(verdict(&view, &self.slot, &candidate, now))
    }

    /// What the ownership before had done, as far as it counts by what the topic says now.
    pub(super) fn keep_what_counts(&mut self, view: &View) {
        if let Some(done) = self.unreleased.take_if(|done| done.incarnation() != view.lives) {
            self.reached = Some(done.commit().position());
        }
        let state = view.slot(&self.slot);
        // Its claim was removed from the topic, or somebody has committed since.
        let is_owned = state.is_some_and(|state| state.owner().is_some());
        self.unreleased.take_if(|done| !is_owned || !done.is_latest(view, &self.slot));
        self.reached.take_if(|_| state.is_some_and(|state| state.last_commit().is_some()));
    }

    fn sight(&self, view: &View) -> Sight {
        let state = view.slot(&self.slot);
        let token = state.and_then(|state| state.owner()).map(|owner| owner.token);
        let is_released = state.is_some_and(|state| state.is_released());
        (view.lives, token, is_released, state.and_then(|state| state.released_to()))
    }

    /// Returns when this instance may claim: nobody owns the slot, the owner released it or was this very
    /// instance, or it has been silent for its lease.
    pub(super) async fn standby(&mut self, blocked: &mut Trouble) -> Result<(), KafkaError> {
        let mut view = self.shared.offsets.view();
        let mut logged_owner = None;
        let mut refused = Trouble::new(&self.shared.status, self.slot.partition, "service");
        loop {
            let until = match self.look().await? {
                Verdict::Claim => return Ok(()),
                Verdict::Twin => {
                    take_new_id(&self.shared.config.identity).await;
                    continue;
                }
                Verdict::OtherService { service, slot } => {
                    let group = &self.slot.group;
                    let hint = self.shared.config.foreign_group_hint.as_deref();
                    refused.report(&format!(
                        "{}: group {group} belongs to {service}, which claimed {slot}: one group, one service; {}",
                        self.slot,
                        hint.unwrap_or("use another group")
                    ));
                    None
                }
                Verdict::Wait { owner, until } => {
                    let name = format!("{} ({})", owner.claim.host, owner.claim.instance_id);
                    if logged_owner != Some(owner.token) {
                        let (Slot { group, topic, partition }, token) = (&self.slot, owner.token);
                        log::info!(
                            group, topic, partition, token;
                            "standby for {}: {name} owns it with token {token}", self.slot
                        );
                        logged_owner = Some(owner.token);
                    }
                    self.stood_by_in = Some(self.shared.offsets.view().borrow().lives);
                    self.set_role(Role::Standby { owner: name });
                    self.lost_part.compare(&self.shared, &self.slot);
                    Some(until)
                }
                Verdict::Defer { to, until } => {
                    let to = to.map_or_else(|| "nobody".to_owned(), |to| format!("instance {to}"));
                    self.set_role(Role::Standby {
                        owner: format!("nobody now; it is to be claimed by {to}"),
                    });
                    Some(until)
                }
            };
            blocked.over(&format!("{} has reached Kafka", self.slot));
            self.until_changed(&mut view, until).await?;
        }
    }

    /// Returns on the first of: another claim, a release, the end of the owner's lease or of the wait.
    async fn until_changed(
        &self,
        view: &mut tokio::sync::watch::Receiver<View>,
        until: Option<Instant>,
    ) -> Result<(), KafkaError> {
        /// A refused instance looks again after this time.
        const REFUSED: Duration = Duration::from_secs(5);
        let waits_for = self.seen.as_ref().filter(|_| until.is_some()).map(|(sight, _)| *sight);
        let until = until.unwrap_or_else(|| Instant::now() + REFUSED);
        let changed = async {
            loop {
                {
                    let view = view.borrow_and_update();
                    if let Some(failure) = &view.failure {
                        return Err(failure.clone());
                    }
                    let state = view.slot(&self.slot);
                    if let Some(position) = state.and_then(|state| state.position()) {
                        self.shared.status.set_position(self.slot.partition, position);
                    }
                    if waits_for.is_some_and(|waits_for| waits_for != self.sight(&view)) {
                        return Ok(());
                    }
                }
                if view.changed().await.is_err() {
                    return Err(KafkaError::failed("follow the offsets topic", "the reader has stopped"));
                }
            }
        };
        timeout_at(until, changed).await.unwrap_or(Ok(()))
    }
}
