use core::fmt;

use super::scan::{Commas, number, seconds, split_commas, token};
use super::{Header, LexError, MAX_HEADERS, Method, NameAddr, Uri, Via};

/// The first line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// A request.
    Request {
        /// What is asked.
        method: Method<'a>,
        /// The Request-URI as written.
        uri: &'a [u8],
    },
    /// A response.
    Response {
        /// 100 to 699.
        status: u16,
        /// The reason phrase; may be empty.
        reason: &'a [u8],
    },
}

/// The value of CSeq (RFC 3261, 20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Below 2^31.
    pub number: u32,
    /// The method of the request, also in its responses.
    pub method: Method<'a>,
}

/// Where a header line lies in the datagram; offsets in bytes.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) start: u16,
    pub(super) name_end: u16,
    pub(super) value: u16,
    pub(super) value_end: u16,
    pub(super) kind: Header,
}

impl Line {
    pub(super) const EMPTY: Line =
        Line { start: 0, name_end: 0, value: 0, value_end: 0, kind: Header::Other };

    fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[usize::from(self.start)..usize::from(self.name_end)]
    }

    pub(super) fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[usize::from(self.value)..usize::from(self.value_end)]
    }
}

/// Where the parts of a message lie; offsets in bytes.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) leading: usize,
    pub(super) first_line: usize,
    pub(super) lines_end: usize,
    pub(super) body: usize,
    pub(super) body_end: usize,
    pub(super) count: usize,
    /// What is wrong with it although it could be lexed.
    pub(super) fault: Option<LexError>,
}

/// A lexed message: the datagram and where its parts lie. About 1 KiB, on the stack.
#[derive(Clone)]
pub struct Message<'a> {
    bytes: &'a [u8],
    start: Start<'a>,
    parts: Parts,
    /// One bit for each [`Header`] that is there; and for each that is there on two lines or more.
    seen: u128,
    repeated: u128,
    lines: [Line; MAX_HEADERS],
}

impl<'a> Message<'a> {
    pub(super) fn new(
        bytes: &'a [u8],
        start: Start<'a>,
        lines: [Line; MAX_HEADERS],
        parts: Parts,
        seen: u128,
        repeated: u128,
    ) -> Self {
        Message { bytes, start, parts, seen, repeated, lines }
    }

