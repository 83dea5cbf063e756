//! Certificates: whom we call, who calls us, and what we show.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::{Command, Counter, Event, Outage, TrunkRow, TrunkTlsRow};
use base::{LocationId, Text, Transport, WorkerId, owner};
use driver::MediaChoice;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::call::{media_of, write_tables};
use crate::link::Control;
use crate::plane::{PATIENCE, Plane, peer, wait_for};
use crate::streams::{Framed, PHONE, Phone, TRUNK, Wire, dial, listener, plane, relay, tcp};

/// Whom the trunk's certificate is for.
const CARRIER: &str = "sip.carrier.example";

/// Somebody who signs certificates.
struct Authority {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").pem();
        Authority { root, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> Pair {
        self.sign_as(name, |_| {})
    }

    fn sign_as(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.root.as_bytes()).expect("PEM"))
            .expect("a root");
        roots
    }
}

impl Pair {
    fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.key")), &self.key).expect("written");
        std::fs::write(folder.join(format!("{name}.pem")), &self.certificate).expect("written");
    }

    fn certified(&self) -> CertifiedKey {
        let provider = rustls::crypto::ring::default_provider();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        CertifiedKey::from_der(vec![self.der()], key, &provider).expect("a pair")
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

/// Shows one certificate, and remembers what was asked for.
#[derive(Debug)]
struct Asked {
    shown: Arc<CertifiedKey>,
    names: Mutex<Vec<Option<String>>>,
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_owned);
        self.names.lock().expect("no thread panicked").push(name);
        Some(Arc::clone(&self.shown))
    }
}

/// The folder of certificates of a data plane that is to be started.
fn folder_of(config: &mut driver::Config) -> PathBuf {
    let folder = config.region.parent().expect("a folder").join("certificates");
    std::fs::create_dir(&folder).expect("made");
    config.streams.certificates = Some(folder.clone());
    folder
}

/// A data plane with a folder of certificates, among them the root `carrier`; ready for calls.
fn ready(
    authority: &Authority,
    change: impl FnOnce(&mut driver::Config),
) -> (Plane, PathBuf, Control) {
    let mut folder = PathBuf::new();
    let plane = plane(MediaChoice::IoUring, |config| {
        folder = folder_of(config);
        std::fs::write(folder.join("carrier.pem"), &authority.root).expect("written");
        change(config);
    });
    write_tables(&plane);
    let control = Control::attach(&plane);
    wait_for("control is attached", || plane.region().header().control().attached);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    (plane, folder, control)
}

/// How TLS is spoken to a trunk, as control would write it.
fn say(plane: &Plane, at: SocketAddr, change: impl FnOnce(&mut TrunkTlsRow)) {
    let mut row = TrunkTlsRow::of(at);
    row.set_domain(Text::new(CARRIER.as_bytes()).expect("it fits"));
    row.set_ca(Text::new(b"carrier").expect("it fits"));
    change(&mut row);
    assert!(plane.region().trunk_tls().write(0, &row));
}

/// The end of a trunk that is called by TLS: shows that certificate, and wants one that leads to `clients`.
fn serve(
    stream: TcpStream,
    pair: &Pair,
    clients: Option<&Authority>,
) -> (StreamOwned<ServerConnection, TcpStream>, Arc<Asked>) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let asked = Arc::new(Asked { shown: Arc::new(pair.certified()), names: Mutex::default() });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            config.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let config = config.with_cert_resolver(Arc::clone(&asked) as _);
    let server = ServerConnection::new(Arc::new(config)).expect("a server");
    (StreamOwned::new(server, stream), asked)
}

/// Somebody calls a number that goes to the trunk at that address.
fn call_trunk(plane: &Plane, at: SocketAddr, call: &str) -> Phone {
    let mut caller = Phone::new(plane, TRUNK, 0, Transport::Tcp);
    caller.invite(plane, "4930", call);
    dial(plane, at, 0, Transport::Tls);
    caller
}

