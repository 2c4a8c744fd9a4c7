//! The erasure code against its definition, computed byte by byte, and against every loss that it promises to survive.

use kvof_store::ec::{CpuCode, ErasureCode, Profile, TooFewColumns, coefficient, self_test};
use proptest::{prelude::*, sample::Index};

/// GF(2^8) with the polynomial 0x11d, from nothing but its definition.
mod slow {
    pub(super) fn mul(a: u8, b: u8) -> u8 {
        let (mut a, mut product) = (u16::from(a), 0_u16);
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= a;
            }
            a <<= 1;
            if a > 0xff {
                a ^= 0x11d;
            }
        }
        product as u8
    }

    fn inverse(a: u8) -> u8 {
        (1..=255).find(|&b| mul(a, b) == 1).unwrap()
    }

    /// Parity row `row` of a profile with `k` data columns, of which those that `data` lacks are zeros.
    pub(super) fn parity(k: usize, row: usize, data: &[Vec<u8>], len: usize) -> Vec<u8> {
        let mut sum = vec![0; len];
        for (column, data) in data.iter().enumerate() {
            // DOCA's words: 1 / (x + y), x is the data column and y is k + the parity row; + is exclusive or.
            let coefficient = inverse((column ^ (k + row)) as u8);
            let products: Vec<u8> = (0..=255).map(|byte| mul(coefficient, byte)).collect();
            for (sum, &byte) in sum.iter_mut().zip(data) {
                *sum ^= products[usize::from(byte)];
            }
        }
        sum
    }
}

/// A stripe with all its columns: `width` of random data, zeros up to k, and m of parity by definition.
fn stripe(profile: Profile, width: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let k = usize::from(profile.k());
    let mut state = seed;
    let mut columns: Vec<Vec<u8>> = (0..k)
        .map(|column| {
            let byte = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if column < width { (state >> 56) as u8 } else { 0 }
            };
            (0..len).map(byte).collect()
        })
        .collect();
    for row in 0..profile.m().into() {
        columns.push(slow::parity(k, row, &columns[..width], len));
    }
    columns
}

fn encode(code: &CpuCode, data: &[Vec<u8>], len: usize) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xee; len]; code.profile().m().into()];
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    code.encode(&data, &mut slices(&mut parity));
    parity
}

fn slices(columns: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    columns.iter_mut().map(Vec::as_mut_slice).collect()
}

/// What `code` makes of the columns `present` of a stripe for the columns `wanted`.
fn reconstruct(
    code: &CpuCode,
    width: usize,
    columns: &[Vec<u8>],
    present: &[usize],
    wanted: &[usize],
) -> Result<Vec<Vec<u8>>, TooFewColumns> {
    let mut out = vec![vec![0xee; columns[0].len()]; wanted.len()];
    let present: Vec<_> = present.iter().map(|&column| (column, columns[column].as_slice())).collect();
    let mut wanted: Vec<_> = wanted.iter().copied().zip(slices(&mut out)).collect();
    code.reconstruct(width, &present, &mut wanted)?;
    Ok(out)
}

fn any_profile() -> impl Strategy<Value = Profile> {
    (1..=16_u8, 0..=4_u8).prop_map(|(k, m)| Profile::new(k, m).unwrap())
}

/// A profile, how many data columns a stripe of it has, and the length of its columns.
fn any_stripe() -> impl Strategy<Value = (Profile, usize, usize)> {
    let len = prop_oneof![
        Just(0_usize),
        Just(1),
        Just(63),
        Just(64),
        Just(4096),
        Just(4097),
        // Longer than a strip of any profile but the narrowest.
        Just(180_001),
        0..700_usize,
    ];
    any_profile().prop_flat_map(move |profile| (Just(profile), 0..=usize::from(profile.k()), len.clone()))
}

/// The columns that a stripe has: its data and the parity.
fn columns_of(profile: Profile, width: usize) -> Vec<usize> {
    (0..width).chain(profile.k().into()..profile.width().into()).collect()
}

