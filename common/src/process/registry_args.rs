//! Flags and environment variables of the Schema Registry.
//!
//! *A password is in no message and in no `--help`*, also where it is in an address, and none is sent in clear text
//! unless that is asked for.

use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, Args, FromArgMatches};

use super::fault::Fault;
use crate::kafka::{Password, Secret};
use crate::registry::{Address, Login, Registry, SchemaCache};
use crate::schemas::EventReader;
use crate::tls::{Tls, TlsFiles, TlsVariables};

/// The variables of the certificates for the registry.
const VARIABLES: TlsVariables = TlsVariables { ca: "SCHEMA_REGISTRY_CA_FILE", identity: None };

/// How to reach the Schema Registry.
#[derive(Debug, Clone)]
pub struct RegistryArgs {
    addresses: Vec<Address>,
    login: Option<Login>,
    tls: Option<Tls>,
}

/// The same as flags, before they are compared and files are read.
#[derive(Debug, Args)]
struct RegistryFlags {
    /// Schema Registry: https://host:port or http://host:port, with a path where its API has one; several addresses of one
    /// registry with commas. Without one, only JSON events are read
    // As text: clap would show a value that is wrong, with the password in it.
    #[arg(long, env = "SCHEMA_REGISTRY_URL", hide_env_values = true)]
    schema_registry_url: Option<String>,
    /// User to log in as at the Schema Registry; without one, nobody logs in
    #[arg(long, env = "SCHEMA_REGISTRY_USERNAME")]
    schema_registry_username: Option<String>,
    /// The user's password
    #[arg(
        long,
        env = "SCHEMA_REGISTRY_PASSWORD",
        hide_env_values = true,
        requires = "schema_registry_username"
    )]
    schema_registry_password: Option<Password>,
    /// File that holds the user's password
    #[arg(
        long,
        env = "SCHEMA_REGISTRY_PASSWORD_FILE",
        value_name = "FILE",
        conflicts_with = "schema_registry_password",
        requires = "schema_registry_username"
    )]
    schema_registry_password_file: Option<PathBuf>,
    /// CAs that may have signed the certificate of an https address, in PEM: a file, or a folder of *.crt and *.pem. By
    /// default, the system's
    #[arg(long, env = "SCHEMA_REGISTRY_CA_FILE", value_name = "FILE")]
    schema_registry_ca_file: Option<PathBuf>,
    /// Whether a password may be sent to an http address of another machine, where the network can read it
    #[arg(long, env = "SCHEMA_REGISTRY_ALLOW_PLAINTEXT_LOGIN", value_name = "BOOL", action = clap::ArgAction::Set, default_value = "false", value_parser = BoolishValueParser::new())]
    schema_registry_allow_plaintext_login: bool,
}

impl RegistryFlags {
    fn registry(self) -> Result<RegistryArgs, Fault> {
        let addresses = self.schema_registry_url.as_deref().map(addresses).transpose()?.unwrap_or_default();
        let has_tls = addresses.iter().any(Address::has_tls);
        let tls = match (has_tls, self.schema_registry_ca_file) {
            (true, ca) => {
                let files = TlsFiles { ca, identity: None, variables: &VARIABLES };
                Some(Tls::load(files).map_err(Fault::File)?)
            }
            (false, Some(_)) => {
                return Err("SCHEMA_REGISTRY_CA_FILE needs an https address in SCHEMA_REGISTRY_URL"
                    .to_owned()
                    .into());
            }
            (false, None) => None,
        };
        let secret = match (self.schema_registry_password, self.schema_registry_password_file) {
            (Some(password), _) => Some(Secret::Value(password)),
            (None, Some(file)) => Some(Secret::File(file)),
            (None, None) => None,
        };
        let secret = secret.unwrap_or_else(|| Secret::Value(Password(String::new())));
        // Read again by each call; here, so that a wrong path is noticed at the start.
        secret.read().map_err(|why| Fault::File(format!("SCHEMA_REGISTRY_PASSWORD_FILE: {why}")))?;
        let login = self.schema_registry_username.map(|name| Login::new(name, secret));
        let in_clear_text = addresses
            .iter()
            .find(|address| (login.is_some() || address.user().is_some()) && address.shows_a_password());
        match in_clear_text {
            Some(address) if !self.schema_registry_allow_plaintext_login => Err(format!(
                "SCHEMA_REGISTRY_URL: {address} is http, and the password would be sent in clear text: use https, or set SCHEMA_REGISTRY_ALLOW_PLAINTEXT_LOGIN=true"
            )
            .into()),
            _ => Ok(RegistryArgs { addresses, login, tls }),
        }
    }
}

