//! Schemas on disk, by id: what was seen once is known while the registry cannot be reached.
//!
//! # Invariants
//!
//! - *Ids of one registry alone.* Another registry gives the same ids to other schemas. So each set of addresses has a
//!   folder of its own, and one that was changed starts empty.
//! - *A file has its name once it is whole.* What cannot be read is asked for again, and never taken for a schema.
//! - *It is a cache.* A disk that fails costs a warning; what needs it goes on with the registry alone.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::address::Address;
use crate::disk::{self, FileSystem};
use crate::escape::hex;

/// The folder within a service's state.
const FOLDER: &str = "schemas";
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 2 << 20;

/// The schemas of one registry, on disk.
#[derive(Debug, Clone)]
pub struct SchemaCache {
    folder: Arc<Path>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    schema: String,
}

/// What a schema is registered as.
#[derive(Debug, Serialize, Deserialize)]
struct Registration {
    id: u32,
    schema: String,
}

impl SchemaCache {
    /// The cache of a registry within a service's state folder.
    pub fn new(state_dir: &Path, addresses: &[Address]) -> Self {
        let mut addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
        addresses.sort();
        Self { folder: state_dir.join(FOLDER).join(short_name(&addresses.join(","))).into() }
    }

    /// The schema of that id, if it was ever seen.
    pub async fn schema(&self, id: u32) -> Option<String> {
        self.read::<Stored>(format!("{id}.json")).await.map(|stored| stored.schema)
    }

    /// Keeps a schema.
    pub async fn keep_schema(&self, id: u32, schema: &str) {
        self.write(format!("{id}.json"), &Stored { schema: schema.to_owned() }).await;
    }

    /// The id of a schema of that subject, if it was ever registered from here.
    pub async fn registration(&self, subject: &str, schema: &str) -> Option<u32> {
        let stored: Registration = self.read(registration_file(subject)).await?;
        (stored.schema == schema).then_some(stored.id)
    }

    /// Keeps the id.
    pub async fn keep_registration(&self, subject: &str, schema: &str, id: u32) {
        self.write(registration_file(subject), &Registration { id, schema: schema.to_owned() }).await;
    }

    async fn read<T: for<'de> Deserialize<'de> + Send + 'static>(&self, name: String) -> Option<T> {
        let path = self.folder.join(name);
        let read = spawn_blocking(move || {
            let read = read_file(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            match read {
                Ok(stored) => Some(stored),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    log::warn!("{} cannot be read, and is asked for again: {error}", path.display());
                    None
                }
            }
        });
        read.await.ok().flatten()
    }

    async fn write(&self, name: String, value: &impl Serialize) {
        let path = self.folder.join(name);
        let Ok(bytes) = serde_json::to_vec(value) else { return };
        let write = spawn_blocking(move || {
            if let Err(error) = write_file(&path, &bytes) {
                log::warn!(
                    "{} cannot be kept: {error}; the registry is asked again after the next start",
                    path.display()
                );
            }
        });
        // Only a process that ends leaves it undone.
        let _ = write.await;
    }
}

fn registration_file(subject: &str) -> String {
    format!("subject-{}.json", short_name(subject))
}

/// A name for a text that may have any character: 64 bits of a hash.
fn short_name(text: &str) -> String {
    hex(Sha256::digest(text).iter().take(8))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, MAX_FILE), &mut bytes)?;
    Ok(bytes)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // By process: two of one state folder exclude each other, and a name that was left is replaced.
    disk::replace(&FileSystem, path, &path.with_extension("new"), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(urls: &[&str]) -> Vec<Address> {
        urls.iter().map(|url| url.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_was_kept_is_there_and_only_for_its_registry() {
        let dir = tempfile::tempdir().unwrap();
        let cache = SchemaCache::new(dir.path(), &addresses(&["http://a:1", "http://b:1"]));
        assert_eq!(cache.schema(7).await, None);
        cache.keep_schema(7, "\"string\"").await;
        cache.keep_schema(7, "\"string\"").await;
        cache.keep_registration("s", "\"string\"", 7).await;
        let same = SchemaCache::new(dir.path(), &addresses(&["http://b:1", "http://a:1"]));
        assert_eq!(same.schema(7).await.as_deref(), Some("\"string\""));
        assert_eq!(same.registration("s", "\"string\"").await, Some(7));
        assert_eq!(same.registration("s", "\"long\"").await, None, "another schema");
        let other = SchemaCache::new(dir.path(), &addresses(&["http://c:1"]));
        assert_eq!(other.schema(7).await, None);
    }

    #[tokio::test]
    async fn a_file_that_is_damaged_is_no_schema() {
        let dir = tempfile::tempdir().unwrap();
        let cache = SchemaCache::new(dir.path(), &addresses(&["http://a:1"]));
        cache.keep_schema(7, "\"string\"").await;
        std::fs::write(cache.folder.join("7.json"), "{\"sch").unwrap();
        // What a process left that died in between.
        std::fs::write(cache.folder.join("7.new"), "{").unwrap();
        assert_eq!(cache.schema(7).await, None);
        cache.keep_schema(7, "\"string\"").await;
        assert_eq!(cache.schema(7).await.as_deref(), Some("\"string\""));
    }
}
