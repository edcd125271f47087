//! The processes that run-all starts: each in a process group of its own, so that Ctrl-C reaches run-all
//! alone, and each bound to its life, so that none outlives it. One that dies is started again, as a supervisor
//! in production would do; one that never came up ends everything.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::Failure;
use crate::screen::{Colour, Screen};

/// First argument of this binary where it is to become a child.
const BOUND: &str = "--become-child-of";
/// Time for the last lines of a child that has ended.
const LAST_LINES: Duration = Duration::from_secs(1);
/// A process that lived for so long had come up.
const CAME_UP: Duration = Duration::from_secs(5);
/// Time before one that died is started again, the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

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

    /// Starts a process, shows its lines from now on, and starts it again when it dies.
    pub fn start(&mut self, program: Program<'_>) -> Result<(), Failure> {
        let Program { name, colour, path, args, env, stop_limit, stop_rank } = program;
        let launch =
            Launch { name, colour, path: path.to_owned(), args, env, screen: Arc::clone(&self.screen) };
        let first = launch.start()?;
        let (order, orders) = watch::channel(Order::Run);
        let (has_ended_sender, has_ended) = watch::channel(false);
        let ends = self.ends.clone();
        tokio::spawn(async move {
            if let Err(failure) = keep_running(&launch, first, orders).await {
                // Nobody listens any more once everything is being stopped.
                let _ = ends.send(failure);
            }
            has_ended_sender.send_replace(true);
        });
        self.running.push(Running { name, stop_limit, stop_rank, order, has_ended });
        Ok(())
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

/// How to start one process, as often as it takes.
struct Launch {
    name: &'static str,
    colour: Colour,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    screen: Arc<Screen>,
}

/// A process that was started, and who shows its lines.
struct Started {
    process: Child,
    since: Instant,
    last_line: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Launch {
    fn start(&self) -> Result<Started, Failure> {
        let failed = |error: io::Error| Failure(format!("{} does not start: {error}", self.name));
        let mut command = bound(&self.path).map_err(failed)?;
        command.args(&self.args).envs(self.env.iter().cloned());
        // One group for all and one address for all would set them against each other.
        command.env_remove("GROUP").env_remove("HEALTH_ADDR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut process = command.spawn().map_err(failed)?;
        let last_line = Arc::default();
        let stdout = process.stdout.take().map(|pipe| self.show(pipe, Arc::clone(&last_line)));
        let stderr = process.stderr.take().map(|pipe| self.show(pipe, Arc::clone(&last_line)));
        let readers = stdout.into_iter().chain(stderr).collect();
        Ok(Started { process, since: Instant::now(), last_line, readers })
    }

    fn show(
        &self,
        pipe: impl AsyncRead + Unpin + Send + 'static,
        last_line: Arc<Mutex<String>>,
    ) -> JoinHandle<()> {
        let (name, colour, screen) = (self.name, self.colour, Arc::clone(&self.screen));
        tokio::spawn(async move {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while pipe.read_until(b'\n', &mut bytes).await.is_ok_and(|length| length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                last_line.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&line);
                screen.log(name, colour, line);
                bytes.clear();
            }
        })
    }
}

/// Returns when the process has ended as ordered, or with a failure when it never came up.
async fn keep_running(
    launch: &Launch,
    first: Started,
    mut orders: watch::Receiver<Order>,
) -> Result<(), Failure> {
    let mut started = first;
    let mut came_up = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let status = supervise(started.process, orders.clone()).await;
        for reader in started.readers {
            // Only a grandchild could hold the pipe open; its lines are not waited for.
            let _ = timeout(LAST_LINES, reader).await;
        }
        if *orders.borrow() != Order::Run {
            return Ok(());
        }
        let last_line = started.last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let was_killed = status.as_ref().is_ok_and(|status| status.signal().is_some());
        if started.since.elapsed() >= CAME_UP {
            (came_up, pause) = (true, FIRST_PAUSE);
        }
        if !came_up && !was_killed {
            return Err(unexpected_end(launch.name, status, &last_line));
        }
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        launch.screen.error(&format!(
            "{} died ({how}): it is started again in {} s",
            launch.name,
            pause.as_secs_f32()
        ));
        let stopped = orders.wait_for(|order| *order != Order::Run);
        if timeout(pause, stopped).await.is_ok() {
            return Ok(());
        }
        pause = (pause * 2).min(MAX_PAUSE);
        came_up = true;
        started = launch.start()?;
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
        return Some(Failure(format!("{} is not started: run-all has ended", program.display())));
    }
    let error = std::process::Command::new(&program).args(words).exec();
    Some(Failure(format!("{} does not start: {error}", program.display())))
}
