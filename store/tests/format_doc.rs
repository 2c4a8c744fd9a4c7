//! `docs/on-disk-format.md` says what the code does: every field where its table has it, every limit, every figure.

use std::{collections::BTreeMap, time::Duration};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{Key, KvLimits, KvRequest, KvStore as _, OpId, StoreOptions};
use kvof_store::{
    device::{
        memory::{MemoryDevices, MemoryQueue},
        standalone::{Standalone, write_first_superblocks},
    },
    ec::{MAX_DATA, MAX_PARITY, Profile},
    format::{
        CHECKPOINT_GROUPS_MAX, ENTRY_LEN, Entry, EntryKind, HEADER_LEN, LABEL_AREA, Label, MEMBERS_MAX, Member,
        MemberState, NAMESPACES_MAX, NamespaceMode, NamespaceRecord, PAGE, RecordContext, STRIPE_REF_LEN,
        SUPERBLOCK_AREA, SUPERBLOCK_LEN, SUPERBLOCK_SLOT, Secret, StripeHeader, StripeKind, StripeRef, Superblock,
        TRAILER_LEN, UNIT, Uuid, VERSION, record_crc,
    },
    geometry::{GROUPS_MIN, Geometry, SEGMENT_PAGES_MAX, SEGMENT_PAGES_MIN, SHARDS_MAX},
    pool::value_max,
    usage::Usage,
    volume::{Durability, NamespaceSpec, RESERVED_GROUPS, VolumeConfig},
};

const DOC: &str = include_str!("../../docs/on-disk-format.md");

/// The rows of the first table behind a heading, cell by cell.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = DOC.split_once(&format!("# {heading}")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

/// The fields of a structure: offset, bytes, name. They follow one another up to `len`.
fn fields(heading: &str, len: usize) -> Vec<(usize, usize, String)> {
    let mut end = 0;
    let mut fields = Vec::new();
    for row in table(heading) {
        let [offset, bytes, name, _] = &row[..] else { panic!("{heading}: {row:?}") };
        let (offset, bytes) = (offset.parse().unwrap(), bytes.parse::<usize>().unwrap());
        assert_eq!(offset, end, "{heading}: {name} does not follow what is before it");
        end = offset + bytes;
        fields.push((offset, bytes, name.clone()));
    }
    assert_eq!(end, len, "the length of {heading}");
    fields
}

/// Every field of the table has these bytes in `encoded`, reserved ones zeros.
#[track_caller]
fn agree(heading: &str, encoded: &[u8], values: &[(&str, Vec<u8>)]) {
    let mut values: BTreeMap<&str, &Vec<u8>> = values.iter().map(|(name, bytes)| (*name, bytes)).collect();
    for (offset, bytes, name) in fields(heading, encoded.len()) {
        let found = &encoded[offset..offset + bytes];
        if name == "reserved" {
            assert!(found.iter().all(|byte| *byte == 0), "{heading}: reserved bytes at {offset}");
            continue;
        }
        let expected = values.remove(&*name).unwrap_or_else(|| panic!("{heading}: the code has no field {name}"));
        assert_eq!(found, &expected[..], "{heading}: {name} at {offset}");
    }
    assert!(values.is_empty(), "{heading}: the table lacks {:?}", values.keys());
}

fn le<const N: usize>(bytes: [u8; N]) -> Vec<u8> {
    bytes.to_vec()
}

fn padded(text: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = text.to_vec();
    bytes.resize(len, 0);
    bytes
}

fn last_crc(bytes: &[u8]) -> Vec<u8> {
    kvof_store::checksum::crc32c(&bytes[..bytes.len() - 4]).to_le_bytes().to_vec()
}

#[test]
fn the_label_is_as_the_table_says() {
    let geometry = Geometry::new(Profile::new(4, 2).unwrap(), 8, 0x0100, 0x0203, 0x0304).unwrap();
    let label = Label {
        pool: [1; 16],
        device: [2; 16],
        replaces: [3; 16],
        secret: Secret([4; 16]),
        member: 7,
        geometry,
        created: 0x0102_0304_0506,
        name: "rack 7".to_owned(),
    };
    let bytes = label.encode();
    agree(
        "Label (one page)",
        &bytes,
        &[
            ("magic", b"kvofPool".to_vec()),
            ("version", le(VERSION.to_le_bytes())),
            ("member", le(7_u16.to_le_bytes())),
            ("members", le(8_u16.to_le_bytes())),
            ("pool", vec![1; 16]),
            ("device", vec![2; 16]),
            ("replaces", vec![3; 16]),
            ("secret", vec![4; 16]),
            ("data", vec![4]),
            ("parity", vec![2]),
            ("shards", le(0x0100_u16.to_le_bytes())),
            ("segment_pages", le(0x0203_u32.to_le_bytes())),
            ("segments", le(0x0304_u32.to_le_bytes())),
            ("created", le(0x0102_0304_0506_u64.to_le_bytes())),
            ("name", padded(b"rack 7", 64)),
            ("crc", last_crc(&bytes)),
        ],
    );
}

