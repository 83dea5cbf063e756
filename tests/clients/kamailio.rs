//! Kamailio between us and a carrier: it record-routes calls both ways, by each transport.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use softphone::{Event, Order};

use crate::demo::Demo;
use crate::lab::{Process, signal, turn, wait_for};
use crate::phone::Softphone;
use crate::sipp::{Line, Sipp};
use crate::{FLAGS, log_in};

/// Where Kamailio listens for UDP and TCP, and for TLS: there it shows the demo's certificate.
pub const PLAIN: &str = "127.0.0.4:17060";
pub const SECRET: &str = "127.0.0.1:17061";
/// Long enough for a call that begins.
const LIMIT: Duration = Duration::from_secs(15);

/// A Kamailio. Its workers stay when their first process is killed, so it is asked to stop, also after a test that failed.
pub struct Kamailio(Process);

impl Drop for Kamailio {
    fn drop(&mut self) {
        signal(self.0.pid(), Signal::TERM);
        let _ = wait_for(LIMIT, || (!self.0.is_running()).then_some(()));
    }
}

/// The proxy, which speaks that transport to Jackfield, shows the demo's certificate and believes anybody.
fn proxy(transport: &str, demo: &Demo) -> Kamailio {
    let (certificate, key) = (demo.dir().join("tls.pem"), demo.dir().join("tls.key"));
    start("sip", transport, demo.folder(), &tls_section(&certificate, &key, None))
}

/// How Kamailio speaks TLS: what it shows, and the roots of servers and of clients that it demands a certificate of.
pub fn tls_section(certificate: &Path, key: &Path, roots: Option<(&Path, &Path)>) -> String {
    let section = |name: &str, root: Option<&Path>| {
        let verified = match root {
            Some(root) => format!(
                "verify_certificate = yes\nrequire_certificate = yes\nca_list = {}\n",
                root.display()
            ),
            None => "verify_certificate = no\nrequire_certificate = no\n".to_owned(),
        };
        let (certificate, key) = (certificate.display(), key.display());
        format!(
            "[{name}:default]\nmethod = TLSv1.2+\ncertificate = {certificate}\nprivate_key = {key}\n{verified}"
        )
    };
    section("client", roots.map(|it| it.0)) + &section("server", roots.map(|it| it.1))
}

/// A proxy that speaks TLS so, and calls Jackfield by URIs of that scheme.
pub fn start(scheme: &str, transport: &str, folder: &Path, tls: &str) -> Kamailio {
    let tls_file = folder.join("kamailio-tls.cfg");
    std::fs::write(&tls_file, tls).expect("written");
    let port = if transport == "tls" { 15_061 } else { 15_060 };
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/kamailio.cfg");
    let text = std::fs::read_to_string(template).expect("it is committed");
    let text = text
        .replace(
            "\"sip:\" + $rU + \"@JACKFIELD\"",
            &format!("\"{scheme}:\" + $rU + \"@JACKFIELD\""),
        )
        .replace("JACKFIELD", &format!("127.0.0.1:{port};transport={transport}"))
        .replace("TRANSPORT", transport)
        .replace("TLSFILE", &tls_file.to_string_lossy());
    let file = folder.join("kamailio.cfg");
    std::fs::write(&file, text).expect("written");
    let run = folder.join("kamailio");
    std::fs::create_dir_all(&run).expect("made");
    let mut command = Command::new("kamailio");
    command.args(["-DD", "-E", "-m", "64", "-M", "4", "-f"]).arg(&file);
    command.arg("-Y").arg(&run).arg("-P").arg(run.join("pid"));
    let mut kamailio = Kamailio(Process::start(&mut command, folder, "kamailio"));
    let listens = wait_for(LIMIT, || {
        assert!(kamailio.0.is_running(), "kamailio ended: {}", kamailio.0.output());
        std::net::TcpStream::connect(PLAIN).ok()
    });
    assert!(listens.is_some(), "kamailio does not listen: {}", kamailio.0.output());
    kamailio
}

