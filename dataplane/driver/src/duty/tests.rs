use std::net::{IpAddr, UdpSocket};
use std::time::Instant as WallClock;

use abi::{DataPlaneState, Layout, Process};
use base::CcbId;
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::mmsg::Mmsg;
use crate::ring_io::Ring;

/// Of this file's tests alone, so that they share no port with others.
const IP: &str = "127.0.3.1";

/// A worker with two locations: one with a SIP socket, and one whose socket is none.
fn duty<D: Datagrams>(socket: UdpSocket, rtp: u16) -> Duty<D> {
    let layout = Layout {
        ccb: CcbId(1),
        workers: 1,
        agents: 8,
        calls_per_worker: 8,
        legs_per_worker: 16,
        ring_slots: 64,
        blob_bytes: 4_096,
        tenants: 4,
        trunks: 4,
        locations: 2,
    };
    let region = Region::in_memory(layout);
    region.header().start_data_plane(Process::current(), clock::now());
    region.header().set_data_plane_state(DataPlaneState::Running);
    let ip: IpAddr = IP.parse().expect("an address");
    let location = |name: &str| worker::Location::udp(name, ip, 5_060);
    let config = worker::Config {
        session: Default::default(),
        id: WorkerId(0),
        workers: 1,
        ccb: CcbId(1),
        locations: vec![location("sound"), location("broken")],
        rtp_ports: (rtp, rtp + 7),
        seed: [1; 32],
        nonce_key: [2; 32],
        limits: worker::Limits::default(),
        media: worker::MediaConfig::default(),
    };
    worker::recover(&region, &config, clock::now());
    let mesh = Arc::new(Mesh::new(1).expect("doorbells"));
    let broken = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
    let sip = vec![OwnedFd::from(socket), broken];
    let outfit = Outfit {
        sip,
        places: 32,
        disk: Disk::new(None, None, || {}),
        detour: Detour::none(media::WhyNot::NotWanted),
        outlet: crate::streams::Outlet::closed(),
        mirror: crate::mirror::Mirror::start(None).expect("a thread"),
    };
    Duty::begin(config, region, mesh, outfit).expect("it begins")
}

fn socket() -> UdpSocket {
    UdpSocket::bind((IP, 0)).expect("an ephemeral port")
}

#[test]
fn a_socket_that_fails_for_ever_takes_nothing_from_the_others() {
    one_fails::<Ring>(28_000);
}

#[test]
fn a_socket_that_fails_for_ever_takes_nothing_without_io_uring_either() {
    one_fails::<Mmsg>(28_020);
}

fn one_fails<D: Datagrams>(rtp: u16) {
    let own = socket();
    let to = own.local_addr().expect("it is bound");
    let mut duty = duty::<D>(own, rtp);
    let peer = socket();
    let counters = |duty: &Duty<D>| {
        let count = |counter| duty.region.counters().get(WorkerId(0), counter);
        (count(Counter::ReceiveFailed), count(Counter::SipReceived))
    };
    let begun = WallClock::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_millis(300) {
        peer.send_to(b"no SIP", to).expect("loopback takes it");
        sent += 1;
        duty.cycle().expect("one socket is not the data plane");
    }
    let rests = begun.elapsed().as_millis() as u64 / 20;
    let (failed, _) = counters(&duty);
    assert!((2..=rests + 1).contains(&failed), "{failed} failures in {rests} times 20 ms");
    while counters(&duty).1 < sent {
        assert!(begun.elapsed() < Duration::from_secs(5), "the other socket receives all");
        duty.cycle().expect("one socket is not the data plane");
    }
}

#[test]
fn who_was_paused_holds_its_timers_back() {
    let mut duty = duty::<Ring>(socket(), 28_010);
    duty.cycle().expect("it goes round");
    let deadline = duty.worker.deadline().expect("it counts now and then");
    std::thread::sleep(deadline.since(clock::now()) + Duration::from_millis(400));
    let now = duty.look_at_clock();
    assert!(duty.worker.deadline().expect("a timer waits") > now, "but inputs go first");
}
