//! Fixed-size ASCII fields (section 1.4): serial number, model, transport address and service identifier.

/// Why a string does not fit an ASCII field.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TextError {
    /// The string is longer than the field.
    TooLong {
        /// Bytes of the string.
        length: usize,
        /// Bytes of the field.
        field: usize,
    },
    /// A byte is not printable ASCII (20h to 7Eh).
    NotPrintable {
        /// Offset of the first such byte.
        offset: usize,
        /// The byte.
        byte: u8,
    },
}

impl core::fmt::Display for TextError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::TooLong { length, field } => write!(f, "{length} bytes do not fit a field of {field} bytes"),
            Self::NotPrintable { offset, byte } => {
                write!(f, "byte {byte:#04x} at offset {offset} is not printable ASCII (0x20 to 0x7e)")
            }
        }
    }
}

impl std::error::Error for TextError {}

/// `text` left-justified in a field of `N` bytes, padded with spaces.
///
/// # Errors
/// [`TextError`] if `text` is longer than `N` bytes or has a byte that is not printable ASCII.
pub fn to_field<const N: usize>(text: &str) -> Result<[u8; N], TextError> {
    if text.len() > N {
        return Err(TextError::TooLong { length: text.len(), field: N });
    }
    check_printable(text.as_bytes())?;
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Ok(field)
}

/// The text of a field: everything before the first NUL, without trailing spaces. Targets pad with either.
///
/// # Errors
/// [`TextError::NotPrintable`] for a byte before the padding that is not printable ASCII.
pub fn from_field(field: &[u8]) -> Result<&str, TextError> {
    let text = field.split(|b| *b == 0).next().unwrap_or_default().trim_ascii_end();
    check_printable(text)?;
    // Printable ASCII is UTF-8, so this cannot fail.
    Ok(core::str::from_utf8(text).unwrap_or_default())
}

/// A field for humans: unprintable bytes are escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl core::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = self.0.split(|b| *b == 0).next().unwrap_or_default().trim_ascii_end();
        write!(f, "\"{}\"", text.escape_ascii())
    }
}

/// Bytes as hexadecimal digits, for humans.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl core::fmt::Debug for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

fn check_printable(bytes: &[u8]) -> Result<(), TextError> {
    match bytes.iter().enumerate().find(|(_, b)| !matches!(b, 0x20..=0x7e)) {
        Some((offset, &byte)) => Err(TextError::NotPrintable { offset, byte }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_with_spaces_and_reads_either_padding() {
        assert_eq!(to_field::<8>("4420").unwrap(), *b"4420    ");
        assert_eq!(from_field(b"4420    "), Ok("4420"));
        assert_eq!(from_field(b"4420\0\0\x01\xff"), Ok("4420"));
        assert_eq!(from_field(b"a b \0"), Ok("a b"));
        assert_eq!(from_field(b""), Ok(""));
        assert_eq!(from_field(b"        "), Ok(""));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(to_field::<3>("4420"), Err(TextError::TooLong { length: 4, field: 3 }));
        assert_eq!(to_field::<9>("a\tb"), Err(TextError::NotPrintable { offset: 1, byte: 9 }));
        assert_eq!(from_field(b"ab\x80"), Err(TextError::NotPrintable { offset: 2, byte: 0x80 }));
        assert_eq!(format!("{:?}", Shown(b"a\x80  ")), "\"a\\x80\"");
    }
}
