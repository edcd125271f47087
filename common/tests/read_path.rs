//! The reader against a broker of its own, dev broker or Apache Kafka as `E2E_BROKER` says, with whatever
//! other producers and administrators do to a topic.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Broker, Transaction, delete_topic, produce_with_headers};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;
use task_events::kafka::{
    Compression, Isolation, Jump, JumpReason, Kafka, NewTopic, OffsetAt, PartitionReader, Position,
    ProducerRecord, ReadEvent, TopicReader,
};
use tokio::time::{sleep, timeout};

const TOPIC: &str = "read-path";
const LIMIT: Duration = Duration::from_secs(60);

fn kafka(broker: &Broker) -> Kafka {
    Kafka::new(vec![broker.bootstrap()], "read-path")
}

async fn create(kafka: &Kafka, partitions: i32, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: TOPIC.to_owned(), partitions, replication_factor: 1, configs };
    // A topic that is being deleted is there for a moment still.
    let created = async {
        while kafka.admin().create_topic(&topic).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, created).await.unwrap();
}

async fn produce(kafka: &Kafka, partition: i32, values: &[String]) -> i64 {
    let record = |value: &String| ProducerRecord {
        key: None,
        value: Some(value.clone().into_bytes()),
        headers: BTreeMap::new(),
        timestamp: chrono::Utc::now(),
    };
    let records: Vec<_> = values.iter().map(record).collect();
    let writer = kafka.producer(TOPIC, partition);
    let produced = async {
        loop {
            match writer.produce(&records, Compression::NoCompression).await {
                Ok(offsets) => return offsets[0],
                // The topic was just created.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(LIMIT, produced).await.unwrap()
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number}")).collect()
}

/// What a reader brought.
#[derive(Debug, Default)]
struct Read {
    values: Vec<(i64, String)>,
    jumps: Vec<Jump>,
    position: Position,
    last_stable_offset: i64,
    high_watermark: i64,
}

impl Read {
    fn take(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Fetched(fetched) => {
                for batch in &fetched.batches {
                    for record in batch.records() {
                        let record = record.unwrap();
                        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
                        self.values.push((record.offset, value.into_owned()));
                    }
                }
                self.position = Position {
                    offset: fetched.next_offset,
                    leader_epoch: fetched.leader_epoch.or(self.position.leader_epoch),
                    topic_id: fetched.topic_id,
                };
                self.last_stable_offset = fetched.last_stable_offset;
                self.high_watermark = fetched.high_watermark;
            }
            ReadEvent::Jumped(jump) => self.jumps.push(jump),
            ReadEvent::Failing(error) => eprintln!("failing: {error}"),
        }
    }

    fn texts(&self) -> Vec<&str> {
        self.values.iter().map(|(_, value)| value.as_str()).collect()
    }
}

/// Reads until it holds.
async fn read_until(reader: &mut PartitionReader, what: &str, holds: impl Fn(&Read) -> bool) -> Read {
    let mut read = Read::default();
    let reading = async {
        while !holds(&read) {
            read.take(reader.next().await);
        }
    };
    let in_time = timeout(LIMIT, reading).await.is_ok();
    assert!(in_time, "not within {LIMIT:?}: {what}; read {read:?}");
    read
}

async fn read_count(reader: &mut PartitionReader, count: usize) -> Read {
    read_until(reader, &format!("{count} records"), |read| read.values.len() >= count).await
}

#[tokio::test]
async fn records_of_every_codec_are_read() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    for codec in ["producer", "gzip", "snappy", "lz4", "zstd"] {
        create(&kafka, 1, &[("compression.type", codec)]).await;
        let values = numbered(codec, 1_000);
        produce(&kafka, 0, &values[..700]).await;
        let mut reader = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
        let first = read_count(&mut reader, 700).await;
        produce(&kafka, 0, &values[700..]).await;
        let second = read_count(&mut reader, 300).await;
        assert_eq!([first.texts(), second.texts()].concat(), values, "{codec}");
        assert_eq!(second.position.offset, 1_000);
        assert!(first.jumps.is_empty() && second.jumps.is_empty());
        delete_topic(&broker.bootstrap(), TOPIC).await.unwrap();
    }
}

