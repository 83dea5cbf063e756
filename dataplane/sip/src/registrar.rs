//! Registrations: RFC 3261, 10.3, for an address of record that holds one binding.
//!
//! [`register`] decides what a REGISTER does; it changes nothing itself. Before it, its user has
//! done the steps that need to know more: the domain (step 1), Require (2), authentication (3),
//! whether the user may (4) and that the address of record exists (5). After it, its user answers
//! by 200 with [`Binding::contact_value`] of the binding that stands then, or refuses as told.
//!
//! There is one binding because a login is one phone: a REGISTER from another phone takes the place
//! of the first, and of several contacts in one request the most preferred is bound.

use core::hash::{BuildHasher as _, Hash as _, Hasher as _};
use core::net::SocketAddr;
use core::time::Duration;

use base::{Instant, Text};
use foldhash::quality::FixedState;

use crate::wire::{Header, Message, NameAddr, Uri};

#[cfg(test)]
mod tests;

/// How long the URI of a Contact may be, in bytes: the field of the registrations' table.
pub const CONTACT_LIMIT: usize = 160;
/// 10.3, step 7: an interval of an hour or more is never too brief.
const NEVER_BRIEF_S: u32 = 3600;
/// 10.2.1.1: "Malformed values SHOULD be treated as equivalent to 3600."
const MALFORMED_S: u32 = 3600;

/// Where the phone of an address of record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The URI of its Contact.
    pub contact: Text<CONTACT_LIMIT>,
    /// Where the REGISTER came from, which is where requests to the phone go: behind a NAT, the
    /// address in the Contact leads nowhere.
    pub source: SocketAddr,
    /// [`call_id_hash`] of the REGISTER.
    pub call_id_hash: u64,
    /// Its CSeq number.
    pub cseq: u32,
    /// When it ends.
    pub expires_at: Instant,
}

/// How long a binding may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a REGISTER that asks nothing, in seconds.
    pub default_s: u32,
    /// Less is refused, in seconds.
    pub min_s: u32,
    /// More is shortened to this, in seconds.
    pub max_s: u32,
}

/// What a REGISTER does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives for one REGISTER, on the stack")]
pub enum Decision {
    /// The binding is this from now on.
    Update(Binding),
    /// There is no binding from now on.
    Remove,
    /// Everything stays; the answer tells the binding that there is.
    Query,
    /// 423, with this Min-Expires in seconds.
    IntervalTooBrief(u32),
    /// This status; everything stays.
    Refused(u16),
}

/// Decides on a REGISTER that came from `source`, when `current` is the binding so far.
pub fn register(
    message: &Message<'_>,
    now: Instant,
    source: SocketAddr,
    current: Option<&Binding>,
    limits: Limits,
) -> Decision {
    let (Ok(call_id), Ok(cseq)) = (message.call_id(), message.cseq()) else {
        return Decision::Refused(400);
    };
    let request = Request {
        call_id_hash: call_id_hash(call_id),
        cseq: cseq.number,
        current: current.filter(|binding| binding.expires_at > now),
    };
    // Step 6: "The registrar checks whether the request contains the Contact header field. If not,
    // it skips to the last step."
    if !message.has(Header::Contact) {
        return Decision::Query;
    }
    let contacts = || message.headers(Header::Contact).map(NameAddr::parse);
    if contacts().any(|contact| contact.is_some_and(|contact| contact.is_star())) {
        return request.remove_all(message, contacts().count());
    }
    let mut removes = false;
    let mut best: Option<(Wish<'_>, u16)> = None;
    for contact in contacts() {
        let Some(contact) = contact else {
            return Decision::Refused(400);
        };
        let wish = match Wish::read(message, contact, limits) {
            Ok(wish) => wish,
            Err(refusal) => return refusal.decision(limits),
        };
        if request.is_stale() {
            return Decision::Refused(500);
        }
        if wish.seconds == 0 {
            removes |= request.current.is_some_and(|binding| wish.is_of(binding));
            continue;
        }
        let preference = preference(&contact);
        if best.is_none_or(|(_, least)| preference > least) {
            best = Some((wish, preference));
        }
    }
    match best {
        Some((wish, _)) => request.bind(&wish, now, source),
        None if removes => Decision::Remove,
        None => Decision::Query,
    }
}

/// A hash of a Call-ID that is the same in every process at every time (FNV-1a, 64 bits), so that
/// it can lie in shared memory. It need not withstand its sender, who would outwit only itself.
pub fn call_id_hash(call_id: &[u8]) -> u64 {
    call_id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number that tells a REGISTER with credentials, and its repetitions, from all others; 0 for one without. It
/// covers what RFC 3261, 17.2.3 compares, the source, and the credentials themselves: whoever has not seen the request cannot
/// make another of the same number. It is the same in all processes of one build.
pub fn fingerprint(message: &Message<'_>, source: SocketAddr) -> u64 {
    if !message.has(Header::Authorization) {
        return 0;
    }
    let mut hasher = FixedState::default().build_hasher();
    source.hash(&mut hasher);
    for header in
        [Header::Via, Header::From, Header::To, Header::CallId, Header::CSeq, Header::Authorization]
    {
        message.headers(header).for_each(|value| value.hash(&mut hasher));
    }
    hasher.finish().max(1)
}

struct Request<'a> {
    call_id_hash: u64,
    cseq: u32,
    current: Option<&'a Binding>,
}

/// What one Contact asks for.
#[derive(Clone, Copy)]
struct Wish<'a> {
    uri: Uri<'a>,
    contact: Text<CONTACT_LIMIT>,
    seconds: u32,
}

