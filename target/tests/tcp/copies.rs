//! How often the bytes of values are copied between the socket and the devices, as the target counts it and tells it.

use std::path::Path;

use kvof_initiator::{AdminData, ConnectOptions, Controller, DigestMode, StoreOptions, blocking::block_on};
use kvof_spec::log::{GetLogPageCmd, LogId, PoolStatistics};
use kvof_target::model::{PoolDef, PoolLimits};

use super::{
    host::{key, value},
    library::connect,
    rig::{KV_POOL, Options, Rig, new_pool, wait_until},
};

const MIB: usize = 1 << 20;
/// What a receive takes beside the data that is due: behind a header in it, so much data is copied to its place.
const SCRATCH_WITH_DATA: u64 = 4096;

fn statistics(controller: &Controller) -> PoolStatistics {
    let command = GetLogPageCmd::new(LogId::POOL_STATISTICS, KV_POOL, 0, 1024).unwrap();
    let read = controller.admin(command.to_sqe(), AdminData::FromController(1024));
    let (completion, data) = block_on(read).unwrap();
    assert!(completion.status.is_success(), "{completion:?}");
    *PoolStatistics::from_bytes(&data).unwrap()
}

/// The page once it tells of so many bytes: it is up to half a second old.
fn once(controller: &Controller, stored: usize, retrieved: usize) -> PoolStatistics {
    let told = |page: &PoolStatistics| (page.stored_bytes.get(), page.retrieved_bytes.get());
    wait_until("told", || told(&statistics(controller)) == (stored as u64, retrieved as u64));
    statistics(controller)
}

fn pool(folder: &Path, tier: u64) -> PoolDef {
    let pool = new_pool(folder, (4, 1), 2, 2 << 20);
    PoolDef { limits: PoolLimits { tier, read_ahead: 0, ..pool.limits }, ..pool }
}

/// Stores and retrieves `count` values of `len` bytes, eight at a time, and checks each.
fn exchange(controller: &Controller, len: usize, count: usize) {
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    for at in (0..count).step_by(8) {
        let at: Vec<usize> = (at..count.min(at + 8)).collect();
        let stores: Vec<_> = at
            .iter()
            .map(|i| kv.store(key(&format!("{len}-{i}")), value(*i as u8, len), StoreOptions::empty()))
            .collect();
        stores.into_iter().for_each(|store| block_on(store).0.unwrap());
        let retrieves: Vec<_> = at.iter().map(|i| kv.retrieve(key(&format!("{len}-{i}")), vec![0; len])).collect();
        for (i, retrieve) in at.iter().zip(retrieves) {
            let (found, got) = block_on(retrieve);
            assert!(found.unwrap().filled as usize == len && got == value(*i as u8, len), "value {i}");
        }
    }
}

/// The socket's bytes are received where the devices' writes take them from. What is copied beside that is what came in one receive
/// with the header of its PDU.
#[test]
fn large_values_are_not_copied() {
    for (tier, digests, cores) in [(0, DigestMode::Off, 1), (0, DigestMode::Require, 2), (64 << 20, DigestMode::Off, 2)]
    {
        let folder = tempfile::tempdir().unwrap();
        let pool = Some(pool(folder.path(), tier));
        let options = Options { pool, cores, pool_value: 2 << 20, ..Options::default() };
        let max_pdu = options.tcp.maxh2cdata as usize;
        let rig = Rig::start(options);
        let mut options = ConnectOptions::default();
        (options.header_digest, options.data_digest) = (digests, digests);
        let controller = connect(&rig, &options);
        let (mut stored, mut pdus) = (0, 0);
        for (len, count) in [(MIB, 16), (2 * MIB, 3), (128 << 10, 24)] {
            exchange(&controller, len, count);
            stored += len * count;
            pdus += len.div_ceil(max_pdu) * count;
        }
        let page = once(&controller, stored, stored);
        let (copied, most) = (page.store_copied_bytes.get(), pdus as u64 * SCRATCH_WITH_DATA);
        assert!(copied <= most, "{copied} bytes of {stored} copied, at most {most} came with headers");
        assert_eq!(page.retrieve_copied_bytes.get(), 0);
        assert_eq!(page.tier_hits.get() > 0, tier > 0);
        if tier == 0 {
            assert!(page.read_bytes.get() >= stored as u64, "all came from the devices");
        }
        block_on(controller.disconnect());
        rig.stop(std::time::Duration::from_secs(10));
    }
}

/// The count is of copies that happen: what is known to be copied shows, each time.
#[test]
fn what_is_copied_counts() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::start(Options { pool: Some(pool(folder.path(), 0)), pool_value: 2 << 20, ..Options::default() });
    let controller = connect(&rig, &ConnectOptions::default());
    let mut stored = 0;
    // Values in the capsule come with their headers, and are packed into a page.
    let small = 4096;
    exchange(&controller, small, 50);
    stored += 50 * small;
    let page = once(&controller, stored, stored);
    assert_eq!(page.store_copied_bytes.get(), 2 * stored as u64, "behind their header, and into the stripe");
    // The last, broken page of a large value shares a page with the trailer.
    let broken = MIB + 777;
    let before = page.store_copied_bytes.get();
    exchange(&controller, broken, 8);
    stored += 8 * broken;
    let page = once(&controller, stored, stored);
    let copied = page.store_copied_bytes.get() - before;
    // MAXH2CDATA makes two PDUs of each.
    let range = 8 * 777..=8 * (777 + 2 * SCRATCH_WITH_DATA);
    assert!(range.contains(&copied), "{copied} bytes are not in {range:?}");
    assert_eq!(page.retrieve_copied_bytes.get(), 0);
    block_on(controller.disconnect());
    rig.stop(std::time::Duration::from_secs(10));
}

#[test]
fn a_lost_device_costs_copies() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), 0);
    let devices = pool.devices.clone();
    let rig = Rig::start(Options { pool: Some(pool), pool_value: 2 << 20, ..Options::default() });
    let controller = connect(&rig, &ConnectOptions::default());
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    let names: Vec<_> = (0..6).map(|i| key(&format!("{i}"))).collect();
    // One at a time, so that each lies in all columns.
    for (i, name) in names.iter().enumerate() {
        block_on(kv.store(*name, value(i as u8, MIB), StoreOptions::empty())).0.unwrap();
    }
    std::fs::OpenOptions::new().write(true).open(&devices[1]).unwrap().set_len(0).unwrap();
    for (i, name) in names.iter().enumerate() {
        let (found, got) = block_on(kv.retrieve(*name, vec![0; MIB]));
        assert!(found.unwrap().filled as usize == MIB && got == value(i as u8, MIB), "value {i}");
    }
    let total = 6 * MIB;
    let page = once(&controller, total, total);
    let copied = page.retrieve_copied_bytes.get();
    // Which of five columns is wrong may have to be tried out.
    assert!(page.degraded_reads.get() > 0 && copied > 0 && copied <= 6 * 6 * 260 * 4096, "{copied}");
    block_on(controller.disconnect());
}
