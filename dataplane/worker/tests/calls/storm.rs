//! Calls by chance: peers that answer anything at any time, a control that comes and goes, tables that are
//! full. Whatever happens, nothing may be left.

use abi::{CallState, Command, Event};
use base::{CallRef, LocationId, Rng};
use worker::Limits;

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};

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
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut rng = Rng::from_number(seed);
        let small = Limits { transactions: 12, ..Limits::default() };
        let limits = if rng.chance(20) { small } else { Limits::default() };
        let mut house = House::limited(limits);
        house.attach_control();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        Storm { rng, house, inbox: Vec::new(), invites: Vec::new(), cseq: 10 }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.below(from.len() as u64) as usize]
    }

    fn blow(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.invite(),
            2 => {
                let ms = self.pick(&WAITS_MS);
                self.house.pass_ms(ms);
            }
            3 if !self.invites.is_empty() => self.cancel(),
            4 => self.control(),
            5 if self.rng.chance(20) => match self.rng.chance(50) {
                true => self.house.attach_control(),
                false => self.house.lose_control(),
            },
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
            let status = self.pick(&[200, 200, 481, 500]);
            self.house.reply(&peer, &text, status, "t1", None);
        }
    }

    fn answer(&mut self, peer: &str, invite: &str) {
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
        let method = self.pick(&["BYE", "INVITE", "INVITE"]);
        let offers = method == "INVITE" && self.rng.chance(70);
        let text = self.house.within(method, seen, call_id, self.cseq, offers.then_some(OFFER));
        self.house.send(peer, &text);
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
            if status < 200 || self.rng.chance(20) {
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
