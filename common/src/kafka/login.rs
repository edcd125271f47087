//! Opening a connection: connecting, negotiating and logging in, in one time limit.

use std::net::SocketAddr;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rsasl::config::SASLConfig;
use rsasl::prelude::{Mechname, SASLClient};
use tokio::time::timeout;

use super::connection::Connection;
use super::sasl::Sasl;
use super::{CONNECT_TIMEOUT, Kafka, KafkaError, REQUEST_TIMEOUT, counts};

/// From this version on the login follows as Kafka's own requests.
const SASL_HANDSHAKE: i16 = 1;

/// Opens a connection to one IP address of the broker `address`, and logs in where that is configured.
pub(super) async fn open(
    ip: SocketAddr,
    address: &Arc<str>,
    kafka: &Kafka,
) -> Result<Connection, KafkaError> {
    let open = async {
        let mut connection = Connection::open(ip, address, &kafka.client_id).await?;
        if let Some(sasl) = &kafka.sasl {
            sasl.log_in(&mut connection).await?;
            connection.set_logged_in();
        }
        Ok(connection)
    };
    let opened = timeout(CONNECT_TIMEOUT, open).await;
    counts::connected(matches!(opened, Ok(Ok(_))));
    let name = format!("connect to {address}");
    opened.unwrap_or(Err(KafkaError::Timeout { call: name, after: CONNECT_TIMEOUT }))
}

impl Sasl {
    /// Logs in on a connection that was just opened.
    async fn log_in(&self, connection: &mut Connection) -> Result<(), KafkaError> {
        let mechanism = self.mechanism.name();
        let name = format!("log in as {} with {mechanism}", self.username);
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = connection.call_as(&name, SASL_HANDSHAKE, &handshake, REQUEST_TIMEOUT).await?;
        let offered: Vec<_> = answer.mechanisms.iter().map(|offered| offered.as_str()).collect();
        let refused =
            |why: String| Err(KafkaError::failed(format!("{name} at {}", connection.address()), why));
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(ResponseError::IllegalSaslState) => {
                return refused("this listener expects no login: unset KAFKA_SASL_USERNAME, or use the port of a SASL listener".to_owned());
            }
            Some(ResponseError::UnsupportedSaslMechanism) if offered.is_empty() => {
                return refused("the broker has no SASL mechanism enabled: use the port of a SASL listener, or unset KAFKA_SASL_USERNAME".to_owned());
            }
            Some(ResponseError::UnsupportedSaslMechanism) => {
                return refused(format!(
                    "the broker offers {}: set KAFKA_SASL_MECHANISM to one of them",
                    offered.join(", ")
                ));
            }
            Some(error) => return refused(error.to_string()),
        }

        let mut session = self.session().map_err(|error| KafkaError::failed(&name, error))?;
        let mut received = None;
        loop {
            let mut message = Vec::new();
            let state = session
                .step(received.as_deref(), &mut message)
                .map_err(|error| KafkaError::failed(&name, error))?;
            if state.has_sent_message() {
                let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
                let answer = connection.call(&name, &request).await?;
                if let Some(error) = ResponseError::try_from_code(answer.error_code) {
                    let said = answer.error_message.map(|message| message.to_string());
                    return Err(KafkaError::failed(name, said.unwrap_or_else(|| error.to_string())));
                }
                received = Some(answer.auth_bytes);
            }
            // The last step has checked that the broker knows the password, too.
            if state.is_finished() {
                return Ok(());
            }
        }
    }

    fn session(&self) -> Result<rsasl::prelude::Session, String> {
        let config = SASLConfig::with_credentials(None, self.username.clone(), self.password.0.clone());
        let config: Arc<SASLConfig> = config.map_err(|error| error.to_string())?;
        let mechanism =
            Mechname::parse(self.mechanism.name().as_bytes()).map_err(|error| error.to_string())?;
        SASLClient::new(config).start_suggested(&[mechanism]).map_err(|error| error.to_string())
    }
}
