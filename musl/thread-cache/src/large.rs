//! Blocks that are larger than those in the threads' lists: those that were freed last are kept for who asks next.
//!
//! musl takes each of 128 KiB and more from the kernel and gives it back when it is freed. So every page of every
//! buffer would be a page fault, and a consumer needs buffers of a megabyte for each batch.
//!
//! A size up to [`LARGEST`] is rounded up to a fourth of the power of two below it, and a block is given to whoever
//! asks for its size. At most [`KEPT_BYTES`] are kept, in [`SLOTS`] blocks; a further one takes the place of
//! others, in turn, which go back to the system.
//!
//! # Invariants
//!
//! 1. *The rounded layout follows from the layout alone*, so the system gets back what it gave.
//! 2. *A kept block is in one slot*, and nobody else's.
//! 3. *Nothing that runs under the lock allocates.*

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The alignment of every block.
pub(crate) const ALIGN: usize = 16;
/// The largest size that is kept.
const LARGEST: usize = 4 << 20;
/// The largest size up to which a block that grows is copied into a kept one, which has its pages already. Of a
/// larger one the system moves the pages, and only those of the new part are to be made.
const LARGEST_COPY: usize = 1 << 20;
const SLOTS: usize = 32;
const KEPT_BYTES: usize = 12 << 20;

#[derive(Clone, Copy)]
struct Block {
    at: NonNull<u8>,
    /// Rounded up.
    layout: Layout,
}

struct Kept {
    slots: [Option<Block>; SLOTS],
    bytes: usize,
    /// The slot that is emptied next for another block.
    next: usize,
}

// SAFETY: a kept block belongs to no thread (invariant 2).
unsafe impl Send for Kept {}

static KEPT: Mutex<Kept> = Mutex::new(Kept { slots: [None; SLOTS], bytes: 0, next: 0 });

/// A lock that no panic can have poisoned: nothing under it panics.
fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn take(&mut self, layout: Layout) -> Option<Block> {
        let slot = self.slots.iter_mut().find(|slot| slot.is_some_and(|block| block.layout == layout))?;
        let block = slot.take()?;
        self.bytes -= block.layout.size();
        Some(block)
    }

    /// Keeps a block if there is space; else takes another one out, and is to be asked again.
    fn keep(&mut self, block: Block) -> Result<(), Option<Block>> {
        let fits = self.bytes + block.layout.size() <= KEPT_BYTES;
        if fits && let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(block);
            self.bytes += block.layout.size();
            return Ok(());
        }
        for _ in 0..SLOTS {
            let old = self.slots.get_mut(self.next).and_then(Option::take);
            self.next = (self.next + 1) % SLOTS;
            if let Some(old) = old {
                self.bytes -= old.layout.size();
                return Err(Some(old));
            }
        }
        Err(None)
    }
}

/// The layout that the system is asked for. `None`: the block is not kept.
pub(crate) fn rounded(layout: Layout) -> Option<Layout> {
    let size = layout.size();
    if size > LARGEST || layout.align() > ALIGN {
        return None;
    }
    let step = 1 << (size.max(2) - 1).ilog2() >> 2;
    Layout::from_size_align(size.next_multiple_of(step.max(1)), ALIGN).ok()
}

/// # Safety
/// As of [`GlobalAlloc::alloc`].
pub(crate) unsafe fn alloc(layout: Layout) -> *mut u8 {
    // SAFETY: as the caller promises.
    let Some(rounded) = rounded(layout) else { return unsafe { System.alloc(layout) } };
    let found = kept().take(rounded);
    match found {
        Some(block) => block.at.as_ptr(),
        // SAFETY: it is not smaller than the caller's.
        None => unsafe { System.alloc(rounded) },
    }
}

/// A kept block has its pages already, which costs more than to write zeros over it. What only the system gave and
/// everybody leaves here would push out the buffers that are used again.
///
/// # Safety
/// As of [`GlobalAlloc::alloc_zeroed`].
pub(crate) unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: as the caller promises.
    let Some(rounded) = rounded(layout) else { return unsafe { System.alloc_zeroed(layout) } };
    let found = kept().take(rounded);
    match found {
        Some(block) => {
            // SAFETY: the block has at least this size, and is ours.
            unsafe { block.at.as_ptr().write_bytes(0, layout.size()) };
            block.at.as_ptr()
        }
        // SAFETY: it is not smaller than the caller's.
        None => unsafe { System.alloc_zeroed(rounded) },
    }
}

