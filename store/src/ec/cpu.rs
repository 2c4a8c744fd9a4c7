//! The engine that every machine has: table look-ups in vector registers, by the instructions that the CPU turns out to have.

use std::fmt;

use rusty_erasure::kernel::Kernels;

use super::{ErasureCode, MAX_DATA, MAX_PARITY, Profile, TooFewColumns, coefficient, matrix::Decode, self_test};

/// What all columns of one step may occupy. Some kernels walk the data once for every two rows of parity, and should find it
/// in a core's second-level cache then. Half of a small one (BlueField-3 has 512 KiB).
const STRIP_BYTES: usize = 256 * 1024;
/// A step is never shorter in one column than this, and always a multiple of it.
const STRIP_UNIT: usize = 4096;

/// Erasure coding on the CPU.
pub struct CpuCode {
    profile: Profile,
    kernels: Kernels,
    name: &'static str,
    /// For each width from 1 to k, the multiplication tables of all parity rows over that many data columns. The last is
    /// also what updates use. Empty with m = 0.
    tables: Vec<Vec<u8>>,
}

impl CpuCode {
    /// The engine for `profile`, with the fastest kernels that this CPU has and that pass the [`self_test`].
    ///
    /// Wrong parity shows only when a device is lost, and then as wrong data: kernels that fail are reported and the
    /// scalar ones, which cannot depend on the CPU, are taken instead.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self::with_kernels_or_scalar(profile, rusty_erasure::best_kernels())
    }

    fn with_kernels_or_scalar(profile: Profile, kernels: Kernels) -> Self {
        let code = Self::with_kernels(profile, kernels);
        match self_test(&code) {
            Ok(()) => code,
            Err(error) => {
                tracing::error!("{error}; computing without vector instructions, which is much slower");
                Self::with_kernels(profile, Kernels::scalar())
            }
        }
    }

    fn with_kernels(profile: Profile, kernels: Kernels) -> Self {
        let (k, m) = (usize::from(profile.k()), usize::from(profile.m()));
        let table = |width| {
            let rows = (0..m).flat_map(|row| (0..width).map(move |column| coefficient(profile, row, column)));
            (kernels.init)(&rows.collect::<Vec<_>>())
        };
        let tables = if m == 0 { Vec::new() } else { (1..=k).map(table).collect() };
        Self { profile, kernels, name: name(kernels.name), tables }
    }

    /// Overwrites `out` with sums over `data`, by `tables` of one row for each of `out` over as many columns as `data` has.
    fn sum(&self, tables: &[u8], data: &[&[u8]], out: &mut [&mut [u8]]) {
        if data.is_empty() {
            out.iter_mut().for_each(|out| out.fill(0));
            return;
        }
        let (rows, len) = (out.len(), out.first().map_or(0, |out| out.len()));
        let strip = strip(data.len() + rows);
        for start in (0..len).step_by(strip) {
            let range = start..len.min(start + strip);
            let mut pieces = [&[][..]; MAX_DATA];
            for (piece, data) in pieces.iter_mut().zip(data) {
                *piece = &data[range.clone()];
            }
            let mut sums: [&mut [u8]; MAX_PARITY] = Default::default();
            for (sum, out) in sums.iter_mut().zip(out.iter_mut()) {
                *sum = &mut out[range.clone()];
            }
            (self.kernels.encode)(tables, &pieces[..data.len()], &mut sums[..rows]);
        }
    }
}

impl ErasureCode for CpuCode {
    fn profile(&self) -> Profile {
        self.profile
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn update(&self, column: usize, data: &[u8], parity: &mut [&mut [u8]]) {
        let (profile, k) = (self.profile, usize::from(self.profile.k()));
        assert!(column < k, "data column {column} of profile {profile}");
        check_parity(profile, parity);
        check_lengths(data.len(), parity.iter().map(|parity| parity.len()));
        // One walk over the data and all parity rows: nothing is read twice, so that strips would gain nothing.
        if let Some(tables) = self.tables.last() {
            (self.kernels.update)(tables, k, column, data, parity);
        }
    }

    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        let profile = self.profile;
        assert!(data.len() <= profile.k().into(), "{} data columns of profile {profile}", data.len());
        check_parity(profile, parity);
        if let Some(len) = parity.first().map(|parity| parity.len()) {
            check_lengths(len, data.iter().map(|data| data.len()).chain(parity.iter().map(|parity| parity.len())));
            let tables = data.len().checked_sub(1).map_or(&[][..], |at| &self.tables[at]);
            self.sum(tables, data, parity);
        }
    }

