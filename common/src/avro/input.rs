//! The bytes of an Avro record, number by number. Nothing is copied.

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

/// Why bytes are not what the schema says, in words.
pub(super) type Mismatch = String;

fn ends(within: &str) -> Mismatch {
    format!("the data ends within {within}")
}

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Mismatch> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| ends(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Mismatch> {
        self.take(N, what)?.try_into().map_err(|_| ends(what))
    }

    /// A zigzag number of at most ten bytes.
    pub(super) fn long(&mut self) -> Result<i64, Mismatch> {
        let (mut number, mut shift) = (0_u64, 0_u32);
        for (at, byte) in self.0.iter().enumerate() {
            // The tenth byte holds the last bit.
            if shift == 63 && *byte > 1 {
                return Err("a number has more than 64 bits".to_owned());
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.0 = self.0.get(at + 1..).unwrap_or_default();
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
            shift += 7;
        }
        Err(ends("a number"))
    }

    pub(super) fn int(&mut self) -> Result<i32, Mismatch> {
        let number = self.long()?;
        i32::try_from(number).map_err(|_| format!("{number} is not an int"))
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Mismatch> {
        match self.array::<1>("a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("{other} is not a boolean")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Mismatch> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| format!("a length is {length}"))?;
        self.take(length, "a text or bytes")
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Mismatch> {
        std::str::from_utf8(self.bytes()?).map_err(|error| format!("a text is not UTF-8: {error}"))
    }

    /// The number of a symbol or of a branch.
    pub(super) fn index(&mut self) -> Result<usize, Mismatch> {
        let index = self.long()?;
        usize::try_from(index).map_err(|_| format!("the number of a symbol or branch is {index}"))
    }

    /// How many items the next block of an array or a map has; 0 at its end.
    pub(super) fn block(&mut self) -> Result<u64, Mismatch> {
        let count = self.long()?;
        if count < 0 {
            // Its size in bytes follows, for readers that skip the block.
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_zigzag_of_at_most_64_bits() {
        for (bytes, number) in [
            (&[0][..], 0),
            (&[1], -1),
            (&[2], 1),
            (&[0x80, 1], 64),
            (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MAX),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MIN),
        ] {
            assert_eq!(Input(bytes).long(), Ok(number));
        }
        assert!(Input(&[0xff; 9]).long().unwrap_err().contains("ends"));
        assert!(Input(&[0xff; 12]).long().unwrap_err().contains("64 bits"));
        assert!(Input(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).long().is_err());
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_nothing() {
        for bytes in [&[0xfe, 0xff, 0xff, 0xff, 0x0f, 1][..], &[3], &[4, b'a']] {
            assert!(Input(bytes).bytes().is_err());
        }
    }
}
