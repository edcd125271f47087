//! Notices that what a call waits for can no longer come: another broker leads now, or Kafka was unreachable
//! and is reachable again.
//!
//! A broker that hangs takes connections and requests and answers none, and a request or its answer may be
//! lost with the network: only the call's time limit would tell. So a call that waits for longer than usual
//! asks, beside it, the brokers for the partition's leader ([`Kafka::leader_changed`]), or whether any of them
//! answers after none did ([`Kafka::returned`]). Then what is on its way gets a little time still, and what is
//! not answered then is given up; the caller tries again with what it knows how to do.
//!
//! A broker that answers others all the while, but not this call, is reachable: then the time limit counts.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{BoxFuture, Kafka};

/// A call that waits longer than this asks.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// Time for an answer: short for a broker that is reachable, and nothing is lost by asking in vain.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often the leader is asked for.
const LEADER_CHECK: Duration = Duration::from_millis(250);
/// Time for what is on its way, once Kafka is back.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// The same for a produce, which has to be looked for when it is given up.
pub(super) const PRODUCE_GRACE: Duration = Duration::from_millis(750);

impl Kafka {
    /// Ends when the partition is led by another broker than in the leader epoch `epoch`, or by the same
    /// one in a later epoch. Starts to ask after a second: for who waits for an answer of the leader.
    ///
    /// Where brokers have no leader epochs (-1), it ends when the leader is another than when it began.
    pub async fn leader_changed(&self, topic: &str, partition: i32, epoch: i32) {
        let leader_now = || async {
            let info = self.topic_within(topic, LEADER_CHECK).await.ok()?;
            let partition = info.partition(partition)?;
            Some((partition.leader?, partition.leader_epoch))
        };
        let known = self.cluster.state().leader_of(topic, partition);
        sleep(ASK_AFTER).await;
        loop {
            match leader_now().await {
                Some((_, now)) if epoch >= 0 && now > epoch => return,
                Some((leader, _)) if epoch < 0 && known.is_some_and(|known| known != leader) => return,
                _ => sleep(LEADER_CHECK).await,
            }
        }
    }

    /// Ends when Kafka came back during the wait, and had `grace` to answer what it was asked before.
    pub(super) fn returned(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut returns = self.presence.returns();
            let ask = async {
                sleep(ASK_AFTER).await;
                self.presence.ask_until_it_returns(|| self.answers()).await;
            };
            tokio::select! {
                // The sender is `presence`'s own.
                _ = returns.changed() => {}
                () = ask => {}
            }
            sleep(grace).await;
        })
    }

    /// Whether any of the brokers answers, on a new connection.
    async fn answers(&self) -> bool {
        timeout(ANSWER_TIMEOUT, self.any_connection()).await.is_ok_and(|connected| connected.is_ok())
    }
}
