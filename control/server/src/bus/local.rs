//! A bus for the controls of one process: a demonstration of several blades, and tests that cut it and delay it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_core::cluster::hub::{Hub, Told};
use control_core::cluster::{BladeName, Heard};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Count, Ends};
use crate::clock;

/// What may wait for one blade; what comes when it is full is lost, as is a message on a bus.
const WAITING: usize = 16_384;
/// How often questions are looked at that nobody answered.
const EXPIRE_MS: u64 = 50;

/// Blades of one process meet here. Clones are the same bus.
#[derive(Clone, Debug)]
pub struct LocalBus {
    inner: Arc<Mutex<Inner>>,
    /// Which blades are cut off.
    cuts: Arc<watch::Sender<Vec<BladeName>>>,
}

#[derive(Debug, Default)]
struct Inner {
    hub: Hub,
    members: BTreeMap<BladeName, mpsc::Sender<(Instant, Heard)>>,
    delay: Duration,
}

impl Default for LocalBus {
    fn default() -> Self {
        LocalBus { inner: Arc::default(), cuts: Arc::new(watch::Sender::new(Vec::new())) }
    }
}

impl LocalBus {
    /// Lets everything take that long from now on.
    pub fn delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Cuts a blade off, until it is joined again.
    pub fn cut(&self, blade: &str) {
        self.cuts.send_modify(|cuts| cuts.push(blade.into()));
    }

    /// Joins a blade again.
    pub fn join(&self, blade: &str) {
        self.cuts.send_modify(|cuts| cuts.retain(|cut| &**cut != blade));
    }

    /// Forgets all that stands on the bus.
    pub fn lose_all(&self) {
        self.lock().hub.lose_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic left is as good as what a lost message leaves.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries until the core is gone.
    pub(super) async fn run(self, mut ends: Ends) {
        let name = ends.place.blade.clone();
        let (sender, mut heard) = mpsc::channel(WAITING);
        self.lock().members.insert(name.clone(), sender);
        let mut cuts = self.cuts.subscribe();
        let mut ticks = tokio::time::interval(Duration::from_millis(EXPIRE_MS));
        let is_cut = |cuts: &Vec<BladeName>| cuts.contains(&name);
        let mut was_cut = true;
        loop {
            let cut = is_cut(&cuts.borrow_and_update());
            if cut != was_cut {
                was_cut = cut;
                let mut inner = self.lock();
                let told = match cut {
                    true => inner.hub.leave(&name),
                    false => inner.hub.join(clock::now(), &name),
                };
                inner.tell(told, &ends);
            }
            tokio::select! {
                say = ends.says.recv() => match say {
                    Some(say) => {
                        let mut inner = self.lock();
                        let told = inner.hub.say(clock::now(), &name, say);
                        inner.tell(told, &ends);
                    }
                    None => break,
                },
                Some((due, heard)) = heard.recv() => {
                    tokio::time::sleep_until(due).await;
                    match heard {
                        Heard::Connected(is) => ends.connected(is).await,
                        heard => ends.tell(heard).await,
                    }
                }
                _ = cuts.changed() => {}
                _ = ticks.tick() => {
                    let mut inner = self.lock();
                    let told = inner.hub.expire(clock::now());
                    inner.tell(told, &ends);
                }
            }
        }
        let mut inner = self.lock();
        inner.hub.leave(&name);
        inner.members.remove(&name);
    }
}

impl Inner {
    fn tell(&mut self, told: Vec<Told>, ends: &Ends) {
        let due = Instant::now() + self.delay;
        for (to, heard) in told {
            let sent = self.members.get(&to).map(|member| member.try_send((due, heard)).is_ok());
            if sent != Some(true) {
                ends.state.add(Count::DropFull);
            }
        }
    }
}
