//! Bodies: which part of a message describes its session, and whether the rest may be left out (RFC 3261,
//! 20.11; RFC 5621; RFC 2046, 5.1).

use crate::wire::{Header, Message, Params, same_token};

/// The most parts of a multipart body that are looked at; a trunk sends two or three.
pub const MAX_PARTS: usize = 16;

/// How deep multipart bodies may be nested.
const MAX_DEPTH: u32 = 3;

/// Why a body cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyError {
    /// A part that must be understood is not (415).
    Unsupported,
    /// A part that must be understood is encrypted for a key that is not ours (493).
    Undecipherable,
    /// A multipart body that breaks its grammar (400).
    Malformed,
}

impl BodyError {
    /// The status to refuse a request with.
    pub const fn status(self) -> u16 {
        match self {
            BodyError::Unsupported => 415,
            BodyError::Undecipherable => 493,
            BodyError::Malformed => 400,
        }
    }
}

/// A body or a part of one, with what its headers say of it.
#[derive(Clone, Copy, Debug, Default)]
struct Part<'a> {
    content_type: &'a [u8],
    disposition: &'a [u8],
    bytes: &'a [u8],
}

/// The session description of a message, alone or within a multipart body; empty when there is none. What
/// else is there is left out if it is optional.
pub fn session<'a>(message: &Message<'a>) -> Result<&'a [u8], BodyError> {
    if message.body().is_empty() {
        return Ok(&[]);
    }
    let whole = Part {
        content_type: message.header(Header::ContentType).unwrap_or_default(),
        disposition: message.header(Header::ContentDisposition).unwrap_or_default(),
        bytes: message.body(),
    };
    Ok(whole.session(MAX_DEPTH)?.unwrap_or_default())
}

impl<'a> Part<'a> {
    fn session(self, depth: u32) -> Result<Option<&'a [u8]>, BodyError> {
        let (kind, params) = value(self.content_type);
        if same_token(kind, b"application/sdp") && self.is_session() {
            return Ok(Some(self.bytes));
        }
        let multipart = kind.get(..10).is_some_and(|start| same_token(start, b"multipart/"));
        if !multipart || depth == 0 {
            return self.leave_out();
        }
        let boundary = params.value("boundary").ok_or(BodyError::Malformed)?;
        let boundary = boundary.strip_prefix(b"\"").unwrap_or(boundary);
        let boundary = boundary.strip_suffix(b"\"").unwrap_or(boundary);
        let parts = parts(self.bytes, boundary).ok_or(BodyError::Malformed)?;
        // RFC 2046, 5.1.4: "the best choice is the LAST part of a type supported".
        if same_token(kind, b"multipart/alternative") {
            let known = parts.iter().rev().find_map(|part| part.session(depth - 1).ok().flatten());
            return known.map_or_else(|| self.leave_out(), |sdp| Ok(Some(sdp)));
        }
        let mut found = None;
        for part in parts {
            let session = part.session(depth - 1)?;
            found = found.or(session);
        }
        Ok(found)
    }

    /// RFC 3261, 20.11: "If a body's content type is "application/sdp" and this header field is missing, [...]
    /// the disposition is "session"".
    fn is_session(self) -> bool {
        let (disposition, _) = value(self.disposition);
        disposition.is_empty() || same_token(disposition, b"session")
    }

    /// RFC 3261, 20.11: "If the handling parameter is missing, the value "required" SHOULD be assumed", and a
    /// UAS that does not understand such a part answers 415.
    fn leave_out(self) -> Result<Option<&'a [u8]>, BodyError> {
        let (_, params) = value(self.disposition);
        let handling = params.value("handling").unwrap_or_default();
        match same_token(handling, b"optional") {
            true => Ok(None),
            false if self.is_encrypted() => Err(BodyError::Undecipherable),
            false => Err(BodyError::Unsupported),
        }
    }

    /// RFC 3261, 21.4.28: 493 is for "an encrypted MIME body for which the recipient does not possess [...] an
    /// appropriate decryption key". RFC 8551, 3.2.2: what is signed, compressed or a certificate says so.
    fn is_encrypted(self) -> bool {
        let (kind, params) = value(self.content_type);
        let is_sealed = |kind: &[u8]| {
            same_token(kind, b"enveloped-data") || same_token(kind, b"authEnveloped-data")
        };
        same_token(kind, b"application/pkcs7-mime")
            && params.value("smime-type").is_none_or(|kind| is_sealed(kind.trim_ascii()))
    }
}

