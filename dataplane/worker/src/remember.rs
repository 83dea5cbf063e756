//! What a next incarnation would need of a leg, as rows: written when the turn that changed it is over
//! and before its messages go out, so that no peer ever heard of what is not written.

use std::net::SocketAddr;

use abi::{Address, DialogPhase, DialogRow, DialogText, Share, StreamRow};
use base::Instant;
use media::{Splice, StreamImage};
use sip::dialog::{Dialog, Parts, State};
use sip::session_timer::Terms;
use sip::wire::{self, Header, Message};

use crate::call::{Lease, Leg, LegRef, Phase};
use crate::extension::Extensions;
use crate::worker::Worker;

impl Worker {
    /// Writes the dialogs and streams of the calls that were touched since the last time.
    pub(crate) fn note_touched(&mut self, now: Instant) {
        let mut touched = self.calls.take_touched();
        for call in &touched {
            match self.calls.find(*call).map(|call| call.legs.len()) {
                Some(legs) => {
                    self.learn_call(now, *call);
                    for leg in (0..legs).map(|leg| LegRef { call: *call, leg: leg as u8 }) {
                        self.note_dialog(leg);
                        self.note_stream(leg);
                    }
                }
                None => self.leg_rows.forget(&self.region, *call),
            }
        }
        touched.clear();
        self.calls.give_back_touched(touched);
    }

    fn note_dialog(&mut self, leg: LegRef) {
        let Some(place) = self.leg_rows.row(leg) else { return };
        let Some(entry) = self.calls.leg(leg) else { return };
        let ours = self.address_of(entry.flow);
        let old = self.region.dialogs().read(place).unwrap_or_default();
        let invite = entry.inviting.as_ref().and_then(|it| self.transactions.request_of(it.key));
        let known = (old.call() == leg.call && old.leg == u32::from(leg.leg)).then_some(&old);
        let row = dialog_row(leg, entry, ours, known, invite);
        if row != old {
            self.region.dialogs().write(place, &row);
        }
    }

    /// Writes what the leg's stream has come to.
    pub(crate) fn note_stream(&mut self, leg: LegRef) {
        let Some(place) = self.leg_rows.row(leg) else { return };
        let Some(entry) = self.calls.leg(leg) else { return };
        let row = match entry.pair {
            Some(pair) => {
                let image = self.streams.image(pair);
                self.note_keys(place, leg, &image);
                let mut row = stream_row(leg, self.ports.port(pair), &image);
                if let Some(codec) = entry.takes {
                    row.flags |= StreamRow::TAKES;
                    row.takes = u32::from(codec.payload_type());
                }
                if entry.held {
                    row.flags |= StreamRow::HELD;
                }
                row
            }
            None => {
                self.note_keys(place, leg, &StreamImage::default());
                StreamRow::default()
            }
        };
        self.region.streams().write(place, &row);
    }
}

fn dialog_row(
    of: LegRef,
    leg: &Leg,
    ours: SocketAddr,
    old: Option<&DialogRow>,
    invite: Option<&[u8]>,
) -> DialogRow {
    let before = old.map_or(DialogPhase::None, DialogRow::phase);
    let phase = match leg.phase {
        Phase::Incoming => DialogPhase::Incoming,
        Phase::Outgoing => DialogPhase::Outgoing,
        Phase::Established if leg.unacknowledged.is_some() && before != DialogPhase::Standing => {
            DialogPhase::Accepted
        }
        Phase::Established => DialogPhase::Standing,
        Phase::Leaving => DialogPhase::Leaving,
        Phase::Gone => return DialogRow::default(),
    };
    let mut row = DialogRow {
        phase: phase.into(),
        leg: u32::from(of.leg),
        location: u16::from(leg.flow.location.0),
        transport: leg.flow.channel.transport as u16,
        ours: Address::new(ours),
        peer: Address::new(leg.flow.peer),
        sdp_version: leg.sdp_version,
        ..DialogRow::default()
    };
    row.set_call(of.call);
    extensions(&mut row, &leg.ext);
    if let Some(lease) = leg.lease {
        row.flags |= DialogRow::HAS_LEASE;
        (row.lease_agent, row.lease_counter) = (lease.agent.0, lease.counter);
        row.lease_holder = u32::from(lease.holder.0);
        if lease.kind == Share::Own {
            row.flags |= DialogRow::OWN;
        }
    }
    if let Some(joined) = leg.joined {
        row.flags |= DialogRow::JOINED;
        (row.joined_slot, row.joined_generation) = (joined.call.slot, joined.call.generation);
        row.joined_leg = u32::from(joined.leg);
    }
    let invited = leg.invited.as_ref();
    if let Some(invited) = invited {
        row.source = Address::new(invited.from);
    } else if let Some(old) = old {
        row.source = old.source;
    }
    let invited = invited.and_then(|invited| wire::lex(&invited.bytes).ok());
    row.invited_cseq = match &invited {
        Some(message) => message.cseq().map_or(0, |cseq| cseq.number),
        None => old.map_or(0, |old| old.invited_cseq),
    };
    // The caller's INVITE is forgotten here with our 2xx, and may still want a refusal until its ACK.
    let waits = leg.unacknowledged.is_some() && phase != DialogPhase::Standing;
    let vias = match &invited {
        Some(message) => vias_of(message),
        None if waits => old.map_or(Vec::new(), |old| old.text(DialogText::Vias).to_vec()),
        None => Vec::new(),
    };
    match (&leg.dialog, invite.and_then(|bytes| wire::lex(bytes).ok())) {
        (Some(dialog), _) => dialog_texts(&mut row, dialog, &vias),
        (None, Some(message)) => invite_texts(&mut row, &message),
        // Nothing could be said to such a peer any more.
        (None, None) => row.flags |= DialogRow::TOO_LONG,
    }
    row
}

