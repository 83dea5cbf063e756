//! Registrations at a chosen rate: phones without desks, many of them at one port, that register again in turn.
//!
//! Nothing is sent faster to make up for what was late: a registrar that is too slow shows as refreshes that were not
//! begun, because the phone's last one has no answer yet, or that took long.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Instant, Rng, Timers};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use sip::wire::{Uri, lex};
use softphone::{Event, Input, Order, Output, Phone, Report};

use super::by_sip::own_address;
use super::{log_in_all, server};
use crate::cli;
use crate::clock;
use crate::delays::Delays;
use crate::desk::Grant;
use crate::process::{self, StopSignals};
use crate::show;

/// Phones of one port.
const PER_PORT: usize = 500;
/// The first registrations in progress at a time.
const AT_A_TIME: usize = 64;
/// How long the first registrations may take without one more of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is waited for after the last refresh of a rate: as long as a request is sent again.
const LAST_ANSWERS: Duration = Duration::from_secs(32);
/// Who is later than this with a refresh leaves those between out.
const LATE: Duration = Duration::from_millis(100);
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams taken from one port before the next one has its turn.
const BURST: usize = 64;

/// What came of the refreshes of one rate.
#[derive(Debug, Default)]
struct Outcome {
    rate: u32,
    begun: u64,
    answered: u64,
    /// Turns of phones that still waited for an answer, or that came too late.
    left_out: u64,
    refused: u64,
    sent_again: u64,
    /// Requests that were refused for a nonce that is too old, and sent again with a new one.
    challenged: u64,
    delays: Delays,
}

/// Logs the agents in, registers their phones and refreshes at each rate; 0 when all were answered.
pub fn run(options: &cli::Load) -> Result<ExitCode, String> {
    process::raise_open_files();
    let server = server(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let begun = clock::now();
    let (grants, registrar) = runtime.block_on(async {
        let logged_in = log_in_all(options, &server, false).await?;
        let grants: Vec<Grant> = logged_in.into_iter().map(|(grant, _)| grant).collect();
        let registrar = grants.first().ok_or("nobody logged in")?.registrar().await?;
        Ok::<_, String>((grants, registrar))
    })?;
    let took = clock::now().since(begun);
    show::say(&format!("logged in   {} in {:.1} s", grants.len(), took.as_secs_f64()))?;
    let stop = stop_signals(runtime)?;
    let mut crowd = Crowd::new(&grants, registrar)?;
    let begun = clock::now();
    crowd.register_all(&stop)?;
    let took = clock::now().since(begun);
    show::say(&format!("registered  {} in {:.1} s", crowd.phones.len(), took.as_secs_f64()))?;
    let mut outcomes = Vec::new();
    for &rate in &options.refresh.refresh {
        outcomes.push(crowd.refresh(rate, options.blast.seconds, &stop)?);
    }
    show::say(&table(&outcomes))?;
    if options.refresh.stay {
        eprintln!("{} phones stay registered", crowd.phones.len());
        while !stop.load(Ordering::Relaxed) {
            crowd.turn(Duration::from_millis(100), &mut |_, _, _| {})?;
        }
        let failures: u64 = crowd.phones.iter().map(|one| one.report().registration_failures).sum();
        show::say(&format!("registrations that failed  {failures}"))?;
    }
    let lost: u64 = outcomes.iter().map(|one| one.begun - one.answered.min(one.begun)).sum();
    match lost {
        0 => Ok(ExitCode::SUCCESS),
        lost => Err(format!("{lost} refreshes were not answered")),
    }
}

/// Becomes true when this program is to stop.
fn stop_signals(runtime: tokio::runtime::Runtime) -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, failed) = (Arc::clone(&stop), |error: std::io::Error| error.to_string());
    let signals = runtime.block_on(async { StopSignals::new() }).map_err(failed)?;
    let wait = move || {
        runtime.block_on(signals.wait());
        flag.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(stop)
}

fn table(outcomes: &[Outcome]) -> String {
    let head = ["wanted/s", "begun", "answered", "left out", "refused", "new nonce", "sent again"];
    let mut rows: Vec<Vec<String>> =
        vec![head.iter().chain(&["p50 ms", "p99 ms"]).map(|name| (*name).to_owned()).collect()];
    for one in outcomes {
        let counts = [
            u64::from(one.rate),
            one.begun,
            one.answered,
            one.left_out,
            one.refused,
            one.challenged,
            one.sent_again,
        ];
        let ms = |percent| {
            let delay = one.delays.percentile(percent);
            delay.map_or("-".to_owned(), |delay| format!("{:.2}", delay.as_secs_f64() * 1e3))
        };
        let counts = counts.iter().map(u64::to_string);
        rows.push(counts.chain([ms(50.0), ms(99.0)]).collect());
    }
    show::columns(&rows).trim_end().to_owned()
}

