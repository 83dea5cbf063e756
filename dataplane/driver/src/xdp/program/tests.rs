//! The program on single packets, by the kernel's BPF_PROG_TEST_RUN: every branch, bit by bit.

use std::net::SocketAddr;

use aya::programs::{TestRun, TestRunOptions};
use media::{FlowSpec, Splice};

use super::{Events, Program};
use crate::xdp::RIGHTS;
use crate::xdp::row::{Row, SLOTS, Way};
use frame::{Frame, rtp};

#[path = "../../../tests/xdp/frame.rs"]
mod frame;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
/// Packets of a test run come in on the loopback interface.
const LOOPBACK: u32 = 1;
const ROW: u32 = 3;
const SSRC: u32 = 0x1020_3040;
const EVENT_TYPE: u8 = 101;

/// The loaded program; none, with the reason printed, where that is not allowed.
fn load() -> Option<(Program, Events)> {
    match Program::load(8, None) {
        Ok(loaded) => Some(loaded),
        Err(why) if why == RIGHTS => {
            println!("skipped: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

fn flow(is_v6: bool) -> FlowSpec {
    let addr = |v4: &str, v6: &str| -> SocketAddr {
        (if is_v6 { v6 } else { v4 }).parse().expect("an address")
    };
    FlowSpec {
        local: addr("192.0.2.1:20000", "[2001:db8::1]:20000"),
        source: addr("198.51.100.77:4002", "[2001:db8:1::ff]:4002"),
        ssrc: SSRC,
        newest: 0x1_fff0,
        transit: 0,
        jitter: 0,
        from: addr("203.0.113.9:30002", "[2001:db8:2::9]:30002"),
        to: addr("10.1.2.3:51514", "[2001:db8:ffff:2::3]:51514"),
        splice: None,
        telephone_event: Some(EVENT_TYPE),
        dscp: 46,
    }
}

fn spliced(mut flow: FlowSpec) -> FlowSpec {
    flow.splice = Some(Splice { ssrc: 0xdead_beef, sequence: 0xf00d, timestamp: 0xcafe_f00d });
    flow
}

fn way(vlan: Option<u16>) -> Way {
    Way { ifindex: LOOPBACK, ours: [2, 1, 2, 3, 4, 5], hop: [6, 7, 8, 9, 10, 11], vlan }
}

fn install(program: &mut Program, flow: &FlowSpec, vlan_in: Option<u16>, way: &Way) {
    let row = Row::new(flow, vlan_in, way).expect("one family");
    program.flows.remove(flow.local.port(), ROW);
    program.table.write(ROW, &row);
    assert!(program.flows.insert(flow.local.port(), ROW));
}

/// The verdict on a frame, and what became of it.
fn run(program: &mut Program, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; 2_048];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    let result = program.xdp().test_run(options).expect("a test run");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

fn packet(flow: &FlowSpec, sequence: u16) -> Frame {
    let payload: Vec<u8> = (0..160).map(|i| (i as u16).wrapping_mul(sequence) as u8).collect();
    Frame::new(flow.source, flow.local, rtp(0, sequence, 160_000, flow.ssrc, &payload))
}

/// The frame that is to leave for one that came.
fn expected(came: &Frame, flow: &FlowSpec, way: &Way) -> Frame {
    let mut frame = came.clone();
    frame.to_mac = way.hop;
    frame.from_mac = way.ours;
    frame.tag = way.vlan;
    frame.source = flow.from;
    frame.destination = flow.to;
    frame.tos = flow.dscp << 2;
    frame.hops = 64;
    frame.flow_label = 0;
    if let Some(splice) = flow.splice {
        let rtp = &mut frame.rtp;
        let sequence = u16::from_be_bytes([rtp[2], rtp[3]]).wrapping_add(splice.sequence);
        let timestamp = u32::from_be_bytes([rtp[4], rtp[5], rtp[6], rtp[7]]);
        rtp[2..4].copy_from_slice(&sequence.to_be_bytes());
        rtp[4..8].copy_from_slice(&timestamp.wrapping_add(splice.timestamp).to_be_bytes());
        rtp[8..12].copy_from_slice(&splice.ssrc.to_be_bytes());
    }
    frame
}

#[test]
fn a_packet_of_the_locked_stream_leaves_as_one_made_from_scratch() {
    let Some((mut program, _events)) = load() else { return };
    for is_v6 in [false, true] {
        for flow in [flow(is_v6), spliced(flow(is_v6))] {
            for vlan_in in [None, Some(0), Some(5)] {
                for vlan_out in [None, Some(5), Some(0xffe)] {
                    let way = way(vlan_out);
                    install(&mut program, &flow, vlan_in, &way);
                    for has_checksum in [true, false] {
                        for padding in [0, 7] {
                            let mut came = packet(&flow, 0xfff1);
                            came.tag = vlan_in.map(|vlan| vlan | 0xa000);
                            came.has_checksum = has_checksum || is_v6;
                            came.padding = vec![0xee; padding];
                            let (verdict, frame) = run(&mut program, &came.bytes());
                            assert_eq!(verdict, TX, "{came:?}");
                            assert_eq!(frame, expected(&came, &flow, &way).bytes(), "{came:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn checksums_are_right_whatever_they_sum_up_to() {
    let Some((mut program, _events)) = load() else { return };
    for is_v6 in [false, true] {
        let flow = spliced(flow(is_v6));
        install(&mut program, &flow, None, &way(None));
        // Two bytes of payload take every value, and so do the sums: zero among them.
        for word in 0..=u16::MAX {
            let word = word.to_be_bytes();
            let mut came =
                Frame::new(flow.source, flow.local, rtp(8, 0xfff1, word[0].into(), SSRC, &word));
            came.identification = u16::from_be_bytes(word);
            let (verdict, frame) = run(&mut program, &came.bytes());
            assert_eq!(verdict, TX);
            assert_eq!(frame, expected(&came, &flow, &way(None)).bytes(), "{word:?}");
        }
    }
}

#[test]
fn what_is_not_surely_the_streams_passes_untouched() {
    let Some((mut program, _events)) = load() else { return };
    for is_v6 in [false, true] {
        let flow = flow(is_v6);
        install(&mut program, &flow, None, &way(None));
        let good = packet(&flow, 0xfff1).bytes();
        let (ip, udp) = (14, if is_v6 { 54 } else { 34 });
        let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut case = |name, change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = good.clone();
            change(&mut frame);
            cases.push((name, frame));
        };
        let ports = |frame: &mut Vec<u8>, port: u16| {
            frame[udp + 2..udp + 4].copy_from_slice(&port.to_be_bytes());
        };
        case("RTCP", &|frame| ports(frame, 20_001));
        case("another port", &|frame| ports(frame, 20_002));
        case("ARP", &|frame| frame[12..14].copy_from_slice(&[8, 6]));
        case("two tags", &|frame| {
            frame.splice(12..12, [0x81, 0, 0, 5, 0x81, 0, 0, 5]);
        });
        case("a provider's tag", &|frame| {
            frame.splice(12..12, [0x88, 0xa8, 0, 5]);
        });
        case("a VLAN", &|frame| {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        });
        case("a priority tag", &|frame| {
            frame.splice(12..12, [0x81, 0, 0xa0, 0]);
        });
        case("RTP version 1", &|frame| frame[udp + 8] = 0x40);
        case("another SSRC", &|frame| frame[udp + 16] ^= 1);
        case("a jump ahead", &|frame| {
            let sequence = 0xfff0u16.wrapping_add(3_000);
            frame[udp + 10..udp + 12].copy_from_slice(&sequence.to_be_bytes());
        });
        case("too late", &|frame| {
            let sequence = 0xfff0u16 - 101;
            frame[udp + 10..udp + 12].copy_from_slice(&sequence.to_be_bytes());
        });
        case("UDP's length is less than IP's", &|frame| frame[udp + 5] -= 1);
        case("UDP's length is more than IP's", &|frame| frame[udp + 5] += 1);
        if is_v6 {
            case("no checksum", &|frame| frame[udp + 6..udp + 8].fill(0));
            case("an extension header", &|frame| frame[ip + 6] = 0);
            case("TCP", &|frame| frame[ip + 6] = 6);
            case("another address", &|frame| frame[ip + 39] ^= 1);
            case("version 4", &|frame| frame[ip] = 0x40);
        } else {
            case("a fragment", &|frame| frame[ip + 6] = 0x20);
            case("a later fragment", &|frame| frame[ip + 7] = 1);
            case("options", &|frame| frame[ip] = 0x46);
            case("TCP", &|frame| frame[ip + 9] = 6);
            case("another address", &|frame| frame[ip + 19] ^= 1);
            case("version 6", &|frame| frame[ip] = 0x65);
            case("no length", &|frame| frame[ip + 2..ip + 4].fill(0));
        }
        for length in 14..good.len() {
            cases.push(("cut off", good[..length].to_vec()));
        }
        for (name, frame) in cases {
            let (verdict, left) = run(&mut program, &frame);
            assert_eq!((verdict, left), (PASS, frame), "{name}");
        }
        let stats = program.table.read(ROW).stats();
        assert_eq!((stats.packets, stats.foreign, stats.newest), (0, 0, 0x1_fff0));
        // Without a row behind its key, too.
        program.table.free(ROW);
        assert_eq!(run(&mut program, &good).0, PASS);
    }
}

#[test]
fn another_source_is_dropped_and_counted() {
    let Some((mut program, _events)) = load() else { return };
    for is_v6 in [false, true] {
        let flow = flow(is_v6);
        install(&mut program, &flow, None, &way(None));
        let mut count = 0;
        let (source, length) = if is_v6 { (22, 16) } else { (26, 4) };
        let port = if is_v6 { 54 } else { 34 };
        for byte in (source..source + length).chain(port..port + 2) {
            let mut frame = packet(&flow, 0xfff1).bytes();
            frame[byte] ^= 0x80;
            assert_eq!(run(&mut program, &frame).0, DROP, "byte {byte}");
            let foreigner = program.table.read(ROW).stats().foreigner.expect("it was dropped");
            assert_eq!(foreigner.ip() != flow.source.ip(), byte < port, "byte {byte}");
            assert_eq!(foreigner.port() != flow.source.port(), byte >= port, "byte {byte}");
            // Nor does it matter what is in it.
            frame.truncate(port + 8);
            assert_eq!(run(&mut program, &frame).0, DROP, "byte {byte}");
            count += 2;
        }
        let stats = program.table.read(ROW).stats();
        assert_eq!((stats.packets, stats.foreign), (0, count));
    }
}

#[test]
fn it_counts_as_the_process_does() {
    let Some((mut program, _events)) = load() else { return };
    let mut flow = flow(false);
    flow.transit = 1_000;
    flow.jitter = 160;
    install(&mut program, &flow, None, &way(None));
    let (mut newest, mut transit, mut jitter) = (flow.newest, flow.transit, flow.jitter);
    let (mut packets, mut bytes) = (0u64, 0);
    let (mut newest_timestamp, mut clocked_timestamp, mut clocked) = (0, 0, 0);
    let mut seed = 1u32;
    for step in [1, 1, 2, 15, 0, 1, -1, -100, 101, 2_999, 1, 1, -50, 60] {
        for _ in 0..20 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sequence = (newest as u16).wrapping_add_signed(step);
            // Speech, and at times a jump of the timestamp.
            let timestamp = packets as u32 * 160 + if seed >> 30 == 0 { seed >> 20 } else { 0 };
            let is_marked = seed >> 27 == 31;
            let payload = vec![0; (seed >> 24) as usize];
            let kind = if is_marked { 0x80 } else { 0 };
            let frame =
                Frame::new(flow.source, flow.local, rtp(kind, sequence, timestamp, SSRC, &payload));
            let before = crate::clock::now().as_nanos() / 125_000;
            assert_eq!(run(&mut program, &frame.bytes()).0, TX);
            let after = crate::clock::now().as_nanos() / 125_000;

            let is_clocked = packets.is_multiple_of(32)
                || is_marked
                || timestamp.wrapping_sub(clocked_timestamp) >= 5_120;
            packets += 1;
            bytes += 12 + payload.len() as u64;
            newest += step.max(0).cast_unsigned() as u32;
            let stats = program.table.read(ROW).stats();
            assert_eq!((stats.packets, stats.bytes, stats.newest), (packets, bytes, newest));
            let late = step < 0;
            newest_timestamp = if late { newest_timestamp } else { timestamp };
            assert_eq!(stats.timestamp, newest_timestamp);
            if !is_clocked {
                assert_eq!((stats.transit, stats.jitter), (transit, jitter));
                continue;
            }
            clocked += 1;
            // A late packet's transit is not kept, but it counts for the jitter.
            let arrivals = before as u32..=after as u32;
            let kept = stats.transit.wrapping_add(timestamp);
            assert!(if late { stats.transit == transit } else { arrivals.contains(&kept) });
            clocked_timestamp = if late { clocked_timestamp } else { timestamp };
            let jitters: Vec<u32> = arrivals
                .filter(|arrival| late || *arrival == kept)
                .map(|arrival| arrival.wrapping_sub(timestamp).wrapping_sub(transit).cast_signed())
                .map(|step| jitter - ((jitter + 2) >> 2) + 4 * step.unsigned_abs().min(480_000))
                .collect();
            assert!(jitters.contains(&stats.jitter), "{} of {jitters:?}", stats.jitter);
            jitter = stats.jitter;
            transit = stats.transit;
        }
    }
    assert!((packets / 32..packets / 2).contains(&clocked), "{clocked} of {packets}");
}

#[test]
fn telephone_events_are_copied_up_as_they_came() {
    let Some((mut program, mut events)) = load() else { return };
    let flow = spliced(flow(false));
    install(&mut program, &flow, None, &way(None));
    let digit = [5, 0x8a, 0x03, 0x20];
    let came = Frame::new(flow.source, flow.local, rtp(EVENT_TYPE | 0x80, 0xfff1, 7, SSRC, &digit));
    let (verdict, frame) = run(&mut program, &came.bytes());
    assert_eq!((verdict, frame), (TX, expected(&came, &flow, &way(None)).bytes()));
    let event = events.next().expect("an event").to_vec();
    assert_eq!(event, [&ROW.to_ne_bytes()[..], &came.rtp].concat());
    // Too short to be one: relayed only.
    let short = Frame::new(flow.source, flow.local, rtp(EVENT_TYPE, 0xfff2, 7, SSRC, &digit[..3]));
    assert_eq!(run(&mut program, &short.bytes()).0, TX);
    assert!(events.next().is_none());
    // Nobody fetches them: the process gets the packets themselves, and no packet is lost.
    let passed = (0..20_000).filter(|_| run(&mut program, &came.bytes()).0 == PASS).count();
    assert!(passed > 0);
    let mut fetched = 0;
    while events.next().is_some() {
        fetched += 1;
    }
    assert_eq!(passed + fetched, 20_000);
    assert_eq!(program.table.read(ROW).stats().packets, 2 + fetched as u64);
}

#[test]
fn addresses_share_a_port() {
    let Some((mut program, _events)) = load() else { return };
    let flows: Vec<FlowSpec> = (0..SLOTS as u8)
        .map(|host| {
            let mut flow = flow(host % 2 == 1);
            match &mut flow.local {
                SocketAddr::V4(addr) => addr.set_ip([192, 0, 2, host].into()),
                SocketAddr::V6(addr) => addr.set_ip([0x2001, 0, 0, 0, 0, 0, 0, host.into()].into()),
            }
            flow.source.set_port(4_000 + u16::from(host) * 2);
            flow
        })
        .collect();
    for (row, flow) in flows.iter().enumerate() {
        program.table.write(row as u32, &Row::new(flow, None, &way(None)).expect("one family"));
        assert!(program.flows.insert(20_000, row as u32));
    }
    assert!(!program.flows.insert(20_000, 0));
    for (row, flow) in flows.iter().enumerate() {
        let came = packet(flow, 0xfff1);
        let (verdict, frame) = run(&mut program, &came.bytes());
        assert_eq!((verdict, frame), (TX, expected(&came, flow, &way(None)).bytes()));
        assert_eq!(program.table.read(row as u32).stats().packets, 1);
    }
    let rows: Vec<_> = program.flows.rows().collect();
    assert_eq!(rows, (0..SLOTS as u32).map(|row| (20_000, row)).collect::<Vec<_>>());
    for row in 0..SLOTS as u32 {
        program.flows.remove(20_000, row);
        assert_eq!(run(&mut program, &packet(&flows[row as usize], 0xfff2).bytes()).0, PASS);
    }
    assert_eq!(program.flows.rows().count(), 0);
}

#[test]
fn a_packet_to_an_interface_without_the_bypass_goes_nowhere() {
    let Some((mut program, _events)) = load() else { return };
    let flow = flow(false);
    install(&mut program, &flow, None, &Way { ifindex: 77, ..way(None) });
    assert_eq!(run(&mut program, &packet(&flow, 0xfff1).bytes()).0, DROP);
}

#[test]
fn the_program_costs_little() {
    let Some((mut program, _events)) = load() else { return };
    for is_v6 in [false, true] {
        // What leaves is what came, so that one frame can go round.
        let mut flow = flow(is_v6);
        (flow.from, flow.to, flow.dscp) = (flow.source, flow.local, 0);
        for (name, flow) in [("", flow), (", spliced", spliced(flow))] {
            let mut flow = flow;
            flow.splice = flow.splice.map(|_| Splice { ssrc: SSRC, sequence: 0, timestamp: 0 });
            install(&mut program, &flow, None, &way(None));
            let frame = packet(&flow, 0xfff1).bytes();
            let options =
                TestRunOptions { data_in: Some(&frame), repeat: 1_000_000, ..Default::default() };
            let result = program.xdp().test_run(options).expect("a test run");
            assert_eq!(result.return_value, TX);
            let family = if is_v6 { 6 } else { 4 };
            println!("IPv{family}{name}: {:?} a packet", result.duration);
        }
    }
}
