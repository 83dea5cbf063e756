//! Digest authentication (RFC 3261, 22; RFC 7616; RFC 8760) with SHA-256 and MD5, `qop=auth` only.
//!
//! The server keeps no state for a nonce: it is the time of the challenge and a MAC over that time
//! and the realm. Replays are stopped by one word for each user, see [`admit`].

mod credentials;

#[cfg(test)]
mod tests;

pub use credentials::{Challenge, Credentials, MalformedAuth, answer};

use base::Instant;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::wire::hex_digit;

/// How long a nonce serves, in milliseconds; afterwards the answer is a challenge with
/// `stale=true`.
pub const NONCE_LIFE_MS: u64 = 300_000;

/// The length of a nonce in characters: 16 of time, 32 of MAC.
pub const NONCE_LEN: usize = 48;

/// Nonces count time in 10 microseconds, so that 44 bits last five years of uptime.
const NONCE_TICK_NANOS: u64 = 10_000;
const NONCE_LIFE_TICKS: u64 = NONCE_LIFE_MS * 1_000_000 / NONCE_TICK_NANOS;
const MAC_BYTES: usize = 16;
const COUNT_BITS: u32 = 20;
const TIME_BITS: u32 = 64 - COUNT_BITS;

/// A hash function of digest authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `SHA-256`, 32 bytes (RFC 8760).
    Sha256,
    /// `MD5`, 16 bytes; what phones without SHA-256 have.
    Md5,
}

impl Algorithm {
    /// Its name in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Md5 => "MD5",
        }
    }

    /// The algorithm that `name` spells.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Algorithm::Sha256, Algorithm::Md5]
            .into_iter()
            .find(|a| a.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The length of its hashes in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Md5 => 16,
        }
    }

    /// The hash of the parts with colons between them.
    fn hash(self, parts: &[&[u8]]) -> Hash {
        fn feed<D: sha2::Digest>(parts: &[&[u8]]) -> sha2::digest::Output<D> {
            let mut hasher = D::new();
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    hasher.update(b":");
                }
                hasher.update(part);
            }
            hasher.finalize()
        }
        let mut bytes = [0; 32];
        match self {
            Algorithm::Sha256 => bytes.copy_from_slice(&feed::<Sha256>(parts)),
            Algorithm::Md5 => bytes[..16].copy_from_slice(&feed::<Md5>(parts)),
        }
        Hash { algorithm: self, bytes }
    }
}

/// A hash of either algorithm.
#[derive(Clone, Copy)]
pub struct Hash {
    algorithm: Algorithm,
    bytes: [u8; 32],
}

impl Hash {
    /// 32 bytes for SHA-256, 16 for MD5.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.hash_len()]
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// An HA1 is as good as the password, so it is not shown.
impl core::fmt::Debug for Hash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Hash({})", self.algorithm.name())
    }
}

/// Lower-case hexadecimal digits in place.
struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    fn new(bytes: &[u8]) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = Hex { digits: [0; 64], len: 0 };
        for (pair, byte) in hex.digits.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
            hex.len += 2;
        }
        hex
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[..self.len]
    }
}

/// Exactly `into.len()` bytes from hexadecimal digits of either case.
fn unhex(digits: &[u8], into: &mut [u8]) -> Option<()> {
    if digits.len() != into.len() * 2 {
        return None;
    }
    for (byte, pair) in into.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(())
}

/// HA1, the hash of `user:realm:secret` (RFC 7616, 3.4.2); what the directory keeps of a password.
pub fn ha1(algorithm: Algorithm, user: &[u8], realm: &[u8], secret: &[u8]) -> Hash {
    algorithm.hash(&[user, realm, secret])
}

/// What a response hash is made of (RFC 7616, 3.4.1); `qop` none is the form of RFC 2069.
struct Proof<'a> {
    nonce: &'a [u8],
    /// The nonce count as eight hexadecimal digits, and the client's nonce.
    qop: Option<(&'a [u8], &'a [u8])>,
    method: &'a [u8],
    uri: &'a [u8],
}

impl Proof<'_> {
    fn response(&self, algorithm: Algorithm, ha1: &[u8]) -> Hash {
        let ha1 = Hex::new(ha1);
        let ha2 = Hex::new(algorithm.hash(&[self.method, self.uri]).as_bytes());
        match self.qop {
            Some((nc, cnonce)) => {
                let parts = [ha1.as_bytes(), self.nonce, nc, cnonce, b"auth", ha2.as_bytes()];
                algorithm.hash(&parts)
            }
            None => algorithm.hash(&[ha1.as_bytes(), self.nonce, ha2.as_bytes()]),
        }
    }
}

/// The key that signs nonces; all workers of a data plane share it.
#[derive(Clone)]
pub struct NonceKey([u8; 32]);

impl core::fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NonceKey")
    }
}

impl NonceKey {
    /// A key of 32 random bytes.
    pub const fn new(key: [u8; 32]) -> Self {
        NonceKey(key)
    }

    /// A nonce made at `now` for `realm`: hexadecimal digits.
    pub fn nonce(&self, now: Instant, realm: &[u8]) -> [u8; NONCE_LEN] {
        let time = now.as_nanos() / NONCE_TICK_NANOS;
        let mut nonce = [0; NONCE_LEN];
        nonce[..16].copy_from_slice(Hex::new(&time.to_be_bytes()).as_bytes());
        nonce[16..].copy_from_slice(Hex::new(&self.mac(time, realm)).as_bytes());
        nonce
    }

