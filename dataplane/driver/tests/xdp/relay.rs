//! What is relayed, what is not, and which way.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use driver::xdp::{Bypass, BypassRefused, News, XdpMode};
use media::{Splice, WhyNot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frame::{Frame, rtp};
use super::lab::{mac, until};
use super::{EVENT_TYPE, Lab, NEVER, SOON, install, our, phone};

/// Modes and families, and whether the ways are by two interfaces.
fn cases() -> impl Iterator<Item = (XdpMode, bool, bool)> {
    [XdpMode::Native, XdpMode::Generic].into_iter().flat_map(|mode| {
        [(false, true), (true, true), (false, false), (true, false)]
            .map(|(is_v6, crosses)| (mode, is_v6, crosses))
    })
}

#[test]
fn frames_come_out_bit_by_bit_as_they_should() {
    let Some(lab) = Lab::new() else { return };
    for (mode, is_v6, crosses) in cases() {
        println!(
            "{mode:?}, IPv{}, {}",
            if is_v6 { 6 } else { 4 },
            if crosses { "two interfaces" } else { "one" }
        );
        let bypass = lab.bypass(mode);
        let mut flow = lab.flow(is_v6, crosses);
        install(&bypass, 3, &flow);
        let wire = lab.hears(&flow);
        for sequence in 1_000..1_050 {
            let came = lab.frame(&flow, sequence);
            lab.a.wire.send(&came.bytes());
            let out = wire.next_to(flow.to.port(), SOON).expect("the frame is relayed");
            assert_eq!(out, lab.relayed(&flow, &came).bytes());
        }
        let stats = bypass.counted(3);
        assert_eq!((stats.packets, stats.bytes, stats.foreign), (50, 50 * 172, 0));
        assert_eq!((stats.newest, stats.timestamp), (1_049, 1_049 * 160));

        // With a splice, installed over it.
        flow.splice = Some(Splice { ssrc: 7, sequence: 1, timestamp: 3 });
        flow.newest = stats.newest;
        bypass.install(3, &flow).expect("the next hop is known");
        lab.a.wire.send(&lab.frame(&flow, 1_050).bytes());
        let out = wire.next_to(flow.to.port(), SOON).expect("the frame is relayed");
        let mut came = lab.frame(&flow, 1_050);
        came.rtp.splice(2..12, rtp(0, 1_051, 1_050 * 160 + 3, 7, &[])[2..].to_vec());
        assert_eq!(out, lab.relayed(&flow, &came).bytes());
        assert_eq!(bypass.remove(3).packets, 1);
        assert_eq!(bypass.remove(3).packets, 0);
    }
}

#[test]
fn others_are_not_heard_and_what_is_not_known_passes() {
    let Some(lab) = Lab::new() else { return };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let bypass = lab.bypass(mode);
        let flow = lab.flow(false, true);
        install(&bypass, 0, &flow);
        let socket = |port| {
            let bind = || UdpSocket::bind(SocketAddr::new(flow.local.ip(), port));
            let socket = lab.sbc.run(bind).expect("a free port");
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
            socket
        };
        let (ours, rtcp, other) = (socket(20_000), socket(20_001), socket(20_002));

        // Another port of the phone, another host, another host that claims the phone's port.
        let mut foreign = lab.frame(&flow, 1_000);
        for source in ["10.0.1.2:4002", "10.0.1.3:4000", "10.0.1.99:4000"] {
            foreign.source = source.parse().expect("an address");
            lab.a.wire.send(&foreign.bytes());
        }
        until("three foreign packets", || (bypass.counted(0).foreign == 3).then_some(()));
        assert_eq!(bypass.counted(0).foreigner, Some(foreign.source));

        let mut buffer = [0; 2_048];
        let mut passes = |frame: &Frame, socket: &UdpSocket| {
            lab.a.wire.send(&frame.bytes());
            let (length, from) = socket.recv_from(&mut buffer).expect("it passes");
            assert_eq!((&buffer[..length], from), (&frame.rtp[..], frame.source));
        };
        let mut frame = lab.frame(&flow, 1_000);
        frame.destination.set_port(20_001);
        passes(&frame, &rtcp);
        frame.destination.set_port(20_002);
        passes(&frame, &other);
        // Of the source, but for the process to judge.
        passes(&lab.frame(&flow, 30_000), &ours);
        let mut frame = lab.frame(&flow, 1_000);
        frame.rtp[8] ^= 1;
        passes(&frame, &ours);
        assert!(lab.b.wire.next_to(5_000, NEVER).is_none());
        assert_eq!(bypass.counted(0).packets, 0);

        // After its end, everything is the process's again.
        bypass.remove(0);
        passes(&lab.frame(&flow, 1_000), &ours);
    }
}

