//! Session timers (RFC 4028): who renews a session, how often, and when it is over.

use core::time::Duration;

use crate::wire::{Header, Message, Refresher, SessionExpires};

/// RFC 4028, 4: no session interval is below this, in seconds.
pub const LEAST_S: u32 = 90;

/// What we want of every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// The session interval in seconds, at least `min_s`.
    pub interval_s: u32,
    /// The least that we accept, in seconds, at least [`LEAST_S`].
    pub min_s: u32,
}

impl Default for Wishes {
    fn default() -> Self {
        // RFC 4028, 4: "The RECOMMENDED value is 1800 seconds."
        Wishes { interval_s: 1_800, min_s: LEAST_S }
    }
}

/// What was agreed on for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The session interval in seconds.
    pub interval_s: u32,
    /// True when we renew it, false when the peer does.
    pub we_refresh: bool,
    /// The peer ends the session too when it is not renewed.
    pub is_mutual: bool,
}

/// The interval is below what we accept: 422 with Min-SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

impl Wishes {
    /// What answering `request` (INVITE or UPDATE) agrees on (9, table 2).
    pub fn answer(self, request: &Message<'_>) -> Result<Terms, TooSmall> {
        let knows = request.lists(Header::Supported, "timer");
        let asked = request.session_expires();
        if asked.is_some_and(|asked| asked.interval_s < self.min_s) && knows {
            return Err(TooSmall);
        }
        // "the UAS MAY reduce its value but MUST NOT set it to a duration lower than the value in the
        // Min-SE header field in the request, if it is present".
        let least = request.min_se().unwrap_or(0).max(self.min_s);
        let interval_s = match asked {
            Some(SessionExpires { interval_s, .. }) => interval_s.min(self.interval_s),
            None => self.interval_s,
        }
        .max(least);
        let refresher = asked.and_then(|asked| asked.refresher);
        // A peer that knows no timer cannot renew; one that does and leaves it open may well do it itself.
        let we_refresh = !knows || refresher == Some(Refresher::Uas);
        Ok(Terms { interval_s, we_refresh, is_mutual: knows })
    }

    /// What a 2xx to a request of ours, which asked for `asked_s`, agrees on (7.2).
    pub fn answered(self, asked_s: u32, response: &Message<'_>) -> Terms {
        match response.session_expires() {
            Some(SessionExpires { interval_s, refresher }) => Terms {
                interval_s: interval_s.max(self.min_s),
                we_refresh: refresher != Some(Refresher::Uas),
                is_mutual: true,
            },
            // "If the 2xx response did not contain a Session-Expires header field, there is no session
            // expiration" at the peer; we renew it all the same, to learn whether the peer lives.
            None => Terms { interval_s: asked_s, we_refresh: true, is_mutual: false },
        }
    }
}

impl Terms {
    /// The value of Session-Expires in the response that agrees on this.
    pub fn in_response(self) -> String {
        let refresher = if self.we_refresh { Refresher::Uas } else { Refresher::Uac };
        format!("{};refresher={}", self.interval_s, refresher.name())
    }

    /// The value of Session-Expires in a request of ours that renews this.
    pub fn in_request(self) -> String {
        let refresher = if self.we_refresh { Refresher::Uac } else { Refresher::Uas };
        format!("{};refresher={}", self.interval_s, refresher.name())
    }

    /// How long after the last renewal we renew, or else hang up. RFC 4028, 10: the refresher renews at half
    /// the interval; the other side hangs up "slightly before the session expires. The minimum of 32 seconds
    /// and one third of the session interval is RECOMMENDED".
    pub fn due_after(self) -> Duration {
        let s = if self.we_refresh {
            self.interval_s / 2
        } else {
            self.interval_s - (self.interval_s / 3).min(32)
        };
        Duration::from_secs(u64::from(s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lex;

    const WISHES: Wishes = Wishes { interval_s: 1_800, min_s: 120 };

    fn answer(lines: &str) -> Result<(u32, bool), TooSmall> {
        let text = format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\n");
        let message = lex(text.as_bytes()).expect("SIP");
        WISHES.answer(&message).map(|terms| (terms.interval_s, terms.we_refresh))
    }

    /// RFC 4028, 9, table 2, and the bounds around it.
    #[test]
    fn a_uas_decides_by_the_table() {
        let timer = "Supported: timer";
        let cases = [
            ("X: y".to_owned(), Ok((1_800, true))),
            ("Session-Expires: 600".to_owned(), Ok((600, true))),
            (timer.to_owned(), Ok((1_800, false))),
            (format!("{timer}\r\nSession-Expires: 600"), Ok((600, false))),
            (format!("{timer}\r\nSession-Expires: 600;refresher=uac"), Ok((600, false))),
            (format!("{timer}\r\nSession-Expires: 600;refresher=uas"), Ok((600, true))),
            (format!("{timer}\r\nSession-Expires: 100"), Err(TooSmall)),
            ("Session-Expires: 100".to_owned(), Ok((120, true))),
            (format!("{timer}\r\nSession-Expires: 7200"), Ok((1_800, false))),
            (format!("{timer}\r\nSession-Expires: 7200\r\nMin-SE: 3600"), Ok((3_600, false))),
        ];
        for (lines, expected) in cases {
            assert_eq!(answer(&lines), expected, "{lines}");
        }
    }

    #[test]
    fn a_uac_takes_what_the_answer_says() {
        let cases = [
            ("X: y", (900, true, false)),
            ("Session-Expires: 600;refresher=uas", (600, false, true)),
            ("Session-Expires: 600;refresher=uac", (600, true, true)),
            ("Session-Expires: 600", (600, true, true)),
            ("Session-Expires: 1;refresher=uac", (120, true, true)),
        ];
        for (lines, expected) in cases {
            let text = format!("SIP/2.0 200 OK\r\n{lines}\r\n\r\n");
            let message = lex(text.as_bytes()).expect("SIP");
            let terms = WISHES.answered(900, &message);
            let got = (terms.interval_s, terms.we_refresh, terms.is_mutual);
            assert_eq!(got, expected, "{lines}");
        }
    }

    #[test]
    fn the_refresher_acts_at_half_time_the_other_just_before_the_end() {
        let terms = |interval_s, we_refresh| Terms { interval_s, we_refresh, is_mutual: true };
        assert_eq!(terms(1_800, true).due_after().as_secs(), 900);
        assert_eq!(terms(1_800, false).due_after().as_secs(), 1_768);
        assert_eq!(terms(90, false).due_after().as_secs(), 60);
        assert_eq!(terms(90, true).in_request(), "90;refresher=uac");
        assert_eq!(terms(90, true).in_response(), "90;refresher=uas");
        assert_eq!(terms(90, false).in_request(), "90;refresher=uas");
    }
}
