//! Brokers: how connections to them are secured; whether each address that was configured, and each that a broker
//! advertises, answers from here; and quotas, which slow services down.

use chrono::{TimeDelta, Utc};
use task_events::error_code::{Code, Coded as _};
use task_events::kafka::{Kafka, KafkaError};

use super::findings::Findings;
use crate::Context;

/// A certificate that ends sooner should have been renewed: Strimzi does so 30 days before, cert-manager after two
/// thirds of its time.
const RENEWAL: TimeDelta = TimeDelta::days(14);

/// Whether any broker answers.
pub(super) async fn examine(context: &Context, findings: &mut Findings) -> bool {
    security(&context.kafka, findings);
    let bootstrap = context.kafka.bootstrap();
    for address in bootstrap.split(',') {
        probe(&context.kafka, "bootstrap address", address, findings).await;
    }
    let brokers = match context.kafka.brokers().await {
        Ok(brokers) => brokers,
        Err(error) => {
            let remedy = remedy(&error).unwrap_or_else(|| {
                "start Kafka, or set KAFKA_BOOTSTRAP_SERVERS to brokers that can be reached from here"
                    .to_owned()
            });
            findings.fail("brokers", error, remedy);
            return false;
        }
    };
    for broker in &brokers {
        probe(&context.kafka, &format!("broker {}", broker.id), &broker.address, findings).await;
    }
    quotas(&context.kafka, findings).await;
    true
}

/// TLS and the certificate that this process shows.
fn security(kafka: &Kafka, findings: &mut Findings) {
    let login = if kafka.logs_in() { "with a login" } else { "without a login" };
    let Some(tls) = kafka.tls() else {
        let is_loopback = |address: &str| {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            host == "localhost" || host == "[::1]" || host.starts_with("127.")
        };
        let found = format!("in clear text, {login}");
        return match kafka.bootstrap().split(',').all(is_loopback) {
            true => findings.ok("connections to Kafka", format!("{found}, on this machine")),
            false => findings.warn(
                "connections to Kafka",
                found,
                "whoever is on the network can read and change what is sent: use a listener with TLS, and set KAFKA_SSL_CA_FILE",
            ),
        };
    };
    let end = match tls.identity_valid_until() {
        None => return findings.ok("connections to Kafka", format!("with TLS, {login}")),
        Some(Ok(end)) => end,
        Some(Err(why)) => return findings.fail("KAFKA_SSL_CERTIFICATE_FILE", why, "mount or renew it"),
    };
    let (now, day) = (Utc::now(), end.format("%Y-%m-%d"));
    if end <= now {
        findings.fail("KAFKA_SSL_CERTIFICATE_FILE", format!("it has expired on {day}"), "renew it");
    } else if end - now < RENEWAL {
        let found = format!("it expires on {day}");
        findings.warn(
            "KAFKA_SSL_CERTIFICATE_FILE",
            found,
            "renew it: whatever renews it has not done so yet",
        );
    } else {
        let found = format!("with TLS, {login}, with a certificate that is valid until {day}");
        findings.ok("connections to Kafka", found);
    }
}

/// Where a certificate or a login is refused, its page says what to do.
fn remedy(error: &KafkaError) -> Option<String> {
    let code = error.code();
    matches!(code, Code::KafkaTls | Code::KafkaLogin).then(|| format!("taskctl explain {}", code.as_str()))
}

async fn probe(kafka: &Kafka, what: &str, address: &str, findings: &mut Findings) {
    let subject = format!("{what} {address}");
    match kafka.probe(address).await {
        Ok(probe) if probe.fetches_by_id => findings.ok(subject, "it answers"),
        Ok(_) => findings.warn(
            subject,
            "it answers, and is older than Kafka 3.1: topics are read by name, so that one that is created again is noticed late",
            "update Kafka",
        ),
        Err(error) => {
            let remedy = remedy(&error).unwrap_or_else(|| {
                "start it, take it out of KAFKA_BOOTSTRAP_SERVERS, or correct advertised.listeners: services connect to each broker by the address that it advertises".to_owned()
            });
            findings.fail(subject, error, remedy);
        }
    }
}

async fn quotas(kafka: &Kafka, findings: &mut Findings) {
    match kafka.quotas().await {
        Ok(quotas) if quotas.is_empty() => findings.ok("client quotas", "none"),
        Ok(quotas) => {
            for quota in quotas {
                findings.warn(
                    format!("client quota {}", quota.entity),
                    format!("{} = {}", quota.key, quota.value),
                    "events are delayed, not lost, while a client exceeds its quota: raise it if lag grows",
                );
            }
        }
        Err(error) => findings.warn(
            "client quotas",
            format!("cannot be seen: {error}"),
            "grant DescribeConfigs on the cluster to see them; a broker without quotas need not know the call",
        ),
    }
}
