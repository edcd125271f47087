//! Flags and environment variables of the Task API.

use clap::Parser;
use task_events::config::{KafkaArgs, LogArgs, StateArgs, TopicArgs};

use crate::http::AllowedHosts;

/// The Task API: stores tasks and publishes their lifecycle events to Kafka
#[derive(Debug, Clone, Parser)]
#[command(name = "task-api", version)]
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
