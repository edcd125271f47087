//! The tree beside the log: level with what is durable, whatever was killed, rotated, lost or rewritten.

use std::time::Duration;

use audit_tree::{Checkpoint, Hash, Rows, Signer, leaf_hash};
use serde_json::{Map, Value, json};

use super::super::tree::{Commits, Tree};
use super::*;

/// A journal with a tree, and its tree.
struct Treed {
    journal: Journal<FileSystem>,
    tree: Commits,
}

impl Treed {
    fn open(rig: &Rig) -> Self {
        Self::of(rig, Tree::start(Signer::from_seed(&[7; 32])).unwrap())
    }

    fn of(rig: &Rig, tree: Tree) -> Self {
        let commits = tree.commits();
        Self { journal: rig.open().with_tree(Some(tree)), tree: commits }
    }

    /// The checkpoint, which has to be of all lines of the log and its segments.
    fn level(&self, rig: &Rig, what: &str) -> Checkpoint {
        // Kafka has no anchor of that partition.
        self.tree.commit_meta((TOPIC, 99), Map::new());
        self.journal.checkpoint().unwrap();
        let note = fs::read_to_string(rig.path("audit.log.tree/checkpoint")).unwrap();
        let checkpoint = Checkpoint::open(&note, &Signer::from_seed(&[7; 32]).verifier()).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), lines_of(rig), "{what}");
        checkpoint
    }
}

/// Number and root of the lines of all files.
fn lines_of(rig: &Rig) -> (u64, Hash) {
    let mut rows = Rows::default();
    let paths = segments::beside(&FileSystem, &rig.log()).unwrap();
    for path in paths.iter().chain([&rig.log()]) {
        let bytes = fs::read(path).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.for_each(|line| rows.push(leaf_hash(line.strip_suffix(b"\n").unwrap()), &mut |_, _| {}));
    }
    (rows.size(), rows.root())
}

/// Trees that were set aside.
fn aside(rig: &Rig) -> usize {
    rig.all_names().iter().filter(|name| name.starts_with("audit.log.tree.")).count()
}

#[test]
fn the_tree_is_level_with_the_log_over_batches_rotations_kills_and_restarts() {
    let rig = Rig::new();
    // Lines from before there was a key.
    let mut journal = rig.open();
    batch(&mut journal, &events(0..3));
    journal.rotate().unwrap();
    batch(&mut journal, &events(3..5));
    drop(journal);

    let mut it = Treed::open(&rig);
    let origin = it.level(&rig, "the first start").origin;
    let mut end = 5;
    for round in 0..12 {
        batch(&mut it.journal, &events(end..end + 60));
        end += 60;
        match round % 4 {
            1 => it.journal.rotate().unwrap(),
            2 => {
                // Killed behind the write.
                write_only(&mut it.journal, &events(end..end + 1));
                end += 1;
                drop(it);
                it = Treed::open(&rig);
            }
            3 => {
                drop(it);
                it = Treed::open(&rig);
            }
            _ => {}
        }
        assert_eq!(it.level(&rig, &format!("round {round}")).origin, origin);
    }
    assert_eq!((ids(&it.journal), aside(&rig)), (end, 0));
}

