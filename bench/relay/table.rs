//! The rows, and the ratio of each to rtpengine's of the same run.

use std::process::Command;

/// Whose row the others are compared with.
const PEER: &str = "rtpengine";

/// Which way a value is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A cost.
    Low,
    /// A capacity.
    High,
    /// Not to be compared.
    Neither,
}

/// All rows of a run.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    relay: &'static str,
    value: f64,
    shown: String,
    better: Better,
}

impl Table {
    /// Adds a row.
    pub fn add(
        &mut self,
        what: String,
        relay: &'static str,
        value: f64,
        shown: String,
        better: Better,
    ) {
        self.rows.push(Row { what, relay, value, shown, better });
    }

    /// The last value of that row.
    pub fn value(&self, what: &str, relay: &str) -> Option<f64> {
        let is_it = |row: &&Row| row.what == what && row.relay == relay;
        self.rows.iter().rev().find(is_it).map(|row| row.value)
    }

    /// The rows by what they are about, in the order in which that first came up.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "### Relays, {}\n\n| what | relay | value | of rtpengine's |\n|---|---|---|---|\n",
            origin()
        );
        let mut seen: Vec<&str> = Vec::new();
        for row in &self.rows {
            if seen.contains(&row.what.as_str()) {
                continue;
            }
            seen.push(&row.what);
            let mut what = row.what.as_str();
            for row in self.rows.iter().filter(|other| other.what == row.what) {
                let ratio = self.ratio(row).map_or(String::new(), |ratio| format!("{ratio:.2}"));
                text += &format!("| {what} | {} | {} | {ratio} |\n", row.relay, row.shown);
                what = "";
            }
        }
        text
    }

    /// A capacity above 1, a cost below 1 is better than the peer's.
    fn ratio(&self, row: &Row) -> Option<f64> {
        if row.relay == PEER || row.better == Better::Neither {
            return None;
        }
        let peer = self.value(&row.what, PEER).filter(|value| *value > 0.0)?;
        Some(row.value / peer)
    }
}

/// The day, the commit, and what else runs: the time of a table that was not measured alone means less.
fn origin() -> String {
    let say = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let day = say("date", &["+%F"]);
    let commit = say("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!("{day}, {commit}, load average {load}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_thing_stand_together_with_their_ratio() {
        let mut table = Table::default();
        for (relay, cpu, rate) in [("rtpengine", 4.0, 100.0), ("io_uring", 2.0, 250.0)] {
            table.add("cpu".into(), relay, cpu, format!("{cpu}"), Better::Low);
            table.add("rate".into(), relay, rate, format!("{rate}"), Better::High);
            table.add("fds".into(), relay, 1.0, "1".into(), Better::Neither);
        }
        let text = table.markdown();
        let rows: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            rows,
            [
                "| cpu | rtpengine | 4 |  |",
                "|  | io_uring | 2 | 0.50 |",
                "| rate | rtpengine | 100 |  |",
                "|  | io_uring | 250 | 2.50 |",
                "| fds | rtpengine | 1 |  |",
                "|  | io_uring | 1 |  |",
            ]
        );
    }
}
