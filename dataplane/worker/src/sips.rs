//! `sips:` URIs: a call to one is secret on each hop (RFC 3261, 26.2.2; RFC 5630).
//!
//! What a hop is made of decides, not what a Contact is written like: a phone that registered by TLS or secure
//! WebSocket is called by that connection, whether its Contact is `sips:` or, as most write it, `sip:` with the
//! deprecated `transport=tls`.

use abi::{Counter, Party};
use base::{CallRef, Channel, Transport};
use sip::wire::{Header, Message, NameAddr, Uri, same_token};

use crate::call::LegRef;
use crate::dial::Target;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// A request of which we know the scheme, and which came as that demands.
///
/// RFC 3261, 8.2.2.1: "If the Request-URI uses a scheme not supported by the UAS, it SHOULD reject the request with a 416
/// (Unsupported URI Scheme) response."
pub(crate) fn check_scheme(message: &Message<'_>, came: Channel) -> Result<(), Refusal> {
    let uri = message.request_uri().and_then(|uri| Uri::parse(uri).ok());
    match uri {
        Some(uri) if same_token(uri.scheme, b"sip") => Ok(()),
        Some(uri) if uri.is_secure() && came.transport.is_secure() => Ok(()),
        // RFC 3261, 26.2.2: "the SIPS scheme signifies that each hop over which the request is forwarded, until the
        // request reaches the SIP entity responsible for the domain portion of the Request-URI, must be secured with
        // TLS".
        Some(uri) if uri.is_secure() => {
            Err(Refusal::status(403)
                .with("Warning", b"399 jackfield \"sips needs TLS on each hop\""))
        }
        _ => Err(Refusal::status(416)),
    }
}

/// RFC 5630, 5.2: a registrar binds a sips Contact only where the Request-URI, all Contacts and all values of Path are
/// sips, else something secret would be bound to something open; it answers 400 otherwise.
pub(crate) fn check_register(message: &Message<'_>) -> Result<(), Refusal> {
    let contacts = || message.headers(Header::Contact).filter_map(NameAddr::parse);
    if !contacts().any(|contact| contact.has_scheme("sips")) {
        return Ok(());
    }
    let paths = message.headers(Header::Path).flat_map(|value| value.split(|byte| *byte == b','));
    let mut paths = paths.filter_map(|value| NameAddr::parse(value.trim_ascii()));
    let is_whole = message.request_uri().is_some_and(is_sips)
        && contacts().all(|contact| contact.has_scheme("sips"))
        && paths.all(|path| path.has_scheme("sips"));
    match is_whole {
        true => Ok(()),
        false => {
            Err(Refusal::status(400)
                .with("Warning", b"399 jackfield \"a sips Contact among others\""))
        }
    }
}

/// True for a request to a sips URI.
pub(crate) fn is_to_sips(message: &Message<'_>) -> bool {
    message.request_uri().is_some_and(is_sips)
}

/// Whether our Contact in the dialog that an INVITE makes is a sips URI.
///
/// RFC 3261, 12.1.1: "If the request that initiated the dialog contained a SIPS URI in the Request-URI or in the top
/// Record-Route header field value, if there was any, or the Contact header field if there was no Record-Route header
/// field, the Contact header field in the response MUST be a SIPS URI."
pub(crate) fn wants_sips_contact(invite: &Message<'_>, came: Channel) -> bool {
    let first = invite.header(Header::RecordRoute).or(invite.header(Header::Contact));
    let first = first.and_then(NameAddr::parse).is_some_and(|first| first.has_scheme("sips"));
    came.transport.is_secure() && (first || is_to_sips(invite))
}

/// True for `sips:...`.
pub(crate) fn is_sips(uri: &[u8]) -> bool {
    Uri::parse(uri).is_ok_and(|uri| uri.is_secure())
}

/// The same URI as sip or as sips. RFC 5630 leaves no `transport=tls` in a sips URI.
fn with_scheme(uri: &[u8], is_sips: bool) -> Vec<u8> {
    let rest = uri.iter().position(|byte| *byte == b':').map_or(uri, |colon| &uri[colon + 1..]);
    match is_sips {
        true => [b"sips:", rest.strip_suffix(b";transport=tls").unwrap_or(rest)].concat(),
        false => [b"sip:", rest].concat(),
    }
}

