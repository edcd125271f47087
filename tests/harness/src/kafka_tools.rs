//! Kafka's own command line tools, as witnesses that know nothing of this system.

use crate::{Error, Result};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A tool is a JVM that starts in seconds, and more where every core is busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Kafka's jars; none if `KAFKA_LIBS` is not set.
pub(crate) fn kafka_libs() -> Option<PathBuf> {
    std::env::var_os("KAFKA_LIBS").filter(|path| !path.is_empty()).map(PathBuf::from)
}

static IS_MEASURED: AtomicBool = AtomicBool::new(false);

/// From now on a JVM compiles as an operator's does: slower to start, and many times faster at TLS.
pub fn measure_kafka() {
    IS_MEASURED.store(true, Ordering::Relaxed);
}

/// A JVM with Kafka's jars, tuned to start quickly.
pub(crate) fn java(libs: &Path, heap: &str) -> Command {
    let mut java = Command::new("java");
    java.arg("-cp").arg(libs.join("*"));
    java.args([&format!("-Xmx{heap}"), "-XX:+UseSerialGC", "-XX:-UsePerfData"]);
    if !IS_MEASURED.load(Ordering::Relaxed) {
        java.arg("-XX:TieredStopAtLevel=1");
    }
    // Halves the time of a start. An archive that does not fit is not used, which would be a warning on stdout.
    java.arg(format!("-XX:SharedArchiveFile={}", libs.join("classes.jsa").display()));
    java.args(["-Xlog:disable", "-Xlog:all=error:stderr"]);
    java
}

/// A record as the console consumer shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleRecord {
    /// Its offset.
    pub offset: i64,
    /// Its headers in their order.
    pub headers: Vec<(String, String)>,
    /// The key, as text.
    pub key: Option<String>,
    /// The value, as text.
    pub value: Option<String>,
}

/// A line of `kafka-consumer-groups.sh --describe`. `-` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that the group committed.
    pub current_offset: Option<i64>,
    /// Where the partition ends.
    pub log_end_offset: Option<i64>,
    /// How far the group is behind.
    pub lag: Option<i64>,
}

/// The tools, aimed at a broker.
pub struct KafkaTools {
    libs: PathBuf,
    bootstrap: String,
}

impl KafkaTools {
    /// `None`, written to standard error, where `KAFKA_LIBS` is not set: a machine with Rust alone has no
    /// such witness.
    pub fn find(bootstrap: &str) -> Option<Self> {
        let libs = kafka_libs();
        if libs.is_none() {
            eprintln!("KAFKA_LIBS is not set: Kafka's own tools are not asked");
        }
        Some(Self { libs: libs?, bootstrap: bootstrap.to_owned() })
    }

    /// `kafka-console-consumer.sh` on partition 0 from its start, until there are `count` records or,
    /// with fewer, none came for `quiet`.
    pub async fn console_consumer(
        &self,
        topic: &str,
        count: usize,
        quiet: Duration,
    ) -> Result<Vec<ConsoleRecord>> {
        let properties = [
            "print.offset=true".to_owned(),
            "print.headers=true".to_owned(),
            "print.key=true".to_owned(),
            format!("key.separator={FIELD}"),
            format!("headers.separator={HEADER}"),
            format!("null.literal={NULL}"),
        ];
        let formatter_property = if self.is_kafka_3()? { "--property" } else { "--formatter-property" };
        let count = count.to_string();
        let quiet = quiet.as_millis().to_string();
        let mut args = vec!["--topic", topic, "--partition", "0", "--offset", "earliest"];
        args.extend(["--max-messages", &count, "--timeout-ms", &quiet]);
        args.extend(properties.iter().flat_map(|property| [formatter_property, property]));
        let output = self.run("org.apache.kafka.tools.consumer.ConsoleConsumer", &args).await?;
        let record = |line| read_record(line).ok_or_else(|| Error::failed(format!("no record: {line:?}")));
        output.lines().map(record).collect()
    }

    /// Kafka 4 has renamed some of its options.
    fn is_kafka_3(&self) -> Result<bool> {
        let jars = std::fs::read_dir(&self.libs).map_err(|error| Error::file(&self.libs, error))?;
        Ok(jars.flatten().any(|jar| jar.file_name().to_string_lossy().starts_with("kafka-clients-3.")))
    }

