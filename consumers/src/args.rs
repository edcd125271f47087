//! Flags and environment variables of the three services.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use task_events::config::{KafkaArgs, LeaseArgs, LogArgs, StateArgs, TopicArgs, group_name};
use task_events::http_client::Url;
use task_events::networks::Networks;
use task_events::registry_args::RegistryArgs;
use task_events::services::{AUDIT, DLQ_PROCESSOR, NOTIFICATION};
use task_events::url_arg::{UrlInFile, UrlOf};
use task_events::version::version;

use crate::audit::{AuditError, Limits, WitnessSettings};
use crate::webhook::Config;

/// What all three take.
#[derive(Debug, Clone, Args)]
pub struct ConsumerArgs {
    /// How to reach Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// How to reach the Schema Registry.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The names of the topics.
    #[command(flatten)]
    pub topics: TopicArgs,
    /// Where durable state is kept.
    #[command(flatten)]
    pub state: StateArgs,
    /// How partitions are owned.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
    /// Address of /healthz, /readyz and /metrics, as host:port; off unless set
    #[arg(long, env = "HEALTH_ADDR", value_parser = address)]
    pub health_addr: Option<SocketAddr>,
}

/// Writes a notification to stdout, or sends a webhook, for each new and each completed task.
///
/// Consumer of task events, with a consumer group and a state folder of its own.
#[derive(Debug, Clone, Parser)]
#[command(name = NOTIFICATION, version = version())]
pub struct NotificationArgs {
    /// What a notification is: a line on stdout, or a signed POST to WEBHOOK_URL
    #[arg(long, env = "NOTIFIER", default_value = "log", ignore_case = true, value_enum,
          requires_ifs = [("webhook", "webhook_address"), ("webhook", "webhook_secret_file")])]
    pub notifier: Notifier,
    /// Where webhooks go.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Consumer group
    #[arg(long, env = "GROUP", default_value = NOTIFICATION, value_parser = group_name)]
    pub group: String,
    /// What all services take.
    #[command(flatten)]
    pub common: ConsumerArgs,
}

/// What a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Notifier {
    /// A line on stdout
    Log,
    /// A signed POST, as Standard Webhooks has it
    Webhook,
}

/// Where webhooks go, and how.
#[derive(Debug, Clone, Args)]
pub struct WebhookArgs {
    /// Where webhooks go: an https or http address
    #[arg(long, env = "WEBHOOK_URL", value_name = "URL", hide_env_values = true, value_parser = UrlOf("WEBHOOK_URL"), group = "webhook_address")]
    pub webhook_url: Option<Url>,
    /// File that holds that address
    #[arg(long, env = "WEBHOOK_URL_FILE", value_name = "FILE", value_parser = UrlInFile("WEBHOOK_URL_FILE"), group = "webhook_address")]
    pub webhook_url_file: Option<Url>,
    /// CAs that may have signed the certificate of an https address, in PEM: a file, or a folder of *.crt and *.pem. By
    /// default, the system's
    #[arg(long, env = "WEBHOOK_CA_FILE", value_name = "FILE", requires = "webhook_address")]
    pub webhook_ca_file: Option<PathBuf>,
    /// File of the secrets that sign, whsec_ and base64, a line each; all of them sign, so that one can be replaced; read
    /// again when it changes
    #[arg(long, env = "WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Tries of one webhook, over ever longer times, before its event goes to the DLQ
    #[arg(long, env = "WEBHOOK_TRIES", value_name = "N", default_value = "9")]
    pub webhook_tries: NonZero<u32>,
    /// Internal networks that may be called, as 10.0.0.0/8, with commas; without one, only addresses of the internet
    #[arg(long, env = "WEBHOOK_ALLOWED_NETWORKS", default_value = "", hide_default_value = true, value_parser = Networks::parse)]
    pub webhook_allowed_networks: Networks,
}

