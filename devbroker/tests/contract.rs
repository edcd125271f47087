//! The contract: every advertised API at every advertised version, as a client sees it.
//!
//! With `CONTRACT_BOOTSTRAP=host:port` the same suite runs against that broker, so that it says
//! what Kafka does and not what we think it does. That broker must not create topics by itself.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use devbroker::Broker;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::Compression;
use support::*;

/// Error codes by the names of Kafka's protocol guide.
mod code {
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub const INVALID_CONFIG: i16 = 40;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const NON_EMPTY_GROUP: i16 = 68;
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const INVALID_RECORD: i16 = 87;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
}

/// The broker under test.
struct Target {
    bootstrap: String,
    /// What devbroker advertises, whoever is under test.
    apis: Vec<(i16, i16, i16)>,
    external: bool,
    broker: Broker,
    _dir: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let local = broker.addr().to_string();
        let request = ApiVersionsRequest::default();
        let response = Wire::connect(&local).await.call(0, &request).await;
        let apis = response.api_keys.iter();
        let external = std::env::var("CONTRACT_BOOTSTRAP").ok();
        Self {
            apis: apis.map(|api| (api.api_key, api.min_version, api.max_version)).collect(),
            external: external.is_some(),
            bootstrap: external.unwrap_or(local),
            broker,
            _dir: dir,
        }
    }

    async fn wire(&self) -> Wire {
        Wire::connect(&self.bootstrap).await
    }
}

#[tokio::test]
async fn every_advertised_version_keeps_the_contract() {
    let target = Target::start().await;
    for (key, first, last) in target.apis.clone() {
        for version in first..=last {
            let mut wire = target.wire().await;
            let key = ApiKey::try_from(key).unwrap();
            println!("{key:?} {version}");
            match key {
                ApiKey::Produce => produce_contract(&mut wire, version).await,
                ApiKey::Fetch => fetch_contract(&target, &mut wire, version).await,
                ApiKey::ListOffsets => list_offsets_contract(&mut wire, version).await,
                ApiKey::Metadata => metadata_contract(&mut wire, version).await,
                ApiKey::CreateTopics => create_topics_contract(&target, &mut wire, version).await,
                ApiKey::DeleteTopics => delete_topics_contract(&mut wire, version).await,
                ApiKey::DeleteRecords => delete_records_contract(&mut wire, version).await,
                ApiKey::CreatePartitions => create_partitions_contract(&mut wire, version).await,
                ApiKey::DescribeConfigs => describe_configs_contract(&mut wire, version).await,
                ApiKey::IncrementalAlterConfigs => alter_configs_contract(&mut wire, version).await,
                ApiKey::FindCoordinator => find_coordinator_contract(&mut wire, version).await,
                ApiKey::OffsetCommit => commit_contract(&mut wire, version, 8).await,
                ApiKey::OffsetFetch => commit_contract(&mut wire, 8, version).await,
                ApiKey::OffsetDelete => offset_delete_contract(&mut wire, version).await,
                ApiKey::ListGroups => list_groups_contract(&mut wire, version).await,
                ApiKey::DescribeGroups => describe_groups_contract(&mut wire, version).await,
                ApiKey::DeleteGroups => delete_groups_contract(&mut wire, version).await,
                ApiKey::DescribeCluster => describe_cluster_contract(&mut wire, version).await,
                ApiKey::InitProducerId => producer_id_contract(&mut wire, version).await,
                ApiKey::ApiVersions => api_versions_contract(&target, &mut wire, version).await,
                ApiKey::JoinGroup => membership_contract(&mut wire, [version, 3, 3, 4]).await,
                ApiKey::SyncGroup => membership_contract(&mut wire, [5, version, 3, 4]).await,
                ApiKey::Heartbeat => membership_contract(&mut wire, [5, 3, version, 4]).await,
                ApiKey::LeaveGroup => membership_contract(&mut wire, [5, 3, 3, version]).await,
                other => panic!("{other:?} is advertised and has no contract"),
            }
        }
    }
    target.broker.shutdown().await;
}

async fn api_versions_contract(target: &Target, wire: &mut Wire, version: i16) {
    let request = ApiVersionsRequest::default();
    let request = match version {
        3.. => request.with_client_software_name(text("contract")).with_client_software_version(text("1")),
        _ => request,
    };
    let response = wire.call(version, &request).await;
    assert_eq!(response.error_code, 0);
    for (key, first, last) in &target.apis {
        let theirs = response.api_keys.iter().find(|api| api.api_key == *key).unwrap();
        assert!(theirs.min_version <= *first && *last <= theirs.max_version, "API {key}");
    }
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_gets_the_list_in_version_0() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    // Key 18, version 99, correlation id 7, no client id, no tagged fields.
    wire.send_frame(&[0, 18, 0, 99, 0, 0, 0, 7, 255, 255, 0]).await;
    let mut frame = wire.frame().await.unwrap();
    let header = <ResponseHeader as kafka_protocol::protocol::Decodable>::decode(&mut frame, 0);
    assert_eq!(header.unwrap().correlation_id, 7);
    let response =
        <ApiVersionsResponse as kafka_protocol::protocol::Decodable>::decode(&mut frame, 0).unwrap();
    assert_eq!(response.error_code, code::UNSUPPORTED_VERSION);
    assert!(!response.api_keys.is_empty());
}

