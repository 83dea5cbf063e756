use std::net::{IpAddr, UdpSocket};
use std::time::Instant as WallClock;

use abi::{
    AgentRow, AgentState, DataPlaneState, Key, Layout, Process, RegistrationRow, TenantRow,
    TrunkRow,
};
use base::{AgentSlot, CcbId, TenantId, Text};
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::mmsg::Mmsg;
use crate::ring_io::Ring;

/// Of this file's tests alone, so that they share no port with others.
const IP: &str = "127.0.3.1";

/// A worker with two locations: one with a SIP socket, and one whose socket is none.
fn duty<D: Datagrams>(socket: UdpSocket, rtp: u16) -> Duty<D> {
    duty_in(region(8), socket, (rtp, rtp + 7))
}

/// With room for so many agents and calls.
fn region(calls: u32) -> Arc<Region> {
    Region::in_memory(Layout {
        ccb: CcbId(1),
        workers: 1,
        agents: calls,
        calls_per_worker: calls,
        legs_per_worker: 2 * calls,
        ring_slots: 64,
        blob_bytes: 4_096,
        tenants: 4,
        trunks: 4,
        locations: 2,
    })
}

fn duty_in<D: Datagrams>(region: Arc<Region>, socket: UdpSocket, ports: (u16, u16)) -> Duty<D> {
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
        rtp_ports: ports,
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
        places: 24 + u32::from(ports.1 - ports.0),
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

/// Of these, two pairs for each are more than are bound ahead.
const BURST: u32 = 60;
/// Where the trunk and the phones of the burst are, and where they want media.
const PEER: &str = "127.0.3.2";

/// A trunk, and agents whose phones are registered at `phone`: 1000 and so on.
fn write_tables(region: &Region, phone: SocketAddr) {
    let mut tenant = TenantRow { tenant: 1, state: 1, ..TenantRow::default() };
    tenant.set_realm(Text::new(b"demo.test").expect("it fits"));
    region.tenants().write(0, &tenant);
    let mut trunk = TrunkRow { state: 1, tenant: 1, ..TrunkRow::default() };
    trunk.set_network(PEER.parse().expect("an address"), 32);
    region.trunks().write(0, &trunk);
    for slot in (0..BURST).map(AgentSlot) {
        let number = (1_000 + slot.0).to_string();
        let state = AgentState::LoggedIn.into();
        let mut agent = AgentRow { state, login_epoch: 5, tenant: 1, ..AgentRow::default() };
        agent.set_number(Text::new(number.as_bytes()).expect("it fits"));
        region.agents().write(slot, &agent);
        let key = Key::Number { tenant: TenantId(1), number: number.as_bytes() };
        region.agents().index_insert(key, slot).expect("there is room");
        let mut row = RegistrationRow {
            state: RegistrationRow::REGISTERED,
            epoch: 5,
            expires_at: u64::MAX / 2,
            ..RegistrationRow::default()
        };
        row.set_addr(phone);
        row.set_contact(Text::new(b"sip:phone@127.0.3.2").expect("it fits"), b"");
        region.registrations().write(slot, &row);
    }
}

fn invite(number: u32, from: SocketAddr) -> String {
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 {PEER}\r\ns=-\r\nc=IN IP4 {PEER}\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\n",
        40_000 + 2 * number
    );
    format!(
        "INVITE sip:{number}@{IP} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{number}\r\n\
         From: <sip:0301@{from}>;tag=f{number}\r\nTo: <sip:{number}@{IP}>\r\nCall-ID: burst-{number}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:trunk@{from}>\r\nMax-Forwards: 70\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
}

#[test]
fn a_burst_of_calls_finds_ports_though_fewer_are_bound_ahead() {
    burst::<Ring>((28_100, 28_899));
}

#[test]
fn a_burst_of_calls_finds_ports_without_io_uring_too() {
    burst::<Mmsg>((28_900, 29_699));
}

fn burst<D: Datagrams>(ports: (u16, u16)) {
    let own = socket();
    let to = own.local_addr().expect("it is bound");
    let peer = UdpSocket::bind((PEER, 0)).expect("an ephemeral port");
    let from = peer.local_addr().expect("it is bound");
    let region = region(BURST);
    write_tables(&region, from);
    let mut duty = duty_in::<D>(region, own, ports);
    duty.cycle().expect("it goes round");
    while duty.sockets.is_wanting() {
        duty.cycle().expect("it goes round");
    }
    // They all wait in the socket before the first is looked at.
    for number in 0..BURST {
        peer.send_to(invite(1_000 + number, from).as_bytes(), to).expect("loopback takes it");
    }
    let begun = WallClock::now();
    let count = |duty: &Duty<D>, counter| duty.region.counters().get(WorkerId(0), counter);
    while count(&duty, Counter::CallsStarted) < u64::from(BURST) {
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", duty.worker.load());
        duty.cycle().expect("it goes round");
    }
    assert_eq!(count(&duty, Counter::PortsExhausted), 0);
    let in_haste = count(&duty, Counter::PortsBoundInHaste);
    assert!(in_haste > 16, "{in_haste}: they came one by one");
    let load = format!("{BURST} calls, {} port pairs, {BURST} leases", 2 * BURST);
    assert_eq!(duty.worker.load(), load);
}
