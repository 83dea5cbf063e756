//! Views of packets: checked once when made, so that reading them cannot fail.

mod rtcp;
mod rtp;

pub use rtcp::{ReportBlock, Rtcp, RtcpError, RtcpPacket, SenderInfo, Translation};
pub use rtp::{Rtp, RtpError, RtpHeader};
