//! REGISTERs: what they leave behind, and what happens to those that come again.

use abi::{Counter, RegistrationRow};
use base::AgentSlot;
use proptest::prelude::*;
use sip::digest::{Challenge, answer};
use sip::wire::{Header, lex};
use worker::Input;

use crate::house::{AGENT_A, AGENT_B, House};

/// A phone that proves each REGISTER by the next count of one nonce.
struct Phone {
    challenge: Vec<u8>,
    count: u32,
}

impl Phone {
    fn new(house: &mut House) -> Phone {
        house.send(AGENT_A, &text(AGENT_A, 1, "", ""));
        let challenged = house.next_to(AGENT_A);
        let message = lex(challenged.as_bytes()).expect("SIP");
        let offer = message.headers(Header::WwwAuthenticate).next().expect("an offer");
        Phone { challenge: offer.to_vec(), count: 0 }
    }

    fn register(&mut self, lines: &str) -> String {
        self.count += 1;
        let challenge = Challenge::parse(&self.challenge).expect("a challenge");
        let proof = answer(
            &challenge,
            "1001.demo",
            "secret",
            b"REGISTER",
            b"sip:demo.test",
            self.count,
            "c",
        );
        let proof = format!("Authorization: {}\r\n", String::from_utf8(proof).expect("text"));
        text(AGENT_A, 1 + self.count, &proof, lines)
    }
}

