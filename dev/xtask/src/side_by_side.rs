//! All tests, several test binaries at a time.
//!
//! Cargo runs one binary after another, and most of ours wait: for a broker, a lease or a disk. Each binary runs as
//! cargo would run it (in its package's folder, with a test for each processor at a time); its output is printed as
//! a whole when it has ended. What fails does not keep the others from running. What needs the machine's processors,
//! rather than time, runs alone at the end.

use crate::Result;
use crate::cargo;
use serde_json::Value;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The binaries that take longest, to be started first. A name that is missing here costs time and nothing else.
const LONGEST: [&str; 16] = [
    "rounds",
    "task_api",
    "relay",
    "others",
    "it",
    "run",
    "black_holes",
    "consumers",
    "frozen_disk",
    "io_errors",
    "kills",
    "output",
    "task_events",
    "sharing",
    "shutdown",
    "ownership",
];

/// The binaries that run alone: three brokers that elect leaders, and a pace of 1,000 requests a second.
const ALONE: [&str; 2] = ["cluster", "groups"];

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// How many test binaries run at a time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// What cargo is to choose, as `--test NAME` or `--lib`; everything, and the doctests, if nothing is named.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    selection: Vec<String>,
}

/// Builds the tests, and what they start, and runs them.
pub fn run(options: &Options) -> Result<()> {
    let mut build = cargo::cargo();
    build.args(["test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    build.args(&options.selection);
    let mut binaries = TestBinary::all_of(&cargo::output_of(build.stderr(std::process::Stdio::inherit()))?);
    if binaries.is_empty() {
        return Err("cargo has built no test; correct the selection".to_owned());
    }
    binaries.sort_by_key(TestBinary::rank);
    // What the tests' harness would build in each test process; with `--examples` as it does, for the same features.
    cargo::run(cargo::cargo().args(["build", "--locked", "--workspace", "--bins", "--examples"]))?;

    let count = binaries.len();
    let (alone, together) = binaries.into_iter().partition(TestBinary::runs_alone);
    let mut failed = each_of(together, options.jobs, TestBinary::run);
    failed.extend(each_of(alone, 1, TestBinary::run));
    if options.selection.is_empty() {
        let doctests = cargo::run(cargo::cargo().args(["test", "--locked", "--workspace", "--doc"]));
        failed.extend(doctests.err());
    }
    match failed.len() {
        0 => Ok(()),
        failures => Err(format!("{failures} of {count} test binaries failed: {}", failed.join(", "))),
    }
}

/// Does the work for each item, that many at a time, and returns what it returned.
fn each_of<T: Send, R: Send>(items: Vec<T>, at_a_time: u8, work: impl Fn(&T) -> Option<R> + Sync) -> Vec<R> {
    let queue = Mutex::new(VecDeque::from(items));
    let results = Mutex::new(Vec::new());
    // Not inside the condition of the loop, where the lock would be held while the work is done.
    let next = || locked(&queue).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(item) = next() {
                    let result = work(&item);
                    locked(&results).extend(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct TestBinary {
    /// The name of its target: a crate, or a file of its `tests/`.
    name: String,
    program: PathBuf,
    manifest: PathBuf,
}

impl TestBinary {
    /// Those that cargo's messages name, one message a line.
    fn all_of(messages: &str) -> Vec<Self> {
        messages.lines().filter_map(|line| Self::of(&serde_json::from_str(line).ok()?)).collect()
    }

    /// `None`: a message of something else.
    fn of(message: &Value) -> Option<Self> {
        let text = |path: &str| message.pointer(path)?.as_str().map(str::to_owned);
        message.pointer("/profile/test")?.as_bool()?.then_some(())?;
        Some(Self {
            name: text("/target/name")?,
            program: text("/executable")?.into(),
            manifest: text("/manifest_path")?.into(),
        })
    }

    fn runs_alone(&self) -> bool {
        ALONE.contains(&self.name.as_str())
    }

    fn rank(&self) -> usize {
        LONGEST.iter().position(|name| *name == self.name).unwrap_or(LONGEST.len())
    }

    /// Runs it and prints what it wrote; its name if it fails.
    fn run(&self) -> Option<String> {
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        // As cargo runs it; and what it starts is built already.
        command.env("CARGO_MANIFEST_PATH", &self.manifest);
        if let Some(folder) = self.manifest.parent() {
            command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        }
        if let Some(folder) = self.program.parent().and_then(Path::parent) {
            command.env("E2E_BINARIES", folder);
        }
        let output = command.output();
        println!("{}", self.report(&output, start.elapsed()));
        let passed = output.is_ok_and(|output| output.status.success());
        (!passed).then(|| self.name.clone())
    }

    fn report(&self, output: &std::io::Result<Output>, took: Duration) -> String {
        let head = format!("     Running {} ({})", self.name, self.program.display());
        let took = took.as_secs();
        match output {
            Ok(Output { status, stdout, stderr }) => {
                let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
                format!("{head}\n{stdout}{stderr}     {} ended with {status} after {took} s\n", self.name)
            }
            Err(error) => format!("{head}\n     {} does not start: {error}\n", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_found_among_the_messages_of_cargo() {
        let messages = [
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"kept"},"profile":{"test":true},"executable":"/t/debug/deps/kept-1"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":"/t/debug/a"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"lib"},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ];
        let found = TestBinary::all_of(&messages.join("\n"));
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["kept"]);
        assert!(found[0].rank() > LONGEST.iter().position(|name| *name == "rounds").unwrap());
    }

    #[test]
    fn work_is_done_side_by_side() {
        // Each waits for the other: one after the other, neither would end.
        let both = std::sync::Barrier::new(2);
        let done = each_of(vec![1, 2], 2, |item| {
            both.wait();
            Some(*item)
        });
        assert_eq!(done.iter().sum::<i32>(), 3);
    }

    #[test]
    fn a_test_binary_that_fails_or_does_not_start_is_named() {
        let binary = |program: &str| TestBinary {
            name: "planted".to_owned(),
            program: program.into(),
            manifest: "/Cargo.toml".into(),
        };
        assert_eq!(binary("/bin/true").run(), None);
        assert_eq!(binary("/bin/false").run().as_deref(), Some("planted"));
        assert_eq!(binary("/no/such/program").run().as_deref(), Some("planted"));
    }
}
