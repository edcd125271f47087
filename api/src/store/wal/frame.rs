//! Frames: written as a group, read one after the other.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use task_events::disk::DiskFile;

/// Length, checksum, sequence number, number of the group's first frame.
pub(in crate::store) const HEADER: usize = 24;
/// Frames begin at multiples of this, so that one can be looked for behind damage.
const ALIGNMENT: usize = 8;
/// The largest payload. A change with the longest title takes some 20 KiB, a delivery of a full window as much.
const MAX_PAYLOAD: usize = 256 * 1024;
/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Frames that are written together.
#[derive(Debug, Default)]
pub(in crate::store) struct Group {
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
}

impl Group {
    /// Adds a frame. Returns where in the group it begins.
    pub(in crate::store) fn add(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        payload(&mut self.bytes);
        self.frames.push(start..self.bytes.len());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        start as u64
    }

    pub(in crate::store) fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(in crate::store) fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Completes the frames for a segment; the first has that number. Returns all bytes.
    pub(super) fn seal(&mut self, seed: u32, first_seq: u64) -> &[u8] {
        for (seq, frame) in (first_seq..).zip(&self.frames) {
            let length = u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX);
            let Some((header, payload)) =
                self.bytes.get_mut(frame.clone()).and_then(|frame| frame.split_at_mut_checked(HEADER))
            else {
                continue;
            };
            let head = header_of(seed, length, Numbers { seq, group: first_seq }, payload);
            header.copy_from_slice(&head);
        }
        &self.bytes
    }
}

/// Which frame it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Numbers {
    pub(in crate::store) seq: u64,
    /// The first frame that was written with it.
    pub(in crate::store) group: u64,
}

impl Numbers {
    fn bytes(self) -> [u8; 16] {
        (u128::from(self.group) << 64 | u128::from(self.seq)).to_le_bytes()
    }

    fn read(bytes: [u8; 16]) -> Self {
        let numbers = u128::from_le_bytes(bytes);
        Self { seq: numbers as u64, group: (numbers >> 64) as u64 }
    }
}

fn header_of(seed: u32, length: u32, numbers: Numbers, payload: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let parts = length.to_le_bytes().into_iter();
    let parts = parts.chain(checksum(seed, numbers, payload).to_le_bytes()).chain(numbers.bytes());
    for (byte, value) in header.iter_mut().zip(parts) {
        *byte = value;
    }
    header
}

fn checksum(seed: u32, numbers: Numbers, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &numbers.bytes()), payload)
}

/// A frame as it was read.
#[derive(Debug)]
pub(in crate::store) struct Frame<'a> {
    pub(in crate::store) seq: u64,
    /// Where it begins in its segment.
    pub(in crate::store) offset: u64,
    pub(in crate::store) payload: &'a [u8],
}

/// Reads frames of a segment, from front to back.
#[derive(Debug)]
pub(in crate::store) struct FrameReader {
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// The next frame's offset.
    at: u64,
    /// Bytes of the file from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
    #[cfg(test)]
    pub(super) trusts_anything: bool,
}

impl FrameReader {
    pub(super) fn new(file: Arc<dyn DiskFile>, seed: u32, at: u64) -> Self {
        Self {
            file,
            seed,
            at,
            buffer: Vec::new(),
            buffer_at: at,
            #[cfg(test)]
            trusts_anything: false,
        }
    }

    /// Where the next frame begins, or would.
    pub(in crate::store) fn offset(&self) -> u64 {
        self.at
    }

    /// Goes on there.
    pub(in crate::store) fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    /// The next whole frame, whatever its number; `None` where there is none.
    pub(in crate::store) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let offset = self.at;
        let Some(length) = self.payload_length(offset)? else { return Ok(None) };
        if !self.fill(offset, HEADER + length)? {
            return Ok(None);
        }
        let within = self.within(offset);
        let Some(frame) = self.buffer.get(within..within + HEADER + length) else { return Ok(None) };
        let Some((numbers, stored, payload)) = split(frame) else { return Ok(None) };
        let holds = stored == checksum(self.seed, numbers, payload);
        #[cfg(test)]
        let holds = holds || self.trusts_anything;
        if !holds {
            return Ok(None);
        }
        self.at = offset + (HEADER + length).next_multiple_of(ALIGNMENT) as u64;
        Ok(Some(Frame { seq: numbers.seq, offset, payload }))
    }

    /// Where the first whole frame begins in that range of the segment whose numbers are wanted. It is the next one
    /// then.
    pub(in crate::store) fn find(
        &mut self,
        range: Range<u64>,
        is_wanted: impl Fn(&Numbers) -> bool,
    ) -> io::Result<Option<u64>> {
        let mut offset = range.start.next_multiple_of(ALIGNMENT as u64);
        while offset < range.end {
            if self.fill(offset, HEADER)?
                && self.numbers_at(offset).is_some_and(|numbers| is_wanted(&numbers))
            {
                self.at = offset;
                if self.next()?.is_some() {
                    self.at = offset;
                    return Ok(Some(offset));
                }
            }
            offset += ALIGNMENT as u64;
        }
        Ok(None)
    }

    fn numbers_at(&self, offset: u64) -> Option<Numbers> {
        let numbers = self.buffer.get(self.within(offset)..)?.get(8..HEADER)?;
        Some(Numbers::read(numbers.try_into().ok()?))
    }

    fn payload_length(&mut self, offset: u64) -> io::Result<Option<usize>> {
        if !self.fill(offset, HEADER)? {
            return Ok(None);
        }
        let length = self.buffer.get(self.within(offset)..).and_then(|bytes| bytes.first_chunk::<4>());
        let length = length.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok(usize::try_from(length).ok().filter(|length| (1..=MAX_PAYLOAD).contains(length)))
    }

    fn within(&self, offset: u64) -> usize {
        usize::try_from(offset.saturating_sub(self.buffer_at)).unwrap_or(usize::MAX / 2)
    }

    /// Has so many bytes from that offset on in the buffer, unless the file ends before them.
    fn fill(&mut self, offset: u64, count: usize) -> io::Result<bool> {
        let has = |reader: &Self| {
            offset >= reader.buffer_at && reader.buffer.len() >= reader.within(offset).saturating_add(count)
        };
        if has(self) {
            return Ok(true);
        }
        self.buffer.resize(count.max(CHUNK), 0);
        self.buffer_at = offset;
        let mut filled = 0;
        while let Some(rest) = self.buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        Ok(has(self))
    }
}

/// Numbers, checksum and payload of a frame's bytes.
fn split(frame: &[u8]) -> Option<(Numbers, u32, &[u8])> {
    let (header, payload) = frame.split_at_checked(HEADER)?;
    let stored = u32::from_le_bytes(header.get(4..8)?.try_into().ok()?);
    let numbers = Numbers::read(header.get(8..HEADER)?.try_into().ok()?);
    Some((numbers, stored, payload))
}
