//! Answers under idempotency keys, as the database has them: in the order in which they were given, and beside it an
//! index of their keys.
//!
//! Keys are random. In a table by key each answer takes a page of its own, which is read and written again: 60 µs
//! and 8 KB an answer at 20,000,000 of them. So answers are numbered: their table grows at one end and is cut at the
//! other. Which number a key has, an index says that is made for random ids ([`Dedup`]): about 1 µs a key, also for
//! one that it does not have.
//!
//! # Invariants
//!
//! 1. The index has a key, on disk, before the database has its answer; a number without an answer, or with that of
//!    another key, is none. While the database does not have an answer, the overlay has it.
//! 2. The index knows a key as long as its answer is kept, and a key that was used again by its last number.
//! 3. Numbers only rise, also where the index was lost.
//! 4. What a former version kept by key stays there until it has expired.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction,
};
use sha2::{Digest, Sha256};
use task_events::dedup::{Dedup, DedupError, Retention, Tuning};
use task_events::disk::Disk;
use task_events::error_code::Code;
use uuid::Uuid;

use super::failure::{ChangeError, Unreadable};
use super::mutation::Answer;
use super::operation::{Bytes, read_task, write_bytes, write_task};
use super::overlay::Generation;
use super::schema;
use super::schema::{ANSWERS, FORMER, FORMER_BY_EXPIRY, FormerAnswer, NUMBERS};

/// Begins the value of an answer.
const FORMAT: u8 = 1;
/// How long an answer is kept under its idempotency key.
pub(super) const KEEP_ANSWER_MS: u64 = 24 * 60 * 60 * 1_000;
/// Expired answers that are removed for each change, so that the work is spread.
const FORGET_PER_CHANGE: usize = 2;

/// A key and what was answered under it.
pub(super) type Kept = Result<(String, Answer), Unreadable>;

/// Where the database has its answers.
#[derive(Debug)]
pub(super) struct Answers {
    index: Dedup,
    /// The number of the index's first key.
    base: u64,
    has_former: AtomicBool,
}

