//! Which partition a key belongs to: Kafka's default partitioner, so that any Kafka producer agrees.

/// `murmur2(key) & 0x7fffffff mod partitions`, as in `org.apache.kafka.clients.producer.internals.BuiltInPartitioner`.
/// `partitions` below 1 counts as 1.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    hash_of_key(key) % partitions.max(1)
}

/// What of a key decides: its partition is the remainder by the number of partitions.
pub fn hash_of_key(key: &[u8]) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed()
}

/// Kafka's 32-bit murmur2 (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Kafka's lengths are i32; a key is far shorter.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let word = word.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        let mut k = word.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own UtilsTest.testMurmur2.
    #[test]
    fn murmur2_agrees_with_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn every_partition_is_in_range() {
        for n in 1..20 {
            for key in 0u32..100 {
                assert!((0..n).contains(&partition_for_key(&key.to_le_bytes(), n)));
            }
        }
    }
}