fn refused(caller: &mut Phone, status: &str) {
    caller.expect("SIP/2.0 100");
    let refused = String::from_utf8(caller.wire.next().expect("an answer")).expect("text");
    assert!(refused.starts_with(status), "{refused}");
}

#[test]
fn a_trunk_is_asked_for_its_name_and_believed_by_it() {
    let authority = Authority::new("one");
    let (plane, _, _control) = ready(&authority, |_| {});
    let (listener, at) = listener(TRUNK);
    say(&plane, at, |_| {});
    let mut caller = call_trunk(&plane, at, "one");
    let (stream, _) = listener.accept().expect("a connection");
    let (stream, asked) = serve(stream, &authority.sign(CARRIER), None);
    let mut trunk = Phone {
        wire: Box::new(Framed::new(stream)),
        by: Transport::Tls,
        host: at.to_string(),
        rtp: peer(TRUNK),
    };
    let offered = trunk.expect("INVITE sip:4930@");
    let to_caller = trunk.accept(&offered);
    let answered = caller.expect("SIP/2.0 200");
    caller.within("ACK", &answered, 1);
    relay(&caller, &trunk, 0, to_caller, media_of(&answered));
    assert_eq!(*asked.names.lock().expect("no panic"), [Some(CARRIER.to_owned())], "SNI");
    caller.within("BYE", &answered, 2);
    let bye = trunk.expect("BYE ");
    trunk.respond(&bye, 200, &[], None);
    caller.expect("SIP/2.0 200");
    plane.stop();
}

#[test]
fn a_trunk_with_a_wrong_certificate_is_refused_and_the_reason_counted() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let expired = authority.sign_as(CARRIER, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (plane, _, control) = ready(&authority, |_| {});
    for (pair, counter, outage) in [
        (authority.sign("other.example"), Counter::TlsWrongName, Outage::TlsName),
        (authority.sign("*.carrier.example"), Counter::TlsWrongName, Outage::TlsName),
        (expired, Counter::TlsExpired, Outage::TlsExpired),
        (other.sign(CARRIER), Counter::TlsUntrusted, Outage::TlsUntrusted),
    ] {
        let (listener, at) = listener(TRUNK);
        say(&plane, at, |_| {});
        let before = plane.count(counter);
        let mut caller = call_trunk(&plane, at, &format!("wrong{outage:?}{before}"));
        let (stream, _) = listener.accept().expect("a connection");
        let (mut stream, _) = serve(stream, &pair, None);
        let read = stream.read(&mut [0; 1]);
        assert!(read.is_err() || read.is_ok_and(|len| len == 0), "something was sent");
        refused(&mut caller, "SIP/2.0 503");
        assert_eq!(plane.count(counter), before + 1, "{outage:?}");
        let told = watch_until(&plane, &control, at, || {
            let (stream, _) = listener.accept().expect("a connection");
            let _ = serve(stream, &pair, None).0.read(&mut [0; 1]);
        });
        assert_eq!(told, outage, "the trunk is down, and says why");
    }
    // That it is not to be verified must be said.
    let (listener, at) = listener(TRUNK);
    say(&plane, at, |row| row.unverified = 1);
    let _caller = call_trunk(&plane, at, "anybody");
    let (stream, _) = listener.accept().expect("a connection");
    let mut wire = Framed::new(serve(stream, &other.sign("other.example"), None).0);
    assert!(wire.next().expect("an INVITE").starts_with(b"INVITE sip:4930@"));
    plane.stop();
}

