use core::fmt;

/// Up to `N` bytes of text in place, for keys and rows that must not allocate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

/// A text did not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTooLong {
    /// How many bytes the field holds.
    pub limit: usize,
}

impl fmt::Display for TextTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text is longer than {} bytes", self.limit)
    }
}

impl<const N: usize> Text<N> {
    const FITS: () = assert!(N <= 255, "a Text holds at most 255 bytes");

    /// An empty text.
    pub const EMPTY: Self = Text { len: 0, bytes: [0; N] };

    /// A copy of `text`; the rest of the field is zero, so equal texts are equal bytes.
    pub fn new(text: &[u8]) -> Result<Self, TextTooLong> {
        let () = Self::FITS;
        if text.len() > N {
            return Err(TextTooLong { limit: N });
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Text { len: text.len() as u8, bytes })
    }

    /// The bytes in use.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text, or `"?"` where it is not UTF-8.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("?")
    }

    /// True when nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
