//! Blades side by side: what it costs that an agent is on another one.
//!
//! `cargo build --release --bin jackfield && cargo run --release -p house-bench --bin blades`; see bench/README.md.

mod bare;
mod calls;
mod logins;
mod site;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use house_bench::lab::{Broom, Lab};
use house_bench::report::{append, origin};
use serde_json::Value;

use calls::{Outcome, Plan};
use site::{Site, Spent, between};

/// How long the processes are watched when nobody calls.
const IDLE: Duration = Duration::from_secs(5);
/// Rounds of bare requests.
const BARE: usize = 1_000;

/// Measure blades that meet on a NATS server, on a host of their own; needs root and Debian's nats-server.
#[derive(Debug, Parser)]
#[command(name = "blades")]
struct Options {
    /// How many blades
    #[arg(long, value_name = "N", default_value_t = 2)]
    blades: u16,
    /// Calls without media
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    calls: u32,
    /// Calls started a second
    #[arg(long, value_name = "N", default_value_t = 100)]
    rate: u32,
    /// Calls with media, each of 10 s
    #[arg(long, value_name = "N", default_value_t = 150)]
    media_calls: u32,
    /// How often each is measured; the table has the medians
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: usize,
    /// Append the tables to bench/RESULTS.md
    #[arg(long)]
    append: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match Broom::new().and_then(|_broom| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("blades: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let lab = Lab::alone("blades")?;
    let agents = 400;
    let site = Site::start(&lab, options.blades, agents)?;
    let signalling = |pairs| Plan {
        pairs,
        agents,
        calls: options.calls,
        rate: options.rate,
        hold_s: 0.5,
        media: false,
    };
    let media = |pairs| Plan {
        pairs,
        agents: 260,
        calls: options.media_calls,
        rate: 10,
        hold_s: 10.0,
        media: true,
    };
    let before = site.spent();
    std::thread::sleep(IDLE);
    let all = between(&before, &site.spent());
    let idle: Spent =
        all.into_iter().map(|(name, spent)| (name, spent / IDLE.as_secs() as u32)).collect();
    let paced = Duration::from_secs(1) / options.rate.max(1);
    let bare = bare::rounds(&site.bus()?, BARE, paced)?;
    eprintln!("  NATS alone: {:?}", bare::percentile(&bare, 0.5));
    let measure = |plan: Plan| -> Result<Outcome, String> {
        let mut outcomes = Vec::new();
        for _ in 0..options.repeat.max(1) {
            let outcome = calls::run(&lab, &site, &plan, &idle)?;
            eprintln!("  {plan:?}: {:.3} ms a call, {outcome:?}", outcome.ms_a_call());
            outcomes.push(outcome);
        }
        outcomes.sort_by(|a, b| a.ms_a_call().total_cmp(&b.ms_a_call()));
        Ok(outcomes.swap_remove(outcomes.len() / 2))
    };
    let signalled = [measure(signalling("within"))?, measure(signalling("across"))?];
    let grants: Vec<Value> = (1..=options.blades)
        .map(|blade| Ok(site.status(blade)?["bus"]["grants"].clone()))
        .collect::<Result<_, String>>()?;
    eprintln!("  grants: {grants:?}");
    let talked = [measure(media("within"))?, measure(media("across"))?];
    let logins = logins::run(&site)?;
    let mut text = format!(
        "### Blades, {}\n\n{} blades, NATS and the phones share the cores.\n\n",
        origin(),
        options.blades
    );
    text += &figures(&bare, &grants, &signalled, &talked, &logins);
    text += &costs(&idle, &signalled, &talked, &logins);
    println!("{text}");
    if options.append { append(&text) } else { Ok(()) }
}

/// Each figure with what it is to be.
fn figures(
    bare: &[Duration],
    grants: &[Value],
    signalled: &[Outcome; 2],
    talked: &[Outcome; 2],
    logins: &logins::Outcome,
) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let bare_of = |part| ms(bare::percentile(bare, part));
    // Of several blades the slowest.
    let worst = |name: &str| grants.iter().filter_map(|one| one[name].as_f64()).fold(0.0, f64::max);
    let (p50, p99) = (worst("p50_us") / 1e3, worst("p99_us") / 1e3);
    let more = signalled[1].set_up_ms[0] - signalled[0].set_up_ms[0];
    let ratio = |pair: &[Outcome; 2]| pair[1].ms_a_call() / pair[0].ms_a_call();
    let second = f64::from(logins.granted) / logins.time.as_secs_f64();
    let mut text = "| figure | measured | aim |\n|---|---|---|\n".to_owned();
    let mut line = |figure: &str, measured: String, aim: &str| {
        let _ = writeln!(text, "| {figure} | {measured} | {aim} |");
    };
    line(
        "NATS alone, request and reply, p50 / p99",
        format!("{:.3} / {:.3} ms", bare_of(0.5), bare_of(0.99)),
        "",
    );
    line(
        "grant over blades, p50",
        format!("{p50:.3} ms, {:.1} times NATS", p50 / bare_of(0.5)),
        "< 0.5 ms",
    );
    line("grant over blades, p99", format!("{p99:.3} ms"), "< 3 ms");
    for (name, outcome) in
        ["INVITE to 200, one blade", "INVITE to 200, two blades"].iter().zip(signalled)
    {
        let [p50, p99] = outcome.set_up_ms;
        line(&format!("{name}, p50 / p99"), format!("{p50:.2} / {p99:.2} ms"), "");
    }
    line(
        "hosting adds, p50",
        format!("{more:.2} ms"),
        &format!("<= {:.2} ms, a grant and 1 ms", p50 + 1.0),
    );
    for (name, pair, aim) in
        [("signalling", signalled, "<= 3.2"), ("10 s with media", talked, "<= 2.2")]
    {
        let [one, two] = [pair[0].ms_a_call(), pair[1].ms_a_call()];
        line(
            &format!("CPU of a call, {name}: one blade, two, ratio"),
            format!("{one:.3} ms, {two:.3} ms, {:.2}", ratio(pair)),
            aim,
        );
    }
    line("RTP lost, one blade, two", format!("{}, {}", lost(&talked[0]), lost(&talked[1])), "0");
    line(
        "logins by token at one AgentProxy",
        format!(
            "{second:.0}/s, p50 / p99 {:.1} / {:.1} ms",
            ms(logins.took[0]),
            ms(logins.took[1])
        ),
        ">= 500/s",
    );
    line(
        "a login by password, one after the other",
        format!("{:.1} ms", ms(logins.by_password)),
        "",
    );
    text
}

fn lost(outcome: &Outcome) -> u64 {
    outcome.rtp[0].saturating_sub(outcome.rtp[1])
}

/// Where the CPU time goes.
fn costs(
    idle: &Spent,
    signalled: &[Outcome; 2],
    talked: &[Outcome; 2],
    logins: &logins::Outcome,
) -> String {
    let mut text = "\n| process | idle, a second | call, one blade | call, two | 10 s with media, one | two | a login |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for (name, idle) in idle {
        let a_call = |outcome: &Outcome| {
            let spent = outcome.spent.get(name).copied().unwrap_or_default();
            spent.as_secs_f64() * 1e3 / f64::from(outcome.completed.max(1))
        };
        let login = logins.spent.get(name).copied().unwrap_or_default().as_secs_f64() * 1e3
            / f64::from(logins.granted.max(1));
        let _ = writeln!(
            text,
            "| {name} | {:.2} ms | {:.3} ms | {:.3} ms | {:.2} ms | {:.2} ms | {login:.3} ms |",
            idle.as_secs_f64() * 1e3,
            a_call(&signalled[0]),
            a_call(&signalled[1]),
            a_call(&talked[0]),
            a_call(&talked[1]),
        );
    }
    text
}
