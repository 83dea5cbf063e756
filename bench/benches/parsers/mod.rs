//! One INVITE through three parsers: the message, and the message with its typed headers.

use std::hint::black_box;

use rsip::prelude::{HeadersExt as _, ToTypedHeader as _};
use rsipstack::sip::prelude::{HeadersExt as _, ToTypedHeader as _};

/// Ours, as the intake begins. The message is 1 KB of offsets, so it is only looked at.
#[inline]
pub fn ours(datagram: &[u8]) {
    black_box(&sip::wire::lex(datagram).expect("an INVITE"));
}

/// Ours, with six headers parsed.
#[inline]
pub fn ours_typed(datagram: &[u8]) {
    let message = sip::wire::lex(datagram).expect("an INVITE");
    black_box(&message.via().expect("a Via"));
    black_box(&message.from().expect("a From"));
    black_box(&message.to().expect("a To"));
    black_box(&message.cseq().expect("a CSeq"));
    black_box(message.call_id().expect("a Call-ID"));
    black_box(&message.contact().expect("a Contact").expect("a sane one"));
}

/// rsip.
#[inline]
pub fn rsip(datagram: &[u8]) {
    black_box(&rsip::Request::try_from(datagram).expect("an INVITE"));
}

/// rsip, with six headers parsed. Its Call-ID is text already.
#[inline]
pub fn rsip_typed(datagram: &[u8]) {
    let request = rsip::Request::try_from(datagram).expect("an INVITE");
    black_box(&request.via_header().expect("a Via").typed().expect("a sane one"));
    black_box(&request.from_header().expect("a From").typed().expect("a sane one"));
    black_box(&request.to_header().expect("a To").typed().expect("a sane one"));
    black_box(&request.cseq_header().expect("a CSeq").typed().expect("a sane one"));
    black_box(request.call_id_header().expect("a Call-ID"));
    black_box(&request.contact_header().expect("a Contact").typed().expect("a sane one"));
}

/// rsipstack.
#[inline]
pub fn rsipstack(datagram: &[u8]) {
    black_box(&rsipstack::sip::Request::try_from(datagram).expect("an INVITE"));
}

/// rsipstack, with six headers parsed. Its Call-ID is text already.
#[inline]
pub fn rsipstack_typed(datagram: &[u8]) {
    let request = rsipstack::sip::Request::try_from(datagram).expect("an INVITE");
    black_box(&request.via_header().expect("a Via").typed().expect("a sane one"));
    black_box(&request.from_header().expect("a From").typed().expect("a sane one"));
    black_box(&request.to_header().expect("a To").typed().expect("a sane one"));
    black_box(&request.cseq_header().expect("a CSeq").typed().expect("a sane one"));
    black_box(request.call_id_header().expect("a Call-ID"));
    black_box(&request.contact_header().expect("a Contact").typed().expect("a sane one"));
}
