//! What waits to be written: log lines in a bounded buffer, submitted lines until they are written or
//! withdrawn.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::descriptor::Hindrance;
use super::lines::whole_lines;

/// Log lines that may wait, in bytes: what a service logs in the moments in which a busy machine does not run
/// their reader, and little enough to lose and to hold.
const MAX_LOG: usize = 1024 * 1024;
/// How long a line that comes with each request or event waits for more: many lines at once cost little more than
/// one, and at 200 requests/s a writer that wakes for each line costs a quarter of the service's processor time.
const LINGER: Duration = Duration::from_millis(50);
/// Log lines that wait no longer, in bytes.
const FULL: usize = 16 * 1024;
/// The writer does not wait: it looks at its own times.
const AWAKE: usize = usize::MAX;

/// What waits, and for whom.
#[derive(Debug)]
pub(super) struct Queue {
    name: &'static str,
    state: Mutex<State>,
    /// There is work for the writer.
    work: Condvar,
    /// All log lines are written, or something hinders that.
    drained: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    log: Vec<u8>,
    /// Bytes of log lines that are not yet written, those that the writer has taken included.
    unwritten: usize,
    /// One of the lines waits for no others.
    urgent: bool,
    gap: Option<Gap>,
    submitted: VecDeque<Submitted>,
    next_id: u64,
    /// The writer waits, and is to be woken by more log lines than these bytes.
    wake_above: usize,
    /// Somebody waits for the log lines to be written.
    flushing: bool,
    /// What hindered the last write, if it was hindered.
    hindrance: Option<Hindrance>,
}

/// Lines that are being dropped, behind those in the queue.
#[derive(Debug)]
struct Gap {
    since: Instant,
    lines: u64,
    why: Option<Hindrance>,
}

#[derive(Debug)]
struct Submitted {
    id: u64,
    lines: Vec<u8>,
    /// What is written of them.
    at: usize,
    /// They may be written until then.
    permitted_until: Instant,
    done: watch::Sender<bool>,
}

/// Where a piece comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Log,
    Submitted(u64),
}

/// Log lines that were dropped. As text: what the line says that is written in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub lines: u64,
    /// For how long.
    pub lasted: Duration,
    /// The descriptor.
    pub name: &'static str,
    /// What hindered the writer, if it was not just slow.
    pub why: Option<Hindrance>,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, lasted, name, why } = self;
        let seconds = lasted.as_secs_f64();
        write!(f, "{lines} log lines dropped: for {seconds:.1} s they came faster than {name} took them")?;
        why.map_or(Ok(()), |why| write!(f, " ({why})"))
    }
}

/// Submitted lines are not written yet. They stay submitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unwritten {
    name: &'static str,
    lasted: Duration,
    why: Option<Hindrance>,
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, lasted, why } = self;
        match why {
            Some(why) => write!(f, "{name} takes no output: {why}"),
            None => write!(f, "{name} has not taken all output within {:.1} s", lasted.as_secs_f64()),
        }
    }
}

/// Submitted lines. Dropped, it withdraws those of them whose writing has not begun.
#[derive(Debug)]
pub struct Receipt {
    queue: Arc<Queue>,
    id: u64,
    submitted_at: Instant,
    done: watch::Receiver<bool>,
}

impl Receipt {
    /// Permits the lines to be written for as long as the limit, and returns once they are. After an error
    /// they stay where they are until the next call: a process that was stopped meanwhile, and may have lost
    /// the right to write them, writes no more of them.
    pub async fn written(&mut self, limit: Duration) -> Result<(), Unwritten> {
        self.queue.permit(self.id, Instant::now() + limit);
        match timeout(limit, self.done.wait_for(|done| *done)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unwritten {
                name: self.queue.name,
                lasted: self.submitted_at.elapsed(),
                why: self.queue.state().hindrance,
            }),
        }
    }
}

#[cfg(test)]
impl Receipt {
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.queue.state().submitted.retain(|submitted| submitted.id != self.id);
    }
}