#[test]
fn a_tree_that_lags_or_lacks_its_last_segment_goes_on() {
    let rig = Rig::new();
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(0..300));
    let origin = it.level(&rig, "before").origin;
    // The state of before, and the log goes on without a tree: lines and segments.
    drop(it);
    let mut journal = rig.open();
    for start in [300, 400, 500] {
        batch(&mut journal, &events(start..start + 100));
        journal.rotate().unwrap();
    }
    drop(journal);
    let it = Treed::open(&rig);
    let level = it.level(&rig, "after segments that it lacked");
    assert_eq!((level.origin, level.size, aside(&rig)), (origin.clone(), 600, 0));
    drop(it);
    // Sealed with a tree, archived elsewhere before the next line, and restarted.
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(600..610));
    it.journal.rotate().unwrap();
    it.level(&rig, "sealed");
    drop(it);
    let archive = rig.path("archive");
    fs::create_dir(&archive).unwrap();
    for path in segments::beside(&FileSystem, &rig.log()).unwrap() {
        fs::rename(&path, archive.join(path.file_name().unwrap())).unwrap();
    }
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(610..620));
    it.journal.checkpoint().unwrap();
    drop(it);
    for entry in fs::read_dir(&archive).unwrap() {
        let path = entry.unwrap().path();
        fs::rename(&path, rig.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let it = Treed::open(&rig);
    let level = it.level(&rig, "archived and brought back");
    assert_eq!((level.origin, level.size, aside(&rig)), (origin, 620, 0));
}

#[test]
fn a_log_that_was_truncated_replaced_or_rewritten_gets_a_new_tree_and_the_old_one_is_kept() {
    let hands: [(&str, Hand<'_>); 5] = [
        ("truncated", &|rig| {
            let bytes = rig.bytes();
            let end = bytes[..bytes.len() / 2].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            fs::write(rig.log(), &bytes[..end]).unwrap();
        }),
        ("emptied", &|rig| fs::write(rig.log(), b"").unwrap()),
        ("its last line was changed", &|rig| {
            let text = String::from_utf8(rig.bytes()).unwrap();
            let at = text.rfind("task-api").unwrap();
            fs::write(rig.log(), format!("{}TASK-API{}", &text[..at], &text[at + 8..])).unwrap();
        }),
        ("its checkpoint is missing", &|rig| fs::remove_file(rig.path("audit.log.tree/checkpoint")).unwrap()),
        ("a tile was changed", &|rig| {
            let tile = rig.path("audit.log.tree/tile/0/000.p/40");
            let mut bytes = fs::read(&tile).unwrap();
            bytes[39 * 32] ^= 1;
            fs::write(tile, bytes).unwrap();
        }),
    ];
    for (what, hand) in hands {
        let rig = Rig::new();
        let mut it = Treed::open(&rig);
        batch(&mut it.journal, &events(0..40));
        let before = it.level(&rig, what);
        drop(it);
        hand(&rig);
        let mut it = Treed::open(&rig);
        replay(&mut it.journal, 45);
        let after = it.level(&rig, what);
        assert_ne!(after.origin, before.origin, "{what}");
        assert_eq!(aside(&rig), 1, "{what}");
        let kept = rig.all_names().into_iter().find(|name| name.starts_with("audit.log.tree.")).unwrap();
        assert!(rig.path(&kept).join("tile/0").is_dir(), "{what}");
    }
}

#[test]
fn a_log_that_is_truncated_while_the_service_runs_gets_a_new_tree() {
    let rig = Rig::new();
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(0..40));
    let before = it.level(&rig, "before");
    fs::OpenOptions::new().write(true).open(rig.log()).unwrap().set_len(0).unwrap();
    assert!(matches!(it.journal.check(), Err(JournalError::Reread { .. })));
    replay(&mut it.journal, 50);
    assert_ne!(it.level(&rig, "after").origin, before.origin);
    assert_eq!(aside(&rig), 1);
}

#[test]
fn a_copy_that_is_older_than_what_kafka_knows_is_not_gone_on_with() {
    let rig = Rig::new();
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(0..10));
    let old = it.level(&rig, "old");
    drop(it);
    let copy = Rig::new();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(rig.0.path().join(".")).arg(copy.0.path()).status();
    assert!(copied.unwrap().success());

    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(10..20));
    it.level(&rig, "new");
    let committed = it.tree.commit_meta((TOPIC, 0), Map::new());
    assert_eq!(committed["trees"][&old.origin]["size"], json!(20));
    drop(it);

    // The old copy is in its place, and reads what it lacks: the same events, at another time.
    let mut it = Treed::open(&copy);
    batch(&mut it.journal, &events(10..25));
    it.journal.checkpoint().unwrap();
    let signed = || fs::read_to_string(copy.path("audit.log.tree/checkpoint")).unwrap();
    assert_eq!(Checkpoint::read(&signed()).unwrap(), old, "nothing is signed before it was compared");
    let eventually = |is_so: &mut dyn FnMut() -> bool| {
        let begun = std::time::Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    };
    let mut meta: Map<String, Value> = Map::new();
    eventually(&mut || {
        meta = it.tree.commit_meta((TOPIC, 0), committed.clone());
        it.journal.checkpoint().unwrap();
        it.journal.look_after_tree();
        meta["trees"].as_object().unwrap().len() == 2
    });
    assert_eq!(meta["trees"][&old.origin], committed["trees"][&old.origin], "the evidence stays");
    assert_ne!(it.level(&copy, "a new tree").origin, old.origin);
    assert_eq!(aside(&copy), 1);

    // What fits goes on, from another process too.
    drop(it);
    let it = Treed::open(&rig);
    eventually(&mut || {
        let again = it.tree.commit_meta((TOPIC, 0), committed.clone());
        it.journal.checkpoint().unwrap();
        again["trees"].as_object().unwrap().len() == 1 && it.tree.is_confirmed((TOPIC, 0))
    });
    assert_eq!(it.level(&rig, "the same").origin, old.origin);
}

