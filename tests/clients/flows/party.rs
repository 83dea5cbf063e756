//! A SIPp that plays a [`Ladder`], beside a Jackfield that has its agents.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::ladder::Ladder;
use crate::demo::Demo;
use crate::lab::{Process, jackfield, run, wait_for};
use crate::{FLAGS, log_in};

const SBC: &str = "127.0.0.1:15060";
/// Where media of the first party goes; each has as many ports.
const MEDIA: usize = 17_000;
const MEDIA_PORTS: usize = 40;
/// How long anything may take; SIPp's own limits are below.
const LIMIT: Duration = Duration::from_secs(30);

/// A Jackfield with agents whose phones are registered.
pub struct Floor {
    pub demo: Demo,
    secrets: BTreeMap<&'static str, String>,
    parties: AtomicUsize,
}

/// One of SIPp's phones in one call.
pub struct Party {
    sipp: Process,
    name: String,
    address: (String, u16),
    log: PathBuf,
    errors: PathBuf,
    messages: PathBuf,
    told: AtomicUsize,
    pub media_port: u16,
}

impl Floor {
    /// Starts it, logs the agents in and registers their phones.
    pub fn start(agents: &[&'static str], flags: &[&str]) -> Floor {
        let demo = Demo::start(None, &[FLAGS, flags].concat());
        let mut floor = Floor { demo, secrets: BTreeMap::new(), parties: AtomicUsize::new(0) };
        for agent in agents {
            let login = log_in(agent, "local");
            let secret = login["phone"]["secret"].as_str().expect("a secret").to_owned();
            let phone = Ladder::registers(&format!("{agent}.demo"), &secret);
            floor.secrets.insert(agent, secret);
            floor.phone(&format!("register-{agent}"), agent, &phone).ends_well();
        }
        floor
    }

    pub fn secret(&self, agent: &str) -> &str {
        &self.secrets[agent]
    }

    /// The SIP user of an agent.
    pub fn user(agent: &str) -> String {
        format!("{agent}.demo")
    }

    /// An agent's phone that calls.
    pub fn calls(&self, agent: &str, number: &str, sdp: Option<super::ladder::Sdp>) -> Ladder {
        Ladder::calls(&Floor::user(agent), self.secret(agent), number, sdp)
    }

    /// The phone where the agent registered.
    pub fn phone(&self, name: &str, agent: &str, ladder: &Ladder) -> Party {
        let number: u16 = agent.parse().expect("a number");
        self.party(name, "127.0.0.1", 15_100 + number, ladder)
    }

    /// The phone's second line.
    pub fn line(&self, name: &str, agent: &str, ladder: &Ladder) -> Party {
        let number: u16 = agent.parse().expect("a number");
        self.party(name, "127.0.0.1", 15_200 + number, ladder)
    }

    /// Anybody at an address of this machine.
    pub fn party(&self, name: &str, ip: &str, port: u16, ladder: &Ladder) -> Party {
        let number = self.parties.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}-{name}");
        let folder = self.demo.folder();
        let tone = folder.join("tone.ulaw");
        fs::write(&tone, tone_of_a_second()).expect("written");
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        fs::write(path("xml"), ladder.xml(&name, &tone.to_string_lossy())).expect("written");
        let media = MEDIA + number % 60 * MEDIA_PORTS;
        let mut command = Command::new("sipp");
        command.arg(SBC).args(["-i", ip, "-p", &port.to_string(), "-m", "1", "-nostdin"]);
        command.args(["-timeout", "60", "-timeout_error", "-recv_timeout", "20000", "-sf"]);
        command.arg(path("xml")).arg("-cid_str").arg(format!("{name}-%u-%p@%s"));
        command.args(["-mi", ip, "-mp", &media.to_string()]);
        for (trace, file, ending) in [
            ("-trace_err", "-error_file", "err"),
            ("-trace_msg", "-message_file", "msg"),
            ("-trace_logs", "-log_file", "said"),
        ] {
            command.args([trace, file]).arg(path(ending));
        }
        let sipp = Process::start(&mut command, folder, &name);
        let party = Party {
            sipp,
            name: name.clone(),
            address: (ip.to_owned(), port),
            log: path("said"),
            errors: path("err"),
            messages: path("msg"),
            told: AtomicUsize::new(0),
            media_port: media as u16,
        };
        party.expect_bound();
        party
    }

