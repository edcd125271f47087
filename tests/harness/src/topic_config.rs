//! Configs of topics, changed as an administrator does, and the faults that the dev broker has among them.

use crate::Result;
use crate::wire::{Wire, check_code, text};
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};

/// IncrementalAlterConfigs in the version that Kafka 3 and 4 and the dev broker speak.
const VERSION: i16 = 1;
const TOPIC: i8 = 2;
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Sets a config of a topic; without a value it has the broker's default again.
pub async fn configure_topic(bootstrap: &str, topic: &str, config: &str, value: Option<&str>) -> Result<()> {
    let operation = if value.is_some() { SET } else { DELETE };
    let config = AlterableConfig::default()
        .with_name(text(config))
        .with_config_operation(operation)
        .with_value(value.map(text));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = Wire::connect_any(bootstrap).await?.call(VERSION, &request).await?;
    for resource in answer.responses {
        check_code(&format!("set a config of {topic}"), resource.error_code)?;
    }
    Ok(())
}
