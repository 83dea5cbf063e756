//! Blades in one thread, in virtual time, and the bus between them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::{DataPlaneState, Layout, LocationRow, Process, Region};
use base::{CcbId, Instant, LocationId, Rng, TenantId, Text, WorkerId};
use control_core::cluster::hub::{Hub, Told};
use control_core::cluster::{BladeName, Heard};
use control_core::{
    AgentRecord, Blade, Ha1, Input, LoginRequest, Output, Provision, Strategy, TenantRecord,
};

use crate::bus::{Tally, reading, weigh};

const TENANT: TenantId = TenantId(1);
/// Agents that a CCB has room for here.
const ROOM: u32 = 64;

struct Site {
    name: BladeName,
    blade: Blade,
    region: Arc<Region>,
    lives: bool,
    /// The wake-up of it that is in the queue.
    wakes: Instant,
}

pub struct World {
    pub now: Instant,
    hub: Hub,
    sites: Vec<Site>,
    places: HashMap<BladeName, usize>,
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    told: VecDeque<(&'static str, Vec<Told>)>,
    rng: Rng,
    tally: Tally,
    out: Vec<Output>,
    pub logins_a_second: usize,
    login_at: Instant,
    agents: u64,
    pub granted: u64,
}

impl World {
    /// So many blades of one CCB each, which begin within half a second.
    pub fn new(blades: usize) -> World {
        let start = Instant::from_nanos(10_000_000_000);
        let sites = (0..blades).map(|place| {
            let at = start + Duration::from_millis(500) * place as u32 / blades as u32;
            site(place, at)
        });
        let sites: Vec<Site> = sites.collect();
        let mut world = World {
            now: start,
            hub: Hub::default(),
            places: sites.iter().enumerate().map(|(place, it)| (it.name.clone(), place)).collect(),
            sites,
            wakes: BinaryHeap::new(),
            told: VecDeque::new(),
            rng: Rng::from_number(1),
            tally: Tally::default(),
            out: Vec::new(),
            logins_a_second: 0,
            login_at: start,
            agents: 0,
            granted: 0,
        };
        for place in 0..blades {
            let at = start + Duration::from_millis(500) * place as u32 / blades as u32;
            world.run(at, |_| false);
            let region = Arc::clone(&world.sites[place].region);
            world.give(place, Input::Provision(provision()));
            world.give(place, Input::Attached { ccb: CcbId(place as u16 + 1), region });
            let name = world.sites[place].name.clone();
            let told = world.hub.join(world.now, &name);
            world.told.push_back(("begin", told));
            world.wake_later(place);
        }
        world
    }

    pub fn pass(&mut self, time: Duration) {
        self.run(self.now + time, |_| false);
    }

    /// Counts what happens in that time.
    pub fn measure(&mut self, what: &str, time: Duration) -> Tally {
        self.measure_until(what, time, |_| false)
    }

    /// The same, and `look` has a look after each turn.
    pub fn measure_until(
        &mut self,
        what: &str,
        time: Duration,
        look: impl FnMut(&World) -> bool,
    ) -> Tally {
        self.tally = Tally::default();
        self.run(self.now + time, look);
        let mut tally = std::mem::take(&mut self.tally);
        tally.seconds = time.as_secs_f64();
        tally.blades = self.sites.iter().filter(|site| site.lives).count();
        tally.print(what);
        tally
    }

    fn run(&mut self, end: Instant, mut look: impl FnMut(&World) -> bool) {
        loop {
            while let Some((kind, told)) = self.told.pop_front() {
                self.hear(kind, told);
            }
            if look(self) {
                return;
            }
            let expired = self.hub.expire(self.now);
            if !expired.is_empty() {
                self.told.push_back(("other answer", expired));
                continue;
            }
            let wake = self.wakes.peek().map(|Reverse(wake)| wake.0);
            let login = (self.logins_a_second > 0).then_some(self.login_at);
            let next = wake.into_iter().chain(login).min().filter(|next| *next <= end);
            let Some(next) = next else {
                self.now = end;
                self.login_at = self.login_at.max(end);
                return;
            };
            self.now = self.now.max(next);
            if login.is_some_and(|login| login <= self.now) {
                self.log_in();
                continue;
            }
            let Some(Reverse((at, place))) = self.wakes.pop() else { continue };
            if at == self.sites[place].wakes && self.sites[place].lives {
                let begun = cpu();
                self.give(place, Input::Timeout);
                self.tally.kind("timers").cpu += cpu() - begun;
                self.wake_later(place);
            }
        }
    }

    fn log_in(&mut self) {
        self.login_at = self.login_at.max(self.now)
            + Duration::from_secs(1) / u32::try_from(self.logins_a_second).unwrap_or(1);
        self.agents += 1;
        let agent = self.agents;
        let place = loop {
            let place = self.rng.below(self.sites.len() as u64) as usize;
            if self.sites[place].lives {
                break place;
            }
        };
        let request = LoginRequest {
            agent: AgentRecord {
                tenant: TENANT,
                agent,
                number: format!("{}", 100_000 + agent),
                user: format!("{}.demo", 100_000 + agent),
                name: format!("Agent {agent}"),
                agent_type: 1,
                incoming_limit: None,
                outgoing_limit: None,
            },
            epoch: 1,
            eligible: (1..=self.sites.len() as u16).map(CcbId).collect(),
            location: "local".into(),
            force: false,
            ha1: Ha1 { md5: [1; 16], sha256: [2; 32] },
        };
        self.give(place, Input::Login { reply: agent, request: Box::new(request) });
        self.wake_later(place);
    }

