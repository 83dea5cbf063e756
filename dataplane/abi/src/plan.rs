//! How large a region's parts are and where they begin.

use core::fmt;
use core::ops::Range;

use base::{CcbId, Medium};

use crate::counter::Counter;
use crate::record::{Raw, ring_shape};
use crate::row::{
    AgentRow, CallRow, DialogRow, KeyRow, LegRow, LocationRow, RegistrationRow, SecretRow,
    StreamRow, TenantRow, TrunkRow, TrunkTlsRow,
};
use crate::sync::Pod;
use crate::table::cell_words;
use crate::{header, index, journal};

/// The number of this layout; it changes when the meaning of a word does.
pub const LAYOUT_VERSION: u64 = 13;

/// The sizes of a region. Both processes must have been built for the same [`LAYOUT_VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whose region it is.
    pub ccb: CcbId,
    /// How many workers the data plane has, from 1 on.
    pub workers: u8,
    /// Rows for agents.
    pub agents: u32,
    /// Rows for the calls of one worker.
    pub calls_per_worker: u32,
    /// Rows for the legs of one worker.
    pub legs_per_worker: u32,
    /// Records in each ring, a power of two.
    pub ring_slots: u32,
    /// Bytes of each ring's blob ring, a power of two.
    pub blob_bytes: u32,
    /// Rows for tenants.
    pub tenants: u32,
    /// Rows for trunks.
    pub trunks: u32,
    /// Rows for locations.
    pub locations: u8,
}

/// A size is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLayout {
    /// The field of [`Layout`] and its rule.
    pub what: &'static str,
}

impl fmt::Display for BadLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad layout: {}", self.what)
    }
}

impl std::error::Error for BadLayout {}

/// Rows of one table at most, so that slots and sizes stay far from any overflow.
const MAX_ROWS: u32 = 1 << 22;
/// Records of one ring at most.
const MAX_RING_SLOTS: u32 = 1 << 20;
/// A blob ring holds at least one full record's blob and some more.
const MIN_BLOB_BYTES: u32 = 4096;
/// A blob ring at most.
const MAX_BLOB_RING_BYTES: u32 = 1 << 26;
/// Workers at most.
const MAX_WORKERS: u8 = 128;

impl Layout {
    /// How many words of a header tell a layout.
    pub(crate) const WORDS: usize = 10;

    /// Whether every size is in its range.
    pub fn check(&self) -> Result<(), BadLayout> {
        let rule = |holds: bool, what| if holds { Ok(()) } else { Err(BadLayout { what }) };
        let rows = |rows: u32, what| rule((1..=MAX_ROWS).contains(&rows), what);
        rule((1..=MAX_WORKERS).contains(&self.workers), "workers is 1 to 128")?;
        rows(self.agents, "agents is 1 to 4194304")?;
        let calls = u32::from(self.workers).saturating_mul(self.calls_per_worker);
        rows(calls, "workers times calls_per_worker is 1 to 4194304")?;
        let legs = u32::from(self.workers).saturating_mul(self.legs_per_worker);
        rows(legs, "workers times legs_per_worker is 1 to 4194304")?;
        rule(
            self.ring_slots.is_power_of_two() && (4..=MAX_RING_SLOTS).contains(&self.ring_slots),
            "ring_slots is a power of two, 4 to 1048576",
        )?;
        rule(
            self.blob_bytes.is_power_of_two()
                && (MIN_BLOB_BYTES..=MAX_BLOB_RING_BYTES).contains(&self.blob_bytes),
            "blob_bytes is a power of two, 4096 to 67108864",
        )?;
        rows(self.tenants, "tenants is 1 to 4194304")?;
        rows(self.trunks, "trunks is 1 to 4194304")?;
        rule(self.locations >= 1, "locations is 1 to 255")
    }

    pub(crate) fn to_words(self) -> [u64; Layout::WORDS] {
        [
            u64::from(self.ccb.0),
            u64::from(self.workers),
            u64::from(self.agents),
            u64::from(self.calls_per_worker),
            u64::from(self.legs_per_worker),
            u64::from(self.ring_slots),
            u64::from(self.blob_bytes),
            u64::from(self.tenants),
            u64::from(self.trunks),
            u64::from(self.locations),
        ]
    }

    /// The layout that `words` tell, when each fits its field and its range.
    pub(crate) fn from_words(words: [u64; Layout::WORDS]) -> Option<Layout> {
        let int = |i: usize| u32::try_from(words[i]).ok();
        let layout = Layout {
            ccb: CcbId(u16::try_from(words[0]).ok()?),
            workers: u8::try_from(words[1]).ok()?,
            agents: int(2)?,
            calls_per_worker: int(3)?,
            legs_per_worker: int(4)?,
            ring_slots: int(5)?,
            blob_bytes: int(6)?,
            tenants: int(7)?,
            trunks: int(8)?,
            locations: u8::try_from(words[9]).ok()?,
        };
        layout.check().ok().map(|()| layout)
    }
}

