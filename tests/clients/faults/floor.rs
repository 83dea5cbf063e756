//! Agents, customers and their calls, which go on while things fail, and streams that show what the machine does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softphone::{Event, Order};

use super::check::check;
use super::table::Row;
use super::{BLADES, Fault};
use crate::desk::Desk;
use crate::evenness::Stream;
use crate::lab::run;
use crate::phone::Softphone;
use crate::postgres::Postgres;
use crate::site::{ACCESS, CARRIER, PHONES, Plan, Site, phones};

/// Of each blade: two who talk there, one who calls the next blade, one who is called by the one before, and one who
/// takes calls of the queue.
const AGENTS: usize = 5 * BLADES;
/// A call without RTP for so long does not stand.
const SILENT: Duration = Duration::from_millis(500);
/// Long enough for a call that begins on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a desk tries the control that it had before it logs in again.
const FAITHFUL: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(250);

pub struct Agent {
    pub number: String,
    pub login: Value,
    pub ccb: usize,
    pub phone: Softphone,
    pub desk: Option<Desk>,
    /// What the desk was told last of the seat: ready, not_ready, busy or after_call.
    pub told: &'static str,
    pub wants_ready: bool,
    lost_at: Option<Instant>,
    try_at: Instant,
}

/// Somebody in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Agent(usize),
    Customer(usize),
}

pub struct Customer {
    pub blade: usize,
    pub phone: Softphone,
}

/// A call that is to stand.
pub struct Call {
    pub caller: Who,
    /// None is the queue, until somebody takes it.
    pub callee: Option<usize>,
    of_queue: bool,
    pub stands: bool,
}

pub struct Floor {
    pub agents: Vec<Agent>,
    pub customers: Vec<Customer>,
    pub calls: Vec<Call>,
    pub disk: Disk,
    streams: Vec<Stream>,
}

impl Floor {
    /// A site with everybody logged in.
    pub fn open(blades: usize) -> (Site, Floor) {
        let disk = Disk::mount();
        let postgres = Arc::new(Postgres::start_in(&disk.folder));
        let site =
            Site::of(Plan { blades, agents: AGENTS, prompts: None, postgres, password_hash: None });
        site.add_queue(&[]);
        let mut agents: Vec<Agent> =
            (1001..1001 + AGENTS).map(|number| Agent::new(&site, number)).collect();
        agents.sort_by_key(|agent| agent.ccb);
        let of = |blade: usize, place: usize| (blade - 1) % BLADES * (AGENTS / BLADES) + place;
        let mut calls = Vec::new();
        for blade in 1..=blades {
            agents[of(blade, 4)].wants_ready = true;
            for (caller, callee) in [(of(blade, 0), of(blade, 1)), (of(blade, 2), of(blade + 1, 3))]
            {
                let caller = Who::Agent(caller);
                calls.push(Call { caller, callee: Some(callee), of_queue: false, stands: false });
            }
        }
        let customers = [1, 3].map(|blade| {
            let phone = site.customer(&format!("4930{blade}"), blade);
            Customer { blade, phone }
        });
        for customer in 0..customers.len() {
            let caller = Who::Customer(customer);
            calls.push(Call { caller, callee: None, of_queue: true, stands: false });
        }
        let (floor, carrier) = (PHONES.into(), CARRIER.into());
        // The data planes share two cores.
        let ends = (Some(&site.floor), floor);
        let stream = |cores| Stream::start(ends, (Some(&site.carrier), carrier), cores);
        let streams = [[0, 1], [1, 0], [0, 0], [1, 1]].map(stream).into();
        let floor = Floor { agents, customers: customers.into(), calls, disk, streams };
        (site, floor)
    }

    pub fn phone(&self, who: Who) -> &Softphone {
        match who {
            Who::Agent(agent) => &self.agents[agent].phone,
            Who::Customer(customer) => &self.customers[customer].phone,
        }
    }

    /// The blade by which somebody is in calls.
    pub fn blade(&self, who: Who) -> usize {
        match who {
            Who::Agent(agent) => self.agents[agent].ccb,
            Who::Customer(customer) => self.customers[customer].blade,
        }
    }

    /// Both phones of a call that somebody took.
    pub fn pair(&self, call: &Call) -> Option<[Who; 2]> {
        Some([call.caller, Who::Agent(call.callee?)])
    }

    fn hears(&self, who: Who) -> bool {
        let phone = self.phone(who);
        phone.is_busy() && phone.silence().is_some_and(|silence| silence < SILENT)
    }

