use super::scan::{find_unquoted, same_token, trim};

/// Parameters `;name=value;flag` as they stand in a header or a URI; parsed while read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    bytes: &'a [u8],
}

impl<'a> Params<'a> {
    /// The parameters in `bytes`, which are empty or begin with a semicolon.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Params { bytes }
    }

    /// The bytes with the leading semicolon.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// True when there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The value of the first parameter of that name; empty for a flag. Quotes are left on.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(n, _)| same_token(n, name.as_bytes()))
            .map(|(_, v)| v.unwrap_or_default())
    }

    /// Every parameter: the name, and the value when there is one.
    pub fn iter(&self) -> ParamsIter<'a> {
        ParamsIter { rest: self.bytes }
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);
    type IntoIter = ParamsIter<'a>;

    fn into_iter(self) -> ParamsIter<'a> {
        self.iter()
    }
}

/// An iterator over [`Params`].
#[derive(Clone, Copy, Debug)]
pub struct ParamsIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ParamsIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let [_, rest @ ..] = self.rest else {
                return None;
            };
            let end = find_unquoted(rest, |b| b == b';').unwrap_or(rest.len());
            let (param, after) = rest.split_at(end);
            self.rest = after;
            let (name, value) = match memchr::memchr(b'=', param) {
                Some(at) => (&param[..at], Some(trim(&param[at + 1..]))),
                None => (param, None),
            };
            let name = trim(name);
            if !name.is_empty() {
                return Some((name, value));
            }
        }
    }
}
