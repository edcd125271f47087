//! A child process in the test's hands: its output line by line, signals, and its end.

use crate::eventually;
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
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{name} does not start ({}): {error}", command.get_program().display())
        });
        let (lines, reading) = (Arc::default(), Arc::<Gate>::default());
        let stdout = child.stdout.take().map(|pipe| read_lines(pipe, Arc::clone(&lines), &reading));
        let stderr = child.stderr.take().map(|pipe| read_lines(pipe, Arc::clone(&lines), &reading));
        let readers = stdout.into_iter().chain(stderr).collect();
        Self { name: name.to_owned(), child, lines, reading, readers }
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

    /// The first line with this part, once it is there. Panics at once if the process ends without it.
    pub async fn wait_for_line(&mut self, part: &str, limit: Duration) -> String {
        let what = format!("{} to write \"{part}\"", self.name);
        let found = eventually(&what, limit, async || {
            // Asked before the lines, so that a line written just before the end is seen.
            let ended = self.has_ended();
            let line = self.lines().into_iter().find(|line| line.contains(part));
            assert!(line.is_some() || !ended, "{} ended before it wrote \"{part}\"", self.name);
            line
        });
        found.await
    }

    /// Whether it has ended; if so, all its output is there.
    pub fn has_ended(&mut self) -> bool {
        self.status().is_some()
    }

    /// Waits for its end.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, async || self.status()).await
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub async fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(limit).await
    }

    /// Ends it as a power cut would (SIGKILL).
    pub fn kill9(&mut self) {
        // An error says that it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it where it stands (SIGSTOP): its connections stay open, it answers nothing.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        // On a busy machine its threads run on for some milliseconds; this tells when the last has stopped.
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED)
            .unwrap_or_else(|error| panic!("{} does not stop: {error}", self.name));
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
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
    pub fn signal(&mut self, signal: Signal) {
        // A process that has been waited for may have left its id to another.
        assert!(!self.has_ended(), "{} has ended and gets no {signal:?}", self.name);
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("{} gets no {signal:?}: {error}", self.name));
    }

    fn status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap_or_else(|error| panic!("{}: {error}", self.name))?;
        self.reading.set_closed(false);
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of lines does not panic");
        }
        Some(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
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
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}
