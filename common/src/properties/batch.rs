//! Record batches: read, compressed and written.

use bytes::Bytes;

use crate::kafka::records::{self, Batch, BatchBuilder, Batches, ConsumerRecord, HEADER_BYTES, Limits};

/// Any bytes are walked as a fetch answer: each offset comes once and in order, as a record or in a range that
/// cannot be read, and reading always gets on. The rest of the bytes, sealed as a batch, can be written again,
/// all of its records or some, each at its offset and time.
pub fn batch(bytes: &[u8]) {
    fetch_answer(bytes, 3);
    let Some((&keep, bytes)) = bytes.split_first() else { return };
    let mut sealed = bytes.to_vec();
    sealed.resize(sealed.len().max(HEADER_BYTES), 0);
    records::seal(&mut sealed);
    fetch_answer(&sealed, 0);
    let Some(batch) = Batch::of(sealed.into()) else { return };
    let header = *batch.header().unwrap();
    let Ok(records) = batch.records_within(FUZZ_LIMITS).collect::<Result<Vec<_>, _>>() else { return };
    let some: Vec<_> = records
        .iter()
        .enumerate()
        .filter(|(n, _)| keep >> (n % 8) & 1 == 0)
        .map(|(_, record)| record.clone())
        .collect();
    for (kept, horizon) in [(&records, None), (&some, None), (&some, Some(17))] {
        let mut builder = BatchBuilder::replacing(&header, horizon).unwrap();
        kept.iter().for_each(|record| builder.push(record.clone()));
        let again = Batch::of(builder.build().unwrap().into()).unwrap();
        let read = again.header().unwrap();
        assert_eq!((read.base_offset, again.next_offset()), (header.base_offset, header.next_offset()));
        assert_eq!(read.delete_horizon(), horizon);
        let found: Vec<_> = again.records().collect::<Result<_, _>>().unwrap();
        // Times whose distance exceeds 64 bits do not fit a delta.
        let timeless = |record: &ConsumerRecord| ConsumerRecord { timestamp: 0, ..record.clone() };
        let extreme = |record: &ConsumerRecord| record.timestamp.unsigned_abs() > 1 << 60;
        if kept.iter().any(extreme) {
            let timeless = |records: &[ConsumerRecord]| records.iter().map(timeless).collect::<Vec<_>>();
            assert_eq!(timeless(&found), timeless(kept));
        } else {
            assert_eq!(&found, kept);
        }
    }
}

/// Small, so that a fuzzer reaches them and is not slowed down by bombs.
const FUZZ_LIMITS: Limits = Limits { record_bytes: 64 << 10, batch_bytes: 1 << 20 };

fn fetch_answer(bytes: &[u8], fetch_offset: i64) {
    let mut position = fetch_offset;
    let mut batches = Batches::new(Bytes::copy_from_slice(bytes), fetch_offset);
    while let Some(batch) = batches.next() {
        assert!(batch.first_offset() >= position && batch.next_offset() > batch.first_offset());
        let _ = batch.marker();
        position = batch.first_offset();
        for record in batch.records_within(FUZZ_LIMITS) {
            let (first, last) = match record {
                Ok(record) => {
                    assert_eq!(record.headers.iter().count(), record.headers.len());
                    (record.offset, record.offset)
                }
                Err(range) => (range.first_offset, range.last_offset),
            };
            assert!(position <= first && first <= last && last <= batch.last_offset());
            position = last + 1;
        }
        assert!(position <= batch.next_offset());
        position = batch.next_offset();
        assert_eq!(position, batches.position());
    }
    if let Some(cut) = batches.cut() {
        assert!(cut.unreadable().next_offset() > position);
    }
}
