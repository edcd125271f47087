//! The log of new ids: what was recorded since the last run was made, in the order in which it came.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0–7 | `tededlog` |
//! | 8–15 | number of the file |
//! | 16–23 | until when its ids are kept for sure if none is older: end of the bucket, in ms since 1970 |
//! | 24–31 | zeros (4), checksum (4) |
//! | then, each frame | |
//! | 0–3 | number of ids |
//! | 4–7 | bytes of the mark; all ones: the batch has none |
//! | 8–15 | number of the first id |
//! | 16–31 | zeros (12), checksum of the frame: of these 28 bytes and of what follows (4) |
//! | 32– | the ids (16 each), the mark, zeros up to a multiple of 16 bytes |
//!
//! Numbers are little-endian, checksums those of [`part`].
//!
//! # Invariants
//!
//! 1. A batch is one frame, with the owner's mark: it is there whole or not at all.
//! 2. Frames are numbered on: each begins with the number that follows the last id of the one before it, also
//!    from one file to the next. The first that is not whole, or does not follow, ends the log.
//! 3. After a failed write or sync nothing more is written to the file, and after a start neither: what was
//!    found is put into runs, and a new file is begun.
//! 4. A file is synced whole before the next one is made. So only the last file may end in a torn frame. Where
//!    each frame was synced before the next was written, a whole frame behind one that is not whole is damage.

use std::path::Path;

use super::{Failure, files, part};
use crate::disk::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"tededlog";
/// Bytes of the header, and of a frame's.
const HEADER: usize = 32;
/// Frames start at multiples of it.
const ALIGN: usize = 16;
const NO_MARK: u32 = u32::MAX;

/// A log that is written.
#[derive(Debug)]
pub(super) struct IdLog {
    file: Box<dyn DiskFile>,
    pub(super) number: u64,
    /// Its length in bytes.
    pub(super) at: u64,
    /// Frames that are not synced.
    pub(super) unsynced: u32,
}

/// A batch as it is in the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: u64,
    pub(super) ids: Vec<u128>,
    pub(super) mark: Option<Vec<u8>>,
}

/// What a log holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) until: u64,
    pub(super) frames: Vec<Frame>,
    /// Bytes behind the last whole frame.
    pub(super) rest: u64,
    /// Where a frame is not whole, and others behind it are.
    pub(super) damage: Option<u64>,
}

impl IdLog {
    /// Makes the log of that number, beside `path`; name and header are durable when this returns.
    pub(super) fn make(disk: &dyn Disk, path: &Path, number: u64, until: u64) -> Result<Self, Failure> {
        let name = files::log(path, number);
        if disk.exists(&name)? {
            disk.remove(&name)?;
        }
        let file = disk.make_file(&name)?;
        let mut header = [MAGIC.as_slice(), &number.to_le_bytes(), &until.to_le_bytes(), &[0; 8]].concat();
        part::seal(&mut header, number, 0);
        file.write_all_at(&header, 0)?;
        file.sync_data()?;
        disk.sync_folder(&name)?;
        Ok(Self { file, number, at: HEADER as u64, unsynced: 0 })
    }

    /// Appends a batch.
    pub(super) fn append(&mut self, first: u64, ids: &[u128], mark: Option<&[u8]>) -> Result<(), Failure> {
        let too_large = || Failure::Io(std::io::ErrorKind::InvalidInput.into());
        let count = u32::try_from(ids.len()).map_err(|_| too_large())?;
        let mark_length =
            mark.map_or(Ok(NO_MARK), |mark| u32::try_from(mark.len()).map_err(|_| too_large()))?;
        let mut frame = Vec::with_capacity(HEADER + ids.len() * ALIGN + mark.map_or(0, <[u8]>::len) + ALIGN);
        frame.extend_from_slice(&count.to_le_bytes());
        frame.extend_from_slice(&mark_length.to_le_bytes());
        frame.extend_from_slice(&first.to_le_bytes());
        frame.resize(HEADER, 0);
        ids.iter().for_each(|id| frame.extend_from_slice(&id.to_be_bytes()));
        frame.extend_from_slice(mark.unwrap_or_default());
        frame.resize(frame.len().next_multiple_of(ALIGN), 0);
        let checksum = checksum_of(&frame, self.number, self.at);
        if let Some(place) = frame.get_mut(HEADER - part::CHECKSUM..HEADER) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        self.file.write_all_at(&frame, self.at)?;
        self.at += frame.len() as u64;
        self.unsynced += 1;
        Ok(())
    }

