//! A blade: its control with the machines under test, and a data plane that knows dialogs and words, no more.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use abi::sync::AtomicU64;
use abi::{Fence, Purpose};
use base::{AgentSlot, CcbId, Instant, TenantId};
use control_core::cluster::{
    BladeName, Denial, Grant, HeldLease, LeaseRequest, REPORT_LIFE_MS, Token,
};
use control_core::hosting::{Desk, Holder, Home, Presence, Wanted};

use crate::world::{AGENTS, BLADES, Event};

pub const TENANT: TenantId = TenantId(1);

/// What goes over the bus.
#[derive(Clone, Debug)]
pub enum Bus {
    Ask(Box<LeaseRequest>),
    Answer(u64, Box<Result<Grant, Denial>>),
    GiveBack(usize, CcbId, u32),
    Holds(HeldLease),
    HoldsSaid(HeldLease, u64, bool),
    Report(Report),
    Moved(usize, u32),
}

/// What a blade says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub control: u64,
    pub sequence: u64,
    pub data_plane: u64,
}

/// What goes between data planes.
#[derive(Clone, Copy, Debug)]
pub enum Sip {
    /// With what the grant's token says: which grant it is, which nobody checks but the watch.
    Invite {
        call: u64,
        agent: usize,
        fence: Fence,
        grant: u64,
    },
    Ok {
        call: u64,
    },
    Refused {
        call: u64,
    },
    Bye {
        call: u64,
        agent: usize,
    },
    Gone {
        call: u64,
    },
}

/// A call at its home: the word of its agent is bound for it.
#[derive(Clone, Copy, Debug)]
pub struct Dialog {
    pub call: u64,
    pub holder: usize,
    pub epoch: u32,
    pub counter: u32,
    pub heard: Instant,
    /// When it began, by the world's time.
    pub since: u64,
}

/// A call at its holder.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub agent: usize,
    pub home: usize,
    pub fence: Fence,
    pub grant: u64,
    /// The request, which names the session.
    pub session: u64,
    pub answered: bool,
    pub held: bool,
    /// It is over here, and the other side does not know it yet.
    pub leaving: bool,
}

/// A control process.
pub struct Control {
    pub incarnation: u64,
    pub home: Home,
    pub holder: Holder<u64>,
    pub reports: Vec<Option<(Instant, Report)>>,
    pub sequence: u64,
    pub sent_at: VecDeque<(u64, Instant)>,
    pub connected: bool,
}

pub struct Blade {
    pub number: usize,
    pub name: BladeName,
    /// Its clock: what it shows when the world's shows 0, and millionths that it is fast.
    pub offset: u64,
    pub fast_ppm: i64,
    pub control: Option<Control>,
    /// What came while control was paused; None while it runs.
    pub waiting: Option<Vec<Event>>,
    pub control_incarnation: u64,
    pub is_up: bool,
    pub incarnation: u64,
    // The region.
    pub words: Vec<AtomicU64>,
    pub logins: Vec<Option<u32>>,
    /// The epochs that the rows say, also of those who left.
    pub rows: Vec<u32>,
    pub dialogs: BTreeMap<usize, Dialog>,
    pub calls: BTreeMap<u64, Call>,
}

