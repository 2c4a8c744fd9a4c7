//! The erasure code gives the bytes that Intel's ISA-L gives, which is what the DPU's engine documents too.
//!
//! The vectors are outputs of `gf_gen_cauchy1_matrix` and `ec_encode_data` of ISA-L 2.30. Byte `at` of data column c is the
//! top byte of (c * 4097 + at + 1) * 0x9e3779b1 modulo 2^32, for 4097 bytes.

use kvof_store::{
    checksum::crc32c,
    ec::{CpuCode, ErasureCode, Profile, coefficient},
};

const LEN: u32 = 4097;

struct Golden {
    profile: &'static str,
    /// Row after row, k bytes each.
    coefficients: &'static str,
    /// For each parity row its first 16 bytes, and the CRC-32C of all.
    parity: &'static [(&'static str, u32)],
}

const GOLDEN: [Golden; 8] = [
    Golden { profile: "1+1", coefficients: "01", parity: &[("9e3cda7817b553f18f2ecc6a08a745e3", 0x5fc5_25d2)] },
    Golden {
        profile: "1+2",
        coefficients: "018e",
        parity: &[("9e3cda7817b553f18f2ecc6a08a745e3", 0x5fc5_25d2), ("4f1e6d3c85d4a7f6c917663504ddacff", 0xcedf_198f)],
    },
    Golden { profile: "4+1", coefficients: "47a77aba", parity: &[("096a8d380a2b4dc05a91fc3e882be4b7", 0xd7fc_0db1)] },
    Golden {
        profile: "4+2",
        coefficients: "47a77abaa747ba7a",
        parity: &[("096a8d380a2b4dc05a91fc3e882be4b7", 0xd7fc_0db1), ("f0cb1d26dc71dc67397504705389b6a9", 0xb26c_9bd0)],
    },
    Golden {
        profile: "8+2",
        coefficients: "ad9ddd983daa5d969dad98ddaa3d965d",
        parity: &[("f2018ac3c404792aba1f0dfebb318622", 0x181f_e2a4), ("f89ea26df2a1faebdadc4cd3e019fc1a", 0x9d1d_e46f)],
    },
    Golden {
        profile: "8+3",
        coefficients: "ad9ddd983daa5d969dad98ddaa3d965ddd98ad9d5d963daa",
        parity: &[
            ("f2018ac3c404792aba1f0dfebb318622", 0x181f_e2a4),
            ("f89ea26df2a1faebdadc4cd3e019fc1a", 0x9d1d_e46f),
            ("dee9ecf29848182e904803ff9e57c38c", 0x265d_6fa7),
        ],
    },
    Golden {
        profile: "10+4",
        coefficients: "dd98ad9d5d963daa8ef498dd9dad965daa3df48e3daa5d96ad9ddd9847a7aa3d965d9dad98dda747",
        parity: &[
            ("2d12538f3d2b14e748834e93fb213353", 0x429c_c4d5),
            ("1f0161093816be3a78053623706ac3e4", 0x254b_8c4a),
            ("253ec913891e175253f269bc89a09654", 0x83c0_ac98),
            ("1662c0d067b383129d5ab0b1d7d7e503", 0xe91b_c32f),
        ],
    },
    Golden {
        profile: "16+4",
        coefficients: "d872c058e03e4c6690de5580a0834b2a72d858c03ee0664cde90805583a02a4b\
                       c058d8724c66e03e558090de4b2aa08358c072d8664c3ee08055de902a4b83a0",
        parity: &[
            ("83ce3e832da8cd78980b7292c06c6041", 0x5c3e_ade5),
            ("3476b34d61d7f69e48dbc6bf07c2490d", 0xd6d1_c88f),
            ("a63c6b0de3fbb5b8f1105c2f03eb8faa", 0x3582_a10c),
            ("2c811351c6e4b516d88e42cb1b387dd4", 0x25d8_c99c),
        ],
    },
];

#[test]
fn coefficients_and_parity_are_those_of_isa_l() {
    for golden in &GOLDEN {
        let profile: Profile = golden.profile.parse().unwrap();
        let (k, m) = (usize::from(profile.k()), usize::from(profile.m()));
        let ours: String = (0..m)
            .flat_map(|row| (0..k).map(move |column| format!("{:02x}", coefficient(profile, row, column))))
            .collect();
        assert_eq!(ours, golden.coefficients, "{profile}");

        let data: Vec<Vec<u8>> = (0..profile.k().into()).map(column).collect();
        let mut parity = vec![vec![0xff; LEN as usize]; m];
        CpuCode::new(profile).encode(
            &data.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            &mut parity.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
        );
        assert_eq!(golden.parity.len(), m);
        for (row, (&(first, crc), parity)) in golden.parity.iter().zip(&parity).enumerate() {
            let ours: String = parity[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((ours.as_str(), crc32c(parity)), (first, crc), "{profile}, parity row {row}");
        }
    }
}

fn column(number: u32) -> Vec<u8> {
    (1..=LEN).map(|at| ((number * LEN + at).wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}