impl Worker {
    /// True for a call to a sips URI: no leg of it goes over a hop that others can read.
    pub(crate) fn is_secure_call(&self, call: CallRef) -> bool {
        self.calls.find(call).is_some_and(|call| call.sips)
    }

    /// How a leg of a call is called: by the scheme that the call is of.
    pub(crate) fn by_scheme(&mut self, leg: LegRef, target: &Target) -> Result<Target, Refusal> {
        let is_secure = self.is_secure_call(leg.call);
        let Target { path, flow, .. } = target;
        // Of two workers of ours, one invites the other: that leaves no machine.
        if flow.peer == self.own_address(flow.location) {
            return Ok(target.clone());
        }
        let has_secret_path = path.is_empty() || {
            let mut hops = path.as_bytes().split(|byte| *byte == b',');
            hops.all(|hop| {
                NameAddr::parse(hop.trim_ascii()).is_some_and(|hop| hop.has_scheme("sips"))
            })
        };
        if is_secure && !(flow.channel.transport.is_secure() && has_secret_path) {
            // RFC 5630, 5.3: then it is 480, and warn-code 380 says that sips is not to be had there.
            self.count(Counter::SipsRefused);
            return Err(Refusal::status(480).with("Warning", b"380 jackfield \"SIPS Not Allowed\""));
        }
        let mut target = target.clone();
        target.uri = self.uri_of_scheme(leg, target.party, target.uri);
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.sips = is_sips(&target.uri);
        }
        Ok(target)
    }

    /// The Request-URI of a hop in the scheme that its call is of. A phone's Contact stays as it was registered, but for
    /// one thing: RFC 5630, 5.1.1: "registering with a SIPS Contact header field implies a binding of both a SIPS Contact
    /// and a corresponding SIP Contact to the AOR", and a call to a sip URI goes to the latter.
    pub(crate) fn uri_of_scheme(&self, leg: LegRef, party: Party, uri: Vec<u8>) -> Vec<u8> {
        let is_ours = !matches!(party, Party::Agent(..));
        match self.is_secure_call(leg.call) {
            true if is_ours => with_scheme(&uri, true),
            false if is_sips(&uri) => with_scheme(&uri, false),
            _ => uri,
        }
    }

    /// Our Contact for a leg; it names the call, so that a restart can find it.
    pub(crate) fn contact(&self, leg: LegRef, flow: crate::call::Flow) -> Vec<u8> {
        let CallRef { slot, generation } = leg.call;
        let address = self.address_of(flow);
        let is_secure = self.calls.leg(leg).is_some_and(|leg| leg.sips);
        let user = format!("{slot:x}.{generation:x}");
        match flow.channel.transport {
            Transport::Udp => format!("<sip:{user}@{address}>"),
            Transport::Tls if is_secure => format!("<sips:{user}@{address}>"),
            // RFC 7118, 5: of WebSocket there is one parameter, and sips makes it a secure one.
            Transport::Wss if is_secure => format!("<sips:{user}@{address};transport=ws>"),
            other => format!("<sip:{user}@{address};transport={other}>"),
        }
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_changes_its_scheme_and_nothing_else() {
        for (uri, sips, sip) in [
            (
                "sip:1@192.0.2.1:5061;transport=tls",
                "sips:1@192.0.2.1:5061",
                "sip:1@192.0.2.1:5061;transport=tls",
            ),
            ("SIPS:a:b@[::1];x=y", "sips:a:b@[::1];x=y", "sip:a:b@[::1];x=y"),
        ] {
            assert_eq!(with_scheme(uri.as_bytes(), true), sips.as_bytes());
            assert_eq!(with_scheme(uri.as_bytes(), false), sip.as_bytes());
        }
        assert!(is_sips(b"sips:a@b") && is_sips(b"SIPS:a@b"));
        assert!(!is_sips(b"sip:a@b") && !is_sips(b"sips") && !is_sips(b""));
    }
}
