//! Compares lines with the tree on a thread of its own, so that a log is verified at the speed of hashing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use super::tree::{TreeCheck, leaf};
use crate::log_files::LogLine;

/// Bytes of lines that are handed over at once, and how many such batches may wait.
const BATCH: usize = 1024 * 1024;
const QUEUE: usize = 4;

/// Lines of one file.
#[derive(Default)]
struct Batch {
    file: String,
    bytes: Vec<u8>,
    /// Number, place and length of each.
    lines: Vec<(u64, u64, usize)>,
}

/// A comparison that goes on.
pub(super) struct Comparison {
    batches: SyncSender<Batch>,
    next: Batch,
    thread: JoinHandle<TreeCheck>,
}

impl Comparison {
    pub(super) fn start(tree: TreeCheck) -> io::Result<Self> {
        let (batches, queue) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new().name("tree".to_owned()).spawn(move || compare(tree, &queue))?;
        Ok(Self { batches, next: Batch::default(), thread })
    }

    /// Takes the next line of the log.
    pub(super) fn take(&mut self, file: &str, line: &LogLine<'_>) {
        if self.next.file != file || self.next.bytes.len() >= BATCH {
            self.send(file);
        }
        self.next.bytes.extend_from_slice(line.bytes);
        self.next.lines.push((line.number, line.at, line.bytes.len()));
    }

    fn send(&mut self, next_file: &str) {
        let next = Batch { file: next_file.to_owned(), ..Batch::default() };
        // A thread that has ended says why when it is waited for.
        let _ = self.batches.send(std::mem::replace(&mut self.next, next));
    }

    /// All lines were taken: what was found.
    pub(super) fn finish(mut self) -> io::Result<TreeCheck> {
        self.send("");
        let Self { batches, thread, .. } = self;
        drop(batches);
        thread.join().map_err(|_| io::Error::other("the comparison with the tree has ended early"))
    }
}

fn compare(mut tree: TreeCheck, queue: &Receiver<Batch>) -> TreeCheck {
    while let Ok(Batch { file, bytes, lines }) = queue.recv() {
        let (file, mut rest): (Arc<str>, _) = (file.into(), bytes.as_slice());
        for (number, at, length) in lines {
            let (line, behind) = rest.split_at_checked(length).unwrap_or_default();
            rest = behind;
            let leaf = leaf(&file, number, at, line);
            if number == 1 {
                tree.begin_file(&leaf);
            }
            tree.take(&leaf);
        }
    }
    tree.finish()
}
