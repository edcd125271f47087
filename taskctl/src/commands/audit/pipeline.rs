//! Reads a log's lines on several threads at once: each reads a block, and parses and hashes its lines while they are in
//! its core's cache; the caller gets what they found in the order of the log.
//!
//! # Invariants
//!
//! 1. *Blocks come in their order*: who reads the next block takes a turn with it, and the caller gets the turns one after
//!    the other, each when its lines are done.
//! 2. *Memory is bounded*: each thread has at most one block in work, and the lines of so many turns wait or are filled again.
//! 3. *The end is said*: threads that end without having said so are an error, never a log that is shorter.

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use audit_tree::{Hash, leaf_hash};
use uuid::Uuid;

use super::line::parse;
use super::plain::{At, Line};
use crate::log_blocks::{Block, Blocks};
use crate::log_files::LogFile;

/// Threads that read, parse and hash, at most: more would be faster than disks are.
const MAX_WORKERS: usize = 5;
/// Turns that wait.
const QUEUE: usize = MAX_WORKERS;

/// A line of a block.
#[derive(Debug)]
pub(super) struct Checked {
    /// Its bytes, with its end.
    pub(super) length: usize,
    /// Its leaf in a tree.
    pub(super) leaf: Hash,
    /// Its event, or why it is none.
    pub(super) event: Result<Event, String>,
}

/// What is known of an event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: Uuid,
    /// The number of its topic in the block.
    pub(super) topic: usize,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// The lines of a block.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) block: Block,
    pub(super) topics: Vec<String>,
    pub(super) lines: Vec<Checked>,
}

/// The lines of a turn's block, or that there are no more.
type Turn = Receiver<io::Result<Option<Lines>>>;

/// What the threads share.
struct Source<'a> {
    blocks: Blocks<'a>,
    turns: SyncSender<Turn>,
    /// What can be filled again.
    free: Receiver<Vec<Checked>>,
}

/// Gives all lines of the files to `take`, in their order; with their leaves, if there is a tree.
pub(super) fn for_each_block(
    files: &[LogFile],
    with_leaves: bool,
    mut take: impl FnMut(&Lines),
) -> io::Result<()> {
    // One more than there are cores, where they are few: one of them waits to read.
    let workers = thread::available_parallelism().map_or(2, |cores| (cores.get() + 1).min(MAX_WORKERS));
    thread::scope(|scope| {
        let (turns, next) = mpsc::sync_channel::<Turn>(QUEUE);
        let (back, free) = mpsc::channel();
        let source = Arc::new(Mutex::new(Source { blocks: Blocks::new(files), turns, free }));
        for _ in 0..workers {
            let (source, worker) = (Arc::clone(&source), thread::Builder::new().name("verify".to_owned()));
            worker.spawn_scoped(scope, move || work(&source, with_leaves))?;
        }
        // The threads' alone, so that their end is the end of the turns.
        drop(source);
        let ended = |_| io::Error::other("the threads that verify have ended early");
        while let Some(lines) = next.recv().and_then(|turn| turn.recv()).map_err(ended)?? {
            take(&lines);
            // Where all threads have ended, nobody fills it.
            let _ = back.send(lines.lines);
        }
        Ok(())
    })
}

/// Ends with the blocks, after an error, and when nobody asks for more.
fn work(source: &Mutex<Source<'_>>, with_leaves: bool) {
    let mut buffer = Vec::new();
    loop {
        let (answer, turn) = mpsc::sync_channel(1);
        let (next, free) = {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            if source.turns.send(turn).is_err() {
                return;
            }
            (source.blocks.next(&mut buffer), source.free.try_recv().unwrap_or_default())
        };
        let is_last = !matches!(next, Ok(Some(_)));
        let lines = next.map(|block| block.map(|block| check(block, &buffer, free, with_leaves)));
        if answer.send(lines).is_err() || is_last {
            return;
        }
    }
}

fn check(block: Block, buffer: &[u8], mut lines: Vec<Checked>, with_leaves: bool) -> Lines {
    let bytes = buffer.get(..block.length).unwrap_or_default();
    let mut topics = Vec::<String>::new();
    lines.clear();
    for line in split(bytes) {
        let leaf =
            if with_leaves { leaf_hash(line.strip_suffix(b"\n").unwrap_or(line)) } else { Hash::default() };
        let event = parse(line).map(|Line { event_id: id, kafka: At { topic, partition, offset } }| {
            let number = topics.iter().position(|known| *known == topic).unwrap_or_else(|| {
                topics.push(topic.into_owned());
                topics.len() - 1
            });
            Event { id, topic: number, partition, offset }
        });
        lines.push(Checked { length: line.len(), leaf, event });
    }
    Lines { block, topics, lines }
}

/// The lines, each with its end; the last may have none.
fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).map(|end| end + 1);
    let last = Some(bytes.len()).filter(|_| !bytes.is_empty() && !bytes.ends_with(b"\n"));
    ends.chain(last).filter_map(move |end| {
        let line = bytes.get(start..end);
        start = end;
        line
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::log_files::files;

    #[test]
    fn many_blocks_of_many_files_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        // Several blocks each: a block has so many lines at most.
        let of_file = "x\n".repeat(100_000);
        for name in ["audit.log.2", "audit.log.1", "audit.log"] {
            fs::write(folder.path().join(name), &of_file).unwrap();
        }
        let files = files(&log).unwrap();
        let (mut found, mut blocks) = ([0_u64; 3], 0);
        for_each_block(&files, true, |lines| {
            assert_eq!(lines.block.at, found[lines.block.file], "file {}", lines.block.file);
            assert!(found[lines.block.file + 1..].iter().all(|later| *later == 0));
            assert!(lines.lines.iter().all(|line| line.length == 2 && line.leaf == leaf_hash(b"x")));
            found[lines.block.file] += lines.block.length as u64;
            blocks += 1;
        })
        .unwrap();
        assert_eq!(found, [of_file.len() as u64; 3]);
        assert!(blocks > 3 * QUEUE, "{blocks}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_and_no_shorter_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        fs::write(folder.path().join("audit.log.1"), "x\n".repeat(100_000)).unwrap();
        fs::write(&log, "x\n").unwrap();
        let files = files(&log).unwrap();
        fs::remove_file(folder.path().join("audit.log.1")).unwrap();
        let error = for_each_block(&files, false, |_| panic!("nothing can be read")).unwrap_err();
        assert!(error.to_string().contains("audit.log.1"), "{error}");
    }
}
