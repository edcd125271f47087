//! Configs of topics (and, for the tools that ask, of the broker).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_response,
};

use super::parts::{NODE_ID, blocking, text};
use crate::config::{DEFINITIONS, Definition, Kind, TopicConfig, definition};
use crate::faults::Truncation;
use crate::shared::Shared;
use crate::topics::Refusal;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from.
const SET_ON_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

/// Every config of a topic with its value and where that comes from.
pub(crate) fn effective(
    config: &TopicConfig,
) -> impl Iterator<Item = (&'static Definition, String, i8)> + '_ {
    DEFINITIONS.iter().map(|known| match config.overrides.get(known.name) {
        Some(set) => (known, set.clone(), SET_ON_TOPIC),
        None => (known, known.default.to_owned(), DEFAULT),
    })
}

/// DescribeConfigs.
pub(crate) fn describe(
    shared: &Shared,
    version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let synonyms = request.include_synonyms;
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(shared, version, &resource, synonyms) {
            Ok(configs) => result.with_configs(configs),
            Err(refusal) => {
                result.with_error_code(refusal.code.code()).with_error_message(Some(text(refusal.message)))
            }
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe_one(
    shared: &Shared,
    version: i16,
    resource: &DescribeConfigsResource,
    synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    match resource.resource_type {
        TOPIC => {}
        // The broker has no config that can be read or set over the wire.
        BROKER if resource.resource_name.is_empty() => return Ok(Vec::new()),
        BROKER if *resource.resource_name == NODE_ID.0.to_string() => return Ok(Vec::new()),
        BROKER => {
            let message = format!("Unexpected broker id, expected {}.", NODE_ID.0);
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
        other => {
            let message = format!("Configs of resource type {other} are not supported.");
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
    }
    let name = resource.resource_name.as_str();
    let topic = shared.topics.get(name).ok_or_else(|| Refusal::unknown_topic(name))?;
    let config = topic.config();
    let asked = |name: &str| match &resource.configuration_keys {
        Some(keys) => keys.iter().any(|key| **key == *name),
        None => true,
    };
    let described =
        effective(&config).filter(|(known, _, _)| asked(known.name)).map(|(known, value, source)| {
            let mut result = DescribeConfigsResourceResult::default()
                .with_name(text(known.name))
                .with_value(Some(text(&value)))
                .with_config_source(source);
            if synonyms && source == SET_ON_TOPIC {
                let set = DescribeConfigsSynonym::default()
                    .with_name(text(known.name))
                    .with_value(Some(text(&value)))
                    .with_source(source);
                result = result.with_synonyms(vec![set]);
            }
            match version {
                ..3 => result,
                _ => result.with_config_type(known.kind as i8),
            }
        });
    Ok(described.collect())
}

/// AlterConfigs, of topics only: what is not named goes back to its default.
pub(crate) async fn replace(shared: &Arc<Shared>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::new();
    for resource in request.resources {
        let response = alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let entries = resource.configs.into_iter();
        let configs: BTreeMap<_, _> =
            entries.filter_map(|entry| Some((entry.name.to_string(), entry.value?.to_string()))).collect();
        let change = move |overrides: &mut BTreeMap<String, String>| {
            *overrides = configs;
            Ok(())
        };
        let name = resource.resource_name.to_string();
        let kind = resource.resource_type;
        responses.push(match configure(shared, kind, name, request.validate_only, change).await {
            Ok(()) => response,
            Err(refusal) => {
                response.with_error_code(refusal.code.code()).with_error_message(Some(text(refusal.message)))
            }
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

/// IncrementalAlterConfigs, of topics only.
pub(crate) async fn alter(
    shared: &Arc<Shared>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::new();
    for resource in request.resources {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match alter_one(shared, resource, request.validate_only).await {
            Ok(()) => response,
            Err(refusal) => {
                response.with_error_code(refusal.code.code()).with_error_message(Some(text(refusal.message)))
            }
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

async fn alter_one(
    shared: &Arc<Shared>,
    resource: AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refusal> {
    let (kind, name) = (resource.resource_type, resource.resource_name.to_string());
    let change = move |overrides: &mut BTreeMap<String, String>| {
        resource.configs.iter().try_for_each(|entry| change(overrides, entry))
    };
    configure(shared, kind, name, validate_only, change).await
}

async fn configure(
    shared: &Arc<Shared>,
    kind: i8,
    name: String,
    validate_only: bool,
    change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    if kind != TOPIC {
        let message = "Only the configs of topics can be changed here.";
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    }
    let truncation = |shared: &Shared| shared.topics.get(&name)?.config().faults.truncate;
    let before = truncation(shared);
    let (owned, topic) = (shared.clone(), name.clone());
    let altered = blocking(move || owned.topics.configure(&topic, validate_only, change));
    altered.await.map_err(|error| Refusal::new(error, "file work ended early"))??;
    match truncation(shared).filter(|now| Some(*now) != before) {
        None => Ok(()),
        Some(Truncation { partition, offset }) => {
            let partition = shared.topics.partition(&name, partition);
            let partition = partition.ok_or_else(|| Refusal::unknown_topic(&name))?;
            Ok(shared.writer.truncate(partition, offset).await?)
        }
    }
}

/// One operation on one config.
fn change(overrides: &mut BTreeMap<String, String>, entry: &AlterableConfig) -> Result<(), Refusal> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    const APPEND: i8 = 2;
    const SUBTRACT: i8 = 3;
    let name = entry.name.to_string();
    let refuse = |why: &str| {
        let message = format!("Cannot change config {name}: {why}.");
        Err(Refusal::new(ResponseError::InvalidConfig, message))
    };
    let value = entry.value.as_ref().map(ToString::to_string);
    match (entry.config_operation, value) {
        (SET, Some(value)) => {
            overrides.insert(name, value);
        }
        (DELETE, _) => {
            overrides.remove(&name);
        }
        (operation @ (APPEND | SUBTRACT), Some(value)) => {
            let Some(known) = definition(&name).filter(|known| known.kind == Kind::List) else {
                return refuse("it is not a list");
            };
            let now = overrides.get(&name).map_or(known.default, String::as_str);
            let given: Vec<&str> = value.split(',').map(str::trim).collect();
            let mut entries: Vec<&str> = now.split(',').filter(|entry| !entry.is_empty()).collect();
            entries.retain(|entry| !given.contains(entry));
            if operation == APPEND {
                entries.extend(given);
            }
            let joined = entries.join(",");
            overrides.insert(name, joined);
        }
        (SET | APPEND | SUBTRACT, None) => return refuse("there is no value"),
        _ => return refuse("unknown operation"),
    }
    Ok(())
}
