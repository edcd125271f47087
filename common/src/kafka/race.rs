//! The first of several attempts that succeeds, started one after the other: neither an address that drops
//! what it gets nor one that accepts and never answers holds up the others (as RFC 8305 does it).

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an attempt runs alone before the next one starts. A broker that is well answers in less.
const STAGGER: Duration = Duration::from_millis(150);

/// Runs `attempt` for each candidate: the next one starts when [`STAGGER`] has passed, or at once when one
/// has failed. The others are cancelled when the first succeeds. `Err`: what each failed with.
pub(super) async fn race<C, T, E, F>(
    candidates: impl IntoIterator<Item = C>,
    attempt: impl Fn(C) -> F,
) -> Result<T, Vec<E>>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut waiting = candidates.into_iter();
    let mut running = JoinSet::new();
    let mut errors = Vec::new();
    let mut next = waiting.next();
    loop {
        if let Some(candidate) = next.take() {
            running.spawn(attempt(candidate));
        }
        tokio::select! {
            joined = running.join_next() => match joined {
                Some(Ok(Ok(won))) => return Ok(won),
                Some(Ok(Err(error))) => errors.push(error),
                // Nobody cancels them but this function, by returning.
                Some(Err(_)) => {}
                None => match waiting.next() {
                    Some(candidate) => { next = Some(candidate); continue }
                    None => return Err(errors),
                },
            },
            () = sleep(STAGGER) => {}
        }
        next = waiting.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn a_silent_or_failing_candidate_does_not_hold_up_the_next() {
        let won = race(["silent", "fails", "answers", "silent"], |name| async move {
            match name {
                "silent" => pending().await,
                "fails" => Err("refused"),
                name => Ok(name),
            }
        });
        assert_eq!(won.await, Ok("answers"));
    }

    #[tokio::test]
    async fn when_all_fail_each_says_why() {
        let attempt = |name: &'static str| async move { Err::<(), _>(name) };
        assert_eq!(race(["a", "b"], attempt).await, Err(vec!["a", "b"]));
        assert_eq!(race([], attempt).await, Err(vec![]));
    }
}
