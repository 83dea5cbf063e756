//! Finds an agent's row by number or by SIP user: open addressing over words, one writer, any
//! reader.
//!
//! ```text
//! word: | fingerprint, 32 bits | slot + 1, 32 bits |     0 empty, low half all ones: removed
//! ```
//!
//! An entry is a hint: the row it names is compared with the key, so a stale entry finds nothing.
//! The control process writes a row before it inserts its keys, and removes the keys before it
//! clears the row; killed between, its successor inserts again, which does nothing where the entry
//! is there.

use base::{AgentSlot, TenantId};

use crate::row::AgentRow;
use crate::sync::{AtomicU64, Ordering};
use crate::table::{Agents, Part};

/// What an agent is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A directory number of a tenant.
    Number {
        /// The tenant.
        tenant: TenantId,
        /// The number.
        number: &'a [u8],
    },
    /// A SIP user.
    User(&'a [u8]),
}

/// The index has no room; it is made for two keys an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFull;

const REMOVED: u64 = 0xffff_ffff;
const LOW: u64 = 0xffff_ffff;

/// Words of the index for `agents` rows: two keys an agent fill it to a quarter or up to half.
pub(crate) fn capacity(agents: u32) -> usize {
    (agents as usize * 4).next_power_of_two()
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Index<'a> {
    pub(crate) part: Part<'a>,
    pub(crate) seed: u64,
}

impl Index<'_> {
    /// The words to look at for `hash`, in order.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = (usize, &AtomicU64)> {
        let words = self.part.words;
        let mask = words.len() - 1;
        (0..words.len()).map(move |step| {
            let place = (hash as usize).wrapping_add(step) & mask;
            (place, &words[place])
        })
    }

    /// The slots that `hash` may be, in the order they were put.
    #[inline]
    fn candidates(&self, hash: u64) -> impl Iterator<Item = AgentSlot> {
        self.probe(hash)
            .map(|(_, word)| word.load(Ordering::Acquire))
            .take_while(|&entry| entry != 0)
            .filter(move |&entry| entry >> 32 == hash >> 32 && entry & LOW != REMOVED)
            .map(|entry| AgentSlot((entry as u32).wrapping_sub(1)))
    }

    fn insert(&self, hash: u64, slot: AgentSlot) -> Result<(), IndexFull> {
        if !self.part.writable || slot.0 >= u32::MAX - 1 {
            return Err(IndexFull);
        }
        let entry = entry(hash, slot);
        let mut free = None;
        for (place, word) in self.probe(hash) {
            match word.load(Ordering::Relaxed) {
                here if here == entry => return Ok(()),
                0 => {
                    free = free.or(Some(place));
                    break;
                }
                here if here & LOW == REMOVED => free = free.or(Some(place)),
                _ => {}
            }
        }
        let place = free.ok_or(IndexFull)?;
        self.part.words[place].store(entry, Ordering::Release);
        Ok(())
    }

    fn remove(&self, hash: u64, slot: AgentSlot) -> bool {
        if !self.part.writable {
            return false;
        }
        let entry = entry(hash, slot);
        let found = self
            .probe(hash)
            .map(|(place, word)| (place, word.load(Ordering::Relaxed)))
            .take_while(|&(_, here)| here != 0)
            .find(|&(_, here)| here == entry);
        let Some((mut place, _)) = found else {
            return false;
        };
        let words = self.part.words;
        let mask = words.len() - 1;
        words[place].store(REMOVED, Ordering::Release);
        // Removed entries in front of an empty word hold nothing together; emptying them keeps the
        // searches short. A reader on its way past them ends at the empty word behind them anyway.
        if words[(place + 1) & mask].load(Ordering::Relaxed) == 0 {
            while words[place].load(Ordering::Relaxed) & LOW == REMOVED {
                words[place].store(0, Ordering::Release);
                place = place.wrapping_sub(1) & mask;
            }
        }
        true
    }
}

#[inline]
fn entry(hash: u64, slot: AgentSlot) -> u64 {
    (hash >> 32) << 32 | u64::from(slot.0 + 1)
}

