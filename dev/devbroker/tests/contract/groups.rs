//! Consumer groups.

use super::*;

pub async fn list_groups_contract(wire: &mut Wire, version: i16) {
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

pub async fn describe_groups_contract(wire: &mut Wire, version: i16) {
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

pub async fn delete_groups_contract(wire: &mut Wire, version: i16) {
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

/// The consumer protocol's metadata or assignment: version 0, no topics, and some user data.
pub fn consumer_protocol(user_data: &[u8]) -> Bytes {
    let length = u32::try_from(user_data.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, 0, 0, 0], &length[..], user_data].concat().into()
}

pub fn join_group(version: i16, group: &str, member_id: &str) -> JoinGroupRequest {
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
pub async fn join_alone(wire: &mut Wire, version: i16, group: &str) -> (i32, StrBytes) {
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

pub fn sync_group(version: i16, group: &str, generation: i32, member_id: &StrBytes) -> SyncGroupRequest {
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

pub fn heartbeat(group: &str, generation: i32, member_id: &StrBytes) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(member_id.clone())
}

/// The life of one member, at the versions of join, sync, heartbeat and leave.
pub async fn membership_contract(wire: &mut Wire, [join, sync, beat, leave]: [i16; 4]) {
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
