use core::fmt;

/// Why bytes are not a SIP message, or a header is not what its grammar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LexError {
    /// Nothing but line ends or zero bytes: a NAT keep-alive (RFC 5626, 4.4.1), not an error of the
    /// peer's.
    KeepAlive,
    /// More than [`super::MAX_DATAGRAM`] bytes.
    TooLarge,
    /// More than [`super::MAX_HEADERS`] header lines.
    TooManyHeaders,
    /// The first line is neither a Request-Line nor a Status-Line; from [`super::Message::check`]: it is
    /// a Request-Line that breaks its grammar.
    StartLine,
    /// The SIP version is not 2.0; found by [`super::Message::check`] so that 505 can be answered.
    Version,
    /// A carriage return without a line feed.
    BareCr,
    /// The datagram ended before the empty line that ends the headers.
    NoEmptyLine,
    /// A header line has no name, or no colon after it.
    HeaderName,
    /// Content-Length is not a number, or two of them differ.
    ContentLength,
    /// Content-Length is larger than what came.
    Truncated,
    /// A header that must be there once is missing.
    Missing(super::Header),
    /// A header that may be there once is repeated.
    Repeated(super::Header),
    /// A header's value breaks its grammar or its range.
    Bad(super::Header),
    /// The method in CSeq is not the request's (RFC 3261, 8.1.1.5).
    CSeqMethod,
    /// A URI breaks its grammar.
    Uri,
}

impl LexError {
    /// The reason's name, for counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            LexError::KeepAlive => "keep_alive",
            LexError::TooLarge => "too_large",
            LexError::TooManyHeaders => "too_many_headers",
            LexError::StartLine => "start_line",
            LexError::Version => "version",
            LexError::BareCr => "bare_cr",
            LexError::NoEmptyLine => "no_empty_line",
            LexError::HeaderName => "header_name",
            LexError::ContentLength => "content_length",
            LexError::Truncated => "truncated",
            LexError::Missing(_) => "header_missing",
            LexError::Repeated(_) => "header_repeated",
            LexError::Bad(_) => "header_bad",
            LexError::CSeqMethod => "cseq_method",
            LexError::Uri => "uri",
        }
    }

    /// The header that is meant, where it is about one.
    pub const fn header(self) -> Option<super::Header> {
        match self {
            LexError::Missing(h) | LexError::Repeated(h) | LexError::Bad(h) => Some(h),
            LexError::ContentLength | LexError::Truncated => Some(super::Header::ContentLength),
            LexError::CSeqMethod => Some(super::Header::CSeq),
            _ => None,
        }
    }

    /// The status to refuse a request with that lexed but failed [`super::Message::check`].
    pub const fn status(self) -> u16 {
        match self {
            LexError::Version => 505,
            LexError::TooLarge | LexError::TooManyHeaders => 513,
            _ => 400,
        }
    }
}

impl fmt::Display for LexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.header() {
            Some(header) => write!(f, " ({})", header.name()),
            None => Ok(()),
        }
    }
}

impl core::error::Error for LexError {}
