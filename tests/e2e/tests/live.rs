//! The live page's stream, where its watchers or its topics are not as they should be.

use harness::{
    Api, Broker, DLQ, EVENTS, KafkaTools, Method, OFFSETS, Outcome, Result, SOON, Script, World, eventually,
};
use harness::{Load, LoadConfig};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

/// Watchers that never read what they are sent.
const SILENT: usize = 100;
/// How long they are sent events, at a rate that one core takes.
const LOAD: Duration = Duration::from_secs(8);
const RATE: u32 = 400;
/// What the API may need more with them: messages are shared, and what waits for each is bounded.
const MOST_MORE: u64 = 48 << 20;
/// Changes of each client, and looks at the metrics of others, beside which tasks are traced.
const CHANGES: usize = 300;
const TRACES: usize = 40;

/// A value of `/metrics`.
async fn metric(api: &Api, name: &str) -> Result<f64> {
    let text = harness::http()?.get(format!("{}/metrics", api.url())).send().await?.text().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(line.unwrap_or_else(|| panic!("no {name} in {text}")))
}

/// Reads the stream until a message has the text. A stream that was cut is begun again, as a browser does.
async fn streams(api: &Api, wanted: &str) -> Result<()> {
    let url = format!("{}/live/stream", api.url());
    let reading = async {
        loop {
            let mut stream = harness::http()?.get(&url).send().await?;
            let mut last = Vec::new();
            while let Ok(Some(chunk)) = stream.chunk().await {
                last.extend_from_slice(&chunk);
                if String::from_utf8_lossy(&last).contains(wanted) {
                    return Ok(());
                }
                let keep = last.len().saturating_sub(wanted.len());
                last.drain(..keep);
            }
        }
    };
    let read = tokio::time::timeout(SOON, reading).await;
    read.unwrap_or_else(|_| panic!("no message with {wanted:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_read_nothing_cost_a_bounded_amount_and_hold_up_nobody() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let address = api.url().trim_start_matches("http://").parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        let socket = TcpSocket::new_v4().unwrap();
        // So that little of it is in the system's own buffers.
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET /live/stream HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    streams(&api, "event: tick").await?;
    let before = metric(&api, "process_resident_memory_bytes ").await?;
    let script = Script::Random { seed: 1 };
    let config = LoadConfig::new(api.url(), 8, Some(RATE), script);
    let mut load = Load::start(config, true)?;
    tokio::time::sleep(LOAD).await;
    let answers = load.finish().await?;
    assert_eq!((answers.failures, answers.unanswered), (0, 0));
    let slowest = answers.requests.iter().map(|request| request.ended - request.sent).max().unwrap();
    println!("the slowest request took {slowest} µs");
    assert!(slowest < 30_000_000, "a request took {slowest} µs");
    // One that reads sees what comes now.
    let created = Instant::now();
    let creates = async || -> Result<()> {
        loop {
            api.create("the last one").await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        shown = streams(&api, "the last one") => shown?,
        failed = creates() => failed?,
    }
    println!("shown after {:?}", created.elapsed());
    let more = metric(&api, "process_resident_memory_bytes ").await? - before;
    assert!(more < MOST_MORE as f64, "{more} bytes more");
    drop(silent);
    let gone = async || Ok((metric(&api, "http_server_open_connections ").await? < 20.0).then_some(()));
    eventually("the silent ones to be gone", SOON, gone).await?;
    Ok(())
}

/// A trace reads counters that each change moves: it must not keep them while it waits for anything.
#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_hold_up_no_change() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let changes = async || -> Result<()> {
        for _ in 0..CHANGES {
            api.create("one of many").await?;
        }
        Ok(())
    };
    // Of tasks whose events wait as a rule: then the store is asked for them.
    let traces = async || -> Result<()> {
        for _ in 0..TRACES {
            let task = api.create("traced at once").await?;
            let path = format!("/live/trace/{}", task["id"].as_str().unwrap());
            assert_eq!(api.request(Method::GET, &path).send().await?.status(), 200);
        }
        Ok(())
    };
    let metrics = async || -> Result<()> {
        for _ in 0..CHANGES {
            assert_eq!(api.request(Method::GET, "/metrics").send().await?.status(), 200);
        }
        Ok(())
    };
    tokio::try_join!(
        changes(),
        changes(),
        changes(),
        changes(),
        traces(),
        traces(),
        metrics(),
        metrics(),
        metrics(),
        metrics()
    )?;
    Ok(())
}

#[tokio::test]
async fn a_topic_that_is_missing_is_named_on_the_page_and_the_rest_is_shown() -> Outcome {
    let world = World::start().await?;
    for variable in ["TASK_EVENTS_TOPIC", "OFFSETS_TOPIC", "DLQ_TOPIC"] {
        let program = world.program("task-api").env(variable, "nothing");
        let (_service, api) =
            world.start_api_as(program.env("STATE_DIR", world.path(variable).display())).await?;
        api.create("stored").await?;
        streams(&api, "topic nothing does not exist: create it with `taskctl topics create`").await?;
    }
    Ok(())
}

/// Only with `E2E_BROKER=kafka`: the dev broker has no ACLs.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_on_the_page() -> Outcome {
    let authorizer = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
    ];
    let Some(broker) = Broker::start_kafka_with(&authorizer).await? else { return Ok(()) };
    let world = World::on(broker).await?;
    let tools: KafkaTools = world.kafka_tools().unwrap();
    let (_service, api) = world.start_api().await?;
    for topic in [EVENTS, OFFSETS, DLQ] {
        let acl = ["--allow-principal", "User:ANONYMOUS", "--topic", topic, "--operation", "Describe"];
        tools.run("org.apache.kafka.tools.AclCommand", &[&["--add"], &acl[..]].concat()).await?;
        streams(&api, "grant Read and Describe on it").await?;
        tools.run("org.apache.kafka.tools.AclCommand", &["--remove", "--force", "--topic", topic]).await?;
    }
    Ok(())
}
