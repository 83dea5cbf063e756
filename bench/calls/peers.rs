//! What is compared, all of it on core 0 of the SBC.

use std::path::Path;
use std::time::Duration;

use house_bench::lab::{Lab, PHONES, Running, SBC};
use house_bench::programs::{jackfield, listens, rtpengine};

use crate::sipp::CALLEE_PORT;

/// Agents that call each other.
pub const AGENTS: u32 = 4_000;
/// The port of the AgentProxy.
pub const HTTP_PORT: u16 = 8080;
/// A demo hashes a password for each agent.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Who stands between the two SIPps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A record-routing proxy, with ports by rtpengine (user space).
    Kamailio,
    /// Ours: a B2BUA between agents, who prove themselves by digest.
    Jackfield,
}

impl Peer {
    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Kamailio => "kamailio",
            Peer::Jackfield => "jackfield",
        }
    }
}

/// One that runs.
pub struct Started {
    processes: Vec<Running>,
}

impl Started {
    /// Its processes; what these started belongs to them.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Running::pid).collect()
    }
}

/// Starts it.
pub fn start(lab: &Lab, peer: Peer) -> Result<Started, String> {
    match peer {
        Peer::Kamailio => start_kamailio(lab),
        Peer::Jackfield => start_jackfield(lab),
    }
}

fn start_kamailio(lab: &Lab) -> Result<Started, String> {
    let (engine, ng) = rtpengine(lab)?;
    let template = include_str!("kamailio.cfg");
    let text = template
        .replace("ADDRESS", SBC)
        .replace("CALLEE", &format!("{PHONES}:{CALLEE_PORT}"))
        .replace("RTPENGINE", &ng);
    let file = lab.folder.join("kamailio.cfg");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut command = lab.on_sbc(Path::new("kamailio"));
    command.args(["-DD", "-E", "-m", "512", "-M", "16", "-f"]).arg(&file);
    let run = lab.folder.join("kamailio-run");
    std::fs::create_dir_all(&run).map_err(|error| format!("{}: {error}", run.display()))?;
    command.arg("-Y").arg(&run).arg("-P").arg(run.join("pid"));
    let mut proxy = lab.start(&mut command, "kamailio")?;
    listens(&mut proxy, 5060)?;
    Ok(Started { processes: vec![proxy, engine] })
}

fn start_jackfield(lab: &Lab) -> Result<Started, String> {
    let mut command = lab.on_sbc(&jackfield()?);
    command.args(["demo", "--bind", SBC, "--cores", "1", "--rtp-ports", "10000-65000"]);
    command.args(["--agents", &AGENTS.to_string(), "--http", &HTTP_PORT.to_string()]);
    command.arg("--dir").arg(lab.folder.join("demo"));
    let mut process = lab.start(&mut command, "jackfield")?;
    process.wait_for(START_LIMIT, |process| {
        process.output().contains("Jackfield runs").then_some(())
    })?;
    Ok(Started { processes: vec![process] })
}