    /// Both legs of those numbers have got `packets` each way since this was asked; nobody else has a leg.
    pub fn talk(&self, numbers: [&str; 2], packets: u64) {
        let ways =
            numbers.iter().flat_map(|number| [(*number, "packets_in"), (*number, "packets_out")]);
        self.passes(&ways.collect::<Vec<_>>(), packets, &[]);
    }

    /// Waits until that many packets have gone each of these ways, and looks that hardly any went the others.
    pub fn passes(&self, ways: &[(&str, &str)], packets: u64, others: &[(&str, &str)]) {
        let mut before = None;
        let mut last = Value::Null;
        let grown = wait_for(LIMIT, || {
            let calls = self.demo.ask("calls")?;
            let now: Option<Vec<u64>> =
                ways.iter().chain(others).map(|(number, way)| count(&calls, number, way)).collect();
            last = calls;
            let now = now?;
            let then: &Vec<u64> = before.get_or_insert_with(|| now.clone());
            if now.len() != then.len() {
                before = None;
                return None;
            }
            let grown: Vec<u64> =
                now.iter().zip(then).map(|(now, then)| now.saturating_sub(*then)).collect();
            grown[..ways.len()].iter().all(|grown| *grown >= packets).then_some(grown)
        });
        let grown =
            grown.unwrap_or_else(|| panic!("{ways:?} do not pass: {last:#?}\n{}", self.stories()));
        let silent = grown[ways.len()..].iter().all(|grown| *grown * 4 < packets);
        assert!(silent, "{ways:?} {others:?} grew by {grown:?}");
    }

