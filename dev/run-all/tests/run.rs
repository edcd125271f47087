//! `run-all` as a newcomer runs it, each time in a folder of its own. The first run builds the services.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// Time for a build of all services on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(30);

struct Run {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    shown: Vec<String>,
}

impl Run {
    fn start(folder: &TempDir, port: u16, args: &[&str]) -> Self {
        Self::start_with_path(folder, port, args, std::env::var_os("PATH").unwrap_or_default())
    }

    fn start_with_path(folder: &TempDir, port: u16, args: &[&str], path: OsString) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_run-all"))
            .args(args)
            .current_dir(folder.path())
            .env("PORT", port.to_string())
            .env("PATH", path)
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .env_remove("DATABASE_URL")
            .env_remove("DATABASE_URL_FILE")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, shown: Vec::new() }
    }

    async fn wait_for(&mut self, part: &str) {
        let found = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.shown.push(line);
                if self.shown.last().is_some_and(|line| line.contains(part)) {
                    return;
                }
            }
            let mut errors = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
            panic!("it ended without \"{part}\": {:#?}\n{errors}", self.shown);
        };
        timeout(BUILD_LIMIT, found).await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its exit status, all that it showed, and the errors: what cargo says begins otherwise.
    async fn end(mut self) -> (ExitStatus, String, Vec<String>) {
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let end = async {
            let (read, ()) = tokio::join!(stderr.read_to_string(&mut errors), async {
                while let Some(line) = self.lines.next_line().await.unwrap() {
                    self.shown.push(line);
                }
            });
            read.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(BUILD_LIMIT, end).await.unwrap();
        let errors = errors.lines().filter(|line| line.starts_with("error")).map(str::to_owned).collect();
        (status, self.shown.join("\n"), errors)
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: one of them
/// could take it while the broker is down.
fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 1_900).unwrap();
    let mut candidates = std::iter::repeat_with(|| first + TAKEN.fetch_add(1, Ordering::Relaxed) % 100);
    candidates.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap()
}

/// Whether a process that run-all started lives: each holds the lock of its folder.
fn someone_lives(folder: &Path) -> bool {
    fn is_held(folder: &Path, depth: usize) -> bool {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let is_locked = |path: &Path| File::open(path).is_ok_and(|lock| lock.try_lock().is_err());
        let mut paths = entries.map(|entry| entry.path());
        paths.any(|path| {
            (path.ends_with("lock") && is_locked(&path)) || (depth > 1 && is_held(&path, depth - 1))
        })
    }
    // data/SERVICE/lock, or data/scaled/INSTANCE/SERVICE/lock
    is_held(&folder.join("data"), 4)
}

