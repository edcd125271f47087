//! Lines that another process appended: signed once Kafka has them, and never if it has not.

use audit_tree::{Checkpoint, Signer};
use serde_json::Map;

use super::super::tree::{Commits, Tree};
use super::*;

/// A journal whose tree signs no line that it finds before it is confirmed.
struct Compared {
    journal: Journal<FileSystem>,
    tree: Commits,
}

impl Compared {
    fn open(rig: &Rig) -> Self {
        let tree = Tree::start(Signer::from_seed(&[7; 32])).unwrap().compared();
        let commits = tree.commits();
        let it = Self { journal: rig.open().with_tree(Some(tree)), tree: commits };
        // Kafka has no anchor of that partition.
        it.tree.commit_meta((TOPIC, 99), Map::new());
        it
    }

    /// Lines that are signed.
    fn signed(&self, rig: &Rig) -> u64 {
        self.journal.checkpoint().unwrap();
        Checkpoint::read(&fs::read_to_string(rig.path("audit.log.tree/checkpoint")).unwrap()).unwrap().size
    }

    /// The numbers of the lines that are to be compared, and the trouble.
    fn found(&self) -> (Vec<u64>, String) {
        let Some(stretch) = self.tree.next_unconfirmed() else {
            return (Vec::new(), self.tree.troubles().concat());
        };
        let (mut lines, mut found) = (stretch.lines().unwrap(), Vec::new());
        while let Some((at, bytes)) = lines.next().unwrap() {
            if at >= stretch.from {
                found.extend(numbers(bytes));
            }
        }
        (found, self.tree.troubles().concat())
    }

    fn confirm(&self, untold: u64) {
        let stretch = self.tree.next_unconfirmed().unwrap();
        self.tree.confirm(&stretch, 1, untold);
    }

    fn refute(&self) {
        let stretch = self.tree.next_unconfirmed().unwrap();
        self.tree.refute(&stretch, stretch.from, "Kafka has another event");
    }
}

fn append(rig: &Rig, number: u64) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(rig.log()).unwrap();
    file.write_all(line((number, 0, number as i64), 0).all().bytes()).unwrap();
}

#[test]
fn what_the_service_wrote_is_signed_over_restarts_and_rotations_and_nothing_is_found() {
    let rig = Rig::new();
    let mut end = 0;
    for round in 0..4 {
        let mut it = Compared::open(&rig);
        for _ in 0..3 {
            batch(&mut it.journal, &events(end..end + 5));
            end += 5;
            if round % 2 == 1 {
                it.journal.rotate().unwrap();
            }
        }
        assert_eq!((it.signed(&rig), it.found()), (end, (vec![], String::new())), "{round}");
    }
}

#[test]
fn a_line_that_is_appended_is_signed_once_it_is_confirmed() {
    let rig = Rig::new();
    let mut it = Compared::open(&rig);
    batch(&mut it.journal, &events(0..5));
    // While it runs.
    append(&rig, 5);
    batch(&mut it.journal, &events(6..8));
    assert_eq!((it.signed(&rig), it.found()), (5, (vec![5], String::new())));
    it.confirm(0);
    assert_eq!((it.signed(&rig), it.found()), (8, (vec![], String::new())));
    drop(it);
    // While it is stopped; Kafka has its record no more.
    append(&rig, 8);
    let mut it = Compared::open(&rig);
    batch(&mut it.journal, &events(9..10));
    assert_eq!((it.signed(&rig), it.found().0[0]), (8, 8));
    it.confirm(1);
    let (found, trouble) = it.found();
    assert_eq!((it.signed(&rig), found), (10, vec![]));
    assert!(trouble.contains("Kafka has their records no more"), "{trouble}");
}

#[test]
fn a_line_that_kafka_contradicts_is_never_signed_until_it_is_moved_out() {
    let rig = Rig::new();
    let mut it = Compared::open(&rig);
    batch(&mut it.journal, &events(0..5));
    assert_eq!(it.signed(&rig), 5);
    drop(it);
    let whole = rig.bytes();
    append(&rig, 77);
    for start in 0..3 {
        // Each start finds it again, whatever is behind it.
        let mut it = Compared::open(&rig);
        let (found, _) = it.found();
        assert_eq!(found[0], 77, "start {start}");
        while it.tree.next_unconfirmed().is_some() {
            it.refute();
        }
        batch(&mut it.journal, &events(5 + start..6 + start));
        let (found, trouble) = it.found();
        assert_eq!((it.signed(&rig), found), (5, vec![]));
        assert!(trouble.contains(&format!("at byte {} of ", whole.len())), "{trouble}");
        assert!(trouble.contains("is not by this service: Kafka has another event"), "{trouble}");
    }
    // Moved out, another tree begins, and what is left is signed.
    let lines = rig.bytes();
    let kept: Vec<u8> = lines
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| numbers(line) != [77])
        .flatten()
        .copied()
        .collect();
    fs::write(rig.log(), kept).unwrap();
    let mut it = Compared::open(&rig);
    replay(&mut it.journal, 8);
    while it.tree.next_unconfirmed().is_some() {
        it.confirm(0);
    }
    assert_eq!((it.signed(&rig), rig.numbers()), (8, (0..8).collect::<Vec<_>>()));
    assert!(!it.found().1.contains("is not by this service"));
}

#[test]
fn a_line_in_front_of_a_tree_that_begins_is_not_signed_where_the_index_lacks_it() {
    let rig = Rig::new();
    let mut it = Compared::open(&rig);
    batch(&mut it.journal, &events(0..5));
    assert_eq!(it.signed(&rig), 5);
    drop(it);
    append(&rig, 77);
    fs::remove_dir_all(rig.path("audit.log.tree")).unwrap();
    let it = Compared::open(&rig);
    assert_eq!((it.signed(&rig), it.found().0), (0, vec![77]));
    it.refute();
    assert_eq!(it.signed(&rig), 0);
}

#[test]
fn a_line_that_is_moved_out_while_the_service_runs_holds_up_nothing_more() {
    let rig = Rig::new();
    let mut it = Compared::open(&rig);
    batch(&mut it.journal, &events(0..5));
    append(&rig, 77);
    batch(&mut it.journal, &events(5..7));
    it.refute();
    assert_eq!((it.signed(&rig), it.found().0), (5, vec![]));
    let kept: Vec<u8> = rig
        .bytes()
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| numbers(line) != [77])
        .flatten()
        .copied()
        .collect();
    fs::write(rig.log(), kept).unwrap();
    assert!(matches!(it.journal.check(), Err(JournalError::Reread { .. })));
    replay(&mut it.journal, 8);
    assert_eq!((it.signed(&rig), it.found()), (5, (vec![5, 6], String::new())));
    it.confirm(0);
    assert_eq!((it.signed(&rig), it.found()), (8, (vec![], String::new())));
    assert_eq!(rig.numbers(), (0..8).collect::<Vec<_>>());
}
