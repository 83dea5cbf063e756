//! A blade among others: what it hears of them, what it asks them, what it tells them of itself.

use std::collections::BTreeMap;

use base::{CcbId, Instant, TenantId};

use super::Blade;
use crate::acd::CallerId;
use crate::cluster::{
    ASK_MS, Answer, BladeName, CcbReport, Fact, Heard, Home, Key, Question, REPORT_LIFE_MS, Report,
    Say, To,
};
use crate::login::LoginKey;
use crate::message::Output;

/// What a blade knows of the others.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Our name on the bus.
    pub(super) name: BladeName,
    /// A number that no earlier control process of ours had.
    pub(super) incarnation: u64,
    /// True while the bus is there.
    pub(super) connected: bool,
    /// The newest report of each blade, and when we heard it.
    pub(super) reports: BTreeMap<BladeName, (Instant, Report)>,
    /// Where the agents of directory numbers are.
    pub(super) homes: BTreeMap<(TenantId, String), Home>,
    /// Our questions that are not answered yet, and what they are for.
    asked: BTreeMap<u64, Waiting>,
    next_ask: u64,
}

/// What goes on with an answer.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Nobody waits for the answer.
    Unheard,
    /// A caller of ours who was sent to the owner of a queue.
    QueueJoined { caller: CallerId },
    /// A caller of another blade who is offered to an agent.
    QueueOffered { caller: CallerId, agent: LoginKey },
}

impl Cluster {
    /// The report that stands of a CCB and its blade's name; none that is too old.
    pub(super) fn ccb(&self, now: Instant, ccb: CcbId) -> Option<(&BladeName, &CcbReport)> {
        let life = std::time::Duration::from_millis(REPORT_LIFE_MS);
        self.reports
            .iter()
            .filter(|(_, (at, _))| now < *at + life)
            .find_map(|(blade, (_, report))| Some((blade, report.ccbs.get(&ccb.0)?)))
    }

    /// Asks a blade something.
    pub(super) fn ask(
        &mut self,
        to: BladeName,
        question: Question,
        waiting: Waiting,
        out: &mut Vec<Output>,
    ) {
        self.next_ask += 1;
        let ask = self.next_ask;
        self.asked.insert(ask, waiting);
        let (to, question) = (To::Blade(to), Box::new(question));
        out.push(Output::Bus(Say::Ask { ask, to, question, within_ms: ASK_MS }));
    }
}

impl Blade {
    /// Makes this blade one of several that meet on a bus. `incarnation` is a number that no earlier control process
    /// of that blade had.
    pub fn join(&mut self, name: BladeName, incarnation: u64) {
        self.cluster = Some(Cluster {
            name,
            incarnation,
            connected: false,
            reports: BTreeMap::new(),
            homes: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_ask: 0,
        });
    }

    /// Takes what the bus says.
    pub(super) fn heard(&mut self, now: Instant, heard: Heard, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        match heard {
            Heard::Connected(is) => cluster.connected = is,
            Heard::Asked { reply, from, question } => {
                let answer = self.answer_question(now, &from, *question, out);
                out.push(Output::Bus(Say::Reply { reply, answer: Box::new(answer) }));
            }
            Heard::Answered { ask, answer } => {
                if let Some(waiting) = cluster.asked.remove(&ask) {
                    self.answered(now, waiting, answer.map(|answer| *answer), out);
                }
            }
            Heard::Fact { key: Key::Blade(blade), fact } => match fact {
                Some(Fact::Blade(report)) => {
                    cluster.reports.insert(blade, (now, report));
                }
                _ => {
                    cluster.reports.remove(&blade);
                }
            },
            Heard::Fact { key: Key::Number(tenant, number), fact } => match fact {
                Some(Fact::Home(home)) => {
                    cluster.homes.insert((tenant, number), home);
                }
                _ => {
                    cluster.homes.remove(&(tenant, number));
                }
            },
            Heard::Fact { key: Key::Queue(tenant, name), fact } => {
                let claim = match fact {
                    Some(Fact::Claim(claim)) => Some(claim),
                    _ => None,
                };
                self.queue_fact(now, (tenant, name), claim, out);
            }
            Heard::Claimed { key: Key::Queue(tenant, name), term } => {
                self.queue_claimed(now, (tenant, name), term, out);
            }
            Heard::Fact { .. } | Heard::Claimed { .. } => {}
        }
    }

    /// What we say to a question.
    fn answer_question(
        &mut self,
        now: Instant,
        from: &BladeName,
        question: Question,
        out: &mut Vec<Output>,
    ) -> Answer {
        match question {
            Question::QueueJoin { .. }
            | Question::QueueLeave { .. }
            | Question::QueueOffer { .. }
            | Question::QueueOutcome { .. }
            | Question::QueueAgents { .. }
            | Question::QueueUnanswered { .. } => {
                Answer::Queue(self.queue_asked(now, from, question, out))
            }
            Question::Place(_)
            | Question::Login { .. }
            | Question::Leave { .. }
            | Question::Lease(_)
            | Question::GiveBack { .. }
            | Question::Holds { .. } => Answer::NotHere,
        }
    }

    /// Goes on with the answer to a question of ours.
    fn answered(
        &mut self,
        now: Instant,
        waiting: Waiting,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        match waiting {
            Waiting::Unheard => {}
            Waiting::QueueJoined { caller } => self.queue_joined(now, caller, answer, out),
            Waiting::QueueOffered { caller, agent } => {
                self.offer_heard(now, (caller, agent), answer, out);
            }
        }
    }
}
