//! Streams that are encrypted on their way from and to the peer (RFC 3711). Here they are plain: recordings, mixes,
//! digits and joined streams know nothing of it.
//!
//! What a peer is sent with a key is one sender's from the first packet on ([`Streams::splice`]): the numbers of a
//! sender whose packets are relayed may begin again, and no index of a key may come twice.

use std::net::SocketAddr;

use base::Instant;

use super::Streams;
use super::row::{MUXED, OPEN, SECURE};
use crate::srtp::{Inbound, MAX_TRAILER, MasterKey, Mki, Outbound, Progress, SrtpError};
use crate::{DropReason, Endpoint, Packet, PairId, SocketSlot, Verdict};

/// What an encrypted stream is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What we encrypt with.
    pub ours: MasterKey,
    /// What the peer encrypts with.
    pub theirs: MasterKey,
    /// What the peer's packets name its key by.
    pub mki: Mki,
}

/// The contexts of an encrypted stream.
#[derive(Debug)]
pub(super) struct Secure {
    inbound: Inbound,
    /// The peer's key before, until a packet came with the new one.
    former: Option<Inbound>,
    outbound: Outbound,
}

impl Secure {
    fn new(keys: Keys) -> Box<Secure> {
        let inbound = Inbound::new(keys.theirs, keys.mki);
        Box::new(Secure { inbound, former: None, outbound: Outbound::new(keys.ours) })
    }

    /// As another process left it.
    pub fn resumed(keys: Keys, opened: Option<Progress>, sealed: Option<Progress>) -> Box<Secure> {
        let mut secure = Secure::new(keys);
        opened.into_iter().for_each(|from| secure.inbound.resume(from));
        sealed.into_iter().for_each(|from| secure.outbound.resume(from));
        secure
    }

    /// Takes other keys; a key that stays goes on.
    fn change(&mut self, keys: Keys) {
        if *self.outbound.master() != keys.ours {
            self.outbound = Outbound::new(keys.ours);
        }
        if (*self.inbound.master(), self.inbound.mki()) != (keys.theirs, keys.mki) {
            let inbound = Inbound::new(keys.theirs, keys.mki).follow(&self.inbound);
            self.former = Some(std::mem::replace(&mut self.inbound, inbound));
        }
    }

    fn keys(&self) -> Keys {
        let Secure { inbound, outbound, .. } = self;
        Keys { ours: *outbound.master(), theirs: *inbound.master(), mki: inbound.mki() }
    }

    pub fn opened(&self) -> Option<Progress> {
        self.inbound.progress()
    }

    pub fn sealed(&self) -> Option<Progress> {
        self.outbound.progress()
    }

    /// Opens a packet with the peer's key, else with the one before: what was under way when it changed.
    fn open(&mut self, packet: &mut Packet<'_>, by: Open) -> Result<(), SrtpError> {
        let opened = by(&mut self.inbound, packet);
        match (opened, &mut self.former) {
            (Err(SrtpError::Tag | SrtpError::Length), Some(former)) => by(former, packet),
            (Ok(()), former) => {
                *former = None;
                Ok(())
            }
            (failed, _) => failed,
        }
    }
}

