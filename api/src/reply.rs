//! Replies from the store's writer to the threads that serve requests, by the group: one wake-up for each
//! thread, not one for each request.
//!
//! To wake another thread's runtime is a system call, and a group commit answers dozens of requests. So the
//! writer puts its replies into the mailboxes of the threads that the requests came from, and then wakes one
//! request in each ([`Group::finish`]). That one wakes the others, which costs little within a thread.
//!
//! # Invariants
//!
//! 1. *No reply is lost.* A request that is woken, or goes away, first wakes all others whose replies are
//!    there. A [`Reply`] that is dropped unsent ends its [`Answer`] with [`Closed`], at once.
//! 2. *No reply is swapped.* A slot of a mailbox is used again only when both of its ends are gone.
//! 3. A [`Group`] that is dropped is finished.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The reply will not come: what was to send it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// What a request waits for.
#[derive(Debug)]
pub struct Answer<T>(End<T>);

/// The right to answer a request, once.
#[derive(Debug)]
pub struct Reply<T>(End<T>);

/// Replies whose requests are woken together.
#[derive(Debug)]
pub struct Group<T>(Vec<Arc<Mailbox<T>>>);

/// A thread's access to its mailbox, for a `thread_local`.
#[derive(Debug)]
pub struct Desk<T>(RefCell<Option<Arc<Mailbox<T>>>>);

/// The requests of one thread that wait for replies.
#[derive(Debug)]
struct Mailbox<T>(Mutex<Slots<T>>);

#[derive(Debug)]
struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    /// Of requests whose replies are there, and which were not woken yet.
    ready: Vec<Waker>,
}

#[derive(Debug)]
enum Slot<T> {
    Free,
    /// With the waker of whoever waits, once it does.
    Awaited(Option<Waker>),
    Replied(T),
    Closed,
    /// Nobody waits any more; the reply may still come.
    Abandoned,
}

/// One end of a slot. It has none once the slot is left to the other end.
#[derive(Debug)]
struct End<T> {
    mailbox: Arc<Mailbox<T>>,
    slot: Option<usize>,
}

impl<T> Desk<T> {
    /// Nothing waits yet.
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// The two ends of a reply to a request of this thread.
    pub fn open(&self) -> (Reply<T>, Answer<T>) {
        let mut mailbox = self.0.borrow_mut();
        let mailbox = mailbox.get_or_insert_with(|| Arc::new(Mailbox::new()));
        let slot = Some(mailbox.slots().take());
        let end = || End { mailbox: Arc::clone(mailbox), slot };
        (Reply(end()), Answer(end()))
    }
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Group<T> {
    /// Answers a request, which is woken when the group is finished, or earlier.
    pub fn send(&mut self, mut reply: Reply<T>, value: T) {
        let End { mailbox, slot } = &mut reply.0;
        let Some(slot) = slot.take() else { return };
        // A request that went away is no error. Its value is dropped outside of the lock.
        let _unwanted = mailbox.slots().reply(slot, Slot::Replied(value));
        if !self.0.iter().any(|known| Arc::ptr_eq(known, mailbox)) {
            self.0.push(Arc::clone(mailbox));
        }
    }

    /// Wakes one request of each thread.
    pub fn finish(&mut self) {
        for mailbox in self.0.drain(..) {
            let first = mailbox.slots().ready.pop();
            first.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Reply<T> {
    /// Answers this request alone.
    pub fn send(self, value: T) {
        Group::default().send(self, value);
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let Some(slot) = self.0.slot.take() else { return };
        let mut slots = self.0.mailbox.slots();
        slots.reply(slot, Slot::Closed);
        let ready = mem::take(&mut slots.ready);
        drop(slots);
        ready.into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let End { mailbox, slot } = &mut self.0;
        let Some(index) = *slot else { return Poll::Ready(Err(Closed)) };
        let mut slots = mailbox.slots();
        let ready = mem::take(&mut slots.ready);
        let answer = slots.poll(index, cx.waker());
        drop(slots);
        ready.into_iter().filter(|waker| !waker.will_wake(cx.waker())).for_each(Waker::wake);
        if answer.is_ready() {
            *slot = None;
        }
        answer
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut slots = self.0.mailbox.slots();
        // It may be the one that was woken for all.
        let ready = mem::take(&mut slots.ready);
        let _unwanted = self.0.slot.take().map(|slot| slots.abandon(slot));
        drop(slots);
        ready.into_iter().for_each(Waker::wake);
    }
}

impl<T> Mailbox<T> {
    fn new() -> Self {
        Self(Mutex::new(Slots { slots: Vec::new(), free: Vec::new(), ready: Vec::new() }))
    }

    fn slots(&self) -> MutexGuard<'_, Slots<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slots<T> {
    fn take(&mut self) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.set(slot, Slot::Awaited(None));
        slot
    }

    /// Puts the other in its place, and returns what was there.
    fn set(&mut self, slot: usize, new: Slot<T>) -> Slot<T> {
        // Slots are never removed.
        self.slots.get_mut(slot).map_or(Slot::Free, |old| mem::replace(old, new))
    }

    fn release(&mut self, slot: usize) -> Slot<T> {
        self.free.push(slot);
        self.set(slot, Slot::Free)
    }

    /// What the writer's end leaves. Returns it where nobody waits for it.
    fn reply(&mut self, slot: usize, left: Slot<T>) -> Option<Slot<T>> {
        match self.set(slot, left) {
            Slot::Awaited(waker) => {
                self.ready.extend(waker);
                None
            }
            _ => Some(self.release(slot)),
        }
    }

    fn poll(&mut self, slot: usize, waker: &Waker) -> Poll<Result<T, Closed>> {
        match self.slots.get_mut(slot) {
            Some(Slot::Awaited(known)) => {
                match known {
                    Some(known) => known.clone_from(waker),
                    None => *known = Some(waker.clone()),
                }
                Poll::Pending
            }
            _ => match self.release(slot) {
                Slot::Replied(value) => Poll::Ready(Ok(value)),
                _ => Poll::Ready(Err(Closed)),
            },
        }
    }

    /// What the request's end leaves. Returns what was there.
    fn abandon(&mut self, slot: usize) -> Slot<T> {
        match self.set(slot, Slot::Abandoned) {
            awaited @ Slot::Awaited(_) => awaited,
            replied => {
                self.release(slot);
                replied
            }
        }
    }
}

#[cfg(test)]
mod tests;
