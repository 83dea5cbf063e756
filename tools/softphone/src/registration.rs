//! The client side of registration (RFC 3261, 10.2).

use core::time::Duration;

use base::Instant;
use sip::wire::{Header, Message, Method, RequestWriter};

use crate::auth::TRIES;
use crate::phone::{Asked, Phone, host};
use crate::{Event, Output};

/// The first pause after a refusal; it doubles from there.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A registration is refreshed when this share of its life is over.
const REFRESH_PERCENT: u32 = 80;

#[derive(Debug, Default)]
pub(crate) struct Registration {
    /// What the person ordered.
    wanted: bool,
    /// A REGISTER is on its way.
    pending: bool,
    /// The order changed while a REGISTER was on its way.
    again: bool,
    call_id: String,
    tag: String,
    cseq: u32,
    /// Sent with credentials, and how often this one was challenged.
    had_credentials: bool,
    tries: u8,
    expires_s: u32,
    failures: u32,
    /// When the next REGISTER is due: a refresh or another try.
    pub(crate) next: Option<Instant>,
}

impl Phone {
    /// Changes what is wanted, and says so to the registrar.
    pub(crate) fn want_registration(&mut self, now: Instant, wanted: bool, out: &mut Vec<Output>) {
        if self.registration.call_id.is_empty() {
            self.registration.call_id = self.call_id();
            self.registration.tag = self.tag();
            self.registration.expires_s = self.config.expires_s;
        }
        self.registration.wanted = wanted;
        self.registration.failures = 0;
        if self.registration.pending {
            self.registration.again = true;
        } else {
            self.registration.tries = 0;
            self.register(now, out);
        }
    }

    pub(crate) fn registration_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.registration.next.is_some_and(|next| next <= now) {
            self.registration.next = None;
            self.registration.tries = 0;
            self.register(now, out);
        }
    }

    fn register(&mut self, now: Instant, out: &mut Vec<Output>) {
        let branch = self.branch();
        let registrar = self.config.registrar;
        let uri = format!("sip:{registrar}");
        let credentials =
            self.auth.header(&self.config, b"REGISTER", uri.as_bytes(), &mut self.rng);
        let registration = &mut self.registration;
        registration.cseq += 1;
        registration.pending = true;
        registration.again = false;
        registration.next = None;
        registration.had_credentials = credentials.is_some();
        let expires = if registration.wanted { registration.expires_s } else { 0 };
        let aor = format!("<sip:{}@{}>", self.config.user, host(registrar));
        let mut request = RequestWriter::new(b"REGISTER", uri.as_bytes())
            .header("Via", format!("SIP/2.0/UDP {};rport;branch={branch}", self.config.sip))
            .header("Max-Forwards", "70")
            .header("From", format!("{aor};tag={}", registration.tag))
            .header("To", aor)
            .header("Call-ID", &registration.call_id)
            .header("CSeq", format!("{} REGISTER", registration.cseq))
            .header("Contact", format!("<sip:{}@{}>", self.config.user, self.config.sip))
            .header("Expires", expires.to_string())
            .header("Allow", crate::incoming::ALLOW)
            .header("User-Agent", crate::phone::AGENT);
        if let Some((name, value)) = credentials {
            request = request.header(name, value);
        }
        let sent = self.send_request(
            now,
            Method::Register,
            request.finish(None),
            &branch,
            registrar,
            Asked::Register,
            out,
        );
        if sent.is_none() {
            self.registration_refused(now, 503, None, out);
        }
    }

    /// The final response to REGISTER.
    pub(crate) fn registered(
        &mut self,
        now: Instant,
        response: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let status = response.status().unwrap_or(0);
        if status < 200 {
            return;
        }
        self.registration.pending = false;
        if matches!(status, 401 | 407) && self.registration.tries < TRIES {
            let had = self.registration.had_credentials;
            if self.auth.challenged(response, &self.config, had) {
                self.registration.tries += 1;
                return self.register(now, out);
            }
        }
        if status == 423 && self.registration.tries < TRIES {
            // RFC 3261, 10.2.8: "the UA MAY retry the registration after making the expiration
            // interval ... equal to or greater than the expiration interval within the Min-Expires
            // header field".
            let least = response.header(Header::MinExpires).and_then(number);
            if let Some(least) = least.filter(|least| *least > self.registration.expires_s) {
                self.registration.expires_s = least;
                self.registration.tries += 1;
                return self.register(now, out);
            }
        }
        if !(200..300).contains(&status) {
            let retry_after = response.header(Header::RetryAfter).and_then(number);
            return self.registration_refused(now, status, retry_after, out);
        }
        self.registration.failures = 0;
        self.report.registrations += 1;
        if self.registration.again {
            self.registration.tries = 0;
            return self.register(now, out);
        }
        if !self.registration.wanted {
            return out.push(Output::Event(Event::Unregistered));
        }
        let expires_s = self.granted(response);
        let refresh = Duration::from_secs(u64::from(expires_s)) * REFRESH_PERCENT / 100;
        self.registration.next = Some(now + refresh.max(Duration::from_secs(1)));
        out.push(Output::Event(Event::Registered { expires_s }));
    }

    /// No useful answer: 408 for none at all.
    pub(crate) fn registration_refused(
        &mut self,
        now: Instant,
        status: u16,
        retry_after_s: Option<u32>,
        out: &mut Vec<Output>,
    ) {
        self.registration.pending = false;
        self.report.registration_failures += 1;
        out.push(Output::Event(Event::RegistrationFailed { status }));
        if self.registration.again {
            self.registration.tries = 0;
            return self.register(now, out);
        }
        if !self.registration.wanted {
            // What cannot be ended runs out.
            return out.push(Output::Event(Event::Unregistered));
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.registration.failures.min(6));
        self.registration.failures += 1;
        let asked = Duration::from_secs(u64::from(retry_after_s.unwrap_or(0)));
        let pause = pause.min(LAST_RETRY).max(asked);
        // Phones that failed together do not come back together.
        let jitter = Duration::from_millis(self.rng.below(pause.as_millis() as u64 / 4 + 1));
        self.registration.next = Some(now + pause + jitter);
    }

    /// The lifetime that was granted to our Contact (RFC 3261, 10.2.4).
    fn granted(&self, response: &Message<'_>) -> u32 {
        let ours = format!("sip:{}@{}", self.config.user, self.config.sip);
        let of_ours = response.headers(Header::Contact).find_map(|value| {
            let contact = sip::wire::NameAddr::parse(value)?;
            (contact.uri == ours.as_bytes()).then(|| contact.expires())?
        });
        of_ours.or(response.expires()).unwrap_or(self.registration.expires_s)
    }
}

fn number(value: &[u8]) -> Option<u32> {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    core::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}