    /// Makes all of it durable.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        if self.unsynced > 0 {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// The checksum of a frame: of its header without the place of the checksum, and of what follows.
fn checksum_of(frame: &[u8], number: u64, at: u64) -> u32 {
    let (header, body) = frame.split_at_checked(HEADER).unwrap_or((frame, &[]));
    let header = header.get(..HEADER - part::CHECKSUM).unwrap_or_default();
    crc32c::crc32c_append(part::checksum_of(header, number, at), body)
}

/// Reads the log of that number whole: it is no longer than may be in memory.
pub(super) fn read(disk: &dyn Disk, path: &Path, number: u64) -> Result<Found, Failure> {
    let file = disk.open_file(&files::log(path, number))?;
    let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    let header = bytes.get(..HEADER).filter(|header| part::is_whole(header, number, 0));
    let header = header.filter(|header| header.starts_with(MAGIC));
    let until = header.and_then(|header| number_at(header, 16));
    let mut found = Found { until: until.unwrap_or(0), frames: Vec::new(), rest: 0, damage: None };
    let mut at = HEADER;
    while let Some((frame, length)) = until.and_then(|_| frame_at(&bytes, at, number)) {
        found.frames.push(frame);
        at += length;
    }
    found.rest = bytes.len().saturating_sub(at) as u64;
    // Of a header that was torn, nothing was written behind it.
    let mut behind = (at..bytes.len()).step_by(ALIGN).skip(usize::from(until.is_some()));
    if behind.any(|later| frame_at(&bytes, later, number).is_some()) {
        found.damage = Some(at as u64);
    }
    Ok(found)
}

/// The frame that starts at that byte, if it is whole, and its length.
fn frame_at(bytes: &[u8], at: usize, number: u64) -> Option<(Frame, usize)> {
    let bytes = bytes.get(at..)?;
    let count = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let mark = u32_at(bytes, 4)?;
    let mark_length = if mark == NO_MARK { 0 } else { usize::try_from(mark).ok()? };
    let length = count.checked_mul(ALIGN)?.checked_add(mark_length)?.checked_add(HEADER)?;
    let length = length.checked_next_multiple_of(ALIGN)?;
    let frame = bytes.get(..length)?;
    if u32_at(frame, HEADER - part::CHECKSUM)? != checksum_of(frame, number, at as u64) {
        return None;
    }
    let (ids, rest) = frame.get(HEADER..)?.split_at_checked(count * ALIGN)?;
    let ids = ids.as_chunks().0.iter().map(|id| u128::from_be_bytes(*id)).collect();
    let mark = if mark == NO_MARK { None } else { Some(rest.get(..mark_length)?.to_vec()) };
    Some((Frame { first: number_at(frame, 8)?, ids, mark }, length))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileSystem;

    #[test]
    fn a_torn_end_is_cut_off_and_what_is_damaged_in_front_of_whole_frames_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let mut log = IdLog::make(&FileSystem, &path, 7, 99).unwrap();
        let mut ends = vec![log.at as usize];
        for (first, mark) in [(0, Some(b"m".as_slice())), (3, None), (6, Some(b""))] {
            log.append(first, &[u128::from(first), 5, u128::MAX], mark).unwrap();
            ends.push(log.at as usize);
        }
        log.sync().unwrap();
        let name = files::log(&path, 7);
        let whole = std::fs::read(&name).unwrap();
        let found = read(&FileSystem, &path, 7).unwrap();
        assert_eq!((found.until, found.frames.len(), found.rest, found.damage), (99, 3, 0, None));
        assert_eq!(found.frames[1], Frame { first: 3, ids: vec![3, 5, u128::MAX], mark: None });
        assert_eq!(found.frames[2].mark.as_deref(), Some(b"".as_slice()));
        for end in 0..whole.len() {
            std::fs::write(&name, &whole[..end]).unwrap();
            let found = read(&FileSystem, &path, 7).unwrap();
            let frames = ends.iter().skip(1).filter(|frame| **frame <= end).count();
            assert_eq!((found.frames.len(), found.damage), (frames, None), "cut at {end}");
        }
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 1;
            std::fs::write(&name, &bytes).unwrap();
            let found = read(&FileSystem, &path, 7).unwrap();
            let frame = ends.iter().filter(|end| **end <= flipped).count();
            assert_eq!(found.frames.len(), frame.saturating_sub(1), "flipped in {flipped}");
            assert_eq!(found.damage.is_some(), frame < 3, "flipped in {flipped}");
        }
        // A log of another number, as a copy under this name would be.
        std::fs::copy(&name, files::log(&path, 8)).unwrap();
        assert_eq!(read(&FileSystem, &path, 8).unwrap().frames.len(), 0);
    }
}
