use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::sockets::bind_pair;

const FILE: u32 = 1;
const SOCKET: SocketSlot = SocketSlot(6);

/// A ring that receives on one socket, and that socket's address.
fn receiving() -> (Ring, SocketAddr) {
    let mut ring = Ring::open(4).expect("io_uring is there");
    let (sockets, port) = free_pair();
    ring.put(FILE, sockets).expect("there are places");
    ring.receive_media(SOCKET, 9, FILE);
    (ring, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}

fn free_pair() -> (Vec<OwnedFd>, u16) {
    let ip = Ipv4Addr::LOCALHOST.into();
    (31_100..32_000)
        .step_by(2)
        .find_map(|port| bind_pair(ip, port).ok().map(|sockets| (sockets, port)))
        .expect("a free pair of ports")
}

fn completions(ring: &mut Ring) -> Vec<Completion> {
    let mut out = Vec::new();
    ring.submit(Wait::Any(Duration::from_millis(20))).expect("io_uring_enter works");
    ring.completions(usize::MAX, &mut out);
    out
}

#[test]
fn without_buffers_a_receive_ends_and_goes_on_when_started_again() {
    let (mut ring, addr) = receiving();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let mut held = Vec::new();
    let mut sent = 0u32;
    for offered in [1_024, 2_048, 4_096, MEDIA_BUFFERS] {
        assert_eq!(ring.memory.media.offered(), offered, "twice as many as were not enough");
        let mut ended = None;
        while ended.is_none() {
            assert!(sent < 10_000, "buffers never run out");
            // Few at a time: the kernel takes some 32 of a socket in a turn, and keeps only so many.
            for _ in 0..16 {
                peer.send_to(&sent.to_be_bytes(), addr).expect("loopback takes it");
                sent += 1;
            }
            for completion in completions(&mut ring) {
                assert_eq!(completion.token, Token::MediaReceive(SOCKET, 9));
                held.extend(completion.buffer);
                if !completion.more {
                    ended = Some(completion.result);
                }
            }
        }
        assert_eq!(ended, Some(-libc::ENOBUFS));
        assert_eq!(held.len(), usize::from(offered), "each buffer came once");
        if offered < MEDIA_BUFFERS {
            ring.receive_media(SOCKET, 9, FILE);
        }
    }
    for (number, &buffer) in held.iter().enumerate() {
        let (datagram, bytes) = ring.media_datagram(buffer, 48).expect("a datagram");
        assert_eq!(datagram.from, peer.local_addr().expect("it is bound"));
        assert_eq!(bytes[datagram.range], (number as u32).to_be_bytes(), "in order");
        ring.give_back_media(buffer);
    }
    ring.receive_media(SOCKET, 9, FILE);
    // What the socket kept meanwhile comes now.
    let last = (sent - 1).to_be_bytes();
    let mut found = false;
    for _ in 0..50 {
        for completion in completions(&mut ring) {
            assert!(completion.more && completion.result > 0);
            let buffer = completion.buffer.expect("with a buffer");
            let (datagram, bytes) =
                ring.media_datagram(buffer, completion.result).expect("a datagram");
            found |= bytes[datagram.range] == last;
            ring.give_back_media(buffer);
        }
        if found {
            break;
        }
    }
    assert!(found, "the last datagram comes");
    assert!(ring.quiesce(), "nothing stays in flight");
}

#[test]
fn a_packet_is_sent_out_of_the_buffer_that_it_came_in() {
    let (mut ring, addr) = receiving();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let other = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    other.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    peer.send_to(&[7; 172], addr).expect("loopback takes it");
    let received = (0..50).find_map(|_| completions(&mut ring).pop()).expect("it comes");
    let buffer = received.buffer.expect("with a buffer");
    let (datagram, bytes) = ring.media_datagram(buffer, received.result).expect("a datagram");
    bytes[datagram.range.start] = 8;
    ring.send_media(buffer, datagram.range, FILE, other.local_addr().expect("it is bound"));
    ring.submit(Wait::No).expect("io_uring_enter works");
    assert!(ring.memory.media.take(buffer), "it is the kernel's again");
    ring.memory.media.bytes_mut(buffer).fill(0);
    let mut bytes = [0; 200];
    assert_eq!(other.recv_from(&mut bytes).expect("it comes"), (172, addr));
    assert_eq!(bytes[..2], [8, 7]);
    assert!(completions(&mut ring).is_empty(), "a send that worked completes silently");
}

#[test]
fn made_packets_are_bounded_and_done_with_when_submitted() {
    let (mut ring, addr) = receiving();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let to = peer.local_addr().expect("it is bound");
    let mut bytes = [0; 200];
    for round in 0..20u32 {
        for number in 0..64 {
            let packet: Vec<u8> = (round << 16 | number).to_be_bytes().repeat(43);
            assert!(ring.send_made(packet.into(), FILE, to));
        }
        ring.submit(Wait::No).expect("io_uring_enter works");
        assert!(ring.memory.made.is_empty(), "the packets are freed");
        for number in 0..64u32 {
            assert_eq!(peer.recv_from(&mut bytes).expect("it comes"), (172, addr));
            assert_eq!(bytes[..172], (round << 16 | number).to_be_bytes().repeat(43));
        }
    }
    // A send that fails completes, and says so.
    assert!(ring.send_made(Box::new([1; 172]), FILE, "127.0.0.1:0".parse().expect("an address")));
    let failed = (0..50).find_map(|_| completions(&mut ring).pop()).expect("it completes");
    assert_eq!((failed.token, failed.result), (Token::MediaSend, -libc::EINVAL));
    while ring.memory.made.len() < MADE_SENDS {
        assert!(ring.send_made(Box::new([1; 4]), FILE, to));
    }
    assert!(!ring.send_made(Box::new([1; 4]), FILE, to), "they are bounded");
    ring.submit(Wait::No).expect("io_uring_enter works");
    assert!(ring.send_made(Box::new([1; 4]), FILE, to));
    assert!(ring.quiesce(), "nothing stays in flight");
}

#[test]
fn a_cancelled_receive_ends_and_its_port_is_free_again() {
    let (mut ring, addr) = receiving();
    completions(&mut ring);
    ring.end_receive(SOCKET, 9, FILE);
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.extend(completions(&mut ring));
        if !seen.is_empty() {
            break;
        }
    }
    let receive = seen.first().expect("the receive completes");
    assert_eq!((receive.result, receive.more), (-libc::ECANCELED, false));
    ring.clear_pair(FILE).expect("the places are emptied");
    UdpSocket::bind(addr).expect("the port is free at once");
}