/// Not by chance but each: all profiles, all widths, all sets of up to m lost columns.
#[test]
fn every_loss_of_up_to_m_columns_is_recovered() {
    const LEN: usize = 35;
    let mut losses = 0;
    for (k, m) in (1..=16).flat_map(|k| (0..=4).map(move |m| (k, m))) {
        let profile = Profile::new(k, m).unwrap();
        let code = CpuCode::new(profile);
        for width in 0..=k.into() {
            let columns = stripe(profile, width, LEN, u64::from(k) << 16 | u64::from(m) << 8 | width as u64);
            let exist = columns_of(profile, width);
            for set in (0_u32..1 << exist.len()).filter(|set| set.count_ones() <= m.into()) {
                let is_lost = |at: usize| set >> at & 1 == 1;
                let lost: Vec<usize> = (0..exist.len()).filter(|&at| is_lost(at)).map(|at| exist[at]).collect();
                let rest: Vec<usize> = (0..exist.len()).filter(|&at| !is_lost(at)).map(|at| exist[at]).collect();
                let got = reconstruct(&code, width, &columns, &rest, &lost).unwrap();
                for (column, got) in lost.iter().zip(&got) {
                    assert_eq!(got, &columns[*column], "{profile}, width {width}, lost {lost:?}, column {column}");
                }
                losses += 1;
            }
        }
    }
    println!("{losses} losses");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn parity_is_as_defined((profile, width, len) in any_stripe(), seed: u64) {
        let columns = stripe(profile, width, len, seed);
        let (data, parity) = columns.split_at(profile.k().into());
        let code = CpuCode::new(profile);
        prop_assert_eq!(encode(&code, &data[..width], len), parity);
        prop_assert_eq!(encode(&code, data, len), parity, "with the zeros given");
    }

    #[test]
    fn pieces_in_any_order_give_the_same_parity(
        (profile, width, len) in any_stripe(),
        seed: u64,
        cuts in proptest::collection::vec((any::<Index>(), any::<Index>()), 0..12),
        order in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let columns = stripe(profile, width, len, seed);
        let (data, expected) = columns.split_at(profile.k().into());
        let mut pieces: Vec<(usize, usize, usize)> = Vec::new();
        for column in 0..width {
            let cuts = cuts.iter().filter(|(of, _)| of.index(width) == column).map(|(_, at)| at.index(len + 1));
            let mut bounds: Vec<usize> = cuts.chain([0, len]).collect();
            bounds.sort_unstable();
            pieces.extend(bounds.windows(2).map(|pair| (column, pair[0], pair[1])));
        }
        let mut order = order.iter().cycle();
        pieces.sort_by_cached_key(|_| order.next());

        let code = CpuCode::new(profile);
        let mut parity = vec![vec![0; len]; profile.m().into()];
        for (column, from, to) in pieces {
            let mut at: Vec<&mut [u8]> = parity.iter_mut().map(|row| &mut row[from..to]).collect();
            code.update(column, &data[column][from..to], &mut at);
        }
        prop_assert_eq!(parity, expected);
    }

    /// Beyond what was lost: in any order, with columns that are there or that the stripe lacks, and more than m of them.
    #[test]
    fn any_column_comes_from_enough_others(
        (profile, width, len) in any_stripe(),
        seed: u64,
        lost in proptest::collection::vec(any::<Index>(), 0..=4),
        wanted in proptest::collection::vec(any::<Index>(), 0..12),
        shuffle: Index,
        garbage: bool,
    ) {
        let columns = stripe(profile, width, len, seed);
        let mut present = columns_of(profile, width);
        for lost in lost.iter().take(profile.m().into()).filter(|_| width > 0) {
            present.swap_remove(lost.index(present.len()));
        }
        if !present.is_empty() {
            let middle = shuffle.index(present.len());
            present.rotate_left(middle);
        }
        let mut given = columns.clone();
        if garbage && width < profile.k().into() {
            // A column that the stripe lacks is zeros, whatever somebody gives.
            present.push(width);
            given[width].fill(0x77);
        }
        let wanted: Vec<usize> = wanted.iter().map(|at| at.index(profile.width().into())).collect();
        let got = reconstruct(&CpuCode::new(profile), width, &given, &present, &wanted).unwrap();
        for (column, got) in wanted.iter().zip(&got) {
            prop_assert_eq!(got, &columns[*column], "column {}", column);
        }
    }

    #[test]
    fn too_few_columns_are_counted(
        profile in any_profile(),
        width: Index,
        lost in proptest::collection::vec(any::<Index>(), 20),
        have: Index,
    ) {
        let width = 1 + width.index(profile.k().into());
        let have = have.index(width);
        let columns = stripe(profile, width, 65, 1);
        let mut present = columns_of(profile, width);
        let mut lost = lost.iter();
        while present.len() > have {
            present.swap_remove(lost.next().unwrap().index(present.len()));
        }
        let error = Err(TooFewColumns { profile, width, have });
        let code = CpuCode::new(profile);
        prop_assert_eq!(reconstruct(&code, width, &columns, &present, &[0]), error.clone());
        // The same column twice is one column, and one that the stripe lacks is none.
        present.extend_from_within(..);
        present.extend(width..usize::from(profile.k()));
        prop_assert_eq!(reconstruct(&code, width, &columns, &present, &[0]), error);
    }
}

