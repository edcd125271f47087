//! What has to hold of the parsers, whatever bytes they are given: for the tests below and for the fuzz
//! targets of `tests/fuzz/`, which share these functions.

#![allow(missing_docs, reason = "a property is named after what holds")]

mod batch;
mod config;
mod dlq;
mod event;
mod offsets;

pub use batch::batch;
#[cfg(test)]
pub(crate) use config::All;
pub use config::config;
pub use dlq::dlq;
pub use event::event;
pub use offsets::{offsets_fold, offsets_record};

/// Takes choices from the front of the bytes. At their end every choice is 0.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::records::{self, Batch};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bytes, and bytes that look more like what the parsers want.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "{",
            "}",
            "\"",
            ":",
            ",",
            "[",
            "]",
            "null",
            "1e3",
            " ",
            "\n",
            "\\u0000",
            "data",
            "g/t/0/claim",
            "g/t/0/commit/",
            "17",
            "host:9092",
            "\u{7f}",
            "é",
        ];
        let piece = prop_oneof![
            3 => proptest::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
            1 => vec(any::<u8>(), 0..8),
        ];
        prop_oneof![vec(any::<u8>(), 0..300), vec(piece, 0..30).prop_map(|pieces| pieces.concat())]
    }

    const BATCH_SEEDS: [&[u8]; 6] = [
        include_bytes!("../../tests/fuzz/seeds/batch/two-records"),
        include_bytes!("../../tests/fuzz/seeds/batch/gzip"),
        include_bytes!("../../tests/fuzz/seeds/batch/snappy"),
        include_bytes!("../../tests/fuzz/seeds/batch/xerial"),
        include_bytes!("../../tests/fuzz/seeds/batch/lz4"),
        include_bytes!("../../tests/fuzz/seeds/batch/zstd"),
    ];

    #[test]
    fn each_seed_is_a_batch_of_two_records() {
        for seed in BATCH_SEEDS {
            let mut bytes = seed[1..].to_vec();
            records::seal(&mut bytes);
            let batch = Batch::of(bytes.into()).unwrap();
            assert_eq!(batch.records().filter_map(Result::ok).count(), 2);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_event_is_kept_or_refused(bytes in bytes()) {
            event(&bytes);
        }

        #[test]
        fn any_change_of_an_event_is_kept_or_refused(at in any::<proptest::sample::Index>(), change in bytes()) {
            let mut json = include_bytes!("../../tests/fuzz/seeds/event/updated").to_vec();
            let at = at.index(json.len());
            let end = (at + change.len() / 2).min(json.len());
            json.splice(at..end, change);
            event(&json);
        }

        #[test]
        fn any_offsets_record_is_itself_or_refused(bytes in bytes()) {
            offsets_record(&bytes);
        }

        #[test]
        fn any_offsets_log_says_the_same_compacted(bytes in vec(any::<u8>(), 0..300)) {
            offsets_fold(&bytes);
        }

        #[test]
        fn any_bytes_are_read_as_batches(bytes in vec(any::<u8>(), 0..300)) {
            batch(&bytes);
        }

        #[test]
        fn any_change_of_a_batch_is_read(
            seed in proptest::sample::select(BATCH_SEEDS.to_vec()),
            at in any::<proptest::sample::Index>(),
            change in vec(any::<u8>(), 1..9),
        ) {
            let mut bytes = seed.to_vec();
            let at = at.index(bytes.len());
            let end = (at + change.len()).min(bytes.len());
            bytes.splice(at..end, change).for_each(drop);
            batch(&bytes);
        }

        #[test]
        fn any_dead_letter_gives_its_original_back(bytes in bytes()) {
            dlq(&bytes);
        }

        #[test]
        fn any_value_of_a_variable_is_taken_or_refused_in_one_line(bytes in bytes()) {
            config(&bytes);
        }
    }
}
