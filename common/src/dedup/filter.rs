//! A filter that says of an id that it is not in a chunk, or may be: a Bloom filter in blocks of a cache line
//! (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007), so that a look-up
//! reads one block.
//!
//! | bytes of a block | content |
//! | --- | --- |
//! | 0–59 | 480 bits, for 48 ids on average |
//! | 60–63 | checksum of the block: a bit that is lost would make a known id a new one |
//!
//! With 10 bits and [`PROBES`] of them for each id, about 3 of 200 ids that are not there may be there; they
//! cost a look into the chunk. Who chooses ids so that they meet in one block makes look-ups slower, not wrong.

use super::part;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;
/// Bits of a block that tell of ids.
const BITS: u64 = 480;
/// Ids for each block.
const IDS: usize = 48;
/// Bits that are set for each id.
const PROBES: u32 = 6;

/// The number of blocks for that many ids.
pub(super) fn blocks(ids: usize) -> usize {
    ids.div_ceil(IDS)
}

/// Where an id belongs in any filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn of(key: u128) -> Self {
        let (high, low) = ((key >> 64) as u64, key as u64);
        Self(mix(low.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mix(high)))
    }

    /// The block, of so many.
    pub(super) fn block(self, blocks: usize) -> usize {
        ((u128::from(self.0) * blocks as u128) >> 64) as usize
    }

    fn bits(self) -> impl Iterator<Item = u64> {
        let fields = self.0.wrapping_mul(0xd6e8_feb8_6659_fd93);
        (0..PROBES).map(move |probe| (((fields >> (9 * probe)) & 511) * BITS) >> 9)
    }
}

/// Steps of MurmurHash3: each bit of the input changes half of the bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    z ^ (z >> 33)
}

/// The filter of the ids, sealed, as stored from byte `at` of the file.
pub(super) fn build(hashes: &[Hash], file: u64, at: u64) -> Vec<u8> {
    let count = blocks(hashes.len());
    let mut filter = vec![0; count * BLOCK];
    let (all, _) = filter.as_chunks_mut::<BLOCK>();
    for hash in hashes {
        let Some(block) = all.get_mut(hash.block(count)) else { continue };
        for bit in hash.bits() {
            if let Some(byte) = block.get_mut((bit / 8) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    for (number, block) in all.iter_mut().enumerate() {
        part::seal(block, file, at + (number * BLOCK) as u64);
    }
    filter
}

/// Whether the id may be in the chunk of the block that is its own.
pub(super) fn may_hold(block: &[u8; BLOCK], hash: Hash) -> bool {
    hash.bits().all(|bit| block.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn hit_rate(keys: &[u128], others: &[u128]) -> f64 {
        let hashes: Vec<Hash> = keys.iter().map(|key| Hash::of(*key)).collect();
        let filter = build(&hashes, 1, 0);
        let (all, _) = filter.as_chunks::<BLOCK>();
        let holds = |key: &&u128| {
            let hash = Hash::of(**key);
            may_hold(&all[hash.block(all.len())], hash)
        };
        assert!(keys.iter().all(|key| holds(&key)), "an id that is there is never denied");
        others.iter().filter(holds).count() as f64 / others.len() as f64
    }

    #[test]
    fn few_ids_that_are_not_there_may_be_there_whatever_ids_look_like() {
        let random: Vec<u128> = (0..20_000).map(|_| Uuid::new_v4().as_u128()).collect();
        let timed: Vec<u128> = (0..20_000).map(|_| Uuid::now_v7().as_u128()).collect();
        let low: Vec<u128> = (0..20_000).collect();
        let high: Vec<u128> = (0..20_000).map(|n| n << 100).collect();
        for ids in [random, timed, low, high] {
            let rate = hit_rate(&ids[..10_000], &ids[10_000..]);
            assert!(rate < 0.025, "{rate}");
        }
    }
}