#[test]
fn the_superblock_is_as_the_tables_say() {
    let member = Member { device: [5; 16], state: MemberState::Rebuilding { rebuilt: 0x0506 }, since: 0x0708 };
    let namespace = NamespaceRecord {
        uuid: [6; 16],
        generation: 0x0a0b,
        mode: NamespaceMode::Cache,
        used: true,
        reservation: 0x0c0d_0e0f,
    };
    let superblock = Superblock {
        pool: [1; 16],
        shard: 0x0201,
        epoch: 11,
        sequence: 12,
        incarnation: 13,
        stripe: 14,
        clean: true,
        checkpoint: vec![15, 16],
        checkpoint_bytes: 17,
        members: vec![member; 3],
        namespaces: vec![namespace; 2],
    };
    let bytes = superblock.encode();
    assert_eq!(bytes.len(), SUPERBLOCK_LEN);
    let first = |name: &str, len: usize| {
        let all = fields("Superblock (16 KiB)", SUPERBLOCK_LEN);
        let (offset, bytes_of, _) = all.iter().find(|(.., field)| field == name).unwrap().clone();
        assert_eq!(bytes_of % len, 0);
        (bytes[offset..offset + len].to_vec(), bytes[offset..offset + bytes_of].to_vec(), bytes_of / len)
    };
    let (record, members, count) = first("member", 32);
    assert_eq!(count, MEMBERS_MAX);
    agree(
        "Member record (32 bytes)",
        &record,
        &[
            ("device", vec![5; 16]),
            ("state", vec![3]),
            ("rebuilt", le(0x0506_u32.to_le_bytes())),
            ("since", le(0x0708_u64.to_le_bytes())),
        ],
    );
    let (record, namespaces, count) = first("namespace", 40);
    assert_eq!(count, NAMESPACES_MAX);
    agree(
        "Namespace record (40 bytes)",
        &record,
        &[
            ("uuid", vec![6; 16]),
            ("generation", le(0x0a0b_u32.to_le_bytes())),
            ("mode", vec![2]),
            ("used", vec![1]),
            ("reservation", le(0x0c0d_0e0f_u64.to_le_bytes())),
        ],
    );
    let (_, checkpoint, count) = first("checkpoint", 4);
    assert_eq!((count, &checkpoint[..8]), (CHECKPOINT_GROUPS_MAX, &[15, 0, 0, 0, 16, 0, 0, 0][..]));
    agree(
        "Superblock (16 KiB)",
        &bytes,
        &[
            ("magic", b"kvofSupr".to_vec()),
            ("version", le(VERSION.to_le_bytes())),
            ("shard", le(0x0201_u16.to_le_bytes())),
            ("members", le(3_u16.to_le_bytes())),
            ("pool", vec![1; 16]),
            ("epoch", le(11_u64.to_le_bytes())),
            ("sequence", le(12_u64.to_le_bytes())),
            ("incarnation", le(13_u64.to_le_bytes())),
            ("stripe", le(14_u64.to_le_bytes())),
            ("clean", vec![1]),
            ("checkpoint_groups", le(2_u32.to_le_bytes())),
            ("checkpoint_bytes", le(17_u64.to_le_bytes())),
            ("member", members),
            ("namespace", namespaces),
            ("checkpoint", checkpoint),
            ("crc", last_crc(&bytes)),
        ],
    );
}

fn entry() -> Entry {
    Entry {
        key: Key::new(b"block_7").unwrap(),
        sequence: 0x1112,
        len: 0x1314,
        location: 0x1516,
        crc: 0x1718,
        slot: 0x001a,
        generation: 0x1b1c,
        kind: EntryKind::Value,
    }
}

