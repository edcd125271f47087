//! A folder with a log and an index, and what the tests of the log do with it.

use super::*;

pub(super) const TOPIC: &str = "task-events";

/// The files of an index.
pub(super) type Index = Vec<(String, Vec<u8>)>;

/// A folder with a log and an index.
pub(super) struct Rig(pub(super) TempDir);

impl Rig {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with that log, and with that index.
    pub(super) fn with(log: &[u8], index: Option<&Index>) -> Self {
        let rig = Self::new();
        fs::write(rig.log(), log).unwrap();
        if let Some(index) = index {
            rig.put_index(index);
        }
        rig
    }

    pub(super) fn index_files(&self) -> Vec<String> {
        self.all_names().into_iter().filter(|name| name.starts_with("dedup")).collect()
    }

    /// The index as it is now on disk.
    pub(super) fn copy_index(&self) -> Index {
        self.index_files()
            .into_iter()
            .map(|name| (name.clone(), fs::read(self.path(&name)).unwrap()))
            .collect()
    }

    /// Puts an index in the place of what is there.
    pub(super) fn put_index(&self, index: &Index) {
        self.index_files().iter().for_each(|name| fs::remove_file(self.path(name)).unwrap());
        index.iter().for_each(|(name, bytes)| fs::write(self.path(name), bytes).unwrap());
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path("audit.log")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path("dedup")
    }

    pub(super) fn try_open(&self) -> Result<Journal<FileSystem>, AuditError> {
        Journal::open(FileSystem, &self.log(), &self.index())
    }

    pub(super) fn open(&self) -> Journal<FileSystem> {
        self.try_open().unwrap()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        fs::read(self.log()).unwrap()
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        numbers(&self.bytes())
    }

    pub(super) fn torn(&self) -> Vec<Vec<u8>> {
        let named = self.names().into_iter().filter(|name| name.contains(".torn-"));
        named.map(|name| fs::read(self.path(&name)).unwrap()).collect()
    }

    /// The names in the folder; of the index only the first.
    pub(super) fn names(&self) -> Vec<String> {
        let is_part = |name: &String| name.starts_with("dedup.log-") || name.starts_with("dedup.run-");
        self.all_names().into_iter().filter(|name| !is_part(name)).collect()
    }

    pub(super) fn all_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The events of a log, which has to be whole.
pub(super) fn numbers(bytes: &[u8]) -> Vec<u64> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| parse(line).expect("a whole line").event_id.as_u128() as u64).collect()
}

pub(super) fn id(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

/// What somebody else does to a log.
pub(super) type Hand<'a> = &'a dyn Fn(&Rig);

/// An event, its partition and its offset.
pub(super) type Record = (u64, i32, i64);

pub(super) fn line((number, partition, offset): Record, pad: usize) -> Pending {
    let json = serde_json::json!({
        "event_id": id(number), "event_type": "task.archived", "occurred_at": "2026-01-15T10:30:00Z",
        "data": {"task_id": format!("t{number}"), "pad": "x".repeat(pad)},
        "metadata": {"correlation_id": Uuid::nil(), "source": "task-api"},
    });
    let json = json.to_string();
    let entry = Entry::new(&Event::decode(Some(json.as_bytes())).unwrap(), None).unwrap();
    let mut line = Pending::new(TOPIC, partition);
    line.push(&entry, offset);
    line
}

pub(super) fn parts(lines: &[Pending]) -> Vec<Part<'_>> {
    lines.iter().map(Pending::all).collect()
}

/// How far a batch is done in each partition.
pub(super) fn progress(records: &[Record]) -> Vec<Progress> {
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for (_, partition, offset) in records {
        ends.insert(*partition, *offset);
    }
    let at = |(partition, offset): (i32, i64)| Progress {
        topic: TOPIC.to_owned(),
        partition,
        position: Position::at(offset + 1),
    };
    ends.into_iter().map(at).collect()
}

pub(super) fn try_batch<F: Files>(journal: &mut Journal<F>, records: &[Record]) -> Result<(), JournalError> {
    let lines: Vec<Pending> = records.iter().map(|record| line(*record, 0)).collect();
    let progress = progress(records);
    journal.append(&parts(&lines), &progress.iter().collect::<Vec<_>>()).map(drop)
}

pub(super) fn batch<F: Files>(journal: &mut Journal<F>, records: &[Record]) {
    try_batch(journal, records).unwrap();
}

/// Writes lines as a process does that dies before it adds them to the index.
pub(super) fn write_only<F: Files>(journal: &mut Journal<F>, records: &[Record]) {
    let lines: Vec<Pending> = records.iter().map(|record| line(*record, 0)).collect();
    journal.write(&NewLines::of(&parts(&lines), |_| true)).unwrap();
}

/// Events `range` of partition 0, each at its own number as offset.
pub(super) fn events(range: std::ops::Range<u64>) -> Vec<Record> {
    range.map(|number| (number, 0, number as i64)).collect()
}

pub(super) fn next<F: Files>(journal: &Journal<F>, partition: i32) -> Option<i64> {
    journal.mark().position(TOPIC, partition).map(|position| position.offset)
}

/// What the runtime reads after a start: the topic from where the log says, its end being `end`.
pub(super) fn replay<F: Files>(journal: &mut Journal<F>, end: u64) {
    let start = next(journal, 0).unwrap_or(0) as u64;
    batch(journal, &events(start..end));
}

pub(super) fn ids<F: Files>(journal: &Journal<F>) -> u64 {
    let ids = journal.index().len().unwrap();
    assert_eq!(journal.mark().ids, ids, "the mark counts the ids");
    ids
}
