//! Whether phones, desks and the tables of all blades say the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::floor::{Agent, Floor, Who};
use crate::site::Site;

/// What the blades say.
struct Blade {
    number: usize,
    status: Value,
    agents: Vec<Value>,
    leases: Vec<Value>,
    blades: Vec<Value>,
}

/// What is wrong; none when all is right.
pub fn check(site: &Site, floor: &Floor) -> Option<String> {
    try_check(site, floor).err()
}

fn try_check(site: &Site, floor: &Floor) -> Result<(), String> {
    let blades = site.blades.iter().map(|blade| {
        let number = blade.number;
        let get =
            |path: &str| blade.get(path).ok_or_else(|| format!("blade {number} does not answer"));
        let list = |path: &str, name: &str| -> Result<Vec<Value>, String> {
            Ok(get(path)?[name].as_array().cloned().unwrap_or_default())
        };
        Ok(Blade {
            number,
            status: get("/v1/status")?,
            agents: list("/v1/agents", "agents")?,
            leases: list("/v1/leases", "leases")?,
            blades: list("/v1/blades", "blades")?,
        })
    });
    let blades: Vec<Blade> = blades.collect::<Result<_, String>>()?;
    for blade in &blades {
        runs(blade, blades.len())?;
    }
    calls(floor)?;
    agents(&blades, floor)?;
    let halves = halves(floor);
    for blade in &blades {
        leases(blade, floor)?;
        counts(blade, &blades, floor, &halves)?;
    }
    Ok(())
}

fn runs(blade: &Blade, blades: usize) -> Result<(), String> {
    let (number, status) = (blade.number, &blade.status);
    let ccb = &status["ccbs"][0];
    let normal = |one: &&Value| {
        one["ccbs"].as_array().is_some_and(|ccbs| {
            ccbs.iter().all(|ccb| ccb["status"] == "normal") && !ccbs.is_empty()
        })
    };
    let seen = blade.blades.iter().filter(normal).count();
    match () {
        () if ccb["status"] != "normal" => Err(format!("ccb {number} is {}", ccb["status"])),
        () if status["bus"]["connected"] != true => Err(format!("blade {number} has no bus")),
        () if status["directory"]["state"] != "there" => {
            Err(format!("blade {number} has no directory"))
        }
        () if !status["blade"]["leader"].is_string() => {
            Err(format!("blade {number} knows no leader"))
        }
        () if seen != blades => Err(format!("blade {number} sees {seen} blades run normally")),
        () => Ok(()),
    }
}

/// No phone talks to nobody.
fn calls(floor: &Floor) -> Result<(), String> {
    for (place, call) in floor.calls.iter().enumerate().filter(|(_, call)| call.stands) {
        let Some(pair) = floor.pair(call) else { continue };
        let [one, two] = pair.map(|who| floor.phone(who).is_busy());
        if one != two {
            return Err(format!("call {place} of {pair:?} is half a call: {one} {two}"));
        }
        if one
            && pair
                .iter()
                .any(|who| floor.phone(*who).silence().is_none_or(|it| it.as_millis() > 400))
        {
            return Err(format!("call {place} of {pair:?} is silent"));
        }
    }
    Ok(())
}

/// Each agent is at one blade, and in what phone and desk say.
fn agents(blades: &[Blade], floor: &Floor) -> Result<(), String> {
    let all = blades.iter().flat_map(|blade| blade.agents.iter().map(|row| (blade.number, row)));
    let mut rows: BTreeMap<&str, (usize, &Value)> = BTreeMap::new();
    for (number, row) in all {
        let agent = row["number"].as_str().unwrap_or_default();
        if let Some((other, _)) = rows.insert(agent, (number, row)) {
            return Err(format!("{agent} is at blades {other} and {number}"));
        }
    }
    for agent in &floor.agents {
        let row = rows.get(agent.number.as_str());
        let (at, row) = row.ok_or_else(|| format!("{} is logged in nowhere", agent.number))?;
        if *at != agent.ccb {
            return Err(format!("{} is at {at}, not at {}", agent.number, agent.ccb));
        }
        seat(agent, row)?;
    }
    match rows.len() == floor.agents.len() {
        true => Ok(()),
        false => Err(format!("{} agents are logged in", rows.len())),
    }
}

