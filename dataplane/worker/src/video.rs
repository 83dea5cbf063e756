//! Video beside a call's audio: a pair of ports more for each leg, relayed as audio is. It comes and goes
//! with the descriptions; a leg that is answered here has none.

use abi::Counter;
use base::Instant;
use media::{PairId, WhyNot};
use sip::sdp::{self, Sdp};

use crate::Effect;
use crate::bypass::Way;
use crate::call::LegRef;
use crate::worker::Worker;

impl Worker {
    /// A leg's peer says where its video goes, or that there is none (any more).
    pub(crate) fn learn_video(&mut self, now: Instant, leg: LegRef, sdp: &Sdp<'_>) {
        let Some(peer) = self.peer_of(leg) else { return };
        match sdp::video(sdp).filter(|video| !self.ports.is_own(video.address)) {
            Some(video) => {
                let Some(pair) = self.video_pair(leg) else { return };
                self.streams.set_remote(now, pair, video.address);
                self.streams.set_rtcp(pair, video.rtcp);
                self.join_video(leg, peer);
            }
            None => {
                self.close_video(now, leg);
                self.close_video(now, peer);
            }
        }
    }

    /// Our port for the video that a description of the other leg has; none refuses it.
    pub(crate) fn video_port(&mut self, leg: LegRef, sdp: &Sdp<'_>) -> Option<u16> {
        sdp::video(sdp)?;
        let pair = self.video_pair(leg)?;
        if let Some(peer) = self.peer_of(leg) {
            self.join_video(leg, peer);
        }
        Some(self.ports.port(pair))
    }

    /// The leg's pair for video, taken if it has none yet.
    fn video_pair(&mut self, leg: LegRef) -> Option<PairId> {
        let entry = self.calls.leg(leg)?;
        if entry.video.is_some() {
            return entry.video;
        }
        let (location, host) = (entry.flow.location, entry.flow.peer.ip());
        let Some(pair) = self.ports.take(location) else {
            self.count(Counter::PortsExhausted);
            return None;
        };
        self.calls.leg_mut(leg)?.video = Some(pair);
        self.legs_at[pair.index()] = Some(leg);
        self.ways[pair.index()] = Way::Process(WhyNot::NotWanted);
        self.streams.open(pair, None);
        self.streams.expect_host(pair, host);
        Some(pair)
    }

    fn join_video(&mut self, a: LegRef, b: LegRef) {
        let pair = |leg| self.calls.leg(leg).and_then(|leg| leg.video);
        if let (Some(a), Some(b)) = (pair(a), pair(b)) {
            self.streams.bridge(a, b);
        }
    }

    /// Gives the leg's ports for video back.
    pub(crate) fn close_video(&mut self, now: Instant, leg: LegRef) {
        if self.calls.leg(leg).is_none_or(|leg| leg.video.is_none()) {
            return;
        }
        let Some(pair) = self.calls.leg_mut(leg).and_then(|leg| leg.video.take()) else {
            return;
        };
        self.legs_at[pair.index()] = None;
        self.streams.close(pair);
        if self.ports.release(pair, now) {
            self.effects.push(Effect::Close { pair });
        }
    }
}
