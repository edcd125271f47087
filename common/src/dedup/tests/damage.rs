//! A bit that the disk lost is found, and said in one line; never is a known id taken for a new one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::super::manifest::{Listed, Piece};
use super::super::run::Run;
use super::*;

const WINDOW: Retention = Retention::Window(Duration::from_secs(60));

struct Rig {
    dir: tempfile::TempDir,
    ids: Vec<Uuid>,
}

impl Rig {
    /// 400 ids in runs, and the last of them in the log.
    fn new() -> Self {
        let (dir, ids) = (tempfile::tempdir().unwrap(), ids(400));
        let dedup = Dedup::open(&dir.path().join("dedup"), WINDOW).unwrap();
        dedup.record_at(&ids[..300], None, since_1970()).unwrap();
        drop(dedup);
        let dedup = Dedup::open(&dir.path().join("dedup"), WINDOW).unwrap();
        for batch in ids[300..].chunks(50) {
            dedup.record_at(batch, None, since_1970()).unwrap();
        }
        drop(dedup);
        Self { dir, ids }
    }

    fn file(&self, kind: &str) -> PathBuf {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|name| name.to_string_lossy().contains(kind)).max().unwrap()
    }

    /// What a start finds of the ids.
    fn known(&self) -> Result<Vec<bool>, DedupError> {
        let dedup = Dedup::open(&self.dir.path().join("dedup"), WINDOW)?;
        Ok(dedup.numbers(&self.ids)?.iter().map(Option::is_some).collect())
    }
}

fn is_one_line_that_names(error: &DedupError, file: &str) -> bool {
    let line = error.to_string();
    line.contains(file)
        && line.contains("is damaged")
        && line.contains("move all its files away")
        && !line.contains('\n')
}

#[test]
fn a_bit_that_is_lost_in_a_run_is_found_wherever_it_is() {
    let rig = Rig::new();
    let name = rig.file(".run-");
    let number: u64 = name.to_string_lossy().rsplit('-').next().unwrap().parse().unwrap();
    let path = rig.dir.path().join("dedup");
    let listed = Listed { number, until: 0, first: 0, pieces: vec![Piece { ids: 300, end: 300 }] };
    let whole = fs::read(&name).unwrap();
    let mut sorted: Vec<(u128, usize)> = rig.ids.iter().map(Uuid::as_u128).zip(0..).collect();
    sorted.sort_unstable();
    let mut found = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&name, &bytes).unwrap();
        let known = Run::open(&FileSystem, &path, &listed).and_then(|run| {
            let mut found = vec![None; sorted.len()];
            run.find(&sorted, None, &mut found, 0)?;
            Ok(found.iter().map(Option::is_some).collect())
        });
        match known {
            Ok::<Vec<bool>, _>(known) => {
                assert!(known[..300].iter().all(|known| *known), "byte {at}");
                assert!(!known[300..].iter().any(|known| *known), "byte {at}");
            }
            Err(failure) => {
                assert!(is_one_line_that_names(&rig_error(&path, &failure), "run"), "{failure}");
                found += 1;
            }
        }
    }
    // Of the filter, only the block of an id that is asked for is read.
    assert!(found > whole.len() * 9 / 10, "{found} of {}", whole.len());
}

fn rig_error(path: &Path, failure: &Failure) -> DedupError {
    DedupError { path: path.display().to_string(), detail: failure.to_string() }
}

#[test]
fn a_damaged_log_is_refused_unless_its_last_batch_may_have_been_torn() {
    let rig = Rig::new();
    let name = rig.file(".log-");
    let whole = fs::read(&name).unwrap();
    let frame = (whole.len() - 32) / 2;
    for at in [40, 32 + frame - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&name, &bytes).unwrap();
        let error = rig.known().unwrap_err();
        assert!(is_one_line_that_names(&error, "dedup.log-"), "{error}");
    }
    let mut bytes = whole.clone();
    bytes[32 + frame] ^= 1;
    fs::write(&name, &bytes).unwrap();
    let known = rig.known().unwrap();
    assert!(known[..350].iter().all(|known| *known) && !known[350..].iter().any(|known| *known));
}

#[test]
fn a_file_that_is_missing_cut_or_another_is_named() {
    for kind in [".log-", ".run-", "dedup"] {
        let rig = Rig::new();
        let name = if kind == "dedup" { rig.dir.path().join("dedup") } else { rig.file(kind) };
        let whole = fs::read(&name).unwrap();
        if kind != "dedup" {
            fs::remove_file(&name).unwrap();
            let error = rig.known().unwrap_err();
            assert!(is_one_line_that_names(&error, kind) && error.to_string().contains("missing"), "{error}");
        }
        if kind != ".log-" {
            fs::write(&name, &whole[..whole.len() / 2]).unwrap();
            assert!(is_one_line_that_names(&rig.known().unwrap_err(), kind), "{kind}");
        }
        fs::write(&name, &whole).unwrap();
        assert!(rig.known().unwrap().iter().all(|known| *known), "nothing was changed");
    }
}

#[test]
fn a_state_whose_manifest_was_moved_away_begins_empty_and_leaves_nothing() {
    let rig = Rig::new();
    fs::rename(rig.dir.path().join("dedup"), rig.dir.path().join("moved")).unwrap();
    assert!(!rig.known().unwrap().iter().any(|known| *known));
    let names = fs::read_dir(rig.dir.path()).unwrap().count();
    assert_eq!(names, 3, "the manifest, its log, and what was moved");
}

#[test]
fn a_window_is_not_taken_for_what_is_kept_for_ever() {
    let rig = Rig::new();
    let error = Dedup::open(&rig.dir.path().join("dedup"), Retention::ForeverRebuildable).unwrap_err();
    assert!(is_one_line_that_names(&error, "dedup"), "{error}");
}
