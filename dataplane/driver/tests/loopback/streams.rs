//! SIP over connections.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::{Command, Counter, Event, UnregisterCause};
use base::{AgentSlot, LocationId, Transport, WorkerId};
use driver::{Config, MediaChoice, TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sip::digest::{Challenge, answer};
use sip::sdp::{Codec, Direction, Own};
use sip::wire::{Frame, Framer, Header, RequestWriter, lex, response};
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest;
use worker::StreamPorts;

use crate::call::{
    REALM, SECRET, USER, expect_datagram, header, media_of, rtp, uri_of, write_tables,
};
use crate::link::Control;
use crate::plane::{PATIENCE, Plane, config, peer, wait_for};

pub const TRUNK: &str = "127.0.0.3";
pub const PHONE: &str = "127.0.0.4";

/// A data plane whose locations speak everything.
pub fn plane(media: MediaChoice, change: impl FnOnce(&mut Config)) -> Plane {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&folder, 2, media);
    let first = config.locations[0].sip_port;
    let ports =
        StreamPorts { tcp: true, tls: Some(first + 1), ws: Some(first + 2), wss: Some(first + 3) };
    config.locations.iter_mut().for_each(|location| location.streams = ports);
    let tls = certificates(folder.path(), "plane");
    config.streams.tls = vec![tls.clone(), tls];
    change(&mut config);
    Plane::start_with(folder, config)
}

/// A root, and a certificate of it for all of 127.0.0.1 to 4 and ::1.
pub fn certificates(folder: &Path, name: &str) -> TlsSettings {
    let file = |what: &str| folder.join(format!("{name}.{what}"));
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().expect("a key");
    let root_certificate = root.self_signed(&root_key).expect("a root");
    let names: Vec<String> = (1..=4).map(|last| format!("127.0.0.{last}")).collect();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(names).expect("names");
    let certificate = params.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate");
    std::fs::write(file("root"), root_certificate.pem()).expect("it is written");
    std::fs::write(file("pem"), certificate.pem()).expect("it is written");
    std::fs::write(file("key"), key.serialize_pem()).expect("it is written");
    TlsSettings {
        identity: Some((file("pem"), file("key"))),
        ca: Some(file("root")),
        ..TlsSettings::default()
    }
}

