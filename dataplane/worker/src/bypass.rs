//! Which streams are relayed past the process, and when they come back.
//!
//! ```text
//!           both sources locked, nobody needs the payload        On
//! Process ------------------------------------------> Asked -----------> Bypassed
//!    ^ ^--------------------- Refused(why) --------------'                   |
//!    '---- a prompt, a recording, a mix, new SDP, another SSRC, Off ----------'
//! ```
//!
//! Each direction of a joined pair is a flow of its own; the two come and go together, but one may be
//! refused (no next hop) while the other goes past.

use abi::{Counter, MediaPath, PathReason};
use base::Instant;
use media::{FlowStats, PairId, WhyNot};

use crate::call::{LegRef, Phase};
use crate::worker::Worker;
use crate::{BypassNews, Effect};

/// Reads what a bypassed flow has counted so far. The counts lie in memory that the bypass shares, so
/// that this costs no system call.
pub type CountBypass = Box<dyn Fn(PairId) -> Option<FlowStats>>;

/// DSCP EF, telephony (RFC 4594, 4.1).
const DSCP_MEDIA: u8 = 46;

/// Which way a pair's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Process(WhyNot),
    /// With the start of the source that the flow is of, as in `Bypassed`.
    Asked(u32),
    Bypassed(u32),
}

