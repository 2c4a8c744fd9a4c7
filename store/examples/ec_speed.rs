//! How fast one core computes the erasure code and the checksum: `cargo run --release -p kvof-store --example ec_speed`.
//!
//! Figures are GB/s of bytes read: data for encode and update, survivors for reconstruct. Columns of a stripe lie apart in
//! memory, as those of devices do.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use kvof_store::{
    checksum::{combine, crc32c},
    ec::{CpuCode, ErasureCode, Profile},
};

/// Each figure is the best of this many rounds, since a shared machine only ever makes code slower.
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(100);

fn main() {
    println!("engine: {}", CpuCode::new(Profile::new(4, 1).expect("within limits")).name());
    println!(
        "{:>8} {:>9} {:>8} {:>8} {:>12} {:>12} {:>8}",
        "", "column", "encode", "update", "1 lost", "m lost", "CRC-32C"
    );
    for (k, m) in [(4, 1), (4, 2), (8, 2)] {
        for len in [4 << 10, 64 << 10, 256 << 10, 1 << 20] {
            measure(Profile::new(k, m).expect("within limits"), len);
        }
    }
    let crc = crc32c(b"a");
    let per_call = 1e9 / (gb_per_s(1, || _ = black_box(combine(black_box(crc), black_box(crc), 1 << 20))) * 1e9);
    println!("combining two checksums: {per_call:.0} ns");
}

fn measure(profile: Profile, len: usize) {
    let (k, m) = (usize::from(profile.k()), usize::from(profile.m()));
    let code = CpuCode::new(profile);
    let data: Vec<Vec<u8>> = (1..=k).map(|column| (0..len).map(|at| (at * column) as u8).collect()).collect();
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity = vec![vec![0; len]; m];
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();

    let encode = gb_per_s(k * len, || code.encode(black_box(&data), black_box(&mut parity)));
    let update = gb_per_s(k * len, || {
        for (column, data) in data.iter().enumerate() {
            code.update(column, black_box(data), black_box(&mut parity));
        }
    });
    let reconstruct = |lost: usize| {
        let survivors = (lost..k).map(|column| (column, data[column]));
        let present: Vec<_> =
            survivors.chain(parity.iter().enumerate().map(|(row, bytes)| (k + row, &**bytes))).collect();
        let mut out = vec![vec![0; len]; lost];
        let mut wanted: Vec<_> = out.iter_mut().map(Vec::as_mut_slice).enumerate().collect();
        gb_per_s(k * len, || code.reconstruct(k, black_box(&present), black_box(&mut wanted)).expect("enough columns"))
    };
    let (one, all) = (reconstruct(1), reconstruct(m));
    let crc = gb_per_s(k * len, || data.iter().for_each(|data| _ = black_box(crc32c(black_box(data)))));
    println!(
        "{:>8} {:>5} KiB {encode:>8.1} {update:>8.1} {one:>12.1} {all:>12.1} {crc:>8.1}",
        profile.to_string(),
        len >> 10
    );
}

/// Bytes per nanosecond of the best round, when one call of `work` is `bytes`.
fn gb_per_s(bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let (start, mut calls) = (Instant::now(), 0_u32);
        while start.elapsed() < ROUND {
            for _ in 0..4 {
                work();
            }
            calls += 4;
        }
        best = best.max(f64::from(calls) * bytes as f64 / start.elapsed().as_nanos() as f64);
    }
    best
}
