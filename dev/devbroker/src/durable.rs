//! File steps that survive a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the file's content so that after a crash either the old or the new one is there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    let temporary = Path::new(&name);
    let mut file = File::create(temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes created, renamed and removed names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
