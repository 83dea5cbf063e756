//! `load --rate-pps`: makes the streams, measures them, and reports.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::blast::{Blast, Counted, Window, bind};
use super::by_ng::Ng;
use super::by_sip::{Agents, Calls};
use super::frames::Frames;
use super::watch::{self, Holdings, Spent};
use crate::cli;
use crate::process::{self, StopSignals};
use crate::show;

/// Before packets count: the relay learns its streams, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// One look at a rate when the highest is sought, and a longer one at the one that is found.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_WARM_UP: Duration = Duration::from_millis(300);
/// The first steps of the search, and the least.
const STEP: f64 = 1.25;
const LEAST_STEP: f64 = 1.03;
/// A rate whose sends are late by more than this percentage is beyond the generator.
const MISSED_LIMIT: f64 = 1.0;
/// The same of frames, none of which is sent late; what the others add up to is the rate.
const MISSED_FRAMES_LIMIT: f64 = 5.0;
/// Less than this percentage of the packets that were asked for is no measurement of the relay.
const SENT_LIMIT: f64 = 95.0;
/// The search ends here.
const HIGHEST_RATE: f64 = 5_000_000.0;
/// Descriptors of a stream, and of all the rest.
const FILES_PER_STREAM: u64 = 2;
const FILES: u64 = 128;