/// Lets a trunk be watched and serves its connections; why it is down.
fn watch_until(
    plane: &Plane,
    control: &Control,
    address: SocketAddr,
    mut serve: impl FnMut(),
) -> Outage {
    let region = plane.region();
    let worker = owner(address.to_string().as_bytes(), 2);
    let (location, transport) = (LocationId(0), Transport::Tls);
    let command = Command::Watch { op: 9, address, location, transport, every_s: 1 };
    control.order(&region, worker, command, b"");
    serve();
    let end = Instant::now() + PATIENCE;
    let mut receiver = region.event_receiver(WorkerId(worker.0));
    loop {
        while let Some(event) = receiver.pop(&mut Vec::new()) {
            if let Event::Trunk { addr, outage } = event.expect("a whole one").value
                && addr == address
            {
                let over = Command::Watch { op: 10, address, location, transport, every_s: 0 };
                control.order(&region, worker, over, b"");
                return outage;
            }
        }
        assert!(Instant::now() < end, "nothing is told of the trunk");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_trunk_that_wants_our_certificate_gets_the_one_that_is_for_it() {
    let authority = Authority::new("one");
    let (plane, folder, control) = ready(&authority, |_| {});
    let (listener, at) = listener(TRUNK);
    let (shown, ours) = (authority.sign(CARRIER), Authority::new("ours"));
    // The location's own certificate is not what it wants.
    say(&plane, at, |_| {});
    let mut caller = call_trunk(&plane, at, "none");
    let (stream, _) = listener.accept().expect("a connection");
    let (mut stream, _) = serve(stream, &shown, Some(&ours));
    assert!(stream.read(&mut [0; 1]).is_err(), "what we show is not believed");
    drop(stream);
    refused(&mut caller, "SIP/2.0 503");
    assert_eq!(plane.count(Counter::TlsNotTaken), 1);
    let told = watch_until(&plane, &control, at, || {
        let (stream, _) = listener.accept().expect("a connection");
        let _ = serve(stream, &shown, Some(&ours)).0.read(&mut [0; 1]);
    });
    assert_eq!(told, Outage::TlsNotTaken);
    // Its files are not there yet; then they are.
    say(&plane, at, |row| row.set_identity(Text::new(b"us").expect("it fits")));
    let mut caller = call_trunk(&plane, at, "missing");
    refused(&mut caller, "SIP/2.0 503");
    assert_eq!(plane.count(Counter::TlsFiles), 1);
    for (turn, name) in ["us.example", "renewed.example"].into_iter().enumerate() {
        let pair = ours.sign(name);
        pair.write(&folder, "us");
        let _caller = call_trunk(&plane, at, &format!("taken{turn}"));
        let (stream, _) = listener.accept().expect("a connection");
        let mut wire = Framed::new(serve(stream, &shown, Some(&ours)).0);
        assert!(wire.next().expect("an INVITE").starts_with(b"INVITE sip:4930@"));
        let seen = wire.stream.conn.peer_certificates().expect("one")[0].clone();
        assert_eq!(seen, pair.der(), "a new file is read at the next connection");
        wire.stream.conn.send_close_notify();
        let _ = wire.stream.flush();
        drop(wire);
        wait_for("the connection is gone", || plane.count(Counter::ConnectionsTls) == 0);
    }
    plane.stop();
}

/// A TLS client that asks for that name and shows that certificate.
fn client(
    plane: &Plane,
    from: &str,
    name: ServerName<'static>,
    roots: RootCertStore,
    shows: Option<&Pair>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let place = &plane.config.locations[0];
    let to = SocketAddr::new(place.ip, place.port(Transport::Tls).expect("it is spoken"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![pair.der()], key).expect("a pair")
        }
    };
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(client, tcp(from, to))
}

fn dns(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("a name")
}

/// What is shown to who asks for that name.
fn shown(plane: &Plane, name: &str, roots: &RootCertStore) -> Option<CertificateDer<'static>> {
    let mut stream = client(plane, PHONE, dns(name), roots.clone(), None);
    stream.conn.complete_io(&mut stream.sock).ok()?;
    stream.conn.peer_certificates().map(|chain| chain[0].clone())
}

