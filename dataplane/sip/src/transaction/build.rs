//! The requests that the layer makes itself, from the bytes of an INVITE that it sent.

use crate::wire::{self, Header, Message, Method, RequestWriter, Start};

/// The ACK to a refusal (17.1.1.3); nothing when the user's INVITE cannot be read.
pub(super) fn ack(invite: &[u8], refusal: &Message<'_>) -> Option<Vec<u8>> {
    let invite = wire::lex(invite).ok()?;
    // "The To header field in the ACK MUST equal the To header field in the response being
    // acknowledged", which has the tag.
    derive(&invite, Method::Ack, refusal.header(Header::To)?, &[])
}

/// The CANCEL of an INVITE (9.1), with values of Reason (RFC 3326); nothing when the user's INVITE cannot be
/// read.
pub(super) fn cancel(invite: &[u8], reasons: &[Vec<u8>]) -> Option<Vec<u8>> {
    let invite = wire::lex(invite).ok()?;
    derive(&invite, Method::Cancel, invite.header(Header::To)?, reasons)
}

/// Both have the INVITE's Request-URI, top Via, From, Call-ID, CSeq number and Route, and no body.
fn derive(
    invite: &Message<'_>,
    method: Method<'_>,
    to: &[u8],
    reasons: &[Vec<u8>],
) -> Option<Vec<u8>> {
    let Start::Request { uri, .. } = invite.start() else {
        return None;
    };
    let mut cseq = invite.cseq().ok()?.number.to_string().into_bytes();
    cseq.push(b' ');
    cseq.extend_from_slice(method.as_bytes());
    let mut writer = RequestWriter::new(method.as_bytes(), uri)
        .header("Via", invite.headers(Header::Via).next()?)
        .header("Max-Forwards", b"70");
    for route in invite.headers(Header::Route) {
        writer = writer.header("Route", route);
    }
    writer = writer
        .header("From", invite.header(Header::From)?)
        .header("To", to)
        .header("Call-ID", invite.call_id().ok()?)
        .header("CSeq", &cseq);
    for reason in reasons {
        writer = writer.header("Reason", reason);
    }
    // 22.1: an ACK has the credentials of its INVITE; a CANCEL is never challenged.
    if method == Method::Ack {
        let credentials = [
            ("Authorization", Header::Authorization),
            ("Proxy-Authorization", Header::ProxyAuthorization),
        ];
        for (name, header) in credentials {
            for value in invite.headers(header) {
                writer = writer.header(name, value);
            }
        }
    }
    Some(writer.finish(None))
}
