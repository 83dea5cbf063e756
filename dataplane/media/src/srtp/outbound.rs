use super::cipher::{Of, Session};
use super::window::Window;
use super::{MasterKey, Progress, SrtpError, Suite, rtp_payload, sequence, ssrc_at};
use crate::Packet;

/// The tag of SRTCP (RFC 4568, 6.2.1 and 6.2.2).
const RTCP_TAG: usize = 10;
/// What is plain of RTCP: the first header and the sender's SSRC.
const RTCP_PLAIN: usize = 8;
const ENCRYPTED: u32 = 1 << 31;
/// RFC 3711, 9.2: "no more than 2^48 SRTP packets and 2^31 SRTCP packets" with one master key.
const MAX_RTP: u64 = 1 << 48;
const MAX_RTCP: u32 = 1 << 31;

/// What goes to a peer: encrypted and signed with a key of ours. It is of one synchronization source.
#[derive(Debug)]
pub struct Outbound {
    suite: Suite,
    master: MasterKey,
    rtp: Session,
    rtcp: Session,
    ssrc: Option<u32>,
    window: Window,
    /// The index of the next RTCP packet. It counts through all reporters, so that none comes twice.
    next_rtcp: u32,
}

impl Outbound {
    /// What we send with `master`, a key that was never used before.
    pub fn new(master: MasterKey) -> Outbound {
        Outbound {
            suite: master.suite,
            rtp: Session::new(&master, Of::Rtp),
            rtcp: Session::new(&master, Of::Rtcp),
            master,
            ssrc: None,
            window: Window::default(),
            next_rtcp: 0,
        }
    }

    /// Our key.
    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// Goes on where another process stopped; no index up to there is used again.
    pub fn resume(&mut self, from: Progress) {
        self.ssrc = Some(from.ssrc);
        self.window = Window::up_to(from.rtp);
        self.next_rtcp = from.rtcp.map_or(0, |last| last.saturating_add(1));
    }

    /// How far it is; none before the first packet.
    pub fn progress(&self) -> Option<Progress> {
        Some(Progress {
            ssrc: self.ssrc?,
            rtp: self.window.highest(),
            rtcp: self.next_rtcp.checked_sub(1),
        })
    }

    /// Makes an RTP packet an SRTP packet. One whose number went out before is refused.
    pub fn seal_rtp(&mut self, packet: &mut Packet<'_>) -> Result<(), SrtpError> {
        let bytes = packet.bytes();
        let start = rtp_payload(bytes).ok_or(SrtpError::Length)?;
        let (ssrc, sequence) = (ssrc_at(bytes, 8), sequence(bytes));
        let (ssrc, sequence) = ssrc.zip(sequence).ok_or(SrtpError::Length)?;
        if *self.ssrc.get_or_insert(ssrc) != ssrc {
            return Err(SrtpError::Exhausted);
        }
        let index = self.window.index_of(sequence, 0);
        if index >= MAX_RTP {
            return Err(SrtpError::Exhausted);
        }
        if !self.window.is_new(index) {
            return Err(SrtpError::Replayed);
        }
        let end = bytes.len();
        let tag = self.suite.tag();
        packet.extend(tag).ok_or(SrtpError::Length)?;
        let bytes = packet.bytes_mut();
        self.rtp.crypt(ssrc, index, &mut bytes[start..end]);
        let roc = ((index >> 16) as u32).to_be_bytes();
        let right = self.rtp.tag(&bytes[..end], &roc);
        bytes[end..].copy_from_slice(&right[..tag]);
        self.window.note(index);
        Ok(())
    }

    /// Makes an RTCP packet an SRTCP packet.
    pub fn seal_rtcp(&mut self, packet: &mut Packet<'_>) -> Result<(), SrtpError> {
        let ssrc = ssrc_at(packet.bytes(), 4).ok_or(SrtpError::Length)?;
        let index = self.next_rtcp;
        if index >= MAX_RTCP {
            return Err(SrtpError::Exhausted);
        }
        let end = packet.bytes().len();
        let signed = end + 4;
        packet.extend(4 + RTCP_TAG).ok_or(SrtpError::Length)?;
        let bytes = packet.bytes_mut();
        self.rtcp.crypt(ssrc, u64::from(index), &mut bytes[RTCP_PLAIN..end]);
        bytes[end..signed].copy_from_slice(&(index | ENCRYPTED).to_be_bytes());
        let right = self.rtcp.tag(&bytes[..signed], &[]);
        bytes[signed..].copy_from_slice(&right[..RTCP_TAG]);
        self.next_rtcp += 1;
        Ok(())
    }
}
