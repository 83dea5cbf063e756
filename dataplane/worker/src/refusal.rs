//! A request that is not served: the status, and what must stand beside it.

use std::net::SocketAddr;

use sip::wire::{self, Message};

use crate::carried::Lines;

/// What a refused caller is told to wait when something is full or away, in seconds.
pub(crate) const RETRY_AFTER_S: u32 = 2;

/// Why a request is not served, as its answer says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A final status, 300 or more; 0 for none.
    pub status: u16,
    extra: Vec<(&'static str, Vec<u8>)>,
}

impl Refusal {
    /// A refusal with nothing beside its status.
    pub fn status(status: u16) -> Refusal {
        debug_assert!((300..700).contains(&status), "{status} refuses nothing");
        Refusal { status, extra: Vec::new() }
    }

    /// No answer at all, to who has asked too much.
    pub fn silence() -> Refusal {
        Refusal { status: 0, extra: Vec::new() }
    }

    /// True for [`Self::silence`].
    pub fn is_silent(&self) -> bool {
        self.status == 0
    }

    /// Adds a header field.
    pub fn with(mut self, name: &'static str, value: &[u8]) -> Refusal {
        self.extra.push((name, value.to_vec()));
        self
    }

    /// Adds header fields.
    pub(crate) fn with_lines(mut self, lines: Lines) -> Refusal {
        self.extra.extend(lines);
        self
    }

    /// A 503 that says when to come again (RFC 3261, 21.5.4).
    pub fn unavailable(retry_after_s: u32) -> Refusal {
        Refusal::status(503).with("Retry-After", retry_after_s.to_string().as_bytes())
    }

    /// The answer to `request`.
    pub fn response(&self, request: &Message<'_>, tag: Option<&str>, from: SocketAddr) -> Vec<u8> {
        let extra: Vec<(&str, &[u8])> =
            self.extra.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let reason = wire::reason_phrase(self.status);
        wire::response(request, self.status, reason, tag, from, &extra, None)
    }
}
