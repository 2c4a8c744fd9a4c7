//! Headers that are wrong: each is answered with the C2HTermReq that says what is wrong, and the connection ends.

use kvof_spec::{
    IntoBytes, Sqe,
    sgl::SglDescriptor,
    tcp::{CapsuleCmd, CommonHeader, Digests, FatalErrorStatus, H2cData, IcReq, PduType, TermReq},
};
use kvof_target::transport::tcp::TcpSettings;

use super::{
    host::{Ask, BOTH, Host, exist, store, value},
    rig::{Options, Rig, settings},
};

const FIELD: FatalErrorStatus = FatalErrorStatus::INVALID_HEADER_FIELD;

fn icreq(change: impl FnOnce(&mut IcReq)) -> Vec<u8> {
    let mut pdu = IcReq::new(0, Digests::default(), 0);
    change(&mut pdu);
    pdu.as_bytes().to_vec()
}

fn header(kind: u8, flags: u8, hlen: u8, pdo: u8, plen: u32) -> Vec<u8> {
    let ch = CommonHeader { pdu_type: kind, flags, hlen, pdo, plen: plen.into() };
    let mut bytes = ch.as_bytes().to_vec();
    bytes.resize(usize::from(hlen).max(8), 0);
    bytes
}

#[test]
fn before_initialisation() {
    let rig = Rig::start(Options::default());
    let cases: [(&str, Vec<u8>, FatalErrorStatus, u32); 12] = [
        ("unknown type", header(0x0a, 0, 128, 0, 128), FIELD, 0),
        ("reserved type 08h", header(0x08, 0, 24, 0, 24), FIELD, 0),
        ("a controller's PDU", header(0x01, 0, 128, 0, 128), FIELD, 0),
        ("R2T from a host", header(0x09, 0, 24, 0, 24), FIELD, 0),
        ("flags of ICReq", icreq(|p| p.ch.flags = 1), FIELD, 1),
        ("HLEN of ICReq", icreq(|p| p.ch.hlen = 127), FIELD, 2),
        ("PLEN of ICReq", icreq(|p| p.ch.plen = 129.into()), FIELD, 4),
        ("PFV", icreq(|p| p.pfv = 1.into()), FatalErrorStatus::UNSUPPORTED_PARAMETER, 8),
        ("HPDA", icreq(|p| p.hpda = 32), FIELD, 10),
        ("a capsule first", header(4, 0, 72, 0, 72), FatalErrorStatus::SEQUENCE_ERROR, 0),
        ("data first", header(6, 0, 24, 24, 28), FatalErrorStatus::SEQUENCE_ERROR, 0),
        ("nothing but ones", vec![0xff; 200], FIELD, 0),
    ];
    for (what, bytes, fes, fei) in cases {
        println!("{what}");
        let mut host = Host::silent(rig.address);
        host.send(&bytes);
        let quoted = host.expect_term(fes, fei);
        assert!(quoted.len() >= 8 && bytes.starts_with(&quoted), "{what}: quoted {quoted:02x?}");
    }
}

