//! Relays side by side: rtpengine and ours, on the same calls, the same packets and the same cores.
//!
//! `cargo build --release --bin jackfield && cargo run --release -p house-bench --bin relay`; see
//! bench/README.md.

mod functions;
mod limits;
mod measure;
mod relays;
mod table;
mod turns;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use house_bench::lab::{Broom, Lab};
use measure::{Bench, Plan};
use relays::Relay;
use table::Table;
use turns::Turns;

/// Compare relays in network namespaces of their own; needs root, rtpengine and ethtool.
#[derive(Debug, Parser)]
#[command(name = "relay")]
struct Options {
    /// A look of a minute or two: one short measurement each, no search for the highest rate
    #[arg(long)]
    quick: bool,
    /// Only the highest rates without loss, and what the XDP program takes
    #[arg(long, conflicts_with_all = ["quick", "delays"])]
    highest: bool,
    /// Only the delays, of all relays in turns, in so many rounds of --seconds each
    #[arg(long, value_name = "ROUNDS", conflicts_with = "quick")]
    delays: Option<u32>,
    /// Seconds of each measurement of --highest and --delays
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u32,
    /// Append the rows to bench/RESULTS.md
    #[arg(long)]
    append: bool,
    /// Only these: rtpengine, recvmmsg, io_uring, xdp, recording; may be repeated. With a relay, the
    /// generator alone is always measured, for what it costs is taken off
    #[arg(long, value_name = "RELAY")]
    only: Vec<String>,
    /// Calls while CPU time and delays are measured; each has two streams
    #[arg(long, value_name = "N", default_value_t = 500)]
    calls: u32,
    /// Calls while memory is measured; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 4_000)]
    memory_calls: u32,
    /// Calls that are set up and torn down; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    churn: u32,
    /// Calls that are recorded, then mixed
    #[arg(long, value_name = "N", default_value_t = 100)]
    recorded_calls: u32,
    /// The core of the generator; relays run on core 0
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = Broom::new().and_then(|_broom| run(&options));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("relay: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let program = house_bench::programs::jackfield()?;
    let ours = relays::ours(&program);
    for name in ["recvmmsg", "io_uring", "xdp"] {
        if !ours.iter().any(|relay| relay.name() == name) {
            eprintln!("relay: --media {name} is not in this build");
        }
    }
    let is_wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let only_functions = options.only.iter().all(|only| only == functions::NAME);
    let wanted = |relay: &Relay| match relay {
        Relay::Nobody => options.only.is_empty() || !only_functions,
        relay => is_wanted(relay.name()),
    };
    // Nobody comes first: the rows of the others need its.
    let all = [Relay::Nobody, Relay::Rtpengine].into_iter().chain(ours);
    let plan = Plan::new(options.quick, options.calls, options.memory_calls, options.churn);
    let plan = if options.highest { plan.lasting(options.seconds) } else { plan };
    let lab = Lab::new()?;
    let mut table = Table::default();
    let mut faults = Vec::new();
    if let Some(rounds) = options.delays {
        let relays: Vec<Relay> =
            all.filter(|relay| *relay != Relay::Nobody && wanted(relay)).collect();
        let Options { seconds, calls, core, .. } = *options;
        let turns = Turns { rounds, seconds, calls, core };
        let pass = folder().join("relay/pass.bpf.o");
        turns::measure(&lab, &program, &relays, turns, &pass, &mut table)?;
        return tell(&table, options.append);
    }
    for relay in all.filter(wanted) {
        eprintln!("relay: {}", relay.name());
        let pass = folder().join("relay/pass.bpf.o");
        lab.pass(relay.is_bypass().then_some(pass.as_path()))?;
        let core = options.core;
        let measured = if options.highest {
            let table = &mut table;
            let mut bench = Bench { lab: &lab, program: &program, relay, core, table };
            limits::measure(&lab, &mut bench, &plan)
        } else {
            measure::measure(&lab, &program, relay, &plan, core, &mut table)
        };
        if let Err(why) = measured {
            // The others are still worth their rows.
            eprintln!("relay: {}: {why}", relay.name());
            faults.push(format!("{}: {why}", relay.name()));
        }
    }
    if is_wanted(functions::NAME) && !options.highest {
        eprintln!("relay: {}", functions::NAME);
        lab.pass(None)?;
        let (calls, (seconds, repeat)) = (options.recorded_calls, plan.windows());
        let made = functions::measure(&lab, &program, calls, seconds, repeat, &mut table);
        if let Err(why) = made {
            faults.push(format!("{}: {why}", functions::NAME));
        }
    }
    tell(&table, options.append)?;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn tell(table: &Table, to_file: bool) -> Result<(), String> {
    let text = table.markdown();
    println!("{text}");
    if to_file { append(&text) } else { Ok(()) }
}

/// bench/ of the sources that this program was built from.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn append(text: &str) -> Result<(), String> {
    let file: &Path = &folder().join("RESULTS.md");
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut results = std::fs::read_to_string(file).map_err(failed)?;
    results.push('\n');
    results.push_str(text);
    std::fs::write(file, results).map_err(failed)
}
