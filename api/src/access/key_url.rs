//! The keys that an issuer publishes at a URL, fetched by a thread of its own.
//!
//! # Invariants
//!
//! 1. *What was good stays for [`Times::max_age`]*: a set that cannot be fetched or read is reported, once while that
//!    lasts, and changes nothing until then. So a key that was withdrawn ends, also where nobody can be told.
//! 2. *What the issuer says counts*: a set without a usable key leaves none.
//! 3. *Bounded*: a fetch in time and bytes; for tokens that name a key that is not known, at most one in
//!    [`Times::learn`], whoever sends how many of them.
//! 4. *A request waits only where it may help*: its token names a key that is not known, a fetch is under way or begins
//!    before long, and no longer than [`LEARN_TIMEOUT`] for the begin and as long for the end. Were it one limit for
//!    both, who asks again and again would always come as much too early as a fetch takes.
//! 5. *No good token is said to be wrong*: a key is unknown for certain only by a set that was asked for after the token
//!    came.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use std::{fmt, io, thread};

use task_events::backoff::Backoff;
use task_events::http_client::{self, Url};
use task_events::log_once::LogOnce;
use task_events::tls::Tls;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::jwt::{Keys, NO_KEY};

/// Time for which a request that names such a key waits for a fetch to begin, and then for its end.
const LEARN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a fetch, from the name's resolution to the end of the answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest set, in bytes: some hundred keys.
const MAX_SET: usize = 256 * 1024;

/// When there is a fetch.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Between two: as long a key that was withdrawn may still be taken, while the URL answers.
    interval: Duration,
    /// For how long a set counts that cannot be fetched again.
    max_age: Duration,
    /// Least time between the starts of two because of keys that are not known.
    learn: Duration,
    /// After one that failed: the first time, and the longest.
    retry: (Duration, Duration),
}

const TIMES: Times = Times {
    interval: Duration::from_secs(5 * 60),
    // An outage of the issuer's over a night is no outage of the API.
    max_age: Duration::from_secs(24 * 60 * 60),
    learn: Duration::from_secs(10),
    retry: (Duration::from_secs(1), Duration::from_secs(30)),
};

/// The keys of a URL. Cheap to clone.
#[derive(Clone)]
pub(super) struct KeyUrl {
    shared: Arc<Shared>,
    /// Asks for a fetch. The thread ends when nobody can any more.
    wanted: mpsc::Sender<()>,
    fetches: watch::Receiver<Fetches>,
    max_age: Duration,
}

struct Shared {
    /// None: there was no good set yet, or the last one has no key.
    current: RwLock<Option<Arc<Keys>>>,
    /// When a good set was last fetched; at first, the start.
    fetched_at: Mutex<Instant>,
    failure: Mutex<Option<String>>,
}

/// What the thread does.
#[derive(Debug, Clone, Copy)]
struct Fetches {
    ended: u64,
    /// Whether the last one brought a set.
    is_current: bool,
    is_under_way: bool,
    /// From when on a key that is not known may begin one.
    learns_from: Instant,
}

impl fmt::Debug for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

impl KeyUrl {
    /// Begins to fetch. It goes on for as long as somebody has this.
    pub(super) fn open(url: Url, tls: Option<Tls>) -> io::Result<Self> {
        Self::fetching(url, tls, TIMES)
    }

    fn fetching(url: Url, tls: Option<Tls>, times: Times) -> io::Result<Self> {
        let (wanted, asked) = mpsc::channel(1);
        let now = Instant::now();
        let fetches = Fetches { ended: 0, is_current: false, is_under_way: true, learns_from: now };
        let (state, fetches) = watch::channel(fetches);
        let shared = Arc::new(Shared {
            current: RwLock::default(),
            fetched_at: Mutex::new(now),
            failure: Mutex::default(),
        });
        let fetcher =
            Fetcher { url, tls, times, shared: Arc::clone(&shared), state, asked, text: String::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("jwks".to_owned());
        thread.spawn(move || runtime.block_on(fetcher.run()))?;
        Ok(Self { shared, wanted, fetches, max_age: times.max_age })
    }

    /// The keys that were last fetched with success, unless that is too long ago.
    pub(super) fn current(&self) -> Option<Arc<Keys>> {
        if self.age() > self.max_age {
            return None;
        }
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since when no good set was fetched; at first, since the start.
    pub(super) fn age(&self) -> Duration {
        self.shared.fetched_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// That what is at the URL cannot be used, if so. Why is for the log alone.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|_| match self.current() {
            Some(_) => "API_JWKS_URL cannot be used; its keys of before still count; see the log".to_owned(),
            None => "API_JWKS_URL cannot be used, and no JWT is taken until it can; see the log".to_owned(),
        })
    }

