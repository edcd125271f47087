//! Zigzag varints of up to 64 bits, as protocol buffers have them.

/// Why no number could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VarintError {
    /// The bytes end within the number.
    Short,
    /// The number takes more than 64 bits.
    Overflow,
}

/// Takes a number from the front of `bytes`.
pub(super) fn read(bytes: &mut &[u8]) -> Result<i64, VarintError> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(VarintError::Short)?;
        *bytes = rest;
        // The tenth byte has room for the last of 64 bits.
        if shift == 63 && byte > 1 {
            return Err(VarintError::Overflow);
        }
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    Err(VarintError::Overflow)
}

/// Appends a number.
pub(super) fn write(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for value in [0, -1, 1, 63, -64, 64, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            assert_eq!(read(&mut bytes.as_slice()), Ok(value));
            bytes.pop();
            assert_eq!(read(&mut bytes.as_slice()), Err(VarintError::Short));
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert_eq!(read(&mut [0xff; 11].as_slice()), Err(VarintError::Overflow));
        let mut tenth = [0xff; 10];
        tenth[9] = 2;
        assert_eq!(read(&mut tenth.as_slice()), Err(VarintError::Overflow));
    }
}
