//! The harness itself: a test that leans on it should not have to doubt it.

use harness::{
    Broker, KafkaTools, Kind, Outcome, Process, Program, Result, SOON, create_topic, eventually, produce,
    read_topic, record,
};
use std::process::Command;
use std::time::{Duration, Instant};

async fn values(broker: &Broker, topic: &str) -> Result<Vec<String>> {
    let records = read_topic(&broker.bootstrap(), topic).await?;
    let text = |value: Option<Vec<u8>>| String::from_utf8(value.expect("a value")).expect("text");
    Ok(records.into_iter().map(|one| text(one.record.value)).collect())
}

#[tokio::test]
async fn an_acknowledged_record_outlives_kill_9_and_a_stop_of_the_broker() -> Outcome {
    let mut broker = Broker::start().await?;
    let bootstrap = broker.bootstrap();
    create_topic(&bootstrap, "kept", 1).await?;
    assert_eq!(produce(&bootstrap, "kept", vec![record(Some(b"k"), Some(b"first"))]).await?, [0]);

    broker.kill9();
    assert!(std::net::TcpStream::connect(&bootstrap).is_err());
    broker.restart().await?;
    assert_eq!(broker.bootstrap(), bootstrap);
    assert_eq!(values(&broker, "kept").await?, ["first"]);

    assert_eq!(produce(&bootstrap, "kept", vec![record(Some(b"k"), Some(b"second"))]).await?, [1]);
    broker.stop().await?;
    broker.restart().await?;
    assert_eq!(values(&broker, "kept").await?, ["first", "second"]);
    Ok(())
}

#[tokio::test]
async fn a_paused_broker_answers_when_it_is_resumed() -> Outcome {
    let mut broker = Broker::start().await?;
    let bootstrap = broker.bootstrap();
    create_topic(&bootstrap, "slow", 1).await?;
    broker.pause()?;
    let start = Instant::now();
    let produced =
        tokio::spawn(async move { produce(&bootstrap, "slow", vec![record(None, Some(b"late"))]).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!produced.is_finished());
    broker.resume()?;
    assert_eq!(produced.await??, [0]);
    assert!(start.elapsed() >= Duration::from_millis(700));
    Ok(())
}

#[tokio::test]
async fn a_topic_is_never_made_by_accident() -> Outcome {
    let broker = Broker::start().await?;
    let bootstrap = broker.bootstrap();
    let error = read_topic(&bootstrap, "absent").await.unwrap_err();
    assert!(error.to_string().contains("no topic absent"), "{error}");
    create_topic(&broker.bootstrap(), "present", 3).await?;
    assert_eq!(values(&broker, "present").await?, [] as [&str; 0]);
    Ok(())
}

#[tokio::test]
async fn kafkas_own_tools_see_what_the_harness_wrote() -> Outcome {
    let broker = Broker::start().await?;
    let bootstrap = broker.bootstrap();
    let Some(tools) = KafkaTools::find(&bootstrap) else { return Ok(()) };
    create_topic(&bootstrap, "seen", 1).await?;
    let records = vec![record(Some(b"k1"), Some("wäre".as_bytes())), record(Some(b"k2"), None)];
    produce(&bootstrap, "seen", records).await?;

    let records = tools.console_consumer("seen", 2, Duration::from_secs(10)).await?;
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!((records[0].offset, records[0].key.as_deref()), (0, Some("k1")));
    assert_eq!(records[0].value.as_deref(), Some("wäre"));
    assert_eq!((records[1].offset, records[1].value.as_deref()), (1, None));

    assert!(tools.topics(&["--list"]).await?.lines().any(|line| line == "seen"));
    assert_eq!(tools.consumer_groups_describe("nobody").await?, []);
    Ok(())
}

#[tokio::test]
async fn compaction_can_be_provoked() -> Outcome {
    let broker = Broker::start().await?;
    let bootstrap = broker.bootstrap();
    let Some(tools) = KafkaTools::find(&bootstrap) else { return Ok(()) };
    let configs = ["cleanup.policy=compact", "segment.ms=1000", "min.cleanable.dirty.ratio=0.001"];
    let mut create = vec!["--create", "--topic", "compact"];
    create.extend(configs.iter().flat_map(|config| ["--config", config]));
    tools.topics(&create).await?;
    let rewritten = async || {
        // Each write closes the segment of the one before, if that is a second old.
        produce(&bootstrap, "compact", vec![record(Some(b"k"), Some(b"v"))]).await?;
        let records = read_topic(&bootstrap, "compact").await?;
        let gap = records.windows(2).any(|pair| pair[0].offset + 1 < pair[1].offset);
        Ok((gap || records[0].offset > 0).then_some(()))
    };
    eventually("an older record of a key to be gone", Duration::from_secs(60), rewritten).await?;
    Ok(())
}

#[tokio::test]
async fn a_program_is_built_run_and_run_again() -> Outcome {
    let limit = Duration::from_secs(20);
    let version = Program::new("devbroker").arg("--version");
    assert!(version.run(limit).await?.stdout.starts_with("devbroker "));
    let wrong = Program::new("devbroker").arg("--no-such-flag").run(limit).await?;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    let mut service = version.start()?;
    service.wait_for_line("devbroker ", limit).await?;
    assert!(service.wait_exit(limit).await?.success());
    service.restart()?;
    assert!(service.wait_exit(limit).await?.success());
    assert_eq!((service.count("devbroker "), service.history().len()), (1, 2));
    Ok(())
}

#[tokio::test]
async fn a_line_that_cannot_come_any_more_is_not_waited_for() -> Outcome {
    let mut service = Program::new("devbroker").arg("--version").start()?;
    let error = service.wait_for_line("no such line", Duration::from_secs(60)).await.unwrap_err();
    assert!(error.to_string().contains("ended before it wrote"), "{error}");
    Ok(())
}

/// What a broker is taken for has to be this very process.
#[tokio::test]
async fn a_broker_on_a_port_that_another_has_is_an_error() -> Outcome {
    let kind = Kind::from_env()?;
    let one = Broker::start_kind(kind).await?;
    let port = one.bootstrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let other = Broker::start_on(kind, port, port).await;
    assert!(other.is_err_and(|error| error.to_string().contains("ended")));
    Ok(())
}

#[tokio::test]
async fn what_a_process_wrote_is_counted_as_soon_as_its_effect_is_seen() -> Outcome {
    const LINES: usize = 20_000;
    let folder = tempfile::tempdir()?;
    let done = folder.path().join("done");
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; done; touch {}; sleep 600",
        done.display()
    );
    for _ in 0..3 {
        let process = Process::spawn("sh", Command::new("sh").args(["-c", &script]))?;
        eventually("the effect", SOON, async || Ok(done.exists().then_some(()))).await?;
        process.settled().await?;
        assert_eq!(process.count("line "), LINES);
        std::fs::remove_file(&done)?;
    }
    Ok(())
}
