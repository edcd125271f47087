//! What has to hold of the audit log's parsers, whatever bytes they are given: for the tests below and for
//! the fuzz targets of `tests/fuzz/`, which share these functions.

#![allow(missing_docs, reason = "a property is named after what holds")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use task_events::disk::FileSystem;
use task_events::event::Event;
use uuid::Uuid;

use super::journal::Journal;
use super::line::MAX_LINE;
use super::{At, AuditError, Line, parse, render};

/// An event's line is one line, and holds what the event held, as it came. Whatever is read as a line reads
/// the same when it is written again.
pub fn line(bytes: &[u8]) {
    if let Ok(mut event) = Event::decode(Some(bytes)) {
        // As one that was Avro.
        event.schema_id = bytes.len().is_multiple_of(2).then_some(7);
        let at = At { topic: "task-events".into(), partition: 1, offset: i64::MAX };
        let line = render(&event, "2026-01-15T10:30:01.000000Z", at.clone()).unwrap();
        assert!(line.len() <= MAX_LINE);
        let by_serde = Line {
            event_id: event.event_id,
            event_type: event.event_type.as_ref().into(),
            occurred_at: event.occurred_at.as_ref().into(),
            data: serde_json::from_str(event.data.get()).unwrap(),
            metadata: serde_json::from_str(event.metadata.get()).unwrap(),
            schema_id: event.schema_id,
            audited_at: "2026-01-15T10:30:01.000000Z".into(),
            kafka: at.clone(),
        };
        assert_eq!(line, [serde_json::to_vec(&by_serde).unwrap().as_slice(), b"\n"].concat());
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let read = parse(&line).unwrap();
        assert_eq!((read.event_id, read.event_type), (event.event_id, event.event_type.clone()));
        assert_eq!(read.occurred_at, event.occurred_at);
        assert_eq!((read.data.get(), read.metadata.get()), (event.data.get(), event.metadata.get()));
        assert_eq!((read.schema_id, read.kafka), (event.schema_id, at));
    }
    let Some(read) = parse(bytes) else { return };
    let mut written = serde_json::to_vec(&read).unwrap();
    written.push(b'\n');
    let again = parse(&written).unwrap();
    assert_eq!((again.event_id, again.kafka, again.data.get()), (read.event_id, read.kafka, read.data.get()));
}

/// Any log is either refused, with the place of the damage, and left as it is; or cut back to the last whole
/// line before the first that is none, with what was cut off kept aside; or its last line, whole but for its
/// end, is given one. What an index that fits says of the log's start is believed. A second start finds the
/// same, and nothing to do.
///
/// `folder` is empty, and left full.
pub fn recovery(bytes: &[u8], folder: &Path) {
    let (path, index) = (folder.join("audit.log"), folder.join("dedup"));
    let open = || Journal::open(FileSystem, &path, &index);
    let (indexed, bytes) = damaged_log(bytes);
    fs::write(&path, &indexed).unwrap();
    if !indexed.is_empty() {
        drop(open().unwrap());
    }
    fs::write(&path, &bytes).unwrap();
    let believed = if fits(&indexed, &bytes) { indexed.len() } else { 0 };
    let mut whole =
        believed + lines(&bytes[believed..]).map_while(|line| parse(line).map(|_| line.len())).sum::<usize>();
    let completed = [&bytes[whole..], b"\n"].concat();
    let mut mended = bytes.clone();
    if parse(&completed).is_some() {
        mended.push(b'\n');
        whole = mended.len();
    }
    let known = lines(&indexed[..believed]).chain(lines(&mended[believed..whole]));
    let ids: HashSet<Uuid> = known.map(|line| parse(line).unwrap().event_id).collect();
    for start in ["first", "second"] {
        match open() {
            Ok(journal) => {
                assert_eq!(fs::read(&path).unwrap(), &mended[..whole], "{start} start");
                assert_eq!(torn(folder), &mended[whole..], "what is cut off is kept, once");
                assert_eq!(journal.index().len().unwrap(), ids.len() as u64);
            }
            Err(AuditError::Damaged { damage, .. }) => {
                assert_eq!(damage.at, whole as u64);
                assert_eq!(damage.line, lines(&bytes[..whole]).count() as u64 + 1);
                assert_eq!(fs::read(&path).unwrap(), bytes);
                assert!(torn(folder).is_empty());
                let was_synced = whole < indexed.len();
                assert!(was_synced || bytes[whole..].contains(&b'\n'), "a cut line is no damage");
            }
            Err(error) => panic!("{start} start: {error}"),
        }
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n')
}

/// Whether the log has, where the indexed one ended, its last line or one of the same id.
fn fits(indexed: &[u8], log: &[u8]) -> bool {
    let Some(last) = lines(indexed).last() else { return false };
    let Some(there) = log.get(indexed.len() - last.len()..indexed.len()) else { return false };
    let same =
        |line| parse(line).is_some_and(|line| Some(line.event_id) == parse(last).map(|last| last.event_id));
    same(there) && lines(there).count() == 1
}

fn torn(folder: &Path) -> Vec<u8> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.to_str().unwrap().contains(".torn-"))
        .flat_map(|path| fs::read(path).unwrap())
        .collect()
}

