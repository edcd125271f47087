//! Everything that a program does to its allocator, at once, with every byte watched. The allocator is also
//! the one of this whole test, so the test harness and the standard library stress it too.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use thread_cache::{LARGEST, ThreadCache};

// Miri takes what a global allocator does with a freed Box for use of that Box.
#[cfg_attr(not(miri), global_allocator)]
static GLOBAL: ThreadCache = ThreadCache;

// Miri is some thousand times slower.
const STRIDE: usize = if cfg!(miri) { 509 } else { 1 };
const STEPS: usize = if cfg!(miri) { 200 } else { 50_000 };
const THREADS: usize = if cfg!(miri) { 3 } else { 8 };

/// An allocation whose every byte is its seed.
struct Watched {
    at: *mut u8,
    layout: Layout,
    seed: u8,
}

// SAFETY: the memory is used by whoever has the value.
unsafe impl Send for Watched {}

impl Watched {
    fn new(size: usize, align: usize, seed: u8, zeroed: bool) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the size is not zero.
        let at = unsafe { if zeroed { GLOBAL.alloc_zeroed(layout) } else { GLOBAL.alloc(layout) } };
        assert!(!at.is_null() && at.addr().is_multiple_of(align), "{layout:?} at {at:?}");
        let new = Self { at, layout, seed };
        if zeroed {
            new.holds(size, 0);
        }
        new.fill();
        new
    }

    fn fill(&self) {
        // SAFETY: its own memory.
        unsafe { self.at.write_bytes(self.seed, self.layout.size()) }
    }

    fn holds(&self, size: usize, byte: u8) {
        // SAFETY: its own memory, written before.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, size) };
        assert!(
            bytes.iter().step_by(STRIDE).all(|found| *found == byte),
            "{:?} at {:?} was written by another",
            self.layout,
            self.at
        );
    }

    fn resize(&mut self, size: usize) {
        // SAFETY: it was allocated with this layout, and the new size is not zero.
        self.at = unsafe { GLOBAL.realloc(self.at, self.layout, size) };
        assert!(self.at.addr().is_multiple_of(self.layout.align()));
        self.holds(self.layout.size().min(size), self.seed);
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.fill();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.holds(self.layout.size(), self.seed);
        // SAFETY: it was allocated with this layout and is done with.
        unsafe { GLOBAL.dealloc(self.at, self.layout) }
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Mostly small, now and then around and above the largest that is kept.
    fn size(&mut self) -> usize {
        match self.below(20) {
            0 => 1 + self.below(2 * LARGEST),
            1..4 => 1 + self.below(4096),
            _ => 1 + self.below(256),
        }
    }

    fn align(&mut self) -> usize {
        1 << if self.below(10) == 0 { self.below(13) } else { self.below(5) }
    }
}

#[test]
fn threads_allocate_resize_free_and_hand_over() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Watched>()).unzip();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, receiver)| {
            let (senders, start) = (senders.clone(), Arc::clone(&start));
            thread::spawn(move || {
                let mut numbers = Numbers(0x9E37_79B9 + u64::try_from(number).unwrap());
                let mut held: Vec<Watched> = Vec::new();
                start.wait();
                for step in 0..STEPS {
                    match numbers.below(8) {
                        0..4 => {
                            let seed = u8::try_from(step % 251).unwrap();
                            held.push(Watched::new(numbers.size(), numbers.align(), seed, step % 5 == 0));
                        }
                        4 if !held.is_empty() => {
                            let index = numbers.below(held.len());
                            held[index].resize(numbers.size());
                        }
                        // Freed by another thread.
                        5 if !held.is_empty() => {
                            let handed = held.swap_remove(numbers.below(held.len()));
                            let _ = senders[numbers.below(THREADS)].send(handed);
                        }
                        6 => drop(receiver.try_recv()),
                        _ if held.len() > 100 => held.truncate(20),
                        _ => {}
                    }
                }
                drop(senders);
                drop(held);
                drop(receiver);
            })
        })
        .collect();
    drop(senders);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn one_thread_allocates_and_another_frees() {
    let rounds = if cfg!(miri) { 20 } else { 20_000 };
    let (sender, receiver) = mpsc::sync_channel::<Vec<Watched>>(4);
    let freeing = thread::spawn(move || receiver.iter().map(|batch| batch.len()).sum::<usize>());
    for round in 0..rounds {
        let seed = u8::try_from(round % 256).unwrap();
        let batch = (0..10).map(|index| Watched::new(48 + index * 40, 8, seed, false)).collect();
        sender.send(batch).unwrap();
    }
    drop(sender);
    assert_eq!(freeing.join().unwrap(), rounds * 10);
}

#[test]
fn what_a_thread_leaves_at_its_end_is_used_again() {
    /// Allocates and frees when the thread's other locals, the allocator's among them, may be gone.
    struct AtTheEnd(Option<Watched>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            drop(self.0.take());
            drop(Watched::new(4000, 16, 9, true));
        }
    }
    thread_local! { static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) } }

    const ROUNDS: usize = if cfg!(miri) { 10 } else { 1_000 };
    let size = 27_000;
    let mut seen = HashSet::new();
    for _ in 0..ROUNDS {
        let at = thread::spawn(move || {
            LAST.set(Some(AtTheEnd(Some(Watched::new(100, 8, 7, false)))));
            let one = Watched::new(size, 8, 1, false);
            let two = Watched::new(size, 8, 2, false);
            assert_ne!(one.at, two.at);
            [one.at.addr(), two.at.addr()]
        });
        seen.extend(at.join().unwrap());
    }
    // The other tests take some of the same blocks meanwhile; lost ones would be new each time.
    assert!(cfg!(miri) || seen.len() < ROUNDS / 5, "{} places for two blocks at a time", seen.len());
}

#[test]
fn large_blocks_are_used_again_by_all_threads_and_by_one_at_a_time() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 400 };
    const MOST: usize = if cfg!(miri) { 3 * LARGEST } else { 5 << 20 };
    let threads: Vec<_> = (1..=3_u8)
        .map(|seed| {
            thread::spawn(move || {
                let mut numbers = Numbers(u64::from(seed) * 7_919);
                let mut held: Vec<Watched> = Vec::new();
                for round in 0..ROUNDS {
                    let size = 1 + numbers.below(MOST);
                    held.push(Watched::new(size, 8, seed, round % 4 == 0));
                    if round % 3 == 0 {
                        let index = numbers.below(held.len());
                        held[index].resize(1 + numbers.below(MOST));
                    }
                    if held.len() > 4 {
                        held.swap_remove(numbers.below(held.len()));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
