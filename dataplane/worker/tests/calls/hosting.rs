//! Calls over two blades: two CCBs with a region each, SIP and RTP between them as text and bytes. The test plays
//! both controls: it reserves, mints, grants and answers questions.

use abi::{
    AgentRow, AgentState, CallState, Command, Counter, Event, Fence, LeaseState, LeaseTicket,
    LeaseToken, OpResult, Party, Purpose, SecretRow, Why,
};
use base::{AgentSlot, CallRef, CcbId, LocationId, Medium, Transport};
use worker::Verdict;

use crate::attended::{invite_from, replacing, within};
use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header, with};
use crate::transfers::{refer, told};

/// The blade where calls begin, and the home of the agent 2001.
const ONE: &str = "10.1.0.1:5060";
const TWO: &str = "10.1.0.2:5060";
const AGENT: AgentSlot = AgentSlot(0);
/// What the phone of the called agent can do.
const OFFER_B: &str = "v=0\r\no=- 2 2 IN IP4 203.0.113.20\r\ns=-\r\nc=IN IP4 203.0.113.20\r\nt=0 0\r\n\
                       m=audio 4100 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n";
const CALLER_RTP: &str = "203.0.113.9:4000";
const PHONE_RTP: &str = "203.0.113.20:4100";

pub struct Blades {
    pub one: House,
    pub two: House,
    minted: u8,
    /// What went from the first to the second.
    seen: Vec<String>,
}

impl Blades {
    /// Both with their control; 2001's phone is registered at the second.
    pub fn new() -> Blades {
        Blades::of(1)
    }

    fn of(workers: u8) -> Blades {
        let mut one = House::blade(1, "10.1.0.1", workers);
        let mut two = House::blade(2, "10.1.0.2", workers);
        one.attach_control();
        two.attach_control();
        two.register("2001", AGENT_A);
        Blades { one, two, minted: 0, seen: Vec::new() }
    }

    /// Carries what the blades have for each other until they have nothing.
    pub fn pump(&mut self) {
        loop {
            let there = self.one.drain_to(TWO);
            let back = self.two.drain_to(ONE);
            if there.is_empty() && back.is_empty() {
                return;
            }
            for text in there {
                self.two.send(ONE, &text);
                self.seen.push(text);
            }
            back.iter().for_each(|text| self.one.send(TWO, text));
        }
    }

    fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.one.pass_ms(100);
            self.two.pass_ms(100);
            self.pump();
        }
    }

    /// The home's control grants the agent's lease to the first blade.
    pub fn grant(&mut self, agent: AgentSlot, purpose: Purpose) -> LeaseTicket {
        self.minted += 1;
        granted(&self.two, agent, CcbId(1), purpose, self.minted)
    }

    /// The first blade's control says that a call goes to an agent of the second.
    pub fn host(&mut self, question: (u64, CallRef), number: &str, value: &str) -> OpResult {
        let result = host_at(&mut self.one, CcbId(2), TWO, question, number, value);
        self.pump();
        result
    }

    /// A caller at the first blade's trunk dials 2001; its control is asked.
    fn ask(&mut self, call_id: &str) -> (u64, CallRef) {
        let text = self.one.invite("2001", call_id, Some(OFFER));
        self.one.send(TRUNK, &text);
        assert!(self.one.next_to(TRUNK).starts_with("SIP/2.0 100 "));
        self.one.asked("2001")
    }

    /// The call that was asked about is granted; the INVITE that the phone gets.
    fn ring(&mut self, call_id: &str) -> String {
        let question = self.ask(call_id);
        let ticket = self.grant(AGENT, Purpose::Call);
        assert_eq!(self.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        self.two.next_to(AGENT_A)
    }

    /// The phone answers; our INVITE to it and our 200 to the trunk.
    fn connect(&mut self, call_id: &str) -> (String, String) {
        let invite = self.ring(call_id);
        self.two.reply(AGENT_A, &invite, 180, "t1", None);
        self.pump();
        assert!(self.one.next_to(TRUNK).starts_with("SIP/2.0 180 "));
        self.two.reply(AGENT_A, &invite, 200, "t1", Some(OFFER_B));
        assert!(self.two.next_to(AGENT_A).starts_with("ACK "));
        self.pump();
        let ok = self.one.next_to(TRUNK);
        assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
        self.one.ack(TRUNK, &ok, call_id);
        self.pump();
        (invite, ok)
    }

    /// Where a packet that came to a port of one blade comes out, over as many blades as it takes.
    fn rtp(&mut self, at_one: bool, pair: u32, from: &str, sequence: u16) -> String {
        let house = if at_one { &mut self.one } else { &mut self.two };
        let Verdict::Send { socket, to } = house.rtp(pair, from, sequence) else {
            return "nowhere".to_owned();
        };
        let ip = if at_one { "10.1.0.1" } else { "10.1.0.2" };
        let other = if at_one { "10.1.0.2" } else { "10.1.0.1" };
        if to.ip().to_string() != other {
            return to.to_string();
        }
        let source = format!("{ip}:{}", 30_000 + 2 * socket.pair().index());
        self.rtp(!at_one, u32::from(to.port() - 30_000) / 2, &source, sequence)
    }

    /// The second blade's tag in the dialog with the first.
    fn tag_of_two(&self, call_id: &str) -> String {
        let of_call = |text: &&String| text.starts_with("ACK ") && text.contains(call_id);
        let ack = self.seen.iter().find(of_call).expect("an ACK");
        header(ack, "To: ").split_once(";tag=").expect("a tag").1.to_owned()
    }

    fn word(&self) -> LeaseState {
        self.two.region().leases().read(AGENT, Medium::Voice)
    }

    /// All timers run out; nothing is left on both.
    fn expect_nothing_left(&mut self) {
        self.pass_ms(70_000);
        for house in [&mut self.one, &mut self.two] {
            house.drain();
            house.expect_nothing_left();
        }
    }

    /// The trunk hangs up, and the phone hears it.
    fn hang_up(&mut self, ok: &str, call_id: &str, cseq: u32) {
        let bye = self.one.within("BYE", ok, call_id, cseq, None);
        self.one.send(TRUNK, &bye);
        assert!(self.one.next_to(TRUNK).starts_with("SIP/2.0 200 "));
        self.pump();
        let bye = self.two.next_to(AGENT_A);
        assert!(bye.starts_with("BYE "), "{bye}");
        self.two.reply(AGENT_A, &bye, 200, "t1", None);
        self.pump();
    }
}

