//! One worker's share of the bypass: which of its pairs' packets are relayed past the process, and what the
//! worker is told of them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use media::{FlowSpec, FlowStats, PairId, WhyNot};
use worker::{BypassNews, CountBypass};

use crate::xdp::{Bypass, BypassConfig, Listener, News, unpin};
use crate::{Config, DriverError, MediaChoice};

/// A worker's share of the bypass.
pub struct Detour {
    share: Result<Share, WhyNot>,
    news: VecDeque<(PairId, BypassNews)>,
}

struct Share {
    bypass: Arc<Bypass>,
    listener: Listener,
    /// The row of pair 0; the others follow.
    first: u32,
    pairs: Vec<State>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Out,
    In,
    /// An earlier process left it, and its packets are relayed.
    Left,
}

impl Detour {
    /// None, and why.
    pub fn none(why: WhyNot) -> Detour {
        Detour { share: Err(why), news: VecDeque::new() }
    }

    fn new(bypass: &Arc<Bypass>, first: u32, pairs: u32) -> std::io::Result<Detour> {
        let rows = first..first + pairs;
        let mut share = Share {
            listener: bypass.listen(rows.clone())?,
            bypass: Arc::clone(bypass),
            first,
            pairs: vec![State::Out; pairs as usize],
        };
        for (row, _) in bypass.adopt().into_iter().filter(|(row, _)| rows.contains(row)) {
            share.pairs[(row - first) as usize] = State::Left;
        }
        Ok(Detour { share: Ok(share), news: VecDeque::new() })
    }

    /// Why there is none; nothing where there is one.
    pub fn why_not(&self) -> Option<WhyNot> {
        self.share.as_ref().err().copied()
    }

    /// What becomes readable when there is news.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.share.as_ref().ok().map(|share| share.listener.as_fd())
    }

    /// What reads the counts of a pair.
    pub fn counts(&self) -> Option<CountBypass> {
        let share = self.share.as_ref().ok()?;
        let (bypass, first, pairs) = (Arc::clone(&share.bypass), share.first, share.pairs.len());
        Some(Box::new(move |pair| (pair.index() < pairs).then(|| bypass.counted(first + pair.0))))
    }

    /// Goes on with the rows that an earlier process left for calls that are taken over, counts and all, and
    /// removes those of others.
    pub fn resume(&mut self, is_wanted: impl FnMut(PairId) -> bool) {
        if let Ok(share) = &mut self.share {
            share.resume(is_wanted);
        }
    }

    /// Relays the packets of `pair` past the process, if it can be.
    pub fn enter(&mut self, pair: PairId, flow: &FlowSpec) -> BypassNews {
        match self.share.as_mut().map(|share| share.enter(pair, flow)) {
            Ok(Ok(())) => BypassNews::On,
            Ok(Err(why)) => BypassNews::Refused(why),
            Err(why) => BypassNews::Refused(*why),
        }
    }

    /// Lets the packets of `pair` come to the process again; says what was counted.
    pub fn leave(&mut self, pair: PairId) -> FlowStats {
        self.share.as_mut().map_or_else(|_| FlowStats::default(), |share| share.leave(pair))
    }

    /// What the worker is to be told next.
    pub fn next(&mut self) -> Option<(PairId, BypassNews)> {
        if self.news.is_empty()
            && let Ok(share) = &mut self.share
        {
            share.look(&mut self.news);
        }
        self.news.pop_front()
    }

    /// True when there is news that was not told yet.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }
}

impl Share {
    fn enter(&mut self, pair: PairId, flow: &FlowSpec) -> Result<(), WhyNot> {
        let entry = self.pairs.get_mut(pair.index()).ok_or(WhyNot::TableFull)?;
        *entry = State::Out;
        self.bypass.install(self.first + pair.0, flow)?;
        *entry = State::In;
        Ok(())
    }

    fn leave(&mut self, pair: PairId) -> FlowStats {
        match self.pairs.get_mut(pair.index()) {
            None | Some(State::Out) => FlowStats::default(),
            Some(entry) => {
                *entry = State::Out;
                self.bypass.remove(self.first + pair.0)
            }
        }
    }

    fn look(&mut self, news: &mut VecDeque<(PairId, BypassNews)>) {
        let (first, mut gone) = (self.first, Vec::new());
        self.listener.take(|told| match told {
            News::TelephoneEvent(row, rtp) => {
                news.push_back((PairId(row - first), BypassNews::TelephoneEvent(rtp)));
            }
            News::Gone(row) => gone.push(PairId(row - first)),
        });
        for pair in gone {
            let was_in = matches!(self.pairs.get(pair.index()), Some(State::In));
            let stats = self.leave(pair);
            if was_in {
                news.push_back((pair, BypassNews::Off(stats)));
            }
        }
    }

    fn resume(&mut self, mut is_wanted: impl FnMut(PairId) -> bool) {
        for (index, entry) in self.pairs.iter_mut().enumerate() {
            if matches!(entry, State::Left) {
                let pair = PairId(index as u32);
                *entry = if is_wanted(pair) { State::In } else { State::Out };
                if matches!(entry, State::Out) {
                    self.bypass.remove(self.first + pair.0);
                }
            }
        }
    }
}

/// Opens the bypass as the configuration says, and says in a line for each interface what is used and why.
/// One for each worker.
pub fn open_detours(config: &Config) -> Result<Vec<Detour>, DriverError> {
    let workers = config.cores.len();
    let none = |why| Ok((0..workers).map(|_| Detour::none(why)).collect());
    if matches!(config.media, MediaChoice::IoUring | MediaChoice::Recvmmsg) {
        if let Some(bpffs) = &config.xdp.bpffs {
            unpin(bpffs);
        }
        return none(WhyNot::NotWanted);
    }
    let pairs = pairs_per_worker(config);
    let opened = Bypass::open(&BypassConfig {
        mode: config.xdp.mode,
        modes: config.xdp.modes.clone(),
        addresses: config.locations.iter().map(|location| location.ip).collect(),
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
    (0..workers as u32)
        .map(detour)
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|source| DriverError::Io { what: "an ear for the bypass".to_owned(), source })
}

/// At least as many as any worker has, and the same after a restart.
fn pairs_per_worker(config: &Config) -> u32 {
    let (low, high) = config.rtp_ports;
    let a_location = u32::from(high - low) / 2 / config.cores.len() as u32 + 2;
    a_location * config.locations.len() as u32
}
