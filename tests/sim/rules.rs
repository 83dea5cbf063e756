//! What must hold at every moment of a run, and over the death of a data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use abi::{CallState, DialogPhase, LegRow, LegState, Party, Region, StreamRow};
use base::{CallRef, Instant};
use sip::wire::{Header, Method, lex};

use crate::ccb::{Ccb, Out};

/// Watches what the data planes say, and remembers which calls stood when one died.
#[derive(Default)]
pub struct Watch {
    /// Call-ID, both tags and CSeq number: the Via of the request that had them.
    requests: BTreeMap<([Vec<u8>; 3], u32), Vec<u8>>,
    /// The calls that must go on, for each CCB.
    standing: BTreeMap<usize, Vec<(CallRef, u64)>>,
    /// Serial numbers of all calls that went on over a death.
    pub kept: BTreeSet<u64>,
    /// How often media was found to pass in such a call, in one direction.
    pub heard: u64,
    /// The first rule that was broken.
    pub broken: Option<String>,
}

impl Watch {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// A data plane sends a datagram. No request within a dialog has the CSeq number of another (RFC 3261,
    /// 12.2.1.1); the same request again has the same Via.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Ok(message) = lex(bytes) else { return };
        let method = message.method();
        if matches!(method, None | Some(Method::Ack | Method::Cancel)) {
            return;
        }
        let (Ok(call_id), Ok(from), Ok(to), Ok(cseq)) =
            (message.call_id(), message.from(), message.to(), message.cseq())
        else {
            return;
        };
        let tags = [from.tag(), to.tag()].map(|tag| tag.unwrap_or_default().to_vec());
        let [ours, theirs] = tags;
        let key = ([call_id.to_vec(), ours, theirs], cseq.number);
        let via = message.header(Header::Via).unwrap_or_default();
        let first = self.requests.entry(key).or_insert_with(|| via.to_vec());
        let is_same = *first == via;
        self.expect(is_same, || {
            let call_id = String::from_utf8_lossy(call_id);
            format!("CSeq {} of {call_id} is used twice, by {method:?}", cseq.number)
        });
    }

    /// A data plane has died.
    pub fn died(&mut self, ccb: usize, region: &Region) {
        let mut standing = Vec::new();
        for (slot, row) in region.calls().iter() {
            let call = CallRef { slot, generation: row.generation };
            let mut legs = 0;
            let stands = legs_of(region, call).all(|(place, _)| {
                legs += 1;
                let dialog = region.dialogs().read(place).filter(|dialog| dialog.call() == call);
                dialog.is_some_and(|dialog| dialog.phase() == DialogPhase::Standing)
            });
            let is_one = is_joined(&legs_of(region, call).collect::<Vec<_>>());
            if row.state() == CallState::Answered && stands && legs == 2 && is_one {
                standing.push((call, row.serial));
            }
        }
        self.standing.insert(ccb, standing);
    }

    /// The next incarnation has begun: what stood still does, under the same name.
    pub fn born(&mut self, ccb: usize, region: &Region) {
        for (call, serial) in self.standing.get(&ccb).cloned().unwrap_or_default() {
            let row = region.calls().find(call);
            let stands = row.is_some_and(|row| {
                (row.state(), row.serial) == (CallState::Answered, serial)
                    && row.incarnation == region.header().data_plane().incarnation
            });
            self.expect(stands, || format!("answered call {call:?} is {row:?} after a death"));
            self.kept.insert(serial);
        }
    }

    /// After its ports had time to be bound again: what one phone of a call that stands sends, the other
    /// gets.
    pub fn listen(&mut self, now: Instant, number: usize, ccb: &mut Ccb) {
        for (call, serial) in self.standing.get(&number).cloned().unwrap_or_default() {
            let region = ccb.region.clone();
            if region.calls().find(call).is_none_or(|row| row.state() != CallState::Answered) {
                continue;
            }
            let legs: Vec<_> = legs_of(&region, call).collect();
            // One of them may have been given to somebody else meanwhile.
            if !is_joined(&legs) {
                continue;
            }
            // What the phone behind another CCB sends, that one must pass on.
            if legs.iter().any(|(_, leg)| matches!(leg.party(), Some(Party::Peer(_)))) {
                continue;
            }
            let streams: Vec<StreamRow> =
                legs.iter().filter_map(|(place, _)| region.streams().read(*place)).collect();
            // Who holds the other may say that nothing flows either way.
            if streams.iter().any(|row| row.flags & StreamRow::HELD != 0) {
                continue;
            }
            for (from, to) in [(0, 1), (1, 0)] {
                if streams[to].flags & StreamRow::MUTED != 0 {
                    continue;
                }
                let passes = passes(now, ccb, &legs[from].1, &streams[from], &streams[to]);
                self.expect(passes, || {
                    format!("call {call:?} ({serial}), leg {from}: no media after a death")
                });
                self.heard += 1;
            }
        }
    }
}

/// The legs that stand, for people.
pub fn standing_legs(region: &Region) -> String {
    let stands = |leg: &LegRow| !matches!(leg.state(), LegState::Free | LegState::Ended);
    let mut text = String::new();
    for (_, leg) in region.legs().iter().filter(|(_, leg)| stands(leg)) {
        let call = region.calls().find(leg.call()).map(|call| call.state());
        let (party, state) = (leg.party(), leg.state());
        let (number, bridge) = (leg.number(), leg.bridge as i32);
        text += &format!(
            "{:?} leg {} {party:?} {number:?} {state:?} bridge {bridge} of {call:?}; ",
            leg.call(),
            leg.leg
        );
    }
    text
}

/// Two legs that talk to each other.
fn is_joined(legs: &[(u32, LegRow)]) -> bool {
    matches!(legs, [(_, a), (_, b)] if a.bridge == b.bridge && a.bridge != u32::MAX)
}

fn legs_of(region: &Region, call: CallRef) -> impl Iterator<Item = (u32, LegRow)> {
    let is_of = move |leg: &LegRow| {
        leg.call() == call && !matches!(leg.state(), LegState::Free | LegState::Ended)
    };
    let mut legs: Vec<_> = region.legs().iter().filter(|(_, leg)| is_of(leg)).collect();
    legs.sort_by_key(|(_, leg)| leg.leg);
    legs.into_iter()
}

/// Whether the next packet of a stream's peer goes to the peer of the other stream.
fn passes(
    now: Instant,
    ccb: &mut Ccb,
    leg: &LegRow,
    stream: &StreamRow,
    other: &StreamRow,
) -> bool {
    let Some(location) = leg.location() else { return false };
    let ours = SocketAddr::new(ccb.locations[usize::from(location.0)].ip, stream.port as u16);
    let source = if stream.locked.port != 0 { stream.locked } else { stream.signalled };
    let mut goes_to: Option<IpAddr> = None;
    for step in 1..=2 {
        let mut packet = vec![0x80, 0];
        packet.extend((stream.newest as u16).wrapping_add(step).to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(stream.ssrc.to_be_bytes());
        packet.extend([0xff; 160]);
        let mut out = Vec::new();
        ccb.receive(now, source.get(), ours, &packet, &mut out);
        for out in out {
            if let Out::Send { to, .. } = out {
                goes_to = Some(to.ip());
            }
        }
    }
    goes_to == Some(other.signalled.get().ip())
}