#[test]
fn who_asks_for_a_name_gets_its_certificate_and_a_new_one_drops_no_connection() {
    let authority = Authority::new("one");
    let (one, two) = (authority.sign("one.example"), authority.sign("*.two.example"));
    let (plane, folder, _control) = ready(&authority, |config| {
        let folder = config.streams.certificates.clone().expect("a folder");
        one.write(&folder, "one");
        two.write(&folder, "two");
    });
    let roots = authority.roots();
    assert_eq!(shown(&plane, "one.example", &roots), Some(one.der()));
    assert_eq!(shown(&plane, "a.two.example", &roots), Some(two.der()));
    // Who asks for what is not there gets the location's, and believes it or not.
    assert_eq!(shown(&plane, "three.example", &roots), None);
    let stands = client(&plane, PHONE, dns("one.example"), roots.clone(), None);
    let mut stands = Framed::new(stands);
    let ask = |wire: &mut dyn Wire, call: &str| {
        wire.send(crate::streams::options(call, "Content-Length: 0\r\n\r\n").as_bytes());
        assert!(wire.next().expect("an answer").starts_with(b"SIP/2.0 200"));
    };
    ask(&mut stands, "before");
    let renewed = authority.sign("one.example");
    renewed.write(&folder, "one");
    authority.sign("three.example").write(&folder, "three");
    std::fs::write(folder.join("bad.pem"), "nonsense").expect("written");
    std::fs::write(folder.join("bad.key"), "nonsense").expect("written");
    wait_for("the new certificate is shown", || {
        shown(&plane, "one.example", &roots) == Some(renewed.der())
    });
    assert!(shown(&plane, "three.example", &roots).is_some(), "a new name");
    assert_eq!(shown(&plane, "a.two.example", &roots), Some(two.der()), "the old ones as before");
    ask(&mut stands, "after");
    plane.stop();
}

/// A trunk that is known by its certificate calls from anywhere.
#[test]
fn who_shows_the_certificate_of_a_trunk_is_that_trunk() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let (plane, _, _control) = ready(&authority, |config| {
        let root = config.streams.certificates.as_ref().expect("a folder").join("carrier.pem");
        let tls = &mut config.streams.tls[0];
        (tls.ca, tls.ask_clients) = (Some(root), true);
    });
    let region = plane.region();
    let mut trunk = TrunkRow { tenant: 1, ..TrunkRow::default() };
    trunk.set_domain(Text::new(CARRIER.as_bytes()).expect("it fits"));
    region.trunks().write(1, &trunk);
    let mut phone = Phone::new(&plane, PHONE, 1, Transport::Tcp);
    phone.register("reg");
    // Who shows nothing is somebody, who may still register; what is shown must be believed.
    let own = {
        let mut roots = RootCertStore::empty();
        let root = plane.config.streams.tls[1].ca.as_ref().expect("a root");
        roots.add(CertificateDer::from_pem_file(root).expect("PEM")).expect("a root");
        roots
    };
    let ip: ServerName<'static> = plane.config.locations[0].ip.into();
    let from = "127.0.0.9";
    let caller = |pair: Option<&Pair>| {
        let stream = client(&plane, from, ip.clone(), own.clone(), pair);
        Phone {
            wire: Box::new(Framed::new(stream)),
            by: Transport::Tls,
            host: from.to_owned(),
            rtp: peer(from),
        }
    };
    for pair in [None, Some(authority.sign("other.example"))] {
        let mut stranger = caller(pair.as_ref());
        stranger.invite(&plane, "1001", &format!("stranger{}", pair.is_some()));
        let answer = String::from_utf8(stranger.wire.next().expect("an answer")).expect("text");
        assert!(answer.starts_with("SIP/2.0 401"), "{answer}");
    }
    assert_eq!(plane.count(Counter::TrunksProved), 0);
    let wrong = other.sign(CARRIER);
    let mut stream = client(&plane, from, ip.clone(), own.clone(), Some(&wrong));
    let _ = stream.write_all(b"OPTIONS");
    assert!(stream.read(&mut [0; 1]).is_err(), "it is refused");
    wait_for("it is counted", || plane.count(Counter::ClientCertificateRefused) == 1);

    let mut carrier = caller(Some(&authority.sign(CARRIER)));
    carrier.invite(&plane, "1001", "proved");
    let offered = phone.expect("INVITE ");
    let to_caller = phone.accept(&offered);
    let answered = carrier.expect("SIP/2.0 200");
    carrier.within("ACK", &answered, 1);
    relay(&carrier, &phone, 0, to_caller, media_of(&answered));
    assert_eq!(plane.count(Counter::TrunksProved), 1);
    carrier.within("BYE", &answered, 2);
    let bye = phone.expect("BYE ");
    phone.respond(&bye, 200, &[], None);
    carrier.expect("SIP/2.0 200");
    // Once control does not know it any more, its connection proves nothing.
    region.trunks().write(1, &TrunkRow::default());
    let mut turn = 0;
    wait_for("it is a stranger", || {
        turn += 1;
        carrier.invite(&plane, "1001", &format!("again{turn}"));
        let mut answer = carrier.wire.next().expect("an answer");
        if answer.starts_with(b"SIP/2.0 100") {
            let offered = phone.expect("INVITE ");
            phone.respond(&offered, 486, &[], None);
            answer = carrier.wire.next().expect("an answer");
        }
        answer.starts_with(b"SIP/2.0 401")
    });
    plane.stop();
}

