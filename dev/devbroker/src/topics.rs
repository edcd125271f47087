//! The topics of the broker and their configs, durable as one folder a topic:
//! `topics/<name>/topic.json` and `topics/<name>/<partition>/`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use kafka_protocol::error::ResponseError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{TopicConfig, check_topic_name};
use crate::durable;
use crate::faults;
use crate::log::partition::Partition;

/// Most partitions of one topic: each is two open files or more.
const MAX_PARTITIONS: i32 = 1000;
const META_FILE: &str = "topic.json";

/// An error code with the text that goes with it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub code: ResponseError,
    pub message: String,
}

impl Refusal {
    pub fn new(code: ResponseError, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn unknown_topic(name: &str) -> Self {
        let message = format!("This server does not host topic '{}'.", name.escape_debug());
        Self::new(ResponseError::UnknownTopicOrPartition, message)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        log::error!("cannot change a topic on disk: {error}");
        Self::new(ResponseError::KafkaStorageError, error.to_string())
    }
}

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub name: String,
    pub id: Uuid,
    dir: PathBuf,
    config: RwLock<Arc<TopicConfig>>,
    partitions: RwLock<Vec<Arc<Partition>>>,
}

/// The content of `topic.json`.
#[derive(Serialize, Deserialize)]
struct Meta {
    id: Uuid,
    partitions: i32,
    configs: BTreeMap<String, String>,
}

impl Topic {
    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        partitions.get(usize::try_from(index).ok()?).cloned()
    }

    fn open(dir: PathBuf, name: String, start: i32, faults: bool) -> io::Result<Self> {
        let mut meta: Meta = serde_json::from_slice(&fs::read(dir.join(META_FILE))?)?;
        if !faults {
            meta.configs.retain(|name, _| !name.starts_with(faults::PREFIX));
        }
        let config = Arc::new(TopicConfig::new(meta.configs).map_err(io::Error::other)?);
        let partitions = (0..meta.partitions)
            .map(|index| {
                let dir = dir.join(index.to_string());
                Partition::open(&dir, &name, index, config.clone(), start).map(Arc::new)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { name, id: meta.id, dir, config: RwLock::new(config), partitions: RwLock::new(partitions) })
    }

    fn write_meta(&self, partitions: i32, config: &TopicConfig) -> io::Result<()> {
        let meta = Meta { id: self.id, partitions, configs: config.overrides.clone() };
        durable::replace(&self.dir.join(META_FILE), &serde_json::to_vec_pretty(&meta)?)
    }
}

/// All topics. Every change is made on disk first; changes exclude each other.
#[derive(Debug)]
pub(crate) struct Topics {
    dir: PathBuf,
    /// The number of this start of the broker, which leader epochs rise with.
    start: i32,
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
    changing: Mutex<()>,
    /// Whether tests may switch faults on.
    faults: bool,
}

