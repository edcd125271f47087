//! Which parts of a log may have an id, so that some ids are looked for without reading all of it again.
//!
//! # Invariants
//!
//! 1. *No part that has an id is left out*: of each part the least and the greatest id are known. Ids of version 7 rise
//!    with time, so few parts may have one; random ones may be anywhere, and then all is read.
//! 2. *Memory is bounded*: parts are larger where the log is.

use uuid::Uuid;

use crate::log_files::LogFile;

/// Parts of a log, but for one more for each file; and the smallest, in bytes.
const ZONES: u64 = 65_536;
const MIN_BYTES: u64 = 64 * 1024;

/// A part of a file.
#[derive(Debug)]
struct Zone {
    file: usize,
    /// The byte where it starts, and the number of the line there.
    at: u64,
    number: u64,
    least: Uuid,
    greatest: Uuid,
}

/// The parts of a log.
#[derive(Debug)]
pub(super) struct Zones {
    bytes: u64,
    zones: Vec<Zone>,
}

/// Where to look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    /// The bytes between which it is; `u64::MAX` is the end of the file.
    pub(super) from: u64,
    pub(super) to: u64,
    /// The number of its first line.
    pub(super) number: u64,
}

impl Zones {
    pub(super) fn new(files: &[LogFile]) -> Self {
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        // What is compressed is not read by parts: it has one.
        Self { bytes: (bytes / ZONES).max(MIN_BYTES), zones: Vec::new() }
    }

    /// Takes the next id of the log, and where its line is.
    pub(super) fn add(&mut self, file: usize, is_compressed: bool, at: u64, number: u64, id: Uuid) {
        let bytes = self.bytes;
        match self.zones.last_mut() {
            Some(zone) if zone.file == file && (is_compressed || at - zone.at < bytes) => {
                zone.least = zone.least.min(id);
                zone.greatest = zone.greatest.max(id);
            }
            _ => self.zones.push(Zone { file, at, number, least: id, greatest: id }),
        }
    }

    /// Where lines of these ids may be, in the order of the log.
    pub(super) fn of(&self, mut ids: Vec<Uuid>) -> Vec<Place> {
        ids.sort_unstable();
        let ends = self.zones.iter().skip(1).map(Some).chain([None]);
        let zones = self.zones.iter().zip(ends);
        let places = zones.filter(|(zone, _)| {
            let first = ids.partition_point(|id| *id < zone.least);
            ids.get(first).is_some_and(|id| *id <= zone.greatest)
        });
        places
            .map(|(zone, next)| {
                let to = next.filter(|next| next.file == zone.file).map_or(u64::MAX, |next| next.at);
                Place { file: zone.file, from: zone.at, to, number: zone.number }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_that_may_have_an_id_are_found_and_no_others() {
        let mut zones = Zones::new(&[]);
        let id = Uuid::from_u128;
        for line in 0..4_000_u64 {
            // Two files of 2,000 lines of 100 bytes, in which ids rise, but for one.
            let (file, number) = ((line / 2_000) as usize, line % 2_000);
            let of = if line == 3_999 { 7 } else { u128::from(line) };
            zones.add(file, false, 100 * number, number + 1, id(of));
        }
        let place = |file, from, to, number| Place { file, from, to, number };
        let second = 100 * 656;
        assert_eq!(zones.of(vec![id(7)]), [place(0, 0, second, 1), place(1, 3 * second, u64::MAX, 1_969)]);
        assert_eq!(zones.of(vec![id(700), id(2_001)]).len(), 3);
        assert_eq!(zones.of(vec![id(5_000)]), []);
        assert_eq!(zones.of(Vec::new()), []);
        // What is compressed is one part.
        let mut zones = Zones::new(&[]);
        (0..4_000).for_each(|line| zones.add(0, true, 100 * line, line + 1, id(u128::from(line))));
        assert_eq!(zones.of(vec![id(3_000)]), [place(0, 0, u64::MAX, 1)]);
    }
}
