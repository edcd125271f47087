//! Which parts of a log are still in the order of the tree: as many lines as can be.

use std::collections::BTreeMap;
use std::ops::Range;

/// Of ranges of entries, in the order of the log: whether each is in the longest part that is in the tree's order and has
/// no entry twice. Of several that are as long, the one that ends at the earliest entry.
pub(super) fn in_order(ranges: &[Range<u64>]) -> Vec<bool> {
    // By the entry where a chain ends: its length and its last range. Longer chains end later.
    let mut chains: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut before = vec![None; ranges.len()];
    for (number, range) in ranges.iter().enumerate() {
        let best = chains.range(..=range.start).next_back().map(|(_, chain)| *chain);
        let length = best.map_or(0, |(length, _)| length) + (range.end - range.start);
        if let Some(place) = before.get_mut(number) {
            *place = best.map(|(_, last)| last);
        }
        if chains.range(..=range.end).next_back().is_some_and(|(_, (known, _))| *known >= length) {
            continue;
        }
        // Those that end later and are no longer are of no use any more.
        while let Some((end, _)) = chains.range(range.end..).next().filter(|(_, (known, _))| *known <= length)
        {
            let end = *end;
            chains.remove(&end);
        }
        chains.insert(range.end, (length, number));
    }
    let mut chosen = vec![false; ranges.len()];
    let mut next = chains.last_key_value().map(|(_, (_, last))| *last);
    while let Some(number) = next {
        if let Some(is_chosen) = chosen.get_mut(number) {
            *is_chosen = true;
        }
        next = before.get(number).copied().flatten();
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_in_order_is_chosen_and_nothing_twice() {
        for (ranges, expected) in [
            (vec![], vec![]),
            (vec![0..5, 5..6], vec![true, true]),
            // A block that was moved to the front, or to the end.
            (vec![90..95, 0..90, 95..99], vec![false, true, true]),
            (vec![0..10, 20..99, 10..20], vec![true, true, false]),
            // One that is there twice: the first counts.
            (vec![0..10, 4..10, 10..20], vec![true, false, true]),
            (vec![0..4, 4..10, 4..10, 10..20], vec![true, true, false, true]),
            // Two that are swapped, of the same length.
            (vec![0..3, 6..9, 3..6, 9..12], vec![true, false, true, true]),
            (vec![3..4, 2..3, 1..2, 0..1], vec![false, false, false, true]),
        ] {
            assert_eq!(in_order(&ranges), expected, "{ranges:?}");
        }
    }
}
