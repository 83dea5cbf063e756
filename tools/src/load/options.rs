//! What `load` is told about streams of packets.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

/// The options that make `load` send packets at a rate of their own, one socket a stream.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Packets at a rate")]
pub struct BlastOptions {
    /// Set the --calls up, then send that many packets a second over all their streams; one
    /// measurement for each rate. A call has two streams
    #[arg(long, value_name = "PPS", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate_pps: Vec<u32>,
    /// Seconds of each measurement
    #[arg(long, value_name = "S", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// How often each rate is measured
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Send ready-made frames by this interface and count what comes back in an XDP program on it, so that a core
    /// has a million packets a second. Takes root and IPv4, the other end of a veth must take XDP frames too
    /// (a program on it, or `ethtool -K IF gro on`), and measures no delays
    #[arg(long, value_name = "INTERFACE", requires = "rate_pps", conflicts_with = "stamp")]
    pub frames: Option<String>,
    /// Measure delays too, from just before the send to the kernel's receive timestamp
    #[arg(long)]
    pub stamp: bool,
    /// After that, seek the highest rate without more loss than --loss-limit
    #[arg(long, requires = "rate_pps")]
    pub highest: bool,
    /// Percent of the packets that may be lost
    #[arg(long, value_name = "PERCENT", default_value_t = 0.01, value_parser = parse_percent)]
    pub loss_limit: f64,
    /// The cores to send and receive on, a spinning thread pinned to each [default: one thread
    /// wherever the system puts it]
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub core: Vec<usize>,
    /// The callers are phones of a trunk at this address and do not log in
    #[arg(long, value_name = "IP")]
    pub callers: Option<IpAddr>,
    /// Set the streams up at an rtpengine by its ng protocol instead of by SIP
    #[arg(long, value_name = "IP:PORT", requires = "rate_pps",
          conflicts_with_all = ["callers", "direct"])]
    pub ng: Option<SocketAddr>,
    /// No relay at all: what the packets cost their two ends; sockets of this address
    #[arg(long, value_name = "IP", requires = "rate_pps", conflicts_with = "callers")]
    pub direct: Option<IpAddr>,
    /// Account the CPU time and the memory of this process
    #[arg(long, value_name = "PID", requires = "rate_pps")]
    pub watch: Option<u32>,
    /// Print the report as JSON
    #[arg(long, requires = "rate_pps")]
    pub json: bool,
}

/// The options that make `load` refresh registrations at a rate of their own, many phones at one port.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registrations at a rate")]
pub struct RefreshOptions {
    /// Instead of calls: phones without desks register, then again, so many a second over all of them, for --seconds;
    /// one measurement for each rate
    #[arg(long, value_name = "R", value_delimiter = ',', conflicts_with_all = ["rate_pps", "desks"],
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub refresh: Vec<u32>,
    /// Stay registered then, until this program is interrupted
    #[arg(long, conflicts_with_all = ["rate_pps", "desks"])]
    pub stay: bool,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "must be 0 to 100 percent".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    #[test]
    fn lists_and_conflicts() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let line =
            "jackfield load --calls 500 --rate-pps 50000,100000 --core 1,2 --stamp --watch 7";
        let Command::Load(load) = parse(line).unwrap().command else { panic!() };
        assert_eq!(load.blast.rate_pps, [50_000, 100_000]);
        assert_eq!((load.blast.core, load.blast.seconds), (vec![1, 2], 10));
        for line in [
            "jackfield load --rate-pps 0",
            "jackfield load --rate-pps 1 --loss-limit -1",
            "jackfield load --rate-pps 1 --loss-limit 101",
            "jackfield load --rate-pps 1 --loss-limit NaN",
            "jackfield load --ng 127.0.0.1:2223",
            "jackfield load --direct 127.0.0.1",
            "jackfield load --highest",
            "jackfield load --watch 7",
            "jackfield load --json",
            "jackfield load --refresh 0",
            "jackfield load --refresh 10 --rate-pps 1",
            "jackfield load --stay --desks 5",
            "jackfield load --frames eth0",
            "jackfield load --rate-pps 1 --frames eth0 --stamp",
            "jackfield load --rate-pps 1 --ng 127.0.0.1:2223 --direct 127.0.0.1",
            "jackfield load --rate-pps 1 --ng 127.0.0.1:2223 --callers 127.0.0.1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
