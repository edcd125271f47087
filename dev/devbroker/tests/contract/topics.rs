//! Topics and what Metadata says of them.

use super::*;

pub async fn metadata_contract(wire: &mut Wire, version: i16) {
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

    if version >= 7 {
        assert_eq!(found.partitions[0].leader_epoch, 0);
    }
    if version >= 10 {
        assert!(!found.topic_id.is_nil());
        assert_eq!(found.topic_id, wire.topic_id(&topic).await);
    }
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

pub async fn create_topics_contract(target: &Target, wire: &mut Wire, version: i16) {
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

pub async fn delete_topics_contract(wire: &mut Wire, version: i16) {
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
        let topic = unique("delete");
        wire.create_topic(&topic, &[]).await;
        let known = wire.topic_id(&topic).await;
        let by_id = DeleteTopicState::default().with_name(None).with_topic_id(known);
        let by_id = DeleteTopicsRequest::default().with_topics(vec![by_id]).with_timeout_ms(10_000);
        let response = wire.call(version, &by_id).await;
        let deleted = &response.responses[0];
        assert_eq!((deleted.error_code, deleted.topic_id), (0, known));
        assert_eq!(deleted.name.as_deref().map(|name| &**name), Some(&*topic));
        let unknown = DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::new_v4());
        let by_id = DeleteTopicsRequest::default().with_topics(vec![unknown]).with_timeout_ms(10_000);
        let response = wire.call(version, &by_id).await;
        assert_eq!(response.responses[0].error_code, code::UNKNOWN_TOPIC_ID);
    }
}

pub async fn create_partitions_contract(wire: &mut Wire, version: i16) {
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
