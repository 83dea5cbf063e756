//! What the benches share: a clock, a core, a message and a region.
//!
//! Benches of one thread read the thread's CPU time, so that what else runs on the machine costs
//! them caches but no time of its own.

pub mod lab;
pub mod load;
pub mod probe;
pub mod programs;
pub mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use abi::{Layout, Region};
use base::{CcbId, Rng};
use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// An INVITE of 1 KB with SDP, as a phone sends it: 17 header lines that all three parsers take.
pub const INVITE: &str = "INVITE sip:1002@sbc.demo.jackfield.example SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK776asdhds83hjsdk;rport\r\n\
    Max-Forwards: 70\r\n\
    From: \"Agent One\" <sip:1001.demo@demo.jackfield.example>;tag=1928301774\r\n\
    To: <sip:1002@demo.jackfield.example>\r\n\
    Call-ID: a84b4c76e66710b2f1c9d0e7@192.0.2.10\r\n\
    CSeq: 314159 INVITE\r\n\
    Contact: <sip:1001.demo@192.0.2.10:5060;transport=udp>\r\n\
    Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, REFER, NOTIFY\r\n\
    Supported: replaces, timer, path\r\n\
    User-Agent: Softphone/3.18.2 (Linux x86_64)\r\n\
    Accept: application/sdp, application/dtmf-relay\r\n\
    Date: Fri, 20 Nov 2026 18:00:00 GMT\r\n\
    P-Asserted-Identity: <sip:1001@demo.jackfield.example>\r\n\
    Session-Expires: 1800;refresher=uac\r\n\
    Min-SE: 90\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 250\r\n\
    \r\n\
    v=0\r\n\
    o=- 3929384756 3929384756 IN IP4 192.0.2.10\r\n\
    s=Softphone session\r\n\
    c=IN IP4 192.0.2.10\r\n\
    t=0 0\r\n\
    m=audio 40000 RTP/AVP 0 8 101\r\n\
    a=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-16\r\n\
    a=ptime:20\r\n\
    a=sendrecv\r\n";

/// The calling thread's CPU time as a criterion measurement.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime;

impl CpuTime {
    /// The CPU time that the calling thread has used.
    pub fn now() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // Wall time is in nanoseconds too.
        static WALL: WallTime = WallTime;
        WALL.formatter()
    }
}

/// Criterion on CPU time, a few seconds a figure, with the command line applied.
pub fn criterion() -> Criterion<CpuTime> {
    pin(cores()[0]);
    Criterion::default()
        .with_measurement(CpuTime)
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Whether a bench with a `main` of its own is asked for: criterion's filter, by its first word.
pub fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// False when the benches are only tried, as by `cargo test --benches`.
pub fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The cores that the calling thread may run on; a pinned one, and what it starts, has only its
/// own.
pub fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("the kernel knows our cores");
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

/// Keeps the calling thread on `core`.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("an allowed core");
}

/// A layout with `agents` rows and little else.
pub fn layout(agents: u32) -> Layout {
    Layout {
        ccb: CcbId(1),
        workers: 1,
        agents,
        calls_per_worker: 1_024,
        legs_per_worker: 4_096,
        ring_slots: 4_096,
        blob_bytes: 65_536,
        tenants: 16,
        trunks: 4,
        locations: 1,
    }
}

/// A region where the data plane has it, in a folder of /dev/shm that goes away with the first
/// value.
pub fn shared_region(layout: Layout) -> (TempDir, PathBuf, Arc<Region>) {
    let folder = TempDir::with_prefix_in("house-bench-", "/dev/shm").expect("room in /dev/shm");
    let path = folder.path().join("region");
    let (region, _) = Region::open_or_create(&path, layout).expect("a new region");
    (folder, path, region)
}

/// The numbers below `count` in random order, the same at every run.
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut rng = Rng::from_number(7);
    let mut numbers: Vec<u32> = (0..count).collect();
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, rng.below(last as u64 + 1) as usize);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_invite_is_one_kilobyte_and_whole() {
        let (head, body) = INVITE.split_once("\r\n\r\n").expect("a body");
        assert!((1_000..1_200).contains(&INVITE.len()), "{} bytes", INVITE.len());
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }

    #[test]
    fn shuffled_numbers_are_each_there_once() {
        let mut numbers = shuffled(1_000);
        assert_ne!(numbers[..4], [0, 1, 2, 3]);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..1_000));
    }
}
