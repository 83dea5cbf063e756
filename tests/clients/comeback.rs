//! A CCB dies for good, and all its desks log in again elsewhere (S1-080; issue "Many blades", line 4).

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Process, jackfield, turn, wait_for};
use crate::postgres::Postgres;
use crate::site::{LOCATION, Plan, Site, TENANT};

const BLADES: usize = 4;
/// How many desks without `DESKS_REAL`.
const DESKS: usize = 1_000;
/// A password, and its hash that costs next to nothing: what is tested is who comes back by token.
const PASSWORD: &str = "demo-1001";
const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$K5lc7zqdEtRKDhWK1OWz9g$jNJ+lBPaKhduV/38Qyo569KJApQBliOhfPCoCAcJws4";
/// How long it may take until all are there again.
const LIMIT: Duration = Duration::from_secs(5);

/// `jackfield load --desks`, and what it says of them.
struct Desks(Process);

impl Desks {
    fn start(site: &Site, desks: usize) -> Desks {
        let mut command = site.floor.command(jackfield());
        command.args(["load", "--desks", &desks.to_string(), "--first", "1001"]);
        command.args(["--tenant", TENANT, "--location", LOCATION, "--password", PASSWORD]);
        for blade in &site.blades {
            command.args(["--http", &format!("10.78.0.{}:8080", blade.number)]);
        }
        Desks(Process::start(&mut command, site.folder(), "desks"))
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.0.output();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn last(&self) -> Option<Value> {
        self.lines().pop()
    }

    /// Waits until so many are logged in, none of them at these CCBs.
    fn expect(&self, desks: usize, none_at: &[usize], limit: Duration) -> Value {
        let mut last = Value::Null;
        let all = wait_for(limit, || {
            last = self.last()?;
            let is_left = none_at.iter().any(|ccb| at(&last, "by_ccb", *ccb) > 0);
            (last["held"] == desks && !is_left).then_some(())
        });
        assert!(
            all.is_some(),
            "not all {desks} desks are there: {last:#}\n{}",
            self.0.output().lines().next().unwrap_or_default()
        );
        last
    }
}

/// A number of a CCB's in one of the tables.
fn at(line: &Value, table: &str, ccb: usize) -> u64 {
    line[table][ccb.to_string()].as_u64().unwrap_or(0)
}

/// Each of these CCBs has as many as it should, give or take so many percent.
fn expect_even(line: &Value, desks: usize, ccbs: &[usize], percent: f64) {
    let mean = desks as f64 / ccbs.len() as f64;
    let counts: Vec<u64> = ccbs.iter().map(|ccb| at(line, "by_ccb", *ccb)).collect();
    let is_even = |count: &u64| (*count as f64 - mean).abs() <= (mean * percent / 100.0).max(1.0);
    assert!(counts.iter().all(is_even), "not within {percent} % of {mean}: {counts:?}");
}

/// What happened from one line to the next, as it is printed.
fn tell(
    what: &str,
    before: &Value,
    after: &Value,
    took: Duration,
    lines: &[Value],
    ccbs: &[usize],
) {
    let since = |name: &str| after[name].as_u64().unwrap_or(0) - before[name].as_u64().unwrap_or(0);
    let granted =
        |line: &Value| ccbs.iter().map(|ccb| at(line, "granted", *ccb)).collect::<Vec<_>>();
    let (was, is) = (granted(before), granted(after));
    let grants: Vec<u64> = is.iter().zip(&was).map(|(is, was)| is - was).collect();
    let slowest = lines.iter().filter(|line| line["at_ms"].as_u64() > before["at_ms"].as_u64());
    let slowest = slowest.filter_map(|line| line["slowest_ms"].as_u64()).max();
    let by_ccb: Vec<u64> = ccbs.iter().map(|ccb| at(after, "by_ccb", *ccb)).collect();
    println!(
        "{what}: {} lost, {} told; all are back after {took:?}; slowest {slowest:?} ms; {} retries, {} by \
         password; logins by CCB {ccbs:?} {grants:?}, most in a second {}; held {by_ccb:?}",
        since("lost"),
        since("told_again"),
        since("retries"),
        since("by_password"),
        after["most_a_second"],
    );
}

#[test]
fn desks_of_a_dead_ccb_are_logged_in_again_within_five_seconds() {
    let _turn = turn();
    let desks = std::env::var("DESKS_REAL").map_or(DESKS, |text| text.parse().expect("a number"));
    let plan = Plan {
        blades: BLADES,
        agents: desks,
        prompts: None,
        postgres: Postgres::shared(),
        password_hash: Some(HASH.to_owned()),
    };
    let mut site = Site::of(plan);
    let crowd = Desks::start(&site, desks);
    let begun = Instant::now();
    let full = crowd.expect(desks, &[], Duration::from_secs(120));
    println!("{desks} desks are logged in after {:?}: {}", begun.elapsed(), full["by_ccb"]);
    expect_even(&full, desks, &[1, 2, 3, 4], 5.0);
    // The data plane alone, for good.
    let leader = site.leader();
    let dead = (1..=BLADES).rev().find(|blade| *blade != leader).expect("there are others");
    let left: Vec<usize> = (1..=BLADES).filter(|blade| *blade != dead).collect();
    let begun = Instant::now();
    site.blades[dead - 1].kill_dataplane();
    let back = crowd.expect(desks, &[dead], Duration::from_secs(60));
    let took = begun.elapsed();
    tell("a data plane", &full, &back, took, &crowd.lines(), &left);
    expect_even(&back, desks, &left, 5.0);
    assert!(took <= LIMIT, "{took:?}");
    // A whole blade, and the leader with it.
    let leader = site.leader();
    let left: Vec<usize> = left.into_iter().filter(|blade| *blade != leader).collect();
    let begun = Instant::now();
    site.blades[leader - 1].kill();
    let last = crowd.expect(desks, &[leader, dead], Duration::from_secs(60));
    let took = begun.elapsed();
    tell("the leader's blade", &back, &last, took, &crowd.lines(), &left);
    // Nobody leads yet: each blade chooses by reports of up to 500 ms ago, and all are back before the next ones.
    expect_even(&last, desks, &left, 10.0);
    assert!(took <= LIMIT, "{took:?}");
}
