//! Which transaction a message belongs to, as bytes that are equal when the transactions are
//! (RFC 3261, 17.1.3 and 17.2.3).
//!
//! Each part goes in behind its length, so that no two lists of parts make the same bytes, whatever
//! a peer writes into them.

use crate::wire::{self, Header, Message, Method, Start, Via};

/// A branch that begins so is unique, says 8.1.1.7.
const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// The rules of RFC 3261 and of RFC 2543 make keys apart, and so does its ACK.
const BY_BRANCH: u8 = 1;
const BY_HEADERS: u8 = 2;
const ACK_BY_HEADERS: u8 = 3;

/// For what a key is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose<'a> {
    /// To find a request of this method, whatever the method of the message is.
    Request(Method<'a>),
    /// To find the INVITE that was refused, from its ACK.
    Ack,
}

/// The key of a request that was sent from here: 17.1.3 compares the branch, and the method of CSeq
/// since a CANCEL has the branch of its INVITE.
pub(super) fn client(key: &mut Vec<u8>, method: Method<'_>, branch: &[u8]) {
    key.clear();
    push_folded(key, branch);
    push(key, method.as_bytes());
}

/// The key of a request that came; false when the message lacks a part of it.
pub(super) fn server(key: &mut Vec<u8>, message: &Message<'_>, purpose: Purpose<'_>) -> bool {
    key.clear();
    let Ok(via) = message.via() else { return false };
    match modern_branch(&via) {
        Some(branch) => {
            by_branch(key, branch, &via, purpose);
            true
        }
        None => by_headers(key, message, purpose).is_some(),
    }
}

/// What a new INVITE has in common with its copies that came on other ways; none within a dialog.
///
/// RFC 3261, 8.2.2.2: "If the request has no tag in the To header field, the UAS core MUST check the request
/// against ongoing transactions. If the From tag, Call-ID, and CSeq exactly match those associated with an
/// ongoing transaction, but the request does not match that transaction (based on the matching rules in
/// Section 17.2.3), the UAS core SHOULD generate a 482 (Loop Detected) response".
pub(super) fn merge(invite: &Message<'_>) -> Option<Box<[u8]>> {
    if invite.to().ok()?.tag().is_some() {
        return None;
    }
    let from = invite.from().ok()?;
    let mut key = Vec::new();
    push(&mut key, from.tag()?);
    push(&mut key, invite.call_id().ok()?);
    key.extend_from_slice(&invite.cseq().ok()?.number.to_be_bytes());
    Some(key.into())
}

/// The key of the ACK to a refusal of an INVITE without a branch of RFC 3261, but for the To tag of
/// the refusal; nothing when its branch is of RFC 3261.
pub(super) fn begin_old_ack(invite: &Message<'_>) -> Option<Vec<u8>> {
    if modern_branch(&invite.via().ok()?).is_some() {
        return None;
    }
    let mut key = Vec::new();
    ack_but_tag(&mut key, invite)?;
    Some(key)
}

/// Adds the To tag of the refusal; false when it is unreadable.
pub(super) fn finish_old_ack(key: &mut Vec<u8>, refusal: &[u8]) -> bool {
    let Ok(message) = wire::lex(refusal) else {
        return false;
    };
    let Ok(to) = message.to() else { return false };
    push(key, to.tag().unwrap_or_default());
    true
}

/// RFC 4475, 3.2.1: who gives the cookie and no identifier after it gets "the RFC 2543-style
/// transaction identifier", so that its requests are not taken for one another.
fn modern_branch<'a>(via: &Via<'a>) -> Option<&'a [u8]> {
    let branch = via.branch?;
    let (start, identifier) = branch.split_at_checked(MAGIC_COOKIE.len())?;
    (start.eq_ignore_ascii_case(MAGIC_COOKIE) && !identifier.is_empty()).then_some(branch)
}

/// 17.2.3: the branch, the sent-by, and the method, where ACK counts as INVITE.
fn by_branch(key: &mut Vec<u8>, branch: &[u8], via: &Via<'_>, purpose: Purpose<'_>) {
    let method = match purpose {
        Purpose::Request(method) => method,
        Purpose::Ack => Method::Invite,
    };
    key.push(BY_BRANCH);
    push_folded(key, branch);
    push_folded(key, via.host);
    key.extend_from_slice(&via.port_or_default().to_be_bytes());
    push(key, method.as_bytes());
}

/// 17.2.3 for RFC 2543: Request-URI, To tag, From tag, Call-ID, CSeq and the top Via; an ACK has
/// the To tag of the response.
fn by_headers(key: &mut Vec<u8>, message: &Message<'_>, purpose: Purpose<'_>) -> Option<()> {
    let to = message.to().ok()?;
    let tag = to.tag().unwrap_or_default();
    match purpose {
        Purpose::Request(method) => {
            key.push(BY_HEADERS);
            parts(key, message)?;
            push(key, method.as_bytes());
        }
        Purpose::Ack => ack_but_tag(key, message)?,
    }
    push(key, tag);
    Some(())
}

fn ack_but_tag(key: &mut Vec<u8>, message: &Message<'_>) -> Option<()> {
    key.push(ACK_BY_HEADERS);
    parts(key, message)
}

fn parts(key: &mut Vec<u8>, message: &Message<'_>) -> Option<()> {
    let Start::Request { uri, .. } = message.start() else {
        return None;
    };
    push(key, uri);
    let from = message.from().ok()?;
    push(key, from.tag().unwrap_or_default());
    push(key, message.call_id().ok()?);
    key.extend_from_slice(&message.cseq().ok()?.number.to_be_bytes());
    push(key, message.headers(Header::Via).next()?);
    Some(())
}

fn push(key: &mut Vec<u8>, part: &[u8]) {
    key.extend_from_slice(&(part.len() as u32).to_be_bytes());
    key.extend_from_slice(part);
}

/// For parts in which 7.3.1 makes no difference between capitals and small letters.
fn push_folded(key: &mut Vec<u8>, part: &[u8]) {
    let start = key.len() + 4;
    push(key, part);
    key[start..].make_ascii_lowercase();
}
