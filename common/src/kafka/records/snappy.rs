//! Snappy as a stream. The `snap` crate decodes a block only as a whole, into as many bytes as the block
//! announces: a raw block of 30 MB may hold 640 MB. Here a block is decoded piece by piece, and no more is
//! kept than copies may refer back to.
//!
//! A block is the length of its content and then elements: literal bytes, and copies of bytes before.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::MAX_WINDOW_BYTES;

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
        let left = content_length(&mut compressed).ok_or_else(|| malformed("a block has no length"))?;
        self.block = Block { compressed, left, literal: 0, decoded: 0 };
        self.block.check_end()?;
        Ok(true)
    }

    /// Decodes some of the block.
    fn step(&mut self) -> io::Result<()> {
        self.forget();
        let before = self.decoded.len();
        let compressed = self.block.compressed.clone();
        let mut rest: &[u8] = &compressed;
        while self.decoded.len() - before < STEP_BYTES {
            if self.block.literal > 0 {
                self.block.literal(&mut rest, &mut self.decoded, STEP_BYTES)?;
            } else if rest.is_empty() {
                break;
            } else {
                self.block.element(&mut rest, &mut self.decoded)?;
            }
        }
        self.block.compressed.advance(compressed.len() - rest.len());
        self.block.check_end()
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
    fn element(&mut self, compressed: &mut &[u8], decoded: &mut Vec<u8>) -> io::Result<()> {
        const CUT: &str = "an element is cut";
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
        let end = decoded.len() + length;
        // A copy may overlap itself: it then repeats the bytes before it, of which each round has more.
        while decoded.len() < end {
            let size = (decoded.len() - from).min(end - decoded.len());
            decoded.extend_from_within(from..from + size);
        }
        Ok(())
    }

    /// Copies some of a literal.
    fn literal(&mut self, compressed: &mut &[u8], decoded: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        let size = self.literal.min(limit);
        let (bytes, rest) = compressed.split_at_checked(size).ok_or_else(|| malformed("a literal is cut"))?;
        decoded.extend_from_slice(bytes);
        *compressed = rest;
        self.literal -= size;
        self.count(size)
    }

    fn check_end(&self) -> io::Result<()> {
        if self.compressed.is_empty() && (self.left > 0 || self.literal > 0) {
            return Err(malformed("a block holds less than it announces"));
        }
        Ok(())
    }

    fn count(&mut self, length: usize) -> io::Result<()> {
        let left = self.left.checked_sub(length as u64);
        self.left = left.ok_or_else(|| malformed("a block holds more than it announces"))?;
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        SnappyReader::new(compressed.to_vec().into()).read_to_end(&mut content)?;
        Ok(content)
    }

    fn raw(content: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(content).unwrap()
    }

    #[test]
    fn streams_that_follow_each_other_are_read() {
        let streams = [compress(b"some ").unwrap(), compress(b"").unwrap(), compress(b"records").unwrap()];
        assert_eq!(decompress(&streams.concat()).unwrap(), b"some records");
        assert_eq!(decompress(&raw(b"some records")).unwrap(), b"some records");
        assert_eq!(decompress(&raw(b"")).unwrap(), b"");
    }

    #[test]
    fn a_cut_block_and_one_that_announces_another_length_are_refused() {
        let content = vec![7; 100_000];
        for whole in [compress(&content).unwrap(), raw(&content)] {
            for size in [whole.len() - 1, whole.len() / 2, 18] {
                assert!(decompress(&whole[..size]).is_err(), "{size}");
            }
        }
        // 5 bytes announced; a literal of 4, and one of 6.
        assert!(decompress(b"\x05\x0cabcd").is_err());
        assert!(decompress(b"\x05\x14abcdef").is_err());
        // A copy from before the start, and one from nowhere.
        assert!(decompress(b"\x05\x00a\x0e\x02\x00").is_err());
        assert!(decompress(b"\x05\x00a\x0e\x00\x00").is_err());
    }

    #[test]
    fn a_copy_reaches_as_far_back_as_the_window_and_no_further_than_its_block() {
        // Content beyond twice the window, whose start is referred to from within the window.
        let size = 3 * MAX_WINDOW_BYTES;
        let mut block = Vec::new();
        let mut length = size + 8;
        while length >= 0x80 {
            block.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        block.push(length as u8);
        // A literal of all but the last bytes, then a copy with an offset of four bytes.
        block.push(63 << 2);
        block.extend_from_slice(&u32::try_from(size - 1).unwrap().to_le_bytes());
        let content: Vec<u8> = (0..size).map(|at| ((at * 31) >> 7) as u8).collect();
        block.extend_from_slice(&content);
        block.push(7 << 2 | 3);
        block.extend_from_slice(&u32::try_from(MAX_WINDOW_BYTES - 8).unwrap().to_le_bytes());
        let from = size - (MAX_WINDOW_BYTES - 8);
        let expected = [&content, &content[from..from + 8]].concat();
        assert!(decompress(&block).unwrap() == expected);

        let mut chunks = compress(b"some bytes").unwrap();
        let copy = b"\x04\x0e\x04\x00";
        chunks.extend_from_slice(&u32::try_from(copy.len()).unwrap().to_be_bytes());
        chunks.extend_from_slice(copy);
        assert!(decompress(&chunks).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_snap_writes_is_read(content in vec(prop_oneof![Just(vec![0; 300]), vec(0..4u8, 0..70)], 0..2_000)) {
            let content = content.concat();
            prop_assert_eq!(&decompress(&raw(&content)).unwrap(), &content);
            prop_assert_eq!(&decompress(&compress(&content).unwrap()).unwrap(), &content);
        }

        #[test]
        fn any_bytes_are_decoded_as_snap_decodes_them(bytes in vec(any::<u8>(), 0..60)) {
            // What follows a whole block is an error of both.
            let snap = snap::raw::Decoder::new().decompress_vec(&bytes);
            if snap::raw::decompress_len(&bytes).is_ok_and(|length| length < 1 << 20) && !bytes.is_empty() {
                prop_assert_eq!(decompress(&bytes).ok(), snap.ok());
            }
        }
    }
}
