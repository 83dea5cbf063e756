//! What the program sends and counts, by the kernel's BPF_PROG_TEST_RUN.

use super::*;

/// The program for a call of two streams; none, with the reason printed, where that is not allowed.
fn load() -> Option<Frames> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: BPF programs need root");
        return None;
    }
    let interface = Interface { name: "cable".into(), index: 1, mac: [2, 0, 0, 0, 0, 1] };
    let own = ["192.0.2.2:10000", "192.0.2.3:10000"].map(|at| at.parse().unwrap());
    let mut frames = Frames::load(interface, &own, &[]).unwrap();
    let relay: Ipv4Addr = "192.0.2.1".parse().unwrap();
    for (number, port) in [30_000, 30_002].into_iter().enumerate() {
        let peer = SocketAddrV4::new(relay, port);
        let own = frames.own[number];
        let row = stream(number as u32, own, peer, [2, 0, 0, 0, 0, 2], frames.interface.mac);
        frames.streams.set(number as u32, row, 0).unwrap();
    }
    Some(frames)
}

fn test_run(frames: &mut Frames, program: &str, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; 2_048];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
    let result = xdp(&mut frames.ebpf, program).unwrap().test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// The next frame, of which a million a second have been due since the machine started.
fn next(frames: &mut Frames, counts: bool) -> Vec<u8> {
    let (first, last) = (if counts { 0 } else { u64::MAX }, u64::MAX);
    let mut pace = frames.paces.get(&0, 0).unwrap();
    pace[..5].copy_from_slice(&[0, first, last, 1_000_000, u64::MAX]);
    (pace[8], pace[9]) = (2 << 32, pace[9] & 0xffff_ffff);
    frames.paces.set(0, pace, 0).unwrap();
    let (verdict, frame) = test_run(frames, "send", &[0xd5; FRAME]);
    assert_eq!(verdict, TX);
    frame
}

#[test]
fn frames_are_those_of_the_streams_in_turn() {
    let Some(mut frames) = load() else { return };
    for number in 1..=40_u32 {
        for stream in 0..2_u32 {
            let sent = next(&mut frames, true);
            let (ip, udp) = sent[ETHERNET..].split_at(IPV4);
            assert_eq!(sent.len(), FRAME);
            assert_eq!(sent[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            assert_eq!(fold(sum(ip)), 0xffff);
            assert_eq!(ip[12..], [192, 0, 2, 2 + stream as u8, 192, 0, 2, 1]);
            let ports = [10_000_u16, 30_000 + 2 * stream as u16].map(u16::to_be_bytes);
            assert_eq!(udp[..4], *ports.concat());
            let pseudo = [&ip[12..], &[0, PROTOCOL_UDP, 0, udp.len() as u8]].concat();
            assert_eq!(fold(sum(&pseudo) + sum(udp)), 0xffff, "of {number}");
            let header = RtpHeader {
                marker: false,
                payload_type: 8,
                sequence: number as u16,
                timestamp: number * 160,
                ssrc: ssrc(stream),
            };
            assert_eq!(udp[UDP..UDP + RtpHeader::LEN], header.bytes());
        }
    }
    let pace = frames.paces.get(&0, 0).unwrap();
    assert_eq!((pace[SENT], pace[MISSED]), (80, 0));
}

#[test]
fn what_is_not_due_is_not_sent_and_what_is_late_is_missed() {
    let Some(mut frames) = load() else { return };
    let now = monotonic().as_nanos() as u64;
    let mut run = |begin: u64, first: u64, last: u64, latest: u64| {
        let pace = [begin, first, last, 1_000_000, latest, 0, 0, 0, 2 << 32, 0];
        frames.paces.set(0, pace, 0).unwrap();
        let verdict = test_run(&mut frames, "send", &[0xd5; FRAME]).0;
        let pace = frames.paces.get(&0, 0).unwrap();
        (verdict, pace[SENT], pace[MISSED] > 0)
    };
    let second = 1_000_000_000;
    let (past, future) = (now - second, now + 1_000 * second);
    assert_eq!(run(future, 0, u64::MAX, 9), (DROP, 0, false));
    assert_eq!(run(past, 0, past, 9), (DROP, 0, false));
    assert_eq!(run(past, future, u64::MAX, 9), (TX, 0, false), "it counts later");
    assert_eq!(run(past, 0, u64::MAX, 9), (TX, 1, true));
    assert_eq!(run(past, 0, u64::MAX, u64::MAX), (TX, 1, false));
}

#[test]
fn what_comes_back_is_counted_by_stream() {
    let Some(mut frames) = load() else { return };
    // As a relay sends it: to the peer of who sent it.
    let relayed = |sent: &[u8], to: [u8; 4]| {
        let mut frame = sent.to_vec();
        frame[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&[192, 0, 2, 1]);
        frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&to);
        frame[ETHERNET + IPV4 + 2..ETHERNET + IPV4 + 4].copy_from_slice(&10_000_u16.to_be_bytes());
        frame
    };
    let before = next(&mut frames, false);
    let _ = next(&mut frames, false);
    let mut sent = Vec::new();
    for _ in 0..100 {
        sent.push(relayed(&next(&mut frames, true), [192, 0, 2, 3]));
        let _ = next(&mut frames, true);
    }
    let mut counts = |frame: &[u8]| {
        assert_eq!(test_run(&mut frames, "hear", frame).0, DROP);
        let words = frames.heard().unwrap();
        assert_eq!(words[1], [0; 8], "nothing of the other stream");
        [ARRIVED, AGAIN, LATE, STRAY].map(|word| words[0][word])
    };
    assert_eq!(counts(&relayed(&before, [192, 0, 2, 3])), [0; 4], "it counts later");
    for (packet, expected) in [
        (0, [1, 0, 0, 0]),
        (2, [2, 0, 0, 0]),
        (2, [2, 1, 0, 0]),
        (1, [3, 1, 1, 0]),
        (99, [4, 1, 1, 0]),
        (36, [5, 1, 2, 0]),
        (35, [5, 2, 2, 0]),
    ] {
        assert_eq!(counts(&sent[packet]), expected, "{packet}");
    }
    let mut stray = sent[3].clone();
    stray[ETHERNET + 19] = 2;
    assert_eq!(counts(&stray), [5, 2, 2, 1]);
    // Packets of others are the host's.
    sent[4][FRAME - 160 + 16] ^= 1;
    assert_eq!(test_run(&mut frames, "hear", &sent[4]).0, PASS);
    assert_eq!(test_run(&mut frames, "hear", &sent[5][..60]).0, PASS);
}

#[test]
fn neighbours_are_found_in_the_kernels_table() {
    let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                 192.0.2.1        0x1         0x2         02:11:22:33:44:55     *        cable\n\
                 192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        cable\n";
    let find = |ip: [u8; 4], name: &str| neighbour(table, ip.into(), name);
    assert_eq!(find([192, 0, 2, 1], "cable"), Some([2, 0x11, 0x22, 0x33, 0x44, 0x55]));
    assert_eq!(find([192, 0, 2, 1], "other"), None);
    assert_eq!(find([192, 0, 2, 9], "cable"), None);
    assert_eq!(find([192, 0, 2, 2], "cable"), None);
}
