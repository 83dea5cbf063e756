use std::net::UdpSocket;

use abi::Counter;
use base::Rng;

use crate::plane::{Plane, ask_options, peer, wait_for};
use driver::MediaChoice;

on_both!(options_are_answered_at_each_location_by_each_worker);
fn options_are_answered_at_each_location_by_each_worker(media: MediaChoice) {
    let plane = Plane::start(2, media);
    // The Call-ID decides the owner, the kernel the socket: both workers and the mesh have their part.
    for number in 0..20 {
        ask_options(&plane, number % 2, &format!("o{number}"));
    }
    let region = plane.region();
    let received = region.counters().total(Counter::SipReceived);
    assert_eq!(received, 20);
    let (_, config) = plane.stop();
    assert!(!config.socket.exists(), "control's socket is removed");
    assert_eq!(region.header().data_plane().state, abi::DataPlaneState::Stopped);
}

on_both!(garbage_on_every_port_hurts_nobody);
fn garbage_on_every_port_hurts_nobody(media: MediaChoice) {
    let plane = Plane::start(2, media);
    let mut rng = Rng::from_number(4);
    let peer = peer("127.0.0.1");
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let (low, high) = plane.config.rtp_ports;
    for round in 0..20 {
        for location in 0..2 {
            let sip = plane.sip(location);
            send(&peer, &mut rng, 1, 300, sip);
            let cut =
                b"INVITE sip:1001@a SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5;branch=z9hG4bK1\r\nFr";
            peer.send_to(&cut[..cut.len() - round % 60], sip).expect("loopback takes it");
            for port in low..=high {
                // Some are not bound yet, and say so by ICMP; the next send on the socket may tell.
                let _ = peer.send_to(&[0x80; 172], (sip.ip(), port));
                send(&peer, &mut rng, 0, 40, (sip.ip(), port).into());
            }
        }
    }
    for location in 0..2 {
        send(&peer, &mut rng, 65_507, 65_508, plane.sip(location));
        send(&peer, &mut rng, 9_000, 9_001, (plane.sip(location).ip(), low + low % 2).into());
    }
    for number in 0..6 {
        ask_options(&plane, number % 2, &format!("g{number}"));
    }
    let drops = [Counter::DropSipMalformed, Counter::DropRtpUnbound, Counter::DropRtpTooLarge];
    for counter in drops {
        wait_for(counter.name(), || plane.count(counter) > 0);
    }
    assert_eq!(plane.count(Counter::RtpSent) + plane.count(Counter::RtcpSent), 0);
    plane.stop();
}

fn send(peer: &UdpSocket, rng: &mut Rng, from: u64, to: u64, addr: std::net::SocketAddr) {
    let mut bytes = vec![0; (from + rng.below(to - from)) as usize];
    rng.fill(&mut bytes);
    let _ = peer.send_to(&bytes, addr);
}
