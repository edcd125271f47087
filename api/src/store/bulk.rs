//! Puts a generation of changes into the database: all of them in one transaction, in the order of their keys.

use chrono::Utc;
use redb::{Database, ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::overlay::{Frozen, Generation};
use super::schema::{
    self, ANSWERS, ANSWERS_BY_EXPIRY, BY_OWNER, BY_STATUS, OUTBOX, TASKS, answer_value, read_answer,
    read_task, to_json,
};
use super::wal::Limits;
use crate::task::Task;

/// Expired answers that are removed for each change, so that the work is spread.
const FORGET_PER_CHANGE: usize = 2;

/// On disk when it returns. Doing it twice is the same as once: where it is not known whether it was done.
pub(super) fn apply(database: &Database, frozen: &Frozen, _limits: &Limits) -> Result<(), redb::Error> {
    #[cfg(test)]
    if _limits.plants(super::wal::Planted::PositionApart) {
        let write = schema::begin(database)?;
        schema::write_meta(&write, &frozen.meta)?;
        write.commit()?;
    }
    let write = schema::begin(database)?;
    let now_ms = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
    put(&write, &frozen.generation, now_ms)?;
    schema::write_meta(&write, &frozen.meta)?;
    Ok(write.commit()?)
}

fn put(write: &WriteTransaction, generation: &Generation, now_ms: u64) -> Result<(), redb::Error> {
    put_tasks(write, generation)?;
    put_answers(write, generation)?;
    let changes = generation.tasks.len() + generation.answers.len();
    forget_expired(write, now_ms, changes * FORGET_PER_CHANGE)?;
    if !generation.moved.is_empty() {
        let mut outbox = write.open_table(OUTBOX)?;
        for seq in &generation.moved {
            outbox.remove(seq)?;
        }
    }
    Ok(())
}

fn put_tasks(write: &WriteTransaction, generation: &Generation) -> Result<(), redb::Error> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let mut tasks = write.open_table(TASKS)?;
    for (id, task) in &generation.tasks {
        let before = tasks.insert(id, to_json(&**task)?.as_slice())?;
        // One that cannot be read is replaced: what the indexes have of it is left out of pages.
        let before = before.and_then(|before| read_task(Uuid::from_bytes(*id), before.value()).ok());
        match before {
            Some(before) if (before.status, before.owner_id) == (task.status, task.owner_id) => {}
            before => {
                old.extend(before.as_ref().map(|before| entries(*id, before)));
                new.push(entries(*id, task));
            }
        }
    }
    for entries in [&mut old, &mut new] {
        entries.sort_unstable_by_key(|(status, _)| *status);
    }
    let mut by_status = write.open_table(BY_STATUS)?;
    for (status, _) in &old {
        by_status.remove(status)?;
    }
    for (status, _) in &new {
        by_status.insert(status, ())?;
    }
    for entries in [&mut old, &mut new] {
        entries.sort_unstable_by_key(|(_, owner)| *owner);
    }
    let mut by_owner = write.open_table(BY_OWNER)?;
    for owner in old.iter().filter_map(|(_, owner)| *owner) {
        by_owner.remove(owner)?;
    }
    for owner in new.iter().filter_map(|(_, owner)| *owner) {
        by_owner.insert(owner, ())?;
    }
    Ok(())
}

type Entries = ((u8, [u8; 16]), Option<([u8; 16], u8, [u8; 16])>);

/// What the indexes have of a task.
fn entries(id: [u8; 16], task: &Task) -> Entries {
    let status = task.status.code();
    ((status, id), task.owner_id.map(|owner| (owner.into_bytes(), status, id)))
}

fn put_answers(write: &WriteTransaction, generation: &Generation) -> Result<(), redb::Error> {
    let mut sorted: Vec<_> = generation.answers.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    let mut answers = write.open_table(ANSWERS)?;
    for (key, answer) in &sorted {
        answers.insert(&***key, answer_value(answer).as_slice())?;
    }
    sorted.sort_unstable_by_key(|(key, answer)| (answer.expires_ms, *key));
    let mut by_expiry = write.open_table(ANSWERS_BY_EXPIRY)?;
    for (key, answer) in sorted {
        by_expiry.insert((answer.expires_ms, &**key), ())?;
    }
    Ok(())
}

fn forget_expired(write: &WriteTransaction, now_ms: u64, most: usize) -> Result<(), redb::Error> {
    let mut answers = write.open_table(ANSWERS)?;
    let mut by_expiry = write.open_table(ANSWERS_BY_EXPIRY)?;
    for _ in 0..most {
        let first = by_expiry.pop_first()?.map(|(entry, _)| {
            let (expires_ms, key) = entry.value();
            (expires_ms, key.to_owned())
        });
        let Some((expires_ms, key)) = first else { break };
        if expires_ms > now_ms {
            by_expiry.insert((expires_ms, key.as_str()), ())?;
            break;
        }
        // The key may have been used again since: then its answer expires later. One that cannot be read
        // has no other time to go.
        let stored = answers.get(key.as_str())?.map(|stored| read_answer(&key, stored.value()));
        if stored.is_some_and(|stored| stored.map_or(true, |stored| stored.expires_ms <= now_ms)) {
            answers.remove(key.as_str())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::ReadableTableMetadata;
    use redb::backends::InMemoryBackend;

    use super::super::schema::Answer;
    use super::*;
    use crate::task::TaskStatus;

    fn generation(keys: &[&str], expires_ms: u64) -> Generation {
        let now = Utc::now();
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

    #[test]
    fn expired_answers_are_removed_little_by_little_and_one_that_was_given_anew_stays() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = schema::begin(&database).unwrap();
        put(&write, &generation(&["a", "b", "c", "d", "e"], 100), 0).unwrap();
        put(&write, &generation(&["b"], 300), 99).unwrap();
        let left = || {
            let (answers, expiries) =
                (write.open_table(ANSWERS).unwrap(), write.open_table(ANSWERS_BY_EXPIRY).unwrap());
            (answers.len().unwrap(), expiries.len().unwrap())
        };
        assert_eq!(left(), (5, 6));
        put(&write, &generation(&["f"], 300), 200).unwrap();
        assert_eq!(left(), (5, 5), "two were looked at: a is gone, b was given anew");
        put(&write, &generation(&["g", "h"], 300), 200).unwrap();
        assert_eq!(left(), (4, 4));
        put(&write, &generation(&["b"], 500), 300).unwrap();
        assert_eq!(left().1, 3, "the former entry of b, and f");
        let stored = write.open_table(ANSWERS).unwrap();
        assert_eq!(read_answer("b", stored.get("b").unwrap().unwrap().value()).unwrap().expires_ms, 500);
    }
}
