//! One record inside a batch: its fields are slices of the bytes that it was read from.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::varint;

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Where it is in its partition.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// The epoch of the leader that appended it, -1 for none.
    pub leader_epoch: i32,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in their order.
    pub headers: Headers,
}

impl ConsumerRecord {
    /// The same in memory of its own: what is kept for long must not keep the whole answer that it came in.
    pub fn detached(&self) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let headers = Headers { count: self.headers.count, encoded: copy(&self.headers.encoded) };
        Self { key: self.key.as_ref().map(copy), value: self.value.as_ref().map(copy), headers, ..*self }
    }
}

/// One header. Kafka wants UTF-8 as its name, but does not check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The bytes of its name.
    pub name: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// The name, with replacement characters where it is not UTF-8.
    pub fn name_lossy(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.name)
    }
}

/// The headers of a record, as they were written: in order, with repeated names and null values.
///
/// Kept encoded, because most readers never look at them. What is in here was checked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: usize,
    encoded: Bytes,
}

impl Headers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each header, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        let mut rest: &[u8] = &self.encoded;
        std::iter::from_fn(move || header(&mut rest))
    }

    /// The last header of this name: with repeated names that is the one that counts, as in Kafka.
    pub fn last(&self, name: &str) -> Option<Header<'_>> {
        self.iter().filter(|header| header.name == name.as_bytes()).last()
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, Option<V>)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, Option<V>)>>(headers: I) -> Self {
        let (mut count, mut encoded) = (0, Vec::new());
        for (name, value) in headers {
            count += 1;
            put_nullable(&mut encoded, Some(name.as_ref()));
            put_nullable(&mut encoded, value.as_ref().map(AsRef::as_ref));
        }
        Self { count, encoded: encoded.into() }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |header: Header<'_>| {
            let value = header.value.map(|value| String::from_utf8_lossy(value).into_owned());
            (header.name_lossy().into_owned(), value)
        };
        f.debug_list().entries(self.iter().map(text)).finish()
    }
}

/// The first fields of a record, which are known even of one that is too large to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordPrefix {
    pub timestamp_delta: i64,
    pub offset_delta: i64,
}

/// Most bytes of those fields: attributes, and two varints.
pub(super) const MAX_PREFIX_BYTES: usize = 1 + 10 + 10;

impl RecordPrefix {
    /// Takes the fields from the front of a record's bytes.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (_attributes, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(Self { timestamp_delta: varint::read(bytes).ok()?, offset_delta: varint::read(bytes).ok()? })
    }
}

/// Key, value and headers.
pub(super) struct Content {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

impl Content {
    /// The rest of a record, which is exactly `rest` and a part of `chunk`. An error says what is wrong.
    pub fn read(mut rest: &[u8], chunk: &Bytes) -> Result<Self, &'static str> {
        let key = nullable(&mut rest).ok_or("a key exceeds its record")?;
        let value = nullable(&mut rest).ok_or("a value exceeds its record")?;
        let count = varint::read(&mut rest).ok().and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or("a number of headers is not a number")?;
        let encoded = rest;
        for _ in 0..count {
            header(&mut rest).ok_or("a header exceeds its record or has no name")?;
        }
        if !rest.is_empty() {
            return Err("a record is longer than its fields");
        }
        Ok(Self {
            key: key.map(|key| chunk.slice_ref(key)),
            value: value.map(|value| chunk.slice_ref(value)),
            headers: Headers { count, encoded: chunk.slice_ref(encoded) },
        })
    }
}

/// Takes a header from the front; none at the end, or where there is none.
fn header<'a>(bytes: &mut &'a [u8]) -> Option<Header<'a>> {
    Some(Header { name: nullable(bytes)??, value: nullable(bytes)? })
}

/// A byte string with a varint length, null where it is negative. The outer `None` is a malformed one.
fn nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let size = varint::read(bytes).ok()?;
    if size < 0 {
        return Some(None);
    }
    let (value, rest) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
    *bytes = rest;
    Some(Some(value))
}

/// Appends a byte string with its length.
pub(super) fn put_nullable(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint::write(out, -1),
        Some(value) => {
            varint::write(out, i64::try_from(value.len()).unwrap_or(i64::MAX));
            out.extend_from_slice(value);
        }
    }
}