    /// What the newest parties have seen.
    fn stories(&self) -> String {
        let newest = self.parties.load(Ordering::Relaxed);
        let mut files: Vec<PathBuf> = fs::read_dir(self.demo.folder())
            .expect("readable")
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| {
                path.extension().is_some_and(|ending| ending == "err" || ending == "msg")
            })
            .filter(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                let number = name.and_then(|name| name.split('-').next()?.parse::<usize>().ok());
                number.is_some_and(|number| number + 3 > newest)
            })
            .collect();
        files.sort();
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            format!("== {}\n{}\n", path.display(), tail(&text, 5_000))
        };
        files.iter().map(read).collect()
    }

    /// What a command of `jackfield` says.
    pub fn tool(&self, arguments: &[&str]) -> String {
        let output =
            run(Command::new(jackfield()).args(arguments).arg("--dir").arg(self.demo.dir()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    }

    /// All parties ended as they should, nothing is left, and each leg has one line in the records.
    pub fn is_over(&self, parties: Vec<Party>) {
        parties.into_iter().for_each(Party::ends_well);
        self.demo.expect_all_free();
        let mut last = String::new();
        let whole = wait_for(LIMIT, || {
            let started = self.demo.counter("calls_started");
            let mut lines: BTreeMap<String, BTreeMap<u64, u32>> = BTreeMap::new();
            for line in self.demo.records() {
                let serial = line["serial"].as_str().expect("a serial number").to_owned();
                *lines.entry(serial).or_default().entry(line["leg"].as_u64()?).or_default() += 1;
            }
            let twice = lines.values().flat_map(BTreeMap::values).any(|times| *times != 1);
            assert!(!twice, "billed twice: {lines:?}");
            last = format!("{started} calls, records of {}", lines.len());
            (lines.len() as u64 == started).then_some(())
        });
        assert!(whole.is_some(), "{last}");
    }
}

/// What the standing legs of a number have got in all; none when it has no leg.
fn count(calls: &Value, number: &str, way: &str) -> Option<u64> {
    let calls = calls["calls"].as_array()?.iter();
    let legs = calls.flat_map(|call| call["legs"].as_array().cloned().unwrap_or_default());
    let counts: Vec<u64> =
        legs.filter(|leg| leg["number"] == number).filter_map(|leg| leg[way].as_u64()).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

impl Party {
    fn expect_bound(&self) {
        let port = format!(":{:04X} ", self.address.1);
        let bound = wait_for(LIMIT, || {
            let sockets = fs::read_to_string("/proc/net/udp").expect("readable");
            sockets.contains(&port).then_some(())
        });
        assert!(bound.is_some(), "sipp {} does not listen: {}", self.name, self.sipp.output());
    }

    /// Waits until the party waits for the `nth` time, and says who it is in a call with: its Call-ID and the tags of
    /// its own and of the other side.
    fn dialog_at(&self, nth: usize) -> [String; 3] {
        let line = wait_for(LIMIT, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            log.lines().filter(|line| line.starts_with("waits|")).nth(nth).map(str::to_owned)
        });
        let line = line
            .unwrap_or_else(|| panic!("sipp {} does not get there: {}", self.name, self.story()));
        let mut parts = line.split('|').skip(1);
        let mut part = || parts.next().expect("three parts").to_owned();
        let (call_id, local, remote) = (part(), part(), part());
        let tag = |header: &str| header.split(";tag=").nth(1).unwrap_or_default().to_owned();
        [call_id, tag(&local), tag(&remote)]
    }

    /// Lets it go on from where it waits.
    pub fn go(&self) {
        self.go_with("");
    }

    /// The same, with something to say.
    pub fn go_with(&self, told: &str) {
        let nth = self.told.fetch_add(1, Ordering::Relaxed);
        let [call_id, ..] = self.dialog_at(nth);
        let text = format!(
            "GO sip:party SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKgo{nth}\r\nFrom: <sip:test>;tag=t\r\n\
             To: <sip:party>\r\nCall-ID: {call_id}\r\nCSeq: {} GO\r\nTold: {told}\r\nContent-Length: 0\r\n\r\n",
            nth + 1
        );
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.send_to(text.as_bytes(), (self.address.0.as_str(), self.address.1)).expect("sent");
    }

    /// Waits until it waits.
    pub fn is_there(&self) {
        self.dialog_at(self.told.load(Ordering::Relaxed));
    }

    /// Its dialog as a Replaces header names it (RFC 3891): to-tag is that of who is asked.
    pub fn replaces(&self) -> String {
        let [call_id, local, remote] = self.dialog_at(self.told.load(Ordering::Relaxed));
        format!("{call_id};to-tag={remote};from-tag={local}")
    }

    /// The same within a URI.
    pub fn replaces_escaped(&self) -> String {
        self.replaces().replace('@', "%40").replace(';', "%3B").replace('=', "%3D")
    }

    /// SIPp's exit code is 0 when all went by the ladder.
    pub fn ends_well(mut self) {
        let code = wait_for(LIMIT, || (!self.sipp.is_running()).then_some(()));
        assert!(code.is_some(), "sipp {} goes on: {}", self.name, self.story());
        let code = self.sipp.wait(LIMIT);
        assert_eq!(code, 0, "sipp {}: {}", self.name, self.story());
    }

    /// What it has seen at last.
    pub fn story(&self) -> String {
        let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        format!("{}\n{}", read(&self.errors), tail(&read(&self.messages), 6_000))
    }
}

/// The end of a text.
fn tail(text: &str, most: usize) -> &str {
    let from = text.len().saturating_sub(most);
    (from..text.len()).find(|at| text.is_char_boundary(*at)).map_or("", |from| &text[from..])
}

/// A second of 400 Hz in u-law: SIPp sends a file over and over.
fn tone_of_a_second() -> Vec<u8> {
    let sample = |at: usize| {
        let turn = at as f64 / 8_000.0 * 400.0 * std::f64::consts::TAU;
        media::g711::Law::Mu.encode((turn.sin() * 8_000.0) as i16)
    };
    (0..8_000).map(sample).collect()
}