async fn produce_contract(wire: &mut Wire, version: i16) {
    let topic = unique("produce");
    wire.create_topic(&topic, &[("max.message.bytes", "1000")]).await;
    let batch = encode(&[record("a", Some("1")), record("b", None)], Compression::None);
    for (acks, base_offset) in [(-1, 0), (1, 2)] {
        let response = wire.produce_raw(version, &topic, batch.clone(), acks).await;
        assert_eq!(response.error_code, 0);
        assert_eq!(response.base_offset, base_offset);
        assert_eq!(response.log_append_time_ms, -1);
        if version >= 5 {
            assert_eq!(response.log_start_offset, 0);
        }
    }
    // acks=0 is not answered: the next answer is that of the next request.
    wire.send(version, &produce(&topic, batch.clone(), 0)).await;
    let response = wire.produce_raw(version, &topic, batch.clone(), -1).await;
    assert_eq!(response.base_offset, 6);

    let mut bent = batch.to_vec();
    *bent.last_mut().unwrap() ^= 1;
    let large = encode(&[record("a", Some(&"x".repeat(1000)))], Compression::None);
    let two: Bytes = [batch.as_ref(), batch.as_ref()].concat().into();
    let missing = unique("missing");
    for (topic, batch, acks, expected) in [
        (&topic, bent.into(), -1, code::CORRUPT_MESSAGE),
        (&topic, large, -1, code::MESSAGE_TOO_LARGE),
        (&topic, two, -1, code::INVALID_RECORD),
        (&topic, batch.clone(), 2, code::INVALID_REQUIRED_ACKS),
        (&missing, batch, -1, code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.produce_raw(version, topic, batch, acks).await;
        assert_eq!(response.error_code, expected);
        assert_eq!(response.base_offset, -1);
    }
    assert_eq!(wire.offset(&topic, -1).await, 8);
}

#[tokio::test]
async fn a_compacted_topic_takes_only_records_with_keys() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("keys");
    wire.create_topic(&topic, &[("cleanup.policy", "compact")]).await;
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy] {
        let keyed = encode(&[record("a", Some("1"))], codec);
        assert_eq!(wire.produce_raw(9, &topic, keyed, -1).await.error_code, 0);
        let mut unkeyed = record("a", Some("1"));
        unkeyed.key = None;
        let response = wire.produce_raw(9, &topic, encode(&[unkeyed], codec), -1).await;
        assert_eq!(response.error_code, code::INVALID_RECORD);
    }
}

#[tokio::test]
async fn log_append_time_stamps_the_brokers_time() {
    let target = Target::start().await;
    let mut wire = target.wire().await;
    let topic = unique("stamped");
    wire.create_topic(&topic, &[("message.timestamp.type", "LogAppendTime")]).await;
    let batch = encode(&[record_at("a", None, 5)], Compression::None);
    let response = wire.produce_raw(9, &topic, batch, -1).await;
    assert!((now_ms() - response.log_append_time_ms).abs() < 60_000);
    let mut batch = wire.fetch(&topic, 0).await.records.unwrap();
    // Attributes with the bit of the timestamp type, then the largest timestamp.
    assert_eq!(batch[22] & 8, 8);
    assert_eq!(i64::from_be_bytes(batch[35..43].try_into().unwrap()), response.log_append_time_ms);
    assert_eq!(decode(batch.split_to(batch.len())).len(), 1);
}

