//! Runs that are read into one.
//!
//! Runs of one bucket are kept so that each holds more ids than all newer ones together (O'Neil and others,
//! "The Log-Structured Merge-Tree", 1996, with a run for each doubling). So their number, and with it the cost
//! of a look-up, grows with the logarithm of the number of ids; each id is written once more for each
//! doubling, and half of all ids and more are in one run.

use super::Failure;
use super::manifest::Listed;
use super::page::Entry;
use super::run::{Entries, Run};

/// Fewer runs than this are left as they are.
const MIN_INPUTS: usize = 4;
/// Runs that are read at once; bounds the memory of a merge, at 150 KB for each.
const MAX_INPUTS: usize = 16;
/// A bucket that is over is made one run if what is not in the first is this part of it.
const LEFT_OVER: u64 = 8;

/// The numbers of runs that should be merged now, the oldest first.
pub(super) fn due(runs: &[Listed], now: u64) -> Option<Vec<u64>> {
    let mut buckets: Vec<u64> = runs.iter().map(|run| run.until).collect();
    buckets.sort_unstable();
    buckets.dedup();
    let bucket = |until: &u64| runs.iter().filter(|run| run.until == *until).collect::<Vec<_>>();
    buckets.iter().find_map(|until| due_in(&bucket(until), *until <= now))
}

fn due_in(runs: &[&Listed], is_over: bool) -> Option<Vec<u64>> {
    let all: u64 = runs.iter().map(|run| run.ids).sum();
    let mut newer = all;
    let first = runs.iter().position(|run| {
        newer -= run.ids;
        newer >= run.ids && newer > 0
    });
    let is_due = |first: &usize| runs.len() - first >= MIN_INPUTS;
    let left_over = |run: &&Listed| (all - run.ids) * LEFT_OVER >= run.ids && runs.len() > 1;
    let first = match first.filter(is_due) {
        None if is_over && runs.first().is_some_and(left_over) => 0,
        first => first?,
    };
    let first = first.max(runs.len().saturating_sub(MAX_INPUTS));
    Some(runs.get(first..)?.iter().map(|run| run.number).collect())
}

/// The entries of several runs as one. Of entries of the same id, the newest run's counts.
#[derive(Debug)]
pub(super) struct Merge<'a>(Vec<(Entries<'a>, Option<Entry>)>);

impl<'a> Merge<'a> {
    /// Of runs, the oldest first.
    pub(super) fn of(runs: impl Iterator<Item = &'a Run>) -> Result<Self, Failure> {
        let heads = runs.map(|run| {
            let mut entries = run.entries();
            let head = entries.next()?;
            Ok((entries, head))
        });
        Ok(Self(heads.collect::<Result<_, Failure>>()?))
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut least: Option<Entry> = None;
        for (_, head) in &self.0 {
            if let Some(entry) = head
                && least.is_none_or(|least| entry.0 <= least.0)
            {
                least = Some(*entry);
            }
        }
        let Some((key, _)) = least else { return Ok(None) };
        for (entries, head) in &mut self.0 {
            if head.is_some_and(|head| head.0 == key) {
                *head = entries.next()?;
            }
        }
        Ok(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_few_and_each_id_is_written_seldom_however_many_there_are() {
        let (mut runs, mut number, mut written) = (Vec::<Listed>::new(), 0, 0);
        for frozen in 1..=4_096_u64 {
            number += 1;
            runs.push(Listed { number, ids: 1, until: 9 });
            while let Some(inputs) = due(&runs, 0) {
                let ids = runs.iter().filter(|run| inputs.contains(&run.number)).map(|run| run.ids).sum();
                let first = runs.iter().position(|run| inputs.contains(&run.number)).unwrap();
                runs.truncate(first);
                number += 1;
                written += ids;
                runs.push(Listed { number, ids, until: 9 });
            }
            let bound = frozen.ilog2() as usize + MIN_INPUTS;
            assert!(runs.len() <= bound, "{} runs after {frozen}", runs.len());
        }
        assert!(written <= 4_096 * 12, "{written}");
    }

    #[test]
    fn a_bucket_that_is_over_is_one_run_and_no_two_buckets_are_mixed() {
        let runs = |ids: &[(u64, u64)]| -> Vec<Listed> {
            let numbered = ids.iter().zip(1..);
            numbered.map(|((ids, until), number)| Listed { number, ids: *ids, until: *until }).collect()
        };
        let mixed = runs(&[(8, 10), (2, 10), (1, 20), (1, 20)]);
        assert_eq!(due(&mixed, 9), None);
        assert_eq!(due(&mixed, 10), Some(vec![1, 2]));
        assert_eq!(due(&runs(&[(800, 10), (2, 10)]), 10), None, "not for so little");
    }
}