    /// The first line.
    pub fn start(&self) -> Start<'a> {
        self.start
    }

    /// The method of a request; none for a response.
    pub fn method(&self) -> Option<Method<'a>> {
        match self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI of a request as written; none for a response.
    pub fn request_uri(&self) -> Option<&'a [u8]> {
        match self.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    /// The status of a response; none for a request.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(status),
        }
    }

    /// The whole datagram.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The body, as long as Content-Length says.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.parts.body..self.parts.body_end]
    }

    /// The first value of a header without blanks around it: of a list its first element.
    ///
    /// A folded value keeps its line ends; the parsers of this module take them for blanks.
    pub fn header(&self, header: Header) -> Option<&'a [u8]> {
        if header.is_list() { self.headers(header).next() } else { self.line_values(header).next() }
    }

    /// Every value of a header in order; lists are split at their top-level commas.
    pub fn headers(&self, header: Header) -> Values<'_, 'a> {
        let lines = if self.has(header) { self.lines_in_use() } else { &[] };
        Values { bytes: self.bytes, lines: lines.iter(), header, list: Commas::EMPTY }
    }

    /// True when the header is there.
    pub fn has(&self, header: Header) -> bool {
        self.seen & header.bit() != 0
    }

    /// The first value of the header called `name`, also of one that [`Header`] does not know.
    pub fn header_named(&self, name: &str) -> Option<&'a [u8]> {
        let header = Header::new(name.as_bytes());
        if header != Header::Other {
            return self.header(header);
        }
        let mut lines = self.lines();
        lines.find(|(_, n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, value)| value)
    }

    /// Every header line in order: what it is, its name and its value as written.
    pub fn lines(&self) -> Lines<'_, 'a> {
        Lines { bytes: self.bytes, lines: self.lines_in_use().iter() }
    }

    /// The datagram in consecutive pieces: what precedes the start line, the start line, each
    /// header line with its continuations, the empty line, the body, and what follows it. Joined
    /// they are the datagram.
    pub fn spans(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        let Parts { leading, first_line, lines_end, body, body_end, .. } = self.parts;
        let lines = self.lines_in_use();
        let line_spans = lines.iter().enumerate().map(move |(at, line)| {
            let next = lines.get(at + 1).map_or(lines_end, |next| usize::from(next.start));
            usize::from(line.start)..next
        });
        [0..leading, leading..first_line]
            .into_iter()
            .chain(line_spans)
            .chain([lines_end..body, body..body_end, body_end..self.bytes.len()])
            .map(|span| &self.bytes[span])
    }

    /// The top Via.
    pub fn via(&self) -> Result<Via<'a>, LexError> {
        self.typed(Header::Via, Via::parse)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr<'a>, LexError> {
        self.typed(Header::From, NameAddr::parse)
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr<'a>, LexError> {
        self.typed(Header::To, NameAddr::parse)
    }

    /// Call-ID, which is compared byte by byte (RFC 3261, 20.8).
    pub fn call_id(&self) -> Result<&'a [u8], LexError> {
        self.typed(Header::CallId, |value| {
            let clean = !value.is_empty() && !value.iter().any(|&b| b <= b' ' || b == 0x7f);
            clean.then_some(value)
        })
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq<'a>, LexError> {
        self.typed(Header::CSeq, |value| {
            let (digits, method) = token(value)?;
            let method = super::is_token(method).then(|| Method::new(method))?;
            // RFC 3261, 8.1.1.5: "The sequence number value MUST be expressible as a 32-bit
            // unsigned integer and MUST be less than 2**31."
            let number = number::<u32>(digits).filter(|n| *n < 1 << 31)?;
            Some(CSeq { number, method })
        })
    }

    /// The first Contact, when there is one.
    pub fn contact(&self) -> Option<Result<NameAddr<'a>, LexError>> {
        let value = self.header(Header::Contact)?;
        Some(NameAddr::parse(value).ok_or(LexError::Bad(Header::Contact)))
    }

    /// Max-Forwards; `Ok(None)` when absent (RFC 3261, 20.22: 0 to 255).
    pub fn max_forwards(&self) -> Result<Option<u8>, LexError> {
        match self.header(Header::MaxForwards) {
            None => Ok(None),
            Some(value) => number(value).map(Some).ok_or(LexError::Bad(Header::MaxForwards)),
        }
    }

    /// Expires in seconds; none when absent or malformed, which a registrar treats alike. Numbers
    /// beyond 32 bits count as the largest.
    pub fn expires(&self) -> Option<u32> {
        self.header(Header::Expires).and_then(seconds)
    }

    /// Content-Type without its parameters, as written.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        let value = self.header(Header::ContentType)?;
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        Some(super::scan::trim(&value[..end]))
    }

    /// Whether the start line and the framing are right, and the headers are there, once and sane, that
    /// every message must have.
    ///
    /// RFC 3261, 8.1.1: "A valid SIP request formulated by a UAC MUST, at a minimum, contain the
    /// following header fields: To, From, CSeq, Call-ID, Max-Forwards, and Via". Max-Forwards is
    /// not demanded, as RFC 2543 did not have it (16.3, 3).
    pub fn check(&self) -> Result<(), LexError> {
        const ONCE: [Header; 4] = [Header::From, Header::To, Header::CallId, Header::CSeq];
        if let Some(fault) = self.parts.fault {
            return Err(fault);
        }
        for header in ONCE.into_iter().chain([Header::MaxForwards]) {
            if self.repeated & header.bit() != 0 {
                return Err(LexError::Repeated(header));
            }
        }
        let via = self.via()?;
        // RFC 4475, 3.1.2.1: separators without values between them are no list.
        let sound = self.headers(Header::Via).all(|value| Via::parse(value).is_some());
        if !sound || !is_one_word(via.branch) {
            return Err(LexError::Bad(Header::Via));
        }
        if !is_one_word(self.from()?.tag()) {
            return Err(LexError::Bad(Header::From));
        }
        if !is_one_word(self.to()?.tag()) {
            return Err(LexError::Bad(Header::To));
        }
        self.call_id()?;
        let cseq = self.cseq()?;
        self.max_forwards()?;
        // RFC 3261, 8.1.1.5: "The method MUST match that of the request."
        match self.start {
            Start::Request { method, .. } if method != cseq.method => Err(LexError::CSeqMethod),
            Start::Request { uri, .. } => self.check_addresses(uri),
            Start::Response { .. } => Ok(()),
        }
    }

    /// The Request-URI and every Contact of a request.
    fn check_addresses(&self, request_uri: &[u8]) -> Result<(), LexError> {
        // RFC 3261, 19.1.1, table 1: there are no headers in a Request-URI.
        if !Uri::parse(request_uri)?.headers.is_empty() {
            return Err(LexError::Uri);
        }
        match self.headers(Header::Contact).all(|value| NameAddr::parse(value).is_some()) {
            true => Ok(()),
            false => Err(LexError::Bad(Header::Contact)),
        }
    }

    fn typed<T>(
        &self,
        header: Header,
        parse: impl FnOnce(&'a [u8]) -> Option<T>,
    ) -> Result<T, LexError> {
        let value = self.header(header).ok_or(LexError::Missing(header))?;
        parse(value).ok_or(LexError::Bad(header))
    }

    fn lines_in_use(&self) -> &[Line] {
        &self.lines[..self.parts.count]
    }

    fn line_values(&self, header: Header) -> impl Iterator<Item = &'a [u8]> + '_ {
        let lines = if self.has(header) { self.lines_in_use() } else { &[] };
        lines.iter().filter(move |line| line.kind == header).map(|line| line.value(self.bytes))
    }
}

/// RFC 3261, 25.1: tags and branches are tokens. What real peers put into them beside a token's
/// characters is borne, but a blank is not: a line that is folded there reads otherwise once it is
/// unfolded, and would name another dialog.
pub(crate) fn is_one_word(name: Option<&[u8]>) -> bool {
    name.is_none_or(|name| !name.iter().any(|&byte| byte <= b' ' || byte == 0x7f))
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("start", &self.start)
            .field("lines", &self.parts.count)
            .field("body", &self.body().len())
            .finish()
    }
}

/// An iterator over the values of one header.
#[derive(Clone, Debug)]
pub struct Values<'m, 'a> {
    bytes: &'a [u8],
    lines: core::slice::Iter<'m, Line>,
    header: Header,
    list: Commas<'a>,
}

impl<'a> Iterator for Values<'_, 'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(element) = self.list.next() {
                return Some(element);
            }
            let header = self.header;
            let value = self.lines.find(|line| line.kind == header)?.value(self.bytes);
            if !header.is_list() {
                return Some(value);
            }
            self.list = split_commas(value);
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.kind, self.start)
    }
}

/// An iterator over the header lines of a message.
#[derive(Clone, Debug)]
pub struct Lines<'m, 'a> {
    bytes: &'a [u8],
    lines: core::slice::Iter<'m, Line>,
}

impl<'a> Iterator for Lines<'_, 'a> {
    type Item = (Header, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next()?;
        Some((line.kind, line.name(self.bytes), line.value(self.bytes)))
    }
}
