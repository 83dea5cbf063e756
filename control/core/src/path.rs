//! The words that all tools show for a stream's path and for a spool's state.

use abi::{MediaPath, PathReason, SpoolState};

/// The path's name: `none`, `io_uring`, `recvmmsg` or `xdp`.
pub fn path_name(path: MediaPath) -> &'static str {
    match path {
        MediaPath::None => "none",
        MediaPath::IoUring => "io_uring",
        MediaPath::Recvmmsg => "recvmmsg",
        MediaPath::Xdp => "xdp",
    }
}

/// Why a stream does not take the bypass, in a few words; empty when it does.
pub fn reason_name(reason: PathReason) -> &'static str {
    match reason {
        PathReason::None => "",
        PathReason::NotWanted => "switched off",
        PathReason::Unavailable => "no bypass here",
        PathReason::Learning => "learning the source",
        PathReason::NoPeer => "no peer",
        PathReason::Prompt => "prompt",
        PathReason::Recording => "recording",
        PathReason::Mix => "mix",
        PathReason::Interface => "interface without bypass",
        PathReason::NextHop => "next hop unknown",
        PathReason::TableFull => "table full",
        PathReason::Installing => "being installed",
        PathReason::Srtp => "srtp",
    }
}

/// The state's name: `writing`, `slow` or `failed`.
pub fn spool_name(state: SpoolState) -> &'static str {
    match state {
        SpoolState::Writing => "writing",
        SpoolState::Slow => "slow",
        SpoolState::Failed => "failed",
    }
}
