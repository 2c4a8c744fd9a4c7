//! Pools on files: making them, recognising their devices, and what is refused.

use std::{
    fs,
    os::unix::fs::{FileExt, symlink},
    path::PathBuf,
};

use kvof_io::{DiskFile, DiskOpenOptions, Pool, PoolConfig};
use kvof_store::{
    device::BlockIo,
    format::{Label, MemberState, PAGE, Superblock},
    pool::{
        FormatOptions, Formatted, PoolDevices, PoolError, ReplaceOptions, format, newest_superblock, replace, value_max,
    },
    verify::{Depth, Subject, verify},
    volume::{Volume, VolumeConfig},
};
use proptest::prelude::*;
use tempfile::TempDir;

const SIZE: u64 = 48 << 20;

struct Rig {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Rig {
    fn new(devices: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let paths = (0..devices).map(|n| folder.path().join(format!("d{n}"))).collect();
        Self { folder, paths }
    }

    /// A pool of `devices` files.
    fn formatted(devices: usize) -> Self {
        let rig = Self::new(devices);
        rig.format(&options()).unwrap();
        rig
    }

    fn format(&self, options: &FormatOptions) -> Result<Formatted, PoolError> {
        format(&self.paths, options)
    }

    fn open(&self) -> Result<PoolDevices, PoolError> {
        PoolDevices::open(&self.paths)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, device: usize, offset: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(&self.paths[device]).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn label(&self, device: usize) -> Label {
        let mut page = vec![0; PAGE];
        fs::File::open(&self.paths[device]).unwrap().read_exact_at(&mut page, 0).unwrap();
        Label::decode(&page).unwrap()
    }

    /// Has every superblock of shard 0 changed, as the engine does.
    fn change_superblock(&self, change: impl FnOnce(&mut Superblock)) {
        let mut devices = self.open().unwrap();
        let label = devices.label().clone();
        let mut superblock = newest_superblock(&mut devices, &label.geometry, label.pool, 0).unwrap().superblock;
        superblock.epoch += 1;
        change(&mut superblock);
        for member in 0..devices.members() {
            if devices.is_present(member) {
                let offset = label.geometry.superblock(0, superblock.slot());
                devices.write(member, offset, &superblock.encode()).unwrap();
                devices.flush(member).unwrap();
            }
        }
    }
}

fn options() -> FormatOptions {
    FormatOptions { size: Some(SIZE), shards: Some(1), name: "rack 7".to_owned(), ..FormatOptions::default() }
}

#[track_caller]
fn says(error: &PoolError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[track_caller]
fn refused<T>(result: Result<T, PoolError>, parts: &[&str]) -> PoolError {
    match result {
        Ok(_) => panic!("it was not refused: {parts:?}"),
        Err(error) => {
            says(&error, parts);
            error
        }
    }
}

#[test]
fn a_pool_is_made_and_found_in_any_order() {
    let rig = Rig::new(5);
    let formatted = rig.format(&options()).unwrap();
    assert_eq!((formatted.label.geometry.profile().to_string().as_str(), formatted.devices.len()), ("4+1", 5));
    assert!(rig.paths.iter().all(|path| fs::metadata(path).unwrap().len() == SIZE));
    let mut paths = rig.paths.clone();
    paths.rotate_left(2);
    paths.swap(0, 3);
    let devices = PoolDevices::open(&paths).unwrap();
    let label = devices.label();
    assert_eq!(
        (label.pool, label.name.as_str(), label.secret),
        (formatted.label.pool, "rack 7", formatted.label.secret)
    );
    let uuids: Vec<_> = formatted.devices.iter().map(|device| Some(device.device)).collect();
    assert_eq!(devices.uuids(), uuids);
    assert_eq!(devices.path(3), Some(&*rig.paths[3]));
    assert!(devices.problems().iter().all(|problem| problem.used));
    let subject = Subject { pool: label.pool, secret: label.secret, geometry: label.geometry, devices: uuids };
    let report = verify(&mut devices.io().unwrap(), &subject, Depth::Full, &mut |_| ());
    assert_eq!(report.worst(), None, "{:#?}", report.findings);
}

#[test]
fn the_engine_opens_what_was_formatted_and_takes_values_as_long_as_was_said() {
    for count in [1, 2, 5, 8] {
        let rig = Rig::formatted(count);
        let mut devices = rig.open().unwrap();
        let label = devices.label().clone();
        let config = VolumeConfig {
            pool: label.pool,
            secret: label.secret,
            geometry: label.geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig::new(16 << 20)),
            scratch: 16 << 20,
            index_memory: 1 << 20,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let present = devices.uuids();
        let volume = Volume::open(config, &present, &mut devices, &mut |_| ()).unwrap();
        assert_eq!(u64::from(volume.value_max()), value_max(&label.geometry), "{count} devices");
        volume.close(&mut devices).unwrap();
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let rig = Rig::new(3);
    fs::write(&rig.paths[0], vec![0; 1000]).unwrap();
    let planned = rig.format(&FormatOptions { dry_run: true, ..options() }).unwrap();
    assert_eq!(planned.label.geometry.profile().to_string(), "2+1");
    assert_eq!(fs::read(&rig.paths[0]).unwrap(), vec![0; 1000]);
    assert!(!rig.paths[1].exists() && !rig.paths[2].exists());
    refused(rig.open(), &["none of the devices", "kvof format"]);
}

#[test]
fn nothing_that_is_there_is_overwritten_without_force() {
    let rig = Rig::new(2);
    let mut disk = vec![0; SIZE as usize];
    disk[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    fs::write(&rig.paths[1], &disk).unwrap();
    let error = refused(rig.format(&options()), &["/d1", "ext4", "--force", "nothing was changed"]);
    assert!(matches!(error, PoolError::Occupied { .. }));
    assert!(fs::read(&rig.paths[1]).unwrap() == disk && !rig.paths[0].exists());
    disk[0x438] = 1;
    fs::write(&rig.paths[1], &disk).unwrap();
    refused(rig.format(&options()), &["/d1", "unknown kind"]);
    let formatted = rig.format(&FormatOptions { force: true, ..options() }).unwrap();
    assert_eq!(formatted.devices[1].held.as_deref(), Some("data of an unknown kind"));
    assert!(rig.open().is_ok());
    // A pool is not overwritten by another either; by force it is gone, as a whole.
    refused(rig.format(&options()), &["member 0 of the kvof pool \"rack 7\"", "made 20"]);
    let old = rig.label(0).pool;
    rig.format(&FormatOptions { force: true, ..options() }).unwrap();
    assert!(rig.label(0).pool != old && rig.open().is_ok());
}

#[test]
fn what_is_no_device_is_refused_by_name() {
    let rig = Rig::new(2);
    let format_one = |path: PathBuf| format(&[path], &options());
    refused(format_one(rig.folder.path().to_owned()), &["is a directory", "block device or a regular file"]);
    refused(format_one("/dev/null".into()), &["/dev/null is a character device"]);
    refused(format_one("/dev/tty".into()), &["/dev/tty is a character device"]);
    refused(format_one(rig.path("no/such/d0")), &["no/such/d0"]);
    assert!(!rig.path("no").exists());
    refused(format(&[], &options()), &["no device was given"]);
    let without = FormatOptions { size: None, ..options() };
    refused(rig.format(&without), &["/d0 does not exist", "--size"]);
    refused(PoolDevices::open(&[rig.folder.path().to_owned()]), &["is a directory"]);
    refused(PoolDevices::open(&[]), &["no device was given"]);
}

#[test]
fn sizes_profiles_segments_and_names_are_checked() {
    let rig = Rig::new(3);
    let small = FormatOptions { size: Some(5 << 20), ..options() };
    let error = refused(rig.format(&small), &["/d0 has 5242880 bytes", "are needed for a 2+1 pool", "--size"]);
    let PoolError::TooSmall { needed, .. } = error else { panic!("{error}") };
    assert!(!rig.paths[0].exists(), "nothing is made for a pool that cannot be");
    rig.format(&FormatOptions { size: Some(needed), ..options() }).unwrap();
    let other = |change: &dyn Fn(&mut FormatOptions)| {
        let mut options = FormatOptions { force: true, ..options() };
        change(&mut options);
        rig.format(&options)
    };
    refused(other(&|o| o.profile = Some("4+1".parse().unwrap())), &["3 devices do not fit a 4+1 pool"]);
    refused(other(&|o| o.segment = Some(1_000_000)), &["1000000 bytes", "multiple of 1 MiB"]);
    refused(other(&|o| o.segment = Some(1 << 30)), &["are needed"]);
    refused(other(&|o| o.name = "n".repeat(65)), &["65 bytes"]);
    refused(other(&|o| o.name = "a\nb".to_owned()), &["control characters"]);
    refused(other(&|o| o.shards = Some(300)), &["300 shards"]);
    assert!(rig.open().is_ok(), "what was refused has changed nothing");
}

#[test]
fn the_smallest_device_counts_and_files_are_never_cut() {
    let rig = Rig::new(2);
    fs::File::create(&rig.paths[1]).unwrap().set_len(2 * SIZE).unwrap();
    let formatted = rig.format(&options()).unwrap();
    assert_eq!(fs::metadata(&rig.paths[1]).unwrap().len(), 2 * SIZE);
    let [first, second] = &formatted.devices[..] else { panic!() };
    assert_eq!(second.unused - first.unused, SIZE);
    assert_eq!(first.bytes - first.unused, formatted.label.geometry.device_bytes());
    assert!(rig.open().is_ok());
}

#[test]
fn one_device_under_two_names_is_refused() {
    let rig = Rig::formatted(2);
    let link = rig.path("link");
    symlink(&rig.paths[0], &link).unwrap();
    let paths = [rig.paths[0].clone(), rig.paths[1].clone(), link.clone()];
    refused(PoolDevices::open(&paths), &["/d0 and ", "/link are the same device"]);
    refused(format(&paths, &FormatOptions { force: true, ..options() }), &["are the same device"]);
    // Two names of a file that is not there yet.
    let dangling = rig.path("dangling");
    symlink(rig.path("new"), &dangling).unwrap();
    let paths = [rig.path("new"), dangling];
    refused(format(&paths, &options()), &["are the same device", "/new"]);
}

#[test]
fn a_device_in_use_is_refused() {
    let rig = Rig::formatted(2);
    let held = rig.open().unwrap();
    refused(rig.open(), &["/d0 is in use", "stop that one first"]);
    refused(rig.format(&FormatOptions { force: true, ..options() }), &["is in use"]);
    drop(held);
    let reader = PoolDevices::open_read_only(&rig.paths).unwrap();
    let another = PoolDevices::open_read_only(&rig.paths).unwrap();
    refused(rig.open(), &["is in use"]);
    drop((reader, another));
    rig.open().unwrap();
}

#[test]
fn missing_blank_and_cut_devices_leave_their_places_empty() {
    let rig = Rig::formatted(5);
    let away = rig.path("away");
    fs::rename(&rig.paths[3], &away).unwrap();
    let devices = rig.open().unwrap();
    assert!(devices.uuids()[3].is_none() && devices.uuids().iter().flatten().count() == 4);
    let problem = devices.problems().iter().find(|problem| !problem.used).unwrap();
    assert!(problem.to_string().contains("/d3: cannot look at it: No such file"), "{problem}");
    drop(devices);
    fs::File::create(&rig.paths[3]).unwrap().set_len(SIZE).unwrap();
    let devices = rig.open().unwrap();
    assert!(
        devices
            .problems()
            .iter()
            .any(|problem| problem.why.contains("it is blank") && problem.why.contains("kvof replace"))
    );
    drop(devices);
    fs::rename(&away, &rig.paths[3]).unwrap();
    fs::OpenOptions::new().write(true).open(&rig.paths[3]).unwrap().set_len(10 << 20).unwrap();
    let mut devices = rig.open().unwrap();
    assert!(devices.problems().iter().any(|problem| problem.why.contains("it was cut")));
    // The others are read and written through their numbers, with memory of any alignment.
    let mut page = vec![0; PAGE + 1];
    assert!(devices.read(3, 0, &mut page[1..]).unwrap_err().to_string().contains("member 3 is missing"));
    devices.read(2, 0, &mut page[1..]).unwrap();
    assert_eq!(Label::decode(&page[1..]).unwrap().member, 2);
    let end = fs::metadata(&rig.paths[2]).unwrap().len();
    let error = devices.read(2, end, &mut page[1..]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("/d2 ends"), "{error}");
}

#[test]
fn foreign_mixed_and_copied_devices_are_refused() {
    let (rig, other) = (Rig::formatted(3), Rig::formatted(3));
    let mut paths = rig.paths.clone();
    paths[1] = other.paths[1].clone();
    let error = refused(PoolDevices::open(&paths), &["different pools", "\"rack 7\"", "/d0", "/d1", "/d2"]);
    assert!(matches!(error, PoolError::Mixed { .. }));
    // A file system where a device should be.
    rig.write(1, 0, &[0; PAGE]);
    rig.write(1, rig.label(0).geometry.second_label(), &[0; PAGE]);
    rig.write(1, 0x10040, b"_BHRfS_M");
    refused(rig.open(), &["/d1 holds a btrfs file system", "check the path"]);
    // A copy of a device.
    fs::copy(&rig.paths[0], rig.path("copy")).unwrap();
    let paths = [rig.paths[0].clone(), rig.path("copy"), rig.paths[2].clone()];
    refused(PoolDevices::open(&paths), &["/d0 and ", "/copy both are member 0", "copy of the other"]);
    // A file of the time before there were pools.
    let old = rig.path("old");
    fs::write(&old, [&b"kvofKVf\x1a\x01\0\0\0"[..], &[7; 100_000]].concat()).unwrap();
    refused(PoolDevices::open(std::slice::from_ref(&old)), &["kvof KV file"]);
    refused(format(&[old], &options()), &["kvof KV file", "--force"]);
}

#[test]
fn another_version_is_refused_with_the_way_out() {
    let rig = Rig::formatted(2);
    rig.write(1, 8, &[2]);
    refused(rig.open(), &["/d1", "version 2", "this program has 1", "use the kvof that made the pool"]);
    refused(rig.format(&options()), &["/d0 holds member 0"]);
    fs::remove_file(&rig.paths[0]).unwrap();
    refused(rig.format(&options()), &["/d1 holds a member of a kvof pool with format version 2"]);
}

#[test]
fn a_damaged_label_is_written_again_from_its_other_copy() {
    for devices in [1, 3] {
        let rig = Rig::formatted(devices);
        let label = rig.label(0);
        let second = label.geometry.second_label();
        for at in [0, second] {
            rig.write(0, at, &[0x77; 512]);
            let read_only = PoolDevices::open_read_only(&rig.paths).unwrap();
            assert!(read_only.problems().iter().any(|p| p.why.contains("copy of the label") && p.used));
            drop(read_only);
            let open = rig.open().unwrap();
            assert_eq!(open.label_of(0), Some(&label));
            assert!(
                open.problems().iter().any(|p| p.why.contains("written again from the other")),
                "{:?}",
                open.problems()
            );
            drop(open);
            let open = rig.open().unwrap();
            assert!(open.problems().iter().all(|p| !p.why.contains("label")), "{:?}", open.problems());
        }
        let mut page = vec![0; PAGE];
        fs::File::open(&rig.paths[0]).unwrap().read_exact_at(&mut page, second).unwrap();
        assert_eq!(Label::decode(&page).unwrap(), label);
        rig.write(0, 0, &[0x77; 512]);
        rig.write(0, second, &[0x77; 512]);
        match rig.open() {
            Ok(open) => assert!(devices > 1 && open.uuids()[0].is_none()),
            Err(error) => {
                assert_eq!(devices, 1);
                says(&error, &["none of the devices", "/d0"]);
            }
        }
    }
}

#[test]
fn a_device_is_replaced_and_the_old_one_is_stale() {
    let rig = Rig::formatted(3);
    let (old, others) = (rig.paths[1].clone(), vec![rig.paths[0].clone(), rig.paths[2].clone()]);
    let new = rig.path("new");
    let sized = ReplaceOptions { size: Some(SIZE), ..ReplaceOptions::default() };
    refused(replace(&new, &others, &ReplaceOptions::default()), &["/new does not exist", "--size"]);
    let small = ReplaceOptions { size: Some(8 << 20), ..ReplaceOptions::default() };
    refused(replace(&new, &others, &small), &["/new has 8388608 bytes", "member of this 2+1 pool"]);
    refused(replace(&new, &rig.paths, &sized), &["all 3 members", "--member"]);
    refused(replace(&new, &rig.paths[..1], &sized), &["members 1, 2", "--member"]);
    refused(replace(&new, &others, &ReplaceOptions { member: Some(3), ..sized.clone() }), &["no member 3"]);
    let present = ReplaceOptions { member: Some(2), ..sized.clone() };
    refused(replace(&new, &others, &present), &["member 2 is at ", "/d2"]);
    refused(
        replace(&rig.paths[0], &others, &ReplaceOptions { force: true, ..sized.clone() }),
        &["is member 0 of this pool already"],
    );
    let dry = replace(&new, &others, &ReplaceOptions { dry_run: true, ..sized.clone() }).unwrap();
    assert!(dry.label.member == 1 && !new.exists());

    // The pool may be in use meanwhile.
    let mut running = PoolDevices::open(&others).unwrap();
    let replaced = replace(&new, &others, &sized).unwrap();
    assert_eq!((replaced.label.member, replaced.label.replaces), (1, rig.label(1).device));
    let found = running.reprobe(&[others[0].clone(), others[1].clone(), new.clone()]).unwrap();
    assert_eq!(found.appeared, [1]);
    assert_eq!(found.present.len(), 3);
    assert_eq!(running.uuids()[1], Some(replaced.label.device));
    running.write(1, 4096, &[1; PAGE]).unwrap();
    drop(running);

    // With both there, the old one does not count; once the pool has taken the new one, neither does it alone.
    let all = [others[0].clone(), others[1].clone(), new.clone(), old.clone()];
    let both = PoolDevices::open(&all).unwrap();
    assert_eq!(both.uuids()[1], Some(replaced.label.device));
    assert!(
        both.problems().iter().any(|p| p.path == old && p.why.contains("replaced by") && !p.used),
        "{:?}",
        both.problems()
    );
    drop(both);
    rig.change_superblock(|superblock| superblock.members[1].device = replaced.label.device);
    let alone = rig.open().unwrap();
    assert!(alone.uuids()[1].is_none());
    assert!(
        alone.problems().iter().any(|p| p.path == old && p.why.contains("nothing on it counts")),
        "{:?}",
        alone.problems()
    );
    drop(alone);
    refused(replace(&old, &others, &ReplaceOptions::default()), &["/d1 holds member 1", "--force"]);
    let again = replace(&old, &others, &ReplaceOptions { force: true, ..ReplaceOptions::default() }).unwrap();
    assert_eq!(again.label.replaces, replaced.label.device);
    assert_eq!(rig.open().unwrap().uuids()[1], Some(again.label.device));
    // Two that were made for the same place cannot be told apart.
    refused(
        PoolDevices::open(&[others[0].clone(), others[1].clone(), old, {
            let third = rig.path("third");
            replace(&third, &others, &sized).unwrap();
            third
        }]),
        &["both are member 1", "made to replace the same device"],
    );
}

#[test]
fn a_member_that_failed_may_be_replaced_while_it_is_there() {
    let rig = Rig::formatted(3);
    rig.change_superblock(|superblock| superblock.members[2].state = MemberState::Failed);
    let new = rig.path("new");
    let replaced =
        replace(&new, &rig.paths, &ReplaceOptions { size: Some(SIZE), ..ReplaceOptions::default() }).unwrap();
    assert_eq!(replaced.label.member, 2);
}

#[test]
fn devices_come_and_go() {
    let rig = Rig::formatted(3);
    let away = rig.path("away");
    fs::rename(&rig.paths[2], &away).unwrap();
    let mut devices = rig.open().unwrap();
    let found = devices.reprobe(&rig.paths).unwrap();
    assert_eq!((found.appeared.len(), found.present.len(), found.problems.len()), (0, 2, 1));
    fs::rename(&away, &rig.paths[2]).unwrap();
    let found = devices.reprobe(&rig.paths).unwrap();
    assert_eq!(found.appeared, [2]);
    assert!(found.problems.iter().all(|problem| problem.used), "{:?}", found.problems);
    // A device that was let go of is opened again.
    devices.release(2);
    assert!(devices.file(2).is_none() && !devices.is_present(2));
    assert_eq!(devices.reprobe(&rig.paths).unwrap().appeared, [2]);
    // One of another pool is refused, and nothing changes.
    let other = Rig::formatted(2);
    refused(devices.reprobe(&[other.paths[0].clone()]), &["different pools"]);
    assert_eq!(devices.uuids().iter().flatten().count(), 3);
}

#[test]
fn a_pool_half_formatted_is_none() {
    // Labels come last. A device whose second copy alone was written is one of a pool whose other devices are missing.
    let rig = Rig::formatted(2);
    let second = rig.label(0).geometry.second_label();
    for device in 0..2 {
        rig.write(device, 0, &[0; PAGE]);
    }
    rig.write(1, second, &[0; PAGE]);
    let devices = rig.open();
    // The first device alone has one copy, which says that there is a second device.
    match devices {
        Ok(devices) => assert_eq!(devices.uuids().iter().flatten().count(), 1),
        Err(error) => panic!("{error}"),
    }
    rig.write(0, 0, &[0; PAGE]);
    rig.write(0, second, &[0; PAGE]);
    refused(rig.open(), &["none of the devices"]);
}

#[test]
fn without_direct_io_it_works_and_says_so() {
    // What a file system has no direct I/O for is opened through the page cache; tmpfs had none before Linux 6.6.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let paths: Vec<PathBuf> = (0..2).map(|n| folder.path().join(n.to_string())).collect();
    let formatted = format(&paths, &FormatOptions { size: Some(16 << 20), ..FormatOptions::default() }).unwrap();
    let direct = DiskFile::open(&paths[0], DiskOpenOptions { direct: true, ..Default::default() }).unwrap().is_direct();
    let said = |text: String| text.contains("page cache");
    assert_eq!(formatted.remarks.iter().any(|r| said(r.to_string())), !direct);
    let devices = PoolDevices::open(&paths).unwrap();
    assert_eq!(devices.problems().iter().any(|p| said(p.to_string()) && p.used), !direct);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever is on the devices: a pool, an error, and never a panic.
    #[test]
    fn any_bytes_are_survived(hits in proptest::collection::vec((0..3_usize, 0..2048_u64, any::<[u8; 16]>()), 1..20)) {
        let rig = Rig::formatted(3);
        let second = rig.label(0).geometry.second_label();
        for (device, at, bytes) in hits {
            let at = if at % 2 == 0 { at / 2 } else { second + at / 2 };
            rig.write(device, at, &bytes);
        }
        for read_only in [true, false] {
            let opened = if read_only { PoolDevices::open_read_only(&rig.paths) } else { rig.open() };
            if let Ok(devices) = opened {
                prop_assert!(devices.uuids().iter().flatten().count() >= 1);
            }
        }
        let _ = rig.format(&FormatOptions { dry_run: true, ..options() });
        rig.format(&FormatOptions { force: true, ..options() }).unwrap();
        prop_assert_eq!(rig.open().unwrap().uuids().iter().flatten().count(), 3);
    }
}
