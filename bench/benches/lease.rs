//! An agent's lease won and released: reserve, bind, release; beside a `Mutex<HashMap>` that keeps
//! the same three steps. Nobody else wants the leases.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Mutex;

use abi::{Leases, Purpose, Share};
use base::{AgentSlot, CcbId, Instant, Medium};
use house_bench::{criterion, layout, shared_region, shuffled};

const AGENTS: u32 = 100_000;
const HOLDER: CcbId = CcbId(1);

#[inline]
fn word(leases: &Leases<'_>, agent: AgentSlot, now: Instant) -> bool {
    let Ok(counter) = leases.reserve(agent, Medium::Voice, HOLDER, Purpose::Call, now) else {
        return false;
    };
    leases.bind(agent, Medium::Voice, HOLDER, counter)
        && leases.release(agent, Medium::Voice, HOLDER, counter, Share::Waiting)
}

struct Held {
    holder: CcbId,
    counter: u32,
    since: Instant,
    is_bound: bool,
}

/// The obvious table of leases, within one process.
#[derive(Default)]
struct Table {
    held: Mutex<HashMap<(AgentSlot, Medium), Held>>,
}

impl Table {
    #[inline]
    fn reserve(&self, key: (AgentSlot, Medium), holder: CcbId, counter: u32, now: Instant) -> bool {
        let mut held = self.held.lock().expect("not poisoned");
        let is_free =
            held.get(&key).is_none_or(|held| !held.is_bound && now.since(held.since).as_secs() > 2);
        if is_free {
            held.insert(key, Held { holder, counter, since: now, is_bound: false });
        }
        is_free
    }

    #[inline]
    fn bind(&self, key: (AgentSlot, Medium), holder: CcbId, counter: u32) -> bool {
        let mut held = self.held.lock().expect("not poisoned");
        let found =
            held.get_mut(&key).filter(|held| (held.holder, held.counter) == (holder, counter));
        found.map(|held| held.is_bound = true).is_some()
    }

    #[inline]
    fn release(&self, key: (AgentSlot, Medium), holder: CcbId, counter: u32) -> bool {
        let mut held = self.held.lock().expect("not poisoned");
        let is_ours =
            held.get(&key).is_some_and(|held| (held.holder, held.counter) == (holder, counter));
        is_ours && held.remove(&key).is_some()
    }
}

fn main() {
    let mut criterion = criterion();
    let (_folder, _, region) = shared_region(layout(AGENTS));
    let order: Vec<AgentSlot> = shuffled(AGENTS).into_iter().map(AgentSlot).collect();
    let hot = [order[0]];
    let now = Instant::from_nanos(1_000_000_000);
    let table = Table::default();
    table.held.lock().expect("not poisoned").reserve(AGENTS as usize);
    assert_eq!(order.iter().filter(|&&agent| word(&region.leases(), agent, now)).count(), 100_000);
    let mut group = criterion.benchmark_group("lease");
    for (name, agents) in [("100,000 agents", &order[..]), ("one agent", &hot[..])] {
        let mut turn = agents.iter().cycle();
        group.bench_function(format!("lease word, {name}"), |b| {
            b.iter(|| {
                let agent = *turn.next().expect("a cycle");
                assert!(word(&region.leases(), black_box(agent), now));
            });
        });
        let mut turn = (0..).zip(agents.iter().cycle());
        group.bench_function(format!("Mutex<HashMap>, {name}"), |b| {
            b.iter(|| {
                let (counter, agent) = turn.next().expect("a cycle");
                let key = (black_box(*agent), Medium::Voice);
                assert!(table.reserve(key, HOLDER, counter, now));
                assert!(table.bind(key, HOLDER, counter));
                assert!(table.release(key, HOLDER, counter));
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
