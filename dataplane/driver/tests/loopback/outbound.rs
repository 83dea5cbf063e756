//! Keep-alives of phones: STUN on the SIP port of UDP.

use std::net::{SocketAddr, UdpSocket};

use abi::Counter;
use driver::MediaChoice;

use crate::plane::{Plane, ask_options, config, peer, wait_for};

/// A STUN Binding request with that transaction id (RFC 8489).
fn request(id: u8) -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[id; 12]].concat()
}

fn ask(socket: &UdpSocket, plane: &Plane, id: u8) -> Option<Vec<u8>> {
    socket.send_to(&request(id), plane.sip(0)).expect("loopback takes it");
    let mut buffer = [0; 128];
    let (len, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from, plane.sip(0));
    Some(buffer[..len].to_vec())
}

fn a_phone_asks_by_what_address_it_is_seen(media: MediaChoice) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&folder, 2, media);
    let plane = Plane::start_with(folder, config);
    let socket = peer("127.0.0.4");
    let SocketAddr::V4(own) = socket.local_addr().expect("it is bound") else { panic!("IPv4") };
    let answer = ask(&socket, &plane, 7).expect("an answer");
    assert_eq!(answer[..8], [1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(answer[8..24], [&[7; 12][..], &[0, 0x20, 0, 8]].concat()[..]);
    let port = u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112;
    let ip: Vec<u8> =
        answer[28..32].iter().zip([0x21, 0x12, 0xa4, 0x42]).map(|(a, b)| a ^ b).collect();
    assert_eq!((port, &ip[..]), (own.port(), &own.ip().octets()[..]));
    assert_eq!(plane.count(Counter::StunAnswered), 1);
    // Who asks for too much of it hears nothing for the rest of the second; SIP goes on.
    let flood = peer("127.0.0.5");
    wait_for("it is too much", || {
        for _ in 0..200 {
            flood.send_to(&request(1), plane.sip(0)).expect("loopback takes it");
        }
        plane.count(Counter::DropStunRate) > 0
    });
    ask_options(&plane, 0, "after");
    assert!(ask(&socket, &plane, 8).is_some(), "another source does not notice");
    socket.send_to(&[&request(9)[..], b"x"].concat(), plane.sip(0)).expect("loopback takes it");
    // By a socket of its own, and so maybe by another worker.
    ask_options(&plane, 0, "broken");
    wait_for("it is counted", || plane.count(Counter::DropStunMalformed) == 1);
    plane.stop();
}

#[test]
fn stun_keeps_a_flow_alive_by_io_uring() {
    a_phone_asks_by_what_address_it_is_seen(MediaChoice::IoUring);
}

#[test]
fn stun_keeps_a_flow_alive_by_recvmmsg() {
    a_phone_asks_by_what_address_it_is_seen(MediaChoice::Recvmmsg);
}
