//! `[pool]`: the CCBs and AgentProxies of a blade that are started and stopped with the load or by order.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base::CcbId;
use control_server::pool::{Config, Driver};
use control_server::{Marks, SlotId};

use super::read::Table;
use super::{AgentProxy, Ccb};

/// Reads `[pool]`; `ccbs` and `proxies` are those of the file.
pub(super) fn read(
    table: &Table<'_, '_>,
    ccbs: &[Option<Ccb>],
    proxies: &[Option<AgentProxy>],
) -> Option<Pool> {
    let ccbs = ccbs.iter().flatten().map(|ccb| ccb.number.0.into());
    let slots = numbers(table, "slots", "must name CCBs of this file, each once", ccbs)?;
    let known = proxies.iter().flatten().map(|proxy| proxy.number.into());
    let rule = "must name AgentProxies of this file, each once";
    let agent_proxies = numbers(table, "agent_proxies", rule, known)?;
    let driver = table.parsed("driver", "must be process or systemd", |text| match text {
        "process" => Some(false),
        "systemd" => Some(true),
        _ => None,
    });
    let is_systemd = table.or("driver", driver, false)?;
    let automatic = table.flag("automatic");
    let is_automatic = table.or("automatic", automatic, true)?;
    let usual = Marks::default();
    let percent = |field: &'static str, usual: f64| {
        let found = table.number(field, 1..100);
        table.or(field, found, (usual * 100.0) as u64)
    };
    let (high, low) = (percent("high", usual.high)?, percent("low", usual.low)?);
    if low >= high {
        table.report().fault(&table.field_span("low"), table.name("low"), "must be below high");
    }
    let hold_s = table.number("hold_s", 1..3_601);
    let hold_s = table.or("hold_s", hold_s, usual.hold_s.into())?;
    let least = table.number("least", 0..1_024);
    let least = table.or("least", least, usual.least.into())?;
    let at_once = table.number("at_once", 1..65);
    let at_once = table.or("at_once", at_once, usual.at_once.into())?;
    let logins_s = table.number("logins_s", 1..1_000_001);
    let logins_s = table.or("logins_s", logins_s, usual.logins_s.into())?;
    table.finish();
    let marks = Marks {
        high: high as f64 / 100.0,
        low: low as f64 / 100.0,
        hold_s: hold_s as u32,
        least: least as u32,
        at_once: at_once as u32,
        logins_s: logins_s as u32,
    };
    Some(Pool { slots, agent_proxies, is_systemd, marks: is_automatic.then_some(marks) })
}

/// A list of numbers that must be `known`, each once.
fn numbers(
    table: &Table<'_, '_>,
    field: &'static str,
    rule: &str,
    known: impl Iterator<Item = u64>,
) -> Option<Vec<u16>> {
    let found = table.numbers(field, 1..65_536);
    let (span, numbers) = match found {
        Some(found) => (found.span.clone(), found.value),
        None => (0..0, table.or(field, None, Vec::new())?),
    };
    let known: HashSet<u64> = known.collect();
    let distinct: HashSet<u64> = numbers.iter().copied().collect();
    if distinct.len() != numbers.len() || !distinct.is_subset(&known) {
        table.report().fault(&span, table.name(field), rule);
        return None;
    }
    Some(numbers.into_iter().map(|number| number as u16).collect())
}

/// What `[pool]` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    slots: Vec<u16>,
    agent_proxies: Vec<u16>,
    is_systemd: bool,
    marks: Option<Marks>,
}

impl Eq for Pool {}

impl Pool {
    /// For control: `program` is this one, `file` the configuration.
    pub fn server_config(&self, program: PathBuf, file: &Path) -> Config {
        let file = file.display().to_string();
        let driver = |unit: &str, arguments: [&str; 5]| match self.is_systemd {
            true => Driver::Systemd { systemctl: "systemctl".into(), unit: unit.to_owned() },
            false => {
                let arguments = arguments.map(str::to_owned).into();
                Driver::Process { program: program.clone(), arguments }
            }
        };
        let ccbs = self.slots.iter().map(|ccb| SlotId::Ccb(CcbId(*ccb)));
        let proxies = self.agent_proxies.iter().map(|number| SlotId::AgentProxy(*number));
        Config {
            slots: ccbs.chain(proxies).collect(),
            ccbs: driver(
                "jackfield-ccb@%i.service",
                ["dataplane", "--config", &file, "--ccb", "%i"],
            ),
            agent_proxies: driver(
                "jackfield-agentproxy@%i.service",
                ["agentproxy", "--config", &file, "--number", "%i"],
            ),
            marks: self.marks,
        }
    }

    /// For people.
    pub(super) fn summary(&self) -> String {
        let driver = if self.is_systemd { "systemd" } else { "process" };
        let when = match self.marks {
            None => "by order only".to_owned(),
            Some(marks) => format!(
                "by order, and one more above {:.0} %, one fewer below {:.0} % for {} s, {} at least, \
                 {} at once; {} logins/s an AgentProxy",
                marks.high * 100.0,
                marks.low * 100.0,
                marks.hold_s,
                marks.least,
                marks.at_once,
                marks.logins_s,
            ),
        };
        let proxies = &self.agent_proxies;
        format!("pool: CCBs {:?}, AgentProxies {proxies:?} by {driver}, {when}", self.slots)
    }

    /// The table that says this.
    pub(super) fn to_toml(&self) -> String {
        let driver = if self.is_systemd { "systemd" } else { "process" };
        let mut text = format!(
            "\n[pool]\nslots = {:?}\nagent_proxies = {:?}\ndriver = \"{driver}\"\n",
            self.slots, self.agent_proxies
        );
        let _ = writeln!(text, "automatic = {}", self.marks.is_some());
        if let Some(marks) = self.marks {
            let percent = |share: f64| (share * 100.0).round() as u64;
            let _ = write!(
                text,
                "high = {}\nlow = {}\nhold_s = {}\nleast = {}\nat_once = {}\nlogins_s = {}\n",
                percent(marks.high),
                percent(marks.low),
                marks.hold_s,
                marks.least,
                marks.at_once,
                marks.logins_s
            );
        }
        text
    }
}
