//! Committed offsets.

use super::*;

pub async fn find_coordinator_contract(wire: &mut Wire, version: i16) {
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

pub fn offset_commit(group: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
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
pub async fn commit(wire: &mut Wire, version: i16, request: &OffsetCommitRequest) -> i16 {
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
pub async fn committed(
    wire: &mut Wire,
    version: i16,
    group: &str,
    topic: &str,
    all: bool,
) -> Vec<(i64, String)> {
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

pub async fn commit_contract(wire: &mut Wire, commit_version: i16, fetch_version: i16) {
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

pub async fn offset_delete_contract(wire: &mut Wire, version: i16) {
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
