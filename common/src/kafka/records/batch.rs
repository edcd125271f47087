//! The batches of a fetch answer.

use bytes::{Buf, Bytes};

use super::Limits;
use super::header::{BatchHeader, HEADER_BYTES, MAGIC, PREFIX_BYTES, crc_matches};
use super::marker::ControlMarker;
use super::reader::Records;
use super::unreadable::{Unreadable, UnreadableReason};

/// Bytes up to and including the format, which all formats have in common.
const COMMON_BYTES: usize = 17;

/// One batch, whose checksum was found right; or the range of offsets that cannot be read in its place.
///
/// Offsets below the one that was fetched are left out: a broker returns whole batches.
#[derive(Debug, Clone)]
pub struct Batch {
    first_offset: i64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Whole { header: BatchHeader, bytes: Bytes },
    Unreadable(Unreadable),
}

impl Batch {
    /// The one batch that `bytes` are exactly, from its first offset on; `None` if they are anything else.
    pub fn of(bytes: Bytes) -> Option<Self> {
        let mut batches = Batches::new(bytes, 0);
        let batch = batches.next()?;
        (batch.header().is_some() && batches.is_at_end()).then_some(batch)
    }

    /// The fixed fields; none of an unreadable range.
    pub fn header(&self) -> Option<&BatchHeader> {
        match &self.content {
            Content::Whole { header, .. } => Some(header),
            Content::Unreadable(_) => None,
        }
    }

    /// The whole batch as it was read; empty for an unreadable range.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Whole { bytes, .. } => bytes,
            Content::Unreadable(_) => &[],
        }
    }

    /// Why nothing of it can be read, if so. Records inside may be unreadable all the same.
    pub fn unreadable(&self) -> Option<&Unreadable> {
        match &self.content {
            Content::Whole { .. } => None,
            Content::Unreadable(unreadable) => Some(unreadable),
        }
    }

    /// The first offset that is of interest.
    pub fn first_offset(&self) -> i64 {
        self.first_offset
    }

    /// The last offset, of a record that may have been removed by compaction.
    pub fn last_offset(&self) -> i64 {
        match &self.content {
            Content::Whole { header, .. } => header.last_offset(),
            Content::Unreadable(unreadable) => unreadable.last_offset,
        }
    }

    /// Where reading goes on.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Whether it holds markers of the broker and no records of a producer.
    pub fn is_control(&self) -> bool {
        self.header().is_some_and(BatchHeader::is_control)
    }

    /// The marker of a control batch; none of others, nor where it cannot be read.
    pub fn marker(&self) -> Option<ControlMarker> {
        let header = self.header().filter(|header| header.is_control())?;
        ControlMarker::read(header, self.records().next()?.ok()?.key?)
    }

    /// The records, within the default limits.
    pub fn records(&self) -> Records {
        self.records_within(Limits::default())
    }

    /// The records. Independent of the batch: the iterator can be kept, and moved to another thread.
    pub fn records_within(&self, limits: Limits) -> Records {
        match &self.content {
            Content::Whole { header, bytes } => {
                Records::new(header, bytes.slice(HEADER_BYTES.min(bytes.len())..), self.first_offset, limits)
            }
            Content::Unreadable(unreadable) => Records::unreadable(unreadable.clone()),
        }
    }
}

/// Walks the records field of a fetch answer, batch by batch. Copies nothing.
///
/// Ends at the last whole batch: a broker may cut the last one at the size that was asked for. See
/// [`Self::cut`] for an answer that holds nothing else.
#[derive(Debug, Clone)]
pub struct Batches {
    bytes: Bytes,
    /// The next offset of interest.
    position: i64,
    cut: Option<CutBatch>,
}

/// A batch whose end is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutBatch {
    /// How many bytes it announces. A fetch of so many, for this partition alone, brings all of it. If it does
    /// not, the announced length is wrong, and [`Self::unreadable`] passes the batch.
    pub bytes: usize,
    position: i64,
    base_offset: i64,
}

impl CutBatch {
    /// The batch as a range that cannot be read.
    pub fn unreadable(&self) -> Batch {
        let reason = UnreadableReason::Malformed("it announces more bytes than there are");
        unreadable(self.position, self.base_offset, reason)
    }
}

