//! One worker's share of the bypass: which of its pairs' packets are relayed past the process, and what the
//! worker is told of them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use base::Instant;
use media::{FlowSpec, FlowStats, PairId, WhyNot};
use worker::BypassNews;

use crate::xdp::{Bypass, BypassConfig, Listener, News};
use crate::{Config, DriverError, MediaChoice, clock};

/// How often a part of the counts is told, in milliseconds.
const COUNT_MS: u64 = 20;
/// In how many parts: each count is told twice a second.
const COUNT_PARTS: usize = 25;
/// How long rows that a killed process left go on without a worker that wants them.
const CLAIM_MS: u64 = 2_000;

/// A worker's share of the bypass.
pub struct Detour {
    shared: Result<Share, WhyNot>,
    news: VecDeque<(PairId, BypassNews)>,
    /// Packets that passed by since they were last counted.
    passed: u64,
}

struct Share {
    bypass: Arc<Bypass>,
    listener: Listener,
    /// The row of pair 0; the others follow.
    first: u32,
    pairs: Vec<Pair>,
    installed: usize,
    part: usize,
    due: Instant,
    claim_until: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Pair {
    state: State,
    /// Packets that were counted.
    packets: u64,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Out,
    In,
    /// An earlier process left it.
    Left(Box<FlowSpec>),
}

impl Detour {
    /// None, and why.
    pub fn none(why: WhyNot) -> Detour {
        Detour { shared: Err(why), news: VecDeque::new(), passed: 0 }
    }

    fn new(bypass: &Arc<Bypass>, first: u32, pairs: u32) -> std::io::Result<Detour> {
        let rows = first..first + pairs;
        let now = clock::now();
        let mut share = Share {
            listener: bypass.listen(rows.clone())?,
            bypass: Arc::clone(bypass),
            first,
            pairs: vec![Pair::default(); pairs as usize],
            installed: 0,
            part: 0,
            due: now,
            claim_until: None,
        };
        for (row, flow) in bypass.adopt().into_iter().filter(|(row, _)| rows.contains(row)) {
            share.pairs[(row - first) as usize] =
                Pair { state: State::Left(Box::new(flow)), packets: bypass.counted(row).packets };
            share.claim_until = Some(now + Duration::from_millis(CLAIM_MS));
        }
        Ok(Detour { shared: Ok(share), ..Detour::none(WhyNot::NotWanted) })
    }

    /// What becomes readable when there is news.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.shared.as_ref().ok().map(|share| share.listener.as_fd())
    }

    /// Relays the packets of `pair` past the process, if it can be. A row that an earlier process left for
    /// the same flow goes on as it is.
    pub fn enter(&mut self, pair: PairId, flow: &FlowSpec) -> BypassNews {
        let goes_on = match &self.shared {
            Err(why) => return BypassNews::Refused(*why),
            Ok(share) => match share.pairs.get(pair.index()).map(|entry| &entry.state) {
                Some(State::Left(left)) => is_same(left, flow),
                Some(_) => false,
                None => return BypassNews::Refused(WhyNot::TableFull),
            },
        };
        if !goes_on {
            self.leave(pair);
        }
        let Ok(share) = &mut self.shared else { return BypassNews::Refused(WhyNot::NotWanted) };
        if !goes_on && let Err(why) = share.bypass.install(share.first + pair.0, flow) {
            return BypassNews::Refused(why);
        }
        share.pairs[pair.index()].state = State::In;
        share.installed += 1;
        BypassNews::On
    }

    /// Lets the packets of `pair` come to the process again; says what was counted.
    pub fn leave(&mut self, pair: PairId) -> FlowStats {
        let Ok(share) = &mut self.shared else { return FlowStats::default() };
        let Some(entry) = share.pairs.get_mut(pair.index()) else { return FlowStats::default() };
        if matches!(entry.state, State::Out) {
            return FlowStats::default();
        }
        let stats = share.bypass.remove(share.first + pair.0);
        share.installed -= usize::from(matches!(entry.state, State::In));
        self.passed += stats.packets.saturating_sub(entry.packets);
        *entry = Pair::default();
        stats
    }

    /// What the worker is to be told next.
    pub fn next(&mut self, now: Instant) -> Option<(PairId, BypassNews)> {
        if self.news.is_empty() {
            self.look(now);
        }
        self.news.pop_front()
    }

    /// Packets that passed by since this was last asked.
    pub fn take_passed(&mut self) -> u64 {
        std::mem::take(&mut self.passed)
    }

    /// When [`Detour::next`] has something without being told.
    pub fn deadline(&self) -> Option<Instant> {
        let share = self.shared.as_ref().ok()?;
        let counts = (share.installed > 0).then_some(share.due);
        counts.into_iter().chain(share.claim_until).min()
    }