/// A call out that is held and retrieved by us and ended by the carrier, and a call in, with RTP both ways.
fn calls_go_both_ways_by(transport: &'static str) {
    let _turn = turn();
    let route = match transport {
        "tls" => format!("9={SECRET};transport=tls"),
        other => format!("9={PLAIN};transport={other}"),
    };
    let flags =
        ["--tls", "15061", "--trunk", "127.0.0.4/32", "--trunk", "127.0.0.1/32", "--route", &route];
    // Our own address is a trunk's only where the proxy shares it.
    let flags: Vec<&str> = match transport {
        "tls" => flags.to_vec(),
        _ => [&flags[..4], &flags[6..]].concat(),
    };
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let folder = demo.folder().to_owned();
    let kamailio = proxy(transport, &demo);
    // Not at the address that is a trunk's in one of the cases.
    let ip = std::net::IpAddr::from([127, 0, 0, 2]);
    let phone = Softphone::start(&log_in("1001", "local"), ip, 440);
    phone.register();
    let one: Line = ["0301234".into(), String::new(), "1001".into()];
    let flags = ["-rtp_echo", "-mp", "17300"];
    let peer = PLAIN;
    let mut callee = Sipp::start_at(
        "127.0.0.5",
        "carrier-callee",
        peer,
        17_070,
        std::slice::from_ref(&one),
        &flags,
        &folder,
    );
    phone.call("95555");
    expect_talk(&demo, 50);
    phone.order(Order::Hold);
    phone.expect(LIMIT, "held", |event| matches!(event, Event::Held { by_us: true, .. }));
    phone.order(Order::Resume);
    phone.expect(LIMIT, "retrieved", |event| matches!(event, Event::Held { by_us: false, .. }));
    phone.expect_end();
    callee.expect_success(&folder);
    demo.expect_all_free();
    let flags = ["-mp", "17400"];
    let mut caller =
        Sipp::start_at("127.0.0.5", "carrier-caller", peer, 17_071, &[one], &flags, &folder);
    caller.expect_success(&folder);
    demo.expect_all_free();
    let records = demo.records();
    let legs = &records[records.len() - 2..];
    let talked =
        |leg: &Value| ["in", "out"].iter().all(|way| leg[*way]["packets"].as_u64() > Some(20));
    assert!(legs.iter().all(talked), "{legs:#?}");
    let heard = phone.end();
    assert!(heard.rtp_received > 80, "{heard:?}");
    let received = match transport {
        "udp" => "sip_received".to_owned(),
        other => format!("sip_received_{other}"),
    };
    assert!(demo.counter(&received) > 8, "the proxy speaks {transport}");
    drop(kamailio);
    demo.process.stop();
}

/// Waits until each leg of the one call has received and sent so many packets.
pub fn expect_talk(demo: &Demo, packets: u64) {
    let talked = wait_for(Duration::from_secs(30), || {
        let legs = demo.ask("calls")?["calls"][0]["legs"].as_array()?.clone();
        let many = |leg: &Value, way: &str| leg[way].as_u64() > Some(packets);
        let ways = |leg: &Value| many(leg, "packets_in") && many(leg, "packets_out");
        (legs.len() == 2 && legs.iter().all(ways)).then_some(())
    });
    assert!(talked.is_some(), "no RTP both ways: {:#}", json!(demo.ask("calls")));
}

#[test]
fn a_record_routing_proxy_carries_calls_over_udp() {
    calls_go_both_ways_by("udp");
}

#[test]
fn a_record_routing_proxy_carries_calls_over_tcp() {
    calls_go_both_ways_by("tcp");
}

#[test]
fn a_record_routing_proxy_carries_calls_over_tls() {
    calls_go_both_ways_by("tls");
}

/// RFC 3327: phones that can reach us only through a proxy register through it, call and are called.
#[test]
fn phones_behind_a_proxy_register_with_a_path() {
    let _turn = turn();
    let mut demo = Demo::start(None, &[FLAGS, &["--tls", "15061"]].concat());
    let kamailio = proxy("tcp", &demo);
    let start = |agent: &str, host: u8| {
        let mut login = log_in(agent, "local");
        // All that the phone knows is the proxy.
        let (host_of_proxy, port) = PLAIN.split_once(':').expect("an address");
        let address = &mut login["phone"]["addresses"][0];
        address["host"] = host_of_proxy.into();
        address["port"] = port.parse::<u16>().expect("a port").into();
        Softphone::start(&login, std::net::IpAddr::from([127, 0, 0, host]), 440)
    };
    let (caller, callee) = (start("1001", 6), start("1002", 6));
    caller.register();
    callee.register();
    caller.call("1002");
    expect_talk(&demo, 50);
    caller.order(Order::Hold);
    caller.expect(LIMIT, "held", |event| matches!(event, Event::Held { by_us: true, .. }));
    caller.order(Order::Resume);
    caller.expect(LIMIT, "retrieved", |event| matches!(event, Event::Held { by_us: false, .. }));
    callee.hang_up();
    caller.expect_end();
    demo.expect_all_free();
    for phone in [caller, callee] {
        let heard = phone.end();
        assert!(heard.rtp_received > 50 && heard.rtp_lost == 0, "{heard:?}");
    }
    // The phones speak UDP to the proxy, which speaks TCP to us: nothing came by another way.
    assert!(demo.counter("sip_received_tcp") > 8);
    assert_eq!(demo.counter("sip_received"), demo.counter("sip_received_tcp"));
    drop(kamailio);
    demo.process.stop();
}
