//! The offsets topic, read by hand: who claimed what, and how far each group is.

use crate::{Error, Result, read_topic};
use serde_json::Value;
use std::collections::BTreeMap;

/// One group and one partition, as the topic has them.
#[derive(Debug, Clone, Default)]
pub struct GroupOffsets {
    /// The claims that are still there, in their order: token and claim.
    pub claims: Vec<(i64, Value)>,
    /// The last commit under each token.
    pub commits: BTreeMap<i64, Value>,
}

impl GroupOffsets {
    /// Reads the topic.
    pub async fn read(bootstrap: &str, offsets_topic: &str, slot: &str) -> Result<Self> {
        let mut group = Self::default();
        let (claim_key, commit_key) = (format!("{slot}/claim"), format!("{slot}/commit/"));
        for record in read_topic(bootstrap, offsets_topic).await? {
            let Some(key) = record.record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else {
                continue;
            };
            if key == claim_key {
                group.claims.push((record.offset, record.json()?));
            } else if let Some(token) = key.strip_prefix(&commit_key) {
                let token = token.parse().map_err(|_| Error::failed(format!("no token in the key {key}")))?;
                match record.record.value {
                    Some(_) => group.commits.insert(token, record.json()?),
                    None => group.commits.remove(&token),
                };
            }
        }
        Ok(group)
    }

    /// The offset to read next: the last commit of the highest token that has one.
    pub fn position(&self) -> Option<i64> {
        self.commits.last_key_value().and_then(|(_, commit)| commit.get("offset")?.as_i64())
    }

    /// The highest token.
    pub fn owner(&self) -> Option<i64> {
        self.claims.last().map(|(token, _)| *token)
    }

    /// Whether the owner has said that it stopped.
    pub fn is_released(&self) -> bool {
        let commit = self.owner().and_then(|token| self.commits.get(&token));
        commit.is_some_and(|commit| commit.get("released").is_some_and(|released| *released == true))
    }
}
