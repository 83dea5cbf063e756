use std::net::UdpSocket;

use super::*;
use crate::sockets::bind_pair;

const FILE: u32 = 1;
const SOCKET: SocketSlot = SocketSlot(6);

/// A ring that receives on one socket, and that socket's address.
fn receiving() -> (Ring, SocketAddr) {
    let mut ring = Ring::open(4).expect("io_uring is there");
    let ip = "127.0.0.1".parse().expect("an address");
    let sockets = (31_100..32_000)
        .step_by(2)
        .find_map(|port| bind_pair(ip, port).ok().map(|sockets| (sockets, port)));
    let (sockets, port) = sockets.expect("a free pair of ports");
    ring.put_files(FILE, &sockets).expect("there are places");
    ring.receive_media(SOCKET, 9, FILE);
    (ring, SocketAddr::new(ip, port))
}

fn completions(ring: &mut Ring) -> Vec<Completion> {
    let mut out = Vec::new();
    ring.submit(Some(Duration::from_millis(20))).expect("io_uring_enter works");
    ring.completions(usize::MAX, &mut out);
    out
}

#[test]
fn without_buffers_a_receive_ends_and_goes_on_when_started_again() {
    let (mut ring, addr) = receiving();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let mut held = Vec::new();
    let mut ended = None;
    let mut sent = 0u32;
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
    assert_eq!(held.len(), usize::from(MEDIA_BUFFERS), "each buffer came once");
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
    let sent = (0..50).find_map(|_| completions(&mut ring).pop()).expect("it completes");
    assert_eq!((sent.token, sent.result, sent.more), (Token::MediaSend(buffer), 172, false));
    let mut bytes = [0; 200];
    assert_eq!(other.recv_from(&mut bytes).expect("it comes"), (172, addr));
    assert_eq!(bytes[..2], [8, 7]);
    ring.give_back_media(buffer);
}

#[test]
fn a_cancelled_receive_ends_and_its_port_is_free_again() {
    let (mut ring, addr) = receiving();
    completions(&mut ring);
    ring.cancel(Token::MediaReceive(SOCKET, 9));
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.extend(completions(&mut ring));
        if seen.len() >= 2 {
            break;
        }
    }
    let receive = seen.iter().find(|completion| completion.token != Token::Cancel);
    let receive = receive.expect("the receive completes");
    assert_eq!((receive.result, receive.more), (-libc::ECANCELED, false));
    ring.clear_pair(FILE).expect("the places are emptied");
    UdpSocket::bind(addr).expect("the port is free at once");
}

#[test]
fn more_sip_than_there_are_places_is_sent_all_the_same() {
    let mut ring = Ring::open(4).expect("io_uring is there");
    let own = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("an ephemeral port");
    let to = peer.local_addr().expect("it is bound");
    ring.put_files(0, &[OwnedFd::from(own)]).expect("there are places");
    let count = SIP_SENDS + SIP_SENDS_WAITING;
    for _ in 0..count {
        assert!(ring.send_sip(0, to, Rc::from(&b"x"[..])));
    }
    assert!(!ring.send_sip(0, to, Rc::from(&b"x"[..])), "the queue is bounded");
    let mut sent = 0;
    while sent < count {
        for completion in completions(&mut ring) {
            let Token::SipSend(place) = completion.token else { panic!("{completion:?}") };
            // The socket of the peer overflows; that is not the sender's matter on UDP.
            assert_eq!(completion.result, 1);
            ring.sip_sent(place);
            sent += 1;
        }
    }
    assert!(ring.send_sip(0, to, Rc::from(&b"x"[..])));
}
