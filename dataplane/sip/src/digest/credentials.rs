use std::borrow::Cow;

use super::{Algorithm, Hex, Proof, ha1};
use crate::wire::{Uri, hex_digit, same_token, split_commas};

/// Why an Authorization or a WWW-Authenticate header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedAuth {
    /// Another scheme than Digest.
    Scheme,
    /// A parameter without a value, or the same one twice.
    Parameter,
    /// A parameter is missing that must be there.
    Missing,
    /// An algorithm that is neither SHA-256 nor MD5.
    Algorithm,
    /// Only qualities of protection that we do not have, such as `auth-int`.
    Qop,
}

impl MalformedAuth {
    /// The reason's name, for counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            MalformedAuth::Scheme => "auth_scheme",
            MalformedAuth::Parameter => "auth_parameter",
            MalformedAuth::Missing => "auth_missing",
            MalformedAuth::Algorithm => "auth_algorithm",
            MalformedAuth::Qop => "auth_qop",
        }
    }
}

impl core::fmt::Display for MalformedAuth {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for MalformedAuth {}

/// A name and its value.
type Param<'a> = (&'a [u8], &'a [u8]);

/// The parameters after `Digest`; the values without their quotes, escapes as they came.
fn digest_params(
    value: &[u8],
) -> Result<impl Iterator<Item = Result<Param<'_>, MalformedAuth>>, MalformedAuth> {
    const SCHEME: usize = "Digest".len();
    let (scheme, rest) = value.split_at_checked(SCHEME).ok_or(MalformedAuth::Scheme)?;
    let separated = rest.first().is_some_and(|b| b" \t\r\n".contains(b));
    if !same_token(scheme, b"Digest") || !separated {
        return Err(MalformedAuth::Scheme);
    }
    Ok(split_commas(rest).map(|param| {
        let equals = memchr::memchr(b'=', param).ok_or(MalformedAuth::Parameter)?;
        let (name, value) = (param[..equals].trim_ascii(), param[equals + 1..].trim_ascii());
        let value = match value {
            [b'"', inner @ .., b'"'] if is_quotable(inner) => inner,
            plain if is_quotable(plain) => plain,
            _ => return Err(MalformedAuth::Parameter),
        };
        Ok((name, value))
    }))
}

/// True for the inside of one quoted string, and for a value that came without quotes and may be said between them.
fn is_quotable(inner: &[u8]) -> bool {
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let ends = match byte {
            b'"' => true,
            b'\\' => bytes.next().is_none(),
            _ => false,
        };
        if ends {
            return false;
        }
    }
    true
}

fn set<'a>(field: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), MalformedAuth> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(MalformedAuth::Parameter),
    }
}

fn algorithm(name: Option<&[u8]>) -> Result<Algorithm, MalformedAuth> {
    // RFC 7616, 3.3: "If this is not present, it is assumed to be "MD5"."
    name.map_or(Some(Algorithm::Md5), Algorithm::named).ok_or(MalformedAuth::Algorithm)
}

/// The value of Authorization or Proxy-Authorization (RFC 7616, 3.4), borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// The user, escapes as they came.
    pub username: &'a [u8],
    /// The realm, escapes as they came.
    pub realm: &'a [u8],
    /// The server's nonce.
    pub nonce: &'a [u8],
    /// The URI that was hashed.
    pub uri: &'a [u8],
    /// The proof in hexadecimal digits.
    pub response: &'a [u8],
    /// The hash function.
    pub algorithm: Algorithm,
    /// The quality of protection, when given.
    pub qop: Option<&'a [u8]>,
    /// The nonce count as written.
    pub nc: Option<&'a [u8]>,
    /// The client's nonce.
    pub cnonce: Option<&'a [u8]>,
    /// What the server asked to be sent back.
    pub opaque: Option<&'a [u8]>,
}

impl<'a> Credentials<'a> {
    /// Parses a header's value; parameters that are unknown are passed over.
    pub fn parse(value: &'a [u8]) -> Result<Self, MalformedAuth> {
        let (mut username, mut realm, mut nonce, mut uri) = (None, None, None, None);
        let (mut response, mut hash, mut qop, mut nc) = (None, None, None, None);
        let (mut cnonce, mut opaque) = (None, None);
        for param in digest_params(value)? {
            let (name, value) = param?;
            let field = match () {
                () if same_token(name, b"username") => &mut username,
                () if same_token(name, b"realm") => &mut realm,
                () if same_token(name, b"nonce") => &mut nonce,
                () if same_token(name, b"uri") => &mut uri,
                () if same_token(name, b"response") => &mut response,
                () if same_token(name, b"algorithm") => &mut hash,
                () if same_token(name, b"qop") => &mut qop,
                () if same_token(name, b"nc") => &mut nc,
                () if same_token(name, b"cnonce") => &mut cnonce,
                () if same_token(name, b"opaque") => &mut opaque,
                () => continue,
            };
            set(field, value)?;
        }
        Ok(Credentials {
            username: username.ok_or(MalformedAuth::Missing)?,
            realm: realm.ok_or(MalformedAuth::Missing)?,
            nonce: nonce.ok_or(MalformedAuth::Missing)?,
            uri: uri.ok_or(MalformedAuth::Missing)?,
            response: response.ok_or(MalformedAuth::Missing)?,
            algorithm: algorithm(hash)?,
            qop,
            nc,
            cnonce,
            opaque,
        })
    }