/// The addresses of a list. A list that may have a password in it is not shown.
fn addresses(list: &str) -> Result<Vec<Address>, String> {
    let parsed: Result<Vec<Address>, String> = list.split(',').map(str::parse).collect();
    parsed.map_err(|why| match list.contains('@') {
        false => format!("SCHEMA_REGISTRY_URL: {why}"),
        true => "SCHEMA_REGISTRY_URL is not a list of addresses as https://user:password@host:port, in which special characters of a password are %XX (it is not shown, for it may have a password)".to_owned(),
    })
}

impl FromArgMatches for RegistryArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let registry = RegistryFlags::from_arg_matches(matches)?.registry();
        registry.map_err(clap::Error::from)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for RegistryArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        RegistryFlags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        RegistryFlags::augment_args_for_update(command)
    }
}

impl RegistryArgs {
    /// The registry, if one is configured.
    pub fn registry(&self) -> Option<Registry> {
        if self.addresses.is_empty() {
            return None;
        }
        Some(Registry::new(self.addresses.clone(), self.login.clone()).with_tls(self.tls.clone()))
    }

    /// The registry's schemas on disk, in a service's state folder.
    pub fn cache(&self, state_dir: &Path) -> SchemaCache {
        SchemaCache::new(state_dir, &self.addresses)
    }

