//! Opening a connection: connecting, negotiating and logging in, in one time limit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::sasl::{Password, Sasl, SaslMechanism};
use super::scram::{Exchange, Hash};
use super::{CONNECT_TIMEOUT, Kafka, KafkaError, REQUEST_TIMEOUT, counts};

/// Passwords that are derived at one time: a broker that asks for the most work does not take the threads that others
/// need for their disks.
static DERIVATIONS: Semaphore = Semaphore::const_new(1);

/// From this version on the login follows as Kafka's own requests.
const SASL_HANDSHAKE: i16 = 1;
/// Of a broker's own words in an error, so many characters are shown.
const MAX_SHOWN: usize = 300;

/// Opens a connection to one IP address of the broker `address`, and logs in where that is configured.
pub(super) async fn open(
    ip: SocketAddr,
    address: &Arc<str>,
    kafka: &Kafka,
) -> Result<Connection, KafkaError> {
    let open = async {
        let mut connection = Connection::open(ip, address, &kafka.client_id, kafka.tls.as_ref()).await?;
        if let Some(sasl) = &kafka.sasl {
            let lifetime = sasl.log_in(&mut connection).await?;
            connection.set_logged_in(lifetime);
        }
        Ok(connection)
    };
    let opened = timeout(CONNECT_TIMEOUT, open).await;
    counts::connected(matches!(opened, Ok(Ok(_))));
    let name = format!("connect to {address}");
    opened.unwrap_or(Err(KafkaError::Timeout { call: name, after: CONNECT_TIMEOUT }))
}

/// Until when a broker takes requests of a login, where it limits that.
type Expiry = Option<Instant>;

impl Sasl {
    /// Logs in on a connection that was just opened.
    async fn log_in(&self, connection: &mut Connection) -> Result<Expiry, KafkaError> {
        let mechanism = self.mechanism.name();
        let name = match self.username.as_str() {
            "" => format!("log in with {mechanism}"),
            username => format!("log in as {username} with {mechanism}"),
        };
        let refused = |connection: &Connection, why: &str| KafkaError::LoginRefused {
            call: format!("{name} at {}", connection.address()),
            reason: why.chars().take(MAX_SHOWN).collect(),
        };
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = connection.call_as(&name, SASL_HANDSHAKE, &handshake, REQUEST_TIMEOUT).await?;
        let offered: Vec<_> = answer.mechanisms.iter().map(|offered| offered.as_str()).collect();
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(ResponseError::IllegalSaslState) => {
                return Err(refused(
                    connection,
                    "this listener expects no login: unset KAFKA_SASL_USERNAME, or use the port of a SASL listener",
                ));
            }
            Some(ResponseError::UnsupportedSaslMechanism) if offered.is_empty() => {
                return Err(refused(
                    connection,
                    "the broker has no SASL mechanism enabled: use the port of a SASL listener, or unset KAFKA_SASL_USERNAME",
                ));
            }
            Some(ResponseError::UnsupportedSaslMechanism) => {
                let offered = offered.join(", ");
                let why = format!("the broker offers {offered}: set KAFKA_SASL_MECHANISM to one of them");
                return Err(refused(connection, &why));
            }
            Some(error) => return Err(refused(connection, &error.to_string())),
        }
        self.authenticate(connection, &name).await?.map_err(|why| refused(connection, &why))
    }

    /// Proves who this is. The inner error is a refusal, by the broker or of the broker.
    async fn authenticate(
        &self,
        connection: &mut Connection,
        name: &str,
    ) -> Result<Result<Expiry, String>, KafkaError> {
        let secret = self.secret.clone();
        let read = spawn_blocking(move || secret.read()).await;
        let Password(secret) = match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(secret) => secret,
            Err(why) => return Ok(Err(format!("the secret cannot be read: {why}"))),
        };
        let mut turn = Turn { connection, name };
        let message = match self.mechanism {
            SaslMechanism::Plain => plain(&self.username, &secret),
            SaslMechanism::OauthBearer => bearer(&secret),
            SaslMechanism::ScramSha256 => return turn.scram(Hash::Sha256, &self.username, secret).await,
            SaslMechanism::ScramSha512 => return turn.scram(Hash::Sha512, &self.username, secret).await,
        };
        let Ok(message) = message else { return Ok(message.map(|_| None)) };
        let (answer, expiry) = match turn.send(message).await? {
            Ok(answered) => answered,
            Err(why) => return Ok(Err(why)),
        };
        // With OAUTHBEARER, a refusal is an answer that wants an answer.
        Ok(match answer.is_empty() {
            true => Ok(expiry),
            false => Err(format!("the broker refuses it: {}", String::from_utf8_lossy(&answer))),
        })
    }
}

