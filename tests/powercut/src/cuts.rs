//! The states that a cut may leave, made from the recording.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::ops::{AddAssign, Range};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::SimDisk;
use crate::image::{Image, Op, settle};

/// What a disk writes whole or not at all, normally.
const SECTOR: u64 = 512;
/// States drawn by chance for each moment.
const DRAWN: u64 = 6;

/// One state that a power cut may leave.
#[derive(Debug)]
pub struct Cut {
    /// The moment of the recording at which the power was cut first: promises up to here have to hold.
    pub at: usize,
    /// Counts the cuts of this recording, from 0.
    pub number: usize,
    /// The disk as it is found afterwards.
    pub disk: SimDisk,
    /// The same as the first cut left it, which nobody writes to.
    pub left: SimDisk,
    what: String,
    seed: u64,
    /// States of second cuts, counted together; none within a second cut.
    again: Option<Rc<Cell<usize>>>,
}

impl Cut {
    /// Cuts the power once more, in the middle of all that was done to [`disk`](Self::disk) so far. Only
    /// after every so many cuts; a third time never.
    pub(crate) fn once_more(
        &self,
        every: usize,
        check: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(counter) = self.again.as_ref().filter(|_| self.number.is_multiple_of(every)) else {
            return Ok(());
        };
        let tried = self.disk.cuts(self.seed, Cuts::Second(self), check);
        let tried = tried.map_err(|found| format!("{found}\n  which came while it was opened again"))?;
        counter.set(counter.get() + tried.states);
        Ok(())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// How much was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// States, each another one than the others of its moment.
    pub states: usize,
    /// States after a second cut.
    pub again: usize,
    /// Operations of the recording that change something.
    pub operations: usize,
    /// Its syncs.
    pub syncs: usize,
    /// Time that it took.
    pub took: Duration,
}

impl AddAssign for Tried {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.again += other.again;
        self.operations += other.operations;
        self.syncs += other.syncs;
        self.took += other.took;
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, again, operations, syncs, took } = self;
        write!(
            f,
            "{states} states of {operations} operations and {syncs} syncs, and {again} after a second cut, in {:.1} s",
            took.as_secs_f32()
        )
    }
}

/// A state in which something does not hold.
#[derive(Debug)]
pub struct Found {
    /// What does not hold.
    pub why: String,
    cut: String,
    disk: SimDisk,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  after {}", self.why, self.cut)
    }
}

impl Found {
    /// Puts the files of that state into a folder, to be looked at.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        self.disk.names().iter().try_for_each(|name| {
            let file = name.file_name().unwrap_or(name.as_os_str());
            fs::write(folder.join(file), self.disk.read(name).unwrap_or_default())
        })
    }

    /// Fails the test, and keeps the files.
    pub fn raise(self) -> ! {
        let folder = std::env::temp_dir().join(format!("powercut-{}", std::process::id()));
        match self.keep(&folder) {
            Ok(()) => panic!("{self}\n  the files of that state are in {}", folder.display()),
            Err(error) => panic!("{self}\n  the files of that state cannot be kept: {error}"),
        }
    }
}

impl SimDisk {
    /// Calls `check` with each state that a cut may leave, until it finds something.
    pub(crate) fn each_cut(
        &self,
        seed: u64,
        check: impl FnMut(&Cut) -> Result<(), String>,
    ) -> Result<Tried, Found> {
        let start = Instant::now();
        let again = Rc::new(Cell::new(0));
        let tried = self.cuts(seed, Cuts::First(&again), check)?;
        Ok(Tried { again: again.get(), took: start.elapsed(), ..tried })
    }

    fn cuts(
        &self,
        seed: u64,
        which: Cuts<'_>,
        mut check: impl FnMut(&Cut) -> Result<(), String>,
    ) -> Result<Tried, Found> {
        // A copy: the check may write to the disk that was recorded, and must not change what is tried.
        let recording = self.recording().clone();
        let journal = &recording.journal;
        let syncs = journal.iter().filter(|op| op.is_sync()).count();
        let operations = journal.len() - syncs;
        let mut tried = Tried { operations, syncs, ..Tried::default() };
        let mut durable = recording.start_with_all_files();
        let mut pending = Vec::new();
        for (at, op) in journal.iter().map(Some).chain([None]).enumerate() {
            if let Some(change) = op.filter(|op| !op.is_sync()) {
                pending.push(change.clone());
                continue;
            }
            let window = Window { seed, at, durable: &durable, pending: &pending };
            for (what, image) in window.states() {
                let (number, disk) = (tried.states, Self::found(image.clone()));
                let what = format!("cut {number} at operation {at}, {what}");
                let cut = match which {
                    Cuts::First(again) => {
                        let (left, again) = (Self::found(image.clone()), Some(Rc::clone(again)));
                        Cut { at, number, disk, left, what, seed, again }
                    }
                    Cuts::Second(first) => {
                        Cut { at: first.at, number, disk, left: first.left.clone(), what, seed, again: None }
                    }
                };
                check(&cut).map_err(|why| Found {
                    why,
                    cut: format!("{cut} (seed {seed})"),
                    disk: Self::found(image),
                })?;
                tried.states += 1;
            }
            if let Some(sync) = op {
                settle(&mut pending, sync, &mut durable);
            }
        }
        Ok(tried)
    }
}

