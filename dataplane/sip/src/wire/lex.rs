use super::message::{Line, Message, Parts, Start};
use super::scan::{is_token, is_token_byte, number, same_token, trim};
use super::{Header, LexError, MAX_DATAGRAM, MAX_HEADERS, Method};

/// Finds the parts of one datagram; allocates nothing and copies nothing.
///
/// An error means that there is nothing to answer: no start line, no names and colons, no end of the
/// headers. What is wrong with a message that can be told apart from noise, as the Request-Line's
/// grammar or a Content-Length beyond the datagram, is kept for [`Message::check`], so that its sender
/// hears of it; the body is then all that follows the headers. The headers that every message must
/// have are looked at there as well.
pub fn lex(datagram: &[u8]) -> Result<Message<'_>, LexError> {
    let end = |end, body, length: &Length| (*length).and_then(|length| body_end(end, body, length));
    lex_parts(datagram, end).map(|(message, _)| message)
}

/// What Content-Length says, when it is there.
pub(super) type Length = Result<Option<usize>, LexError>;

/// The same for a message whose body has not come yet: its head, and the length of the body where the head
/// tells one.
pub(super) fn lex_head(head: &[u8]) -> Result<(Message<'_>, Length), LexError> {
    lex_parts(head, |_, body, length| (*length).map(|_| body))
}

/// `body_end` says where the body ends, from where the bytes end, where the body begins, and its length.
fn lex_parts(
    datagram: &[u8],
    body_end: impl FnOnce(usize, usize, &Length) -> Result<usize, LexError>,
) -> Result<(Message<'_>, Length), LexError> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(LexError::TooLarge);
    }
    let leading = leading(datagram)?;
    let (end, mut at) = line_end(datagram, leading)?;
    let (start, mut fault) = start_line(&datagram[leading..end])?;
    let mut lines = [Line::EMPTY; MAX_HEADERS];
    let mut count = 0;
    let mut seen = 0_u128;
    let mut repeated = 0_u128;
    let mut content_length = Ok(None);
    let first_line = at;
    let body = loop {
        match datagram.get(at..) {
            None | Some([]) => return Err(LexError::NoEmptyLine),
            Some([b'\n', ..]) => break at + 1,
            Some([b'\r', b'\n', ..]) => break at + 2,
            Some(_) => {}
        }
        let slot = lines.get_mut(count).ok_or(LexError::TooManyHeaders)?;
        let (line, next) = header_line(datagram, at)?;
        if line.kind == Header::ContentLength {
            content_length = content_length
                .and_then(|earlier| read_content_length(line.value(datagram), earlier));
        }
        repeated |= seen & line.kind.bit();
        seen |= line.kind.bit();
        *slot = line;
        count += 1;
        at = next;
    };
    let end = body_end(datagram.len(), body, &content_length).unwrap_or_else(|error| {
        fault = fault.or(Some(error));
        datagram.len()
    });
    let parts = Parts { leading, first_line, lines_end: at, body, body_end: end, count, fault };
    Ok((Message::new(datagram, start, lines, parts, seen, repeated), content_length))
}

/// How many bytes come before the start line.
///
/// RFC 3261, 7.5: "Implementations processing SIP messages over stream-oriented transports MUST
/// ignore any CRLF appearing before the start-line"; real phones send it over UDP too.
fn leading(datagram: &[u8]) -> Result<usize, LexError> {
    match datagram.iter().position(|b| !matches!(b, b'\r' | b'\n')) {
        Some(at) if datagram[at] != 0 => Ok(at),
        Some(at) if datagram[at..].iter().any(|b| !matches!(b, 0 | b'\r' | b'\n')) => {
            Err(LexError::StartLine)
        }
        _ => Err(LexError::KeepAlive),
    }
}

/// Where the line that holds `at` ends, without and with its line end: CRLF, or LF alone.
fn line_end(datagram: &[u8], at: usize) -> Result<(usize, usize), LexError> {
    let rest = datagram.get(at..).ok_or(LexError::NoEmptyLine)?;
    let end = at + memchr::memchr2(b'\r', b'\n', rest).ok_or(LexError::NoEmptyLine)?;
    match (datagram[end], datagram.get(end + 1)) {
        (b'\n', _) => Ok((end, end + 1)),
        (_, Some(b'\n')) => Ok((end, end + 2)),
        // The other side of a relay could take a lone CR for a line end, and see a header we did
        // not.
        _ => Err(LexError::BareCr),
    }
}

