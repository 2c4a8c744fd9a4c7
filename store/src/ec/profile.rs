//! How many columns of data and of parity a stripe group has.

use std::{fmt, str::FromStr};

use super::{MAX_DATA, MAX_PARITY};

/// k data columns and m parity columns: `"4+1"`.
///
/// 1 ≤ k ≤ [`MAX_DATA`], m ≤ [`MAX_PARITY`]. With k = 1 there are m + 1 places for the same value, but not m + 1 equal
/// copies: the second and later parity columns are the data times a coefficient.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Profile {
    k: u8,
    m: u8,
}

impl Profile {
    /// `k` data and `m` parity columns, if both are within their limits.
    pub const fn new(k: u8, m: u8) -> Result<Self, ProfileError> {
        if k == 0 || k as usize > MAX_DATA {
            return Err(ProfileError::Data(k));
        }
        if m as usize > MAX_PARITY {
            return Err(ProfileError::Parity(m));
        }
        Ok(Self { k, m })
    }

    /// The number of data columns.
    #[must_use]
    pub const fn k(self) -> u8 {
        self.k
    }

    /// The number of parity columns, which is the number of columns that may be lost.
    #[must_use]
    pub const fn m(self) -> u8 {
        self.m
    }

    /// The number of all columns, k + m.
    #[must_use]
    pub const fn width(self) -> u8 {
        self.k + self.m
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        let (k, m) = text
            .split_once('+')
            .and_then(|(k, m)| Some((number(k)?, number(m)?)))
            .ok_or_else(|| ProfileError::Text(text.chars().take(32).collect()))?;
        Self::new(k, m)
    }
}

/// What is wrong with an erasure profile.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    /// k is 0 or too large.
    #[error("an erasure profile has 1 to {MAX_DATA} data columns, not {0}")]
    Data(u8),
    /// m is too large.
    #[error("an erasure profile has 0 to {MAX_PARITY} parity columns, not {0}")]
    Parity(u8),
    /// Not k+m. Has at most 32 characters of the text.
    #[error("{0:?} is no erasure profile: write data columns + parity columns, such as 4+1")]
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_survives_its_text_and_no_other_exists() {
        for k in 0..=u8::MAX {
            for m in 0..=u8::MAX {
                let valid = (1..=16).contains(&k) && m <= 4;
                assert_eq!(Profile::new(k, m).is_ok(), valid, "{k}+{m}");
                if let Ok(profile) = Profile::new(k, m) {
                    assert_eq!((profile.k(), profile.m(), profile.width()), (k, m, k + m));
                    assert_eq!(profile.to_string(), format!("{k}+{m}"));
                    assert_eq!(profile.to_string().parse(), Ok(profile));
                }
            }
        }
    }

    #[test]
    fn text_that_is_no_profile_is_named() {
        for text in ["", "4", "4+", "+1", "4+-1", "+4+1", "4 + 1", "4+1+1", "4:1", "256+1", "4+300", "٤+1"] {
            assert_eq!(text.parse::<Profile>(), Err(ProfileError::Text(text.to_owned())));
        }
        assert_eq!("0+1".parse::<Profile>(), Err(ProfileError::Data(0)));
        assert_eq!("17+1".parse::<Profile>(), Err(ProfileError::Data(17)));
        assert_eq!("4+5".parse::<Profile>(), Err(ProfileError::Parity(5)));
        assert_eq!("x".repeat(1000).parse::<Profile>(), Err(ProfileError::Text("x".repeat(32))));
        assert_eq!(ProfileError::Data(17).to_string(), "an erasure profile has 1 to 16 data columns, not 17");
    }
}
