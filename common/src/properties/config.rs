//! Flags and variables: taken, or refused in one line.

use clap::{CommandFactory, Parser};

use crate::command_line::one_line;
use crate::config::{self, KafkaArgs, LeaseArgs, LogArgs, TopicArgs};
use crate::offsets::{Key, OffsetsRecord, Slot, parse, render_key};

/// All variables that services share.
#[derive(Debug, Parser)]
pub(crate) struct All {
    #[command(flatten)]
    pub(crate) kafka: KafkaArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Any value of any variable is taken, or refused in one line that names the variable. What is taken is
/// what its place in Kafka or in a file's name allows.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (flag, variable) in [
        ("kafka-bootstrap-servers", "KAFKA_BOOTSTRAP_SERVERS"),
        ("kafka-sasl-mechanism", "KAFKA_SASL_MECHANISM"),
        ("offsets-topic", "OFFSETS_TOPIC"),
        ("lease-ms", "LEASE_MS"),
        ("log-level", "LOG_LEVEL"),
        ("log-format", "LOG_FORMAT"),
    ] {
        match All::try_parse_from(["x", &format!("--{flag}={text}")]) {
            Ok(args) => {
                for server in &args.kafka.kafka_bootstrap_servers {
                    assert_eq!(config::host_port(server).as_ref(), Ok(server));
                    assert!(!server.contains(|c: char| c.is_whitespace() || c.is_control()), "{server:?}");
                }
                assert!((300..=3_600_000).contains(&args.lease.lease_ms));
            }
            Err(error) => {
                let line = one_line(&error, &All::command());
                assert!(line.contains(variable), "{line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
    if let Ok(name) = config::topic_name(&text) {
        assert!((1..=249).contains(&name.len()) && name.is_ascii() && !name.contains(['/', ' ', '\n']));
    }
    if let Ok(group) = config::group_name(&text) {
        // So that the keys of the offsets topic can be read again.
        let slot = Slot { group, topic: "t".to_owned(), partition: 0 };
        let key = render_key(&Key::Claim(slot.clone()));
        assert_eq!(parse(Some(&key), None), Ok(OffsetsRecord::Claim(slot, None)));
    }
}