/// Phones at shared ports.
struct Crowd {
    ports: Vec<UdpSocket>,
    phones: Vec<Phone>,
    /// Which phone has that user.
    by_user: HashMap<Vec<u8>, usize>,
    timers: Timers<usize>,
    /// The timer that is set for each.
    due: Vec<Option<Instant>>,
    buffer: Vec<u8>,
    outputs: Vec<Output>,
}

impl Crowd {
    fn new(grants: &[Grant], registrar: SocketAddr) -> Result<Crowd, String> {
        let failed = |error: std::io::Error| format!("ports: {error}");
        let ip = own_address(registrar).map_err(failed)?;
        let mut ports = Vec::new();
        let (mut phones, mut by_user) = (Vec::new(), HashMap::new());
        for (place, grant) in grants.iter().enumerate() {
            if place % PER_PORT == 0 {
                let port = UdpSocket::bind((ip, 0)).map_err(failed)?;
                port.set_nonblocking(true).map_err(failed)?;
                ports.push(port);
            }
            let at = ports[place / PER_PORT].local_addr().map_err(failed)?;
            let mut config = grant.config(registrar, at, at);
            (config.media, config.ring, config.listen) = (false, None, false);
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
            by_user.insert(config.user.clone().into_bytes(), place);
            phones.push(Phone::new(config, Rng::from_seed(seed)));
        }
        let due = vec![None; phones.len()];
        let (buffer, outputs) = (vec![0; DATAGRAM_BYTES], Vec::new());
        Ok(Crowd { ports, phones, by_user, timers: Timers::default(), due, buffer, outputs })
    }

    /// The first registrations, some at a time.
    fn register_all(&mut self, stop: &AtomicBool) -> Result<(), String> {
        let (mut next, mut done) = (0, vec![false; self.phones.len()]);
        let (mut left, mut last) = (self.phones.len(), clock::now());
        while left > 0 {
            let busy = next - (self.phones.len() - left);
            for _ in busy..AT_A_TIME.min(busy + self.phones.len() - next) {
                self.handle(next, Input::Order(Order::Register), &mut |_, _, _| {});
                next += 1;
            }
            let (count, marks) = (&mut left, &mut done);
            let mut news = |phone: usize, event: &Event, now: Instant| {
                if matches!(event, Event::Registered { .. }) && !marks[phone] {
                    marks[phone] = true;
                    *count -= 1;
                    last = now;
                }
            };
            self.turn(Duration::from_millis(20), &mut news)?;
            if stop.load(Ordering::Relaxed) || clock::now().since(last) > PATIENCE {
                return Err(format!("{left} of {} phones did not register", self.phones.len()));
            }
        }
        Ok(())
    }

    /// Refreshes, one phone after the other, and waits for the last answers.
    fn refresh(&mut self, rate: u32, seconds: u32, stop: &AtomicBool) -> Result<Outcome, String> {
        let mut outcome = Outcome { rate, ..Outcome::default() };
        let before = self.totals();
        let mut asked: Vec<Option<Instant>> = vec![None; self.phones.len()];
        let (step, begin) = (Duration::from_secs(1) / rate, clock::now());
        let (end, mut at, mut next) = (begin + Duration::from_secs(seconds.into()), begin, 0);
        loop {
            let now = clock::now();
            let is_over = at >= end || stop.load(Ordering::Relaxed);
            if is_over && (outcome.open() == 0 || now > end + LAST_ANSWERS) {
                break;
            }
            while !is_over && at <= now && at < end {
                let is_late = now.since(at) > LATE;
                at = at + step;
                let phone = next % self.phones.len();
                next += 1;
                if is_late || asked[phone].is_some() {
                    outcome.left_out += 1;
                    continue;
                }
                asked[phone] = Some(clock::now());
                outcome.begun += 1;
                self.handle(phone, Input::Order(Order::Register), &mut |_, _, _| {});
            }
            let wait = if is_over { Duration::from_millis(20) } else { at.since(clock::now()) };
            let mut news = |phone: usize, event: &Event, now: Instant| match event {
                Event::Registered { .. } => {
                    if let Some(since) = asked[phone].take() {
                        outcome.answered += 1;
                        outcome.delays.add(now.since(since));
                    }
                }
                Event::RegistrationFailed { .. } => {
                    outcome.refused += u64::from(asked[phone].take().is_some());
                }
                _ => {}
            };
            self.turn(wait, &mut news)?;
        }
        let after = self.totals();
        outcome.sent_again = after.sip_retransmitted - before.sip_retransmitted;
        let sent = after.sip_sent - before.sip_sent - outcome.sent_again;
        outcome.challenged = sent.saturating_sub(outcome.begun);
        Ok(outcome)
    }

