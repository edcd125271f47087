//! Answers requests: which handler takes which.

mod catalogue;
mod cluster;
mod configs;
mod coordinator;
mod fetch;
mod groups;
mod offsets;
mod parts;
mod produce;
mod topics;
pub(crate) mod transactions;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ProduceRequest};

pub(crate) use self::catalogue::APIS;
use crate::client::Client;
use crate::shared::Shared;
use crate::wire::{decode_body, decode_header, encode_response};

/// An answer: ready, or waiting for the disk. `None` is a produce with acks=0.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Result<Option<Bytes>>> + Send>>;

/// Answers one request frame. An error closes the connection: the frame is not Kafka's protocol,
/// or asks for what was never advertised. With the reply comes for how long
/// the connection is not to be read, because its client is throttled.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    mut client: Client,
    mut frame: Bytes,
) -> Result<(Reply, Duration)> {
    let mut start = frame.get(..8).context("a frame without a header")?;
    let (code, version, correlation_id) = (start.get_i16(), start.get_i16(), start.get_i32());
    let supported = APIS.iter().find(|(key, _, _)| *key as i16 == code);
    let Some((key, first, last)) = supported.copied() else {
        bail!("API {code} is not supported");
    };
    if !(first..=last).contains(&version) {
        if key != ApiKey::ApiVersions {
            bail!("{key:?} version {version} is not supported, only {first} to {last}");
        }
        // As Kafka does: clients then choose from the list.
        let response = cluster::api_versions(ResponseError::UnsupportedVersion.code());
        return Ok((ready(encode_response(key, 0, correlation_id, &response)?), Duration::ZERO));
    }
    let header = decode_header(&mut frame, key, version)
        .with_context(|| format!("malformed header of {key:?} version {version}"))?;
    client.id = header.client_id.map(|id| id.to_string()).unwrap_or_default();
    let request = Incoming { key, version, correlation_id, body: frame };
    request.handle(shared, client).await.with_context(|| format!("{key:?} version {version}"))
}

struct Incoming {
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: Bytes,
}

impl Incoming {
    async fn handle(self, shared: &Arc<Shared>, client: Client) -> Result<(Reply, Duration)> {
        let version = self.version;
        let mut throttle = Duration::ZERO;
        /// Decodes, calls the handler, encodes.
        macro_rules! answer {
            ($request:ident => $response:expr) => {{
                let $request = decode_body(self.body, version)?;
                encode_response(self.key, version, self.correlation_id, &$response)?
            }};
        }
        let frame = match self.key {
            ApiKey::Produce => {
                let request: ProduceRequest = decode_body(self.body, version)?;
                let acks_wanted = request.acks != 0;
                let (throttle, pending) = produce::produce(shared, version, request).await;
                let reply = Box::pin(async move {
                    let response = pending.await;
                    if !acks_wanted {
                        return Ok(None);
                    }
                    encode_response(ApiKey::Produce, version, self.correlation_id, &response).map(Some)
                });
                return Ok((reply, throttle));
            }
            ApiKey::Fetch => answer!(r => {
                let response = fetch::fetch(shared, version, r).await;
                throttle = Duration::from_millis(u64::try_from(response.throttle_time_ms).unwrap_or(0));
                response
            }),
            ApiKey::ListOffsets => answer!(r => offsets::list_offsets(shared, version, r).await),
            ApiKey::OffsetForLeaderEpoch => answer!(r => offsets::epoch_ends(shared, r)),
            ApiKey::DeleteRecords => answer!(r => offsets::delete_records(shared, r).await),
            ApiKey::Metadata => answer!(r => cluster::metadata(shared, version, r).await),
            ApiKey::FindCoordinator => answer!(r => coordinator::find(shared, version, r)),
            ApiKey::OffsetCommit => answer!(r => coordinator::offset_commit(shared, r).await),
            ApiKey::OffsetFetch => answer!(r => coordinator::offset_fetch(shared, version, r)),
            ApiKey::ApiVersions => {
                let _: ApiVersionsRequest = decode_body(self.body, version)?;
                let response = cluster::api_versions(0);
                encode_response(self.key, version, self.correlation_id, &response)?
            }
            ApiKey::CreateTopics => answer!(r => topics::create(shared, version, r).await),
            ApiKey::DeleteTopics => answer!(r => topics::delete(shared, version, r).await),
            ApiKey::DescribeConfigs => answer!(r => configs::describe(shared, version, r)),
            ApiKey::AlterConfigs => answer!(r => configs::replace(shared, r).await),
            ApiKey::IncrementalAlterConfigs => answer!(r => configs::alter(shared, r).await),
            ApiKey::CreatePartitions => answer!(r => topics::create_partitions(shared, r).await),
            ApiKey::InitProducerId => {
                answer!(r => transactions::init_producer_id(shared, version, r).await)
            }
            ApiKey::AddPartitionsToTxn => {
                answer!(r => transactions::add_partitions(shared, version, r).await)
            }
            ApiKey::AddOffsetsToTxn => answer!(r => transactions::add_offsets(shared, version, r).await),
            ApiKey::TxnOffsetCommit => answer!(r => transactions::offset_commit(shared, r).await),
            ApiKey::EndTxn => answer!(r => transactions::end(shared, version, r).await),
            ApiKey::DescribeCluster => answer!(r => cluster::describe(shared, version, r)),
            ApiKey::JoinGroup => answer!(r => groups::join(shared, client, version, r).await),
            ApiKey::SyncGroup => answer!(r => groups::sync(shared, version, r).await),
            ApiKey::Heartbeat => answer!(r => groups::heartbeat(shared, r)),
            ApiKey::LeaveGroup => answer!(r => groups::leave(shared, version, r)),
            ApiKey::ListGroups => answer!(r => groups::list(shared, version, r)),
            ApiKey::DescribeGroups => answer!(r => groups::describe(shared, version, r)),
            ApiKey::DeleteGroups => answer!(r => groups::delete(shared, r).await),
            ApiKey::OffsetDelete => answer!(r => coordinator::offset_delete(shared, r).await),
            other => bail!("{other:?} is advertised but not handled"),
        };
        Ok((ready(frame), throttle))
    }
}

fn ready(frame: Bytes) -> Reply {
    Box::pin(std::future::ready(Ok(Some(frame))))
}
