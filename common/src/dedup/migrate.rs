//! A store of the version before, which was a redb file of the manifest's name: its ids are put into runs, and
//! the manifest takes the file's place. A crash before that leaves the file as it was.
//!
//! Ids come sorted out of redb, so each bucket is one run, and memory is bounded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::manifest::Manifest;
use super::write::RunWriter;
use super::{Config, Failure};

/// What a redb file begins with.
const REDB: &[u8] = b"redb";
/// Id → when it was recorded, in milliseconds since 1970; where all are kept, its number.
const IDS: TableDefinition<[u8; 16], u64> = TableDefinition::new("ids");
const MARK: TableDefinition<(), &[u8]> = TableDefinition::new("mark");
/// Memory that redb may use for pages, in bytes.
const CACHE: usize = 2 << 20;

/// Whether a file that begins so is a store of the version before.
pub(super) fn is_old(start: &[u8]) -> bool {
    start.starts_with(REDB)
}

/// Writes the runs, and returns the manifest that names them. Nothing refers to them before it is saved.
pub(super) fn migrate(config: &Config, now: u64) -> Result<Manifest, Failure> {
    let Config { disk, path, .. } = config;
    ::log::info!("dedup state {}: moving the ids of the previous version into runs", path.display());
    let database: Database = disk.open(path, Database::builder().set_cache_size(CACHE)).map_err(redb)?;
    let read = database.begin_read().map_err(redb)?;
    let mut manifest = Manifest::new(config.is_numbered());
    if let Some(mark) = read.open_table(MARK).map_err(redb)?.get(()).map_err(redb)? {
        manifest.set_mark(Some(mark.value()));
    }
    let mut runs: BTreeMap<u64, (u64, RunWriter)> = BTreeMap::new();
    for entry in read.open_table(IDS).map_err(redb)?.iter().map_err(redb)? {
        let (id, value) = entry.map_err(redb)?;
        let (key, value) = (u128::from_be_bytes(id.value()), value.value());
        // A time that the clock has not reached is no reason to keep an id for longer than a new one.
        let until = config.bucket(value.min(now));
        if config.is_expired(until, now) {
            continue;
        }
        let (_, run) = match runs.entry(until) {
            Entry::Occupied(run) => run.into_mut(),
            Entry::Vacant(bucket) => {
                let number = manifest.take_run();
                bucket.insert((number, RunWriter::new(&**disk, path, number)?))
            }
        };
        let number = if config.is_numbered() { value } else { manifest.total };
        run.push((key, number))?;
        manifest.total += 1;
    }
    for (until, (number, run)) in runs {
        manifest.replace(&[], run.finish()?.map(|written| written.listed(number, until)));
    }
    ::log::info!("dedup state {}: moved {} ids", path.display(), manifest.total);
    Ok(manifest)
}

fn redb(error: impl Into<redb::Error>) -> Failure {
    Failure::Redb(Box::new(error.into()))
}
