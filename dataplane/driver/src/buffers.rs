//! Buffers that the kernel fills by itself: a group of equal buffers and the ring that offers them.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::pages::Pages;

/// A group of provided buffers, registered with one io_uring.
///
/// Each buffer is at any time the kernel's (offered in the ring), ours (named by a completion and not yet
/// given back) or spare (offered once more are needed); `holders` keeps the account, and only ours are ever
/// turned into slices.
///
/// The kernel takes the buffers in turn, so that those that are offered are soon all touched, however few
/// are used at a time. Few are offered at first, and more where those were not enough.
#[derive(Debug)]
pub struct Buffers {
    ring: Pages,
    memory: Pages,
    size: usize,
    mask: u16,
    tail: u16,
    holders: Vec<Holder>,
    /// Those with a number below it are offered when they are given back.
    offered: u16,
}

/// Whose a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Kernel,
    Ours,
    Spare,
}

impl Buffers {
    /// Registers `count` buffers (a power of two up to 32,768) of `size` bytes as `group` of the ring, and
    /// offers the first `offered` of them.
    ///
    /// # Safety
    ///
    /// The caller drops the `Buffers` only when no request of that ring can write to them any more, or
    /// not at all.
    pub unsafe fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        offered: u16,
        size: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the ring's mask needs a power of two");
        assert!((1..=count).contains(&offered), "some are offered");
        let entries = usize::from(count);
        let ring = Pages::zeroed(entries * size_of::<BufRingEntry>());
        let memory = Pages::zeroed(entries * size);
        let holders = vec![Holder::Spare; entries];
        let mut buffers =
            Buffers { ring, memory, size, mask: count - 1, tail: 0, holders, offered: 0 };
        // SAFETY: the ring's pages hold `count` entries and, as the caller promises, live as long as
        // the kernel may look at them.
        unsafe {
            submitter.register_buf_ring_with_flags(buffers.ring.start() as u64, count, group, 0)?;
        }
        buffers.offer_up_to(offered);
        buffers.publish();
        Ok(buffers)
    }

    /// Offers twice as many buffers from the next [`Buffers::publish`] on, as far as there are; those that
    /// were offered were all taken, and a receive ended for want of one.
    pub fn widen(&mut self) {
        let count = self.holders.len() as u16;
        self.offer_up_to(count.min(self.offered.saturating_mul(2)));
    }

    /// How many buffers are offered when none is in use.
    #[cfg(test)]
    pub fn offered(&self) -> u16 {
        self.offered
    }

    fn offer_up_to(&mut self, offered: u16) {
        for number in self.offered..offered {
            self.offer(number);
        }
        self.offered = offered;
    }

    /// Takes a buffer that a completion named out of the kernel's hands. False if it is not the
    /// kernel's, which would be a fault of the kernel or ours.
    #[must_use]
    pub fn take(&mut self, number: u16) -> bool {
        match self.holders.get_mut(usize::from(number)) {
            Some(holder) => std::mem::replace(holder, Holder::Ours) == Holder::Kernel,
            None => false,
        }
    }

    /// A buffer that is ours, to read and change.
    pub fn bytes_mut(&mut self, number: u16) -> &mut [u8] {
        let holder = self.holders[usize::from(number)];
        assert_eq!(holder, Holder::Ours, "the kernel may be writing to it");
        // SAFETY: `holders` has an entry for each buffer, so the buffer lies within `memory`; it is ours,
        // so the kernel does not write to it; `&mut self` keeps other slices away.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start().add(usize::from(number) * self.size),
                self.size,
            )
        }
    }

    /// Offers a buffer to the kernel again, from the next [`Buffers::publish`] on.
    pub fn give_back(&mut self, number: u16) {
        let holder = self.holders[usize::from(number)];
        assert_eq!(holder, Holder::Ours, "a buffer is given back once");
        self.offer(number);
    }

    fn offer(&mut self, number: u16) {
        let holder = std::mem::replace(&mut self.holders[usize::from(number)], Holder::Kernel);
        assert_ne!(holder, Holder::Kernel, "a buffer is offered once");
        let place = usize::from(self.tail & self.mask);
        let addr = self.memory.start() as u64 + (usize::from(number) * self.size) as u64;
        // SAFETY: `place` is below the number of entries that the ring's pages hold. The kernel reads
        // an entry only once the tail has passed it; this one it has not.
        let entry = unsafe { &mut *self.ring.start().cast::<BufRingEntry>().add(place) };
        entry.set_addr(addr);
        entry.set_len(self.size as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub fn publish(&self) {
        // SAFETY: the ring's first entry lies at its start, so `tail` points at the word that the
        // kernel reads as the ring's tail; it is two bytes wide and aligned within the page, and
        // nobody but this line writes it.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.ring.start().cast_const().cast());
            AtomicU16::from_ptr(tail.cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }
}