fn text(from: &str, cseq: u32, proof: &str, lines: &str) -> String {
    format!(
        "REGISTER sip:demo.test SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKr{cseq}\r\n\
         From: <sip:1001.demo@demo.test>;tag=1\r\nTo: <sip:1001.demo@demo.test>\r\nCall-ID: r1\r\n\
         CSeq: {cseq} REGISTER\r\n{proof}{lines}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The status line, the To with its tag, and the Contacts with what they last.
fn told(answer: &str) -> (String, String, Vec<String>) {
    let lines = |name: &str| {
        answer.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    };
    let to: Vec<String> = lines("To:");
    (answer.lines().next().unwrap_or_default().to_owned(), to.concat(), lines("Contact:"))
}

/// What stands of a phone, but for how its last REGISTER was answered.
fn binding(house: &House) -> RegistrationRow {
    let row = house.region().registrations().read(AgentSlot(0)).expect("a row");
    RegistrationRow { answered: 0, answer: 0, ..row }
}

const CONTACT: &str = "Contact: <sip:p@192.0.2.1:5070>";

#[test]
fn a_registration_takes_no_transaction_and_tells_the_date() {
    let mut house = House::new();
    house.log_in("1001", "secret");
    let mut phone = Phone::new(&mut house);
    house.send(AGENT_A, &phone.register(&format!("{CONTACT}\r\n")));
    let first = house.next_to(AGENT_A);
    assert!(first.starts_with("SIP/2.0 200 ") && !first.contains("\r\nDate:"), "{first}");
    house.clock(1_795_330_860);
    house.pass_ms(61_000);
    house.send(AGENT_A, &phone.register(&format!("{CONTACT}\r\n")));
    let second = house.next_to(AGENT_A);
    assert!(second.contains("\r\nDate: Sun, 22 Nov 2026 07:02:01 GMT\r\n"), "{second}");
    assert_eq!(house.transactions(), 0);
}

#[test]
fn each_answer_is_given_again_and_nothing_is_done_twice() {
    let two = "Contact: <sip:q@192.0.2.1>;q=0.2, <sip:p@192.0.2.1:5070>;q=0.9;expires=600\r\n";
    let cases = [
        (format!("{CONTACT}\r\n"), "200"),
        (format!("{CONTACT};expires=5\r\n"), "423"),
        (String::new(), "200"),
        (two.to_owned(), "200"),
        ("Contact: *\r\nExpires: 60\r\n".to_owned(), "400"),
        (format!("{CONTACT};expires=0\r\n"), "200"),
        (format!("{CONTACT}\r\n"), "200"),
        ("Contact: *\r\nExpires: 0\r\n".to_owned(), "200"),
        ("Contact: *\r\nExpires: 0\r\n".to_owned(), "200"),
    ];
    let mut house = House::new();
    house.log_in("1001", "secret");
    let mut phone = Phone::new(&mut house);
    for (nth, (lines, status)) in (1..).zip(cases) {
        let register = phone.register(&lines);
        house.send(AGENT_A, &register);
        let answered = house.next_to(AGENT_A);
        assert!(answered.starts_with(&format!("SIP/2.0 {status} ")), "{lines}: {answered}");
        let (row, _) = (binding(&house), house.events());
        for _ in 0..3 {
            house.send(AGENT_A, &register);
            assert_eq!(house.next_to(AGENT_A), answered, "{lines}");
        }
        assert_eq!((binding(&house), house.events().len()), (row, 0), "{lines}");
        assert_eq!(house.count(Counter::RegistersRepeated), 3 * nth);
        // From elsewhere the same is nobody's.
        house.send(AGENT_B, &register);
        assert!(house.drain().iter().any(|(_, text)| text.starts_with("SIP/2.0 401 ")), "{lines}");
        assert_eq!(binding(&house), row, "{lines}");
    }
    assert_eq!(house.transactions(), 0);
}

#[test]
fn another_login_is_not_answered_for_the_one_before() {
    let mut house = House::new();
    let slot = house.log_in("1001", "secret");
    let mut phone = Phone::new(&mut house);
    let register = phone.register(&format!("{CONTACT}\r\n"));
    house.send(AGENT_A, &register);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    let row = house.region().agents().read(slot).expect("a row");
    let row = abi::AgentRow { login_epoch: row.login_epoch + 1, ..row };
    house.region().agents().write(slot, &row);
    house.send(AGENT_A, &register);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 401 "));
}

/// What a phone may say of its Contact.
fn wishes() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (60_u32..4_000, 0_u16..3).prop_map(|(seconds, port)| {
            format!("Contact: <sip:p@192.0.2.1:507{port}>;expires={seconds}\r\n")
        }),
        1 => Just("Contact: <sip:p@192.0.2.1:5070>;expires=0\r\n".to_owned()),
        1 => Just("Contact: *\r\nExpires: 0\r\n".to_owned()),
        1 => Just("Contact: <sip:p@192.0.2.1>;expires=9\r\n".to_owned()),
        1 => Just("Contact: <http://p>\r\n".to_owned()),
        1 => Just(String::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However late and often REGISTERs come again, and whatever came in between, they change nothing; the last one
    /// gets the status, the tag and the Contact that it got.
    #[test]
    fn a_repeated_register_changes_nothing(
        steps in proptest::collection::vec((wishes(), 0_u64..5_000, proptest::collection::vec(any::<u8>(), 0..4)), 1..12),
    ) {
        let mut house = House::new();
        house.log_in("1001", "secret");
        let mut phone = Phone::new(&mut house);
        let mut past: Vec<String> = Vec::new();
        for (lines, ms, again) in steps {
            house.pass_ms(ms);
            let register = phone.register(&lines);
            house.send(AGENT_A, &register);
            let answered = told(&house.next_to(AGENT_A));
            past.push(register);
            let (row, _) = (binding(&house), house.events());
            for which in again {
                let which = usize::from(which) % past.len();
                house.send(AGENT_A, &past[which]);
                let repeated = told(&house.next_to(AGENT_A));
                if which == past.len() - 1 {
                    prop_assert_eq!(&repeated, &answered);
                } else {
                    // Its transaction is over at the phone, which had an answer before it went on (10.2).
                    prop_assert!(repeated.0.starts_with("SIP/2.0 401 "));
                }
                prop_assert_eq!(binding(&house), row);
                prop_assert_eq!(house.events().len(), 0);
            }
        }
        prop_assert_eq!(house.transactions(), 0);
    }
}

impl House {
    /// What the calendar says.
    fn clock(&mut self, unix_s: u64) {
        self.input_to(0, Input::Clock { unix_s });
    }
}
