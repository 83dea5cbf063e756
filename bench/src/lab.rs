//! Two hosts on this machine, the generator's and the SBC's, and what runs on them; all of it goes at
//! the end, at Ctrl-C and at a panic.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The SBC's address, and the generator's two: phones and the trunk.
pub const SBC: &str = "10.99.0.1";
/// Where registered phones are.
pub const PHONES: &str = "10.99.0.2";
/// Where the trunk is.
pub const TRUNK: &str = "10.99.0.3";
/// How the generator is started: what else runs on the machine waits. Who is measured has the niceness of its threads from
/// itself: ours puts its workers before its control.
const NICE: [&str; 3] = ["nice", "-n", "-20"];
/// Queues from the SBC to the generator, each of 256 packets: together as deep as a NIC's ring, so that a pause of the
/// generator's core loses nothing that the relay sent.
const QUEUES: &str = "4";
/// The generator's end of the cable.
pub const CABLE: &str = "cable-g";
/// How long a process may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What must not stay behind.
static MESS: Mutex<Mess> = Mutex::new(Mess {
    processes: Vec::new(),
    namespaces: Vec::new(),
    folders: Vec::new(),
    settings: Vec::new(),
});

struct Mess {
    processes: Vec<Pid>,
    namespaces: Vec<String>,
    folders: Vec<PathBuf>,
    /// Of the kernel, and what they were before.
    settings: Vec<(PathBuf, String)>,
}

/// Cleans up when it goes, panic or not.
pub struct Broom;

impl Broom {
    /// Cleans up at Ctrl-C from now on, too.
    pub fn new() -> Result<Broom, String> {
        let failed = |error: std::io::Error| format!("signals: {error}");
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        std::thread::Builder::new()
            .spawn(move || {
                if signals.forever().next().is_some() {
                    clean();
                    std::process::exit(130);
                }
            })
            .map_err(failed)?;
        Ok(Broom)
    }
}

impl Drop for Broom {
    fn drop(&mut self) {
        clean();
    }
}

