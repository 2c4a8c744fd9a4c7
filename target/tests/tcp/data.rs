//! Data: where they may come from, in which order and pieces, and what a wrong digest does.

use std::time::Duration;

use kvof_spec::{
    IntoBytes, NvmOpcode, Sqe, Status,
    sgl::SglDescriptor,
    tcp::{Digests, FatalErrorStatus, PduType, TermReq},
};
use kvof_target::transport::tcp::TcpSettings;

use super::{
    host::{Ask, BOTH, Host, Pdu, retrieve, store, value},
    rig::{BLOCKS, Options, Rig, settings, wait_until},
};

const FIELD: FatalErrorStatus = FatalErrorStatus::INVALID_HEADER_FIELD;
const RANGE: FatalErrorStatus = FatalErrorStatus::DATA_OUT_OF_RANGE;

/// Small PDUs, several R2Ts.
fn small() -> TcpSettings {
    TcpSettings { maxh2cdata: 8192, r2t_length: 16 << 10, c2h_data: 16 << 10, ..settings() }
}

#[test]
fn a_wrong_data_digest_fails_the_command_alone() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask { digests: BOTH, maxr2t: 3, ..Ask::default() });
    let data = value(3, 600);
    let mut bytes = io.capsule_bytes(store("capsule", 600), 77, SglDescriptor::in_capsule(0, 600), &data);
    *bytes.last_mut().unwrap() ^= 1;
    io.send(&bytes);
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.status()), (77, Status::TRANSIENT_TRANSPORT_ERROR));
    io.expect_alive();

    let data = value(4, 20_000);
    let cid = io.capsule(store("asked", data.len()), SglDescriptor::transport_data(20_000), &[]);
    let asked = [io.read().unwrap().r2t(), io.read().unwrap().r2t()];
    for (number, r2t) in asked.iter().enumerate() {
        let (from, len) = (r2t.r2to.get() as usize, r2t.r2tl.get() as usize);
        for (at, part) in data[from..from + len].chunks(8192).enumerate() {
            let offset = from + at * 8192;
            let last = offset + part.len() == from + len;
            let mut bytes = io.h2c_data(cid, r2t.ttag.get(), offset as u32, part, last);
            if number == 0 && at == 1 {
                bytes[3000] ^= 0x80;
            }
            io.send(&bytes);
        }
    }
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.status()), (cid, Status::TRANSIENT_TRANSPORT_ERROR));
    for key in ["capsule", "asked"] {
        assert_eq!(io.retrieve(key, 10).0.status().code(), Status::KEY_DOES_NOT_EXIST);
    }
    assert!(io.store("asked", &data).status().is_success());
    assert_eq!(io.retrieve("asked", 20_000).1, data);
}

#[test]
fn data_that_were_not_asked_for_like_this_end_the_connection() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    let data = value(0, 12_000);
    // What is wrong; identifier, tag, offset and length relative to the R2T; LAST_PDU; the answer.
    let cases = [
        ("another tag", (0, 1, 0, 4096), false, FIELD, 10),
        ("a tag of nothing", (0, 4000, 0, 4096), false, FIELD, 10),
        ("another offset", (0, 0, 4, 4096), false, RANGE, 12),
        ("an odd offset", (0, 0, 2, 4096), false, FIELD, 12),
        ("beyond the end", (0, 0, 0, 8192), true, RANGE, 16),
        ("another command", (1, 0, 0, 4096), false, FIELD, 8),
        ("LAST_PDU early", (0, 0, 0, 4096), true, FIELD, 1),
    ];
    for (what, (cid_off, tag_off, offset, len), last, fes, fei) in cases {
        println!("{what}");
        let (_admin, mut io) = Host::pair(&rig, Ask::default());
        let cid = io.capsule(store("k", 12_000), SglDescriptor::transport_data(12_000), &[]);
        let r2t = io.read().unwrap().r2t();
        assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, 12_000));
        if len == 8192 {
            io.send(&io.h2c_data(cid, r2t.ttag.get(), 0, &data[..8192], false));
            io.send(&io.h2c_data(cid, r2t.ttag.get(), 8192, &data[..8192], last));
        } else {
            let bytes = io.h2c_data(cid + cid_off, r2t.ttag.get().wrapping_add(tag_off), offset, &data[..len], last);
            io.send(&bytes);
        }
        io.expect_term(fes, fei);
    }
}

