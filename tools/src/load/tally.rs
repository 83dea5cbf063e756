//! What came of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use softphone::Why;

use crate::cli;
use crate::delays::Delays;
use crate::fleet::Counts;
use crate::show::columns;

/// All that is counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Agents that logged in.
    pub logged_in: usize,
    /// How long that took.
    pub login_time: Duration,
    /// Phones that registered.
    pub registered: usize,
    /// How long that took.
    pub register_time: Duration,
    /// Calls that were answered.
    pub answered: u32,
    /// Calls that the caller hung up as planned.
    pub hung_up: u32,
    /// Other ends, by why.
    pub failed: BTreeMap<String, u32>,
    /// How long the calls took.
    pub call_time: Duration,
    /// Beats of the rate at which no pair was free.
    pub waited: u32,
    /// Phones whose call never ended.
    pub stuck: usize,
    /// From INVITE to 200.
    pub set_up: Delays,
    /// Of that, for how long it was neither phone's turn to send.
    pub in_blade: Delays,
    /// What the phones counted.
    pub counts: Vec<Counts>,
}

impl Tally {
    /// A call of a caller is over.
    pub fn ended(&mut self, why: Why) {
        match why {
            Why::HungUp => self.hung_up += 1,
            Why::Refused(status) => *self.failed.entry(status.to_string()).or_default() += 1,
            other => *self.failed.entry(format!("{other:?}")).or_default() += 1,
        }
    }

    /// For people.
    pub fn table(&self, options: &cli::Load) -> String {
        let ms = |time: Option<Duration>| {
            time.map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * 1_000.0))
        };
        let three = |delays: &Delays| {
            [50.0, 95.0, 99.0].map(|percent| ms(delays.percentile(percent))).join(", ")
        };
        let mut table: Vec<Vec<String>> = Vec::new();
        let mut line = |name: &str, value: String| table.push(vec![name.to_owned(), value]);
        line("logged in", format!("{} in {:.1} s", self.logged_in, self.login_time.as_secs_f64()));
        line(
            "registered",
            format!("{} in {:.1} s", self.registered, self.register_time.as_secs_f64()),
        );
        line("calls placed", self.total(|counts| counts.phone.placed).to_string());
        line("answered", self.answered.to_string());
        line("hung up as planned", self.hung_up.to_string());
        for (why, count) in &self.failed {
            line(&format!("failed: {why}"), count.to_string());
        }
        line("calls took", format!("{:.1} s", self.call_time.as_secs_f64()));
        line("beats without a free pair", self.waited.to_string());
        line("set-up p50, p95, p99 ms", three(&self.set_up));
        line("of it in the blade, ms", three(&self.in_blade));
        line("SIP sent again", self.total(|counts| counts.phone.sip_retransmitted).to_string());
        line("SIP unexpected", self.unexpected().to_string());
        if options.rtp {
            let delays = self.delays();
            line("RTP sent", self.total(|counts| counts.phone.rtp_sent).to_string());
            line("RTP received", self.total(|counts| counts.phone.rtp_received).to_string());
            line("RTP stray", self.total(|counts| counts.phone.rtp_stray).to_string());
            line(
                "added delay p50, p99 ms",
                [50.0, 99.0].map(|p| ms(delays.percentile(p))).join(", "),
            );
        }
        columns(&table).trim_end().to_owned()
    }

    /// What keeps the load from being good; nothing when it is.
    pub fn faults(&self, options: &cli::Load) -> Vec<String> {
        let mut faults = Vec::new();
        if self.registered < options.agents as usize {
            faults.push(format!("{} of {} phones registered", self.registered, options.agents));
        }
        if self.answered < options.calls || self.hung_up < options.calls {
            faults.push(format!("{} of {} calls went as planned", self.hung_up, options.calls));
        }
        if self.stuck > 0 {
            faults.push(format!("{} phones still have a call", self.stuck));
        }
        if self.unexpected() > 0 {
            faults.push(format!("{} unexpected SIP messages", self.unexpected()));
        }
        let sent = self.total(|counts| counts.phone.rtp_sent);
        let received = self.total(|counts| counts.phone.rtp_received);
        if options.rtp && received != sent {
            faults.push(format!("{received} of {sent} RTP packets arrived"));
        }
        faults
    }

    fn unexpected(&self) -> u64 {
        self.total(|counts| counts.phone.sip_unexpected + counts.phone.sip_malformed)
    }

    fn total(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.counts.iter().map(count).sum()
    }

    fn delays(&self) -> Delays {
        let mut all = Delays::default();
        self.counts.iter().for_each(|counts| all.merge(&counts.delays));
        all
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn what_went_wrong_is_named() {
        let line = ["jackfield", "load", "--agents", "2", "--calls", "3"];
        let cli::Command::Load(options) = cli::Cli::parse_from(line).command else { panic!() };
        let mut tally = Tally { registered: 2, answered: 3, ..Tally::default() };
        for why in [Why::HungUp, Why::Refused(503), Why::PeerHungUp] {
            tally.ended(why);
        }
        assert_eq!(tally.faults(&options), ["1 of 3 calls went as planned"]);
        let table = tally.table(&options);
        assert!(table.contains("failed: 503") && table.contains("failed: PeerHungUp"), "{table}");
        tally.hung_up = 3;
        assert!(tally.faults(&options).is_empty());
    }
}
