//! SIPVicious (Debian: sipvicious) against the real data plane: it learns nothing, and is not answered for long.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::demo::Demo;
use crate::lab::{Host, Process, turn, wait_for};
use crate::phone::Softphone;

const SBC: &str = "10.79.1.1";

/// What the data plane says to a request for a number, without what differs in any two answers.
fn answer(host: &Host, method: &str, number: &str) -> Vec<String> {
    let ip: IpAddr = "10.79.2.2".parse().expect("an address");
    let socket = host.enter(|| UdpSocket::bind((ip, 0))).expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let own: SocketAddr = socket.local_addr().expect("bound");
    let text = format!(
        "{method} sip:{number}@{SBC} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{number};rport\r\n\
         From: <sip:{number}@{SBC}>;tag=1\r\nTo: <sip:{number}@{SBC}>\r\nCall-ID: {method}{number}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:{number}@{own}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(text.as_bytes(), (SBC, 5060)).expect("sent");
    let mut buffer = [0; 4_096];
    let len = socket.recv(&mut buffer).expect("an answer");
    let text = std::str::from_utf8(&buffer[..len]).expect("text");
    let is_its_own = |line: &&str| {
        ["Via:", "From:", "To:", "Call-ID:"].iter().any(|name| line.starts_with(name))
    };
    text.lines()
        .filter(|line| !is_its_own(line))
        // A nonce is the time and its signature.
        .map(|line| line.split("nonce=").next().unwrap_or_default().to_owned())
        .collect()
}

/// Guesses a secret once; false when it is not answered.
fn guess(host: &Host, n: u32) -> bool {
    let ip: IpAddr = "10.79.2.2".parse().expect("an address");
    let socket = host.enter(|| UdpSocket::bind((ip, 0))).expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
    let own: SocketAddr = socket.local_addr().expect("bound");
    let text = format!(
        "REGISTER sip:{SBC} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKguess{n};rport\r\n\
         From: <sip:1001.demo@{SBC}>;tag=1\r\nTo: <sip:1001.demo@{SBC}>\r\nCall-ID: guess{n}\r\n\
         CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nAuthorization: Digest username=\"1001.demo\", \
         realm=\"demo.jackfield.local\", nonce=\"{n:048x}\", uri=\"sip:{SBC}\", response=\"{n:032x}\", \
         algorithm=MD5, qop=auth, nc=00000001, cnonce=\"x\"\r\nContent-Length: 0\r\n\r\n",
    );
    socket.send_to(text.as_bytes(), (SBC, 5060)).expect("sent");
    socket.recv(&mut [0; 4_096]).is_ok()
}

/// S1-061: a scanner gets the same answer for numbers that exist and that do not, is banned, and costs a call
/// in progress nothing.
#[test]
fn a_scanner_learns_nothing_and_is_banned() {
    let _turn = turn();
    let (sbc, phones) = (Host::new("sbc"), Host::new("phones"));
    sbc.connect(SBC, &phones, "10.79.1.2");
    let demo = Demo::start(Some(&sbc), &["--bind", SBC]);
    let talkers = ["1001", "1002"].map(|agent| {
        let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": "local"});
        let (status, login) = phones.post(&format!("http://{SBC}:8080/v1/login"), &body);
        assert_eq!(status, 200, "{login}");
        Softphone::start_on(&phones, &login, "10.79.1.2".parse().expect("an address"), 440)
    });
    talkers.iter().for_each(Softphone::register);
    talkers[0].call("1002");
    let host = Host::new("scan");
    sbc.connect("10.79.2.1", &host, "10.79.2.2");
    host.run("ip", &["route", "add", "10.79.1.0/24", "via", "10.79.2.1"]);
    for method in ["REGISTER", "INVITE", "OPTIONS"] {
        assert_eq!(answer(&host, method, "1001"), answer(&host, method, "9999"), "{method}");
    }
    // All answers are alike, so svwar gives up, as it does without --force; svcrack 0.3.3 at SHA-256.
    let scans: [(&str, &[&str]); 3] = [
        ("svmap", &["-m", "REGISTER", SBC]),
        ("svwar", &["--force", "-e", "990-1010", SBC]),
        ("svcrack", &["-u", "1001.demo", "-r", "1-1000", SBC]),
    ];
    for (program, arguments) in scans {
        let mut command = host.command(program);
        command.args(arguments).current_dir(demo.folder());
        let mut scan = Process::start(&mut command, demo.folder(), program);
        let over = wait_for(Duration::from_secs(60), || (!scan.is_running()).then_some(()));
        let output = scan.output();
        assert!(over.is_some(), "{program} is still answered:\n{output}");
        assert!(!output.contains("| 1001"), "{program} found a number:\n{output}");
        assert!(!output.contains("The password"), "{program} found a password:\n{output}");
    }
    // Who guesses on is not answered any more, whatever it asks.
    let guesses = (0..1_000).take_while(|n| guess(&host, *n)).count();
    assert!((19..100).contains(&guesses), "{guesses} guesses were answered");
    assert_eq!(demo.counter("sources_banned"), 1);
    assert!(demo.counter("drop_sip_unauthorised") >= 20);
    talkers[0].hang_up();
    demo.expect_all_free();
    for phone in talkers {
        let heard = phone.end();
        assert!(heard.rtp_received > 50, "{heard:?}");
        assert_eq!(heard.rtp_lost, 0, "{heard:?}");
    }
}
