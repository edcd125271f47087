//! How many records go into one produce request.
//!
//! rskafka does not set TCP_NODELAY and writes through an 8 KiB buffer: a larger request goes out as two
//! writes, the second of which waits for the acknowledgement of the first, which the receiver delays by
//! some 40 ms, unless there is enough of it to fill a segment (64 KiB on loopback, less elsewhere). So a
//! request is either small enough for one write or large enough for the wait not to arise; what lies
//! between is sent as several small ones.

/// Largest request that leaves in one write, with room for headers.
const ONE_WRITE: usize = 7_500;
/// Smallest request that does not wait: over one loopback segment, also where records are small and most of
/// what is counted for them is not sent.
const MANY_SEGMENTS: usize = 96 * 1024;
/// Largest request: half of Kafka's default max.message.bytes.
const LARGEST: usize = 512 * 1024;
/// What a record costs on the wire beside its key, value and headers, at most.
const PER_RECORD: usize = 64;

/// How many of the records that wait, given by their [`approximate sizes`](rskafka::record::Record::approximate_size)
/// in bytes, to send next. At least 1 where there are any.
pub fn request_len(sizes: impl IntoIterator<Item = usize>) -> usize {
    let (mut records, mut bytes, mut in_one_write) = (0, 0, 0);
    for size in sizes {
        bytes += size + PER_RECORD;
        if bytes > LARGEST {
            break;
        }
        records += 1;
        if bytes <= ONE_WRITE {
            in_one_write = records;
        }
    }
    if bytes >= MANY_SEGMENTS { records.max(1) } else { in_one_write.max(records.min(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_small_or_large_and_never_between() {
        assert_eq!(request_len([]), 0);
        assert_eq!(request_len([700]), 1);
        for waiting in 1..2_000 {
            let n = request_len(std::iter::repeat_n(700, waiting));
            let bytes = n * (700 + PER_RECORD);
            assert!(
                n >= 1 && n <= waiting && (bytes <= ONE_WRITE || bytes >= MANY_SEGMENTS - 800),
                "{waiting}: {n}"
            );
            assert!(bytes <= LARGEST);
        }
    }

    #[test]
    fn a_record_that_fits_nowhere_goes_alone() {
        assert_eq!(request_len([20_000, 700]), 1);
        assert_eq!(request_len([2_000_000, 700]), 1);
    }
}
