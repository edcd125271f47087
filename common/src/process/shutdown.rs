//! One word that everything waits for: stop.
//!
//! The first SIGINT or SIGTERM asks for an orderly stop; a second one ends the process at once. The same signal
//! within a moment is the same wish: GNU timeout, for one, signals both the process and its group. SIGHUP asks
//! for a stop where the terminal was closed, unless under `nohup`; otherwise it is left to who listens for it
//! (the audit service rotates its log), and ends nobody.

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::logging;
use crate::terminal::Terminal;

/// The same signal within this time of the first is the same wish. A person needs longer for the second. What is
/// pending when the time ends came within it, as far as a process that had no processor can know.
const SAME_WISH: Duration = Duration::from_millis(500);
/// After a SIGHUP it is looked this often, at this distance, whether the terminal is gone.
const CLOSING_LOOKS: u32 = 5;
const CLOSING_LOOK: Duration = Duration::from_millis(40);
/// The exit code after a second signal: that of a shell's command that SIGINT ended.
const EXIT_AT_ONCE: i32 = 130;

/// Told to every task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks for the stop.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// A trigger and what it triggers.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks for an orderly stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when a stop is asked for, or when nobody is left who could ask.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// The future's output, or `None` if a stop comes first. The future is dropped then.
    pub async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            output = future => Some(output),
        }
    }

    /// The future's output, or `None` if a stop was asked for that long ago. The future is dropped then.
    pub async fn or_after<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let late = async {
            self.requested().await;
            sleep(limit).await;
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = late => None,
        }
    }
}

/// A [`Shutdown`] that SIGINT, SIGTERM and a closed terminal trigger. A second signal exits with 130.
pub fn on_signals() -> std::io::Result<Shutdown> {
    let terminal = Terminal::at_start();
    let hangup = (!terminal.hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    let mut signals = Signals { hangup, interrupt, terminate, terminal };
    let (trigger, shutdown) = channel();
    tokio::spawn(async move {
        let first = signals.next().await;
        logging::stop_begins();
        log::info!("{first}: stopping in order; a second signal stops at once");
        trigger.stop();
        let again = second(first, &mut signals).await;
        log::warn!("{again} again: stopping at once");
        logging::flush_briefly();
        std::process::exit(EXIT_AT_ONCE)
    });
    Ok(shutdown)
}

/// Where wishes to stop come from.
trait Wishes {
    /// The name of the next.
    fn next(&mut self) -> impl Future<Output = &'static str> + Send;
}

struct Signals {
    hangup: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
    terminal: Terminal,
}

impl Wishes for Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = closed(&mut self.hangup, self.terminal) => "terminal closed",
        }
    }
}

/// The next that is another wish than the first.
async fn second(first: &'static str, wishes: &mut impl Wishes) -> &'static str {
    let end = Instant::now() + SAME_WISH;
    loop {
        let mut next = pin!(wishes.next());
        tokio::select! {
            biased;
            again = &mut next => if again != first { return again },
            () = sleep_until(end) => return next.await,
        }
    }
}

/// Returns when the terminal was closed.
async fn closed(hangup: &mut Option<Signal>, terminal: Terminal) {
    let Some(hangup) = hangup else { return std::future::pending().await };
    loop {
        if hangup.recv().await.is_none() {
            return std::future::pending().await;
        }
        // The signal may come a moment before the terminal is gone.
        for _ in 0..CLOSING_LOOKS {
            if terminal.is_closed() {
                return;
            }
            tokio::time::sleep(CLOSING_LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    impl Wishes for UnboundedReceiver<&'static str> {
        async fn next(&mut self) -> &'static str {
            self.recv().await.unwrap()
        }
    }

    /// What is sent after the first signal: when, and what. Returns how long it takes until
    /// the process ends at once.
    async fn ends_after(signals: &[(u64, &'static str)], stalled_ms: u64) -> (u64, &'static str) {
        let (sender, mut receiver) = unbounded_channel();
        let start = Instant::now();
        for (after_ms, name) in signals.iter().copied() {
            let sender = sender.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(after_ms)).await;
                sender.send(name).unwrap();
            });
        }
        let mut second = pin!(second("SIGTERM", &mut receiver));
        // It has seen the first, and then gets no processor.
        let begun = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
        assert!(begun.is_pending());
        sleep(Duration::from_millis(stalled_ms)).await;
        let again = second.await;
        (u64::try_from(start.elapsed().as_millis()).unwrap(), again)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_signal_within_a_moment_is_the_same_wish_also_where_it_is_read_late() {
        let (same, other) = ("SIGTERM", "SIGINT");
        assert_eq!(ends_after(&[(1, same), (2_000, same)], 0).await, (2_000, same));
        assert_eq!(
            ends_after(&[(1, same), (100, same), (2_000, same)], 1_500).await,
            (2_000, same),
            "stalled"
        );
        assert_eq!(ends_after(&[(1, same), (2, other)], 0).await, (2, other));
        assert_eq!(ends_after(&[(600, same)], 0).await, (600, same));
    }
}