#[test]
fn an_rtcp_socket_is_polled_and_then_received_on_until_it_is_empty() {
    let mut ring = Ring::open(4).expect("io_uring is there");
    let (sockets, port) = free_pair();
    ring.put(FILE, sockets).expect("there are places");
    let socket = SOCKET.pair().rtcp();
    ring.receive_media(socket, 9, FILE + 1);
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port + 1);
    for round in 0..3u8 {
        let sent = [[round, 0], [round, 1], [round, 2]];
        for bytes in sent {
            peer.send_to(&bytes, addr).expect("loopback takes it");
        }
        let (mut received, mut ended) = (Vec::new(), None);
        while ended.is_none() {
            let seen = completions(&mut ring);
            assert!(!seen.is_empty() || ring.in_flight > 0, "somebody receives");
            for completion in seen {
                assert_eq!(completion.token, Token::MediaReceive(socket, 9));
                if let Some(buffer) = completion.buffer {
                    let found = ring.media_datagram(buffer, completion.result);
                    let (datagram, bytes) = found.expect("a datagram");
                    received.push(bytes[datagram.range].to_vec());
                    ring.give_back_media(buffer);
                }
                ended = (!completion.more).then_some(completion.result);
            }
        }
        assert_eq!((received, ended), (sent.map(Vec::from).to_vec(), Some(0)), "and all is well");
        assert_eq!(ring.in_flight, 0, "nothing waits before it is asked for again");
        ring.receive_media(socket, 9, FILE + 1);
    }
    // Cancelled while it polls, and while a poll has told and the receive is not started.
    for told in [false, true] {
        if told {
            peer.send_to(&[7], addr).expect("loopback takes it");
            ring.submit(Wait::Any(Duration::from_secs(5))).expect("io_uring_enter works");
        }
        ring.end_receive(socket, 9, FILE + 1);
        let (mut last, mut came) = (None, 0);
        while last.is_none() {
            for completion in completions(&mut ring) {
                came += usize::from(completion.buffer.is_some());
                if let Some(buffer) = completion.buffer {
                    ring.give_back_media(buffer);
                }
                last = (!completion.more).then_some(completion.result);
            }
        }
        let expected = if told { (1, Some(0)) } else { (0, Some(-libc::ECANCELED)) };
        assert_eq!((came, last), expected);
        if !told {
            ring.receive_media(socket, 9, FILE + 1);
        }
    }
    ring.clear_pair(FILE).expect("the places are emptied");
    UdpSocket::bind(addr).expect("the port is free at once");
    assert!(ring.quiesce(), "nothing stays in flight");
}

