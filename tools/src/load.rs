//! `load`: agents log in, their phones register, and pairs of them call each other at a steady
//! rate.

mod blast;
mod blast_run;
mod by_ng;
mod by_sip;
mod desks;
mod frames;
mod options;
mod pairs;
mod refresh;
mod tally;
mod watch;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use softphone::{Event, Order};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::cli;
use crate::desk::{Credentials, Desk, Grant, log_in};
use crate::fleet::{Fleet, News};
use crate::http::Server;
use crate::place;
use crate::process::{self, StopSignals};
use crate::show;
pub use options::{BlastOptions, RefreshOptions};
pub use pairs::Pairs;
use tally::Tally;

/// How long the registrations may take altogether beyond the logins.
const REGISTER_LIMIT: Duration = Duration::from_secs(60);
/// How long calls may take to end after the last hang-up: a BYE is sent again for 32 s.
const END_LIMIT: Duration = Duration::from_secs(40);
/// How long calls may take to end when the load is interrupted.
const HANG_UP_LIMIT: Duration = Duration::from_secs(5);
/// Silence after which no more ends of calls are waited for.
const SILENCE: Duration = Duration::from_millis(500);
/// How long the phones may take to end their registrations; those that do not run out.
const UNREGISTER_LIMIT: Duration = Duration::from_secs(10);
/// Frames stop this long before the hang-up, so that what is under way arrives.
const QUIET: Duration = Duration::from_millis(300);
/// Open files of a phone: three sockets and its desk.
const FILES_PER_AGENT: u64 = 4;
/// The interval between two frames.
const FRAME: Duration = Duration::from_millis(20);

