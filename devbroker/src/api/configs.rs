//! Configs of topics (and, for the tools that ask, of the broker).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::{NODE_ID, text};
use crate::Shared;
use crate::config::{DEFINITIONS, Definition, TopicConfig};
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
