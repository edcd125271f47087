//! memcpy, memmove and memcmp for the static binaries on x86-64, in place of musl's, which copy by `rep movs`
//! whatever the length, move backwards a word at a time, and compare a byte at a time.
//!
//! Built for musl on x86-64 this crate defines the C symbols `memcpy`, `memmove`, `memcmp` and `bcmp`; the
//! linker then has no use for those of musl's archive. Elsewhere it defines none. A binary has to name it
//! (`use mem_functions as _`). Only SSE2 is used, which every x86-64 processor has.
//!
//! # Invariants
//!
//! 1. *Within bounds*: no byte outside the given ranges is read or written, so the pieces of a range whose
//!    length is not a multiple of a piece's overlap instead of reaching beyond.
//! 2. *Overlapping ranges*: up to 128 bytes everything is read before anything is written. Beyond, each step
//!    of the loop writes only where all later steps have nothing left to read, and what the loop leaves
//!    over at both ends is read before it starts and written after it.
//! 3. *Nothing here calls these functions*: the crate is `no_builtins`, so no loop becomes a call of memcpy.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![no_std]
#![no_builtins]
#![cfg(target_arch = "x86_64")]

use core::arch::x86_64::{__m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8};
use core::cmp::Ordering;

/// Bytes of a register.
const REGISTER: usize = size_of::<__m128i>();
/// Bytes of a step of the loops.
const STEP: usize = 4 * REGISTER;

/// # Safety
/// `at` and the size of `T` beyond it are within what may be read.
#[inline(always)]
unsafe fn load<T: Copy>(from: *const u8, at: usize) -> T {
    // SAFETY: as the caller promises.
    unsafe { from.add(at).cast::<T>().read_unaligned() }
}

/// # Safety
/// `at` and the size of `T` beyond it are within what may be written.
#[inline(always)]
unsafe fn store<T: Copy>(to: *mut u8, at: usize, value: T) {
    // SAFETY: as the caller promises.
    unsafe { to.add(at).cast::<T>().write_unaligned(value) }
}

/// Copies by two pieces, the first and the last, which overlap as far as they have to.
///
/// # Safety
/// As [`copy`]; the length is that of one piece at least and of two at most.
#[inline(always)]
unsafe fn copy_two<T: Copy>(to: *mut u8, from: *const u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: both pieces are within the length; both are read first.
    unsafe {
        let (head, tail) = (load::<T>(from, 0), load::<T>(from, last));
        store(to, 0, head);
        store(to, last, tail);
    }
}

/// A step: four registers, not an array, which would be put on the stack.
#[derive(Clone, Copy)]
struct Step(__m128i, __m128i, __m128i, __m128i);

/// # Safety
/// A step at `at` is within what may be read.
#[inline(always)]
unsafe fn load_step(from: *const u8, at: usize) -> Step {
    let register = |index: usize| {
        // SAFETY: as the caller promises.
        unsafe { load::<__m128i>(from, at + index * REGISTER) }
    };
    Step(register(0), register(1), register(2), register(3))
}

/// # Safety
/// A step at `at` is within what may be written.
#[inline(always)]
unsafe fn store_step(to: *mut u8, at: usize, step: Step) {
    // SAFETY: as the caller promises.
    unsafe {
        store(to, at, step.0);
        store(to, at + REGISTER, step.1);
        store(to, at + 2 * REGISTER, step.2);
        store(to, at + 3 * REGISTER, step.3);
    }
}

/// Copies `len` bytes; the ranges may overlap.
///
/// # Safety
/// `from` may be read and `to` be written for `len` bytes.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: each length goes where its pieces fit.
    unsafe {
        if len < REGISTER {
            match len {
                8.. => copy_two::<u64>(to, from, len),
                4.. => copy_two::<u32>(to, from, len),
                2.. => copy_two::<u16>(to, from, len),
                1 => store(to, 0, load::<u8>(from, 0)),
                0 => {}
            }
        } else if len <= 2 * REGISTER {
            copy_two::<__m128i>(to, from, len);
        } else if len <= STEP {
            // The first two registers and the last two.
            let last = len - 2 * REGISTER;
            let (first, second) = (load::<__m128i>(from, 0), load::<__m128i>(from, REGISTER));
            copy_two::<__m128i>(to.add(last), from.add(last), 2 * REGISTER);
            store(to, 0, first);
            store(to, REGISTER, second);
        } else if len <= 2 * STEP {
            let (head, tail) = (load_step(from, 0), load_step(from, len - STEP));
            store_step(to, 0, head);
            store_step(to, len - STEP, tail);
        } else {
            copy_long(to, from, len);
        }
    }
}

/// # Safety
/// As [`copy`]; more than two steps.
unsafe fn copy_long(to: *mut u8, from: *const u8, len: usize) {
    // How far `to` is beyond `from`, and a huge number where it is before.
    let beyond = to.addr().wrapping_sub(from.addr());
    // SAFETY: forwards nothing is overwritten before it is read where `to` lies before `from`, or behind
    // all of it; backwards where it lies beyond `from`.
    unsafe { if beyond >= len { copy_forwards(to, from, len) } else { copy_backwards(to, from, len) } }
}