/// Addresses of the tests' parties are on this machine.
#[test]
fn an_address_is_verified_where_no_name_is_said() {
    let authority = Authority::new("one");
    let (plane, _, _control) = ready(&authority, |_| {});
    for (name, is_it) in [(TRUNK, true), ("127.0.0.99", false)] {
        let (listener, at) = listener(TRUNK);
        assert!(name.parse::<IpAddr>().is_ok());
        say(&plane, at, |row| row.set_domain(Text::EMPTY));
        let mut caller = call_trunk(&plane, at, name);
        let (stream, _) = listener.accept().expect("a connection");
        let mut wire = Framed::new(serve(stream, &authority.sign(name), None).0);
        if is_it {
            assert!(wire.next().expect("an INVITE").starts_with(b"INVITE "));
        } else {
            assert!(wire.stream.read(&mut [0; 1]).is_err());
            refused(&mut caller, "SIP/2.0 503");
        }
    }
    plane.stop();
}

/// A call to a sips URI between two who speak TLS; a phone that does not is not called.
#[test]
fn a_call_to_sips_is_secret_on_both_hops() {
    let plane = plane(MediaChoice::IoUring, |_| {});
    write_tables(&plane);
    wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    for (by, status) in [(Transport::Tls, "SIP/2.0 200"), (Transport::Tcp, "SIP/2.0 480")] {
        let mut phone = Phone::new(&plane, PHONE, 1, by);
        phone.register(&format!("reg{by}"));
        let mut caller = Phone::new(&plane, TRUNK, 0, Transport::Tls);
        caller.invite_to(&plane, "sips", "1001", &format!("secret{by}"));
        if by == Transport::Tcp {
            let refused = String::from_utf8(
                std::iter::from_fn(|| caller.wire.next())
                    .find(|message| !message.starts_with(b"SIP/2.0 100"))
                    .expect("an answer"),
            )
            .expect("text");
            assert!(refused.starts_with(status), "{refused}");
            assert!(
                refused.contains("\r\nWarning: 380 jackfield \"SIPS Not Allowed\"\r\n"),
                "{refused}"
            );
            continue;
        }
        let offered = phone.expect("INVITE ");
        let to_caller = phone.accept(&offered);
        let answered = caller.expect(status);
        assert!(answered.contains("\r\nContact: <sips:"), "{answered}");
        caller.within("ACK", &answered, 1);
        relay(&caller, &phone, 0, to_caller, media_of(&answered));
        caller.within("BYE", &answered, 2);
        let bye = phone.expect("BYE ");
        phone.respond(&bye, 200, &[], None);
        caller.expect("SIP/2.0 200");
        wait_for("nothing is left", || plane.count(Counter::LegsNow) == 0);
    }
    assert_eq!(plane.count(Counter::SipsRefused), 1);
    plane.stop();
}
