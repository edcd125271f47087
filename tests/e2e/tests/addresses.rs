//! Addresses of Kafka that are of no use, in front of one that is.

use harness::{DroppingPort, Outcome, SOON, World, eventually, read_audit_log};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Bootstrap addresses of which the first is of no use, each in another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_address_that_is_dead_costs_nothing() -> Outcome {
    let world = World::start().await?;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap()
    };
    // A full accept queue drops connection attempts, as a firewall would.
    let dropping = DroppingPort::open()?;
    let firsts = [silent.local_addr().unwrap().to_string(), refusing.to_string(), dropping.address()];
    let good = world.broker.bootstrap();
    for first in &firsts {
        let bootstrap = format!("{first},{good}");
        let state = world.path(&format!("state-{}", first.replace(':', "-")));
        let program = |name: &str| {
            world.program(name).env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap).env("STATE_DIR", state.display())
        };
        let group = format!("audit-{}", first.replace([':', '.'], "-"));
        let log = world.path(&format!("{group}.log"));
        let (_api, client) = world.start_api_as(program("task-api")).await?;
        let _audit =
            program("audit-service").env("GROUP", &group).env("AUDIT_LOG_PATH", log.display()).start()?;
        let mut times = Vec::new();
        for n in 0..10 {
            let title = format!("{group} {n}");
            client.create(&title).await?;
            let start = Instant::now();
            let there = async || {
                Ok(read_audit_log(&log)?.iter().any(|line| line["data"]["title"] == *title).then_some(()))
            };
            eventually(&format!("{title} in the audit log"), SOON, there).await?;
            if n > 0 {
                times.push(start.elapsed());
            }
            sleep(Duration::from_millis(300)).await;
        }
        times.sort_unstable();
        println!("{first} first: {times:?} from POST to audit line");
        // A busy machine may hold up some of them, an address that costs something all.
        let median = times[times.len() / 2];
        assert!(median < Duration::from_secs(3), "{first} first: {times:?} from POST to audit line");
    }
    Ok(())
}
