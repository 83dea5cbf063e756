use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::{Duration, Instant};

use abi::{AgentRow, AgentState, Counter, Key, SecretRow, TenantRow, TrunkRow};
use base::{AgentSlot, TenantId, Text};
use driver::MediaChoice;
use sip::digest::{Algorithm, Challenge, answer, ha1};
use sip::sdp::{Codec, Direction, Own};
use sip::wire::{Header, RequestWriter, lex, response};

use crate::plane::{PATIENCE, Plane, peer, receive, wait_for};

pub const REALM: &str = "demo.test";
pub const USER: &str = "1001.demo";
pub const SECRET: &str = "only for this login";

/// What control would write: a tenant, an agent who logged in at the second location, and a trunk.
pub fn write_tables(plane: &Plane) {
    let region = plane.region();
    let mut tenant = TenantRow { tenant: 1, state: 1, ..TenantRow::default() };
    tenant.set_realm(Text::new(REALM.as_bytes()).expect("it fits"));
    region.tenants().write(0, &tenant);
    let slot = AgentSlot(3);
    let mut agent = AgentRow {
        state: AgentState::LoggedIn.into(),
        login_epoch: 1,
        tenant: 1,
        location: 1,
        ..AgentRow::default()
    };
    agent.set_number(Text::new(b"1001").expect("it fits"));
    agent.set_user(Text::new(USER.as_bytes()).expect("it fits"));
    let hash = |algorithm| ha1(algorithm, USER.as_bytes(), REALM.as_bytes(), SECRET.as_bytes());
    let mut secret = SecretRow { epoch: 1, ..SecretRow::default() };
    secret.ha1_md5.copy_from_slice(hash(Algorithm::Md5).as_bytes());
    secret.ha1_sha256.copy_from_slice(hash(Algorithm::Sha256).as_bytes());
    region.secrets().write(slot, &secret);
    region.agents().write(slot, &agent);
    let number = Key::Number { tenant: TenantId(1), number: b"1001" };
    region.agents().index_insert(number, slot).expect("there is room");
    region.agents().index_insert(Key::User(USER.as_bytes()), slot).expect("there is room");
    let mut trunk = TrunkRow { state: 1, tenant: 1, ..TrunkRow::default() };
    trunk.set_network("127.0.0.3".parse().expect("an address"), 32);
    region.trunks().write(0, &trunk);
    // Workers may take 100 ms to see a new tenant or trunk.
    std::thread::sleep(Duration::from_millis(120));
}

/// A phone: a SIP socket, and an RTP and an RTCP socket on a pair of ports.
pub struct Phone {
    sip: UdpSocket,
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Phone {
    pub fn new(ip: &str) -> Phone {
        for _ in 0..1_000 {
            let rtp = peer(ip);
            let port = rtp.local_addr().expect("it is bound").port();
            if port.is_multiple_of(2)
                && let Ok(rtcp) = UdpSocket::bind((ip, port + 1))
            {
                rtcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return Phone { sip: peer(ip), rtp, rtcp };
            }
        }
        panic!("no pair of ports");
    }

    fn addr(&self) -> SocketAddr {
        self.sip.local_addr().expect("it is bound")
    }

    fn own(&self) -> Own<'static> {
        let rtp = self.rtp.local_addr().expect("it is bound");
        Own {
            address: rtp.ip(),
            port: rtp.port(),
            session_id: 1,
            version: 1,
            direction: Direction::SendRecv,
            codecs: &[Codec::Pcmu],
        }
    }

    fn request(
        &self,
        method: &str,
        uri: &str,
        call: &str,
        cseq: u32,
        branch: &str,
    ) -> RequestWriter {
        let own = self.addr();
        RequestWriter::new(method.as_bytes(), uri.as_bytes())
            .header("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bK{branch};rport"))
            .header("Max-Forwards", "70")
            .header("Call-ID", call)
            .header("CSeq", format!("{cseq} {method}"))
            .header("Contact", format!("<sip:phone@{own}>"))
    }

    /// The next message that is not a retransmission of what was seen: the first that `starts` so.
    fn expect(&self, starts: &str) -> (String, SocketAddr) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (text, from) = receive(&self.sip);
            if text.starts_with(starts) {
                return (text, from);
            }
            assert!(Instant::now() < end, "waited for {starts}, got {text}");
            assert!(!text.starts_with("SIP/2.0 4") && !text.starts_with("SIP/2.0 5"), "{text}");
        }
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.sip.send_to(bytes, to).expect("loopback takes it");
    }

    pub fn register(&self, registrar: SocketAddr) {
        let address = format!("<sip:{USER}@{REALM}>");
        let uri = format!("sip:{registrar}");
        let request = |cseq: u32| {
            self.request("REGISTER", &uri, "reg", cseq, &format!("r{cseq}"))
                .header("From", format!("{address};tag=1"))
                .header("To", &address)
                .header("Expires", "600")
        };
        self.send(&request(1).finish(None), registrar);
        let (challenged, _) = self.expect("SIP/2.0 401");
        let message = lex(challenged.as_bytes()).expect("a response");
        let challenge = Challenge::choose(message.headers(Header::WwwAuthenticate)).expect("one");
        let proof = answer(&challenge, USER, SECRET, b"REGISTER", uri.as_bytes(), 1, "c");
        self.send(&request(2).header("Authorization", proof).finish(None), registrar);
        self.expect("SIP/2.0 200");
    }
}