/// The home's control grants an agent's lease to another CCB.
fn granted(home: &House, agent: AgentSlot, by: CcbId, purpose: Purpose, minted: u8) -> LeaseTicket {
    let region = home.region();
    let counter = region.leases().reserve(agent, Medium::Voice, by, purpose, home.now);
    let counter = counter.expect("the word is free");
    let token = [minted; 16];
    let secret = region.secrets().read(agent).expect("a row");
    let row = SecretRow { lease_counter: counter, lease_token: token, ..secret };
    region.secrets().write(agent, &row);
    let incarnation = region.header().data_plane().incarnation;
    let fence = Fence { epoch: 5, incarnation, counter };
    LeaseTicket { fence, token: LeaseToken(token), purpose, by }
}

/// The holder's control says that a call goes to an agent of another CCB.
fn host_at(
    holder: &mut House,
    home: CcbId,
    address: &str,
    (ask, call): (u64, CallRef),
    number: &str,
    value: &str,
) -> OpResult {
    let address = address.parse().expect("an address");
    let (location, transport) = (LocationId(0), Transport::Udp);
    let command = Command::Host { op: 9, ask, call, home, address, location, transport };
    holder.command(command, format!("{number}.demo\n{number}\n{value}").as_bytes());
    let done = holder.done();
    done.iter().find(|(op, _)| *op == 9).expect("a completion").1
}

#[test]
fn a_call_goes_over_two_blades() {
    let mut blades = Blades::new();
    let (invite, ok) = blades.connect("c1");
    assert!(invite.contains("From: <sip:0301@10.1.0.2:5060>"), "{invite}");
    let LeaseState::Bound { holder, purpose, legs, open, .. } = blades.word() else {
        panic!("{:?}", blades.word());
    };
    assert_eq!((holder, purpose, legs, open), (CcbId(1), Purpose::Call, 1, true));
    let sent = &blades.seen[0];
    assert!(sent.starts_with("INVITE sip:2001.demo@10.1.0.2:5060 SIP/2.0\r\n"), "{sent}");
    assert_eq!(header(sent, "Jackfield-Lease: ").len(), "5.1.0".len() + ";token=".len() + 32 + 18);
    blades.pass_ms(1_000);
    // Desks and records show the agent, and who vouches for the call.
    let leg = |house: &House, leg: u32| {
        let row = house.legs().into_iter().find(|row| row.leg == leg).expect("a row");
        (row.number().as_str().to_owned(), row.party().expect("a party"))
    };
    assert_eq!(leg(&blades.one, 1), ("2001".to_owned(), Party::Peer(CcbId(2))));
    assert_eq!(leg(&blades.two, 0), ("0301".to_owned(), Party::Peer(CcbId(1))));
    assert_eq!(leg(&blades.two, 1), ("2001".to_owned(), Party::Agent(AGENT, 5)));
    assert_eq!(blades.one.count(Counter::CallsHosted), 1);
    assert_eq!(blades.two.count(Counter::CallsFenced), 1);
    // Both directions, over both blades.
    for sequence in 1..50 {
        assert_eq!(blades.rtp(true, 0, CALLER_RTP, sequence), PHONE_RTP);
        assert_eq!(blades.rtp(false, 1, PHONE_RTP, sequence), CALLER_RTP);
    }
    blades.pass_ms(1_000);
    for house in [&blades.one, &blades.two] {
        let counts: Vec<_> =
            house.legs().iter().map(|row| (row.packets_in, row.packets_out)).collect();
        assert_eq!(counts, [(49, 49), (49, 49)]);
    }
    blades.hang_up(&ok, "c1", 2);
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.expect_nothing_left();
}

#[test]
fn either_side_ends_it() {
    let mut blades = Blades::new();
    let (invite, _) = blades.connect("c1");
    let bye = blades.two.within("BYE", &invite, "", 1, None);
    blades.two.send(AGENT_A, &bye);
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    blades.pump();
    let bye = blades.one.next_to(TRUNK);
    assert!(bye.starts_with("BYE "), "{bye}");
    blades.one.reply(TRUNK, &bye, 200, "", None);
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    // Before it is answered: the caller gives up.
    let invite = blades.ring("c2");
    blades.two.reply(AGENT_A, &invite, 180, "t1", None);
    blades.pump();
    let cancel = blades.one.invite("2001", "c2", None).replace("INVITE", "CANCEL");
    blades.one.send(TRUNK, &cancel);
    blades.pump();
    let cancel = blades.two.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    blades.two.reply(AGENT_A, &invite, 487, "t1", None);
    blades.pump();
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.expect_nothing_left();
}

#[test]
fn what_the_phone_says_comes_back() {
    for status in [480, 486, 488, 603] {
        let mut blades = Blades::new();
        let invite = blades.ring("c1");
        blades.two.reply(AGENT_A, &invite, status, "t1", None);
        if status == 488 {
            // It is asked once more, with SRTP alone.
            let said = blades.two.drain_to(AGENT_A);
            let again = said.iter().find(|text| text.starts_with("INVITE ")).expect("another");
            assert!(again.contains(" RTP/SAVP "), "{again}");
            blades.two.reply(AGENT_A, again, status, "t2", None);
        }
        blades.pump();
        let heard = blades.one.next_to(TRUNK);
        assert!(heard.starts_with(&format!("SIP/2.0 {status} ")), "{heard}");
        assert!(matches!(blades.word(), LeaseState::Free { .. }));
        blades.expect_nothing_left();
    }
}