    /// `kafka-consumer-groups.sh --describe --group GROUP`. No rows: the group has committed nothing.
    pub async fn consumer_groups_describe(&self, group: &str) -> Result<Vec<GroupRow>> {
        let args = ["--describe", "--group", group];
        let table = self.run("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args).await?;
        read_groups(&table)
    }

    /// `kafka-console-producer.sh`: records of these keys and values, in one codec.
    pub async fn console_producer(&self, topic: &str, codec: &str, records: &[(&str, String)]) -> Result<()> {
        let mut lines = String::new();
        for (key, value) in records {
            lines.push_str(&format!("{key}{FIELD}{value}\n"));
        }
        let property = if self.is_kafka_3()? { "--property" } else { "--reader-property" };
        let separator = format!("key.separator={FIELD}");
        let args = ["--topic", topic, "--compression-codec", codec];
        let args = [&args[..], &[property, "parse.key=true", property, &separator]].concat();
        self.run_with("org.apache.kafka.tools.ConsoleProducer", &args, &lines).await.map(drop)
    }

    /// `kafka-configs.sh --alter` of one config of a topic.
    pub async fn alter_topic(&self, topic: &str, config: &str) -> Result<()> {
        let args = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", config];
        self.run("kafka.admin.ConfigCommand", &args).await.map(drop)
    }

    /// `kafka-topics.sh ARGS`.
    pub async fn topics(&self, args: &[&str]) -> Result<String> {
        self.run("org.apache.kafka.tools.TopicCommand", args).await
    }

    /// Any other tool by its class: its standard output.
    pub async fn run(&self, class: &str, args: &[&str]) -> Result<String> {
        self.run_with(class, args, "").await
    }

    async fn run_with(&self, class: &str, args: &[&str], input: &str) -> Result<String> {
        let failed = |why: String| Error::process(class, format!("{args:?}: {why}"));
        // A file: what a pipe does not hold would have to be written beside.
        let mut file = tempfile::tempfile().map_err(|error| Error::file(&std::env::temp_dir(), error))?;
        let written = file.write_all(input.as_bytes()).and_then(|()| file.rewind());
        written.map_err(|error| Error::file(&std::env::temp_dir(), error))?;
        let mut java = java(&self.libs, "256m");
        java.args(["-Dorg.apache.logging.log4j.level=OFF", class, "--bootstrap-server", &self.bootstrap])
            .args(args)
            .stdin(file);
        let mut java = tokio::process::Command::from(java);
        let output = tokio::time::timeout(LIMIT, java.kill_on_drop(true).output()).await;
        let output = output.map_err(|_| failed(format!("no end within {LIMIT:?}")))?;
        let output = output.map_err(|error| failed(format!("java does not start: {error}")))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(stdout);
        }
        Err(failed(format!("{}\n{stdout}{stderr}", output.status)))
    }
}

// Characters that neither JSON nor a header here has.
const FIELD: char = '\u{1f}';
const HEADER: char = '\u{1e}';
const NULL: &str = "\u{18}";

fn read_record(line: &str) -> Option<ConsoleRecord> {
    let mut fields = line.splitn(4, FIELD);
    let offset = fields.next()?.strip_prefix("Offset:")?.parse().ok()?;
    let headers = fields.next()?.split(HEADER).filter_map(|header| {
        let (name, value) = header.split_once(':')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let headers = headers.collect();
    let mut text = || fields.next().map(|text| (text != NULL).then(|| text.to_owned()));
    Some(ConsoleRecord { offset, headers, key: text()?, value: text()? })
}

/// Reads the table by its heading, as its columns differ between versions.
fn read_groups(table: &str) -> Result<Vec<GroupRow>> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let Some(heading) = lines.find(|words| words.contains(&"CURRENT-OFFSET")) else {
        return Ok(Vec::new());
    };
    let rows = lines.filter(|words| words.len() >= heading.len());
    rows.map(|words| {
        let column = |name: &str| {
            let index = heading.iter().position(|one| *one == name);
            let word = index.and_then(|index| words.get(index)).copied();
            word.ok_or_else(|| Error::failed(format!("no column {name} in {table}")))
        };
        let partition = column("PARTITION")?;
        Ok(GroupRow {
            topic: column("TOPIC")?.to_owned(),
            partition: partition
                .parse()
                .map_err(|_| Error::failed(format!("partition {partition}: no number")))?,
            current_offset: column("CURRENT-OFFSET")?.parse().ok(),
            log_end_offset: column("LOG-END-OFFSET")?.parse().ok(),
            lag: column("LAG")?.parse().ok(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_console_consumer_is_read() {
        let line = "Offset:7\u{1f}a:1:2\u{1e}b:x,y\u{1f}key\u{1f}{\"text\": 1}";
        let record = read_record(line).unwrap();
        assert_eq!(record.offset, 7);
        assert_eq!(record.headers, [("a".into(), "1:2".into()), ("b".into(), "x,y".into())]);
        assert_eq!(record.key.as_deref(), Some("key"));
        assert_eq!(record.value.as_deref(), Some("{\"text\": 1}"));

        let tombstone = read_record("Offset:8\u{1f}NO_HEADERS\u{1f}key\u{1f}\u{18}").unwrap();
        assert_eq!((tombstone.headers.len(), tombstone.value), (0, None));
    }

    #[test]
    fn a_table_of_groups_is_read_by_its_heading() {
        let table = "\nConsumer group 'g' has no active members.\n\n\
            GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\n\
            g task-events 0 3 5 2 - - -\n\
            g task-events 1 - 0 - - - -\n";
        let rows = read_groups(table).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].current_offset, rows[0].log_end_offset, rows[0].lag),
            (Some(3), Some(5), Some(2))
        );
        assert_eq!((rows[1].partition, rows[1].current_offset, rows[1].lag), (1, None, None));
        assert_eq!(read_groups("Error: Consumer group 'g' does not exist.").unwrap(), []);
    }
}
