//! What the engine has written, read by the second reader of the format; and damage of every kind, which it must name.

use std::time::Duration;

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{Key, KvLimits, KvRequest, KvStore as _, OpId, StoreOptions};
use kvof_store::{
    checksum::crc32c,
    device::{
        BlockIo,
        memory::{Image, MemoryDevices, MemoryQueue},
        standalone::Standalone,
    },
    ec::Profile,
    format::{EntryKind, Label, NamespaceMode, PAGE, Secret, StripeHeader, StripeKind, Uuid},
    geometry::Geometry,
    pool::first_superblock,
    usage::Usage,
    verify::{Browser, Depth, Finding, GroupKind, GroupView, Kind, Report, Severity, Subject, verify},
    volume::{Durability, NamespaceSpec, VolumeConfig},
};
use proptest::prelude::*;

const NAMESPACE: Uuid = [7; 16];

struct World {
    geometry: Geometry,
    subject: Subject,
    config: VolumeConfig,
    devices: MemoryDevices,
}

impl World {
    /// Devices with labels and first superblocks.
    fn new(k: u8, m: u8, members: u16, shards: u16) -> Self {
        let profile = Profile::new(k, m).unwrap();
        let segments = u32::from(profile.width()) * if profile.width() == 1 { 40 } else { 20 };
        let geometry = Geometry::new(profile, members, shards, 256, segments).unwrap();
        let uuids: Vec<Uuid> = (0..members).map(|member| [member as u8 + 1; 16]).collect();
        let (pool, secret) = ([9; 16], Secret([5; 16]));
        let mut devices = MemoryDevices::new(members, geometry.device_bytes());
        for (member, device) in (0..).zip(&uuids) {
            let label = Label {
                pool,
                device: *device,
                replaces: [0; 16],
                secret,
                member,
                geometry,
                created: 1_700_000_000,
                name: String::new(),
            };
            devices.write(member, 0, &label.encode()).unwrap();
            devices.write(member, geometry.second_label(), &label.encode()).unwrap();
            for shard in 0..shards {
                let superblock = first_superblock(pool, shard, &uuids);
                devices.write(member, geometry.superblock(shard, 1), &superblock.encode()).unwrap();
            }
        }
        let config = VolumeConfig {
            pool,
            secret,
            geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig::new(64 << 20)),
            scratch: 32 << 20,
            index_memory: 16 << 20,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let subject = Subject { pool, secret, geometry, devices: uuids.into_iter().map(Some).collect() };
        Self { geometry, subject, config, devices }
    }

    /// Runs `work` on the pool, and stops it cleanly or not.
    fn run(&mut self, clean: bool, work: impl FnOnce(&mut Hosts)) {
        let spec = NamespaceSpec {
            uuid: NAMESPACE,
            mode: NamespaceMode::Store,
            durability: Durability::Media,
            limits: KvLimits { kvkml: 16, kvvml: 1_000_000, mnks: 0, novg: 1 },
            usage: Usage::new(1 << 40, 0),
            reservation: 0,
        };
        let queue = MemoryQueue::new(std::mem::take(&mut self.devices));
        let store = Standalone::open(self.config.clone(), &self.subject.devices, queue, &spec, &mut |_| ()).unwrap();
        let mut hosts = Hosts { store, id: 0 };
        work(&mut hosts);
        let mut queue = if clean { hosts.store.close().unwrap() } else { hosts.store.abandon() };
        self.devices = std::mem::take(queue.devices());
    }

    fn verify(&mut self, depth: Depth) -> Report {
        verify(&mut self.devices, &self.subject, depth, &mut |_| ())
    }

    /// Nothing may be wrong, in either depth.
    #[track_caller]
    fn clean(&mut self) -> Report {
        let quick = self.verify(Depth::Quick);
        assert_eq!(quick.worst(), None, "{:#?}", quick.findings);
        let full = self.verify(Depth::Full);
        assert_eq!(full.worst(), None, "{:#?}", full.findings);
        assert_eq!((full.records, full.stripes), (quick.records, quick.stripes));
        full
    }

