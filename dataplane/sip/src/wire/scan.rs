use std::borrow::Cow;

/// Character classes of RFC 3261, 25.1, one bit each.
const TOKEN: u8 = 1;
const LWS: u8 = 2;
const HOST: u8 = 4;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        if c.is_ascii_alphanumeric() {
            class[byte] |= TOKEN | HOST;
        }
        if matches!(c, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~') {
            class[byte] |= TOKEN;
        }
        // The underscore is not in the grammar of host names, but is in real ones.
        if matches!(c, b'-' | b'.' | b'_') {
            class[byte] |= HOST;
        }
        if matches!(c, b' ' | b'\t' | b'\r' | b'\n') {
            class[byte] |= LWS;
        }
        byte += 1;
    }
    class
}

pub(super) const fn is_token_byte(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

pub(super) const fn is_host_byte(byte: u8) -> bool {
    CLASS[byte as usize] & HOST != 0
}

/// Blanks of a value; line ends are among them because a folded value keeps its own.
pub(super) const fn is_lws(byte: u8) -> bool {
    CLASS[byte as usize] & LWS != 0
}

/// True for a non-empty token (RFC 3261, 25.1).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// RFC 3261, 7.3.1: "tokens are always case-insensitive".
pub fn same_token(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// `bytes` without blanks at both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_lws(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_lws(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The length of the token at the start of `bytes`.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !is_token_byte(b)).unwrap_or(bytes.len())
}

/// The token at the start of `bytes`, and the rest after blanks; none when there is no token.
pub(super) fn token(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = token_len(bytes);
    let (token, rest) = bytes.split_at_checked(len)?;
    if len == 0 { None } else { Some((token, trim(rest))) }
}

/// The index after the quoted string that starts at `bytes[at]`, or none when it does not end.
pub(super) fn quoted_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut from = at + 1;
    loop {
        let found = from + memchr::memchr2(b'"', b'\\', bytes.get(from..)?)?;
        if bytes[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

/// True when every quoted string ends. What comes after one that does not would be read as a part of it.
pub(super) fn quotes_end(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(open) = bytes.get(at..).and_then(|rest| memchr::memchr(b'"', rest)) {
        match quoted_end(bytes, at + open) {
            Some(end) => at = end,
            None => return false,
        }
    }
    true
}

/// The first of `stops` outside quoted strings; also none when a quoted string does not end.
pub(super) fn find_unquoted(bytes: &[u8], stops: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' {
            at = quoted_end(bytes, at)?;
        } else if stops(byte) {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

/// A decimal number without sign; none when it is empty, has another character or overflows.
pub(super) fn number<N: TryFrom<u64>>(digits: &[u8]) -> Option<N> {
    if digits.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    N::try_from(number).ok()
}

/// Delta-seconds (RFC 3261, 20.19): a number too large for 32 bits counts as the largest.
pub(super) fn seconds(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| number(digits).unwrap_or(u32::MAX))
}

/// The elements of a comma-separated list; commas in quotes and in angle brackets do not split.
pub fn split_commas(value: &[u8]) -> Commas<'_> {
    Commas { rest: value }
}

/// An iterator over a list's elements, without blanks around them; empty ones are left out.
#[derive(Clone, Copy, Debug)]
pub struct Commas<'a> {
    rest: &'a [u8],
}

impl Commas<'_> {
    pub(super) const EMPTY: Commas<'static> = Commas { rest: &[] };

    /// Where the first element ends.
    fn element_end(&self) -> usize {
        let bytes = self.rest;
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|b| memchr::memchr3(b',', b'"', b'<', b)) {
            let found = at + found;
            let after = match bytes[found] {
                b',' => return found,
                b'"' => quoted_end(bytes, found),
                _ => memchr::memchr(b'>', &bytes[found..]).map(|len| found + len + 1),
            };
            match after {
                Some(after) => at = after,
                None => break,
            }
        }
        bytes.len()
    }
}

impl<'a> Iterator for Commas<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = self.element_end();
            let element = trim(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    }
}

/// What a quoted string says (RFC 3261, 25.1, quoted-pair); other values as they are.
pub fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = value else {
        return Cow::Borrowed(value);
    };
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        let said = if byte == b'\\' { bytes.next().copied().unwrap_or(b'\\') } else { byte };
        plain.push(said);
    }
    Cow::Owned(plain)
}

/// What a part of a URI says with its `%` escapes resolved (RFC 3261, 19.1.2).
///
/// RFC 3261, 19.1.4: characters outside the reserved set are equivalent to their `%` HEX HEX
/// encoding. A `%` without two hexadecimal digits stays.
pub fn unescape(part: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', part).is_none() {
        return Cow::Borrowed(part);
    }
    let mut plain = Vec::with_capacity(part.len());
    let mut rest = part;
    while let [first, after @ ..] = rest {
        if let (b'%', [high, low, beyond @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            plain.push(high << 4 | low);
            rest = beyond;
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    Cow::Owned(plain)
}

pub(crate) const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
