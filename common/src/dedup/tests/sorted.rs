//! Ids that come sorted, nearly, or not for a while: pieces are appended to runs, and all is as with runs of their
//! own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::manifest::{Listed, Manifest};
use super::*;

const HOUR: u64 = 60 * 60 * 1_000;
const WINDOW: Retention = Retention::Window(Duration::from_millis(100 * HOUR));
const FOR_EVER: Retention = Retention::ForeverRebuildable;

/// How the ids of a batch are chosen.
#[derive(Debug, Clone)]
enum Ids {
    /// The next ones, some a little too late.
    Next(usize),
    Random(Vec<u64>),
    /// The next ones, and one far above.
    Outlier(usize),
    /// Some that were there: each so many parts of 64 of the way.
    Again(Vec<u64>),
}

#[derive(Debug, Clone)]
enum Step {
    Add(Ids),
    /// Keeps so many of 16 parts.
    Truncate(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ids = prop_oneof![
        12 => (1..14_usize).prop_map(Ids::Next),
        2 => vec(any::<u64>(), 0..8).prop_map(Ids::Random),
        1 => (0..6_usize).prop_map(Ids::Outlier),
        2 => vec(0..64_u64, 0..6).prop_map(Ids::Again),
    ];
    let step = prop_oneof![
        16 => ids.prop_map(Step::Add),
        1 => (0..=16_u64).prop_map(Step::Truncate),
        1 => Just(Step::Restart),
    ];
    vec(step, 1..90)
}

/// Makes the ids of batches.
#[derive(Default)]
struct Source {
    next: u64,
    made: Vec<Uuid>,
}

impl Source {
    fn next(&mut self, count: usize) -> Vec<Uuid> {
        // In each group of eight, two have changed places.
        let swapped = |n: u64| {
            if n % 8 == 2 {
                n + 4
            } else if n % 8 == 6 {
                n - 4
            } else {
                n
            }
        };
        let ids = (self.next..).take(count).map(|n| Uuid::from_u64_pair((1 << 40) + swapped(n), n));
        self.next += count as u64;
        ids.collect()
    }

    fn batch(&mut self, ids: &Ids) -> Vec<Uuid> {
        let batch = match ids {
            Ids::Next(count) => self.next(*count),
            Ids::Random(highs) => highs.iter().map(|high| Uuid::from_u64_pair(*high, 1)).collect(),
            Ids::Outlier(count) => {
                let mut batch = self.next(*count);
                batch.push(Uuid::from_u64_pair(u64::MAX - 64, self.made.len() as u64));
                batch
            }
            Ids::Again(parts) => {
                let at = |part: &u64| self.made.get(self.made.len() * *part as usize / 64).copied();
                parts.iter().filter_map(at).collect()
            }
        };
        self.made.extend(&batch);
        batch
    }
}

/// Does the steps, and compares all numbers with those of a map after each.
fn numbers_are_those_of_a_map(
    steps: Vec<Step>,
    retention: Retention,
    tuning: Tuning,
) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let open = || Dedup::open_with(Arc::new(FileSystem), &path, retention, tuning).unwrap();
    let (mut dedup, mut source, mut model) = (open(), Source::default(), BTreeMap::<Uuid, u64>::new());
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Add(ids) => {
                let batch = source.batch(&ids);
                if retention == FOR_EVER {
                    for id in &batch {
                        let next = model.len() as u64;
                        model.entry(*id).or_insert(next);
                    }
                    let total = dedup.append(&batch, false, |_| Vec::new()).unwrap();
                    prop_assert_eq!(total, model.len() as u64);
                } else {
                    // Several buckets, none of which is over.
                    let now = since_1970() - (at as u64 / 16) * 18 * HOUR;
                    let first = dedup.record_at(&batch, None, now).unwrap();
                    model.extend(batch.into_iter().zip(first..));
                }
            }
            Step::Truncate(parts) if retention == FOR_EVER => {
                let kept = model.len() as u64 * parts / 16;
                model.retain(|_, number| *number < kept);
                dedup.truncate(kept, b"cut").unwrap();
            }
            Step::Truncate(_) => {}
            Step::Restart => {
                drop(dedup);
                dedup = open();
            }
        }
        let mut asked = source.made.clone();
        asked.extend((0..40).map(|n| Uuid::from_u64_pair((1 << 40) + 10_000 + n, 3)));
        let expected: Vec<Option<u64>> = asked.iter().map(|id| model.get(id).copied()).collect();
        prop_assert_eq!(dedup.numbers(&asked).unwrap(), expected);
        if retention == FOR_EVER {
            prop_assert_eq!(dedup.len().unwrap(), model.len() as u64);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sorted_ids_that_are_kept_for_ever_have_their_numbers(
        steps in steps(), in_background in any::<bool>(), filters in any::<bool>(),
    ) {
        let filter_bytes = if filters { 1 << 20 } else { 0 };
        numbers_are_those_of_a_map(steps, FOR_EVER, Tuning { filter_bytes, in_background, ..small() })?;
    }

    #[test]
    fn sorted_ids_of_a_window_have_the_last_of_their_numbers(
        steps in steps(), in_background in any::<bool>(), filters in any::<bool>(),
    ) {
        let filter_bytes = if filters { 1 << 20 } else { 0 };
        numbers_are_those_of_a_map(steps, WINDOW, Tuning { filter_bytes, in_background, ..small() })?;
    }
}