impl Worker {
    /// Lets the packets that come from a leg go past the process if they may; says why not otherwise.
    pub(crate) fn try_bypass(&mut self, leg: LegRef) {
        let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) else {
            return;
        };
        let Some(Way::Process(_)) = self.ways.get(pair.index()) else {
            return;
        };
        let way = match self.may_bypass(leg, pair) {
            Ok(flow) => {
                self.effects.push(Effect::EnterBypass { pair, flow });
                Way::Asked(self.streams.starts(pair))
            }
            Err(why) => Way::Process(why),
        };
        self.ways[pair.index()] = way;
    }

    fn may_bypass(&self, leg: LegRef, pair: PairId) -> Result<media::FlowSpec, WhyNot> {
        // First what control wants to know of the leg, bypass or not.
        let joined = self.peer_of(leg);
        let is_srtp = joined.is_some_and(|peer| self.is_srtp(peer)).then_some(WhyNot::Srtp);
        let why = self.payload_needed(leg).or(is_srtp).or(self.config.media.no_bypass);
        if let Some(why) = why {
            return Err(why);
        }
        let peer = joined.ok_or(WhyNot::NoPeer)?;
        if let Some(why) = self.payload_needed(peer) {
            return Err(why);
        }
        let stands = |leg| {
            self.calls.leg(leg).filter(|leg| leg.phase == Phase::Established).and_then(|l| l.pair)
        };
        let (Some(_), Some(other)) = (stands(leg), stands(peer)) else {
            return Err(WhyNot::NoPeer);
        };
        let (local, from) = (self.media_address(pair), self.media_address(other));
        // Both or none: who is heard only by the process is also answered by it.
        self.streams.flow(other, from, local)?;
        let flow = self.streams.flow(pair, local, from)?;
        Ok(media::FlowSpec { dscp: DSCP_MEDIA, ..flow })
    }

    /// Brings the packets of both legs of a bridge back to the process, before the next one comes.
    pub(crate) fn leave_bypass(&mut self, leg: LegRef, why: WhyNot) {
        for leg in [Some(leg), self.peer_of(leg)].into_iter().flatten() {
            if let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) {
                self.leave_bypass_of(pair, why);
            }
        }
    }

    fn leave_bypass_of(&mut self, pair: PairId, why: WhyNot) {
        self.absorb_counts(pair);
        let Some(way) = self.ways.get_mut(pair.index()) else {
            return;
        };
        let before = std::mem::replace(way, Way::Process(why));
        if !matches!(before, Way::Process(_)) {
            self.effects.push(Effect::LeaveBypass { pair });
        }
        if matches!(before, Way::Bypassed(_)) {
            self.count(Counter::BypassLeft);
        }
    }

    /// The pair is given back: nothing of it goes past any more.
    pub(crate) fn close_bypass(&mut self, pair: PairId) {
        self.leave_bypass_of(pair, WhyNot::NoPeer);
    }

    /// What the bypass says.
    pub(crate) fn on_bypass(&mut self, now: Instant, pair: PairId, news: BypassNews) {
        let Some(way) = self.ways.get(pair.index()).copied() else {
            return;
        };
        match (news, way) {
            (BypassNews::On, Way::Asked(start)) => {
                self.ways[pair.index()] = Way::Bypassed(start);
                self.streams.bypassed(pair, true);
                self.count(Counter::BypassEntered);
                if let Some(leg) = self.leg_at(pair) {
                    self.note_stream(leg);
                }
            }
            (BypassNews::Refused(why), Way::Asked(_)) => {
                self.ways[pair.index()] = Way::Process(why);
                self.count(Counter::BypassRefused);
            }
            (BypassNews::Off(stats), _) => {
                // The pair may have been closed meanwhile; then this is nobody's.
                self.streams.absorb(pair, stats);
                self.streams.bypassed(pair, false);
                if matches!(way, Way::Bypassed(_)) {
                    // By itself: its interface or its next hop is gone.
                    self.ways[pair.index()] = Way::Process(WhyNot::NextHop);
                    self.count(Counter::BypassLeft);
                }
            }
            (BypassNews::TelephoneEvent(bytes), _) => {
                self.streams.telephone_event(now, pair, &bytes);
                self.tell_digits(now);
            }
            // It was asked to leave before it had entered.
            (BypassNews::On | BypassNews::Refused(_), _) => {}
        }
    }

    /// Takes what a bypassed flow has counted into its stream's counts.
    pub(crate) fn absorb_counts(&mut self, pair: PairId) {
        if !self.is_bypassed(pair) {
            return;
        }
        let Some(stats) = self.counted.as_ref().and_then(|counted| counted(pair)) else {
            return;
        };
        let before = self.streams.stats(pair).packets;
        self.streams.absorb(pair, stats);
        let more = self.streams.stats(pair).packets - before;
        self.region.counters().add(self.config.id, Counter::RtpBypassed, more);
    }

    /// The same for a leg's stream. False when the bypass drops who was signalled: then the stream comes back
    /// for a while, so that the next packet may take the lock.
    pub(crate) fn absorb_leg(&mut self, now: Instant, leg: LegRef) -> bool {
        let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) else {
            return true;
        };
        let before = self.streams.stats(pair).foreign;
        self.absorb_counts(pair);
        if !self.is_bypassed(pair) || self.streams.stats(pair).foreign == before {
            return true;
        }
        let stats = self.counted.as_ref().and_then(|counted| counted(pair));
        let Some(from) = stats.and_then(|stats| stats.foreigner) else { return true };
        if self.streams.dropped_past(now, pair, from) {
            self.leave_bypass(leg, WhyNot::Learning);
            return false;
        }
        true
    }

    /// How the bypass tells its counts; see [`CountBypass`].
    pub fn count_bypass_by(&mut self, counted: CountBypass) {
        self.counted = Some(counted);
    }

    /// A pair's way, as rows tell it.
    pub(crate) fn path(&self, pair: PairId) -> (MediaPath, PathReason) {
        match self.ways.get(pair.index()) {
            Some(Way::Bypassed(_)) => (MediaPath::Xdp, PathReason::None),
            Some(Way::Asked(_)) => (self.config.media.process, PathReason::Installing),
            Some(Way::Process(why)) => (self.config.media.process, reason(*why)),
            None => (MediaPath::None, PathReason::None),
        }
    }

    /// How many streams of calls take the bypass.
    pub(crate) fn bypassed_now(&self) -> u64 {
        self.ways.iter().filter(|way| matches!(way, Way::Bypassed(_))).count() as u64
    }

    /// True while the packets of a pair go past the process.
    pub(crate) fn is_bypassed(&self, pair: PairId) -> bool {
        matches!(self.ways.get(pair.index()), Some(Way::Bypassed(_)))
    }

    /// A packet of a bypassed stream came to the process and was accepted: the bypass did not know it. If
    /// its source began anew, so must the flow.
    pub(crate) fn look_at_stray(&mut self, leg: LegRef, pair: PairId) {
        let start = self.streams.starts(pair);
        if matches!(self.ways[pair.index()], Way::Bypassed(of_flow) if of_flow != start) {
            self.leave_bypass(leg, WhyNot::Learning);
        }
    }

    /// Our RTP address of a pair.
    pub(crate) fn media_address(&self, pair: PairId) -> std::net::SocketAddr {
        let location = usize::from(self.ports.location(pair).0);
        let ip = self.config.locations[location].ip;
        std::net::SocketAddr::new(ip, self.ports.port(pair))
    }
}

fn reason(why: WhyNot) -> PathReason {
    match why {
        WhyNot::NotWanted => PathReason::NotWanted,
        WhyNot::Unavailable => PathReason::Unavailable,
        WhyNot::Learning => PathReason::Learning,
        WhyNot::NoPeer => PathReason::NoPeer,
        WhyNot::Prompt => PathReason::Prompt,
        WhyNot::Recording => PathReason::Recording,
        WhyNot::Mix => PathReason::Mix,
        WhyNot::Interface => PathReason::Interface,
        WhyNot::NextHop => PathReason::NextHop,
        WhyNot::TableFull => PathReason::TableFull,
        WhyNot::Installing => PathReason::Installing,
        WhyNot::Srtp => PathReason::Srtp,
    }
}
