//! The pool's drivers: they start and stop the processes of slots (S1-016, S1-051).

mod process;
mod systemd;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_core::{Marks, SlotId, SlotKind, SlotOrder, SlotState};
use tokio::sync::mpsc;

use crate::config::LONGEST_DRAIN_S;
use crate::owner::{Ask, BladeHandle};

/// The file in the state folder that remembers the slots.
const FILE: &str = "pool.json";

/// The slots of a blade, and what starts them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The CCBs and AgentProxies of this blade that are started and stopped with the load or by order.
    pub slots: Vec<SlotId>,
    /// What starts and stops the CCBs.
    pub ccbs: Driver,
    /// What starts and stops the AgentProxies.
    pub agent_proxies: Driver,
    /// When the CDM grows and shrinks the pool by itself; never without.
    pub marks: Option<Marks>,
}

/// What starts and stops the process of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Control itself, which also starts it again when it dies. The processes outlive control.
    Process {
        /// The program.
        program: PathBuf,
        /// Its arguments; `%i` is the slot's number.
        arguments: Vec<String>,
    },
    /// systemd, by template units.
    Systemd {
        /// The `systemctl` to call.
        systemctl: PathBuf,
        /// The unit; `%i` is the slot's number.
        unit: String,
    },
}

/// What a slot's driver is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tell {
    /// Start or stop the process of that slot.
    Order(SlotId, SlotOrder),
    /// These slots are to be remembered.
    Remember(SlotId, SlotState),
}

/// What is remembered of a slot over a restart of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Remembered {
    state: SlotState,
    /// The process that runs there, and when it started in ticks since boot, so that it is not
    /// taken for another one.
    #[serde(default)]
    process: Option<(u32, u64)>,
}

/// By [`key`].
type Memory = BTreeMap<String, Remembered>;

/// What a slot is called in the file.
fn key(slot: SlotId) -> String {
    match slot {
        SlotId::Ccb(ccb) => ccb.0.to_string(),
        SlotId::AgentProxy(number) => format!("agent_proxy-{number}"),
    }
}

/// The slots as an earlier control process left them; those that it did not know are free, but what runs shows
/// itself.
pub(crate) fn remembered(state: &Path, slots: &[SlotId]) -> Vec<(SlotId, SlotState)> {
    let memory = read(&state.join(FILE));
    let known = |slot: &SlotId| match memory.get(&key(*slot)).map(|held| held.state) {
        // Whether it was stopped is seen.
        Some(SlotState::Stopping) | None => (*slot, SlotState::Free),
        Some(state) => (*slot, state),
    };
    slots.iter().map(known).collect()
}

fn read(file: &Path) -> Memory {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Memory::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "what was known of the pool cannot be read");
            return Memory::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "what was known of the pool is garbled");
        Memory::new()
    })
}

/// Serves a blade's slots until the owner is gone.
pub(crate) async fn serve(
    config: Config,
    state: PathBuf,
    mut told: mpsc::UnboundedReceiver<Tell>,
    blade: BladeHandle,
) {
    let file = state.join(FILE);
    let mut memory = read(&file);
    let names: Vec<String> = config.slots.iter().map(|slot| key(*slot)).collect();
    memory.retain(|name, _| names.contains(name));
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut slots: BTreeMap<SlotId, Keeper> = BTreeMap::new();
    for slot in &config.slots {
        let held = memory.get(&key(*slot)).copied();
        let keeper = Keeper::new(*slot, &config, held.and_then(|held| held.process), done.clone());
        // What ran when this machine went down runs again.
        let ran = |held: Remembered| matches!(held.state, SlotState::Starting | SlotState::Running);
        if held.is_some_and(ran) {
            keeper.order(SlotOrder::Start);
        }
        slots.insert(*slot, keeper);
    }
    loop {
        tokio::select! {
            tell = told.recv() => match tell {
                None => return,
                Some(Tell::Order(slot, order)) => {
                    if let Some(keeper) = slots.get(&slot) {
                        keeper.order(order);
                    }
                }
                Some(Tell::Remember(slot, state)) => {
                    let process = memory.get(&key(slot)).and_then(|held| held.process);
                    memory.insert(key(slot), Remembered { state, process });
                    write(&file, &memory);
                }
            },
            Some(event) = ended.recv() => match event {
                Event::Runs(slot, process) => {
                    let held = memory.get(&key(slot));
                    let state = held.map_or(SlotState::Starting, |held| held.state);
                    memory.insert(key(slot), Remembered { state, process: Some(process) });
                    write(&file, &memory);
                }
                Event::Stopped(slot) => {
                    if let Some(held) = memory.get_mut(&key(slot)) {
                        held.process = None;
                    }
                    write(&file, &memory);
                    blade.tell(Ask::SlotStopped(slot)).await;
                }
            },
        }
    }
}

fn write(file: &Path, memory: &Memory) {
    let fresh = file.with_extension("json.new");
    let text = serde_json::to_vec(memory).unwrap_or_default();
    let written = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, file));
    if let Err(error) = written {
        tracing::error!(file = %file.display(), %error, "the pool's slots are not remembered");
    }
}

/// What the keeper of a slot says.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A process of that id runs, since then.
    Runs(SlotId, (u32, u64)),
    /// It was stopped, and is not started again.
    Stopped(SlotId),
}

/// The task that keeps one slot.
struct Keeper {
    orders: mpsc::UnboundedSender<SlotOrder>,
}

impl Keeper {
    fn new(
        slot: SlotId,
        config: &Config,
        known: Option<(u32, u64)>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Keeper {
        let (orders, taken) = mpsc::unbounded_channel();
        let number = slot.number().to_string();
        let (driver, grace) = match slot.kind() {
            SlotKind::Ccb => (&config.ccbs, process::GRACE),
            // It serves on until balancers have noticed.
            SlotKind::AgentProxy => {
                let longest = Duration::from_secs(LONGEST_DRAIN_S.into());
                (&config.agent_proxies, longest + process::GRACE)
            }
        };
        match driver {
            Driver::Process { program, arguments } => {
                let arguments = arguments.iter().map(|one| one.replace("%i", &number)).collect();
                let program = program.clone();
                let slot = process::Slot { slot, program, arguments, grace, events };
                tokio::spawn(slot.keep(known, taken));
            }
            Driver::Systemd { systemctl, unit } => {
                let unit = unit.replace("%i", &number);
                let slot = systemd::Slot { slot, systemctl: systemctl.clone(), unit, events };
                tokio::spawn(slot.keep(taken));
            }
        }
        Keeper { orders }
    }

    fn order(&self, order: SlotOrder) {
        // Its task ends only with the process.
        let _ = self.orders.send(order);
    }
}

#[cfg(test)]
mod tests;
