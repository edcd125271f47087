//! Batches that decompress to a multiple of their size cost neither memory nor work without a bound.
//!
//! One test in a process of its own: it measures the memory of the process.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, Read, Write};

use task_events::kafka::records::{Batch, BatchBuilder, Codec, Unreadable, UnreadableReason, seal};

/// What reading any batch may take beside the batch: a record of 16 MiB that is moved once to a larger chunk,
/// and zstd's window in a ring buffer that doubles.
const MAX_MEMORY_BYTES: u64 = 64 << 20;

type Compress = fn(usize) -> Vec<u8>;

/// The records of a batch, the middle one with this many zeros as its value.
fn payload(zeros: usize) -> impl Read {
    // A length, and then: attributes, timestamp and offset delta, no key, a value of one byte, no headers.
    let small = |offset: u8| vec![7 << 1, 0, 0, offset << 1, 1, 1 << 1, offset, 0];
    let mut body = vec![0, 0, 1 << 1, 1];
    put_varint(&mut body, zeros);
    let mut start = small(0);
    put_varint(&mut start, body.len() + zeros + 1);
    start.extend(body);
    let mut end = vec![0];
    end.extend(small(2));
    io::Cursor::new(start).chain(io::repeat(0).take(zeros as u64)).chain(io::Cursor::new(end))
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut raw = value << 1;
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

fn batch(codec: Codec, compressed: &[u8]) -> Batch {
    let empty = BatchBuilder::new(0, codec).last_offset(2).build().unwrap();
    let mut bytes = empty[..61].to_vec();
    bytes[57..61].copy_from_slice(&3i32.to_be_bytes());
    bytes.extend_from_slice(compressed);
    seal(&mut bytes);
    Batch::of(bytes.into()).unwrap()
}

fn gzip(zeros: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(&mut payload(zeros), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn lz4(zeros: usize) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    io::copy(&mut payload(zeros), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn xerial(zeros: usize) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let mut payload = payload(zeros);
    loop {
        let mut chunk = Vec::new();
        payload.by_ref().take(64 << 10).read_to_end(&mut chunk).unwrap();
        if chunk.is_empty() {
            return out;
        }
        let chunk = snap::raw::Encoder::new().compress_vec(&chunk).unwrap();
        out.write_all(&u32::try_from(chunk.len()).unwrap().to_be_bytes()).unwrap();
        out.write_all(&chunk).unwrap();
    }
}

/// One block, of which `snap` would reserve all that it announces.
fn raw_snappy(zeros: usize) -> Vec<u8> {
    let mut all = Vec::new();
    payload(zeros).read_to_end(&mut all).unwrap();
    let (start, end) = (&all[..100], &all[all.len() - 100..]);
    let copied = all.len() - start.len() - end.len();
    let mut out = Vec::new();
    let mut length = all.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    let literal = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend([60 << 2, u8::try_from(bytes.len() - 1).unwrap()]);
        out.extend_from_slice(bytes);
    };
    literal(&mut out, start);
    for _ in 0..copied / 64 {
        out.extend([63 << 2 | 2, 1, 0]);
    }
    if copied % 64 > 0 {
        out.extend([u8::try_from(copied % 64 - 1).unwrap() << 2 | 2, 1, 0]);
    }
    literal(&mut out, end);
    out
}

/// A frame that announces a window of 128 MiB, of blocks that repeat one byte.
fn zstd(zeros: usize) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
    let mut block = |kind: usize, last: bool, size: usize, bytes: &[u8]| {
        out.extend_from_slice(&(size << 3 | kind << 1 | usize::from(last)).to_le_bytes()[..3]);
        out.extend_from_slice(bytes);
    };
    let mut payload = payload(zeros);
    loop {
        let mut piece = Vec::new();
        payload.by_ref().take(128 << 10).read_to_end(&mut piece).unwrap();
        if piece.is_empty() {
            block(0, true, 0, &[]);
            return out;
        }
        match piece.iter().all(|byte| *byte == 0) {
            true => block(1, false, piece.len(), &[0]),
            false => block(0, false, piece.len(), &piece),
        }
    }
}

fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    kib << 10
}

/// Offsets that were read and ranges that were not, and the most memory that reading took.
fn read(batch: &Batch) -> (Vec<Result<i64, Unreadable>>, u64) {
    // Resets the peak.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let read = batch.records().map(|record| record.map(|record| record.offset)).collect();
    (read, memory("VmHWM:").saturating_sub(before))
}

#[test]
fn a_bomb_costs_neither_memory_nor_work_without_a_bound() {
    const CODECS: [(&str, Codec, Compress); 5] = [
        ("gzip", Codec::Gzip, gzip),
        ("lz4", Codec::Lz4, lz4),
        ("xerial", Codec::Snappy, xerial),
        ("snappy", Codec::Snappy, raw_snappy),
        ("zstd", Codec::Zstd, zstd),
    ];
    for (name, codec, compress) in CODECS {
        // Below both limits; over that of a record; over that of a batch, as the gzip of 700 MB in 700 kB.
        for zeros in [15_000_000, 40_000_000, if codec == Codec::Gzip { 700_000_000 } else { 300_000_000 }] {
            let (read, memory) = read(&batch(codec, &compress(zeros)));
            assert!(memory < MAX_MEMORY_BYTES, "{name} of {zeros} took {} MiB", memory >> 20);
            let reasons: Vec<_> = read
                .iter()
                .map(|record| match record {
                    Ok(offset) => (*offset, "read"),
                    Err(Unreadable { first_offset, reason, .. }) => match reason {
                        UnreadableReason::TooLarge { .. } => (*first_offset, "record"),
                        UnreadableReason::BatchTooLarge { .. } => (*first_offset, "batch"),
                        _ => (*first_offset, "other"),
                    },
                })
                .collect();
            let middle = if zeros < 16 << 20 { "read" } else { "record" };
            let last = if zeros < 256 << 20 { "read" } else { "batch" };
            assert_eq!(reasons, [(0, "read"), (1, middle), (2, last)], "{name} of {zeros}: {read:?}");
        }
    }
}
