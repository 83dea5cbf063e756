//! Slots whose processes are systemd's: it starts them, watches them and starts them again.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use control_core::{SlotId, SlotOrder};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::Event;

/// How long `systemctl` may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A slot and its unit.
pub(super) struct Slot {
    pub(super) slot: SlotId,
    pub(super) systemctl: PathBuf,
    pub(super) unit: String,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Slot {
    /// Does what it is ordered.
    pub(super) async fn keep(self, mut orders: mpsc::UnboundedReceiver<SlotOrder>) {
        while let Some(order) = orders.recv().await {
            let verb = match order {
                SlotOrder::Start => "start",
                SlotOrder::Stop => "stop",
            };
            match self.call(verb).await {
                Ok(()) => {
                    tracing::info!(slot = %self.slot, unit = self.unit, verb, "systemd did it")
                }
                Err(why) => {
                    tracing::error!(
                        slot = %self.slot,
                        unit = self.unit,
                        verb,
                        why,
                        "systemd did not"
                    );
                }
            }
            // A unit that cannot be stopped runs on, and its CCB shows that.
            if order == SlotOrder::Stop {
                let _ = self.events.send(Event::Stopped(self.slot));
            }
        }
    }

    async fn call(&self, verb: &str) -> Result<(), String> {
        let mut command = Command::new(&self.systemctl);
        // A dialog for a password would wait for ever.
        command.args(["--no-ask-password", "--quiet", verb, self.unit.as_str()]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.map_err(|_| format!("no end after {} s", LIMIT.as_secs()))?;
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", output.status, said.trim()))
    }
}
