//! A record of a ring, and its fields one by one.
//!
//! A slot is 128 bytes: the ring's own three words (number, blob position, blob length), then the
//! kind and twelve words of fields. Fields are whole numbers of their own word; what is not used is
//! zero.

use core::net::SocketAddr;
use std::sync::Arc;

use base::{AgentSlot, CallRef, CcbId, LocationId, TenantId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::Party;
use crate::plan::Layout;
use crate::region::Region;
use crate::ring::{Corrupt, Memory, Shape};
use crate::row::Address;
use crate::sync::{AtomicU64, Pod};

/// A blob longer than this is never sent: a called number, User-to-User, a display name. A quarter
/// of the smallest blob ring, so that it fits whatever else is there in a while.
pub const MAX_BLOB_BYTES: usize = 1024;

const FIELDS: usize = 12;

/// The record of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Raw {
    pub(crate) kind: u64,
    pub(crate) fields: [u64; FIELDS],
}

const _: () = assert!((crate::ring::SLOT_WORDS + Raw::WORDS) * 8 == 128);

/// The shape of every ring of a region.
pub(crate) fn ring_shape(layout: &Layout) -> Shape {
    Shape { slots: layout.ring_slots, blob_bytes: layout.blob_bytes }
}

/// A ring of a region that its end keeps alive.
#[derive(Debug)]
pub(crate) struct RegionRing {
    pub(crate) region: Arc<Region>,
    pub(crate) start: usize,
    pub(crate) words: usize,
}

impl Memory for RegionRing {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        &self.region.words()[self.start..self.start + self.words]
    }
}

/// Writes fields in order.
pub(crate) struct Put {
    raw: Raw,
    next: usize,
}

impl Put {
    pub(crate) fn new(kind: u64) -> Self {
        Put { raw: Raw { kind, fields: [0; FIELDS] }, next: 0 }
    }

    pub(crate) fn int(mut self, value: impl Into<u64>) -> Self {
        self.raw.fields[self.next] = value.into();
        self.next += 1;
        self
    }

    pub(crate) fn agent(self, slot: AgentSlot) -> Self {
        self.int(slot.0)
    }

    pub(crate) fn location(self, location: LocationId) -> Self {
        self.int(location.0)
    }

    pub(crate) fn ccb(self, ccb: CcbId) -> Self {
        self.int(ccb.0)
    }

    pub(crate) fn tenant(self, tenant: TenantId) -> Self {
        self.int(tenant.0)
    }

    pub(crate) fn call(self, call: CallRef) -> Self {
        self.int(u64::from(call.generation) << 32 | u64::from(call.slot))
    }

    pub(crate) fn address(self, address: SocketAddr) -> Self {
        let address = Address::new(address);
        let ip = u128::from_be_bytes(address.ip);
        self.int((ip >> 64) as u64)
            .int(ip as u64)
            .int(u64::from(address.scope) << 32 | u64::from(address.port))
    }

    pub(crate) fn party(self, party: Party) -> Self {
        match party {
            Party::Agent(slot, epoch) => {
                self.int(1u64).int(u64::from(epoch) << 32 | u64::from(slot.0))
            }
            Party::Trunk(row) => self.int(2u64).int(row),
            Party::Peer(ccb) => self.int(3u64).int(ccb.0),
        }
    }

    pub(crate) fn done(self) -> Raw {
        self.raw
    }
}

/// Reads fields in order, and refuses what no writer of this build can have written.
pub(crate) struct Take<'a> {
    fields: core::slice::Iter<'a, u64>,
}

impl<'a> Take<'a> {
    pub(crate) fn new(raw: &'a Raw) -> Self {
        Take { fields: raw.fields.iter() }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        self.fields.next().copied().ok_or(Corrupt { what: "too many fields" })
    }

    /// An integer that fits its type.
    pub(crate) fn int<T: TryFrom<u64>>(&mut self) -> Result<T, Corrupt> {
        T::try_from(self.u64()?).map_err(|_| Corrupt { what: "an integer out of its range" })
    }

    /// One of a closed set.
    pub(crate) fn one_of<T>(
        &mut self,
        of: impl FnOnce(u32) -> Option<T>,
        what: &'static str,
    ) -> Result<T, Corrupt> {
        of(self.int()?).ok_or(Corrupt { what })
    }

    pub(crate) fn yes_or_no(&mut self) -> Result<bool, Corrupt> {
        let of = |number| [(0, false), (1, true)].iter().find(|e| e.0 == number).map(|e| e.1);
        self.one_of(of, "a yes or no")
    }

    pub(crate) fn agent(&mut self) -> Result<AgentSlot, Corrupt> {
        self.int().map(AgentSlot)
    }

    pub(crate) fn location(&mut self) -> Result<LocationId, Corrupt> {
        self.int().map(LocationId)
    }

    pub(crate) fn ccb(&mut self) -> Result<CcbId, Corrupt> {
        self.int().map(CcbId)
    }

    pub(crate) fn tenant(&mut self) -> Result<TenantId, Corrupt> {
        self.int().map(TenantId)
    }

    pub(crate) fn call(&mut self) -> Result<CallRef, Corrupt> {
        let word = self.u64()?;
        Ok(CallRef { slot: word as u32, generation: (word >> 32) as u32 })
    }

    pub(crate) fn address(&mut self) -> Result<SocketAddr, Corrupt> {
        let ip = u128::from(self.u64()?) << 64 | u128::from(self.u64()?);
        let word = self.u64()?;
        let [port, reserved] = [word as u16, (word >> 16) as u16];
        let scope = (word >> 32) as u32;
        let address = Address { ip: ip.to_be_bytes(), scope, port, reserved }.get();
        if reserved != 0 || (address.is_ipv4() && scope != 0) {
            return Err(Corrupt { what: "an address" });
        }
        Ok(address)
    }

    pub(crate) fn party(&mut self) -> Result<Party, Corrupt> {
        let (kind, word) = (self.u64()?, self.u64()?);
        let (low, high) = (word as u32, (word >> 32) as u32);
        match (kind, high) {
            (1, epoch) => Ok(Party::Agent(AgentSlot(low), epoch)),
            (2, 0) => Ok(Party::Trunk(low)),
            (3, 0) if low <= u32::from(u16::MAX) => Ok(Party::Peer(CcbId(low as u16))),
            _ => Err(Corrupt { what: "a party" }),
        }
    }

    /// Whatever is left is zero.
    pub(crate) fn end<T>(mut self, value: T) -> Result<T, Corrupt> {
        if self.fields.all(|&field| field == 0) {
            Ok(value)
        } else {
            Err(Corrupt { what: "fields behind the last" })
        }
    }
}
