//! Trunks that are known by name: a real DNS server (dnsmasq) tells where they are (RFC 3263).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use softphone::{Event, Order, Why};

use crate::demo::Demo;
use crate::lab::{Process, turn, wait_for};
use crate::phone::Softphone;
use crate::sipp::{Line, Sipp};
use crate::{FLAGS, LOOPBACK, log_in};

const DNS_PORT: &str = "17053";
const SBC: &str = "127.0.0.1:15060";

/// A DNS server that knows these records alone.
fn dns(folder: &Path, records: &[&str]) -> Process {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--no-poll", "--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="]);
    command.args(["--user=root", "--local=/carrier.example/", "--local-ttl=1"]);
    command.arg(format!("--port={DNS_PORT}")).args(records);
    Process::start(&mut command, folder, "dnsmasq")
}

/// The trunks' addresses that control knows.
fn trunks(demo: &Demo) -> Vec<String> {
    let status = demo.status().unwrap_or(Value::Null);
    let trunks = status["ccbs"][0]["trunks"].as_array().cloned().unwrap_or_default();
    trunks.iter().filter_map(|trunk| Some(trunk["address"].as_str()?.to_owned())).collect()
}

fn expect_trunks(demo: &Demo, expected: &[&str]) {
    let seen = wait_for(Duration::from_secs(30), || {
        let mut seen = trunks(demo);
        seen.sort();
        (seen == expected).then_some(())
    });
    assert!(
        seen.is_some(),
        "{:?} instead of {expected:?}\n{}",
        trunks(demo),
        demo.process.output()
    );
}

/// A call to the trunk that answers at that address, RTP both ways.
fn call(demo: &Demo, phone: &Softphone, at: (&str, u16)) {
    let folder = demo.folder();
    let line: Line = ["0301234".into(), String::new(), String::new()];
    let flags = ["-rtp_echo", "-mp", "17300"];
    let mut trunk = Sipp::start_at(at.0, "callee", SBC, at.1, &[line], &flags, folder);
    phone.call("95555");
    let talked = wait_for(Duration::from_secs(10), || {
        let legs = demo.ask("calls")?["calls"][0]["legs"].as_array()?.clone();
        let whole = legs.len() == 2 && legs.iter().all(|leg| leg["packets_in"].as_u64() > Some(30));
        whole.then_some(())
    });
    assert!(talked.is_some(), "no RTP both ways: {:#?}", demo.ask("calls"));
    phone.hang_up();
    trunk.expect_success(folder);
    demo.expect_all_free();
}

/// RFC 3263, 4: NAPTR leads to SRV, SRV to hosts in their order; what DNS says anew is followed, what it said holds
/// while it is away, and a name that was never resolved is a 503.
#[test]
fn a_trunk_is_found_by_its_name() {
    let _turn = turn();
    let flags = ["--route", "9=carrier.example", "--dns", &format!("127.0.0.1:{DNS_PORT}")];
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let phone = Softphone::start(&log_in("1001", "local"), LOOPBACK, 440);
    phone.register();
    // Nobody tells where the carrier is.
    phone.order(Order::Call("95555".into()));
    phone.expect(Duration::from_secs(10), "503", |event| *event == Event::Ended(Why::Refused(503)));
    let naptr = "--naptr-record=carrier.example,10,10,s,SIP+D2U,,_sip._udp.carrier.example";
    let mut server = dns(
        demo.folder(),
        &[
            "--naptr-record=carrier.example,10,5,s,SIP+D2S,,_sip._sctp.carrier.example",
            naptr,
            "--srv-host=_sip._udp.carrier.example,b.carrier.example,17076,20",
            "--srv-host=_sip._udp.carrier.example,a.carrier.example,17075,10",
            "--host-record=a.carrier.example,127.0.0.3",
            "--host-record=b.carrier.example,127.0.0.4",
        ],
    );
    expect_trunks(&demo, &["127.0.0.3:17075", "127.0.0.4:17076"]);
    call(&demo, &phone, ("127.0.0.3", 17_075));
    server.stop();
    // It is away, and what it said holds.
    call(&demo, &phone, ("127.0.0.3", 17_075));
    let mut server = dns(
        demo.folder(),
        &[
            naptr,
            "--srv-host=_sip._udp.carrier.example,c.carrier.example,17077",
            "--host-record=c.carrier.example,127.0.0.5",
        ],
    );
    expect_trunks(&demo, &["127.0.0.5:17077"]);
    call(&demo, &phone, ("127.0.0.5", 17_077));
    server.stop();
    phone.end();
    demo.process.stop();
}
