//! `[pool]`: the CCBs of a blade that are started and stopped with the load or by order.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base::CcbId;
use control_server::Marks;
use control_server::pool::{Config, Driver};

use super::Ccb;
use super::read::Table;

/// Reads `[pool]`; `ccbs` are those of the file.
pub(super) fn read(table: &Table<'_, '_>, ccbs: &[Option<Ccb>]) -> Option<Pool> {
    let slots = table.required_numbers("slots", 1..65_536)?;
    let known: HashSet<u64> = ccbs.iter().flatten().map(|ccb| ccb.number.0.into()).collect();
    let distinct: HashSet<u64> = slots.value.iter().copied().collect();
    if slots.value.is_empty() || distinct.len() != slots.value.len() || !distinct.is_subset(&known)
    {
        let rule = "must name CCBs of this file, each once";
        table.report().fault(&slots.span, slots.field.clone(), rule);
        return None;
    }
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
    table.finish();
    let marks = Marks {
        high: high as f64 / 100.0,
        low: low as f64 / 100.0,
        hold_s: hold_s as u32,
        least: least as u32,
    };
    let slots = slots.value.iter().map(|ccb| CcbId(*ccb as u16)).collect();
    Some(Pool { slots, is_systemd, marks: is_automatic.then_some(marks) })
}

/// What `[pool]` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    slots: Vec<CcbId>,
    is_systemd: bool,
    marks: Option<Marks>,
}

impl Eq for Pool {}

impl Pool {
    /// For control: `program` is this one, `file` the configuration.
    pub fn server_config(&self, program: PathBuf, file: &Path) -> Config {
        let driver = match self.is_systemd {
            true => Driver::Systemd {
                systemctl: "systemctl".into(),
                unit: "jackfield-ccb@%i.service".into(),
            },
            false => {
                let file = file.display().to_string();
                let arguments = ["dataplane", "--config", &file, "--ccb", "%i"];
                let arguments = arguments.map(str::to_owned).into();
                Driver::Process { program, arguments }
            }
        };
        Config { slots: self.slots.clone(), driver, marks: self.marks }
    }

    /// For people.
    pub(super) fn summary(&self) -> String {
        let driver = if self.is_systemd { "systemd" } else { "process" };
        let when = match self.marks {
            None => "by order only".to_owned(),
            Some(marks) => format!(
                "by order, and one more above {:.0} %, one fewer below {:.0} % for {} s, {} at least",
                marks.high * 100.0,
                marks.low * 100.0,
                marks.hold_s,
                marks.least
            ),
        };
        format!("pool: CCBs {:?} by {driver}, {when}", self.numbers())
    }

    fn numbers(&self) -> Vec<u16> {
        self.slots.iter().map(|ccb| ccb.0).collect()
    }

    /// The table that says this.
    pub(super) fn to_toml(&self) -> String {
        let driver = if self.is_systemd { "systemd" } else { "process" };
        let mut text = format!("\n[pool]\nslots = {:?}\ndriver = \"{driver}\"\n", self.numbers());
        let _ = writeln!(text, "automatic = {}", self.marks.is_some());
        if let Some(marks) = self.marks {
            let percent = |share: f64| (share * 100.0).round() as u64;
            let _ = write!(
                text,
                "high = {}\nlow = {}\nhold_s = {}\nleast = {}\n",
                percent(marks.high),
                percent(marks.low),
                marks.hold_s,
                marks.least
            );
        }
        text
    }
}
