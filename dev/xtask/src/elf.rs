//! As much of the ELF format as tells whether a program needs anything of the system it runs on.

const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const ET_DYN: u64 = 3;

/// What an executable asks for when it starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// Position independent: `static-pie` where nothing else is needed.
    pub pie: bool,
    /// A dynamic loader.
    pub loader: bool,
    /// How many shared libraries.
    pub libraries: usize,
}

/// Reads a 64-bit little-endian ELF file. `None`: it is no such file.
pub fn needs(file: &[u8]) -> Option<Needs> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let mut needs = Needs { pie: number(file, 16, 2)? == ET_DYN, loader: false, libraries: 0 };
    let table = number(file, 32, 8)?;
    let entry_size = number(file, 54, 2)?;
    for index in 0..number(file, 56, 2)? {
        let header = table.checked_add(index * entry_size)?;
        match number(file, header, 4)? {
            PT_INTERP => needs.loader = true,
            PT_DYNAMIC => {
                let start = usize::try_from(number(file, header.checked_add(8)?, 8)?).ok()?;
                let size = usize::try_from(number(file, header.checked_add(32)?, 8)?).ok()?;
                let section = file.get(start..start.checked_add(size)?)?;
                let tags = section.chunks_exact(16).filter_map(|entry| number(entry, 0, 8));
                needs.libraries += tags.filter(|tag| *tag == DT_NEEDED).count();
            }
            _ => {}
        }
    }
    Some(needs)
}

/// The unsigned number of `size` bytes at `offset`.
fn number(file: &[u8], offset: u64, size: usize) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let bytes = file.get(start..start.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_linked_dynamically_when_built_for_glibc() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&own).unwrap();
        let glibc = cfg!(target_env = "gnu");
        assert_eq!((needs.loader, needs.libraries > 0), (glibc, glibc), "{needs:?}");
    }

    #[test]
    fn what_is_no_elf_file_or_is_cut_off_has_no_answer() {
        assert_eq!(needs(b"#!/bin/sh\necho hello"), None);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs(&own[..60]), None);
    }
}
