//! Blades and a NATS server on this machine, as `jackfield demo --blades` starts them, and what each process costs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use house_bench::lab::{Lab, Running, output};
use house_bench::report;
use serde_json::Value;

/// The port of the first blade's AgentProxy.
pub const HTTP_PORT: u16 = 8080;
/// A demo hashes a password for each agent.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long the blades may take to see each other.
const MEET_LIMIT: Duration = Duration::from_secs(30);

/// All that runs.
pub struct Site {
    demo: Running,
    program: PathBuf,
    folder: PathBuf,
    /// What each process is, by its id.
    processes: BTreeMap<u32, String>,
    blades: u16,
}

/// CPU time by process.
pub type Spent = BTreeMap<String, Duration>;

impl Site {
    /// Starts so many blades with so many agents, and waits until they see each other.
    pub fn start(lab: &Lab, blades: u16, agents: u32) -> Result<Site, String> {
        let program = house_bench::programs::jackfield()?;
        let folder = lab.folder.join("demo");
        let mut command = Command::new(&program);
        command.args(["demo", "--cores", "1", "--rtp-ports", "10000-60000", "--xdp", "off"]);
        command.args(["--http", &HTTP_PORT.to_string(), "--agents", &agents.to_string()]);
        command.args(["--blades", &blades.to_string(), "--dir"]).arg(&folder);
        let mut demo = lab.start(&mut command, "demo")?;
        demo.wait_for(START_LIMIT, |demo| demo.output().contains("Jackfield runs").then_some(()))?;
        let mut site = Site { demo, program, folder, processes: BTreeMap::new(), blades };
        site.meet()?;
        let processes = report::tree(&[site.demo.pid()]);
        site.processes = processes.into_iter().filter_map(|pid| Some((pid, name(pid)?))).collect();
        Ok(site)
    }

    fn meet(&self) -> Result<(), String> {
        let end = Instant::now() + MEET_LIMIT;
        for blade in 1..=self.blades {
            loop {
                let seen = self.status(blade)?["blade"]["blades_seen"].as_u64();
                if seen == Some(self.blades.into()) {
                    break;
                }
                if Instant::now() > end {
                    return Err(format!("blade {blade} sees {seen:?} blades"));
                }
                // Processes of others tell nothing of themselves; there is no event to wait for.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// What each process spent so far.
    pub fn spent(&self) -> Spent {
        self.processes.iter().map(|(pid, name)| (name.clone(), report::own_cpu(*pid))).collect()
    }

    /// `jackfield status` of a blade.
    pub fn status(&self, blade: u16) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.args(["status", "--json", "--dir"]).arg(self.blade_folder(blade));
        let output = output(&mut command)?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("status of blade {blade}: {error}"))
    }

    /// Where NATS listens.
    pub fn bus(&self) -> Result<String, String> {
        let file = self.folder.join("jackfield.toml");
        let text =
            std::fs::read_to_string(&file).map_err(|why| format!("{}: {why}", file.display()))?;
        let found = text.split("nats://").nth(1).and_then(|rest| rest.split('"').next());
        found.map(str::to_owned).ok_or_else(|| "the demo's configuration names no bus".to_owned())
    }

    fn blade_folder(&self, blade: u16) -> PathBuf {
        match blade {
            1 => self.folder.clone(),
            _ => self.folder.join(format!("blade-{blade}")),
        }
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// What a process of the site is; none for the demo itself, which only waits.
fn name(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split('\0');
    if words.next()?.ends_with("nats-server") {
        return Some("nats-server".to_owned());
    }
    let what = words.next().filter(|word| matches!(*word, "dataplane" | "control"))?;
    let blade = text.split("/blade-").nth(1).and_then(|rest| rest.split('/').next());
    Some(format!("{what} {}", blade.unwrap_or("1")))
}

/// What was spent between two looks.
pub fn between(before: &Spent, after: &Spent) -> Spent {
    let of = |name: &String| before.get(name).copied().unwrap_or_default();
    after.iter().map(|(name, spent)| (name.clone(), spent.saturating_sub(of(name)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_a_difference() {
        let spent = |ms: u64| Spent::from([("control 1".to_owned(), Duration::from_millis(ms))]);
        assert_eq!(between(&spent(20), &spent(50)), spent(30));
        assert_eq!(between(&Spent::new(), &spent(50)), spent(50));
    }
}
