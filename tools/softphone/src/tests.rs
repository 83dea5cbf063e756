//! Phones in virtual time on a network of this file's own.

use std::time::Duration;

use base::{Instant, Rng, Timers};
use sip::digest::{Algorithm, Credentials, NonceKey, Verdict, Verifier, challenge, ha1};
use sip::wire::{Header, Message, lex, reason_phrase, response};

use super::*;

/// How the network treats datagrams, in percent of them.
#[derive(Clone, Copy, Default)]
struct Weather {
    lost: u64,
    doubled: u64,
    /// Delayed by up to 200 ms beside the usual 1 ms.
    late: u64,
}

enum Datagram {
    Sip { from: SocketAddr, bytes: Vec<u8> },
    Rtp(Vec<u8>),
    Rtcp(Vec<u8>),
}

struct World {
    now: Instant,
    phones: Vec<Phone>,
    registrar: Option<Registrar>,
    weather: Weather,
    /// Each loses the first SIP datagram that begins with it.
    accidents: Vec<&'static [u8]>,
    rng: Rng,
    network: Timers<(SocketAddr, Datagram)>,
    orders: Timers<(usize, Order)>,
    events: Vec<Vec<Event>>,
    /// Everything that happened, for comparing runs.
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64, configs: Vec<PhoneConfig>) -> World {
        let mut rng = Rng::from_number(seed);
        let events = configs.iter().map(|_| Vec::new()).collect();
        let phones = configs
            .into_iter()
            .map(|config| Phone::new(config, Rng::from_number(rng.next_u64())))
            .collect();
        World {
            now: Instant::from_nanos(1_000_000_000),
            phones,
            registrar: None,
            weather: Weather::default(),
            accidents: Vec::new(),
            rng,
            network: Timers::default(),
            orders: Timers::default(),
            events,
            trace: Vec::new(),
        }
    }

    fn at(&mut self, ms: u64, phone: usize, order: Order) {
        let start = Instant::from_nanos(1_000_000_000);
        self.orders.set(start + Duration::from_millis(ms), (phone, order));
    }

    /// Runs until `seconds` have passed since the start; panics when time stands still.
    fn run(&mut self, seconds: u64) {
        let end = Instant::from_nanos(1_000_000_000) + Duration::from_secs(seconds);
        let mut idle_rounds = 0;
        loop {
            let phones = self.phones.iter().filter_map(Phone::deadline);
            let other = [self.network.deadline(), self.orders.deadline()];
            let next = phones.chain(other.into_iter().flatten()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            idle_rounds = if next > self.now { 0 } else { idle_rounds + 1 };
            assert!(idle_rounds < 1_000, "a deadline is not served at {:?}", self.now);
            self.now = self.now.max(next);
            while let Some((_, (phone, order))) = self.orders.due(self.now) {
                self.handle(phone, Input::Order(order));
            }
            while let Some((_, (to, datagram))) = self.network.due(self.now) {
                self.deliver(to, datagram);
            }
            for phone in 0..self.phones.len() {
                if self.phones[phone].deadline().is_some_and(|at| at <= self.now) {
                    self.handle(phone, Input::Timeout);
                }
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, to: SocketAddr, datagram: Datagram) {
        if let (Some(registrar), Datagram::Sip { from, bytes }) = (&mut self.registrar, &datagram)
            && registrar.address == to
        {
            let reply = registrar.answer(self.now, *from, bytes);
            let (from, to) = (registrar.address, *from);
            return self.post(to, |bytes| Datagram::Sip { from, bytes }, reply);
        }
        for phone in 0..self.phones.len() {
            let config = &self.phones[phone].config;
            let rtcp = SocketAddr::new(config.rtp.ip(), config.rtp.port() + 1);
            let input = match &datagram {
                Datagram::Sip { from, bytes } if config.sip == to => {
                    Input::Sip { from: *from, datagram: bytes }
                }
                Datagram::Rtp(packet) if config.rtp == to => Input::Rtp(packet),
                Datagram::Rtcp(packet) if rtcp == to => Input::Rtcp(packet),
                _ => continue,
            };
            return self.handle(phone, input);
        }
    }

    fn handle(&mut self, phone: usize, input: Input<'_>) {
        let mut out = Vec::new();
        self.phones[phone].handle(self.now, input, &mut out);
        let source = self.phones[phone].config.sip;
        for output in out {
            match output {
                Output::Sip { to, datagram } => {
                    let line = datagram.split(|byte| *byte == b'\r').next().unwrap_or_default();
                    let line = String::from_utf8_lossy(line);
                    self.trace.push(format!("{} {phone} {line}", self.now.as_millis()));
                    let wrap = |bytes| Datagram::Sip { from: source, bytes };
                    self.post(to, wrap, datagram.to_vec());
                }
                Output::Rtp { to, packet, .. } => self.post(to, Datagram::Rtp, packet),
                Output::Rtcp { to, packet } => self.post(to, Datagram::Rtcp, packet),
                Output::Event(event) => {
                    self.trace.push(format!("{} {phone} {event:?}", self.now.as_millis()));
                    self.events[phone].push(event);
                }
            }
        }
    }

    fn post(&mut self, to: SocketAddr, wrap: impl Fn(Vec<u8>) -> Datagram, bytes: Vec<u8>) {
        if let Some(at) = self.accidents.iter().position(|start| bytes.starts_with(start)) {
            self.accidents.remove(at);
            return;
        }
        let copies = 1 + usize::from(self.rng.chance(self.weather.doubled));
        for _ in 0..copies {
            if self.rng.chance(self.weather.lost) {
                continue;
            }
            let late = self.rng.chance(self.weather.late);
            let ms = if late { self.rng.below(200) } else { 0 };
            let at = self.now + Duration::from_millis(1 + ms);
            self.network.set(at, (to, wrap(bytes.clone())));
        }
    }

    fn told(&self, phone: usize, event: &Event) -> bool {
        self.events[phone].contains(event)
    }
}

/// A registrar that challenges; it remembers the last lifetime that it granted.
struct Registrar {
    address: SocketAddr,
    key: NonceKey,
    realm: &'static str,
    secret: &'static str,
    offers_sha256: bool,
    least_s: u32,
    granted: Vec<(u64, u32)>,
    challenges: u32,
}

impl Registrar {
    fn answer(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let message = lex(bytes).unwrap();
        message.check().unwrap();
        let (status, stale) = self.verdict(now, &message);
        let mut extra: Vec<(&str, Vec<u8>)> = Vec::new();
        let expires = message.expires().unwrap();
        match status {
            401 => {
                self.challenges += 1;
                let [sha256, md5] = challenge(&self.key, now, self.realm, stale);
                if self.offers_sha256 {
                    extra.push(("WWW-Authenticate", sha256));
                }
                extra.push(("WWW-Authenticate", md5));
            }
            423 => extra.push(("Min-Expires", self.least_s.to_string().into_bytes())),
            _ => {
                self.granted.push((now.as_millis(), expires));
                let contact = message.header(Header::Contact).unwrap();
                let granted = [contact, format!(";expires={expires}").as_bytes()].concat();
                extra.push(("Contact", granted));
            }
        }
        let extra: Vec<(&str, &[u8])> =
            extra.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        response(&message, status, reason_phrase(status), Some("r"), from, &extra, None)
    }

    fn verdict(&self, now: Instant, message: &Message<'_>) -> (u16, bool) {
        let credentials =
            Credentials::for_realm(message.headers(Header::Authorization), self.realm.as_bytes());
        let Some(credentials) = credentials else { return (401, false) };
        let expected = if self.offers_sha256 { Algorithm::Sha256 } else { Algorithm::Md5 };
        assert_eq!(credentials.algorithm, expected);
        let (user, realm) = (b"1001.demo", self.realm.as_bytes());
        let secret = ha1(credentials.algorithm, user, realm, self.secret.as_bytes());
        let verifier = Verifier { key: &self.key, realm, now };
        match verifier.verify(&credentials, b"REGISTER", secret.as_bytes()) {
            Verdict::Ok { .. } if message.expires().is_some_and(|s| s > 0 && s < self.least_s) => {
                (423, false)
            }
            Verdict::Ok { .. } => (200, false),
            Verdict::Stale => (401, true),
            _ => (401, false),
        }
    }
}

const REGISTRAR: &str = "192.0.2.9:5060";

fn config(phone: u16) -> PhoneConfig {
    let address = |port| SocketAddr::from(([192, 0, 2, phone as u8], port));
    // Without a registrar each phone is the other's peer: what it dials goes straight there.
    let peer = SocketAddr::from(([192, 0, 2, if phone == 1 { 2 } else { 1 }], 5060));
    let mut config =
        PhoneConfig::new(&format!("100{phone}.demo"), peer, address(5060), address(4000));
    config.tone_hz = if phone == 1 { 440 } else { 620 };
    config.ring = Some(Duration::from_millis(300));
    config
}

fn pair(seed: u64) -> World {
    World::new(seed, vec![config(1), config(2)])
}

fn registering(seed: u64) -> World {
    let mut phone = config(1);
    phone.registrar = REGISTRAR.parse().unwrap();
    phone.realm = "demo.jackfield.local".into();
    phone.secret = "secret".into();
    let mut world = World::new(seed, vec![phone]);
    world.registrar = Some(Registrar {
        address: REGISTRAR.parse().unwrap(),
        key: NonceKey::new([7; 32]),
        realm: "demo.jackfield.local",
        secret: "secret",
        offers_sha256: true,
        least_s: 60,
        granted: Vec::new(),
        challenges: 0,
    });
    world
}

#[test]
fn two_phones_call_each_other_and_hear_the_tones() {
    let mut configs = vec![config(1), config(2)];
    configs[1].laws = vec![Law::A];
    configs.iter_mut().for_each(|config| config.frames = Some(250));
    let mut world = World::new(1, configs);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(5_600, 0, Order::HangUp);
    world.run(60);
    let [caller, called] = [world.phones[0].report(), world.phones[1].report()];
    for (report, peer, tone) in [(caller, called, 620), (called, caller, 440)] {
        assert_eq!(report.call.sent, 250);
        assert_eq!(report.call.heard.received, peer.call.sent);
        assert_eq!((report.call.heard.lost, report.call.heard.invalid), (0, 0));
        assert_eq!((report.call.heard.tone_blocks, report.call.heard.tone_hz), (25, tone));
        assert_eq!(report.call.rtcp_received, 1);
        assert_eq!((report.answered, report.ended, report.failed), (1, 1, 0));
        assert_eq!((report.sip_unexpected, report.sip_malformed, report.rtp_stray), (0, 0, 0));
        assert_eq!(report.sip_retransmitted, 0);
    }
    assert_eq!(caller.post_dial, Some(Duration::from_millis(2)));
    assert_eq!(caller.set_up, Some(Duration::from_millis(302)));
    assert!(world.told(0, &Event::Ringing) && world.told(1, &Event::Ended(Why::PeerHungUp)));
    assert!(world.told(1, &Event::Incoming { from: "1001.demo".into() }));
    assert!(world.phones.iter().all(|phone| phone.deadline().is_none()));
}

#[test]
fn the_called_phone_may_hang_up_too() {
    let mut world = pair(2);
    world.at(0, 0, Order::Call("sip:1002@192.0.2.2".into()));
    world.at(2_000, 1, Order::HangUp);
    world.run(60);
    assert!(world.told(0, &Event::Ended(Why::PeerHungUp)));
    assert!(world.told(1, &Event::Ended(Why::HungUp)));
}

#[test]
fn a_call_is_cancelled_declined_or_finds_a_busy_phone() {
    let mut world = pair(3);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(100, 0, Order::HangUp);
    world.run(60);
    assert!(world.told(0, &Event::Ended(Why::HungUp)));
    assert!(world.told(1, &Event::Ended(Why::Cancelled)));
    assert_eq!(world.phones[1].report().answered, 0);

    let mut world = pair(3);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(100, 1, Order::HangUp);
    world.run(60);
    assert!(world.told(0, &Event::Ended(Why::Refused(603))));
    assert!(world.told(1, &Event::Ended(Why::Declined)));

    let mut world = World::new(3, vec![config(1), config(2), config(3)]);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(1_000, 2, Order::Call("sip:1002@192.0.2.2".into()));
    world.at(2_000, 0, Order::HangUp);
    world.run(60);
    assert!(world.told(2, &Event::Ended(Why::Refused(486))));
    assert_eq!(world.phones[2].report().last_status, 486);
    assert!(world.told(0, &Event::Ended(Why::HungUp)));
}

#[test]
fn nobody_there_is_a_408() {
    let mut world = World::new(4, vec![config(1)]);
    world.at(0, 0, Order::Call("1002".into()));
    world.run(60);
    assert!(world.told(0, &Event::Ended(Why::Refused(408))));
    assert_eq!(world.phones[0].report().sip_retransmitted, 6);
}

#[test]
fn hold_and_resume_in_both_roles() {
    for (holder, held) in [(0, 1), (1, 0)] {
        let mut world = pair(5);
        world.at(0, 0, Order::Call("1002".into()));
        world.at(1_000, holder, Order::Hold);
        world.run(2);
        assert_eq!(world.events[holder].last(), Some(&Event::Held { by_us: true, by_peer: false }));
        assert_eq!(world.events[held].last(), Some(&Event::Held { by_us: false, by_peer: true }));
        let silent = [world.phones[0].report().call.sent, world.phones[1].report().call.sent];
        world.run(3);
        let still = [world.phones[0].report().call.sent, world.phones[1].report().call.sent];
        assert_eq!(silent, still);
        world.at(3_000, holder, Order::Resume);
        world.at(5_000, 0, Order::HangUp);
        world.run(60);
        for (phone, before) in still.into_iter().enumerate() {
            let report = world.phones[phone].report();
            assert!(world.told(phone, &Event::Held { by_us: false, by_peer: false }));
            assert!(report.call.sent > before + 90, "{report:?}");
            assert_eq!(report.call.heard.lost, 0);
            assert_eq!(report.sip_unexpected, 0);
        }
    }
}

#[test]
fn two_holds_that_cross_both_come_through() {
    let mut world = pair(6);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(1_000, 0, Order::Hold);
    world.at(1_000, 1, Order::Hold);
    world.run(10);
    assert!(world.trace.iter().any(|line| line.contains("491")), "{:#?}", world.trace);
    let both = Event::Held { by_us: true, by_peer: true };
    assert!(world.told(0, &both) && world.told(1, &both), "{:?}", world.events);
    world.at(11_000, 1, Order::HangUp);
    world.run(80);
    assert!(world.phones.iter().all(|phone| phone.deadline().is_none()));
}

#[test]
fn a_peer_that_cannot_be_given_away_stays() {
    let mut world = pair(9);
    world.at(0, 0, Order::Call("1002".into()));
    world.at(
        1_000,
        0,
        Order::Refer { to: "1003".into(), replaces: Some("a;to-tag=b;from-tag=c".into()) },
    );
    world.at(3_000, 0, Order::HangUp);
    world.run(5);
    let wanted = [Event::Referred { status: 405 }, Event::Ended(Why::HungUp)];
    assert_eq!(world.events[0][world.events[0].len() - 2..], wanted, "{:?}", world.events[0]);
}

#[test]
fn a_phone_registers_refreshes_and_unregisters() {
    let mut world = registering(7);
    world.phones[0].config.expires_s = 100;
    world.at(0, 0, Order::Register);
    world.run(170);
    let registrar = world.registrar.as_ref().unwrap();
    let times: Vec<u64> = registrar.granted.iter().map(|(at, _)| at / 1_000).collect();
    assert_eq!(times, [1, 81, 161]);
    assert_eq!(registrar.challenges, 1);
    // The nonce lives for 300 s: the refresh after that is told that it is stale, and goes through.
    world.run(500);
    assert_eq!(world.registrar.as_ref().unwrap().challenges, 2);
    assert_eq!(world.phones[0].report().registration_failures, 0);
    world.at(500_000, 0, Order::Unregister);
    world.run(900);
    assert_eq!(world.registrar.as_ref().unwrap().granted.last().unwrap().1, 0);
    assert!(world.told(0, &Event::Unregistered));
    assert_eq!(world.phones[0].deadline(), None);
}

#[test]
fn md5_does_where_there_is_no_sha256() {
    let mut world = registering(8);
    world.registrar.as_mut().unwrap().offers_sha256 = false;
    world.at(0, 0, Order::Register);
    world.run(5);
    assert!(world.told(0, &Event::Registered { expires_s: 3_600 }));
}

#[test]
fn a_brief_interval_is_lengthened_and_a_wrong_secret_is_not_repeated_at_once() {
    let mut world = registering(9);
    world.phones[0].config.expires_s = 10;
    world.at(0, 0, Order::Register);
    world.run(5);
    assert!(world.told(0, &Event::Registered { expires_s: 60 }));

    let mut world = registering(9);
    world.phones[0].config.secret = "wrong".into();
    world.at(0, 0, Order::Register);
    world.run(60);
    assert!(world.told(0, &Event::RegistrationFailed { status: 401 }));
    let report = world.phones[0].report();
    assert!((3..8).contains(&report.registration_failures), "{report:?}");
    assert!(report.sip_sent < 20, "{report:?}");
}

#[test]
fn a_registrar_that_comes_back_is_found_again() {
    let mut world = registering(10);
    let registrar = world.registrar.take();
    world.at(0, 0, Order::Register);
    world.run(40);
    assert!(world.told(0, &Event::RegistrationFailed { status: 408 }));
    world.registrar = registrar;
    world.run(120);
    assert!(world.told(0, &Event::Registered { expires_s: 3_600 }));
}

#[test]
fn questions_get_answers_and_what_is_unknown_is_refused() {
    for (request, expected) in
        [("OPTIONS", 200), ("INFO", 405), ("BANANA", 501), ("BYE", 481), ("CANCEL", 481)]
    {
        let mut world = World::new(11, vec![config(1)]);
        let text = format!(
            "{request} sip:1001@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n\
             From: <sip:x@192.0.2.7>;tag=1\r\nTo: <sip:1001@192.0.2.1>\r\nCall-ID: a\r\n\
             CSeq: 1 {request}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        let from = "192.0.2.7:5060".parse().unwrap();
        let mut out = Vec::new();
        let input = Input::Sip { from, datagram: text.as_bytes() };
        world.phones[0].handle(world.now, input, &mut out);
        let [Output::Sip { to, datagram }] = out.as_slice() else { panic!("{request}: {out:?}") };
        assert_eq!(*to, from);
        assert_eq!(lex(datagram).unwrap().status(), Some(expected), "{request}");
    }
}

#[test]
fn garbage_changes_nothing() {
    let mut world = pair(12);
    world.at(0, 0, Order::Call("1002".into()));
    world.run(2);
    let valid = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
        To: <sip:a@b>\r\nCall-ID: z\r\nCSeq: 1 INVITE\r\n\r\n";
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { vec![0; 300] } else { valid.to_vec() };
        if round % 2 == 0 {
            world.rng.fill(&mut bytes);
        }
        let length = world.rng.below(bytes.len() as u64) as usize;
        let at = world.rng.below(bytes.len() as u64) as usize;
        bytes[at] = world.rng.next_u32() as u8;
        bytes.truncate(length);
        let from = REGISTRAR.parse().unwrap();
        let mut out = Vec::new();
        let (now, phone) = (world.now, &mut world.phones[0]);
        phone.handle(now, Input::Sip { from, datagram: &bytes }, &mut out);
        phone.handle(now, Input::Rtp(&bytes), &mut out);
        phone.handle(now, Input::Rtcp(&bytes), &mut out);
    }
    world.at(3_000, 0, Order::HangUp);
    world.run(100);
    assert!(world.told(1, &Event::Ended(Why::PeerHungUp)));
}

#[test]
fn an_ack_that_is_lost_is_sent_again() {
    let mut world = pair(13);
    world.accidents = vec![b"ACK ", b"ACK "];
    world.at(0, 0, Order::Call("1002".into()));
    world.run(10);
    // The 200 comes again after 0.5 s and 1 s (13.3.1.4), and each time the caller answers it.
    assert!(world.told(1, &Event::Answered), "{:#?}", world.trace);
    world.accidents = vec![b"ACK "];
    world.at(10_000, 1, Order::Hold);
    world.run(60);
    assert!(world.told(0, &Event::Held { by_us: false, by_peer: true }));
    assert!(world.phones.iter().all(Phone::is_busy), "{:#?}", world.trace);
    world.at(60_000, 0, Order::HangUp);
    world.run(100);
    assert!(world.told(1, &Event::Ended(Why::PeerHungUp)));
}

/// A call with holds in bad weather; its trace.
fn storm(seed: u64) -> (Vec<String>, World) {
    let mut world = pair(seed);
    world.weather = Weather { lost: 15, doubled: 10, late: 20 };
    let mut ms = 0;
    world.at(0, 0, Order::Call("1002".into()));
    for _ in 0..6 {
        ms += 200 + world.rng.below(4_000);
        let phone = world.rng.below(2) as usize;
        let order = if world.rng.chance(50) { Order::Hold } else { Order::Resume };
        world.at(ms, phone, order);
    }
    let hangs_up = world.rng.below(2) as usize;
    world.at(ms + 500, hangs_up, Order::HangUp);
    // Should the called phone not know of the call yet, the caller ends it.
    world.at(ms + 40_000, 0, Order::HangUp);
    world.at(ms + 80_000, 1, Order::HangUp);
    world.run(400);
    (world.trace.clone(), world)
}

#[test]
fn calls_end_in_any_weather_and_a_seed_repeats_itself() {
    let mut answered = 0;
    for seed in 0..256 {
        let (trace, world) = storm(seed);
        for (at, phone) in world.phones.iter().enumerate() {
            assert!(!phone.is_busy(), "seed {seed}: phone {at} {trace:#?}");
            assert_eq!(phone.deadline(), None, "seed {seed}: phone {at} {trace:#?}");
            let report = phone.report();
            assert_eq!(report.placed + report.received, report.ended, "seed {seed}");
            answered += report.answered;
            assert!(!world.told(at, &Event::Ended(Why::NoAck)), "seed {seed}: {trace:#?}");
        }
        if seed < 16 {
            assert_eq!(trace, storm(seed).0, "seed {seed}");
        }
    }
    assert!(answered > 450, "{answered}");
}

/// Whose own call comes to nothing rings for who called meanwhile; else that one hears that the phone is busy.
#[test]
fn who_calls_a_phone_that_is_calling_waits_for_what_comes_of_it() {
    for (declined_at, expected) in
        [(1_000, Event::Answered), (60_000, Event::Ended(Why::Refused(486)))]
    {
        let mut configs = vec![config(1), config(2), config(3)];
        configs[1].ring = None;
        let mut world = World::new(3, configs);
        world.at(0, 0, Order::Call("1002".into()));
        world.at(500, 2, Order::Call("sip:1001@192.0.2.1".into()));
        world.at(declined_at, 1, Order::HangUp);
        world.run(20);
        assert!(world.told(2, &expected), "{:?}", world.events);
        let rang = world.told(0, &Event::Incoming { from: "1003.demo".into() });
        assert_eq!(rang, expected == Event::Answered);
    }
}
