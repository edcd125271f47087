//! Several Apache Kafka brokers as one cluster, each of which can be killed, paused and restarted.

use crate::broker::{Node, STOP_LIMIT, Sign, new_cluster_id, spawn_kafka, wait_until_ready};
use crate::kafka_tools::{KafkaTools, kafka_libs};
use crate::{Error, Kind, Process, Result, eventually, free_port, temporary_folder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Until every replica is in sync again: a broker that was killed reads its logs first.
const IN_SYNC_LIMIT: Duration = Duration::from_secs(120);

/// Running brokers with the ids 1, 2, 3 and so on. They and their data are gone when it is dropped.
pub struct Cluster {
    brokers: BTreeMap<i32, Member>,
    sign: Sign,
    _folder: TempDir,
}

struct Member {
    process: Process,
    port: u16,
    folder: PathBuf,
}

/// A partition as `kafka-topics.sh --describe` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRow {
    /// Its number.
    pub partition: i32,
    /// The broker that leads it; none where that is down.
    pub leader: Option<i32>,
    /// The brokers that keep it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub isr: Vec<i32>,
}

impl Cluster {
    /// Starts three brokers: replication factor 3, min.insync.replicas 2. `None`, written to standard error,
    /// where `E2E_BROKER` does not ask for Apache Kafka: the dev broker is always alone.
    pub async fn start() -> Result<Option<Self>> {
        Self::start_with(&[]).await
    }

    /// The same, each broker with these settings.
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Option<Self>> {
        if Kind::from_env()? == Kind::Dev || kafka_libs().is_none() {
            eprintln!("E2E_BROKER is not kafka: nothing is tried on a cluster");
            return Ok(None);
        }
        let folder = temporary_folder()?;
        let mut nodes = Vec::new();
        for id in [1, 2, 3] {
            let port = free_port()?;
            nodes.push(Node { id, port, advertised: port, controller: free_port()?, also: &[] });
        }
        let voters: Vec<_> =
            nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller)).collect();
        let cluster_id = new_cluster_id();
        let mut brokers = BTreeMap::new();
        for node in &nodes {
            let folder = folder.path().join(node.id.to_string());
            std::fs::create_dir(&folder).map_err(|error| Error::file(&folder, error))?;
            node.format(&folder, &cluster_id, &voters.join(","), nodes.len(), settings).await?;
            let process = spawn_broker(node.id, &folder)?;
            brokers.insert(node.id, Member { process, port: node.port, folder });
        }
        let mut cluster = Self { brokers, sign: Sign::ClusterId(cluster_id), _folder: folder };
        for id in [1, 2, 3] {
            cluster.wait_until_ready(id).await?;
        }
        Ok(Some(cluster))
    }

    /// The addresses of all brokers.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.brokers.values().map(Member::address).collect();
        addresses.join(",")
    }

    /// The address of one broker.
    pub fn address(&self, id: i32) -> Result<String> {
        let member = self.brokers.get(&id);
        member.map(Member::address).ok_or_else(|| Error::failed(format!("there is no broker {id}")))
    }

    /// Ends a broker as a power cut would.
    pub fn kill9(&mut self, id: i32) -> Result<()> {
        self.member(id)?.process.kill9();
        Ok(())
    }

    /// Asks a broker to end, which hands over what it leads, and waits for that.
    pub async fn stop(&mut self, id: i32) -> Result<()> {
        self.member(id)?.process.terminate(STOP_LIMIT).await.map(drop)
    }

    /// Starts a broker that was ended, and waits until it answers.
    pub async fn restart(&mut self, id: i32) -> Result<()> {
        let member = self.member(id)?;
        member.process.kill9();
        member.process = spawn_broker(id, &member.folder)?;
        self.wait_until_ready(id).await
    }

    /// Pauses a broker: connections stay open, nothing is answered.
    pub fn pause(&mut self, id: i32) -> Result<()> {
        self.member(id)?.process.pause()
    }

    /// Lets a paused broker go on.
    pub fn resume(&mut self, id: i32) -> Result<()> {
        self.member(id)?.process.resume()
    }

    /// Creates a topic with these configs, each partition on the brokers given for it, its preferred leader
    /// first.
    pub async fn create_topic(
        &self,
        topic: &str,
        assignment: &[&[i32]],
        configs: &[(&str, &str)],
    ) -> Result<()> {
        let ids = |replicas: &&[i32]| replicas.iter().map(i32::to_string).collect::<Vec<_>>().join(":");
        let assignment = assignment.iter().map(ids).collect::<Vec<_>>().join(",");
        let configs: Vec<_> = configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut args = vec!["--create", "--topic", topic, "--replica-assignment", &assignment];
        args.extend(configs.iter().flat_map(|config| ["--config", config]));
        self.tools()?.topics(&args).await.map(drop)
    }

    /// The partitions of a topic.
    pub async fn describe(&self, topic: &str) -> Result<Vec<PartitionRow>> {
        let described = self.tools()?.topics(&["--describe", "--topic", topic]).await?;
        Ok(described.lines().filter_map(read_partition).collect())
    }

    /// The broker that leads a partition. An error if none does.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        let rows = self.describe(topic).await?;
        let row = rows.iter().find(|row| row.partition == partition);
        row.and_then(|row| row.leader)
            .ok_or_else(|| Error::failed(format!("{topic}/{partition} has no leader: {rows:?}")))
    }

    /// Waits until every replica of a topic is in sync.
    pub async fn in_sync(&self, topic: &str) -> Result<()> {
        let all = async || {
            let rows = self.describe(topic).await?;
            Ok(rows.iter().all(|row| row.isr.len() == row.replicas.len()).then_some(()))
        };
        eventually(&format!("all replicas of {topic} to be in sync"), IN_SYNC_LIMIT, all).await
    }

    /// Kafka's own tools, aimed at the brokers that answer.
    pub fn tools(&self) -> Result<KafkaTools> {
        let tools = KafkaTools::find(&self.bootstrap());
        tools.ok_or_else(|| Error::failed("KAFKA_LIBS is not set any more"))
    }

    fn member(&mut self, id: i32) -> Result<&mut Member> {
        self.brokers.get_mut(&id).ok_or_else(|| Error::failed(format!("there is no broker {id}")))
    }

    async fn wait_until_ready(&mut self, id: i32) -> Result<()> {
        let member = self.brokers.get_mut(&id);
        let member = member.ok_or_else(|| Error::failed(format!("there is no broker {id}")))?;
        wait_until_ready(&mut member.process, &self.sign, member.port, member.port).await
    }
}