impl Agents<'_> {
    /// Control: lets `key` find `slot`, whose row has been written. Twice is as good as once.
    pub fn index_insert(&self, key: Key<'_>, slot: AgentSlot) -> Result<(), IndexFull> {
        self.index.insert(key.hash(self.index.seed), slot)
    }

    /// Control: `key` no longer finds `slot`; false when it did not.
    pub fn index_remove(&self, key: Key<'_>, slot: AgentSlot) -> bool {
        self.index.remove(key.hash(self.index.seed), slot)
    }

    /// The agent of `tenant` with directory number `number`, and a copy of the row.
    pub fn find_number(&self, tenant: TenantId, number: &[u8]) -> Option<(AgentSlot, AgentRow)> {
        let hash = Key::Number { tenant, number }.hash(self.index.seed);
        self.index.candidates(hash).find_map(|slot| {
            let row = self.read(slot)?;
            let same = row.state != 0 && row.tenant == tenant.0 && is_field(&row.number, number);
            same.then_some((slot, row))
        })
    }

    /// The agent with SIP user `user`, and a copy of the row.
    pub fn find_user(&self, user: &[u8]) -> Option<(AgentSlot, AgentRow)> {
        let hash = Key::User(user).hash(self.index.seed);
        self.index.candidates(hash).find_map(|slot| {
            let row = self.read(slot)?;
            (row.state != 0 && is_field(&row.user, user)).then_some((slot, row))
        })
    }

    /// As [`Agents::find_number`] without the copy.
    #[inline]
    pub fn slot_of_number(&self, tenant: TenantId, number: &[u8]) -> Option<AgentSlot> {
        let hash = Key::Number { tenant, number }.hash(self.index.seed);
        self.index.candidates(hash).find(|&slot| {
            self.read_prefix::<NumberPrefix>(slot).is_some_and(|row| {
                row.state != 0 && row.tenant == tenant.0 && is_field(&row.number, number)
            })
        })
    }

    /// As [`Agents::find_user`] without the copy.
    #[inline]
    pub fn slot_of_user(&self, user: &[u8]) -> Option<AgentSlot> {
        let hash = Key::User(user).hash(self.index.seed);
        self.index.candidates(hash).find(|&slot| {
            self.read_prefix::<UserPrefix>(slot)
                .is_some_and(|row| row.number.state != 0 && is_field(&row.user, user))
        })
    }
}

/// The beginning of an [`AgentRow`], up to its number.
#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
struct NumberPrefix {
    state: u32,
    login_epoch: u32,
    tenant: u32,
    location: u32,
    agent_id: u64,
    number: [u8; 24],
}

/// The beginning of an [`AgentRow`], up to its SIP user.
#[derive(
    Clone,
    Copy,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
struct UserPrefix {
    number: NumberPrefix,
    user: [u8; 48],
}

const _: () = {
    assert!(core::mem::offset_of!(NumberPrefix, tenant) == core::mem::offset_of!(AgentRow, tenant));
    assert!(core::mem::offset_of!(NumberPrefix, number) == core::mem::offset_of!(AgentRow, number));
    assert!(core::mem::offset_of!(UserPrefix, user) == core::mem::offset_of!(AgentRow, user));
};

/// True when a field that zeros fill up holds just `bytes`, and not nothing.
#[inline]
fn is_field(field: &[u8], bytes: &[u8]) -> bool {
    match field.split_at_checked(bytes.len()) {
        Some((head, rest)) => {
            !bytes.is_empty() && head == bytes && rest.first().is_none_or(|&byte| byte == 0)
        }
        None => false,
    }
}

impl Key<'_> {
    /// A keyed hash: both processes must find the same number for a key, so it is defined here. The
    /// seed is drawn when the region is made; callers of unknown numbers cannot aim at one place.
    #[inline]
    fn hash(self, seed: u64) -> u64 {
        let (start, bytes) = match self {
            Key::Number { tenant, number } => (u64::from(tenant.0) | 1 << 32, number),
            Key::User(user) => (1 << 33, user),
        };
        let mut hash = fold(seed ^ start, 0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = fold(hash ^ u64::from_le_bytes(word), 0xd6e8_feb8_6659_fd93);
        }
        fold(hash ^ seed, 0xa076_1d64_78bd_642f)
    }
}

/// Both halves of a product, folded into one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests;
