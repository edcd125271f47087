//! Notices that what a call waits for can no longer come: another broker leads now, or Kafka was away and is
//! there again.
//!
//! A broker that hangs takes connections and requests and answers none, and a request or its answer may be
//! lost with the network: only the call's time limit would tell. So a call that waits for longer than usual
//! asks, beside it, the brokers for the partition's leader ([`Kafka::leader_changed`]), or whether any of them
//! answers after none did ([`Kafka::returned`]). Then what is on its way gets a little time still, and what is
//! not answered then is given up; the caller tries again with what it knows how to do.
//!
//! A broker that answers others all the while, but not this call, is not away: then the time limit counts.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{BoxFuture, Kafka};

/// A call that waits longer than this asks.
const USUAL: Duration = Duration::from_secs(1);
/// Time for an answer: short for a broker that is there, and nothing is lost by asking in vain.
const ANSWERED: Duration = Duration::from_millis(1_500);
/// How soon a broker that is away is asked again, and one that is there.
const AGAIN_AWAY: Duration = Duration::from_millis(100);
const AGAIN_THERE: Duration = Duration::from_secs(1);
/// How often the leader is asked for.
const LEADER_CHECK: Duration = Duration::from_millis(250);
/// That it was away is known for so long after it was last asked.
const KNOWN: Duration = Duration::from_secs(3);
/// Time for what is on its way, once Kafka is back.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// The same for a produce, which has to be looked for when it is given up.
pub(super) const PRODUCE_GRACE: Duration = Duration::from_millis(750);

/// What the calls of one process have found out together.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// When Kafka last did not answer. Held by the one call that asks.
    away: Mutex<Option<Instant>>,
    /// How often it came back.
    returns: watch::Sender<u64>,
}

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
        sleep(USUAL).await;
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
            let mut returns = self.presence.returns.subscribe();
            let ask = async {
                sleep(USUAL).await;
                self.ask_until_it_returns().await;
            };
            tokio::select! {
                // The sender is this value's own.
                _ = returns.changed() => {}
                () = ask => {}
            }
            sleep(grace).await;
        })
    }

    async fn ask_until_it_returns(&self) {
        let mut away = self.presence.away.lock().await;
        loop {
            let asked = Instant::now();
            if self.answers().await {
                if away.take().is_some_and(|last| asked - last < KNOWN) {
                    self.presence.returns.send_modify(|times| *times += 1);
                    return;
                }
                sleep(AGAIN_THERE).await;
            } else {
                *away = Some(Instant::now());
                sleep(AGAIN_AWAY).await;
            }
        }
    }

    /// Whether any of the brokers answers, on a new connection.
    async fn answers(&self) -> bool {
        timeout(ANSWERED, self.any_connection()).await.is_ok_and(|connected| connected.is_ok())
    }
}
