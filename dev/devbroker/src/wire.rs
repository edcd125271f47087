//! Frames to messages and back.
//!
//! kafka-protocol reserves memory for as many array items as a length field says, before it looks
//! whether they are there: a frame of 30 bytes could ask for 100 GB, and a failed allocation ends
//! the process. [`Guarded`] is the buffer it decodes from here, and makes such a length an error.

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, Encodable};

/// Decodes the request header at the start of a frame and leaves the body.
pub(crate) fn decode_header(frame: &mut Bytes, key: ApiKey, version: i16) -> Result<RequestHeader> {
    decode_guarded(frame, key.request_header_version(version))
}

/// Decodes a request body; it must fill the rest of the frame.
pub(crate) fn decode_body<R: Decodable>(mut body: Bytes, version: i16) -> Result<R> {
    let request = decode_guarded(&mut body, version)?;
    ensure!(body.is_empty(), "{} bytes too many", body.len());
    Ok(request)
}

/// A whole response frame with its length in front.
pub(crate) fn encode_response<R: Encodable>(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    response: &R,
) -> Result<Bytes> {
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let header_version = key.response_header_version(version);
    let size = header.compute_size(header_version)? + response.compute_size(version)?;
    let mut frame = BytesMut::with_capacity(4 + size);
    frame.put_i32(i32::try_from(size).context("response too large")?);
    header.encode(&mut frame, header_version)?;
    response.encode(&mut frame, version)?;
    Ok(frame.freeze())
}

fn decode_guarded<T: Decodable>(bytes: &mut Bytes, version: i16) -> Result<T> {
    let mut guarded = Guarded { bytes: bytes.clone(), varint: 0, varint_bits: 0, replaced: false };
    let decoded = T::decode(&mut guarded, version)?;
    if guarded.replaced {
        // Lengths are known to be sane now; read the replaced numbers as they are.
        return T::decode(bytes, version);
    }
    *bytes = guarded.bytes;
    Ok(decoded)
}

/// A buffer that refuses lengths beyond its end.
///
/// An `i32` larger than what is left may be a plain number (such as a time-out) or a length: it
/// is read as -2, which is an error as a length and harmless as a number, and the message is then
/// decoded once more from the bytes themselves. A varint is only ever a length or a tag
/// (those in use are 0 and 1).
struct Guarded {
    bytes: Bytes,
    varint: u64,
    varint_bits: u32,
    replaced: bool,
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.varint = 0;
        self.varint_bits = 0;
        self.bytes.advance(count);
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.varint = 0;
        self.varint_bits = 0;
        let number = self.bytes.try_get_i32()?;
        match usize::try_from(number) {
            Ok(length) if length > self.bytes.len() => {
                self.replaced = true;
                Ok(-2)
            }
            _ => Ok(number),
        }
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        self.varint |= u64::from(byte & 0x7f) << self.varint_bits;
        self.varint_bits += 7;
        let over = self.varint > self.bytes.len() as u64 + 1 || self.varint_bits > 35;
        if over {
            return Err(TryGetError {
                requested: usize::try_from(self.varint).unwrap_or(usize::MAX),
                available: self.bytes.len(),
            });
        }
        if byte & 0x80 == 0 {
            self.varint = 0;
            self.varint_bits = 0;
        }
        Ok(byte)
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.peek_bytes(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.get_bytes(size)
    }
}
