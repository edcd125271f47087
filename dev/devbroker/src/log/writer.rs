//! The one thread that appends: it takes every append that waits, writes them all, syncs each
//! touched partition once, and only then answers. So concurrent produces share an fdatasync.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use kafka_protocol::error::ResponseError;
use task_events::kafka::records::BatchHeader;
use tokio::sync::{mpsc, oneshot};

use super::partition::{Appended, Partition};

/// Appends that may wait; a full queue slows the connections down.
const QUEUE: usize = 1024;
/// Appends that may share one sync.
const GROUP: usize = 512;

type AppendReply = oneshot::Sender<Result<Appended, ResponseError>>;

enum Command {
    Append { partition: Arc<Partition>, bytes: Vec<u8>, header: BatchHeader, reply: AppendReply },
    Roll { partition: Arc<Partition>, reply: oneshot::Sender<io::Result<()>> },
    Truncate { partition: Arc<Partition>, offset: i64, reply: oneshot::Sender<io::Result<()>> },
    Stop,
}

/// Hands work to the writer thread.
#[derive(Debug, Clone)]
pub(crate) struct WriterHandle {
    commands: mpsc::Sender<Command>,
}

/// Starts the thread. It ends on [`WriterHandle::stop`] or when every handle is gone.
pub(crate) fn spawn() -> io::Result<(WriterHandle, JoinHandle<()>)> {
    let (commands, waiting) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("log-writer".into()).spawn(move || run(waiting))?;
    Ok((WriterHandle { commands }, thread))
}

impl WriterHandle {
    /// Queues a checked batch; appends of one caller keep their order. The receiver gets the
    /// answer once the batch is on disk.
    pub async fn append(
        &self,
        partition: Arc<Partition>,
        bytes: Vec<u8>,
        header: BatchHeader,
    ) -> oneshot::Receiver<Result<Appended, ResponseError>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Append { partition, bytes, header, reply };
        // A stopped writer drops the command, and the receiver then says so.
        let _ = self.commands.send(command).await;
        answer
    }

    /// Closes the active segment of a partition and starts a new one.
    pub async fn roll(&self, partition: Arc<Partition>) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Roll { partition, reply }).await;
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the log writer has stopped")))
    }

    /// Cuts the end of a log off.
    pub async fn truncate(&self, partition: Arc<Partition>, offset: i64) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Truncate { partition, offset, reply }).await;
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the log writer has stopped")))
    }

    /// Ends the thread after what was queued before.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
    }
}

fn run(mut waiting: mpsc::Receiver<Command>) {
    let mut group = Vec::with_capacity(GROUP);
    loop {
        match waiting.blocking_recv() {
            Some(command) => group.push(command),
            None => return,
        }
        while group.len() < GROUP
            && let Ok(command) = waiting.try_recv()
        {
            group.push(command);
        }
        if write_group(group.drain(..)) {
            return;
        }
    }
}

/// Returns whether to stop.
fn write_group(group: impl Iterator<Item = Command>) -> bool {
    let mut stop = false;
    let mut touched: Vec<Arc<Partition>> = Vec::new();
    let mut written: Vec<(usize, Appended, AppendReply)> = Vec::new();
    for command in group {
        match command {
            Command::Append { partition, mut bytes, header, reply } => {
                match partition.append(&mut bytes, header) {
                    Ok(appended) => {
                        let at = touched.iter().position(|known| Arc::ptr_eq(known, &partition));
                        let at = at.unwrap_or_else(|| {
                            touched.push(partition);
                            touched.len() - 1
                        });
                        written.push((at, appended, reply));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Roll { partition, reply } => drop(reply.send(partition.roll())),
            Command::Truncate { partition, offset, reply } => {
                drop(reply.send(partition.truncate(offset)));
            }
            Command::Stop => stop = true,
        }
    }
    let synced: Vec<bool> = touched.iter().map(|partition| sync(partition)).collect();
    for (at, appended, reply) in written {
        let answer = match synced.get(at) {
            Some(true) => Ok(appended),
            _ => Err(ResponseError::KafkaStorageError),
        };
        // Nobody waits when the connection is gone; the record is stored all the same.
        let _ = reply.send(answer);
    }
    stop
}

fn sync(partition: &Partition) -> bool {
    let synced = partition.sync();
    if let Err(error) = &synced {
        log::error!("cannot sync {}: {error}", partition.dir().display());
    }
    synced.is_ok()
}
