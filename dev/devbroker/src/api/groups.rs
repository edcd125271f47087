//! Group membership and what the tools ask about groups.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::parts::{blocking, error_code, text};
use crate::client::Client;
use crate::groups::{Description, Join};
use crate::shared::Shared;

/// "Not asked for" in the field of authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

/// JoinGroup; waits for the rebalance.
pub(crate) async fn join(
    shared: &Shared,
    client: Client,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let join = Join {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(|id| id.to_string()),
        client,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if version >= 1 { request.rebalance_timeout_ms } else { 0 },
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| (protocol.name.to_string(), protocol.metadata))
            .collect(),
        needs_known_id: version >= 4,
    };
    match shared.groups.join(&request.group_id, join).await {
        Ok(joined) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                let instance = instance.filter(|_| version >= 5).map(text);
                JoinGroupResponseMember::default()
                    .with_member_id(text(id))
                    .with_group_instance_id(instance)
                    .with_metadata(metadata)
            });
            JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_type((version >= 7).then(|| text(joined.protocol_type)))
                .with_protocol_name(Some(text(joined.protocol)))
                .with_leader(text(joined.leader))
                .with_member_id(text(joined.member_id))
                .with_members(members.collect())
        }
        Err(refused) => JoinGroupResponse::default()
            .with_error_code(refused.error.code())
            .with_generation_id(-1)
            // Before version 7 the name cannot be null.
            .with_protocol_name((version < 7).then(StrBytes::default))
            .with_member_id(text(refused.member_id)),
    }
}

/// SyncGroup; waits for the leader's assignments.
pub(crate) async fn sync(shared: &Shared, version: i16, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request
        .assignments
        .into_iter()
        .map(|entry| (entry.member_id.to_string(), entry.assignment))
        .collect();
    let generation = request.generation_id;
    let synced = shared.groups.sync(&request.group_id, &request.member_id, generation, assignments).await;
    match synced {
        Ok(synced) if version >= 5 => SyncGroupResponse::default()
            .with_protocol_type(Some(text(synced.protocol_type)))
            .with_protocol_name(Some(text(synced.protocol)))
            .with_assignment(synced.assignment),
        Ok(synced) => SyncGroupResponse::default().with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

/// Heartbeat.
pub(crate) fn heartbeat(shared: &Shared, request: HeartbeatRequest) -> HeartbeatResponse {
    let generation = request.generation_id;
    let alive = shared.groups.heartbeat(&request.group_id, &request.member_id, generation);
    HeartbeatResponse::default().with_error_code(error_code(&alive))
}

/// LeaveGroup: one member, or from version 3 on several.
pub(crate) fn leave(shared: &Shared, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let leave = |member: &MemberIdentity| {
        let instance = member.group_instance_id.as_deref();
        let left = shared.groups.leave(&request.group_id, &member.member_id, instance);
        error_code(&left)
    };
    if version < 3 {
        let member = MemberIdentity::default().with_member_id(request.member_id.clone());
        return LeaveGroupResponse::default().with_error_code(leave(&member));
    }
    let members = request.members.iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(leave(member))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

/// ListGroups, by state and type if asked.
pub(crate) fn list(shared: &Shared, version: i16, request: ListGroupsRequest) -> ListGroupsResponse {
    let wanted = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|entry| entry.eq_ignore_ascii_case(value))
    };
    let groups = shared.groups.list().into_iter().filter(|(_, group)| {
        wanted(&request.states_filter, group.state) && wanted(&request.types_filter, "classic")
    });
    let listed = groups.map(|(name, group)| {
        let listed = ListedGroup::default()
            .with_group_id(GroupId(text(name)))
            .with_protocol_type(text(group.protocol_type));
        match version {
            ..4 => listed,
            4 => listed.with_group_state(text(group.state)),
            _ => listed.with_group_state(text(group.state)).with_group_type(text("classic")),
        }
    });
    ListGroupsResponse::default().with_groups(listed.collect())
}

/// DescribeGroups. An unknown group is "Dead", and from version 6 on an error.
pub(crate) fn describe(
    shared: &Shared,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let groups = request.groups.into_iter().map(|group_id| {
        let described = match shared.groups.describe(&group_id) {
            Some(group) => described(group, version),
            None => {
                let dead = DescribedGroup::default().with_group_state(text("Dead"));
                match version {
                    ..6 => dead,
                    _ => dead
                        .with_error_code(ResponseError::GroupIdNotFound.code())
                        .with_error_message(Some(text(format!("Group {} not found.", *group_id)))),
                }
            }
        };
        described.with_group_id(group_id).with_authorized_operations(NO_OPERATIONS)
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

fn described(group: Description, version: i16) -> DescribedGroup {
    let members = group.members.into_iter().map(|member| {
        let instance = member.instance_id.filter(|_| version >= 4).map(text);
        DescribedGroupMember::default()
            .with_member_id(text(member.id))
            .with_group_instance_id(instance)
            .with_client_id(text(member.client.id))
            .with_client_host(text(member.client.host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    DescribedGroup::default()
        .with_group_state(text(group.state))
        .with_protocol_type(text(group.protocol_type))
        .with_protocol_data(text(group.protocol))
        .with_members(members.collect())
}

/// DeleteGroups: empty groups, with their offsets.
pub(crate) async fn delete(shared: &Arc<Shared>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::new();
    for group_id in request.groups_names {
        let (owned, name) = (shared.clone(), group_id.to_string());
        let deleted = blocking(move || owned.groups.delete(&name)).await;
        results.push(
            DeletableGroupResult::default()
                .with_group_id(group_id)
                .with_error_code(error_code(&deleted.and_then(|done| done))),
        );
    }
    DeleteGroupsResponse::default().with_results(results)
}
