//! Connections to an Apache Kafka whose listeners want TLS, certificates and logins.
//!
//! Only with `E2E_BROKER=kafka`: the dev broker has no such listeners.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use harness::{
    Api, Authority, Broker, EVENTS, Outcome, Program, Ran, Result, SOON, SecureListener, Service, Validity,
    World, eventually, replace,
};
use serde_json::json;

const USER: &str = "task-events";
const PASSWORD: &str = "correct-horse";
/// How long a login lasts on the listener that limits it: so long that one that a busy machine renews late is renewed in
/// time.
const SESSION: Duration = Duration::from_secs(30);

/// An Apache Kafka with a listener of each kind, and the certificates for it.
struct Secured {
    world: World,
    brokers: Authority,
    users: Authority,
    folder: tempfile::TempDir,
    listeners: Vec<SecureListener>,
}

impl Secured {
    async fn start() -> Result<Option<Self>> {
        let (brokers, users) = (Authority::new("brokers")?, Authority::new("users")?);
        let folder = tempfile::tempdir().map_err(|error| harness::Error::failed(error.to_string()))?;
        let path = |name: &str| folder.path().join(name);
        let listeners = vec![
            // Wants a certificate and a login, and lets a login last for a short time only.
            SecureListener::new("BOTH", "SASL_SSL")?,
            SecureListener::new("LOGIN", "SASL_SSL")?,
            SecureListener::new("CERTIFICATE", "SSL")?,
            SecureListener::new("EXPIRED", "SSL")?,
            SecureListener::new("ANOTHER", "SSL")?,
            SecureListener::new("CLEAR", "SASL_PLAINTEXT")?,
        ];
        let valid = brokers.issue("broker", &["localhost"], Validity::Valid)?;
        replace(&path("broker.pem"), &valid.key_store())?;
        let expired = brokers.issue("broker", &["localhost"], Validity::Expired)?;
        replace(&path("expired.pem"), &expired.key_store())?;
        let another = brokers.issue("broker", &["kafka.example"], Validity::Valid)?;
        replace(&path("another.pem"), &another.key_store())?;
        replace(&path("users-ca.pem"), users.certificate())?;
        replace(&path("brokers-ca.crt"), brokers.certificate())?;
        users.issue(USER, &[], Validity::Valid)?.write(folder.path(), "user")?;

        let mut settings = vec![
            ("ssl.keystore.type".to_owned(), "PEM".to_owned()),
            ("ssl.keystore.location".to_owned(), path("broker.pem").display().to_string()),
            ("ssl.truststore.type".to_owned(), "PEM".to_owned()),
            ("ssl.truststore.location".to_owned(), path("users-ca.pem").display().to_string()),
            ("listener.name.both.ssl.client.auth".to_owned(), "required".to_owned()),
            ("listener.name.certificate.ssl.client.auth".to_owned(), "required".to_owned()),
            ("listener.name.both.connections.max.reauth.ms".to_owned(), SESSION.as_millis().to_string()),
        ];
        for name in ["expired", "another"] {
            let store = path(&format!("{name}.pem")).display().to_string();
            settings.push((format!("listener.name.{name}.ssl.keystore.type"), "PEM".to_owned()));
            settings.push((format!("listener.name.{name}.ssl.keystore.location"), store));
        }
        let module = "org.apache.kafka.common.security";
        for listener in ["both", "login", "clear"] {
            let name = format!("listener.name.{listener}");
            let mechanisms = "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER".to_owned();
            settings.push((format!("{name}.sasl.enabled.mechanisms"), mechanisms));
            for scram in ["scram-sha-512", "scram-sha-256"] {
                let jaas = format!("{module}.scram.ScramLoginModule required;");
                settings.push((format!("{name}.{scram}.sasl.jaas.config"), jaas));
            }
            let jaas = format!("{module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
            settings.push((format!("{name}.plain.sasl.jaas.config"), jaas));
            let jaas = format!(
                "{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"x\";"
            );
            settings.push((format!("{name}.oauthbearer.sasl.jaas.config"), jaas));
        }
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let Some(broker) = Broker::start_kafka_listening(&listeners, &settings).await? else {
            return Ok(None);
        };
        let world = World::around(broker)?;
        let Some(tools) = world.kafka_tools() else { return Ok(None) };
        for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256"] {
            let config = format!("{mechanism}=[password={PASSWORD}]");
            let user = ["--alter", "--entity-type", "users", "--entity-name", USER, "--add-config", &config];
            tools.run("kafka.admin.ConfigCommand", &user).await?;
        }
        Ok(Some(Self { world, brokers, users, folder, listeners }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, at that listener, with these variables as well.
    fn program(&self, name: &str, listener: &str, env: &[(&str, &str)]) -> Program {
        let listener = self.listeners.iter().find(|one| one.name == listener);
        let address = listener.map(SecureListener::address).unwrap_or_default();
        let program = self.world.program(name).env("KAFKA_BOOTSTRAP_SERVERS", address);
        env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Certificates and login, as the listener BOTH wants them.
    fn both(&self) -> Vec<(&'static str, String)> {
        let shown = |name| self.path(name).display().to_string();
        vec![
            ("KAFKA_SSL_CA_FILE", shown("brokers-ca.crt")),
            ("KAFKA_SSL_CERTIFICATE_FILE", shown("user.crt")),
            ("KAFKA_SSL_KEY_FILE", shown("user.key")),
            ("KAFKA_SASL_USERNAME", USER.to_owned()),
            ("KAFKA_SASL_PASSWORD_FILE", shown("password")),
        ]
    }

    async fn taskctl(&self, listener: &str, env: &[(&str, &str)]) -> Result<Ran> {
        let program = self.program("taskctl", listener, env).args(&["topics", "create"]);
        program.run(Duration::from_secs(60)).await
    }

    /// `taskctl` succeeds.
    async fn works(&self, listener: &str, env: &[(&str, &str)]) -> Outcome {
        let ran = self.taskctl(listener, env).await?;
        assert_eq!(ran.code, Some(0), "{listener}: {ran:?}");
        Ok(())
    }

    /// `taskctl` fails with one line that has the code and these words, and no secret.
    async fn fails(&self, listener: &str, env: &[(&str, &str)], words: &[&str]) -> Outcome {
        let ran = self.taskctl(listener, env).await?;
        assert_eq!(ran.code, Some(1), "{listener} {env:?}: {ran:?}");
        let line = ran.stderr.trim_end();
        assert!(!line.contains('\n'), "one line: {line}");
        for word in words {
            assert!(line.contains(word), "{listener}: no {word:?} in {line}");
        }
        assert!(!format!("{ran:?}").contains(PASSWORD), "{ran:?}");
        Ok(())
    }
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// A token as Kafka's validator for tests takes it, without a signature.
fn token(lifetime: Duration) -> String {
    let encode =
        |part: serde_json::Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part.to_string());
    let now = chrono::Utc::now().timestamp();
    let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let claims = json!({"sub": USER, "iat": now, "exp": now + lifetime, "scope": "kafka"});
    format!("{}.{}.", encode(json!({"alg": "none"})), encode(claims))
}

/// A line of the API's, which comes once its login has to be renewed on a new connection, for an event.
async fn line_under_load(api: &Service, client: &Api, part: &str) -> Result<String> {
    let found = async || {
        client.create("another").await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(api.history().into_iter().find(|line| line.contains(part)))
    };
    eventually(&format!("a line with {part:?}"), SOON, found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn right_credentials_work_and_wrong_ones_are_one_clear_line() -> Outcome {
    let Some(kafka) = Secured::start().await? else { return Ok(()) };
    replace(&kafka.path("password"), PASSWORD)?;
    replace(&kafka.path("token"), &token(Duration::from_secs(600)))?;
    let shown = |name| kafka.path(name).display().to_string();
    let (ca, certificate, key) = (shown("brokers-ca.crt"), shown("user.crt"), shown("user.key"));
    let (password, bearer, wrong_ca) = (shown("password"), shown("token"), shown("users-ca.pem"));
    let ca = ("KAFKA_SSL_CA_FILE", ca.as_str());
    let identity = [ca, ("KAFKA_SSL_CERTIFICATE_FILE", &certificate), ("KAFKA_SSL_KEY_FILE", &key)];
    let user = ("KAFKA_SASL_USERNAME", USER);
    let login = [ca, user, ("KAFKA_SASL_PASSWORD_FILE", &password)];
    let mechanism = |name| ("KAFKA_SASL_MECHANISM", name);

    // What is right.
    let both = kafka.both();
    kafka.works("BOTH", &borrowed(&both)).await?;
    kafka.works("CERTIFICATE", &identity).await?;
    let doctor = kafka.program("taskctl", "BOTH", &borrowed(&both)).arg("doctor").run(SOON).await?;
    assert!(
        doctor.stdout.contains("with TLS, with a login, with a certificate that is valid until 2045-01-01"),
        "{doctor:?}"
    );
    for name in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        kafka.works("LOGIN", &[&login[..], &[mechanism(name)]].concat()).await?;
        let clear = [user, ("KAFKA_SASL_PASSWORD", PASSWORD), mechanism(name)];
        let asked_for = ("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT");
        kafka.works("CLEAR", &[&clear[..], &[asked_for]].concat()).await?;
    }
    kafka.works("LOGIN", &[ca, ("KAFKA_SASL_OAUTH_TOKEN_FILE", &bearer)]).await?;

    // Who is no user, or proves it in the wrong way.
    let wrong = [ca, user, ("KAFKA_SASL_PASSWORD", "wrong-horse")];
    for name in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        let env = [&wrong[..], &[mechanism(name)]].concat();
        kafka.fails("LOGIN", &env, &["[TE0521]", "log in as task-events", name]).await?;
    }
    let stranger = [ca, ("KAFKA_SASL_USERNAME", "stranger"), ("KAFKA_SASL_PASSWORD", "x")];
    kafka.fails("LOGIN", &stranger, &["[TE0521]", "log in as stranger"]).await?;
    replace(&kafka.path("old-token"), &token(Duration::ZERO))?;
    let old = shown("old-token");
    kafka.fails("LOGIN", &[ca, ("KAFKA_SASL_OAUTH_TOKEN_FILE", &old)], &["[TE0521]", "OAUTHBEARER"]).await?;

    // Certificates that do not fit.
    let words = ["[TE0520]", "signed by no CA that is trusted here", "KAFKA_SSL_CA_FILE"];
    kafka.fails("CERTIFICATE", &[("KAFKA_SSL_CA_FILE", &wrong_ca)], &words).await?;
    kafka.fails("EXPIRED", &[ca], &["[TE0520]", "has expired on 2021-01-01"]).await?;
    kafka.fails("ANOTHER", &[ca], &["[TE0520]", "is not for localhost but for kafka.example"]).await?;
    kafka.fails("CERTIFICATE", &[ca], &["[TE0520]", "certificate", "KAFKA_SSL_CERTIFICATE_FILE"]).await?;
    let foreign = kafka.brokers.issue(USER, &[], Validity::Valid)?;
    let (certificate, key) = foreign.write(kafka.folder.path(), "foreign")?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let env = [ca, ("KAFKA_SSL_CERTIFICATE_FILE", &*certificate), ("KAFKA_SSL_KEY_FILE", &*key)];
    kafka.fails("CERTIFICATE", &env, &["[TE0520]", "certificate", "KAFKA_SSL_CERTIFICATE_FILE"]).await?;

    // Listeners that expect something else: nothing is sent in clear text instead.
    kafka.fails("CERTIFICATE", &[], &["speaks TLS", "KAFKA_SECURITY_PROTOCOL"]).await?;
    kafka.fails("CLEAR", &[ca], &["[TE0520]", "a listener without TLS"]).await?;
    kafka.fails("LOGIN", &[ca], &["expects a login", "KAFKA_SASL_USERNAME"]).await?;
    kafka
        .fails("CERTIFICATE", &[&identity[..], &login[1..]].concat(), &["[TE0521]", "expects no login"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_runs_over_tls_for_longer_than_a_login_lasts() -> Outcome {
    let Some(kafka) = Secured::start().await? else { return Ok(()) };
    replace(&kafka.path("password"), PASSWORD)?;
    let env = kafka.both();
    let env = borrowed(&env);
    kafka.works("BOTH", &env).await?;
    let (api, client) = kafka.world.start_api_as(kafka.program("task-api", "BOTH", &env)).await?;
    let mut services = Vec::new();
    for name in harness::CONSUMERS {
        services.push(kafka.program(name, "BOTH", &env).start()?);
    }
    // Events that come one by one, and more than a session after which there is none.
    let began = Instant::now();
    let mut created = 0;
    while began.elapsed() < SESSION * 2 {
        client.create(&format!("task {created}")).await?;
        created += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    tokio::time::sleep(SESSION + Duration::from_secs(1)).await;
    client.create("after a pause").await?;
    created += 1;
    client.delivered().await?;
    let all = async || Ok((kafka.world.audit_log()?.len() == created).then_some(()));
    eventually("each event in the audit log", SOON, all).await?;
    kafka.world.committed("audit-service", i64::try_from(created).unwrap_or(i64::MAX)).await?;
    if let Some(tools) = kafka.world.kafka_tools() {
        let shown = async || {
            let rows = tools.consumer_groups_describe("audit-service").await?;
            Ok(rows.iter().any(|row| row.topic == EVENTS && row.lag == Some(0)).then_some(()))
        };
        eventually("the coordinator to show the position", SOON, shown).await?;
    }
    services.push(api);
    for service in &mut services {
        let warned: Vec<_> = service
            .history()
            .into_iter()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .filter(|line| line.contains("connection") || line.contains("[TE052"))
            .collect();
        assert!(warned.is_empty(), "no connection ended with its login: {warned:#?}");
        assert!(service.terminate(SOON).await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_renewed_is_used_without_a_restart() -> Outcome {
    let Some(kafka) = Secured::start().await? else { return Ok(()) };
    replace(&kafka.path("password"), PASSWORD)?;
    let env = kafka.both();
    kafka.works("BOTH", &borrowed(&env)).await?;

    // A certificate that has expired, a CA that is no longer the brokers', and a password that was changed.
    kafka.users.issue(USER, &[], Validity::Expired)?.write(kafka.folder.path(), "user")?;
    let (mut api, client) =
        kafka.world.start_api_as(kafka.program("task-api", "BOTH", &borrowed(&env))).await?;
    client.create("while nothing fits").await?;
    api.wait_for_line("[TE0520]", SOON).await?;
    kafka.users.issue(USER, &[], Validity::Valid)?.write(kafka.folder.path(), "user")?;
    client.delivered().await?;
    api.wait_for_line("new certificates are in use", SOON).await?;

    let other = Authority::new("other")?;
    replace(&kafka.path("brokers-ca.crt"), other.certificate())?;
    let line = line_under_load(&api, &client, "signed by no CA").await?;
    assert!(line.contains("[TE0520]"), "{line}");
    replace(
        &kafka.path("brokers-ca.crt"),
        &format!("{}{}", other.certificate(), kafka.brokers.certificate()),
    )?;
    client.delivered().await?;

    replace(&kafka.path("password"), "wrong-horse")?;
    let line = line_under_load(&api, &client, "[TE0521]").await?;
    assert!(line.contains("log in as task-events"), "{line}");
    replace(&kafka.path("password"), PASSWORD)?;
    client.delivered().await?;
    assert!(!api.history().iter().any(|line| line.contains("-horse")), "no password in a log");
    Ok(())
}

/// Secrets in files, replaced as a rotation does it: at Kafka, and in the file, while all goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_and_a_token_are_rotated_by_their_files() -> Outcome {
    const NEXT: &str = "next-horse";
    let Some(kafka) = Secured::start().await? else { return Ok(()) };
    let Some(tools) = kafka.world.kafka_tools() else { return Ok(()) };
    replace(&kafka.path("password"), PASSWORD)?;
    replace(&kafka.path("token"), &token(SESSION))?;
    let both = kafka.both();
    kafka.works("BOTH", &borrowed(&both)).await?;
    let (api, client) = kafka.world.start_api_as(kafka.program("task-api", "BOTH", &borrowed(&both))).await?;
    let mut by_token: Vec<_> =
        both.iter().filter(|(name, _)| !name.starts_with("KAFKA_SASL")).cloned().collect();
    by_token.push(("KAFKA_SASL_OAUTH_TOKEN_FILE", kafka.path("token").display().to_string()));
    let auditor = kafka.program("audit-service", "BOTH", &borrowed(&by_token)).start()?;
    client.create("before").await?;
    client.delivered().await?;

    let config = format!("SCRAM-SHA-512=[password={NEXT}]");
    let user = ["--alter", "--entity-type", "users", "--entity-name", USER, "--add-config", &config];
    tools.run("kafka.admin.ConfigCommand", &user).await?;
    replace(&kafka.path("password"), NEXT)?;
    // Several logins of each, by a password that is new and by tokens of which each is short-lived.
    let began = Instant::now();
    let mut created = 1;
    while began.elapsed() < SESSION * 3 {
        replace(&kafka.path("token"), &token(SESSION))?;
        client.create(&format!("task {created}")).await?;
        created += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    client.delivered().await?;
    let audited = async || {
        replace(&kafka.path("token"), &token(SESSION))?;
        Ok((kafka.world.audit_log()?.len() == created).then_some(()))
    };
    eventually("each event in the audit log", SOON, audited).await?;
    replace(&kafka.path("old"), PASSWORD)?;
    let mut before = both.clone();
    for (name, value) in &mut before {
        if *name == "KAFKA_SASL_PASSWORD_FILE" {
            *value = kafka.path("old").display().to_string();
        }
    }
    kafka.works("BOTH", &borrowed(&both)).await?;
    kafka.fails("BOTH", &borrowed(&before), &["[TE0521]", "log in as task-events"]).await?;
    for service in [&api, &auditor] {
        let said = service.history().join("\n");
        assert!(!said.contains("-horse") && !said.contains("eyJ"), "no secret in a log: {said}");
    }
    Ok(())
}