/// What was agreed on beyond RFC 3261.
fn extensions(row: &mut DialogRow, ext: &Extensions) {
    let flag = |holds: bool, flag: u32| if holds { flag } else { 0 };
    row.flags |= flag(ext.takes_update, DialogRow::TAKES_UPDATE)
        | flag(ext.answered_here, DialogRow::ANSWERED_HERE)
        | flag(ext.takes_info, DialogRow::TAKES_INFO);
    if let Some(terms) = ext.session.terms {
        row.session_s = terms.interval_s;
        row.flags |= flag(terms.we_refresh, DialogRow::REFRESHING)
            | flag(terms.is_mutual, DialogRow::MUTUAL);
    }
}

/// What a row remembers of that.
pub(crate) fn extensions_of(row: &DialogRow) -> Extensions {
    let mut ext = Extensions {
        takes_update: row.has(DialogRow::TAKES_UPDATE),
        takes_info: row.has(DialogRow::TAKES_INFO),
        answered_here: row.has(DialogRow::ANSWERED_HERE),
        ..Extensions::default()
    };
    ext.session.terms = (row.session_s != 0).then(|| Terms {
        interval_s: row.session_s,
        we_refresh: row.has(DialogRow::REFRESHING),
        is_mutual: row.has(DialogRow::MUTUAL),
    });
    ext
}

fn dialog_texts(row: &mut DialogRow, dialog: &Dialog, vias: &[u8]) {
    let parts = dialog.parts();
    if let Some(cseq) = parts.local_cseq {
        row.flags |= DialogRow::HAS_LOCAL_CSEQ;
        row.local_cseq = cseq;
    }
    if let Some(cseq) = parts.remote_cseq {
        row.flags |= DialogRow::HAS_REMOTE_CSEQ;
        row.remote_cseq = cseq;
    }
    if parts.state == State::Confirmed {
        row.flags |= DialogRow::CONFIRMED;
    }
    let routes = list(parts.routes.iter().copied());
    let texts = |vias| {
        [
            parts.call_id,
            parts.local_tag,
            parts.remote_tag,
            parts.local_uri,
            parts.remote_uri,
            parts.remote_target,
            &*routes,
            vias,
        ]
    };
    row.set_texts(texts(vias));
    if row.has(DialogRow::TOO_LONG) && row.phase() != DialogPhase::Incoming {
        // The peer's INVITE would not be refused, but its call goes on.
        row.set_texts(texts(&[]));
    }
}

/// What it takes to send an INVITE of ours again, and so to cancel it.
fn invite_texts(row: &mut DialogRow, invite: &Message<'_>) {
    let (Ok(call_id), Ok(from), Ok(to), Ok(cseq), Some(uri)) =
        (invite.call_id(), invite.from(), invite.to(), invite.cseq(), invite.request_uri())
    else {
        row.flags |= DialogRow::TOO_LONG;
        return;
    };
    row.flags |= DialogRow::HAS_LOCAL_CSEQ | DialogRow::INVITING;
    row.local_cseq = cseq.number;
    let tag = from.tag().unwrap_or_default();
    row.set_texts([call_id, tag, &[], from.uri, to.uri, uri, &[], &vias_of(invite)]);
}

