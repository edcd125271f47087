//! Asks the brokers.
//!
//! *Any broker will do.* Whoever has a question that any broker can answer asks all of them, staggered
//! ([`race`]): the one that answered last, the bootstrap addresses, and every broker that was ever
//! discovered, also when the bootstrap addresses are gone or their names no longer resolve.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::protocol::Request;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::login::open;
use super::race::race;
use super::{BoxFuture, CONNECT_TIMEOUT, Kafka, KafkaError};

/// How long an answer on an idle connection is waited for.
const IDLE_DOUBT: Duration = Duration::from_secs(1);
/// Every so many questions another broker is asked first: one that is cut off from the rest of its cluster
/// may go on answering as of old.
const ROTATION: usize = 4;
/// How long a name is looked up before the addresses that it had last are used.
const LOOKUP_TIME: Duration = Duration::from_millis(200);
/// How soon addresses that are silent are tried again, beside the attempts that are under way.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);

/// An answer, and the broker that gave it.
type Answered<R> = Result<(<R as Request>::Response, Arc<str>), KafkaError>;

impl Kafka {
    /// Brokers to ask: first the one that answered last, or from time to time another that is up, then those
    /// configured, then those discovered.
    pub(super) fn candidates(&self) -> Vec<Arc<str>> {
        let mut state = self.cluster.state();
        state.asked = state.asked.wrapping_add(1);
        let turn = state.asked.is_multiple_of(ROTATION).then_some(state.asked / ROTATION);
        let other = turn.and_then(|turn| state.live.iter().nth(turn % state.live.len().max(1)));
        let first = other.and_then(|id| state.brokers.get(id));
        let all = first.into_iter().chain(&state.answered_last).chain(self.bootstrap.iter());
        let mut seen = BTreeSet::new();
        all.chain(state.brokers.values())
            .filter(|address| seen.insert(Arc::clone(address)))
            .cloned()
            .collect()
    }

    /// Opens a connection to a broker: all addresses that its name has are tried, staggered, and again from
    /// time to time while none answers: what was sent while the network was down is lost.
    pub(super) fn connect<'a>(
        &'a self,
        address: &'a Arc<str>,
    ) -> BoxFuture<'a, Result<Connection, KafkaError>> {
        Box::pin(async move {
            let ips = self.resolve(address).await?;
            let mut rounds = JoinSet::new();
            loop {
                rounds.spawn(self.clone().try_each(ips.clone(), Arc::clone(address)));
                tokio::select! {
                    Some(Ok(outcome)) = rounds.join_next() => {
                        return outcome.map_err(|errors| first_of(errors, || format!("connect to {address}")));
                    }
                    () = sleep(CONNECT_AGAIN) => {}
                }
            }
        })
    }

    async fn try_each(self, ips: Vec<SocketAddr>, address: Arc<str>) -> Result<Connection, Vec<KafkaError>> {
        race(ips, |ip| {
            let (kafka, address) = (self.clone(), Arc::clone(&address));
            async move { open(ip, &address, &kafka).await }
        })
        .await
    }

    /// The addresses of a host:port. Where looking them up takes long or fails, those that it had last.
    async fn resolve(&self, address: &Arc<str>) -> Result<Vec<SocketAddr>, KafkaError> {
        let known = self.cluster.state().resolved.get(address).cloned();
        let lookup = timeout(CONNECT_TIMEOUT, lookup_host(address.as_ref()));
        let found = tokio::select! {
            biased;
            found = lookup => found,
            () = sleep(LOOKUP_TIME), if known.is_some() => return Ok(known.unwrap_or_default()),
        };
        let name = || format!("look up {address}");
        let found = match found {
            Ok(Ok(found)) => Ok(found.collect::<Vec<_>>()),
            Ok(Err(error)) => Err(KafkaError::failed(name(), error)),
            Err(_) => Err(KafkaError::Timeout { call: name(), after: CONNECT_TIMEOUT }),
        };
        match (found, known) {
            (Ok(ips), _) if !ips.is_empty() => {
                self.cluster.state().resolved.insert(Arc::clone(address), ips.clone());
                Ok(ips)
            }
            (_, Some(known)) => Ok(known),
            (Ok(_), None) => Err(KafkaError::failed(name(), "the name has no address")),
            (Err(error), None) => Err(error),
        }
    }

    /// Asks one broker, through an idle connection where there is one. Only for what may be asked twice: the
    /// broker may have closed an idle connection, or the network may have forgotten it.
    pub(super) async fn ask<R: Request>(
        &self,
        address: &Arc<str>,
        name: &str,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        if let Some(mut connection) = self.cluster.take_idle(address) {
            match timeout(IDLE_DOUBT, connection.call(name, request)).await {
                Ok(Ok(answer)) => {
                    self.cluster.put_idle(connection);
                    return Ok(answer);
                }
                Ok(Err(error)) => log::debug!("{error}; asking again on a new connection"),
                Err(_) => log::debug!("{name}: no answer from {address}; asking again on a new connection"),
            }
        }
        let mut connection = self.connect(address).await?;
        let answer = connection.call(name, request).await?;
        self.cluster.put_idle(connection);
        Ok(answer)
    }

    /// Asks whichever broker answers first, and says which one did.
    pub(super) fn ask_any<'a, R>(&'a self, name: &'a str, request: R) -> BoxFuture<'a, Answered<R>>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send + 'static,
    {
        Box::pin(self.race_all(name, Arc::new(request)))
    }

    async fn race_all<R>(&self, name: &str, request: Arc<R>) -> Answered<R>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send + 'static,
    {
        let won = race(self.candidates(), |address| {
            let (kafka, request, name) = (self.clone(), Arc::clone(&request), name.to_owned());
            async move {
                let answer = kafka.ask(&address, &name, &*request).await?;
                Ok((answer, address))
            }
        });
        match won.await {
            Ok((answer, address)) => {
                self.cluster.state().answered_last = Some(Arc::clone(&address));
                Ok((answer, address))
            }
            Err(errors) => Err(first_of(errors, || name.to_owned())),
        }
    }

    /// A connection to whichever broker answers first.
    pub(super) fn any_connection(&self) -> BoxFuture<'_, Result<Connection, KafkaError>> {
        Box::pin(async {
            let won = race(self.candidates(), |address| {
                let kafka = self.clone();
                async move { kafka.connect(&address).await }
            });
            won.await.map_err(|errors| first_of(errors, || "connect to Kafka".to_owned()))
        })
    }

    /// The address of a broker that was discovered.
    pub(super) fn address_of(&self, broker: i32) -> Result<Arc<str>, KafkaError> {
        let known = self.cluster.state().brokers.get(&broker).cloned();
        known.ok_or_else(|| KafkaError::failed("ask for metadata", format!("broker {broker} is not up")))
    }
}

/// The one error where all are the same or there is one; else all of them, in one line. Where a certificate or a login
/// is refused, that is why, and the others may be addresses on which nobody listens.
fn first_of(errors: Vec<KafkaError>, name: impl Fn() -> String) -> KafkaError {
    let mut distinct: Vec<KafkaError> = Vec::new();
    for error in errors {
        if !distinct.contains(&error) {
            distinct.push(error);
        }
    }
    if distinct.iter().any(KafkaError::is_of_security) {
        distinct.retain(KafkaError::is_of_security);
    }
    let all = || distinct.iter().map(KafkaError::without_code).collect::<Vec<_>>().join("; ");
    match distinct.as_slice() {
        [] => KafkaError::failed(name(), "no broker is configured"),
        [one] => one.clone(),
        [first, ..] => first.with_reason(name(), format!("no broker answers: {}", all())),
    }
}