/// Has Kafka know a root of that tree that no lines lead to, and waits until it was compared.
fn refute(it: &Treed, origin: &str) {
    let forged = json!({"trees": {origin: {"size": 1, "root": "00".repeat(32)}}});
    it.tree.reopen((TOPIC, 0));
    it.tree.commit_meta((TOPIC, 0), forged.as_object().unwrap().clone());
    it.journal.checkpoint().unwrap();
}

#[test]
fn a_tree_that_begins_anew_while_the_service_runs_lets_batches_through_between_its_steps() {
    let rig = Rig::new();
    const STEP: u64 = 2_000;
    let tree = Tree::start(Signer::from_seed(&[7; 32])).unwrap().with_step(STEP);
    let mut it = Treed::of(&rig, tree);
    batch(&mut it.journal, &events(0..100));
    it.journal.rotate().unwrap();
    batch(&mut it.journal, &events(100..150));
    let old = it.level(&rig, "before");
    assert!(it.tree.troubles().is_empty());
    refute(&it, &old.origin);
    let (mut steps, mut end) = (0, 150);
    while it.journal.look_after_tree() {
        steps += 1;
        assert!(steps < 1_000);
        // No commit carries a tree that is not whole, and none is compared with it.
        assert!(it.tree.commit_meta((TOPIC, 0), Map::new()).is_empty());
        batch(&mut it.journal, &events(end..end + 1));
        end += 1;
        match steps {
            3 => it.journal.rotate().unwrap(),
            // A start in the middle of it.
            6 => {
                drop(it);
                it = Treed::of(&rig, Tree::start(Signer::from_seed(&[7; 32])).unwrap().with_step(STEP));
                let origin = it.level(&rig, "restarted").origin;
                refute(&it, &origin);
            }
            _ => {}
        }
    }
    assert!(steps > 20, "{steps}");
    let after = it.level(&rig, "after");
    assert_ne!(after.origin, old.origin);
    let troubles = it.tree.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("is set aside as "), "{troubles:?}");
    assert_eq!((ids(&it.journal), after.size), (end, end));
}

#[test]
fn a_tree_that_cannot_be_written_is_a_trouble_and_the_log_goes_on() {
    let rig = Rig::new();
    let tree = rig.path("audit.log.tree");
    fs::write(&tree, "in its way").unwrap();
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(0..10));
    let troubles = it.tree.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("does not grow"), "{troubles:?}");
    assert!(!it.journal.look_after_tree(), "it is tried again later");
    drop(it);
    fs::remove_file(&tree).unwrap();
    let mut it = Treed::open(&rig);
    batch(&mut it.journal, &events(10..20));
    assert_eq!((it.level(&rig, "mended").size, it.tree.troubles().len()), (20, 0));
}
