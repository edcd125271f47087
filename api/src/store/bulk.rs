//! Puts a generation of changes into the database: all of them in one transaction, in the order of their keys.

use chrono::Utc;
use redb::{Database, WriteTransaction};
use uuid::Uuid;

use super::answers::Answers;
use super::overlay::{Frozen, Generation};
use super::schema::{self, BY_OWNER, BY_STATUS, OUTBOX, TASKS, read_task, to_json};
use super::wal::Limits;
use crate::task::Task;

/// On disk when it returns. Doing it twice is the same as once: where it is not known whether it was done.
pub(super) fn apply(
    database: &Database,
    answers: &Answers,
    frozen: &Frozen,
    _limits: &Limits,
) -> Result<(), redb::Error> {
    #[cfg(test)]
    if _limits.plants(super::wal::Planted::PositionApart) {
        let write = schema::begin(database)?;
        schema::write_meta(&write, &frozen.meta)?;
        write.commit()?;
    }
    let write = schema::begin(database)?;
    let now_ms = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
    put_tasks(&write, &frozen.generation)?;
    answers.put(&write, &frozen.generation, now_ms)?;
    remove_moved(&write, &frozen.generation)?;
    schema::write_meta(&write, &frozen.meta)?;
    Ok(write.commit()?)
}

fn remove_moved(write: &WriteTransaction, generation: &Generation) -> Result<(), redb::Error> {
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
        let before = match task {
            Some(task) => tasks.insert(id, to_json(&**task)?.as_slice())?,
            None => tasks.remove(id)?,
        };
        // One that cannot be read is replaced: what the indexes have of it is left out of pages.
        let before = before.and_then(|before| read_task(Uuid::from_bytes(*id), before.value()).ok());
        let indexed = |task: &Task| (task.status, task.owner_id);
        if before.as_ref().map(indexed) != task.as_deref().map(indexed) {
            old.extend(before.as_ref().map(|before| entries(*id, before)));
            new.extend(task.as_deref().map(|task| entries(*id, task)));
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