impl Answers {
    /// Opens the index beside the database, or makes it.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        database: &Database,
        tuning: Tuning,
    ) -> Result<Self, redb::Error> {
        let kept = Retention::Window(Duration::from_millis(KEEP_ANSWER_MS));
        let index = Dedup::open_with(disk, &path.with_extension("answers"), kept, tuning).map_err(failed)?;
        let read = database.begin_read()?;
        let numbers = read.open_table(NUMBERS)?.get(())?;
        let (mut base, next) = numbers.map_or((0, 0), |numbers| numbers.value());
        if base + index.next_number().map_err(failed)? < next {
            base = next;
            log::error!(
                "{}* are missing or older than {}: requests that are repeated under an Idempotency-Key of the last 24 h may be done twice; restore the state folder as a whole {}",
                path.with_extension("answers").display(),
                path.display(),
                Code::AnswersLost
            );
        }
        let has_former = match read.open_table(FORMER) {
            Ok(former) => !former.is_empty()?,
            Err(redb::TableError::TableDoesNotExist(_)) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { index, base, has_former: AtomicBool::new(has_former) })
    }

    /// The answer under that key; `read` begins a transaction, if one is needed.
    pub(super) fn find<'a>(
        &self,
        key: &str,
        read: impl FnOnce() -> Result<&'a ReadTransaction, redb::Error>,
    ) -> Result<Option<Answer>, ChangeError> {
        let number = self.index.numbers(&[id_of(key)]).map_err(failed)?.pop().flatten();
        let has_former = self.has_former.load(Ordering::Relaxed);
        if number.is_none() && !has_former {
            return Ok(None);
        }
        let read = read()?;
        if let Some(number) = number {
            let answers = read.open_table(ANSWERS).map_err(redb::Error::from)?;
            if let Some(stored) = answers.get(self.base + number)? {
                let (stored_key, answer) =
                    read_answer(stored.value()).ok_or_else(|| unreadable(key, "it is damaged"))?;
                if stored_key == key {
                    return Ok(Some(answer));
                }
            }
        }
        if !has_former {
            return Ok(None);
        }
        let former = read.open_table(FORMER).map_err(redb::Error::from)?;
        let stored = former.get(key)?.map(|stored| read_former(key, stored.value()));
        Ok(stored.transpose()?)
    }

    /// Adds those of a generation, and removes some that have expired.
    pub(super) fn put(
        &self,
        write: &WriteTransaction,
        generation: &Generation,
        now_ms: u64,
    ) -> Result<(), redb::Error> {
        let mut new: Vec<_> = generation.answers.iter().collect();
        new.sort_unstable_by_key(|(key, answer)| (answer.expires_ms, *key));
        let mut answers = write.open_table(ANSWERS)?;
        if !new.is_empty() {
            let ids: Vec<Uuid> = new.iter().map(|(key, _)| id_of(key)).collect();
            let first = self.base + self.index.record_at(&ids, None, now_ms).map_err(failed)?;
            for (number, (key, answer)) in (first..).zip(&new) {
                answers.insert(number, value(key, answer).as_slice())?;
            }
            write.open_table(NUMBERS)?.insert((), (self.base, first + new.len() as u64))?;
        }
        let most = (generation.tasks.len() + new.len()) * FORGET_PER_CHANGE;
        for number in expired(&answers, now_ms, most)? {
            answers.remove(number)?;
        }
        if self.has_former.load(Ordering::Relaxed) {
            let is_left = forget_former(write, now_ms, most)?;
            self.has_former.store(is_left, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Those of a former version behind that key, at most so many, by key.
    pub(super) fn kept_before(
        read: &ReadTransaction,
        after: &str,
        most: usize,
    ) -> Result<Vec<Kept>, redb::Error> {
        let former = match read.open_table(FORMER) {
            Ok(former) => former,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let kept = former.range::<&str>(behind)?.take(most).map(|entry| {
            let (key, stored) = entry?;
            let answer = read_former(key.value(), stored.value());
            Ok(answer.map(|answer| (key.value().to_owned(), answer)))
        });
        kept.collect()
    }

    /// Those from that number on, at most so many, with their numbers. A key that was used again has several: the last
    /// counts.
    pub(super) fn kept(
        read: &ReadTransaction,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Kept)>, redb::Error> {
        let kept = read.open_table(ANSWERS)?;
        let kept = kept.range(from..)?.take(most).map(|entry| {
            let (number, stored) = entry?;
            let damaged = || Unreadable::new(format!("answer {}", number.value()), "it is damaged");
            let answer = read_answer(stored.value()).ok_or_else(damaged);
            Ok((number.value(), answer.map(|(key, answer)| (key.to_owned(), answer))))
        });
        kept.collect()
    }

    /// All answers, by key.
    #[cfg(test)]
    pub(super) fn all(&self, read: &ReadTransaction) -> Vec<(String, Answer)> {
        let answers = read.open_table(ANSWERS).unwrap();
        let mut all = Vec::new();
        for entry in answers.iter().unwrap() {
            let stored = entry.unwrap().1;
            let (key, answer) = read_answer(stored.value()).unwrap();
            all.push((key.to_owned(), answer));
        }
        all
    }
}

/// The numbers of the first answers that have expired. One that cannot be read goes with the next that can.
fn expired(
    answers: &impl ReadableTable<u64, &'static [u8]>,
    now_ms: u64,
    most: usize,
) -> Result<Vec<u64>, redb::Error> {
    let (mut expired, mut unknown) = (Vec::new(), Vec::new());
    for entry in answers.range::<u64>(..)?.take(most) {
        let (number, stored) = entry?;
        match read_answer(stored.value()) {
            None => unknown.push(number.value()),
            Some((_, answer)) if answer.expires_ms <= now_ms => {
                expired.append(&mut unknown);
                expired.push(number.value());
            }
            Some(_) => break,
        }
    }
    Ok(expired)
}

/// Returns whether there are more.
fn forget_former(write: &WriteTransaction, now_ms: u64, most: usize) -> Result<bool, redb::Error> {
    let mut answers = write.open_table(FORMER)?;
    let mut by_expiry = write.open_table(FORMER_BY_EXPIRY)?;
    for _ in 0..most {
        let first = by_expiry.first()?.map(|(entry, _)| (entry.value().0, entry.value().1.to_owned()));
        let Some((expires_ms, key)) = first.filter(|(expires_ms, _)| *expires_ms <= now_ms) else { break };
        by_expiry.remove((expires_ms, key.as_str()))?;
        // The key may have been used again: then its answer expires later. One that cannot be read has no
        // other time to go.
        let stored = answers.get(key.as_str())?.map(|stored| read_former(&key, stored.value()));
        if stored.is_some_and(|stored| stored.map_or(true, |stored| stored.expires_ms <= now_ms)) {
            answers.remove(key.as_str())?;
        }
    }
    Ok(!answers.is_empty()?)
}

/// Keys have up to 255 characters; that two have the same half of a SHA-256 is nothing that happens.
fn id_of(key: &str) -> Uuid {
    let digest = Sha256::digest(key.as_bytes());
    Uuid::from_bytes(digest.first_chunk().copied().unwrap_or_default())
}

fn value(key: &str, answer: &Answer) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend(answer.expires_ms.to_le_bytes());
    write_bytes(&mut value, key.as_bytes());
    write_bytes(&mut value, &answer.fingerprint);
    write_task(&mut value, &answer.task);
    value
}

/// `None` of what this program cannot have written.
fn read_answer(value: &[u8]) -> Option<(&str, Answer)> {
    let mut bytes = Bytes(value);
    if bytes.u8()? != FORMAT {
        return None;
    }
    let expires_ms = bytes.u64()?;
    let key = bytes.text()?;
    let fingerprint = bytes.bytes()?.into();
    let task = Arc::new(read_task(&mut bytes)?);
    bytes.0.is_empty().then_some((key, Answer { fingerprint, expires_ms, task }))
}

fn read_former(key: &str, value: &[u8]) -> Result<Answer, Unreadable> {
    let FormerAnswer { fingerprint, expires_ms, task } =
        serde_json::from_slice(value).map_err(|error| unreadable(key, error))?;
    Ok(Answer { fingerprint: schema::fingerprint(&fingerprint), expires_ms, task: Arc::new(task) })
}

fn unreadable(key: &str, why: impl std::fmt::Display) -> Unreadable {
    Unreadable::new(format!("the answer under the Idempotency-Key {key:?}"), why)
}

fn failed(error: DedupError) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use powercut::SimDisk;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::task::{Task, TaskStatus};

    const PATH: &str = "/state/tasks.redb";

    fn tuning() -> Tuning {
        Tuning { ids_in_memory: 4, in_background: false, ..Tuning::default() }
    }

    fn database() -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(ANSWERS).unwrap();
        write.open_table(NUMBERS).unwrap();
        write.commit().unwrap();
        database
    }

    fn open(disk: &SimDisk, database: &Database) -> Answers {
        Answers::open(Arc::new(disk.clone()), Path::new(PATH), database, tuning()).unwrap()
    }

    fn generation(keys: &[&str], expires_ms: u64) -> Generation {
        let now = chrono::Utc::now();
        let task = Task {
            id: Uuid::now_v7(),
            title: "t".to_owned(),
            status: TaskStatus::Pending,
            owner_id: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let answer = Arc::new(Answer { fingerprint: Box::from(&b"f"[..]), expires_ms, task: Arc::new(task) });
        let answers = keys.iter().map(|key| ((*key).into(), Arc::clone(&answer))).collect();
        Generation { answers, ..Generation::default() }
    }

    fn put(answers: &Answers, database: &Database, keys: &[&str], expires_ms: u64, now_ms: u64) {
        let write = database.begin_write().unwrap();
        answers.put(&write, &generation(keys, expires_ms), now_ms).unwrap();
        write.commit().unwrap();
    }

    fn expiry(answers: &Answers, database: &Database, key: &str) -> Option<u64> {
        let read = database.begin_read().unwrap();
        answers.find(key, || Ok(&read)).unwrap().map(|answer| answer.expires_ms)
    }

    #[test]
    fn expired_answers_are_removed_little_by_little_and_one_that_was_given_again_stays() {
        let (disk, database) = (SimDisk::new(), database());
        let answers = open(&disk, &database);
        put(&answers, &database, &["a", "b", "c", "d", "e"], 100, 0);
        put(&answers, &database, &["b"], 300, 99);
        assert_eq!(expiry(&answers, &database, "b"), Some(300));
        let left = || {
            let read = database.begin_read().unwrap();
            answers.all(&read).len()
        };
        assert_eq!(left(), 6);
        put(&answers, &database, &["f"], 300, 200);
        assert_eq!(left(), 5, "two were removed for one that came");
        put(&answers, &database, &["g", "h"], 300, 200);
        assert_eq!(left(), 4);
        assert_eq!(expiry(&answers, &database, "a"), None);
        for key in ["b", "f", "g", "h"] {
            assert_eq!(expiry(&answers, &database, key), Some(300), "{key}");
        }
    }

    /// The index is used again after the database went on with another one, as after a restore of some files only.
    #[test]
    fn an_index_that_is_lost_or_older_gives_no_wrong_answer_and_goes_on() {
        let (disk, database) = (SimDisk::new(), database());
        let now_ms = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap();
        let (first, second, third) = (now_ms + 60_000, now_ms + 120_000, now_ms + 180_000);
        let answers = open(&disk, &database);
        put(&answers, &database, &["a", "b", "c", "d", "e"], first, now_ms);
        drop(answers);
        let older = disk.killed_at(disk.now());
        let answers = open(&disk, &database);
        assert_eq!(expiry(&answers, &database, "c"), Some(first));
        put(&answers, &database, &["f", "g"], second, now_ms);
        drop(answers);
        for index in [SimDisk::new(), older] {
            let answers = open(&index, &database);
            assert_eq!(expiry(&answers, &database, "g"), None);
            put(&answers, &database, &["c", "x", "y"], third, now_ms);
            drop(answers);
            let answers = open(&index, &database);
            for key in ["c", "x", "y"] {
                assert_eq!(expiry(&answers, &database, key), Some(third), "{key}");
            }
            assert_eq!(expiry(&answers, &database, "b"), None);
        }
        assert_eq!(answers_of(&database, &disk, "f"), None);
    }

    fn answers_of(database: &Database, disk: &SimDisk, key: &str) -> Option<u64> {
        expiry(&open(disk, database), database, key)
    }
}
