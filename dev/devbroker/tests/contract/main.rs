//! The contract: every advertised API at every advertised version, as a client sees it.
//!
//! With `CONTRACT_BOOTSTRAP=host:port` the same suite runs against that broker, so that it says
//! what Kafka does and not what we think it does. That broker must not create topics automatically.
//! `CONTRACT_RESTART` is then a command that restarts it and returns once it answers again; tests
//! that need one are left out without it.

mod codecs;
mod configs;
mod epochs;
mod groups;
mod offsets;
mod producers;
mod records;
#[path = "../support/mod.rs"]
mod support;
mod topics;
mod transactions;

use std::time::{Duration, Instant};

use bytes::Bytes;
use codecs::*;
use configs::*;
use devbroker::Broker;
use epochs::*;
use groups::*;
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
use offsets::*;
use producers::*;
use records::*;
use support::*;
use topics::*;
use transactions::*;

/// The broker under test.
struct Target {
    bootstrap: String,
    /// What devbroker advertises, whoever is under test.
    apis: Vec<(i16, i16, i16)>,
    external: bool,
    broker: Broker,
    dir: tempfile::TempDir,
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
            dir,
        }
    }

    /// Restarts the broker; `None` where that cannot be done.
    async fn restart(self) -> Option<Self> {
        if !self.external {
            self.broker.shutdown().await;
            let broker = start(self.dir.path()).await;
            let bootstrap = broker.addr().to_string();
            return Some(Self { broker, bootstrap, ..self });
        }
        let command = std::env::var("CONTRACT_RESTART").ok()?;
        let ended = tokio::process::Command::new("sh").args(["-c", &command]).status().await;
        assert!(ended.unwrap().success(), "{command}");
        Some(self)
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
                ApiKey::OffsetForLeaderEpoch => epoch_end_contract(&mut wire, version).await,
                ApiKey::Metadata => metadata_contract(&mut wire, version).await,
                ApiKey::CreateTopics => create_topics_contract(&target, &mut wire, version).await,
                ApiKey::DeleteTopics => delete_topics_contract(&mut wire, version).await,
                ApiKey::DeleteRecords => delete_records_contract(&mut wire, version).await,
                ApiKey::CreatePartitions => create_partitions_contract(&mut wire, version).await,
                ApiKey::DescribeConfigs => describe_configs_contract(&mut wire, version).await,
                ApiKey::AlterConfigs => replace_configs_contract(&mut wire, version).await,
                ApiKey::IncrementalAlterConfigs => alter_configs_contract(&mut wire, version).await,
                ApiKey::FindCoordinator => find_coordinator_contract(&mut wire, version).await,
                ApiKey::OffsetCommit => commit_contract(&mut wire, version, 8).await,
                ApiKey::OffsetFetch => commit_contract(&mut wire, 8, version).await,
                ApiKey::OffsetDelete => offset_delete_contract(&mut wire, version).await,
                ApiKey::ListGroups => list_groups_contract(&mut wire, version).await,
                ApiKey::DescribeGroups => describe_groups_contract(&mut wire, version).await,
                ApiKey::DeleteGroups => delete_groups_contract(&mut wire, version).await,
                ApiKey::DescribeCluster => describe_cluster_contract(&mut wire, version).await,
                ApiKey::InitProducerId => {
                    producer_id_contract(&mut wire, version).await;
                    init_contract(&mut wire, version).await;
                }
                ApiKey::AddPartitionsToTxn => transaction_contract(&mut wire, [version, 3]).await,
                ApiKey::EndTxn => transaction_contract(&mut wire, [3, version]).await,
                ApiKey::AddOffsetsToTxn => transactional_offsets_contract(&mut wire, [version, 3]).await,
                ApiKey::TxnOffsetCommit => transactional_offsets_contract(&mut wire, [3, version]).await,
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

async fn describe_cluster_contract(wire: &mut Wire, version: i16) {
    let response = wire.call(version, &DescribeClusterRequest::default()).await;
    assert_eq!(response.error_code, 0);
    assert!(!response.cluster_id.is_empty());
    assert_eq!(response.brokers.len(), 1);
    assert_eq!(response.controller_id, response.brokers[0].broker_id);
}