/// A connection from that address.
pub fn tcp(from: &str, to: SocketAddr) -> TcpStream {
    let from = SocketAddr::new(from.parse().expect("an address"), 0);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd: OwnedFd = socket(family, SocketType::STREAM, Some(ipproto::TCP)).expect("a socket");
    bind(&fd, &from).expect("an address of this machine");
    connect(&fd, &to).expect("the data plane listens");
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// A peer's end of a connection.
pub trait Wire {
    fn send(&mut self, message: &[u8]);
    /// The next message; none when the connection ends.
    fn next(&mut self) -> Option<Vec<u8>>;
}

/// Messages in a stream.
pub struct Framed<S> {
    pub stream: S,
    framer: Framer,
}

impl<S> Framed<S> {
    pub fn new(stream: S) -> Self {
        Framed { stream, framer: Framer::default() }
    }
}

impl<S: Read + Write> Wire for Framed<S> {
    fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).expect("the data plane reads");
        self.stream.flush().expect("the data plane reads");
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.framer.next_frame().expect("the data plane frames well") {
                Some(Frame::Message(message)) => return Some(message.to_vec()),
                Some(Frame::Ping) => panic!("the data plane does not ping"),
                None => {}
            }
            let mut bytes = [0; 4_096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(len) => self.framer.feed(&bytes[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}

impl<S: Read + Write> Wire for tungstenite::WebSocket<S> {
    fn send(&mut self, message: &[u8]) {
        let text = String::from_utf8(message.to_vec()).expect("text");
        tungstenite::WebSocket::send(self, tungstenite::Message::text(text)).expect("it is read");
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.read() {
                Ok(tungstenite::Message::Text(text)) => return Some(text.as_bytes().to_vec()),
                Ok(tungstenite::Message::Binary(bytes)) => return Some(bytes.to_vec()),
                Ok(tungstenite::Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// A connection to the data plane by that transport.
fn wire(plane: &Plane, from: &str, location: usize, by: Transport) -> Box<dyn Wire> {
    let place = &plane.config.locations[location];
    let to = SocketAddr::new(place.ip, place.port(by).expect("it is spoken"));
    let stream = tcp(from, to);
    match by {
        Transport::Tls => Box::new(Framed::new(tls(plane, stream, to.ip()))),
        Transport::Ws => Box::new(web(stream, &format!("ws://{to}/"))),
        Transport::Wss => Box::new(web(tls(plane, stream, to.ip()), &format!("wss://{to}/"))),
        Transport::Tcp | Transport::Udp => Box::new(Framed::new(stream)),
    }
}

fn tls(
    plane: &Plane,
    stream: TcpStream,
    to: IpAddr,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let ca = plane.config.streams.tls[0].ca.as_ref().expect("a root");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a root")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(config), to.into()).expect("a client");
    rustls::StreamOwned::new(client, stream)
}

fn web<S: Read + Write>(stream: S, uri: &str) -> tungstenite::WebSocket<S> {
    let mut request = uri.into_client_request().expect("a request");
    let sip = "sip".parse().expect("a value");
    request.headers_mut().insert("Sec-WebSocket-Protocol", sip);
    let Ok((web, answer)) = tungstenite::client(request, stream) else {
        panic!("no handshake with {uri}");
    };
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "sip", "RFC 7118, 4.1");
    web
}

/// Somebody who speaks by one connection, and has a socket for RTP.
pub struct Phone {
    pub wire: Box<dyn Wire>,
    pub by: Transport,
    pub host: String,
    pub rtp: UdpSocket,
}

impl Phone {
    pub fn new(plane: &Plane, from: &str, location: usize, by: Transport) -> Phone {
        Phone {
            wire: wire(plane, from, location, by),
            by,
            // RFC 7118: a browser does not know its own address.
            host: match by {
                Transport::Ws | Transport::Wss => "df7jal23ls0d.invalid".to_owned(),
                _ => from.to_owned(),
            },
            rtp: peer(from),
        }
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

    fn request(&self, method: &str, uri: &str, call: &str, cseq: u32) -> RequestWriter {
        let (host, token) = (&self.host, self.by.token());
        RequestWriter::new(method.as_bytes(), uri.as_bytes())
            .header("Via", format!("SIP/2.0/{token} {host};branch=z9hG4bK{call}{method}{cseq}"))
            .header("Max-Forwards", "70")
            .header("Call-ID", call)
            .header("CSeq", format!("{cseq} {method}"))
            .header("Contact", format!("<sip:phone@{host};transport={}>", self.by))
    }

    /// The first message that begins so; no refusal may come before it.
    pub fn expect(&mut self, starts: &str) -> String {
        loop {
            let message = self.wire.next().unwrap_or_else(|| panic!("closed before {starts}"));
            let text = String::from_utf8(message).expect("text");
            if text.starts_with(starts) {
                return text;
            }
            assert!(!text.starts_with("SIP/2.0 4") && !text.starts_with("SIP/2.0 5"), "{text}");
        }
    }

    pub fn register(&mut self, call: &str) {
        let (address, uri) = (format!("<sip:{USER}@{REALM}>"), format!("sip:{REALM}"));
        let request = |phone: &Phone, cseq: u32| {
            phone
                .request("REGISTER", &uri, call, cseq)
                .header("From", format!("{address};tag=1"))
                .header("To", &address)
                .header("Expires", "600")
        };
        self.wire.send(&request(self, 1).finish(None));
        let challenged = self.expect("SIP/2.0 401");
        let message = lex(challenged.as_bytes()).expect("a response");
        let challenge = Challenge::choose(message.headers(Header::WwwAuthenticate)).expect("one");
        let proof = answer(&challenge, USER, SECRET, b"REGISTER", uri.as_bytes(), 1, "c");
        self.wire.send(&request(self, 2).header("Authorization", proof).finish(None));
        self.expect("SIP/2.0 200");
    }

    pub fn invite(&mut self, plane: &Plane, number: &str, call: &str) {
        self.invite_with(plane, number, call, &[]);
    }

    pub fn invite_with(&mut self, plane: &Plane, number: &str, call: &str, extra: &[(&str, &str)]) {
        self.invite_uri(&format!("sip:{number}@{}", plane.sip(0)), call, extra);
    }

    /// Calls a number by that scheme.
    pub fn invite_to(&mut self, plane: &Plane, scheme: &str, number: &str, call: &str) {
        self.invite_uri(&format!("{scheme}:{number}@{}", plane.sip(0)), call, &[]);
    }

    fn invite_uri(&mut self, uri: &str, call: &str, extra: &[(&str, &str)]) {
        let mut invite = self
            .request("INVITE", uri, call, 1)
            .header("From", format!("<sip:555@{}>;tag=caller", self.host))
            .header("To", format!("<{uri}>"));
        for (name, value) in extra {
            invite = invite.header(name, value);
        }
        let invite = invite.finish(Some(("application/sdp", &sip::sdp::offer(&self.own()))));
        self.wire.send(&invite);
    }

    pub fn respond(
        &mut self,
        request: &str,
        status: u16,
        extra: &[(&str, &[u8])],
        body: Option<&[u8]>,
    ) {
        let message = lex(request.as_bytes()).expect("a request");
        let contact = format!("<sip:phone@{};transport={}>", self.host, self.by);
        let extra = [&[("Contact", contact.as_bytes())], extra].concat();
        let body = body.map(|body| ("application/sdp", body));
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        self.wire.send(&response(&message, status, "X", Some("callee"), from, &extra, body));
    }

    /// Answers an INVITE; returns where the caller's media is to be sent.
    pub fn accept(&mut self, invite: &str) -> SocketAddr {
        let message = lex(invite.as_bytes()).expect("an INVITE");
        let sdp = sip::sdp::parse(message.body()).expect("an offer");
        let body = sip::sdp::answer(&sdp, &self.own()).expect("an answer");
        self.respond(invite, 200, &[], Some(&body));
        self.expect("ACK ");
        media_of(invite)
    }

    /// A request in the dialog that `answered` confirmed.
    pub fn within(&mut self, method: &str, answered: &str, cseq: u32) {
        let message = lex(answered.as_bytes()).expect("an answer");
        let call = String::from_utf8_lossy(message.call_id().expect("one")).into_owned();
        let target = uri_of(&header(answered, Header::Contact));
        let bytes = self
            .request(method, &target, &call, cseq)
            .header("From", header(answered, Header::From))
            .header("To", header(answered, Header::To))
            .finish(None);
        self.wire.send(&bytes);
    }
}

/// Fifty packets each way, from that sequence number on.
pub fn relay(
    caller: &Phone,
    callee: &Phone,
    first: u16,
    to_caller: SocketAddr,
    to_callee: SocketAddr,
) {
    for sequence in first..first + 50 {
        let (there, back) = (rtp(sequence, 1), rtp(sequence, 2));
        caller.rtp.send_to(&there, to_callee).expect("loopback takes it");
        expect_datagram(&callee.rtp, &there, to_caller);
        callee.rtp.send_to(&back, to_caller).expect("loopback takes it");
        expect_datagram(&caller.rtp, &back, to_callee);
    }
}

/// A trunk calls a phone; both speak by connections.
fn a_call(media: MediaChoice, caller_by: Transport, phone_by: Transport) {
    let plane = plane(media, |_| {});
    write_tables(&plane);
    let mut phone = Phone::new(&plane, PHONE, 1, phone_by);
    phone.register("reg");
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let mut caller = Phone::new(&plane, TRUNK, 0, caller_by);
    caller.invite(&plane, "1001", "one");
    let offered = phone.expect("INVITE ");
    let place = &plane.config.locations[1];
    let ours = SocketAddr::new(place.ip, place.port(phone_by).expect("it is spoken"));
    let via = header(&offered, Header::Via);
    assert!(via.starts_with(&format!("SIP/2.0/{} {ours};", phone_by.token())), "{via}");
    let contact = header(&offered, Header::Contact);
    assert!(contact.ends_with(&format!("@{ours};transport={phone_by}>")), "{contact}");
    let to_caller = phone.accept(&offered);
    let answered = caller.expect("SIP/2.0 200");
    let to_callee = media_of(&answered);
    caller.within("ACK", &answered, 1);
    relay(&caller, &phone, 0, to_caller, to_callee);
    caller.within("BYE", &answered, 2);
    let bye = phone.expect("BYE ");
    phone.respond(&bye, 200, &[], None);
    caller.expect("SIP/2.0 200");
    wait_for("no port is in use", || plane.count(Counter::PortsInUse) == 0);
    assert_eq!(plane.count(Counter::RtpSent), 100);
    assert_eq!(plane.count(Counter::SipRetransmitted), 0);
    assert_eq!(plane.count(Counter::SendFailed) + plane.count(Counter::SipUnsent), 0);
    drop((caller, phone));
    wait_for("no connection is left", || connections(&plane) == 0);
    plane.stop();
}

fn connections(plane: &Plane) -> u64 {
    let kinds = [Counter::ConnectionsTcp, Counter::ConnectionsTls, Counter::ConnectionsWs];
    kinds.into_iter().map(|counter| plane.count(counter)).sum()
}

#[test]
fn a_call_over_tcp() {
    a_call(MediaChoice::IoUring, Transport::Tcp, Transport::Tcp);
}

#[test]
fn a_call_over_tls() {
    a_call(MediaChoice::Recvmmsg, Transport::Tls, Transport::Tls);
}

#[test]
fn a_call_from_tcp_to_websocket() {
    a_call(MediaChoice::IoUring, Transport::Tcp, Transport::Ws);
}

#[test]
fn a_call_from_tls_to_secure_websocket() {
    a_call(MediaChoice::Recvmmsg, Transport::Tls, Transport::Wss);
}

pub fn options(call: &str, end: &str) -> String {
    format!(
        "OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{call}\r\n\
         From: <sip:probe@x>;tag=1\r\nTo: <sip:x@x>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\n{end}"
    )
}

/// Reads until the connection ends.
fn rest_of(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is still open");
    }
    String::from_utf8(rest).expect("text")
}

#[test]
fn messages_are_found_however_the_stream_is_cut() {
    let plane = plane(MediaChoice::IoUring, |config| config.limits.strangers = u32::MAX);
    let mut wire = Framed::new(tcp(PHONE, plane.sip(0)));
    let message = |call: &str| options(call, "Content-Length: 4\r\n\r\nbody").into_bytes();
    for byte in message("single") {
        wire.stream.write_all(&[byte]).expect("the data plane reads");
    }
    let mut calls = vec!["single".to_owned()];
    // Many at once, with line ends between them.
    let mut stream = Vec::new();
    for number in 0..100 {
        calls.push(format!("piped{number}"));
        stream.extend(message(&format!("piped{number}")));
        stream.extend(&b"\r\n"[..number % 3]);
    }
    wire.stream.write_all(&stream).expect("the data plane reads");
    // Workers answer in parallel, each in its order.
    let mut answered: Vec<String> = (0..calls.len())
        .map(|_| {
            let answer = wire.next().expect("an answer");
            let answer = lex(&answer).expect("a response");
            assert_eq!(answer.status(), Some(200));
            String::from_utf8_lossy(answer.call_id().expect("one")).into_owned()
        })
        .collect();
    answered.sort();
    calls.sort();
    assert_eq!(answered, calls);
    assert_eq!(plane.count(Counter::SipReceivedTcp), 101);
    // RFC 5626, 4.4.1: a double CRLF is answered by a single one.
    wire.stream.write_all(b"\r\n\r\n").expect("the data plane reads");
    let mut pong = [0; 2];
    wire.stream.read_exact(&mut pong).expect("a pong");
    assert_eq!(&pong, b"\r\n");
    assert_eq!(plane.count(Counter::Pongs), 1);
    plane.stop();
}

#[test]
fn a_stream_that_cannot_be_framed_is_answered_where_that_can_be_and_closed() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    let cases = [
        (options("none", "\r\n"), "SIP/2.0 400 "),
        (options("large", "Content-Length: 1000000\r\n\r\n"), "SIP/2.0 513 "),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), ""),
        ("\0\u{1}\u{2}\r\n\r\n".to_owned(), ""),
        (options("long", &format!("Subject: {}\r\n", "x".repeat(20_000))), ""),
    ];
    for (number, (bytes, answer)) in cases.iter().enumerate() {
        let mut stream = tcp(PHONE, plane.sip(0));
        // It may be closed before all of it is written.
        let _ = stream.write_all(bytes.as_bytes());
        let rest = rest_of(stream);
        assert!(rest.starts_with(answer), "{rest}");
        assert_eq!(rest.is_empty(), answer.is_empty(), "{rest}");
        let closed = number as u64 + 1;
        wait_for("it is counted", || plane.count(Counter::ClosedMalformed) == closed);
    }
    assert_eq!(connections(&plane), 0);
    assert_eq!(plane.count(Counter::SipReceived), 0, "no worker saw any of it");
    plane.stop();
}

#[test]
fn who_sends_nothing_whole_is_closed_and_who_is_known_may_be_silent() {
    let whole_limit = Duration::from_millis(400);
    let plane = plane(MediaChoice::IoUring, |config| config.streams.whole_limit = whole_limit);
    write_tables(&plane);
    let mut phone = Phone::new(&plane, PHONE, 1, Transport::Tcp);
    phone.register("reg");
    let begun = Instant::now();
    let silent = tcp(PHONE, plane.sip(0));
    let mut slow = tcp(PHONE, plane.sip(0));
    let message = options("slow", "Content-Length: 0\r\n\r\n");
    // It would take ten times as long as it may.
    let mut sent = 0;
    for byte in message.bytes() {
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        sent += 1;
        std::thread::sleep(whole_limit * 10 / message.len() as u32);
    }
    assert!(sent < message.len(), "it may finish");
    assert!(begun.elapsed() >= whole_limit);
    assert_eq!(rest_of(silent), "");
    assert_eq!(plane.count(Counter::ClosedIdle), 2);
    // So is who is in the middle of a TLS or WebSocket handshake; but for the phone all is well.
    assert_eq!(plane.count(Counter::ConnectionsTcp), 1);
    phone.wire.send(options("late", "Content-Length: 0\r\n\r\n").as_bytes());
    phone.expect("SIP/2.0 200");
    plane.stop();
}

#[test]
fn a_thousand_connections_are_served_and_more_than_the_limit_refused() {
    const MANY: usize = 1_000;
    let plane = plane(MediaChoice::IoUring, |config| {
        config.streams.limit = MANY as u32;
        config.limits.strangers = u32::MAX;
    });
    let mut wires: Vec<_> = (0..MANY).map(|_| Framed::new(tcp(PHONE, plane.sip(0)))).collect();
    for (number, wire) in wires.iter_mut().enumerate() {
        let message = options(&format!("c{number}"), "Content-Length: 0\r\n\r\n");
        wire.send(message.as_bytes());
    }
    for (number, wire) in wires.iter_mut().enumerate() {
        let answer = wire.next().expect("an answer");
        let answer = lex(&answer).expect("a response");
        let call = answer.call_id().map(<[u8]>::to_vec);
        assert_eq!(call, Ok(format!("c{number}").into_bytes()), "each has its own answer");
    }
    assert_eq!(plane.count(Counter::ConnectionsTcp), MANY as u64);
    assert_eq!(rest_of(tcp(PHONE, plane.sip(0))), "");
    assert_eq!(plane.count(Counter::RefusedConnectionsFull), 1);
    drop(wires);
    wait_for("no connection is left", || connections(&plane) == 0);
    assert_eq!(plane.count(Counter::ClosedByPeer), MANY as u64);
    plane.stop();
}

#[test]
fn a_phone_whose_connection_ends_is_not_there_and_its_call_goes_on_when_it_is_back() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    write_tables(&plane);
    let region = plane.region();
    let mut receivers = [0, 1].map(|worker| region.event_receiver(WorkerId(worker)));
    let mut phone = Phone::new(&plane, PHONE, 1, Transport::Tcp);
    phone.register("reg1");
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
    caller.invite(&plane, "1001", "stands");
    let offered = phone.expect("INVITE ");
    let to_caller = phone.accept(&offered);
    let answered = caller.expect("SIP/2.0 200");
    caller.within("ACK", &answered, 1);
    relay(&caller, &phone, 0, to_caller, media_of(&answered));

    let rtp = phone.rtp.try_clone().expect("a socket");
    drop(phone);
    let slot = AgentSlot(3);
    wait_for("the registration ends", || {
        region.registrations().read(slot).is_none_or(|row| !row.is_registered())
    });
    let mut causes = Vec::new();
    for events in &mut receivers {
        while let Some(event) = events.pop(&mut Vec::new()) {
            if let Event::Unregistered { cause, .. } = event.expect("a whole one").value {
                causes.push(cause);
            }
        }
    }
    assert_eq!(causes, [UnregisterCause::Disconnected]);

    // It comes back by another connection, and is told there that the call is over.
    let mut phone = Phone { rtp, ..Phone::new(&plane, PHONE, 1, Transport::Tcp) };
    phone.register("reg2");
    caller.within("BYE", &answered, 2);
    caller.expect("SIP/2.0 200");
    let bye = phone.expect("BYE ");
    phone.respond(&bye, 200, &[], None);

    // One that rings when its connection ends: the caller hears it at once.
    wait_for("no port is in use", || plane.count(Counter::PortsInUse) == 0);
    caller.invite(&plane, "1001", "rings");
    let ringing = phone.expect("INVITE ");
    phone.respond(&ringing, 180, &[], None);
    caller.expect("SIP/2.0 180");
    drop(phone);
    let refused = String::from_utf8(caller.wire.next().expect("an answer")).expect("text");
    assert!(refused.starts_with("SIP/2.0 480"), "{refused}");
    wait_for("nothing is left", || plane.count(Counter::LegsNow) == 0);
    plane.stop();
}

#[test]
fn a_call_goes_on_over_a_restart_when_its_peers_are_back() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    write_tables(&plane);
    let mut phone = Phone::new(&plane, PHONE, 1, Transport::Tcp);
    phone.register("reg1");
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
    caller.invite(&plane, "1001", "stands");
    let offered = phone.expect("INVITE ");
    let to_caller = phone.accept(&offered);
    let answered = caller.expect("SIP/2.0 200");
    caller.within("ACK", &answered, 1);
    let to_callee = media_of(&answered);
    relay(&caller, &phone, 0, to_caller, to_callee);
    let (folder, config) = plane.stop();
    assert!(phone.wire.next().is_none() && caller.wire.next().is_none(), "connections end");
    let plane = Plane::start_with(folder, config);
    assert_eq!(plane.count(Counter::CallsRecovered), 1);
    wait_for("the call's ports are bound", || plane.count(Counter::PortsReady) > 20);
    relay(&caller, &phone, 50, to_caller, to_callee);
    // Both come back; the one registers, the other speaks within the dialog.
    phone.wire = wire(&plane, PHONE, 1, Transport::Tcp);
    phone.register("reg2");
    caller.wire = wire(&plane, TRUNK, 0, Transport::Tcp);
    caller.within("BYE", &answered, 2);
    caller.expect("SIP/2.0 200");
    let bye = phone.expect("BYE ");
    phone.respond(&bye, 200, &[], None);
    wait_for("nothing is left", || plane.count(Counter::LegsNow) == 0);
    plane.stop();
}

/// Lets a caller's INVITE go to a trunk, as control would.
pub fn dial(plane: &Plane, to: SocketAddr, location: u8, transport: Transport) {
    let region = plane.region();
    let mut receivers = [0, 1].map(|worker| region.event_receiver(WorkerId(worker)));
    let end = Instant::now() + PATIENCE;
    loop {
        for (worker, events) in receivers.iter_mut().enumerate() {
            while let Some(event) = events.pop(&mut Vec::new()) {
                let Event::Asked { op: ask, call, .. } = event.expect("a whole one").value else {
                    continue;
                };
                let mut commands = region.command_sender(WorkerId(worker as u8));
                let location = LocationId(location);
                let command = Command::Dial { op: 1, ask, call, address: to, location, transport };
                // A worker looks at its commands every 50 ms at least.
                let _ = commands.push(&command, b"4930").expect("there is room");
                return;
            }
        }
        assert!(Instant::now() < end, "nobody asked");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A trunk that is called: it listens.
pub fn listener(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    let at = listener.local_addr().expect("it is bound");
    (listener, at)
}

#[test]
fn a_trunk_is_called_over_tcp_and_its_connection_is_used_again() {
    let plane = plane(MediaChoice::IoUring, |config| {
        config.locations[1].ip = "::1".parse().expect("an address");
    });
    write_tables(&plane);
    let control = Control::attach(&plane);
    wait_for("control is attached", || plane.region().header().control().attached);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    for (location, ip) in [(0, TRUNK), (1, "::1")] {
        let (listener, at) = listener(ip);
        let mut trunk: Option<Phone> = None;
        for turn in 0..3 {
            let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
            caller.invite(&plane, "4930", &format!("out{location}{turn}"));
            dial(&plane, at, location, Transport::Tcp);
            let trunk = trunk.get_or_insert_with(|| {
                let (stream, from) = listener.accept().expect("a connection");
                assert_eq!(from.ip(), plane.config.locations[usize::from(location)].ip);
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let (wire, host) = (Box::new(Framed::new(stream)), at.to_string());
                Phone { wire, by: Transport::Tcp, host, rtp: peer(ip) }
            });
            let offered = trunk.expect("INVITE sip:4930@");
            assert!(offered.contains(&format!("sip:4930@{at};transport=tcp SIP/2.0")), "{offered}");
            let to_caller = trunk.accept(&offered);
            let answered = caller.expect("SIP/2.0 200");
            caller.within("ACK", &answered, 1);
            relay(&caller, trunk, 0, to_caller, media_of(&answered));
            caller.within("BYE", &answered, 2);
            let bye = trunk.expect("BYE ");
            trunk.respond(&bye, 200, &[], None);
            caller.expect("SIP/2.0 200");
        }
    }
    assert_eq!(plane.count(Counter::ConnectionsOpened), 2, "one to each");
    drop(control);
    plane.stop();
}

/// RFC 3261, 18.1.1: what is too long for a datagram goes over TCP; where there is no TCP, as a datagram after all.
#[test]
fn a_long_request_to_a_trunk_goes_over_tcp_where_it_has_some() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    write_tables(&plane);
    let _control = Control::attach(&plane);
    wait_for("control is attached", || plane.region().header().control().attached);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let (listener, at) = listener(TRUNK);
    let datagrams = UdpSocket::bind(at).expect("the same port");
    datagrams.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let ask = |call: &str| {
        let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
        let long = "7".repeat(1_200);
        caller.invite_with(&plane, "4930", call, &[("User-to-User", &long)]);
        dial(&plane, at, 0, Transport::Udp);
        caller
    };
    let _first = ask("long1");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut wire = Framed::new(stream);
    let invite = String::from_utf8(wire.next().expect("an INVITE")).expect("text");
    assert!(invite.len() > 1_300 && invite.contains("\r\nVia: SIP/2.0/TCP 127.0.0.1:"), "{invite}");
    drop((wire, listener));
    for call in ["long2", "long3"] {
        let mut caller = ask(call);
        let mut buffer = [0; 4_096];
        let (len, from) = datagrams.recv_from(&mut buffer).expect("an INVITE");
        assert_eq!(from, plane.sip(0));
        let invite = String::from_utf8_lossy(&buffer[..len]).into_owned();
        assert!(invite.contains("\r\nVia: SIP/2.0/UDP 127.0.0.1:"), "{invite}");
        let ok =
            response(&lex(&buffer[..len]).expect("it"), 486, "Busy", Some("x"), from, &[], None);
        datagrams.send_to(&ok, from).expect("loopback takes it");
        let ack = datagrams.recv_from(&mut buffer).expect("an ACK").0;
        assert!(buffer[..ack].starts_with(b"ACK "), "its transaction is one of datagrams");
        caller.expect("SIP/2.0 100");
        let refused = String::from_utf8(caller.wire.next().expect("an answer")).expect("text");
        assert!(refused.starts_with("SIP/2.0 486"), "{refused}");
    }
    assert_eq!(plane.count(Counter::ConnectFailed), 1, "the second time it is known");
    plane.stop();
}

#[test]
fn a_trunk_that_cannot_be_reached_is_told_to_the_caller() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    write_tables(&plane);
    let _control = Control::attach(&plane);
    wait_for("control is attached", || plane.region().header().control().attached);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    let (closed, at) = listener(TRUNK);
    drop(closed);
    let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
    caller.invite(&plane, "4930", "nobody");
    dial(&plane, at, 0, Transport::Tcp);
    assert!(caller.expect("SIP/2.0 100").contains("nobody"));
    let refused = String::from_utf8(caller.wire.next().expect("an answer")).expect("text");
    assert!(refused.starts_with("SIP/2.0 503"), "{refused}");
    assert_eq!(plane.count(Counter::ConnectFailed), 1);
    assert_eq!(plane.count(Counter::SipUnsent), 1);
    plane.stop();
}

#[test]
fn a_trunk_over_tls_is_believed_by_its_root_only() {
    for believed in [true, false] {
        let plane = plane(MediaChoice::IoUring, |_| {});
        write_tables(&plane);
        let _control = Control::attach(&plane);
        wait_for("control is attached", || plane.region().header().control().attached);
        wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
        let others = TempDir::new().expect("a folder");
        let settings = match believed {
            true => plane.config.streams.tls[0].clone(),
            false => certificates(others.path(), "other"),
        };
        let (listener, at) = listener(TRUNK);
        let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tcp);
        caller.invite(&plane, "4930", "secret");
        dial(&plane, at, 0, Transport::Tls);
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut wire = Framed::new(serve_tls(&settings, stream));
        if believed {
            let invite = String::from_utf8(wire.next().expect("an INVITE")).expect("text");
            assert!(invite.starts_with("INVITE sip:4930@"), "{invite}");
            assert!(invite.contains("Via: SIP/2.0/TLS 127.0.0.1:"), "{invite}");
            assert_eq!(plane.count(Counter::ConnectionsOpened), 1);
        } else {
            let read = wire.stream.read(&mut [0; 1]);
            assert!(read.is_err() || read.is_ok_and(|len| len == 0), "something was sent");
            caller.expect("SIP/2.0 100");
            let refused = String::from_utf8(caller.wire.next().expect("an answer")).expect("text");
            assert!(refused.starts_with("SIP/2.0 503"), "{refused}");
            assert_eq!(plane.count(Counter::ConnectFailed), 1);
        }
        plane.stop();
    }
}

fn serve_tls(
    settings: &TlsSettings,
    stream: TcpStream,
) -> rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    let (certificate, key) = settings.identity.as_ref().expect("a certificate");
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    let server = rustls::ServerConnection::new(Arc::new(config)).expect("a server");
    rustls::StreamOwned::new(server, stream)
}

#[test]
fn a_peer_that_reads_nothing_is_cut_off() {
    let plane = plane(MediaChoice::IoUring, |config| config.limits.strangers = u32::MAX);
    let mut stream = tcp(PHONE, plane.sip(0));
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let many = options("flood", "Content-Length: 0\r\n\r\n").repeat(100);
    // Each is answered, until nothing more fits into both kernel's buffers and the queue.
    while stream.write_all(many.as_bytes()).is_ok() {}
    wait_for("it is cut off", || plane.count(Counter::ClosedSlow) == 1);
    wait_for("no connection is left", || connections(&plane) == 0);
    crate::plane::ask_options(&plane, 0, "others");
    plane.stop();
}
