//! Delays of the relays in turns, so that what else the machine does meets them all: one after the other, several
//! times, and the middle of the ratios that each round gives.

use std::path::Path;

use house_bench::lab::Lab;

use crate::measure::{Bench, DELAY_RATE, median};
use crate::relays::{self, Relay};
use crate::table::{Better, Table};

const PERCENTILES: [&str; 3] = ["p50", "p99", "p99.9"];

/// How often, how long, with how many calls.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Rounds.
    pub rounds: u32,
    /// Seconds of each relay's measurement.
    pub seconds: u32,
    /// Calls, two streams each.
    pub calls: u32,
    /// The core of the generator.
    pub core: usize,
}

/// The rows of all relays; the ratios are to the first one's of the same round.
pub fn measure(
    lab: &Lab,
    program: &Path,
    relays: &[Relay],
    turns: Turns,
    pass: &Path,
    table: &mut Table,
) -> Result<(), String> {
    let mut rounds: Vec<Vec<[f64; 3]>> = Vec::new();
    for _ in 0..turns.rounds {
        let mut round = Vec::new();
        for relay in relays {
            lab.pass(relay.is_bypass().then_some(pass))?;
            lab.take_sockets()?;
            let bench = Bench { lab, program, relay: *relay, core: turns.core, table };
            let delays = once(&bench, turns)?;
            eprintln!("  {}: p50, p99, p99.9 {delays:?} us", relay.name());
            round.push(delays);
        }
        rounds.push(round);
    }
    for (place, relay) in relays.iter().enumerate() {
        for (percentile, name) in PERCENTILES.into_iter().enumerate() {
            let all: Vec<f64> = rounds.iter().map(|round| round[place][percentile]).collect();
            let what = format!("delay {name}, {} kpps, in turns", DELAY_RATE / 1_000);
            let shown = format!("{} us", spread(&all, 0));
            table.add(what, relay.name(), median(all.into_iter()), shown, Better::Neither);
            if place == 0 {
                continue;
            }
            let ratio = |round: &Vec<[f64; 3]>| round[place][percentile] / round[0][percentile];
            let all: Vec<f64> = rounds.iter().map(ratio).collect();
            let what = format!("delay {name}, of {}'s of the same round", relays[0].name());
            let shown = spread(&all, 3);
            table.add(what, relay.name(), median(all.into_iter()), shown, Better::Neither);
        }
    }
    Ok(())
}

fn once(bench: &Bench<'_>, turns: Turns) -> Result<[f64; 3], String> {
    let relay = relays::start(bench.lab, bench.relay, turns.calls)?;
    let (rate, seconds) = (DELAY_RATE.to_string(), turns.seconds.to_string());
    let flags = ["--stamp", "--rate-pps", &rate, "--seconds", &seconds];
    let report = bench.load(&relay, turns.calls, &flags.map(str::to_owned))?;
    let delay = |place: usize| report["rows"][0]["delay_us"][place].as_f64();
    let delays = [0, 1, 2].map(|place| delay(place).unwrap_or(0.0));
    (delays[2] > 0.0).then_some(delays).ok_or("the generator tells no delays".to_owned())
}

/// The middle, and from where to where.
fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let middle = median(values.iter().copied());
    format!("{middle:.digits$} ({least:.digits$} to {most:.digits$} of {})", values.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_middle_and_the_ends() {
        assert_eq!(spread(&[0.5, 0.2, 0.25], 2), "0.25 (0.20 to 0.50 of 3)");
        assert_eq!(spread(&[7.0], 0), "7 (7 to 7 of 1)");
    }
}
