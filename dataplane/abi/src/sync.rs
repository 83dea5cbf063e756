//! The atomic words that everything here is made of, and plain values copied into and out of them.
//!
//! Under `cfg(loom)` the words are loom's, which are larger than eight bytes; then only the cores
//! that work on slices of words are built.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A plain value that is nothing but bytes, a whole number of words of them: any bit pattern is
/// one.
pub trait Pod: Copy + FromBytes + IntoBytes + Immutable + KnownLayout + 'static {
    /// How many words it takes.
    const WORDS: usize = {
        assert!(size_of::<Self>().is_multiple_of(8), "a Pod is a whole number of words");
        size_of::<Self>() / 8
    };
}

impl<T: Copy + FromBytes + IntoBytes + Immutable + KnownLayout + 'static> Pod for T {}

/// Copies `value` into the first words of `words`, word by word, in no order.
#[inline]
pub fn store<T: Pod>(words: &[AtomicU64], value: &T) {
    debug_assert!(words.len() >= T::WORDS);
    for (word, bytes) in words.iter().zip(value.as_bytes().as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

/// The value in the first words of `words`, read word by word, in no order.
#[inline]
pub fn load<T: Pod>(words: &[AtomicU64]) -> T {
    debug_assert!(words.len() >= T::WORDS);
    let mut value = T::new_zeroed();
    for (word, bytes) in words.iter().zip(value.as_mut_bytes().as_chunks_mut::<8>().0) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    value
}

/// Has the hardware fetch the line of `word` while others are waited for.
#[inline]
pub fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads and writes nothing and faults on no address; every x86_64 has
        // it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(word).cast()) }
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = word;
}