/// Runs the load; 0 when nothing failed.
pub fn run(options: &cli::Load) -> Result<ExitCode, String> {
    if !options.blast.rate_pps.is_empty() {
        return blast_run::run(options);
    }
    if !options.refresh.refresh.is_empty() || options.refresh.stay {
        return refresh::run(options);
    }
    if let Some(desks) = options.desks {
        return desks::run(options, desks, proxies(options)?);
    }
    let needed = u64::from(options.agents) * FILES_PER_AGENT + 64;
    let allowed = process::raise_open_files();
    if allowed < needed {
        return Err(format!(
            "{} agents need {needed} open files, and {allowed} are allowed; raise `ulimit -Hn`",
            options.agents
        ));
    }
    let server = server(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(load(options, server))
}

/// The AgentProxy.
fn server(options: &cli::Load) -> Result<Server, String> {
    Ok(Server::Tcp(proxies(options)?[0]))
}

/// The AgentProxies; there is one.
fn proxies(options: &cli::Load) -> Result<Vec<SocketAddr>, String> {
    match &options.http[..] {
        [] => Ok(place::find(&options.at)?.control.http),
        given => Ok(given.to_vec()),
    }
}

async fn load(options: &cli::Load, server: Server) -> Result<ExitCode, String> {
    let (mut fleet, mut news) = Fleet::start().map_err(|error| error.to_string())?;
    let mut tally = Tally::default();
    let begun = Instant::now();
    let agents = log_in_all(options, &server, true).await?;
    let (agents, paired) = options.pairs.order(agents, |(grant, _)| grant.ccb.device_number);
    if paired == 0 {
        return Err("no two agents are of CCBs as --pairs wants them".to_owned());
    }
    // From here on there are calls and registrations to end first.
    let mut signals = StopSignals::new().map_err(|error| error.to_string())?;
    tally.logged_in = agents.len();
    tally.login_time = begun.elapsed();
    let mut desks = Vec::new();
    let mut numbers = Vec::new();
    let begun = Instant::now();
    for (grant, desk) in agents {
        let (mut phone, ports) = grant.phone().await?;
        phone.ring = Some(Duration::from_millis(options.ring));
        phone.media = options.rtp;
        phone.listen = false;
        phone.frames = Some(frames(options.duration));
        numbers.push(grant.agent.number.clone());
        let number = fleet.add(phone, ports).map_err(|error| error.to_string())?;
        fleet.order(number, Order::Register);
        desks.extend(desk);
    }
    let mut interrupted = false;
    tokio::select! {
        count = registered(&mut news, numbers.len()) => tally.registered = count,
        () = signals.next() => interrupted = true,
    }
    tally.register_time = begun.elapsed();
    if tally.registered == numbers.len() {
        let begun = Instant::now();
        say_progress(options, "calls begin");
        tokio::select! {
            () = Calls::new(options, &fleet, &numbers[..paired]).make(&mut news, &mut tally) => {}
            () = signals.next() => interrupted = true,
        }
        if interrupted {
            hang_up_all(&fleet, &mut news, &mut tally, numbers.len()).await;
        }
        tally.call_time = begun.elapsed();
        say_progress(options, "calls ended");
    }
    tally.counts = fleet.counts().await;
    log_out_all(&fleet, &mut news, numbers.len(), desks).await;
    show::say(&tally.table(options))?;
    if interrupted {
        return Ok(ExitCode::from(process::INTERRUPTED));
    }
    match tally.faults(options) {
        faults if faults.is_empty() => Ok(ExitCode::SUCCESS),
        faults => Err(faults.join("; ")),
    }
}

fn say_progress(options: &cli::Load, what: &str) {
    if options.progress {
        eprintln!("{what}");
    }
}

impl cli::Load {
    /// How the agent of that place, from 0, logs in.
    fn credentials(&self, place: u32) -> Credentials {
        let agent = (self.first + place).to_string();
        Credentials {
            tenant: self.tenant.clone(),
            password: self.password.replace("{}", &agent),
            agent,
            location: self.location[place as usize % self.location.len()].clone(),
        }
    }
}

/// How many frames fit into a call, so that it falls silent shortly before it ends.
fn frames(duration_s: f64) -> u32 {
    let talk = Duration::from_secs_f64(duration_s).saturating_sub(QUIET);
    u32::try_from(talk.as_nanos() / FRAME.as_nanos()).unwrap_or(u32::MAX)
}

/// Logs the agents in; with their desks' WebSockets or, for phones that only call, without.
async fn log_in_all(
    options: &cli::Load,
    server: &Server,
    with_desks: bool,
) -> Result<Vec<(Grant, Option<Desk>)>, String> {
    let turns = Arc::new(Semaphore::new(usize::from(options.logins)));
    let mut tasks = JoinSet::new();
    for place in 0..options.agents {
        let who = options.credentials(place);
        let (server, turns) = (server.clone(), Arc::clone(&turns));
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await.map_err(|error| error.to_string())?;
            let grant = log_in(&server, &who).await?;
            let desk = if with_desks { Some(Desk::attach(&grant).await?) } else { None };
            Ok::<_, String>((place, grant, desk))
        });
    }
    let mut agents = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        agents.push(joined.map_err(|error| error.to_string())??);
    }
    agents.sort_by_key(|(place, ..)| *place);
    Ok(agents.into_iter().map(|(_, grant, desk)| (grant, desk)).collect())
}

/// Waits until that many phones are registered; how many were in time.
async fn registered(news: &mut UnboundedReceiver<News>, wanted: usize) -> usize {
    let mut done = vec![false; wanted];
    let waiting = async {
        while done.iter().any(|done| !done) {
            let Some(news) = news.recv().await else { return };
            if matches!(news.event, Event::Registered { .. }) {
                done[news.phone] = true;
            }
        }
    };
    let _ = timeout(REGISTER_LIMIT, waiting).await;
    done.iter().filter(|done| **done).count()
}

/// Ends what calls there are; the load was interrupted.
async fn hang_up_all(
    fleet: &Fleet,
    news: &mut UnboundedReceiver<News>,
    tally: &mut Tally,
    phones: usize,
) {
    for caller in (0..phones).step_by(2) {
        fleet.order(caller, Order::HangUp);
    }
    let ends = async {
        while let Ok(Some(news)) = timeout(SILENCE, news.recv()).await {
            if let Event::Ended(why) = news.event
                && news.phone.is_multiple_of(2)
            {
                tally.ended(why);
            }
        }
    };
    let _ = timeout(HANG_UP_LIMIT, ends).await;
}