/// RFC 3261, 7.1: "Method SP Request-URI SP SIP-Version CRLF"; 7.2: "SIP-Version SP Status-Code SP
/// Reason-Phrase CRLF". Beside it what is wrong with a line that is one of these nevertheless.
fn start_line(line: &[u8]) -> Result<(Start<'_>, Option<LexError>), LexError> {
    let space = memchr::memchr(b' ', line).ok_or(LexError::StartLine)?;
    let (first, rest) = (&line[..space], &line[space + 1..]);
    let fault_of = |version_2: bool| (!version_2).then_some(LexError::Version);
    if first.len() > 4 && same_token(&first[..4], b"SIP/") {
        let version_2 = version(first).ok_or(LexError::StartLine)?;
        let (digits, reason) = match memchr::memchr(b' ', rest) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        let status = number::<u16>(digits).filter(|s| digits.len() == 3 && (100..=699).contains(s));
        let status = status.ok_or(LexError::StartLine)?;
        return Ok((Start::Response { status, reason }, fault_of(version_2)));
    }
    let whole = trim(rest);
    let space = memchr::memrchr(b' ', whole).ok_or(LexError::StartLine)?;
    let (uri, last) = (trim(&whole[..space]), &whole[space + 1..]);
    let version_2 = version(last).ok_or(LexError::StartLine)?;
    if !is_token(first) || uri.is_empty() {
        return Err(LexError::StartLine);
    }
    // RFC 3261, 7.1: "The Request-URI MUST NOT contain unescaped spaces or control characters and
    // MUST NOT be enclosed in "<>"." Nor is there more than one blank between the parts.
    let clean = !uri.iter().any(|&b| b <= b' ' || matches!(b, b'<' | b'>' | b'"' | 0x7f));
    let exact = uri.len() + 1 + last.len() == rest.len();
    let fault = fault_of(version_2).or((!clean || !exact).then_some(LexError::StartLine));
    Ok((Start::Request { method: Method::new(first), uri }, fault))
}

/// Whether a SIP-Version is 2.0; none when it is not a SIP-Version at all.
fn version(bytes: &[u8]) -> Option<bool> {
    let (name, number) = bytes.split_at_checked(4)?;
    let dot = memchr::memchr(b'.', number)?;
    let (major, minor) = (&number[..dot], &number[dot + 1..]);
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let well_formed = same_token(name, b"SIP/") && digits(major) && digits(minor);
    well_formed.then_some(number == b"2.0")
}

/// One header line from `at`, with the lines that continue it, and where the next begins.
///
/// RFC 3261, 7.3.1: "Header fields can be extended over multiple lines by preceding each extra line
/// with at least one SP or horizontal tab (HT)."
fn header_line(datagram: &[u8], at: usize) -> Result<(Line, usize), LexError> {
    let mut colon = at;
    while datagram.get(colon).is_some_and(|&b| is_token_byte(b)) {
        colon += 1;
    }
    let name_end = colon;
    while matches!(datagram.get(colon), Some(b' ' | b'\t')) {
        colon += 1;
    }
    if name_end == at || datagram.get(colon) != Some(&b':') {
        return Err(LexError::HeaderName);
    }
    let (mut end, mut next) = line_end(datagram, colon + 1)?;
    while matches!(datagram.get(next), Some(b' ' | b'\t')) {
        (end, next) = line_end(datagram, next)?;
    }
    let raw = &datagram[colon + 1..end];
    let from_start = trim(raw);
    let blanks = from_start.as_ptr() as usize - raw.as_ptr() as usize;
    let value = colon + 1 + blanks;
    let line = Line {
        start: at as u16,
        name_end: name_end as u16,
        value: value as u16,
        value_end: (value + from_start.len()) as u16,
        kind: Header::new(&datagram[at..name_end]),
    };
    Ok((line, next))
}

/// RFC 3261, 20.14: "Any Content-Length greater than or equal to zero is a valid value." Two of them
/// must agree.
fn read_content_length(value: &[u8], earlier: Option<usize>) -> Result<Option<usize>, LexError> {
    let read = number::<u32>(value).ok_or(LexError::ContentLength)? as usize;
    match earlier {
        Some(earlier) if earlier != read => Err(LexError::ContentLength),
        _ => Ok(Some(read)),
    }
}

/// Where the body ends.
///
/// RFC 3261, 18.3: "If there are additional bytes in the transport packet beyond the end of the
/// body, they MUST be discarded. If the transport packet ends before the end of the message body,
/// this is considered an error." and "If the message does not have a Content-Length header field,
/// the message body is assumed to end at the end of the transport packet."
fn body_end(len: usize, body: usize, content_length: Option<usize>) -> Result<usize, LexError> {
    match content_length {
        None => Ok(len),
        Some(length) if length <= len - body => Ok(body + length),
        Some(_) => Err(LexError::Truncated),
    }
}