#[test]
fn datal_has_to_agree_with_plen() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let cid = io.capsule(store("k", 12_000), SglDescriptor::transport_data(12_000), &[]);
    let r2t = io.read().unwrap().r2t();
    let mut bytes = io.h2c_data(cid, r2t.ttag.get(), 0, &[0; 4096], false);
    bytes[16] = 4;
    io.send(&bytes);
    io.expect_term(FIELD, 16);
}

#[test]
fn r2ts_may_be_answered_in_any_order_and_in_pieces() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    for digests in [Digests::default(), BOTH] {
        let (_admin, mut io) = Host::pair(&rig, Ask { digests, maxr2t: 3, ..Ask::default() });
        let values: Vec<Vec<u8>> = (0..3).map(|seed| value(seed, 150_000 + usize::from(seed))).collect();
        let cids: Vec<u16> = (0..3)
            .map(|i| {
                let len = values[i].len() as u32;
                io.capsule(store(&format!("v{i}"), values[i].len()), SglDescriptor::transport_data(len), &[])
            })
            .collect();
        let mut open = Vec::new();
        let mut answered = 0;
        while answered < 3 {
            // First let as many come as the target dares to send, then answer the last one.
            while let Some(pdu) = read_soon(&mut io) {
                if pdu.kind == PduType::R2T {
                    open.push(pdu.r2t());
                } else {
                    assert!(pdu.cqe().status().is_success());
                    answered += 1;
                }
            }
            for cid in &cids {
                assert!(open.iter().filter(|r| r.cccid.get() == *cid).count() <= 4);
            }
            if let Some(r2t) = open.pop() {
                let index = cids.iter().position(|cid| *cid == r2t.cccid.get()).unwrap();
                io.answer(&r2t, &values[index], 5000);
            }
        }
        for (i, value) in values.iter().enumerate() {
            let (cqe, data) = io.retrieve(&format!("v{i}"), 200_000);
            assert_eq!(cqe.dw0.get() as usize, value.len());
            assert!(data == *value, "value {i} is damaged");
        }
    }
}

/// A PDU if one comes soon.
fn read_soon(io: &mut Host) -> Option<Pdu> {
    let patience = io.stream.read_timeout().unwrap();
    io.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let there = io.stream.peek(&mut [0]).is_ok();
    io.stream.set_read_timeout(patience).unwrap();
    if there { io.read() } else { None }
}

#[test]
fn one_r2t_asks_for_all_where_the_host_allows_one() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let data = value(1, 100_000);
    let cid = io.capsule(store("one", data.len()), SglDescriptor::transport_data(100_000), &[]);
    let r2t = io.read().unwrap().r2t();
    assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, 100_000));
    io.answer(&r2t, &data, 4096);
    assert_eq!(io.read().unwrap().cqe().cid.get(), cid);
    assert_eq!(io.retrieve("one", 100_000).1, data);
}

