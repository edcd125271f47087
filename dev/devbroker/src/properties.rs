//! What has to hold of the broker's parsers, whatever bytes they are given: for the tests below and for the
//! fuzz targets of `tests/fuzz/`, which share these functions. The targets also run under a limit of what may be
//! allocated at once.

#![allow(missing_docs, missing_debug_implementations, reason = "a property is named after what holds")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use task_events::kafka::records::{self, BatchHeader, HEADER_BYTES};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::api::{APIS, answer};
use crate::client::Client;
use crate::log::segment::{Segment, log_name};
use crate::{Broker, Config};

/// Longer than any answer takes that does not wait for something to happen.
const LONG_POLL: Duration = Duration::from_millis(20);

/// A broker that is given frames.
pub struct Frames {
    runtime: Runtime,
    broker: Broker,
}

impl Frames {
    /// Its data lies in `folder`.
    pub fn start(folder: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder);
        let broker = runtime.block_on(Broker::start(config)).unwrap();
        Self { runtime, broker }
    }

    pub fn stop(self) {
        self.runtime.block_on(self.broker.shutdown());
    }

    /// A frame is answered under its own number or refused, which closes its connection. The first two bytes
    /// choose API and version, or say that the rest is all of the frame.
    pub fn take(&self, bytes: &[u8]) {
        let Some((&[api, version], rest)) = bytes.split_first_chunk() else { return };
        let frame = match APIS.get(usize::from(api) % (APIS.len() + 1)) {
            None => Bytes::copy_from_slice(rest),
            Some((key, first, last)) => {
                let version = first + i16::from(version) % (last - first + 1);
                let mut frame = BytesMut::new();
                frame.put_i16(*key as i16);
                frame.put_i16(version);
                frame.put_i32(7);
                frame.put_i16(-1);
                if key.request_header_version(version) >= 2 {
                    frame.put_u8(0);
                }
                frame.put_slice(rest);
                frame.freeze()
            }
        };
        let number = frame.get(4..8).map(|mut bytes| bytes.get_i32());
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        self.runtime.block_on(async {
            let reply = match timeout(LONG_POLL, answer(&self.broker.shared, client, frame)).await {
                Ok(Ok((reply, _))) => reply,
                Ok(Err(refused)) => return drop(refused.to_string()),
                Err(_) => return,
            };
            if let Ok(Ok(Some(mut answer))) = timeout(LONG_POLL, reply).await {
                let length = answer.get_i32();
                assert_eq!(usize::try_from(length), Ok(answer.len()));
                assert_eq!(Some(answer.get_i32()), number);
            }
        });
    }
}

/// The batch with the length and checksum that fit its bytes: no fuzzer guesses a checksum.
fn sealed(mut batch: Vec<u8>) -> Vec<u8> {
    batch.resize(batch.len().max(HEADER_BYTES), 0);
    records::seal(&mut batch);
    batch
}

/// A segment of any bytes is cut back to its whole batches, and none of them is lost; a second start finds
/// the same. A closed one with an index of any bytes answers every question without harm.
///
/// `folder` is empty, and left full.
pub fn segment(bytes: &[u8], folder: &Path) {
    let (log, index) = damaged_segment(bytes);
    let path = folder.join(log_name(0));
    fs::write(&path, &log).unwrap();
    let whole = whole_batches(&log);
    let mut found = None;
    for start in ["first", "second"] {
        let mut next_offset = 0;
        let segment =
            Segment::open_active(path.clone(), 0, |header, _| next_offset = header.next_offset()).unwrap();
        let extent = segment.extent();
        assert_eq!(fs::read(&path).unwrap(), &log[..whole], "{start} start");
        assert_eq!((extent.size, extent.next_offset), (whole as u64, next_offset));
        assert!(found.is_none_or(|found| found == extent), "{start} start");
        found = Some(extent);
        questions(&segment);
    }

    fs::write(&path, &log).unwrap();
    fs::write(path.with_extension("index"), index).unwrap();
    questions(&Segment::open_closed(path, 0).unwrap());
}

fn questions(segment: &Segment) {
    for number in [i64::MIN, -1, 0, 1, 7, i64::MAX] {
        // An index that was damaged may lead nowhere: an error, but no wrong place.
        if let Ok(Some(position)) = segment.position_of(number) {
            assert!(position < segment.extent().size);
        }
        let _ = segment.batch_at_time(number);
    }
}

fn whole_batches(log: &[u8]) -> usize {
    let (mut size, mut next) = (0, 0);
    while let Some(header) = BatchHeader::parse(&log[size..]) {
        let Some(batch) = log.get(size..size + header.size()) else { break };
        if header.base_offset < next || !records::crc_matches(&header, batch) {
            break;
        }
        (size, next) = (size + header.size(), header.next_offset());
    }
    size
}

/// Takes from the bytes: how many sound batches are in the log, where which bytes are written over them,
/// where the log is cut, what is appended then; and an index whose header fits, with any entries.
fn damaged_segment(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (head, rest) = bytes.split_at(bytes.len().min(6));
    let choice = |n: usize| usize::from(head.get(n).copied().unwrap_or(0));
    let mut log = Vec::new();
    for number in 0..choice(0) % 8 {
        let mut batch = vec![0; HEADER_BYTES];
        batch[7] = u8::try_from(number).unwrap();
        batch[16] = 2;
        batch.extend_from_slice(&rest[..rest.len().min(number)]);
        log.extend(sealed(batch));
    }
    let (over, after) = rest.split_at(choice(1) % (rest.len() + 1));
    let at = choice(2) * log.len() / 255;
    for (byte, new) in log[at..].iter_mut().zip(over) {
        *byte ^= *new;
    }
    log.truncate(log.len() - choice(3) * log.len() / 255 * (choice(4) & 1));
    log.extend_from_slice(after);

    let mut index = b"DEVBIDX1".to_vec();
    index.put_u64(log.len() as u64);
    index.put_slice(&[0; 24]);
    let entries = (choice(5) % 4).max(rest.len() / 24);
    index.put_u64(entries as u64);
    index.put_u32(crc32c::crc32c(&index));
    index.extend(rest.iter().copied().chain(std::iter::repeat(255)).take(entries * 24));
    (log, index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_segment_is_cut_to_its_whole_batches(bytes in vec(any::<u8>(), 0..200)) {
            let folder = tempfile::tempdir().unwrap();
            segment(&bytes, folder.path());
        }
    }
}
