//! What is compared, all of it on core 0 of the SBC.

use std::path::{Path, PathBuf};
use std::time::Duration;

use house_bench::lab::{Lab, PHONES, Running, SBC};

use crate::sipp::CALLEE_PORT;

/// Agents that call each other.
pub const AGENTS: u32 = 4_000;
/// The port of the AgentProxy.
pub const HTTP_PORT: u16 = 8080;
/// rtpengine's control port.
const NG_PORT: u16 = 2223;
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
    let ng = format!("{SBC}:{NG_PORT}");
    let mut command = lab.on_sbc(Path::new("rtpengine"));
    command.args([
        "--config-file=none",
        "--foreground",
        "--table=-1",
        "--num-threads=1",
        "--log-stderr",
    ]);
    command.args(["--log-level=3", "--port-min=10000", "--port-max=65000", "--delete-delay=0"]);
    command.arg(format!("--interface={SBC}")).arg(format!("--listen-ng={ng}"));
    let mut engine = lab.start(&mut command, "rtpengine")?;
    listens(&mut engine, NG_PORT)?;
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

/// Waits until somebody listens at a UDP port of that process' network.
fn listens(process: &mut Running, port: u16) -> Result<(), String> {
    let pid = process.pid();
    process.wait_for(START_LIMIT, move |_| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).ok()?;
        text.contains(&format!(":{port:04X} ")).then_some(())
    })
}

/// The program under test, beside this one.
pub fn jackfield() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = own.with_file_name("jackfield");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: cargo build --release --bin jackfield", program.display()))
}
