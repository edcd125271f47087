//! Brokers: whether each address that was configured, and each that a broker advertises, answers from here; and
//! quotas, which slow services down.

use task_events::kafka::Kafka;

use super::findings::Findings;
use crate::Context;

/// Whether any broker answers.
pub(super) async fn examine(context: &Context, findings: &mut Findings) -> bool {
    let bootstrap = context.kafka.bootstrap();
    for address in bootstrap.split(',') {
        probe(&context.kafka, "bootstrap address", address, findings).await;
    }
    let brokers = match context.kafka.brokers().await {
        Ok(brokers) => brokers,
        Err(error) => {
            findings.fail(
                "brokers",
                error,
                "start Kafka, or set KAFKA_BOOTSTRAP_SERVERS to brokers that can be reached from here",
            );
            return false;
        }
    };
    for broker in &brokers {
        probe(&context.kafka, &format!("broker {}", broker.id), &broker.address, findings).await;
    }
    quotas(&context.kafka, findings).await;
    true
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
        Err(error) => findings.fail(
            subject,
            error,
            "start it, take it out of KAFKA_BOOTSTRAP_SERVERS, or correct advertised.listeners: services connect to each broker by the address that it advertises",
        ),
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