impl Batches {
    /// `bytes`: what a broker returned for a fetch from `fetch_offset` on.
    pub fn new(bytes: Bytes, fetch_offset: i64) -> Self {
        Self { bytes, position: fetch_offset, cut: None }
    }

    /// The next offset to fetch after the batches that were returned so far.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The cut batch at the end, once all whole ones were returned.
    pub fn cut(&self) -> Option<&CutBatch> {
        self.cut.as_ref()
    }

    fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next batch of the answer, of interest or not.
    fn step(&mut self) -> Option<Batch> {
        let mut common = self.bytes.get(..COMMON_BYTES)?;
        let base_offset = common.get_i64();
        let length = usize::try_from(common.get_i32()).unwrap_or(0);
        let magic = self.bytes.get(COMMON_BYTES - 1).map_or(0, |magic| magic.cast_signed());
        if length < COMMON_BYTES - PREFIX_BYTES {
            // Where the next batch starts is not known.
            self.bytes.clear();
            let reason = UnreadableReason::Malformed("its length is below that of its header");
            return Some(unreadable(self.position, base_offset, reason));
        }
        let size = PREFIX_BYTES + length;
        if size > self.bytes.len() {
            self.bytes.clear();
            self.cut = Some(CutBatch { bytes: size, position: self.position, base_offset });
            return None;
        }
        let bytes = self.bytes.split_to(size);
        Some(match magic {
            MAGIC => self.batch(bytes, base_offset),
            // The message's offset, or the last one of a compressed set.
            magic @ (0 | 1) => unreadable(self.position, base_offset, UnreadableReason::OldFormat { magic }),
            magic => {
                let last_offset = self.offset_before_next().unwrap_or(base_offset);
                unreadable(self.position, last_offset, UnreadableReason::UnknownFormat { magic })
            }
        })
    }

    fn batch(&self, bytes: Bytes, base_offset: i64) -> Batch {
        let malformed = UnreadableReason::Malformed("its length is below that of its header");
        let Some(header) = BatchHeader::read(&bytes) else {
            return unreadable(self.position, self.offset_before_next().unwrap_or(base_offset), malformed);
        };
        let reason = match header.check().and_then(|()| header.check_count()) {
            Err(reason) => reason,
            Ok(()) if !crc_matches(&header, &bytes) => UnreadableReason::Checksum,
            Ok(()) => {
                let first_offset = self.position.max(header.base_offset);
                return Batch { first_offset, content: Content::Whole { header, bytes } };
            }
        };
        // Any field may be what is damaged. A damaged last offset must not skip batches that are sound: the
        // next batch knows better, or else two fields that agree; failing that one offset is passed.
        let fields_agree = header.count.checked_sub(1) == Some(header.last_offset_delta);
        let claim = if fields_agree { header.last_offset() } else { header.base_offset };
        let mut batch = unreadable(self.position, self.offset_before_next().unwrap_or(claim), reason);
        if let Content::Unreadable(unreadable) = &mut batch.content {
            unreadable.timestamp = header.max_timestamp;
            unreadable.leader_epoch = header.leader_epoch;
        }
        batch
    }

    /// The offset before the batch that the remaining bytes start with, if that one is sound.
    fn offset_before_next(&self) -> Option<i64> {
        let header = BatchHeader::parse(&self.bytes)?;
        let batch = self.bytes.get(..header.size())?;
        (crc_matches(&header, batch) && header.base_offset > self.position).then(|| header.base_offset - 1)
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        loop {
            let batch = self.step()?;
            // A broker may return batches before the one with the offset; Kafka's consumer passes them too.
            if batch.last_offset() >= self.position {
                self.position = batch.next_offset();
                return Some(batch);
            }
        }
    }
}

/// At least one offset: what is not passed would be fetched again for ever.
fn unreadable(position: i64, last_offset: i64, reason: UnreadableReason) -> Batch {
    let last_offset = last_offset.clamp(position, i64::MAX - 1);
    Batch {
        first_offset: position,
        content: Content::Unreadable(Unreadable {
            first_offset: position,
            last_offset,
            timestamp: -1,
            leader_epoch: -1,
            reason,
        }),
    }
}
