//! One word that everything waits for: stop.
//!
//! The first SIGINT or SIGTERM asks for an orderly stop; a second one ends the process at once. The same signal
//! within a moment is the same wish: GNU timeout, for one, signals both the process and its group. SIGHUP asks
//! for a stop where the terminal was closed, unless under `nohup`; otherwise it is left to who listens for it
//! (the audit service rotates its log), and ends nobody.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::logging;
use crate::terminal::Terminal;

/// The same signal within this time of the first is the same wish. A person needs longer for the second.
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
    let mut hangup = (!terminal.hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (trigger, shutdown) = channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = closed(&mut hangup, terminal) => "terminal closed",
            }
        };
        let first = next().await;
        let first_at = Instant::now();
        log::info!("{first}: stopping in order; a second signal stops at once");
        trigger.stop();
        let mut again = next().await;
        while again == first && first_at.elapsed() < SAME_WISH {
            again = next().await;
        }
        log::warn!("{again} again: stopping at once");
        logging::flush();
        std::process::exit(EXIT_AT_ONCE)
    });
    Ok(shutdown)
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
