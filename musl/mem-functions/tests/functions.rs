//! Every length against every alignment and distance, byte by byte, with what lies around it watched. Built
//! for musl, the program itself lives on these functions as well.
#![cfg(target_arch = "x86_64")]

use proptest::prelude::*;

/// Beyond the loops' first steps, from either end.
const LENGTHS: usize = 330;
const ROOM: usize = 2 * LENGTHS + 256;

/// Bytes that tell their places.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// Copies within one buffer, where ranges may overlap, and returns all of it.
fn copied(mut buffer: Vec<u8>, to: usize, from: usize, len: usize) -> Vec<u8> {
    assert!(to + len <= buffer.len() && from + len <= buffer.len());
    let start = buffer.as_mut_ptr();
    // SAFETY: both ranges are within the buffer.
    unsafe { mem_functions::copy(start.add(to), start.add(from), len) };
    buffer
}

/// The same, one byte after another by way of a copy.
fn expected(mut buffer: Vec<u8>, to: usize, from: usize, len: usize) -> Vec<u8> {
    let moved: Vec<u8> = buffer.iter().skip(from).take(len).copied().collect();
    for (place, byte) in buffer.iter_mut().skip(to).zip(moved) {
        *place = byte;
    }
    buffer
}

fn check_copy(buffer: Vec<u8>, to: usize, from: usize, len: usize) {
    // Not assert_eq, which would print both buffers.
    let right = copied(buffer.clone(), to, from, len) == expected(buffer, to, from, len);
    assert!(right, "{len} bytes from {from} to {to}");
}

#[test]
fn every_length_is_copied_to_and_from_every_alignment() {
    let lengths = if cfg!(miri) { vec![0, 1, 15, 16, 33, 129, 200] } else { (0..=LENGTHS).collect() };
    let alignments: Vec<usize> = if cfg!(miri) { vec![0, 1, 15] } else { (0..16).collect() };
    for len in lengths {
        for to in &alignments {
            for from in &alignments {
                check_copy(pattern(ROOM), 64 + to, 64 + LENGTHS + 32 + from, len);
            }
        }
    }
}

#[test]
fn every_overlap_is_moved_whole() {
    let lengths: Vec<usize> =
        if cfg!(miri) { vec![1, 16, 64, 128, 129, 330] } else { (0..=LENGTHS).collect() };
    let distances: Vec<usize> = if cfg!(miri) { vec![0, 1, 16, 65] } else { (0..=140).collect() };
    for len in lengths {
        for distance in &distances {
            check_copy(pattern(ROOM), 80, 80 + distance, len);
            check_copy(pattern(ROOM), 80 + distance, 80, len);
        }
    }
}

fn compared(left: &[u8], right: &[u8]) -> std::cmp::Ordering {
    assert_eq!(left.len(), right.len());
    // SAFETY: both have this length.
    unsafe { mem_functions::compare(left.as_ptr(), right.as_ptr(), left.len()) }
}

#[test]
fn the_first_difference_decides_wherever_it_is_and_nothing_outside_counts() {
    let step = if cfg!(miri) { 37 } else { 1 };
    for len in (0..=LENGTHS).step_by(step) {
        let left = pattern(len + 32);
        for start in [0, 1, 15] {
            let here = &left[start..start + len];
            // What is around the right side is different everywhere.
            let mut right: Vec<u8> = left.iter().map(|byte| byte ^ 0xff).collect();
            right[start..start + len].copy_from_slice(here);
            assert!(compared(here, &right[start..start + len]).is_eq(), "{len} equal bytes at {start}");
            for at in (0..len).step_by(step) {
                for (byte, order) in [(0x00, here[at].cmp(&0x00)), (0xff, here[at].cmp(&0xff))] {
                    let mut changed = right.clone();
                    changed[start + at] = byte;
                    // Differences behind the first one do not count.
                    if let Some(last) = changed[start..start + len].last_mut().filter(|_| at + 1 < len) {
                        *last = !byte;
                    }
                    let wanted =
                        order.then_with(|| here[at + 1..].cmp(&changed[start + at + 1..start + len]));
                    assert_eq!(compared(here, &changed[start..start + len]), wanted, "{len} bytes, {at}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 2_000 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_ranges_are_copied_and_moved(len in 0_usize..20_000, to in 0_usize..400, from in 0_usize..400) {
        check_copy(pattern(21_000), to, from, len);
    }

    #[test]
    fn bytes_compare_as_slices_do(
        mut left in proptest::collection::vec(0_u8..3, 0..300),
        right in proptest::collection::vec(0_u8..3, 300),
        same in 0_usize..300,
    ) {
        let same = same.min(left.len());
        left[..same].copy_from_slice(&right[..same]);
        // The order of slices, spelled out: slices call memcmp.
        let wanted = left.iter().zip(&right).map(|(left, right)| left.cmp(right)).find(|order| order.is_ne());
        let len = left.len();
        prop_assert_eq!(compared(&left, &right[..len]), wanted.unwrap_or(std::cmp::Ordering::Equal));
    }
}
