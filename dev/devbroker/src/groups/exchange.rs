//! What members and tools ask of a group, and what they are answered.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;

use crate::client::Client;

/// A JoinGroup request.
#[derive(Debug)]
pub(crate) struct Join {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client: Client,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// From version 4 on a new member is first given an id and asked to come again with it.
    pub needs_known_id: bool,
}

/// The answer to a member that joined.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    pub member_id: String,
    /// Everybody, for the leader only: member id, instance id, metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// Why a join failed, with the id that the member should use.
#[derive(Debug)]
pub(crate) struct JoinRefused {
    pub error: ResponseError,
    pub member_id: String,
}

/// The assignment a member got.
#[derive(Debug, Clone)]
pub(crate) struct Synced {
    pub protocol_type: String,
    pub protocol: String,
    pub assignment: Bytes,
}

pub(super) type JoinReply = oneshot::Sender<Result<Joined, JoinRefused>>;
pub(super) type SyncReply = oneshot::Sender<Result<Synced, ResponseError>>;

/// A group as the tools see it.
#[derive(Debug)]
pub(crate) struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

/// A member as the tools see it.
#[derive(Debug)]
pub(crate) struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client: Client,
    pub metadata: Bytes,
    pub assignment: Bytes,
}
