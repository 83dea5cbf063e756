use super::scan::{find_unquoted, quoted_end, quotes_end, same_token, trim};
use super::{LexError, Params, Uri};

/// The value of From, To, Contact, Route and the like: `"display" <uri>;params` (RFC 3261, 20.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, with its quotes; empty when absent. See [`super::unquote`].
    pub display: &'a [u8],
    /// The URI without angle brackets; `*` in `Contact: *`.
    pub uri: &'a [u8],
    /// The header's parameters.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Takes one value apart; none when it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let value = trim(value);
        let after_display = match value.first()? {
            b'"' => quoted_end(value, 0)?,
            _ => 0,
        };
        let rest = value.get(after_display..)?;
        let open = match rest.iter().position(|&b| matches!(b, b'<' | b'"')) {
            Some(at) if rest[at] == b'<' => Some(at),
            _ => None,
        };
        let Some(open) = open else {
            // A display name demands angle brackets.
            return if after_display == 0 { Self::parse_addr_spec(value) } else { None };
        };
        if after_display != 0 && !trim(&rest[..open]).is_empty() {
            return None;
        }
        let open = after_display + open;
        let close = open + memchr::memchr(b'>', &value[open..])?;
        let uri = trim(&value[open + 1..close]);
        let params = trim(&value[close + 1..]);
        let well_ended = matches!(params.first(), None | Some(b';')) && quotes_end(params);
        let display = trim(&value[..open]);
        if uri.is_empty() || !well_ended || memchr::memchr(b'<', uri).is_some() {
            return None;
        }
        Some(NameAddr { display, uri, params: Params::new(params) })
    }

    /// RFC 3261, 20: "If the URI is not enclosed in angle brackets, any semicolon-delimited
    /// parameters are header-parameters, not URI parameters."
    fn parse_addr_spec(value: &'a [u8]) -> Option<Self> {
        let end = find_unquoted(value, |b| b == b';').unwrap_or(value.len());
        let uri = trim(&value[..end]);
        let clean = !uri.iter().any(|&b| b <= b' ' || matches!(b, b'>' | b'"'));
        // RFC 3261, 20: "If the URI contains a comma, question mark or semicolon, the URI MUST be
        // enclosed in angle brackets (< and >)."
        let params = &value[end..];
        if uri.is_empty()
            || !clean
            || memchr::memchr2(b',', b'?', uri).is_some()
            || !quotes_end(params)
        {
            return None;
        }
        Some(NameAddr { display: &[], uri, params: Params::new(params) })
    }

    /// The `tag` parameter (RFC 3261, 19.3); an empty one counts as absent.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.param("tag").filter(|tag| !tag.is_empty())
    }

    /// The value of a header parameter; empty for a flag.
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        self.params.value(name)
    }

    /// The URI in its parts.
    pub fn parsed_uri(&self) -> Result<Uri<'a>, LexError> {
        Uri::parse(self.uri)
    }

    /// True for `Contact: *` (RFC 3261, 10.2.2).
    pub fn is_star(&self) -> bool {
        self.uri == b"*"
    }

    /// The `expires` parameter of a Contact in seconds; none when absent or malformed.
    pub fn expires(&self) -> Option<u32> {
        super::scan::seconds(self.param("expires")?)
    }

    /// True when the URI's scheme is `scheme`.
    pub fn has_scheme(&self, scheme: &str) -> bool {
        let colon = memchr::memchr(b':', self.uri).unwrap_or(0);
        same_token(&self.uri[..colon], scheme.as_bytes())
    }
}
