//! The system as a whole: what is started, in which order, and what it waits for.

use std::path::Path;
use std::time::Duration;

use task_events::kafka::Kafka;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::build::{Binaries, build};
use crate::children::{Children, Program};
use crate::port::free;
use crate::screen::Screen;
use crate::services::{API, AUDIT_LOG, BROKER, CONSUMERS, STATE_DIR, TASKCTL};
use crate::taskctl::taskctl;
use crate::{Failure, browser, fresh, registry, tour};

/// Time for the broker, and then for the API, to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A wait that is longer is said.
const SAY_AFTER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Runs everything. Returns when the tour is over and nothing else was wanted, or when something failed.
pub async fn run(args: &Args, children: &mut Children, screen: &Screen) -> Result<(), Failure> {
    // First what can be known at once, before a build that may take minutes.
    if args.api_tls_certificate_file.is_some() {
        return Err(Failure("run-all asks the API over HTTP: unset API_TLS_CERTIFICATE_FILE".to_owned()));
    }
    if args.starts_broker() {
        free(args.broker_address(), "the dev broker", "--broker-port").await?;
    }
    free(args.api_address(), "the API", "PORT").await?;
    if args.fresh {
        fresh::delete(Path::new("."))?;
    }
    let binaries = match &args.binaries {
        Some(folder) => Binaries::in_folder(folder),
        None => build().await?,
    };
    let mut env = environment(args);
    if args.avro {
        env.push(("SCHEMA_REGISTRY_URL", registry::start(children, screen).await?));
        env.push(("EVENT_FORMAT", "avro".to_owned()));
    }
    if args.starts_broker() {
        start_broker(args, &binaries, children)?;
    }
    wait_for_kafka(args, screen).await?;
    operate(&binaries, &env, screen, &["topics", "create"]).await?;
    if args.avro {
        operate(&binaries, &env, screen, &["schema", "init"]).await?;
    }
    start_services(&binaries, &env, children)?;
    let api = args.api_url();
    wait_for_api(&api).await?;
    if !args.no_tour {
        let (taskctl, token) = (binaries.path(TASKCTL)?, args.token.token().map_err(Failure)?);
        tour::Tour { screen, api: &api, token: token.as_ref(), taskctl, env: &env }.run().await?;
    }
    screen.heading(&format!("The live page: {api}/"));
    if args.exit_after_tour {
        return Ok(());
    }
    screen.heading(&format!(
        "Up: the API on {api} (its description: {api}/docs), Kafka on {}. Ctrl-C stops all.",
        bootstrap(args)
    ));
    if args.open
        && let Err(failure) = browser::open(&format!("{api}/")).await
    {
        screen.say(&failure.to_string());
    }
    std::future::pending().await
}

fn bootstrap(args: &Args) -> String {
    args.bootstrap().join(",")
}

/// The environment of every process of the system.
fn environment(args: &Args) -> Vec<(&'static str, String)> {
    vec![
        ("KAFKA_BOOTSTRAP_SERVERS", bootstrap(args)),
        ("STATE_DIR", format!("./{STATE_DIR}")),
        ("AUDIT_LOG_PATH", AUDIT_LOG.to_owned()),
        ("HOST", args.host.to_string()),
        ("PORT", args.port.to_string()),
    ]
}

fn start_broker(args: &Args, binaries: &Binaries, children: &mut Children) -> Result<(), Failure> {
    let address = args.broker_address().to_string();
    let folder = format!("./{STATE_DIR}/{BROKER}");
    children.start(Program {
        name: BROKER,
        colour: 90,
        path: binaries.path(BROKER)?,
        args: vec!["--addr".to_owned(), address, "--dir".to_owned(), folder],
        env: Vec::new(),
        stop_limit: Duration::from_secs(5),
        // The services commit and publish until their end.
        stop_rank: 2,
    })
}

async fn wait_for_kafka(args: &Args, screen: &Screen) -> Result<(), Failure> {
    let kafka = Kafka::new(args.bootstrap(), "run-all");
    let start = Instant::now();
    let mut said = false;
    loop {
        match kafka.topics().await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > START_LIMIT => {
                return Err(Failure(format!(
                    "no Kafka after {} s: {error}; start it, or unset KAFKA_BOOTSTRAP_SERVERS for a dev broker",
                    START_LIMIT.as_secs()
                )));
            }
            Err(error) => {
                if start.elapsed() > SAY_AFTER && !std::mem::replace(&mut said, true) {
                    screen.log("run-all", 90, format!("waiting for Kafka at {}: {error}", bootstrap(args)));
                }
                sleep(POLL).await;
            }
        }
    }
}

async fn operate(
    binaries: &Binaries,
    env: &[(&'static str, String)],
    screen: &Screen,
    command: &[&str],
) -> Result<(), Failure> {
    let answer = taskctl(binaries.path(TASKCTL)?, env, command).await?;
    for line in answer.lines() {
        screen.log("taskctl", 90, line.to_owned());
    }
    Ok(())
}

fn start_services(
    binaries: &Binaries,
    env: &[(&'static str, String)],
    children: &mut Children,
) -> Result<(), Failure> {
    // The API publishes what waits, for 10 s at most; a consumer stops within 5 s.
    let consumers = CONSUMERS.into_iter().zip([32, 35, 33]);
    let consumers = consumers.map(|(name, colour)| (name, colour, 1, Duration::from_secs(8)));
    let services = std::iter::once((API, 34, 0, Duration::from_secs(15))).chain(consumers);
    for (name, colour, stop_rank, stop_limit) in services {
        children.start(Program {
            name,
            colour,
            path: binaries.path(name)?,
            args: Vec::new(),
            env: env.to_vec(),
            stop_limit,
            stop_rank,
        })?;
    }
    Ok(())
}

async fn wait_for_api(url: &str) -> Result<(), Failure> {
    let client = tour::http_client()?;
    let ready = format!("{url}/readyz");
    let start = Instant::now();
    while start.elapsed() < START_LIMIT {
        match client.get(&ready).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(_) | Err(_) => sleep(POLL).await,
        }
    }
    Err(Failure(format!("the API does not answer 200 at {ready} within {} s", START_LIMIT.as_secs())))
}