#[test]
fn further_data_are_asked_for_when_most_of_what_was_has_come() {
    let tcp = TcpSettings { r2t_window: 64 << 10, r2t_window_max: 64 << 10, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    for digests in [Digests::default(), BOTH] {
        let (_admin, mut io) = Host::pair(&rig, Ask { digests, entries: 32, ..Ask::default() });
        let values: Vec<Vec<u8>> = (0..5).map(|seed| value(seed, 40_000)).collect();
        let before = rig.pool.in_use();
        let cids: Vec<u16> = (0..5)
            .map(|i| io.capsule(store(&format!("v{i}"), 40_000), SglDescriptor::transport_data(40_000), &[]))
            .collect();
        // One leaves room for more; two do not.
        let first = io.read().unwrap().r2t();
        let second = io.read().unwrap().r2t();
        assert_eq!([first.cccid.get(), second.cccid.get()], cids[..2]);
        assert!(read_soon(&mut io).is_none());
        assert!(rig.pool.in_use() <= before + 2 * (40 << 10), "what is not asked for needs no memory");
        // Others are not kept waiting by those in line.
        let small = io.capsule(store("small", 999), SglDescriptor::in_capsule(0, 999), &values[0][..999]);
        assert_eq!(io.read().unwrap().cqe().cid.get(), small);
        // A part that leaves 64 KiB to come lets nobody in, 4 bytes more do.
        let part = 80_000 - (64 << 10);
        let bytes = io.h2c_data(cids[0], first.ttag.get(), 0, &values[0][..part], false);
        io.send(&bytes);
        assert!(read_soon(&mut io).is_none());
        let bytes = io.h2c_data(cids[0], first.ttag.get(), part as u32, &values[0][part..part + 4], false);
        io.send(&bytes);
        let third = io.read().unwrap().r2t();
        assert_eq!(third.cccid.get(), cids[2]);
        assert!(read_soon(&mut io).is_none());
        let bytes = io.h2c_data(cids[0], first.ttag.get(), part as u32 + 4, &values[0][part + 4..], true);
        io.send(&bytes);
        let mut open = vec![second, third];
        let mut done = Vec::new();
        while done.len() < 5 {
            let pdu = io.read().unwrap();
            if pdu.kind == PduType::R2T {
                open.push(pdu.r2t());
            } else {
                assert!(pdu.cqe().status().is_success());
                done.push(pdu.cqe().cid.get());
            }
            // Whichever comes last is answered first.
            if let Some(r2t) = open.pop() {
                let index = cids.iter().position(|cid| *cid == r2t.cccid.get()).unwrap();
                io.answer(&r2t, &values[index], 7000);
            }
        }
        for (i, value) in values.iter().enumerate() {
            assert!(io.retrieve(&format!("v{i}"), 40_000).1 == *value, "value {i} is damaged");
        }
    }
}

#[test]
fn alignments_and_digests_in_every_combination() {
    for cpda in [0, 1, 7, 31] {
        let rig = Rig::start(Options { tcp: TcpSettings { cpda, ..small() }, ..Options::default() });
        for hpda in [0, 3, 31] {
            for digests in (0..4).map(Digests::from_byte) {
                let (_admin, mut io) = Host::pair(&rig, Ask { digests, hpda, ..Ask::default() });
                assert_eq!((io.cpda, io.digests), (cpda, digests));
                let data = value(cpda ^ hpda, 33_333);
                assert!(io.store("big", &data).status().is_success());
                let cid = io.capsule(store("small", 999), SglDescriptor::in_capsule(0, 999), &data[..999]);
                assert!(io.finish(cid, &[]).0.status().is_success());
                io.capsule(retrieve("big", 40_000), SglDescriptor::transport_data(40_000), &[]);
                let mut got = Vec::new();
                while got.len() < data.len() {
                    let pdu = io.read().unwrap();
                    let header = 24 + digests.header_size();
                    assert_eq!(usize::from(pdu.pdo), header.next_multiple_of((usize::from(hpda) + 1) * 4));
                    got.extend(pdu.data);
                }
                assert!(got == data);
                assert!(io.read().unwrap().cqe().status().is_success());
                assert_eq!(io.retrieve("small", 999).1, &data[..999]);
            }
        }
    }
}

#[test]
fn digests_that_the_target_does_not_offer_are_not_used() {
    let tcp = TcpSettings { header_digest: false, data_digest: false, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask { digests: BOTH, ..Ask::default() });
    assert_eq!(io.digests, Digests::default());
    io.expect_alive();
}

#[test]
fn sgl_descriptors() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let data = value(9, 200);
    let raw = |identifier, length: u32| SglDescriptor { identifier, ..SglDescriptor::transport_data(length) };
    let cases = [
        ("a part of the capsule", SglDescriptor::in_capsule(20, 100), Status::SUCCESS),
        ("beyond the capsule", SglDescriptor::in_capsule(101, 100), Status::DATA_SGL_LENGTH_INVALID),
        ("from beyond the capsule", SglDescriptor::in_capsule(201, 100), Status::SGL_OFFSET_INVALID),
        ("from far beyond", SglDescriptor::in_capsule(u64::MAX, 100), Status::SGL_OFFSET_INVALID),
        ("length overflows", SglDescriptor::in_capsule(100, u32::MAX), Status::DATA_SGL_LENGTH_INVALID),
        ("shorter than the value", SglDescriptor::in_capsule(0, 99), Status::DATA_SGL_LENGTH_INVALID),
        ("a host address", raw(0x00, 100), Status::SGL_TYPE_INVALID),
        ("remote memory", raw(0x40, 100), Status::SGL_TYPE_INVALID),
        ("a list of descriptors", raw(0x31, 16), Status::SGL_TYPE_INVALID),
        ("a bit bucket", raw(0x10, 100), Status::SGL_TYPE_INVALID),
        ("unknown", raw(0xf7, 100), Status::SGL_TYPE_INVALID),
        ("no buffer", raw(0x00, 0), Status::DATA_SGL_LENGTH_INVALID),
    ];
    for (what, sgl, status) in cases {
        let cid = io.capsule(store("sgl", 100), sgl, &data);
        let (cqe, _) = io.finish(cid, &[]);
        assert_eq!(cqe.status().code(), status, "{what}");
    }
    assert_eq!(io.retrieve("sgl", 100).1, &data[20..120]);
    // Data that a command does not want are skipped, whatever they are.
    let cid = io.capsule(retrieve("sgl", 50), SglDescriptor::transport_data(50), &data);
    assert_eq!(io.finish(cid, &[]).1, &data[20..70]);
}

