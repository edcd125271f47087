//! Flags and environment variables of the Task API.

use std::num::NonZero;
use std::path::PathBuf;

use clap::{ArgAction, Args as Group, Parser, ValueEnum};
use task_events::config::{KafkaArgs, LogArgs, StateArgs, TopicArgs};
use task_events::database::DatabaseArgs;
use task_events::http_client::Url;
use task_events::registry_args::RegistryArgs;
use task_events::services;
use task_events::tls::{Identity, Tls, TlsFiles, TlsServer, TlsVariables};
use task_events::url_arg::UrlOf;
use task_events::version::version;

use crate::access::{Access, AccessError, Issuer};
use crate::http::{AllowedHosts, AllowedOrigins, Edge, TrustedProxies};
use crate::rate_limit::RateLimiter;

/// The Task API: stores tasks and publishes their lifecycle events to Kafka
#[derive(Debug, Clone, Parser)]
#[command(name = services::API, version = version())]
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
    /// Who may call the API, and how often.
    #[command(flatten)]
    pub edge: EdgeArgs,
    /// Whether the listener speaks HTTPS.
    #[command(flatten)]
    pub https: HttpsArgs,
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
    /// The database, if replicas share one.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Whether the API brings the database's schema up to date at its start; with false, it refuses to start before
    /// `taskctl db migrate` has
    #[arg(long, env = "DATABASE_MIGRATE", default_value = "true", action = ArgAction::Set, value_name = "true|false")]
    pub database_migrate: bool,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What stands before the handlers.
#[derive(Debug, Clone, Group)]
pub struct EdgeArgs {
    /// File of the tokens that callers have, a line each, as `taskctl token create` makes it; read again when it
    /// changes. Without one, everybody may call
    #[arg(long, env = "API_TOKENS_FILE", value_name = "FILE")]
    pub api_tokens_file: Option<PathBuf>,
    /// JWK set, in a file, of an issuer whose JWTs callers have (RS256, ES256, EdDSA); read again when it changes
    #[arg(long, env = "API_JWKS_FILE", value_name = "FILE", group = "api_jwks", requires_all = ["api_jwt_issuer", "api_jwt_audience"])]
    pub api_jwks_file: Option<PathBuf>,
    /// The same at an https or http URL: fetched every 5 minutes, and at once when a JWT names a key that is not known, at
    /// most every 10 seconds
    #[arg(long, env = "API_JWKS_URL", hide_env_values = true, value_name = "URL", group = "api_jwks", value_parser = UrlOf("API_JWKS_URL"), requires_all = ["api_jwt_issuer", "api_jwt_audience"])]
    pub api_jwks_url: Option<Url>,
    /// CAs that may have signed the certificate of an https API_JWKS_URL, in PEM: a file, or a folder of *.crt and *.pem. By
    /// default, the system's
    #[arg(
        long,
        env = "API_JWKS_CA_FILE",
        value_name = "FILE",
        requires = "api_jwks_url",
        conflicts_with = "api_jwks_file"
    )]
    pub api_jwks_ca_file: Option<PathBuf>,
    /// The issuer of the JWTs: their iss
    #[arg(long, env = "API_JWT_ISSUER", value_name = "URL", requires = "api_jwks")]
    pub api_jwt_issuer: Option<String>,
    /// Whom the JWTs are for: one of their aud
    #[arg(long, env = "API_JWT_AUDIENCE", value_name = "NAME", requires = "api_jwks")]
    pub api_jwt_audience: Option<String>,
    /// Requests a second of one caller, or of one address (IPv6: /64) where callers have no identity; what is more is
    /// answered 429. Without it, there is no limit
    #[arg(long, env = "RATE_LIMIT_PER_SECOND", value_name = "N")]
    pub rate_limit_per_second: Option<NonZero<u32>>,
    /// Requests of one caller at once, after a pause [default: RATE_LIMIT_PER_SECOND]
    #[arg(long, env = "RATE_LIMIT_BURST", value_name = "N", requires = "rate_limit_per_second")]
    pub rate_limit_burst: Option<NonZero<u32>>,
    /// Proxies whose X-Forwarded-For names the client's address: addresses and networks such as 10.0.0.0/8, with commas
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", hide_default_value = true, value_parser = TrustedProxies::parse)]
    pub trusted_proxies: TrustedProxies,
    /// Origins (scheme, host and port) whose web pages may call the API, with commas; without one, only its own
    #[arg(long, env = "CORS_ALLOWED_ORIGINS", default_value = "", hide_default_value = true, value_parser = AllowedOrigins::parse)]
    pub cors_allowed_origins: AllowedOrigins,
}