/// The process that holds this lock.
fn holder(lock: &Path) -> Option<Pid> {
    let inode = format!(":{}", fs::metadata(lock).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    // 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
    let mut locks = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let holder = locks.find(|words| {
        words.get(1) == Some(&"FLOCK") && words.get(5).is_some_and(|file| file.ends_with(&inode))
    });
    Pid::from_raw(holder?.get(4)?.parse().ok()?)
}

async fn nobody_lives_soon(folder: &Path) {
    let gone = async {
        while someone_lives(folder) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let (status, shown, errors) =
        Run::start(&folder, port, &["--broker-port", &free_port().to_string()]).end().await;
    assert_eq!((status.code(), shown.as_str()), (Some(1), ""));
    assert!(
        matches!(errors.as_slice(), [line] if line.contains(&port.to_string()) && line.contains("PORT")),
        "{errors:?}"
    );
    let (status, _, errors) =
        Run::start(&folder, free_port(), &["--broker-port", &port.to_string()]).end().await;
    assert_eq!(status.code(), Some(1));
    assert!(matches!(errors.as_slice(), [line] if line.contains("--broker-port")), "{errors:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_tour_is_shown_and_no_process_outlives_run_all() {
    let folder = tempfile::tempdir().unwrap();
    let broker_port = free_port().to_string();
    let port = free_port();

    let (status, shown, errors) =
        Run::start(&folder, port, &["--broker-port", &broker_port, "--exit-after-tour"]).end().await;
    assert_eq!((status.code(), errors.as_slice()), (Some(0), [].as_slice()), "{shown}");
    let page = format!("The live page: http://127.0.0.1:{port}/");
    for part in
        ["201 Created", "  NOTIFICATION: New task created - ", "  NOTIFICATION: Task completed - ", &page]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("audit.log")).unwrap().lines().count(), 3);
    assert!(!someone_lives(folder.path()));

    // Ctrl-C on what earlier runs left: nothing is audited twice. The page is opened by the system's own command,
    // whose failure is no error.
    let commands = tempfile::tempdir().unwrap();
    let opener = commands.path().join("xdg-open");
    fs::write(&opener, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
    let mut path = commands.path().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let args = ["--broker-port", &broker_port, "--no-tour", "--open"];
    let mut run = Run::start_with_path(&folder, port, &args, path);
    run.wait_for("Up:").await;
    run.wait_for(&format!("cannot open http://127.0.0.1:{port}/ with xdg-open: exit status: 3")).await;
    run.signal(Signal::INT);
    let (status, shown, errors) = run.end().await;
    assert_eq!((status.code(), errors.as_slice()), (Some(0), [].as_slice()), "{shown}");
    assert_eq!(fs::read_to_string(folder.path().join("audit.log")).unwrap().lines().count(), 3);
    assert!(!someone_lives(folder.path()));

    // A service that dies is started again, and nothing else ends.
    let mut run = Run::start(&folder, port, &["--broker-port", &broker_port, "--no-tour"]);
    run.wait_for("Up:").await;
    let lock = folder.path().join("data/audit-service/lock");
    let held = async {
        loop {
            match holder(&lock) {
                Some(first) => return first,
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let first = timeout(LIMIT, held).await.unwrap();
    kill_process(first, Signal::KILL).unwrap();
    let again = async {
        while holder(&lock).is_none_or(|pid| pid == first) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, again).await.unwrap();
    run.signal(Signal::INT);
    let (status, shown, errors) = run.end().await;
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(matches!(errors.as_slice(), [line] if line.contains("audit-service died")), "{errors:?}");

    // kill -9
    let mut run = Run::start(&folder, port, &["--broker-port", &broker_port, "--no-tour"]);
    run.wait_for("Up:").await;
    assert!(someone_lives(folder.path()));
    let refused =
        Run::start(&folder, free_port(), &["--broker-port", &free_port().to_string(), "--fresh"]).end().await;
    assert!(matches!(refused.2.as_slice(), [line] if line.contains("--fresh")), "{refused:?}");
    run.signal(Signal::KILL);
    nobody_lives_soon(folder.path()).await;

    // A service that cannot start, after others have.
    let lock = File::open(folder.path().join("data/audit-service/lock")).unwrap();
    lock.lock().unwrap();
    let (status, shown, errors) = Run::start(&folder, port, &["--broker-port", &broker_port]).end().await;
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(matches!(errors.as_slice(), [line] if line.contains("audit-service ended")), "{errors:?}");
    drop(lock);
    assert!(!someone_lives(folder.path()));

    let (status, shown, errors) =
        Run::start(&folder, port, &["--broker-port", &broker_port, "--exit-after-tour", "--fresh"])
            .end()
            .await;
    assert_eq!((status.code(), errors.as_slice()), (Some(0), [].as_slice()), "{shown}");
    assert_eq!(fs::read_to_string(folder.path().join("audit.log")).unwrap().lines().count(), 3);
}

/// A pager that is not scrolled, say. What run-all shows once blocked its only thread, Ctrl-C included.
#[tokio::test]
async fn whoever_does_not_read_it_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (broker_port, port) = (free_port().to_string(), free_port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_run-all"))
        .args(["--broker-port", &broker_port, "--no-tour"])
        .current_dir(folder.path())
        .env("PORT", port.to_string())
        .env("LOG_LEVEL", "debug")
        .env_remove("KAFKA_BOOTSTRAP_SERVERS")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let tasks = format!("http://127.0.0.1:{port}/tasks");
    let post = || client.post(&tasks).body(r#"{"title": "unread"}"#).send();
    let answers = async {
        while post().await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(BUILD_LIMIT, answers).await.unwrap();
    // Several lines each: more than a pipe holds.
    for _ in 0..500 {
        assert_eq!(post().await.unwrap().status(), 201);
    }
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(timeout(LIMIT, child.wait()).await.unwrap().unwrap().code(), Some(0));
    assert!(!someone_lives(folder.path()));
}

/// Two replicas of the API and three instances of each consumer, on the PostgreSQL that is installed here.
#[tokio::test]
async fn the_tour_is_shown_on_a_scaled_system_and_its_postgresql_ends_with_it() {
    if !has_postgres() {
        eprintln!("left out: PostgreSQL is not installed (Debian: apt-get install postgresql)");
        assert!(std::env::var_os("CI").is_none());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (broker_port, postgres_port) = (free_port().to_string(), free_port().to_string());
    let port = free_pair();
    let ports = ["--broker-port", &broker_port, "--postgres-port", &postgres_port];
    let args = [&["--scaled", "--exit-after-tour"], &ports[..]].concat();
    let audited = || -> usize {
        let logs = (1..=3).map(|number| folder.path().join(format!("data/scaled/audit-{number}.log")));
        logs.map(|log| fs::read_to_string(log).unwrap_or_default().lines().count()).sum()
    };
    let postmaster = folder.path().join("data/scaled/postgres/data/postmaster.pid");
    // Twice: what the first run left is used by the second.
    for run in 1..=2 {
        let (status, shown, errors) = Run::start(&folder, port, &args).end().await;
        assert_eq!((status.code(), errors.as_slice()), (Some(0), [].as_slice()), "{shown}");
        let second = format!("  $ curl -X PATCH http://127.0.0.1:{}/tasks/", port + 1);
        for part in ["201 Created", "  NOTIFICATION: Task completed - ", &second] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // A row for each partition, with three owners.
        let rows = shown.lines().filter(|line| line.starts_with("  task-events  "));
        let owners: Vec<_> = rows.map(|row| row.split_whitespace().nth(6).unwrap()).collect();
        let distinct = owners.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!((owners.len(), distinct), (12, 6), "{shown}");
        assert_eq!(audited(), 3 * run, "{shown}");
        assert!(!postmaster.exists() && !someone_lives(folder.path()));
    }
    assert!(!folder.path().join("audit.log").exists());

    let args = [&["--scaled", "--no-tour"], &ports[..]].concat();
    let mut run = Run::start(&folder, port, &args);
    run.wait_for("Up:").await;
    let (other_broker, other_postgres) = (free_port().to_string(), free_port().to_string());
    let fresh = ["--scaled", "--fresh", "--broker-port", &other_broker, "--postgres-port", &other_postgres];
    let refused = Run::start(&folder, free_pair(), &fresh).end().await;
    assert!(matches!(refused.2.as_slice(), [line] if line.contains("--fresh")), "{refused:?}");
    run.signal(Signal::KILL);
    let gone = async {
        while postmaster.exists() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
    nobody_lives_soon(folder.path()).await;

    let real = fs::canonicalize(folder.path().join("data/scaled/postgres")).unwrap();
    let args = [&["--scaled", "--exit-after-tour", "--fresh"], &ports[..]].concat();
    let (status, shown, errors) = Run::start(&folder, port, &args).end().await;
    assert_eq!((status.code(), errors.as_slice()), (Some(0), [].as_slice()), "{shown}");
    assert_eq!(audited(), 3, "{shown}");
    let now = fs::canonicalize(folder.path().join("data/scaled/postgres")).unwrap();
    assert!(now == real || !real.exists(), "root's is elsewhere, and is deleted, too");
    drop(fs::remove_dir_all(now));
}

/// Two ports, of which this is the first: the second replica has the next one.
fn free_pair() -> u16 {
    let is_next_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok();
    let port = std::iter::repeat_with(free_port).find(is_next_free).unwrap();
    // Nobody else of this process gets it.
    let _ = free_port();
    port
}

fn has_postgres() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(debian).any(|folder| folder.join("initdb").is_file())
}

#[tokio::test]
async fn without_postgresql_one_line_says_how_to_get_one_and_nothing_is_started() {
    let (folder, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let programs = empty.path().display().to_string();
    let args = ["--scaled", "--postgres-programs", &programs, "--broker-port", &free_port().to_string()];
    let (status, shown, errors) = Run::start(&folder, free_port(), &args).end().await;
    assert_eq!((status.code(), shown.as_str()), (Some(1), ""));
    let says = |line: &str| line.contains("apt-get install postgresql") && line.contains("DATABASE_URL");
    assert!(matches!(errors.as_slice(), [line] if says(line)), "{errors:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
