//! Flags and environment variables of how brokers and this process trust each other, under the names of Kafka's own
//! settings: `security.protocol` is KAFKA_SECURITY_PROTOCOL.
//!
//! # Invariants
//!
//! 1. *No variable is without effect*: those that do not go together are refused, in one line that names them.
//! 2. *No secret goes out in clear text unless it was asked for*: PLAIN and OAUTHBEARER need TLS, or SASL_PLAINTEXT by
//!    name.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};

use super::fault::Fault;
use crate::kafka::{Password, Sasl, SaslMechanism, Secret};
use crate::tls::{Identity, Tls, TlsFiles, TlsVariables};

/// The variables of the certificates for Kafka.
const VARIABLES: TlsVariables = TlsVariables {
    ca: "KAFKA_SSL_CA_FILE",
    identity: Some(("KAFKA_SSL_CERTIFICATE_FILE", "KAFKA_SSL_KEY_FILE")),
};

/// What a listener of Kafka's expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Nothing
    #[value(name = "PLAINTEXT")]
    Plaintext,
    /// TLS, perhaps with a certificate of the client
    #[value(name = "SSL")]
    Ssl,
    /// A login
    #[value(name = "SASL_PLAINTEXT")]
    SaslPlaintext,
    /// A login, over TLS
    #[value(name = "SASL_SSL")]
    SaslSsl,
}

