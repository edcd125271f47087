//! Windows: what goes into a request, and what is in doubt.

use task_events::event::{TaskData, TaskEvent};

use crate::event_format::Encoding;
use crate::relay::pace::{FULL_REQUEST_BYTES, MAX_LINGER};

use super::*;

fn entry(seq: u64, bytes: usize) -> Arc<OutboxEntry> {
    let data =
        TaskData { task_id: Uuid::nil(), title: String::new(), status: "pending".to_owned(), owner_id: None };
    let event = TaskEvent::task_created(data, Uuid::nil());
    Arc::new(OutboxEntry {
        seq,
        event,
        payload: vec![b' '; bytes],
        encoding: Encoding::Json,
        traceparent: None,
    })
}

fn window(capacity: usize, sizes: &[usize]) -> Window {
    let window = Window::new(capacity, false, Arc::default());
    for (seq, bytes) in (1..).zip(sizes) {
        window.push(entry(seq, *bytes));
    }
    window
}

fn seqs(request: &[Arc<OutboxEntry>]) -> Vec<u64> {
    request.iter().map(|entry| entry.seq).collect()
}

#[test]
fn a_request_is_bounded_in_bytes_and_never_empty() {
    let large = REQUEST_BYTES / 2 - RECORD_OVERHEAD;
    assert_eq!(seqs(&window(9, &[large, large, 1]).begin_request(REQUEST_BYTES)), [1, 2]);
    assert_eq!(seqs(&window(9, &[REQUEST_BYTES * 3, 1]).begin_request(REQUEST_BYTES)), [1]);
    assert_eq!(seqs(&window(9, &[1, 1, 1]).begin_request(1)), [1]);
    assert!(window(9, &[]).begin_request(REQUEST_BYTES).is_empty());
}

#[test]
fn what_is_sent_is_in_doubt_until_its_fate_is_known() {
    let window = window(9, &[1, 1]);
    window.hold(true);
    assert!(window.begin_request(1).is_empty() && !window.in_doubt(), "nothing is sent while it is held");
    window.hold(false);
    assert_eq!(seqs(&window.begin_request(1)), [1]);
    assert!(window.in_doubt() && window.is_in_flight());
    window.end_request();
    assert!(window.in_doubt() && !window.is_in_flight(), "it may have landed, and lands no more");
    window.remove(&[1]);
    window.clear_doubt();
    assert!(!window.in_doubt());
    assert_eq!(seqs(&window.begin_request(1)), [2]);
}

#[test]
fn what_is_acknowledged_is_not_sent_again_unless_its_removal_fails() {
    let window = window(9, &[1, 1, 1]);
    let request = window.begin_request(2 * (1 + RECORD_OVERHEAD));
    window.acknowledge(&request);
    assert!(!window.in_doubt() && window.is_busy(), "it has not left the outbox yet");
    assert_eq!(seqs(&window.begin_request(REQUEST_BYTES)), [3], "the next request does not wait for that");
    window.remove_acknowledged(2);
    assert_eq!(window.waiting().0, 1);
    assert_eq!(seqs(&window.begin_request(REQUEST_BYTES)), [3]);

    window.acknowledge(&window.begin_request(REQUEST_BYTES));
    window.doubt_acknowledged();
    assert!(window.in_doubt(), "it has to be looked for");
    assert_eq!(window.inner().bytes, 1 + RECORD_OVERHEAD);
    window.remove(&[3]);
    window.clear_doubt();
    assert!(!window.is_busy() && window.inner().bytes == 0);
}

/// What is sent when events come so far apart and each request takes 1 ms: when each event was sent, and
/// after what time.
async fn requests(events: u64, apart: Duration, bytes: usize) -> Vec<(usize, Duration)> {
    let window = Arc::new(Window::new(100_000, false, Arc::default()));
    let started = Instant::now();
    let filling = Arc::clone(&window);
    tokio::spawn(async move {
        for seq in 1..=events {
            filling.push(entry(seq, bytes));
            tokio::time::sleep_until(started + apart * u32::try_from(seq).unwrap()).await;
        }
    });
    let (mut requests, mut pace, mut sent) = (Vec::new(), Pace::default(), 0);
    while sent < events {
        window.due(&pace, FULL_REQUEST_BYTES).await;
        let request = window.begin_request(REQUEST_BYTES);
        pace.begin(request.len());
        sent += request.len() as u64;
        requests.push((request.len(), started.elapsed()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        window.acknowledge(&request);
        window.remove_acknowledged(request.len());
    }
    requests
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_alone_is_sent_at_once() {
    let apart = Duration::from_millis(5);
    for (number, (events, at)) in (0..).zip(requests(200, apart, 300).await) {
        assert_eq!((events, at), (1, apart * number), "at 200 a second none waits");
    }
}

#[tokio::test(start_paused = true)]
async fn under_load_requests_are_few_or_full() {
    let second = Duration::from_secs(1);
    for rate in [1_000, 2_000, 5_000, 50_000] {
        let requests = requests(u64::from(rate), second / rate, 300).await;
        let (first, last) = (requests[0], requests[requests.len() - 1]);
        assert_eq!(first, (1, Duration::ZERO), "the first is not held up");
        assert!(last.1 <= second + MAX_LINGER * 2);
        // One each 10 ms, or one for each 256 KiB.
        let full = rate as usize * (300 + RECORD_OVERHEAD) / FULL_REQUEST_BYTES;
        assert!(requests.len() <= 110 + full, "{} requests at {rate} a second", requests.len());
        assert!(requests.iter().all(|(events, _)| events * (300 + RECORD_OVERHEAD) <= REQUEST_BYTES));
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_sent_without_a_pause() {
    let requests = requests(10_000, Duration::ZERO, 300).await;
    let full = &requests[1..requests.len() - 1];
    assert!(full.iter().all(|(events, _)| events * (300 + RECORD_OVERHEAD) > REQUEST_BYTES / 2), "{full:?}");
    assert!(requests[requests.len() - 1].1 <= Duration::from_millis(2) * requests.len() as u32 + MAX_LINGER);
}

#[test]
fn it_is_loaded_to_the_brim_and_then_refilled_in_large_parts() {
    let window = window(4, &[1, 1, 1]);
    assert_eq!(window.free(), 1, "what was sent before has to be in it");
    window.set_loaded(false);
    assert_eq!(window.free(), 1, "it is not full yet");
    window.push(entry(4, 1));
    window.set_loaded(false);
    window.remove(&[1]);
    assert_eq!(window.free(), 0);
    window.remove(&[2]);
    assert_eq!(window.free(), 2);
}