    fn look(&mut self, now: Instant) {
        let Ok(share) = &mut self.shared else { return };
        let first = share.first;
        let (news, mut gone) = (&mut self.news, Vec::new());
        share.listener.take(|told| match told {
            News::TelephoneEvent(row, rtp) => {
                news.push_back((PairId(row - first), BypassNews::TelephoneEvent(rtp)));
            }
            News::Gone(row) => gone.push(PairId(row - first)),
        });
        if share.installed > 0 && share.due <= now {
            share.due = now + Duration::from_millis(COUNT_MS);
            self.passed += share.count(&mut self.news);
        }
        if share.claim_until.is_some_and(|until| until <= now) {
            share.claim_until = None;
            let left = |entry: &Pair| matches!(entry.state, State::Left(_));
            let left = (0..share.pairs.len()).filter(|number| left(&share.pairs[*number]));
            for pair in left.map(|number| PairId(number as u32)).collect::<Vec<_>>() {
                self.leave(pair);
            }
        }
        for pair in gone {
            if self.is_in(pair) {
                let stats = self.leave(pair);
                self.news.push_back((pair, BypassNews::Off(stats)));
            } else {
                self.leave(pair);
            }
        }
    }

    fn is_in(&self, pair: PairId) -> bool {
        let share = self.shared.as_ref().ok();
        let entry = share.and_then(|share| share.pairs.get(pair.index()));
        entry.is_some_and(|entry| matches!(entry.state, State::In))
    }
}

impl Share {
    /// Tells the counts of one part of the pairs; returns how many packets are new.
    fn count(&mut self, news: &mut VecDeque<(PairId, BypassNews)>) -> u64 {
        let size = self.pairs.len().div_ceil(COUNT_PARTS);
        let mut passed = 0;
        let from = self.part * size;
        self.part = (self.part + 1) % COUNT_PARTS;
        for (number, entry) in self.pairs.iter_mut().enumerate().skip(from).take(size) {
            if matches!(entry.state, State::In) {
                let pair = PairId(number as u32);
                let stats = self.bypass.counted(self.first + pair.0);
                passed += stats.packets.saturating_sub(entry.packets);
                entry.packets = stats.packets;
                news.push_back((pair, BypassNews::Counted(stats)));
            }
        }
        passed
    }
}

/// True when a row is what is wanted, whatever it has counted.
fn is_same(left: &FlowSpec, wanted: &FlowSpec) -> bool {
    let FlowSpec { newest, transit, jitter, .. } = *wanted;
    FlowSpec { newest, transit, jitter, ..*left } == *wanted
}

/// Opens the bypass as the configuration says, and says in a line for each interface what is used and why.
/// One for each worker.
pub fn open_detours(config: &Config) -> Result<Vec<Detour>, DriverError> {
    let workers = config.cores.len();
    let none = |why| Ok((0..workers).map(|_| Detour::none(why)).collect());
    if matches!(config.media, MediaChoice::IoUring | MediaChoice::Recvmmsg) {
        return none(WhyNot::NotWanted);
    }
    let pairs = pairs_per_worker(config);
    let opened = Bypass::open(&BypassConfig {
        mode: config.xdp.mode,
        modes: config.xdp.modes.clone(),
        addresses: addresses(config),
        bpffs: config.xdp.bpffs.clone(),
        rows: pairs * workers as u32,
    });
    let bypass = match opened {
        Ok(bypass) => Arc::new(bypass),
        Err(refused) if config.media == MediaChoice::Xdp => {
            return Err(DriverError::Bypass(refused));
        }
        Err(refused) => {
            tracing::info!("{refused}");
            return none(WhyNot::Unavailable);
        }
    };
    bypass.uses().iter().for_each(|used| tracing::info!("{}", used.line));
    tracing::info!("{}", bypass.pinning());
    let detour = |worker: u32| Detour::new(&bypass, worker * pairs, pairs);
    let detours: std::io::Result<Vec<_>> = (0..workers as u32).map(detour).collect();
    detours.map_err(|source| DriverError::Io { what: "an ear for the bypass".to_owned(), source })
}

fn addresses(config: &Config) -> Vec<IpAddr> {
    config.locations.iter().map(|location| location.ip).collect()
}

/// More than any worker has, and the same after a restart.
fn pairs_per_worker(config: &Config) -> u32 {
    let (low, high) = config.rtp_ports;
    let a_location = u32::from(high - low) / 2 / config.cores.len() as u32 + 2;
    a_location * config.locations.len() as u32
}