/// A value and its parameters.
fn value(header: &[u8]) -> (&[u8], Params<'_>) {
    let end = memchr::memchr(b';', header).unwrap_or(header.len());
    (header[..end].trim_ascii(), Params::new(&header[end..]))
}

/// The parts between the lines of the boundary; none when there is no such line, no last one, or more than
/// [`MAX_PARTS`].
fn parts<'a>(body: &'a [u8], boundary: &[u8]) -> Option<Vec<Part<'a>>> {
    // RFC 2046, 5.1.1: "no longer than 70 characters".
    if boundary.is_empty() || boundary.len() > 70 {
        return None;
    }
    let delimiter = [b"--", boundary].concat();
    let mut parts = Vec::new();
    let mut begun: Option<usize> = None;
    for at in memchr::memmem::find_iter(body, &delimiter) {
        // RFC 2046, 5.1.1: "The boundary delimiter MUST occur at the beginning of a line".
        if at != 0 && body[at - 1] != b'\n' {
            continue;
        }
        let after = &body[at + delimiter.len()..];
        let is_last = after.starts_with(b"--");
        let line = memchr::memchr(b'\n', after).map(|end| end + 1);
        let padding = &after[..line.unwrap_or(after.len())];
        if !is_last && !padding.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Some(start) = begun {
            if parts.len() == MAX_PARTS {
                return None;
            }
            // "the CRLF preceding the boundary delimiter line is conceptually attached to the boundary".
            let part = body.get(start..at)?;
            let part = part.strip_suffix(b"\n").unwrap_or(part);
            parts.push(read(part.strip_suffix(b"\r").unwrap_or(part)));
        }
        if is_last {
            return Some(parts);
        }
        begun = Some(at + delimiter.len() + line?);
    }
    None
}

