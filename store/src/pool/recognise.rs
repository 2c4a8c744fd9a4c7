//! What else may lie on a device: recognised so that nothing of value is overwritten by mistake.

use std::io;

use kvof_io::DiskFile;

use super::find::pool_name;
use crate::format::{FormatError, Label};

/// Bytes at the start and at the end of a device that are looked at.
pub(super) const LOOK: u64 = 1 << 20;

/// What a device holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Zeros at its start and its end.
    Nothing,
    /// Something that is known, for people.
    Known(String),
    /// Something else.
    Unknown,
}

/// Looks at the first and the last MiB of a device.
///
/// # Errors
/// It cannot be read.
pub fn recognise(file: &DiskFile) -> io::Result<Contents> {
    let no_memory = |_| io::Error::from(io::ErrorKind::OutOfMemory);
    let mut head = super::io::buffer(LOOK as usize).map_err(no_memory)?;
    let mut tail = super::io::buffer(LOOK as usize).map_err(no_memory)?;
    let head_len = file.read_at(0, &mut head)?;
    // A block that is not whole at the end of a file cannot be read directly from its start; the rest can.
    let alignment = file.alignment() as u64;
    let tail_at = (file.len() / alignment * alignment).saturating_sub(LOOK);
    let tail_len = if file.len() > LOOK { file.read_at(tail_at, &mut tail)? } else { 0 };
    let head = head.get(..head_len).unwrap_or_default();
    let tail = tail.get(..tail_len).unwrap_or_default();
    Ok(contents(head, tail, tail_at, file.len()))
}

/// A magic number at a place from the start.
struct Magic {
    at: usize,
    bytes: &'static [u8],
    name: &'static str,
}

const fn magic(at: usize, bytes: &'static [u8], name: &'static str) -> Magic {
    Magic { at, bytes, name }
}