/// Why a Contact is not bound.
enum Refusal {
    TooBrief,
    Status(u16),
}

impl Request<'_> {
    /// Steps 6 and 7: when the Call-ID is that of the binding and the CSeq number is not higher,
    /// "the update MUST be aborted and the request fails". With one binding it is this one,
    /// whatever its Contact.
    fn is_stale(&self) -> bool {
        self.current.is_some_and(|binding| {
            binding.call_id_hash == self.call_id_hash && self.cseq <= binding.cseq
        })
    }

    /// Step 6: "If the request has additional Contact fields or an expiration time other than zero,
    /// the request is invalid, and the server MUST return a 400".
    fn remove_all(&self, message: &Message<'_>, contacts: usize) -> Decision {
        if contacts != 1 || message.expires() != Some(0) {
            Decision::Refused(400)
        } else if self.is_stale() {
            Decision::Refused(500)
        } else if self.current.is_some() {
            Decision::Remove
        } else {
            Decision::Query
        }
    }

    fn bind(&self, wish: &Wish<'_>, now: Instant, source: SocketAddr) -> Decision {
        Decision::Update(Binding {
            contact: wish.contact,
            source,
            call_id_hash: self.call_id_hash,
            cseq: self.cseq,
            expires_at: now + Duration::from_secs(u64::from(wish.seconds)),
        })
    }
}

impl<'a> Wish<'a> {
    fn read(
        message: &Message<'_>,
        contact: NameAddr<'a>,
        limits: Limits,
    ) -> Result<Wish<'a>, Refusal> {
        let uri = contact.parsed_uri().map_err(|_| Refusal::Status(400))?;
        // A call can be sent to SIP URIs only; those of other schemes have no host here.
        if uri.host.is_empty() {
            return Err(Refusal::Status(400));
        }
        let text = Text::new(contact.uri).map_err(|_| Refusal::Status(400))?;
        let asked = interval(message, &contact, limits);
        if asked > 0 && asked < limits.min_s && asked < NEVER_BRIEF_S {
            return Err(Refusal::TooBrief);
        }
        Ok(Wish { uri, contact: text, seconds: asked.min(limits.max_s) })
    }

    /// True when the binding is of this Contact (10.3, step 7, by the rules of 19.1.4).
    fn is_of(&self, binding: &Binding) -> bool {
        Uri::parse(binding.contact.as_bytes()).is_ok_and(|bound| self.uri.same_resource(&bound))
    }
}

impl Refusal {
    fn decision(self, limits: Limits) -> Decision {
        match self {
            Refusal::TooBrief => Decision::IntervalTooBrief(limits.min_s),
            Refusal::Status(status) => Decision::Refused(status),
        }
    }
}

impl Binding {
    /// How long it lasts from `now` on, in whole seconds; a started one counts.
    pub fn remaining_s(&self, now: Instant) -> u32 {
        let left = self.expires_at.since(now).as_nanos().div_ceil(1_000_000_000);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// The value of the Contact that tells of it in a 200 (10.3, step 8).
    pub fn contact_value(&self, now: Instant) -> Vec<u8> {
        let expires = self.remaining_s(now).to_string();
        [b"<", self.contact.as_bytes(), b">;expires=", expires.as_bytes()].concat()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { default_s: 3600, min_s: 60, max_s: 7200 }
    }
}

/// Step 7: the expires parameter, else Expires, else the registrar's own, in seconds.
fn interval(message: &Message<'_>, contact: &NameAddr<'_>, limits: Limits) -> u32 {
    if contact.param("expires").is_some() {
        contact.expires().unwrap_or(MALFORMED_S)
    } else if message.has(Header::Expires) {
        message.expires().unwrap_or(MALFORMED_S)
    } else {
        limits.default_s
    }
}

/// The q parameter in thousandths; 1000 when there is none or it is malformed (10.2.1.2).
pub fn preference(contact: &NameAddr<'_>) -> u16 {
    let Some(q) = contact.param("q").and_then(|q| core::str::from_utf8(q).ok()) else {
        return 1000;
    };
    let q: f32 = q.parse().unwrap_or(1.0);
    if (0.0..=1.0).contains(&q) { (q * 1000.0) as u16 } else { 1000 }
}
