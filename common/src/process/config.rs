//! Flags and environment variables that several services share, under the same names.
//!
//! A service flattens the groups that it needs into its own `clap` arguments.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, FromArgMatches};

use super::log_levels::LogLevels;
use super::log_line::LogFormat;
use super::security_args::KafkaSecurity;
use crate::kafka::Kafka;
use crate::offsets::MAX_LEASE_MS;

/// How to reach Kafka.
#[derive(Debug, Clone, Args)]
pub struct KafkaArgs {
    /// Kafka brokers to ask first: host:port, several with commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "localhost:30092", value_delimiter = ',', value_parser = host_port)]
    pub kafka_bootstrap_servers: Vec<String>,
    /// How connections to them are secured.
    #[command(flatten)]
    pub security: KafkaSecurity,
}

impl KafkaArgs {
    /// A connection factory that calls itself `client_id` to the broker.
    pub fn kafka(&self, client_id: &str) -> Kafka {
        let KafkaSecurity { sasl, tls } = self.security.clone();
        Kafka::new(self.kafka_bootstrap_servers.clone(), client_id).with_sasl(sasl).with_tls(tls)
    }
}

/// The names of the topics, no two of which are the same: a service would read what it writes, for ever.
#[derive(Debug, Clone)]
pub struct TopicArgs {
    /// Topic of the task events
    pub task_events_topic: String,
    /// Compacted topic of claims and commits
    pub offsets_topic: String,
    /// Topic of the events that could not be handled
    pub dlq_topic: String,
}

/// The same as flags, before they are compared.
#[derive(Debug, Args)]
struct TopicFlags {
    /// Topic of the task events
    #[arg(long, env = "TASK_EVENTS_TOPIC", default_value = "task-events", value_parser = topic_name)]
    task_events_topic: String,
    /// Compacted topic of claims and commits
    #[arg(long, env = "OFFSETS_TOPIC", default_value = "task-events-offsets", value_parser = topic_name)]
    offsets_topic: String,
    /// Topic of the events that could not be handled
    #[arg(long, env = "DLQ_TOPIC", default_value = "task-events-dlq", value_parser = topic_name)]
    dlq_topic: String,
}

impl FromArgMatches for TopicArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let TopicFlags { task_events_topic, offsets_topic, dlq_topic } =
            TopicFlags::from_arg_matches(matches)?;
        let names = [
            ("TASK_EVENTS_TOPIC", &task_events_topic),
            ("OFFSETS_TOPIC", &offsets_topic),
            ("DLQ_TOPIC", &dlq_topic),
        ];
        for (at, (one, name)) in names.iter().enumerate() {
            if let Some((other, _)) = names.iter().skip(at + 1).find(|(_, other)| other == name) {
                let why = format!("{one} and {other} are both '{name}': each needs a topic of its own\n");
                return Err(clap::Error::raw(ErrorKind::ValueValidation, why));
            }
        }
        Ok(Self { task_events_topic, offsets_topic, dlq_topic })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for TopicArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        TopicFlags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        TopicFlags::augment_args_for_update(command)
    }
}

/// Where a service keeps its state.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// Folder of durable state; each service has a folder of its own below it
    #[arg(long, env = "STATE_DIR", default_value = "./data")]
    pub state_dir: PathBuf,
}

/// What a service logs, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Least level that is logged: off, error, warn, info, debug or trace; with others for modules, as
    /// info,task_api::relay=debug,rskafka=warn
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_parser = clap::value_parser!(LogLevels))]
    pub log_level: LogLevels,
    /// Form of a log line
    #[arg(long, env = "LOG_FORMAT", default_value = "text", ignore_case = true, value_enum)]
    pub log_format: LogFormat,
}

/// How a consumer owns its partitions.
#[derive(Debug, Clone, Args)]
pub struct LeaseArgs {
    /// Milliseconds without a sign of life after which another instance takes over
    #[arg(long, env = "LEASE_MS", default_value = "10000", value_parser = clap::value_parser!(u64).range(300..=MAX_LEASE_MS))]
    pub lease_ms: u64,
}

