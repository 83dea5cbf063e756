//! What goes at most: the highest rate without loss, with frames that the generator's core makes without a socket
//! (`jackfield load --frames`), and what the XDP program takes at the bypass's rate.

use aya::sys::{Stats, enable_stats};

use house_bench::lab::{CABLE, Lab};

use crate::measure::{BYPASS_RATE, Bench, Plan};
use crate::relays::{self, Relay, Started};
use crate::table::Better;

/// The rate at which the search begins.
const FIRST_RATE: u32 = 50_000;
/// Seconds in which the program is accounted.
const SECONDS: u32 = 5;
/// The program that does nothing, as the kernel calls it.
const DROP: &str = "drop";

/// The rows of one relay.
pub fn measure(lab: &Lab, bench: &mut Bench<'_>, plan: &Plan) -> Result<(), String> {
    if bench.relay == Relay::Nobody {
        return Ok(());
    }
    lab.pass(None)?;
    // The bypass, too, relays where the frames come from: a queue of 256 between two cores would be its limit wherever
    // one of them pauses.
    lab.take_frames(false)?;
    {
        let relay = relays::start(lab, bench.relay, plan.calls())?;
        lab.poll_threads()?;
        highest(bench, &relay, plan)?;
        if bench.relay.is_bypass() {
            let pid = relay.pid.unwrap_or_default();
            account_both(bench, &relay, plan, "XDP program a packet", || of_process(pid))?;
        }
    }
    if bench.relay.is_bypass() {
        floor(lab, bench, plan)?;
    }
    Ok(())
}

fn highest(bench: &mut Bench<'_>, relay: &Started, plan: &Plan) -> Result<(), String> {
    let (rate, seconds) = (FIRST_RATE.to_string(), plan.windows().0.to_string());
    let flags = ["--frames", CABLE, "--rate-pps", &rate, "--seconds", &seconds, "--highest"];
    let report = bench.load(relay, plan.calls(), &flags.map(str::to_owned))?;
    let highest = &report["highest"];
    let row = |name: &str| highest["row"][name].as_f64();
    let rate = row("sent").zip(row("seconds")).map(|(sent, seconds)| sent / seconds);
    let rate = rate.ok_or("the generator tells no highest rate")?;
    let limit = highest["limited_by"].as_str().unwrap_or_default();
    let shown = format!("{:.0} kpps (limited by: {limit})", rate / 1e3);
    bench.add("highest rate without loss, one core".into(), rate, shown, Better::High);
    Ok(())
}

/// What the kernel's own account of any program comes to: that of one of two instructions in the relay's place.
fn floor(lab: &Lab, bench: &mut Bench<'_>, plan: &Plan) -> Result<(), String> {
    let object = crate::folder().join("relay/drop.bpf.o");
    lab.program_on_sbc(Some(&object))?;
    let nobody = relays::start(lab, Relay::Nobody, 0)?;
    let what = "the same of a program of two instructions";
    let accounted = account_both(bench, &nobody, plan, what, of_drop);
    lab.program_on_sbc(None)?;
    accounted
}

/// The time of a program, as the kernel accounts it: on a core of its own, where it waits for each frame's first bytes
/// to come from the core that wrote them, and on that core. A NIC's driver fetches them before the program asks.
fn account_both(
    bench: &mut Bench<'_>,
    relay: &Started,
    plan: &Plan,
    what: &str,
    time: impl Fn() -> (u64, u64),
) -> Result<(), String> {
    for (on_relay, where_from) in [(true, "another core's frames"), (false, "its own core's")] {
        bench.lab.take_frames(on_relay)?;
        bench.lab.poll_threads()?;
        account(bench, relay, plan, &format!("{what}, {where_from}"), &time)?;
    }
    Ok(())
}

fn account(
    bench: &mut Bench<'_>,
    relay: &Started,
    plan: &Plan,
    what: &str,
    time: &impl Fn() -> (u64, u64),
) -> Result<(), String> {
    let rate = BYPASS_RATE.to_string();
    let seconds = SECONDS.to_string();
    let flags = ["--frames", CABLE, "--rate-pps", &rate, "--seconds", &seconds];
    // On until this closes, however we end.
    let stats = enable_stats(Stats::RunTime).map_err(|error| format!("BPF statistics: {error}"))?;
    let before = time();
    bench.load(relay, plan.calls(), &flags.map(str::to_owned))?;
    let (nanos, runs) = time();
    // Accounting costs the program time of its own.
    drop(stats);
    if let Some(runs) = runs.checked_sub(before.1).filter(|runs| *runs > 0) {
        let each = (nanos - before.0) as f64 / runs as f64;
        let what = format!("{what}, {} kpps", BYPASS_RATE / 1_000);
        bench.add(what, each / 1e3, format!("{each:.0} ns"), Better::Low);
    }
    Ok(())
}

/// Nanoseconds and runs of the programs that a process holds.
fn of_process(pid: u32) -> (u64, u64) {
    let (mut time, mut runs) = (0, 0);
    for file in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
        };
        if text.contains("prog_type:") {
            time += field("run_time_ns:");
            runs += field("run_cnt:");
        }
    }
    (time, runs)
}

/// The same of the program that does nothing.
fn of_drop() -> (u64, u64) {
    let programs = aya::programs::loaded_programs().flatten();
    programs
        .filter(|program| program.name_as_str() == Some(DROP))
        .map(|program| (program.run_time().as_nanos() as u64, program.run_count()))
        .fold((0, 0), |(time, runs), (more, again)| (time + more, runs + again))
}
