use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::*;

const SOON: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(50);

fn start(fd: impl Into<OwnedFd>) -> Output {
    Output::start(fd.into(), "stdout", |dropped| format!("{dropped}\n")).unwrap()
}

fn piped() -> (Output, BufReader<PipeReader>) {
    let (reader, writer) = pipe().unwrap();
    (start(writer), BufReader::new(reader))
}

fn next_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end_matches('\n').to_owned()
}

/// Logs numbered lines from there on, until some were dropped, and returns the number of the next.
fn log_until_dropped(output: &Output, from: u64) -> u64 {
    let dropped = output.dropped();
    let mut number = from;
    while output.dropped() < dropped + 10 {
        output.log(format!("{number} {}\n", "x".repeat(100)).as_bytes());
        number += 1;
    }
    number
}

fn wait_until_hindered(output: &Output, by: Hindrance) {
    while output.0.hindrance() != Some(by) {
        descriptor::pause(MOMENT);
    }
}

/// Permits the lines to be written until the pipe is full of them.
async fn permit_until_unread(output: &Output, receipt: &mut Receipt) {
    while output.0.hindrance() != Some(Hindrance::Unread) {
        receipt.written(MOMENT).await.unwrap_err();
    }
}

/// Reads numbered lines, each of which follows the one before or the line that tells how many are missing,
/// up to this number. Returns what those lines say.
fn read_all(reader: &mut impl BufRead, logged: u64) -> Vec<String> {
    let (mut next, mut notices) = (0, Vec::new());
    while next < logged {
        let line = next_line(reader);
        let (number, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let number: u64 = number.parse().unwrap_or_else(|_| panic!("{line:?}"));
        if rest.starts_with("log lines dropped") {
            next += number;
            notices.push(line);
        } else {
            assert_eq!((number, rest.len()), (next, 100), "whole, and in order");
            next += 1;
        }
    }
    assert_eq!(next, logged);
    notices
}

#[test]
fn a_reader_that_stalls_blocks_nobody_and_reads_in_its_place_what_it_missed() {
    let (output, mut reader) = piped();
    let start = Instant::now();
    let logged = log_until_dropped(&output, 0);
    assert!(logged > 5_000, "{logged}");
    assert!(start.elapsed() < SOON);
    wait_until_hindered(&output, Hindrance::Unread);
    let logged = log_until_dropped(&output, logged);
    let notices = read_all(&mut reader, logged);
    let last = notices.last().unwrap();
    assert!(last.ends_with("than stdout took them (nobody reads it)"), "{last}");
    output.log(b"after\n");
    assert_eq!(next_line(&mut reader), "after");
    assert!(output.flush(SOON));
}

#[test]
fn lines_that_come_together_are_taken_as_far_as_there_is_space_and_the_rest_is_counted() {
    let (output, mut reader) = piped();
    let mut logged = 0;
    while output.dropped() == 0 {
        let lines: String =
            (logged..logged + 1_000).map(|number| format!("{number} {}\n", "x".repeat(100))).collect();
        output.log_lines(lines.as_bytes());
        logged += 1_000;
    }
    assert!(output.dropped() < 1_000, "what fits of them is taken: {}", output.dropped());
    assert_eq!(read_all(&mut reader, logged).len(), 1);
}

#[test]
fn a_slow_reader_gets_whole_lines_in_order() {
    let (output, mut reader) = piped();
    let logged = log_until_dropped(&output, 0);
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < 10_000 {
        reader.get_mut().read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let mut reader = BufReader::new(bytes.chain(reader));
    assert!(!read_all(&mut reader, logged).is_empty());
}

#[test]
fn a_reader_that_is_gone_or_a_full_disk_harms_nobody() {
    let (output, reader) = piped();
    drop(reader);
    log_until_dropped(&output, 0);
    wait_until_hindered(&output, Hindrance::Refused(Errno::PIPE));
    assert!(!output.flush(MOMENT));

    let output = start(OpenOptions::new().write(true).open("/dev/full").unwrap());
    log_until_dropped(&output, 0);
    wait_until_hindered(&output, Hindrance::Refused(Errno::NOSPC));
    assert!(!output.flush(MOMENT));

    // Only for reading: no write can succeed.
    let output = start(File::open("/dev/null").unwrap());
    log_until_dropped(&output, 0);
    assert!(!output.flush(MOMENT));
}

/// Lines that a writer takes which gets no processor for a while.
#[test]
fn the_last_lines_are_waited_for_as_long_as_nothing_hinders_them() {
    let queue = Arc::new(queue::Queue::new("stdout"));
    queue.log(b"last\n", true);
    let late = Arc::clone(&queue);
    let writer = thread::spawn(move || {
        descriptor::pause(MOMENT * 6);
        late.wrote(queue::Source::Log, 5);
    });
    assert!(queue.flush(SOON, MOMENT), "nothing hinders the writer");
    writer.join().unwrap();

    queue.log(b"last\n", true);
    let hindered = Arc::clone(&queue);
    let writer = thread::spawn(move || hindered.hindered(Hindrance::Unread));
    assert!(!queue.flush(SOON * 100, MOMENT), "it is known to be unread");
    writer.join().unwrap();
}

#[test]
fn what_was_dropped_is_reported_to_the_next_reader_of_a_named_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    make_fifo(&path);
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let both = open(&path);
    let output = start(OpenOptions::new().write(true).open(&path).unwrap());
    drop(both);
    output.log(format!("0 {}\n", "x".repeat(100)).as_bytes());
    wait_until_hindered(&output, Hindrance::Refused(Errno::PIPE));
    let logged = log_until_dropped(&output, 1);
    let notices = read_all(&mut BufReader::new(open(&path)), logged);
    assert!(notices[0].contains("its reader has closed it"), "{notices:?}");
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[test]
fn a_descriptor_that_does_not_block_is_waited_for() {
    let (reader, writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let output = start(writer);
    let logged = log_until_dropped(&output, 0);
    assert!(!read_all(&mut BufReader::new(reader), logged).is_empty());
}

#[test]
fn a_file_gets_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let output = start(File::create(&path).unwrap());
    for number in 0..20_000 {
        output.log(format!("{number} {}\n", "x".repeat(100)).as_bytes());
        if number % 5_000 == 0 {
            assert!(output.flush(SOON));
        }
    }
    assert!(output.flush(SOON));
    assert_eq!(output.dropped(), 0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().enumerate().all(|(at, line)| line.starts_with(&format!("{at} "))));
    assert_eq!(text.lines().count(), 20_000);
}

fn numbered(numbers: std::ops::Range<u64>) -> Vec<u8> {
    numbers.flat_map(|number| format!("{number} {}\n", "s".repeat(100)).into_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn submitted_lines_are_never_dropped_and_acknowledged_once_they_are_written() {
    let (output, mut reader) = piped();
    let mut first = output.submit(numbered(0..2_000));
    let mut second = output.submit(numbered(2_000..2_001));
    permit_until_unread(&output, &mut first).await;
    let unwritten = first.written(MOMENT).await.unwrap_err();
    assert_eq!(unwritten.to_string(), "stdout takes no output: nobody reads it");
    second.written(MOMENT).await.unwrap_err();
    log_until_dropped(&output, 0);
    for receipt in [&first, &second] {
        output.0.permit(receipt.id(), Instant::now() + SOON);
    }

    let reading = thread::spawn(move || {
        let mut logged = 0;
        let mut submitted = Vec::new();
        while submitted.len() < 2_001 {
            let line = next_line(&mut reader);
            if line.ends_with('s') { submitted.push(line) } else { logged += 1 }
        }
        (logged, submitted, reader)
    });
    first.written(SOON).await.unwrap();
    first.written(MOMENT).await.unwrap();
    second.written(SOON).await.unwrap();
    let (logged, submitted, _reader) = reading.join().unwrap();
    assert!(submitted.iter().enumerate().all(|(at, line)| line.starts_with(&format!("{at} "))));
    assert!(logged < 1_000, "what somebody waits for is written first");
    output.submit(Vec::new()).written(MOMENT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn submitted_lines_that_are_withdrawn_or_no_longer_permitted_are_not_written() {
    let (output, mut reader) = piped();
    let mut withdrawn = output.submit(numbered(0..5_000));
    let mut waiting = output.submit(numbered(5_000..5_001));
    permit_until_unread(&output, &mut withdrawn).await;
    drop(withdrawn);
    // Its permission has ended as well: space in the pipe changes nothing.
    waiting.written(MOMENT).await.unwrap_err();
    descriptor::pause(MOMENT);
    output.log(b"logged\n");
    let mut lines = 0;
    while next_line(&mut reader) != "logged" {
        lines += 1;
    }
    // A pipe holds 64 KiB.
    assert!((300..700).contains(&lines), "{lines}");
    waiting.written(SOON).await.unwrap();
    assert!(next_line(&mut reader).starts_with("5000 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_longer_than_a_pipe_is_not_torn() {
    let (output, mut reader) = piped();
    let long = format!("{}\n", "l".repeat(300_000));
    let mut receipt = output.submit(long.clone().into_bytes());
    permit_until_unread(&output, &mut receipt).await;
    output.log(b"logged\n");
    // It has begun, so it is finished though nobody waits for it any more.
    drop(receipt);
    assert_eq!(format!("{}\n", next_line(&mut reader)), long);
    assert_eq!(next_line(&mut reader), "logged");
}

#[test]
fn a_short_text_is_written_within_a_limit() {
    let (reader, writer) = pipe().unwrap();
    write_within(writer.as_fd(), b"a line\n", SOON).unwrap();
    let large = vec![b'x'; 1024 * 1024];
    assert_eq!(write_within(writer.as_fd(), &large, MOMENT), Err(Hindrance::Unread));
    drop(reader);
    assert!(matches!(write_within(writer.as_fd(), b"x", SOON), Err(Hindrance::Refused(_))));
}
