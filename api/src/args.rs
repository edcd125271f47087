//! Flags and environment variables of the Task API.

use clap::{ArgAction, Parser, ValueEnum};
use task_events::config::{KafkaArgs, LogArgs, StateArgs, TopicArgs};
use task_events::registry_args::RegistryArgs;
use task_events::services;

use crate::http::AllowedHosts;

/// The Task API: stores tasks and publishes their lifecycle events to Kafka
#[derive(Debug, Clone, Parser)]
#[command(name = services::API, version)]
pub struct Args {
    /// Address to listen on
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "PORT", default_value = "8000")]
    pub port: u16,
    /// Further names of this server, with commas and without ports: bound to a loopback address it answers only
    /// to loopback names and to these, bound elsewhere to any name unless this is set
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", hide_default_value = true, value_parser = AllowedHosts::parse)]
    pub allowed_hosts: AllowedHosts,
    /// How events are written: json, or avro by a schema in a Schema Registry
    #[arg(long, env = "EVENT_FORMAT", default_value = "json", ignore_case = true, value_enum,
          requires_ifs = ["avro", "AVRO", "Avro"].map(|avro| (avro, "schema_registry_url")))]
    pub event_format: EventFormatName,
    /// Whether the API registers its schema at its start; with false, it waits until `taskctl schema register` has
    #[arg(long, env = "SCHEMA_AUTO_REGISTER", default_value = "true", action = ArgAction::Set, value_name = "true|false")]
    pub schema_auto_register: bool,
    /// How to reach the Schema Registry.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How to reach Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// The names of the topics.
    #[command(flatten)]
    pub topics: TopicArgs,
    /// Where the store is.
    #[command(flatten)]
    pub state: StateArgs,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The name of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventFormatName {
    /// JSON: needs no registry
    Json,
    /// Avro in Confluent's wire format
    Avro,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avro_needs_a_registry() {
        let refused = Args::try_parse_from(["x", "--event-format", "AVRO"]).unwrap_err().to_string();
        assert!(refused.contains("--schema-registry-url"), "{refused}");
        let args = ["x", "--event-format", "Avro", "--schema-registry-url", "http://r:1"];
        assert_eq!(Args::try_parse_from(args).unwrap().event_format, EventFormatName::Avro);
        let args = Args::try_parse_from(["x", "--schema-auto-register", "false"]).unwrap();
        assert_eq!((args.event_format, args.schema_auto_register), (EventFormatName::Json, false));
    }
}
