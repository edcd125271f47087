//! Past one process: POST /tasks with one, two and three replicas on one PostgreSQL, and a drain by one, two and three
//! instances of the audit service, which share six partitions.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use harness::{
    EVENTS, Error, Event, Postgres, Result, SOON, Service, World, create_topic, eventually, record,
};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::figures::{Figures, quantile};
use crate::http;

/// Of each replica.
const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const PARTITIONS: usize = 6;
/// Events of one produce.
const BATCH: usize = 500;
/// Longer than the topic takes to fill: the partitions stay with their owners meanwhile.
const LEASE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(300);

/// With 1, 2 and 3 of them.
const REPLICAS: [(usize, &str, &str); 3] = [
    (1, "1 replica: requests/s", "1 replica: p99 ms"),
    (2, "2 replicas: requests/s", "2 replicas: p99 ms"),
    (3, "3 replicas: requests/s", "3 replicas: p99 ms"),
];
const INSTANCES: [(usize, &str); 3] =
    [(1, "1 instance: events/s"), (2, "2 instances: events/s"), (3, "3 instances: events/s")];

/// Each replica has its own connections, each with one request in flight. Needs Debian's PostgreSQL.
pub async fn replicas(seconds: u64) -> Result<Figures> {
    let mut figures = Vec::new();
    for (count, rate, p99) in REPLICAS {
        let server = Postgres::start("")?;
        let Some(server) = server else { return Err(Error::failed("no PostgreSQL on this machine")) };
        let world = World::start().await?;
        let (mut apis, mut addresses) = (Vec::<Service>::new(), Vec::<SocketAddr>::new());
        for number in 0..count {
            let program = world.instance("task-api", &format!("replica{number}"));
            let (api, client) =
                world.start_api_as(program.env("DATABASE_URL", server.url("postgres"))).await?;
            client.delivered().await?;
            addresses.push(client.url().trim_start_matches("http://").parse().expect("an address"));
            apis.push(api);
        }
        let run = |time| {
            let until = Instant::now() + time;
            let loads = addresses.iter().map(|address| {
                let address = *address;
                std::thread::spawn(move || http::closed_loop(address, CONNECTIONS, until, usize::MAX, false))
            });
            let loads: Vec<_> = loads.collect();
            loads.into_iter().flat_map(|load| load.join().expect("the load does not fail")).collect()
        };
        let _: Vec<f64> = run(WARM_UP);
        let mut took: Vec<f64> = run(Duration::from_secs(seconds));
        figures.push((rate, took.len() as f64 / seconds as f64));
        figures.push((p99, quantile(&mut took, 0.99)));
    }
    Ok(figures)
}

/// The partitions are shared before there is an event; then the instances are paused until the topic is full, so that
/// all begin at once.
pub async fn instances(events: usize) -> Result<Figures> {
    let mut figures = Vec::new();
    for (count, name) in INSTANCES {
        let world = World::without_topics().await?;
        create_topic(&world.broker.bootstrap(), EVENTS, i32::try_from(PARTITIONS).expect("few")).await?;
        world.create_topics().await?;
        let http = harness::http()?;
        let mut group = Vec::new();
        for number in 0..count {
            group.push(Instance::start(&world, number)?);
        }
        let group = Group(group);
        let shared = async || {
            for instance in &group.0 {
                if instance.sum(&http, "task_events_partition_state{", "state=\"active\"").await
                    != Some((PARTITIONS / count) as f64)
                {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        };
        eventually("the partitions to be shared", SOON, shared).await?;
        group.signal(Signal::STOP);
        fill(&world.broker.bootstrap(), events).await?;
        let begun = Instant::now();
        group.signal(Signal::CONT);
        let mut handled = 0.0;
        while handled < events as f64 {
            if begun.elapsed() > LIMIT {
                return Err(Error::timeout("the end of the topic", LIMIT));
            }
            tokio::time::sleep(LOOK).await;
            handled = 0.0;
            for instance in &group.0 {
                let name = "messaging_client_consumed_messages_total{";
                handled += instance.sum(&http, name, "outcome=\"handled\"").await.unwrap_or_default();
            }
        }
        figures.push((name, events as f64 / begun.elapsed().as_secs_f64()));
    }
    Ok(figures)
}

/// An instance of the audit service, which writes to files only. Killed with its value.
struct Instance {
    child: Child,
    address: String,
}

impl Instance {
    fn start(world: &World, number: usize) -> Result<Self> {
        let name = format!("instance{number}");
        let file = world.path(&format!("{name}.stdout"));
        let stdout = File::create(&file).map_err(|error| Error::file(&file, error))?;
        let address = format!("127.0.0.1:{}", harness::free_port()?);
        let program = world.instance("audit-service", &name).env("HEALTH_ADDR", &address);
        let mut command = program.env("LEASE_MS", LEASE.as_millis()).command()?;
        let child = command.stdout(stdout).spawn().map_err(|error| Error::failed(error.to_string()))?;
        Ok(Self { child, address })
    }

    /// The sum of a metric's values with this label.
    async fn sum(&self, http: &reqwest::Client, name: &str, label: &str) -> Option<f64> {
        let answer = http.get(format!("http://{}/metrics", self.address)).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Some(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }
}

struct Group(Vec<Instance>);

impl Group {
    fn signal(&self, signal: Signal) {
        for instance in &self.0 {
            let pid = i32::try_from(instance.child.id()).ok().and_then(Pid::from_raw).expect("an id");
            kill_process(pid, signal).expect("it runs");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for instance in &mut self.0 {
            // It may have ended.
            let _ = instance.child.kill().and_then(|()| instance.child.wait());
        }
    }
}

/// As many events in each partition.
async fn fill(bootstrap: &str, events: usize) -> Result<()> {
    let fail = |error: rskafka::client::error::Error| Error::failed(format!("fill the topic: {error}"));
    let client = ClientBuilder::new(vec![bootstrap.to_owned()]).build().await.map_err(fail)?;
    for partition in 0..PARTITIONS {
        let number = i32::try_from(partition).expect("few");
        let to = client.partition_client(EVENTS, number, UnknownTopicHandling::Retry).await.map_err(fail)?;
        let all: Vec<usize> = (partition..events).step_by(PARTITIONS).collect();
        for batch in all.chunks(BATCH) {
            let records = batch.iter().map(|number| {
                let event = Event::created(&format!("task {number}"));
                let event = event.with("/event_id", Uuid::now_v7().to_string())?;
                Ok(record(Some(event.task_id().as_bytes()), Some(&event.bytes())))
            });
            to.produce(records.collect::<Result<_>>()?, Compression::NoCompression).await.map_err(fail)?;
        }
    }
    Ok(())
}