type Open = fn(&mut Inbound, &mut Packet<'_>) -> Result<(), SrtpError>;

impl Streams {
    /// The stream is encrypted with these keys from now on, or not at all. Keys that it has already go on.
    pub fn secure(&mut self, now: Instant, pair: PairId, keys: Option<Keys>) {
        if !self.is_open(pair) {
            return;
        }
        if keys.is_some() {
            self.splice(now, pair);
        }
        self.hot[pair.index()].set(SECURE, keys.is_some());
        let cold = &mut self.cold[pair.index()];
        match (&mut cold.secure, keys) {
            (Some(secure), Some(keys)) => secure.change(keys),
            (none, Some(keys)) => *none = Some(Secure::new(keys)),
            (secure, None) => *secure = None,
        }
    }

    /// The stream's keys; none where it is plain.
    pub fn keys(&self, pair: PairId) -> Option<Keys> {
        self.cold.get(pair.index())?.secure.as_ref().map(|secure| secure.keys())
    }

    /// True when the stream is encrypted.
    pub fn is_secure(&self, pair: PairId) -> bool {
        self.hot.get(pair.index()).is_some_and(|row| row.has(SECURE))
    }

    /// RTCP comes and goes by the port of RTP from now on (RFC 5761), or by its own.
    pub fn mux(&mut self, pair: PairId, on: bool) {
        if self.is_open(pair) {
            self.hot[pair.index()].set(MUXED, on);
        }
    }

    /// True for RTCP that came to a socket, or goes out of it: by its own port, or among RTP where that was agreed.
    #[inline]
    pub fn is_rtcp(&self, socket: SocketSlot, packet: &Packet<'_>) -> bool {
        let is_muxed = || self.hot.get(socket.pair().index()).is_some_and(|row| row.has(MUXED));
        socket.is_rtcp() || is_muxed() && super::is_rtcp(packet.bytes())
    }

    /// Encrypts what goes to an encrypted stream's peer.
    #[inline]
    pub fn seal(&mut self, verdict: Verdict, packet: &mut Packet<'_>) -> Verdict {
        let Verdict::Send { socket, .. } = verdict else { return verdict };
        match self.is_secure(socket.pair()) {
            false => verdict,
            true => self.seal_for(socket, packet).map_or_else(Verdict::Drop, |()| verdict),
        }
    }

    #[cold]
    fn seal_for(&mut self, socket: SocketSlot, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let is_rtcp = self.is_rtcp(socket, packet);
        let secure = self.cold[socket.pair().index()].secure.as_mut();
        let outbound = &mut secure.ok_or(DropReason::SrtpUnsealed)?.outbound;
        let sealed = match is_rtcp {
            true => outbound.seal_rtcp(packet),
            false => outbound.seal_rtp(packet),
        };
        sealed.map_err(|_| DropReason::SrtpUnsealed)
    }

    /// Encrypts a packet of [`Streams::make`] where the peer's stream is encrypted; none when it cannot be.
    #[must_use]
    pub fn seal_made(&mut self, socket: SocketSlot, packet: Box<[u8]>) -> Option<Box<[u8]>> {
        if !self.is_secure(socket.pair()) {
            return Some(packet);
        }
        let len = packet.len();
        let mut buffer = Vec::with_capacity(len + MAX_TRAILER);
        buffer.extend_from_slice(&packet);
        buffer.resize(len + MAX_TRAILER, 0);
        let mut packet = Packet::new(&mut buffer, 0..len);
        self.seal_for(socket, &mut packet).ok()?;
        let len = packet.bytes().len();
        buffer.truncate(len);
        Some(buffer.into_boxed_slice())
    }

    /// Makes a peer's RTP plain. Who cannot be the peer costs no cryptography, and a packet is believed in nothing
    /// before its tag is right.
    #[cold]
    pub(super) fn open_rtp(
        &mut self,
        now: Instant,
        index: usize,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Result<(), DropReason> {
        if !self.hot[index].has(SECURE) {
            return Ok(());
        }
        let from = Endpoint::new(from);
        if !self.cold[index].latch.may_be_heard(now, from) {
            self.note_foreign(now, index, from);
            return Err(DropReason::RtpForeignSource);
        }
        self.open_by(index, packet, Inbound::open_rtp, DropReason::RtpTooShort)
    }

    /// The same of RTCP.
    #[cold]
    pub(super) fn open_rtcp(
        &mut self,
        now: Instant,
        index: usize,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        is_muxed: bool,
    ) -> Result<(), DropReason> {
        let (from, cold) = (Endpoint::new(from), &self.cold[index]);
        let may =
            if is_muxed { cold.latch.may_be_heard(now, from) } else { cold.is_rtcp_peer(from) };
        if !may {
            self.note_foreign(now, index, from);
            return Err(DropReason::RtcpForeignSource);
        }
        self.open_by(index, packet, Inbound::open_rtcp, DropReason::RtcpMalformed)
    }

    fn open_by(
        &mut self,
        index: usize,
        packet: &mut Packet<'_>,
        by: Open,
        short: DropReason,
    ) -> Result<(), DropReason> {
        debug_assert!(self.hot[index].has(OPEN | SECURE));
        let secure = self.cold[index].secure.as_mut().ok_or(DropReason::SrtpUnauthentic)?;
        secure.open(packet, by).map_err(|error| match error {
            SrtpError::Length => short,
            SrtpError::Tag | SrtpError::Exhausted => DropReason::SrtpUnauthentic,
            SrtpError::Replayed => DropReason::SrtpReplayed,
        })
    }
}