impl Topics {
    /// Opens every topic under `dir`, recovering each partition. `start` is the number of this start
    /// of the broker. Blocking.
    pub fn open(dir: &Path, start: i32, faults: bool) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut by_name = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('~') {
                // A creation or deletion that was cut short.
                fs::remove_dir_all(&path)?;
                continue;
            }
            let topic = Topic::open(path.clone(), name.clone(), start, faults)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            by_name.insert(name, Arc::new(topic));
        }
        Ok(Self {
            dir: dir.to_owned(),
            start,
            by_name: RwLock::new(by_name),
            changing: Mutex::new(()),
            faults,
        })
    }

    /// Every topic, by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.read_names(|names| names.values().cloned().collect())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.read_names(|names| names.get(name).cloned())
    }

    pub fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.read_names(|names| names.values().find(|topic| topic.id == id).cloned())
    }

    pub fn partition(&self, name: &str, index: i32) -> Option<Arc<Partition>> {
        self.get(name)?.partition(index)
    }

    fn read_names<T>(&self, read: impl FnOnce(&BTreeMap<String, Arc<Topic>>) -> T) -> T {
        read(&self.by_name.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn alone(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a topic. Blocking. With `validate_only` it only says whether it could, and the
    /// topic is `None`.
    pub fn create(
        &self,
        name: &str,
        partitions: i32,
        overrides: BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<Option<Arc<Topic>>, Refusal> {
        let _alone = self.alone();
        check_topic_name(name).map_err(|why| Refusal::new(ResponseError::InvalidTopicException, why))?;
        if self.get(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return Err(Refusal::new(ResponseError::TopicAlreadyExists, message));
        }
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            let message =
                format!("Number of partitions must be from 1 to {MAX_PARTITIONS}, not {partitions}.");
            return Err(Refusal::new(ResponseError::InvalidPartitions, message));
        }
        let config = self.checked(overrides)?;
        if validate_only {
            return Ok(None);
        }
        let id = Uuid::new_v4();
        let unfinished = self.dir.join(format!("~{id}"));
        fs::create_dir(&unfinished)?;
        for index in 0..partitions {
            Partition::create_files(&unfinished.join(index.to_string()), self.start)?;
        }
        let meta = Meta { id, partitions, configs: config.overrides };
        let bytes = serde_json::to_vec_pretty(&meta).map_err(io::Error::other)?;
        durable::replace(&unfinished.join(META_FILE), &bytes)?;
        let dir = self.dir.join(name);
        fs::rename(&unfinished, &dir)?;
        durable::sync_dir(&self.dir)?;
        let topic = Arc::new(Topic::open(dir, name.to_owned(), self.start, self.faults)?);
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), topic.clone());
        Ok(Some(topic))
    }

    fn checked(&self, overrides: BTreeMap<String, String>) -> Result<TopicConfig, Refusal> {
        let refuse = |why| Refusal::new(ResponseError::InvalidConfig, why);
        let fault = overrides.keys().find(|name| name.starts_with(faults::PREFIX));
        match fault.filter(|_| !self.faults) {
            Some(name) => Err(refuse(format!("Unknown topic config name: {name}"))),
            None => TopicConfig::new(overrides).map_err(refuse),
        }
    }

    /// Deletes a topic with its records. Blocking; waits for a compaction that is under way, so
    /// that it cannot write into a new topic of the same name.
    pub fn delete(&self, name: &str) -> Result<Arc<Topic>, Refusal> {
        let _alone = self.alone();
        let topic = self.get(name).ok_or_else(|| Refusal::unknown_topic(name))?;
        let partitions = topic.partitions();
        let _idle: Vec<_> = partitions.iter().map(|p| p.lock_maintenance()).collect();
        let set_deleted = |deleted| partitions.iter().for_each(|p| p.set_deleted(deleted));
        set_deleted(true);
        let gone = self.dir.join(format!("~{}", topic.id));
        if let Err(error) = fs::rename(&topic.dir, &gone) {
            set_deleted(false);
            return Err(error.into());
        }
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        durable::sync_dir(&self.dir)?;
        fs::remove_dir_all(&gone)?;
        Ok(topic.clone())
    }

    /// Adds partitions up to `count`. Blocking.
    pub fn grow(&self, name: &str, count: i32, validate_only: bool) -> Result<(), Refusal> {
        let _alone = self.alone();
        let topic = self.get(name).ok_or_else(|| Refusal::unknown_topic(name))?;
        let mut partitions = topic.partitions();
        let before = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        if count <= before || count > MAX_PARTITIONS {
            let message = format!(
                "The topic {name} currently has {before} partition(s); {count} would not be an \
                 increase within {MAX_PARTITIONS}."
            );
            return Err(Refusal::new(ResponseError::InvalidPartitions, message));
        }
        if validate_only {
            return Ok(());
        }
        let config = topic.config();
        for index in before..count {
            let dir = topic.dir.join(index.to_string());
            // Left by an earlier try that did not get as far as topic.json.
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => Partition::create_files(&dir, self.start)?,
            }
            let opened = Partition::open(&dir, name, index, config.clone(), self.start)?;
            partitions.push(Arc::new(opened));
        }
        topic.write_meta(count, &config)?;
        *topic.partitions.write().unwrap_or_else(PoisonError::into_inner) = partitions;
        Ok(())
    }

    /// Replaces a topic's configs by what `change` makes of them. Blocking.
    pub fn configure(
        &self,
        name: &str,
        validate_only: bool,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let _alone = self.alone();
        let topic = self.get(name).ok_or_else(|| Refusal::unknown_topic(name))?;
        let mut overrides = topic.config().overrides.clone();
        change(&mut overrides)?;
        let config = self.checked(overrides)?;
        if validate_only {
            return Ok(());
        }
        let partitions = topic.partitions();
        topic.write_meta(i32::try_from(partitions.len()).unwrap_or(i32::MAX), &config)?;
        let config = Arc::new(config);
        *topic.config.write().unwrap_or_else(PoisonError::into_inner) = config.clone();
        for partition in partitions {
            partition.set_config(config.clone());
        }
        Ok(())
    }
}