async fn fetch_contract(target: &Target, wire: &mut Wire, version: i16) {
    let topic = unique("fetch");
    wire.create_topic(&topic, &[]).await;
    let one = |response: FetchResponse| {
        assert_eq!(response.error_code, 0);
        response.responses[0].partitions[0].clone()
    };
    let sent = [record("a", Some("1")), record("b", None)];
    wire.produce(&topic, &sent).await;
    let big = record("c", Some(&"x".repeat(5_000)));
    wire.produce(&topic, std::slice::from_ref(&big)).await;

    let data = one(wire.call(version, &fetch(&topic, 0, 1, 1_000, 1 << 20)).await);
    assert_eq!((data.error_code, data.high_watermark, data.last_stable_offset), (0, 3, 3));
    let records = decode(data.records.unwrap());
    assert_eq!(
        pairs(&records),
        [(0, "a".into(), Some("1".into())), (1, "b".into(), None), (2, "c".into(), Some("x".repeat(5_000))),]
    );
    assert_eq!(records[0].headers, sent[0].headers);
    assert_eq!(records[0].timestamp, sent[0].timestamp);

    // The first batch comes back even when it is larger than what was asked for.
    let data = one(wire.call(version, &fetch(&topic, 2, 1, 1_000, 100)).await);
    assert_eq!(decode(data.records.unwrap()).len(), 1);

    for (offset, name, expected) in [
        (4, &topic, code::OFFSET_OUT_OF_RANGE),
        (-5, &topic, code::OFFSET_OUT_OF_RANGE),
        (0, &unique("missing"), code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        // An error is answered at once, whatever the waiting time.
        let data = one(wire.call(version, &fetch(name, offset, 1, 60_000, 1 << 20)).await);
        assert_eq!((data.error_code, data.high_watermark), (expected, -1));
        assert!(data.records.unwrap_or_default().is_empty());
    }

    // At the end: waits max_wait, answers empty.
    let asked = Instant::now();
    let data = one(wire.call(version, &fetch(&topic, 3, 1, 100, 1 << 20)).await);
    assert!(asked.elapsed() >= Duration::from_millis(90));
    assert_eq!((data.error_code, data.high_watermark), (0, 3));
    assert!(data.records.unwrap_or_default().is_empty());

    // At the end: woken by a produce.
    let mut other = target.wire().await;
    wire.send(version, &fetch(&topic, 3, 1, 30_000, 1 << 20)).await;
    other.produce(&topic, &sent).await;
    let frame = tokio::time::timeout(Duration::from_secs(5), wire.frame()).await.unwrap();
    assert!(frame.unwrap().len() > 100);
}

#[tokio::test]
async fn a_fetch_waits_until_min_bytes_are_there() {
    let target = Target::start().await;
    let (mut wire, mut other) = (target.wire().await, target.wire().await);
    let topic = unique("min-bytes");
    wire.create_topic(&topic, &[]).await;
    let asked = Instant::now();
    wire.send(11, &fetch(&topic, 0, 500, 30_000, 1 << 20)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Some 85 bytes each.
    for _ in 0..10 {
        other.produce(&topic, &[record("a", Some("some value"))]).await;
    }
    let frame = wire.frame().await.unwrap();
    let waited = asked.elapsed();
    assert!(frame.len() > 500, "{} bytes after {waited:?}", frame.len());
    assert!(waited < Duration::from_secs(10));
}

async fn list_offsets_contract(wire: &mut Wire, version: i16) {
    let topic = unique("offsets");
    wire.create_topic(&topic, &[]).await;
    let base = now_ms() - 100_000;
    // The largest timestamp is not the last one.
    let times = [base, base + 10, base + 50, base + 20];
    for codec in [Compression::None, Compression::Gzip] {
        let records: Vec<_> = times.iter().map(|time| record_at("a", None, *time)).collect();
        let appended = wire.produce_raw(9, &topic, encode(&records, codec), -1).await;
        assert_eq!(appended.error_code, 0);
    }
    let mut asked = vec![(-1, (8, -1)), (-2, (0, -1)), (base + 5, (1, base + 10)), (base + 51, (-1, -1))];
    if version >= 7 {
        asked.push((-3, (2, base + 50)));
    }
    for (timestamp, expected) in asked {
        let response = wire.call(version, &list_offsets(&topic, timestamp)).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.error_code, 0);
        assert_eq!((found.offset, found.timestamp), expected, "asked for {timestamp}");
    }
    let response = wire.call(version, &list_offsets(&unique("missing"), -1)).await;
    let found = &response.topics[0].partitions[0];
    assert_eq!((found.error_code, found.offset), (code::UNKNOWN_TOPIC_OR_PARTITION, -1));
}

async fn metadata_contract(wire: &mut Wire, version: i16) {
    let topic = unique("metadata");
    wire.create_topic(&topic, &[]).await;
    let by_name = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = |topics| {
        let request = MetadataRequest::default().with_topics(topics);
        match version {
            4.. => request.with_allow_auto_topic_creation(false),
            _ => request.with_allow_auto_topic_creation(true),
        }
    };
    let all = match version {
        0 => Some(Vec::new()),
        _ => None,
    };
    let response = wire.call(version, &request(all)).await;
    let name_of = |topic: &metadata_response::MetadataResponseTopic| topic.name.clone().unwrap();
    let found = response.topics.iter().find(|found| *name_of(found) == *topic).unwrap();
    assert_eq!((found.error_code, found.partitions.len()), (0, 1));
    let leader = found.partitions[0].leader_id;
    assert_eq!(found.partitions[0].replica_nodes, [leader]);
    assert_eq!(found.partitions[0].isr_nodes, [leader]);
    assert!(response.brokers.iter().any(|broker| broker.node_id == leader && broker.port > 0));
    if version >= 1 {
        assert!(response.controller_id.0 >= 0);
        let none = wire.call(version, &request(Some(Vec::new()))).await;
        assert!(none.topics.is_empty());
    }
    if version >= 2 {
        assert!(response.cluster_id.is_some());
    }

    let missing = unique("missing");
    let asked = vec![by_name(&topic), by_name(&missing), by_name("no spaces")];
    let response = wire.call(version, &request(Some(asked))).await;
    let codes = [&*topic, &*missing, "no spaces"].map(|name| {
        let found = response.topics.iter().find(|found| *name_of(found) == *name);
        found.unwrap().error_code
    });
    let expected = [0, code::UNKNOWN_TOPIC_OR_PARTITION, code::INVALID_TOPIC_EXCEPTION];
    assert_eq!(codes, expected);

    if version >= 12 {
        let id = response.topics.iter().find(|found| *name_of(found) == *topic).unwrap().topic_id;
        let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        let response = wire.call(version, &request(Some(vec![by_id(id)]))).await;
        assert_eq!(*name_of(&response.topics[0]), *topic);
        let unknown = by_id(uuid::Uuid::new_v4());
        let response = wire.call(version, &request(Some(vec![unknown]))).await;
        assert_eq!(response.topics[0].error_code, code::UNKNOWN_TOPIC_ID);
    }
}

#[tokio::test]
async fn topics_are_made_by_accident_only_where_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    for (wanted, expected) in [(false, code::UNKNOWN_TOPIC_OR_PARTITION), (true, 0)] {
        let mut config = devbroker::Config::new(([127, 0, 0, 1], 0).into(), dir.path());
        config.auto_create_topics = wanted;
        config.advertised = Some(("broker.example".into(), 9));
        let broker = Broker::start(config).await.unwrap();
        let mut wire = Wire::connect(&broker.addr().to_string()).await;
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name("missing")));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let response = wire.call(4, &request.with_allow_auto_topic_creation(true)).await;
        assert_eq!(response.topics[0].error_code, expected);
        assert_eq!((&*response.brokers[0].host, response.brokers[0].port), (&*text("broker.example"), 9));
        broker.shutdown().await;
    }
}

