//! Three baresips: one gives its call to another by REFER, control begins a call, a rule sends one elsewhere.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::baresip::Baresip;
use crate::demo::Demo;
use crate::lab::{Host, jackfield, run, turn, wait_for};

const SBC: &str = "10.78.1.1";

pub struct Station {
    pub host: Host,
    pub ip: &'static str,
    pub phone: Option<Baresip>,
}

impl Station {
    pub fn new(name: &str, ip: &'static str) -> Station {
        Station { host: Host::new(name), ip, phone: None }
    }

    pub fn log_in(&self, agent: &str, gateway: &str, location: &str) -> Value {
        let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": location});
        let (status, login) = self.host.post(&format!("http://{gateway}:8080/v1/login"), &body);
        assert_eq!(status, 200, "{login}");
        login
    }

    pub fn start(&mut self, agent: &str, gateway: &str, location: &str, tone_hz: u32, demo: &Demo) {
        let login = self.log_in(agent, gateway, location);
        let mut phone = Baresip::start(&self.host, self.ip, &login, tone_hz, None, demo.folder());
        phone.expect(Duration::from_secs(15), "200 OK");
        self.phone = Some(phone);
    }

    /// A command to the phone.
    pub fn tell(&self, command: &str, params: &str) {
        tell(&self.host, self.ip, command, params);
    }
}

/// A command to a baresip, as a netstring of JSON.
pub fn tell(host: &Host, ip: &str, command: &str, params: &str) {
    let text = json!({"command": command, "params": params}).to_string();
    let address = format!("{ip}:4444");
    host.enter(|| {
        let mut stream = TcpStream::connect(address).expect("baresip listens");
        write!(stream, "{}:{text},", text.len()).expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let (mut heard, mut part) = (String::new(), [0; 2048]);
        // Events come between.
        while !heard.contains("\"response\":true") {
            let read = stream.read(&mut part).expect("baresip answers");
            assert_ne!(read, 0, "baresip closed: {heard}");
            heard.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        assert!(heard.contains("\"ok\":true"), "{heard}");
    });
}

/// Waits until the two legs that stand are of those numbers, and `packets` have gone each way since.
pub fn talk(demo: &Demo, numbers: [&str; 2], packets: u64) {
    let mut before: Option<Vec<u64>> = None;
    let talked = wait_for(Duration::from_secs(30), || {
        let calls = demo.ask("calls")?;
        let legs = calls["calls"]
            .as_array()?
            .iter()
            .flat_map(|call| call["legs"].as_array().cloned().unwrap_or_default());
        let mut legs: Vec<Value> =
            legs.filter(|leg| numbers.iter().any(|number| leg["number"] == *number)).collect();
        legs.sort_by_key(|leg| leg["number"].as_str().map(str::to_owned));
        let counts: Vec<u64> = legs
            .iter()
            .flat_map(|leg| [&leg["packets_in"], &leg["packets_out"]])
            .map(|count| count.as_u64().unwrap_or(0))
            .collect();
        if counts.len() != 4 {
            return None;
        }
        let before = before.get_or_insert_with(|| counts.clone());
        let went = counts.iter().zip(before.iter()).all(|(now, then)| *now > then + packets);
        went.then_some(())
    });
    assert!(talked.is_some(), "{numbers:?} do not talk: {:#?}", demo.ask("calls"));
}

pub fn tool(demo: &Demo, arguments: &[&str]) -> String {
    let output = run(Command::new(jackfield()).args(arguments).arg("--dir").arg(demo.dir()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{error}");
    text
}

/// RFC 5359, 2.4 (unattended transfer), 2.7 (forwarding) and 2.18 (click to dial).
#[test]
fn a_baresip_gives_its_call_away_and_control_moves_others() {
    let _turn = turn();
    let sbc = Host::new("tsbc");
    let [mut east, mut west, mut north] =
        [("teast", "10.78.1.2"), ("twest", "10.78.2.2"), ("tnorth", "10.78.3.2")]
            .map(|(name, ip)| Station::new(name, ip));
    sbc.connect(SBC, &east.host, east.ip);
    sbc.connect("10.78.2.1", &west.host, west.ip);
    sbc.connect("10.78.3.1", &north.host, north.ip);
    let mut demo = Demo::start(
        Some(&sbc),
        &["--bind", SBC, "--location", "west=10.78.2.1", "--location", "north=10.78.3.1"],
    );
    east.start("1001", SBC, "local", 440, &demo);
    west.start("1002", "10.78.2.1", "west", 700, &demo);
    north.start("1003", "10.78.3.1", "north", 1_000, &demo);
    east.tell("dial", &format!("sip:1002@{SBC}"));
    talk(&demo, ["1001", "1002"], 50);
    // The first gives the second to the third, and leaves.
    east.tell("transfer", &format!("sip:1003@{SBC}"));
    talk(&demo, ["1002", "1003"], 200);
    assert_eq!(demo.counter("transfers_completed"), 1);
    let left =
        wait_for(Duration::from_secs(10), || (demo.counter("leases_held") == 2).then_some(()));
    assert!(left.is_some(), "the first agent is not free");
    west.tell("hangup", "");
    demo.expect_all_free();

    // Control begins a call: the third's phone, then the second's.
    let said = tool(&demo, &["call", "dial", "--from", "1003", "--to", "1002"]);
    assert_eq!(said.trim(), "the phone of 1003 is called");
    talk(&demo, ["1002", "1003"], 50);
    west.tell("hangup", "");
    demo.expect_all_free();

    // The second forwards everything to the third.
    tool(&demo, &["forward", "set", "1002", "--always", "1003"]);
    assert!(tool(&demo, &["forward", "list"]).contains("always"));
    east.tell("dial", &format!("sip:1002@{SBC}"));
    talk(&demo, ["1001", "1003"], 50);
    east.tell("hangup", "");
    demo.expect_all_free();
    tool(&demo, &["forward", "remove", "1002"]);

    // A number of nobody's: first who is not there, then the third.
    tool(&demo, &["forward", "set", "800", "--always", "1004/5,1003/20,1002"]);
    assert!(tool(&demo, &["forward", "list"]).contains("1004/5,1003/20,1002"));
    east.tell("dial", &format!("sip:800@{SBC}"));
    talk(&demo, ["1001", "1003"], 50);
    east.tell("hangup", "");
    demo.expect_all_free();
    tool(&demo, &["forward", "remove", "800"]);
    assert_eq!(tool(&demo, &["forward", "list"]).trim(), "no rules");
    east.tell("dial", &format!("sip:1002@{SBC}"));
    talk(&demo, ["1001", "1002"], 50);
    east.tell("hangup", "");
    demo.expect_all_free();
    demo.process.stop();
}