#[test]
fn telephone_events_are_told_to_the_rows_listener() {
    let Some(lab) = Lab::new() else { return };
    let bypass = lab.bypass(XdpMode::Native);
    let (low, high) = (bypass.listen(0..8).expect("an ear"), bypass.listen(8..16).expect("an ear"));
    let flow = lab.flow(true, true);
    install(&bypass, 9, &flow);
    let digit = Frame {
        rtp: rtp(EVENT_TYPE, 1_000, 160, flow.ssrc, &[5, 0x0a, 0, 160]),
        ..lab.frame(&flow, 1_000)
    };
    lab.a.wire.send(&digit.bytes());
    let out = lab.b.wire.next_to(5_000, SOON).expect("it is relayed as well");
    assert_eq!(out, lab.relayed(&flow, &digit).bytes());
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(high.as_fd(), PollFlags::IN)], Some(&timeout));
    assert_eq!(ready, Ok(1));
    let mut news = Vec::new();
    high.take(|told| news.push(told));
    low.take(|told| news.push(told));
    assert_eq!(news, [News::TelephoneEvent(9, digit.rtp.try_into().expect("16 bytes"))]);
}

#[test]
fn rows_follow_the_next_hop_and_end_with_it() {
    let Some(mut lab) = Lab::new() else { return };
    let bypass = lab.bypass(XdpMode::Native);
    let listener = bypass.listen(0..16).expect("an ear");
    let flow = lab.flow(false, true);
    install(&bypass, 0, &flow);

    // It moves, and says so.
    let moved = "02:00:00:00:00:77";
    lab.sbc.ip(&["neighbour", "replace", "10.0.2.2", "lladdr", moved, "dev", "leg-b"]);
    lab.b.port.mac = mac(moved);
    let mut sequence = 1_000;
    until("the new MAC address", || {
        let came = lab.frame(&flow, sequence);
        sequence += 1;
        lab.a.wire.send(&came.bytes());
        let out = lab.b.wire.next_to(5_000, SOON).expect("the frame is relayed");
        (out == lab.relayed(&flow, &came).bytes()).then_some(())
    });
    let sent = u64::from(sequence) - 1_000;

    // It is gone, or the interface, or the route.
    let gone = |because: &[&str]| {
        lab.sbc.ip(because);
        until(&because.join(" "), || {
            let mut news = Vec::new();
            listener.take(|told| news.push(told));
            (news == [News::Gone(0)]).then_some(())
        });
        let flow = bypass.remove(0);
        lab.a.wire.send(&lab.frame(&lab.flow(false, true), sequence).bytes());
        assert!(lab.b.wire.next_to(5_000, NEVER).is_none(), "{because:?}");
        flow.packets
    };
    assert_eq!(gone(&["neighbour", "delete", "10.0.2.2", "dev", "leg-b"]), sent);
    install(&bypass, 0, &flow);
    gone(&["route", "add", "unreachable", "10.0.2.2"]);
    assert_eq!(bypass.install(0, &flow), Err(WhyNot::NextHop));
    lab.sbc.ip(&["route", "delete", "unreachable", "10.0.2.2"]);
    install(&bypass, 0, &flow);
    gone(&["link", "set", "leg-b", "down"]);
    until("the interface is known to be down", || bypass.install(0, &flow).err());
    lab.sbc.ip(&["link", "set", "leg-b", "up"]);
    until("the interface is up", || bypass.install(0, &flow).ok());
}

#[test]
fn a_next_hop_is_kept_fresh_though_no_packet_confirms_it() {
    let Some(mut lab) = Lab::new() else { return };
    // A neighbour is doubted after 0.5 to 1.5 seconds, and asked a second after it was used.
    for setting in ["base_reachable_time_ms=1000", "delay_first_probe_time=1"] {
        let setting = format!("net.ipv4.neigh.leg-b.{setting}");
        let status = Command::new("ip")
            .args(["netns", "exec", &lab.sbc.name, "sysctl", "-q", "-w", &setting])
            .status();
        assert!(status.expect("sysctl runs").success());
    }
    let bypass = lab.bypass(XdpMode::Generic);
    let flow = lab.flow(false, true);
    install(&bypass, 0, &flow);
    // The SBC has nothing to send, and asks again and again.
    let mut asked = 0;
    while asked < 3 {
        let frame = lab.b.wire.next(SOON).expect("the SBC asks for its neighbour");
        asked += usize::from(frame[12..14] == [8, 6] && frame[21] == 1);
    }
    // The phone moves and does not tell.
    lab.b.host.ip(&["link", "set", "phone-b", "address", "02:00:00:00:00:78"]);
    lab.b.port.mac = mac("02:00:00:00:00:78");
    let mut sequence = 1_000;
    until("the new MAC address", || {
        let _ = bypass.install(0, &flow);
        let came = lab.frame(&flow, sequence);
        sequence += 1;
        lab.a.wire.send(&came.bytes());
        let out = lab.b.wire.next_to(5_000, NEVER)?;
        (out == lab.relayed(&flow, &came).bytes()).then_some(())
    });
}

