//! Keys: 1 to 16 bytes of any value, whose length is part of their identity.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// A key of the Key Value command set (KV section 2.1): 1 to 16 bytes, all byte values legal.
///
/// `"a"` and `"a\0"` are different keys.
///
/// # Order
///
/// Keys are ordered by length, then bytewise. This is the order in which `List` returns them here: the specification
/// leaves the order to the controller, and this one is what a host that numbers its keys without leading zeros
/// (`block_9`, `block_10`) expects; plain bytewise order is not.
///
/// ```
/// use kvof_kv::Key;
/// let short = Key::new(b"b").unwrap();
/// let long = Key::new(b"aa").unwrap();
/// assert!(short < long);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    // The bytes after the length are always zero, so that comparing and hashing whole arrays is right.
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

/// A key would have had a length other than 1 to 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a key of {len} bytes: keys have 1 to 16 bytes")]
pub struct KeySizeError {
    /// The length in bytes that was asked for.
    pub len: usize,
}

/// A text does not name a key; see [`Key::parse`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyParseError {
    /// The key that the text names is too short or too long.
    #[error("key {text:?}: {source}")]
    Size {
        /// The whole text.
        text: String,
        /// The length it would have had.
        source: KeySizeError,
    },
    /// What follows `0x` or `hex:` is not an even number of hexadecimal digits.
    #[error(
        "key {text:?}: after `0x` or `hex:` an even number of hexadecimal digits is expected (for the text itself as a key, write `text:{text}`)"
    )]
    Hex {
        /// The whole text.
        text: String,
    },
}

// Numbers compare in a few instructions, arrays of bytes in a call: an ordered index compares a dozen keys to find one.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |key: &Self| u128::from_be_bytes(key.bytes);
        self.len.cmp(&other.len).then_with(|| number(self).cmp(&number(other)))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key {
    /// The longest key, bytes.
    pub const MAX_LEN: usize = 16;

    /// The key with these bytes.
    ///
    /// # Errors
    /// [`KeySizeError`] unless there are 1 to 16 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeySizeError> {
        let mut all = [0; Self::MAX_LEN];
        let error = KeySizeError { len: bytes.len() };
        if bytes.is_empty() {
            return Err(error);
        }
        all.get_mut(..bytes.len()).ok_or(error)?.copy_from_slice(bytes);
        let len = u8::try_from(bytes.len()).map_err(|_| error)?;
        Ok(Self { len, bytes: all })
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    /// The key's length in bytes, 1 to 16.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a key is never empty")]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The key's bytes followed by zeros, as a command carries them.
    #[must_use]
    pub const fn padded(&self) -> [u8; Self::MAX_LEN] {
        self.bytes
    }

    /// The key that a person wrote: text as it is, or hexadecimal digits after `0x` or `hex:`, or any text after
    /// `text:`. What [`Display`](fmt::Display) prints is read back as the same key.
    ///
    /// # Errors
    /// [`KeyParseError`] if the key would not have 1 to 16 bytes or the digits are not hexadecimal bytes.
    ///
    /// ```
    /// use kvof_kv::Key;
    /// assert_eq!(Key::parse("0x6b6579").unwrap(), Key::parse("key").unwrap());
    /// assert_eq!(Key::parse("text:0x").unwrap().as_bytes(), b"0x");
    /// ```
    pub fn parse(text: &str) -> Result<Self, KeyParseError> {
        let size = |source| KeyParseError::Size { text: text.to_owned(), source };
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("hex:")) {
            return Self::new(&unhex(digits).ok_or_else(|| KeyParseError::Hex { text: text.to_owned() })?)
                .map_err(size);
        }
        Self::new(text.strip_prefix("text:").unwrap_or(text).as_bytes()).map_err(size)
    }

    fn as_text(&self) -> Option<&str> {
        let text = core::str::from_utf8(self.as_bytes()).ok()?;
        let plain = !["0x", "hex:", "text:"].iter().any(|prefix| text.starts_with(prefix));
        (plain && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
    }
}

impl FromStr for Key {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, KeyParseError> {
        Self::parse(text)
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = KeySizeError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeySizeError> {
        Self::new(bytes)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.as_text() {
            return f.pad(text);
        }
        f.write_str("0x")?;
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_text() {
            Some(text) => write!(f, "Key({text:?})"),
            None => write!(f, "Key({self})"),
        }
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks_exact(2).map(|pair| Some(value(*pair.first()?)? << 4 | value(*pair.last()?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_from_1_to_16() {
        assert_eq!(Key::new(b""), Err(KeySizeError { len: 0 }));
        assert_eq!(Key::new(&[7; 17]), Err(KeySizeError { len: 17 }));
        for len in 1..=16 {
            assert_eq!(Key::new(&vec![0xff; len]).unwrap().as_bytes(), vec![0xff; len]);
        }
    }

    #[test]
    fn length_is_part_of_the_key() {
        let short = Key::new(b"a").unwrap();
        let long = Key::new(b"a\0").unwrap();
        assert_ne!(short, long);
        assert_eq!(short.padded(), long.padded());
        assert!(short < long);
    }

    #[test]
    fn parse_names_the_trouble() {
        assert!(matches!(Key::parse("0x123"), Err(KeyParseError::Hex { .. })));
        assert!(matches!(Key::parse("hex:zz"), Err(KeyParseError::Hex { .. })));
        assert!(matches!(Key::parse("0x"), Err(KeyParseError::Size { source: KeySizeError { len: 0 }, .. })));
        let error = Key::parse("seventeen-letters").unwrap_err();
        assert_eq!(error.to_string(), "key \"seventeen-letters\": a key of 17 bytes: keys have 1 to 16 bytes");
        assert_eq!(Key::parse("hex:00FF").unwrap().as_bytes(), [0, 0xff]);
    }

    #[test]
    fn debug_shows_text_or_hex() {
        assert_eq!(format!("{:?}", Key::new(b"block_9").unwrap()), "Key(\"block_9\")");
        assert_eq!(format!("{:?}", Key::new(b"a\0").unwrap()), "Key(0x6100)");
    }

    proptest! {
        #[test]
        fn display_reads_back(bytes in proptest::collection::vec(any::<u8>(), 1..=16)) {
            let key = Key::new(&bytes).unwrap();
            prop_assert_eq!(Key::parse(&key.to_string()).unwrap(), key);
        }

        #[test]
        fn text_reads_back(text in "(0x|hex:|text:)?[ -~]{1,11}") {
            if let Ok(key) = Key::parse(&text) {
                prop_assert_eq!(Key::parse(&key.to_string()).unwrap(), key);
            }
        }

        #[test]
        fn order_is_length_then_bytes(
            a in proptest::collection::vec(any::<u8>(), 1..=16),
            b in proptest::collection::vec(any::<u8>(), 1..=16),
        ) {
            let expected = a.len().cmp(&b.len()).then_with(|| a.cmp(&b));
            prop_assert_eq!(Key::new(&a).unwrap().cmp(&Key::new(&b).unwrap()), expected);
        }
    }
}