#[test]
fn a_session_changes_and_digits_pass_over_two_blades() {
    let mut blades = Blades::new();
    let invite = blades.ring("c1");
    blades.two.reply_with(AGENT_A, &invite, 200, "Allow: INVITE, INFO, UPDATE", Some(OFFER_B));
    assert!(blades.two.next_to(AGENT_A).starts_with("ACK "));
    blades.pump();
    let ok = blades.one.next_to(TRUNK);
    blades.one.ack(TRUNK, &ok, "c1");
    blades.pump();
    // The phone holds and takes back.
    for (cseq, mine, theirs) in [(1, "sendonly", "recvonly"), (2, "sendrecv", "sendrecv")] {
        let said = OFFER_B.replace("sendrecv", mine);
        let text = blades.two.within("INVITE", &invite, "", cseq, Some(&said));
        blades.two.send(AGENT_A, &text);
        blades.pump();
        let passed = blades.one.next_to(TRUNK);
        assert!(passed.contains(&format!("a={mine}\r\n")), "{passed}");
        blades.one.reply(TRUNK, &passed, 200, "", Some(&OFFER.replace("sendrecv", theirs)));
        assert!(blades.one.next_to(TRUNK).starts_with("ACK "));
        blades.pump();
        let answers = blades.two.drain_to(AGENT_A);
        let answer = answers.last().expect("an answer");
        assert!(answer.contains(&format!("a={theirs}\r\n")), "{answer}");
        let ack = blades.two.within("ACK", &invite, "", cseq, None);
        blades.two.send(AGENT_A, &ack);
        blades.pump();
    }
    // The caller changes its session without a re-INVITE.
    let update = blades.one.within("UPDATE", &ok, "c1", 2, Some(OFFER));
    blades.one.send(TRUNK, &update);
    blades.pump();
    let passed = blades.two.next_to(AGENT_A);
    assert!(passed.starts_with("UPDATE "), "{passed}");
    blades.two.reply(AGENT_A, &passed, 200, "t1", Some(OFFER_B));
    blades.pump();
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    // A digit by INFO, counted on both blades.
    let digit = "Signal=5\r\nDuration=160\r\n";
    let info = blades.one.within("INFO", &ok, "c1", 3, Some(digit));
    let info = info.replace("application/sdp", "application/dtmf-relay");
    blades.one.send(TRUNK, &info);
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    blades.pump();
    let passed = blades.two.next_to(AGENT_A);
    assert!(passed.starts_with("INFO ") && passed.ends_with(digit), "{passed}");
    blades.two.reply(AGENT_A, &passed, 200, "t1", None);
    let pressed = [&blades.one, &blades.two].map(|house| house.count(Counter::DigitsPressed));
    assert_eq!(pressed, [1, 1]);
    blades.hang_up(&ok, "c1", 4);
    blades.expect_nothing_left();
}

#[test]
fn a_stale_fence_rings_nobody() {
    let spoil = |ticket: LeaseTicket, change: fn(&mut Fence)| {
        let mut ticket = ticket;
        change(&mut ticket.fence);
        ticket
    };
    for what in ["expired", "incarnation", "epoch", "counter", "not reserved"] {
        let mut blades = Blades::new();
        let ticket = blades.grant(AGENT, Purpose::Call);
        let ticket = match what {
            "epoch" => spoil(ticket, |fence| fence.epoch += 1),
            "counter" => spoil(ticket, |fence| fence.counter += 1),
            _ => ticket,
        };
        match what {
            "expired" => blades.pass_ms(2_300),
            "incarnation" => {
                blades.two.die();
                blades.two.attach_control();
            }
            "not reserved" => {
                let (leases, counter) = (blades.two.region().leases(), ticket.fence.counter);
                assert!(leases.release(
                    AGENT,
                    Medium::Voice,
                    CcbId(1),
                    counter,
                    abi::Share::Waiting
                ));
            }
            _ => {}
        }
        let before = blades.word();
        let question = blades.ask("c1");
        assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        assert!(blades.two.drain_to(AGENT_A).is_empty(), "{what}: the phone rings");
        let heard = blades.one.next_to(TRUNK);
        assert!(heard.starts_with("SIP/2.0 480 "), "{heard}");
        let reason = format!("Jackfield;text=\"stale lease, {what}\"");
        assert_eq!(header(&heard, "Reason: ").replace("cause=480;", ""), reason);
        assert_eq!(blades.two.count(Counter::LeaseStale), 1);
        assert_eq!(blades.word(), before, "{what}");
        // What is left is a reservation that nobody used.
        blades.two.region().leases().free_all_of(CcbId(1));
        blades.expect_nothing_left();
    }
}

#[test]
fn a_ticket_makes_one_call() {
    let mut blades = Blades::new();
    let (_, ok) = blades.connect("c1");
    let first = blades.seen[0].clone();
    // The same INVITE again is the same call; another one with the same ticket is none.
    blades.two.send(ONE, &first);
    assert_eq!(blades.two.drain_to(AGENT_A), [""; 0]);
    let branch = header(&first, "Via: ").split_once("branch=").expect("a branch").1;
    let call_id = header(&first, "Call-ID: ");
    let replay = first.replace(branch, "z9hG4bKother;rport").replace(call_id, "other");
    blades.two.send(ONE, &replay);
    let heard = blades.two.drain_to(ONE).pop().expect("an answer");
    assert!(heard.starts_with("SIP/2.0 480 ") && heard.contains("not reserved"), "{heard}");
    assert_eq!(blades.two.drain_to(AGENT_A), [""; 0]);
    blades.hang_up(&ok, "c1", 2);
    // Nor after the call.
    let replay = replay.replace("Call-ID: other", "Call-ID: after").replace("kother", "kafter");
    blades.two.send(ONE, &replay);
    let heard = blades.two.drain_to(ONE).pop().expect("an answer");
    assert!(heard.starts_with("SIP/2.0 480 "), "{heard}");
    blades.expect_nothing_left();
}

#[test]
fn a_token_cannot_be_guessed() {
    let mut blades = Blades::new();
    let question = blades.ask("c1");
    let ticket = blades.grant(AGENT, Purpose::Call);
    let transactions = blades.two.transactions();
    let wrong = LeaseTicket { token: LeaseToken([99; 16]), ..ticket };
    assert_eq!(blades.host(question, "2001", &wrong.to_value()), OpResult::Ok);
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 403 "));
    assert_eq!(blades.two.transactions(), transactions, "strangers take no memory");
    // Who is not there is refused as who is.
    let guess = blades.seen[0].clone();
    let nobody = guess.replacen("sip:2001.demo@", "sip:2009.demo@", 1);
    blades.two.send(ONE, &nobody);
    let heard = blades.two.drain_to(ONE).pop().expect("an answer");
    assert!(heard.starts_with("SIP/2.0 403 "), "{heard}");
    // An agent that was granted to nobody has no token, all zeros neither.
    let zeros = LeaseTicket { token: LeaseToken([0; 16]), ..ticket }.to_value();
    blades.two.register("2002", AGENT_B);
    let line = header(&guess, "Jackfield-Lease: ");
    let none = guess.replacen("sip:2001.demo@", "sip:2002.demo@", 1).replace(line, &zeros);
    blades.two.send(ONE, &none);
    assert!(blades.two.drain_to(ONE).pop().expect("an answer").starts_with("SIP/2.0 403 "));
    for _ in 0..40 {
        blades.two.send(ONE, &guess);
    }
    assert_eq!(blades.two.drain_to(ONE).len(), 16, "then the source is banned");
    assert_eq!(blades.two.count(Counter::SourcesBanned), 1);
    assert_eq!(blades.two.count(Counter::LeaseForged), 20);
    assert!(blades.two.drain_to(AGENT_A).is_empty());
    // A ban does not shut out a blade: whoever forged its address has no token.
    let (_, ok) = {
        blades.two.region().leases().free_all_of(CcbId(1));
        blades.connect("c2")
    };
    blades.hang_up(&ok, "c2", 2);
    blades.expect_nothing_left();
}

