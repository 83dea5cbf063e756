use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A tenant (S1-031, "renter") in the directory; 0 is no tenant.
    TenantId(u32)
);
id!(
    /// The row of an agent in the tables of one CCB's region.
    AgentSlot(u32)
);
id!(
    /// A CCB's device number (S1-035); 0 is none.
    CcbId(u16)
);
id!(
    /// A location's place in the CCB's list of locations (S1-036).
    LocationId(u8)
);
id!(
    /// A worker of a data plane; it runs on one core.
    WorkerId(u8)
);

/// A call of one CCB: a slot, and the generation that tells its tenants over time apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallRef {
    /// The call's row; the slots of all workers count through.
    pub slot: u32,
    /// Grows by one each time that the slot is used.
    pub generation: u32,
}

impl fmt::Display for CallRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// What a lease is won for; each has a lease word of its own (DESIGN.md, Leases).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Medium {
    /// Calls, whatever they carry.
    Voice = 0,
    /// Web chat.
    Chat = 1,
}

impl Medium {
    /// How many media there are.
    pub const COUNT: usize = 2;
}

/// Which of `workers` workers owns what `key` names: a call by its Call-ID, a registration by the agent's
/// SIP user. Control computes the same to send a command to the right worker.
///
/// # Panics
/// When `workers` is 0.
pub fn owner(key: &[u8], workers: u8) -> WorkerId {
    assert!(workers > 0, "a data plane has a worker");
    // FNV-1a, then a multiply-shift: spread matters here, an attacker's choice of Call-ID only picks a core.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    WorkerId(((u128::from(hash) * u128::from(workers)) >> 64) as u8)
}
