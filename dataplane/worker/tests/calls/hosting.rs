//! Calls over two blades: two CCBs with a region each, SIP and RTP between them as text and bytes. The test plays
//! both controls: it reserves, mints, grants and answers questions.

use abi::{
    Command, Counter, Fence, LeaseState, LeaseTicket, LeaseToken, OpResult, Party, Purpose,
    SecretRow,
};
use base::{AgentSlot, CallRef, CcbId, LocationId, Medium, Transport};
use worker::Verdict;

use crate::house::{AGENT_A, House, OFFER, TRUNK, header};

/// The blade where calls begin, and the home of the agent 2001.
const ONE: &str = "10.1.0.1:5060";
const TWO: &str = "10.1.0.2:5060";
const AGENT: AgentSlot = AgentSlot(0);
/// What the phone of the called agent can do.
const OFFER_B: &str = "v=0\r\no=- 2 2 IN IP4 203.0.113.20\r\ns=-\r\nc=IN IP4 203.0.113.20\r\nt=0 0\r\n\
                       m=audio 4100 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n";
const CALLER_RTP: &str = "203.0.113.9:4000";
const PHONE_RTP: &str = "203.0.113.20:4100";

struct Blades {
    one: House,
    two: House,
    minted: u8,
    /// What went from the first to the second.
    seen: Vec<String>,
}

impl Blades {
    /// Both with their control; 2001's phone is registered at the second.
    fn new() -> Blades {
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
    fn pump(&mut self) {
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
    fn grant(&mut self, agent: AgentSlot, purpose: Purpose) -> LeaseTicket {
        let region = self.two.region();
        let leases = region.leases();
        let counter = leases.reserve(agent, Medium::Voice, CcbId(1), purpose, self.two.now);
        let counter = counter.expect("the word is free");
        self.minted += 1;
        let token = [self.minted; 16];
        let secret = region.secrets().read(agent).expect("a row");
        let row = SecretRow { lease_counter: counter, lease_token: token, ..secret };
        region.secrets().write(agent, &row);
        let incarnation = region.header().data_plane().incarnation;
        let fence = Fence { epoch: 5, incarnation, counter };
        LeaseTicket { fence, token: LeaseToken(token), purpose, by: CcbId(1) }
    }

    /// The first blade's control says that a call goes to an agent of the second.
    fn host(&mut self, (ask, call): (u64, CallRef), number: &str, value: &str) -> OpResult {
        let command = Command::Host {
            op: 9,
            ask,
            call,
            home: CcbId(2),
            address: TWO.parse().expect("an address"),
            location: LocationId(0),
            transport: Transport::Udp,
        };
        self.one.command(command, format!("{number}.demo\n{number}\n{value}").as_bytes());
        let done = self.one.done();
        let result = done.iter().find(|(op, _)| *op == 9).expect("a completion").1;
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
