//! Configs of topics.

use super::*;

pub fn topic_resource(name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(name))
        .with_configuration_keys(None)
}

pub async fn describe_configs_contract(wire: &mut Wire, version: i16) {
    let topic = unique("describe-configs");
    wire.create_topic(&topic, &[("cleanup.policy", "compact")]).await;
    let some_keys = ["cleanup.policy", "segment.bytes"].map(text).to_vec();
    let request = DescribeConfigsRequest::default().with_resources(vec![
        topic_resource(&topic),
        topic_resource(&topic).with_configuration_keys(Some(some_keys)),
        topic_resource(&unique("missing")),
    ]);
    let response = wire.call(version, &request).await;
    let [all, some, missing] = &response.results[..] else {
        panic!("{response:?}");
    };
    let value = |name: &str| {
        let config = all.configs.iter().find(|config| *config.name == *name).unwrap();
        (config.value.as_ref().unwrap().to_string(), config.config_source)
    };
    assert_eq!(value("cleanup.policy"), ("compact".into(), 1));
    assert_eq!(value("max.message.bytes"), ("1048588".into(), 5));
    assert!(all.configs.len() > 20);
    assert_eq!(some.configs.len(), 2);
    assert_eq!(missing.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
}

pub async fn alter_configs_contract(wire: &mut Wire, version: i16) {
    let topic = unique("alter-configs");
    wire.create_topic(&topic, &[]).await;
    let request = |topic: &str, name: &str, operation, value: Option<&str>| {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (topic, name, operation, value, expected) in [
        (&*topic, "retention.ms", 0, Some("1000"), 0),
        (&*topic, "cleanup.policy", 2, Some("compact"), 0),
        (&*topic, "cleanup.policy", 3, Some("delete"), 0),
        (&*topic, "nonsense", 0, Some("1"), code::INVALID_CONFIG),
        (&*topic, "segment.bytes", 0, Some("-1"), code::INVALID_CONFIG),
        (&*topic, "segment.bytes", 2, Some("1"), code::INVALID_CONFIG),
        (&unique("missing"), "retention.ms", 0, Some("1"), code::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let response = wire.call(version, &request(topic, name, operation, value)).await;
        let altered = &response.responses[0];
        assert_eq!(altered.error_code, expected, "{name}: {:?}", altered.error_message);
    }
    wait_for_config(wire, &topic, "cleanup.policy", "compact").await;
    wait_for_config(wire, &topic, "retention.ms", "1000").await;
    wire.call(version, &request(&topic, "retention.ms", 1, None)).await;
    wait_for_config(wire, &topic, "retention.ms", "604800000").await;
}

/// In Kafka a change reaches the broker a moment after it was answered.
pub async fn wait_for_config(wire: &mut Wire, topic: &str, name: &str, expected: &str) {
    let request = DescribeConfigsRequest::default().with_resources(vec![topic_resource(topic)]);
    let mut value = None;
    for _ in 0..100 {
        let response = wire.call(4, &request).await;
        let configs = &response.results[0].configs;
        value = configs.iter().find(|config| *config.name == *name).unwrap().value.clone();
        if value.as_deref() == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is {value:?}, not {expected}");
}
