//! Erasure coding: k columns of data and m columns of parity, of which any m may be lost.
//!
//! The code is a systematic Cauchy code over GF(2^8) with the polynomial 0x11d: parity row i is the sum over the data
//! columns j of [`coefficient`]`(i, j)` times their bytes. These are the bytes that ISA-L's Cauchy code gives and that the
//! BlueField's engine documents, so that parity which one engine has written another can use. A stripe may have fewer data
//! columns than k: those that it lacks count as zeros, and the coefficients stay those of k.
//!
//! An engine is an [`ErasureCode`]; [`CpuCode`] is the one that is always there. `docs/decisions/erasure-code.md` says why
//! it is this code.

mod cpu;
mod matrix;
mod profile;
mod self_test;

pub use cpu::CpuCode;
pub use matrix::{TooFewColumns, coefficient};
pub use profile::{Profile, ProfileError};
pub use self_test::{SelfTestError, self_test};

/// The most data columns a profile may have.
pub const MAX_DATA: usize = 16;
/// The most parity columns a profile may have.
pub const MAX_PARITY: usize = 4;

/// An engine that computes parity and recovers lost columns, for one profile.
///
/// Columns are numbered as in a stripe: data is `0..k`, parity is `k..k + m`. All pieces of one call have the same length,
/// and any length is right. With m = 0 there is no parity, and nothing to do.
///
/// # Panics
/// All methods panic when lengths within a call differ, a column is none of the profile's, or the number of parity pieces
/// is not m. None of these can come from outside: what a device says is checked where it is read.
pub trait ErasureCode: std::fmt::Debug + Send {
    /// The profile that it computes.
    fn profile(&self) -> Profile;

    /// The engine and what it runs on, for people.
    fn name(&self) -> &'static str;

    /// Adds a piece of the data column `column` to the parity at the same place: `parity[i] ^= coefficient(i, column) * data`.
    ///
    /// From zeros, the pieces of all columns in any order give what [`encode`](Self::encode) gives.
    fn update(&self, column: usize, data: &[u8], parity: &mut [&mut [u8]]);

    /// Overwrites `parity` with that of the first `data.len()` data columns. At most k; those that lack are zeros.
    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]);

    /// Recovers columns of a stripe that has `width` data columns (at most k) from any `width` of its columns.
    ///
    /// `present` has columns with their bytes, in any order. `wanted` has the columns to write and where to: data or
    /// parity, lost or not. The data columns `width..k` are zeros: nobody needs to give them, and whoever does has them ignored.
    fn reconstruct(
        &self,
        width: usize,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), TooFewColumns>;
}
