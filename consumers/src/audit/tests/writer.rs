//! The writer's thread: partitions share its syncs, and neither a failure, a discarded flush nor a hanging disk
//! of one does anything to another.

use std::fs::File;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use task_events::disk::Disk;

use super::super::file::{Standing, Storage};
use super::super::writer::Writer;
use super::*;

/// A file system whose syncs wait while the gate is closed.
#[derive(Debug, Clone, Default)]
struct Gated(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    fails: bool,
    waiting: u32,
    syncs: u32,
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.is_closed).unwrap();
        state.waiting -= 1;
        state.syncs += 1;
        if state.fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }

    /// Returns when a sync waits.
    fn hangs(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }
}

#[derive(Debug)]
struct GatedFile(File, Arc<Gate>);

impl Storage for GatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Storage::read_at(&self.0, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        Storage::write_all_at(&self.0, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Storage::set_len(&self.0, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.pass()?;
        Storage::sync_data(&self.0)
    }
}

impl Files for Gated {
    type File = GatedFile;

    fn open_log(&self, path: &Path) -> Result<(GatedFile, u64), AuditError> {
        let (file, length) = FileSystem.open_log(path)?;
        Ok((GatedFile(file, Arc::clone(&self.0)), length))
    }

    fn segment(&self, path: &Path) -> io::Result<(GatedFile, u64)> {
        let (file, length) = FileSystem.segment(path)?;
        Ok((GatedFile(file, Arc::clone(&self.0)), length))
    }

    fn beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        FileSystem.beside(path)
    }

    fn standing(&self, file: &GatedFile, path: &Path) -> io::Result<Standing> {
        FileSystem.standing(&file.0, path)
    }

    fn real(&self, path: &Path) -> PathBuf {
        FileSystem.real(path)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        FileSystem.disk()
    }
}

fn start(rig: &Rig) -> (Writer, Arc<Gate>) {
    let files = Gated::default();
    let gate = Arc::clone(&files.0);
    (Writer::start(files, &rig.log(), &rig.index(), Limits::default(), None).unwrap(), gate)
}

/// A flush of one event of a partition.
fn flush(writer: &Writer, record: Record) -> tokio::task::JoinHandle<Result<u64, FlushError>> {
    let (writer, lines) = (writer.clone(), Arc::new(line(record, 0)));
    let progress = progress(&[record]).remove(0);
    tokio::spawn(async move { writer.flush(lines, progress, 0).await })
}

#[tokio::test]
async fn partitions_that_wait_share_one_sync_and_all_get_its_result() {
    let rig = Rig::new();
    let (writer, gate) = start(&rig);
    for fails in [false, true] {
        gate.set(|state| state.is_closed = true);
        let first = flush(&writer, (0, 0, 0));
        let first = if fails { flush(&writer, (90, 9, 0)) } else { first };
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking({
            let gate = Arc::clone(&gate);
            move || gate.hangs()
        })
        .await
        .unwrap();
        let syncs = gate.state.lock().unwrap().syncs;
        let base = if fails { 100 } else { 0 };
        let rest: Vec<_> = (1..8).map(|n| flush(&writer, (base + n as u64, n, 0))).collect();
        // A partition that lost its lease meanwhile: nobody waits for this one.
        let given_up = flush(&writer, (base + 50, 8, 0));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        given_up.abort();
        assert!(given_up.await.is_err());
        gate.set(|state| {
            state.is_closed = false;
            state.fails = fails;
        });
        let first = first.await.unwrap();
        let mut rest_done = Vec::new();
        for flush in rest {
            rest_done.push(flush.await.unwrap());
        }
        assert_eq!(first.is_err(), fails);
        assert!(rest_done.iter().all(|done| done.is_err() == fails), "{rest_done:?}");
        if !fails {
            assert_eq!(gate.state.lock().unwrap().syncs, syncs + 2, "one for the first, one for the rest");
            assert_eq!(rig.numbers(), (0..8).collect::<Vec<_>>(), "without the one that was given up");
        }
    }
    // The disk works again: each partition tries again, but the one that gave up.
    gate.set(|state| state.fails = false);
    for n in 1..8 {
        flush(&writer, (100 + n as u64, n, 0)).await.unwrap().unwrap();
    }
    writer.close().await.unwrap();
    let mut all = rig.numbers();
    all.sort_unstable();
    let mut expected: Vec<u64> = (0..8).chain(101..108).collect();
    if all.contains(&90) {
        expected.insert(8, 90);
    }
    assert_eq!(all, expected);
    assert_eq!(ids(&rig.open()), expected.len() as u64);
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_nobody_and_what_was_given_up_meanwhile_is_not_written() {
    let rig = Rig::new();
    let (writer, gate) = start(&rig);
    flush(&writer, (0, 0, 0)).await.unwrap().unwrap();
    gate.set(|state| state.is_closed = true);
    let hanging = flush(&writer, (1, 0, 1));
    let late: Vec<_> = (2..5).map(|n| flush(&writer, (n, n as i32, 0))).collect();
    // This thread is free: the test's runtime has no other.
    let disk = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || disk.hangs()).await.unwrap();
    assert!(!hanging.is_finished());
    // The lease ends: the runtime drops what it waits for.
    hanging.abort();
    late.iter().for_each(tokio::task::JoinHandle::abort);
    for flush in late {
        assert!(flush.await.is_err());
    }
    gate.set(|state| state.is_closed = false);
    let opened = writer.open(TOPIC, 0).await.unwrap();
    assert!(opened.position.is_some());
    writer.close().await.unwrap();
    let written = rig.numbers();
    assert!(written == [0, 1] || written == [0, 1, 2, 3, 4], "one write that was in the kernel: {written:?}");
    assert!(written.len() <= 2 || gate.state.lock().unwrap().syncs == 2, "{written:?}");
}

#[tokio::test]
async fn lines_that_are_gone_supersede_every_partition_also_while_idle() {
    let rig = Rig::new();
    let writer = Writer::start(FileSystem, &rig.log(), &rig.index(), Limits::default(), None).unwrap();
    let service = Audit { writer, reader: EventReader::json() };
    let handlers = [service.open(TOPIC, 0).await.unwrap(), service.open(TOPIC, 1).await.unwrap()];
    flush(&service.writer, (0, 0, 0)).await.unwrap().unwrap();
    flush(&service.writer, (1, 1, 0)).await.unwrap().unwrap();
    fs::write(rig.log(), b"").unwrap();
    for handler in &handlers {
        tokio::time::timeout(Duration::from_secs(30), handler.superseded()).await.unwrap();
    }
    let stale = flush(&service.writer, (2, 1, 1)).await.unwrap().unwrap_err();
    assert!(matches!(stale, FlushError::Reread), "{stale}");
    let handler = service.open(TOPIC, 1).await.unwrap();
    assert_eq!(handler.own_position(), OwnPosition::Empty);
    service.writer.close().await.unwrap();
    assert_eq!(rig.bytes(), b"");
}