#[test]
fn after_initialisation() {
    let tcp = TcpSettings { cpda: 3, maxh2cdata: 8192, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let big_admin = CapsuleCmd::new(Sqe::default(), 8193, Digests::default(), 3);
    let big_data = H2cData::new(1, 0, 0, 8196, true, Digests::default(), 3);
    let stray_data = H2cData::new(1, 0, 0, 16, true, Digests::default(), 3);
    let cases: [(&str, Vec<u8>, FatalErrorStatus, u32); 16] = [
        ("unknown type", header(0x0b, 0, 72, 0, 72), FIELD, 0),
        ("second ICReq", icreq(|_| {}), FatalErrorStatus::SEQUENCE_ERROR, 0),
        ("header digest not agreed", header(4, 1, 72, 0, 76), FIELD, 1),
        ("data digest not agreed", header(4, 2, 72, 80, 84), FIELD, 1),
        ("HLEN of a capsule", header(4, 0, 73, 0, 73), FIELD, 2),
        ("HLEN of data", header(6, 0, 25, 32, 64), FIELD, 2),
        ("PDO inside of the header", header(4, 0, 72, 64, 96), FIELD, 3),
        ("PDO not aligned", header(4, 0, 72, 84, 128), FIELD, 3),
        ("PDO beyond the PDU", header(4, 0, 72, 240, 100), FIELD, 3),
        ("PLEN below HLEN", header(4, 0, 72, 0, 71), FIELD, 4),
        ("PLEN of 0", header(4, 0, 72, 0, 0), FIELD, 4),
        ("data PDU without data", header(6, 0, 24, 32, 32), FIELD, 4),
        ("PLEN of 4 GiB", header(4, 0, 72, 80, u32::MAX), FIELD, 4),
        ("more in the capsule than may be", big_admin.as_bytes().to_vec(), FIELD, 4),
        ("more data than MAXH2CDATA", big_data.as_bytes().to_vec(), FatalErrorStatus::LIMIT_EXCEEDED, 0),
        ("data that nobody asked for", stray_data.as_bytes().to_vec(), FIELD, 10),
    ];
    for (what, bytes, fes, fei) in cases {
        println!("{what}");
        let mut host = Host::initialised(rig.address, Ask::default());
        host.send(&bytes);
        let quoted = host.expect_term(fes, fei);
        assert!(quoted.len() >= 8 && bytes.starts_with(&quoted), "{what}: quoted {quoted:02x?}");
    }
}

#[test]
fn an_io_queue_takes_as_much_in_a_capsule_as_it_says() {
    let tcp = TcpSettings { in_capsule: 4096, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let most = value(1, 4096);
    let cid = io.capsule(store("most", 4096), SglDescriptor::in_capsule(0, 4096), &most);
    assert!(io.finish(cid, &[]).0.status().is_success());
    assert_eq!(io.retrieve("most", 5000).1, most);
    io.capsule(store("more", 4100), SglDescriptor::in_capsule(0, 4100), &value(1, 4100));
    io.expect_term(FIELD, 4);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask { digests: BOTH, ..Ask::default() });
    io.expect_alive();
    let mut bytes = io.capsule_bytes(exist("k"), 9, SglDescriptor::transport_data(0), &[]);
    bytes[73] ^= 0x10;
    io.send(&bytes);
    let digest = u32::from_le_bytes(bytes[72..76].try_into().unwrap());
    let quoted = io.expect_term(FatalErrorStatus::HEADER_DIGEST_ERROR, digest);
    assert_eq!(quoted, bytes);
}

#[test]
fn a_term_req_is_not_answered() {
    let rig = Rig::start(Options::default());
    let good = TermReq::new(PduType::H2C_TERM_REQ, FatalErrorStatus::SEQUENCE_ERROR, 0, 0);
    let mut long = good;
    long.ch.plen = 153.into();
    for (what, term) in [("a good one", good), ("one that is too long", long)] {
        println!("{what}");
        let mut host = Host::initialised(rig.address, Ask::default());
        host.send(term.as_bytes());
        host.expect_closed();
    }
    let mut host = Host::silent(rig.address);
    host.send(good.as_bytes());
    host.expect_closed();
}

#[test]
fn what_follows_a_fatal_error_is_not_executed() {
    let rig = Rig::start(Options::default());
    let (mut admin, mut io) = Host::pair(&rig, Ask::default());
    let mut bytes = header(0x0a, 0, 24, 0, 24);
    bytes.extend(io.capsule_bytes(store("late", 4), 3, SglDescriptor::in_capsule(0, 4), b"late"));
    io.send(&bytes);
    io.expect_term(FIELD, 0);
    let mut again = Host::io(&rig, &admin, 2, Ask::default());
    let (cqe, _) = again.execute(exist("late"), &[]);
    assert_eq!(cqe.status().code(), kvof_spec::Status::KEY_DOES_NOT_EXIST);
    admin.enable();
}