impl EdgeArgs {
    /// What is configured.
    pub fn edge(&self) -> Result<Edge, AccessError> {
        let limiter = |rate| RateLimiter::new(rate, self.rate_limit_burst.unwrap_or(rate));
        let mut access = None;
        if let Some(path) = &self.api_tokens_file {
            access = Some(Access::default().with_tokens(path)?);
        }
        if let (Some(issuer), Some(audience)) = (&self.api_jwt_issuer, &self.api_jwt_audience) {
            let issuer = Issuer { issuer: issuer.clone(), audience: audience.clone() };
            let others = access.unwrap_or_default();
            access = match (&self.api_jwks_file, &self.api_jwks_url) {
                (Some(path), _) => Some(others.with_keys(path, issuer)?),
                (None, Some(url)) => Some(others.with_key_url(url.clone(), self.key_tls(url)?, issuer)?),
                // Refused with the arguments.
                (None, None) => Some(others),
            };
        }
        Ok(Edge {
            access,
            rate_limiter: self.rate_limit_per_second.map(limiter),
            origins: self.cors_allowed_origins.clone(),
            proxies: self.trusted_proxies.clone(),
        })
    }
}

impl EdgeArgs {
    /// TLS to the URL of the keys, where it is https.
    fn key_tls(&self, url: &Url) -> Result<Option<Tls>, AccessError> {
        const VARIABLES: TlsVariables = TlsVariables { ca: "API_JWKS_CA_FILE", identity: None };
        let ca = self.api_jwks_ca_file.clone();
        match (url.has_tls(), ca) {
            (true, ca) => {
                let files = TlsFiles { ca, identity: None, variables: &VARIABLES };
                Tls::load(files).map(Some).map_err(AccessError::Certificates)
            }
            (false, None) => Ok(None),
            (false, Some(_)) => {
                let why = "API_JWKS_CA_FILE needs an https address in API_JWKS_URL";
                Err(AccessError::Certificates(why.to_owned()))
            }
        }
    }
}

/// The certificate of the listener.
#[derive(Debug, Clone, Group)]
pub struct HttpsArgs {
    /// Certificate of the listener, in PEM, and below it those between it and its CA: the API then speaks HTTPS, and HTTP no
    /// more. Read again when it changes
    #[arg(long, env = "API_TLS_CERTIFICATE_FILE", value_name = "FILE", requires = "api_tls_key_file")]
    pub api_tls_certificate_file: Option<PathBuf>,
    /// The certificate's private key, in PEM and not encrypted
    #[arg(long, env = "API_TLS_KEY_FILE", value_name = "FILE", requires = "api_tls_certificate_file")]
    pub api_tls_key_file: Option<PathBuf>,
}

impl HttpsArgs {
    /// Reads the files, where they are named. The error is one line.
    pub fn tls(&self) -> Result<Option<TlsServer>, String> {
        let (Some(certificate), Some(key)) = (&self.api_tls_certificate_file, &self.api_tls_key_file) else {
            return Ok(None);
        };
        let identity = Identity { certificate: certificate.clone(), key: key.clone() };
        TlsServer::load(identity, ("API_TLS_CERTIFICATE_FILE", "API_TLS_KEY_FILE")).map(Some)
    }
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
    fn keys_are_at_one_place_and_for_one_issuer() {
        let parse = |args: &[&str]| Args::try_parse_from([&["x"], args].concat());
        let issuer = ["--api-jwt-issuer", "https://i.example", "--api-jwt-audience", "a"];
        let url = ["--api-jwks-url", "https://i.example/keys"];
        assert!(parse(&[&url[..], &issuer].concat()).is_ok());
        let file = ["--api-jwks-file", "f"];
        for wrong in [
            url.to_vec(),
            file.to_vec(),
            issuer.to_vec(),
            [&url[..], &file, &issuer].concat(),
            [&file[..], &issuer, &["--api-jwks-ca-file", "f"]].concat(),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
        let clear = ["--api-jwks-url", "http://localhost:1/keys", "--api-jwks-ca-file", "f"];
        let refused = parse(&[&clear[..], &issuer].concat()).unwrap().edge.edge().unwrap_err().to_string();
        assert!(refused.contains("needs an https address"), "{refused}");
    }

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
