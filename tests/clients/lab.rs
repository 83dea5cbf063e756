//! Hosts of our own on this machine: network namespaces, and the processes in them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Tests with real processes share two cores and some ports, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A network namespace that goes with its value. Making one needs root.
pub struct Host {
    name: String,
}

impl Host {
    pub fn new(name: &str) -> Host {
        let host = Host { name: format!("jackfield-{}-{name}", std::process::id()) };
        ip(&["netns", "add", &host.name]);
        ip(&["-n", &host.name, "link", "set", "lo", "up"]);
        host
    }

    /// The name of its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something on this host: sockets that are made in it belong to it, wherever they are used.
    pub fn enter<T: Send>(&self, make: impl FnOnce() -> T + Send) -> T {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let path = Path::new("/run/netns").join(&self.name);
        let file = std::fs::File::open(path).expect("the namespace is there");
        // The thread ends with the namespace that it went into; nobody else's is changed.
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), network).expect("root");
                make()
            });
            inside.join().expect("it does not panic")
        })
    }

    /// Runs a program of this host to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().expect("ip netns exec runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    }

    /// Joins two hosts by a cable; both addresses lie in one network of 24 bits.
    pub fn connect(&self, own: &str, other: &Host, theirs: &str) {
        let cable = theirs.replace('.', "");
        let (here, there) = (format!("a{cable}"), format!("b{cable}"));
        ip(&[
            "link",
            "add",
            &here,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            &there,
            "netns",
            &other.name,
        ]);
        for (host, link, address) in [(self, &here, own), (other, &there, theirs)] {
            ip(&["-n", &host.name, "address", "add", &format!("{address}/24"), "dev", link]);
            ip(&["-n", &host.name, "link", "set", link, "up"]);
        }
    }

    /// Joins this host to the bridge `br0` of another one.
    pub fn plug(&self, wire: &Host, own: &str) {
        let cable = format!("p{}", own.replace('.', ""));
        let link = ["link", "add", "eth0", "netns", &self.name, "type", "veth", "peer", "name"];
        ip(&[&link[..], &[&cable, "netns", &wire.name]].concat());
        ip(&["-n", &wire.name, "link", "set", &cable, "master", "br0", "up"]);
        ip(&["-n", &self.name, "address", "add", &format!("{own}/24"), "dev", "eth0"]);
        ip(&["-n", &self.name, "link", "set", "eth0", "up"]);
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// POSTs JSON from this host and returns the status and the body.
    pub fn post(&self, url: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let output = self
            .command("curl")
            .args([
                "-s",
                "-m",
                "10",
                "-w",
                "\n%{http_code}",
                "-H",
                "Content-Type: application/json",
                "-d",
            ])
            .arg(body.to_string())
            .arg(url)
            .output()
            .expect("curl runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (body, status) = text.rsplit_once('\n').expect("curl prints the status last");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Runs iproute2's `ip`.
pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (Debian: iproute2) runs");
    assert!(
        output.status.success(),
        "ip {}: {} (network namespaces need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A process that is killed with its value.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts it with its output in a file of that name in `folder`.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> Process {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).expect("a log file");
        let again = file.try_clone().expect("two handles");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(again).spawn();
        Process { child: child.unwrap_or_else(|error| panic!("{name}: {error}")), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and wait for the end.
    pub fn stop(&mut self) {
        signal(self.pid(), rustix::process::Signal::TERM);
        let ended = wait_for(Duration::from_secs(20), || self.child.try_wait().ok().flatten());
        assert!(ended.is_some(), "a process ignores SIGTERM: {}", self.output());
    }

    /// The exit code, within a time.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let status = wait_for(limit, || self.child.try_wait().ok().flatten());
        let status =
            status.unwrap_or_else(|| panic!("still running after {limit:?}: {}", self.output()));
        status.code().unwrap_or(-1)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn output(&self) -> String {
        let mut text = Vec::new();
        let _ = std::fs::File::open(&self.log).and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Asks until there is an answer; None when the time is up.
pub fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        // Processes of others tell nothing of themselves; there is no event to wait for.
        thread::sleep(Duration::from_millis(10));
    }
}

/// The program under test, beside this test's own.
pub fn jackfield() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let program =
        own.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("jackfield");
    assert!(
        program.exists(),
        "{} is missing: cargo build --release --bin jackfield",
        program.display()
    );
    program
}

pub fn run(command: &mut Command) -> Output {
    let name = format!("{command:?}");
    command.output().unwrap_or_else(|error| panic!("{name}: {error}"))
}