    fn hear(&mut self, kind: &'static str, told: Vec<Told>) {
        let lives = |sites: &[Site], places: &HashMap<BladeName, usize>, name: &BladeName| {
            places.get(name).copied().filter(|place| sites[*place].lives)
        };
        // Some are read as they would be from the wire.
        let read =
            if self.rng.chance(5) { told.first().and_then(|(_, it)| reading(it)) } else { None };
        let count = told.len() as u64;
        let begun = cpu();
        let mut heard = 0;
        for (name, it) in told {
            let Some(place) = lives(&self.sites, &self.places, &name) else { continue };
            heard += 1;
            let is_claimed = matches!(it, Heard::Claimed { .. });
            self.give(place, Input::Bus(it));
            if is_claimed || kind != "report" {
                self.wake_later(place);
            }
        }
        let spent = cpu() - begun;
        let kind = self.tally.kind(kind);
        kind.cpu += spent;
        kind.told += heard;
        if let Some(read) = read {
            // One in twenty is read.
            kind.read += read * 20 * u32::try_from(count).unwrap_or(0);
        }
    }

    fn give(&mut self, place: usize, input: Input) {
        let site = &mut self.sites[place];
        site.region.header().beat_worker(WorkerId(0), self.now);
        let mut out = std::mem::take(&mut self.out);
        site.blade.handle(self.now, input, &mut out);
        let name = site.name.clone();
        for output in out.drain(..) {
            match output {
                Output::Bus(say) => {
                    let (kind, bytes) = weigh(&name, &say);
                    let told = self.hub.say(self.now, &name, say);
                    let it = self.tally.kind(kind);
                    it.said += 1;
                    it.said_bytes += bytes as u64;
                    it.told_bytes += (bytes * told.len()) as u64;
                    self.told.push_back((kind, told));
                }
                Output::Login { result, .. } => self.granted += u64::from(result.is_ok()),
                _ => {}
            }
        }
        self.out = out;
    }

    fn wake_later(&mut self, place: usize) {
        let site = &mut self.sites[place];
        let at = site.blade.deadline().max(self.now + Duration::from_micros(1));
        if at != site.wakes {
            site.wakes = at;
            self.wakes.push(Reverse((at, place)));
        }
    }

    /// Its blade dies without a word.
    pub fn kill(&mut self, place: usize) {
        self.hub.leave(&self.sites[place].name);
        self.sites[place].lives = false;
    }

    pub fn lives(&self, place: usize) -> bool {
        self.sites[place].lives
    }

    pub fn is_leader(&self, place: usize) -> bool {
        let site = &self.sites[place];
        let view = site.blade.cluster(self.now);
        site.lives && view.is_some_and(|view| view.term.is_some())
    }

    pub fn leaders(&self) -> usize {
        (0..self.sites.len()).filter(|place| self.is_leader(*place)).count()
    }

    /// How many blades that one hears.
    pub fn seen_by(&self, place: usize) -> usize {
        self.sites[place].blade.cluster(self.now).map_or(0, |view| view.blades.len())
    }

    /// The fewest and the most logins of a blade.
    pub fn spread(&self) -> (usize, usize) {
        let counts = || self.sites.iter().map(|site| site.blade.logins().count());
        (counts().min().unwrap_or(0), counts().max().unwrap_or(0))
    }
}

fn site(place: usize, at: Instant) -> Site {
    let ccb = CcbId(place as u16 + 1);
    let name: BladeName = format!("blade-{}", place + 1).into();
    let region = Region::in_memory(Layout {
        ccb,
        workers: 1,
        agents: ROOM,
        calls_per_worker: 4,
        legs_per_worker: 8,
        ring_slots: 16,
        blob_bytes: 4_096,
        tenants: 1,
        trunks: 1,
        locations: 1,
    });
    let mut row = LocationRow::default();
    row.set_name(Text::new(b"local").expect("it fits"));
    row.set_sip(SocketAddr::from(([10, 0, (place >> 8) as u8, place as u8], 5060)));
    region.locations().write(LocationId(0), &row);
    region.header().start_data_plane(Process::default(), at);
    region.header().beat_worker(WorkerId(0), at);
    region.header().set_data_plane_state(DataPlaneState::Running);
    let mut blade = Blade::new(at, Process::default(), &[ccb]);
    blade.join(name.clone(), 1, Strategy::LeastAgents);
    blade.seed(Rng::from_number(place as u64));
    Site { name, blade, region, lives: true, wakes: Instant::ZERO }
}

fn provision() -> Provision {
    let tenant = TenantRecord {
        id: TENANT,
        name: "demo".into(),
        realm: "r".into(),
        hold_music: None,
        srtp: Default::default(),
    };
    Provision { tenants: vec![tenant], ..Provision::default() }
}

/// What this thread spent so far.
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of memory that this process has.
pub fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}