/// Takes from the bytes: how many lines are in the log, how many of them the index holds, where which bytes
/// are written over them, where the log is cut, and what is appended then.
fn damaged_log(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (head, rest) = bytes.split_at(bytes.len().min(6));
    let choice = |n: usize| usize::from(head.get(n).copied().unwrap_or(0));
    let sound: Vec<Vec<u8>> = (0..choice(0) % 8).map(|number| sound_line(number, rest)).collect();
    let indexed = sound[..choice(1) % (sound.len() + 1)].concat();
    let mut log = sound.concat();
    let (over, after) = rest.split_at(choice(2) % (rest.len() + 1));
    let place = |n: usize, length: usize| choice(n) * length / 255;
    let at = place(3, log.len());
    for (byte, new) in log[at..].iter_mut().zip(over) {
        *byte = *new;
    }
    log.truncate(log.len() - place(4, log.len()) * (choice(5) & 1));
    log.extend_from_slice(after);
    (indexed, log)
}

/// A line of a log. One in four repeats an id, as another hand would.
fn sound_line(number: usize, text: &[u8]) -> Vec<u8> {
    let title = String::from_utf8_lossy(&text[..text.len().min(20)]);
    let event = serde_json::json!({
        "event_id": Uuid::from_u128((number % 4 + 1) as u128), "event_type": "task.archived",
        "occurred_at": "2026-01-15T10:30:00Z", "data": {"title": title},
        "metadata": {"correlation_id": Uuid::nil(), "source": "task-api"},
    });
    let json = event.to_string();
    let event = Event::decode(Some(json.as_bytes())).unwrap();
    let at = At { topic: "task-events".into(), partition: 0, offset: number as i64 };
    render(&event, "2026-01-15T10:30:01.000000Z", at).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_a_line_or_none(bytes in vec(any::<u8>(), 0..300)) {
            line(&bytes);
        }

        #[test]
        fn any_change_of_a_line_is_a_line_or_none(at in any::<proptest::sample::Index>(), change in vec(any::<u8>(), 1..9)) {
            for seed in [include_bytes!("../../../tests/fuzz/seeds/audit_line/line").as_slice(), include_bytes!("../../../tests/fuzz/seeds/event/archived")] {
                let mut bytes = seed.to_vec();
                let at = at.index(bytes.len());
                let end = (at + change.len() / 2).min(bytes.len());
                bytes.splice(at..end, change.iter().copied()).for_each(drop);
                line(&bytes);
            }
        }

        #[test]
        fn any_log_is_recovered_or_refused(bytes in vec(any::<u8>(), 0..80)) {
            let folder = tempfile::tempdir().unwrap();
            recovery(&bytes, folder.path());
        }
    }
}