async fn create_topics_contract(target: &Target, wire: &mut Wire, version: i16) {
    let one = |response: CreateTopicsResponse| response.topics[0].clone();
    let topic = unique("create");
    let only_checked = create_topic(&topic, 2, &[]).with_validate_only(true);
    assert_eq!(one(wire.call(version, &only_checked).await).error_code, 0);

    let configs = [("cleanup.policy", "compact"), ("retention.ms", "1000")];
    let created = one(wire.call(version, &create_topic(&topic, 2, &configs)).await);
    assert_eq!((created.error_code, &*created.name), (0, &text(&topic)));
    if version >= 5 {
        assert_eq!((created.num_partitions, created.replication_factor), (2, 1));
        let policy = created.configs.unwrap();
        let policy = policy.iter().find(|config| *config.name == *"cleanup.policy").unwrap();
        assert_eq!(policy.value.as_deref(), Some("compact"));
    }
    if version >= 7 {
        assert!(!created.topic_id.is_nil());
    }
    let fresh = unique("create");
    let mut replicated = create_topic(&fresh, 1, &[]);
    replicated.topics[0].replication_factor = 3;
    for (request, expected) in [
        (create_topic(&topic, 1, &[]), code::TOPIC_ALREADY_EXISTS),
        (create_topic("no spaces", 1, &[]), code::INVALID_TOPIC_EXCEPTION),
        (create_topic(&fresh, 0, &[]), code::INVALID_PARTITIONS),
        (replicated, code::INVALID_REPLICATION_FACTOR),
        (create_topic(&fresh, 1, &[("nonsense", "1")]), code::INVALID_CONFIG),
        (create_topic(&fresh, 1, &[("cleanup.policy", "shred")]), code::INVALID_CONFIG),
        (create_topic(&fresh, 1, &[("retention.ms", "soon")]), code::INVALID_CONFIG),
    ] {
        let refused = one(wire.call(version, &request).await);
        assert_eq!(refused.error_code, expected, "{:?}", refused.error_message);
        assert!(refused.error_message.is_some());
    }
    if !target.external {
        let metadata = wire.call(9, &MetadataRequest::default().with_topics(None)).await;
        let fresh = |topic: &metadata_response::MetadataResponseTopic| {
            topic.name.as_ref().is_some_and(|name| **name == *fresh)
        };
        assert!(!metadata.topics.iter().any(fresh));
    }
}

async fn delete_topics_contract(wire: &mut Wire, version: i16) {
    let request = |name: &str| {
        let request = DeleteTopicsRequest::default().with_timeout_ms(10_000);
        match version {
            ..6 => request.with_topic_names(vec![topic_name(name)]),
            _ => {
                let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
                request.with_topics(vec![topic])
            }
        }
    };
    let topic = unique("delete");
    wire.create_topic(&topic, &[]).await;
    let response = wire.call(version, &request(&topic)).await;
    assert_eq!(response.responses[0].error_code, 0);
    let response = wire.call(version, &request(&topic)).await;
    assert_eq!(response.responses[0].error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
    if version >= 6 {
        let unknown = DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::new_v4());
        let by_id = DeleteTopicsRequest::default().with_topics(vec![unknown]).with_timeout_ms(10_000);
        let response = wire.call(version, &by_id).await;
        assert_eq!(response.responses[0].error_code, code::UNKNOWN_TOPIC_ID);
    }
}

