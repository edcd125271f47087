//! The terminal that a process was started in, if it was in one: closed, it asks for a stop by SIGHUP, the signal
//! by which an operator asks for other things.

use std::fs;

/// The signal's bit in the masks of /proc/self/status.
const SIGHUP_BIT: u64 = 1;

/// What was there at the start.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    was_there: bool,
    hangup_is_ignored: bool,
}

impl Terminal {
    /// To be called before signals are listened for.
    pub fn at_start() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { was_there: is_there(), hangup_is_ignored: ignores_hangup(&status) }
    }

    /// Whether it was closed since. Under `nohup` that means nothing.
    pub fn is_closed(self) -> bool {
        self.was_there && !self.hangup_is_ignored && !is_there()
    }

    /// Whether SIGHUP was to be ignored, as by `nohup`.
    pub fn hangup_is_ignored(self) -> bool {
        self.hangup_is_ignored
    }
}

/// Whether this process has a controlling terminal.
fn is_there() -> bool {
    fs::File::open("/dev/tty").is_ok()
}

fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & SIGHUP_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_shows_in_the_mask_of_ignored_signals() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
