//! NVMe Qualified Names (section 4.5): the names of hosts and NVM subsystems.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

/// Longest name, bytes, without the terminating NUL.
pub const NQN_LENGTH_MAX: usize = 223;
/// Bytes of a name field in Connect data, Identify Controller and discovery log entries.
pub const NQN_FIELD_SIZE: usize = 256;
/// The well-known name of every discovery service.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// What precedes the UUID in a name that is made of one.
pub const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// A valid name: `nqn.` and more, at most 223 bytes of UTF-8 without control characters, and a UUID after
/// [`UUID_PREFIX`]. Names compare byte by byte. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Arc<str>);

/// What is wrong with a name.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NqnError {
    /// No bytes at all.
    Empty,
    /// More than [`NQN_LENGTH_MAX`] bytes.
    TooLong {
        /// Bytes of the name.
        length: usize,
    },
    /// The 256-byte field has no NUL.
    NotTerminated,
    /// Not UTF-8.
    NotUtf8 {
        /// Offset of the first byte that does not belong.
        offset: usize,
    },
    /// Does not begin with `nqn.`, or ends there.
    NoPrefix {
        /// The name.
        name: String,
    },
    /// A control character.
    Control {
        /// Its offset, bytes.
        offset: usize,
        /// The character.
        character: char,
    },
    /// What follows [`UUID_PREFIX`] is not a UUID of the form 8-4-4-4-12 hexadecimal digits.
    BadUuid {
        /// What follows the prefix.
        uuid: String,
    },
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the NQN is empty; it must begin with \"nqn.\""),
            Self::TooLong { length } => write!(f, "the NQN has {length} bytes; at most {NQN_LENGTH_MAX} are allowed"),
            Self::NotTerminated => write!(f, "the NQN field of {NQN_FIELD_SIZE} bytes has no terminating NUL"),
            Self::NotUtf8 { offset } => write!(f, "the NQN is not UTF-8 at byte {offset}"),
            Self::NoPrefix { name } => {
                write!(f, "the NQN {name:?} must begin with \"nqn.\" and go on, as in nqn.2024-01.com.example:kv")
            }
            Self::Control { offset, character } => {
                write!(f, "the NQN has the control character {character:?} at byte {offset}")
            }
            Self::BadUuid { uuid } => write!(
                f,
                "{uuid:?} after {UUID_PREFIX:?} is not a UUID (8-4-4-4-12 hexadecimal digits); \
                 use another prefix or a UUID"
            ),
        }
    }
}

impl std::error::Error for NqnError {}

impl Nqn {
    /// The well-known name of every discovery service.
    #[must_use]
    pub fn discovery() -> Self {
        Self(DISCOVERY_NQN.into())
    }

