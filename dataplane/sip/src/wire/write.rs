use std::io::Write as _;
use std::net::SocketAddr;

use super::scan::{same_token, split_commas};
use super::{Header, Message, Via};

/// Room beside the copied headers that a response without body needs.
const RESPONSE_ROOM: usize = 512;

/// A response to `request` (RFC 3261, 8.2.6), ready to send.
///
/// Copies every Via in order, From, To, Call-ID and CSeq; Record-Route in 101 to 299 (12.1.1) and
/// Timestamp in 100 (8.2.6.1). The top Via gets `received` and `rport` (RFC 3581), To gets `to_tag`
/// unless it has a tag. `extra` headers come next, then the body with its Content-Type and the
/// Content-Length. Line ends inside values become blanks.
pub fn response(
    request: &Message<'_>,
    status: u16,
    reason: &str,
    to_tag: Option<&str>,
    received_from: SocketAddr,
    extra: &[(&str, &[u8])],
    body: Option<(&str, &[u8])>,
) -> Vec<u8> {
    let body_len = body.map_or(0, |(_, bytes)| bytes.len());
    let mut out = Vec::with_capacity(request.bytes().len() + body_len + RESPONSE_ROOM);
    put(&mut out, format_args!("SIP/2.0 {status:03} "));
    push_text(&mut out, reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    // RFC 3261, 8.2.6.2: "The Via header field values in the response MUST equal the Via header
    // field values in the request and MUST maintain the same ordering."
    // Lists stay on as few lines as they came on, so that an answer has no more lines than may be read.
    let mut at = 0;
    for values in lines_of(request, Header::Via) {
        let mut name = "Via: ";
        for value in split_commas(values) {
            at += 1;
            // What is no Via is left out; only the refusal of such a request is without it.
            let Some(via) = Via::parse(value) else { continue };
            out.extend_from_slice(name.as_bytes());
            match at {
                1 => push_top_via(&mut out, value, &via, received_from),
                _ => push_text(&mut out, value),
            }
            name = ", ";
        }
        if name == ", " {
            out.extend_from_slice(b"\r\n");
        }
    }
    if (101..300).contains(&status) {
        let routes = lines_of(request, Header::RecordRoute);
        for values in routes.filter(|values| split_commas(values).next().is_some()) {
            push_header(&mut out, "Record-Route", values);
        }
    }
    copy(&mut out, request, Header::From);
    push_to(&mut out, request, to_tag);
    copy(&mut out, request, Header::CallId);
    copy(&mut out, request, Header::CSeq);
    if status == 100 {
        copy(&mut out, request, Header::Timestamp);
    }
    for (name, value) in extra {
        push_header(&mut out, name, value);
    }
    push_body(&mut out, body);
    out
}

/// Builds a request: the Request-Line, headers in the order of the calls, the body.
#[derive(Clone, Debug)]
pub struct RequestWriter {
    out: Vec<u8>,
}

impl RequestWriter {
    /// Starts with `method SP uri SP SIP/2.0`.
    pub fn new(method: &[u8], uri: &[u8]) -> Self {
        let mut out = Vec::with_capacity(1024);
        push_text(&mut out, method);
        out.push(b' ');
        push_text(&mut out, uri);
        // RFC 3261, 7.1: "implementations MUST send upper-case".
        out.extend_from_slice(b" SIP/2.0\r\n");
        RequestWriter { out }
    }

    /// Adds a header line; line ends inside `value` become blanks.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        push_header(&mut self.out, name, value.as_ref());
        self
    }

    /// Adds a header line with formatted text.
    #[must_use]
    pub fn header_fmt(self, name: &str, value: core::fmt::Arguments<'_>) -> Self {
        match value.as_str() {
            Some(plain) => self.header(name, plain),
            None => self.header(name, value.to_string()),
        }
    }

    /// Ends the headers with Content-Type and Content-Length, and appends the body.
    pub fn finish(mut self, body: Option<(&str, &[u8])>) -> Vec<u8> {
        push_body(&mut self.out, body);
        self.out
    }
}

