//! Runs that are read into one.
//!
//! Runs of one bucket are kept so that each holds more ids than all smaller ones together (O'Neil and others,
//! "The Log-Structured Merge-Tree", 1996, with a run for each doubling). So their number, and with it the cost
//! of a look-up, grows with the logarithm of the number of ids; each id is written once more for each
//! doubling, and half of all ids and more are in one run.
//!
//! Runs of several pieces and those of one are counted apart. A run to which sorted ids are appended is so not
//! written again for the few ids that came late; nor is one that sorted ids made before it, until there are
//! [`MIN_INPUTS`] of them, which something must have kept from being one.
//!
//! Of an id that is in several runs the highest number counts: it was recorded last.

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

/// The numbers of runs that should be merged now, the largest first.
pub(super) fn due(runs: &[Listed], now: u64) -> Option<Vec<u64>> {
    let mut buckets: Vec<u64> = runs.iter().map(|run| run.until).collect();
    buckets.sort_unstable();
    buckets.dedup();
    let bucket = |until: &u64| runs.iter().filter(|run| run.until == *until).collect::<Vec<_>>();
    buckets.iter().find_map(|until| due_in(&bucket(until), *until <= now))
}

fn due_in(runs: &[&Listed], is_over: bool) -> Option<Vec<u64>> {
    let of_pieces = |has_several: bool| {
        let runs = runs.iter().filter(|run| (run.pieces.len() > 1) == has_several);
        by_size(runs.map(|run| (run.number, run.ids())).collect())
    };
    let due = crowded(&of_pieces(false)).or_else(|| crowded(&of_pieces(true)));
    due.or_else(|| {
        let runs = by_size(runs.iter().map(|run| (run.number, run.ids())).collect());
        let ((_, first), others) = runs.split_first()?;
        let rest: u64 = others.iter().map(|(_, ids)| ids).sum();
        (is_over && rest > 0 && rest * LEFT_OVER >= *first).then(|| smallest(&runs))
    })
}

fn by_size(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    // Stable: of the same size, the oldest first.
    runs.sort_by_key(|(_, ids)| std::cmp::Reverse(*ids));
    runs
}

/// Those that are no more than a doubling of each other; numbers and ids, the largest first.
fn crowded(runs: &[(u64, u64)]) -> Option<Vec<u64>> {
    let mut smaller: u64 = runs.iter().map(|(_, ids)| ids).sum();
    let first = runs.iter().position(|(_, ids)| {
        smaller -= ids;
        smaller >= *ids && smaller > 0
    })?;
    (runs.len() - first >= MIN_INPUTS).then(|| smallest(runs.get(first..).unwrap_or_default()))
}

fn smallest(runs: &[(u64, u64)]) -> Vec<u64> {
    let runs = runs.get(runs.len().saturating_sub(MAX_INPUTS)..).unwrap_or_default();
    runs.iter().map(|(number, _)| *number).collect()
}

/// The entries of several runs as one.
#[derive(Debug)]
pub(super) struct Merge<'a>(Vec<(Entries<'a>, Option<Entry>)>);

impl<'a> Merge<'a> {
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
                && least.is_none_or(|least| entry.0 < least.0 || (entry.0 == least.0 && entry.1 > least.1))
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
    use super::super::manifest::Piece;
    use super::*;

    fn run(number: u64, ids: &[u64], until: u64) -> Listed {
        let pieces = ids.iter().map(|ids| Piece { ids: *ids, end: 0 }).collect();
        Listed { number, until, first: 0, pieces }
    }

    /// Merges what is due until nothing is. Returns how many ids were written for that.
    fn merge_all(runs: &mut Vec<Listed>, next: &mut u64) -> u64 {
        let mut written = 0;
        while let Some(inputs) = due(runs, 0) {
            let ids = runs.iter().filter(|run| inputs.contains(&run.number)).map(Listed::ids).sum();
            runs.retain(|run| !inputs.contains(&run.number));
            (*next, written) = (*next + 1, written + ids);
            runs.push(run(*next, &[ids], 9));
        }
        written
    }

    #[test]
    fn runs_are_few_and_each_id_is_written_seldom_however_many_there_are() {
        let (mut runs, mut number, mut written) = (Vec::<Listed>::new(), 0, 0);
        for frozen in 1..=4_096_u64 {
            number += 1;
            runs.push(run(number, &[1], 9));
            written += merge_all(&mut runs, &mut number);
            let bound = frozen.ilog2() as usize + MIN_INPUTS;
            assert!(runs.len() <= bound, "{} runs after {frozen}", runs.len());
        }
        assert!(written <= 4_096 * 12, "{written}");
    }

    #[test]
    fn what_sorted_ids_made_is_not_written_again_for_late_ones() {
        let (mut runs, mut number, mut written) = (vec![run(1, &[1_000], 9)], 1, 0);
        for late in 1..=4_096_u64 {
            let growing = runs.iter_mut().find(|run| run.number == 1);
            growing.expect("it is never merged").pieces.push(Piece { ids: 1_000, end: 0 });
            number += 1;
            runs.push(run(number, &[10], 9));
            written += merge_all(&mut runs, &mut number);
            assert!(runs.len() <= 1 + late.ilog2() as usize + MIN_INPUTS, "{} after {late}", runs.len());
        }
        assert!(written <= 40_960 * 12, "{written}");
    }

    #[test]
    fn runs_that_were_kept_from_growing_are_few_too() {
        // Each ends after some pieces: a run is begun anew each time.
        let (mut runs, mut number, mut written) = (Vec::new(), 0, 0);
        for begun in 1..=1_024_u64 {
            number += 1;
            runs.push(run(number, &[1, 1, 1], 9));
            written += merge_all(&mut runs, &mut number);
            assert!(runs.len() <= begun.ilog2() as usize + 2 * MIN_INPUTS, "{} after {begun}", runs.len());
        }
        assert!(written <= 3 * 1_024 * 12, "{written}");
    }

    #[test]
    fn a_bucket_that_is_over_is_one_run_and_no_two_buckets_are_mixed() {
        let runs = |ids: &[(u64, u64)]| -> Vec<Listed> {
            let numbered = ids.iter().zip(1..);
            numbered.map(|((ids, until), number)| run(number, &[*ids], *until)).collect()
        };
        let mixed = runs(&[(8, 10), (2, 10), (1, 20), (1, 20)]);
        assert_eq!(due(&mixed, 9), None);
        assert_eq!(due(&mixed, 10), Some(vec![1, 2]));
        assert_eq!(due(&runs(&[(800, 10), (2, 10)]), 10), None, "not for so little");
        let pieces = [run(1, &[4, 4], 10), run(2, &[1, 1], 10)];
        assert_eq!(due(&pieces, 10), Some(vec![1, 2]));
    }
}
