//! A queue over four blades: its owner keeps one order of callers of all of them, and picks among the agents of all of
//! them (S1-005, S1-006, S3-001 to S3-012).

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::desk::Desk;
use crate::lab::{signal, turn, wait_for};
use crate::media;
use crate::phone::Softphone;
use crate::postgres::Postgres;
use crate::site::{ACCESS, Plan, QUEUE, Site, phones};

const BLADES: usize = 4;
/// Two for each blade.
const AGENTS: usize = 2 * BLADES;
/// What an agent's phone sounds like, and a customer's, in Hz.
const AGENT_HZ: u32 = 700;
const CUSTOMER_HZ: u32 = 440;
/// Long enough for what a busy machine has to do.
const LIMIT: Duration = Duration::from_secs(15);

/// An agent with a phone that answers and a desk.
struct Agent {
    number: String,
    ccb: usize,
    phone: Softphone,
    desk: Desk,
}

/// A customer in the queue, by which blade.
struct Customer {
    number: String,
    blade: usize,
    phone: Softphone,
    called_at: Instant,
}

/// A site with the queue, and its prompts.
fn site() -> (Site, tempfile::TempDir) {
    let prompts = media::prompts();
    let (folder, postgres) = (prompts.path().to_owned(), Postgres::shared());
    let plan = Plan {
        blades: BLADES,
        agents: AGENTS,
        prompts: Some(folder),
        postgres,
        password_hash: None,
    };
    let site = Site::of(plan);
    site.add_queue(&["--prompt", "welcome.wav"]);
    (site, prompts)
}

/// Logs all agents in; they are not ready. Those of each blade in a row, in the order of the blades.
fn agents(site: &Site) -> Vec<Agent> {
    let mut agents: Vec<Agent> = (1001..1001 + AGENTS)
        .map(|number| {
            let login = site.log_in(number, number % BLADES + 1);
            let ccb = login["ccb"]["device_number"].as_u64().expect("a number") as usize;
            let phone = Softphone::start_on(&site.floor, &login, phones(), AGENT_HZ);
            phone.register();
            let desk = site.desk(&login);
            desk.expect("AgentNotReady");
            Agent { number: number.to_string(), ccb, phone, desk }
        })
        .collect();
    agents.sort_by_key(|agent| agent.ccb);
    let of = |blade| agents.iter().filter(|agent| agent.ccb == blade).count();
    assert!((1..=BLADES).all(|blade| of(blade) == AGENTS / BLADES), "not even");
    agents
}

impl Agent {
    fn ready(&self) {
        assert_eq!(self.desk.order(1, "ready"), "ok", "{}", self.number);
    }

    fn not_ready(&self) {
        assert_eq!(self.desk.order(2, "not_ready"), "ok", "{}", self.number);
    }

    /// Waits for a customer on the phone; who it is, and how long that customer waited.
    fn expect_customer(&self, site: &Site) -> (String, Duration) {
        let end = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.desk.next(left);
            let Some(message) = message else {
                let blades = site.blades.iter();
                let state =
                    blades.map(|one| (one.queue(), one.ask(&["leases"]), one.ask(&["calls"])));
                let state: Vec<_> = state.collect();
                panic!("{} of blade {}: nobody but {seen:?}: {state:#?}", self.number, self.ccb);
            };
            if message["type"] == "Established" {
                assert_eq!(message["queue"], QUEUE, "{message}");
                let waited = Duration::from_millis(message["waited_ms"].as_u64().expect("a time"));
                return (message["party"].as_str().expect("a number").to_owned(), waited);
            }
            seen.push(message);
        }
    }
}

impl Customer {
    /// Calls the queue by that blade, and hears its music.
    fn call(site: &Site, number: usize, blade: usize) -> Customer {
        let number = format!("4930{number}");
        let phone = site.customer(&number, blade);
        phone.call(ACCESS);
        Customer { number, blade, phone, called_at: Instant::now() }
    }

