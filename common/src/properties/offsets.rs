//! The offsets topic: its records, and the fold over them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Choices;
use crate::offsets::fold::Fold;
use crate::offsets::{Claim, Commit, Key, OffsetsRecord, Slot, parse, render_key};

/// A key that is read means itself alone: compaction goes by the bytes. What was read and written
/// again reads the same.
pub fn offsets_record(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let length = usize::from(choices.byte());
    let key = choices.bytes(length);
    for value in [None, Some(choices.0)] {
        let Ok(record) = parse(Some(key), value) else { continue };
        assert_eq!(render_key(&key_of(&record)), key);
        assert_eq!(
            parse(Some(key), value_of(&record).as_deref()).map(|read| value_of(&read)),
            Ok(value_of(&record))
        );
    }
}

fn key_of(record: &OffsetsRecord) -> Key {
    match record {
        OffsetsRecord::Claim(slot, _) => Key::Claim(slot.clone()),
        OffsetsRecord::Commit(slot, token, _) => Key::Commit(slot.clone(), *token),
        OffsetsRecord::Member(group, id, _) => Key::Member(group.clone(), *id),
    }
}

fn value_of(record: &OffsetsRecord) -> Option<Vec<u8>> {
    match record {
        OffsetsRecord::Claim(_, claim) => claim.as_ref().map(|claim| serde_json::to_vec(claim).unwrap()),
        OffsetsRecord::Commit(_, _, commit) => {
            commit.as_ref().map(|commit| serde_json::to_vec(commit).unwrap())
        }
        OffsetsRecord::Member(_, _, member) => {
            member.as_ref().map(|member| serde_json::to_vec(member).unwrap())
        }
    }
}

type Log = BTreeMap<i64, (Vec<u8>, Option<Vec<u8>>)>;

/// Any log of records that make sense, and of keys that do not, says the same compacted and with its
/// tombstones dropped. Unlike the model in `tests/offsets_model.rs`, nobody here keeps any rule.
///
/// Nonsense under a key of the right form is left out: there compaction takes what the nonsense replaced.
/// Who reads then finds no owner or an older position, and repeats work at worst.
pub fn offsets_fold(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let (compacted_share, dropped_share) = (choices.byte(), choices.byte());
    let mut log = Log::new();
    let mut end = 0;
    while !choices.is_empty() {
        end += 1 + i64::from(choices.byte() % 3);
        log.insert(end, log_record(&mut choices, end));
    }
    let mut compacted = log.clone();
    compact(&mut compacted, end * i64::from(compacted_share) / 255);
    let below = end * i64::from(dropped_share) / 255;
    compact(&mut compacted, below);
    compacted.retain(|offset, (_, value)| *offset >= below || value.is_some());

    let (whole, compacted) = (fold(&log), fold(&compacted));
    for slot in slots() {
        let says = |fold: &Fold| {
            let state = fold.slot(&slot).cloned().unwrap_or_default();
            (state.owner().cloned(), state.position(), state.is_released(), state.stale_tokens(i64::MAX))
        };
        assert_eq!(says(&whole), says(&compacted), "{slot}");
    }
}

fn slots() -> [Slot; 2] {
    [0, 7].map(|partition| Slot { group: "g".to_owned(), topic: "t".to_owned(), partition })
}

fn log_record(choices: &mut Choices<'_>, end: i64) -> (Vec<u8>, Option<Vec<u8>>) {
    let choice = choices.byte();
    let slot = slots()[usize::from(choice & 1)].clone();
    let instance = Uuid::from_u128(u128::from(choice >> 5));
    let record = match (choice >> 1) % 8 {
        0 | 1 => OffsetsRecord::Claim(slot, Some(Claim::new(instance, "host", 1_000))),
        2 => OffsetsRecord::Claim(slot, None),
        3..=5 => {
            let token = i64::from(choices.byte()) % (end + 2);
            let offset = i64::from(choices.byte());
            OffsetsRecord::Commit(slot, token, Some(Commit::new(offset, instance, choice & 0x80 != 0)))
        }
        6 => OffsetsRecord::Commit(slot, i64::from(choices.byte()) % (end + 2), None),
        _ => {
            let length = usize::from(choices.byte() % 16);
            let (key, value) = (choices.bytes(length), choices.bytes(4));
            return (
                ["g/t/", &String::from_utf8_lossy(key), "/"].concat().into_bytes(),
                Some(value.to_vec()),
            );
        }
    };
    (render_key(&key_of(&record)), value_of(&record))
}

/// Keeps the last record of each key below `end`, as Kafka's cleaner does.
fn compact(log: &mut Log, end: i64) {
    let last: BTreeMap<Vec<u8>, i64> =
        log.range(..end).map(|(offset, (key, _))| (key.clone(), *offset)).collect();
    log.retain(|offset, (key, _)| *offset >= end || last.get(key) == Some(offset));
}

fn fold(log: &Log) -> Fold {
    let mut fold = Fold::default();
    for (offset, (key, value)) in log {
        if let Ok(record) = parse(Some(key), value.as_deref()) {
            // Foreign tokens are part of what any log may hold.
            let _ = fold.apply(*offset, record);
        }
    }
    fold
}