/// Runs it; 0 when all that was asked for was sent, and no more of it lost than may be.
pub fn run(options: &cli::Load) -> Result<ExitCode, String> {
    options.blast.watch.map_or(Ok(()), watch::check)?;
    let needed = u64::from(options.calls) * 2 * FILES_PER_STREAM + FILES;
    let allowed = process::raise_open_files();
    if allowed < needed {
        return Err(format!(
            "{} calls need {needed} open files, and {allowed} are allowed; raise `ulimit -Hn`",
            options.calls
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(blast(options));
    // A measurement that was interrupted is not waited for.
    runtime.shutdown_background();
    result
}

/// Who made the streams.
enum Maker {
    Sip(Box<Calls>),
    Ng(Box<Ng>),
    Nobody,
}

impl Maker {
    fn name(&self) -> &'static str {
        match self {
            Maker::Sip(_) => "sip",
            Maker::Ng(_) => "ng",
            Maker::Nobody => "direct",
        }
    }

    /// Where each of the streams at `own` sends to.
    async fn make(&mut self, own: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
        match self {
            Maker::Sip(calls) => calls.make().await,
            Maker::Ng(ng) => {
                let mut peers = Vec::new();
                for pair in own.chunks_exact(2) {
                    let (one, other) = ng.call(pair[0], pair[1])?;
                    peers.extend([one, other]);
                }
                Ok(peers)
            }
            Maker::Nobody => Ok((0..own.len()).map(|stream| own[stream ^ 1]).collect()),
        }
    }

    async fn end(&mut self) -> Result<(), String> {
        match self {
            Maker::Sip(calls) => match calls.hang_up().await {
                0 => Ok(()),
                left => Err(format!("{left} phones still have a call")),
            },
            Maker::Ng(ng) => ng.end(),
            Maker::Nobody => Ok(()),
        }
    }

    async fn leave(self) {
        if let Maker::Sip(calls) = self {
            calls.leave().await;
        }
    }
}

/// What sends and counts.
enum Source {
    Sockets(Blast),
    Frames(Box<Frames>),
}

impl Source {
    fn connect(&mut self, peers: &[SocketAddr]) -> Result<(), String> {
        match self {
            Source::Sockets(blast) => blast.connect(peers),
            Source::Frames(frames) => frames.connect(peers),
        }
    }

    fn measure(&mut self, window: &Window) -> Result<(Counted, Spent), String> {
        match self {
            Source::Sockets(blast) => blast.measure(window),
            Source::Frames(frames) => frames.measure(window),
        }
    }

    fn stop(self) {
        if let Source::Sockets(blast) = self {
            blast.stop();
        }
    }
}

async fn blast(options: &cli::Load) -> Result<ExitCode, String> {
    let wanted = &options.blast;
    let begin = |ips: (IpAddr, IpAddr)| {
        let sockets = bind(options.calls, ips.0, ips.1)?;
        let own: Result<Vec<SocketAddr>, _> = sockets.iter().map(|at| at.local_addr()).collect();
        let own: Vec<SocketAddr> = own.map_err(|error| error.to_string())?;
        let blast = match &wanted.frames {
            Some(name) => Source::Frames(Box::new(Frames::start(name, &own, &wanted.core)?)),
            None => Source::Sockets(Blast::start(sockets.clone(), &wanted.core, wanted.stamp)?),
        };
        Ok::<_, String>((sockets, own, blast))
    };
    let (own, blast, mut maker) = if let Some(engine) = wanted.ng {
        let ng = Ng::new(engine)?;
        let ip = ng.own()?.ip();
        let (_, own, blast) = begin((ip, ip))?;
        (own, blast, Maker::Ng(Box::new(ng)))
    } else if let Some(ip) = wanted.direct {
        let (_, own, blast) = begin((ip, ip))?;
        (own, blast, Maker::Nobody)
    } else {
        let agents = Agents::log_in(options).await?;
        let (sockets, own, blast) = begin(agents.ips)?;
        (own, blast, Maker::Sip(Box::new(agents.register(&sockets).await?)))
    };
    let mut signals = StopSignals::new().map_err(|error| error.to_string())?;
    let mut report = Report::new(options, &maker);
    let blast = Arc::new(Mutex::new(blast));
    let measured = tokio::select! {
        result = measure(options, &mut maker, &own, &blast, &mut report) => Some(result),
        () = signals.next() => None,
    };
    let ended = maker.end().await;
    report.after = wanted.watch.map(Holdings::take);
    if let (Maker::Sip(calls), Some(set_up)) = (&maker, &mut report.set_up_ms) {
        let at = |percent| calls.set_up.percentile(percent).unwrap_or_default().as_secs_f64() * 1e3;
        *set_up = [at(50.0), at(99.0)];
    }
    maker.leave().await;
    let Some(measured) = measured else {
        return Ok(ExitCode::from(process::INTERRUPTED));
    };
    if let Some(Ok(blast)) = Arc::into_inner(blast).map(Mutex::into_inner) {
        blast.stop();
    }
    measured?;
    show::say(&if wanted.json { report.json()? } else { report.table() })?;
    ended?;
    report.verdict(wanted.loss_limit)
}

async fn measure(
    options: &cli::Load,
    maker: &mut Maker,
    own: &[SocketAddr],
    blast: &Arc<Mutex<Source>>,
    report: &mut Report,
) -> Result<(), String> {
    let wanted = &options.blast;
    report.before = wanted.watch.map(Holdings::take);
    let begun = Instant::now();
    let peers = maker.make(own).await?;
    blast.lock().unwrap_or_else(PoisonError::into_inner).connect(&peers)?;
    report.made_in_s = begun.elapsed().as_secs_f64();
    let window = Window {
        rate: 0,
        warm_up: WARM_UP,
        length: Duration::from_secs(u64::from(wanted.seconds)),
        watch: wanted.watch,
    };
    for rate in &wanted.rate_pps {
        for _ in 0..wanted.repeat {
            report.rows.push(one(blast, Window { rate: *rate, ..window }).await?);
        }
        if report.with_calls.is_none() {
            // With packets flowing: buffers that they need are part of it.
            report.with_calls = wanted.watch.map(Holdings::take);
        }
    }
    if wanted.highest {
        report.highest = Some(highest(options, blast, window).await?);
    }
    Ok(())
}

async fn one(blast: &Arc<Mutex<Source>>, window: Window) -> Result<Row, String> {
    let blast = Arc::clone(blast);
    let measured = tokio::task::spawn_blocking(move || {
        blast.lock().unwrap_or_else(PoisonError::into_inner).measure(&window)
    });
    let (counted, spent) = measured.await.map_err(|error| error.to_string())??;
    Ok(Row::new(&window, &counted, spent))
}

/// Seeks the highest rate without loss: up by steps while there is none, then between the last that
/// was good and the first that was not.
async fn highest(
    options: &cli::Load,
    blast: &Arc<Mutex<Source>>,
    window: Window,
) -> Result<Highest, String> {
    let limit = options.blast.loss_limit;
    let missed = if options.blast.frames.is_some() { MISSED_FRAMES_LIMIT } else { MISSED_LIMIT };
    let probe = Window { warm_up: PROBE_WARM_UP, length: PROBE, ..window };
    let first = options.blast.rate_pps.iter().copied().min().unwrap_or(1);
    let (mut good, mut bad, mut limited_by) = (0.0_f64, f64::INFINITY, Limit::Search);
    let mut rate = f64::from(first);
    while rate < HIGHEST_RATE && bad / good.max(1.0) > LEAST_STEP {
        let mut verdict =
            one(blast, Window { rate: rate as u32, ..probe }).await?.verdict(limit, missed);
        if verdict.is_some() {
            // The machine itself may have paused; what is beyond the relay fails again.
            verdict =
                one(blast, Window { rate: rate as u32, ..probe }).await?.verdict(limit, missed);
        }
        match verdict {
            None => good = rate,
            Some(why) => (bad, limited_by) = (rate, why),
        }
        rate = match (good, bad) {
            (good, bad) if bad.is_infinite() => good * STEP,
            (0.0, bad) => bad / STEP,
            (good, bad) => (good * bad).sqrt(),
        };
        if rate < 1_000.0 {
            break;
        }
    }
    let mut row = one(blast, Window { rate: good as u32, ..window }).await?;
    // What two seconds let through may be much more than what is held.
    let mut step = LEAST_STEP;
    while row.verdict(limit, missed).is_some() && good > 1_000.0 {
        good /= step;
        step *= LEAST_STEP;
        row = one(blast, Window { rate: good as u32, ..window }).await?;
    }
    Ok(Highest { limited_by, row })
}

/// Why no more goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Limit {
    /// Packets were lost.
    Loss,
    /// The generator could not send more.
    Generator,
    /// Nothing higher was tried.
    Search,
}

#[derive(Clone, Debug, Serialize)]
struct Highest {
    limited_by: Limit,
    row: Row,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Row {
    rate_pps: u32,
    seconds: f64,
    sent: u64,
    received: u64,
    lost: u64,
    lost_percent: f64,
    duplicated: u64,
    reordered: u64,
    stray: u64,
    missed: u64,
    refused: u64,
    /// p50, p99, p99.9, the longest.
    delay_us: [u64; 4],
    /// CPU time a packet that arrived, in microseconds.
    watched_us: f64,
    machine_us: f64,
    softirq_us: f64,
    spent: Spent,
}

impl Row {
    fn new(window: &Window, counted: &Counted, spent: Spent) -> Row {
        let delay = |percent| {
            counted.delays.percentile(percent).map_or(0, |delay| delay.as_micros() as u64)
        };
        let each = |seconds: f64| seconds * 1e6 / counted.received.max(1) as f64;
        Row {
            rate_pps: window.rate,
            seconds: window.length.as_secs_f64(),
            sent: counted.sent,
            received: counted.received,
            lost: counted.lost(),
            lost_percent: counted.lost_percent(),
            duplicated: counted.duplicated,
            reordered: counted.reordered,
            stray: counted.stray,
            missed: counted.missed,
            refused: counted.refused,
            delay_us: [50.0, 99.0, 99.9, 100.0].map(delay),
            watched_us: each(spent.watched_s),
            machine_us: each(spent.machine_s),
            softirq_us: each(spent.softirq_s),
            spent,
        }
    }

    fn verdict(&self, loss_limit: f64, missed_limit: f64) -> Option<Limit> {
        let unsent = (self.missed + self.refused) as f64 * 100.0;
        if unsent > self.sent as f64 * missed_limit {
            Some(Limit::Generator)
        } else {
            (self.lost_percent > loss_limit).then_some(Limit::Loss)
        }
    }

    /// What is wrong with the row, when anything is.
    fn fault(&self, loss_limit: f64) -> Option<String> {
        let rate = self.rate_pps;
        let asked = (f64::from(rate) * self.seconds).floor();
        if self.sent == 0 {
            return Some(format!("nothing was sent at {rate} a second"));
        }
        // One packet more or less falls into the window.
        if (self.sent + 1) as f64 * 100.0 < asked * SENT_LIMIT {
            return Some(format!(
                "the generator is the limit: {} of {asked:.0} packets were sent at {rate} a second",
                self.sent
            ));
        }
        (self.lost_percent > loss_limit)
            .then(|| format!("{} of {} packets were lost at {rate} a second", self.lost, self.sent))
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let [p50, p99, p999, longest] = self.delay_us;
        vec![
            name.to_owned(),
            self.sent.to_string(),
            self.received.to_string(),
            format!("{} ({:.3} %)", self.lost, self.lost_percent),
            self.duplicated.to_string(),
            self.reordered.to_string(),
            self.stray.to_string(),
            (self.missed + self.refused).to_string(),
            if longest == 0 { "-".into() } else { format!("{p50} / {p99} / {p999} / {longest}") },
            format!("{:.2}", self.watched_us),
            format!("{:.2}", self.machine_us),
            format!("{:.0} %", self.spent.generator_s * 100.0 / self.seconds),
        ]
    }
}

/// All that was found out.
#[derive(Debug, Serialize)]
struct Report {
    made_by: &'static str,
    calls: u32,
    made_in_s: f64,
    /// INVITE to 200: p50 and p99.
    set_up_ms: Option<[f64; 2]>,
    /// Delays are from the kernel's timestamps.
    stamped: bool,
    before: Option<Holdings>,
    with_calls: Option<Holdings>,
    after: Option<Holdings>,
    rows: Vec<Row>,
    highest: Option<Highest>,
}

impl Report {
    fn new(options: &cli::Load, maker: &Maker) -> Report {
        Report {
            made_by: maker.name(),
            calls: options.calls,
            made_in_s: 0.0,
            set_up_ms: matches!(maker, Maker::Sip(_)).then_some([0.0; 2]),
            stamped: options.blast.stamp,
            before: None,
            with_calls: None,
            after: None,
            rows: Vec::new(),
            highest: None,
        }
    }

    fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map_err(|error| error.to_string())
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{} calls, {} streams, made by {} in {:.1} s",
            self.calls,
            self.calls * 2,
            self.made_by,
            self.made_in_s
        );
        if let Some([p50, p99]) = self.set_up_ms {
            text += &format!("; INVITE to 200 p50 {p50:.1} ms, p99 {p99:.1} ms");
        }
        let names = [
            "packets/s",
            "sent",
            "received",
            "lost",
            "doubled",
            "late",
            "stray",
            "not sent",
            "delay us p50/p99/p99.9/max",
            "relay us each",
            "machine us each",
            "generator",
        ];
        let mut table = vec![names.map(str::to_owned).to_vec()];
        table.extend(self.rows.iter().map(|row| row.cells(&row.rate_pps.to_string())));
        if let Some(Highest { row, limited_by }) = &self.highest {
            let name = format!("{} highest ({limited_by:?})", row.rate_pps);
            table.push(row.cells(&name.to_lowercase()));
        }
        text += "\n";
        text += &show::columns(&table);
        if let (Some(before), Some(with), Some(after)) = (self.before, self.with_calls, self.after)
        {
            let each =
                |now: u64, then: u64| (now as f64 - then as f64) / f64::from(self.calls.max(1));
            text += &format!(
                "\nmemory of the process a call: {:.1} KiB, of the kernel {:.1} KiB; descriptors \
                 {} before, {} with the calls, {} after",
                each(with.resident_kib, before.resident_kib),
                each(with.kernel_kib, before.kernel_kib),
                before.descriptors,
                with.descriptors,
                after.descriptors,
            );
        }
        text
    }

    fn verdict(&self, loss_limit: f64) -> Result<ExitCode, String> {
        match self.rows.iter().find_map(|row| row.fault(loss_limit)) {
            None => Ok(ExitCode::SUCCESS),
            Some(why) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sent: u64, received: u64) -> Row {
        let length = Duration::from_secs(10);
        let window = Window { rate: 1_000, warm_up: WARM_UP, length, watch: None };
        let counted = Counted { sent, received, ..Counted::default() };
        Row::new(&window, &counted, Spent::default())
    }

    #[test]
    fn a_row_is_good_when_enough_was_sent_and_arrived() {
        for (sent, received, fault) in [
            (10_000, 10_000, None),
            (9_500, 9_500, None),
            (10_000, 9_999, None),
            (10_000, 9_998, Some("2 of 10000 packets were lost at 1000 a second")),
            (9_000, 9_000, Some("the generator is the limit: 9000 of 10000")),
            (0, 0, Some("nothing was sent")),
        ] {
            let told = row(sent, received).fault(0.015);
            match fault {
                None => assert_eq!(told, None),
                Some(part) => {
                    assert!(told.as_ref().is_some_and(|why| why.contains(part)), "{told:?}")
                }
            }
        }
    }
}
