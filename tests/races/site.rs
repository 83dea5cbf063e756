//! Four blades with NATS between them, as `jackfield demo` starts them, and what goes wrong with them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demo::Demo;
use crate::lab::{jackfield, run, signal, wait_for};
use crate::phones::TRUNK;

/// How many blades.
pub const BLADES: u16 = 4;
const HTTP: u16 = 8_080;
const SIP: u16 = 5_060;
/// The ports of a blade lie so far above those of the one before.
const APART: u16 = 100;
const LIMIT: Duration = Duration::from_secs(60);

pub struct Site {
    demo: Demo,
}

/// A process of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Control(u16),
    DataPlane(u16),
    Bus,
}

impl Site {
    /// On this thread's host.
    pub fn start(agents: u32) -> Site {
        let (blades, agents) = (BLADES.to_string(), agents.to_string());
        let trunk = format!("{TRUNK}/32");
        let flags = ["--blades", &blades, "--agents", &agents, "--trunk", &trunk, "--xdp", "off"];
        let more = ["--cores", "1", "--rtp-ports", "10000-50000", "--options-s", "0"];
        let site = Site { demo: Demo::start(None, &[&flags[..], &more[..]].concat()) };
        site.expect_normal();
        site
    }

    /// Waits until every blade sees all others run normally.
    pub fn expect_normal(&self) {
        for blade in 1..=BLADES {
            let mut last = None;
            let settled = wait_for(LIMIT, || {
                last = self.ask(blade, "blades");
                let seen = last.as_ref()?["blades"].as_array()?.clone();
                let normal = |one: &&Value| one["ccbs"][0]["status"] == "normal";
                let count = seen.iter().filter(normal).count();
                (count == usize::from(BLADES) && last.as_ref()?["confirmed"] != false).then_some(())
            });
            assert!(settled.is_some(), "blade {blade}: {last:#?}\n{}", self.output());
        }
    }

    pub fn output(&self) -> String {
        self.demo.process.output()
    }

    fn folder(&self, blade: u16) -> PathBuf {
        match blade {
            1 => self.demo.dir(),
            _ => self.demo.dir().join(format!("blade-{blade}")),
        }
    }

    /// What `jackfield WHAT --json` prints for that blade.
    pub fn ask(&self, blade: u16, what: &str) -> Option<Value> {
        let mut command = std::process::Command::new(jackfield());
        let output = run(command.args([what, "--json", "--dir"]).arg(self.folder(blade)));
        let read = || serde_json::from_slice(&output.stdout).ok();
        output.status.success().then(read).flatten()
    }

    pub fn counter(&self, name: &str) -> u64 {
        let of = |blade| self.ask(blade, "status")?["ccbs"][0]["counters"][name].as_u64();
        (1..=BLADES).filter_map(of).sum()
    }

    pub fn sip_port(&self, blade: u16) -> u16 {
        SIP + (blade - 1) * APART
    }

    /// A line of a blade's configuration, between quotes.
    fn configured(&self, blade: u16, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder(blade).join("jackfield.toml"));
        let text = text.expect("a configuration");
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{name} =")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split('"').nth(1).expect("a text").to_owned()
    }

    pub fn region(&self, blade: u16) -> PathBuf {
        self.configured(blade, "region").into()
    }

    pub fn bus(&self) -> String {
        self.configured(1, "bus").trim_start_matches("nats://").to_owned()
    }

    /// An agent's login by its password.
    pub fn log_in(&self, agent: u32) -> Value {
        let body = json!({ "tenant": "demo", "agent": agent.to_string(), "location": "local",
            "password": format!("demo-{agent}") });
        let body = body.to_string();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, HTTP)).expect("it listens");
        let head = format!(
            "POST /v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the AgentProxy closes");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        serde_json::from_str(body).expect("JSON")
    }

    /// The processes that run now.
    pub fn processes(&self) -> BTreeMap<Kind, u32> {
        let demo = self.demo.process.pid();
        let tasks = std::fs::read_dir(format!("/proc/{demo}/task")).into_iter().flatten().flatten();
        let children = tasks.flat_map(|task| {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        });
        children.filter_map(|pid| Some((kind(pid)?, pid))).collect()
    }

    /// Lets nobody who dies come back, or lets them.
    pub fn restarts(&self, does: bool) {
        signal(self.demo.process.pid(), if does { Signal::CONT } else { Signal::STOP });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What is stopped takes no other signal.
        self.restarts(true);
        self.processes().values().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

/// What a child of the demo is.
fn kind(pid: u32) -> Option<Kind> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split('\0');
    if words.next()?.ends_with("nats-server") {
        return Some(Kind::Bus);
    }
    let what = words.next()?;
    let blade = text.split("/blade-").nth(1).and_then(|rest| rest.split('/').next());
    let blade = blade.map_or(Some(1), |blade| blade.parse().ok())?;
    match what {
        "control" => Some(Kind::Control(blade)),
        "dataplane" => Some(Kind::DataPlane(blade)),
        _ => None,
    }
}
