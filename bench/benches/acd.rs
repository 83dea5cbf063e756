//! The choice of the next agent among 10,000 agents and 1,000 queues, and of the next caller among 100,000 who wait.
//!
//! Each agent has 5 of 64 skills, each queue asks for one or two. With 200 sets of skills agents share them, as in most
//! centres; with 10,000 each agent has a set of their own, which is the worst there is. What is measured is a whole turn:
//! a caller comes, the agent is chosen, the call ends, the agent is idle again.

use std::hint::black_box;

use base::{Instant, Rng, TenantId};
use control_core::{Acd, Ending, LoginKey, QueueSpec};
use house_bench::criterion;

const AGENTS: u64 = 10_000;
const QUEUES: u64 = 1_000;
const CALLERS: u64 = 100_000;
const SKILLS: u64 = 64;
const TENANT: TenantId = TenantId(1);

fn skills(rng: &mut Rng, count: usize) -> Vec<String> {
    let mut skills = std::collections::BTreeSet::new();
    while skills.len() < count {
        skills.insert(format!("skill{:02}", rng.below(SKILLS)));
    }
    skills.into_iter().collect()
}

fn login(agent: u64) -> LoginKey {
    LoginKey { tenant: TENANT, agent, epoch: 1 }
}

struct Centre {
    acd: Acd,
    queues: Vec<String>,
    agents: Vec<Vec<String>>,
    now: u64,
}

impl Centre {
    fn new(profiles: u64) -> Centre {
        let mut rng = Rng::from_number(7);
        let specs: Vec<QueueSpec> = (0..QUEUES)
            .map(|number| {
                let count = 1 + rng.below(2) as usize;
                let skills = skills(&mut rng, count);
                QueueSpec { skills, ..QueueSpec::new(TENANT, &format!("queue{number}")) }
            })
            .collect();
        let sets: Vec<Vec<String>> = (0..profiles).map(|_| skills(&mut rng, 5)).collect();
        let agents = (0..AGENTS).map(|agent| sets[(agent % profiles) as usize].clone()).collect();
        let mut acd = Acd::default();
        acd.set_queues(&specs);
        let queues = specs.into_iter().map(|spec| spec.name).collect();
        Centre { acd, queues, agents, now: 1 }
    }

    fn ready(&mut self, agent: u64) -> Option<(u64, u64)> {
        self.now += 1;
        let at = Instant::from_nanos(self.now);
        let found = self.acd.seat(login(agent), &self.agents[agent as usize], Some(at));
        found.map(|found| (found.caller, found.agent.agent))
    }

    fn join(&mut self, caller: u64, queue: usize) -> Option<(u64, u64)> {
        self.now += 1;
        assert!(self.acd.join(caller, TENANT, &self.queues[queue], self.now as i64));
        self.acd.match_of(caller).map(|found| (found.caller, found.agent.agent))
    }
}

fn main() {
    let mut criterion = criterion();
    for profiles in [200, AGENTS] {
        let mut centre = Centre::new(profiles);
        for agent in 0..AGENTS {
            assert!(centre.ready(agent).is_none());
        }
        let (mut rng, mut caller) = (Rng::from_number(9), 0);
        criterion.bench_function(&format!("acd/next agent, {profiles} sets of skills"), |bench| {
            bench.iter(|| {
                caller += 1;
                let queue = rng.below(QUEUES) as usize;
                let found = centre.join(caller, queue);
                centre.acd.leave(caller, Ending::Connected);
                if let Some((_, agent)) = black_box(found) {
                    centre.ready(agent);
                }
            });
        });
        let mut centre = Centre::new(profiles);
        let mut queues = Vec::new();
        for caller in 0..CALLERS {
            let queue = rng.below(QUEUES) as usize;
            assert!(centre.join(caller, queue).is_none());
            queues.push(queue);
        }
        criterion.bench_function(&format!("acd/next caller, {profiles} sets of skills"), |bench| {
            bench.iter(|| {
                let agent = rng.below(AGENTS);
                let Some((caller, agent)) = black_box(centre.ready(agent)) else { return };
                centre.acd.leave(caller, Ending::Connected);
                centre.acd.set_busy(login(agent));
                centre.join(caller, queues[caller as usize]);
            });
        });
    }
    criterion.final_summary();
}