#[tokio::test]
async fn null_header_values_and_repeated_names_are_kept() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("x", 1)).await;
    let headers = [("a", Some(b"1".as_slice())), ("b", None)];
    produce_with_headers(&broker.bootstrap(), TOPIC, b"v", &headers).await.unwrap();
    let mut range = kafka.read_range(TOPIC, 0, 1, 2);
    let fetched = range.next().await.unwrap().unwrap();
    let record = fetched.batches[0].records().next().unwrap().unwrap();
    let read: Vec<_> = record
        .headers
        .iter()
        .map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec)))
        .collect();
    assert_eq!(read, [(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)]);
    assert!(range.next().await.is_none());
}

#[tokio::test]
async fn transactions_are_read_as_read_committed_reads_them() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    let bootstrap = broker.bootstrap();
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("before", 1)).await;
    let mut aborted = Transaction::begin(&bootstrap, "aborted", TOPIC, 0).await.unwrap();
    aborted.send(&[b"aborted 0", b"aborted 1"]).await.unwrap();
    produce(&kafka, 0, &numbered("while open", 1)).await;
    let mut committed = Transaction::begin(&bootstrap, "committed", TOPIC, 0).await.unwrap();
    committed.send(&[b"committed 0"]).await.unwrap();

    let mut reader = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
    let held = read_until(&mut reader, "the open transaction", |read| read.high_watermark == 5).await;
    assert_eq!((held.texts(), held.position.offset, held.last_stable_offset), (vec!["before 0"], 1, 1));
    for _ in 0..3 {
        let ReadEvent::Fetched(fetched) = reader.next().await else { panic!("no fetch") };
        assert_eq!(
            (fetched.next_offset, fetched.batches.len()),
            (1, 0),
            "an answer without records moves nothing"
        );
    }
    assert_eq!(kafka.list_offset(TOPIC, 0, OffsetAt::LastStable).await.unwrap(), 1);
    assert_eq!(kafka.list_offset(TOPIC, 0, OffsetAt::Latest).await.unwrap(), 5);
    let all = TopicReader::with_isolation(&kafka, TOPIC, Isolation::Uncommitted);
    let all = read_count(&mut all.partition(0, Position::at(0)), 5).await;
    assert_eq!(all.texts(), ["before 0", "aborted 0", "aborted 1", "while open 0", "committed 0"]);

    aborted.abort().await.unwrap();
    let rest = read_until(&mut reader, "the end of the first", |read| read.position.offset >= 4).await;
    assert_eq!(rest.texts(), ["while open 0"]);
    committed.commit().await.unwrap();
    let rest = read_until(&mut reader, "the end of the second", |read| read.position.offset >= 7).await;
    assert_eq!(rest.texts(), ["committed 0"], "and both markers are passed");
    // From the start again: what is aborted stays left out.
    let mut again = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
    let again = read_until(&mut again, "all", |read| read.position.offset >= 7).await;
    assert_eq!(again.texts(), ["before 0", "while open 0", "committed 0"]);
}

#[tokio::test]
async fn a_topic_created_again_is_noticed_while_it_is_read_and_at_a_start() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("old", 10)).await;
    let mut running = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
    let before = read_count(&mut running, 10).await;
    let old_id = before.position.topic_id.unwrap();

    // Longer than the old one, so that the old position is in it.
    delete_topic(&broker.bootstrap(), TOPIC).await.unwrap();
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("new", 20)).await;
    let after = read_count(&mut running, 20).await;
    assert_eq!(after.texts(), numbered("new", 20));
    let new_id = kafka.topic(TOPIC).await.unwrap().id;
    assert_ne!(old_id, new_id);
    let recreated = Jump { from: 10, to: 0, topic_id: Some(new_id), reason: JumpReason::Recreated };
    assert_eq!(after.jumps, std::slice::from_ref(&recreated));

    let mut started = TopicReader::new(&kafka, TOPIC).partition(0, before.position);
    let started = read_count(&mut started, 20).await;
    assert_eq!((started.jumps, started.values.len()), (vec![recreated], 20));

    // Shorter.
    delete_topic(&broker.bootstrap(), TOPIC).await.unwrap();
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("newer", 3)).await;
    let shorter = read_count(&mut running, 3).await;
    assert_eq!(shorter.texts(), numbered("newer", 3));
    assert_eq!(
        (shorter.jumps[0].from, shorter.jumps[0].to, shorter.jumps[0].reason),
        (20, 0, JumpReason::Recreated)
    );
}

