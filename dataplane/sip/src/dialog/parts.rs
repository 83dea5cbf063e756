//! A dialog as plain parts, to be kept elsewhere and made again by another process.

use super::{CSEQ_LIMIT, Dialog, DialogError, Party, State};
use crate::wire::{NameAddr, Uri};

/// All that a [`Dialog`] remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// Our tag.
    pub local_tag: &'a [u8],
    /// The peer's tag; empty when it has none.
    pub remote_tag: &'a [u8],
    /// Our URI, with its parameters.
    pub local_uri: &'a [u8],
    /// The peer's URI, with its parameters.
    pub remote_uri: &'a [u8],
    /// The URI of the peer's Contact.
    pub remote_target: &'a [u8],
    /// The number of the last request that went out, when one did.
    pub local_cseq: Option<u32>,
    /// The number of the last request that came, when one did.
    pub remote_cseq: Option<u32>,
    /// Whole values for Route, the nearest first.
    pub routes: Vec<&'a [u8]>,
    /// Early or confirmed.
    pub state: State,
}

impl Dialog {
    /// What the dialog remembers.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            call_id: &self.call_id,
            local_tag: &self.local.tag,
            remote_tag: &self.remote.tag,
            local_uri: &self.local.uri,
            remote_uri: &self.remote.uri,
            remote_target: &self.remote_target,
            local_cseq: self.local_cseq,
            remote_cseq: self.remote_cseq,
            routes: self.route_set.iter().map(|route| &**route).collect(),
            state: self.state,
        }
    }

    /// The dialog that had these parts; an error when none could have them.
    pub fn restore(parts: &Parts<'_>) -> Result<Dialog, DialogError> {
        let texts = [parts.call_id, parts.local_tag, parts.local_uri, parts.remote_uri];
        let all = texts.iter().chain([&parts.remote_tag, &parts.remote_target]);
        let is_line = |text: &[u8]| !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        let in_range = |cseq: Option<u32>| cseq.is_none_or(|cseq| cseq < CSEQ_LIMIT);
        if parts.call_id.is_empty()
            || !all.copied().all(is_line)
            || !in_range(parts.local_cseq)
            || !in_range(parts.remote_cseq)
            || !parts.routes.iter().all(|route| is_route(route))
        {
            return Err(DialogError::Header);
        }
        if parts.local_tag.is_empty() {
            return Err(DialogError::NoTag);
        }
        if Uri::parse(parts.remote_target).map_or(true, |uri| uri.host.is_empty()) {
            return Err(DialogError::Contact);
        }
        let party = |uri, tag| Party { uri: Box::from(uri), tag: Box::from(tag) };
        Ok(Dialog {
            call_id: Box::from(parts.call_id),
            local: party(parts.local_uri, parts.local_tag),
            remote: party(parts.remote_uri, parts.remote_tag),
            local_cseq: parts.local_cseq,
            remote_cseq: parts.remote_cseq,
            route_set: parts.routes.iter().map(|route| Box::from(*route)).collect(),
            remote_target: Box::from(parts.remote_target),
            state: parts.state,
        })
    }
}

fn is_route(value: &[u8]) -> bool {
    NameAddr::parse(value).is_some_and(|route| route.parsed_uri().is_ok())
}