#[test]
fn a_host_buffer_is_never_overrun() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let data = value(1, 50_000);
    assert!(io.store("k", &data).status().is_success());
    for (size, sgl, expected) in [(10, 40_000, 10), (40_000, 40_000, 40_000), (60_000, 60_000, 50_000)] {
        let cid = io.capsule(retrieve("k", size), SglDescriptor::transport_data(sgl), &[]);
        let (cqe, got) = io.finish(cid, &[]);
        assert!(cqe.status().is_success());
        assert_eq!((cqe.dw0.get(), got.len()), (50_000, expected));
        assert!(got == data[..expected]);
    }
    let cid = io.capsule(retrieve("k", 40_000), SglDescriptor::transport_data(39_999), &[]);
    assert_eq!(io.finish(cid, &[]).0.status().code(), Status::DATA_SGL_LENGTH_INVALID);
}

#[test]
fn a_session_in_pieces_of_any_size() {
    let rig = Rig::start(Options { tcp: small(), ..Options::default() });
    for piece in [1, 2, 7, 71, 73, 500] {
        let mut admin = Host::silent(rig.address);
        (admin.piece, admin.ask) = (piece, Ask { digests: BOTH, ..Ask::default() });
        admin.initialise();
        let cqe = admin.connect_queue(0, 0xffff);
        assert!(cqe.status().is_success());
        admin.cntlid = (cqe.dw0.get() & 0xffff) as u16;
        admin.enable();
        let mut io = Host::silent(rig.address);
        (io.piece, io.ask, io.cntlid) = (piece, Ask { digests: BOTH, ..Ask::default() }, admin.cntlid);
        io.initialise();
        assert!(io.connect_queue(1, admin.cntlid).status().is_success());
        let data = value(piece as u8, 3000);
        let cid = io.capsule(store("in-capsule", 3000), SglDescriptor::in_capsule(0, 3000), &data);
        assert!(io.finish(cid, &[]).0.status().is_success());
        assert!(io.store("asked for", &data).status().is_success());
        assert_eq!(io.retrieve("in-capsule", 3000).1, data);
        assert_eq!(io.retrieve("asked for", 3000).1, data);
    }
}

#[test]
fn many_pdus_in_one_piece() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask { digests: BOTH, ..Ask::default() });
    let mut bytes = Vec::new();
    for cid in 0..30_u16 {
        let data = value(cid as u8, 100);
        let sqe = if cid % 2 == 0 { store(&format!("p{cid}"), 100) } else { retrieve(&format!("p{}", cid - 1), 100) };
        let (sgl, data) = if cid % 2 == 0 {
            (SglDescriptor::in_capsule(0, 100), &data[..])
        } else {
            (SglDescriptor::transport_data(100), &[][..])
        };
        bytes.extend(io.capsule_bytes(sqe, 1000 + cid, sgl, data));
    }
    // It ends in the middle of a header, which waits for its rest.
    let (now, later) = bytes.split_at(bytes.len() - 10);
    io.send(now);
    let mut completed = 0;
    while completed < 29 {
        let pdu = io.read().unwrap();
        if pdu.kind == PduType::C2H_DATA {
            assert_eq!(pdu.data, value((pdu.c2h_data().cccid.get() - 1001) as u8, 100));
        } else {
            assert_eq!((pdu.cqe().cid.get(), pdu.cqe().status()), (1000 + completed, Status::SUCCESS));
            completed += 1;
        }
    }
    io.send(later);
    assert_eq!(io.read().unwrap().data, value(28, 100));
    assert_eq!(io.read().unwrap().cqe().cid.get(), 1029);
}

