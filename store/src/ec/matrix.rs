//! Coefficients: of parity over data, and of any column over the survivors of a stripe.

use rusty_erasure::{gf, matrix::invert_gauss_jordan};

use super::{MAX_DATA, MAX_PARITY, Profile};

/// What the data column `column` is multiplied with in parity row `row`: 1 / ((k + row) + column) in GF(2^8), 0x11d.
///
/// Addition there is exclusive or, and k + row is never column, so that there is always an inverse. Every square part of
/// such a (Cauchy) matrix can be inverted, which is why any m columns may be lost.
///
/// # Panics
/// When the profile has no such row or column.
#[must_use]
pub fn coefficient(profile: Profile, row: usize, column: usize) -> u8 {
    let k = usize::from(profile.k());
    assert!(row < profile.m().into(), "parity row {row} of profile {profile}");
    assert!(column < k, "data column {column} of profile {profile}");
    // Below 20, so that the cast loses nothing.
    gf::inv(((k + row) ^ column) as u8)
}

/// More columns of a stripe are lost than its parity can give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{have} of the {} columns of a stripe with {width} of profile {profile}'s data columns can be read, and {width} are needed",
    width + usize::from(profile.m())
)]
pub struct TooFewColumns {
    /// The profile of the stripe.
    pub profile: Profile,
    /// The data columns that the stripe has, which is the number of columns needed.
    pub width: usize,
    /// The columns that there are.
    pub have: usize,
}

/// How every column of a stripe follows from the survivors.
#[derive(Debug)]
pub(super) struct Decode {
    profile: Profile,
    width: usize,
    /// The columns that are read: all data that is there, then as many parity columns as data is lost.
    sources: Vec<usize>,
    /// The data columns that are lost.
    lost: Vec<usize>,
    /// For each lost data column, in order, its coefficients over `sources`.
    rows: Vec<u8>,
}

impl Decode {
    /// From the set of columns that are there, as bits.
    pub(super) fn new(profile: Profile, width: usize, present: u32) -> Result<Self, TooFewColumns> {
        let (k, m) = (usize::from(profile.k()), usize::from(profile.m()));
        let is_present = |&column: &usize| present >> column & 1 == 1;
        let (mut sources, lost): (Vec<_>, Vec<_>) = (0..width).partition(is_present);
        let data = sources.len();
        sources.extend((k..k + m).filter(is_present));
        if sources.len() < width {
            return Err(TooFewColumns { profile, width, have: sources.len() });
        }
        sources.truncate(width);

        // Parity is the lost data times `part`, plus the data that is there times its coefficients.
        let count = lost.len();
        let mut part = [0; MAX_PARITY * MAX_PARITY];
        let mut inverse = [0; MAX_PARITY * MAX_PARITY];
        let (part, inverse) = (&mut part[..count * count], &mut inverse[..count * count]);
        let parity = &sources[data..];
        for (row, &source) in parity.iter().enumerate() {
            for (column, &lost) in lost.iter().enumerate() {
                part[row * count + column] = coefficient(profile, source - k, lost);
            }
        }
        if count > 0 {
            invert_gauss_jordan(part, inverse, count).expect("every square part of a Cauchy matrix has an inverse");
        }
        let mut rows = Vec::with_capacity(count * width);
        for of in inverse.chunks_exact(count.max(1)) {
            for &column in &sources[..data] {
                let terms = of.iter().zip(parity).map(|(&c, &row)| gf::mul(c, coefficient(profile, row - k, column)));
                rows.push(terms.fold(0, |sum, term| sum ^ term));
            }
            rows.extend_from_slice(of);
        }
        Ok(Self { profile, width, sources, lost, rows })
    }

    /// The columns that are read, in the order of the coefficients.
    pub(super) fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// The coefficients over the sources that give `column`.
    pub(super) fn row(&self, column: usize) -> [u8; MAX_DATA] {
        let k = usize::from(self.profile.k());
        let mut row = [0; MAX_DATA];
        if column < k {
            self.add(&mut row, column, 1);
        } else {
            for data in 0..self.width {
                self.add(&mut row, data, coefficient(self.profile, column - k, data));
            }
        }
        row
    }

    /// Adds `factor` times a data column to the coefficients of a sum.
    fn add(&self, sum: &mut [u8; MAX_DATA], column: usize, factor: u8) {
        if let Some(at) = self.lost.iter().position(|&lost| lost == column) {
            let row = &self.rows[at * self.width..][..self.width];
            for (sum, &coefficient) in sum.iter_mut().zip(row) {
                *sum ^= gf::mul(factor, coefficient);
            }
        } else if let Some(at) = self.sources.iter().position(|&source| source == column) {
            sum[at] ^= factor;
        }
        // Else the stripe lacks the column: zeros, which add nothing.
    }
}
