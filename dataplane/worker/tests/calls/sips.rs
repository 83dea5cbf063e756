//! Calls to sips URIs: secret on each hop, or refused (RFC 5630).

use abi::{Command, Counter};
use base::{LocationId, Transport};
use sip::digest::{Challenge, answer};
use sip::wire::{Header, lex};

use crate::house::{AGENT_A, House, OFFER, TRUNK, header};

const CONTACT: &str = "sips:phone@192.0.2.1:5070";
const SECOND: &str = "10.9.7.2:5061";

/// The trunk's INVITE to a sips URI.
fn secret_invite(house: &House, number: &str, call_id: &str) -> String {
    let invite = house.invite(number, call_id, Some(OFFER));
    invite
        .replace("INVITE sip:", "INVITE sips:")
        .replace("Contact: <sip:", "Contact: <sips:")
        .replace("To: <sip:", "To: <sips:")
        .replace("SIP/2.0/UDP", "SIP/2.0/TLS")
}

#[test]
fn a_call_to_sips_goes_by_tls_and_its_contacts_are_sips() {
    let mut house = House::new();
    house.register_by("1001", AGENT_A, Transport::Tls, CONTACT);
    house.send_by(TRUNK, Transport::Tls, &secret_invite(&house, "1001", "s1"));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100"));
    let invite = house.next_to(AGENT_A);
    assert!(invite.starts_with(&format!("INVITE {CONTACT} SIP/2.0\r\n")), "{invite}");
    for name in ["Contact: ", "From: ", "To: "] {
        assert!(header(&invite, name).starts_with("<sips:"), "{invite}");
    }
    assert!(!header(&invite, "Contact: ").contains("transport"), "{invite}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ok = house.next_to(TRUNK);
    assert!(header(&ok, "Contact: ").starts_with("<sips:"), "RFC 3261, 12.1.1: {ok}");
    let ack = house.within("ACK", &ok, "s1", 1, None);
    house.send_by(TRUNK, Transport::Tls, &ack);
    let bye = house.within("BYE", &ok, "s1", 2, None);
    house.send_by(TRUNK, Transport::Tls, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200"));
    let _ack = house.next_to(AGENT_A);
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_call_to_sips_is_not_made_where_a_hop_is_open() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register_by(
        "1002",
        "192.0.2.2:5070",
        Transport::Tcp,
        "sip:phone@192.0.2.2;transport=tcp",
    );
    for (number, call) in [("1001", "o1"), ("1002", "o2")] {
        house.send_by(TRUNK, Transport::Tls, &secret_invite(&house, number, call));
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100"));
        let refusal = house.next_to(TRUNK);
        assert!(refusal.starts_with("SIP/2.0 480"), "{refusal}");
        assert_eq!(header(&refusal, "Warning: "), "380 jackfield \"SIPS Not Allowed\"");
    }
    assert_eq!(house.drain_to(AGENT_A), Vec::<String>::new(), "nobody was called");
    assert_eq!(house.count(Counter::SipsRefused), 2);
    // It has to come by TLS itself.
    for transport in [Transport::Udp, Transport::Tcp, Transport::Ws] {
        let invite = secret_invite(&house, "1001", &format!("p{transport}"));
        let invite = invite.replace("SIP/2.0/TLS", &format!("SIP/2.0/{}", transport.token()));
        house.send_by(TRUNK, transport, &invite);
        let refusal = house.next_to(TRUNK);
        assert!(refusal.starts_with("SIP/2.0 403"), "{transport}: {refusal}");
    }
    let other = house.invite("1001", "tel", Some(OFFER)).replace("INVITE sip:", "INVITE im:");
    house.send(TRUNK, &other);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 416"));
    house.run_out();
    house.expect_nothing_left();
}

/// RFC 5630, 5.1.1: who registered with a sips Contact is also reached by sip; and what says `transport=tls` is
/// secret enough where it came by TLS.
#[test]
fn a_phone_is_called_by_the_scheme_of_the_call_and_the_way_that_it_registered() {
    let mut house = House::new();
    house.register_by("1001", AGENT_A, Transport::Tls, CONTACT);
    house.send(TRUNK, &house.invite("1001", "plain", Some(OFFER)));
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert!(invite.starts_with("INVITE sip:phone@192.0.2.1:5070 SIP/2.0\r\n"), "{invite}");
    assert!(header(&invite, "Contact: ").starts_with("<sip:"), "{invite}");
    let deprecated = "sip:phone@192.0.2.2:5070;transport=tls";
    house.register_by("1002", "192.0.2.2:5070", Transport::Tls, deprecated);
    house.send_by(TRUNK, Transport::Tls, &secret_invite(&house, "1002", "old"));
    house.next_to(TRUNK);
    let invite = house.next_to("192.0.2.2:5070");
    assert!(invite.starts_with(&format!("INVITE {deprecated} SIP/2.0\r\n")), "{invite}");
    let web = "sips:phone@df7jal23ls0d.invalid;transport=ws";
    house.register_by("1003", "192.0.2.3:443", Transport::Wss, web);
    house.send_by(TRUNK, Transport::Tls, &secret_invite(&house, "1003", "web"));
    house.next_to(TRUNK);
    let invite = house.next_to("192.0.2.3:443");
    assert!(invite.starts_with(&format!("INVITE {web} SIP/2.0\r\n")), "{invite}");
    let contact = header(&invite, "Contact: ");
    assert!(contact.starts_with("<sips:") && contact.ends_with(";transport=ws>"), "{contact}");
    house.run_out();
}

/// A number that goes to a trunk goes there by TLS or not at all, also to its next address.
#[test]
fn a_trunk_is_called_by_sips_where_it_speaks_tls() {
    let mut house = House::new();
    house.attach_control();
    for (transport, call) in [(Transport::Tls, "t1"), (Transport::Udp, "t2")] {
        house.send_by(TRUNK, Transport::Tls, &secret_invite(&house, "4930", call));
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100"));
        let (ask, call) = house.asked("4930");
        let address = "10.9.7.1:5061".parse().expect("an address");
        let location = LocationId(0);
        let dial = Command::Dial { op: 1, ask, call, address, location, transport };
        house.command(dial, format!("4930\n{SECOND}").as_bytes());
        if transport == Transport::Udp {
            let refusal = house.next_to(TRUNK);
            assert!(refusal.starts_with("SIP/2.0 480"), "{refusal}");
            continue;
        }
        let invite = house.next_to("10.9.7.1:5061");
        assert!(invite.starts_with("INVITE sips:4930@10.9.7.1:5061 SIP/2.0\r\n"), "{invite}");
        house.reply("10.9.7.1:5061", &invite, 503, "t1", None);
        let invite = house.next_to(SECOND);
        assert!(invite.starts_with(&format!("INVITE sips:4930@{SECOND} SIP/2.0\r\n")), "{invite}");
        assert!(header(&invite, "Via: ").starts_with("SIP/2.0/TLS "), "{invite}");
        house.reply(SECOND, &invite, 486, "t1", None);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 486"));
    }
    house.run_out();
    house.expect_nothing_left();
}

/// RFC 5630, 5.2.
#[test]
fn a_sips_contact_is_bound_by_a_sips_request_alone() {
    let mut house = House::new();
    house.log_in("1001", "secret");
    let register = |uri: &str, contact: &str, path: &str, call: &str| {
        let path = if path.is_empty() { String::new() } else { format!("Path: {path}\r\n") };
        format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/TLS {AGENT_A};branch=z9hG4bK{call}\r\n\
             From: <sip:1001.demo@demo.test>;tag=1\r\nTo: <sip:1001.demo@demo.test>\r\nCall-ID: {call}\r\n\
             CSeq: 1 REGISTER\r\nContact: {contact}\r\n{path}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let sips = "<sips:1001@192.0.2.1>";
    for (number, (uri, contact, path, status)) in [
        ("sips:demo.test", sips, "", 401),
        ("sips:demo.test", sips, "<sips:p.example;lr>", 401),
        ("sips:demo.test", "<sip:1001@192.0.2.1;transport=tls>", "", 401),
        ("sip:demo.test", sips, "", 400),
        ("sips:demo.test", sips, "<sip:p.example;lr>", 400),
        ("sips:demo.test", &format!("{sips}, <sip:1001@192.0.2.1>"), "", 400),
    ]
    .into_iter()
    .enumerate()
    {
        house.send_by(
            AGENT_A,
            Transport::Tls,
            &register(uri, contact, path, &format!("r{number}")),
        );
        let answer = house.next_to(AGENT_A);
        assert!(
            answer.starts_with(&format!("SIP/2.0 {status}")),
            "{uri} {contact} {path}: {answer}"
        );
    }
    house.send(AGENT_A, &register("sips:demo.test", sips, "", "udp").replace("/TLS", "/UDP"));
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 403"));
}

/// RFC 5626, 6: who asks for Outbound hears that it has it; who comes by a proxy that does not know it, hears that.
#[test]
fn a_flow_that_a_phone_keeps_is_acknowledged() {
    let mut house = House::new();
    house.log_in("1001", "secret");
    let instance = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000a95a0e128>\"";
    let contact = format!("<sip:1001@192.0.2.1;ob>;reg-id=1;{instance}");
    let plain = format!("<sip:1001@192.0.2.1>;{instance}");
    let proxy = "Via: SIP/2.0/UDP 192.0.2.1:5999;branch=z9hG4bKfirst\r\n";
    let cases = [
        (&contact, "Supported: outbound, path\r\n".to_owned(), 200, Some("30")),
        (&contact, String::new(), 200, None),
        (&plain, "Supported: outbound\r\n".to_owned(), 200, None),
        (&contact, format!("{proxy}Supported: outbound\r\n"), 439, None),
        (
            &contact,
            format!("{proxy}Path: <sip:192.0.2.1:5070;lr>\r\nSupported: outbound\r\n"),
            439,
            None,
        ),
        (
            &contact,
            format!("{proxy}Path: <sip:192.0.2.1:5070;lr;ob>\r\nSupported: outbound\r\n"),
            200,
            Some("30"),
        ),
        (&contact, "Require: outbound\r\nSupported: outbound\r\n".to_owned(), 200, Some("30")),
    ];
    for (number, (contact, lines, status, timer)) in cases.into_iter().enumerate() {
        let register = |cseq: u32, proof: &str| {
            format!(
                "REGISTER sip:demo.test SIP/2.0\r\nVia: SIP/2.0/UDP {AGENT_A};branch=z9hG4bKr{number}{cseq}\r\n{lines}\
                 From: <sip:1001.demo@demo.test>;tag=1\r\nTo: <sip:1001.demo@demo.test>\r\nCall-ID: r{number}\r\n\
                 CSeq: {cseq} REGISTER\r\nContact: {contact}\r\n{proof}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            )
        };
        // A nonce of its own.
        house.pass_ms(40_000);
        house.send(AGENT_A, &register(1, ""));
        let challenged = house.next_to(AGENT_A);
        assert!(challenged.starts_with("SIP/2.0 401"), "{challenged}");
        let message = lex(challenged.as_bytes()).expect("SIP");
        let challenge = Challenge::choose(message.headers(Header::WwwAuthenticate)).expect("one");
        let proof =
            answer(&challenge, "1001.demo", "secret", b"REGISTER", b"sip:demo.test", 1, "c");
        house.send(
            AGENT_A,
            &register(2, &format!("Authorization: {}\r\n", String::from_utf8_lossy(&proof))),
        );
        let answered = house.next_to(AGENT_A);
        assert!(answered.starts_with(&format!("SIP/2.0 {status}")), "{lines}: {answered}");
        let line = |name: &str| answered.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(line("Flow-Timer: "), timer, "{lines}: {answered}");
        assert_eq!(line("Require: "), timer.map(|_| "outbound"), "{lines}: {answered}");
    }
}