    /// A reader of events that keeps what it has seen in a service's state folder, if it has one.
    pub fn reader(&self, state_dir: Option<&Path>) -> EventReader {
        let cache = state_dir.map(|state_dir| self.cache(state_dir));
        self.registry().map_or_else(EventReader::json, |registry| EventReader::new(registry, cache))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::registry::RegistryError;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        registry: RegistryArgs,
    }

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"x").chain(args))
    }

    #[test]
    fn several_addresses_are_separated_by_commas_and_none_is_no_registry() {
        let cli = parse(&["--schema-registry-url", "http://a:1,http://b:2/x"]).unwrap();
        assert_eq!(cli.registry.registry().unwrap().addresses(), "http://a:1,http://b:2/x");
        assert!(parse(&[]).unwrap().registry.registry().is_none());
        assert!(parse(&["--schema-registry-url", ""]).is_err(), "set to nothing is a mistake");
        let wrong = parse(&["--schema-registry-url", "http://a:1,"]).unwrap_err().to_string();
        assert!(wrong.contains("comma too many"), "{wrong}");
    }

    #[test]
    fn a_password_comes_from_the_variable_or_from_a_file_and_is_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hush\n").unwrap();
        let path = file.path().to_str().unwrap();
        let user = ["--schema-registry-url", "http://localhost:1", "--schema-registry-username", "me"];
        let in_file = [&user[..], &["--schema-registry-password-file", path]].concat();
        let cli = parse(&in_file).unwrap();
        assert!(!format!("{cli:?} {:?}", cli.registry.registry()).contains("hush"));
        let both = [&in_file[..], &["--schema-registry-password", "x"]].concat();
        assert!(parse(&both).is_err());
        assert!(parse(&["--schema-registry-password", "x"]).is_err(), "of nobody");
        let missing = [&user[..], &["--schema-registry-password-file", "/nowhere"]].concat();
        assert!(parse(&missing).unwrap_err().to_string().contains("No such file"));
    }

    /// A registry that has one schema, for whoever has the password of that moment.
    fn registry(password: Arc<Mutex<&'static str>>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let lines = BufReader::new(connection.try_clone().unwrap()).lines();
                let headers: Vec<_> =
                    lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let user = STANDARD.encode(format!("me:{}", password.lock().unwrap()));
                let is_known = headers.iter().any(|line| line.ends_with(&format!("Basic {user}")));
                let (status, body) = if is_known {
                    ("200 OK", r#"{"schema":"\"string\""}"#)
                } else {
                    ("401 Unauthorized", "{}")
                };
                let length = body.len();
                write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn a_password_that_is_replaced_in_its_file_counts_for_the_next_call() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let replace = |password: &str| {
            fs::write(folder.path().join("new"), password).unwrap();
            fs::rename(folder.path().join("new"), &file).unwrap();
        };
        replace("first\n");
        let password = Arc::new(Mutex::new("first"));
        let url = format!("http://127.0.0.1:{}", registry(Arc::clone(&password)));
        let cli = parse(&[
            "--schema-registry-url",
            &url,
            "--schema-registry-username",
            "me",
            "--schema-registry-password-file",
            file.to_str().unwrap(),
        ]);
        let registry = cli.unwrap().registry.registry().unwrap();
        // On a machine that is busy a call may run out of its time.
        let answer = async |wanted: fn(&Result<String, RegistryError>) -> bool| {
            let mut answer = registry.schema(1).await;
            for _ in 0..60 {
                if wanted(&answer) {
                    return;
                }
                answer = registry.schema(1).await;
            }
            panic!("{answer:?}");
        };
        answer(Result::is_ok).await;
        *password.lock().unwrap() = "second";
        answer(|answer| matches!(answer, Err(RegistryError::Refused { status: 401, .. }))).await;
        replace("second\n");
        answer(Result::is_ok).await;
        // Gone for a moment: temporary, and the line says which file.
        fs::remove_file(&file).unwrap();
        answer(|answer| {
            let why = answer.as_ref().unwrap_err();
            why.is_temporary() && why.to_string().contains("password: No such file")
        })
        .await;
        replace("second\n");
        answer(Result::is_ok).await;
    }

    #[test]
    fn a_password_in_an_address_is_shown_nowhere() {
        for list in [
            "http://me:hush@r:x",
            "http://me:hu,sh@r:1",
            "ftp://me:hush@r:1",
            "http://a:1,me:hush@r:1",
            "http://me:hush@r.example:1",
        ] {
            let error = parse(&["--schema-registry-url", list]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hu,sh") && !shown.contains("hush"), "{list}: {shown}");
            assert!(shown.contains("SCHEMA_REGISTRY_URL"), "{shown}");
        }
        let command = Cli::command();
        let url = command.get_arguments().find(|arg| arg.get_id() == "schema_registry_url").unwrap();
        assert!(url.is_hide_env_values_set(), "--help shows the environment's value otherwise");
    }

    #[test]
    fn no_password_is_sent_in_clear_text_unless_that_is_asked_for() {
        let user = ["--schema-registry-username", "me", "--schema-registry-password", "hush"];
        let with_user = |list| parse(&[&["--schema-registry-url", list], &user[..]].concat());
        for list in ["http://r:1", "https://r:1,http://r:1", "http://127.0.0.1:1,http://10.0.0.1:1"] {
            let error = with_user(list).unwrap_err().to_string();
            assert!(
                error.contains("clear text") && error.contains("ALLOW_PLAINTEXT_LOGIN"),
                "{list}: {error}"
            );
        }
        for list in ["https://r:1", "http://localhost:1", "http://127.0.0.1:1,http://[::1]:2"] {
            assert!(with_user(list).is_ok(), "{list}");
        }
        assert!(parse(&["--schema-registry-url", "http://r:1"]).is_ok(), "no password, nothing to see");
        let allowed = [
            "--schema-registry-url",
            "http://me:hush@r:1",
            "--schema-registry-allow-plaintext-login",
            "true",
        ];
        assert!(parse(&allowed).is_ok());
    }

    #[test]
    fn certificates_without_https_are_refused() {
        let files = ["--schema-registry-url", "http://r:1", "--schema-registry-ca-file", "/x"];
        assert!(parse(&files).unwrap_err().to_string().contains("needs an https address"));
        let missing = ["--schema-registry-url", "https://r:1", "--schema-registry-ca-file", "/nowhere"];
        assert!(parse(&missing).unwrap_err().to_string().contains("SCHEMA_REGISTRY_CA_FILE: /nowhere"));
    }
}