#[test]
fn stripes_are_as_the_tables_say() {
    let header = StripeHeader {
        kind: StripeKind::Footer,
        width: 3,
        shard: 0x0102,
        secret: Secret([4; 16]),
        group: 5,
        row: 6,
        incarnation: 7,
        stripe: 8,
        committed: 9,
        rows: 10,
        entries: 11,
        stripes: 12,
        used: 13,
        opened: 14,
        column_crc: std::array::from_fn(|n| 0x0101_0101 * n as u32),
    };
    let page = header.encode(b"body");
    assert_eq!((page.len(), &page[HEADER_LEN..HEADER_LEN + 4]), (PAGE, &b"body"[..]));
    assert_eq!(page[PAGE - 4..], last_crc(&page));
    agree(
        "Stripe header (176 bytes of a page)",
        &page[..HEADER_LEN],
        &[
            ("magic", b"kvofStrp".to_vec()),
            ("version", le((VERSION as u16).to_le_bytes())),
            ("kind", vec![2]),
            ("width", vec![3]),
            ("shard", le(0x0102_u16.to_le_bytes())),
            ("secret", vec![4; 16]),
            ("group", le(5_u32.to_le_bytes())),
            ("row", le(6_u32.to_le_bytes())),
            ("incarnation", le(7_u64.to_le_bytes())),
            ("stripe", le(8_u64.to_le_bytes())),
            ("committed", le(9_u64.to_le_bytes())),
            ("rows", le(10_u32.to_le_bytes())),
            ("entries", le(11_u32.to_le_bytes())),
            ("stripes", le(12_u32.to_le_bytes())),
            ("used", le(13_u32.to_le_bytes())),
            ("opened", le(14_u64.to_le_bytes())),
            ("column_crc", (0..(MAX_DATA + MAX_PARITY) as u8).flat_map(|n| [n; 4]).collect()),
        ],
    );
    for (kind, number) in
        [(StripeKind::Data, 1), (StripeKind::Footer, 2), (StripeKind::Checkpoint, 3), (StripeKind::Freed, 4)]
    {
        assert_eq!(StripeHeader { kind, ..header.clone() }.encode(&[])[10], number);
    }
    let mut bytes = Vec::new();
    entry().encode(&mut bytes);
    agree(
        "Entry (48 bytes)",
        &bytes,
        &[
            ("key", padded(b"block_7", 16)),
            ("sequence", le(0x1112_u64.to_le_bytes())),
            ("len", le(0x1314_u32.to_le_bytes())),
            ("location", le(0x1516_u32.to_le_bytes())),
            ("crc", le(0x1718_u32.to_le_bytes())),
            ("generation", le(0x1b1c_u32.to_le_bytes())),
            ("slot", le(0x001a_u16.to_le_bytes())),
            ("key_len", vec![7]),
            ("kind", vec![1]),
        ],
    );
    assert_eq!(bytes.len(), ENTRY_LEN);
    let trailer = zerocopy::IntoBytes::as_bytes(&entry().trailer()).to_vec();
    assert_eq!(trailer.len(), TRAILER_LEN);
    agree(
        "Trailer (32 bytes)",
        &trailer,
        &[
            ("key", padded(b"block_7", 16)),
            ("sequence", le(0x1112_u64.to_le_bytes())),
            ("len", le(0x1314_u32.to_le_bytes())),
            ("crc", le(0x1718_u32.to_le_bytes())),
        ],
    );
    let mut reference = Vec::new();
    StripeRef { row: 21, rows: 22, width: 3 }.encode(&mut reference);
    assert_eq!(reference.len(), STRIPE_REF_LEN);
    agree(
        "Stripe reference (16 bytes)",
        &reference,
        &[("row", le(21_u32.to_le_bytes())), ("rows", le(22_u32.to_le_bytes())), ("width", vec![3])],
    );
}

#[test]
fn the_checksum_of_a_record_is_of_what_the_page_says() {
    let context = RecordContext { secret: Secret([4; 16]), shard: 0x0203, group: 0x0405, incarnation: 0x0607 };
    let mut bytes = 0x0a0b_0c0d_u32.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[4; 16]);
    bytes.extend_from_slice(&0x0203_u16.to_le_bytes());
    bytes.extend_from_slice(&0x0405_u32.to_le_bytes());
    bytes.extend_from_slice(&0x0607_u64.to_le_bytes());
    Entry { crc: 0, ..entry() }.encode(&mut bytes);
    assert_eq!(record_crc(0x0a0b_0c0d, &context, &entry()), kvof_store::checksum::crc32c(&bytes));
}

