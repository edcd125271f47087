//! Where a topic is not what `topics create` would have made it.

use serde::Serialize;
use task_events::kafka::NewTopic;

use crate::{Context, Error};

/// A setting of a topic that is not what `topics create` would have made it.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Difference {
    /// A config, or `partitions`.
    pub(in crate::commands) what: String,
    pub(in crate::commands) is: String,
    pub(in crate::commands) wanted: String,
}

/// Where a topic differs from what would have been created.
pub(in crate::commands) async fn differences(
    context: &Context,
    topic: &NewTopic,
    partitions: i32,
) -> Result<Vec<Difference>, Error> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, is: String, wanted: String| {
        if is != wanted {
            differences.push(Difference { what: what.to_owned(), is, wanted });
        }
    };
    compare("partitions", partitions.to_string(), topic.partitions.to_string());
    for (config, wanted) in &topic.configs {
        let is = context.kafka.admin().topic_config(&topic.name, config).await?;
        compare(config, is.unwrap_or_else(|| "unknown".to_owned()), wanted.clone());
    }
    Ok(differences)
}