    fn reconstruct(
        &self,
        width: usize,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), TooFewColumns> {
        let profile = self.profile;
        assert!(width <= profile.k().into(), "{width} data columns of profile {profile}");
        let mut columns = [None; MAX_DATA + MAX_PARITY];
        let mut set = 0_u32;
        let numbers = present.iter().map(|&(column, _)| column).chain(wanted.iter().map(|&(column, _)| column));
        for column in numbers {
            assert!(column < profile.width().into(), "column {column} of profile {profile}");
        }
        for &(column, bytes) in present {
            columns[column] = Some(bytes);
            set |= 1 << column;
        }
        let decode = Decode::new(profile, width, set)?;
        let Some(len) = wanted.first().map(|(_, out)| out.len()) else { return Ok(()) };
        check_lengths(len, present.iter().map(|(_, bytes)| bytes.len()).chain(wanted.iter().map(|(_, out)| out.len())));

        let mut sources = [&[][..]; MAX_DATA];
        for (source, &column) in sources.iter_mut().zip(decode.sources()) {
            *source = columns[column].expect("a source is one of the present columns");
        }
        let sources = &sources[..width];
        for group in wanted.chunks_mut(MAX_PARITY) {
            let rows: Vec<u8> =
                group.iter().flat_map(|&(column, _)| decode.row(column).into_iter().take(width)).collect();
            let mut out: [&mut [u8]; MAX_PARITY] = Default::default();
            let count = group.len();
            for (out, (_, wanted)) in out.iter_mut().zip(group) {
                *out = wanted;
            }
            self.sum(&(self.kernels.init)(&rows), sources, &mut out[..count]);
        }
        Ok(())
    }
}

impl fmt::Debug for CpuCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuCode").field("profile", &self.profile).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The length of a step in each of `columns` columns.
fn strip(columns: usize) -> usize {
    (STRIP_BYTES / columns / STRIP_UNIT).max(1) * STRIP_UNIT
}

fn check_parity(profile: Profile, parity: &[&mut [u8]]) {
    assert!(parity.len() == usize::from(profile.m()), "{} parity columns of profile {profile}", parity.len());
}

fn check_lengths(len: usize, mut lengths: impl Iterator<Item = usize>) {
    if let Some(other) = lengths.find(|&other| other != len) {
        panic!("pieces of {len} and of {other} bytes in one call");
    }
}

/// What to call kernels in front of people.
fn name(kernels: &'static str) -> &'static str {
    match kernels {
        "scalar" => "cpu scalar",
        "x86_64/ssse3" => "cpu ssse3",
        "x86_64/avx2" => "cpu avx2",
        "x86_64/avx2_gfni" => "cpu avx2 gfni",
        "aarch64/neon" => "cpu neon",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles() -> impl Iterator<Item = Profile> {
        (1..=16).flat_map(|k| (0..=4).map(move |m| Profile::new(k, m).unwrap()))
    }

    #[test]
    fn all_kernels_of_this_cpu_pass_the_self_test() {
        let mut tested = 0;
        for name in ["scalar", "ssse3", "avx2", "gfni", "neon"] {
            let Some(kernels) = rusty_erasure::kernels_named(name) else {
                println!("skipped: this CPU has no {name}");
                continue;
            };
            for profile in profiles() {
                let code = CpuCode::with_kernels(profile, kernels);
                self_test(&code).unwrap();
                assert!(code.name().starts_with("cpu ") && code.name().ends_with(name), "{}", code.name());
            }
            tested += 1;
        }
        assert!(tested > 0);
    }

    #[test]
    fn kernels_that_compute_wrongly_are_not_used() {
        let right = Kernels { name: "right", ..rusty_erasure::best_kernels() };
        let wrong = [
            Kernels { encode: |_, _, out| out.iter_mut().for_each(|out| out.fill(0)), name: "encodes zeros", ..right },
            Kernels { update: |_, _, _, _, _| (), name: "updates nothing", ..right },
            // As if the tables were of another field or kernel.
            Kernels {
                init: |rows| (right_init())(&rows.iter().map(|c| c ^ 1).collect::<Vec<_>>()),
                name: "tables",
                ..right
            },
        ];
        for profile in profiles().filter(|profile| profile.m() > 0) {
            assert_eq!(CpuCode::with_kernels_or_scalar(profile, right).name(), "right");
            for kernels in wrong {
                let code = CpuCode::with_kernels_or_scalar(profile, kernels);
                assert_eq!(code.name(), "cpu scalar", "{profile} {}", kernels.name);
                self_test(&code).unwrap();
            }
        }
    }

    fn right_init() -> fn(&[u8]) -> Vec<u8> {
        rusty_erasure::best_kernels().init
    }

    #[test]
    fn strips_fit_the_cache_and_are_pages() {
        for columns in 1..=MAX_DATA + MAX_PARITY {
            let strip = strip(columns);
            assert!(strip.is_multiple_of(STRIP_UNIT) && strip > 0);
            assert!(strip * columns <= STRIP_BYTES, "{columns} columns");
        }
    }
}
