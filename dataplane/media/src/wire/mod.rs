//! Views of packets: checked once when made, so that reading them cannot fail.

mod rtcp;
mod rtp;

pub use rtcp::{Rtcp, RtcpError, RtcpPacket};
pub use rtp::{Rtp, RtpError, RtpHeader};