/// Which cuts are made.
enum Cuts<'a> {
    /// The first ones; the states of second ones are counted together.
    First(&'a Rc<Cell<usize>>),
    /// Those after a first one.
    Second(&'a Cut),
}

/// A moment: what is durable, and what may be there or not.
struct Window<'a> {
    seed: u64,
    at: usize,
    durable: &'a Image,
    pending: &'a [Op],
}

impl Window<'_> {
    /// All states of the moment, each once, with what is there of the pending operations.
    fn states(&self) -> Vec<(String, Image)> {
        let mut seen = HashSet::new();
        let mut states = Vec::new();
        let mut add = |what: String, image: Image| {
            if seen.insert(image.difference(self.durable)) {
                states.push((what, image));
            }
        };
        let count = self.pending.len();
        for n in 0..=count {
            add(format!("the first {n} of {count} operations"), self.with(|index, _| index < n));
        }
        for (n, op) in self.pending.iter().enumerate() {
            add(format!("without the {op}"), self.with(|index, _| index != n));
            add(format!("only the {op}"), self.with(|index, _| index == n));
        }
        let files: HashSet<Option<usize>> = self.pending.iter().map(|op| op.file()).collect();
        for file in files {
            let name = file.map_or("names".to_owned(), |file| format!("file {file}"));
            add(format!("all of {name}, nothing else"), self.with(|_, op| op.file() == file));
            add(format!("nothing of {name}, all else"), self.with(|_, op| op.file() != file));
        }
        let mut dice = Dice(self.seed ^ ((self.at as u64) << 20));
        for (n, op) in self.pending.iter().enumerate() {
            if let Op::Write { file, at, bytes } = op {
                let before = self.with(|index, _| index < n);
                let last = n + 1 == count;
                let ends = cuts_of(*at, bytes.len(), last, &mut dice);
                for end in ends {
                    let mut image = before.clone();
                    image.files[*file].write(*at, &bytes[..end]);
                    add(format!("up to byte {end} of the {op}"), image);
                    let mut image = before.clone();
                    image.files[*file].write(at + end as u64, &bytes[end..]);
                    add(format!("up to the {op}, of that from byte {end}"), image);
                }
            }
        }
        if count > 0 {
            for n in 0..DRAWN {
                add(format!("a choice of sectors, number {n}"), self.drawn(&mut dice));
            }
        }
        states
    }

    fn with(&self, chosen: impl Fn(usize, &Op) -> bool) -> Image {
        let mut image = self.durable.clone();
        for (index, op) in self.pending.iter().enumerate() {
            if chosen(index, op) {
                op.apply(&mut image);
            }
        }
        image
    }

    /// Each sector as it was after some of the writes to it, or in the middle of one; lengths and names as
    /// they were at some moment.
    fn drawn(&self, dice: &mut Dice) -> Image {
        let mut image = self.durable.clone();
        let mut all = self.durable.clone();
        // Sector → the index of the first operation that is not seen there.
        let mut unseen: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        // File → the lengths that it had.
        let mut lengths: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (index, op) in self.pending.iter().enumerate() {
            let before = op.file().map(|file| (file, all.files[file].len));
            op.apply(&mut all);
            if let Some((file, before)) = before {
                let known = lengths.entry(file).or_insert_with(|| vec![before]);
                known.push(all.files[file].len);
                if matches!(op, Op::Write { .. }) && all.files[file].len > before {
                    // An append can end anywhere.
                    known.push(dice.between(before as usize, all.files[file].len as usize) as u64);
                }
            }
            let Op::Write { file, at, bytes } = op else {
                if dice.below(2) == 0 {
                    op.apply(&mut image);
                }
                continue;
            };
            for piece in sectors(*at, bytes.len()) {
                let sector = (*file, (at + piece.start as u64) / SECTOR);
                let left = self.pending.len() - index;
                let unseen = *unseen.entry(sector).or_insert_with(|| index + dice.below(left + 1));
                if index < unseen {
                    let torn = index + 1 == unseen && dice.below(8) == 0;
                    let end = if torn { dice.between(piece.start, piece.end) } else { piece.end };
                    image.files[*file].write(at + piece.start as u64, &bytes[piece.start..end]);
                }
            }
        }
        for (file, known) in lengths {
            if dice.below(2) == 0 {
                image.files[file].set_len(known[dice.below(known.len())]);
            }
        }
        image
    }
}

/// Where a write is torn: at a byte by chance, and for the last one at each sector, up to a bound.
fn cuts_of(at: u64, len: usize, last: bool, dice: &mut Dice) -> Vec<usize> {
    let mut ends = vec![dice.between(0, len)];
    if last {
        ends.extend(sectors(at, len).map(|piece| piece.end).filter(|end| *end < len).take(16));
        ends.extend([1, len.saturating_sub(1)]);
    }
    ends
}

/// The ranges of the bytes that lie in one sector each.
fn sectors(at: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = (SECTOR - (at + start as u64) % SECTOR) as usize;
        let piece = start..len.min(start + left);
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Chance from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }
}