/// # Safety
/// As [`copy`]; more than two steps; `to` is not within what follows `from`.
#[inline(always)]
unsafe fn copy_forwards(to: *mut u8, from: *const u8, len: usize) {
    let last = len - STEP;
    // SAFETY: the loop stays below `last`, so that each step is within the length; the rest is invariant 2.
    unsafe {
        let head = load::<__m128i>(from, 0);
        let tail = load_step(from, last);
        // Steps write whole cache lines, or halves of them, as far as the start allows.
        let mut at = REGISTER - to.addr() % REGISTER;
        while at < last {
            store_step(to, at, load_step(from, at));
            at += STEP;
        }
        store_step(to, last, tail);
        store(to, 0, head);
    }
}

/// # Safety
/// As [`copy`]; more than two steps; `to` is beyond `from`.
#[inline(always)]
unsafe fn copy_backwards(to: *mut u8, from: *const u8, len: usize) {
    let last = len - REGISTER;
    // SAFETY: a step ends where the one before began, and begins above the head; the rest is invariant 2.
    unsafe {
        let head = load_step(from, 0);
        let tail = load::<__m128i>(from, last);
        let mut end = len - to.addr().wrapping_add(len) % REGISTER;
        while end > STEP {
            end -= STEP;
            store_step(to, end, load_step(from, end));
        }
        store(to, last, tail);
        store_step(to, 0, head);
    }
}

/// Compares `len` bytes in the order of the first one that differs.
///
/// # Safety
/// Both may be read for `len` bytes.
#[inline(always)]
pub unsafe fn compare(left: *const u8, right: *const u8, len: usize) -> Ordering {
    // SAFETY: each length goes where its pieces fit.
    unsafe {
        match len {
            0 => Ordering::Equal,
            1 => load::<u8>(left, 0).cmp(&load::<u8>(right, 0)),
            2..=3 => compare_two(left, right, len, u16::from_be),
            4..=7 => compare_two(left, right, len, u32::from_be),
            8..=15 => compare_two(left, right, len, u64::from_be),
            _ => compare_long(left, right, len),
        }
    }
}

/// Compares by two pieces, read as numbers whose first byte counts most.
///
/// # Safety
/// As [`compare`]; the length is that of one piece at least and of two at most.
#[inline(always)]
unsafe fn compare_two<T: Copy + Ord>(
    left: *const u8,
    right: *const u8,
    len: usize,
    from_be: impl Fn(T) -> T,
) -> Ordering {
    let last = len - size_of::<T>();
    // SAFETY: both pieces are within the length.
    let piece = |at| unsafe { from_be(load(left, at)).cmp(&from_be(load(right, at))) };
    piece(0).then_with(|| piece(last))
}

/// # Safety
/// As [`compare`]; one register at least.
unsafe fn compare_long(left: *const u8, right: *const u8, len: usize) -> Ordering {
    let last = len - REGISTER;
    let mut at = 0;
    // SAFETY: steps and registers end within the length, and the last register is the last 16 bytes.
    unsafe {
        while at + STEP <= len && step_is_equal(left, right, at) {
            at += STEP;
        }
        while at < last {
            let equal = equal_bytes(left, right, at);
            if equal != ALL {
                return first_difference(left, right, at, equal);
            }
            at += REGISTER;
        }
        match equal_bytes(left, right, last) {
            ALL => Ordering::Equal,
            equal => first_difference(left, right, last, equal),
        }
    }
}

/// A register's bytes are all equal.
const ALL: i32 = 0xffff;

/// A bit for each of 16 bytes, set where they are equal.
///
/// # Safety
/// A register at `at` is within both.
#[inline(always)]
unsafe fn equal_bytes(left: *const u8, right: *const u8, at: usize) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(load(left, at), load(right, at))) }
}

/// # Safety
/// A step at `at` is within both.
#[inline(always)]
unsafe fn step_is_equal(left: *const u8, right: *const u8, at: usize) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let (l, r) = (load_step(left, at), load_step(right, at));
        let first = _mm_and_si128(_mm_cmpeq_epi8(l.0, r.0), _mm_cmpeq_epi8(l.1, r.1));
        let second = _mm_and_si128(_mm_cmpeq_epi8(l.2, r.2), _mm_cmpeq_epi8(l.3, r.3));
        _mm_movemask_epi8(_mm_and_si128(first, second)) == ALL
    }
}

/// # Safety
/// A register at `at` is within both, and a bit of `equal` is not set.
#[inline(always)]
unsafe fn first_difference(left: *const u8, right: *const u8, at: usize, equal: i32) -> Ordering {
    let at = at + (!equal).trailing_zeros() as usize;
    // SAFETY: as the caller promises; the bit that is not set is one of the 16.
    unsafe { load::<u8>(left, at).cmp(&load::<u8>(right, at)) }
}

/// The names under which compilers and libraries call them.
#[cfg(target_env = "musl")]
mod symbols {
    use core::ffi::c_int;

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: C's rules for memcpy are stricter.
        unsafe { super::copy(to, from, len) };
        to
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: C's rules for memmove.
        unsafe { super::copy(to, from, len) };
        to
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> c_int {
        // SAFETY: C's rules for memcmp.
        unsafe { super::compare(left, right, len) as c_int }
    }

    /// # Safety
    /// C's.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> c_int {
        // SAFETY: C's rules for bcmp.
        unsafe { super::compare(left, right, len) as c_int }
    }
}
