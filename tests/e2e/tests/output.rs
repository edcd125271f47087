//! What reads the outputs of the services, or does not: a pipe that nobody reads, one that is closed, a full
//! disk, a paused terminal. Services go on and drop log lines; notifications and dead letters wait.

use harness::{
    CONSUMERS, DLQ, EVENTS, Event, GROUPS, Method, Outcome, Program, Result, SOON, Signal, StatusCode, World,
    eventually, free_port, http, produce, record,
};
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

/// More than a pipe, and the queue behind it, hold of log lines.
const TASKS: usize = 8_000;

/// A service whose outputs the test holds. Killed when dropped.
struct Bare {
    child: Child,
    url: String,
}

impl Bare {
    fn start(program: Program, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Result<Self> {
        let port = free_port()?;
        let mut command =
            program.env("PORT", port).env("HEALTH_ADDR", format!("127.0.0.1:{port}")).command()?;
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        Ok(Self { child, url: format!("http://127.0.0.1:{port}") })
    }

    /// Both outputs in one pipe, as `2>&1 |` makes it.
    fn piped(program: Program) -> Result<(Self, PipeReader)> {
        let (reader, writer) = pipe().unwrap();
        Ok((Self::start(program, writer.try_clone().unwrap(), writer)?, reader))
    }

    /// `None`: it does not answer yet.
    async fn get(&self, path: &str) -> Result<Option<(StatusCode, String)>> {
        let Ok(answer) = http()?.get(format!("{}{path}", self.url)).send().await else { return Ok(None) };
        let status = answer.status();
        Ok(answer.text().await.ok().map(|text| (status, text)))
    }

    /// Waits for an answer of /readyz that has this in it.
    async fn reports(&self, status: StatusCode, text: &str) -> Result<()> {
        let answered = async || {
            let answer = self.get("/readyz").await?;
            Ok(answer.filter(|(code, body)| *code == status && body.contains(text)).map(drop))
        };
        eventually(&format!("{status} {text:?} from {}", self.url), SOON, answered).await?;
        Ok(())
    }

    async fn is_live(&self) -> Result<()> {
        let live =
            async || Ok(self.get("/healthz").await?.filter(|(code, _)| *code == StatusCode::OK).map(drop));
        eventually("an answer of /healthz", SOON, live).await?;
        Ok(())
    }

    async fn dropped_lines(&self) -> Result<u64> {
        let (_, metrics) = self.get("/metrics").await?.expect("metrics");
        let line = metrics.lines().find(|line| line.starts_with("log_lines_dropped_total ")).unwrap();
        Ok(line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    async fn create(&self, title: String) -> Result<()> {
        let body = serde_json::json!({"title": title}).to_string();
        let answer = http()?.request(Method::POST, format!("{}/tasks", self.url)).body(body).send().await?;
        assert_eq!(answer.status(), StatusCode::CREATED);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn ends(&mut self) -> Result<Option<i32>> {
        let ended = async || Ok(self.child.try_wait().unwrap());
        Ok(eventually("its end", SOON, ended).await?.code())
    }

    /// SIGTERM, and an orderly end.
    async fn stops(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        assert_eq!(self.ends().await?, Some(0));
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn produce_events(world: &World, count: usize) -> Result<()> {
    for first in (0..count).step_by(500) {
        let events: Vec<_> = (first..count.min(first + 500))
            .map(|n| Event::created(&format!("task {n}")).bytes())
            .map(|value| record(Some(b"key"), Some(&value)))
            .collect();
        produce(&world.broker.bootstrap(), EVENTS, events).await?;
    }
    Ok(())
}

/// The numbers of the tasks that were notified.
fn notified(lines: &[String]) -> Vec<usize> {
    let told = lines.iter().filter_map(|line| line.split_once("NOTIFICATION: New task created - 'task "));
    told.map(|(_, rest)| rest.split_once('\'').unwrap().0.parse().unwrap()).collect()
}

/// Reads until this many notifications were read, and returns all lines.
async fn read_notifications(reader: impl Read + Send + 'static, count: usize) -> Vec<String> {
    let reading = tokio::task::spawn_blocking(move || {
        let (mut lines, mut found) = (Vec::new(), 0);
        for line in BufReader::new(reader).lines().map_while(std::result::Result::ok) {
            found += usize::from(line.contains("NOTIFICATION: "));
            lines.push(line);
            if found == count {
                break;
            }
        }
        lines
    });
    tokio::time::timeout(SOON, reading).await.expect("all notifications").unwrap()
}

/// `LOG_LEVEL=warn` once hid every notification, and all of their offsets were committed.
#[tokio::test]
async fn no_log_level_hides_a_notification() -> Outcome {
    let world = World::start().await?;
    let mut end = 0;
    for (level, format) in [("warn", "text"), ("error", "text"), ("off", "text"), ("off", "json")] {
        let program = world.program("notification-service").env("LOG_LEVEL", level).env("LOG_FORMAT", format);
        let mut notification = program.start()?;
        let task = Event::created("Buy milk");
        world.produce_values(&[Some(&task.bytes())]).await?;
        end += 1;
        world.committed("notification-service", end).await?;
        let text = format!("NOTIFICATION: New task created - 'Buy milk' (ID: {})", task.task_id());
        let line = notification.wait_for_line(&text, SOON).await?;
        if format == "json" {
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["message"].as_str(), Some(text.as_str()));
        }
        assert_eq!(notification.terminate(SOON).await?.code(), Some(0));
        // A warning may come beside it: of a topic that the broker just made, and does not yet name.
        let lines = notification.lines();
        let infos = lines.iter().filter(|line| line.contains("INFO")).count();
        assert_eq!(infos, 1, "{lines:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_reads_notifications_the_service_waits_and_goes_on_without_a_repeat() -> Outcome {
    let world = World::start().await?;
    let (notification, reader) = Bare::piped(world.program("notification-service"))?;
    notification.is_live().await?;
    produce_events(&world, 3_000).await?;
    notification.reports(StatusCode::SERVICE_UNAVAILABLE, "stdout takes no output: nobody reads it").await?;
    let position = world.offsets("notification-service").await?.position().unwrap_or(0);
    assert!(position < 1_500, "a pipe holds 64 KiB: {position}");
    // Longer than the lease: it stays the owner, and commits nothing.
    tokio::time::sleep(2 * harness::LEASE).await;
    let offsets = world.offsets("notification-service").await?;
    assert_eq!((offsets.position().unwrap_or(0), offsets.is_released()), (position, false));

    let lines = read_notifications(reader.try_clone().unwrap(), 3_000).await;
    assert_eq!(notified(&lines), (0..3_000).collect::<Vec<_>>(), "each once, in order");
    assert!(lines.iter().all(|line| line.starts_with("20")), "no line is torn");
    world.committed("notification-service", 3_000).await?;
    notification.reports(StatusCode::OK, "").await?;
    Ok(())
}

/// What it wrote to the pipe is what it committed, and one batch more at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_whose_output_is_not_read_stops_in_time_and_leaves_the_rest_to_the_next() -> Outcome {
    let world = World::start().await?;
    let (mut notification, reader) = Bare::piped(world.program("notification-service"))?;
    produce_events(&world, 3_000).await?;
    notification.reports(StatusCode::SERVICE_UNAVAILABLE, "nobody reads it").await?;
    notification.signal(Signal::TERM);
    let stopped = std::time::Instant::now();
    assert_eq!(notification.ends().await?, Some(0));
    println!("stopped after {:?}", stopped.elapsed());
    assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
    let position =
        usize::try_from(world.offsets("notification-service").await?.position().unwrap_or(0)).unwrap();
    let lines: Vec<_> = BufReader::new(reader).lines().map_while(std::result::Result::ok).collect();
    let told = notified(&lines);
    assert_eq!(told, (0..told.len()).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line.starts_with("20")), "no line is torn");
    assert!(
        (position..=position + 500).contains(&told.len()),
        "{} written, {position} committed",
        told.len()
    );

    let (_next, reader) = Bare::piped(world.program("notification-service"))?;
    let lines = read_notifications(reader, 3_000 - position).await;
    assert_eq!(notified(&lines), (position..3_000).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_whose_output_is_closed_or_full_waits_and_commits_nothing() -> Outcome {
    let world = World::start().await?;
    produce_events(&world, 10).await?;
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let outputs = [
        (OwnedFd::from(closed), "stdout takes no output: its reader has closed it"),
        (OwnedFd::from(full()), "stdout takes no output: No space left on device"),
    ];
    for (stdout, why) in outputs {
        let mut notification = Bare::start(world.program("notification-service"), stdout, full())?;
        notification.reports(StatusCode::SERVICE_UNAVAILABLE, why).await?;
        notification.is_live().await?;
        notification.stops().await?;
        assert_eq!(world.offsets("notification-service").await?.position().unwrap_or(0), 0);
    }
    let (_next, reader) = Bare::piped(world.program("notification-service"))?;
    assert_eq!(notified(&read_notifications(reader, 10).await), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// What the DLQ processor tells is written before the commit, at each log level; a reader that has gone away
/// stops it as little as it stops log lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_logged_before_it_is_committed_whatever_the_log_level() -> Outcome {
    let world = World::start().await?;
    let program = || world.program("dlq-processor").env("LOG_LEVEL", "off");
    produce(&world.broker.bootstrap(), DLQ, vec![record(None, Some(b"no dead letter"))]).await?;
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let mut processor = Bare::start(program(), closed, Stdio::null())?;
    world.committed_in("dlq-processor", DLQ, 1).await?;
    processor.is_live().await?;
    processor.stops().await?;

    let mut processor = program().start()?;
    produce(&world.broker.bootstrap(), DLQ, vec![record(None, Some(b"no dead letter"))]).await?;
    world.committed_in("dlq-processor", DLQ, 2).await?;
    processor.kill9();
    assert!(processor.has_ended()?);
    let lines = processor.lines();
    let told = lines.iter().any(|line| line.contains("DLQ: group=unknown kind=invalid_json source=?/?/? "));
    assert!(told && lines.len() == 1, "{lines:?}");
    Ok(())
}

/// Reads as `head -3` does, and goes.
async fn head(reader: PipeReader) {
    let reading = tokio::task::spawn_blocking(move || {
        BufReader::with_capacity(1, reader).lines().take(3).map(std::result::Result::unwrap).count()
    });
    assert_eq!(tokio::time::timeout(SOON, reading).await.unwrap().unwrap(), 3);
}

/// `task-api 2>&1 | head -3` once aborted at the fourth line.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_reader_that_goes_away_stops_nothing() -> Outcome {
    let world = World::start().await?;
    // Health, start, owner: three lines each, and more at debug.
    let program = |name: &str| world.program(name).env("LOG_LEVEL", "debug");
    let (mut api, reader) = Bare::piped(program("task-api"))?;
    api.is_live().await?;
    api.create("first".to_owned()).await?;
    head(reader).await;
    let (mut audit, reader) = Bare::piped(program("audit-service"))?;
    head(reader).await;
    let (mut dlq, reader) = Bare::piped(program("dlq-processor"))?;
    head(reader).await;
    for n in 0..20 {
        api.create(format!("task {n}")).await?;
    }
    produce(&world.broker.bootstrap(), DLQ, vec![record(None, Some(b"poison"))]).await?;
    world.committed("audit-service", 21).await?;
    world.committed_in("dlq-processor", DLQ, 1).await?;
    assert_eq!(world.audit_log()?.len(), 21);
    for service in [&mut api, &mut audit, &mut dlq] {
        service.is_live().await?;
        service.stops().await?;
    }
    Ok(())
}

/// A stalled reader once stopped every request, /healthz included, after 64 KiB of log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_reader_that_stalls_stops_nothing_and_learns_what_it_missed() -> Outcome {
    let world = World::start().await?;
    let (mut api, reader) = Bare::piped(world.program("task-api").env("LOG_LEVEL", "debug"))?;
    let (mut audit, _reader) = Bare::piped(world.program("audit-service"))?;
    api.is_live().await?;
    let mut load = harness::Load::at_full_speed(&api.url, 32, TASKS)?;
    load.reached(TASKS / 2).await?;
    api.is_live().await?;
    assert_eq!(load.finish().await?.failures, 0);
    world.committed("audit-service", i64::try_from(TASKS).unwrap()).await?;
    let dropped = api.dropped_lines().await?;
    assert!(dropped > 0, "{TASKS} tasks filled no pipe");

    let reading = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(reader).lines().map_while(std::result::Result::ok);
        lines.filter_map(|line| Some(line.split_once(" log lines dropped: ")?.0.to_owned())).next()
    });
    let notice =
        tokio::time::timeout(SOON, reading).await.unwrap().unwrap().expect("a line that tells of it");
    let told: u64 = notice.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((1..=api.dropped_lines().await?).contains(&told), "{notice}");
    api.stops().await?;
    audit.stops().await?;
    Ok(())
}

/// Reads a byte now and then.
#[allow(clippy::disallowed_methods, reason = "in a thread of its own")]
fn read_slowly(mut pipe: impl Read) {
    while pipe.read(&mut [0]).is_ok_and(|length| length > 0) {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Other ends of an output that take nothing, or little.
#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_output_stops_the_api() -> Outcome {
    let world = World::start().await?;
    let full = || OwnedFd::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let (socket, _unread) = UnixStream::pair().unwrap();
    let (nonblocking, _unread_either) = UnixStream::pair().unwrap();
    nonblocking.set_nonblocking(true).unwrap();
    let (closed_socket, _) = UnixStream::pair().unwrap();
    let (terminal, _master) = paused_terminal();
    let (slow_reader, slow) = pipe().unwrap();
    std::thread::spawn(move || read_slowly(slow_reader));
    let outputs = [
        ("a full disk", full()),
        ("a socket", socket.into()),
        ("a socket that does not block", nonblocking.into()),
        ("a socket that is closed", closed_socket.into()),
        ("a paused terminal", terminal),
        ("a slow reader", slow.into()),
        ("a descriptor for reading", File::open("/dev/null").unwrap().into()),
    ];
    for (name, stdout) in outputs {
        println!("{name}");
        let mut api = Bare::start(world.program("task-api").env("LOG_LEVEL", "debug"), stdout, full())?;
        api.is_live().await?;
        assert_eq!(harness::Load::at_full_speed(&api.url, 16, 2_000)?.finish().await?.failures, 0);
        api.is_live().await?;
        api.stops().await?;
    }
    Ok(())
}

/// A terminal after Ctrl-S: its end, and the end that holds it open.
fn paused_terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let options = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let terminal = rustix::fs::open(name.as_c_str(), options, rustix::fs::Mode::empty()).unwrap();
    rustix::termios::tcflow(&terminal, rustix::termios::Action::OOff).unwrap();
    (terminal, master)
}

/// Each service in a terminal of its own, which is closed: an orderly stop, and no rotation of the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_closed_asks_for_an_orderly_stop() -> Outcome {
    let world = World::start().await?;
    produce_events(&world, 10).await?;
    for name in CONSUMERS.iter().chain(["task-api"].iter()) {
        let port = free_port()?;
        let program = world.program(name).env("PORT", port).env("HEALTH_ADDR", format!("127.0.0.1:{port}"));
        // `script` gives it a terminal and takes that along when it is killed.
        let inner = program.command()?;
        let mut script = std::process::Command::new("script");
        script.arg("--quiet").arg("--return").arg("--command");
        script.arg(format!("exec {}", inner.get_program().display())).arg("/dev/null");
        script.env_clear().env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh");
        script.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let Ok(mut script) = script.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
            eprintln!("there is no command `script`: no terminal is closed");
            return Ok(());
        };
        let url = format!("http://127.0.0.1:{port}");
        let http = http()?;
        let answers = async || {
            let answer = http.get(format!("{url}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        eventually("it to be ready", SOON, async || Ok(answers().await.then_some(()))).await?;
        if ["audit-service", "notification-service"].contains(name) {
            world.committed(name, 10).await?;
        }
        script.kill().unwrap();
        script.wait().unwrap();
        eventually(&format!("{name} to end"), SOON, async || Ok((!answers().await).then_some(()))).await?;
    }
    for group in GROUPS {
        let released = async || Ok(world.offsets(group).await?.is_released().then_some(()));
        eventually(&format!("{group} to be released"), SOON, released).await?;
    }
    let log = world.audit_log_path();
    let segments = std::fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let segments: Vec<_> = segments
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("audit.log."))
        .collect();
    assert!(segments.is_empty(), "the log was rotated: {segments:?}");
    assert_eq!(world.audit_log()?.len(), 10);
    Ok(())
}

/// Closed outputs at the start, and an error that has to be written to an stderr that takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_closed_or_stalled_at_the_start_change_no_exit_code() -> Outcome {
    let world = World::start().await?;
    for name in CONSUMERS.iter().chain(&["task-api"]) {
        // std opens /dev/null in their places.
        let program = world.program(name);
        let mut shell = std::process::Command::new("sh");
        let command = program.command()?;
        shell.args(["-c", "exec \"$0\" >&- 2>&- <&-"]).arg(command.get_program()).env_clear();
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let port = free_port()?;
        shell.env("PORT", port.to_string()).env("HEALTH_ADDR", format!("127.0.0.1:{port}"));
        let child = shell.spawn().unwrap();
        let mut service = Bare { child, url: format!("http://127.0.0.1:{port}") };
        service.is_live().await?;
        service.stops().await?;

        let (reader, stalled) = pipe().unwrap();
        fill(&stalled);
        for (variable, value, code) in [("LOG_LEVEL", "loud", 2), ("STATE_DIR", "/dev/null", 1)] {
            let refused =
                |stderr: Stdio| Bare::start(world.program(name).env(variable, value), Stdio::null(), stderr);
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            assert_eq!(refused(full.into())?.ends().await?, Some(code), "{name} {variable}");
            assert_eq!(
                refused(stalled.try_clone().unwrap().into())?.ends().await?,
                Some(code),
                "{name} {variable}"
            );
        }
        drop(reader);
        assert_eq!(
            Bare::start(world.program(name).env("LOG_LEVEL", "loud"), Stdio::null(), stalled)?.ends().await?,
            Some(2),
            "{name}: a closed stderr"
        );
    }
    Ok(())
}

/// Writes until the pipe takes no more.
fn fill(pipe: &std::io::PipeWriter) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&now)).unwrap() > 0 {
        rustix::io::write(pipe, &[b'x'; 4096]).unwrap();
    }
}
