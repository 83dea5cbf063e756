//! Calls by chance: peers that answer anything at any time, a control that comes and goes, tables that are
//! full. Whatever happens, nothing may be left.

use abi::{CallState, Command, Counter, Event};
use base::{CallRef, LocationId, Rng};
use worker::Limits;

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, at_once, header};

const SEEDS: u64 = 3_000;
const WAITS_MS: [u64; 5] = [10, 500, 3_000, 33_000, 190_000];
const ANSWERS: [u16; 12] = [100, 180, 183, 200, 200, 200, 486, 488, 491, 408, 481, 503];

struct Storm {
    rng: Rng,
    house: House,
    /// What peers have received, and may answer at any time.
    inbox: Vec<(String, String)>,
    invites: Vec<(String, String, String)>,
    cseq: u32,
    /// Peers mostly do what phones do, so that calls come to be transferred.
    is_calm: bool,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut rng = Rng::from_number(seed);
        let is_calm = rng.chance(40);
        let is_full = !is_calm && rng.chance(30);
        let small = Limits { transactions: 12, ..at_once() };
        let limits = if is_full { small } else { at_once() };
        let mut house = match rng.chance(30) {
            true => House::of_two_limited(limits),
            false => House::limited(limits),
        };
        house.attach_control();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        for number in ["1001", "1002"] {
            if rng.chance(50) {
                let outgoing = rng.chance(50).then(|| rng.below(3) as u32);
                house.limit(number, Some(1 + rng.below(4) as u32), outgoing);
            }
        }
        let mut inbox = Vec::new();
        if is_calm {
            for (number, phone, call_id) in [("1001", AGENT_A, "s1"), ("1002", AGENT_B, "s2")] {
                let (invite, ok) = house.call_through(number, phone, call_id);
                inbox.extend([(phone.to_owned(), invite), (TRUNK.to_owned(), ok)]);
            }
        }
        Storm { rng, house, inbox, invites: Vec::new(), cseq: 10, is_calm }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.below(from.len() as u64) as usize]
    }

    fn blow(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.invite(),
            2 => {
                let waits = if self.is_calm { &WAITS_MS[..3] } else { &WAITS_MS[..] };
                let ms = self.pick(waits);
                self.house.pass_ms(ms);
            }
            3 if !self.invites.is_empty() => self.cancel(),
            4 => self.control(),
            5 if self.rng.chance(20) => match self.rng.chance(50) {
                true => self.house.attach_control(),
                false => self.house.lose_control(),
            },
            6 if self.rng.chance(5) => {
                self.house.die();
                self.house.attach_control();
            }
            7 if self.is_calm => {
                // One of those who talk from the beginning gives its peer away.
                let (peer, seen) = self.inbox[self.rng.below(4) as usize].clone();
                self.refer(&peer, &seen);
            }
            _ if !self.inbox.is_empty() => self.peer(),
            _ => {}
        }
        let sent = self.house.drain().into_iter().map(|(to, text)| (to.to_string(), text));
        self.inbox.extend(sent);
    }

    fn invite(&mut self) {
        let number = self.pick(&["1001", "1002", "95555"]);
        let call_id = format!("c{}", self.invites.len());
        let odd = format!("{OFFER}m=1.2.3.4 0 RTP/AVP 0\r\n");
        let offer = if self.rng.chance(10) { odd.as_str() } else { OFFER };
        let mut text = self.house.invite(number, &call_id, self.rng.chance(70).then_some(offer));
        if self.rng.chance(10) {
            text = text.replace("Contact: <sip:trunk@10.9.0.1>\r\n", "");
        }
        self.house.send(TRUNK, &text);
        self.invites.push((number.to_owned(), call_id, text));
    }

    fn cancel(&mut self) {
        let which = self.rng.below(self.invites.len() as u64) as usize;
        let text = self.invites[which].2.replace("INVITE", "CANCEL").replace(OFFER, "");
        let length = format!("Content-Length: {}", OFFER.len());
        self.house.send(TRUNK, &text.replace(&length, "Content-Length: 0"));
    }

    fn control(&mut self) {
        for event in self.house.events() {
            let Event::Asked { op, call, .. } = event else { continue };
            let address = TRUNK.parse().expect("an address");
            match self.rng.below(3) {
                0 => {
                    let dial = Command::Dial {
                        op: 1,
                        ask: op,
                        call,
                        address,
                        location: LocationId(0),
                        transport: base::Transport::Udp,
                    };
                    self.house.command(dial, b"777");
                }
                1 => {
                    let reject =
                        Command::Reject { op: 1, ask: op, call, status: 404, retry_after_s: 0 };
                    self.house.command(reject, b"");
                }
                _ => {}
            }
        }
    }

    /// Some peer does something about something that it has received.
    fn peer(&mut self) {
        let latest = self.inbox.len() as u64;
        let back = if self.rng.chance(70) {
            self.rng.below(3.min(latest))
        } else {
            self.rng.below(latest)
        };
        let (peer, text) = self.inbox[(latest - 1 - back) as usize].clone();
        if text.starts_with("INVITE") {
            if self.rng.chance(75) {
                self.answer(&peer, &text)
            } else {
                self.say_within(&peer, &text, "")
            }
        } else if text.starts_with("SIP/2.0") {
            self.hear_answer(&peer, &text);
        } else if !text.starts_with("ACK") {
            let status = self.pick(&[200, 200, 200, 481, 500]);
            self.house.reply(&peer, &text, status, "t1", None);
        }
    }

    fn answer(&mut self, peer: &str, invite: &str) {
        if self.is_calm && self.rng.chance(90) {
            let status = self.pick(&[180, 200, 200, 200, 486]);
            return self.house.reply(peer, invite, status, "t1", (status == 200).then_some(OFFER));
        }
        let status = self.pick(&ANSWERS);
        let offers = self.rng.chance(if status == 200 { 90 } else { 30 });
        let tag = if self.rng.chance(85) { "t1" } else { "t2" };
        if self.rng.chance(10) {
            self.house.reply_without_contact(peer, invite, status, offers.then_some(OFFER));
        } else {
            self.house.reply(peer, invite, status, tag, offers.then_some(OFFER));
        }
    }

    fn say_within(&mut self, peer: &str, seen: &str, call_id: &str) {
        self.cseq += 1;
        let method = self.pick(&["BYE", "BYE", "INVITE", "INVITE", "REFER"]);
        if method == "REFER" {
            return self.refer(peer, seen);
        }
        let offers = method == "INVITE" && self.rng.chance(70);
        let text = self.house.within(method, seen, call_id, self.cseq, offers.then_some(OFFER));
        self.house.send(peer, &text);
    }

    fn refer(&mut self, peer: &str, seen: &str) {
        self.cseq += 1;
        let text = self.house.within("REFER", seen, header(seen, "Call-ID: "), self.cseq, None);
        let line = format!("Refer-To: <{}>\r\nMax-Forwards: 70\r\n", self.somebody());
        self.house.send(peer, &text.replace("Max-Forwards: 70\r\n", &line));
    }

    /// Whom a REFER may refer to: a number, or who somebody talks to.
    fn somebody(&mut self) -> String {
        let number = self.pick(&["1001", "1002", "95555"]);
        let of_dialogs = |(_, text): &&(String, String)| {
            text.starts_with("INVITE")
                || text.starts_with("SIP/2.0 200") && text.contains("Contact:")
        };
        let dialogs: Vec<&(String, String)> = self.inbox.iter().filter(of_dialogs).collect();
        if dialogs.is_empty() || self.rng.chance(40) {
            return format!("sip:{number}@127.0.0.1");
        }
        let text = &dialogs[self.rng.below(dialogs.len() as u64) as usize].1;
        let tag = |name| header(text, name).split_once(";tag=").map_or("t1", |(_, tag)| tag);
        let (from, to, call_id) = (tag("From: "), tag("To: "), header(text, "Call-ID: "));
        let (to, from) = if text.starts_with("INVITE") { (from, to) } else { (to, from) };
        format!("sip:{number}@h?Replaces={call_id}%3Bto-tag%3D{to}%3Bfrom-tag%3D{from}")
    }

    fn hear_answer(&mut self, peer: &str, text: &str) {
        let cseq = header(text, "CSeq: ");
        let Some(number) = cseq.strip_suffix(" INVITE") else { return };
        let (number, call_id) =
            (number.parse().expect("a number"), header(text, "Call-ID: ").to_owned());
        let status: u16 = text[8..11].parse().expect("a status");
        if status >= 300 {
            let known = self.invites.iter().find(|(_, id, _)| *id == call_id && number == 1);
            if let Some((called, ..)) = known {
                let ack = self.house.ack_refusal(text, called, &call_id);
                self.house.send(TRUNK, &ack);
            }
        } else if status > 100 && text.contains("Contact: ") {
            if status < 200 || self.rng.chance(if self.is_calm { 60 } else { 20 }) {
                return self.say_within(peer, text, &call_id);
            }
            let offers = self.rng.chance(40);
            let ack = self.house.within("ACK", text, &call_id, number, offers.then_some(OFFER));
            self.house.send(peer, &ack);
        }
    }

    /// Everybody falls silent; calls that stand are released, and every timer runs out.
    fn settle(mut self) -> Result<(), String> {
        let live = |state| !matches!(state, CallState::Free | CallState::Ended);
        let rows = self.house.calls().into_iter();
        for (slot, row) in rows.filter(|(_, row)| live(row.state())) {
            let call = CallRef { slot, generation: row.generation };
            self.house.command(Command::Release { op: 2, call, cause: 0 }, b"");
        }
        self.house.pass_ms(300_000);
        self.house.what_is_left()
    }
}

#[test]
fn nothing_is_left_after_a_storm() {
    for seed in 0..SEEDS {
        let mut storm = Storm::new(seed);
        for _ in 0..10 + storm.rng.below(60) {
            storm.blow();
        }
        if let Err(what) = storm.settle() {
            panic!("seed {seed}: {what}");
        }
    }
}

/// The storm does blow calls together, and asunder.
#[test]
fn transfers_happen_in_a_storm() {
    let mut sum = [0; 2];
    for seed in 0..SEEDS / 10 {
        let mut storm = Storm::new(seed);
        for _ in 0..100 {
            storm.blow();
        }
        let counters = [Counter::TransfersCompleted, Counter::TransfersFailed];
        sum = [0, 1].map(|at| sum[at] + storm.house.count(counters[at]));
    }
    assert!(sum[0] > SEEDS / 300 && sum[1] > SEEDS / 30, "too little happened: {sum:?}");
}