    /// The credentials for `realm` among the values of a request's Authorization headers; those for
    /// other realms, and those that do not parse, are passed over.
    pub fn for_realm(values: impl Iterator<Item = &'a [u8]>, realm: &[u8]) -> Option<Self> {
        values.filter_map(|value| Credentials::parse(value).ok()).find(|c| c.realm == realm)
    }

    /// Whether the URI that was hashed names the same resource as the Request-URI (RFC 7616,
    /// 3.4.6).
    pub fn is_for(&self, request_uri: &[u8]) -> bool {
        if self.uri == request_uri {
            return true;
        }
        match (Uri::parse(self.uri), Uri::parse(request_uri)) {
            (Ok(a), Ok(b)) => a.same_resource(&b),
            _ => false,
        }
    }

    /// The nonce count as digits and as a number, and the client's nonce; none without `qop=auth`.
    ///
    /// RFC 3261, 22.4: "If a client receives a "qop" parameter in a challenge header field, it MUST
    /// send the "qop" parameter in any resulting authorization header field." Ours always have one.
    pub(super) fn count(&self) -> Option<(&'a [u8], u32, &'a [u8])> {
        let digits = self.nc.filter(|digits| digits.len() == 8)?;
        let mut count = 0_u32;
        for digit in digits {
            count = count << 4 | u32::from(hex_digit(*digit)?);
        }
        let auth = same_token(self.qop?, b"auth");
        (auth && count > 0).then_some((digits, count, self.cnonce?))
    }
}

/// The value of WWW-Authenticate or Proxy-Authenticate (RFC 7616, 3.3), borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// The realm, escapes as they came.
    pub realm: &'a [u8],
    /// The server's nonce.
    pub nonce: &'a [u8],
    /// To be sent back.
    pub opaque: Option<&'a [u8]>,
    /// The hash function.
    pub algorithm: Algorithm,
    /// True when only the nonce of the last answer was bad.
    pub stale: bool,
    /// True when `auth` was offered; false is a server of RFC 2069.
    pub qop_auth: bool,
}

impl<'a> Challenge<'a> {
    /// Parses a header's value.
    pub fn parse(value: &'a [u8]) -> Result<Self, MalformedAuth> {
        let (mut realm, mut nonce, mut opaque) = (None, None, None);
        let (mut hash, mut stale, mut qop) = (None, None, None);
        for param in digest_params(value)? {
            let (name, value) = param?;
            let field = match () {
                () if same_token(name, b"realm") => &mut realm,
                () if same_token(name, b"nonce") => &mut nonce,
                () if same_token(name, b"opaque") => &mut opaque,
                () if same_token(name, b"algorithm") => &mut hash,
                () if same_token(name, b"stale") => &mut stale,
                () if same_token(name, b"qop") => &mut qop,
                () => continue,
            };
            set(field, value)?;
        }
        let qop_auth = match qop {
            None => false,
            Some(list) if split_commas(list).any(|qop| same_token(qop, b"auth")) => true,
            Some(_) => return Err(MalformedAuth::Qop),
        };
        Ok(Challenge {
            realm: realm.ok_or(MalformedAuth::Missing)?,
            nonce: nonce.ok_or(MalformedAuth::Missing)?,
            opaque,
            algorithm: algorithm(hash)?,
            stale: stale.is_some_and(|value| same_token(value, b"true")),
            qop_auth,
        })
    }

    /// The first challenge that we can answer.
    ///
    /// RFC 8760, 2.4: the client is to "use the topmost header field that it supports".
    pub fn choose(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        values.find_map(|value| Challenge::parse(value).ok())
    }
}

/// The client's side: the value of Authorization for a request with `method` and `uri`.
///
/// `nc` counts the requests with this nonce from 1; `cnonce` is unpredictable text without quotes.
pub fn answer(
    challenge: &Challenge<'_>,
    user: &str,
    password: &str,
    method: &[u8],
    uri: &[u8],
    nc: u32,
    cnonce: &str,
) -> Vec<u8> {
    let algorithm = challenge.algorithm;
    let secret = ha1(algorithm, user.as_bytes(), challenge.realm, password.as_bytes());
    let count = format!("{nc:08x}");
    let qop = challenge.qop_auth.then_some((count.as_bytes(), cnonce.as_bytes()));
    let proof = Proof { nonce: challenge.nonce, qop, method, uri };
    let response = proof.response(algorithm, secret.as_bytes());
    let mut out = b"Digest username=".to_vec();
    push_quoted(&mut out, &escape(user.as_bytes()));
    for (name, value) in [("realm", challenge.realm), ("nonce", challenge.nonce), ("uri", uri)] {
        push_name(&mut out, name);
        push_quoted(&mut out, value);
    }
    push_name(&mut out, "response");
    push_quoted(&mut out, Hex::new(response.as_bytes()).as_bytes());
    push_name(&mut out, "algorithm");
    out.extend_from_slice(algorithm.name().as_bytes());
    if let Some((count, cnonce)) = qop {
        push_name(&mut out, "cnonce");
        push_quoted(&mut out, cnonce);
        out.extend_from_slice(b", qop=auth");
        push_name(&mut out, "nc");
        out.extend_from_slice(count);
    }
    if let Some(opaque) = challenge.opaque {
        push_name(&mut out, "opaque");
        push_quoted(&mut out, opaque);
    }
    out
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b", ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
}

fn push_quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(value);
    out.push(b'"');
}

/// `text` for a quoted string (RFC 3261, 25.1, quoted-pair).
fn escape(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'"', b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut escaped = Vec::with_capacity(text.len() + 2);
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    Cow::Owned(escaped)
}
