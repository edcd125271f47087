//! The codecs of record batches, in pure Rust, each as a stream whose memory is bounded: gzip 32 KiB, lz4 two
//! blocks of at most 4 MiB (8 MiB in its legacy form), zstd and snappy a window of at most
//! [`MAX_WINDOW_BYTES`](super::MAX_WINDOW_BYTES).

use std::fmt;
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};

use super::snappy::{self, SnappyReader};
use super::zstd::ZstdReader;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip, of one or several members.
    Gzip,
    /// Snappy: in frames as xerial's library for Java writes it, or one raw block as others do.
    Snappy,
    /// LZ4 in its frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this number in a batch's attributes.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(super) fn number(self) -> i16 {
        self as i16
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

type Compressed = bytes::buf::Reader<Bytes>;

/// Reads what a compressed payload holds.
pub(super) enum Decompressor {
    None(Compressed),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Compressed>>),
    Snappy(SnappyReader),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Compressed>>),
    Zstd(Box<ZstdReader>),
}

impl Decompressor {
    pub(super) fn new(codec: Codec, payload: Bytes) -> Self {
        match codec {
            Codec::None => Self::None(payload.reader()),
            Codec::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(payload.reader()))),
            Codec::Snappy => Self::Snappy(SnappyReader::new(payload)),
            Codec::Lz4 => Self::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(payload.reader()))),
            Codec::Zstd => Self::Zstd(Box::new(ZstdReader::new(payload))),
        }
    }
}

impl Read for Decompressor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Snappy(reader) => reader.read(buffer),
            Self::Lz4(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// The compressed form of a payload, as Kafka's Java client frames it.
pub(super) fn compress(codec: Codec, payload: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(payload.to_vec()),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(payload)?;
            encoder.finish()
        }
        Codec::Snappy => snappy::compress(payload),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(payload)?;
            Ok(encoder.finish()?)
        }
        Codec::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            Ok(ruzstd::encoding::compress_to_vec(payload, level))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_of_several_members_is_read_and_what_is_no_member_ends_it() {
        let member = |content: &[u8]| compress(Codec::Gzip, content).unwrap();
        let members = [member(b"some "), member(b"records")].concat();
        let mut content = Vec::new();
        Decompressor::new(Codec::Gzip, members.into()).read_to_end(&mut content).unwrap();
        assert_eq!(content, b"some records");
    }
}
