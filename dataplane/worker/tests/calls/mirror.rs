//! Copies of signalling: which messages, in which order, of which call; and what records hold.

use crate::house::{AGENT_A, House, OFFER, TRUNK};
use abi::{CallRow, Command, Counter, EndedBy, LegRow};
use std::net::SocketAddr;
use std::time::Duration;
use worker::Mirrored;

const TOOL: &str = "127.0.0.1:9060";

fn trace(house: &mut House, trace: u32, for_s: u64, serial: u64, number: &str) {
    let to: SocketAddr = TOOL.parse().expect("an address");
    let until = (house.now + Duration::from_secs(for_s)).as_nanos();
    house.command(Command::Trace { op: 9, trace, to, until, serial }, number.as_bytes());
}

/// Who sent what to whom, in short.
fn shown(copies: &[Mirrored]) -> Vec<String> {
    let name = |at: SocketAddr| match at.to_string().as_str() {
        TRUNK => "trunk".to_owned(),
        AGENT_A => "agent".to_owned(),
        "127.0.0.1:5060" => "us".to_owned(),
        other => other.to_owned(),
    };
    let line = |copy: &Mirrored| {
        let text = String::from_utf8_lossy(&copy.message).into_owned();
        let first = text.lines().next().expect("a line").replace("SIP/2.0 ", "");
        let what = first.split(' ').next().unwrap_or_default();
        format!("{} {what} {}", name(copy.source), name(copy.destination))
    };
    copies.iter().map(line).collect()
}

const WHOLE: [&str; 11] = [
    "trunk INVITE us",
    "us 100 trunk",
    "us INVITE agent",
    "agent 200 us",
    "us ACK agent",
    "us 200 trunk",
    "trunk ACK us",
    "trunk BYE us",
    "us 200 trunk",
    "us BYE agent",
    "agent 200 us",
];

/// A call from the trunk to an agent, hung up by the trunk.
fn call(house: &mut House, call_id: &str) {
    let (_, ok) = house.call_through("1001", AGENT_A, call_id);
    let bye = house.within("BYE", &ok, call_id, 2, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "t1", None);
}

fn row(house: &House) -> CallRow {
    house.region().calls().read(0).expect("a row")
}

#[test]
fn the_capture_server_is_shown_both_legs_of_a_call_under_one_number() {
    let mut house = House::new();
    house.capture();
    house.register("1001", AGENT_A);
    call(&mut house, "c1");
    assert_eq!(shown(&house.mirrored), WHOLE);
    let serial = row(&house).serial;
    assert!(house.mirrored.iter().all(|copy| copy.to.is_none() && copy.serial == serial));
    assert_eq!(house.count(Counter::SipMirrored), WHOLE.len() as u64);
    // What belongs to no call is shown as well.
    house.mirrored.clear();
    house.send("198.51.100.9:5060", &house.invite("1001", "x", Some(OFFER)));
    assert!(house.mirrored.len() >= 2, "{:?}", shown(&house.mirrored));
    assert!(house.mirrored.iter().all(|copy| copy.serial == 0));
}

#[test]
fn a_trace_by_number_begins_with_the_first_invite_and_another_s_is_empty() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    trace(&mut house, 1, 60, 0, "1001");
    trace(&mut house, 2, 60, 0, "1009");
    call(&mut house, "c1");
    assert_eq!(shown(&house.mirrored), WHOLE);
    assert!(house.mirrored.iter().all(|copy| copy.to == TOOL.parse().ok()));
}

#[test]
fn a_trace_by_serial_number_shows_that_call_from_then_on() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    assert!(house.mirrored.is_empty(), "nobody looks");
    let serial = row(&house).serial;
    trace(&mut house, 1, 60, serial, "");
    trace(&mut house, 2, 60, serial + 1, "");
    house.send(TRUNK, &house.invite("1001", "c2", Some(OFFER)));
    assert!(house.mirrored.is_empty(), "another call: {:?}", shown(&house.mirrored));
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    assert_eq!(shown(&house.mirrored), ["trunk BYE us", "us 200 trunk", "us BYE agent"]);
    assert!(house.mirrored.iter().all(|copy| copy.serial == serial));
}

#[test]
fn a_trace_ends_by_its_time_or_by_order_and_there_are_four_at_most() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    for id in 1..=6 {
        trace(&mut house, id, 10, 0, "");
    }
    call(&mut house, "c1");
    assert_eq!(house.mirrored.len(), 4 * WHOLE.len());
    // An earlier end for three of them, and a later one for the last.
    house.mirrored.clear();
    for id in 1..=3 {
        trace(&mut house, id, 0, 0, "");
    }
    trace(&mut house, 4, 100, 0, "");
    house.now = house.now + Duration::from_secs(50);
    call(&mut house, "c2");
    assert_eq!(shown(&house.mirrored), WHOLE);
    house.mirrored.clear();
    house.now = house.now + Duration::from_secs(51);
    call(&mut house, "c3");
    assert!(house.mirrored.is_empty(), "{:?}", shown(&house.mirrored));
}

#[test]
fn a_call_s_rows_tell_who_ended_it_and_each_leg_its_times_codec_and_call_id() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    house.now = house.now + Duration::from_secs(3);
    let bye = house.within("BYE", &invite, "", 1, None);
    house.send(AGENT_A, &bye);
    drop(ok);
    let row = row(&house);
    assert_eq!((row.ended_by(), row.ended_leg, row.cause), (EndedBy::Leg, 1, 0));
    let legs: Vec<LegRow> = (0..2).filter_map(|place| house.region().legs().read(place)).collect();
    for leg in &legs {
        assert!(leg.started_at > 0 && leg.answered_at >= leg.started_at, "{leg:?}");
        assert_eq!(leg.ended_at, row.ended_at);
        assert!(leg.ended_at - leg.answered_at >= 3_000_000_000);
        assert_eq!(leg.codec().as_str(), "PCMU/8000");
    }
    assert_eq!(legs[0].call_id().as_str(), "c1");
    assert_eq!(legs[1].call_id().as_str(), crate::house::header(&invite, "Call-ID: "));
}