pub fn header(message: &str, header: Header) -> String {
    let message = lex(message.as_bytes()).expect("a message");
    String::from_utf8_lossy(message.header(header).expect("it is there")).into_owned()
}

pub fn media_of(message: &str) -> SocketAddr {
    let message = lex(message.as_bytes()).expect("a message");
    let sdp = sip::sdp::parse(message.body()).expect("a description");
    sip::sdp::audio(&sdp).expect("audio").address
}

pub fn uri_of(contact: &str) -> String {
    contact.trim_start_matches('<').split('>').next().expect("a part").to_owned()
}

pub fn rtp(sequence: u16, fill: u8) -> Vec<u8> {
    let header = media::wire::RtpHeader {
        marker: sequence == 0,
        payload_type: 0,
        sequence,
        timestamp: u32::from(sequence) * 160,
        ssrc: u32::from(fill),
    };
    [&header.bytes()[..], &[fill; 160]].concat()
}

pub fn expect_datagram(socket: &UdpSocket, bytes: &[u8], from: SocketAddr) {
    let mut buffer = [0; 2_048];
    let (len, sender) = socket.recv_from(&mut buffer).expect("the relay sends it on");
    assert_eq!((&buffer[..len], sender), (bytes, from));
}

/// A call that stands, as the caller sees it.
pub struct Call {
    answered: String,
    caller_media: SocketAddr,
    callee_media: SocketAddr,
}

fn set_up(plane: &Plane, caller: &Phone, callee: &Phone, id: &str) -> Call {
    set_up_over([plane, plane], "1001", [caller, callee], id, || {})
}

/// A call that comes in at the first data plane's first location and goes out at the second's second; control does
/// something meanwhile.
pub fn set_up_over(
    planes: [&Plane; 2],
    number: &str,
    [caller, callee]: [&Phone; 2],
    id: &str,
    meanwhile: impl FnOnce(),
) -> Call {
    let (east, west) = (planes[0].sip(0), planes[1].sip(1));
    let uri = format!("sip:{number}@{east}");
    let invite = caller
        .request("INVITE", &uri, id, 1, &format!("i{id}"))
        .header("From", format!("<sip:555@{}>;tag=caller", caller.addr()))
        .header("To", format!("<{uri}>"))
        .finish(Some(("application/sdp", &sip::sdp::offer(&caller.own()))));
    caller.send(&invite, east);
    meanwhile();
    let (offered, from) = callee.expect("INVITE ");
    assert_eq!(from, west, "the callee sees its own location only");
    let callee_media = media_of(&offered);
    assert_eq!(callee_media.ip(), west.ip());
    let message = lex(offered.as_bytes()).expect("an INVITE");
    let sdp = sip::sdp::parse(message.body()).expect("an offer");
    let body = sip::sdp::answer(&sdp, &callee.own()).expect("an answer");
    let contact = format!("<sip:phone@{}>", callee.addr());
    let ok = response(
        &message,
        200,
        "OK",
        Some("callee"),
        from,
        &[("Contact", contact.as_bytes())],
        Some(("application/sdp", &body)),
    );
    callee.send(&ok, west);
    callee.expect("ACK ");
    let (answered, from) = caller.expect("SIP/2.0 200");
    assert_eq!(from, east);
    let caller_media = media_of(&answered);
    assert_eq!(caller_media.ip(), east.ip());
    let target = uri_of(&header(&answered, Header::Contact));
    let ack = caller
        .request("ACK", &target, id, 1, &format!("a{id}"))
        .header("From", header(&answered, Header::From))
        .header("To", header(&answered, Header::To))
        .finish(None);
    caller.send(&ack, east);
    Call { answered, caller_media, callee_media }
}

fn hang_up(plane: &Plane, caller: &Phone, callee: &Phone, call: &Call, id: &str) {
    hang_up_over([plane, plane], [caller, callee], call, id);
}

