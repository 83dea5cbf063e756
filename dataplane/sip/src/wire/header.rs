/// Declares [`Header`] with its names; `list` marks the comma-separated ones (RFC 3261, 7.3.1).
macro_rules! headers {
    ($($variant:ident $name:literal $(compact $compact:literal)? $(list $list:ident)? ;)*) => {
        /// A header field that this crate knows by name; `Other` is any other.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each variant is the header field of that name")]
        pub enum Header {
            $($variant,)*
            /// A header field which is passed through without being understood.
            Other,
        }

        impl Header {
            /// Every known header, in the order of declaration.
            pub const ALL: &'static [Header] = &[$(Header::$variant),*];

            /// The canonical name; `"?"` for `Other`, whose name is in its line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Header::$variant => $name,)*
                    Header::Other => "?",
                }
            }

            const fn compact(self) -> u8 {
                match self {
                    $($(Header::$variant => $compact,)?)*
                    _ => 0,
                }
            }

            /// True when one line may hold several values, split by commas.
            pub const fn is_list(self) -> bool {
                match self {
                    $($(Header::$variant => { let $list = true; $list })?)*
                    _ => false,
                }
            }
        }
    };
}

headers! {
    Via "Via" compact b'v' list yes;
    From "From" compact b'f';
    To "To" compact b't';
    CallId "Call-ID" compact b'i';
    CSeq "CSeq";
    MaxForwards "Max-Forwards";
    Contact "Contact" compact b'm' list yes;
    Route "Route" list yes;
    RecordRoute "Record-Route" list yes;
    ContentLength "Content-Length" compact b'l';
    ContentType "Content-Type" compact b'c';
    ContentEncoding "Content-Encoding" compact b'e' list yes;
    ContentDisposition "Content-Disposition";
    Authorization "Authorization";
    ProxyAuthorization "Proxy-Authorization";
    WwwAuthenticate "WWW-Authenticate";
    ProxyAuthenticate "Proxy-Authenticate";
    AuthenticationInfo "Authentication-Info";
    Expires "Expires";
    MinExpires "Min-Expires";
    SessionExpires "Session-Expires" compact b'x';
    MinSe "Min-SE";
    Allow "Allow" list yes;
    AllowEvents "Allow-Events" compact b'u' list yes;
    Supported "Supported" compact b'k' list yes;
    Require "Require" list yes;
    ProxyRequire "Proxy-Require" list yes;
    Unsupported "Unsupported" list yes;
    Accept "Accept" list yes;
    AcceptEncoding "Accept-Encoding" list yes;
    AcceptLanguage "Accept-Language" list yes;
    AcceptContact "Accept-Contact" compact b'a' list yes;
    RejectContact "Reject-Contact" compact b'j' list yes;
    RequestDisposition "Request-Disposition" compact b'd' list yes;
    AlertInfo "Alert-Info" list yes;
    CallInfo "Call-Info" list yes;
    ErrorInfo "Error-Info" list yes;
    UserAgent "User-Agent";
    Server "Server";
    Subject "Subject" compact b's';
    Organization "Organization";
    Priority "Priority";
    Timestamp "Timestamp";
    Date "Date";
    Warning "Warning" list yes;
    MimeVersion "MIME-Version";
    Event "Event" compact b'o';
    SubscriptionState "Subscription-State";
    ReferTo "Refer-To" compact b'r';
    ReferredBy "Referred-By" compact b'b';
    Replaces "Replaces";
    Join "Join";
    RSeq "RSeq";
    RAck "RAck";
    RetryAfter "Retry-After";
    Reason "Reason" list yes;
    InReplyTo "In-Reply-To" list yes;
    ReplyTo "Reply-To";
    Path "Path" list yes;
    ServiceRoute "Service-Route" list yes;
    HistoryInfo "History-Info" list yes;
    Diversion "Diversion" list yes;
    UserToUser "User-to-User" list yes;
    PAssertedIdentity "P-Asserted-Identity" list yes;
    PPreferredIdentity "P-Preferred-Identity" list yes;
    RemotePartyId "Remote-Party-ID" list yes;
    Privacy "Privacy";
    Identity "Identity" compact b'y';
    SipEtag "SIP-ETag";
    SipIfMatch "SIP-If-Match";
}

/// A power of two at least three times the number of headers, so that probes stay short.
const INDEX_SLOTS: usize = 256;
const EMPTY: u8 = u8::MAX;

/// Where each name lies in [`Header::ALL`]: open addressing over [`slot`].
const INDEX: [u8; INDEX_SLOTS] = index();

/// Compact forms by letter, `a` first.
const COMPACT: [u8; 26] = compact();

const _: () = assert!(Header::ALL.len() * 3 <= INDEX_SLOTS, "the index is too full");
const _: () = assert!(Header::ALL.len() < 128, "Message keeps one bit of a u128 for each header");

const fn slot(name: &[u8]) -> usize {
    let first = (name[0] | 0x20) as usize;
    let last = (name[name.len() - 1] | 0x20) as usize;
    let middle = (name[name.len() / 2] | 0x20) as usize;
    (first.wrapping_mul(7) ^ last.wrapping_mul(31) ^ middle.wrapping_mul(113) ^ (name.len() * 5))
        % INDEX_SLOTS
}

const fn index() -> [u8; INDEX_SLOTS] {
    let mut index = [EMPTY; INDEX_SLOTS];
    let mut at = 0;
    while at < Header::ALL.len() {
        let mut probe = slot(Header::ALL[at].name().as_bytes());
        while index[probe] != EMPTY {
            probe = (probe + 1) % INDEX_SLOTS;
        }
        index[probe] = at as u8;
        at += 1;
    }
    index
}

const fn compact() -> [u8; 26] {
    let mut letters = [EMPTY; 26];
    let mut at = 0;
    while at < Header::ALL.len() {
        let letter = Header::ALL[at].compact();
        if letter != 0 {
            assert!(letters[(letter - b'a') as usize] == EMPTY, "a compact form is used twice");
            letters[(letter - b'a') as usize] = at as u8;
        }
        at += 1;
    }
    letters
}

impl Header {
    /// The header that `name` spells, in long or compact form.
    ///
    /// RFC 3261, 7.3.1: "When comparing header fields, field names are always case-insensitive."
    /// RFC 3261, 7.3.3: "Implementations MUST accept both the long and short forms of each header
    /// name."
    pub fn new(name: &[u8]) -> Header {
        match name {
            [] => Header::Other,
            [letter] => {
                let place = usize::from(letter.to_ascii_lowercase().wrapping_sub(b'a'));
                let at = COMPACT.get(place).copied().unwrap_or(EMPTY);
                Header::ALL.get(usize::from(at)).copied().unwrap_or(Header::Other)
            }
            name => {
                let mut probe = slot(name);
                while let Some(header) = Header::ALL.get(usize::from(INDEX[probe])) {
                    if header.name().as_bytes().eq_ignore_ascii_case(name) {
                        return *header;
                    }
                    probe = (probe + 1) % INDEX_SLOTS;
                }
                Header::Other
            }
        }
    }

    /// Its bit in [`super::Message`]'s set of headers seen.
    pub(super) const fn bit(self) -> u128 {
        1 << (self as u8)
    }
}