/// # Safety
/// As of [`GlobalAlloc::dealloc`], for a block from here.
pub(crate) unsafe fn dealloc(ptr: *mut u8, layout: Layout) {
    let (Some(rounded), Some(at)) = (rounded(layout), NonNull::new(ptr)) else {
        // SAFETY: it was allocated with this layout.
        return unsafe { System.dealloc(ptr, layout) };
    };
    let block = Block { at, layout: rounded };
    loop {
        let kept = kept().keep(block);
        match kept {
            Ok(()) => return,
            // SAFETY: the system gave it with this layout (invariant 1), and it is in no slot any more.
            Err(Some(old)) => unsafe { System.dealloc(old.at.as_ptr(), old.layout) },
            // SAFETY: as before; it was not kept.
            Err(None) => return unsafe { System.dealloc(ptr, rounded) },
        }
    }
}

/// The block with its new size, where that takes no copy by us. `None`: it is to be copied into another.
///
/// # Safety
/// As of [`GlobalAlloc::realloc`], for a block from here; the new layout is not for the threads' lists either.
pub(crate) unsafe fn resize(ptr: *mut u8, layout: Layout, new: Layout) -> Option<*mut u8> {
    let (old, wanted) = (rounded(layout).unwrap_or(layout), rounded(new).unwrap_or(new));
    if old == wanted {
        return Some(ptr);
    }
    let moves_pages = old.size().max(wanted.size()) > LARGEST_COPY;
    // SAFETY: the system gave it with the old layout.
    moves_pages.then(|| unsafe { System.realloc(ptr, old, wanted.size()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    #[test]
    fn a_size_is_rounded_up_by_a_fourth_at_most_and_once() {
        let sizes = (1..40).map(|n| n * 104_729).filter(|size| *size <= LARGEST);
        for size in sizes.chain([32 * 1024 + 1, 1 << 20, (1 << 20) + 1, LARGEST]) {
            let rounded_to = rounded(layout(size)).unwrap();
            assert!(
                rounded_to.size() >= size && rounded_to.size() - size <= size / 4,
                "{size}: {rounded_to:?}"
            );
            assert_eq!(rounded(rounded_to), Some(rounded_to));
        }
        assert_eq!(rounded(layout(LARGEST + 1)), None);
        assert_eq!(rounded(Layout::from_size_align(1 << 20, 32).unwrap()), None);
    }

    #[test]
    fn what_is_kept_is_given_to_who_asks_for_its_size_and_is_bounded() {
        let mut kept = Kept { slots: [None; SLOTS], bytes: 0, next: 0 };
        let block = |at: usize, size| Block {
            at: NonNull::without_provenance(at.try_into().unwrap()),
            layout: rounded(layout(size)).unwrap(),
        };
        for at in 1..=SLOTS {
            assert!(kept.keep(block(at, 100_000)).is_ok());
        }
        // No slot is left: another one goes first.
        let out = kept.keep(block(99, 1 << 20)).unwrap_err().unwrap();
        assert_eq!(out.at.addr().get(), 1);
        assert!(kept.keep(block(99, 1 << 20)).is_ok());
        assert!(kept.take(rounded(layout(200_000)).unwrap()).is_none());
        assert_eq!(kept.take(rounded(layout(1 << 20)).unwrap()).unwrap().at.addr().get(), 99);
        assert!(kept.take(rounded(layout(1 << 20)).unwrap()).is_none());
        // No bytes are left.
        let mut largest = 0;
        for at in 100..200 {
            while let Err(out) = kept.keep(block(at, LARGEST)) {
                assert!(out.is_some());
            }
            largest = largest.max(kept.bytes);
            let sum: usize = kept.slots.iter().flatten().map(|block| block.layout.size()).sum();
            assert_eq!(kept.bytes, sum);
        }
        assert!(largest <= KEPT_BYTES && largest > KEPT_BYTES - LARGEST, "{largest}");
    }

    #[test]
    fn zeroed_blocks_are_used_again_and_push_out_no_others() {
        let (buffer, zeroed) = (layout(1 << 20), layout(64 * 1024));
        // SAFETY: of no layout the size is zero; each block is freed once, with its layout.
        let at = unsafe {
            let at = alloc(buffer);
            dealloc(at, buffer);
            for _ in 0..2 * SLOTS {
                let block = alloc_zeroed(zeroed);
                let bytes = std::slice::from_raw_parts_mut(block, zeroed.size());
                assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(0xff);
                dealloc(block, zeroed);
            }
            at
        };
        let block = kept().take(rounded(buffer).unwrap()).expect("the buffer is still kept");
        assert_eq!(block.at.as_ptr(), at);
        let same = kept().slots.iter().flatten().filter(|block| block.layout.size() == zeroed.size()).count();
        assert_eq!(same, 1);
        // SAFETY: it is in no slot any more.
        unsafe { System.dealloc(at, block.layout) };
    }
}