impl Queue {
    pub(super) fn new(name: &'static str) -> Self {
        let state = State {
            log: Vec::new(),
            unwritten: 0,
            urgent: false,
            gap: None,
            submitted: VecDeque::new(),
            next_id: 0,
            wake_above: AWAKE,
            flushing: false,
            hindrance: None,
        };
        Self {
            name,
            state: Mutex::new(state),
            work: Condvar::new(),
            drained: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes lines, as many as there is space for. `urgent`: they, and all before them, wait for no others.
    pub(super) fn log(&self, lines: &[u8], urgent: bool) {
        let mut state = self.state();
        let space = MAX_LOG.saturating_sub(state.unwritten);
        let taken = match (&state.gap, state.unwritten) {
            // Even where a line would fit again: the gap is in one place.
            (Some(_), _) => &[],
            _ if lines.len() <= space => lines,
            // One line is taken whatever its length.
            (None, 0) => whole_lines(lines, space),
            (None, _) => lines.get(..space).map_or(&[][..], up_to_a_lines_end),
        };
        state.log.extend_from_slice(taken);
        state.unwritten += taken.len();
        let dropped = lines.get(taken.len()..).unwrap_or_default();
        if !dropped.is_empty() {
            let (why, count) = (state.hindrance, line_ends(dropped));
            state.gap.get_or_insert_with(|| Gap { since: Instant::now(), lines: 0, why }).lines += count;
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
        state.urgent |= urgent;
        let wakes = state.log.len() > state.wake_above || (urgent && state.wake_above != AWAKE);
        if wakes && !taken.is_empty() {
            state.wake_above = AWAKE;
            drop(state);
            self.work.notify_one();
        }
    }

    pub(super) fn submit(queue: &Arc<Self>, lines: Vec<u8>) -> Receipt {
        let (sender, done) = watch::channel(lines.is_empty());
        let submitted_at = Instant::now();
        let mut state = queue.state();
        let id = state.next_id;
        state.next_id += 1;
        if !lines.is_empty() {
            let (permitted_until, done) = (submitted_at, sender);
            state.submitted.push_back(Submitted { id, lines, at: 0, permitted_until, done });
        }
        Receipt { queue: Arc::clone(queue), id, submitted_at, done }
    }

    pub(super) fn permit(&self, id: u64, until: Instant) {
        let mut state = self.state();
        if let Some(submitted) = state.submitted.iter_mut().find(|submitted| submitted.id == id) {
            submitted.permitted_until = until;
        }
        self.work.notify_one();
    }

    /// Waits until all log lines are written, while nothing hinders that no longer than the first limit, and while
    /// something does no longer than the second.
    pub(super) fn flush(&self, limit: Duration, hindered_limit: Duration) -> bool {
        let start = Instant::now();
        let mut state = self.state();
        while !state.is_drained() {
            let limit = if state.hindrance.is_some() { hindered_limit } else { limit };
            let left = (start + limit).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state.flushing = true;
            self.work.notify_one();
            state = self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn hindrance(&self) -> Option<Hindrance> {
        self.state().hindrance
    }

    // What the writer calls.

    /// Returns when there is something to write. `has_rest`: the writer itself has.
    pub(super) fn wait_for_work(&self, has_rest: bool) {
        let mut state = self.state();
        while !has_rest && !state.has_work() {
            state.wake_above = 0;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !has_rest && state.lingers() {
            state.wake_above = FULL;
            state = self.work.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wake_above = AWAKE;
    }

    /// Some of the submitted lines that may be written now, if there are any.
    pub(super) fn next_submitted(&self, limit: usize, piece: &mut Vec<u8>) -> Option<u64> {
        let mut state = self.state();
        let submitted = state.next_permitted()?;
        piece.clear();
        piece.extend_from_slice(whole_lines(submitted.rest(), limit));
        Some(submitted.id)
    }

    /// Moves the log lines that wait into the empty buffer, and behind them the line that tells of those that
    /// were dropped.
    pub(super) fn take_log(&self, batch: &mut Vec<u8>, notice: impl Fn(&Dropped) -> String) {
        let mut state = self.state();
        std::mem::swap(&mut state.log, batch);
        state.urgent = false;
        if let Some(Gap { since, lines, why }) = state.gap.take() {
            let line = notice(&Dropped { lines, lasted: since.elapsed(), name: self.name, why });
            batch.extend_from_slice(line.as_bytes());
            state.unwritten += line.len();
        }
    }

    /// A piece of this length is written.
    pub(super) fn wrote(&self, source: Source, length: usize) {
        let mut state = self.state();
        match source {
            Source::Log => {
                state.unwritten = state.unwritten.saturating_sub(length);
                if state.is_drained() {
                    state.flushing = false;
                    self.drained.notify_all();
                }
            }
            Source::Submitted(id) => state.submitted_is_written(id, length),
        }
    }

    pub(super) fn progressed(&self) {
        self.state().hindrance = None;
    }

    pub(super) fn hindered(&self, hindrance: Hindrance) {
        let mut state = self.state();
        state.hindrance = Some(hindrance);
        if let Some(gap) = &mut state.gap {
            gap.why = Some(hindrance);
        }
        self.drained.notify_all();
    }
}

/// The whole lines at the start of the bytes.
fn up_to_a_lines_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    end.and_then(|end| bytes.get(..=end)).unwrap_or_default()
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl State {
    fn is_drained(&self) -> bool {
        self.unwritten == 0 && self.gap.is_none()
    }

    fn has_work(&mut self) -> bool {
        !self.log.is_empty() || self.gap.is_some() || self.next_permitted().is_some()
    }

    /// Nothing of what waits is in a hurry.
    fn lingers(&mut self) -> bool {
        let at_once = self.urgent || self.flushing || self.log.len() > FULL;
        !at_once && self.next_permitted().is_none()
    }

    fn next_permitted(&mut self) -> Option<&mut Submitted> {
        let now = Instant::now();
        self.submitted.iter_mut().find(|submitted| now < submitted.permitted_until)
    }

    fn submitted_is_written(&mut self, id: u64, length: usize) {
        let Some(index) = self.submitted.iter().position(|submitted| submitted.id == id) else { return };
        let Some(submitted) = self.submitted.get_mut(index) else { return };
        submitted.at += length;
        if submitted.rest().is_empty()
            && let Some(submitted) = self.submitted.remove(index)
        {
            submitted.done.send_replace(true);
        }
    }
}

impl Submitted {
    fn rest(&self) -> &[u8] {
        self.lines.get(self.at..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_each_event_waits_for_more_unless_another_line_comes() {
        let queue = Queue::new("stdout");
        queue.log(b"event\n", false);
        assert!(queue.state().lingers());
        queue.log(b"warning\n", true);
        queue.log(b"event\n", false);
        assert!(!queue.state().lingers());
        let mut batch = Vec::new();
        queue.take_log(&mut batch, Dropped::to_string);
        assert_eq!(batch, b"event\nwarning\nevent\n");
        queue.log(b"event\n", false);
        assert!(queue.state().lingers());
        queue.log(&vec![b'\n'; FULL], false);
        assert!(!queue.state().lingers());
    }
}
