use std::net::SocketAddr;

use sip::digest::{Challenge, Credentials};
use sip::wire::{
    Header, MAX_HEADERS, Message, NameAddr, RequestWriter, Start, Uri, Via, lex, response,
    split_commas, unescape, unquote,
};

/// What an answer may be longer than its request, in bytes: names that were compact, a tag, addresses.
const SURPLUS: usize = 1_024;
/// Lines that a writer may add to those of a message: Content-Type and Content-Length. With them, one of ours may have
/// more than are read.
const ADDED: usize = 2;

pub(crate) fn target(bytes: &[u8]) {
    let Ok(message) = lex(bytes) else { return };
    assert_eq!(message.spans().collect::<Vec<_>>().concat(), bytes, "something was lost");
    ask(&message);
    if message.lines().count() + ADDED > MAX_HEADERS {
        return;
    }
    answer(&message);
    if message.check().is_ok() {
        write_again(&message);
    }
}

/// Asks a message everything that there is to ask.
fn ask(message: &Message<'_>) {
    let _ = (message.via(), message.from(), message.to(), message.contact(), message.call_id());
    let _ = (message.cseq(), message.max_forwards(), message.expires(), message.content_type());
    let _ = format!("{message:?}");
    for header in Header::ALL.iter().chain([&Header::Other]) {
        let mut length = 0;
        for value in message.headers(*header) {
            length += value.len();
            take_apart(value);
        }
        assert!(length <= message.bytes().len(), "{header:?} is longer than its message");
        assert_eq!(message.has(*header), message.lines().any(|(kind, _, _)| kind == *header));
    }
}

fn take_apart(value: &[u8]) {
    let from = SocketAddr::from(([192, 0, 2, 1], 9));
    let _ = Via::parse(value).map(|via| via.response_address(from));
    let _ = NameAddr::parse(value).map(|addr| (addr.tag(), addr.parsed_uri(), addr.expires()));
    if let Ok(uri) = Uri::parse(value) {
        assert!(uri.same_resource(&uri), "a URI is not itself");
        let _ = uri.host_ip();
    }
    let _ = (Credentials::parse(value), Challenge::parse(value));
    let elements: usize = split_commas(value).map(<[u8]>::len).sum();
    assert!(elements <= value.len(), "a list's elements are longer than it");
    assert!(unquote(value).len() <= value.len() && unescape(value).len() <= value.len());
}

/// RFC 3261, 8.2.6: the answer can be read, and is the request's.
fn answer(message: &Message<'_>) {
    let from = SocketAddr::from(([192, 0, 2, 1], 9));
    let body = Some(("a/b", message.body()));
    let out = response(message, 200, "OK", Some("t"), from, &[], body);
    let length = 4 * message.bytes().len() + SURPLUS;
    assert!(out.len() <= length, "{} bytes for {}", out.len(), message.bytes().len());
    let read = lex(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!((read.status(), read.body()), (Some(200), message.body()));
    if message.check().is_ok() {
        read.check().unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
        assert_eq!(read.call_id(), message.call_id());
        assert_eq!(read.cseq(), message.cseq());
        let vias = |of: &Message<'_>| of.headers(Header::Via).count();
        assert_eq!(vias(&read), vias(message));
        let branch = |of: &Message<'_>| of.via().ok()?.branch.map(<[u8]>::to_vec);
        assert_eq!(branch(&read), branch(message));
        let tag = |of: &Message<'_>| of.from().ok()?.tag().map(<[u8]>::to_vec);
        assert_eq!(tag(&read), tag(message));
        assert!(read.to().is_ok_and(|to| to.param("tag").is_some()), "no To tag");
    }
}

/// A sound message in our own writing is sound, says the same, and is written so again.
fn write_again(message: &Message<'_>) {
    let Start::Request { .. } = message.start() else { return };
    let out = written(message);
    let again = lex(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    again.check().unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!(again.start(), message.start());
    assert_eq!(again.body(), message.body());
    assert_eq!(lines(&again), lines(message));
    assert_eq!(written(&again), out);
}

fn written(message: &Message<'_>) -> Vec<u8> {
    let method = message.method().expect("a request");
    let uri = message.request_uri().expect("a request");
    let mut writer = RequestWriter::new(method.as_bytes(), uri);
    for (header, name, value) in message.lines().filter(|(header, _, _)| !is_own(*header)) {
        let name = std::str::from_utf8(name).unwrap_or_else(|_| panic!("{header:?} is no token"));
        writer = writer.header(name, value);
    }
    writer.finish(Some(("a/b", message.body())))
}

/// What a writer adds itself.
fn is_own(header: Header) -> bool {
    matches!(header, Header::ContentLength | Header::ContentType)
}

fn lines(message: &Message<'_>) -> Vec<(Header, Vec<u8>, Vec<Vec<u8>>)> {
    let words = |value: &[u8]| -> Vec<Vec<u8>> {
        let blank = |byte: &u8| b" \t\r\n".contains(byte);
        let words = value.split(blank).filter(|word| !word.is_empty());
        words.map(<[u8]>::to_vec).collect()
    };
    let kept = message.lines().filter(|(header, _, _)| !is_own(*header));
    kept.map(|(header, name, value)| (header, name.to_vec(), words(value))).collect()
}