    fn browse<T>(&mut self, shard: u16, look: impl FnOnce(&mut Browser<'_>) -> T) -> T {
        look(&mut Browser::new(&mut self.devices, &self.subject, shard).unwrap())
    }

    /// The first sealed group of shard 0 that has a stripe with at least so many rows, and that stripe's row and rows.
    fn stripe(&mut self, least: u32) -> (u32, u32, u32) {
        let groups = self.geometry.groups();
        let found = self.browse(0, |browser| {
            (0..groups).filter_map(|group| browser.group(group)).find_map(|view| {
                let sealed = view.kind == GroupKind::Sealed;
                let fits = |header: &&StripeHeader| sealed && header.kind == StripeKind::Data && header.rows >= least;
                let header = view.stripes.iter().filter_map(|stripe| stripe.header.as_ref()).find(fits)?;
                Some((view.group, header.row, header.rows))
            })
        });
        found.expect("no such stripe")
    }

    /// A group of shard 0 of this kind.
    fn find(&mut self, kind: GroupKind) -> GroupView {
        let groups = self.geometry.groups();
        self.browse(0, |b| (0..groups).filter_map(|g| b.group(g)).find(|g| g.kind == kind)).unwrap()
    }

    /// Changes one bit of a page of a column of shard 0.
    fn flip(&mut self, group: u32, column: usize, row: u32, byte: usize) {
        let (member, offset) = (self.geometry.member(group, column), self.geometry.offset(0, group, column, row));
        let mut page = vec![0; PAGE];
        self.devices.read(member, offset, &mut page).unwrap();
        page[byte] ^= 0x10;
        self.devices.write(member, offset, &page).unwrap();
    }

    fn flip_at(&mut self, member: u16, offset: u64) {
        let mut page = vec![0; PAGE];
        self.devices.read(member, offset, &mut page).unwrap();
        page[100] ^= 0x10;
        self.devices.write(member, offset, &page).unwrap();
    }

    /// Gives a column of a stripe a new checksum in all copies of its header, as a writer that is wrong would.
    fn reseal(&mut self, group: u32, row: u32, rows: u32, column: usize) {
        let geometry = self.geometry;
        let mut payload = vec![0; rows as usize * PAGE];
        let offset = |column, row| geometry.offset(0, group, column, row);
        self.devices.read(geometry.member(group, column), offset(column, row + 1), &mut payload).unwrap();
        for copy in geometry.header_columns(row) {
            let mut page = vec![0; PAGE];
            self.devices.read(geometry.member(group, copy), offset(copy, row), &mut page).unwrap();
            let mut header = StripeHeader::decode(&page).unwrap();
            header.column_crc[column] = crc32c(&payload);
            let page = header.encode(StripeHeader::body(&page));
            self.devices.write(geometry.member(group, copy), offset(copy, row), &page).unwrap();
        }
    }

    fn remove(&mut self, member: u16) {
        self.devices.remove(member);
        self.subject.devices[usize::from(member)] = None;
    }
}

struct Hosts {
    store: Standalone<MemoryQueue>,
    id: u64,
}

impl Hosts {
    fn wait(&mut self, count: u64) {
        for _ in 0..count {
            let result = std::iter::from_fn(|| Some(self.store.poll())).take(1_000_000).flatten().next();
            let (_, result) = result.expect("a request does not end");
            result.unwrap();
        }
    }

    fn submit(&mut self, request: impl FnOnce(&mut Standalone<MemoryQueue>) -> KvRequest<kvof_io::PoolBuf>) {
        self.id += 1;
        let request = request(&mut self.store);
        self.store.submit(OpId(self.id), request);
    }

    /// Stores values together.
    fn store(&mut self, values: &[(u64, usize)]) {
        for (key, len) in values {
            self.submit(|store| {
                let mut value = store.reserve(*len as u32).unwrap();
                value.copy_from_slice(&bytes(*key, *len));
                KvRequest::Store { key: name(*key), options: StoreOptions::default(), value }
            });
        }
        self.wait(values.len() as u64);
    }

    fn delete(&mut self, key: u64) {
        self.submit(|_| KvRequest::Delete { key: name(key) });
        self.wait(1);
    }
}

fn name(key: u64) -> Key {
    Key::new(format!("k{key}").as_bytes()).unwrap()
}

fn bytes(key: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (((n * (key + 77)) >> 5) + (n >> 12)) as u8).collect()
}

