//! An agent found by directory number among 100,000 in a region in /dev/shm, beside a `HashMap` of
//! the same keys.
//!
//! Keys come in random order over all agents, so next to nothing is in the caches of a core: the
//! rows are 45 MB. Each lookup waits for the slot that the one before found; only the check of its
//! row overlaps with the next one, for the processor expects it to succeed.

use std::collections::HashMap;
use std::hint::black_box;

use abi::{AgentRow, AgentState, Agents, Key};
use base::{AgentSlot, TenantId, Text};
use house_bench::{criterion, layout, shared_region, shuffled};

const AGENTS: u32 = 100_000;
const TENANTS: u32 = 10;
const NUMBER_BYTES: usize = 24;

/// A key, and its bytes as a fixed field.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Number {
    tenant: u32,
    digits: [u8; NUMBER_BYTES],
}

/// Numbers of five digits.
const DIGITS: usize = 5;

impl Number {
    fn of(agent: u32) -> Self {
        let mut digits = [0; NUMBER_BYTES];
        digits[..DIGITS].copy_from_slice((10_000 + agent / TENANTS).to_string().as_bytes());
        Number { tenant: 1 + agent % TENANTS, digits }
    }

    fn digits(&self) -> &[u8] {
        &self.digits[..DIGITS]
    }
}

fn row(number: &Number) -> AgentRow {
    let user = format!("{}.{}", String::from_utf8_lossy(number.digits()), number.tenant);
    let mut row = AgentRow {
        state: AgentState::LoggedIn.into(),
        login_epoch: 1,
        tenant: number.tenant,
        ..AgentRow::default()
    };
    row.set_number(Text::new(number.digits()).expect("fits"));
    row.set_user(Text::new(user.as_bytes()).expect("fits"));
    row
}

/// Logs all agents in as control does, in random slots.
fn fill(agents: Agents<'_>, slots: &[u32]) {
    for (agent, &slot) in (0..).zip(slots) {
        let number = Number::of(agent);
        let (slot, row) = (AgentSlot(slot), row(&number));
        assert!(agents.write(slot, &row), "a row");
        let tenant = TenantId(number.tenant);
        let by_number = Key::Number { tenant, number: number.digits() };
        agents.index_insert(by_number, slot).expect("room");
        agents.index_insert(Key::User(row.user().as_bytes()), slot).expect("room");
    }
}

/// Looks up one key after the other; each key's place depends on the slot found before.
fn chase(keys: &[Number], mut find: impl FnMut(&Number) -> AgentSlot) -> impl FnMut() {
    let mut next = 0;
    let nothing = black_box(0);
    move || {
        let found = find(&keys[next]);
        next = (next + 1 + (found.0 & nothing) as usize) % keys.len();
    }
}

fn main() {
    let mut criterion = criterion();
    let (_folder, _, region) = shared_region(layout(AGENTS));
    let slots = shuffled(AGENTS);
    fill(region.agents(), &slots);
    let mut keys: Vec<Number> = shuffled(AGENTS).into_iter().map(Number::of).collect();
    keys.reverse();
    let by_number: HashMap<Number, AgentSlot> =
        (0..AGENTS).map(|agent| (Number::of(agent), AgentSlot(slots[agent as usize]))).collect();
    let rows: HashMap<Number, (AgentSlot, AgentRow)> =
        by_number.iter().map(|(number, slot)| (*number, (*slot, row(number)))).collect();
    for key in &keys {
        let found = region.agents().slot_of_number(TenantId(key.tenant), key.digits());
        assert_eq!(found, by_number.get(key).copied());
    }
    let mut group = criterion.benchmark_group("agents");
    group.bench_function("slot_of_number, 100,000 agents", |b| {
        b.iter(chase(&keys, |key| {
            let found = region.agents().slot_of_number(TenantId(key.tenant), key.digits());
            found.expect("an agent")
        }));
    });
    group.bench_function("HashMap to a slot, 100,000 agents", |b| {
        b.iter(chase(&keys, |key| *by_number.get(key).expect("an agent")));
    });
    group.bench_function("find_number with the row, 100,000 agents", |b| {
        b.iter(chase(&keys, |key| {
            let found = region.agents().find_number(TenantId(key.tenant), key.digits());
            let (slot, row) = found.expect("an agent");
            black_box(&row);
            slot
        }));
    });
    group.bench_function("find_number with the row, 10,000 of them", |b| {
        b.iter(chase(&keys[..10_000], |key| {
            let found = region.agents().find_number(TenantId(key.tenant), key.digits());
            let (slot, row) = found.expect("an agent");
            black_box(&row);
            slot
        }));
    });
    group.bench_function("HashMap to a row, 100,000 agents", |b| {
        b.iter(chase(&keys, |key| {
            let (slot, row) = *rows.get(key).expect("an agent");
            black_box(&row);
            slot
        }));
    });
    group.finish();
    criterion.final_summary();
}