pub(super) fn runs(path: &Path) -> Vec<Listed> {
    Manifest::from_bytes(path, &fs::read(path).unwrap()).unwrap().runs
}

pub(super) fn pieces(path: &Path) -> Vec<usize> {
    runs(path).iter().map(|run| run.pieces.len()).collect()
}

/// Adds the next ids, in batches.
fn add(dedup: &Dedup, source: &mut Source, count: usize, batch: usize) {
    for _ in 0..count / batch {
        dedup.append_new(&source.next(batch), false, |_| Vec::new()).unwrap();
    }
}

#[test]
fn of_a_million_nearly_sorted_ids_each_is_written_once_and_runs_and_open_files_are_few() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let tuning = Tuning { ids_in_memory: 4_096, filter_bytes: 1 << 20, in_background: false };
    let open = || Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, tuning).unwrap();
    let (mut dedup, mut source, ids) = (open(), Source::default(), 1_000_000);
    for part in 0..10 {
        add(&dedup, &mut source, ids / 10, 500);
        // A start appends as well.
        if part % 4 == 3 {
            drop(dedup);
            dedup = open();
        }
        let open_files = fs::read_dir("/proc/self/fd").unwrap();
        let targets = open_files.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let open_files = targets.filter(|target| target.starts_with(dir.path())).count();
        assert!(open_files <= 12, "{open_files} open files");
        assert!(runs(&path).len() <= 10, "{:?}", pieces(&path));
    }
    // It was never read into another run, and holds all but what came late or is in the log.
    let first = runs(&path).into_iter().find(|run| run.number == 1).expect("the first run");
    assert!(first.ids() > 985_000, "{}", first.ids());
    drop(dedup);
    let dedup = open();
    assert_eq!(dedup.len().unwrap(), ids as u64);
    let mut again = Source::default();
    let all = again.next(ids);
    let (asked, numbers): (Vec<Uuid>, Vec<Option<u64>>) =
        all.into_iter().zip((0..).map(Some)).step_by(7).unzip();
    assert_eq!(dedup.numbers(&asked).unwrap(), numbers);
}

#[test]
fn after_an_outlier_the_next_ids_begin_another_run_and_go_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let dedup = Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, small()).unwrap();
    let mut source = Source::default();
    add(&dedup, &mut source, 200, 5);
    let before = pieces(&path)[0];
    dedup.append_new(&[Uuid::max()], false, |_| Vec::new()).unwrap();
    add(&dedup, &mut source, 200, 5);
    let after = pieces(&path);
    assert!(before > 8 && after[0] <= before + 2, "{before}, then {after:?}");
    assert!(after[1..].iter().any(|count| *count > 8), "{after:?}");
    assert_eq!(dedup.numbers(&[Uuid::max()]).unwrap(), [Some(200)]);
}

