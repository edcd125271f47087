//! What a log has of each partition, and whether its lines are in the topic's order.

use std::collections::BTreeMap;

use serde::Serialize;

/// Runs of offsets in memory for all partitions, at most (4 MiB), whatever is missing between them; and the space of each,
/// however many partitions there are.
const RUNS: usize = 262_144;
const MIN_RUNS: usize = 128;
/// Partitions that are checked separately, at most: more than an audit service reads.
pub(super) const MAX_PARTITIONS: usize = RUNS / MIN_RUNS;

/// What a log has of one partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Covered {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) lines: u64,
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    /// The offsets that have a line, since the topic last started again.
    #[serde(skip)]
    runs: Vec<(i64, i64)>,
}

/// How a line's offset follows those before it in its partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// In order.
    Forward,
    /// Another event had that offset, or all before it have later ones: it is another topic of that name, or what is
    /// left of one that was truncated.
    Restart,
    /// Between lines that were there, where none was.
    OutOfOrder,
}

impl Covered {
    fn new(topic: &str, partition: i32, offset: i64) -> Self {
        let (topic, runs) = (topic.to_owned(), Vec::new());
        Self { topic, partition, lines: 0, first_offset: offset, last_offset: -1, runs }
    }

    /// Takes the next line. Of the offsets so many runs are kept.
    fn add(&mut self, offset: i64, max_runs: usize) -> Step {
        self.lines += 1;
        match self.runs.last_mut() {
            Some((_, last)) if offset == *last + 1 => *last = offset,
            Some((_, last)) if offset > *last => self.begin_run(offset, max_runs),
            None => self.runs.push((offset, offset)),
            Some(_) => {
                let had_one = self.runs.iter().rev().any(|(first, last)| (*first..=*last).contains(&offset));
                if !had_one && self.runs.first().is_some_and(|(first, _)| *first < offset) {
                    return Step::OutOfOrder;
                }
                self.runs = vec![(offset, offset)];
                self.first_offset = offset.min(self.first_offset);
                self.last_offset = offset;
                return Step::Restart;
            }
        }
        self.last_offset = offset;
        Step::Forward
    }

    fn begin_run(&mut self, offset: i64, max_runs: usize) {
        if self.runs.len() >= max_runs {
            self.keep(max_runs / 2);
        }
        self.runs.push((offset, offset));
    }

    /// Keeps so many newer runs. The older ones become one: what fills a gap in them counts as a restart.
    fn keep(&mut self, newer: usize) {
        let newer = self.runs.split_off(self.runs.len().saturating_sub(newer));
        let ends = self.runs.first().zip(self.runs.last()).map(|((first, _), (_, last))| (*first, *last));
        self.runs = ends.into_iter().chain(newer).collect();
    }
}

/// What a log has of each partition of each topic.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    covered: Vec<Covered>,
    numbers: BTreeMap<String, BTreeMap<i32, usize>>,
    /// The number of the one that was asked for last: many lines of one follow each other.
    last: usize,
}

impl Partitions {
    /// Takes the next line: of that partition, with that offset. How it follows those before it, and the last offset before.
    /// `None`: there are too many partitions.
    pub(super) fn add(&mut self, topic: &str, partition: i32, offset: i64) -> Option<(Step, i64)> {
        let is_of = |of: &Covered| of.partition == partition && of.topic == topic;
        if !self.covered.get(self.last).is_some_and(is_of) {
            let known = self.numbers.get(topic).and_then(|of_topic| of_topic.get(&partition));
            self.last = match known {
                Some(number) => *number,
                None => self.begin(topic, partition, offset)?,
            };
        }
        let max_runs = self.max_runs();
        let of = self.covered.get_mut(self.last)?;
        let last = of.last_offset;
        Some((of.add(offset, max_runs), last))
    }

    /// The number of a partition that had no line before. The others have less space from then on.
    fn begin(&mut self, topic: &str, partition: i32, offset: i64) -> Option<usize> {
        let number = self.covered.len();
        if number >= MAX_PARTITIONS {
            return None;
        }
        self.covered.push(Covered::new(topic, partition, offset));
        self.numbers.entry(topic.to_owned()).or_default().insert(partition, number);
        let max_runs = self.max_runs();
        for of in self.covered.iter_mut().filter(|of| of.runs.len() > max_runs) {
            of.keep(max_runs / 2);
        }
        Some(number)
    }

    /// Runs that are kept of each partition.
    fn max_runs(&self) -> usize {
        RUNS / self.covered.len().max(1)
    }

    /// By topic and partition.
    pub(super) fn into_sorted(mut self) -> Vec<Covered> {
        self.covered.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        self.covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_where_every_other_offset_is_missing() {
        for (partitions, in_turn) in
            [(1, true), (3, true), (3, false), (200, false), (MAX_PARTITIONS as i32, true)]
        {
            let mut covered = Partitions::default();
            let lines = 600_000 / i64::from(partitions);
            let in_turns =
                (0..lines).flat_map(|line| (0..partitions).map(move |partition| (partition, line)));
            let in_rows = (0..partitions).flat_map(|partition| (0..lines).map(move |line| (partition, line)));
            let all: Box<dyn Iterator<Item = _>> =
                if in_turn { Box::new(in_turns) } else { Box::new(in_rows) };
            let mut most = 0;
            for (number, (partition, line)) in all.enumerate() {
                let (step, _) = covered.add("t", partition, 2 * line).unwrap();
                assert_eq!(step, Step::Forward);
                if number % 1_000 == 0 {
                    most = covered.covered.iter().map(|of| of.runs.len()).sum::<usize>().max(most);
                }
            }
            assert!(most <= RUNS, "{partitions}: {most}");
            let last = covered.covered[0].last_offset;
            // What fills a gap that is not long ago is out of order.
            assert_eq!(covered.add("t", 0, last - 21), Some((Step::OutOfOrder, last)));
            assert_eq!(covered.add("t", 0, last + 1), Some((Step::Forward, last)));
            assert_eq!(covered.add("t", 0, 0), Some((Step::Restart, last + 1)));
        }
    }

    #[test]
    fn more_partitions_than_a_service_reads_are_refused() {
        let mut partitions = Partitions::default();
        for number in 0..MAX_PARTITIONS + 5 {
            let is_taken = partitions.add(&format!("topic {number}"), 0, 7).is_some();
            assert_eq!(is_taken, number < MAX_PARTITIONS);
        }
        assert_eq!(partitions.add("topic 3", 0, 8), Some((Step::Forward, 7)));
        assert_eq!(partitions.into_sorted().len(), MAX_PARTITIONS);
    }

    #[test]
    fn each_partition_of_each_topic_is_known_by_itself_whatever_follows_what() {
        let mut partitions = Partitions::default();
        for offset in 0..3 {
            for (topic, partition) in [("b", 1), ("a", 1), ("b", 0), ("b", 0)] {
                assert!(partitions.add(topic, partition, offset).unwrap().0 != Step::OutOfOrder);
            }
        }
        let found = partitions.into_sorted().into_iter();
        let found: Vec<_> =
            found.map(|of| (of.topic, of.partition, of.first_offset, of.last_offset)).collect();
        let of = |topic: &str, partition| (topic.to_owned(), partition, 0, 2);
        assert_eq!(found, [of("a", 1), of("b", 0), of("b", 1)]);
    }
}