    /// Hangs up, and heard music if it `waited`, then an agent, all by one sender and without loss.
    fn end(self, waited: bool) {
        self.phone.hang_up();
        let heard = self.phone.end().call.heard;
        assert!(heard.tone_hz.abs_diff(AGENT_HZ) < 15, "{}: {heard:?}", self.number);
        assert_eq!((heard.sources, heard.lost), (1, 0), "{}: {heard:?}", self.number);
        assert!(!waited || heard.received > 100, "{}: {heard:?}", self.number);
    }
}

/// What the blades say of those who wait there, the first being blade 1.
fn waiting(site: &Site) -> Vec<Option<u64>> {
    let of = |blade: &crate::site::BladeHost| blade.queue()?["waiting"].as_u64();
    site.blades.iter().map(of).collect()
}

/// Waits until so many wait, all at one blade that is none of these; which.
fn owner(site: &Site, callers: u64, none_of: &[usize]) -> usize {
    let mut last = Vec::new();
    let found = wait_for(LIMIT, || {
        last = waiting(site);
        let all: u64 = last.iter().flatten().sum();
        let owner = last.iter().position(|count| *count == Some(callers))? + 1;
        (all == callers && !none_of.contains(&owner)).then_some(owner)
    });
    found.unwrap_or_else(|| panic!("{callers} do not wait at one blade: {last:?}"))
}

/// Time for two phones to hear each other well.
fn talk(phones: &[&Softphone]) {
    // A conversation of that length; what is heard of it is counted at its end.
    std::thread::sleep(Duration::from_millis(1_500));
    for phone in phones {
        let gap = phone.longest_gap();
        assert!(gap < Duration::from_secs(1), "silence of {gap:?}");
    }
}

/// The longest idle agent of all blades first, whichever blade a customer comes by; who is denied goes to the next.
#[test]
fn the_longest_idle_agent_of_all_blades_is_first() {
    let _turn = turn();
    let (site, _prompts) = site();
    let agents = agents(&site);
    // One of each blade, then the other of each, in no order of blades.
    let order = [4, 0, 6, 2, 3, 7, 1, 5].map(|place| &agents[place]);
    for agent in order {
        agent.ready();
    }
    let mut customers = Vec::new();
    for (place, agent) in order.iter().enumerate() {
        let customer = Customer::call(&site, place, (place * 3) % BLADES + 1);
        let (party, _) = agent.expect_customer(&site);
        assert_eq!(party, customer.number, "at {} of blade {}", agent.number, agent.ccb);
        customers.push(customer);
    }
    talk(&customers.iter().map(|customer| &customer.phone).collect::<Vec<_>>());
    let hosted: u64 = site.blades.iter().map(|blade| blade.counter("calls_hosted")).sum();
    let over = customers.iter().zip(order).filter(|(one, agent)| one.blade != agent.ccb).count();
    assert_eq!(hosted, over as u64, "one for each customer whose agent is elsewhere");
    for (place, customer) in customers.into_iter().enumerate() {
        // Each side hangs up in turn.
        match place % 2 {
            0 => customer.end(false),
            _ => {
                order[place].phone.hang_up();
                customer.phone.expect_end();
                let heard = customer.phone.end().call.heard;
                assert_eq!((heard.sources, heard.lost), (1, 0), "{heard:?}");
                assert!(heard.received > 50, "{heard:?}");
            }
        }
    }
    site.expect_all_free();
    denied(&site, &agents);
    site.expect_all_free();
    site.expect_no_lease();
    for agent in agents {
        let report = agent.phone.end();
        let heard = report.call.heard;
        assert!(heard.tone_hz.abs_diff(CUSTOMER_HZ) < 10, "{}: {report:?}", agent.number);
        assert!(heard.received > 50 && report.rtp_lost == 0, "{}: {report:?}", agent.number);
    }
}

/// The home of the agent who is first does not answer for a while: the customer gets the next one.
fn denied(site: &Site, agents: &[Agent]) {
    for agent in agents {
        agent.not_ready();
    }
    let (first, next) = (&agents[4], &agents[2]);
    for agent in [first, next] {
        agent.ready();
    }
    let customer = site.customer("4930100", 1);
    let home = site.blades[first.ccb - 1].control.as_ref().expect("it runs").pid();
    signal(home, Signal::STOP);
    customer.call(ACCESS);
    let (party, _) = next.expect_customer(site);
    signal(home, Signal::CONT);
    assert_eq!(party, "4930100");
    talk(&[&customer]);
    customer.hang_up();
    next.phone.expect_end();
    site.expect_normal();
}