#[test]
fn places_are_as_the_layout_says() {
    assert_eq!((PAGE, UNIT), (4096, 32));
    assert_eq!((LABEL_AREA, SUPERBLOCK_AREA, SUPERBLOCK_SLOT), (1 << 20, 1 << 20, 512 << 10));
    let (k, m, n, shards, pages, segments) = (4_u64, 2, 9_u64, 3_u64, 300_u64, 40_u64);
    let profile = Profile::new(k as u8, m).unwrap();
    let geometry = Geometry::new(profile, n as u16, shards as u16, pages as u32, segments as u32).unwrap();
    let region = (1 << 20) + segments * pages * 4096;
    let width = k + u64::from(m);
    assert_eq!(geometry.second_label(), (1 << 20) + shards * region);
    for shard in 0..shards {
        let start = (1 << 20) + shard * region;
        assert_eq!(geometry.superblock(shard as u16, 1), start + (512 << 10));
        for (group, column, row) in [(0, 0, 0), (8, 5, 299), (9, 0, 1), (17, 3, 77)] {
            let member = (group + column) % n;
            let segment = group / n * width + column;
            let offset = start + (1 << 20) + (segment * pages + row) * 4096;
            assert_eq!(u64::from(geometry.member(group as u32, column as usize)), member);
            assert_eq!(geometry.offset(shard as u16, group as u32, column as usize, row as u32), offset);
        }
    }
    for row in 0..10 {
        let columns: Vec<u64> = (0..=u64::from(m)).map(|i| (row + i) % width).collect();
        assert!(geometry.header_columns(row as u32).map(|c| c as u64).eq(columns));
    }
}

#[test]
fn limits_are_as_the_table_says() {
    let limits: BTreeMap<String, String> =
        table("Limits").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(limits["Data columns"], format!("1 to {MAX_DATA}"));
    assert_eq!(limits["Parity columns"], format!("0 to {MAX_PARITY}"));
    assert_eq!(limits["Devices of a pool"], format!("k + m to {MEMBERS_MAX}"));
    assert_eq!(limits["Shards"], format!("1 to {SHARDS_MAX}"));
    let mib = |pages: u32| (u64::from(pages) * 4096) >> 20;
    assert_eq!((mib(SEGMENT_PAGES_MIN), mib(SEGMENT_PAGES_MAX)), (1, 1024));
    assert_eq!(limits["Segment"], "1 MiB to 1 GiB");
    assert!(limits["Groups of a volume"].starts_with(&format!("{GROUPS_MIN} to 2³² pages")));
    let largest = |groups: u32| Geometry::new(Profile::new(4, 1).unwrap(), 5, 1, SEGMENT_PAGES_MAX, groups);
    let most = (1_u32 << 14) / 5 / 5 * 5;
    assert!(largest(most).is_ok() && largest(most + 50).is_err(), "2^32 pages in groups of 5 * 2^18");
    assert_eq!(limits["Namespaces"], NAMESPACES_MAX.to_string());
    assert_eq!(limits["Key"], format!("1 to {} bytes", Key::MAX_LEN));
    let whole = Geometry::new(Profile::new(4, 1).unwrap(), 5, 1, SEGMENT_PAGES_MAX, 50).unwrap();
    assert!(limits["Value"].starts_with(&format!("0 to {} bytes", value_max(&whole))));
    let small = Geometry::new(Profile::new(4, 1).unwrap(), 5, 1, 256, 50).unwrap();
    assert_eq!(value_max(&small), 252 * 4 * 4096 - 4096);
    assert_eq!(limits["Groups of a checkpoint"], CHECKPOINT_GROUPS_MAX.to_string());
    assert_eq!(limits["Values in a stripe"], "4096, or 8 MiB; or one");
    assert_eq!(limits["Entries of a group"], (128 << 10).to_string());
    assert!(DOC.contains(&format!("and {RESERVED_GROUPS} groups that cleaning keeps")));
    assert!(DOC.contains(&format!("(more than {})", StripeHeader::ROOM / ENTRY_LEN)));
    assert!(DOC.contains(&format!("that {}\nbytes are left", StripeHeader::ROOM)));
    assert!(DOC.contains(&format!("This is format version {VERSION},")));
}

/// A pool in memory with one namespace.
struct Engine {
    store: Standalone<MemoryQueue>,
    id: u64,
}