/// Takes the headers of a part from its bytes.
fn read(bytes: &[u8]) -> Part<'_> {
    let mut part = Part::default();
    let mut rest = bytes;
    loop {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        let line = line.trim_ascii();
        if line.is_empty() {
            part.bytes = rest;
            return part;
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        match Header::new(name) {
            Header::ContentType => part.content_type = value,
            Header::ContentDisposition => part.disposition = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lex;

    fn session_of(headers: &str, body: &str) -> Result<String, BodyError> {
        let text = format!(
            "INVITE sip:a@b SIP/2.0\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let message = lex(text.as_bytes()).expect("SIP");
        session(&message).map(|sdp| String::from_utf8(sdp.to_vec()).expect("text"))
    }

    const MIXED: &str = "Content-Type: multipart/mixed;boundary=\"x y\"\r\n";

    #[test]
    fn a_description_alone_is_the_body() {
        let sdp = "Content-Type: application/sdp\r\n";
        assert_eq!(session_of(sdp, "v=0"), Ok("v=0".into()));
        assert_eq!(session_of("", ""), Ok("".into()));
        assert_eq!(session_of("c: APPLICATION/SDP;charset=x\r\n", "v=0"), Ok("v=0".into()));
        let early = format!("{sdp}Content-Disposition: early-session\r\n");
        assert_eq!(session_of(&early, "v=0"), Err(BodyError::Unsupported));
        let early = format!("{sdp}Content-Disposition: early-session;handling=optional\r\n");
        assert_eq!(session_of(&early, "v=0"), Ok("".into()));
        assert_eq!(session_of("Content-Type: text/plain\r\n", "v"), Err(BodyError::Unsupported));
        assert_eq!(session_of("", "v=0"), Err(BodyError::Unsupported));
    }

    #[test]
    fn a_description_is_found_among_parts() {
        let isup = "--x y\r\nContent-Type: application/isup;version=itu\r\n\
                    Content-Disposition: signal;handling=optional\r\n\r\n\x01\x02\r\n";
        let sdp = "--x y\r\ncontent-type: application/sdp\r\n\r\nv=0\r\ns=-\r\n\r\n";
        for body in [format!("{isup}{sdp}--x y--\r\n"), format!("pre\r\n{sdp}{isup}--x y--")] {
            assert_eq!(session_of(MIXED, &body), Ok("v=0\r\ns=-\r\n".into()), "{body}");
        }
        let required = isup.replace("handling=optional", "handling=required");
        let body = format!("{sdp}{required}--x y--\r\n");
        assert_eq!(session_of(MIXED, &body), Err(BodyError::Unsupported));
        let silent = isup.replace(";handling=optional", "");
        let body = format!("{silent}{sdp}--x y--\r\n");
        assert_eq!(session_of(MIXED, &body), Err(BodyError::Unsupported));
        assert_eq!(session_of(MIXED, &format!("{isup}--x y--")), Ok("".into()));
    }

    #[test]
    fn what_is_encrypted_for_another_key_is_told_from_what_is_unknown() {
        let sdp = "--x y\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n";
        for (kind, handling, expected) in [
            ("", "", Err(BodyError::Undecipherable)),
            (";smime-type=enveloped-data;name=smime.p7m", "", Err(BodyError::Undecipherable)),
            (";smime-type=authEnveloped-data", "", Err(BodyError::Undecipherable)),
            (";smime-type=signed-data", "", Err(BodyError::Unsupported)),
            (";smime-type=enveloped-data", ";handling=optional", Ok("v=0".into())),
        ] {
            let head = format!("Content-Type: application/pkcs7-mime{kind}\r\n");
            let head = format!("{head}Content-Disposition: attachment{handling}\r\n");
            let body = format!("{sdp}--x y\r\n{head}\r\nMII\r\n--x y--\r\n");
            assert_eq!(session_of(MIXED, &body), expected, "{head}");
            let alone = expected.map(|_| String::new());
            assert_eq!(session_of(&head, "MII"), alone, "{head}");
        }
        assert_eq!(BodyError::Undecipherable.status(), 493);
    }

    #[test]
    fn the_last_known_alternative_is_taken() {
        let kind = "Content-Type: multipart/alternative; boundary=b\r\n";
        let part =
            |kind: &str, text: &str| format!("--b\r\nContent-Type: {kind}\r\n\r\n{text}\r\n");
        let body = part("application/sdp", "old") + &part("application/sdp", "new");
        let body = body + &part("application/sdpng", "xml") + "--b--";
        assert_eq!(session_of(kind, &body), Ok("new".into()));
        let body = part("text/plain", "a") + "--b--";
        assert_eq!(session_of(kind, &body), Err(BodyError::Unsupported));
    }

    #[test]
    fn nested_parts_are_looked_into_but_not_for_ever() {
        let mut body = "v=0".to_owned();
        let mut kind = "application/sdp".to_owned();
        for depth in 0..6 {
            body = format!("--n{depth}\r\nContent-Type: {kind}\r\n\r\n{body}\r\n--n{depth}--\r\n");
            kind = format!("multipart/mixed;boundary=n{depth}");
            let expected = if depth < 3 { Ok("v=0".into()) } else { Err(BodyError::Unsupported) };
            assert_eq!(session_of(&format!("Content-Type: {kind}\r\n"), &body), expected);
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for body in ["", "--x y", "--x y\r\n\r\nv=0", "--x yz\r\n\r\n--x y z--", "a--x y\r\n--x y"]
        {
            if !body.is_empty() {
                assert_eq!(session_of(MIXED, body), Err(BodyError::Malformed), "{body}");
            }
        }
        let none = "Content-Type: multipart/mixed\r\n";
        assert_eq!(session_of(none, "--\r\n\r\n----"), Err(BodyError::Malformed));
        let many = "--x y\r\n\r\n\r\n".repeat(MAX_PARTS + 2);
        assert_eq!(session_of(MIXED, &format!("{many}--x y--")), Err(BodyError::Malformed));
    }
}
