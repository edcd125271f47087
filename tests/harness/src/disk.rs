//! Disks that get full, disks that fail, and disks that hang.

use crate::{Error, Result, temporary_folder};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A small file system in memory. Unmounted when dropped.
pub struct SmallDisk {
    mounted: Mounted,
}

impl SmallDisk {
    /// One of that many KiB. `None`, written to standard error, where this user may not mount.
    pub fn mount(kib: u32) -> Option<Self> {
        let size = format!("size={kib}k");
        let mounted = Mounted::new(Path::new("tmpfs"), &["-t", "tmpfs", "-o", &size]);
        let mounted = possible("no small disk can be mounted, so a full one is not tried", mounted)?;
        Some(Self { mounted })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Takes all free space.
    pub fn fill(&self) -> Result<()> {
        let filler = self.filler();
        let mut file = File::create(&filler).map_err(|error| Error::file(&filler, error))?;
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
        Ok(())
    }

    /// Gives the space back.
    pub fn free_space(&self) -> Result<()> {
        let filler = self.filler();
        fs::remove_file(&filler).map_err(|error| Error::file(&filler, error))
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

/// A disk that can fail: while it does, nothing that is written reaches it, and every sync ends with an I/O
/// error (EIO). Writes themselves succeed, as with a real disk: they are in memory. And as with a real one,
/// the system may call pages clean that a failed sync did not write: only writing them again does.
///
/// It is a loop device whose image lies on another: a file that is immutable (`chattr +i`) refuses writes,
/// and the block device on it passes that on as EIO. Without a journal, which would turn its first failure
/// into a file system that is read-only until it is mounted again. And with `dioread_lock`: without it ext4
/// marks new blocks as unwritten until their first write has succeeded, and where that one failed for good,
/// however often they are written afterwards. What was synced then reads as zeros once it is read from disk.
pub struct FailingDisk {
    // In this order: the disk is unmounted before what it lies on.
    disk: Mounted,
    below: Mounted,
    kib: u32,
    _folder: TempDir,
}

const NO_FAILING_DISK: &str = "no failing disk can be mounted, so I/O errors are not tried";

impl FailingDisk {
    /// One of that many KiB. `None`, written to standard error, where this user may not mount, or there is no
    /// loop device.
    pub fn mount(kib: u32) -> Option<Self> {
        possible(NO_FAILING_DISK, Self::try_mount(kib, |image| format(image, kib)))
    }

    fn try_mount(kib: u32, make: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let folder = temporary_folder()?;
        let base = folder.path().join("image");
        // Space for the image and for what its file system needs.
        format(&base, kib + kib / 8 + 8 * 1024)?;
        let below = Mounted::new(&base, &["-o", "loop"])?;
        let image = below.path().join("image");
        make(&image)?;
        let disk = Mounted::new(&image, &["-o", "loop,errors=continue,dioread_lock"])?;
        Ok(Self { disk, below, kib, _folder: folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// From now on nothing reaches the disk.
    pub fn fail(&self) -> Result<()> {
        run("chattr", &["+i"], &[&self.image()])
    }

    /// The disk is good again.
    pub fn mend(&self) -> Result<()> {
        run("chattr", &["-i"], &[&self.image()])
    }

    /// From now on whatever writes or syncs on this disk hangs, as on a network disk whose server is unreachable.
    pub fn hang(&self) -> Result<()> {
        run("fsfreeze", &["--freeze"], &[self.path()])
    }

    /// The same until the guard is dropped. Declared after the services on this disk, it is dropped before
    /// them when a test fails: a process that waits for a frozen disk cannot be killed.
    pub fn hang_until_dropped(&self) -> Result<Hang<'_>> {
        self.hang()?;
        Ok(Hang(self))
    }

    /// What hangs continues.
    pub fn release(&self) -> Result<()> {
        run("fsfreeze", &["--unfreeze"], &[self.path()])
    }

    /// Another disk, with what this one would hold after a power cut now: only what reached it. Its file system
    /// has no journal, and was checked, as at a boot: else what was allocated may be allocated once more.
    pub fn after_power_cut(&self) -> Result<Self> {
        let copy = |image: &Path| {
            run("cp", &["--sparse=always"], &[&self.image(), image])?;
            check(image)
        };
        Self::try_mount(self.kib, copy)
    }

    fn image(&self) -> PathBuf {
        self.below.path().join("image")
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Fails where it does not hang. Who waits for it could not be killed otherwise.
        let _ = run("fsfreeze", &["--unfreeze"], &[self.path()]);
    }
}

/// A disk hangs for as long as this lives.
#[must_use]
pub struct Hang<'a>(&'a FailingDisk);

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        // Fails where it does not hang any more.
        let _ = self.0.release();
    }
}

/// A mounted file system. Unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(what: &Path, options: &[&str]) -> Result<Self> {
        let folder = temporary_folder()?;
        run("mount", options, &[what, folder.path()])?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a service of the test may still hold files on it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A file that holds an empty file system.
fn format(image: &Path, kib: u32) -> Result<()> {
    let file = File::create(image).and_then(|file| file.set_len(u64::from(kib) * 1024));
    file.map_err(|error| Error::file(image, error))?;
    run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0"], &[image])
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(options).args(paths).output();
    let output = output.map_err(|error| Error::process(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::process(program, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Checks a file system, and mends it: 1 says that there was something to mend.
fn check(image: &Path) -> Result<()> {
    let output = Command::new("e2fsck").arg("-fy").arg(image).output();
    let output = output.map_err(|error| Error::process("e2fsck", error))?;
    if matches!(output.status.code(), Some(0 | 1)) {
        return Ok(());
    }
    Err(Error::process("e2fsck", String::from_utf8_lossy(&output.stdout).trim()))
}

/// `None`, written to standard error, where it is not possible.
fn possible<T>(without: &str, result: Result<T>) -> Option<T> {
    result.map_err(|why| eprintln!("{without}: {why}")).ok()
}