/// The usual phrase of a status (RFC 3261, 21, and the IANA registry); of an unknown one, its
/// class.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        429 => "Provide Referrer Identity",
        433 => "Anonymity Disallowed",
        439 => "First Hop Lacks Outbound Support",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => class_phrase(status),
    }
}

/// RFC 3261, 8.1.3.2: an unknown status means what the x00 of its class means.
fn class_phrase(status: u16) -> &'static str {
    match status / 100 {
        1 => "Session Progress",
        2 => "OK",
        3 => "Redirected",
        4 => "Request Failure",
        5 => "Server Failure",
        _ => "Global Failure",
    }
}

/// RFC 3581, 4: "When a server compliant to this specification (which can be a proxy or UAS)
/// receives a request, it examines the topmost Via header field value. If this Via header field
/// value contains an "rport" parameter with no value, it MUST set the value of the parameter to the
/// source port of the request." and "it MUST insert a "received" parameter containing the source IP
/// address that the request came from, even if it is identical to the value of the "sent-by"
/// component".
///
/// RFC 3261, 18.2.1: "If the host portion of the "sent-by" parameter contains a domain name, or if
/// it contains an IP address that differs from the packet source address, the server MUST add a
/// "received" parameter". What the sender claimed in these two is replaced.
fn push_top_via(out: &mut Vec<u8>, value: &[u8], via: &Via<'_>, from: SocketAddr) {
    let params = via.params.as_bytes();
    push_text(out, &value[..value.len() - params.len()]);
    let mut rport_written = false;
    for (name, value) in via.params {
        if same_token(name, b"received") || (rport_written && same_token(name, b"rport")) {
            continue;
        }
        out.push(b';');
        push_text(out, name);
        if same_token(name, b"rport") {
            put(out, format_args!("={}", from.port()));
            rport_written = true;
        } else if let Some(value) = value {
            out.push(b'=');
            push_text(out, value);
        }
    }
    let source = from.ip().to_canonical();
    if rport_written || via.host_ip() != Some(source) {
        put(out, format_args!(";received={source}"));
    }
}

/// RFC 3261, 8.2.6.2: "if the To header field in the request did not contain a tag, the URI in the
/// To header field in the response MUST equal the URI in the To header field; additionally, the UAS
/// MUST add a tag to the To header field in the response (with the exception of the 100 (Trying)
/// response, in which a tag MAY be present)."
fn push_to(out: &mut Vec<u8>, request: &Message<'_>, to_tag: Option<&str>) {
    let Some(value) = request.header(Header::To) else {
        return;
    };
    out.extend_from_slice(b"To: ");
    push_text(out, value);
    let tagged = request.to().is_ok_and(|to| to.param("tag").is_some());
    if let (Some(tag), false) = (to_tag, tagged) {
        out.extend_from_slice(b";tag=");
        push_text(out, tag.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The values of each line of a header.
fn lines_of<'a>(request: &Message<'a>, header: Header) -> impl Iterator<Item = &'a [u8]> {
    let lines = request.lines().filter(move |(kind, _, _)| *kind == header);
    lines.map(|(_, _, values)| values)
}

fn copy(out: &mut Vec<u8>, request: &Message<'_>, header: Header) {
    if let Some(value) = request.header(header) {
        push_header(out, header.name(), value);
    }
}

fn push_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    push_text(out, name.as_bytes());
    out.extend_from_slice(b": ");
    push_text(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `text`; a line end and the blanks after it become one blank, so that a folded value is
/// unfolded and no value can begin a line of its own.
fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(b' ');
        let blanks = rest[at..].iter().position(|b| !b" \t\r\n".contains(b));
        rest = blanks.map_or(&[][..], |len| &rest[at + len..]);
    }
    out.extend_from_slice(rest);
}

fn push_body(out: &mut Vec<u8>, body: Option<(&str, &[u8])>) {
    let bytes = match body {
        Some((content_type, bytes)) => {
            push_header(out, "Content-Type", content_type.as_bytes());
            bytes
        }
        None => &[],
    };
    put(out, format_args!("Content-Length: {}\r\n\r\n", bytes.len()));
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, text: core::fmt::Arguments<'_>) {
    // Writing into a Vec cannot fail.
    let _ = out.write_fmt(text);
}
