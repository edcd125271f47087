//! The system as a whole: what is started, in which order, and what it waits for.

use std::path::Path;
use std::time::Duration;

use task_events::kafka::Kafka;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::build::{Binaries, build};
use crate::children::{Children, Program};
use crate::layout::{Layout, Member};
use crate::port::free;
use crate::screen::Screen;
use crate::services::{BROKER, STATE_DIR, TASKCTL, scaled_folder};
use crate::taskctl::taskctl;
use crate::{Failure, browser, fresh, postgres, registry, tour};

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
    let layout = Layout::of(args);
    for replica in 0..layout.apis.len() {
        free(args.api_address(replica), "the API", "PORT").await?;
    }
    let starts_postgres = args.scaled && !postgres::is_named();
    if starts_postgres {
        postgres::find(args.postgres_programs.as_deref())?;
    }
    match (args.fresh, args.scaled) {
        (true, false) => fresh::delete(Path::new("."))?,
        (true, true) => fresh::delete_scaled(Path::new("."))?,
        (false, _) => {}
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
    if starts_postgres {
        let programs = args.postgres_programs.as_deref();
        env.push(postgres::start(programs, args.postgres_port, children).await?);
    }
    if args.starts_broker() {
        start_broker(args, &binaries, children)?;
    }
    wait_for_kafka(args, screen).await?;
    let create = [&["topics", "create"], layout.topic_args].concat();
    operate(&binaries, &env, screen, &create).await?;
    if args.avro {
        operate(&binaries, &env, screen, &["schema", "init"]).await?;
    }
    start_services(&layout, &binaries, &env, children)?;
    for api in &layout.apis {
        wait_for_api(api).await?;
    }
    if !args.no_tour {
        let (taskctl, token) = (binaries.path(TASKCTL)?, args.token.token());
        tour::Tour { screen, layout: &layout, token, taskctl, env: &env }.run().await?;
    }
    let api = args.api_url(0);
    screen.heading(&format!("The live page: {api}/"));
    if args.exit_after_tour {
        return Ok(());
    }
    screen.heading(&format!(
        "Up: the API on {} (its description: {api}/docs), Kafka on {}. Ctrl-C stops all.",
        layout.apis.join(" and "),
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
    vec![("KAFKA_BOOTSTRAP_SERVERS", bootstrap(args)), ("HOST", args.host.to_string())]
}

fn start_broker(args: &Args, binaries: &Binaries, children: &mut Children) -> Result<(), Failure> {
    let address = args.broker_address().to_string();
    let folder =
        if args.scaled { format!("{}/{BROKER}", scaled_folder()) } else { format!("./{STATE_DIR}/{BROKER}") };
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
    layout: &Layout,
    binaries: &Binaries,
    env: &[(&'static str, String)],
    children: &mut Children,
) -> Result<(), Failure> {
    for Member { name, program, colour, env: own, stop_limit, stop_rank } in &layout.members {
        children.start(Program {
            name,
            colour: *colour,
            path: binaries.path(program)?,
            args: Vec::new(),
            env: [env, own].concat(),
            stop_limit: *stop_limit,
            stop_rank: *stop_rank,
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
