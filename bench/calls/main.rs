//! Calls side by side: Kamailio with rtpengine, a record-routing proxy between two SIPps, and ours, a B2BUA between
//! agents who prove themselves by digest; media ports are taken and given back for each call.
//!
//! `cargo build --release --bin jackfield && cargo run --release -p house-bench --bin calls`; see
//! bench/README.md.

mod agents;
mod peers;
mod sipp;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use house_bench::lab::{Broom, Lab};
use house_bench::probe::Probe;
use house_bench::report::{append, cpu, origin};

use peers::{Peer, Started};
use sipp::{Outcome, Plan};

/// Compare what a call costs, in network namespaces of their own; needs root, SIPp, Kamailio and rtpengine.
#[derive(Debug, Parser)]
#[command(name = "calls")]
struct Options {
    /// Calls a second, one run each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100,400,1000,1600,2000")]
    rates: Vec<u32>,
    /// Seconds of each run
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u32,
    /// How long a call stands, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    hold: u32,
    /// Only this: kamailio, jackfield; may be repeated
    #[arg(long, value_name = "PEER")]
    only: Vec<String>,
    /// Append the rows to bench/RESULTS.md
    #[arg(long)]
    append: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match Broom::new().and_then(|_broom| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("calls: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One run.
struct Row {
    peer: Peer,
    rate: u32,
    /// CPU time of the peer a call, in milliseconds; none where no call went through.
    cpu_ms: Option<f64>,
    /// For what part of the time the peer's core was slow by itself.
    slow_percent: f64,
    /// Of a core, what the generator took.
    generator_percent: f64,
    outcome: Outcome,
}

fn run(options: &Options) -> Result<(), String> {
    let lab = Lab::new()?;
    let mut rows: Vec<Row> = Vec::new();
    let is_wanted = |peer: &Peer| {
        options.only.is_empty() || options.only.iter().any(|name| name == peer.name())
    };
    for peer in [Peer::Kamailio, Peer::Jackfield].into_iter().filter(is_wanted) {
        for &rate in &options.rates {
            let plan = Plan { rate, seconds: options.seconds, hold_ms: options.hold };
            let started = peers::start(&lab, peer)?;
            let probe = Probe::start(0);
            let row = match peer {
                Peer::Kamailio => measure(&lab, &started, &plan)?,
                Peer::Jackfield => measure_ours(&lab, &started, &plan)?,
            };
            let row = Row { slow_percent: probe.slow_percent(), ..row };
            eprintln!("  {}", line(&row, &rows));
            rows.push(row);
        }
    }
    let mut text = format!(
        "### Calls, {}\n\n{} s a run, each call stands {} ms; the peer on core 0, the callers and called on core 1.\n\n\
         | peer | calls/s | CPU a call | of Kamailio's | INVITE to 200, p50 / p99 | of it in the peer, p50 / p95 / p99 | core slow | sent again | failed | generator's share \
         of its core |\n|---|---|---|---|---|---|---|---|---|---|\n",
        origin(),
        options.seconds,
        options.hold
    );
    for row in &rows {
        text += &line(row, &rows);
        text += "\n";
    }
    println!("{text}");
    if options.append { append(&text) } else { Ok(()) }
}

fn measure(lab: &Lab, started: &Started, plan: &Plan) -> Result<Row, String> {
    let callee = sipp::callee(lab)?;
    // A few calls first: what is made once is made by then.
    sipp::caller(lab, &Plan { rate: 50, seconds: 1, ..*plan }, "warm-up")?;
    let before = (cpu(&started.pids()), cpu(&[callee.pid()]), Instant::now());
    let outcome = sipp::caller(lab, plan, "run")?;
    let elapsed = before.2.elapsed();
    let spent = cpu(&started.pids()).saturating_sub(before.0);
    let generator = outcome.cpu + cpu(&[callee.pid()]).saturating_sub(before.1);
    let cpu_ms =
        (outcome.completed > 0).then(|| spent.as_secs_f64() * 1e3 / outcome.completed as f64);
    let generator_percent = generator.as_secs_f64() * 100.0 / elapsed.as_secs_f64();
    let (peer, rate) = (Peer::Kamailio, plan.rate);
    Ok(Row { peer, rate, cpu_ms, slow_percent: 0.0, generator_percent, outcome })
}

/// Logins and registrations, before and after the calls, are not counted.
fn measure_ours(lab: &Lab, started: &Started, plan: &Plan) -> Result<Row, String> {
    let program = house_bench::programs::jackfield()?;
    let few = Plan { rate: 50, seconds: 1, ..*plan };
    agents::call(lab, &program, &few, agents::FEW, &started.pids())?;
    let calls = plan.rate * plan.seconds;
    let (outcome, spent, elapsed) = agents::call(lab, &program, plan, calls, &started.pids())?;
    let done = outcome.completed;
    let cpu_ms = (done > 0).then(|| spent.as_secs_f64() * 1e3 / done as f64);
    let generator_percent = outcome.cpu.as_secs_f64() * 100.0 / elapsed.as_secs_f64();
    let (peer, rate) = (Peer::Jackfield, plan.rate);
    Ok(Row { peer, rate, cpu_ms, slow_percent: 0.0, generator_percent, outcome })
}

fn line(row: &Row, rows: &[Row]) -> String {
    let other = rows.iter().find(|other| other.peer == Peer::Kamailio && other.rate == row.rate);
    let ratio = match (row.cpu_ms, other.and_then(|other| other.cpu_ms)) {
        (Some(ours), Some(theirs)) if row.peer != Peer::Kamailio => format!("{:.2}", ours / theirs),
        _ => String::new(),
    };
    let cpu = row.cpu_ms.map_or("-".to_owned(), |cpu| format!("{cpu:.3} ms"));
    let ms = |[p50, p99]: [f64; 2]| format!("{p50:.1} / {p99:.1} ms");
    let three = |[p50, p95, p99]: [f64; 3]| format!("{p50:.1} / {p95:.1} / {p99:.1} ms");
    let in_peer = row.outcome.in_peer_ms.map_or("-".to_owned(), three);
    format!(
        "| {} | {} | {cpu} | {ratio} | {} | {in_peer} | {:.1} % | {} | {} | {:.0} % |",
        row.peer.name(),
        row.rate,
        ms(row.outcome.delay_ms),
        row.slow_percent,
        row.outcome.retransmissions,
        row.outcome.failed,
        row.generator_percent
    )
}