/// kill -9 of the control that owns the queue, then of a whole blade that owns it: who waits keeps the place and the
/// wait so far, hears music, and is served by the next owner.
#[test]
fn callers_of_all_blades_keep_their_places_over_the_death_of_the_owner() {
    let _turn = turn();
    let (mut site, _prompts) = site();
    let agents = agents(&site);
    let customers: Vec<Customer> = (0..6)
        .map(|place| {
            let customer = Customer::call(&site, place, (place + 1) % BLADES + 1);
            // In the order in which they came, by clocks of different processes.
            std::thread::sleep(Duration::from_millis(50));
            customer
        })
        .collect();
    let first = owner(&site, 6, &[]);
    for customer in &customers {
        let _ = customer.phone.longest_gap();
    }
    site.blades[first - 1].kill_control();
    let left = customers.iter().filter(|customer| customer.blade != first).count() as u64;
    let next = owner(&site, left, &[first]);
    site.blades[first - 1].start();
    site.expect_normal();
    let second = owner(&site, 6, &[first]);
    println!("the queue went from blade {first} to {next}, and all wait at {second}");
    for customer in &customers {
        let gap = customer.phone.longest_gap();
        assert!(gap < Duration::from_millis(400), "{}: no music for {gap:?}", customer.number);
    }
    // The first three are served by one agent, of a blade that never owned it.
    let server = agents.iter().find(|agent| ![first, second].contains(&agent.ccb));
    let server = server.expect("there are four blades");
    server.ready();
    let mut customers = customers.into_iter();
    for customer in customers.by_ref().take(3) {
        let (party, waited) = server.expect_customer(&site);
        let since = customer.called_at.elapsed();
        assert_eq!(party, customer.number);
        let is_right = since.saturating_sub(waited) < Duration::from_millis(1_500);
        // Waits travel in whole milliseconds, and from blade to blade.
        assert!(
            is_right && waited <= since + Duration::from_millis(5),
            "{party} waits for {since:?}, not {waited:?}"
        );
        talk(&[&customer.phone]);
        server.not_ready();
        customer.end(true);
        server.desk.expect("AgentNotReady");
        server.ready();
    }
    let (party, _) = server.expect_customer(&site);
    let talking = customers.next().expect("the fourth");
    assert_eq!(party, talking.number);
    talk(&[&talking.phone]);
    server.not_ready();
    talking.end(true);
    a_blade_dies(&mut site, &agents, customers.collect());
}

/// A whole blade dies that owns the queue: those who came by other blades keep their places.
fn a_blade_dies(site: &mut Site, agents: &[Agent], mut customers: Vec<Customer>) {
    for place in 6..10 {
        customers.push(Customer::call(site, place, place % BLADES + 1));
        std::thread::sleep(Duration::from_millis(50));
    }
    let dead = owner(site, 6, &[]);
    site.blades[dead - 1].kill();
    let (lost, left): (Vec<_>, Vec<_>) = customers.into_iter().partition(|one| one.blade == dead);
    let next = owner(site, left.len() as u64, &[dead]);
    println!("{} callers were at blade {dead}, {} go on at blade {next}", lost.len(), left.len());
    let is_there = |agent: &&Agent| agent.ccb != dead && !agent.desk.is_over();
    let server = agents.iter().find(is_there).expect("a desk whose control never died");
    server.ready();
    for customer in left {
        let (party, waited) = server.expect_customer(site);
        let since = customer.called_at.elapsed();
        assert_eq!(party, customer.number);
        let is_right = since.saturating_sub(waited) < Duration::from_millis(1_500);
        // Waits travel in whole milliseconds, and from blade to blade.
        assert!(
            is_right && waited <= since + Duration::from_millis(5),
            "{party} waits for {since:?}, not {waited:?}"
        );
        talk(&[&customer.phone]);
        customer.end(true);
    }
    site.expect_all_free();
    site.expect_no_lease();
}
