//! Called parties that say 3xx: what is followed, and what would cost somebody something.

use abi::{Command, Counter, Event, Why};
use base::CallRef;
use sip::wire::lex;

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK};

const NEXT: &str = "10.9.0.2:5060";

fn asked(house: &mut House) -> Option<(u64, CallRef, Why)> {
    house.events().iter().find_map(|event| match *event {
        Event::Asked { op, call, why, .. } => Some((op, call, why)),
        _ => None,
    })
}

/// Two phones; the trunk called a number.
fn called(number: &str) -> House {
    let mut house = House::new();
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let text = house.invite(number, "c1", Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house
}

/// A call of the first agent's that control sends out to the trunk.
fn out(number: &str) -> House {
    let mut house = called(number);
    let (ask, call, _) = asked(&mut house).expect("control was asked");
    let (address, location) = ("10.9.0.1:5061".parse().expect("an address"), base::LocationId(0));
    let transport = base::Transport::Udp;
    house.command(
        Command::Dial { op: 7, ask, call, address, location, transport },
        number.as_bytes(),
    );
    house
}

/// The party that was invited last at that address says where else.
fn redirect(house: &mut House, peer: &str, status: u16, contacts: &str) {
    let invite = house.next_to(peer);
    let message = lex(invite.as_bytes()).expect("SIP");
    let contact = [("Contact", contacts.as_bytes())];
    let from = peer.parse().expect("an address");
    let told = sip::wire::response(&message, status, "Moved", Some("t9"), from, &contact, None);
    house.send(peer, &String::from_utf8(told).expect("text"));
    assert!(house.next_to(peer).starts_with("ACK "));
}

fn takes_it(house: &mut House, peer: &str) -> String {
    let invite = house.next_to(peer);
    house.reply(peer, &invite, 200, "t3", Some(OFFER));
    assert!(house.next_to(peer).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(peer);
    house.reply(peer, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
    invite
}

fn is_refused(house: &mut House, what: &str) {
    let told = house.drain_to(TRUNK);
    assert!(told.last().is_some_and(|text| text.starts_with("SIP/2.0 480 ")), "{what}: {told:?}");
    assert_eq!(house.drain(), [], "{what}: nobody else is called");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_phone_sends_its_call_to_another_number() {
    for contacts in [
        "<sip:1002@127.0.0.1>",
        "<sip:1002@demo.test;user=phone>",
        "<sip:bob@elsewhere.test>, <sip:1002@127.0.0.1:5060>",
        "<sip:777@127.0.0.1>;q=0.1, <sip:1002@127.0.0.1>;q=0.7",
    ] {
        let mut house = called("1001");
        redirect(&mut house, AGENT_A, 302, contacts);
        takes_it(&mut house, AGENT_B);
        assert_eq!(house.counter(Counter::CallsRedirected), 1, "{contacts}");
    }
}

#[test]
fn what_the_tables_do_not_know_is_asked_as_if_the_caller_had_dialled_it() {
    let mut house = called("1001");
    redirect(&mut house, AGENT_A, 301, "<sip:0900555@127.0.0.1>");
    let (ask, call, why) = asked(&mut house).expect("control was asked");
    assert_eq!(why, Why::Called, "a trunk's caller gets no way out by it");
    house.command(Command::Reject { op: 1, ask, call, status: 404, retry_after_s: 0 }, b"");
    let told = house.drain_to(TRUNK);
    assert!(told.last().is_some_and(|text| text.starts_with("SIP/2.0 404 ")), "{told:?}");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn circles_and_other_hosts_are_not_followed() {
    for (status, contacts) in [
        (302, "<sip:1001@127.0.0.1>"),
        (302, "<sip:1001.demo@127.0.0.1>"),
        (302, "<sip:1002@127.0.0.1:5999>"),
        (302, "<sip:1002@198.51.100.1>"),
        (302, "<tel:+491>"),
        (302, "<sip:127.0.0.1>"),
        (305, "<sip:1002@127.0.0.1>"),
        (380, "<sip:1002@127.0.0.1>"),
    ] {
        let mut house = called("1001");
        redirect(&mut house, AGENT_A, status, contacts);
        is_refused(&mut house, contacts);
    }
    let mut house = called("1001");
    redirect(&mut house, AGENT_A, 302, "<sip:1002@127.0.0.1>");
    redirect(&mut house, AGENT_B, 302, "<sip:1001@127.0.0.1>");
    is_refused(&mut house, "back to the first");
}

#[test]
fn a_trunk_names_its_own_addresses_for_the_same_number_and_agents_of_ours() {
    let mut house = out("0301");
    redirect(&mut house, "10.9.0.1:5061", 302, "<sip:0301@10.9.0.2>");
    let invite = takes_it(&mut house, NEXT);
    assert!(invite.starts_with("INVITE sip:0301@10.9.0.2:5060 SIP/2.0\r\n"), "{invite}");
    let mut house = out("0301");
    redirect(&mut house, "10.9.0.1:5061", 302, "<sip:1002@127.0.0.1>");
    takes_it(&mut house, AGENT_B);
}

#[test]
fn a_trunk_does_not_make_a_tenant_pay_for_other_numbers() {
    for contacts in [
        "<sip:0900555@10.9.0.2>",
        "<sip:0301@198.51.100.1>",
        "<sip:0301@10.9.0.1:5061>",
        "<sip:0900555@127.0.0.1>",
    ] {
        let mut house = out("0301");
        redirect(&mut house, "10.9.0.1:5061", 302, contacts);
        is_refused(&mut house, contacts);
        assert_eq!(house.counter(Counter::CallsRedirected), 0, "{contacts}");
    }
}