#[test]
fn without_a_ticket_another_blade_is_a_stranger() {
    let mut blades = Blades::new();
    let question = blades.ask("c1");
    let ticket = blades.grant(AGENT, Purpose::Call);
    let (ask, call) = question;
    // As to a trunk: the header is not there.
    let address = TWO.parse().expect("an address");
    let (location, transport) = (LocationId(0), Transport::Udp);
    blades.one.command(Command::Dial { op: 1, ask, call, address, location, transport }, b"2001");
    let invite = blades.one.drain_to(TWO).pop().expect("an INVITE");
    assert!(!invite.contains("Jackfield-Lease"), "{invite}");
    blades.two.send(ONE, &invite);
    assert!(blades.two.next_to(ONE).starts_with("SIP/2.0 401 "));
    // And a call of the home's own does not get an agent who is promised to another blade.
    let text = blades.two.invite("2001", "c2", Some(OFFER));
    blades.two.send(TRUNK, &text);
    assert!(blades.two.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    assert!(blades.two.next_to(TRUNK).starts_with("SIP/2.0 486 "));
    assert_eq!(blades.word().counter(), Some(ticket.fence.counter));
}

#[test]
fn a_ticket_crosses_no_border() {
    let mut blades = Blades::new();
    let ask = |blades: &mut Blades, value: &str| {
        let call_id = format!("c{}", value.len());
        let text = blades.one.invite("2001", &call_id, Some(OFFER));
        let line = format!("Jackfield-Lease: {value}");
        blades.one.send(TRUNK, &with(&text, &line));
        blades.one.next_to(TRUNK)
    };
    // A ticket in the name of whomever is judged as one.
    let ticket = blades.grant(AGENT, Purpose::Call);
    let heard = ask(&mut blades, &ticket.to_value());
    assert!(heard.starts_with("SIP/2.0 403 "), "{heard}");
    // What is none is a header like any other, and stays where it came.
    let heard = ask(&mut blades, "1.2.3;token=guess");
    assert!(heard.starts_with("SIP/2.0 100 "), "{heard}");
    let question = blades.one.asked("2001");
    assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
    let sent = &blades.seen[0];
    assert_eq!(sent.matches("Jackfield-Lease").count(), 1, "{sent}");
    assert_eq!(header(sent, "Jackfield-Lease: "), ticket.to_value());
    let invite = blades.two.next_to(AGENT_A);
    assert!(!invite.contains("Jackfield-Lease") && !invite.contains("token="), "{invite}");
    blades.two.reply(AGENT_A, &invite, 486, "t1", None);
    blades.pump();
    blades.one.next_to(TRUNK);
    // The same to a phone and a trunk of the same blade.
    blades.one.register("1001", AGENT_A);
    let text = blades.one.invite("1001", "d1", Some(OFFER));
    blades.one.send(TRUNK, &with(&text, "Jackfield-Lease: x"));
    let invite = blades.one.next_to(AGENT_A);
    assert!(!invite.contains("Jackfield-Lease"), "{invite}");
}

#[test]
fn control_s_nonsense_is_refused() {
    let good = "2001.demo\n2001\n5.1.0;token=00112233445566778899aabbccddeeff;purpose=call;by=1";
    for (part, by) in [
        ("2001.demo", ""),
        ("2001.demo", "2001@x"),
        ("2001.demo", "2001\r\nX:"),
        ("\n2001", "\n20 01"),
        ("5.1.0", "5.1"),
        ("by=1", "by=2"),
        ("\n2001\n", "\n"),
    ] {
        let mut blades = Blades::new();
        let (ask, call) = blades.ask("c1");
        let blob = good.replacen(part, by, 1);
        let (address, location) = (TWO.parse().expect("an address"), LocationId(0));
        let transport = Transport::Udp;
        let host = |home| Command::Host { op: 9, ask, call, home, address, location, transport };
        blades.one.command(host(CcbId(2)), blob.as_bytes());
        assert_eq!(blades.one.done(), [(9, OpResult::Refused)], "{blob}");
        assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 404 "));
        blades.one.command(host(CcbId(2)), good.as_bytes());
        assert_eq!(blades.one.done(), [(9, OpResult::NoSuchCall)]);
        blades.expect_nothing_left();
    }
}

#[test]
fn a_granted_call_passes_a_drain_and_overload() {
    let mut blades = Blades::new();
    let question = blades.ask("c1");
    let ticket = blades.grant(AGENT, Purpose::Call);
    blades.two.command(Command::Drain { op: 1, on: true }, b"");
    blades.two.load(1_000, 100);
    let agents = blades.two.region().agents();
    let row = agents.read(AGENT).expect("a row");
    agents.write(AGENT, &AgentRow { state: AgentState::Draining.into(), ..row });
    assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
    let invite = blades.two.next_to(AGENT_A);
    blades.two.reply(AGENT_A, &invite, 486, "t1", None);
    blades.pump();
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 486 "));
    blades.expect_nothing_left();
}

#[test]
fn the_home_forwards_but_not_for_a_queue() {
    for purpose in [Purpose::Call, Purpose::Transfer, Purpose::Queue, Purpose::Conference] {
        let mut blades = Blades::new();
        blades.two.register("2002", AGENT_B);
        let agents = blades.two.region().agents();
        let row = agents.read(AGENT).expect("a row");
        agents.write(AGENT, &AgentRow { forwards: AgentRow::BUSY, ..row });
        let question = blades.ask("c1");
        let ticket = blades.grant(AGENT, purpose);
        assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        let invite = blades.two.next_to(AGENT_A);
        blades.two.events();
        blades.two.reply(AGENT_A, &invite, 486, "t1", None);
        let asked = blades.two.events().into_iter().find_map(|event| match event {
            Event::Asked { op, call, caller, why, .. } => Some((op, call, caller, why)),
            _ => None,
        });
        blades.pump();
        if matches!(purpose, Purpose::Queue | Purpose::Conference) {
            assert_eq!(asked, None);
            assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 486 "));
            blades.expect_nothing_left();
            continue;
        }
        let (ask, call, caller, why) = asked.expect("a question");
        assert_eq!((caller, why), (Party::Peer(CcbId(1)), Why::Busy));
        assert!(matches!(blades.word(), LeaseState::Free { .. }));
        blades.two.command(Command::Forward { op: 3, ask, call }, b"2002");
        let invite = blades.two.next_to(AGENT_B);
        assert_eq!(header(&invite, "Diversion: "), "<sip:2001@10.1.0.2:5060>;reason=user-busy");
        blades.two.reply(AGENT_B, &invite, 603, "t1", None);
        blades.pump();
        let heard: Vec<String> = blades.one.drain_to(TRUNK);
        assert!(heard.last().expect("an answer").starts_with("SIP/2.0 603 "), "{heard:#?}");
        blades.expect_nothing_left();
    }
}

/// The holder's control was asked where the hosted agent gives its caller to.
fn asked_for_transfer(blades: &mut Blades, number: &str) -> (u64, CallRef) {
    blades.pump();
    let question = blades.one.asked(number);
    blades.pump();
    question
}

#[test]
fn a_hosted_agent_gives_its_caller_to_an_agent_of_the_holder_s_blade() {
    let mut blades = Blades::new();
    blades.one.register("1003", AGENT_B);
    let (invite, ok) = blades.connect("c1");
    let text = refer(&blades.two, &invite, 2, "<sip:1003@10.1.0.2>");
    blades.two.send(AGENT_A, &text);
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
    blades.pump();
    let carried = blades.seen.len();
    told(&mut blades.two, AGENT_A, "100 Trying");
    let offered = blades.one.next_to(AGENT_B);
    assert!(offered.contains("From: <sip:0301@"), "in the caller's name: {offered}");
    blades.one.reply(AGENT_B, &offered, 180, "t2", None);
    blades.pump();
    told(&mut blades.two, AGENT_A, "180 Ringing");
    blades.one.reply(AGENT_B, &offered, 200, "t2", Some(OFFER_B));
    assert!(blades.one.next_to(AGENT_B).starts_with("ACK "));
    blades.pump();
    let notify = told(&mut blades.two, AGENT_A, "200 OK");
    assert_eq!(header(&notify, "Subscription-State: "), "terminated;reason=noresource");
    assert!(blades.seen.len() > carried, "the holder told by NOTIFY");
    assert_eq!(blades.one.count(Counter::TransfersCompleted), 1);
    let change = blades.one.next_to(TRUNK);
    blades.one.reply(TRUNK, &change, 200, "", Some(OFFER));
    assert!(blades.one.next_to(TRUNK).starts_with("ACK "));
    // The agent hangs up: its word is free, and the two go on.
    let bye = blades.two.within("BYE", &invite, "", 3, None);
    blades.two.send(AGENT_A, &bye);
    blades.pump();
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    assert_eq!(blades.one.legs().len(), 2);
    let bye = blades.one.within("BYE", &ok, "c1", 2, None);
    blades.one.send(TRUNK, &bye);
    let bye = blades.one.next_to(AGENT_B);
    blades.one.reply(AGENT_B, &bye, 200, "t2", None);
    blades.expect_nothing_left();
}

#[test]
fn a_hosted_agent_gives_its_caller_to_an_agent_whom_the_holder_hosts_too() {
    for answers in [true, false] {
        let mut blades = Blades::new();
        blades.two.register("2002", AGENT_B);
        let (invite, ok) = blades.connect("c1");
        blades.one.events();
        let text = refer(&blades.two, &invite, 2, "<sip:2002@10.1.0.2>");
        blades.two.send(AGENT_A, &text);
        assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        let question = asked_for_transfer(&mut blades, "2002");
        told(&mut blades.two, AGENT_A, "100 Trying");
        let ticket = blades.grant(AgentSlot(1), Purpose::Transfer);
        assert_eq!(blades.host(question, "2002", &ticket.to_value()), OpResult::Ok);
        let offered = blades.two.next_to(AGENT_B);
        if !answers {
            blades.two.reply(AGENT_B, &offered, 486, "t2", None);
            blades.pump();
            told(&mut blades.two, AGENT_A, "486 Busy Here");
            assert_eq!(blades.rtp(true, 0, CALLER_RTP, 1), PHONE_RTP, "they talk on");
            blades.hang_up(&ok, "c1", 2);
            blades.expect_nothing_left();
            continue;
        }
        blades.two.reply(AGENT_B, &offered, 200, "t2", Some(OFFER_B));
        assert!(blades.two.next_to(AGENT_B).starts_with("ACK "));
        blades.pump();
        told(&mut blades.two, AGENT_A, "200 OK");
        let change = blades.one.next_to(TRUNK);
        blades.one.reply(TRUNK, &change, 200, "", Some(OFFER));
        // The phone does not hang up; the holder does, and the phone hears it.
        blades.pass_ms(5_100);
        let bye = blades.two.next_to(AGENT_A);
        assert!(bye.starts_with("BYE "), "{bye}");
        blades.two.reply(AGENT_A, &bye, 200, "t1", None);
        assert!(matches!(blades.word(), LeaseState::Free { .. }));
        assert_eq!(blades.two.region().leases().held(), 1);
        let bye = blades.one.within("BYE", &ok, "c1", 2, None);
        blades.one.send(TRUNK, &bye);
        blades.pump();
        let bye = blades.two.next_to(AGENT_B);
        assert!(bye.starts_with("BYE "), "{bye}");
        blades.two.reply(AGENT_B, &bye, 200, "t2", None);
        blades.expect_nothing_left();
    }
}

/// The hosted agent talks to the caller (c1) and dials somebody else meanwhile; our INVITE to its phone, our 200
/// to the caller, our 200 to the phone. Who is dialled is an agent of the holder's blade or of the home.
fn consults(blades: &mut Blades, of_holder: bool) -> [String; 3] {
    let (invite, ok) = blades.connect("c1");
    let number = if of_holder { "1003" } else { "2002" };
    let there = if of_holder { &mut blades.one } else { &mut blades.two };
    there.register(number, AGENT_B);
    invite_from(&mut blades.two, AGENT_A, "2001", number, "b1");
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    if of_holder {
        let question = blades.two.asked(number);
        let ticket = granted(&blades.one, AGENT, CcbId(2), Purpose::Call, 200);
        let value = ticket.to_value();
        let result = host_at(&mut blades.two, CcbId(1), ONE, question, number, &value);
        assert_eq!(result, OpResult::Ok);
        blades.pump();
    }
    let there = if of_holder { &mut blades.one } else { &mut blades.two };
    let offered = there.next_to(AGENT_B);
    there.reply(AGENT_B, &offered, 200, "t2", Some(OFFER_B));
    assert!(there.next_to(AGENT_B).starts_with("ACK "));
    blades.pump();
    let answered = blades.two.next_to(AGENT_A);
    assert!(answered.starts_with("SIP/2.0 200 "), "{answered}");
    blades.two.send(AGENT_A, &within("ACK", AGENT_A, &answered, 2));
    blades.pump();
    let LeaseState::Bound { holder, legs, .. } = blades.word() else { panic!("it is bound") };
    assert_eq!((holder, legs), (CcbId(1), 2), "both calls share the word");
    [invite, ok, answered]
}

#[test]
fn a_hosted_agent_joins_the_two_whom_it_talks_to() {
    for of_holder in [true, false] {
        let mut blades = Blades::new();
        let [invite, ok, answered] = consults(&mut blades, of_holder);
        let text = refer(&blades.two, &invite, 2, &replacing(&answered, ""));
        blades.two.send(AGENT_A, &text);
        assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        blades.pump();
        // The blade that has both parties asks the caller whether it can do what the other does.
        told(&mut blades.two, AGENT_A, "100 Trying");
        let change = blades.one.next_to(TRUNK);
        blades.one.reply(TRUNK, &change, 200, "", Some(OFFER));
        blades.pump();
        blades.pass_ms(100);
        told(&mut blades.two, AGENT_A, "200 OK");
        let done = [&blades.one, &blades.two].map(|it| it.count(Counter::TransfersCompleted));
        assert_eq!(done, if of_holder { [1, 0] } else { [0, 1] });
        blades.one.drain_to(TRUNK);
        let there = if of_holder { &mut blades.one } else { &mut blades.two };
        let tell = there.next_to(AGENT_B);
        there.reply(AGENT_B, &tell, 200, "t2", Some(OFFER_B));
        assert!(there.next_to(AGENT_B).starts_with("ACK "));
        // The second call ends by itself; the phone hangs up the first.
        blades.pump();
        let bye = blades.two.next_to(AGENT_A);
        assert!(bye.starts_with("BYE "), "{bye}");
        blades.two.reply(AGENT_A, &bye, 200, "t1", None);
        let bye = blades.two.within("BYE", &invite, "", 3, None);
        blades.two.send(AGENT_A, &bye);
        blades.pump();
        assert!(matches!(blades.word(), LeaseState::Free { .. }), "{:?}", blades.word());
        // The two talk on, over one blade or both, until one hangs up.
        for sequence in 1..50 {
            assert_eq!(blades.rtp(true, 0, CALLER_RTP, sequence), PHONE_RTP);
        }
        let bye = blades.one.within("BYE", &ok, "c1", 2, None);
        blades.one.send(TRUNK, &bye);
        assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 200 "));
        blades.pump();
        let there = if of_holder { &mut blades.one } else { &mut blades.two };
        let bye = there.next_to(AGENT_B);
        assert!(bye.starts_with("BYE "), "{bye}");
        there.reply(AGENT_B, &bye, 200, "t2", None);
        blades.expect_nothing_left();
    }
}

#[test]
fn who_rings_for_another_blade_asks_nobody() {
    let mut blades = Blades::new();
    let invite = blades.ring("c1");
    invite_from(&mut blades.two, AGENT_A, "2001", "777", "b1");
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 486 "));
    blades.two.reply(AGENT_A, &invite, 486, "t1", None);
    blades.pump();
    blades.expect_nothing_left();
}

#[test]
fn the_holder_s_control_moves_a_hosted_agent_s_caller() {
    let mut blades = Blades::new();
    blades.one.register("1003", AGENT_B);
    let (_, ok) = blades.connect("c1");
    let call = blades.one.calls()[0];
    let call = CallRef { slot: call.0, generation: call.1.generation };
    blades.one.command(Command::Transfer { op: 4, call, leg: 1 }, b"1003");
    assert!(blades.one.done().contains(&(4, OpResult::Ok)));
    let offered = blades.one.next_to(AGENT_B);
    blades.one.reply(AGENT_B, &offered, 200, "t2", Some(OFFER_B));
    blades.pump();
    let change = blades.one.next_to(TRUNK);
    blades.one.reply(TRUNK, &change, 200, "", Some(OFFER));
    // A blade is no phone that hangs up by itself; we do.
    blades.pass_ms(5_100);
    let bye = blades.two.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    blades.two.reply(AGENT_A, &bye, 200, "t1", None);
    blades.pump();
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.one.drain();
    let bye = blades.one.within("BYE", &ok, "c1", 2, None);
    blades.one.send(TRUNK, &bye);
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = blades.one.next_to(AGENT_B);
    blades.one.reply(AGENT_B, &bye, 200, "t2", None);
    blades.expect_nothing_left();
}

#[test]
fn only_who_was_asked_is_heard_of_a_transfer() {
    let mut blades = Blades::new();
    let (invite, ok) = blades.connect("c1");
    // No REFER was sent, so there is no subscription; and a phone is no holder.
    let hello = blades.seen[0].clone();
    let call_id = header(&hello, "Call-ID: ");
    let tag = blades.tag_of_two(call_id);
    let body = "SIP/2.0 200 OK\r\n";
    let notify = format!(
        "NOTIFY sip:x@10.1.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP {ONE};branch=z9hG4bKn;rport\r\nFrom: {}\r\n\
         To: {};tag={tag}\r\nCall-ID: {call_id}\r\nCSeq: 70 NOTIFY\r\nEvent: refer\r\n\
         Contact: <sip:x@{ONE}>\r\nSubscription-State: active\r\nMax-Forwards: 70\r\n\
         Content-Type: message/sipfrag\r\nContent-Length: {}\r\n\r\n{body}",
        header(&hello, "From: "),
        header(&hello, "To: "),
        body.len()
    );
    blades.two.send(ONE, &notify);
    assert!(blades.two.next_to(ONE).starts_with("SIP/2.0 481 "));
    let notify = blades.two.within("NOTIFY", &invite, "", 5, None);
    blades.two.send(AGENT_A, &notify);
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 405 "));
    blades.hang_up(&ok, "c1", 2);
    blades.expect_nothing_left();
}

#[test]
fn a_call_outlives_the_data_planes_of_both_blades() {
    let mut blades = Blades::new();
    let (_, ok) = blades.connect("c1");
    for sequence in 1..50 {
        assert_eq!(blades.rtp(true, 0, CALLER_RTP, sequence), PHONE_RTP);
        assert_eq!(blades.rtp(false, 1, PHONE_RTP, sequence), CALLER_RTP);
    }
    blades.pass_ms(1_000);
    let word = blades.word();
    for round in 0..3 {
        for house in [&mut blades.one, &mut blades.two] {
            let found = house.die();
            assert_eq!((found.calls, found.leases_freed), (1, 0));
            house.attach_control();
        }
        assert_eq!(blades.word(), word, "the word lives with its dialog");
        let sequence = 60 + round;
        assert_eq!(blades.rtp(true, 0, CALLER_RTP, sequence), PHONE_RTP);
        assert_eq!(blades.rtp(false, 1, PHONE_RTP, sequence), CALLER_RTP);
    }
    let leg = blades.two.legs().into_iter().find(|row| row.leg == 0).expect("a row");
    assert_eq!(leg.party(), Some(Party::Peer(CcbId(1))));
    blades.hang_up(&ok, "c1", 2);
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.expect_nothing_left();
}

#[test]
fn a_shared_word_of_another_blade_is_settled_after_a_death() {
    let mut blades = Blades::new();
    let [invite, _, answered] = consults(&mut blades, false);
    blades.pass_ms(600);
    assert_eq!(blades.two.die().calls, 2);
    let LeaseState::Bound { holder, legs, .. } = blades.word() else { panic!("it is bound") };
    assert_eq!((holder, legs), (CcbId(1), 2));
    blades.two.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
    let bye = blades.two.next_to(AGENT_B);
    blades.two.reply(AGENT_B, &bye, 200, "t2", None);
    assert!(matches!(blades.word(), LeaseState::Bound { legs: 1, .. }));
    let bye = blades.two.within("BYE", &invite, "", 3, None);
    blades.two.send(AGENT_A, &bye);
    blades.pump();
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    let bye = blades.one.next_to(TRUNK);
    blades.one.reply(TRUNK, &bye, 200, "", None);
    blades.expect_nothing_left();
}

#[test]
fn a_home_that_dies_while_it_rings_frees_the_agent() {
    let mut blades = Blades::new();
    let invite = blades.ring("c1");
    blades.two.reply(AGENT_A, &invite, 180, "t1", None);
    blades.pump();
    assert_eq!(blades.two.die().unanswered, 1);
    let again = blades.two.next_to(AGENT_A);
    assert_eq!(header(&again, "Via: "), header(&invite, "Via: "));
    assert!(!again.contains("Jackfield-Lease"), "{again}");
    blades.two.reply(AGENT_A, &again, 180, "t1", None);
    let cancel = blades.two.next_to(AGENT_A);
    blades.two.reply(AGENT_A, &cancel, 200, "t1", None);
    blades.two.reply(AGENT_A, &again, 487, "t1", None);
    blades.pump();
    let heard = blades.one.drain_to(TRUNK);
    assert!(heard.last().expect("an answer").starts_with("SIP/2.0 500 "), "{heard:#?}");
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.expect_nothing_left();
}

#[test]
fn a_holder_that_dies_while_it_rings_lets_the_agent_go() {
    let mut blades = Blades::new();
    let invite = blades.ring("c1");
    blades.two.reply(AGENT_A, &invite, 180, "t1", None);
    blades.pump();
    assert_eq!(blades.one.die().unanswered, 1);
    assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 500 "));
    // The same INVITE again, which the home knows; it says again that it rings, and is cancelled.
    blades.pump();
    let cancel = blades.two.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    blades.two.reply(AGENT_A, &cancel, 200, "t1", None);
    blades.two.reply(AGENT_A, &invite, 487, "t1", None);
    blades.pump();
    assert!(matches!(blades.word(), LeaseState::Free { .. }));
    blades.expect_nothing_left();
}

#[test]
fn a_death_frees_what_no_call_holds_and_leaves_what_is_promised() {
    let mut blades = Blades::new();
    blades.two.register("2002", AGENT_B);
    let bound = blades.grant(AGENT, Purpose::Call);
    let leases = blades.two.region().leases();
    assert!(leases.bind(AGENT, Medium::Voice, CcbId(1), bound.fence.counter));
    blades.grant(AgentSlot(1), Purpose::Call);
    assert_eq!(blades.two.die().leases_freed, 1);
    assert!(matches!(blades.word(), LeaseState::Free { .. }), "no call of ours has it");
    let promised = blades.two.region().leases().read(AgentSlot(1), Medium::Voice);
    assert!(matches!(promised, LeaseState::Reserved { holder: CcbId(1), .. }));
}

#[test]
fn of_two_who_call_each_other_one_gives_way() {
    let mut blades = Blades::new();
    invite_from(&mut blades.two, AGENT_A, "2001", "1001", "b1");
    assert!(blades.two.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    let (ask, call) = blades.two.asked("1001");
    let own = LeaseState::Bound {
        holder: CcbId(2),
        purpose: Purpose::Outgoing,
        counter: 0,
        legs: 1,
        own: 1,
        open: false,
    };
    assert_eq!(blades.word(), own);
    blades.two.command(Command::Yield { op: 6, ask: ask + 1, call }, b"");
    assert_eq!(blades.two.done(), [(6, OpResult::NoSuchCall)]);
    blades.two.command(Command::Yield { op: 7, ask, call }, b"");
    assert_eq!(blades.two.done(), [(7, OpResult::Ok)]);
    assert!(matches!(blades.word(), LeaseState::Free { .. }), "before the completion");
    let busy = blades.two.next_to(AGENT_A);
    assert!(busy.starts_with("SIP/2.0 486 "), "{busy}");
    assert!(header(&busy, "Reason: ").starts_with("SIP;cause=486;text="));
    assert_eq!(blades.two.count(Counter::CallsYielded), 1);
    // The other one's call comes.
    let (_, ok) = blades.connect("c1");
    blades.hang_up(&ok, "c1", 2);
    blades.expect_nothing_left();
}

#[test]
fn only_a_question_gives_way() {
    let mut blades = Blades::new();
    // A trunk's call is nobody's own.
    let (ask, call) = blades.ask("c1");
    blades.one.command(Command::Yield { op: 7, ask, call }, b"");
    assert_eq!(blades.one.done(), [(7, OpResult::Refused)]);
    // The question stands, and so does the call once it was answered.
    let ticket = blades.grant(AGENT, Purpose::Call);
    assert_eq!(blades.host((ask, call), "2001", &ticket.to_value()), OpResult::Ok);
    blades.one.command(Command::Yield { op: 8, ask, call }, b"");
    assert_eq!(blades.one.done(), [(8, OpResult::NoSuchCall)]);
    let row = blades.one.calls()[0].1;
    assert_eq!(row.state(), CallState::Calling);
    // An agent who talks and transfers asks, but has more than a question.
    let invite = blades.two.next_to(AGENT_A);
    blades.two.reply(AGENT_A, &invite, 200, "t1", Some(OFFER_B));
    blades.pump();
    let ok = blades.one.next_to(TRUNK);
    blades.one.ack(TRUNK, &ok, "c1");
    blades.pump();
    blades.one.events();
    let text = refer(&blades.two, &invite, 2, "<sip:777@10.1.0.2>");
    blades.two.send(AGENT_A, &text);
    let (ask, call) = asked_for_transfer(&mut blades, "777");
    blades.one.command(Command::Yield { op: 9, ask, call }, b"");
    assert_eq!(blades.one.done(), [(9, OpResult::Refused)]);
    blades.two.drain();
    blades.hang_up(&ok, "c1", 2);
    blades.expect_nothing_left();
}

#[test]
fn an_agent_whose_phone_went_away_meanwhile_is_free() {
    for forwards in [0, AgentRow::UNAVAILABLE] {
        let mut blades = Blades::new();
        let agents = blades.two.region().agents();
        let row = agents.read(AGENT).expect("a row");
        agents.write(AGENT, &AgentRow { forwards, ..row });
        let question = blades.ask("c1");
        let ticket = blades.grant(AGENT, Purpose::Call);
        blades.two.region().registrations().write(AGENT, &Default::default());
        blades.two.events();
        assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        assert!(matches!(blades.word(), LeaseState::Free { .. }), "{:?}", blades.word());
        let asked = blades.two.events().into_iter().find_map(|event| match event {
            Event::Asked { op, call, why: Why::Unavailable, .. } => Some((op, call)),
            _ => None,
        });
        assert_eq!(asked.is_some(), forwards != 0);
        if let Some((ask, call)) = asked {
            let reject = Command::Reject { op: 1, ask, call, status: 480, retry_after_s: 0 };
            blades.two.command(reject, b"");
            blades.pump();
        }
        assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 480 "));
        blades.expect_nothing_left();
    }
}

#[test]
fn a_longer_session_is_asked_for_before_the_word_is_bound() {
    let mut blades = Blades::new();
    let question = blades.ask("c1");
    let ticket = blades.grant(AGENT, Purpose::Call);
    assert_eq!(
        host_at(&mut blades.one, CcbId(2), TWO, question, "2001", &ticket.to_value()),
        OpResult::Ok
    );
    let invite = blades.one.drain_to(TWO).pop().expect("an INVITE");
    let interval = header(&invite, "Session-Expires: ").to_owned();
    let brief = invite.replace(&format!("Session-Expires: {interval}"), "Session-Expires: 60");
    blades.two.send(ONE, &brief);
    let heard = blades.two.next_to(ONE);
    assert!(heard.starts_with("SIP/2.0 422 "), "{heard}");
    assert!(matches!(blades.word(), LeaseState::Reserved { .. }));
    // The holder comes again with the same ticket, were the interval longer that the home wants.
    let least = header(&heard, "Min-SE: ").to_owned();
    let heard = heard.replace(&format!("Min-SE: {least}"), "Min-SE: 3600");
    blades.one.send(TWO, &heard);
    blades.pump();
    let again = blades.seen.iter().find(|text| text.starts_with("INVITE ")).expect("an INVITE");
    assert_eq!(header(again, "Jackfield-Lease: "), ticket.to_value());
    let invite = blades.two.next_to(AGENT_A);
    assert!(matches!(blades.word(), LeaseState::Bound { .. }));
    blades.two.reply(AGENT_A, &invite, 486, "t1", None);
    blades.pump();
    blades.expect_nothing_left();
}

#[test]
fn what_a_blade_asserts_of_a_caller_is_believed() {
    for (line, from) in [
        ("P-Asserted-Identity: <sip:+4930@10.9.0.1>", "<sip:+4930@10.1.0.2:5060>"),
        (
            "Privacy: id\r\nP-Asserted-Identity: <sip:+4930@10.9.0.1>",
            "\"Anonymous\" <sip:anonymous@",
        ),
    ] {
        let mut blades = Blades::new();
        let text = blades.one.invite("2001", "c1", Some(OFFER));
        let lines = format!("User-to-User: 00c8;encoding=hex\r\n{line}");
        blades.one.send(TRUNK, &with(&text, &lines));
        assert!(blades.one.next_to(TRUNK).starts_with("SIP/2.0 100 "));
        let question = blades.one.asked("2001");
        let ticket = blades.grant(AGENT, Purpose::Call);
        assert_eq!(blades.host(question, "2001", &ticket.to_value()), OpResult::Ok);
        let sent = &blades.seen[0];
        assert_eq!(header(sent, "P-Asserted-Identity: "), "<sip:+4930@10.1.0.1:5060>");
        let invite = blades.two.next_to(AGENT_A);
        assert!(header(&invite, "From: ").starts_with(from), "{invite}");
        assert_eq!(header(&invite, "User-to-User: "), "00c8;encoding=hex");
        assert!(!invite.contains("Asserted"), "a phone hears no identity: {invite}");
        blades.two.reply(AGENT_A, &invite, 486, "t1", None);
        blades.pump();
        blades.expect_nothing_left();
    }
}