/// A pool with values of all sizes in several groups, one of them replaced and one deleted.
fn filled(k: u8, m: u8, members: u16, shards: u16) -> World {
    let mut world = World::new(k, m, members, shards);
    world.run(true, |hosts| {
        for key in 0..40 {
            hosts.store(&[(key, 100_000)]);
        }
        hosts.store(&[(100, 100), (101, 0), (102, 31), (103, 5000)]);
        hosts.store(&(200..300).map(|key| (key, 100)).collect::<Vec<_>>());
        hosts.store(&(300..304).map(|key| (key, 300_000)).collect::<Vec<_>>());
        hosts.store(&[(400, 900_000)]);
        hosts.store(&[(3, 70_000)]);
        hosts.delete(4);
        hosts.store(&(500..520).map(|key| (key, 200_000)).collect::<Vec<_>>());
    });
    world
}

#[track_caller]
fn only(report: &Report, kind: Kind, severity: Severity) -> Vec<Finding> {
    let others: Vec<&Finding> =
        report.findings.iter().filter(|f| f.severity > Severity::Note && f.kind != kind).collect();
    assert!(others.is_empty(), "{others:#?}");
    let found: Vec<Finding> = report.findings.iter().filter(|f| f.kind == kind).cloned().collect();
    assert!(!found.is_empty() && found.iter().all(|f| f.severity == severity), "{:#?}", report.findings);
    found
}

#[test]
fn an_empty_pool_is_clean() {
    for (k, m, members, shards) in [(1, 0, 1, 1), (1, 1, 2, 2), (4, 1, 5, 1), (4, 2, 8, 3)] {
        let mut world = World::new(k, m, members, shards);
        let report = world.clean();
        assert_eq!((report.groups_used, report.records), (0, 0));
        world.run(true, |_| ());
        world.clean();
    }
}

#[test]
fn what_the_engine_writes_is_clean() {
    for (k, m, members, shards) in
        [(1, 0, 1, 1), (1, 2, 3, 1), (4, 1, 5, 1), (4, 1, 7, 2), (2, 2, 4, 1), (16, 4, 20, 1)]
    {
        let mut world = filled(k, m, members, shards);
        let report = world.clean();
        assert!(report.records >= 170 && report.tombstones == 1 && report.groups_used > 0, "{report:?}");
        assert!(report.groups_checkpoint > 0);
        // Every value is found and read without the index.
        for (key, len) in [(0, 100_000), (3, 70_000), (100, 100), (101, 0), (250, 100), (303, 300_000), (400, 900_000)]
        {
            let value = (0..shards).find_map(|shard| {
                world.browse(shard, |browser| {
                    let (group, entry) = browser.find(0, name(key))?;
                    Some(browser.value(group, &entry).unwrap())
                })
            });
            assert!(value.unwrap() == bytes(key, len), "{key} of {k}+{m}");
        }
        let deleted = (0..shards).find_map(|shard| world.browse(shard, |browser| browser.find(0, name(4))));
        assert_eq!(deleted.unwrap().1.kind, EntryKind::Tombstone);
    }
}