    fn totals(&self) -> Report {
        let mut all = Report::default();
        for report in self.phones.iter().map(Phone::report) {
            all.sip_sent += report.sip_sent;
            all.sip_retransmitted += report.sip_retransmitted;
        }
        all
    }

    /// Takes what comes in that time, and what timers bring.
    fn turn(
        &mut self,
        limit: Duration,
        news: &mut dyn FnMut(usize, &Event, Instant),
    ) -> Result<(), String> {
        let now = clock::now();
        while let Some((_, phone)) = self.timers.due(now) {
            self.due[phone] = None;
            if self.phones[phone].deadline().is_some_and(|at| at <= now) {
                self.handle(phone, Input::Timeout, news);
            } else {
                self.set_timer(phone);
            }
        }
        let next = self.timers.deadline().map_or(limit, |at| at.since(clock::now()).min(limit));
        let wait = Timespec { tv_sec: next.as_secs() as i64, tv_nsec: next.subsec_nanos().into() };
        let ready: Vec<usize> = {
            let mut polled: Vec<PollFd<'_>> =
                self.ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
            match poll(&mut polled, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
            let is_ready =
                |(place, one): (usize, &PollFd<'_>)| (!one.revents().is_empty()).then_some(place);
            polled.iter().enumerate().filter_map(is_ready).collect()
        };
        for port in ready {
            self.receive(port, news);
        }
        Ok(())
    }

    fn receive(&mut self, port: usize, news: &mut dyn FnMut(usize, &Event, Instant)) {
        for _ in 0..BURST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.ports[port].recv_from(&mut buffer);
            if let Ok((length, from)) = &received {
                let datagram = &buffer[..*length];
                if let Some(phone) = user_of(datagram).and_then(|user| self.by_user.get(user)) {
                    self.handle(*phone, Input::Sip { from: *from, datagram }, news);
                }
            }
            self.buffer = buffer;
            // A port that refused an earlier datagram of ours says so here, once.
            let is_empty =
                |error: &std::io::Error| error.kind() != std::io::ErrorKind::ConnectionRefused;
            if received.as_ref().is_err_and(is_empty) {
                return;
            }
        }
    }

    fn handle(
        &mut self,
        phone: usize,
        input: Input<'_>,
        news: &mut dyn FnMut(usize, &Event, Instant),
    ) {
        let (now, mut outputs) = (clock::now(), std::mem::take(&mut self.outputs));
        self.phones[phone].handle(now, input, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                // A datagram that cannot be sent is one that was lost.
                Output::Sip { to, datagram } => {
                    _ = self.ports[phone / PER_PORT].send_to(&datagram, to);
                }
                Output::Event(event) => news(phone, &event, now),
                Output::Rtp { .. } | Output::Rtcp { .. } => {}
            }
        }
        self.outputs = outputs;
        self.set_timer(phone);
    }

    fn set_timer(&mut self, phone: usize) {
        if let Some(at) = self.phones[phone].deadline()
            && self.due[phone].is_none_or(|due| at < due)
        {
            self.timers.set(at, phone);
            self.due[phone] = Some(at);
        }
    }
}

impl Outcome {
    /// Refreshes without an answer so far.
    fn open(&self) -> u64 {
        self.begun - self.answered - self.refused
    }
}

/// Whose message it is: the user of our own From in a response, of the Request-URI in a request.
fn user_of(datagram: &[u8]) -> Option<&[u8]> {
    let message = lex(datagram).ok()?;
    let uri = match message.request_uri() {
        Some(uri) => uri,
        None => message.from().ok()?.uri,
    };
    Some(Uri::parse(uri).ok()?.user)
}
