//! Headers of the extensions, as numbers and tokens: RFC 3262 (RSeq, RAck), RFC 4028 (Session-Expires).

use super::scan::{number, same_token, seconds, token, trim};
use super::{Header, Message, Method, Params};

/// The value of RAck (RFC 3262, 7.2): which provisional response a PRACK acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RAck<'a> {
    /// The RSeq of the response.
    pub rseq: u32,
    /// The CSeq number of the response.
    pub cseq: u32,
    /// The method of the response's CSeq.
    pub method: Method<'a>,
}

/// Who renews a session (RFC 4028, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresher {
    /// Who sent the request that the header belongs to.
    Uac,
    /// Who answered it.
    Uas,
}

impl Refresher {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Refresher::Uac => "uac",
            Refresher::Uas => "uas",
        }
    }
}

/// The value of Session-Expires (RFC 4028, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The session interval in seconds.
    pub interval_s: u32,
    /// Who renews it, when that is said.
    pub refresher: Option<Refresher>,
}

impl<'a> Message<'a> {
    /// RSeq (RFC 3262, 7.1): 1 to 2^32 - 1; none when absent or malformed.
    pub fn rseq(&self) -> Option<u32> {
        self.header(Header::RSeq).and_then(number::<u32>).filter(|number| *number != 0)
    }

    /// RAck; none when absent or malformed.
    pub fn rack(&self) -> Option<RAck<'a>> {
        let (rseq, rest) = token(self.header(Header::RAck)?)?;
        let (cseq, method) = token(rest)?;
        let method = super::is_token(method).then(|| Method::new(method))?;
        Some(RAck { rseq: number(rseq)?, cseq: number(cseq)?, method })
    }

    /// Session-Expires; none when absent or malformed.
    pub fn session_expires(&self) -> Option<SessionExpires> {
        let value = self.header(Header::SessionExpires)?;
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let interval_s = seconds(trim(&value[..end]))?;
        let refresher = Params::new(&value[end..]).value("refresher").and_then(|who| match who {
            who if same_token(who, b"uac") => Some(Refresher::Uac),
            who if same_token(who, b"uas") => Some(Refresher::Uas),
            _ => None,
        });
        Some(SessionExpires { interval_s, refresher })
    }

    /// Min-SE in seconds (RFC 4028, 5); none when absent or malformed.
    pub fn min_se(&self) -> Option<u32> {
        let value = self.header(Header::MinSe)?;
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        seconds(trim(&value[..end]))
    }

    /// True when `header`, a list of option tags such as Supported or Require, has `tag`.
    pub fn lists(&self, header: Header, tag: &str) -> bool {
        self.headers(header).any(|value| same_token(value, tag.as_bytes()))
    }

    /// Whether the sender says that it takes requests of this method; none when it does not say (RFC 3261,
    /// 20.5).
    pub fn allows(&self, method: Method<'_>) -> Option<bool> {
        let mut allowed = self.headers(Header::Allow);
        self.has(Header::Allow).then(|| allowed.any(|name| name == method.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lex;

    fn with(lines: &str) -> String {
        format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\n")
    }

    #[test]
    fn numbers_of_reliable_responses_are_read() {
        let cases = [
            ("RSeq: 1", Some(1)),
            ("RSeq: 4294967295", Some(u32::MAX)),
            ("RSeq: 0", None),
            ("RSeq: 4294967296", None),
            ("RSeq: x", None),
            ("X: 1", None),
        ];
        for (line, rseq) in cases {
            let text = with(line);
            assert_eq!(lex(text.as_bytes()).expect("SIP").rseq(), rseq, "{line}");
        }
        let invite = Some(RAck { rseq: 7, cseq: 1, method: Method::Invite });
        let cases = [
            ("RAck: 7 1 INVITE", invite),
            ("RAck: 7   1\tINVITE", invite),
            ("RAck: 7 1", None),
            ("RAck: 7 x INVITE", None),
            ("RAck: ", None),
        ];
        for (line, rack) in cases {
            let text = with(line);
            assert_eq!(lex(text.as_bytes()).expect("SIP").rack(), rack, "{line}");
        }
    }

    #[test]
    fn session_timers_are_read() {
        let of = |interval_s, refresher| Some(SessionExpires { interval_s, refresher });
        let cases = [
            ("Session-Expires: 1800", of(1800, None)),
            ("x: 90;refresher=UAC", of(90, Some(Refresher::Uac))),
            ("Session-Expires: 90 ; a=b ; refresher=uas", of(90, Some(Refresher::Uas))),
            ("Session-Expires: 99999999999;refresher=me", of(u32::MAX, None)),
            ("Session-Expires: soon", None),
        ];
        for (line, expected) in cases {
            let text = with(line);
            let message = lex(text.as_bytes()).expect("SIP");
            assert_eq!(message.session_expires(), expected, "{line}");
        }
        let text = with("Min-SE: 120;x=y\r\nAllow: INVITE, UPDATE\r\nk: timer,100REL");
        let message = lex(text.as_bytes()).expect("SIP");
        assert_eq!(message.min_se(), Some(120));
        assert_eq!(message.allows(Method::Update), Some(true));
        assert_eq!(message.allows(Method::Info), Some(false));
        assert!(message.lists(Header::Supported, "100rel") && !message.lists(Header::Require, "x"));
        let text = with("Min-SE: -1");
        let message = lex(text.as_bytes()).expect("SIP");
        assert_eq!((message.min_se(), message.allows(Method::Update)), (None, None));
    }
}
