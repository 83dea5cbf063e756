use base::Rng;
use sip::digest::{Challenge, answer};
use sip::wire::{Header, Message};

use crate::PhoneConfig;

/// How often one request is sent again with credentials: a challenge, and two nonces that grew
/// stale.
pub(crate) const TRIES: u8 = 3;

/// The last challenge of the phone's realm; all requests share it, so that its count only grows.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    challenge: Vec<u8>,
    proxy: bool,
    count: u32,
}

impl Auth {
    /// Takes the challenge of a 401 or 407. False when it is no use to try again: another realm,
    /// nothing that we can answer, or our credentials were refused though their nonce was good.
    pub(crate) fn challenged(
        &mut self,
        response: &Message<'_>,
        config: &PhoneConfig,
        had_credentials: bool,
    ) -> bool {
        let proxy = response.status() == Some(407);
        let header = if proxy { Header::ProxyAuthenticate } else { Header::WwwAuthenticate };
        let of_realm = |value: &&[u8]| {
            Challenge::parse(value)
                .is_ok_and(|challenge| challenge.realm == config.realm.as_bytes())
        };
        let Some(value) = response.headers(header).find(of_realm) else { return false };
        let stale = Challenge::parse(value).is_ok_and(|challenge| challenge.stale);
        if had_credentials && !stale {
            return false;
        }
        *self = Auth { challenge: value.to_vec(), proxy, count: 0 };
        true
    }

    /// The header line for a request, once there was a challenge.
    pub(crate) fn header(
        &mut self,
        config: &PhoneConfig,
        method: &[u8],
        uri: &[u8],
        rng: &mut Rng,
    ) -> Option<(&'static str, Vec<u8>)> {
        let challenge = Challenge::parse(&self.challenge).ok()?;
        self.count += 1;
        let cnonce = format!("{:016x}", rng.next_u64());
        let (user, secret) = (&config.auth_user, &config.secret);
        let value = answer(&challenge, user, secret, method, uri, self.count, &cnonce);
        Some((if self.proxy { "Proxy-Authorization" } else { "Authorization" }, value))
    }
}
