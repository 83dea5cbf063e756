use core::fmt;

use super::cipher::{Of, Session};
use super::window::Window;
use super::{MasterKey, Progress, SrtpError, Suite, rtp_payload, sequence, ssrc_at};
use crate::Packet;

/// Synchronization sources of one key that are told apart; the one that was heard longest ago goes first.
const SOURCES: usize = 4;
/// The bytes of the E bit and the SRTCP index.
const INDEX: usize = 4;
/// The tag of SRTCP (RFC 4568, 6.2.1 and 6.2.2).
const RTCP_TAG: usize = 10;
/// What is plain of RTCP: the first header and the sender's SSRC.
const RTCP_PLAIN: usize = 8;
const ENCRYPTED: u32 = 1 << 31;

/// The identifier of a master key in each packet (RFC 3711, 3.1); most peers use none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mki {
    bytes: [u8; Mki::MAX],
    len: u8,
}

impl Mki {
    /// The longest identifier that is read, in bytes.
    pub const MAX: usize = 8;

    /// The identifier with these bytes; none when they are more than [`Mki::MAX`].
    pub fn new(identifier: &[u8]) -> Option<Mki> {
        let mut bytes = [0; Mki::MAX];
        bytes.get_mut(..identifier.len())?.copy_from_slice(identifier);
        Some(Mki { bytes, len: identifier.len() as u8 })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What comes from a peer: checked, and made plain.
#[derive(Debug)]
pub struct Inbound {
    suite: Suite,
    master: MasterKey,
    mki: Mki,
    rtp: Session,
    rtcp: Session,
    sources: [Option<Source>; SOURCES],
    /// The rollover counters that the first packet of a source may have besides 0.
    carried: [Option<Progress>; SOURCES],
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    rtp: Window,
    rtcp: Window,
    heard: u64,
}

impl Source {
    fn new(ssrc: u32) -> Source {
        Source { ssrc, rtp: Window::default(), rtcp: Window::default(), heard: 0 }
    }
}

impl Inbound {
    /// What a peer sends with `master`.
    pub fn new(master: MasterKey, mki: Mki) -> Inbound {
        Inbound {
            suite: master.suite,
            rtp: Session::new(&master, Of::Rtp),
            rtcp: Session::new(&master, Of::Rtcp),
            master,
            mki,
            sources: [None; SOURCES],
            carried: [None; SOURCES],
            clock: 0,
        }
    }

    /// The peer's key.
    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// The peer's identifier of it.
    pub fn mki(&self) -> Mki {
        self.mki
    }

    /// The peer has another key from here on. RFC 3711, 3.3.1: "After a re-keying occurs (changing to a new master
    /// key), the rollover counter always maintains its sequence of values"; but many begin again at zero, so that
    /// both are tried with a source's first packet.
    pub fn follow(mut self, before: &Inbound) -> Inbound {
        for (carried, source) in self.carried.iter_mut().zip(&before.sources) {
            *carried = source.as_ref().map(progress);
        }
        self
    }

    /// Goes on where another process stopped; what came before is not taken again.
    pub fn resume(&mut self, from: Progress) {
        let rtcp = Window::up_to(from.rtcp.map(u64::from));
        let rtp = Window::up_to(from.rtp);
        self.sources[0] = Some(Source { rtp, rtcp, ..Source::new(from.ssrc) });
    }

    /// How far the source is that was heard last.
    pub fn progress(&self) -> Option<Progress> {
        let newest = self.sources.iter().flatten().max_by_key(|source| source.heard)?;
        Some(progress(newest))
    }

    /// Makes an SRTP packet an RTP packet, or leaves it as it was.
    pub fn open_rtp(&mut self, packet: &mut Packet<'_>) -> Result<(), SrtpError> {
        let bytes = packet.bytes();
        let start = rtp_payload(bytes).ok_or(SrtpError::Length)?;
        let (ssrc, sequence) = (ssrc_at(bytes, 8), sequence(bytes));
        let (ssrc, sequence) = ssrc.zip(sequence).ok_or(SrtpError::Length)?;
        let trailer = self.mki.bytes().len() + self.suite.tag();
        let end = bytes.len().checked_sub(trailer).filter(|end| *end >= start);
        let end = end.ok_or(SrtpError::Length)?;
        let known = self.sources.iter().flatten().find(|source| source.ssrc == ssrc);
        let mut source = known.copied().unwrap_or(Source::new(ssrc));
        let index = source.rtp.index_of(sequence, 0);
        if !source.rtp.is_new(index) {
            return Err(SrtpError::Replayed);
        }
        let index = match self.is_rtp_tag(bytes, end, index) {
            true => index,
            false => self.carried_on(bytes, end, &source, sequence).ok_or(SrtpError::Tag)?,
        };
        self.rtp.crypt(ssrc, index, &mut packet.bytes_mut()[start..end]);
        packet.truncate(end);
        source.rtp.note(index);
        self.note(source);
        Ok(())
    }

    /// RFC 3711, 4.2: "M = Authenticated Portion || ROC", where the MKI and the tag itself are left out.
    fn is_rtp_tag(&self, bytes: &[u8], end: usize, index: u64) -> bool {
        let roc = ((index >> 16) as u32).to_be_bytes();
        let behind = &bytes[end..];
        let Some((mki, tag)) = behind.split_at_checked(self.mki.bytes().len()) else {
            return false;
        };
        mki == self.mki.bytes() && self.rtp.is_tag(&bytes[..end], &roc, tag)
    }

    /// The index of a source's first packet where its rollover counter goes on from that of an earlier key.
    fn carried_on(&self, bytes: &[u8], end: usize, source: &Source, number: u16) -> Option<u64> {
        if source.rtp.highest().is_some() {
            return None;
        }
        let carried = self.carried.iter().flatten().find(|it| it.ssrc == source.ssrc)?;
        let index = Window::up_to(carried.rtp).index_of(number, 0);
        (index >> 16 != 0 && self.is_rtp_tag(bytes, end, index)).then_some(index)
    }

    /// Makes an SRTCP packet an RTCP packet, or leaves it as it was.
    pub fn open_rtcp(&mut self, packet: &mut Packet<'_>) -> Result<(), SrtpError> {
        let bytes = packet.bytes();
        let mki = self.mki.bytes().len();
        let end = bytes.len().checked_sub(INDEX + mki + RTCP_TAG);
        let end = end.filter(|end| *end >= RTCP_PLAIN).ok_or(SrtpError::Length)?;
        let ssrc = ssrc_at(bytes, 4).ok_or(SrtpError::Length)?;
        let word = ssrc_at(bytes, end).ok_or(SrtpError::Length)?;
        let index = u64::from(word & !ENCRYPTED);
        let known = self.sources.iter().flatten().find(|source| source.ssrc == ssrc);
        let mut source = known.copied().unwrap_or(Source::new(ssrc));
        if !source.rtcp.is_new(index) {
            return Err(SrtpError::Replayed);
        }
        let signed = end + INDEX;
        let is_right = &bytes[signed..signed + mki] == self.mki.bytes()
            && self.rtcp.is_tag(&bytes[..signed], &[], &bytes[signed + mki..]);
        // Plain RTCP would have to be agreed on (RFC 4568, 6.3.2), which we never do.
        if !is_right || word & ENCRYPTED == 0 {
            return Err(SrtpError::Tag);
        }
        self.rtcp.crypt(ssrc, index, &mut packet.bytes_mut()[RTCP_PLAIN..end]);
        packet.truncate(end);
        source.rtcp.note(index);
        self.note(source);
        Ok(())
    }

    fn note(&mut self, mut source: Source) {
        self.clock += 1;
        source.heard = self.clock;
        let same =
            self.sources.iter_mut().position(|it| it.is_some_and(|it| it.ssrc == source.ssrc));
        let oldest = || {
            let heard = |place: &usize| self.sources[*place].map_or(0, |source| source.heard);
            (0..SOURCES).min_by_key(heard).unwrap_or(0)
        };
        let place = same.unwrap_or_else(oldest);
        self.sources[place] = Some(source);
    }
}

fn progress(source: &Source) -> Progress {
    Progress {
        ssrc: source.ssrc,
        rtp: source.rtp.highest(),
        rtcp: source.rtcp.highest().map(|index| index as u32),
    }
}

impl fmt::Display for SrtpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SrtpError::Length => "the length makes no sense",
            SrtpError::Tag => "the tag is wrong",
            SrtpError::Replayed => "it was here before",
            SrtpError::Exhausted => "the key is used up",
        })
    }
}

impl core::error::Error for SrtpError {}