#[test]
fn a_run_that_is_merged_is_not_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let dedup = Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, small()).unwrap();
    add(&dedup, &mut Source::default(), 200, 5);
    let engine = dedup.0.opened().unwrap();
    let loaded = Arc::clone(&lock(&engine.view).runs);
    let entries = || (0..16).map(|n| (u128::MAX - 16 + n, 300 + n as u64)).collect::<Vec<_>>();
    let mut manifest = lock(&engine.manifest).clone();
    let count = manifest.runs.len();
    let all: Vec<u64> = manifest.runs.iter().map(|run| run.number).collect();
    let put = |busy: &[u64], number| {
        engine.config.put_into_runs(&loaded, busy, number, manifest::FOR_EVER, entries())
    };
    put(&[], 1_000).unwrap().list_in(&mut manifest);
    assert_eq!(manifest.runs.len(), count, "a piece");
    put(&all, 1_001).unwrap().list_in(&mut manifest);
    assert_eq!(manifest.runs.len(), count + 1, "a run of its own");
}

#[test]
fn ids_whose_log_ends_while_their_run_is_merged_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let open = |in_background| {
        let tuning = Tuning { ids_in_memory: 9_000, filter_bytes: 1 << 20, in_background };
        Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, tuning).unwrap()
    };
    let mut source = Source::default();
    add(&open(false), &mut source, 36_000, 500);
    let dedup = open(true);
    let engine = dedup.0.opened().unwrap();
    // What the thread would do comes in the middle of the merge.
    lock(&engine.worker.thread).is_running = true;
    add(&dedup, &mut source, 10_000, 500);
    assert!(lock(&engine.view).frozen.is_some());
    engine.merge(&[1]).unwrap();
    assert!(lock(&engine.view).frozen.is_none());
    lock(&engine.worker.thread).is_running = false;
    let all = Source::default().next(46_000);
    assert!(dedup.numbers(&all).unwrap().into_iter().eq((0..46_000).map(Some)));
}

#[test]
fn a_cut_anywhere_in_pieces_leaves_the_ids_before_it_and_more_can_follow() {
    for kept in (0..=150).step_by(3) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dedup");
        let open = || Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, small()).unwrap();
        let mut source = Source::default();
        let dedup = open();
        add(&dedup, &mut source, 150, 5);
        assert!(pieces(&path)[0] > 6);
        let before = runs(&path)[0].clone();
        dedup.truncate(kept, b"cut").unwrap();
        let mut ids = Source::default().next(150)[..kept as usize].to_vec();
        let left = runs(&path).into_iter().find(|run| run.number == before.number);
        let whole = before.pieces.iter().filter(|piece| piece.end <= kept).count();
        assert_eq!(left.map_or(0, |run| run.pieces.len()), whole, "of {kept}");
        for round in 0..3 {
            let more = source.next(25);
            ids.extend(&more);
            let mark = |total: u64| total.to_le_bytes().to_vec();
            for batch in more.chunks(5) {
                dedup.append_new(batch, false, mark).unwrap();
            }
            let numbers = dedup.numbers(&ids).unwrap();
            assert!(numbers.into_iter().eq((0..ids.len() as u64).map(Some)), "{kept}, round {round}");
        }
        // Where pieces are not listed any more, a reader may still see them until the next start.
        let after = runs(&path).into_iter().find(|run| run.number == before.number);
        let may_grow = whole == before.pieces.len();
        assert!(may_grow || after.is_none_or(|run| run.pieces.len() == whole), "{kept}");
        drop(dedup);
        assert!(open().numbers(&ids).unwrap().into_iter().eq((0..ids.len() as u64).map(Some)), "{kept}");
    }
}

fn file(dir: &Path, kind: &str) -> PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|name| name.to_string_lossy().contains(kind)).min().unwrap()
}

