//! Trunks that are watched by OPTIONS, and calls that go to the next address.

use abi::{Command, Event, OpResult, Outage};
use base::{LocationId, Transport};

use crate::house::{House, OFFER, TRUNK, header};

const CARRIER: &str = "10.9.7.1:5080";
const SECOND: &str = "10.9.7.2:5082";

fn watch(house: &mut House, op: u64, every_s: u32) {
    let address = CARRIER.parse().expect("an address");
    let (location, transport) = (LocationId(0), Transport::Udp);
    house.command(Command::Watch { op, address, location, transport, every_s }, b"");
    let events = house.events();
    assert!(events.contains(&Event::Done { op, result: OpResult::Ok }), "{events:?}");
}

/// The next OPTIONS, within so many seconds.
fn asked(house: &mut House, seconds: u64) -> String {
    for _ in 0..seconds * 10 {
        house.pass_ms(100);
        if let Some(text) = house.drain_to(CARRIER).pop() {
            return text;
        }
    }
    panic!("no OPTIONS within {seconds} s");
}

fn trunk_events(house: &mut House) -> Vec<bool> {
    let of = |event| match event {
        Event::Trunk { addr, outage } => {
            assert_eq!(addr.to_string(), CARRIER);
            Some(outage == Outage::None)
        }
        _ => None,
    };
    house.events().into_iter().filter_map(of).collect()
}

#[test]
fn a_trunk_that_takes_no_connection_is_down_at_the_second_try() {
    let mut house = House::new();
    let address = CARRIER.parse().expect("an address");
    let (location, transport) = (LocationId(0), Transport::Tcp);
    house.command(Command::Watch { op: 1, address, location, transport, every_s: 30 }, b"");
    house.events();
    for told in [None, Some(false), None] {
        let options = asked(&mut house, 31);
        assert!(header(&options, "Via: ").starts_with("SIP/2.0/TCP "), "{options}");
        house.unsent(CARRIER, transport, &options);
        assert_eq!(
            trunk_events(&mut house),
            Vec::from_iter(told),
            "at once, not at the next question"
        );
    }
}

#[test]
fn a_trunk_goes_down_after_two_failures_and_comes_up_with_one_answer() {
    let mut house = House::new();
    watch(&mut house, 1, 30);
    for (status, told) in [
        (200, None),
        (404, None),
        (503, None),
        (200, None),
        (503, None),
        (408, Some(false)),
        (503, None),
        (405, Some(true)),
    ] {
        let options = asked(&mut house, 31);
        assert!(options.starts_with("OPTIONS sip:10.9.7.1:5080 SIP/2.0\r\n"), "{options}");
        assert_eq!(header(&options, "Accept: "), "application/sdp");
        house.reply(CARRIER, &options, status, "t", None);
        assert_eq!(trunk_events(&mut house), Vec::from_iter(told), "{status}");
    }
    // Silence counts as well, and who asks again is told.
    house.pass_ms(95_000);
    assert_eq!(trunk_events(&mut house), [false]);
    house.drain();
    let address = CARRIER.parse().expect("an address");
    let again = Command::Watch {
        op: 2,
        address,
        location: LocationId(0),
        transport: Transport::Udp,
        every_s: 30,
    };
    house.command(again, b"");
    assert_eq!(trunk_events(&mut house), [false]);
    watch(&mut house, 3, 0);
    house.pass_ms(70_000);
    house.drain();
    house.pass_ms(70_000);
    assert!(house.drain().is_empty(), "it is let be");
    house.expect_nothing_left();
}

fn dial(house: &mut House, others: &str) -> String {
    house.attach_control();
    let text = house.invite("95555", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let (ask, call) = house.asked("95555");
    let address = CARRIER.parse().expect("an address");
    let (location, transport) = (LocationId(0), Transport::Udp);
    let command = Command::Dial { op: 7, ask, call, address, location, transport };
    house.command(command, format!("95555{others}").as_bytes());
    house.next_to(CARRIER)
}

#[test]
fn a_call_goes_to_the_next_address() {
    for silent in [false, true] {
        let mut house = House::new();
        let first = dial(&mut house, "\nnonsense\n10.9.7.2:5082");
        assert!(first.starts_with("INVITE sip:95555@10.9.7.1:5080 "), "{first}");
        if silent {
            house.pass_ms(32_100);
            house.drain_to(CARRIER);
        } else {
            house.reply(CARRIER, &first, 503, "t", None);
            assert!(house.next_to(CARRIER).starts_with("ACK "));
        }
        assert!(house.drain_to(TRUNK).is_empty(), "the caller hears nothing of it");
        let second = if silent { house.drain_to(SECOND).remove(0) } else { house.next_to(SECOND) };
        assert!(second.starts_with("INVITE sip:95555@10.9.7.2:5082 "), "{second}");
        for name in ["Call-ID: ", "CSeq: ", "From: "] {
            assert_eq!(header(&second, name), header(&first, name));
        }
        let body = |text: &str| text.split_once("\r\n\r\n").expect("a body").1.to_owned();
        assert_eq!(body(&second), body(&first));
        house.reply(SECOND, &second, 200, "t2", Some(OFFER));
        assert!(house.next_to(SECOND).starts_with("ACK "));
        let ok = house.next_to(TRUNK);
        assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
        house.ack(TRUNK, &ok, "c1");
        let bye = house.within("BYE", &ok, "c1", 2, None);
        house.send(TRUNK, &bye);
        house.next_to(TRUNK);
        let bye = house.next_to(SECOND);
        house.reply(SECOND, &bye, 200, "t2", None);
        house.drain();
        house.run_out();
        house.expect_nothing_left();
    }
}

#[test]
fn the_last_address_and_who_rang_decide() {
    let mut house = House::new();
    let first = dial(&mut house, "\n10.9.7.2:5082");
    house.reply(CARRIER, &first, 180, "t", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
    house.reply(CARRIER, &first, 503, "t", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 503 "), "it rang there");
    let mut house = House::new();
    let first = dial(&mut house, "\n10.9.7.2:5082");
    house.reply(CARRIER, &first, 503, "t", None);
    let second = house.next_to(SECOND);
    house.reply(SECOND, &second, 503, "t", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 503 "), "nothing is left to try");
    let mut house = House::new();
    let first = dial(&mut house, "\n10.9.7.2:5082");
    house.reply(CARRIER, &first, 486, "t", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 486 "), "busy is an answer");
    house.run_out();
    house.expect_nothing_left();
}