#[test]
fn more_sip_than_there_are_places_is_sent_all_the_same() {
    let mut ring = Ring::open(4).expect("io_uring is there");
    let own = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let to = peer.local_addr().expect("it is bound");
    ring.put(0, vec![OwnedFd::from(own)]).expect("there are places");
    let count = SIP_SENDS + SIP_SENDS_WAITING;
    for _ in 0..count {
        assert!(ring.send_sip(0, to, Rc::from(&b"x"[..])));
    }
    assert!(!ring.send_sip(0, to, Rc::from(&b"x"[..])), "the queue is bounded");
    while ring.sip_free.len() < SIP_SENDS {
        // The socket of the peer overflows; that is not the sender's matter on UDP.
        assert!(completions(&mut ring).is_empty(), "none fails");
    }
    assert!(ring.sip_waiting.is_empty());
    assert!(ring.send_sip(0, to, Rc::from(&b"x"[..])));
}

#[test]
fn a_queued_packet_leaves_from_its_own_call_though_another_has_its_place() {
    let (mut ring, addr) = receiving();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let other = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    other.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let to = other.local_addr().expect("it is bound");
    peer.send_to(&[7; 172], addr).expect("loopback takes it");
    peer.send_to(&[8; 172], addr).expect("loopback takes it");
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(completions(&mut ring));
    }
    let queue = |ring: &mut Ring, nth: usize| {
        let Completion { buffer: Some(buffer), result, .. } = received[nth] else { panic!() };
        let (datagram, _) = ring.media_datagram(buffer, result).expect("a datagram");
        ring.send_media(buffer, datagram.range, FILE, to);
    };
    queue(&mut ring, 0);
    ring.clear_pair(FILE).expect("the places are emptied");
    ring.put(FILE, free_pair().0).expect("there are places");
    let mut bytes = [0; 200];
    assert_eq!(other.recv_from(&mut bytes).expect("it was sent before"), (172, addr));
    // Likewise when the place is filled anew without being emptied.
    let (pair, port) = free_pair();
    ring.put(FILE, pair).expect("there are places");
    queue(&mut ring, 1);
    ring.put(FILE, free_pair().0).expect("there are places");
    let (_, from) = other.recv_from(&mut bytes).expect("it was sent before");
    assert_eq!((from.port(), bytes[0]), (port, 8));
}