#[test]
fn what_a_crash_leaves_is_clean() {
    let mut world = filled(4, 1, 5, 1);
    world.run(false, |hosts| hosts.store(&[(1, 1000), (600, 400_000), (601, 10)]));
    let report = world.verify(Depth::Full);
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{:#?}", report.findings);
    assert_eq!(report.groups_checkpoint, 0, "the start after a clean stop frees the checkpoint");
    // And again after the recovery from that.
    world.run(false, |_| ());
    let report = world.verify(Depth::Full);
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{:#?}", report.findings);
    world.run(true, |_| ());
    world.clean();
}

#[test]
fn missing_devices_are_named_and_the_rest_is_checked() {
    let mut world = filled(4, 2, 7, 1);
    let whole = world.clean();
    world.remove(2);
    world.remove(5);
    let report = world.verify(Depth::Full);
    let found = only(&report, Kind::DeviceMissing, Severity::Repairable);
    assert_eq!(found.iter().map(|f| f.spot.member).collect::<Vec<_>>(), [Some(2), Some(5)]);
    assert_eq!((report.records, report.stripes), (whole.records, whole.stripes));
    // One more than parity makes good.
    world.remove(0);
    let report = world.verify(Depth::Full);
    assert_eq!(report.worst(), Some(Severity::Loss));
    assert!(report.findings.iter().any(|f| f.kind == Kind::Record && f.severity == Severity::Loss));
}

#[test]
fn a_damaged_column_is_repairable() {
    let mut world = filled(4, 1, 5, 1);
    let (group, row, _) = world.stripe(7);
    for column in [0, 3, 4] {
        world.flip(group, column, row + 3, 77);
        let found = only(&world.verify(Depth::Full), Kind::Column, Severity::Repairable);
        let spot = found[0].spot;
        assert_eq!((found.len(), spot.group, spot.row, spot.column), (1, Some(group), Some(row), Some(column)));
        assert_eq!(spot.member, Some(world.geometry.member(group, column)));
        assert_eq!(world.verify(Depth::Quick).worst(), None, "a quick look does not read values");
        world.flip(group, column, row + 3, 77);
    }
    world.clean();
}

#[test]
fn two_damaged_columns_lose_the_values_that_count() {
    let mut world = filled(4, 1, 5, 1);
    let (group, row, _) = world.stripe(7);
    world.flip(group, 1, row + 2, 0);
    world.flip(group, 2, row + 2, 0);
    let report = world.verify(Depth::Full);
    let lost: Vec<&Finding> = report.findings.iter().filter(|f| f.severity == Severity::Loss).collect();
    assert_eq!(lost.len(), 1, "{:#?}", report.findings);
    let record = lost[0].record.unwrap();
    assert_eq!((lost[0].kind, record.namespace, record.len), (Kind::Record, Some(NAMESPACE), 100_000));
    assert!(report.findings.iter().any(|f| f.kind == Kind::StripeLost && f.spot.row == Some(row)));
    // Once it is stored again, the old one does not count.
    let key: u64 = record.key.to_string()[1..].parse().unwrap();
    world.run(true, |hosts| hosts.store(&[(key, 10)]));
    let report = world.verify(Depth::Full);
    assert_eq!(report.worst(), Some(Severity::Repairable), "{:#?}", report.findings);
    let dead = report.findings.iter().find(|f| f.kind == Kind::Record).unwrap();
    assert!(dead.what.contains("stored or deleted since"), "{dead:?}");
}

#[test]
fn headers_are_compared_and_missed() {
    let mut world = filled(4, 1, 5, 1);
    let (group, row, _) = world.stripe(7);
    let columns: Vec<usize> = world.geometry.header_columns(row).collect();
    for depth in [Depth::Quick, Depth::Full] {
        world.flip(group, columns[1], row, 50);
        let found = only(&world.verify(depth), Kind::HeaderCopy, Severity::Repairable);
        assert_eq!((found.len(), found[0].spot.column, found[0].spot.row), (1, Some(columns[1]), Some(row)));
        world.flip(group, columns[0], row, 2000);
        // The footer has all that is needed to read the stripe.
        let found = only(&world.verify(depth), Kind::HeaderLost, Severity::Repairable);
        assert_eq!((found.len(), found[0].spot.group, found[0].spot.row), (1, Some(group), Some(row)));
        world.flip(group, columns[0], row, 2000);
        world.flip(group, columns[1], row, 50);
    }
    world.clean();
}

#[test]
fn lost_header_pages_lose_the_values_in_them() {
    let mut world = World::new(4, 1, 5, 1);
    world.run(true, |hosts| {
        (0..20).for_each(|key| hosts.store(&[(key, 100)]));
        (20..26).for_each(|key| hosts.store(&[(key, 900_000)]));
    });
    world.clean();
    let rows = world.geometry.header_columns(5).collect::<Vec<_>>();
    let group = world.find(GroupKind::Sealed);
    for column in rows {
        world.flip(group.group, column, 5, 3000);
    }
    let report = world.verify(Depth::Full);
    let lost: Vec<&Finding> = report.findings.iter().filter(|f| f.severity == Severity::Loss).collect();
    assert_eq!((lost.len(), lost[0].kind, lost[0].record.unwrap().key), (1, Kind::Record, name(5)));
}

#[test]
fn damage_of_footers_is_made_good_by_the_headers() {
    let mut world = filled(4, 1, 5, 1);
    let (group, ..) = world.stripe(7);
    let last = world.geometry.segment_pages() - 1;
    let columns: Vec<usize> = world.geometry.header_columns(last).collect();
    world.flip(group, columns[0], last, 60);
    only(&world.verify(Depth::Quick), Kind::HeaderCopy, Severity::Repairable);
    world.flip(group, columns[1], last, 60);
    let found = only(&world.verify(Depth::Full), Kind::FooterLost, Severity::Repairable);
    assert_eq!((found.len(), found[0].spot.group), (1, Some(group)));
    world.flip(group, columns[0], last, 60);
    world.flip(group, columns[1], last, 60);
    // Its payload stands in the row in front of it.
    world.flip(group, 0, last - 1, 60);
    let found = only(&world.verify(Depth::Quick), Kind::Column, Severity::Repairable);
    assert_eq!((found.len(), found[0].spot.row), (1, Some(last)));
}

#[test]
fn labels_and_superblocks_are_compared() {
    let mut world = filled(2, 1, 3, 1);
    let second = world.geometry.second_label();
    world.flip_at(1, second);
    let found = only(&world.verify(Depth::Quick), Kind::Label, Severity::Repairable);
    assert!(found.len() == 1 && found[0].spot.member == Some(1) && found[0].what.contains("second"), "{found:?}");
    world.flip_at(1, 0);
    let found = only(&world.verify(Depth::Quick), Kind::Label, Severity::Loss);
    assert_eq!(found.len(), 2);
    world.flip_at(1, 0);
    world.flip_at(1, second);
    let epoch = world.browse(0, |browser| browser.superblock().epoch);
    world.flip_at(2, world.geometry.superblock(0, epoch));
    let found = only(&world.verify(Depth::Quick), Kind::Superblock, Severity::Repairable);
    assert_eq!((found.len(), found[0].spot.member), (2, Some(2)), "the slot, and that the device is behind");
    for member in 0..3 {
        for slot in 0..2 {
            world.devices.write(member, world.geometry.superblock(0, slot), &[0x55; 16 << 10]).unwrap();
        }
    }
    let report = world.verify(Depth::Full);
    assert!(report.findings.iter().any(|f| f.kind == Kind::SuperblockLost && f.severity == Severity::Loss));
}

#[test]
fn a_lost_checkpoint_costs_time_only() {
    let mut world = filled(4, 1, 5, 1);
    let group = world.browse(0, |browser| browser.superblock().checkpoint[0]);
    for column in world.geometry.header_columns(0).collect::<Vec<_>>() {
        world.flip(group, column, 0, 60);
    }
    only(&world.verify(Depth::Quick), Kind::Checkpoint, Severity::Repairable);
}

#[test]
fn records_of_another_place_or_pool_are_seen() {
    // A page of another place, as a device gives that has written to the wrong block: checksums of columns tell.
    let mut world = filled(1, 1, 2, 1);
    let (group, row, _) = world.stripe(7);
    let (from, to) = (world.geometry.offset(0, group, 0, row + 1), world.geometry.offset(0, group, 0, row + 2));
    let member = world.geometry.member(group, 0);
    let mut page = vec![0; PAGE];
    world.devices.read(member, from, &mut page).unwrap();
    world.devices.write(member, to, &page).unwrap();
    let found = only(&world.verify(Depth::Full), Kind::Column, Severity::Repairable);
    assert_eq!(found[0].spot.column, Some(0));
    // A header of another pool is none.
    world.subject.secret = Secret([6; 16]);
    let report = world.verify(Depth::Quick);
    assert_eq!(report.groups_used, 0);
}

#[test]
fn what_a_wrong_writer_did_is_seen_behind_right_checksums() {
    let mut world = filled(4, 1, 5, 1);
    let (group, row, rows) = world.stripe(7);
    // Parity that is not the data's.
    world.flip(group, 4, row + 2, 5);
    world.reseal(group, row, rows, 4);
    let found = only(&world.verify(Depth::Full), Kind::Parity, Severity::Repairable);
    assert_eq!((found.len(), found[0].spot.column), (1, Some(4)));
    world.flip(group, 4, row + 2, 5);
    world.reseal(group, row, rows, 4);
    world.clean();
    // A value that is not the one that was stored: only the record's own checksum tells.
    world.flip(group, 0, row + 2, 5);
    world.reseal(group, row, rows, 0);
    let report = world.verify(Depth::Full);
    let found: Vec<(Kind, Severity)> = report.counts.keys().map(|(severity, kind)| (*kind, *severity)).collect();
    assert_eq!(found, [(Kind::Parity, Severity::Repairable), (Kind::Record, Severity::Loss)]);
}

#[test]
fn a_header_lost_in_an_open_group_hides_what_follows() {
    let mut world = World::new(4, 1, 5, 1);
    world.run(false, |hosts| (0..20).for_each(|key| hosts.store(&[(key, 20_000)])));
    let report = world.verify(Depth::Full);
    assert_eq!((report.worst(), report.records), (None, 20), "{:#?}", report.findings);
    let group = world.find(GroupKind::Open);
    let row = group.stripes[4].row;
    for column in world.geometry.header_columns(row).collect::<Vec<_>>() {
        world.flip(group.group, column, row, 10);
    }
    let found = only(&world.verify(Depth::Quick), Kind::HeaderLost, Severity::Loss);
    assert_eq!((found.len(), found[0].spot.row), (1, Some(row)));
}

#[test]
fn a_torn_last_commit_is_no_damage() {
    let mut world = World::new(4, 1, 5, 1);
    world.run(false, |hosts| (0..5).for_each(|key| hosts.store(&[(key, 50_000)])));
    let group = world.find(GroupKind::Open);
    let last = group.stripes.last().unwrap().row;
    // Two columns never came: it was not acknowledged by anything that is left.
    world.flip(group.group, 0, last + 1, 0);
    world.flip(group.group, 1, last + 1, 0);
    let report = world.verify(Depth::Full);
    assert_eq!(report.worst(), Some(Severity::Note), "{:#?}", report.findings);
    assert_eq!(report.findings[0].kind, Kind::Unfinished);
}

#[test]
fn cleaning_and_rebuilding_leave_nothing_behind() {
    let mut world = World::new(2, 1, 3, 1);
    world.run(true, |hosts| {
        let mut seed = 1_u64;
        for _ in 0..1500 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            hosts.store(&[(seed >> 60, 100_000 + (seed >> 40 & 0xffff) as usize)]);
        }
    });
    let report = world.clean();
    assert!(report.groups_free > 0);
    // A device is lost, and another takes its place.
    let member = 1;
    world.devices.insert(member, Image::new(world.geometry.device_bytes()));
    let label = {
        let mut page = vec![0; PAGE];
        world.devices.read(0, 0, &mut page).unwrap();
        Label { member, device: [0xaa; 16], replaces: [2; 16], ..Label::decode(&page).unwrap() }
    };
    world.devices.write(member, 0, &label.encode()).unwrap();
    world.devices.write(member, world.geometry.second_label(), &label.encode()).unwrap();
    world.subject.devices[1] = Some([0xaa; 16]);
    let report = world.verify(Depth::Quick);
    assert!(report.findings.iter().any(|f| f.kind == Kind::DeviceOther), "{:#?}", report.findings);
    assert_eq!(report.worst(), Some(Severity::Repairable));
    world.run(true, |hosts| {
        hosts.store(&[(1, 5000)]);
        for _ in 0..1_000_000 {
            hosts.store.pump(Duration::ZERO).unwrap();
            let done = hosts.store.volumes().all(|volume| volume.stats().rebuild.is_none());
            if done {
                break;
            }
        }
        assert!(hosts.store.volumes().all(|volume| volume.stats().rebuild.is_none()), "the rebuild does not end");
    });
    world.clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is overwritten on at most m devices, nothing is reported as lost; whatever else is, nothing panics.
    #[test]
    fn any_damage_is_survived(
        hits in proptest::collection::vec((0..5_u16, any::<u64>(), 1..40_usize, any::<u8>()), 1..30),
        one in proptest::option::of(0..5_u16),
    ) {
        let mut world = filled(4, 1, 5, 1);
        let end = world.geometry.device_bytes() / PAGE as u64;
        for (member, at, pages, byte) in hits {
            let member = one.unwrap_or(member);
            let at = at % end;
            let pages = pages.min((end - at) as usize);
            let junk: Vec<u8> = (0..pages * PAGE).map(|n| byte.wrapping_mul(n as u8).wrapping_add((n >> 8) as u8)).collect();
            world.devices.write(member, at * PAGE as u64, &junk).unwrap();
        }
        let quick = world.verify(Depth::Quick);
        let full = world.verify(Depth::Full);
        if one.is_some() {
            let lost: Vec<_> = full.findings.iter().chain(&quick.findings)
                .filter(|f| f.severity == Severity::Loss && f.kind != Kind::Label).collect();
            prop_assert!(lost.is_empty(), "{:#?}", lost);
        }
    }
}