impl Member {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn spawn_broker(id: i32, folder: &Path) -> Result<Process> {
    spawn_kafka(&format!("kafka {id}"), folder)
}

/// Reads `Topic: t  Partition: 0  Leader: 1  Replicas: 1,2,3  Isr: 1,2  …`; `none` or -1 is no leader.
fn read_partition(line: &str) -> Option<PartitionRow> {
    let words: Vec<_> = line.split_whitespace().collect();
    let field = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let ids = |text: &str| text.split(',').filter_map(|id| id.parse().ok()).collect();
    Some(PartitionRow {
        partition: field("Partition:")?.parse().ok()?,
        leader: field("Leader:")?.parse().ok().filter(|id| *id >= 0),
        replicas: ids(field("Replicas:")?),
        isr: field("Isr:").map(ids).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_of_a_partition_is_read() {
        let line =
            "\tTopic: task-events\tPartition: 2\tLeader: 3\tReplicas: 3,1,2\tIsr: 3,1\tElr: \tLastKnownElr: ";
        let row = PartitionRow { partition: 2, leader: Some(3), replicas: vec![3, 1, 2], isr: vec![3, 1] };
        assert_eq!(read_partition(line), Some(row));
        let down = "\tTopic: t\tPartition: 0\tLeader: none\tReplicas: 1\tIsr: 1";
        assert_eq!(read_partition(down).unwrap().leader, None);
        assert_eq!(read_partition("Topic: t\tTopicId: x\tPartitionCount: 1"), None);
    }
}
