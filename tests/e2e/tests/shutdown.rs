//! SIGTERM: what is in flight is finished, what waits is reported, and nothing is lost.

use chrono::DateTime;
use harness::{
    CONSUMERS, DLQ, EVENTS, Load, Outcome, Result, SOON, Service, Signal, World, alone, eventually,
};
use std::time::{Duration, Instant};

/// In which a consumer ends; on a machine that holds it up it may take as long as the second.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
const CONSUMER_STOP: Duration = Duration::from_secs(20);
/// The time that a stop has for its release: none is missed before it is over.
const RELEASE: Duration = Duration::from_secs(2);
/// How often a stop is tried again that the machine held up: it could not release, or took too long.
const TRIES: usize = 5;
/// Equal signals that a service sees within half a second of each other are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);
/// In which the API has to: 10 s to publish what waits, and the requests under way before.
const API_STOP: Duration = Duration::from_secs(20);

/// Stops a service in the middle of its work, and returns what it had committed then. `None`: the machine held it up.
async fn stopped_at_work(world: &World, name: &str, topic: &str) -> Result<Option<(Vec<String>, i64)>> {
    let mut service = world.program(name).start()?;
    world.committed_in(name, topic, 1).await?;
    let start = Instant::now();
    assert_eq!(service.terminate(CONSUMER_STOP).await?.code(), Some(0));
    let took = start.elapsed();
    println!("{name} stopped after {took:?}");
    let is_missed = service.missed_release();
    assert!(!is_missed || took >= RELEASE, "not released after {took:?}: {:?}", service.lines());
    if is_missed || took > STOPS_WITHIN {
        return Ok(None);
    }
    let offsets = world.offsets_in(name, topic).await?;
    let lines = service.lines();
    let others = || lines.iter().filter(|line| !line.contains("NOTIFICATION: ") && !line.contains("AUDIT: "));
    assert!(offsets.is_released(), "{:#?}", others().collect::<Vec<_>>());
    assert_eq!(service.count(": released "), 1);
    Ok(Some((lines, offsets.position().unwrap())))
}

#[tokio::test]
async fn a_consumer_commits_what_it_has_done_and_releases() -> Outcome {
    let _alone = alone().await;
    for name in ["notification-service", "audit-service"] {
        let (world, lines, position) = stopped_with(name, EVENTS, async |world| {
            for _ in 0..4 {
                world.produce_events(2_000).await?;
            }
            Ok(())
        })
        .await?;
        let done = match name {
            "audit-service" => world.audit_log()?.len(),
            _ => lines.iter().filter(|line| line.contains("NOTIFICATION: ")).count(),
        };
        assert_eq!(i64::try_from(done).unwrap(), position);
        println!("{name}: committed {position} of 8000");
    }
    Ok(())
}

/// Stops a service at that work, in a world of its own; and in another one where the machine held it up.
async fn stopped_with(
    name: &str,
    topic: &str,
    work: impl AsyncFn(&World) -> Result<()>,
) -> Result<(World, Vec<String>, i64)> {
    for _ in 0..TRIES {
        let world = World::start().await?;
        work(&world).await?;
        if let Some((lines, position)) = stopped_at_work(&world, name, topic).await? {
            return Ok((world, lines, position));
        }
    }
    panic!("{TRIES} stops in a row were held up");
}

#[tokio::test]
async fn the_dlq_processor_commits_what_it_has_done_and_releases() -> Outcome {
    let _alone = alone().await;
    let values: Vec<_> = (0..3_000).map(|n| format!("poison {n}")).collect();
    let values: Vec<_> = values.iter().map(|value| harness::record(None, Some(value.as_bytes()))).collect();
    let (_, lines, position) = stopped_with("dlq-processor", DLQ, async |world| {
        harness::produce(&world.broker.bootstrap(), DLQ, values.clone()).await.map(drop)
    })
    .await?;
    let told = lines.iter().filter(|line| line.contains("DLQ: group=unknown")).count();
    assert_eq!(i64::try_from(told).unwrap(), position);
    let totals = format!("DLQ totals: unknown/invalid_json={position}");
    assert!(lines.iter().any(|line| line.contains(&totals)), "no {totals}");
    Ok(())
}

#[tokio::test]
async fn a_consumer_stops_in_time_also_when_kafka_is_unreachable_or_hangs() -> Outcome {
    let _alone = alone().await;
    let mut world = World::start().await?;
    world.produce_events(10).await?;
    for name in CONSUMERS {
        let mut tries = 0;
        while !stops_without_kafka(&mut world, name).await? {
            tries += 1;
            assert!(tries < TRIES, "{name}: {TRIES} times in a row a stop took longer than {STOPS_WITHIN:?}");
        }
    }
    Ok(())
}

