//! Zstandard as a stream of frames, over ruzstd.
//!
//! A decoder holds as much as the frame's header says that it may refer back to: up to 128 MiB at the highest
//! levels, or all of the content for a frame in one segment. The header is a promise and not a need, so a
//! larger window is announced to ruzstd as [`MAX_WINDOW_BYTES`]: frames that do not really refer back further
//! are read, others fail at that place.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::MAX_WINDOW_BYTES;

const FRAME_MAGIC: u32 = 0xfd2f_b528;
/// Magic number, descriptor, window, dictionary id and content size.
const MAX_HEADER_BYTES: usize = 4 + 1 + 1 + 4 + 8;
/// The descriptor's flag for a frame whose window is all of its content.
const SINGLE_SEGMENT: u8 = 1 << 5;
/// A window descriptor of 8 MiB: 10 + 13 in the exponent, which is in the upper five bits.
const MAX_WINDOW_DESCRIPTOR: u8 = 13 << 3;

const _: () = assert!(MAX_WINDOW_BYTES == 1 << (10 + (MAX_WINDOW_DESCRIPTOR >> 3)));

/// Reads all frames, as Kafka's consumer does; skippable ones are passed.
pub(super) struct ZstdReader {
    compressed: Bytes,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl ZstdReader {
    pub(super) fn new(compressed: Bytes) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES as u64);
        Self { compressed, decoder, in_frame: false }
    }

    /// Begins the next frame; false when there is none.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.compressed.is_empty() {
            let (header, size) = bounded_header(&self.compressed);
            match self.decoder.init(header.as_slice()) {
                Ok(()) => {
                    self.compressed.advance(size.min(self.compressed.len()));
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = 8usize.saturating_add(length as usize);
                    if skipped > self.compressed.len() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.compressed.advance(skipped);
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for ZstdReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                self.in_frame = self.begin_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.in_frame = false;
            } else {
                let mut source = (&mut self.compressed).reader();
                self.decoder
                    .decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
        }
    }
}

/// The frame header at the start of `bytes` with its window bounded, and how many bytes of `bytes` it stands
/// for. What is not a frame header is returned as it is: ruzstd says what is wrong with it.
fn bounded_header(bytes: &[u8]) -> (Vec<u8>, usize) {
    let start = bytes.get(..MAX_HEADER_BYTES).unwrap_or(bytes);
    bound(start).unwrap_or_else(|| (start.to_vec(), 0))
}

fn bound(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let before = bytes.len();
    let magic = bytes.try_get_u32_le().ok()?;
    if magic != FRAME_MAGIC {
        return None;
    }
    let descriptor = bytes.try_get_u8().ok()?;
    let single_segment = descriptor & SINGLE_SEGMENT != 0;
    let mut window = 0;
    if !single_segment {
        window = bytes.try_get_u8().ok()?;
    }
    let dictionary_bytes = [0, 1, 2, 4].into_iter().nth(usize::from(descriptor & 0b11))?;
    let (dictionary, rest) = bytes.split_at_checked(dictionary_bytes)?;
    let content_bytes = match descriptor >> 6 {
        0 if single_segment => 1,
        0 => 0,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let (content, rest) = rest.split_at_checked(content_bytes)?;
    let size = before - rest.len();

    let content_size = content.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    // The two-byte form counts from 256, which does not matter here.
    let too_wide = single_segment && content_size > MAX_WINDOW_BYTES as u64;
    let mut header = magic.to_le_bytes().to_vec();
    header.push(if too_wide { descriptor & !SINGLE_SEGMENT } else { descriptor });
    if too_wide {
        header.push(MAX_WINDOW_DESCRIPTOR);
    } else if !single_segment {
        header.push(window.min(MAX_WINDOW_DESCRIPTOR));
    }
    header.extend_from_slice(dictionary);
    header.extend_from_slice(content);
    Some((header, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        ZstdReader::new(compressed.to_vec().into()).read_to_end(&mut content)?;
        Ok(content)
    }

    /// A frame of this header with blocks that repeat one byte.
    fn frame(header: &[u8], blocks: &[(usize, u8)]) -> Vec<u8> {
        let mut frame = FRAME_MAGIC.to_le_bytes().to_vec();
        frame.extend_from_slice(header);
        for (n, (size, byte)) in blocks.iter().enumerate() {
            let is_last = usize::from(n + 1 == blocks.len());
            frame.extend_from_slice(&(size << 3 | 1 << 1 | is_last).to_le_bytes()[..3]);
            frame.push(*byte);
        }
        frame
    }

    #[test]
    fn frames_that_follow_each_other_are_read_and_skippable_ones_are_passed() {
        let compress = |content: &[u8]| {
            ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let skippable = b"\x5f\x2a\x4d\x18\x03\0\0\0abc";
        let frames = [&compress(b"some "), skippable.as_slice(), &compress(b"records"), skippable].concat();
        assert_eq!(decompress(&frames).unwrap(), b"some records");
        assert_eq!(decompress(b"").unwrap(), b"");
        for size in [1, 3, 5, 8, frames.len() - 1] {
            assert!(decompress(&frames[..size]).is_err(), "{size}");
        }
    }

    #[test]
    fn a_header_that_announces_a_larger_window_than_is_held_is_read_all_the_same() {
        const MIB: usize = 1 << 20;
        let blocks: Vec<_> = (0..20 * 8).map(|n| (128 << 10, n)).collect();
        let content: Vec<u8> = blocks.iter().flat_map(|(size, byte)| vec![*byte; *size]).collect();
        // All of 20 MiB in one segment, its size in 4 and in 8 bytes; and a window of 128 MiB.
        let four = [&[0b1010_0000], (20 * MIB as u32).to_le_bytes().as_slice()].concat();
        let eight = [&[0b1110_0000], (20 * MIB as u64).to_le_bytes().as_slice()].concat();
        for header in [four.as_slice(), &eight, &[0, 17 << 3]] {
            assert!(decompress(&frame(header, &blocks)).unwrap() == content);
        }
        // Announced and never used.
        assert_eq!(decompress(&frame(&[0, 31 << 3 | 7], &[(3, b'a')])).unwrap(), b"aaa");
    }

    #[test]
    fn a_dictionary_that_nobody_has_is_refused() {
        assert!(decompress(&frame(&[1, 10 << 3, 7], &[(3, b'a')])).is_err());
    }
}
