//! Publishing against the world: quotas, a cluster that is unreachable, and what is logged meanwhile.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use harness::{Cluster, EVENTS, Kind, Outcome, SOON, World, alone, eventually, keys};
use tokio::time::sleep;

/// Bytes a second that the API may produce, and tasks whose events are many times as much: more than the broker
/// lets through at first (the quota of 11 s) and in the last request (512 KiB), whose throttling nobody feels.
const QUOTA: &str = "producer_byte_rate=40000";
const TASKS: usize = 1_600;

/// A client that takes a throttled answer for a failure sends everything twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_quota_makes_no_copies() -> Outcome {
    let _alone = alone().await;
    let world = World::start().await?;
    let Some(tools) = world.kafka_tools().filter(|_| world.broker.kind() == Kind::Kafka) else {
        return Ok(());
    };
    let quota = ["--alter", "--add-config", QUOTA, "--entity-type", "clients", "--entity-name", "task-api"];
    tools.run("kafka.admin.ConfigCommand", &quota).await?;
    let (_service, api) = world.start_api().await?;
    let started = Instant::now();
    for number in 0..TASKS {
        api.create(&format!("{number:04}: {}", "x".repeat(400))).await?;
    }
    let published = async || {
        let (_, ready) = api.readiness().await?;
        Ok((ready["outbox"]["waiting"] == 0).then_some(()))
    };
    eventually("all events to be published", Duration::from_secs(180), published).await?;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(10), "the quota was not felt: {took:?}");
    let records = world.topic(EVENTS).await?;
    let keys = keys(&records)?;
    assert_eq!(keys.len(), TASKS, "each once");
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), TASKS);
    assert!(keys.is_sorted(), "in the order of their creation");
    Ok(())
}

/// Each reason once, and those that last again every half minute.
fn most_warnings(began: Instant) -> usize {
    usize::try_from(3 + 2 * (began.elapsed().as_secs() / 30)).unwrap()
}

/// One line for what lasts, and one when it is over; readiness does not flap.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_reported_once_and_so_is_its_end() -> Outcome {
    let _alone = alone().await;
    let mut world = World::start().await?;
    let (service, api) = world.start_api().await?;
    api.create("before").await?;
    api.delivered().await?;
    assert_eq!(service.count("cannot publish"), 0);

    let began = Instant::now();
    world.broker.kill9();
    for number in 0..20 {
        api.create(&format!("meanwhile {number}")).await?;
    }
    let reported = async || {
        let (_, ready) = api.readiness().await?;
        Ok((service.count("cannot publish") > 0 && ready["kafka"]["reachable"] == false).then_some(()))
    };
    eventually("the outage to be reported", SOON, reported).await?;
    for _ in 0..40 {
        let (_, ready) = api.readiness().await?;
        assert_eq!(ready["kafka"]["reachable"], false, "{ready}");
        assert!(ready["kafka"]["waiting_for"].is_string(), "{ready}");
        sleep(Duration::from_millis(100)).await;
    }
    world.broker.restart().await?;
    api.delivered().await?;
    let recovered =
        async || Ok((service.count("Kafka takes events for task-events again after") == 1).then_some(()));
    eventually("the recovery to be reported", SOON, recovered).await?;
    let lines = service.lines();
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("cannot publish")).collect();
    // Refused connections, and what was in flight.
    assert!(warnings.len() <= most_warnings(began), "{warnings:#?}");
    let end = lines.iter().find(|line| line.contains("again after")).unwrap();
    assert!(end.contains("up to 20 events waited"), "{end}");
    Ok(())
}

/// Too few replicas are in sync for as long as a broker is down: said once, and readiness does not flap.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_in_sync_are_reported_once() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    cluster.create_topic(EVENTS, &[&[1, 2, 3]], &[("min.insync.replicas", "3")]).await?;
    let mut world = World::on(cluster).await?;
    let (service, api) = world.start_api().await?;
    api.create("before").await?;
    api.delivered().await?;

    let began = Instant::now();
    world.broker.kill9(3)?;
    for number in 0..20 {
        api.create(&format!("meanwhile {number}")).await?;
    }
    let refused = async || {
        let (_, ready) = api.readiness().await?;
        Ok(ready["kafka"]["waiting_for"].to_string().contains("min.insync.replicas").then_some(()))
    };
    eventually("the reason in readiness", SOON, refused).await?;
    for _ in 0..150 {
        let (_, ready) = api.readiness().await?;
        assert_eq!(ready["kafka"]["reachable"], true, "{ready}");
        assert!(ready["kafka"]["waiting_for"].is_string(), "{ready}");
        sleep(Duration::from_millis(100)).await;
    }
    // What waits for its replicas, and what a broker said to it.
    let reported = service.count("cannot publish");
    assert!((1..=most_warnings(began)).contains(&reported), "{reported} lines in {:?}", began.elapsed());

    world.broker.restart(3).await?;
    world.broker.in_sync(EVENTS).await?;
    api.delivered().await?;
    assert_eq!(world.topic(EVENTS).await?.len(), 21, "each once");
    Ok(())
}
