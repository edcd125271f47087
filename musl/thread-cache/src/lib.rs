//! An allocator for services: each thread keeps free blocks of its own, in front of the system's malloc. musl's
//! has one lock, and threads that allocate at once wait for each other and for the kernel; glibc's takes a lock for
//! each block that another thread frees.
//!
//! A size up to [`LARGEST`] is rounded up to a class. A thread takes blocks of a class from its own list and
//! gives freed ones to its own list, without a lock. Where one thread allocates and another frees, full
//! lists travel as batches through the [`DEPOT`], with one lock a class. New blocks are cut from slabs of the
//! system's, which are never given back: what a class once needed at its peak stays with it. Of larger sizes a
//! few blocks are kept for all threads ([`large`]); larger alignments go to the system as they are.
//!
//! # Invariants
//!
//! 1. *The class follows from the layout alone.* `dealloc` and `realloc` get the layout of `alloc`, so a
//!    block goes back to the class that it is of.
//! 2. *A free block is in one list*: the `filling` or the `spare` list of one thread, or one batch in the
//!    depot. Only then is its memory a [`Block`]; otherwise it is its owner's.
//! 3. *A thread's lists are its own.* They are reached through a thread-local alone, and nothing that runs
//!    while they are held allocates from here: the depot's lock is a futex, slabs come from [`System`], and
//!    the standard library registers the thread-local's destructor with [`System`] as well (since 1.93).
//! 4. *A thread that ends leaves nothing behind.* Its lists go to the depot; what it allocates or frees after
//!    that goes there directly.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod large;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use large::ALIGN;

/// The largest size that is kept.
pub const LARGEST: usize = 32 * 1024;
/// Up to here there is a class for each multiple of [`ALIGN`], above there are four for each doubling.
const FINE: usize = 1024;
const FINE_CLASSES: usize = FINE / ALIGN;
const STEPS: usize = 4;
const CLASSES: usize = FINE_CLASSES + STEPS * (LARGEST / FINE).ilog2() as usize;
/// What a batch holds, in bytes, within the bounds of [`batch_len`].
const BATCH_BYTES: usize = 16 * 1024;

/// The class of a layout, if its blocks are kept.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if size > LARGEST || layout.align() > ALIGN {
        return None;
    }
    if size <= FINE {
        return Some(size.div_ceil(ALIGN).max(1) - 1);
    }
    let doubling = ((size - 1) / FINE).ilog2() as usize;
    let step = FINE << doubling >> STEPS.ilog2();
    Some(FINE_CLASSES + doubling * STEPS + (size - (FINE << doubling)).div_ceil(step) - 1)
}

/// The size of the blocks of a class.
const fn size_of_class(class: usize) -> usize {
    if class < FINE_CLASSES {
        return (class + 1) * ALIGN;
    }
    let (doubling, step) = ((class - FINE_CLASSES) / STEPS, (class - FINE_CLASSES) % STEPS + 1);
    (FINE << doubling) + (FINE << doubling >> STEPS.ilog2()) * step
}

/// How many blocks make a batch.
const fn batch_len(class: usize) -> usize {
    let len = BATCH_BYTES / size_of_class(class);
    if len < 2 {
        2
    } else if len > 128 {
        128
    } else {
        len
    }
}

/// A free block, in a list.
struct Block {
    next: Option<NonNull<Block>>,
    /// In the first block of a batch: the batch below it in the depot.
    next_batch: Option<NonNull<Block>>,
}

/// A list of free blocks of one class.
#[derive(Clone, Copy)]
struct List {
    head: Option<NonNull<Block>>,
    /// Not below what it holds. A batch that a thread left at its end may hold less.
    len: usize,
}

impl List {
    const EMPTY: Self = Self { head: None, len: 0 };

    /// # Safety
    /// Nobody else uses the memory of the list's blocks, and each is followed by the next or by nothing.
    unsafe fn pop(&mut self) -> Option<NonNull<Block>> {
        let block = self.head?;
        // SAFETY: a block in a list is a valid Block (invariant 2).
        self.head = unsafe { block.as_ref().next };
        self.len = self.len.saturating_sub(1);
        Some(block)
    }

    /// # Safety
    /// The block is free, of the list's class, and in no other list.
    unsafe fn push(&mut self, block: NonNull<Block>) {
        // SAFETY: a block has space for a Block and is aligned for it; its memory is ours now.
        unsafe { block.write(Block { next: self.head, next_batch: None }) };
        self.head = Some(block);
        self.len += 1;
    }
}

/// The batches of one class, a stack of lists.
struct Batches(Option<NonNull<Block>>);

// SAFETY: free blocks belong to no thread (invariant 2).
unsafe impl Send for Batches {}

/// Where threads leave full lists for each other, by class.
static DEPOT: [Mutex<Batches>; CLASSES] = [const { Mutex::new(Batches(None)) }; CLASSES];

/// A lock that no panic can have poisoned: nothing under it panics.
fn depot(class: usize) -> MutexGuard<'static, Batches> {
    DEPOT[class].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a list to the depot.
///
/// # Safety
/// Its blocks are of this class, free, and in no other list.
unsafe fn deposit(class: usize, list: List) {
    let Some(mut head) = list.head else { return };
    let mut batches = depot(class);
    // SAFETY: the first block is a valid Block, which is ours (invariant 2).
    unsafe { head.as_mut().next_batch = batches.0 };
    batches.0 = Some(head);
}