#[test]
fn the_error_says_how_many_there_are_and_are_needed() {
    let error = TooFewColumns { profile: Profile::new(8, 2).unwrap(), width: 5, have: 4 };
    assert_eq!(
        error.to_string(),
        "4 of the 7 columns of a stripe with 5 of profile 8+2's data columns can be read, and 5 are needed"
    );
}

#[test]
fn no_parity_is_nothing_to_do() {
    let profile = Profile::new(4, 0).unwrap();
    let code = CpuCode::new(profile);
    let columns = stripe(profile, 4, 100, 1);
    code.update(3, &columns[3], &mut []);
    code.encode(&[&columns[0]], &mut []);
    assert_eq!(reconstruct(&code, 4, &columns, &[0, 1, 2, 3], &[2]), Ok(vec![columns[2].clone()]));
    assert_eq!(reconstruct(&code, 4, &columns, &[0, 1, 3], &[2]), Err(TooFewColumns { profile, width: 4, have: 3 }));
    self_test(&code).unwrap();
}

#[test]
fn one_data_column_has_parity_that_is_no_copy() {
    let profile = Profile::new(1, 3).unwrap();
    let columns = stripe(profile, 1, 4096, 1);
    assert_eq!(coefficient(profile, 0, 0), 1);
    assert_eq!(columns[1], columns[0]);
    assert_ne!(columns[2], columns[0]);
    for survivor in 0..4 {
        assert_eq!(reconstruct(&CpuCode::new(profile), 1, &columns, &[survivor], &[0]).unwrap()[0], columns[0]);
    }
}

#[test]
fn an_engine_says_what_it_runs_on() {
    let code = CpuCode::new(Profile::new(4, 2).unwrap());
    assert!(code.name().starts_with("cpu "), "{}", code.name());
    println!("{code:?}");
}

#[test]
#[should_panic(expected = "pieces of 64 and of 63 bytes")]
fn lengths_that_differ_are_a_bug() {
    CpuCode::new(Profile::new(4, 1).unwrap()).encode(&[&[0; 63]], &mut [&mut [0; 64]]);
}

#[test]
#[should_panic(expected = "data column 4 of profile 4+1")]
fn an_update_of_parity_is_a_bug() {
    CpuCode::new(Profile::new(4, 1).unwrap()).update(4, &[0; 64], &mut [&mut [0; 64]]);
}

#[test]
#[should_panic(expected = "1 parity columns of profile 4+2")]
fn parity_left_out_is_a_bug() {
    CpuCode::new(Profile::new(4, 2).unwrap()).update(0, &[0; 64], &mut [&mut [0; 64]]);
}