/// Stops a service whose Kafka hangs, one whose Kafka is away, and one that waits for Kafka at its start. Whether each took
/// no longer than it may.
async fn stops_without_kafka(world: &mut World, name: &str) -> Result<bool> {
    let mut took = Vec::new();
    let mut stop = async |service: &mut Service| -> Result<()> {
        let start = Instant::now();
        assert_eq!(service.terminate(CONSUMER_STOP).await?.code(), Some(0));
        took.push(start.elapsed());
        Ok(())
    };
    let mut service = world.program(name).start()?;
    service.wait_for_line(": claimed ", SOON).await?;
    world.broker.pause()?;
    stop(&mut service).await?;
    assert!(service.missed_release(), "{:?}", service.lines());
    world.broker.resume()?;

    service.restart()?;
    service.wait_for_line(": claimed ", SOON).await?;
    world.broker.kill9();
    stop(&mut service).await?;
    service.restart()?;
    service.wait_for_line("waiting for Kafka", SOON).await?;
    stop(&mut service).await?;
    world.broker.restart().await?;
    println!("{name} stopped after {took:?}");
    Ok(took.iter().all(|took| *took <= STOPS_WITHIN))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_finishes_its_requests_and_publishes_what_waits() -> Outcome {
    let _alone = alone().await;
    let world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    let _audit = world.program("audit-service").start()?;
    let mut load = Load::at_full_speed(api.url(), 32, 3_000)?;
    load.reached(1_500).await?;
    assert_eq!(service.terminate(API_STOP).await?.code(), Some(0));
    assert_eq!(service.count("relay stopped: all events are delivered"), 1);
    // Everything that was answered is there before the next start.
    let created = load.created();
    let records = world.topic(EVENTS).await?.len();
    assert!(records >= created, "{records} events, {created} tasks");
    service.restart()?;
    let answers = load.finish().await?;
    assert_eq!(answers.failures, 0);
    world.check_history(&api, answers).await?;
    Ok(())
}

#[tokio::test]
async fn without_kafka_the_api_says_what_is_left_and_delivers_it_after_the_next_start() -> Outcome {
    let mut world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    api.create("delivered").await?;
    api.delivered().await?;
    world.broker.kill9();
    for n in 0..20 {
        api.create(&format!("left {n}")).await?;
    }
    assert_eq!(service.terminate(API_STOP).await?.code(), Some(0));
    let left = "relay stopped: 20 events wait in the outbox and are delivered after the next start";
    assert_eq!(service.count(left), 1, "{:?}", service.lines());

    world.broker.restart().await?;
    service.restart()?;
    service.wait_for_line("20 events wait in the outbox", SOON).await?;
    api.delivered().await?;
    let titles =
        world.topic(EVENTS).await?.into_iter().map(|event| Ok(event.json()?["data"]["title"].clone()));
    let titles = titles.collect::<Result<Vec<_>>>()?;
    let expected: Vec<_> = (0..20).map(|n| format!("left {n}")).collect();
    assert_eq!(titles[0], "delivered");
    assert_eq!(titles[1..], expected);
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> Outcome {
    let mut world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    world.broker.kill9();
    api.create("left").await?;
    service.signal(Signal::INT)?;
    service.wait_for_line("a second signal stops at once", SOON).await?;
    service.signal(Signal::TERM)?;
    assert_eq!(service.wait_exit(CONSUMER_STOP).await?.code(), Some(130));

    world.broker.restart().await?;
    service.restart()?;
    api_is_up(&mut service).await?;
    api.delivered().await?;
    assert_eq!(world.topic(EVENTS).await?.len(), 1);
    Ok(())
}

/// GNU timeout signals the child and then its group: the child gets two within microseconds.
#[tokio::test]
async fn two_equal_signals_within_a_moment_are_one_wish() -> Outcome {
    let world = World::start().await?;
    world.produce_events(10).await?;
    for name in CONSUMERS {
        let mut tries = 0;
        while !two_signals_are_one(&world, name).await? {
            tries += 1;
            assert!(tries < TRIES, "{name}: {TRIES} stops in a row were held up");
        }
    }
    Ok(())
}

/// `false`: the machine held it up, so that it could not release, or saw the second signal long after the first.
async fn two_signals_are_one(world: &World, name: &str) -> Result<bool> {
    let mut service = world.program(name).start()?;
    service.wait_for_line(": claimed ", SOON).await?;
    service.signal_times(Signal::TERM, 2)?;
    let code = service.wait_exit(CONSUMER_STOP).await?.code();
    if service.missed_release() || between_signals(&service) >= Some(SAME_WISH) {
        return Ok(false);
    }
    assert_eq!(code, Some(0), "{:?}", service.lines());
    assert_eq!(service.count(": released "), 1, "{:?}", service.lines());
    Ok(true)
}

/// How long after the first signal a service stopped at a second one, as it logged both.
fn between_signals(service: &Service) -> Option<Duration> {
    let lines = service.lines();
    let time = |part: &str| {
        let line = lines.iter().find(|line| line.contains(part))?;
        DateTime::parse_from_rfc3339(line.split_once(' ')?.0).ok()
    };
    let (first, second) = (time("SIGTERM: stopping in order")?, time("SIGTERM again: stopping at once")?);
    (second - first).to_std().ok()
}

#[tokio::test]
async fn an_equal_signal_after_a_moment_ends_it_at_once() -> Outcome {
    let mut world = World::start().await?;
    let (mut service, api) = world.start_api().await?;
    world.broker.kill9();
    api.create("left").await?;
    service.signal(Signal::TERM)?;
    service.wait_for_line("a second signal stops at once", SOON).await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    service.signal(Signal::TERM)?;
    service.wait_for_line("SIGTERM again: stopping at once", SOON).await?;
    assert_eq!(service.wait_exit(CONSUMER_STOP).await?.code(), Some(130));
    Ok(())
}

async fn api_is_up(service: &mut harness::Service) -> Result<()> {
    let url = service.url().await?;
    let up = async || Ok(harness::http()?.get(format!("{url}/healthz")).send().await.ok());
    eventually("the API to answer", SOON, up).await?;
    Ok(())
}
