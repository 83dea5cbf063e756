//! Secure RTP (RFC 3711) as SDES sets it up (RFC 4568): one master key for each direction, and none after it.
//!
//! ```text
//!  master key, salt --derive (4.3)--> cipher, salt, authentication key of RTP, and three of RTCP
//!
//!  SRTP:  | header, extension | payload ~~~~~~~~~~~~ | MKI | tag |      ~ encrypted
//!          '------- authenticated, and the ROC -----'
//!  SRTCP: | header, SSRC | rest ~~~~~~~~~~~~ |E| index | MKI | tag |
//!          '-------------- authenticated -------------'
//! ```
//!
//! Packets are changed where they lie, and nothing is allocated for one. An [`Inbound`] believes nothing of a
//! packet, neither its synchronization source nor its number, before its tag is right; an [`Outbound`] never uses
//! an index twice, because two payloads under one keystream are as good as plain text (RFC 3711, 9.1).

mod cipher;
mod inbound;
mod outbound;
mod window;

#[cfg(test)]
mod tests;

pub use inbound::{Inbound, Mki};
pub use outbound::Outbound;

use core::fmt;

/// The bytes of a master key, and of the salt that comes with it.
pub const KEY_BYTES: usize = 16;
/// The bytes of a master salt (RFC 4568, 6.2).
pub const SALT_BYTES: usize = 14;
/// The most bytes that protection adds to a packet: an SRTCP index and a tag.
pub const MAX_TRAILER: usize = 14;

/// What encrypts and authenticates (RFC 4568, 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`: tags of ten bytes.
    #[default]
    Sha1Tag80,
    /// `AES_CM_128_HMAC_SHA1_32`: tags of four bytes for RTP, of ten for RTCP.
    Sha1Tag32,
}

impl Suite {
    /// The bytes of an SRTP packet's tag; SRTCP's is the long one always (RFC 4568, 6.2.2).
    pub const fn tag(self) -> usize {
        match self {
            Suite::Sha1Tag80 => 10,
            Suite::Sha1Tag32 => 4,
        }
    }
}

/// A master key with its salt, and what it is for. It is not shown by `Debug`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct MasterKey {
    /// What it is used with.
    pub suite: Suite,
    /// The key.
    pub key: [u8; KEY_BYTES],
    /// The salt.
    pub salt: [u8; SALT_BYTES],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Why a packet is neither opened nor sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpError {
    /// Too short for its header, its tag and what lies between, or no room for a tag.
    Length,
    /// The tag is wrong: another key, another ROC, or somebody changed it.
    Tag,
    /// It was here before, or is too old to know (RFC 3711, 3.3.2).
    Replayed,
    /// More synchronization sources, or packets, than one key is for.
    Exhausted,
}

/// How far one synchronization source is, for the process that comes after one that was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The synchronization source.
    pub ssrc: u32,
    /// The highest packet index: the sequence number and, above 16 bits, the rollover counter.
    pub rtp: Option<u64>,
    /// The highest SRTCP index.
    pub rtcp: Option<u32>,
}

/// Where the payload of an RTP packet begins: behind the fixed header, the contributing sources and the header's
/// extension, which stay plain (RFC 3711, 3.1).
fn rtp_payload(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let mut at = 12 + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let &[high, low] = packet.get(at + 2..)?.first_chunk()?;
        at += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
    }
    (at <= packet.len()).then_some(at)
}

fn ssrc_at(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

fn sequence(packet: &[u8]) -> Option<u16> {
    packet.get(2..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}
