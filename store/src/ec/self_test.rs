//! Whether an engine computes the code of this format.

use rusty_erasure::gf;

use super::{ErasureCode, Profile, coefficient};

/// A multiple of 64 plus what is left over in kernels of every step, when the engine takes any length.
const LEN: usize = 256 + 128 + 64 + 32 + 16 + 7;

/// Lets `engine` compute the parity of known bytes in all ways that it has, and compares with the definition of the code.
///
/// To be done before an engine is used, and an engine that fails must not be: its parity would be wrong, which shows only
/// when a device is lost. It takes well below a millisecond on a CPU.
pub fn self_test(engine: &dyn ErasureCode) -> Result<(), SelfTestError> {
    let profile = engine.profile();
    let (k, m) = (usize::from(profile.k()), usize::from(profile.m()));
    let fail = |operation| Err(SelfTestError { engine: engine.name(), profile, operation });
    let data: Vec<Vec<u8>> = (0..k).map(known_bytes).collect();
    for width in [1, k / 2, k] {
        let mut columns: Vec<Vec<u8>> = data[..width].to_vec();
        columns.resize(k, vec![0; LEN]);
        for row in 0..m {
            columns.push(expected(profile, row, &columns[..width]));
        }
        let (data, parity) = columns.split_at(k);

        let mut got = vec![vec![0xa5; LEN]; m];
        let data: Vec<&[u8]> = data[..width].iter().map(Vec::as_slice).collect();
        engine.encode(&data, &mut got.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        if got != parity {
            return fail("encode");
        }

        let mut got = vec![vec![0; LEN]; m];
        for (column, data) in data.iter().enumerate().rev() {
            engine.update(column, data, &mut got.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        }
        if got != parity {
            return fail("update");
        }

        // Without the first data columns, so that all parity takes part; and with parity among what is lost.
        let first = m.min(width);
        let lost: [Vec<usize>; 2] =
            [(0..first).collect(), (0..first.min(m.saturating_sub(1))).chain([k + m - 1]).collect()];
        for lost in &lost[..if m == 0 { 1 } else { 2 }] {
            let rest = (0..width).chain(k..k + m).filter(|column| !lost.contains(column));
            let present: Vec<_> = rest.map(|column| (column, columns[column].as_slice())).collect();
            let mut got = vec![vec![0xa5; LEN]; lost.len()];
            let mut wanted: Vec<_> = lost.iter().copied().zip(got.iter_mut().map(Vec::as_mut_slice)).collect();
            let result = engine.reconstruct(width, &present, &mut wanted);
            if result.is_err() || lost.iter().zip(&got).any(|(&column, got)| *got != columns[column]) {
                return fail("reconstruct");
            }
        }
    }
    Ok(())
}

/// An engine that must not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the erasure code engine \"{engine}\" fails its self-test: its {operation} for profile {profile} gives other bytes"
)]
pub struct SelfTestError {
    /// The engine's name.
    pub engine: &'static str,
    /// What it was to compute.
    pub profile: Profile,
    /// Which of its methods was wrong.
    pub operation: &'static str,
}

/// Bytes that differ between columns and places: the top bytes of multiples of the golden ratio.
fn known_bytes(column: usize) -> Vec<u8> {
    let start = column as u32 * LEN as u32;
    (1..=LEN as u32).map(|at| (start.wrapping_add(at).wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

/// Parity by its definition, byte for byte.
fn expected(profile: Profile, row: usize, data: &[Vec<u8>]) -> Vec<u8> {
    let mut sum = vec![0; LEN];
    for (column, data) in data.iter().enumerate() {
        let coefficient = coefficient(profile, row, column);
        for (sum, &byte) in sum.iter_mut().zip(data) {
            *sum ^= gf::mul(coefficient, byte);
        }
    }
    sum
}
