//! The relays that are compared, all on core 0 of the SBC.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use house_bench::lab::{Lab, Running, SBC, TRUNK};
use house_bench::programs::{jackfield, rtpengine};

/// The port of the AgentProxy.
const HTTP_PORT: u16 = 8080;
/// How long a relay may take until it serves: a demo hashes a password for each agent.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// No relay: what the packets cost the generator alone, over its loopback.
    Nobody,
    /// Debian's, user space, one worker thread.
    Rtpengine,
    /// Ours, as this build's default, or with `--media`.
    Jackfield(&'static str),
}

impl Relay {
    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Relay::Nobody => "none",
            Relay::Rtpengine => "rtpengine",
            Relay::Jackfield("") => "jackfield",
            Relay::Jackfield(media) => media,
        }
    }

    /// True where the generator is the limit rather than a core that copies packets.
    pub fn is_bypass(self) -> bool {
        self == Relay::Jackfield("xdp")
    }
}

/// A relay that runs.
#[derive(Default)]
pub struct Started {
    /// What to watch.
    pub pid: Option<u32>,
    /// Control, of ours.
    pub control: Option<u32>,
    /// Where ours is told what to do.
    pub folder: PathBuf,
    /// How the generator reaches it.
    pub flags: Vec<String>,
    _process: Option<Running>,
}

/// Which of ours this build has: the names of `--media`, or none when it does not know the flag.
pub fn ours(program: &Path) -> Vec<Relay> {
    let help = Command::new(program).args(["demo", "--help"]).output();
    let help = help.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let help = help.unwrap_or_default();
    if !help.contains("--media") {
        return vec![Relay::Jackfield("")];
    }
    ["recvmmsg", "io_uring", "xdp"]
        .into_iter()
        .filter(|name| help.contains(name))
        .map(Relay::Jackfield)
        .collect()
}

/// Starts it; `agents` can log in.
pub fn start(lab: &Lab, relay: Relay, agents: u32) -> Result<Started, String> {
    match relay {
        Relay::Nobody => {
            let flags = vec!["--direct".into(), house_bench::lab::PHONES.into()];
            Ok(Started { flags, ..Started::default() })
        }
        Relay::Rtpengine => start_rtpengine(lab),
        Relay::Jackfield(media) => start_jackfield(lab, media, agents),
    }
}

fn start_rtpengine(lab: &Lab) -> Result<Started, String> {
    let (process, ng) = rtpengine(lab)?;
    let flags = vec!["--ng".into(), ng];
    Ok(Started { pid: Some(process.pid()), flags, _process: Some(process), ..Started::default() })
}

fn start_jackfield(lab: &Lab, media: &str, agents: u32) -> Result<Started, String> {
    let mut command = lab.on_sbc(&jackfield()?);
    command.args(["demo", "--bind", SBC, "--cores", "1", "--rtp-ports", "10000-65000"]);
    command.args(["--trunk", &format!("{TRUNK}/32"), "--agents", &agents.to_string()]);
    command.arg("--http").arg(HTTP_PORT.to_string());
    let folder = lab.folder.join("demo");
    command.arg("--dir").arg(&folder);
    if !media.is_empty() {
        command.args(["--media", media]);
    }
    if media == "xdp" {
        command.args(["--xdp", "native"]);
    }
    let mut process = lab.start(&mut command, "jackfield")?;
    process.wait_for(START_LIMIT, |process| {
        process.output().contains("Jackfield runs").then_some(())
    })?;
    let demo = process.pid();
    let data_plane = process.wait_for(START_LIMIT, |_| child(demo, "dataplane"))?;
    let control = process.wait_for(START_LIMIT, |_| child(demo, "control"))?;
    // Only the data plane is measured; logins may use all cores.
    spread(control);
    let flags = ["--http".into(), format!("{SBC}:{HTTP_PORT}"), "--callers".into(), TRUNK.into()];
    Ok(Started {
        pid: Some(data_plane),
        control: Some(control),
        folder,
        flags: flags.into(),
        _process: Some(process),
    })
}

/// The child of `parent` whose first argument is `role`.
fn child(parent: u32, role: &str) -> Option<u32> {
    let is_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
    };
    let children = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(children).ok()?;
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_it)
}

/// Lets all threads of a process run wherever this one may.
fn spread(pid: u32) {
    let all: CpuSet = sched_getaffinity(None).unwrap_or_default();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let id = task.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        if id.is_some() {
            let _ = sched_setaffinity(id, &all);
        }
    }
}