    /// Waits for keys that are not known yet. True: the keys are now those of a fetch that began after this, so that
    /// one they do not have does not exist.
    pub(super) async fn learn(&self) -> bool {
        let mut fetches = self.fetches.clone();
        let now = *fetches.borrow_and_update();
        // One that waits already is enough.
        let _ = self.wanted.try_send(());
        let came = Instant::now();
        if !now.is_under_way && came + LEARN_TIMEOUT < now.learns_from {
            return false;
        }
        let begin = if now.is_under_way { came } else { came.max(now.learns_from) };
        let has_ended = |fetches: &Fetches| fetches.ended > now.ended;
        match timeout_at(begin + LEARN_TIMEOUT, fetches.wait_for(has_ended)).await {
            // One under way may have read what was before.
            Ok(Ok(fetches)) => fetches.is_current && !now.is_under_way,
            _ => false,
        }
    }
}

struct Fetcher {
    url: Url,
    tls: Option<Tls>,
    times: Times,
    shared: Arc<Shared>,
    state: watch::Sender<Fetches>,
    asked: mpsc::Receiver<()>,
    /// The set that counts.
    text: String,
}

impl Fetcher {
    async fn run(mut self) {
        let mut log = LogOnce::new(module_path!());
        let Times { interval, learn, retry, .. } = self.times;
        let new_backoff = || Backoff::new(retry.0, retry.1);
        let mut backoff = new_backoff();
        loop {
            let start = Instant::now();
            self.state.send_modify(|fetches| fetches.is_under_way = true);
            let fetched = match timeout(FETCH_TIMEOUT, fetch(&self.url, self.tls.as_ref())).await {
                Ok(fetched) => fetched,
                Err(_) => Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
            };
            let taken = fetched.and_then(|text| self.take(text));
            let is_current = taken.is_ok();
            let next = match taken {
                Ok(()) => {
                    log.over("the keys of API_JWKS_URL can be fetched again");
                    backoff = new_backoff();
                    interval
                }
                Err(why) => {
                    self.fail(&why, &mut log);
                    backoff.next_delay()
                }
            };
            let learns_from = start + learn;
            self.state.send_modify(|fetches| {
                *fetches = Fetches { ended: fetches.ended + 1, is_current, is_under_way: false, learns_from };
            });
            let due = Instant::now() + next;
            tokio::select! {
                () = sleep_until(due) => {}
                asked = self.asked.recv() => match asked {
                    Some(()) => sleep_until(due.min(learns_from)).await,
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, text: String) -> Result<(), String> {
        if text != self.text {
            let keys = Keys::published(&text)?;
            let is_none = keys.is_none();
            if let Some(keys) = &keys {
                log::info!("API_JWKS_URL: {keys}");
            }
            *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = keys.map(Arc::new);
            if is_none {
                self.text.clear();
                return Err(NO_KEY.to_owned());
            }
            self.text = text;
        }
        *self.shared.fetched_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn fail(&self, why: &str, log: &mut LogOnce) {
        let has_keys = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let age = self.shared.fetched_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let meanwhile = match has_keys && age <= self.times.max_age {
            true => "its keys of before still count, for a day at most",
            false => "no JWT is taken until then",
        };
        log.warn(&format!("API_JWKS_URL cannot be used: {why}; {meanwhile}, and it is tried again"));
        *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }
}

/// The text of the set.
async fn fetch(url: &Url, tls: Option<&Tls>) -> Result<String, String> {
    let answer = http_client::get(url, "application/jwk-set+json, application/json", tls, MAX_SET).await?;
    match answer.status().as_u16() {
        200 => String::from_utf8(answer.into_body().into()).map_err(|_| "it is no JWK set".to_owned()),
        status @ 300..=399 => {
            Err(format!("it answered {status}; redirects are not followed: name the place itself"))
        }
        status => Err(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests;