impl LeaseArgs {
    /// The lease as a duration.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// A value parser for host:port: a name, an IPv4 address, or an IPv6 address in brackets.
pub fn host_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    let wrong = |why: &str| Err(format!("'{text}' is not host:port: {why}"));
    if text.is_empty() {
        return wrong("it is empty, perhaps by a comma too many");
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return wrong(&format!("leave '{scheme}://' out, as in localhost:9092"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong("the port is missing, as in localhost:9092");
    };
    let bare = match host.strip_prefix('[') {
        Some(rest) => match rest.strip_suffix(']') {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            _ => return wrong("what is in brackets is no IPv6 address"),
        },
        None if host.contains(':') => return wrong("put an IPv6 address in brackets, as in [::1]:9092"),
        None => host,
    };
    if bare.is_empty() {
        return wrong("the host is missing");
    }
    if bare.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#,;".contains(c)) {
        return wrong("the host has a character that no name has");
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => wrong("the port is not a number from 1 to 65535"),
    }
}

/// Characters of a topic's name in Kafka, at most.
pub const MAX_TOPIC_NAME: usize = 249;

/// A value parser for a topic's name.
pub fn topic_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty()
        || text.len() > MAX_TOPIC_NAME
        || text == "."
        || text == ".."
        || !text.chars().all(legal)
    {
        return Err(format!("'{text}' is not a topic name: 1 to {MAX_TOPIC_NAME} of a-z A-Z 0-9 . _ -"));
    }
    Ok(text.to_owned())
}

/// A consumer group's name: no slash, since it is a part of the keys of the offsets topic.
pub fn group_name(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.len() > 200
        || text.starts_with('.')
        || text.contains('/')
        || text.contains(char::is_control)
    {
        return Err(format!(
            "'{text}' is not a group name: 1 to 200 characters, no slash or control character, no leading dot"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::command_line::one_line;
    use super::*;
    use crate::properties::All;

    fn refused(args: &[&str]) -> String {
        let error = All::try_parse_from(std::iter::once(&"x").chain(args)).unwrap_err();
        let line = one_line(&error, &All::command());
        assert!(!line.contains(char::is_control), "{line:?}");
        line
    }

    #[test]
    fn several_brokers_are_separated_by_commas() {
        let args = All::try_parse_from(["x", "--kafka-bootstrap-servers", "a:1, b:2"]).unwrap();
        assert_eq!(args.kafka.kafka_bootstrap_servers, ["a:1", "b:2"]);
    }

    #[test]
    fn an_address_that_is_none_says_what_is_wrong_with_it() {
        for good in
            ["a:1", " kafka.svc.cluster.local:9092 ", "127.0.0.1:65535", "[::1]:9092", "[fe80::1]:9092"]
        {
            assert_eq!(host_port(good), Ok(good.trim().to_owned()));
        }
        for (bad, why) in [
            ("", "empty"),
            ("kafka", "port is missing"),
            ("kafka:", "port is not a number"),
            ("kafka:0", "port is not a number"),
            ("kafka:70000", "port is not a number"),
            ("kafka:9092/", "port is not a number"),
            (":9092", "host is missing"),
            ("http://kafka:9092", "leave 'http://' out"),
            ("SASL_PLAINTEXT://kafka:9092", "leave 'SASL_PLAINTEXT://' out"),
            ("::1:9092", "brackets"),
            ("[::g]:9092", "no IPv6 address"),
            ("a b:9092", "a character"),
            ("user@kafka:9092", "a character"),
        ] {
            let error = host_port(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(refused(&["--kafka-bootstrap-servers", "a:1,"]).contains("a comma too many"));
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_variable() {
        assert!(refused(&["--kafka-bootstrap-servers", "nonsense"]).contains("KAFKA_BOOTSTRAP_SERVERS"));
        assert!(refused(&["--kafka-bootstrap-servers", "a\u{1b}[2J:1"]).contains("KAFKA_BOOTSTRAP_SERVERS"));
        assert!(refused(&["--kafka-bootstrap-servers", "kafka://a:1"]).contains("leave 'kafka://' out"));
        assert!(refused(&["--lease-ms", "soon"]).contains("LEASE_MS"));
        assert!(refused(&["--lease-ms", "0"]).contains("LEASE_MS"));
        assert!(refused(&["--log-level", "loud"]).contains("LOG_LEVEL"));
        assert!(refused(&["--log-level", "loud"]).contains("debug or trace"));
        assert!(refused(&["--log-level", "info,a=loud"]).contains("LOG_LEVEL"));
        for flags in [
            ["--dlq-topic", "t", "--task-events-topic", "t"],
            ["--dlq-topic", "t", "--offsets-topic", "t"],
            ["--dlq-topic", "task-events", "--offsets-topic", "t"],
        ] {
            assert!(refused(&flags).contains("DLQ_TOPIC"));
        }
        assert!(refused(&["--log-format", "xml"]).contains("LOG_FORMAT"));
        assert!(refused(&["--offsets-topic", "a b"]).contains("OFFSETS_TOPIC"));
        assert!(refused(&["--unknown"]).contains("--unknown"));
    }
}
