//! Calls over two blades by chance: the network between them loses, repeats and reorders, peers answer anything at
//! any time, both controls grant, refuse, forget and make mistakes, data planes die. Whatever happens, no word is
//! bound for a leg that is not there, and in the end nothing is left.

use std::collections::HashMap;

use abi::{
    CallState, Command, Counter, Event, Fence, LeaseState, LeaseTicket, LeaseToken, Purpose,
    SecretRow, Share,
};
use base::{AgentSlot, CallRef, CcbId, LocationId, Medium, Rng, Transport};

use crate::attended::invite_from;
use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};

const SEEDS: u64 = 3_000;
const ADDRESSES: [&str; 2] = ["10.1.0.1:5060", "10.1.0.2:5060"];
/// The agents of each blade, and where their phones are.
const AGENTS: [[(&str, &str); 2]; 2] =
    [[("1001", AGENT_A), ("1002", AGENT_B)], [("2001", AGENT_A), ("2002", AGENT_B)]];
const WAITS_MS: [u64; 5] = [10, 200, 1_900, 2_300, 33_000];

struct Storm {
    rng: Rng,
    houses: [House; 2],
    /// What is under way between the blades: to which, and what.
    wire: Vec<(usize, String)>,
    /// What peers of each blade have received.
    inbox: Vec<(usize, String, String)>,
    invites: Vec<(usize, String, String)>,
    cseq: u32,
    minted: u8,
    /// The network between the blades is as good as none.
    is_calm: bool,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut rng = Rng::from_number(seed);
        let is_calm = rng.chance(50);
        let workers = if rng.chance(30) { 2 } else { 1 };
        let mut houses =
            [House::blade(1, "10.1.0.1", workers), House::blade(2, "10.1.0.2", workers)];
        for (house, agents) in houses.iter_mut().zip(AGENTS) {
            house.attach_control();
            for (number, phone) in agents {
                house.register(number, phone);
                if rng.chance(40) {
                    house.limit(number, Some(2 + rng.below(3) as u32), None);
                }
            }
        }
        let (wire, inbox, invites) = (Vec::new(), Vec::new(), Vec::new());
        let mut storm = Storm { rng, houses, wire, inbox, invites, cseq: 10, minted: 0, is_calm };
        if is_calm {
            storm.connect();
        }
        storm
    }

    /// A call over both blades stands.
    fn connect(&mut self) {
        let text = self.houses[0].invite("2001", "s1", Some(OFFER));
        self.houses[0].send(TRUNK, &text);
        let question = self.houses[0].asked("2001");
        self.host(0, question, AgentSlot(0));
        self.deliver_all();
        let (_, peer, invite) = self.inbox.last().expect("an INVITE").clone();
        self.houses[1].reply(&peer, &invite, 200, "t1", Some(OFFER));
        self.deliver_all();
        let (_, _, ok) = self.inbox.last().expect("a 200").clone();
        self.houses[0].ack(TRUNK, &ok, "s1");
        self.deliver_all();
    }

    fn deliver_all(&mut self) {
        self.collect();
        while !self.wire.is_empty() {
            self.deliver();
            self.collect();
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.below(from.len() as u64) as usize]
    }

    fn at(&mut self) -> usize {
        self.rng.below(2) as usize
    }

    fn blow(&mut self) {
        match self.rng.below(14) {
            0 | 1 => self.invite(),
            2 => {
                let waits = if self.is_calm { &WAITS_MS[..2] } else { &WAITS_MS[..] };
                let ms = self.pick(waits);
                self.houses.iter_mut().for_each(|house| house.pass_ms(ms));
            }
            3 if !self.invites.is_empty() && self.rng.chance(30) => self.cancel(),
            4..=6 => (0..2).for_each(|at| self.control(at)),
            7 if self.rng.chance(8) => {
                let at = self.at();
                self.houses[at].die();
                self.houses[at].attach_control();
            }
            8 if self.rng.chance(5) => {
                let at = self.at();
                self.houses[at].lose_control();
                self.houses[at].attach_control();
            }
            _ if !self.wire.is_empty() && self.rng.chance(60) => {}
            _ if !self.inbox.is_empty() => self.peer(),
            _ => {}
        }
        self.collect();
        while !self.wire.is_empty() && self.rng.chance(80) {
            self.deliver();
            self.collect();
        }
    }

    fn collect(&mut self) {
        for at in 0..2 {
            for (to, text) in self.houses[at].drain() {
                match to.to_string() == ADDRESSES[1 - at] {
                    true => self.wire.push((1 - at, text)),
                    false => self.inbox.push((at, to.to_string(), text)),
                }
            }
        }
    }

    /// One of the next few messages arrives, perhaps, perhaps more than once.
    fn deliver(&mut self) {
        let next = if self.is_calm { 1 } else { self.wire.len().min(3) as u64 };
        let place = self.rng.below(next) as usize;
        let is_lost = !self.is_calm && self.rng.chance(10);
        let is_repeated = !self.is_calm && self.rng.chance(10);
        let (at, text) = match is_repeated {
            true => self.wire[place].clone(),
            false => self.wire.remove(place),
        };
        if !is_lost {
            self.houses[at].send(ADDRESSES[1 - at], &text);
        }
    }

    fn invite(&mut self) {
        let (at, to_at, which) = (self.at(), self.at(), self.at());
        let number = if self.rng.chance(10) { "777" } else { AGENTS[to_at][which].0 };
        let call_id = format!("c{}", self.invites.len());
        if self.rng.chance(25) {
            // An agent's own call.
            let (agent, phone) = AGENTS[at][self.at()];
            self.invites.push((at, number.to_owned(), String::new()));
            return invite_from(&mut self.houses[at], phone, agent, number, &call_id);
        }
        let text = self.houses[at].invite(number, &call_id, self.rng.chance(80).then_some(OFFER));
        self.houses[at].send(TRUNK, &text);
        self.invites.push((at, number.to_owned(), text));
    }

    fn cancel(&mut self) {
        let which = self.rng.below(self.invites.len() as u64) as usize;
        let (at, _, text) = &self.invites[which];
        if text.is_empty() {
            return;
        }
        let text = text.replace("INVITE", "CANCEL").replace(OFFER, "");
        let length = format!("Content-Length: {}", OFFER.len());
        self.houses[*at].send(TRUNK, &text.replace(&length, "Content-Length: 0"));
    }

    fn control(&mut self, at: usize) {
        for (event, number) in self.houses[at].events_and_blobs() {
            let Event::Asked { op: ask, call, .. } = event else { continue };
            let home = 1 - at;
            let agent = AGENTS[home].iter().position(|(known, _)| *known == number);
            match (self.rng.below(10), agent) {
                (0, _) => {}
                (1, _) => self.houses[at].command(Command::Yield { op: 1, ask, call }, b""),
                (2..=9, Some(agent)) => self.host(at, (ask, call), AgentSlot(agent as u32)),
                _ => self.reject(at, ask, call, 404),
            }
        }
    }

    fn reject(&mut self, at: usize, ask: u64, call: CallRef, status: u16) {
        let reject = Command::Reject { op: 1, ask, call, status, retry_after_s: 0 };
        self.houses[at].command(reject, b"");
    }

    fn host(&mut self, at: usize, (ask, call): (u64, CallRef), agent: AgentSlot) {
        let home = 1 - at;
        let by = CcbId(at as u16 + 1);
        let (now, region) = (self.houses[home].now, self.houses[home].region());
        let purpose = Purpose::ALL[self.rng.below(4) as usize];
        let Ok(counter) = region.leases().reserve(agent, Medium::Voice, by, purpose, now) else {
            return self.reject(at, ask, call, 486);
        };
        self.minted = self.minted.wrapping_add(1).max(1);
        let token = [self.minted; 16];
        let secret = region.secrets().read(agent).expect("a row");
        region
            .secrets()
            .write(agent, &SecretRow { lease_counter: counter, lease_token: token, ..secret });
        let incarnation = region.header().data_plane().incarnation;
        let percent = if self.is_calm { 0 } else { 5 };
        let wrong = |rng: &mut Rng| u32::from(rng.chance(percent));
        let fence = Fence {
            epoch: 5 + wrong(&mut self.rng),
            incarnation: incarnation + u64::from(wrong(&mut self.rng)),
            counter: counter + wrong(&mut self.rng),
        };
        let token = LeaseToken(if self.rng.chance(percent) { [255; 16] } else { token });
        let ticket = LeaseTicket { fence, token, purpose, by };
        if self.rng.chance(percent) {
            self.houses.iter_mut().for_each(|house| house.pass_ms(2_200));
        }
        let number = AGENTS[home][agent.0 as usize].0;
        let host = Command::Host {
            op: 2,
            ask,
            call,
            home: CcbId(home as u16 + 1),
            address: ADDRESSES[home].parse().expect("an address"),
            location: LocationId(0),
            transport: Transport::Udp,
        };
        let blob = format!("{number}.demo\n{number}\n{}", ticket.to_value());
        self.houses[at].command(host, blob.as_bytes());
    }

    fn peer(&mut self) {
        let latest = self.inbox.len() as u64;
        let far = if self.rng.chance(80) { 4.min(latest) } else { latest };
        let back = self.rng.below(far);
        let (at, peer, text) = self.inbox[(latest - 1 - back) as usize].clone();
        if text.starts_with("INVITE") {
            if self.rng.chance(75) {
                self.answer(at, &peer, &text);
            } else {
                self.say_within(at, &peer, &text, "");
            }
        } else if text.starts_with("SIP/2.0") {
            self.hear_answer(at, &peer, &text);
        } else if !text.starts_with("ACK") {
            let status = self.pick(&[200, 200, 200, 200, 481, 500]);
            self.houses[at].reply(&peer, &text, status, "t1", None);
        }
    }

    fn answer(&mut self, at: usize, peer: &str, invite: &str) {
        let calm: &[u16] = &[180, 200, 200, 200, 486];
        let wild: &[u16] = &[100, 180, 183, 200, 200, 200, 486, 488, 491, 481, 503, 603];
        let status = self.pick(if self.is_calm { calm } else { wild });
        let tag = if self.is_calm || self.rng.chance(90) { "t1" } else { "t2" };
        let describes = status == 200 && self.rng.chance(95);
        self.houses[at].reply(peer, invite, status, tag, describes.then_some(OFFER));
    }

    fn say_within(&mut self, at: usize, peer: &str, seen: &str, call_id: &str) {
        self.cseq += 1;
        let method = self.pick(&["BYE", "INVITE", "INVITE", "REFER", "REFER"]);
        let offers = method == "INVITE" && self.rng.chance(80);
        let text =
            self.houses[at].within(method, seen, call_id, self.cseq, offers.then_some(OFFER));
        let to = self.somebody(at);
        let line = format!("Refer-To: <{to}>\r\nMax-Forwards: 70\r\n");
        let text = match method {
            "REFER" => text.replace("Max-Forwards: 70\r\n", &line),
            _ => text,
        };
        self.houses[at].send(peer, &text);
    }

    /// Whom a REFER may refer to: a number, or who somebody at that blade talks to.
    fn somebody(&mut self, at: usize) -> String {
        let (to_at, which) = (self.at(), self.at());
        let number = AGENTS[to_at][which].0;
        let is_dialog = |text: &str| {
            text.starts_with("INVITE")
                || text.starts_with("SIP/2.0 200") && text.contains("Contact:")
        };
        let dialogs: Vec<&String> = self
            .inbox
            .iter()
            .filter(|(of, _, text)| *of == at && is_dialog(text))
            .map(|(_, _, text)| text)
            .collect();
        if dialogs.is_empty() || self.rng.chance(60) {
            return format!("sip:{number}@127.0.0.1");
        }
        let text = dialogs[self.rng.below(dialogs.len() as u64) as usize];
        let tag = |name| header(text, name).split_once(";tag=").map_or("t1", |(_, tag)| tag);
        let (from, to, call_id) = (tag("From: "), tag("To: "), header(text, "Call-ID: "));
        let (to, from) = if text.starts_with("INVITE") { (from, to) } else { (to, from) };
        format!("sip:{number}@h?Replaces={call_id}%3Bto-tag%3D{to}%3Bfrom-tag%3D{from}")
    }

    fn hear_answer(&mut self, at: usize, peer: &str, text: &str) {
        let Some(number) = header(text, "CSeq: ").strip_suffix(" INVITE") else { return };
        let number: u32 = number.parse().expect("a number");
        let call_id = header(text, "Call-ID: ").to_owned();
        let status: u16 = text[8..11].parse().expect("a status");
        if status >= 300 {
            let ack = self.houses[at].ack_refusal(text, "777", &call_id);
            self.houses[at].send(TRUNK, &ack);
        } else if status >= 200 && text.contains("Contact: ") {
            if self.rng.chance(30) {
                return self.say_within(at, peer, text, &call_id);
            }
            let ack = self.houses[at].within("ACK", text, &call_id, number, None);
            self.houses[at].send(peer, &ack);
        }
    }

    /// Every leg that has a lease has one that is bound, and as many have it as the word says.
    fn check(&self) -> Result<(), String> {
        for (at, house) in self.houses.iter().enumerate() {
            let region = house.region();
            let mut held: HashMap<_, (u16, u16)> = HashMap::new();
            for (_, row) in region.dialogs().iter() {
                if let Some(lease) = row.lease() {
                    let (legs, own) = held.entry(lease).or_default();
                    (*legs, *own) = (*legs + 1, *own + u16::from(row.share() == Share::Own));
                }
            }
            for agent in [AgentSlot(0), AgentSlot(1)] {
                let state = region.leases().read(agent, Medium::Voice);
                let LeaseState::Bound { holder, counter, legs, own, .. } = state else { continue };
                let known = held.remove(&(agent, counter, holder)).unwrap_or_default();
                if known != (legs, own) {
                    return Err(format!("blade {at}: {agent:?} is {state:?}, known: {known:?}"));
                }
            }
            if !held.is_empty() {
                return Err(format!("blade {at}: words that are lost: {held:?}"));
            }
        }
        Ok(())
    }

    /// Everybody falls silent; calls that stand are released, and every timer runs out.
    fn settle(mut self) -> Result<(), String> {
        for house in &mut self.houses {
            let live = |state| !matches!(state, CallState::Free | CallState::Ended);
            for (slot, row) in house.calls().into_iter().filter(|(_, row)| live(row.state())) {
                let call = CallRef { slot, generation: row.generation };
                house.command(Command::Release { op: 2, call, cause: 0 }, b"");
            }
        }
        self.is_calm = true;
        for step in 0..400 {
            let ms = if step < 100 { 100 } else { 1_000 };
            self.houses.iter_mut().for_each(|house| house.pass_ms(ms));
            self.deliver_all();
        }
        for (at, house) in self.houses.iter().enumerate() {
            let (leases, now) = (house.region().leases(), house.now);
            for agent in [AgentSlot(0), AgentSlot(1)] {
                leases.expire(agent, Medium::Voice, now);
            }
            house.what_is_left().map_err(|what| format!("blade {at}: {what}"))?;
        }
        Ok(())
    }
}

#[test]
fn nothing_is_left_after_a_storm_over_two_blades() {
    let mut sum: HashMap<&str, u64> = HashMap::new();
    let counted = [
        Counter::CallsFenced,
        Counter::CallsAnswered,
        Counter::LeaseStale,
        Counter::LeaseForged,
        Counter::CallsYielded,
        Counter::TransfersCompleted,
        Counter::CallsRecovered,
        Counter::CallsWaiting,
    ];
    for seed in 0..SEEDS {
        let mut storm = Storm::new(seed);
        for step in 0..20 + storm.rng.below(80) {
            storm.blow();
            if let Err(what) = storm.check() {
                panic!("seed {seed}, step {step}: {what}");
            }
        }
        for counter in counted {
            let counts = storm.houses.iter().map(|house| house.count(counter));
            *sum.entry(counter.name()).or_default() += counts.sum::<u64>();
        }
        if let Err(what) = storm.settle() {
            panic!("seed {seed}: {what}");
        }
    }
    println!("{sum:?}");
    for counter in counted {
        assert!(sum[counter.name()] > SEEDS / 100, "too little happened: {sum:?}");
    }
}