fn mess(change: impl FnOnce(&mut Mess)) {
    change(&mut MESS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
}

fn clean() {
    mess(|mess| {
        for pid in &mess.processes {
            let _ = kill_process(*pid, Signal::TERM);
        }
        let end = Instant::now() + STOP_LIMIT;
        for pid in mess.processes.drain(..) {
            // A child may be reaped by nobody any more, and a zombie still takes signals.
            while is_alive(pid) && Instant::now() < end {
                std::thread::sleep(ASK_EVERY);
            }
            let _ = kill_process(pid, Signal::KILL);
        }
        for name in mess.namespaces.drain(..) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
        for folder in mess.folders.drain(..) {
            let _ = std::fs::remove_dir_all(folder);
        }
        for (file, before) in mess.settings.drain(..) {
            let _ = std::fs::write(file, before);
        }
    });
}

fn is_alive(pid: Pid) -> bool {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    test_kill_process(pid).is_ok() && !matches!(state, Some('Z' | 'X') | None)
}

/// The two hosts, joined by a cable.
pub struct Lab {
    generator: String,
    sbc: String,
    /// For logs and the demo's state.
    pub folder: PathBuf,
}

impl Lab {
    /// Makes them; needs root.
    pub fn new() -> Result<Lab, String> {
        let pid = std::process::id();
        let lab = Lab {
            generator: format!("relay-{pid}-generator"),
            sbc: format!("relay-{pid}-sbc"),
            folder: std::env::temp_dir().join(format!("relay-{pid}")),
        };
        std::fs::create_dir_all(&lab.folder).map_err(|error| error.to_string())?;
        mess(|mess| mess.folders.push(lab.folder.clone()));
        before_other_sessions();
        for host in [&lab.generator, &lab.sbc] {
            ip(&["netns", "add", host])?;
            mess(|mess| mess.namespaces.push(host.clone()));
            ip(&["-n", host, "link", "set", "lo", "up"])?;
        }
        let (one, other) = (CABLE, "cable-s");
        ip(&[
            "link",
            "add",
            one,
            "netns",
            &lab.generator,
            "numrxqueues",
            QUEUES,
            "type",
            "veth",
            "peer",
            "name",
            other,
            "netns",
            &lab.sbc,
            "numrxqueues",
            "1",
            "numtxqueues",
            QUEUES,
        ])?;
        run(&["ip", "netns", "exec", &lab.sbc, "ethtool", "-L", other, "tx", QUEUES])?;
        for (host, link, address) in
            [(&lab.generator, one, PHONES), (&lab.generator, one, TRUNK), (&lab.sbc, other, SBC)]
        {
            ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", link])?;
        }
        for (host, link) in [(&lab.generator, one), (&lab.sbc, other)] {
            ip(&["-n", host, "link", "set", link, "up"])?;
            // A veth leaves checksums to an offload that never comes; XDP would see wrong sums.
            run(&["ip", "netns", "exec", host, "ethtool", "-K", link, "tx", "off"])?;
        }
        // What a veth brings is delivered on the sender's core. The phones' receiving is not the relay's work.
        let steered = format!("echo 2 > /sys/class/net/{one}/queues/rx-0/rps_cpus");
        run(&["ip", "netns", "exec", &lab.generator, "sh", "-c", &steered])?;
        Ok(lab)
    }

    /// One host with nothing but a loopback, and this thread on it with all that it starts from now on; needs root.
    pub fn alone(name: &str) -> Result<Lab, String> {
        let host = format!("{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(&host);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        mess(|mess| mess.folders.push(folder.clone()));
        ip(&["netns", "add", &host])?;
        mess(|mess| mess.namespaces.push(host.clone()));
        ip(&["-n", &host, "link", "set", "lo", "up"])?;
        let file = Path::new("/run/netns").join(&host);
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        let open = File::open(&file).map_err(failed)?;
        move_into_link_name_space(open.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| failed(error.into()))?;
        Ok(Lab { generator: host.clone(), sbc: host, folder })
    }

    /// Puts a program onto the generator's end of the cable that passes everything, or takes it off: what
    /// XDP_TX sends reaches a veth only if it has a program too. Other relays go without, since a veth with
    /// a program copies every packet that comes from a socket.
    pub fn pass(&self, program: Option<&Path>) -> Result<(), String> {
        self.program_on(&self.generator, CABLE, program)
    }

    /// Readies the cable for frames that were never packets of a socket: they reach a veth only if it polls. What
    /// comes to the SBC is delivered on the generator's core as ever, or, where `on_relay`, by a thread of its own on
    /// the relay's ([`Lab::poll_threads`] puts it there), for then it is what relays.
    pub fn take_frames(&self, on_relay: bool) -> Result<(), String> {
        for (host, link, threaded) in
            [(&self.generator, CABLE, true), (&self.sbc, "cable-s", on_relay)]
        {
            let on = |words: &[&str]| run(&[&["ip", "netns", "exec", host], words].concat());
            on(&["ethtool", "-K", link, "gro", "on"])?;
            let threaded = format!("echo {} > /sys/class/net/{link}/threaded", u8::from(threaded));
            on(&["sh", "-c", &threaded])?;
        }
        self.poll_threads()
    }

    /// Readies the cable for packets of sockets again.
    pub fn take_sockets(&self) -> Result<(), String> {
        for (host, link) in [(&self.generator, CABLE), (&self.sbc, "cable-s")] {
            let on = |words: &[&str]| run(&[&["ip", "netns", "exec", host], words].concat());
            // Only of an interface that polls it can be said how it does.
            on(&["ethtool", "-K", link, "gro", "on"])?;
            on(&["sh", "-c", &format!("echo 0 > /sys/class/net/{link}/threaded")])?;
            on(&["ethtool", "-K", link, "gro", "off"])?;
        }
        Ok(())
    }

    /// Puts the threads that poll the SBC's end of the cable on core 0, those of the generator's on core 1.
    pub fn poll_threads(&self) -> Result<(), String> {
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let id = process.file_name().to_string_lossy().into_owned();
            for (core, name) in ["napi/cable-s-", "napi/cable-g-"].into_iter().enumerate() {
                if comm.starts_with(name) {
                    run(&["taskset", "-p", "-c", &core.to_string(), &id])?;
                    // As an interrupt would: whatever else waits for the core.
                    run(&["chrt", "-f", "-p", "1", &id])?;
                }
            }
        }
        Ok(())
    }

    /// Puts a program onto the SBC's end of the cable, or takes it off.
    pub fn program_on_sbc(&self, program: Option<&Path>) -> Result<(), String> {
        self.program_on(&self.sbc, "cable-s", program)
    }

    fn program_on(&self, host: &str, link: &str, program: Option<&Path>) -> Result<(), String> {
        let object = program.map(|program| program.display().to_string());
        let mut command = vec!["ip", "netns", "exec", host];
        command.extend(["ip", "link", "set", "dev", link, "xdpdrv"]);
        match &object {
            Some(object) => command.extend(["obj", object.as_str(), "sec", "xdp"]),
            None => command.push("off"),
        }
        run(&command)
    }

    /// A command on the SBC, on core 0.
    pub fn on_sbc(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.sbc]);
        command.args(["taskset", "-c", "0"]).arg(program);
        command
    }

    /// A command on the generator.
    pub fn on_generator(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.generator]).args(NICE).arg(program);
        command
    }

    /// Starts a relay with its output in the file `name`.log.
    pub fn start(&self, command: &mut Command, name: &str) -> Result<Running, String> {
        let log = self.folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let again = file.try_clone().map_err(|error| error.to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let pid = Pid::from_child(&child);
        mess(|mess| mess.processes.push(pid));
        Ok(Running { child, log })
    }
}

/// Where the kernel shares a core among sessions first (sched(7), "The autogroup feature"), niceness counts within a
/// session only: ours is put before others, until all is over.
fn before_other_sessions() {
    let file = Path::new("/proc/self/autogroup");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let Some((_, before)) = text.trim().rsplit_once("nice ") else { return };
    mess(|mess| mess.settings.push((file.to_owned(), before.to_owned())));
    let _ = std::fs::write(file, NICE[2]);
}

/// A process that is asked to stop, and waited for, when it goes.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `ready` finds what it looks for in this process.
    pub fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut(&Running) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = ready(self) {
                return Ok(found);
            }
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > end {
                let state = if ended.is_some() { "ended" } else { "is not ready" };
                return Err(format!("a relay {state}: {}", self.output()));
            }
            // It tells nothing of itself; there is no event to wait for.
            std::thread::sleep(ASK_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let end = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(ASK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        mess(|mess| mess.processes.retain(|other| *other != pid));
    }
}

/// Runs a command to its end; it does not outlive this program either.
pub fn output(command: &mut Command) -> Result<Output, String> {
    let failed = |error: std::io::Error| error.to_string();
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().map_err(failed)?;
    let pid = Pid::from_child(&child);
    mess(|mess| mess.processes.push(pid));
    let output = child.wait_with_output().map_err(failed);
    mess(|mess| mess.processes.retain(|other| *other != pid));
    output
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run(&[&["ip"], arguments].concat())
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {} (namespaces need root)", words.join(" "), why.trim()))
}