pub fn hang_up_over(planes: [&Plane; 2], [caller, callee]: [&Phone; 2], call: &Call, id: &str) {
    let target = uri_of(&header(&call.answered, Header::Contact));
    let bye = caller
        .request("BYE", &target, id, 2, &format!("b{id}"))
        .header("From", header(&call.answered, Header::From))
        .header("To", header(&call.answered, Header::To))
        .finish(None);
    caller.send(&bye, planes[0].sip(0));
    caller.expect("SIP/2.0 200");
    let (bye, from) = callee.expect("BYE ");
    let message = lex(bye.as_bytes()).expect("a BYE");
    callee.send(&response(&message, 200, "OK", None, from, &[], None), planes[1].sip(1));
}

pub fn relay_both_ways(caller: &Phone, callee: &Phone, call: &Call, sequences: Range<u16>) {
    for sequence in sequences {
        let (there, back) = (rtp(sequence, 1), rtp(sequence, 2));
        caller.rtp.send_to(&there, call.caller_media).expect("loopback takes it");
        expect_datagram(&callee.rtp, &there, call.callee_media);
        callee.rtp.send_to(&back, call.callee_media).expect("loopback takes it");
        expect_datagram(&caller.rtp, &back, call.caller_media);
    }
}

fn above(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port() + 1)
}

on_both!(media_of_a_call_crosses_two_locations_and_nobody_else_has_a_part);
fn media_of_a_call_crosses_two_locations_and_nobody_else_has_a_part(media: MediaChoice) {
    let plane = Plane::start(2, media);
    write_tables(&plane);
    let (caller, callee) = (Phone::new("127.0.0.3"), Phone::new("127.0.0.4"));
    callee.register(plane.sip(1));
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let call = set_up(&plane, &caller, &callee, "one");
    relay_both_ways(&caller, &callee, &call, 0..200);

    let report = [0x80, 201, 0, 1, 0, 0, 0, 1];
    caller.rtcp.send_to(&report, above(call.caller_media)).expect("loopback takes it");
    expect_datagram(&callee.rtcp, &report, above(call.callee_media));
    callee.rtcp.send_to(&report, above(call.callee_media)).expect("loopback takes it");
    expect_datagram(&caller.rtcp, &report, above(call.caller_media));

    // A third host that guesses the ports sends good RTP to both, and gets nothing.
    let thief = peer("127.0.0.9");
    thief.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    for sequence in 200..300 {
        for target in [call.caller_media, call.callee_media] {
            thief.send_to(&rtp(sequence, 1), target).expect("loopback takes it");
            thief.send_to(&report, above(target)).expect("loopback takes it");
        }
    }
    relay_both_ways(&caller, &callee, &call, 200..250);
    assert!(thief.recv(&mut [0; 2_048]).is_err(), "the thief got something");
    assert_eq!(plane.count(Counter::DropRtpForeignSource), 200);
    assert_eq!(plane.count(Counter::DropRtcpForeignSource), 200);
    assert_eq!(plane.count(Counter::RtpSent), 500);

    hang_up(&plane, &caller, &callee, &call, "one");
    wait_for("no port is in use", || plane.count(Counter::PortsInUse) == 0);
    // Both pairs rest: whoever still sends there is heard by nobody.
    let unbound = plane.count(Counter::DropRtpUnbound);
    for addr in [call.caller_media, call.callee_media] {
        caller.rtp.send_to(&rtp(250, 1), addr).expect("loopback takes it");
        caller.rtcp.send_to(&report, above(addr)).expect("loopback takes it");
    }
    wait_for("late packets are dropped", || plane.count(Counter::DropRtpUnbound) == unbound + 4);
    assert_eq!((plane.count(Counter::RtpSent), plane.count(Counter::SendFailed)), (500, 0));
    plane.stop();
}

on_both!(call_after_call_leaves_nothing_behind);
fn call_after_call_leaves_nothing_behind(media: MediaChoice) {
    let plane = Plane::start(1, media);
    write_tables(&plane);
    let (caller, callee) = (Phone::new("127.0.0.3"), Phone::new("127.0.0.4"));
    callee.register(plane.sip(1));
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    // More pairs than the ring's table of files has places for, were they not given back.
    let mut seen: Vec<(IpAddr, u16)> = Vec::new();
    for number in 0..60 {
        let id = format!("call{number}");

        let call = set_up(&plane, &caller, &callee, &id);
        relay_both_ways(&caller, &callee, &call, 0..3);
        hang_up(&plane, &caller, &callee, &call, &id);
        seen.push((call.caller_media.ip(), call.caller_media.port()));
    }
    let mut ports = seen.clone();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= 40, "ports rest as long as the range allows: {seen:?}");
    wait_for("no port is in use", || plane.count(Counter::PortsInUse) == 0);
    assert_eq!(plane.count(Counter::BindFailed) + plane.count(Counter::SendFailed), 0);
    plane.stop();
}