fn seat(agent: &Agent, row: &Value) -> Result<(), String> {
    let is_busy = agent.phone.is_busy();
    let (seat, told) = match (is_busy, agent.wants_ready) {
        (true, _) => ("talking", "busy"),
        (false, true) => ("ready", "ready"),
        (false, false) => ("not_ready", "not_ready"),
    };
    let lease = if is_busy { "bound" } else { "free" };
    let is = (&row["state"], &row["seat"], &row["lease"], agent.told, agent.desk.is_some());
    let right = row["state"] == "online"
        && row["seat"] == seat
        && row["lease"] == lease
        && row["phone"].is_string()
        && agent.told == told
        && agent.desk.is_some();
    match right {
        true => Ok(()),
        false => Err(format!(
            "{} of {}: {is:?}, but its phone says {seat} ({told}, {lease})",
            agent.number, agent.ccb
        )),
    }
}

/// The calls of which a blade has a part, by blade.
fn halves(floor: &Floor) -> BTreeMap<usize, u64> {
    let mut halves = BTreeMap::new();
    for pair in talking(floor) {
        let [one, two] = pair.map(|who| floor.blade(who));
        *halves.entry(one).or_insert(0) += 1;
        if one != two {
            *halves.entry(two).or_insert(0) += 1;
        }
    }
    halves
}

fn talking(floor: &Floor) -> impl Iterator<Item = [Who; 2]> {
    let calls = floor.calls.iter().filter(|call| call.stands);
    calls.filter_map(|call| floor.pair(call)).filter(|pair| floor.phone(pair[0]).is_busy())
}

/// What `leases` shows is what the calls over blades need, at both ends.
fn leases(blade: &Blade, floor: &Floor) -> Result<(), String> {
    let mut wanted: Vec<(String, u64, u64)> = talking(floor)
        .filter_map(|[caller, callee]| {
            let Who::Agent(agent) = callee else { return None };
            let (holder, owner) = (floor.blade(caller), floor.blade(callee));
            let is_here = [holder, owner].contains(&blade.number) && holder != owner;
            is_here.then(|| (floor.agents[agent].number.clone(), owner as u64, holder as u64))
        })
        .collect();
    let number = |lease: &Value, name: &str| lease[name].as_u64().unwrap_or(0);
    let shown = |lease: &Value| {
        let agent = lease["number"].as_str().unwrap_or_default().to_owned();
        (agent, number(lease, "owner"), number(lease, "holder"))
    };
    let mut is: Vec<_> = blade.leases.iter().map(shown).collect();
    wanted.sort_unstable();
    is.sort_unstable();
    match is == wanted {
        true => Ok(()),
        false => Err(format!("blade {} has leases {is:?} instead of {wanted:?}", blade.number)),
    }
}

/// What the CDM, the CTI and the registrar count, and the data plane.
fn counts(
    blade: &Blade,
    all: &[Blade],
    floor: &Floor,
    halves: &BTreeMap<usize, u64>,
) -> Result<(), String> {
    for of in all {
        let here = floor.agents.iter().filter(|agent| agent.ccb == of.number);
        let wanted = here.count() as u64;
        let mut ccbs = blade.blades.iter().filter_map(|one| one["ccbs"].as_array()).flatten();
        let reported = ccbs.find(|ccb| ccb["ccb"] == of.number).map(|ccb| ccb["online"].clone());
        let phones = of.agents.iter().filter(|row| row["phone"].is_string()).count() as u64;
        let own = of.status["ccbs"][0]["online"].as_u64();
        if reported.as_ref().and_then(Value::as_u64) != Some(wanted)
            || own != Some(wanted)
            || phones != wanted
        {
            return Err(format!(
                "ccb {}: {wanted} desks, {phones} phones, {own:?} online, blade {} says {reported:?}",
                of.number, blade.number
            ));
        }
    }
    let counters = &blade.status["ccbs"][0]["counters"];
    let busy =
        floor.agents.iter().filter(|agent| agent.ccb == blade.number && agent.phone.is_busy());
    let held = blade.status["ccbs"][0]["leases_held"].as_u64();
    let calls = counters["calls_now"].as_u64();
    let wanted = (Some(busy.count() as u64), Some(halves.get(&blade.number).copied().unwrap_or(0)));
    match (held, calls) == wanted {
        true => Ok(()),
        false => Err(format!(
            "blade {}: leases and calls {:?} instead of {wanted:?}",
            blade.number,
            (held, calls)
        )),
    }
}
