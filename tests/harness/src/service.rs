//! The built binaries as processes.

use crate::{Error, Process, Result, SOON};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// How to run a binary of this workspace: its arguments, and the environment, which is empty but for
/// what is given here.
#[derive(Clone)]
pub struct Program {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    folder: Option<PathBuf>,
    wrapper: Vec<String>,
}

impl Program {
    /// A binary by its name.
    pub fn new(name: &str) -> Self {
        let (args, env, wrapper) = Default::default();
        Self { name: name.to_owned(), args, env, folder: None, wrapper }
    }

    /// Another build of it, in this folder.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Without root's right to read and write whatever it likes, which tests in a container have.
    pub fn unprivileged(self) -> Self {
        self.wrapped(&["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"])
    }

    /// Run by another program, which takes it as its last arguments.
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Sets a variable; the last value of a name counts.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts it as a service.
    pub fn start(self) -> Result<Service> {
        let process = self.spawn()?;
        Ok(Service { program: self, process, earlier: Vec::new(), runs: 1 })
    }

    /// Runs it to its end.
    pub async fn run(&self, limit: Duration) -> Result<Ran> {
        let mut command = tokio::process::Command::from(self.command()?);
        let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await;
        let output =
            output.map_err(|_| Error::timeout(format!("the end of {} {:?}", self.name, self.args), limit))?;
        let output =
            output.map_err(|error| Error::process(&self.name, format!("does not start: {error}")))?;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A process that is not restarted.
    pub(crate) fn spawn(&self) -> Result<Process> {
        Process::spawn(&self.name, &mut self.command()?)
    }

    /// As a command, for a test that has something of its own to do with its outputs.
    pub fn command(&self) -> Result<Command> {
        let folder = match &self.folder {
            Some(folder) => folder,
            None => binaries()?,
        };
        let program = folder.join(&self.name);
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, args)) => {
                let mut command = Command::new(wrapper);
                command.args(args).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(&self.args).env_clear().env("RUST_BACKTRACE", "1").envs(self.env.iter().cloned());
        Ok(command)
    }
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A service, which is a [`Process`] that can be started again.
pub struct Service {
    program: Program,
    process: Process,
    earlier: Vec<String>,
    runs: usize,
}

impl Service {
    /// Kills it if it runs, and starts it again with the same arguments and environment.
    /// [`lines`](Process::lines) are those of the new run; those before are in [`Service::history`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill9();
        // By then all its lines are read.
        self.process.has_ended()?;
        self.earlier.extend(self.process.lines());
        self.process = self.program.spawn()?;
        self.runs += 1;
        Ok(())
    }

    /// Ends it with SIGTERM so that it has released what it owned. Where the machine held it up, it could not: then it is
    /// started again and stopped once more, and fails at the fifth time.
    pub async fn stop_released(&mut self) -> Result<()> {
        for _ in 0..5 {
            let status = self.terminate(SOON).await?;
            if !status.success() {
                return Err(Error::failed(format!(
                    "{} ended with {status} after SIGTERM",
                    self.program.name
                )));
            }
            if !self.missed_release() {
                return Ok(());
            }
            self.restart()?;
            self.wait_for_line(": claimed ", SOON).await?;
        }
        Err(Error::failed(format!("{} did not release in five stops", self.program.name)))
    }

    /// How often it was started.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// The lines of all its runs.
    pub fn history(&self) -> Vec<String> {
        let mut lines = self.earlier.clone();
        lines.extend(self.process.lines());
        lines
    }

    /// Where the Task API of this run listens, as it logs it: `http://127.0.0.1:PORT`.
    pub async fn url(&mut self) -> Result<String> {
        self.address("listening on http://").await
    }

    /// Where a consumer of this run answers `/healthz`, `/readyz` and `/metrics`, as it logs it.
    pub async fn health_url(&mut self) -> Result<String> {
        self.address("health on http://").await
    }

    async fn address(&mut self, announcement: &str) -> Result<String> {
        let line = self.wait_for_line(announcement, SOON).await?;
        let (_, address) = line.split_once(announcement).unwrap_or_default();
        let end = address.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c)));
        Ok(format!("http://{}", address.split_at(end.unwrap_or(address.len())).0))
    }
}

impl Deref for Service {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The folder of the binaries: the one that `E2E_BINARIES` names, or what is built once a test process, as
/// cargo sees to it only for a package's own.
fn binaries() -> Result<&'static PathBuf> {
    static FOLDER: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    FOLDER.get_or_init(find_binaries).as_ref().map_err(Error::failed)
}

fn find_binaries() -> std::result::Result<PathBuf, String> {
    if let Some(built) = std::env::var_os("E2E_BINARIES").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(built));
    }
    // A test is target/PROFILE/deps/TEST, a command that uses this harness target/PROFILE/COMMAND.
    let program = std::env::current_exe().map_err(|error| format!("the path of this program: {error}"))?;
    let mut folders = program.ancestors().skip(1).skip_while(|folder| folder.ends_with("deps"));
    let (Some(folder), Some(target)) = (folders.next(), folders.next()) else {
        return Err(format!("{} is not in a folder target/PROFILE", program.display()));
    };
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `--examples` (there are none) has the features of the tests' dependencies taken into account,
    // as `cargo test --workspace` does, so that what it has built is not built a second time.
    command.args(["build", "--quiet", "--workspace", "--bins", "--examples", "--profile", profile]);
    command.arg("--target-dir").arg(target);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    match command.status() {
        Ok(status) if status.success() => Ok(folder.to_owned()),
        Ok(status) => Err(format!("cargo build of the binaries under test ended with {status}")),
        Err(error) => Err(format!("cargo does not start, to build the binaries under test: {error}")),
    }
}
