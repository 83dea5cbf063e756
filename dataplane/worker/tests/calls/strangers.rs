//! Who proves nothing, and what that costs those who are in.

use abi::{Counter, Event};

use crate::house::{AGENT_A, House, TRUNK};

const SCANNER: &str = "198.51.100.7:5060";

/// A request of a stranger to a number.
fn scan(method: &str, number: &str, n: u32, from: &str) -> String {
    format!(
        "{method} sip:{number}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{n}\r\n\
         From: <sip:{number}@127.0.0.1>;tag=r\r\nTo: <sip:{number}@127.0.0.1>\r\nCall-ID: q{n}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:p@{from}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_scanner_gets_few_answers_then_none_and_calls_do_not_notice() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    house.events();
    let mut answers = 0;
    for n in 0..5_000 {
        let number = if n % 2 == 0 { "1001" } else { "7777" };
        let method = ["REGISTER", "INVITE", "OPTIONS"][n as usize % 3];
        house.send(SCANNER, &scan(method, number, n, SCANNER));
        answers += house.drain_to(SCANNER).len();
        house.pass_ms(20);
        house.drain();
    }
    // 100 s: two times until a ban, 200 and then ten a second, and a minute of silence between.
    assert!((200..=800).contains(&answers), "{answers}");
    assert!(house.counter(Counter::DropSipRate) > 100);
    assert!(house.counter(Counter::DropSipBanned) > 1_000);
    let bans = house.events().into_iter().filter(
        |event| matches!(event, Event::SourceBanned { addr, .. } if addr.to_string() == SCANNER),
    );
    assert_eq!(bans.count() as u64, house.counter(Counter::SourcesBanned));
    // Others are answered as ever, and the call goes on.
    let text = scan("REGISTER", "1002", 9_000, "198.51.100.8:5060");
    house.send("198.51.100.8:5060", &text);
    assert!(house.next_to("198.51.100.8:5060").starts_with("SIP/2.0 401 "));
    let text = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn who_is_in_is_heard_though_the_address_is_banned() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (host, _) = AGENT_A.split_once(':').expect("a port");
    let scanner = format!("{host}:9999");
    for n in 0..2_000 {
        house.send(&scanner, &scan("REGISTER", "4711", n, &scanner));
        house.pass_ms(20);
        house.drain();
    }
    house.send(&scanner, &scan("REGISTER", "4711", 8_000, &scanner));
    assert!(house.drain_to(&scanner).is_empty(), "it is banned");
    // The phone that is registered at the same address renews, and is challenged as ever.
    house.send(AGENT_A, &scan("REGISTER", "1001.demo", 8_001, AGENT_A));
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 401 "));
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_worker_with_too_much_to_do_refuses_new_calls_only() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", "192.0.2.2:5070");
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    house.load(1_000, 100);
    let text = house.invite("1002", "c2", Some(crate::house::OFFER));
    house.send(TRUNK, &text);
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 503 "), "{refusal}");
    assert!(refusal.contains("\r\nRetry-After: "), "{refusal}");
    let text = house.within("OPTIONS", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "), "the call that stands is served");
    house.load(0, 100);
    let (_, other) = house.call_through("1002", "192.0.2.2:5070", "c3");
    for (ok, id) in [(ok, "c1"), (other, "c3")] {
        let text = house.within("BYE", &ok, id, 3, None);
        house.send(TRUNK, &text);
    }
    house.run_out();
    house.expect_nothing_left();
}