impl Blade {
    pub fn new(number: usize, offset: u64, fast_ppm: i64) -> Blade {
        Blade {
            number,
            name: format!("b{number}").into(),
            offset,
            fast_ppm,
            control: None,
            waiting: None,
            control_incarnation: 0,
            is_up: false,
            incarnation: 0,
            words: (0..AGENTS).map(|_| AtomicU64::new(0)).collect(),
            logins: vec![None; AGENTS],
            rows: vec![0; AGENTS],
            dialogs: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    pub fn ccb(&self) -> CcbId {
        ccb(self.number)
    }

    /// What its clock shows.
    pub fn clock(&self, now: u64) -> Instant {
        let drift = now as i64 / 1_000_000 * self.fast_ppm;
        Instant::from_nanos(now.wrapping_add_signed(drift) + self.offset)
    }

    pub fn start_control(&mut self) {
        self.control_incarnation += 1;
        let incarnation = self.control_incarnation;
        self.waiting = None;
        self.control = Some(Control {
            incarnation,
            home: Home::new(self.ccb()),
            holder: Holder::new(incarnation),
            reports: vec![None; BLADES],
            sequence: 0,
            sent_at: VecDeque::new(),
            connected: true,
        });
    }

    /// Control finds what the region says.
    pub fn rebuild(&mut self, clock: Instant) {
        let Some(control) = &mut self.control else { return };
        for (agent, epoch) in self.rows.iter().copied().enumerate() {
            let slot = AgentSlot(agent as u32);
            let desk =
                Desk { slot, word: &self.words[agent], epoch, incarnation: self.incarnation };
            control.home.rebuild(clock, desk, TENANT, &number(agent), None);
        }
    }

    /// The answer to a request, and whether it was just won.
    pub fn answer(
        &mut self,
        clock: Instant,
        from: &BladeName,
        request: &LeaseRequest,
        grant: u64,
    ) -> Option<(Result<Grant, Denial>, Option<Fence>)> {
        let control = self.control.as_mut()?;
        if let Some(answer) = control.home.answered(from, request) {
            return Some((answer.clone(), None));
        }
        let agent = agent(&request.number);
        let won = match (self.logins[agent], self.is_up) {
            (None, _) => Err(Denial::LoggedOut),
            (_, false) => Err(Denial::OwnerAway),
            (Some(epoch), true) => {
                let slot = AgentSlot(agent as u32);
                let word = &self.words[agent];
                let desk = Desk { slot, word, epoch, incarnation: self.incarnation };
                control.home.win(clock, Some(from), request, desk)
            }
        };
        let home = ccb(self.number);
        let answer = won.clone().map(|fence| Grant {
            fence,
            token: Token(u128::from(grant).to_le_bytes()),
            home,
            sip: ([10, 0, 0, self.number as u8], 5060).into(),
            agent: agent as u64,
            number: request.number.clone(),
            user: String::new(),
            name: String::new(),
            agent_type: 0,
            phone: None,
            state: String::new(),
            ttl_ms: abi::RESERVED_MS as u32,
        });
        control.home.remember(from, request, answer.clone());
        Some((answer, won.ok()))
    }

    pub fn ask(
        &mut self,
        clock: Instant,
        call: u64,
        (home, home_name): (usize, BladeName),
        agent: usize,
    ) -> Option<LeaseRequest> {
        let (holder, holder_incarnation) = (self.ccb(), self.incarnation);
        let wanted = Wanted {
            blade: home_name,
            home: ccb(home),
            holder,
            holder_incarnation,
            tenant: TENANT,
            number: number(agent),
            purpose: Purpose::Call,
            caller: String::new(),
            caller_agent: None,
            serial: call,
            queue: None,
        };
        Some(self.control.as_mut()?.holder.ask(clock, wanted, call))
    }
}

impl Control {
    /// True while that blade's control is heard of.
    pub fn is_seen(&self, clock: Instant, blade: usize) -> bool {
        let life = Duration::from_millis(REPORT_LIFE_MS);
        self.reports[blade].is_some_and(|(at, _)| clock < at + life)
    }
}

pub fn presence(
    connected: bool,
    reports: &[Option<(Instant, Report)>],
    clock: Instant,
    ccb: CcbId,
) -> Presence {
    let life = Duration::from_millis(REPORT_LIFE_MS);
    let report = reports[usize::from(ccb.0) - 1];
    match report.filter(|(at, _)| clock < *at + life) {
        _ if !connected => Presence::Unknown,
        Some((_, report)) if report.data_plane != 0 => Presence::Here(report.data_plane),
        _ => Presence::Gone,
    }
}

pub fn ccb(blade: usize) -> CcbId {
    CcbId(blade as u16 + 1)
}

pub fn number(agent: usize) -> String {
    format!("{}", 7_000 + agent)
}

pub fn agent(number: &str) -> usize {
    number.parse::<usize>().expect("a number of ours") - 7_000
}