    /// When the nonce was made, in 10 microseconds; none when it is not one of this key and realm.
    pub fn nonce_time(&self, nonce: &[u8], realm: &[u8]) -> Option<u64> {
        let (digits, mac_digits) = nonce.split_at_checked(16)?;
        let (mut time, mut mac) = ([0; 8], [0; MAC_BYTES]);
        unhex(digits, &mut time)?;
        unhex(mac_digits, &mut mac)?;
        let time = u64::from_be_bytes(time);
        bool::from(self.mac(time, realm).ct_eq(&mac)).then_some(time)
    }

    fn mac(&self, time: u64, realm: &[u8]) -> [u8; MAC_BYTES] {
        // A key shorter than a block of the hash counts as one filled with zeros (RFC 2104, 2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut hmac = Hmac::<Sha256>::new(&block.into());
        hmac.update(&time.to_be_bytes());
        hmac.update(realm);
        let full = hmac.finalize().into_bytes();
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&full[..MAC_BYTES]);
        mac
    }
}

/// The values of the two WWW-Authenticate (or Proxy-Authenticate) headers of a challenge.
///
/// RFC 8760, 2.3: the server lists its challenges "in the order in which it would prefer to see
/// them used": SHA-256, then MD5. `stale` tells the phone that its password was right and only the
/// nonce too old, so that it tries again without asking its user (RFC 7616, 3.3).
pub fn challenge(key: &NonceKey, now: Instant, realm: &str, stale: bool) -> [Vec<u8>; 2] {
    let nonce = key.nonce(now, realm.as_bytes());
    let nonce = core::str::from_utf8(&nonce).unwrap_or_default();
    let stale = if stale { ", stale=true" } else { "" };
    [Algorithm::Sha256, Algorithm::Md5].map(|algorithm| {
        let name = algorithm.name();
        format!(
            "Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={name}, qop=\"auth\"{stale}"
        )
        .into_bytes()
    })
}

/// What the credentials of a request are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The secret was known. The caller passes both numbers to [`admit`] and refuses a replay.
    Ok {
        /// When the nonce was made, in 10 microseconds.
        nonce_time: u64,
        /// The nonce count.
        nc: u32,
    },
    /// The secret was known, but the nonce is too old or of another key: challenge with
    /// `stale=true`.
    Stale,
    /// The secret was not known.
    Wrong,
    /// No `qop=auth`, no nonce count, a response of another length, another realm.
    Malformed,
}

impl Verdict {
    /// The verdict's name, for counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok { .. } => "ok",
            Verdict::Stale => "stale",
            Verdict::Wrong => "wrong",
            Verdict::Malformed => "malformed",
        }
    }
}

/// What the server knows when it judges credentials.
#[derive(Clone, Copy, Debug)]
pub struct Verifier<'a> {
    /// The key of the nonces.
    pub key: &'a NonceKey,
    /// The realm of the user's tenant.
    pub realm: &'a [u8],
    /// Now.
    pub now: Instant,
}

impl Verifier<'_> {
    /// Judges credentials for a request with `method` against the user's HA1 of their algorithm.
    ///
    /// An HA1 of a wrong length is never right. The secret is judged before the nonce, so that
    /// `Stale` is only said to who knows it (RFC 7616, 3.3).
    pub fn verify(&self, credentials: &Credentials<'_>, method: &[u8], ha1: &[u8]) -> Verdict {
        let Some((nc_digits, nc, cnonce)) = credentials.count() else {
            return Verdict::Malformed;
        };
        let algorithm = credentials.algorithm;
        let mut given = [0; 32];
        let given = &mut given[..algorithm.hash_len()];
        if credentials.realm != self.realm || unhex(credentials.response, given).is_none() {
            return Verdict::Malformed;
        }
        let proof = Proof {
            nonce: credentials.nonce,
            qop: Some((nc_digits, cnonce)),
            method,
            uri: credentials.uri,
        };
        let right = proof.response(algorithm, ha1);
        let same = bool::from(right.as_bytes().ct_eq(given));
        if ha1.len() != algorithm.hash_len() || !same {
            return Verdict::Wrong;
        }
        let now = self.now.as_nanos() / NONCE_TICK_NANOS;
        match self.key.nonce_time(credentials.nonce, self.realm) {
            // A time to come is from before the machine was started.
            Some(made) if now.checked_sub(made).is_some_and(|age| age <= NONCE_LIFE_TICKS) => {
                Verdict::Ok { nonce_time: made, nc }
            }
            _ => Verdict::Stale,
        }
    }
}

/// Whether a nonce and count are newer than the last ones admitted, which `word` holds: 44 bits of
/// time and 20 bits of count. The new word to store, or none for a replay: that is to be challenged
/// as stale.
///
/// Accepted is a newer nonce, or the same nonce with a greater count (RFC 7616, 3.3 and 5.5). Only
/// after [`Verdict::Ok`], and by compare-and-swap.
pub fn admit(word: u64, nonce_time: u64, nc: u32) -> Option<u64> {
    if nonce_time >> TIME_BITS != 0 || nc == 0 || nc >> COUNT_BITS != 0 {
        return None;
    }
    let new = nonce_time << COUNT_BITS | u64::from(nc);
    // With time above count in one word, "newer, or the same and greater" is one comparison.
    (new > word).then_some(new)
}
