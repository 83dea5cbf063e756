use core::fmt;
use core::net::SocketAddr;

use super::lex::lex_head;
use super::{LexError, MAX_DATAGRAM, Method, Start, reason_phrase, response};

/// The longest start line and headers that are taken from a stream, in bytes: ten times those of a trunk's
/// INVITE.
pub const MAX_HEAD: usize = 16_384;

/// The longest body that is taken from a stream, in bytes.
pub const MAX_BODY: usize = 32_768;

const _: () = assert!(MAX_HEAD + MAX_BODY <= MAX_DATAGRAM, "a message is lexed whole");

/// Cuts a stream of bytes into messages (RFC 3261, 18.3).
///
/// Bytes are put in by [`Framer::feed`], then [`Framer::next_frame`] is called until it has none. Every byte is
/// looked at and moved a bounded number of times, however the stream is cut; what waits is never more than one
/// message and the bytes of one feed.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Where the message begins that is not whole yet, and how far the end of its head was looked for.
    start: usize,
    searched: usize,
    /// The length of the message, once its head is there.
    length: Option<usize>,
    /// How many of the four bytes of a ping have come (RFC 5626, 3.5.1).
    ping: usize,
    /// Where the head ends that ended it all.
    broken_head: usize,
}

/// What comes out of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One message, whole.
    Message(&'a [u8]),
    /// A double CRLF, to be answered by a single one.
    Ping,
}

/// Why a stream cannot go on: nobody knows where its next message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// More than [`MAX_HEAD`] without the empty line that ends a head.
    HeadTooLarge,
    /// Its Content-Length is more than [`MAX_BODY`].
    BodyTooLarge,
    /// There is no Content-Length.
    NoContentLength,
    /// It is no SIP message.
    Malformed(LexError),
}

