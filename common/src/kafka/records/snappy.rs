//! Snappy as a stream. The `snap` crate decodes a block only as a whole, into as many bytes as the block
//! announces: a raw block of 30 MB may hold 640 MB. Here a block is decoded piece by piece, and no more is
//! kept than copies may refer back to.
//!
//! A block is the length of its content and then elements: literal bytes, and copies of bytes before.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::compression::MAX_WINDOW_BYTES;

/// What xerial's library for Java, and so Kafka's clients, put before their chunks. Two version numbers follow.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// The length of a xerial chunk's content, as Java writes it.
const XERIAL_CHUNK_BYTES: usize = 32 << 10;
/// How much is decoded at once, beyond the window.
const STEP_BYTES: usize = 64 << 10;

/// Reads a payload in either form.
pub(super) struct SnappyReader {
    compressed: Bytes,
    framing: Framing,
    block: Block,
    /// Decoded bytes: those that copies may refer to, and from `read` on those not yet read.
    decoded: Vec<u8>,
    read: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Xerial,
    Raw,
}

#[derive(Default)]
struct Block {
    compressed: Bytes,
    /// Bytes that it still announces.
    left: u64,
    /// Bytes of a literal that was begun.
    literal: usize,
    /// How far back copies may refer: no further than to the start of the block.
    decoded: usize,
}

impl SnappyReader {
    pub(super) fn new(compressed: Bytes) -> Self {
        let framing = if compressed.starts_with(XERIAL_MAGIC) { Framing::Xerial } else { Framing::Raw };
        Self { compressed, framing, block: Block::default(), decoded: Vec::new(), read: 0 }
    }

    /// Begins the next block; false when there is none.
    fn begin_block(&mut self) -> io::Result<bool> {
        // Streams may follow each other, each with its header.
        while self.framing == Framing::Xerial && self.compressed.starts_with(XERIAL_MAGIC) {
            if self.compressed.len() < XERIAL_HEADER_BYTES {
                return Err(malformed("its header is cut"));
            }
            self.compressed.advance(XERIAL_HEADER_BYTES);
        }
        if self.compressed.is_empty() {
            return Ok(false);
        }
        let size = match self.framing {
            Framing::Raw => self.compressed.len(),
            Framing::Xerial => {
                let size = self.compressed.try_get_u32().map_err(|_| malformed("a chunk is cut"))?;
                usize::try_from(size).unwrap_or(usize::MAX)
            }
        };
        if size > self.compressed.len() {
            return Err(malformed("a chunk is cut"));
        }
        let mut compressed = self.compressed.split_to(size);
        let left = content_length(&mut compressed).ok_or(malformed("a block has no length"))?;
        self.block = Block { compressed, left, literal: 0, decoded: 0 };
        Ok(true)
    }

    /// Decodes some of the block.
    fn step(&mut self) -> io::Result<()> {
        self.forget();
        let before = self.decoded.len();
        while self.decoded.len() - before < STEP_BYTES {
            if self.block.literal > 0 {
                self.block.literal(&mut self.decoded, STEP_BYTES)?;
            } else if self.block.compressed.is_empty() {
                break;
            } else {
                self.block.element(&mut self.decoded)?;
            }
        }
        if self.block.compressed.is_empty() && (self.block.left > 0 || self.block.literal > 0) {
            return Err(malformed("a block holds less than it announces"));
        }
        Ok(())
    }

    /// Drops what no copy can refer to. Rarely, because the window is moved.
    fn forget(&mut self) {
        if self.decoded.len() + 2 * STEP_BYTES > 2 * MAX_WINDOW_BYTES {
            let dropped = self.read.min(self.decoded.len().saturating_sub(MAX_WINDOW_BYTES));
            self.decoded.drain(..dropped);
            self.read -= dropped;
            self.block.decoded = self.block.decoded.min(self.decoded.len());
        }
    }
}

impl Read for SnappyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let unread = self.decoded.get(self.read..).unwrap_or_default();
            if let Some((unread, buffer)) = pair(unread, buffer) {
                buffer.copy_from_slice(unread);
                self.read += unread.len();
                return Ok(unread.len());
            }
            if !self.block.compressed.is_empty() {
                self.step()?;
            } else if !self.begin_block()? {
                return Ok(0);
            }
        }
    }
}

/// The parts of both that are equally long; none when that is nothing.
fn pair<'a, 'b>(from: &'a [u8], to: &'b mut [u8]) -> Option<(&'a [u8], &'b mut [u8])> {
    let size = from.len().min(to.len());
    (size > 0).then_some((from.get(..size)?, to.get_mut(..size)?))
}

impl Block {
    /// Decodes one element; of a literal only its length.
    fn element(&mut self, decoded: &mut Vec<u8>) -> io::Result<()> {
        const CUT: &str = "an element is cut";
        let compressed = &mut self.compressed;
        let tag = compressed.try_get_u8().map_err(|_| malformed(CUT))?;
        let upper = usize::from(tag >> 2);
        let (length, offset) = match tag & 0b11 {
            0 => {
                let size = upper.saturating_sub(59);
                let length = if size == 0 {
                    upper
                } else {
                    let length = compressed.try_get_uint_le(size).map_err(|_| malformed(CUT))?;
                    usize::try_from(length).unwrap_or(usize::MAX)
                };
                self.literal = length.saturating_add(1);
                return Ok(());
            }
            1 => {
                let low = compressed.try_get_u8().map_err(|_| malformed(CUT))?;
                (4 + (upper & 0b111), usize::from(tag >> 5) << 8 | usize::from(low))
            }
            2 => (1 + upper, usize::from(compressed.try_get_u16_le().map_err(|_| malformed(CUT))?)),
            _ => (1 + upper, compressed.try_get_u32_le().map_err(|_| malformed(CUT))? as usize),
        };
        if offset == 0 || offset > self.decoded {
            return Err(malformed("a copy refers too far back"));
        }
        self.count(length)?;
        let from = decoded.len().saturating_sub(offset);
        if length <= offset {
            decoded.extend_from_within(from..from + length);
        } else {
            // The copy overlaps itself: it repeats the bytes before it.
            for at in from..from + length {
                let byte = decoded.get(at).copied().unwrap_or_default();
                decoded.push(byte);
            }
        }
        Ok(())
    }

    /// Copies some of a literal.
    fn literal(&mut self, decoded: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        let size = self.literal.min(limit);
        let bytes = self.compressed.get(..size).ok_or(malformed("a literal is cut"))?;
        decoded.extend_from_slice(bytes);
        self.compressed.advance(size);
        self.literal -= size;
        self.count(size)
    }

    fn count(&mut self, length: usize) -> io::Result<()> {
        let left = self.left.checked_sub(length as u64);
        self.left = left.ok_or(malformed("a block holds more than it announces"))?;
        self.decoded += length;
        Ok(())
    }
}

/// The varint at the start of a block, 32 bits without a sign.
fn content_length(bytes: &mut Bytes) -> Option<u64> {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (length <= u64::from(u32::MAX)).then_some(length);
        }
    }
    None
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Compresses in chunks, as Java does.
pub(super) fn compress(payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressed = XERIAL_MAGIC.to_vec();
    // Version, and the oldest version that can read it.
    compressed.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    for chunk in payload.chunks(XERIAL_CHUNK_BYTES) {
        let chunk = snap::raw::Encoder::new().compress_vec(chunk)?;
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        compressed.extend_from_slice(&length.to_be_bytes());
        compressed.extend_from_slice(&chunk);
    }
    Ok(compressed)
}