/// The more telling ones first.
const MAGICS: [Magic; 24] = [
    magic(0, b"kvofKVf\x1a", "a kvof KV file, as kvof-target made them before it had pools"),
    magic(0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    magic(0x4000, b"SKUL\xba\xbe", "a LUKS encrypted volume whose first header is gone"),
    magic(0, b"XFSB", "an XFS file system"),
    magic(0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    magic(0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID (md, metadata 1.1)"),
    magic(4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID (md, metadata 1.2)"),
    magic(4086, b"SWAPSPACE2", "swap space"),
    magic(4086, b"SWAP-SPACE", "swap space"),
    magic(65526, b"SWAPSPACE2", "swap space"),
    magic(
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache or bcachefs device",
    ),
    magic(4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs file system"),
    magic(1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    magic(0, b"bluestore block device", "a Ceph OSD (BlueStore)"),
    magic(0, b"SPDKBLOB", "an SPDK blobstore"),
    magic(0, b"dmvdo001", "a VDO volume"),
    magic(0, b"hsqs", "a squashfs file system"),
    magic(0, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    magic(1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    magic(3, b"NTFS    ", "an NTFS file system"),
    magic(3, b"EXFAT   ", "an exFAT file system"),
    magic(82, b"FAT32   ", "a FAT file system"),
    magic(54, b"FAT1", "a FAT file system"),
    magic(0x8001, b"CD001", "an ISO 9660 file system"),
];

/// What the bytes at both ends of a device of `len` bytes are; `tail` starts at `tail_at`.
fn contents(head: &[u8], tail: &[u8], tail_at: u64, len: u64) -> Contents {
    match Label::decode(head) {
        Ok(label) => return Contents::Known(format!("member {} of the {}", label.member, pool_name(&label))),
        Err(FormatError::Version { version, .. }) => {
            return Contents::Known(format!("a member of a kvof pool with format version {version}"));
        }
        Err(FormatError::Checksum { .. } | FormatError::Field { .. } | FormatError::Elsewhere { .. }) => {
            return Contents::Known("a member of a kvof pool with a damaged label".to_owned());
        }
        Err(FormatError::Absent { .. }) => {}
    }
    let known = ext(head)
        .or_else(|| lvm(head))
        .or_else(|| zfs(head, tail))
        .or_else(|| {
            MAGICS
                .iter()
                .find(|magic| at(head, magic.at, magic.bytes.len()) == Some(magic.bytes))
                .map(|m| m.name.into())
        })
        .or_else(|| at_the_end(tail, tail_at, len))
        .or_else(|| partition_table(head, tail, tail_at, len));
    match known {
        Some(known) => Contents::Known(known),
        None if head.iter().chain(tail).all(|byte| *byte == 0) => Contents::Nothing,
        None => Contents::Unknown,
    }
}

fn at(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

fn ext(head: &[u8]) -> Option<String> {
    let superblock = at(head, 1024, 1024)?;
    let is_it = at(superblock, 0x38, 2)? == [0x53, 0xef] && *superblock.get(0x18)? <= 6;
    let label = at(superblock, 0x78, 16)?.split(|byte| *byte == 0).next().unwrap_or_default();
    is_it.then(|| match String::from_utf8_lossy(label) {
        label if label.is_empty() => "an ext2, ext3 or ext4 file system".to_owned(),
        label => format!("an ext2, ext3 or ext4 file system named {label:?}"),
    })
}

fn lvm(head: &[u8]) -> Option<String> {
    let is_it = |sector: usize| {
        at(head, sector * 512, 8) == Some(b"LABELONE") && at(head, sector * 512 + 24, 8) == Some(b"LVM2 001")
    };
    (0..4).any(is_it).then(|| "an LVM physical volume".to_owned())
}

/// Uberblocks, in the labels at either end.
fn zfs(head: &[u8], tail: &[u8]) -> Option<String> {
    let magic = 0x00ba_b10c_u64;
    let is_uberblock =
        |block: &[u8]| block.starts_with(&magic.to_le_bytes()) || block.starts_with(&magic.to_be_bytes());
    let labels = [head.get(..256 << 10), tail.len().checked_sub(256 << 10).and_then(|at| tail.get(at..))];
    let found = labels.into_iter().flatten().any(|label| label.chunks(1024).skip(128).any(is_uberblock));
    found.then(|| "a member of a ZFS pool".to_owned())
}

/// What stands at the end of a device.
fn at_the_end(tail: &[u8], tail_at: u64, len: u64) -> Option<String> {
    let read = |offset: u64, count: usize| at(tail, usize::try_from(offset.checked_sub(tail_at)?).ok()?, count);
    let md = Some(&b"\xfc\x4e\x2b\xa9"[..]);
    let sectors = len / 512;
    if read(sectors.saturating_sub(16) / 8 * 8 * 512, 4) == md {
        return Some("a member of a Linux RAID (md, metadata 1.0)".to_owned());
    }
    if read((len / 65536 * 65536).saturating_sub(65536), 4) == md {
        return Some("a member of a Linux RAID (md, metadata 0.90)".to_owned());
    }
    let intel = read(len.saturating_sub(1024), 24) == Some(b"Intel Raid ISM Cfg Sig. ");
    intel.then(|| "a member of an Intel firmware RAID".to_owned())
}

fn partition_table(head: &[u8], tail: &[u8], tail_at: u64, len: u64) -> Option<String> {
    let last = |block: u64| {
        let offset = len.saturating_sub(block).checked_sub(tail_at).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| at(tail, offset, 8)) == Some(b"EFI PART")
    };
    let first = [512, 4096].into_iter().any(|block| at(head, block, 8) == Some(b"EFI PART"));
    if first {
        return Some("a GPT partition table".to_owned());
    }
    if last(512) || last(4096) {
        return Some("the second copy of a GPT partition table".to_owned());
    }
    let boot = at(head, 510, 2)? == [0x55, 0xaa];
    let used = (0..4).filter(|n| head.get(446 + n * 16 + 4).is_some_and(|kind| *kind != 0)).count();
    boot.then(|| match used {
        0 => "a boot sector or an empty MBR partition table".to_owned(),
        n => format!("an MBR partition table with {n} partitions"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 4 << 20;

    fn see(bytes: &[u8]) -> Contents {
        let tail_at = bytes.len() - LOOK as usize;
        contents(&bytes[..LOOK as usize], &bytes[tail_at..], tail_at as u64, bytes.len() as u64)
    }

    fn with(writes: &[(usize, &[u8])]) -> Contents {
        let mut bytes = vec![0; LEN];
        for (at, what) in writes {
            bytes[*at..*at + what.len()].copy_from_slice(what);
        }
        see(&bytes)
    }

    #[test]
    fn each_is_named() {
        let uberblock = 0x00ba_b10c_u64.to_be_bytes();
        for (writes, name) in [
            (vec![(0x438, &[0x53, 0xef][..])], "ext4"),
            (vec![(0x438, &[0x53, 0xef]), (0x478, b"backup")], "\"backup\""),
            (vec![(512, b"LABELONE"), (536, b"LVM2 001")], "LVM"),
            (vec![(130 << 10, &uberblock)], "ZFS"),
            (vec![(LEN - (100 << 10), &uberblock)], "ZFS"),
            (vec![(510, &[0x55, 0xaa]), (450, &[0x83])], "MBR partition table with 1"),
            (vec![(510, &[0x55, 0xaa])], "boot sector"),
            (vec![(510, &[0x55, 0xaa]), (512, b"EFI PART")], "a GPT"),
            (vec![(LEN - 512, b"EFI PART")], "second copy of a GPT"),
            (vec![(510, &[0x55, 0xaa]), (82, b"FAT32   ")], "FAT"),
            (vec![(LEN - 65536, b"\xfc\x4e\x2b\xa9")], "0.90"),
            (vec![(LEN - 8192, b"\xfc\x4e\x2b\xa9")], "1.0"),
            (vec![(LEN - 1024, b"Intel Raid ISM Cfg Sig. ")], "Intel"),
            (vec![(0, b"kvofPool\x02\0\0\0")], "format version 2"),
            (vec![(0, b"kvofPool\x01\0\0\0")], "damaged label"),
        ] {
            match with(&writes) {
                Contents::Known(text) => assert!(text.contains(name), "{name}: {text}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        for magic in &MAGICS {
            assert_eq!(with(&[(magic.at, magic.bytes)]), Contents::Known(magic.name.to_owned()));
        }
    }

    #[test]
    fn nothing_and_the_unknown_differ() {
        assert_eq!(with(&[]), Contents::Nothing);
        assert_eq!(with(&[(70_000, &[1])]), Contents::Unknown);
        assert_eq!(with(&[(LEN - 1, &[1])]), Contents::Unknown);
        assert_eq!(contents(&[], &[], 0, 0), Contents::Nothing);
    }

    #[test]
    fn any_bytes_are_survived() {
        for len in [0, 1, 511, 512, 1100, 4090, 4097, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|n: usize| ((n * 131) >> 3) as u8).collect();
            let _ = contents(&bytes, &[], 0, len as u64);
            let _ = contents(&bytes, &bytes, 0, len as u64);
        }
    }
}