impl Engine {
    fn new() -> Self {
        let geometry = Geometry::new(Profile::new(4, 1).unwrap(), 5, 1, 4096, 60).unwrap();
        let config = VolumeConfig {
            pool: [1; 16],
            secret: Secret([2; 16]),
            geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig::new(96 << 20)),
            scratch: 96 << 20,
            index_memory: 16 << 20,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let uuids: Vec<Uuid> = (1..=5).map(|n| [n; 16]).collect();
        let mut devices = MemoryDevices::new(5, geometry.device_bytes());
        write_first_superblocks(&config, &uuids, &mut devices).unwrap();
        let spec = NamespaceSpec {
            uuid: [3; 16],
            mode: NamespaceMode::Store,
            durability: Durability::Media,
            limits: KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 1 },
            usage: Usage::new(1 << 40, 0),
            reservation: 0,
        };
        let present: Vec<Option<Uuid>> = uuids.into_iter().map(Some).collect();
        let store = Standalone::open(config, &present, MemoryQueue::new(devices), &spec, &mut |_| ()).unwrap();
        let mut this = Self { store, id: 0 };
        // What attaching a namespace changes in the superblock is no part of what values cost.
        this.store(1, 1);
        this
    }

    /// Bytes written for `count` values of `len` bytes that come together, and the stripes that they took.
    fn store(&mut self, count: usize, len: usize) -> (u64, u64) {
        let stats = |store: &mut Standalone<MemoryQueue>| {
            let stats = store.volumes().next().unwrap().stats();
            (stats.written_bytes, stats.stripes)
        };
        let before = stats(&mut self.store);
        for _ in 0..count {
            self.id += 1;
            let mut value = self.store.reserve(len as u32).unwrap();
            value.fill(self.id as u8);
            let key = Key::new(&self.id.to_le_bytes()).unwrap();
            self.store.submit(OpId(self.id), KvRequest::Store { key, options: StoreOptions::default(), value });
        }
        let mut done = 0;
        while done < count {
            self.store.pump(Duration::ZERO).unwrap();
            while let Some((_, result)) = self.store.poll() {
                result.unwrap();
                done += 1;
            }
        }
        let after = stats(&mut self.store);
        (after.0 - before.0, after.1 - before.1)
    }
}

/// The figures of the page, once by its formulae and once as the engine has it.
#[test]
fn space_is_as_the_table_says() {
    let (k, m) = (4_u64, 1_u64);
    let rows = table("Space");
    assert_eq!(rows.len(), 4);
    for (row, len) in rows.iter().zip([100_u64, 4 << 10, 64 << 10, 1 << 20]) {
        let record = len.div_ceil(32) * 32 + 32;
        let pages = |bytes: u64| {
            let p = bytes.div_ceil(4096);
            let h = p.div_ceil(k);
            (m + 1 + h * (p.div_ceil(h) + m), (h + 1) * (k + m))
        };
        let (written, taken) = if record <= 3868 { (m + 1, k + m) } else { pages(record) };
        let times = |pages: u64, values: u64| format!("{:.2} ×", (pages * 4096) as f64 / (values * len) as f64);
        assert_eq!(row[1..4], [written.to_string(), times(written, 1), times(taken, 1)], "{}", row[0]);

        let mut engine = Engine::new();
        for _ in 0..3 {
            assert_eq!(engine.store(1, len as usize), (written * 4096, 1), "{} alone", row[0]);
        }
        // Four stripes begin at once with what is there, one value each; what comes meanwhile shares the next. Large values are summed
        // stripe by stripe, so that what comes while the first one is shares the next.
        let alone = if len >= 128 << 10 { 1 } else { 4 };
        let values: u64 = row[4].parse().unwrap();
        let mut engine = Engine::new();
        let (bytes, stripes) = engine.store(values as usize + alone, len as usize);
        assert_eq!(stripes, alone as u64 + 1, "{} values of {} fill a stripe", values, row[0]);
        let batch = (bytes - alone as u64 * written * 4096) / 4096;
        // Large records start at pages.
        let each = if len >= 128 << 10 { record.next_multiple_of(4096) } else { record + 48 };
        let (formula, taken) = pages(values * each);
        assert!(batch.abs_diff(formula) <= 2, "{}: {batch} pages, by the formula {formula}", row[0]);
        assert_eq!(row[5..7], [times(batch, values), times(taken, values)], "{}", row[0]);
        // One more does not fit.
        let mut engine = Engine::new();
        assert_eq!(engine.store(values as usize + alone + 1, len as usize).1, alone as u64 + 2, "{}", row[0]);
    }
}