fn plain(username: &str, password: &str) -> Result<String, String> {
    match username.contains('\0') || password.contains('\0') {
        true => Err("user and password cannot have a NUL character".to_owned()),
        false => Ok(format!("\0{username}\0{password}")),
    }
}

fn bearer(token: &str) -> Result<String, String> {
    let token = token.trim();
    match token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
        true => Err("the token is empty, or has characters that no token has".to_owned()),
        false => Ok(format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}")),
    }
}

/// One message after the other on a connection.
struct Turn<'a> {
    connection: &'a mut Connection,
    name: &'a str,
}

impl Turn<'_> {
    async fn scram(
        &mut self,
        hash: Hash,
        username: &str,
        password: String,
    ) -> Result<Result<Expiry, String>, KafkaError> {
        let exchange = Exchange::new(hash, username);
        let challenge = match self.send(exchange.first()).await? {
            Ok((challenge, _)) => challenge,
            Err(why) => return Ok(Err(why)),
        };
        // The broker says how much there is to compute.
        let permit = DERIVATIONS.acquire().await;
        let derive = move || {
            let _permit = permit;
            exchange.last(&password, &challenge)
        };
        let proof = spawn_blocking(derive).await;
        let (last, expected) = match proof.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(proof) => proof,
            Err(why) => return Ok(Err(why)),
        };
        Ok(match self.send(last).await? {
            Ok((signature, expiry)) => expected.verify(&signature).map(|()| expiry),
            Err(why) => Err(why),
        })
    }

    async fn send(&mut self, message: String) -> Result<Result<(bytes::Bytes, Expiry), String>, KafkaError> {
        let sent = Instant::now();
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into_bytes().into());
        let answer = self.connection.call(self.name, &request).await?;
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            let words = answer.error_message.map(|message| message.to_string());
            return Ok(Err(words.filter(|words| !words.is_empty()).unwrap_or_else(|| error.to_string())));
        }
        let lifetime = u64::try_from(answer.session_lifetime_ms).ok().filter(|lifetime| *lifetime > 0);
        // None where it is further ahead than a clock goes.
        let expiry = lifetime.and_then(|lifetime| sent.checked_add(usable(Duration::from_millis(lifetime))));
        Ok(Ok((answer.auth_bytes, expiry)))
    }
}

/// How much of a session is used. A broker ends a connection at the first request after its session (KIP-368), and a
/// request that is under way counts as one: Kafka's own clients log in again after some 85 to 95 %.
fn usable(lifetime: Duration) -> Duration {
    lifetime.mul_f32(0.8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_would_end_a_message_early_is_refused() {
        assert_eq!(plain("u", "p").as_deref(), Ok("\0u\0p"));
        assert!(plain("u\0", "p").is_err() && plain("u", "p\0x").is_err());
        assert_eq!(bearer("a.b.c \r").as_deref(), Ok("n,,\u{1}auth=Bearer a.b.c\u{1}\u{1}"));
        assert!(bearer("a\u{1}b").is_err() && bearer("").is_err() && bearer("a b").is_err());
    }
}