impl Protocol {
    fn new(tls: bool, login: bool) -> Self {
        match (login, tls) {
            (false, false) => Self::Plaintext,
            (false, true) => Self::Ssl,
            (true, false) => Self::SaslPlaintext,
            (true, true) => Self::SaslSsl,
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_login(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How connections to Kafka are secured.
#[derive(Debug, Clone, Default)]
pub struct KafkaSecurity {
    /// Who logs in, if anybody does.
    pub sasl: Option<Sasl>,
    /// TLS, if the listeners speak it.
    pub tls: Option<Tls>,
}

/// The same as flags, before they are compared and files are read.
#[derive(Debug, Args)]
struct SecurityFlags {
    /// What the listeners expect. By default, TLS where a file of certificates is given, and a login where a user or a
    /// token is
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", ignore_case = true, value_enum)]
    kafka_security_protocol: Option<Protocol>,
    /// User to log in as at the brokers; without one, nobody logs in
    #[arg(long, env = "KAFKA_SASL_USERNAME")]
    kafka_sasl_username: Option<String>,
    /// The user's password
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true)]
    kafka_sasl_password: Option<Password>,
    /// File that holds the user's password; it is read again at each login
    #[arg(long, env = "KAFKA_SASL_PASSWORD_FILE", value_name = "FILE")]
    kafka_sasl_password_file: Option<PathBuf>,
    /// How the user is authenticated [default: SCRAM-SHA-512, or OAUTHBEARER with a token]
    #[arg(long, env = "KAFKA_SASL_MECHANISM", ignore_case = true, value_enum)]
    kafka_sasl_mechanism: Option<SaslMechanism>,
    /// File that holds the token of OAUTHBEARER; it is read again at each login, and so before the token expires
    #[arg(long, env = "KAFKA_SASL_OAUTH_TOKEN_FILE", value_name = "FILE")]
    kafka_sasl_oauth_token_file: Option<PathBuf>,
    /// CAs that may have signed the brokers' certificates, in PEM: a file, or a folder of *.crt and *.pem. By default, the
    /// system's
    #[arg(long, env = "KAFKA_SSL_CA_FILE", value_name = "FILE")]
    kafka_ssl_ca_file: Option<PathBuf>,
    /// Certificate that this process shows to brokers, in PEM
    #[arg(long, env = "KAFKA_SSL_CERTIFICATE_FILE", value_name = "FILE")]
    kafka_ssl_certificate_file: Option<PathBuf>,
    /// The certificate's private key, in PEM and not encrypted
    #[arg(long, env = "KAFKA_SSL_KEY_FILE", value_name = "FILE")]
    kafka_ssl_key_file: Option<PathBuf>,
}

impl SecurityFlags {
    fn security(self) -> Result<KafkaSecurity, Fault> {
        let names_files = self.kafka_ssl_ca_file.is_some()
            || self.kafka_ssl_certificate_file.is_some()
            || self.kafka_ssl_key_file.is_some();
        let names_user = self.kafka_sasl_username.is_some() || self.kafka_sasl_oauth_token_file.is_some();
        let asked_for = self.kafka_security_protocol;
        let protocol = asked_for.unwrap_or_else(|| Protocol::new(names_files, names_user));
        if names_files && !protocol.has_tls() {
            return Err(
                "KAFKA_SSL_* files are for TLS: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL, or unset them".to_owned().into(),
            );
        }
        let tls = match protocol.has_tls() {
            true => Some(Tls::load(self.files()?).map_err(Fault::File)?),
            false => None,
        };
        let sasl = self.sasl(protocol)?;
        let in_clear_text = sasl.as_ref().is_some_and(|sasl| sasl.mechanism.sends_the_secret());
        if in_clear_text && tls.is_none() && asked_for.is_none() {
            return Err("KAFKA_SASL_MECHANISM PLAIN and OAUTHBEARER send the secret itself: set KAFKA_SECURITY_PROTOCOL to SASL_SSL, or to SASL_PLAINTEXT where everybody on the network may read it".to_owned().into());
        }
        Ok(KafkaSecurity { sasl, tls })
    }

    fn files(&self) -> Result<TlsFiles, String> {
        let identity = match (&self.kafka_ssl_certificate_file, &self.kafka_ssl_key_file) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            (Some(_), None) => return Err("KAFKA_SSL_CERTIFICATE_FILE needs KAFKA_SSL_KEY_FILE".to_owned()),
            (None, Some(_)) => return Err("KAFKA_SSL_KEY_FILE needs KAFKA_SSL_CERTIFICATE_FILE".to_owned()),
        };
        Ok(TlsFiles { ca: self.kafka_ssl_ca_file.clone(), identity, variables: &VARIABLES })
    }

    fn sasl(self, protocol: Protocol) -> Result<Option<Sasl>, Fault> {
        let Self {
            kafka_sasl_username: username,
            kafka_sasl_password: password,
            kafka_sasl_password_file: password_file,
            kafka_sasl_mechanism: mechanism,
            kafka_sasl_oauth_token_file: token,
            ..
        } = self;
        let names_password = password.is_some() || password_file.is_some();
        if !protocol.has_login() {
            return match (username.is_some() || token.is_some(), names_password, mechanism) {
                (false, false, None) => Ok(None),
                (true, ..) => Err("KAFKA_SECURITY_PROTOCOL is without a login: set it to SASL_SSL or SASL_PLAINTEXT, or unset KAFKA_SASL_*".to_owned().into()),
                (false, true, _) => Err("KAFKA_SASL_PASSWORD needs KAFKA_SASL_USERNAME".to_owned().into()),
                (false, false, Some(_)) => Err("KAFKA_SASL_MECHANISM needs KAFKA_SASL_USERNAME, or KAFKA_SASL_OAUTH_TOKEN_FILE: without, nobody logs in".to_owned().into()),
            };
        }
        let with_token = token.is_some();
        let usual = if with_token { SaslMechanism::OauthBearer } else { SaslMechanism::ScramSha512 };
        let mechanism = mechanism.unwrap_or(usual);
        let (username, secret) = match (mechanism, token) {
            (SaslMechanism::OauthBearer, Some(token)) if username.is_none() && !names_password => {
                (String::new(), Secret::File(token))
            }
            (SaslMechanism::OauthBearer, Some(_)) => {
                return Err("KAFKA_SASL_OAUTH_TOKEN_FILE names the user: unset KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD".to_owned().into());
            }
            (SaslMechanism::OauthBearer, None) => {
                return Err("KAFKA_SASL_MECHANISM OAUTHBEARER needs KAFKA_SASL_OAUTH_TOKEN_FILE"
                    .to_owned()
                    .into());
            }
            (_, Some(_)) => {
                return Err("KAFKA_SASL_OAUTH_TOKEN_FILE is for KAFKA_SASL_MECHANISM OAUTHBEARER"
                    .to_owned()
                    .into());
            }
            (_, None) => {
                let needed =
                    "a login needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or KAFKA_SASL_PASSWORD_FILE)";
                let username = username.filter(|name| !name.is_empty()).ok_or_else(|| needed.to_owned())?;
                match (password, password_file) {
                    (Some(password), None) => (username, Secret::Value(password)),
                    (None, Some(file)) => (username, Secret::File(file)),
                    (None, None) => return Err(needed.to_owned().into()),
                    (Some(_), Some(_)) => {
                        return Err(
                            "KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE: one of the two, not both"
                                .to_owned()
                                .into(),
                        );
                    }
                }
            }
        };
        // Now, so that a path that is wrong ends the process at its start.
        let variable = if with_token { "KAFKA_SASL_OAUTH_TOKEN_FILE" } else { "KAFKA_SASL_PASSWORD_FILE" };
        secret.read().map_err(|why| Fault::File(format!("{variable}: {why}")))?;
        Ok(Some(Sasl { mechanism, username, secret }))
    }
}

impl FromArgMatches for KafkaSecurity {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let security = SecurityFlags::from_arg_matches(matches)?.security();
        security.map_err(clap::Error::from)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for KafkaSecurity {
    fn augment_args(command: clap::Command) -> clap::Command {
        SecurityFlags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        SecurityFlags::augment_args_for_update(command)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{CommandFactory, Parser};

    use super::super::command_line::one_line;
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        security: KafkaSecurity,
    }

    fn parsed(args: &[&str]) -> Result<KafkaSecurity, String> {
        let args = args.iter().map(|arg| format!("--kafka-{arg}"));
        let parsed = Cli::try_parse_from(std::iter::once("x".to_owned()).chain(args));
        parsed.map(|cli| cli.security).map_err(|error| one_line(&error, &Cli::command()))
    }

    fn sasl(args: &[&str]) -> Sasl {
        parsed(args).unwrap().sasl.unwrap()
    }

    #[test]
    fn todays_variables_mean_what_they_meant() {
        let nothing = parsed(&[]).unwrap();
        assert!(nothing.sasl.is_none() && nothing.tls.is_none());
        let login = parsed(&["sasl-username=u", "sasl-password=hush"]).unwrap();
        assert!(login.tls.is_none());
        let sasl = login.sasl.clone().unwrap();
        assert_eq!((sasl.username.as_str(), sasl.mechanism), ("u", SaslMechanism::ScramSha512));
        assert_eq!(sasl.secret.read().unwrap().0, "hush");
        assert!(!format!("{login:?}").contains("hush"));
    }

    #[test]
    fn a_secret_in_a_file_is_its_first_line_and_read_at_each_use() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "one\r\n").unwrap();
        let sasl = sasl(&["sasl-username=u", &format!("sasl-password-file={}", file.display())]);
        assert_eq!(sasl.secret.read().unwrap().0, "one");
        fs::write(&file, "two").unwrap();
        assert_eq!(sasl.secret.read().unwrap().0, "two");
        fs::write(&file, "").unwrap();
        assert!(sasl.secret.read().unwrap_err().contains("no secret"));
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_one_line_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "t").unwrap();
        let token = format!("sasl-oauth-token-file={}", token.display());
        let (user, password) = ("sasl-username=u", "sasl-password=p");
        for (args, named) in [
            (vec![user], "KAFKA_SASL_PASSWORD_FILE"),
            (vec![password], "KAFKA_SASL_USERNAME"),
            (vec!["sasl-username=", password], "KAFKA_SASL_USERNAME"),
            (vec!["sasl-mechanism=SCRAM-SHA-256"], "nobody logs in"),
            (vec![user, password, "sasl-password-file=/x"], "one of the two"),
            (vec![user, "sasl-password-file=/missing"], "KAFKA_SASL_PASSWORD_FILE: /missing: No such file"),
            (vec![user, password, "sasl-mechanism=PLAIN"], "SASL_SSL"),
            (vec![user, password, "sasl-mechanism=GSSAPI"], "KAFKA_SASL_MECHANISM"),
            (vec![&token], "SASL_SSL"),
            (vec![&token, user, password], "unset KAFKA_SASL_USERNAME"),
            (vec![&token, "sasl-mechanism=PLAIN"], "is for KAFKA_SASL_MECHANISM OAUTHBEARER"),
            (vec![user, password, "sasl-mechanism=OAUTHBEARER"], "needs KAFKA_SASL_OAUTH_TOKEN_FILE"),
            (vec![user, password, "security-protocol=PLAINTEXT"], "without a login"),
            (vec![user, password, "security-protocol=SSL"], "without a login"),
            (vec!["security-protocol=SASL_PLAINTEXT"], "needs KAFKA_SASL_USERNAME"),
            (vec!["security-protocol=TLS"], "KAFKA_SECURITY_PROTOCOL"),
            (vec!["security-protocol=PLAINTEXT", "ssl-ca-file=/x"], "KAFKA_SSL_*"),
            (vec!["ssl-ca-file=/missing"], "KAFKA_SSL_CA_FILE: /missing: No such file"),
            (vec!["ssl-certificate-file=/x"], "needs KAFKA_SSL_KEY_FILE"),
            (vec!["ssl-key-file=/x"], "needs KAFKA_SSL_CERTIFICATE_FILE"),
        ] {
            let line = parsed(&args).unwrap_err();
            assert!(line.contains(named) && !line.contains('\n'), "{args:?}: {line}");
        }
        let asked_for = ["security-protocol=sasl_plaintext", user, password, "sasl-mechanism=plain"];
        assert_eq!(sasl(&asked_for).mechanism, SaslMechanism::Plain);
        let token = ["security-protocol=SASL_PLAINTEXT", &token];
        assert_eq!(sasl(&token).mechanism, SaslMechanism::OauthBearer);
    }

    #[test]
    fn help_shows_no_secret() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        assert!(help.contains("KAFKA_SASL_PASSWORD") && help.contains("KAFKA_SSL_CA_FILE"));
        for secret in command.get_arguments().filter(|arg| arg.get_id().as_str().ends_with("password")) {
            assert!(secret.is_hide_env_values_set(), "{}", secret.get_id());
        }
    }
}
