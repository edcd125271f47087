//! The processes that run-all starts: each in a process group of its own, so that Ctrl-C reaches run-all
//! alone, and each bound to its life, so that none outlives it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::Failure;
use crate::screen::{Colour, Screen};

/// First argument of this binary where it is to become a child.
const BOUND: &str = "--become-child-of";
/// Time for the last lines of a child that has ended.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A process to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// What it is called in front of its lines.
    pub name: &'static str,
    /// The colour of that name.
    pub colour: Colour,
    /// The binary.
    pub path: &'a Path,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside that of run-all.
    pub env: Vec<(&'static str, String)>,
    /// How long an orderly stop may take.
    pub stop_limit: Duration,
    /// Those with a lower rank are stopped, and waited for, before it.
    pub stop_rank: u8,
}

/// The running processes.
#[derive(Debug)]
pub struct Children {
    screen: Arc<Screen>,
    running: Vec<Running>,
    ends: mpsc::UnboundedSender<Failure>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    stop_limit: Duration,
    stop_rank: u8,
    order: watch::Sender<Order>,
    has_ended: watch::Receiver<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Stop,
    Kill,
}

impl Children {
    /// None yet. The receiver gets word of each that ends without having been asked to.
    pub fn new(screen: Arc<Screen>) -> (Self, mpsc::UnboundedReceiver<Failure>) {
        let (ends, receiver) = mpsc::unbounded_channel();
        (Self { screen, running: Vec::new(), ends }, receiver)
    }

    /// Starts a process and shows its lines from now on.
    pub fn start(&mut self, program: Program<'_>) -> Result<(), Failure> {
        let Program { name, colour, path, args, env, stop_limit, stop_rank } = program;
        let failed = |error: io::Error| Failure(format!("{name} does not start: {error}"));
        let mut command = bound(path).map_err(failed)?;
        command.args(args).envs(env);
        // One group for all and one address for all would set them against each other.
        command.env_remove("GROUP").env_remove("HEALTH_ADDR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut process = command.spawn().map_err(failed)?;

        let last_line = Arc::new(Mutex::new(String::new()));
        let show = move |line: String, last_line: &Mutex<String>, screen: &Screen| {
            last_line.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&line);
            screen.log(name, colour, line);
        };
        let readers = [
            process.stdout.take().map(|pipe| self.read(pipe, Arc::clone(&last_line), show)),
            process.stderr.take().map(|pipe| self.read(pipe, Arc::clone(&last_line), show)),
        ];
        let (order, orders) = watch::channel(Order::Run);
        let (has_ended_sender, has_ended) = watch::channel(false);
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let status = supervise(process, orders.clone()).await;
            for reader in readers.into_iter().flatten() {
                // Only a grandchild could hold the pipe open; its lines are not waited for.
                let _ = timeout(LAST_LINES, reader).await;
            }
            has_ended_sender.send_replace(true);
            if *orders.borrow() == Order::Run {
                let last_line = last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Nobody listens any more once everything is being stopped.
                let _ = ends.send(unexpected_end(name, status, &last_line));
            }
        });
        self.running.push(Running { name, stop_limit, stop_rank, order, has_ended });
        Ok(())
    }

    fn read(
        &self,
        pipe: impl AsyncRead + Unpin + Send + 'static,
        last_line: Arc<Mutex<String>>,
        show: impl Fn(String, &Mutex<String>, &Screen) + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let screen = Arc::clone(&self.screen);
        tokio::spawn(async move {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
                show(String::from_utf8_lossy(&line).trim_end().to_owned(), &last_line, &screen);
                line.clear();
            }
        })
    }

    /// Stops all in order, waits for each, and kills those that take too long.
    pub async fn stop(&mut self) {
        self.running.sort_by_key(|running| running.stop_rank);
        for equals in self.running.chunk_by(|a, b| a.stop_rank == b.stop_rank) {
            for running in equals {
                running.order.send_replace(Order::Stop);
            }
            for running in equals {
                if timeout(running.stop_limit, running.end()).await.is_err() {
                    let limit = running.stop_limit.as_secs();
                    self.screen.error(&format!("{} did not stop within {limit} s: killed", running.name));
                    running.order.send_replace(Order::Kill);
                    running.end().await;
                }
            }
        }
    }

    /// Kills all at once and waits for their ends.
    pub async fn kill(&mut self) {
        for running in &self.running {
            running.order.send_replace(Order::Kill);
        }
        for running in &self.running {
            running.end().await;
        }
    }
}

impl Running {
    async fn end(&self) {
        // An error says that its task has ended, which it does after the process.
        let _ = self.has_ended.clone().wait_for(|ended| *ended).await;
    }
}

/// Returns when the process has ended; passes orders on to it. Only here are signals sent, where an id that
/// has been waited for is known to be gone.
async fn supervise(mut process: Child, mut orders: watch::Receiver<Order>) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = process.wait() => return status,
            Ok(()) = orders.changed() => {
                let pid = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                let signal = if *orders.borrow() == Order::Kill { Signal::KILL } else { Signal::TERM };
                if let Some(pid) = pid {
                    // An error says that it has ended, which the next turn sees.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

fn unexpected_end(name: &str, status: io::Result<ExitStatus>, last_line: &str) -> Failure {
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let last = if last_line.is_empty() { String::new() } else { format!(", its last line: {last_line}") };
    Failure(format!("{name} ended ({how}){last}"))
}

/// A command that starts `path` by way of this binary, see [`become_child`].
fn bound(path: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(BOUND).arg(std::process::id().to_string()).arg(path);
    Ok(command)
}

/// Has the system send SIGTERM to this process when its parent dies. Linux alone knows how; elsewhere a
/// run-all that is killed with kill -9 leaves its children.
fn end_with_parent() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(())
}

/// Where this process was started to become a child of run-all: has the system end it when run-all dies,
/// be it by kill -9, and becomes the program. Returns only where that fails, or where nothing was asked.
///
/// This detour is the way to do it without unsafe code between fork and exec.
pub fn become_child() -> Option<Failure> {
    let mut words = std::env::args_os().skip(1);
    words.next().filter(|word| word == BOUND)?;
    Some(exec(words).unwrap_or_else(|| Failure(format!("{BOUND} needs a process id and a program"))))
}

fn exec(mut words: impl Iterator<Item = OsString>) -> Option<Failure> {
    let parent: i32 = words.next()?.to_str()?.parse().ok()?;
    let program = words.next()?;
    if let Err(error) = end_with_parent() {
        return Some(Failure(format!("cannot bind {} to run-all: {error}", program.display())));
    }
    // It may have died before that.
    if getppid() != Pid::from_raw(parent) {
        return Some(Failure(format!("{} is not started: run-all is gone", program.display())));
    }
    let error = std::process::Command::new(&program).args(words).exec();
    Some(Failure(format!("{} does not start: {error}", program.display())))
}