#[test]
fn a_bit_that_is_lost_in_a_piece_is_found_and_the_piece_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedup");
    let open = || Dedup::open_with(Arc::new(FileSystem), &path, FOR_EVER, small());
    let dedup = open().unwrap();
    add(&dedup, &mut Source::default(), 60, 5);
    drop(dedup);
    // A start puts what is in the log into runs; the next ones find nothing in it.
    drop(open().unwrap());
    let count = pieces(&path)[0];
    assert!(count >= 3, "{count}");
    let run = file(dir.path(), ".run-1");
    let whole = fs::read(&run).unwrap();
    let asked = Source::default().next(60);
    let mut named = vec![0; count];
    for at in (0..whole.len()).step_by(61) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&run, &bytes).unwrap();
        match open().and_then(|dedup| dedup.numbers(&asked)) {
            Ok(numbers) => assert!(numbers.into_iter().eq((0..60).map(Some)), "byte {at}"),
            Err(error) => {
                // A page is 4,096 bytes, and the rest of a piece of 16 ids no more than another.
                let (line, piece) = (error.to_string(), at / 8_192);
                assert!(line.contains(&format!("in piece {} of {count},", piece + 1)), "byte {at}: {line}");
                assert!(line.contains("dedup") && !line.contains('\n'), "{line}");
                named[piece] += 1;
            }
        }
    }
    assert!(named.iter().all(|found| *found > 60), "{named:?}");
    // Behind the pieces that are listed, bytes mean nothing; they must be there.
    fs::write(&run, [&whole[..], b"what a crash left"].concat()).unwrap();
    assert!(open().unwrap().numbers(&asked).unwrap().into_iter().eq((0..60).map(Some)));
    fs::write(&run, &whole[..whole.len() - 1]).unwrap();
    assert!(open().unwrap_err().to_string().contains("shorter"));
}

/// Written by the version before, with runs of one piece, and left open.
#[test]
fn a_state_of_the_version_before_opens_and_grows() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dedup-v1");
    let id = |n: u64| match n {
        0..12 => Uuid::from_u64_pair(n << 16, 7),
        _ => Uuid::from_u64_pair(n.reverse_bits(), 7),
    };
    let kinds = [("forever", FOR_EVER), ("window", Retention::Window(Duration::from_secs(3_000_000_000)))];
    for (kind, retention) in kinds {
        let dir = tempfile::tempdir().unwrap();
        for name in fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()) {
            let to = name.file_name().unwrap().to_str().unwrap().strip_prefix(kind);
            if let Some(to) = to.and_then(|to| to.strip_prefix('.')) {
                fs::copy(&name, dir.path().join(to)).unwrap();
            }
        }
        let path = dir.path().join("dedup");
        let open = || Dedup::open_with(Arc::new(FileSystem), &path, retention, small()).unwrap();
        let mut ids: Vec<Uuid> = (0..40).map(id).collect();
        // In the window, the first ids came once more.
        let again = if retention == FOR_EVER { 40 } else { 35 };
        ids.truncate(again);
        let mut numbers: Vec<Option<u64>> =
            (0..again as u64).map(|n| Some(if n < 40 - again as u64 { n + 35 } else { n })).collect();
        for _ in 0..2 {
            let dedup = open();
            assert_eq!(dedup.numbers(&ids).unwrap(), numbers, "{kind}");
            for batch in 0..12_u64 {
                let more: Vec<Uuid> =
                    (0..5).map(|n| Uuid::from_u64_pair(u64::MAX - 1_000 + ids.len() as u64, n)).collect();
                let first = dedup.record_at(&more, None, since_1970()).unwrap();
                numbers.extend((first..).take(more.len()).map(Some));
                ids.extend(&more);
                assert_eq!(dedup.numbers(&ids).unwrap(), numbers, "{kind}, batch {batch}");
            }
        }
        drop(open());
        assert!(pieces(&path).iter().any(|count| *count > 1), "{kind}: {:?}", pieces(&path));
    }
}
