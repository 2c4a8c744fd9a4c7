use kvof_kv::Key;
use proptest::prelude::*;

use super::*;
use crate::{ec::Profile, geometry::Geometry};

fn label() -> Label {
    Label {
        pool: [1; 16],
        device: [2; 16],
        replaces: [0; 16],
        secret: Secret([3; 16]),
        member: 4,
        geometry: Geometry::new(Profile::new(4, 1).unwrap(), 6, 2, 256, 50).unwrap(),
        created: 1_700_000_000,
        name: "rack 7".to_owned(),
    }
}

fn superblock() -> Superblock {
    let member = |n: u8, state| Member { device: [n; 16], state, since: u64::from(n) };
    let record =
        NamespaceRecord { uuid: [9; 16], generation: 3, mode: NamespaceMode::Cache, used: true, reservation: 1 << 30 };
    let free =
        NamespaceRecord { uuid: [0; 16], generation: 0, mode: NamespaceMode::Store, used: false, reservation: 0 };
    let mut namespaces = vec![free; NAMESPACES_MAX];
    namespaces[255] = record;
    Superblock {
        pool: [1; 16],
        shard: 1,
        epoch: 77,
        sequence: 5,
        incarnation: 6,
        stripe: 7,
        clean: true,
        checkpoint: vec![3, 1, 4],
        checkpoint_bytes: 12345,
        members: vec![
            member(1, MemberState::Live),
            member(2, MemberState::Failed),
            member(3, MemberState::Rebuilding { rebuilt: 8 }),
        ],
        namespaces,
    }
}

fn header() -> StripeHeader {
    StripeHeader {
        kind: StripeKind::Data,
        width: 4,
        shard: 1,
        secret: Secret([3; 16]),
        group: 9,
        row: 17,
        incarnation: 33,
        stripe: 1000,
        committed: 998,
        rows: 65,
        entries: 1,
        stripes: 0,
        used: 0,
        opened: 444,
        column_crc: std::array::from_fn(|n| n as u32),
    }
}

fn entry() -> Entry {
    Entry {
        key: Key::new(b"block_7").unwrap(),
        sequence: 12,
        len: 1 << 20,
        location: 0x0102_0304,
        crc: 0xdead_beef,
        slot: 255,
        generation: 3,
        kind: EntryKind::Value,
    }
}

#[test]
fn structures_come_back() {
    assert_eq!(Label::decode(&label().encode()).unwrap(), label());
    assert_eq!(Superblock::decode(&superblock().encode()).unwrap(), superblock());
    let mut body = Vec::new();
    entry().encode(&mut body);
    let page = header().encode(&body);
    assert_eq!(StripeHeader::decode(&page).unwrap(), header());
    assert_eq!(header().entries(StripeHeader::body(&page)).unwrap(), vec![entry()]);
    let stripe = StripeRef { row: 1, rows: 2, width: 3 };
    let mut bytes = Vec::new();
    stripe.encode(&mut bytes);
    assert_eq!((bytes.len(), StripeRef::decode(&bytes)), (STRIPE_REF_LEN, Some(stripe)));
}

/// The positions of fields are what other versions and other programs rely on.
#[test]
fn fields_are_where_the_tables_say() {
    let label = label().encode();
    assert_eq!(&label[..16], b"kvofPool\x01\0\0\0\x04\0\x06\0");
    assert_eq!((&label[16..32], &label[32..48], &label[64..80]), (&[1; 16][..], &[2; 16][..], &[3; 16][..]));
    assert_eq!(&label[80..92], [4, 1, 2, 0, 0, 1, 0, 0, 50, 0, 0, 0]);
    let superblock = superblock().encode();
    assert_eq!(&superblock[..16], b"kvofSupr\x01\0\0\0\x01\0\x03\0");
    assert_eq!(superblock[32], 77);
    assert_eq!((&superblock[96..112], superblock[112]), (&[1; 16][..], 1), "the first member");
    assert_eq!(superblock[96 + 64 * 32 + 255 * 40], 9, "the last namespace");
    assert_eq!(superblock[96 + 64 * 32 + 256 * 40], 3, "the first checkpoint group");
    let mut body = Vec::new();
    entry().encode(&mut body);
    let page = header().encode(&body);
    assert_eq!(&page[..14], b"kvofStrp\x01\0\x01\x04\x01\0");
    assert_eq!((page[32], page[36], page[40], page[48], page[64]), (9, 17, 33, 0xe8, 65));
    assert_eq!((page[88], page[92], page[164]), (0, 1, 19), "column checksums");
    assert_eq!(&page[176..183], b"block_7");
    assert_eq!(
        &page[192..224],
        [
            12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 4, 3, 2, 1, 0xef, 0xbe, 0xad, 0xde, 3, 0, 0, 0, 255, 0, 7, 1, 0, 0,
            0, 0
        ]
    );
}

#[test]
fn damage_is_named() {
    let absent = |result: Result<Label, FormatError>| matches!(result, Err(FormatError::Absent { .. }));
    assert!(absent(Label::decode(&[])) && absent(Label::decode(&[0; PAGE])));
    let mut other = label().encode();
    other[8] = 2;
    assert_eq!(Label::decode(&other), Err(FormatError::Version { what: "the label", version: 2 }));
    for at in [12, 100, 4095] {
        let mut bytes = label().encode();
        bytes[at] ^= 1;
        assert_eq!(Label::decode(&bytes), Err(FormatError::Checksum { what: "the label" }));
    }
    let place = |h: &StripeHeader| h.check_place(Secret([3; 16]), 1, 9, 17);
    assert_eq!(place(&header()), Ok(()));
    assert!(place(&StripeHeader { secret: Secret([4; 16]), ..header() }).is_err());
    assert!(place(&StripeHeader { row: 18, ..header() }).is_err());
}

#[test]
fn the_checksum_of_a_record_is_of_its_place_too() {
    let context = RecordContext { secret: Secret([3; 16]), shard: 1, group: 2, incarnation: 3 };
    let crc = record_crc(7, &context, &entry());
    assert_eq!(crc, record_crc(7, &context, &Entry { crc: 0, ..entry() }), "its own field does not count");
    for other in [
        record_crc(8, &context, &entry()),
        record_crc(7, &RecordContext { group: 3, ..context }, &entry()),
        record_crc(7, &RecordContext { incarnation: 4, ..context }, &entry()),
        record_crc(7, &context, &Entry { location: 5, ..entry() }),
        record_crc(7, &context, &Entry { key: Key::new(b"block_8").unwrap(), ..entry() }),
        record_crc(7, &context, &Entry { slot: 1, ..entry() }),
    ] {
        assert_ne!(crc, other);
    }
}

proptest! {
    /// Whatever a device holds, decoding it is an error or a structure within its bounds.
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..5000), which in 0..3) {
        let magic: &[u8] = match which { 0 => b"kvofPool", 1 => b"kvofSupr", _ => b"kvofStrp" };
        let n = bytes.len().min(8);
        bytes[..n].copy_from_slice(&magic[..n]);
        let _ = Label::decode(&bytes);
        let _ = StripeHeader::decode(&bytes);
        bytes.resize(SUPERBLOCK_LEN, 0x11);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        seal(&mut bytes);
        let _ = Superblock::decode(&bytes);
        let page = &mut bytes[..PAGE];
        seal(page);
        let _ = Label::decode(page);
        if let Ok(header) = StripeHeader::decode(page) {
            prop_assert!((header.width == 0) == (header.rows == 0));
            let _ = header.entries(StripeHeader::body(page));
        }
    }
}
