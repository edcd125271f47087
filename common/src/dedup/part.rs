//! Parts of files: each ends with the checksum of what is before it, which also covers where it belongs.

/// Bytes of the checksum.
pub(super) const CHECKSUM: usize = 4;

/// Writes the checksum into the last bytes of the part.
pub(super) fn seal(part: &mut [u8], file: u64, at: u64) {
    if let Some((content, checksum)) = part.split_last_chunk_mut::<CHECKSUM>() {
        *checksum = checksum_of(content, file, at).to_le_bytes();
    }
}

/// Whether the part is as it was sealed, in that file, at that byte.
pub(super) fn is_whole(part: &[u8], file: u64, at: u64) -> bool {
    part.split_last_chunk::<CHECKSUM>()
        .is_some_and(|(content, checksum)| checksum_of(content, file, at).to_le_bytes() == *checksum)
}

/// CRC-32C, seeded with the place: a page of another file or place, and one of zeros, is not whole.
pub(super) fn checksum_of(content: &[u8], file: u64, at: u64) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&file.to_le_bytes()), &at.to_le_bytes());
    crc32c::crc32c_append(place, content)
}