#[test]
fn what_the_kernel_does_not_take_is_kept_and_comes_in_order() {
    let places = SUBMISSIONS / 4;
    // A ring that is not enabled takes nothing, as one does that finds no memory.
    let mut ring =
        Ring::build(4, IoUring::builder().setup_r_disabled()).expect("io_uring is there");
    let own = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let to = peer.local_addr().expect("it is bound");
    ring.put(0, vec![OwnedFd::from(own)]).expect("nothing is queued yet");
    let cancels = 3 * SUBMISSIONS;
    for number in 0..cancels {
        ring.end_receive(SocketSlot(number), 1, 2);
        if number % 12 == 0 {
            assert!(ring.send_sip(0, to, Rc::from(number.to_be_bytes())));
        }
    }
    assert!(ring.later.len() > 2 * SUBMISSIONS as usize, "the queue is full");
    let refused = ring.clear_pair(2).expect_err("what is queued must go before");
    assert_eq!(refused.raw_os_error(), Some(libc::EBADFD));
    ring.uring.submitter().register_enable_rings().expect("it is disabled");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut sent = Vec::new();
    while ring.in_flight > 0 {
        assert!(completions(&mut ring).is_empty(), "nothing fails");
    }
    for _ in 0..places {
        let mut bytes = [0; 4];
        peer.recv(&mut bytes).expect("it comes");
        sent.push(u32::from_be_bytes(bytes));
    }
    assert!(sent.is_sorted(), "in the order in which they were asked for");
    assert_eq!(ring.later.len(), 0);
}

#[test]
fn a_burst_of_sip_with_replies_finds_buffers() {
    const BURST: usize = 1_000;
    let mut ring = Ring::open(4).expect("io_uring is there");
    let location = worker::Location {
        name: "burst".to_owned(),
        ip: "127.0.0.1".parse().expect("an address"),
        sip_port: 31_090,
        streams: worker::StreamPorts::default(),
    };
    let own = crate::sockets::bind_sip(&location, 1).expect("the port is free").remove(0);
    if crate::sockets::receive_bytes(&own).expect("a socket") < BURST * 2_304 {
        return; // Such a burst does not fit into the socket, and no privilege makes it.
    }
    ring.put(0, vec![own]).expect("there are places");
    ring.receive_sip(0);
    ring.submit(Wait::No).expect("io_uring_enter works");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let from = peer.local_addr().expect("it is bound");
    for _ in 0..BURST {
        peer.send_to(&[b'x'; 700], ("127.0.0.1", 31_090)).expect("loopback takes it");
    }
    let mut received = 0;
    while received < BURST {
        let seen = completions(&mut ring);
        assert!(!seen.is_empty(), "after {received}");
        for completion in seen {
            match completion.token {
                Token::SipSend(_) => panic!("{completion:?}"),
                _ => {
                    assert!(completion.more, "{completion:?} after {received}");
                    received += 1;
                    ring.give_back_sip(completion.buffer.expect("with a buffer"));
                    assert!(ring.send_sip(0, from, Rc::from(&[b'r'; 500][..])));
                }
            }
        }
    }
}

#[test]
fn what_comes_within_a_time_of_gathering_is_taken_at_its_end_and_later_at_once() {
    let (mut ring, addr) = receiving();
    if !ring.gathers {
        return; // Linux before 6.12.
    }
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let (least, longest) = (Duration::from_millis(30), Duration::from_secs(20));
    // The receive is started before anything waits.
    ring.submit(Wait::No).expect("io_uring_enter works");
    let mut out = Vec::new();
    for sent in [1, 3] {
        for number in 0..sent {
            peer.send_to(&[number], addr).expect("loopback takes it");
        }
        let begun = std::time::Instant::now();
        ring.submit(Wait::Gather(least, longest)).expect("io_uring_enter works");
        let took = begun.elapsed();
        assert!(took >= least && took < longest / 2, "{took:?}");
        ring.completions(usize::MAX, &mut out);
        assert_eq!(out.len(), usize::from(sent), "together");
        out.drain(..).for_each(|one| ring.give_back_media(one.buffer.expect("a datagram")));
    }
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        peer.send_to(&[9], addr).expect("loopback takes it");
    });
    let begun = std::time::Instant::now();
    ring.submit(Wait::Gather(least, longest)).expect("io_uring_enter works");
    assert!(begun.elapsed() < longest / 2, "it does not wait for more");
    ring.completions(usize::MAX, &mut out);
    assert_eq!(out.len(), 1);
    late.join().expect("it sends");
}
