//! A child process: its output line by line, signals, and its end.

use crate::error::is_test_failing;
use crate::{Error, Result, eventually};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running program. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reading: Arc<Gate>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it, with no standard input and both outputs captured.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            Error::process(name, format!("does not start ({program}): {error}"))
        })?;
        let (lines, reading) = (Arc::default(), Arc::<Gate>::default());
        let stdout = child.stdout.take().map(|pipe| read_lines(pipe, Arc::clone(&lines), &reading));
        let stderr = child.stderr.take().map(|pipe| read_lines(pipe, Arc::clone(&lines), &reading));
        let readers = stdout.into_iter().chain(stderr).collect();
        Ok(Self { name: name.to_owned(), child, lines, reading, readers })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything written so far to either output, in the order of arrival.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines have this part.
    pub fn count(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// The first line with this part, once it is there. An error at once if the process ends without it.
    pub async fn wait_for_line(&mut self, part: &str, limit: Duration) -> Result<String> {
        let what = format!("{} to write \"{part}\"", self.name);
        let found = eventually(&what, limit, async || {
            // Asked before the lines, so that a line written just before the end is seen.
            let running = self.still_runs(&format!("before it wrote \"{part}\""));
            let line = self.lines().into_iter().find(|line| line.contains(part));
            if line.is_none() {
                running?;
            }
            Ok(line)
        });
        found.await
    }

    /// Whether it has ended; if so, all its output is there.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.status()?.is_some())
    }

    /// An error if it has ended; `when` is part of it.
    pub(crate) fn still_runs(&mut self, when: &str) -> Result<()> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(Error::process(&self.name, format!("ended {when}, with {status}"))),
        }
    }

    /// Waits for its end.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, async || self.status()).await
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(limit).await
    }

    /// Ends it as a power cut would (SIGKILL).
    pub fn kill9(&mut self) {
        // An error says that it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Pauses it (SIGSTOP): its connections stay open, it answers nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // On a busy machine its threads run on for some milliseconds; this returns when the last has stopped.
        let stopped = waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED);
        stopped.map(drop).map_err(|error| Error::process(&self.name, format!("is not paused: {error}")))
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Stops reading its outputs, as a log collector that stalls: its pipes fill up.
    pub fn stop_reading(&mut self) {
        self.reading.set_closed(true);
    }

    /// Reads on after [`Process::stop_reading`].
    pub fn read_on(&mut self) {
        self.reading.set_closed(false);
    }

    /// Sends SIGTERM, SIGINT or another signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // A process that has been waited for may have left its id to another.
        self.still_runs(&format!("before it got {signal:?}"))?;
        let sent = kill_process(Pid::from_child(&self.child), signal);
        sent.map_err(|error| Error::process(&self.name, format!("gets no {signal:?}: {error}")))
    }

    fn status(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().map_err(|error| Error::process(&self.name, error))?;
        if status.is_some() {
            self.reading.set_closed(false);
            for reader in self.readers.drain(..) {
                let joined = reader.join();
                joined.map_err(|_| Error::process(&self.name, "the reader of its lines panicked"))?;
            }
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if is_test_failing() {
            let lines = self.lines();
            let last = lines.iter().skip(lines.len().saturating_sub(40));
            let shown = last.map(|line| format!("  {line}\n")).collect::<String>();
            println!("last lines of {}:\n{shown}", self.name);
        }
    }
}

/// Lets readers pass, or not.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set_closed(&self, closed: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(closed, |closed| *closed));
    }
}

/// A pipe behind a gate.
struct Gated<R>(R, Arc<Gate>);

impl<R: Read> Read for Gated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.pass();
        self.0.read(buffer)
    }
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
    gate: &Arc<Gate>,
) -> JoinHandle<()> {
    let pipe = Gated(pipe, Arc::clone(gate));
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}