impl WebhookArgs {
    /// The webhooks and the file of their secrets, if they are configured.
    pub fn config(&self) -> Option<(Config, PathBuf)> {
        let config = Config {
            url: self.webhook_url.clone().or(self.webhook_url_file.clone())?,
            ca: self.webhook_ca_file.clone(),
            allowed: self.webhook_allowed_networks.clone(),
            tries: self.webhook_tries,
        };
        Some((config, self.webhook_secret_file.clone()?))
    }
}

/// Writes every task event to an audit log, each exactly once and in the topic's order.
///
/// The log is the truth: offsets and dedup state follow it.
#[derive(Debug, Clone, Parser)]
#[command(name = AUDIT, version = version())]
pub struct AuditArgs {
    /// Consumer group; a second audit log is a second group
    #[arg(long, env = "GROUP", default_value = AUDIT, value_parser = group_name)]
    pub group: String,
    /// The audit log, one JSON object a line; its folder must exist
    #[arg(long, env = "AUDIT_LOG_PATH", default_value = "audit.log")]
    pub audit_log_path: PathBuf,
    /// When the log is sealed into a segment.
    #[command(flatten)]
    pub segments: SegmentArgs,
    /// File with the Ed25519 key (PEM, made by `taskctl audit keygen`) that signs a tree over the log's lines; no tree unless set
    #[arg(long, env = "AUDIT_KEY_FILE")]
    pub audit_key_file: Option<PathBuf>,
    /// Who cosigns the tree.
    #[command(flatten)]
    pub witness: WitnessArgs,
    /// What all services take.
    #[command(flatten)]
    pub common: ConsumerArgs,
}

/// A witness that cosigns the tree over the audit log.
#[derive(Debug, Clone, Args)]
pub struct WitnessArgs {
    /// Witness (c2sp.org/tlog-witness) that cosigns the tree: https://host/prefix or http://host:port/prefix; none unless set
    #[arg(long, env = "AUDIT_WITNESS_URL", value_name = "URL", hide_env_values = true, value_parser = UrlOf("AUDIT_WITNESS_URL"), group = "witness_address", requires_all = ["audit_key_file", "audit_witness_key_file"])]
    audit_witness_url: Option<Url>,
    /// File that holds that address
    #[arg(long, env = "AUDIT_WITNESS_URL_FILE", value_name = "FILE", value_parser = UrlInFile("AUDIT_WITNESS_URL_FILE"), group = "witness_address", requires_all = ["audit_key_file", "audit_witness_key_file"])]
    audit_witness_url_file: Option<Url>,
    /// File with the witness's public key, NAME+ID+KEY
    #[arg(long, env = "AUDIT_WITNESS_KEY_FILE", requires = "witness_address")]
    audit_witness_key_file: Option<PathBuf>,
    /// CAs of an https witness: a file in PEM, or a folder; the system's unless set
    #[arg(long, env = "AUDIT_WITNESS_CA_FILE", requires = "witness_address")]
    audit_witness_ca_file: Option<PathBuf>,
}

impl WitnessArgs {
    /// The witness, if there is one. Blocks.
    pub fn settings(self) -> Result<Option<WitnessSettings>, AuditError> {
        let url = self.audit_witness_url.or(self.audit_witness_url_file);
        let Some((url, key)) = url.zip(self.audit_witness_key_file) else { return Ok(None) };
        WitnessSettings::load(url, &key, self.audit_witness_ca_file).map(Some)
    }
}

/// When the audit log is sealed.
#[derive(Debug, Clone, Copy, Args)]
pub struct SegmentArgs {
    /// Seal the audit log into a segment when it has this many bytes; by size never unless set
    #[arg(long, env = "AUDIT_SEGMENT_BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub audit_segment_bytes: Option<u64>,
    /// Seal the audit log when its first line is this many seconds old; by age never unless set
    #[arg(long, env = "AUDIT_SEGMENT_AGE_S", value_parser = clap::value_parser!(u64).range(1..))]
    pub audit_segment_age_s: Option<u64>,
}

impl SegmentArgs {
    /// The same as limits.
    pub fn limits(&self) -> Limits {
        Limits { bytes: self.audit_segment_bytes, age: self.audit_segment_age_s.map(Duration::from_secs) }
    }
}

