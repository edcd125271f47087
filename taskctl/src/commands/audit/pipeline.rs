//! Reads a log's lines on several threads at once: one reads the files, some parse and hash lines, and the caller gets
//! what they found in the order of the log.
//!
//! # Invariants
//!
//! 1. *Blocks come in their order*: the threads get them in turn, and are asked for them in turn.
//! 2. *Memory is bounded*: each thread has at most one block in work, one before it and one behind it.
//! 3. *The end is said*: threads that end without having said so are an error, never a log that is shorter.

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use audit_tree::{Hash, leaf_hash};
use uuid::Uuid;

use super::line::parse;
use super::plain::{At, Line};
use crate::log_blocks::{self, Block};
use crate::log_files::LogFile;

/// Threads that parse and hash. More of them are faster than disks are.
const MAX_WORKERS: usize = 4;
/// Blocks that wait before and behind each thread.
const QUEUE: usize = 1;

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

/// A block, or that there are no more.
type Next<T> = io::Result<Option<T>>;

/// Gives all lines of the files to `take`, in their order; with their leaves, if there is a tree.
pub(super) fn for_each_block(
    files: &[LogFile],
    with_leaves: bool,
    mut take: impl FnMut(&Lines),
) -> io::Result<()> {
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_WORKERS));
    thread::scope(|scope| {
        let (back, free) = mpsc::channel();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (input, blocks) = mpsc::sync_channel(QUEUE);
            let (checked, output) = mpsc::sync_channel(QUEUE);
            let worker = thread::Builder::new().name("verify".to_owned());
            worker.spawn_scoped(scope, move || work(&blocks, &checked, with_leaves))?;
            inputs.push(input);
            outputs.push(output);
        }
        let reader = thread::Builder::new().name("read".to_owned());
        reader.spawn_scoped(scope, move || read(files, &free, &inputs))?;
        for output in outputs.iter().cycle() {
            let ended = |_| io::Error::other("the threads that verify have ended early");
            let Some(lines) = output.recv().map_err(ended)?? else { break };
            take(&lines);
            // A reader that has ended fills no more.
            let _ = back.send(lines.block.into_buffer());
        }
        Ok(())
    })
}

/// Gives the blocks to the threads in turn. A thread that is gone has nobody left who asks for its blocks.
fn read(files: &[LogFile], free: &Receiver<Vec<u8>>, inputs: &[SyncSender<Next<Block>>]) {
    let mut turns = inputs.iter().cycle();
    let mut send = |next: Next<Block>| turns.next().is_some_and(|input| input.send(next).is_ok());
    let done = log_blocks::read(files, free, |block| send(Ok(Some(block))));
    send(done.map(|()| None));
}

fn work(blocks: &Receiver<Next<Block>>, checked: &SyncSender<Next<Lines>>, with_leaves: bool) {
    while let Ok(next) = blocks.recv() {
        let next = next.map(|block| block.map(|block| check(block, with_leaves)));
        if checked.send(next).is_err() {
            return;
        }
    }
}

fn check(block: Block, with_leaves: bool) -> Lines {
    let (mut topics, mut lines) = (Vec::<String>::new(), Vec::new());
    for line in split(block.bytes()) {
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
