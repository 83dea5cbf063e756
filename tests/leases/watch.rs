//! What must hold, as somebody sees it who sees all blades at once.

use std::collections::BTreeMap;

use abi::Fence;

use crate::world::AGENTS;

/// Who sees all.
pub struct Watch {
    /// The number of the newest grant.
    pub grants: u64,
    /// The newest grant of each agent's word at each home, and its fence.
    newest: BTreeMap<(usize, usize), (u64, Fence)>,
    /// The newest login of each agent.
    pub epochs: Vec<u32>,
    /// The first rule that was broken.
    pub broken: Option<String>,
}

impl Watch {
    pub fn new() -> Watch {
        Watch { grants: 0, newest: BTreeMap::new(), epochs: vec![0; AGENTS], broken: None }
    }

    pub fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// A home grants an agent's word, for the grant of this number.
    pub fn granted(&mut self, home: usize, agent: usize, grant: u64, fence: Fence, remote: bool) {
        let newest = self.epochs[agent];
        self.expect(!remote || fence.epoch == newest, || {
            format!("home {home} grants login {} of agent {agent}, who has {newest}", fence.epoch)
        });
        self.newest.insert((home, agent), (grant, fence));
    }

    /// A data plane lets an INVITE in, which shows that grant; `others` are dialogs that the login is in.
    pub fn accepted(&mut self, home: usize, agent: usize, grant: u64, fence: Fence, others: usize) {
        let newest = self.newest.get(&(home, agent)).copied();
        self.expect(newest == Some((grant, fence)), || {
            format!(
                "home {home} takes an INVITE for agent {agent} by {grant}, {fence:?}: {newest:?}"
            )
        });
        self.expect(others == 0, || {
            format!("agent {agent}'s login {} is in {} calls", fence.epoch, others + 1)
        });
    }

    /// True while that grant is the newest of its word.
    pub fn is_newest(&self, home: usize, agent: usize, grant: u64) -> bool {
        self.newest.get(&(home, agent)).is_some_and(|(newest, _)| *newest == grant)
    }
}