    /// Lets desks do their work until then.
    pub fn live(&mut self, site: &Site, until: Instant) {
        loop {
            for place in 0..self.agents.len() {
                self.agents[place].live(site, place);
            }
            if Instant::now() >= until {
                return;
            }
            // Desks and phones have no event in common.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sees to it that every call stands and all is right.
    pub fn settle(&mut self, site: &Site) {
        for place in 0..self.calls.len() {
            // Who is just back grants nothing for a moment, and says 503.
            let end = Instant::now() + LIMIT;
            loop {
                self.call(site, place);
                if self.calls[place].stands {
                    break;
                }
                assert!(Instant::now() < end, "call {place} is not to be made");
                self.live(site, Instant::now() + AGAIN);
            }
        }
        let end = Instant::now() + LIMIT;
        while let Some(why) = check(site, self) {
            assert!(Instant::now() < end, "it does not settle: {why}");
            self.live(site, Instant::now() + Duration::from_millis(50));
        }
        // Steady for a while.
        self.live(site, Instant::now() + Duration::from_millis(500));
    }

    fn call(&mut self, site: &Site, place: usize) {
        let Call { caller, callee, of_queue, stands } = self.calls[place];
        if stands {
            return;
        }
        let number = callee.filter(|_| !of_queue).map(|callee| self.agents[callee].number.clone());
        let phone = self.phone(caller);
        while phone.next(Duration::ZERO).is_some() {}
        phone.order(Order::Call(number.unwrap_or_else(|| ACCESS.to_owned())));
        let end = Instant::now() + LIMIT;
        loop {
            self.live(site, Instant::now() + Duration::from_millis(20));
            let phone = self.phone(caller);
            while let Some(event) = phone.next(Duration::ZERO) {
                if let Event::Ended(why) = event {
                    println!("    call {place} of {caller:?} failed: {why:?}");
                    return;
                }
            }
            if of_queue {
                self.calls[place].callee = self.server(place);
            }
            if self
                .pair(&self.calls[place])
                .is_some_and(|pair| pair.iter().all(|who| self.hears(*who)))
            {
                self.calls[place].stands = true;
                return;
            }
            if Instant::now() >= end {
                println!(
                    "    call {place} of {caller:?} does not begin: {}",
                    check(site, self).unwrap_or_default()
                );
                self.phone(caller).order(Order::HangUp);
                self.live(site, Instant::now() + Duration::from_secs(1));
                return;
            }
        }
    }

    /// The agent of the queue who took that call: the only one whose phone has one and who is in no other call.
    fn server(&self, place: usize) -> Option<usize> {
        let is_taken = |agent: usize| {
            let others = self.calls.iter().enumerate().filter(|(other, _)| *other != place);
            others.into_iter().any(|(_, call)| call.stands && call.callee == Some(agent))
        };
        let mut agents = self.agents.iter().enumerate();
        let found =
            agents.find(|(agent, one)| one.wants_ready && one.phone.is_busy() && !is_taken(*agent));
        found.map(|(agent, _)| agent)
    }

    pub fn forget_gaps(&mut self) {
        for stream in &self.streams {
            stream.gap();
        }
        for agent in &self.agents {
            agent.phone.longest_gap();
        }
        for customer in &self.customers {
            customer.phone.longest_gap();
        }
    }

    /// The calls that stand, with the blades that they are at.
    pub fn standing(&self) -> BTreeMap<usize, Vec<usize>> {
        let calls = self.calls.iter().enumerate().filter(|(_, call)| call.stands);
        let blades = |call: &Call| {
            self.pair(call).into_iter().flatten().map(|who| self.blade(who)).collect()
        };
        calls.map(|(place, call)| (place, blades(call))).collect()
    }

    /// What became of the calls.
    pub fn judge(&mut self, before: &BTreeMap<usize, Vec<usize>>, fault: Fault, row: &mut Row) {
        row.control_gap = self.streams.iter().map(Stream::gap).max().unwrap_or_default();
        for (place, blades) in before {
            let pair = self.pair(&self.calls[*place]).expect("it stood");
            let stands = pair.iter().all(|who| self.hears(*who));
            let is_touched = fault.touches().is_some_and(|blade| blades.contains(&blade));
            match (stands, is_touched) {
                (true, true) => row.kept += 1,
                (true, false) => {
                    row.kept += 1;
                    let gaps = pair.map(|who| self.phone(who).longest_gap());
                    row.gap = gaps.into_iter().fold(row.gap, Duration::max);
                }
                (false, true) if fault.may_lose() => row.lost_rightly += 1,
                (false, _) => {
                    row.lost_wrongly += 1;
                    row.faults.push(format!("call {place} of {pair:?} at {blades:?} is lost"));
                }
            }
            if !stands {
                let call = &mut self.calls[*place];
                call.stands = false;
                if call.of_queue {
                    call.callee = None;
                }
                for who in pair.into_iter().filter(|who| self.phone(*who).is_busy()) {
                    self.phone(who).order(Order::HangUp);
                }
            }
        }
    }
}

impl Agent {
    fn new(site: &Site, number: usize) -> Agent {
        let login = site.log_in(number, number % BLADES + 1);
        let phone = Softphone::start_on(&site.floor, &login, phones(), 440);
        phone.register();
        let desk = Some(site.desk(&login));
        let ccb = ccb_of(&login);
        let number = number.to_string();
        let (wants_ready, lost_at, try_at) = (false, None, Instant::now());
        Agent { number, login, ccb, phone, desk, told: "", wants_ready, lost_at, try_at }
    }

    /// Hears what the desk is told, comes back, and says ready where that is wanted.
    fn live(&mut self, site: &Site, place: usize) {
        let mut is_over = self.desk.is_none();
        let mut must_log_in = false;
        if let Some(desk) = &self.desk {
            is_over = desk.is_over();
            while let Some(message) = desk.next(Duration::ZERO) {
                match message["type"].as_str().unwrap_or_default() {
                    "AgentReady" => self.told = "ready",
                    "AgentNotReady" => self.told = "not_ready",
                    "AgentBusy" => self.told = "busy",
                    "AgentWorkingAfterCall" => self.told = "after_call",
                    "log_in_again" | "logged_out" | "replaced" | "error" => must_log_in = true,
                    _ => {}
                }
            }
        }
        let now = Instant::now();
        if must_log_in {
            self.lost_at = Some(now - FAITHFUL);
            self.desk = None;
        } else if is_over && self.lost_at.is_none() {
            (self.lost_at, self.desk) = (Some(now), None);
        }
        if now < self.try_at {
            return;
        }
        if let Some(lost_at) = self.lost_at {
            self.try_at = now + AGAIN;
            match now >= lost_at + FAITHFUL {
                true => self.log_in_again(site, place),
                false => self.attach(site),
            }
        } else if self.wants_ready && self.told == "not_ready" {
            self.try_at = now + AGAIN;
            if let Some(desk) = &self.desk {
                desk.say(json!({ "v": 1, "type": "ready", "id": 1 }));
            }
        }
    }

    fn attach(&mut self, site: &Site) {
        let runs = site.blades[self.ccb - 1].control.is_some();
        let login = &self.login;
        if runs && let Some(desk) = site.floor.enter(|| Desk::try_open(login)) {
            (self.desk, self.lost_at) = (Some(desk), None);
        }
    }

    /// By token at another blade than before; an agent who talks waits for the end of that.
    fn log_in_again(&mut self, site: &Site, place: usize) {
        if self.phone.is_busy() {
            return self.attach(site);
        }
        let proxy = (self.ccb + place % (BLADES - 1)) % BLADES + 1;
        let token = json!({ "token": self.login["token"] });
        let number = self.number.parse().expect("a number");
        let (status, answer) = match site.try_log_in(number, proxy, token) {
            (401, _) => {
                site.try_log_in(number, proxy, json!({ "password": format!("secret-{number}") }))
            }
            other => other,
        };
        if status != 200 {
            return self.attach(site);
        }
        self.ccb = ccb_of(&answer);
        self.login = answer;
        self.phone = Softphone::start_on(&site.floor, &self.login, phones(), 440);
        self.phone.order(Order::Register);
        self.attach(site);
    }
}

fn ccb_of(login: &Value) -> usize {
    login["ccb"]["device_number"].as_u64().expect("a number") as usize
}

/// A small disk for the directory.
pub struct Disk {
    pub folder: PathBuf,
    _place: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Disk {
        let place = tempfile::Builder::new().prefix("jackfield-disk-").tempdir().expect("a folder");
        let folder = place.path().join("disk");
        std::fs::create_dir(&folder).expect("a folder");
        // PostgreSQL's user passes through.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(place.path(), mode).expect("a mode");
        let output = run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m,mode=0755", "none"])
            .arg(&folder));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Disk { folder, _place: place }
    }

    /// Not a byte is left.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.folder.join("full")).expect("a file");
        let zeros = vec![0; 1 << 20];
        let mut size = zeros.len();
        while size > 0 {
            if std::io::Write::write_all(&mut file, &zeros[..size]).is_err() {
                size /= 16;
            }
        }
    }

    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.folder.join("full"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // PostgreSQL may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
