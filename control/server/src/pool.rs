//! The pool's drivers: they start and stop the processes of slots (S1-016, S1-051).

mod process;
mod systemd;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base::CcbId;
use control_core::{Marks, SlotOrder, SlotState};
use tokio::sync::mpsc;

use crate::owner::{Ask, BladeHandle};

/// The file in the state folder that remembers the slots.
const FILE: &str = "pool.json";

/// The slots of a blade, and what starts them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The CCBs of this blade that are started and stopped with the load or by order.
    pub slots: Vec<CcbId>,
    /// What starts and stops them.
    pub driver: Driver,
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
        /// Its arguments; `%i` is the CCB's number.
        arguments: Vec<String>,
    },
    /// systemd, by template units.
    Systemd {
        /// The `systemctl` to call.
        systemctl: PathBuf,
        /// The unit; `%i` is the CCB's number.
        unit: String,
    },
}

/// What a slot's driver is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tell {
    /// Start or stop the process of that slot.
    Order(CcbId, SlotOrder),
    /// These slots are to be remembered.
    Remember(CcbId, SlotState),
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

type Memory = BTreeMap<u16, Remembered>;

/// The slots as an earlier control process left them; those that it did not know are free, but what runs shows
/// itself.
pub(crate) fn remembered(state: &Path, slots: &[CcbId]) -> Vec<(CcbId, SlotState)> {
    let memory = read(&state.join(FILE));
    let known = |ccb: &CcbId| match memory.get(&ccb.0).map(|slot| slot.state) {
        // Whether it was stopped is seen.
        Some(SlotState::Stopping) | None => (*ccb, SlotState::Free),
        Some(state) => (*ccb, state),
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
    memory.retain(|ccb, _| config.slots.contains(&CcbId(*ccb)));
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut slots: BTreeMap<CcbId, Keeper> = BTreeMap::new();
    for ccb in &config.slots {
        let known = memory.get(&ccb.0).and_then(|slot| slot.process);
        let keeper = Keeper::new(*ccb, &config.driver, known, done.clone());
        // What ran when this machine went down runs again.
        let ran =
            |slot: &Remembered| matches!(slot.state, SlotState::Starting | SlotState::Running);
        if memory.get(&ccb.0).is_some_and(ran) {
            keeper.order(SlotOrder::Start);
        }
        slots.insert(*ccb, keeper);
    }
    loop {
        tokio::select! {
            tell = told.recv() => match tell {
                None => return,
                Some(Tell::Order(ccb, order)) => {
                    if let Some(keeper) = slots.get(&ccb) {
                        keeper.order(order);
                    }
                }
                Some(Tell::Remember(ccb, state)) => {
                    let process = memory.get(&ccb.0).and_then(|slot| slot.process);
                    memory.insert(ccb.0, Remembered { state, process });
                    write(&file, &memory);
                }
            },
            Some(event) = ended.recv() => match event {
                Event::Runs(ccb, process) => {
                    let state = memory.get(&ccb.0).map_or(SlotState::Starting, |slot| slot.state);
                    memory.insert(ccb.0, Remembered { state, process: Some(process) });
                    write(&file, &memory);
                }
                Event::Stopped(ccb) => {
                    if let Some(slot) = memory.get_mut(&ccb.0) {
                        slot.process = None;
                    }
                    write(&file, &memory);
                    blade.tell(Ask::SlotStopped(ccb)).await;
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
    Runs(CcbId, (u32, u64)),
    /// It was stopped, and is not started again.
    Stopped(CcbId),
}

/// The task that keeps one slot.
struct Keeper {
    orders: mpsc::UnboundedSender<SlotOrder>,
}

impl Keeper {
    fn new(
        ccb: CcbId,
        driver: &Driver,
        known: Option<(u32, u64)>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Keeper {
        let (orders, taken) = mpsc::unbounded_channel();
        let number = ccb.to_string();
        match driver {
            Driver::Process { program, arguments } => {
                let arguments = arguments.iter().map(|one| one.replace("%i", &number)).collect();
                let slot = process::Slot { ccb, program: program.clone(), arguments, events };
                tokio::spawn(slot.keep(known, taken));
            }
            Driver::Systemd { systemctl, unit } => {
                let unit = unit.replace("%i", &number);
                let slot = systemd::Slot { ccb, systemctl: systemctl.clone(), unit, events };
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