fn vias_of(message: &Message<'_>) -> Vec<u8> {
    list(message.headers(Header::Via))
}

/// Values, each behind its length.
fn list<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        // A longer one fits no row in any case.
        bytes.extend((value.len().min(usize::from(u16::MAX)) as u16).to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// The values of such a list; what is cut short is left out.
pub(crate) fn values(mut list: &[u8]) -> Vec<&[u8]> {
    let mut values = Vec::new();
    while let Some((length, rest)) = list.split_first_chunk() {
        let Some((value, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        else {
            break;
        };
        values.push(value);
        list = rest;
    }
    values
}

/// The dialog that a row remembers.
pub(crate) fn dialog_of(row: &DialogRow) -> Option<Dialog> {
    let number = |flag, number| row.has(flag).then_some(number);
    let parts = Parts {
        call_id: row.text(DialogText::CallId),
        local_tag: row.text(DialogText::LocalTag),
        remote_tag: row.text(DialogText::RemoteTag),
        local_uri: row.text(DialogText::LocalUri),
        remote_uri: row.text(DialogText::RemoteUri),
        remote_target: row.text(DialogText::RemoteTarget),
        local_cseq: number(DialogRow::HAS_LOCAL_CSEQ, row.local_cseq),
        remote_cseq: number(DialogRow::HAS_REMOTE_CSEQ, row.remote_cseq),
        routes: values(row.text(DialogText::Routes)),
        state: if row.has(DialogRow::CONFIRMED) { State::Confirmed } else { State::Early },
    };
    let is_one = !row.has(DialogRow::TOO_LONG) && !row.has(DialogRow::INVITING);
    is_one.then(|| Dialog::restore(&parts).ok()).flatten()
}

/// The leg of another call that a row says its leg is joined to.
pub(crate) fn joined_of(row: &DialogRow) -> Option<LegRef> {
    let (call, leg) = row.joined()?;
    Some(LegRef { call, leg: u8::try_from(leg).ok()? })
}

/// The lease that a row says its leg holds.
pub(crate) fn lease_of(row: &DialogRow) -> Option<Lease> {
    let kind = row.share();
    row.lease().map(|(agent, counter, holder)| Lease { agent, counter, holder, kind })
}

fn stream_row(of: LegRef, port: u16, image: &StreamImage) -> StreamRow {
    let address = |addr: Option<SocketAddr>| addr.map_or(Address::default(), Address::new);
    let flag = |holds: bool, flag: u32| if holds { flag } else { 0 };
    let (sender_ssrc, sender_sequence, sender_timestamp, sender_at) =
        image.sender.unwrap_or_default();
    let (splice, splice_first) = image.splice.unwrap_or_default();
    let host = image.expected_host.map(|host| Address::new(SocketAddr::new(host, 0)));
    let mut row = StreamRow {
        leg: u32::from(of.leg),
        port: u32::from(port),
        flags: flag(image.muted, StreamRow::MUTED)
            | flag(image.spliced, StreamRow::SPLICED)
            | flag(image.sender.is_some(), StreamRow::HAS_SENDER)
            | flag(image.telephone_event.is_some(), StreamRow::HAS_EVENTS)
            | flag(image.splice.is_some(), StreamRow::HAS_SPLICE)
            | flag(image.bypassed, StreamRow::BYPASSED)
            | flag(image.muxed, StreamRow::MUXED)
            | flag(host.is_some(), StreamRow::HAS_HOST),
        telephone_event: image.telephone_event.map_or(0, u32::from),
        signalled: address(image.signalled),
        rtcp_signalled: address(image.rtcp_signalled),
        locked: address(image.locked),
        rtcp_locked: address(image.rtcp_locked),
        host: host.unwrap_or_default().ip,
        packets: image.packets,
        bytes: image.bytes,
        sent: image.sent,
        lost: image.lost,
        foreign: image.foreign,
        arrival: image.arrival.as_nanos(),
        sender_at: sender_at.as_nanos(),
        absorbed_packets: image.absorbed.0,
        absorbed_bytes: image.absorbed.1,
        absorbed_foreign: image.absorbed.2,
        sender_ssrc,
        sender_sequence: u32::from(sender_sequence),
        sender_timestamp,
        splice_ssrc: splice.ssrc,
        splice_sequence: u32::from(splice.sequence),
        splice_timestamp: splice.timestamp,
        splice_first,
        ssrc: image.ssrc,
        newest: image.newest,
        transit: image.transit,
        jitter: image.jitter,
        ..StreamRow::default()
    };
    row.set_call(of.call);
    row
}

/// The stream that a row remembers. Prompts, mixes and recordings are not remembered, so nobody taps it; keys lie
/// elsewhere ([`abi::KeyRow`]).
pub(crate) fn image_of(row: &StreamRow) -> StreamImage {
    let address = |address: Address| (address.port != 0).then(|| address.get());
    let has = |flag| row.flags & flag != 0;
    let host = Address { ip: row.host, ..Address::default() }.get().ip();
    let sender = (
        row.sender_ssrc,
        row.sender_sequence as u16,
        row.sender_timestamp,
        Instant::from_nanos(row.sender_at),
    );
    let splice = Splice {
        ssrc: row.splice_ssrc,
        sequence: row.splice_sequence as u16,
        timestamp: row.splice_timestamp,
    };
    StreamImage {
        signalled: address(row.signalled),
        rtcp_signalled: address(row.rtcp_signalled),
        muted: has(StreamRow::MUTED),
        expected_host: has(StreamRow::HAS_HOST).then_some(host),
        locked: address(row.locked),
        rtcp_locked: address(row.rtcp_locked),
        ssrc: row.ssrc,
        newest: row.newest,
        arrival: Instant::from_nanos(row.arrival),
        transit: row.transit,
        jitter: row.jitter,
        packets: row.packets,
        bytes: row.bytes,
        sent: row.sent,
        lost: row.lost,
        foreign: row.foreign,
        telephone_event: has(StreamRow::HAS_EVENTS).then_some(row.telephone_event as u8),
        tapped: false,
        occupied: false,
        spliced: has(StreamRow::SPLICED),
        sender: has(StreamRow::HAS_SENDER).then_some(sender),
        splice: has(StreamRow::HAS_SPLICE).then_some((splice, row.splice_first)),
        bypassed: has(StreamRow::BYPASSED),
        absorbed: (row.absorbed_packets, row.absorbed_bytes, row.absorbed_foreign),
        keys: None,
        opened: None,
        sealed: None,
        muxed: has(StreamRow::MUXED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::CallRef;

    const LEG: LegRef = LegRef { call: CallRef { slot: 3, generation: 9 }, leg: 1 };

    #[test]
    fn a_stream_comes_back_from_its_row() {
        let at = |text: &str| Some(text.parse().expect("an address"));
        let full = StreamImage {
            signalled: at("192.0.2.1:4000"),
            rtcp_signalled: at("192.0.2.1:4001"),
            muted: true,
            expected_host: Some("2001:db8::7".parse().expect("an address")),
            locked: at("[2001:db8::7]:4002"),
            rtcp_locked: at("198.51.100.3:9"),
            ssrc: 1,
            newest: 0x1_0002,
            arrival: Instant::from_nanos(3),
            transit: 4,
            jitter: 5,
            packets: 6,
            bytes: 7,
            sent: 8,
            lost: 9,
            foreign: 10,
            telephone_event: Some(0),
            tapped: false,
            occupied: false,
            spliced: true,
            sender: Some((11, 12, 13, Instant::from_nanos(14))),
            splice: Some((Splice { ssrc: 15, sequence: 16, timestamp: 17 }, 18)),
            bypassed: true,
            absorbed: (19, 20, 21),
            keys: None,
            opened: None,
            sealed: None,
            muxed: true,
        };
        for image in [full, StreamImage::default()] {
            let row = stream_row(LEG, 30_000, &image);
            assert_eq!((row.call(), row.leg, row.port), (LEG.call, 1, 30_000));
            assert_eq!(image_of(&row), image);
        }
    }

    #[test]
    fn a_list_comes_back_and_a_broken_one_ends_early() {
        let texts: [&[u8]; 3] = [b"a", b"", b"bcd"];
        let bytes = list(texts.into_iter());
        assert_eq!(values(&bytes), texts);
        assert_eq!(values(&bytes[..bytes.len() - 1]), texts[..2]);
        assert_eq!(values(b"\xff"), [b""; 0]);
    }
}