impl Framer {
    /// Takes what the stream brought. Frames that are there are to be taken out before more is fed.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; none while it is not whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                if self.skip_line_ends() {
                    return Ok(Some(Frame::Ping));
                }
                let Some(head) = self.find_head()? else {
                    self.release();
                    return Ok(None);
                };
                let length = self.length_of(head)?;
                self.length = Some(length);
                length
            }
        };
        let Some(message) = self.buffer.get(self.start..self.start + length) else {
            return Ok(None);
        };
        self.start += length;
        self.searched = self.start;
        self.length = None;
        Ok(Some(Frame::Message(message)))
    }

    /// True while a message has begun and is not whole.
    pub fn is_amid_message(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The answer to the request that ended the stream by `error`; none where it was no request, or one that
    /// nobody could match an answer to. `from` is who sent it.
    pub fn refusal(&self, error: FrameError, from: SocketAddr) -> Option<Vec<u8>> {
        let head = self.buffer.get(self.start..self.broken_head)?;
        let (message, _) = lex_head(head).ok()?;
        let is_answered =
            matches!(message.start(), Start::Request { method, .. } if method != Method::Ack);
        // Its length cannot be told, but who sent it can.
        let is_whole = matches!(message.check(), Ok(()) | Err(LexError::ContentLength));
        if !is_answered || !is_whole {
            return None;
        }
        let status = match error {
            FrameError::BodyTooLarge => 513,
            _ => 400,
        };
        Some(response(&message, status, reason_phrase(status), Some("0"), from, &[], None))
    }

    /// RFC 3261, 7.5: "Implementations processing SIP messages over stream-oriented transports MUST ignore any
    /// CRLF appearing before the start-line". True after a double one. RFC 5626, 4.4.1: "When a server receives a
    /// double CRLF sequence between SIP messages on a connection-oriented transport, it MUST immediately respond
    /// with a single CRLF over the same connection."
    fn skip_line_ends(&mut self) -> bool {
        while let Some(&byte) = self.buffer.get(self.start) {
            if !matches!(byte, b'\r' | b'\n') {
                self.ping = 0;
                return false;
            }
            self.start += 1;
            self.searched = self.start;
            self.ping = match byte == b"\r\n\r\n"[self.ping] {
                true => self.ping + 1,
                false => usize::from(byte == b'\r'),
            };
            if self.ping == 4 {
                self.ping = 0;
                return true;
            }
        }
        false
    }

    /// Where the head ends. The lexer ends it at the first line that is empty, too.
    fn find_head(&mut self) -> Result<Option<usize>, FrameError> {
        while let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            let line_end = self.searched + at;
            let end = match self.buffer[line_end + 1..] {
                [b'\n', ..] => Some(line_end + 2),
                [b'\r', b'\n', ..] => Some(line_end + 3),
                // What follows tells; it is looked at again then.
                [] | [b'\r'] => {
                    self.searched = line_end;
                    return self.within_limit(self.buffer.len()).map(|_| None);
                }
                _ => None,
            };
            if let Some(end) = end {
                return self.within_limit(end).map(Some);
            }
            self.searched = line_end + 1;
        }
        self.searched = self.buffer.len();
        self.within_limit(self.buffer.len()).map(|_| None)
    }

    fn within_limit(&self, end: usize) -> Result<usize, FrameError> {
        if end - self.start > MAX_HEAD { Err(FrameError::HeadTooLarge) } else { Ok(end) }
    }

    /// The length of the message whose head ends at `end`.
    ///
    /// RFC 3261, 18.3: "In the case of stream-oriented transports such as TCP, the Content-Length header field
    /// indicates the size of the body. The Content-Length header field MUST be used with stream oriented
    /// transports."
    fn length_of(&mut self, end: usize) -> Result<usize, FrameError> {
        let head = &self.buffer[self.start..end];
        let length = lex_head(head).map_err(FrameError::Malformed).and_then(|(_, body)| {
            let body = body.map_err(FrameError::Malformed)?.ok_or(FrameError::NoContentLength)?;
            if body > MAX_BODY { Err(FrameError::BodyTooLarge) } else { Ok(head.len() + body) }
        });
        self.broken_head = end;
        length
    }

    /// A stream at rest takes no memory.
    fn release(&mut self) {
        if self.start == self.buffer.len() {
            (self.start, self.searched) = (0, 0);
            self.buffer = Vec::new();
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::HeadTooLarge => write!(f, "a head of more than {MAX_HEAD} bytes"),
            FrameError::BodyTooLarge => write!(f, "a body of more than {MAX_BODY} bytes"),
            FrameError::NoContentLength => f.write_str("no Content-Length in a stream"),
            FrameError::Malformed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\n\
        From: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n";

    /// What comes out when the bytes come in pieces of that size.
    fn frames(bytes: &[u8], piece: usize) -> (Vec<Option<Vec<u8>>>, Option<FrameError>, Framer) {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            framer.feed(piece);
            loop {
                match framer.next_frame() {
                    Ok(Some(Frame::Message(message))) => found.push(Some(message.to_vec())),
                    Ok(Some(Frame::Ping)) => found.push(None),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error), framer),
                }
            }
        }
        (found, None, framer)
    }

    #[test]
    fn a_stream_gives_the_same_frames_however_it_is_cut() {
        let first = format!("{INVITE}Content-Length: 5\r\n\r\nv=0\r\n");
        let compact = format!("{INVITE}l : 4\n\nabcd");
        let stream = format!("\r\n{first}{compact}\r\n\r\n\r\n{first}\r\n\r\n\r\n\r\n");
        let message = |text: &str| Some(text.as_bytes().to_vec());
        let expected = vec![message(&first), message(&compact), None, message(&first), None, None];
        for piece in 1..stream.len() {
            let (found, error, framer) = frames(stream.as_bytes(), piece);
            assert_eq!((&found, error), (&expected, None), "pieces of {piece}");
            assert!(!framer.is_amid_message());
            assert_eq!(framer.buffer.capacity(), 0, "at rest it takes no memory");
        }
    }

    #[test]
    fn what_cannot_be_framed_ends_the_stream() {
        let long = format!("{INVITE}Subject: {}\r\n", "x".repeat(MAX_HEAD));
        let cases = [
            (format!("{INVITE}\r\n"), FrameError::NoContentLength, Some("SIP/2.0 400 ")),
            (
                format!("{INVITE}Content-Length: 32769\r\n\r\n"),
                FrameError::BodyTooLarge,
                Some("SIP/2.0 513 "),
            ),
            (long, FrameError::HeadTooLarge, None),
            (
                format!("{INVITE}Content-Length: -1\r\n\r\n"),
                FrameError::Malformed(LexError::ContentLength),
                Some("SIP/2.0 400 "),
            ),
            (
                format!("{INVITE}Content-Length: 1\r\nl: 2\r\n\r\n"),
                FrameError::Malformed(LexError::ContentLength),
                Some("SIP/2.0 400 "),
            ),
            ("GET / HTTP/1.1\r\n\r\n".into(), FrameError::Malformed(LexError::StartLine), None),
            ("SIP/2.0 200 OK\r\nVia: x\r\n\r\n".into(), FrameError::NoContentLength, None),
        ];
        let from = SocketAddr::from(([192, 0, 2, 1], 5060));
        for (stream, expected, answer) in cases {
            for piece in [1, 7, 100_000] {
                let (found, error, framer) = frames(stream.as_bytes(), piece);
                assert_eq!((found.len(), error), (0, Some(expected)), "{stream}");
                let refusal = framer.refusal(expected, from);
                let refusal = refusal.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                match answer {
                    Some(status) => {
                        let refusal = refusal.expect("it can be answered");
                        assert!(refusal.starts_with(status), "{refusal}");
                        assert!(refusal.contains("\r\nContent-Length: 0\r\n"), "{refusal}");
                    }
                    None => assert_eq!(refusal, None, "{stream}"),
                }
            }
        }
    }

    #[test]
    fn a_stream_of_line_ends_takes_no_memory() {
        let mut framer = Framer::default();
        let mut pings = 0;
        for _ in 0..1_000 {
            framer.feed(b"\r\n\n\r\r\n\r\n");
            while let Ok(Some(frame)) = framer.next_frame() {
                assert_eq!(frame, Frame::Ping);
                pings += 1;
            }
            assert_eq!(framer.buffer.len(), 0);
        }
        assert_eq!(pings, 1_000);
    }
}