/// Where each part lies, in words from the start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) agents: Range<usize>,
    pub(crate) agent_journal: Range<usize>,
    pub(crate) index: Range<usize>,
    pub(crate) nonces: Range<usize>,
    pub(crate) leases: Range<usize>,
    pub(crate) registrations: Range<usize>,
    pub(crate) registration_journals: Range<usize>,
    pub(crate) tenants: Range<usize>,
    pub(crate) trunks: Range<usize>,
    pub(crate) trunk_tls: Range<usize>,
    pub(crate) locations: Range<usize>,
    pub(crate) calls: Range<usize>,
    pub(crate) acknowledged: Range<usize>,
    pub(crate) legs: Range<usize>,
    pub(crate) dialogs: Range<usize>,
    pub(crate) streams: Range<usize>,
    pub(crate) counters: Range<usize>,
    /// The rings of worker 0: events, then commands; those of the next worker follow.
    pub(crate) rings: Range<usize>,
    /// Words of one ring with what fills its last line.
    pub(crate) ring_stride: usize,
    pub(crate) total: usize,
    /// The rows of the secrets file.
    pub(crate) secrets: Range<usize>,
    pub(crate) keys: Range<usize>,
    pub(crate) secrets_total: usize,
}

/// Parts begin on pairs of cache lines.
const ALIGN: usize = 16;
/// Words in front of the rows of the secrets file.
const SECRETS_HEADER: usize = 16;

impl Plan {
    /// The plan of a layout that was checked.
    pub(crate) fn new(layout: &Layout) -> Plan {
        let agents = layout.agents as usize;
        let workers = usize::from(layout.workers);
        let calls = workers * layout.calls_per_worker as usize;
        let legs = workers * layout.legs_per_worker as usize;
        let mut end = header::words(layout);
        let mut part = |words: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + words;
            start..end
        };
        let ring_stride = ring_shape(layout).words::<Raw>().next_multiple_of(ALIGN);
        let mut plan = Plan {
            agents: part(agents * cell_words::<AgentRow>()),
            agent_journal: part(journal::journal_words::<AgentRow>()),
            index: part(index::capacity(layout.agents)),
            nonces: part(agents),
            leases: part(agents * Medium::COUNT),
            registrations: part(agents * cell_words::<RegistrationRow>()),
            registration_journals: part(workers * journal::journal_words::<RegistrationRow>()),
            tenants: part(layout.tenants as usize * cell_words::<TenantRow>()),
            trunks: part(layout.trunks as usize * cell_words::<TrunkRow>()),
            trunk_tls: part(layout.trunks as usize * cell_words::<TrunkTlsRow>()),
            locations: part(usize::from(layout.locations) * cell_words::<LocationRow>()),
            calls: part(calls * cell_words::<CallRow>()),
            acknowledged: part(calls),
            legs: part(legs * cell_words::<LegRow>()),
            dialogs: part(legs * cell_words::<DialogRow>()),
            streams: part(legs * cell_words::<StreamRow>()),
            counters: part((workers + 2) * Counter::STRIDE),
            rings: part(workers * 2 * ring_stride),
            ring_stride,
            total: 0,
            secrets: SECRETS_HEADER..SECRETS_HEADER + agents * cell_words::<SecretRow>(),
            keys: 0..0,
            secrets_total: 0,
        };
        let keys = plan.secrets.end.next_multiple_of(ALIGN);
        plan.keys = keys..keys + legs * cell_words::<KeyRow>();
        plan.total = plan.rings.end.next_multiple_of(ALIGN);
        plan.secrets_total = plan.keys.end.next_multiple_of(ALIGN);
        plan
    }
}

/// A number that differs when a row, a record or the list of counters has another size, so that
/// processes of two builds do not read each other's memory as their own.
pub(crate) const fn shape() -> u64 {
    let sizes = [
        AgentRow::WORDS,
        SecretRow::WORDS,
        RegistrationRow::WORDS,
        TenantRow::WORDS,
        TrunkRow::WORDS,
        TrunkTlsRow::WORDS,
        LocationRow::WORDS,
        CallRow::WORDS,
        LegRow::WORDS,
        DialogRow::WORDS,
        StreamRow::WORDS,
        KeyRow::WORDS,
        Raw::WORDS,
        Counter::COUNT,
        Medium::COUNT,
    ];
    let mut shape = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < sizes.len() {
        shape = (shape ^ sizes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worker's timer and watch of a registration take some 120 bytes more, a KiB in all.
    #[test]
    fn an_agent_takes_less_than_900_bytes_of_both_files() {
        let words = |agents| {
            let layout = Layout {
                ccb: CcbId(1),
                workers: 4,
                agents,
                calls_per_worker: 100,
                legs_per_worker: 200,
                ring_slots: 64,
                blob_bytes: 4_096,
                tenants: 4,
                trunks: 4,
                locations: 2,
            };
            let plan = Plan::new(&layout);
            plan.total + plan.secrets_total
        };
        let few = words(1);
        // The index is a power of two; the second is its worst case.
        for agents in [20_000, 32_769, 100_000] {
            let bytes = (words(agents) - few) * 8 / agents as usize;
            assert!(bytes < 900, "{bytes} bytes for each of {agents}");
        }
    }
}
