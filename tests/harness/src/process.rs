//! A child process: its output line by line, signals, and its end.
//!
//! Invariant: a piece of output is taken from its pipe and stored under one lock. So whoever holds the lock and finds the
//! pipes empty has all that the process wrote before.

use crate::error::is_test_failing;
use crate::{Error, Result, SOON, eventually};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::os::fd::OwnedFd;
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
    pipes: Vec<Arc<OwnedFd>>,
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
        let pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        let pipes: Vec<_> = pipes.into_iter().flatten().map(Arc::new).collect();
        let reader = |pipe| read_lines(Arc::clone(pipe), Arc::clone(&lines), Arc::clone(&reading));
        let readers = pipes.iter().map(reader).collect();
        Ok(Self { name: name.to_owned(), child, lines, reading, pipes, readers })
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

    /// How many lines have this part, once there are `least` and all that was written until then is read.
    pub async fn counted(&self, part: &str, least: usize) -> Result<usize> {
        let what = format!("{} to write \"{part}\" {least} times", self.name);
        eventually(&what, SOON, async || Ok((self.count(part) >= least).then_some(()))).await?;
        self.settled().await?;
        Ok(self.count(part))
    }

    /// Returns when all that it had written before is among its lines. Log lines may come later than what they tell of.
    pub async fn settled(&self) -> Result<()> {
        let what = format!("the output of {} to be read", self.name);
        let is_read = async || {
            let _no_reader = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let sizes = self.pipes.iter().map(ioctl_fionread).collect::<std::result::Result<Vec<_>, _>>();
            let sizes = sizes.map_err(|error| Error::process(&self.name, error))?;
            Ok(sizes.iter().all(|size| *size == 0).then_some(()))
        };
        eventually(&what, SOON, is_read).await
    }

    /// Whether the machine held its stop up, so that it owns on until its lease ends.
    pub fn missed_release(&self) -> bool {
        self.count("could not release ") + self.count("ending without a release") > 0
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
        self.signal_times(signal, 1)
    }

    /// Sends a signal so many times, with nothing in between.
    pub fn signal_times(&mut self, signal: Signal, times: usize) -> Result<()> {
        // A process that has been waited for may have left its id to another.
        self.still_runs(&format!("before it got {signal:?}"))?;
        let pid = Pid::from_child(&self.child);
        let sent = (0..times).try_for_each(|_| kill_process(pid, signal));
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

fn read_lines(pipe: Arc<OwnedFd>, lines: Arc<Mutex<Vec<String>>>, gate: Arc<Gate>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut piece, mut line) = (vec![0; 8 * 1024], Vec::new());
        loop {
            // Waits without the lock.
            match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
            gate.pass();
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            match read(&pipe, &mut *piece) {
                Ok(0) => break,
                Ok(size) => {
                    for part in piece.get(..size).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                        line.extend_from_slice(part);
                        if line.pop_if(|last| *last == b'\n').is_some() {
                            lines.push(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned());
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if !line.is_empty() {
            let last = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(last);
        }
    })
}