/// A Read or Write of `count` blocks of 512 bytes.
fn transfer(opcode: NvmOpcode, first: u32, count: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode);
    (sqe.nsid, sqe.cdw10, sqe.cdw12) = (BLOCKS.into(), first.into(), (count - 1).into());
    sqe
}

fn read_blocks(io: &mut Host, first: u32, count: u32) -> Vec<u8> {
    let cid = io.capsule(transfer(NvmOpcode::READ, first, count), SglDescriptor::transport_data(count * 512), &[]);
    let (cqe, data) = io.finish(cid, &[]);
    assert!(cqe.status().is_success());
    data
}

/// Whole capsules are used where they were received, others are collected first: with the same outcome.
#[test]
fn blocks_in_capsules_whole_and_in_pieces() {
    let rig = Rig::start(Options { tcp: TcpSettings { cpda: 3, ..settings() }, ..Options::default() });
    for digests in (0..4).map(Digests::from_byte) {
        let (_admin, mut io) = Host::pair(&rig, Ask { digests, ..Ask::default() });
        let old = value(100, 8 * 512);
        let write = |io: &mut Host, first, blocks: usize, data: &[u8], offset: u64| {
            let sgl = SglDescriptor::in_capsule(offset, blocks as u32 * 512);
            let cid = io.fresh_cid();
            io.capsule_bytes(transfer(NvmOpcode::WRITE, first, blocks as u32), cid, sgl, data)
        };
        for piece in [usize::MAX, 1000, 71] {
            let new = value(piece as u8, 8 * 512);
            let bytes = write(&mut io, 8, 8, &old, 0);
            io.send(&bytes);
            assert!(io.read().unwrap().cqe().status().is_success());
            let bytes = write(&mut io, 8, 8, &new, 0);
            for part in bytes.chunks(piece) {
                io.send(part);
                if piece == 1000 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            assert!(io.read().unwrap().cqe().status().is_success());
            assert_eq!(read_blocks(&mut io, 8, 8), new);
        }
        // Two in one message, the second with its data in the middle of what the capsule has, a third refused; then one that ends in the
        // middle of its data.
        let data = value(7, 3 * 512);
        let mut bytes = write(&mut io, 16, 1, &data[..512], 0);
        bytes.extend(write(&mut io, 17, 1, &data, 512));
        bytes.extend(write(&mut io, 8192, 1, &data[..512], 0));
        let last = write(&mut io, 18, 1, &data[1024..], 0);
        let (now, later) = last.split_at(last.len() - 300);
        bytes.extend(now);
        io.send(&bytes);
        let statuses: Vec<_> = (0..3).map(|_| io.read().unwrap().cqe().status()).collect();
        assert_eq!(statuses, [Status::SUCCESS, Status::SUCCESS, Status::LBA_OUT_OF_RANGE.with_dnr()]);
        io.send(later);
        assert!(io.read().unwrap().cqe().status().is_success());
        assert_eq!(read_blocks(&mut io, 16, 3), data);
        if digests.data {
            let mut bytes = write(&mut io, 16, 3, &old[..3 * 512], 0);
            *bytes.last_mut().unwrap() ^= 1;
            io.send(&bytes);
            assert_eq!(io.read().unwrap().cqe().status(), Status::TRANSIENT_TRANSPORT_ERROR);
            assert_eq!(read_blocks(&mut io, 16, 3), data, "nothing is written that is not intact");
        }
    }
}

#[test]
fn the_term_req_of_a_host_is_heard_in_the_middle_of_data() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let cid = io.capsule(store("k", 12_000), SglDescriptor::transport_data(12_000), &[]);
    let r2t = io.read().unwrap().r2t();
    io.send(&io.h2c_data(cid, r2t.ttag.get(), 0, &[0; 4096], false));
    let term = TermReq::new(PduType::H2C_TERM_REQ, FIELD, 0, 0);
    io.send(term.as_bytes());
    io.expect_closed();
    wait_until("free of the unfinished value", || rig.pool.in_use() == 0);
}