#[tokio::test]
async fn deleted_records_and_a_position_beyond_the_end_are_reported_with_the_range() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("x", 10)).await;
    let client = ClientBuilder::new(vec![broker.bootstrap()]).build().await.unwrap();
    let partition = client.partition_client(TOPIC, 0, UnknownTopicHandling::Error).await.unwrap();
    partition.delete_records(4, 5_000).await.unwrap();
    assert_eq!(kafka.list_offset(TOPIC, 0, OffsetAt::Earliest).await.unwrap(), 4);

    let reader = TopicReader::new(&kafka, TOPIC);
    let read = read_count(&mut reader.partition(0, Position::at(1)), 6).await;
    let reason = |jump: &Jump| (jump.from, jump.to, jump.reason);
    assert_eq!(read.jumps.iter().map(reason).collect::<Vec<_>>(), [(1, 4, JumpReason::Retention)]);
    assert_eq!(read.values[0].0, 4);

    let read = read_count(&mut reader.partition(0, Position::at(50)), 6).await;
    assert_eq!(read.jumps.iter().map(reason).collect::<Vec<_>>(), [(50, 4, JumpReason::BeyondEnd)]);
    // With its epoch it is known where the log ends.
    let cut = Position { leader_epoch: read.position.leader_epoch, ..Position::at(50) };
    let mut cut = reader.partition(0, cut);
    let read = read_until(&mut cut, "a jump", |read| !read.jumps.is_empty()).await;
    assert_eq!(read.jumps.iter().map(reason).collect::<Vec<_>>(), [(50, 10, JumpReason::Truncated)]);
    // An epoch that no leader had: of another life of the log.
    let unknown = Position { leader_epoch: Some(1_000), ..Position::at(8) };
    let read = read_count(&mut reader.partition(0, unknown), 6).await;
    assert_eq!(read.jumps.iter().map(reason).collect::<Vec<_>>(), [(8, 4, JumpReason::BeyondEnd)]);
}

#[tokio::test]
async fn a_partition_that_nobody_reads_from_holds_up_no_other() {
    let broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    create(&kafka, 3, &[]).await;
    let large = vec!["x".repeat(400_000); 2];
    for _ in 0..10 {
        produce(&kafka, 0, &large).await;
    }
    let reader = TopicReader::new(&kafka, TOPIC);
    let mut stuck = reader.partition(0, Position::at(0));
    let mut others = [reader.partition(1, Position::at(0)), reader.partition(2, Position::at(0))];
    sleep(Duration::from_secs(1)).await;
    for round in 0..10 {
        for (number, other) in (1..).zip(&mut others) {
            produce(&kafka, number, &numbered("x", 1)).await;
            let read = timeout(Duration::from_secs(5), read_count(other, 1)).await.unwrap();
            assert_eq!(read.values[0].0, round);
        }
    }
    let read = read_until(&mut stuck, "what waited", |read| read.position.offset == 20).await;
    assert_eq!(read.values.len(), 20);
}

#[tokio::test]
async fn a_reader_waits_for_a_topic_and_for_the_broker() {
    let mut broker = Broker::start().await.unwrap();
    let kafka = kafka(&broker);
    let mut reader = TopicReader::new(&kafka, TOPIC).partition(0, Position::at(0));
    let ReadEvent::Failing(error) = reader.next().await else { panic!("the topic does not exist") };
    assert!(error.to_string().contains("does not exist"), "{error}");
    create(&kafka, 1, &[]).await;
    produce(&kafka, 0, &numbered("x", 5)).await;
    read_count(&mut reader, 5).await;
    broker.kill9();
    read_until(&mut reader, "nothing", |_| true).await;
    broker.restart().await.unwrap();
    produce(&kafka, 0, &numbered("y", 5)).await;
    let read = read_count(&mut reader, 5).await;
    assert_eq!(read.texts(), numbered("y", 5));
    assert!(read.jumps.is_empty(), "{:?}", read.jumps);
}
