//! What durable state asks of a file system: databases and files are opened, and names are made, moved,
//! removed and made durable.
//!
//! Services use [`FileSystem`]. Tests put a recording in its place, which brings back every state that a
//! power cut may leave.

mod identity;
mod lock;

pub use identity::FileIdentity;
pub use lock::lock_soon;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError};

/// A file system.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a database, or makes it: see [`open_or_create`].
    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Opens a database that is there.
    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Whether there is anything of that name, be it a link that leads nowhere. A disk that does not say is an
    /// error: what is there must not be taken for missing, and be replaced.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// What tells the file of that name apart from one that takes its place, as long as it is open.
    fn identity(&self, path: &Path) -> io::Result<FileIdentity>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a file that was not there and writes it. The content is on disk when this returns, the name
    /// after [`sync_folder`](Self::sync_folder).
    fn write_new(&self, path: &Path, content: &mut dyn Read) -> io::Result<()>;

    /// Makes the names in the file's folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes an empty file that was not there. Its name is durable after [`sync_folder`](Self::sync_folder).
    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there, for reading and writing.
    fn open_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// All that is in the file's folder.
    fn all_beside(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// An open file that is read and written at positions.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads what there is from that byte on, at most as much as fits; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of it; behind the end the file grows.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes the content durable, and the length as far as it is needed for that.
    fn sync_data(&self) -> io::Result<()>;

    /// Fills the buffer from that byte on.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// Opens a database, or makes it. Its name is durable when this returns, also where the process that made
/// it died before that.
///
/// A new one gets its name once it is whole: redb refuses a file whose making was cut short, and such a file
/// would keep a service from ever starting again. So an empty one is damage, too, and is not taken for a new one.
pub fn open_or_create(disk: &dyn Disk, path: &Path, builder: &Builder) -> Result<Database, redb::Error> {
    let database = if disk.exists(path)? {
        disk.open(path, builder)?
    } else {
        let fresh = path.with_extension("new");
        if disk.exists(&fresh)? {
            disk.remove(&fresh)?;
        }
        let database = disk.create(&fresh, builder)?;
        disk.rename(&fresh, path)?;
        database
    };
    disk.sync_folder(path)?;
    Ok(database)
}

/// Gives a file its content at once: a power cut leaves the old content or the new one. It is made under the second
/// name first.
pub fn replace(disk: &dyn Disk, path: &Path, new: &Path, content: &[u8]) -> io::Result<()> {
    if disk.exists(new)? {
        // For good, or a power cut might give the file's name to this one, which may be torn.
        disk.remove(new)?;
        disk.sync_folder(new)?;
    }
    disk.write_new(new, &mut &*content)?;
    disk.rename(new, path)?;
    disk.sync_folder(path)
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct FileSystem;

impl Disk for FileSystem {
    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create(path)
    }

    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.open(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        identity::of(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn write_new(&self, path: &Path, content: &mut dyn Read) -> io::Result<()> {
        let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
        io::copy(content, &mut file)?;
        file.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(folder_of(path))?.sync_all()
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn all_beside(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder_of(path))?.map(|entry| Ok(entry?.path())).collect()
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes all durable that was written on the file system with that folder, if the system has a call for it: one wait,
/// however many files there are. Linux before 5.8 does not report a write that fails then: whoever reads it finds it.
///
/// # Errors
/// The folder cannot be opened, or something could not be written.
pub fn sync_all_beside(folder: &Path) -> io::Result<bool> {
    let folder = File::open(folder)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder)?;
    drop(folder);
    Ok(cfg!(target_os = "linux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_whose_making_was_cut_short_is_recreated_and_one_that_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let cut_short = path.with_extension("new");
        // What redb leaves when it dies between the file's length and its first page.
        fs::write(&cut_short, [0; 4096]).unwrap();
        assert!(FileSystem.create(&cut_short, &Builder::new()).is_err());

        let table = redb::TableDefinition::<u64, u64>::new("table");
        let database = open_or_create(&FileSystem, &path, &Builder::new()).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(table).unwrap().insert(1, 2).unwrap();
        write.commit().unwrap();
        drop(database);
        assert!(!cut_short.exists());

        // A disk that is not mounted: its database is not replaced by an empty one.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("not-mounted/state"), &link).unwrap();
        assert!(open_or_create(&FileSystem, &link, &Builder::new()).is_err());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        // What a copy that found no free space leaves, or a check of the file system.
        let emptied = dir.path().join("emptied");
        fs::write(&emptied, []).unwrap();
        assert!(open_or_create(&FileSystem, &emptied, &Builder::new()).is_err());

        let database = open_or_create(&FileSystem, &path, &Builder::new()).unwrap();
        let read = redb::ReadableDatabase::begin_read(&database).unwrap();
        assert_eq!(read.open_table(table).unwrap().get(1).unwrap().unwrap().value(), 2);
    }
}
