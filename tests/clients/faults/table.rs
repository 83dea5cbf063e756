//! What the faults did, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{GAP, HEALED, Kind};

/// What one fault did.
#[derive(Debug, Default)]
pub struct Row {
    /// How long after the end of the fault all was right.
    pub healed: Option<Duration>,
    /// What was not right in time.
    pub late: Option<String>,
    /// What is wrong for good.
    pub faults: Vec<String>,
    pub kept: usize,
    /// Calls that the fault touched and that may be lost by it.
    pub lost_rightly: usize,
    pub lost_wrongly: usize,
    /// The longest gap of a call that the fault did not touch, and what the machine did to a stream of its own.
    pub gap: Duration,
    pub control_gap: Duration,
}

impl Row {
    pub fn is_stuck(&self) -> bool {
        self.healed.is_none()
    }

    fn is_silent(&self) -> bool {
        self.gap > GAP + self.control_gap
    }

    /// In a line.
    pub fn told(&self) -> String {
        let healed =
            self.healed.map_or("never healed".to_owned(), |took| format!("healed in {took:.1?}"));
        let late = self.late.as_ref().map_or(String::new(), |why| format!(" LATE: {why}"));
        let silent = if self.is_silent() { " SILENT" } else { "" };
        let lost = if self.lost_wrongly > 0 { " LOST" } else { "" };
        format!(
            "{healed}, {} kept, {} + {} lost{lost}, gap {:.1?} beside {:.1?}{silent}{late} {}",
            self.kept,
            self.lost_rightly,
            self.lost_wrongly,
            self.gap,
            self.control_gap,
            self.faults.join("; "),
        )
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Table(BTreeMap<Kind, Vec<Row>>);

impl Table {
    pub fn add(&mut self, kind: Kind, row: Row) {
        self.0.entry(kind).or_default().push(row);
    }

    /// Panics when something was not as it should be.
    pub fn expect_right(&self) {
        let rows = self.0.values().flatten();
        let wrong: Vec<String> = rows
            .filter(|row| {
                let late = row.healed.is_none_or(|took| took > HEALED);
                late || row.lost_wrongly > 0 || !row.faults.is_empty() || row.is_silent()
            })
            .map(Row::told)
            .collect();
        assert!(
            wrong.is_empty(),
            "{} faults left something wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<22} {:>4} {:>12} {:>12} {:>6} {:>12} {:>12} {:>12} {:>12}",
            "fault",
            "n",
            "healed p50",
            "max",
            "kept",
            "lost rightly",
            "lost wrongly",
            "largest gap",
            "machine's"
        )?;
        for (kind, rows) in &self.0 {
            let mut healed: Vec<Duration> = rows.iter().filter_map(|row| row.healed).collect();
            healed.sort_unstable();
            let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
            let most = |of: fn(&Row) -> Duration| rows.iter().map(of).max().unwrap_or_default();
            let p50 = healed.get(healed.len() / 2).copied().unwrap_or_default();
            let max = healed.last().copied().unwrap_or_default();
            writeln!(
                f,
                "{:<22} {:>4} {:>9} ms {:>9} ms {:>6} {:>12} {:>12} {:>9} ms {:>9} ms",
                kind.name(),
                rows.len(),
                p50.as_millis(),
                max.as_millis(),
                sum(|row| row.kept),
                sum(|row| row.lost_rightly),
                sum(|row| row.lost_wrongly),
                most(|row| row.gap).as_millis(),
                most(|row| row.control_gap).as_millis(),
            )?;
        }
        Ok(())
    }
}