/// Logs the events that a consumer could not handle, and counts them by group and error.
#[derive(Debug, Clone, Parser)]
#[command(name = DLQ_PROCESSOR, version = version())]
pub struct DlqArgs {
    /// Consumer group
    #[arg(long, env = "GROUP", default_value = DLQ_PROCESSOR, value_parser = group_name)]
    pub group: String,
    /// What all services take.
    #[command(flatten)]
    pub common: ConsumerArgs,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("'{text}' is not host:port: {error}"))?;
    found.next().ok_or_else(|| format!("'{text}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn defaults_are_those_of_the_contract() {
        let audit = AuditArgs::try_parse_from(["x"]).unwrap();
        assert_eq!((audit.group.as_str(), audit.audit_log_path), ("audit-service", "audit.log".into()));
        assert_eq!(audit.common.health_addr, None);
        assert_eq!(NotificationArgs::try_parse_from(["x"]).unwrap().group, "notification-service");
        assert_eq!(DlqArgs::try_parse_from(["x"]).unwrap().group, "dlq-processor");
        for command in [NotificationArgs::command(), AuditArgs::command(), DlqArgs::command()] {
            command.debug_assert();
        }
    }

    fn url_file(url: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{url}\n")).unwrap();
        file
    }

    #[test]
    fn webhooks_need_a_url_and_secrets() {
        let parse = |args: &[&str]| NotificationArgs::try_parse_from([&["x"], args].concat());
        assert!(parse(&[]).unwrap().webhook.config().is_none());
        for args in [
            &["--notifier", "webhook"][..],
            &["--notifier", "webhook", "--webhook-url", "http://a/"],
            &["--notifier", "webhook", "--webhook-secret-file", "f"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let args = ["--notifier", "webhook", "--webhook-url", "http://a/", "--webhook-secret-file", "f"];
        assert_eq!(parse(&args).unwrap().webhook.config().unwrap().0.tries.get(), 9);

        let file = url_file("http://b/hush");
        let file = ["--webhook-url-file", file.path().to_str().unwrap()];
        let with_file = [&args[..2], &file, &args[4..]].concat();
        assert_eq!(parse(&with_file).unwrap().webhook.config().unwrap().0.url.host(), "b");
        let both = parse(&[&args[..], &file].concat()).unwrap_err().to_string();
        assert!(both.contains("--webhook-url-file") && !both.contains("hush"), "{both}");
    }

    #[test]
    fn a_witness_needs_a_url_a_key_and_a_tree() {
        let parse = |args: &[&str]| AuditArgs::try_parse_from([&["x"], args].concat());
        let (url, key) = (["--audit-witness-url", "http://a/b"], ["--audit-witness-key-file", "f"]);
        let tree = ["--audit-key-file", "f"];
        assert!(parse(&[url, key, tree].concat()).is_ok());
        let file = url_file("http://b/c");
        let file = ["--audit-witness-url-file", file.path().to_str().unwrap()];
        let with_file = parse(&[file, key, tree].concat()).unwrap();
        assert_eq!(with_file.witness.audit_witness_url_file.unwrap().host(), "b");
        assert!(parse(&[file, key].concat()).is_err() && parse(&[file, url, key, tree].concat()).is_err());
        for args in [
            &[url, key].concat()[..],
            &[url, tree].concat(),
            &[key, tree].concat(),
            &["--audit-witness-ca-file", "f"],
            &[&["--audit-witness-url", "https://w.example:99999/"][..], &key, &tree].concat(),
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let secret = ["--audit-witness-url", "https://me:hush@w.example/"];
        let refused = parse(&[secret, key, tree].concat()).unwrap_err().to_string();
        assert!(refused.contains("AUDIT_WITNESS_URL") && !refused.contains("hush"), "{refused}");
    }

    #[test]
    fn bad_values_are_refused() {
        assert!(DlqArgs::try_parse_from(["x", "--group", "a/b"]).is_err());
        assert!(DlqArgs::try_parse_from(["x", "--health-addr", "8080"]).is_err());
        assert!(DlqArgs::try_parse_from(["x", "--health-addr", "localhost:0"]).is_ok());
    }
}
