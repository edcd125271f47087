//! The reader on three Apache Kafka brokers, one of which hangs, dies or comes back with less than it had.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::Cluster;
use task_events::kafka::{
    Compression, Jump, JumpReason, Kafka, OffsetAt, PartitionReader, Position, ProducerRecord, ReadEvent,
    TopicReader,
};
use tokio::time::{Instant, sleep, timeout};

const TOPIC: &str = "read-path";
const LIMIT: Duration = Duration::from_secs(120);
/// What a reader may add to the time that Kafka itself takes, on a busy machine.
const DELAY: Duration = Duration::from_secs(3);

fn kafka(bootstrap: &str) -> Kafka {
    Kafka::new(bootstrap.split(',').map(str::to_owned).collect(), "read-path")
}

/// Produces until it is acknowledged: copies do not matter here.
async fn produce(kafka: &Kafka, partition: i32, count: usize) -> i64 {
    let record = ProducerRecord {
        key: None,
        value: Some(b"x".to_vec()),
        headers: BTreeMap::new(),
        timestamp: chrono::Utc::now(),
    };
    let records = vec![record; count];
    let writer = kafka.producer(TOPIC, partition);
    let produced = async {
        loop {
            match writer.produce(&records, Compression::NoCompression).await {
                Ok(offsets) => return offsets[0],
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(LIMIT, produced).await.expect("produced")
}

/// Reads up to the offset: the jumps on the way and the last position.
async fn read_to(reader: &mut PartitionReader, offset: i64) -> (Vec<Jump>, Position) {
    let mut jumps = Vec::new();
    let reading = async {
        loop {
            match reader.next().await {
                ReadEvent::Fetched(fetched) if fetched.next_offset >= offset => {
                    return Position {
                        offset: fetched.next_offset,
                        leader_epoch: fetched.leader_epoch,
                        topic_id: fetched.topic_id,
                    };
                }
                ReadEvent::Jumped(jump) => jumps.push(jump),
                ReadEvent::Failing(error) => eprintln!("partition {}: {error}", reader.partition()),
                ReadEvent::Fetched(_) => {}
            }
        }
    };
    let position = timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("not read to {offset}"));
    (jumps, position)
}

async fn led_by_another(kafka: &Kafka, than: i32) {
    let elected = async {
        loop {
            let leader = kafka.topic(TOPIC).await.ok().and_then(|topic| topic.partition(0)?.leader);
            if leader.is_some_and(|leader| leader != than) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, elected).await.expect("another leader");
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_once_another_leads_and_the_others_are_read_meanwhile() {
    let Some(mut cluster) = Cluster::start().await.unwrap() else { return };
    cluster.create_topic(TOPIC, &[&[1, 2, 3], &[2, 3, 1], &[3, 2, 1]], &[]).await.unwrap();
    let (reading, writing) = (kafka(&cluster.bootstrap()), kafka(&cluster.bootstrap()));
    let reader = TopicReader::new(&reading, TOPIC);
    let mut readers = [0, 1, 2].map(|number| reader.partition(number, Position::at(0)));
    let mut ends = [0; 3];
    for (number, reader) in (0..).zip(&mut readers) {
        let end = produce(&writing, number, 10).await + 10;
        ends[usize::try_from(number).unwrap()] = end;
        read_to(reader, end).await;
    }
    cluster.pause(1).unwrap();
    let paused = Instant::now();
    led_by_another(&writing, 1).await;
    let elected = Instant::now();
    eprintln!("another leader after {:?}", paused.elapsed());
    for (number, reader) in (0..).zip(&mut readers) {
        let end = produce(&writing, number, 10).await + 10;
        let acknowledged = Instant::now();
        let (jumps, _) = read_to(reader, end).await;
        eprintln!(
            "partition {number} read {:?} after the acknowledgement, {:?} after the election",
            acknowledged.elapsed(),
            elected.elapsed()
        );
        assert!(acknowledged.elapsed() < DELAY, "{:?}", acknowledged.elapsed());
        assert!(jumps.is_empty(), "{jumps:?}");
    }
    cluster.resume(1).unwrap();
}

#[tokio::test]
async fn brokers_that_were_discovered_serve_when_the_bootstrap_broker_is_gone() {
    let Some(mut cluster) = Cluster::start().await.unwrap() else { return };
    cluster.create_topic(TOPIC, &[&[2, 3], &[3, 2]], &[("min.insync.replicas", "1")]).await.unwrap();
    let kafka = kafka(&cluster.address(1).unwrap());
    let reader = TopicReader::new(&kafka, TOPIC);
    let mut readers = [0, 1].map(|number| reader.partition(number, Position::at(0)));
    let writing = self::kafka(&cluster.bootstrap());
    for (number, reader) in (0..).zip(&mut readers) {
        let end = produce(&writing, number, 10).await + 10;
        read_to(reader, end).await;
    }
    cluster.kill9(1).unwrap();
    let asked = Instant::now();
    assert_eq!(kafka.topic(TOPIC).await.unwrap().partitions.len(), 2);
    assert!(kafka.list_offset(TOPIC, 1, OffsetAt::LogEnd).await.unwrap() >= 10);
    assert!(asked.elapsed() < DELAY, "{:?}", asked.elapsed());
    for (number, reader) in (0..).zip(&mut readers) {
        let end = produce(&writing, number, 10).await + 10;
        let acknowledged = Instant::now();
        read_to(reader, end).await;
        assert!(acknowledged.elapsed() < DELAY, "{:?}", acknowledged.elapsed());
    }
    // A second one dies: its partition goes to the third, whatever the bootstrap addresses are.
    let live = kafka.live_brokers().await.unwrap();
    assert!(
        live.contains(&cluster.address(2).unwrap()) && live.contains(&cluster.address(3).unwrap()),
        "{live:?}"
    );
}

#[tokio::test]
async fn a_log_that_was_truncated_and_has_grown_again_is_noticed_while_it_is_read_and_at_a_start() {
    let Some(mut cluster) = Cluster::start().await.unwrap() else { return };
    let configs = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    cluster.create_topic(TOPIC, &[&[1, 2]], &configs).await.unwrap();
    let kafka = kafka(&cluster.bootstrap());
    let mut running = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
    let common = produce(&kafka, 0, 10).await + 10;
    read_to(&mut running, common).await;
    cluster.kill9(2).unwrap();
    let end = produce(&kafka, 0, 20).await + 20;
    let (_, before) = read_to(&mut running, end).await;
    cluster.kill9(1).unwrap();
    cluster.restart(2).await.unwrap();
    led_by_another(&kafka, 1).await;
    // Longer than it was, so that the old position is in it.
    let end = produce(&kafka, 0, 100).await + 100;
    assert!(end > before.offset, "{end}");

    let (jumps, _) = read_to(&mut running, end).await;
    let reason = |jump: &Jump| (jump.from, jump.to, jump.reason);
    let expected = (before.offset, common, JumpReason::Truncated);
    assert_eq!(jumps.iter().map(reason).collect::<Vec<_>>(), [expected]);
    let mut started = TopicReader::new(&kafka, TOPIC).partition(0, before);
    let (jumps, _) = read_to(&mut started, end).await;
    assert_eq!(jumps.iter().map(reason).collect::<Vec<_>>(), [expected]);
}