async fn log_out_all(
    fleet: &Fleet,
    news: &mut UnboundedReceiver<News>,
    phones: usize,
    desks: Vec<Desk>,
) {
    for phone in 0..phones {
        fleet.order(phone, Order::Unregister);
    }
    let mut left = phones;
    let unregistered = async {
        while left > 0 {
            let Some(news) = news.recv().await else { return };
            left -= usize::from(news.event == Event::Unregistered);
        }
    };
    let _ = timeout(UNREGISTER_LIMIT, unregistered).await;
    let mut exits = JoinSet::new();
    for desk in desks {
        exits.spawn(desk.exit());
    }
    while exits.join_next().await.is_some() {}
}

/// The calls: phone 2n calls phone 2n + 1.
struct Calls<'a> {
    options: &'a cli::Load,
    fleet: &'a Fleet,
    numbers: &'a [String],
    /// Pairs whose two phones are free.
    free: VecDeque<usize>,
    /// Of each pair, how many of its two phones still have their call; the caller counts from its
    /// order.
    busy: Vec<u8>,
    /// Of each pair's call, what its phones said of their turns when it was answered.
    turns: Vec<[Option<Duration>; 2]>,
    /// When which pair hangs up, in order, for all calls last alike.
    hang_ups: VecDeque<(Instant, usize)>,
    placed: u32,
}

impl<'a> Calls<'a> {
    fn new(options: &'a cli::Load, fleet: &'a Fleet, numbers: &'a [String]) -> Self {
        let pairs = numbers.len() / 2;
        Calls {
            options,
            fleet,
            numbers,
            free: (0..pairs).collect(),
            busy: vec![0; pairs],
            turns: vec![[None; 2]; pairs],
            hang_ups: VecDeque::new(),
            placed: 0,
        }
    }

    async fn make(mut self, news: &mut UnboundedReceiver<News>, tally: &mut Tally) {
        let mut beat = interval(Duration::from_secs_f64(1.0 / self.options.rate));
        // A pair that is late is not made up for by a burst.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle_since = Instant::now();
        loop {
            let all_placed = self.placed == self.options.calls;
            let now_idle = self.busy.iter().all(|busy| *busy == 0);
            if all_placed && now_idle {
                return;
            }
            let next = self.hang_ups.front().map(|(at, _)| *at);
            let limit = next.unwrap_or(idle_since + END_LIMIT);
            tokio::select! {
                _ = beat.tick(), if !all_placed => {
                    idle_since = Instant::now();
                    self.place(tally);
                }
                heard = news.recv() => {
                    let Some(heard) = heard else { return };
                    idle_since = Instant::now();
                    self.hear(heard, tally);
                }
                () = sleep_until(limit) => {
                    if next.is_none() {
                        tally.stuck = self.busy.iter().map(|busy| usize::from(*busy)).sum();
                        return;
                    }
                    if let Some((_, pair)) = self.hang_ups.pop_front() {
                        self.fleet.order(pair * 2, Order::HangUp);
                    }
                }
            }
        }
    }

    fn place(&mut self, tally: &mut Tally) {
        let Some(pair) = self.free.pop_front() else {
            tally.waited += 1;
            return;
        };
        self.placed += 1;
        self.busy[pair] = 1;
        self.fleet.order(pair * 2, Order::Call(self.numbers[pair * 2 + 1].clone()));
    }

    fn hear(&mut self, news: News, tally: &mut Tally) {
        let pair = news.phone / 2;
        if pair >= self.busy.len() {
            return;
        }
        let is_caller = news.phone.is_multiple_of(2);
        if news.event == Event::Answered {
            let turns = &mut self.turns[pair];
            turns[usize::from(!is_caller)] = news.turn;
            if let [Some(others), Some(called)] = *turns {
                *turns = [None; 2];
                tally.in_blade.add(others.saturating_sub(called));
            }
        }
        match news.event {
            Event::Incoming { .. } => self.busy[pair] += 1,
            Event::Answered if is_caller => {
                tally.answered += 1;
                tally.set_up.add(news.set_up.unwrap_or_default());
                let at = Instant::now() + Duration::from_secs_f64(self.options.duration);
                self.hang_ups.push_back((at, pair));
            }
            Event::Ended(why) => {
                if is_caller {
                    tally.ended(why);
                    self.hang_ups.retain(|(_, waiting)| *waiting != pair);
                }
                self.busy[pair] = self.busy[pair].saturating_sub(1);
                if self.busy[pair] == 0 {
                    self.turns[pair] = [None; 2];
                    self.free.push_back(pair);
                }
            }
            _ => {}
        }
    }
}