async fn delete_records_contract(wire: &mut Wire, version: i16) {
    let topic = unique("delete-records");
    wire.create_topic(&topic, &[]).await;
    for _ in 0..5 {
        wire.produce(&topic, &[record("a", None)]).await;
    }
    let request = |name: &str, offset| {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let topic =
            DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(vec![partition]);
        DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
    };
    for (name, offset, expected) in [
        (&topic, 3, (0, 3)),
        (&topic, 2, (0, 3)),
        (&topic, 9, (code::OFFSET_OUT_OF_RANGE, -1)),
        (&unique("missing"), 0, (code::UNKNOWN_TOPIC_OR_PARTITION, -1)),
    ] {
        let response = wire.call(version, &request(name, offset)).await;
        let result = &response.topics[0].partitions[0];
        assert_eq!((result.error_code, result.low_watermark), expected);
    }
    assert_eq!(wire.offset(&topic, -2).await, 3);
    assert_eq!(wire.fetch(&topic, 2).await.error_code, code::OFFSET_OUT_OF_RANGE);
    assert_eq!(wire.read_all(&topic, 3).await.len(), 2);
    let response = wire.call(version, &request(&topic, -1)).await;
    assert_eq!(response.topics[0].partitions[0].low_watermark, 5);
    assert_eq!(wire.produce(&topic, &[record("a", None)]).await, 5);
}

async fn create_partitions_contract(wire: &mut Wire, version: i16) {
    let topic = unique("grow");
    wire.create_topic(&topic, &[]).await;
    let request = |name: &str, count| {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000)
    };
    for (name, count, expected) in [
        (&topic, 3, 0),
        (&topic, 2, code::INVALID_PARTITIONS),
        (&unique("missing"), 3, code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.call(version, &request(name, count)).await;
        assert_eq!(response.results[0].error_code, expected);
    }
}

fn topic_resource(name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(name))
        .with_configuration_keys(None)
}