    /// The name that is made of `uuid` (big endian, as RFC 9562 writes it).
    #[must_use]
    pub fn from_uuid(uuid: &[u8; 16]) -> Self {
        let mut text = String::with_capacity(UUID_PREFIX.len() + 36);
        text.push_str(UUID_PREFIX);
        for (i, byte) in uuid.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0xf] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        Self(text.into())
    }

    /// The UUID of a name that is made of one.
    #[must_use]
    pub fn uuid(&self) -> Option<[u8; 16]> {
        parse_uuid(self.0.strip_prefix(UUID_PREFIX)?)
    }

    /// Whether this is the well-known discovery name.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        *self.0 == *DISCOVERY_NQN
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in a 256-byte field, the rest NUL.
    #[must_use]
    pub fn to_field(&self) -> [u8; NQN_FIELD_SIZE] {
        let mut field = [0; NQN_FIELD_SIZE];
        for (to, from) in field.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        field
    }

    /// The name in a 256-byte field. What follows the first NUL has no meaning.
    ///
    /// # Errors
    /// [`NqnError`]: no NUL, or the text before it is not a valid name.
    pub fn from_field(field: &[u8; NQN_FIELD_SIZE]) -> Result<Self, NqnError> {
        let end = field.iter().position(|b| *b == 0).ok_or(NqnError::NotTerminated)?;
        let bytes = field.get(..end).unwrap_or_default();
        let text = core::str::from_utf8(bytes).map_err(|e| NqnError::NotUtf8 { offset: e.valid_up_to() })?;
        text.parse()
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        if text.is_empty() {
            return Err(NqnError::Empty);
        }
        if text.len() > NQN_LENGTH_MAX {
            return Err(NqnError::TooLong { length: text.len() });
        }
        if let Some((offset, character)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(NqnError::Control { offset, character });
        }
        if text.strip_prefix("nqn.").is_none_or(str::is_empty) {
            return Err(NqnError::NoPrefix { name: text.into() });
        }
        if let Some(uuid) = text.strip_prefix(UUID_PREFIX)
            && parse_uuid(uuid).is_none()
        {
            return Err(NqnError::BadUuid { uuid: uuid.into() });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for Nqn {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl core::borrow::Borrow<str> for Nqn {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut uuid = [0; 16];
    let mut digits = 0_usize;
    for (i, c) in text.bytes().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let digit = u8::try_from(char::from(c).to_digit(16)?).ok()?;
        let byte: &mut u8 = uuid.get_mut(digits / 2)?;
        *byte = *byte << 4 | digit;
        digits += 1;
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &[u8]) -> [u8; 256] {
        let mut f = [0; 256];
        f[..text.len()].copy_from_slice(text);
        f
    }

    #[test]
    fn bytes_after_the_nul_do_not_matter() {
        let mut f = field(b"nqn.2024-01.com.example:kv\0garbage");
        f[255] = 0xff;
        let nqn = Nqn::from_field(&f).unwrap();
        assert_eq!(nqn.as_str(), "nqn.2024-01.com.example:kv");
        assert_eq!(nqn.to_field(), field(b"nqn.2024-01.com.example:kv"));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::NotTerminated));
        assert_eq!(Nqn::from_field(&[0; 256]), Err(NqnError::Empty));
        assert_eq!(Nqn::from_field(&field(b"nqn.\xff")), Err(NqnError::NotUtf8 { offset: 4 }));
        assert!(matches!("iqn.2024".parse::<Nqn>(), Err(NqnError::NoPrefix { .. })));
        assert!(matches!("nqn.".parse::<Nqn>(), Err(NqnError::NoPrefix { .. })));
        assert_eq!("nqn.a\nb".parse::<Nqn>(), Err(NqnError::Control { offset: 5, character: '\n' }));
        let long = format!("nqn.{}", "x".repeat(219));
        assert_eq!(long.parse::<Nqn>().unwrap().as_str().len(), 223);
        assert_eq!(format!("{long}x").parse::<Nqn>(), Err(NqnError::TooLong { length: 224 }));
        let bad = format!("{UUID_PREFIX}1234").parse::<Nqn>().unwrap_err();
        assert!(bad.to_string().contains("8-4-4-4-12"), "{bad}");
        for bad in ["6ba7b810-9dad-11d1-80b4-00c04fd430cg", "6ba7b8109-dad-11d1-80b4-00c04fd430c8"] {
            assert!(format!("{UUID_PREFIX}{bad}").parse::<Nqn>().is_err());
        }
    }

    #[test]
    fn uuid_form_both_ways() {
        let text = "nqn.2014-08.org.nvmexpress:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let nqn: Nqn = text.parse().unwrap();
        let uuid = nqn.uuid().unwrap();
        assert_eq!(uuid[..4], [0x6b, 0xa7, 0xb8, 0x10]);
        assert_eq!(uuid[15], 0xc8);
        assert_eq!(Nqn::from_uuid(&uuid), nqn);
        assert_eq!(Nqn::discovery().uuid(), None);
        assert!(Nqn::discovery().is_discovery() && !nqn.is_discovery());
    }
}
