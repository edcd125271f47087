//! Which file a name leads to, asked in a way that makes the next write cost no more.
//!
//! Since Linux 6.13, whoever asks for a file's times makes its next write take a new time, and the sync after that
//! write the inode as well: a third write to the disk for each sync of a log that is written in place (measured on
//! ext4 without a journal: 223 µs where 167 µs were enough). `stat` asks for the times; `statx` returns what its mask names.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A device and a file on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

/// The file of that name.
#[cfg(target_os = "linux")]
pub(super) fn of(path: &Path) -> io::Result<FileIdentity> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
    match statx(CWD, path, AtFlags::empty(), StatxFlags::INO) {
        Ok(found) => Ok(FileIdentity {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        }),
        // A kernel or a filter of system calls that is older than the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => of_stat(path),
        Err(error) => Err(error.into()),
    }
}

/// The file of that name.
#[cfg(not(target_os = "linux"))]
pub(super) fn of(path: &Path) -> io::Result<FileIdentity> {
    of_stat(path)
}

fn of_stat(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::metadata(path)?;
    Ok(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_apart_from_one_that_took_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other, link] = ["file", "other", "link"].map(|name| folder.path().join(name));
        assert_eq!(of(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let first = of(&path).unwrap();
        assert_eq!(first, of_stat(&path).unwrap());
        assert_eq!(of(&link).unwrap(), of(&other).unwrap());
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(of(&path).unwrap(), first);
    }
}