async fn describe_configs_contract(wire: &mut Wire, version: i16) {
    let topic = unique("describe-configs");
    wire.create_topic(&topic, &[("cleanup.policy", "compact")]).await;
    let some_keys = ["cleanup.policy", "segment.bytes"].map(text).to_vec();
    let request = DescribeConfigsRequest::default().with_resources(vec![
        topic_resource(&topic),
        topic_resource(&topic).with_configuration_keys(Some(some_keys)),
        topic_resource(&unique("missing")),
    ]);
    let response = wire.call(version, &request).await;
    let [all, some, missing] = &response.results[..] else {
        panic!("{response:?}");
    };
    let value = |name: &str| {
        let config = all.configs.iter().find(|config| *config.name == *name).unwrap();
        (config.value.as_ref().unwrap().to_string(), config.config_source)
    };
    assert_eq!(value("cleanup.policy"), ("compact".into(), 1));
    assert_eq!(value("max.message.bytes"), ("1048588".into(), 5));
    assert!(all.configs.len() > 20);
    assert_eq!(some.configs.len(), 2);
    assert_eq!(missing.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
}

async fn alter_configs_contract(wire: &mut Wire, version: i16) {
    let topic = unique("alter-configs");
    wire.create_topic(&topic, &[]).await;
    let request = |topic: &str, name: &str, operation, value: Option<&str>| {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (topic, name, operation, value, expected) in [
        (&*topic, "retention.ms", 0, Some("1000"), 0),
        (&*topic, "cleanup.policy", 2, Some("compact"), 0),
        (&*topic, "cleanup.policy", 3, Some("delete"), 0),
        (&*topic, "nonsense", 0, Some("1"), code::INVALID_CONFIG),
        (&*topic, "segment.bytes", 0, Some("-1"), code::INVALID_CONFIG),
        (&*topic, "segment.bytes", 2, Some("1"), code::INVALID_CONFIG),
        (&unique("missing"), "retention.ms", 0, Some("1"), code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.call(version, &request(topic, name, operation, value)).await;
        let altered = &response.responses[0];
        assert_eq!(altered.error_code, expected, "{name}: {:?}", altered.error_message);
    }
    wait_for_config(wire, &topic, "cleanup.policy", "compact").await;
    wait_for_config(wire, &topic, "retention.ms", "1000").await;
    wire.call(version, &request(&topic, "retention.ms", 1, None)).await;
    wait_for_config(wire, &topic, "retention.ms", "604800000").await;
}

/// In Kafka a change reaches the broker a moment after it was answered.
async fn wait_for_config(wire: &mut Wire, topic: &str, name: &str, expected: &str) {
    let request = DescribeConfigsRequest::default().with_resources(vec![topic_resource(topic)]);
    let mut value = None;
    for _ in 0..100 {
        let response = wire.call(4, &request).await;
        let configs = &response.results[0].configs;
        value = configs.iter().find(|config| *config.name == *name).unwrap().value.clone();
        if value.as_deref() == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is {value:?}, not {expected}");
}

async fn find_coordinator_contract(wire: &mut Wire, version: i16) {
    let request = match version {
        ..4 => FindCoordinatorRequest::default().with_key(text("a-group")),
        _ => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a-group")]),
    };
    let found = loop {
        let response = wire.call(version, &request).await;
        let found = match version {
            ..4 => (response.error_code, response.node_id, response.port),
            _ => {
                let one = &response.coordinators[0];
                (one.error_code, one.node_id, one.port)
            }
        };
        // A fresh Kafka first has to make its offsets topic.
        if ![14, 15, 16].contains(&found.0) {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(found.0, 0);
    assert!(found.1.0 >= 0 && found.2 > 0);
}

fn offset_commit(group: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

/// Commits as a simple consumer; the error code, once the coordinator is there.
async fn commit(wire: &mut Wire, version: i16, request: &OffsetCommitRequest) -> i16 {
    find_coordinator_contract(wire, 4).await;
    loop {
        let response = wire.call(version, request).await;
        let code = response.topics[0].partitions[0].error_code;
        if ![14, 15, 16].contains(&code) {
            return code;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Offset and metadata of partition 0, or of all partitions when `all`.
async fn committed(wire: &mut Wire, version: i16, group: &str, topic: &str, all: bool) -> Vec<(i64, String)> {
    let request = OffsetFetchRequest::default();
    let name = topic_name(topic);
    let note = |metadata: Option<StrBytes>| metadata.unwrap_or_default().to_string();
    if version >= 8 {
        let topic = OffsetFetchRequestTopics::default().with_name(name).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics((!all).then_some(vec![topic]));
        let response = wire.call(version, &request.with_groups(vec![group])).await;
        assert_eq!(response.groups[0].error_code, 0);
        let partitions = response.groups[0].topics.iter().flat_map(|topic| &topic.partitions);
        return partitions.map(|p| (p.committed_offset, note(p.metadata.clone()))).collect();
    }
    let topic = OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(vec![0]);
    let request = request.with_group_id(GroupId(text(group))).with_topics((!all).then_some(vec![topic]));
    let response = wire.call(version, &request).await;
    assert_eq!(response.error_code, 0);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| (p.committed_offset, note(p.metadata.clone()))).collect()
}

async fn commit_contract(wire: &mut Wire, commit_version: i16, fetch_version: i16) {
    let (group, topic) = (unique("commit"), unique("commit"));
    wire.create_topic(&topic, &[]).await;
    // OffsetFetch answers for a group only once its coordinator is there.
    find_coordinator_contract(wire, 4).await;
    assert_eq!(commit(wire, commit_version, &offset_commit(&group, &topic, 41)).await, 0);
    assert_eq!(commit(wire, commit_version, &offset_commit(&group, &topic, 42)).await, 0);
    let found = committed(wire, fetch_version, &group, &topic, false).await;
    assert_eq!(found, [(42, "note".to_owned())]);
    if fetch_version >= 2 {
        let found = committed(wire, fetch_version, &group, &topic, true).await;
        assert_eq!(found, [(42, "note".to_owned())]);
    }
    let nobody = committed(wire, fetch_version, &unique("nobody"), &topic, false).await;
    assert_eq!(nobody, [(-1, String::new())]);
    let missing = offset_commit(&group, &unique("missing"), 1);
    assert_eq!(commit(wire, commit_version, &missing).await, code::UNKNOWN_TOPIC_OR_PARTITION);
    let stranger = offset_commit(&unique("nobody"), &topic, 1)
        .with_generation_id_or_member_epoch(3)
        .with_member_id(text("stranger"));
    assert_eq!(commit(wire, commit_version, &stranger).await, code::ILLEGAL_GENERATION);
}

async fn offset_delete_contract(wire: &mut Wire, version: i16) {
    let (group, topic) = (unique("offset-delete"), unique("offset-delete"));
    wire.create_topic(&topic, &[]).await;
    assert_eq!(commit(wire, 8, &offset_commit(&group, &topic, 42)).await, 0);
    let topics = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(&topic))
        .with_partitions(vec![OffsetDeleteRequestPartition::default()]);
    let request = |group: &str| {
        OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![topics.clone()])
    };
    let response = wire.call(version, &request(&group)).await;
    assert_eq!(response.error_code, 0);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    let found = committed(wire, 8, &group, &topic, false).await;
    assert_eq!(found, [(-1, String::new())]);
    let response = wire.call(version, &request(&unique("nobody"))).await;
    assert_eq!(response.error_code, code::GROUP_ID_NOT_FOUND);
}

async fn list_groups_contract(wire: &mut Wire, version: i16) {
    let (group, topic) = (unique("list-groups"), unique("list-groups"));
    wire.create_topic(&topic, &[]).await;
    assert_eq!(commit(wire, 8, &offset_commit(&group, &topic, 42)).await, 0);
    let response = wire.call(version, &ListGroupsRequest::default()).await;
    assert_eq!(response.error_code, 0);
    let listed = response.groups.iter().find(|listed| **listed.group_id == *group).unwrap();
    assert_eq!(&*listed.protocol_type, "");
    if version >= 4 {
        assert_eq!(&*listed.group_state, "Empty");
        let stable = ListGroupsRequest::default().with_states_filter(vec![text("Stable")]);
        let response = wire.call(version, &stable).await;
        assert!(!response.groups.iter().any(|listed| **listed.group_id == *group));
    }
    if version >= 5 {
        assert!(listed.group_type.eq_ignore_ascii_case("classic"));
    }
}

async fn describe_groups_contract(wire: &mut Wire, version: i16) {
    let (group, topic) = (unique("describe-groups"), unique("describe-groups"));
    wire.create_topic(&topic, &[]).await;
    assert_eq!(commit(wire, 8, &offset_commit(&group, &topic, 42)).await, 0);
    let nobody = unique("nobody");
    let groups = [&group, &nobody].map(|group| GroupId(text(group))).to_vec();
    let request = DescribeGroupsRequest::default().with_groups(groups);
    let response = wire.call(version, &request).await;
    // Kafka answers in any order.
    let of = |name: &str| response.groups.iter().find(|found| **found.group_id == *name).unwrap();
    let (known, unknown) = (of(&group), of(&nobody));
    assert_eq!((known.error_code, &*known.group_state), (0, &*text("Empty")));
    assert_eq!(&*unknown.group_state, "Dead");
    let expected = if version >= 6 { code::GROUP_ID_NOT_FOUND } else { 0 };
    assert_eq!(unknown.error_code, expected);
}

async fn delete_groups_contract(wire: &mut Wire, version: i16) {
    let (group, topic) = (unique("delete-groups"), unique("delete-groups"));
    wire.create_topic(&topic, &[]).await;
    assert_eq!(commit(wire, 8, &offset_commit(&group, &topic, 42)).await, 0);
    let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(&group))]);
    for expected in [0, code::GROUP_ID_NOT_FOUND] {
        let response = wire.call(version, &request).await;
        assert_eq!(response.results[0].error_code, expected);
    }
    let found = committed(wire, 8, &group, &topic, false).await;
    assert_eq!(found, [(-1, String::new())]);
}

async fn describe_cluster_contract(wire: &mut Wire, version: i16) {
    let response = wire.call(version, &DescribeClusterRequest::default()).await;
    assert_eq!(response.error_code, 0);
    assert!(!response.cluster_id.is_empty());
    assert_eq!(response.brokers.len(), 1);
    assert_eq!(response.controller_id, response.brokers[0].broker_id);
}

async fn producer_id_contract(wire: &mut Wire, version: i16) {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let mut fresh = wire.call(version, &request).await;
    while [14, 15, 16].contains(&fresh.error_code) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fresh = wire.call(version, &request).await;
    }
    assert_eq!((fresh.error_code, fresh.producer_epoch), (0, 0));
    let other = wire.call(version, &request).await;
    assert_ne!(fresh.producer_id, other.producer_id);

    let topic = unique("idempotent");
    wire.create_topic(&topic, &[]).await;
    let batch = |sequence| {
        let mut record = record("a", Some("1"));
        record.producer_id = fresh.producer_id.0;
        record.producer_epoch = fresh.producer_epoch;
        record.sequence = sequence;
        encode(&[record.clone(), record], Compression::None)
    };
    // A batch that is sent again is not appended again.
    for (sequence, expected) in [
        (0, (0, 0)),
        (2, (0, 2)),
        (0, (0, 0)),
        (2, (0, 2)),
        (9, (code::OUT_OF_ORDER_SEQUENCE_NUMBER, -1)),
        (4, (0, 4)),
    ] {
        let response = wire.produce_raw(9, &topic, batch(sequence), -1).await;
        assert_eq!((response.error_code, response.base_offset), expected, "sequence {sequence}");
    }
}

/// The consumer protocol's metadata or assignment: version 0, no topics, and some user data.
fn consumer_protocol(user_data: &[u8]) -> Bytes {
    let length = u32::try_from(user_data.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, 0, 0, 0], &length[..], user_data].concat().into()
}

fn join_group(version: i16, group: &str, member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(consumer_protocol(b"metadata"));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(10_000)
        .with_member_id(text(member_id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    match version {
        0 => request,
        _ => request.with_rebalance_timeout_ms(10_000),
    }
}

/// Joins alone and leads; generation and member id.
async fn join_alone(wire: &mut Wire, version: i16, group: &str) -> (i32, StrBytes) {
    find_coordinator_contract(wire, 4).await;
    let mut joined = wire.call(version, &join_group(version, group, "")).await;
    if version >= 4 {
        assert_eq!(joined.error_code, code::MEMBER_ID_REQUIRED);
        joined = wire.call(version, &join_group(version, group, &joined.member_id)).await;
    }
    assert_eq!(joined.error_code, 0);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, consumer_protocol(b"metadata"));
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    (joined.generation_id, joined.member_id)
}

fn sync_group(version: i16, group: &str, generation: i32, member_id: &StrBytes) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(member_id.clone())
        .with_assignment(consumer_protocol(b"assignment"));
    let request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(member_id.clone())
        .with_assignments(vec![assignment]);
    match version {
        ..5 => request,
        _ => request.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range"))),
    }
}

fn heartbeat(group: &str, generation: i32, member_id: &StrBytes) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(member_id.clone())
}

/// The life of one member, at the versions of join, sync, heartbeat and leave.
async fn membership_contract(wire: &mut Wire, [join, sync, beat, leave]: [i16; 4]) {
    let (group, topic) = (unique("membership"), unique("membership"));
    wire.create_topic(&topic, &[]).await;
    let (generation, member_id) = join_alone(wire, join, &group).await;

    let synced = wire.call(sync, &sync_group(sync, &group, generation, &member_id)).await;
    assert_eq!((synced.error_code, synced.assignment), (0, consumer_protocol(b"assignment")));
    let stranger = text("stranger");
    let unknown = wire.call(sync, &sync_group(sync, &group, generation, &stranger)).await;
    assert_eq!(unknown.error_code, code::UNKNOWN_MEMBER_ID);

    for (generation, member_id, expected) in [
        (generation, &member_id, 0),
        (generation + 1, &member_id, code::ILLEGAL_GENERATION),
        (generation, &stranger, code::UNKNOWN_MEMBER_ID),
    ] {
        let beaten = wire.call(beat, &heartbeat(&group, generation, member_id)).await;
        assert_eq!(beaten.error_code, expected);
    }

    // Only the member commits while there is one, and the group cannot be deleted.
    let commit_as = |generation, member: &StrBytes| {
        offset_commit(&group, &topic, 7)
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(member.clone())
    };
    assert_eq!(commit(wire, 8, &commit_as(generation, &member_id)).await, 0);
    let outside = commit(wire, 8, &commit_as(-1, &StrBytes::default())).await;
    assert_eq!(outside, code::UNKNOWN_MEMBER_ID);
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(&group))]);
    let refused = wire.call(2, &delete).await;
    assert_eq!(refused.results[0].error_code, code::NON_EMPTY_GROUP);

    let request = LeaveGroupRequest::default().with_group_id(GroupId(text(&group)));
    let code_of = |response: LeaveGroupResponse| match leave {
        ..3 => response.error_code,
        _ => response.members[0].error_code,
    };
    let request = match leave {
        ..3 => request.with_member_id(member_id.clone()),
        _ => request.with_members(vec![MemberIdentity::default().with_member_id(member_id.clone())]),
    };
    for expected in [0, code::UNKNOWN_MEMBER_ID] {
        assert_eq!(code_of(wire.call(leave, &request).await), expected);
    }
    assert_eq!(commit(wire, 8, &commit_as(-1, &StrBytes::default())).await, 0);
}