/// A list from the depot, or a new one. It is empty only where the system has no memory left.
fn withdraw(class: usize) -> List {
    let mut batches = depot(class);
    if let Some(head) = batches.0 {
        // SAFETY: as in deposit.
        batches.0 = unsafe { head.as_ref().next_batch };
        return List { head: Some(head), len: batch_len(class) };
    }
    drop(batches);
    cut_slab(class)
}

/// A batch of new blocks.
fn cut_slab(class: usize) -> List {
    let (size, len) = (size_of_class(class), batch_len(class));
    let mut list = List::EMPTY;
    let Ok(layout) = Layout::from_size_align(size * len, ALIGN) else { return list };
    // SAFETY: the layout's size is not zero.
    let Some(slab) = NonNull::new(unsafe { System.alloc(layout) }) else { return list };
    for index in (0..len).rev() {
        // SAFETY: a new block of this class, within the slab; sizes are multiples of the alignment.
        unsafe { list.push(slab.add(index * size).cast()) };
    }
    list
}

/// What a thread keeps of one class.
#[derive(Clone, Copy)]
struct Kept {
    filling: List,
    /// A full list, so that a thread at the edge of one does not go to the depot at each turn.
    spare: List,
}

struct ThreadLists(UnsafeCell<[Kept; CLASSES]>);

thread_local! {
    static LISTS: ThreadLists =
        const { ThreadLists(UnsafeCell::new([Kept { filling: List::EMPTY, spare: List::EMPTY }; CLASSES])) };
}

impl ThreadLists {
    fn take(&self, class: usize) -> Option<NonNull<Block>> {
        // SAFETY: invariant 3; the reference ends with this call.
        let kept = unsafe { &mut (&mut *self.0.get())[class] };
        if kept.filling.head.is_none() {
            kept.filling = std::mem::replace(&mut kept.spare, List::EMPTY);
            if kept.filling.head.is_none() {
                kept.filling = withdraw(class);
            }
        }
        // SAFETY: invariant 2.
        unsafe { kept.filling.pop() }
    }

    /// # Safety
    /// The block is free, of this class, and in no list.
    unsafe fn give(&self, class: usize, block: NonNull<Block>) {
        // SAFETY: invariant 3; the reference ends with this call.
        let kept = unsafe { &mut (&mut *self.0.get())[class] };
        if kept.filling.len >= batch_len(class) {
            let full = std::mem::replace(&mut kept.spare, kept.filling);
            kept.filling = List::EMPTY;
            // SAFETY: it was this thread's, and is no longer.
            unsafe { deposit(class, full) };
        }
        // SAFETY: as the caller promises.
        unsafe { kept.filling.push(block) };
    }
}

impl Drop for ThreadLists {
    fn drop(&mut self) {
        for (class, kept) in self.0.get_mut().iter_mut().enumerate() {
            for list in [&mut kept.filling, &mut kept.spare] {
                // SAFETY: it was this thread's, and is no longer.
                unsafe { deposit(class, std::mem::replace(list, List::EMPTY)) };
            }
        }
    }
}

/// The allocator, to be named in `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadCache;

impl ThreadCache {
    fn take(class: usize) -> *mut u8 {
        let block = LISTS.try_with(|lists| lists.take(class)).unwrap_or_else(|_| {
            let mut list = withdraw(class);
            // SAFETY: the list is nobody else's; the rest of it goes back.
            unsafe {
                let block = list.pop();
                deposit(class, list);
                block
            }
        });
        block.map_or(ptr::null_mut(), |block| block.as_ptr().cast())
    }

    /// # Safety
    /// The block is free, of this class, and in no list.
    unsafe fn give(class: usize, block: NonNull<Block>) {
        // SAFETY: as the caller promises.
        let given = LISTS.try_with(|lists| unsafe { lists.give(class, block) });
        if given.is_err() {
            let mut list = List::EMPTY;
            // SAFETY: as the caller promises.
            unsafe {
                list.push(block);
                deposit(class, list);
            }
        }
    }
}

// SAFETY: a block is given out once until it is freed (invariant 2), is at least as large as its layout asks
// (`size_of_class` of `class_of`, tested for every size) and aligned to 16, beyond which the system is asked.
// Nothing here unwinds.
unsafe impl GlobalAlloc for ThreadCache {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => Self::take(class),
            // SAFETY: the caller's promises are the same.
            None => unsafe { large::alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match (class_of(layout), NonNull::new(ptr.cast())) {
            // SAFETY: the caller had it from here with this layout, and is done with it (invariant 1).
            (Some(class), Some(block)) => unsafe { Self::give(class, block) },
            // SAFETY: as in alloc.
            _ => unsafe { large::dealloc(ptr, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            // SAFETY: as in alloc.
            return unsafe { large::alloc_zeroed(layout) };
        };
        let block = Self::take(class);
        if !block.is_null() {
            // SAFETY: the block has at least this size, and is ours.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let resized = match (class_of(layout), class_of(new)) {
            (Some(old), Some(wanted)) if old == wanted => Some(ptr),
            // SAFETY: as in alloc.
            (None, None) => unsafe { large::resize(ptr, layout, new) },
            _ => None,
        };
        // SAFETY: both blocks are at least as large as the smaller size, and are two.
        resized.unwrap_or_else(|| unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(ptr, moved, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            moved
        })
    }
}

#[cfg(test)]
mod tests;
