//! Notices that Kafka, having been away, is there again, so that no call waits on for what can no longer
//! come.
//!
//! A request or its answer may be lost with the network, and only the call's time-out tells; so does a
//! connection attempt wait for longer and longer until it is tried anew. Kafka may be back long before. A
//! call that waits for longer than usual therefore asks the brokers beside it, each time through a
//! connection of its own. When they answer after they did not, what is on its way gets a little time still;
//! what is not answered then is given up, and the caller tries again with what it knows how to do.
//!
//! A broker that answers others all the while, but not this call, is not away: then the time-out counts.

use std::time::Duration;

use kafka_protocol::messages::ApiVersionsRequest;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Kafka;
use super::wire::Connection;

/// A call that waits longer than this asks whether Kafka is there.
const USUAL: Duration = Duration::from_secs(1);
/// Time for a connection to be accepted, and for an answer on it. Both are short for a broker that is there,
/// and nothing is lost by asking in vain.
const ACCEPTED: Duration = Duration::from_millis(500);
const ANSWERED: Duration = Duration::from_secs(1);
/// How soon a broker that is away is asked again, and one that is there.
const AGAIN_AWAY: Duration = Duration::from_millis(100);
const AGAIN_THERE: Duration = Duration::from_secs(1);
/// That it was away is known for so long after it was last asked.
const KNOWN: Duration = Duration::from_secs(3);
/// Time for what is on its way, once Kafka is there again.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// The same for a produce, which has to be looked for when it is given up.
pub(super) const PRODUCE_GRACE: Duration = Duration::from_millis(750);

const API_VERSIONS: i16 = 0;

/// What the calls of one process have found out together.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// When Kafka last did not answer. Held by the one call that asks.
    away: Mutex<Option<Instant>>,
    /// How often it came back.
    returns: watch::Sender<u64>,
}

impl Kafka {
    /// Ends when Kafka came back during the wait, and had `grace` to answer what it was asked before.
    pub(super) async fn returned(&self, grace: Duration) {
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

    /// Whether any of the brokers answers. No login is needed for what is asked.
    async fn answers(&self) -> bool {
        for address in self.bootstrap.iter() {
            let Ok(Ok(mut connection)) = timeout(ACCEPTED, Connection::connect(address, self)).await else {
                continue;
            };
            let request = ApiVersionsRequest::default();
            let asked = timeout(ANSWERED, connection.exchange(API_VERSIONS, &request)).await;
            if matches!(asked, Ok(Ok(_))) {
                return true;
            }
        }
        false
    }
}