#[test]
fn what_cannot_be_used_is_said_in_a_line() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.config(XdpMode::Auto);
    config.addresses = vec!["127.0.0.1".parse().expect("an address"), our(false, 9)];
    let Err(BypassRefused::Interfaces(uses)) = lab.open(&config) else {
        panic!("there is nothing to use");
    };
    let lines: Vec<&str> = uses.iter().map(|used| used.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "xdp: lo: not used: the loopback interface has no next hops",
            "xdp: 10.0.9.1: not used: no interface has this address",
        ]
    );

    // One is refused, the other goes.
    config.addresses = vec![our(false, 1), our(false, 2)];
    config.modes.insert("leg-a".into(), XdpMode::Off);
    config.bpffs = Some(std::env::temp_dir());
    let bypass = lab.open(&config).expect("one interface can be used");
    let lines: Vec<&str> = bypass.uses().iter().map(|used| used.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "xdp: leg-a: not used: switched off",
            "xdp: leg-b: generic: a veth's peer may not take native frames",
        ]
    );
    assert!(bypass.pinning().ends_with("is no bpffs"), "{}", bypass.pinning());
    assert_eq!(bypass.install(0, &lab.flow(false, true)), Err(WhyNot::Interface));
    assert_eq!(bypass.install(16, &lab.flow(false, true)), Err(WhyNot::TableFull));
    let mut mixed = lab.flow(false, true);
    mixed.local = SocketAddr::new(our(false, 2), 20_000);
    mixed.to = SocketAddr::new(phone(true, 2, 2), 5_000);
    assert!(bypass.install(0, &mixed).is_err());

    // A second process has to leave the interface alone.
    let mut other = lab.config(XdpMode::Generic);
    other.addresses = vec![our(false, 2)];
    let refused = lab.open(&other).expect_err("the interface is taken").to_string();
    assert_eq!(refused, "xdp: leg-b: not used: another XDP program is attached to it");
    drop(bypass);
    assert!(lab.open(&other).is_ok());
    assert!(!lab.sbc.ip(&["link", "show", "leg-b"]).contains("prog/xdp"), "it is detached");
}

#[test]
fn the_programs_cost_is_told() {
    let Some(lab) = Lab::new() else { return };
    // Until it is closed.
    let _stats = match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
        Ok(stats) => stats,
        Err(error) => return println!("skipped: no statistics of programs: {error}"),
    };
    let bypass = lab.bypass(XdpMode::Native);
    // As soon as one packet has come, its interface is polled: each meets cold caches.
    for (crosses, what) in [(false, "one interface"), (true, "two interfaces")] {
        install(&bypass, 0, &lab.flow(false, crosses));
        told_cost(what, || send_bursts(&lab, &bypass, crosses, 1));
    }
    // A thread polls, as a NIC is polled that has work to do.
    let script = "echo 1 > /sys/class/net/leg-a/threaded";
    let netns = ["netns", "exec", &lab.sbc.name, "sh", "-c", script];
    assert!(Command::new("ip").args(netns).status().expect("ip runs").success());
    for (crosses, what) in [(false, "one interface, a thread"), (true, "two interfaces, a thread")]
    {
        install(&bypass, 0, &lab.flow(false, crosses));
        told_cost(what, || send_bursts(&lab, &bypass, crosses, 64));
    }
    let flow = lab.flow(false, true);
    let begin = std::time::Instant::now();
    for _ in 0..1_000 {
        bypass.install(0, &flow).expect("the next hop is known");
    }
    println!("{:?} an installation", begin.elapsed() / 1_000);
}

/// Sends 20,000 packets, so many at a time.
fn send_bursts(lab: &Lab, bypass: &Bypass, crosses: bool, burst: u64) {
    const PACKETS: u64 = 20_000;
    let flow = lab.flow(false, crosses);
    let before = bypass.counted(0).packets;
    for sent in 1..=PACKETS {
        lab.a.wire.send(&lab.frame(&flow, 1_000 + sent as u16).bytes());
        let end = std::time::Instant::now() + SOON;
        while sent % burst == 0 && bypass.counted(0).packets < before + sent {
            assert!(std::time::Instant::now() < end, "a packet is lost");
            std::thread::yield_now();
        }
    }
    until("all packets", || (bypass.counted(0).packets == before + PACKETS).then_some(()));
}

/// Prints what packets cost the programs that they came to. Beside the relay's it is that of the phone's, which
/// passes everything: most of its cost is the counting.
fn told_cost(what: &str, send: impl FnOnce()) {
    let costs = || -> BTreeMap<u32, (u128, u64)> {
        let programs = aya::programs::loaded_programs().flatten();
        programs.map(|one| (one.id(), (one.run_time().as_nanos(), one.run_count()))).collect()
    };
    let before = costs();
    send();
    for (program, (nanos, runs)) in costs() {
        let (nanos_before, runs_before) = before.get(&program).copied().unwrap_or_default();
        let (nanos, runs) = (nanos - nanos_before, runs - runs_before);
        if runs >= 10_000 {
            println!("{what}: {} ns a packet, {runs} packets", nanos / u128::from(runs));
        }
    }
}