#[tokio::test]
async fn two_members_share_a_group_through_a_rebalance() {
    let target = Target::start().await;
    let (mut one, mut two) = (target.wire().await, target.wire().await);
    let group = unique("rebalance");
    let (generation, first) = join_alone(&mut one, 5, &group).await;
    one.call(3, &sync_group(3, &group, generation, &first)).await;

    let refused = two.call(5, &join_group(5, &group, "")).await;
    assert_eq!(refused.error_code, code::MEMBER_ID_REQUIRED);
    let second = refused.member_id;
    two.send(5, &join_group(5, &group, &second)).await;
    // The first one learns of it by its heartbeat and joins again.
    loop {
        let beaten = one.call(3, &heartbeat(&group, generation, &first)).await.error_code;
        if beaten == code::REBALANCE_IN_PROGRESS {
            break;
        }
        assert_eq!(beaten, 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let joined = one.call(5, &join_group(5, &group, &first)).await;
    assert_eq!((joined.error_code, joined.members.len()), (0, 2));
    assert_eq!(joined.leader, first);
    assert!(joined.generation_id > generation);
    let frame = two.frame().await.unwrap();
    assert!(frame.windows(first.len()).any(|window| window == first.as_bytes()));

    // The second one's SyncGroup waits for that of the leader.
    let assignments = [&first, &second].map(|member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(consumer_protocol(member.as_bytes()))
    });
    let follower = sync_group(3, &group, joined.generation_id, &second).with_assignments(Vec::new());
    two.send(3, &follower).await;
    let leader = sync_group(3, &group, joined.generation_id, &first).with_assignments(assignments.to_vec());
    let synced = one.call(3, &leader).await;
    assert_eq!(synced.assignment, consumer_protocol(first.as_bytes()));
    let frame = two.frame().await.unwrap();
    assert!(frame.ends_with(second.as_bytes()));
}
