//! A queue that becomes ours is held until the other blades have told of their callers and their idle agents: else its
//! first caller would get an agent of ours, though one of another blade has been idle for longer, or go before a caller
//! who has waited longer elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use base::Instant;

use super::Blade;
use super::sharing::QueueName;
use crate::cluster::{BladeName, CLAIM_LIFE_MS, REPORT_LIFE_MS};
use crate::message::Output;

/// How long a queue that is ours waits for what other blades tell, in milliseconds.
const GATHER_MS: u64 = 1_000;

/// What a queue waits for that becomes ours.
#[derive(Debug)]
pub(super) struct Gathering {
    until: Instant,
    told: BTreeSet<BladeName>,
    /// Callers of the queue are matched again.
    is_over: bool,
}

impl Blade {
    /// A queue that nobody owns has a caller here: nobody is matched until the others have told.
    pub(super) fn gather(&mut self, now: Instant, queue: &QueueName) {
        let others = self.others(now);
        let shared = &mut self.queueing.shared;
        let is_begun = shared.gathering.contains_key(queue) || shared.is_ours(queue);
        if is_begun || others.is_empty() {
            return;
        }
        // The claim of an owner who died must end first.
        let until = now + Duration::from_millis(CLAIM_LIFE_MS + GATHER_MS);
        let gathering = Gathering { until, told: BTreeSet::new(), is_over: false };
        shared.gathering.insert(queue.clone(), gathering);
        self.queueing.acd.hold_queue(queue.0, &queue.1, true);
    }

    /// The queue is ours from now on, and the others are about to hear it.
    pub(super) fn gather_on(&mut self, now: Instant, queue: &QueueName) {
        if let Some(gathering) = self.queueing.shared.gathering.get_mut(queue) {
            gathering.until = now + Duration::from_millis(GATHER_MS);
        }
    }

    /// That blade has told of its idle agents, and of its callers before.
    pub(super) fn gathered(&mut self, now: Instant, from: &BladeName, out: &mut Vec<Output>) {
        for gathering in self.queueing.shared.gathering.values_mut() {
            gathering.told.insert(from.clone());
        }
        self.tend_gathering(now, out);
    }

    /// Another blade owns the queue, or nobody needs it.
    pub(super) fn stop_gathering(&mut self, queue: &QueueName) {
        if self.queueing.shared.gathering.remove(queue).is_some() {
            self.queueing.acd.hold_queue(queue.0, &queue.1, false);
        }
    }

    /// Goes on with queues whose time is over or of which all have told, and forgets what nobody waits for.
    pub(super) fn tend_gathering(&mut self, now: Instant, out: &mut Vec<Output>) {
        let others = self.others(now);
        let mut is_changed = false;
        for (queue, gathering) in &mut self.queueing.shared.gathering {
            let all_told = others.is_subset(&gathering.told);
            if !gathering.is_over && (all_told || now >= gathering.until) {
                gathering.is_over = true;
                is_changed = true;
                self.queueing.acd.hold_queue(queue.0, &queue.1, false);
            }
        }
        let of = |queue: &QueueName| {
            let mut callers = self.queueing.callers.values();
            callers.any(|one| one.tenant == queue.0 && *one.queue == *queue.1)
        };
        let shared = &self.queueing.shared;
        let is_old = |queue: &QueueName| !shared.is_ours(queue) && !of(queue);
        let over = shared.gathering.iter().filter(|(_, gathering)| gathering.is_over);
        let over = over.map(|(queue, _)| queue.clone()).filter(is_old).collect::<Vec<_>>();
        for queue in over {
            self.queueing.shared.gathering.remove(&queue);
        }
        if is_changed {
            self.match_all(now, out);
        }
    }

    /// The other blades that report.
    fn others(&self, now: Instant) -> BTreeSet<BladeName> {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.connected) else {
            return BTreeSet::new();
        };
        let life = Duration::from_millis(REPORT_LIFE_MS);
        let reports = cluster.reports.iter().filter(|(_, (at, _))| now < *at + life);
        reports.map(|(name, _)| name.clone()).filter(|name| *name != cluster.name).collect()
    }
}
