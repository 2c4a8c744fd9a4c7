//! The flash engine: one volume of a 4+1 pool on devices in memory. What the devices do is not counted; checksums and parity
//! are.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvof_io::{Pool, PoolBuf, PoolConfig, SharedBuf};
use kvof_kv::{KvLimits, KvOutcome, KvRequest, KvResult, OpId, StoreOptions};
use kvof_store::{
    device::{DeviceDone, memory::MemoryDevices, standalone::write_first_superblocks},
    ec::Profile,
    format::{NamespaceMode, Secret},
    geometry::Geometry,
    usage::Usage,
    volume::{Durability, NamespaceSpec, Volume, VolumeConfig},
};

use super::{Operation, Scattered, Scene, key};
use crate::measure::{aside, counted};

const K4: u32 = 4 << 10;
const M1: u32 = 1 << 20;
/// Values to retrieve from and to replace, of 4 KiB and of 1 MiB.
const KEYS: u64 = 2048;
const LARGE_KEYS: u64 = 16;
/// Values that are stored together while filling.
const TOGETHER: u64 = 16;
const SEGMENT_PAGES: u32 = 1024;
const SEGMENTS: u32 = 64;

pub(super) fn operations() -> Vec<Operation> {
    use Kind::{Exist, Retrieve, Store};
    macro_rules! scene {
        ($kind:expr, $len:expr, $tier:expr) => {
            |operation| Ok(Box::new(Engine::new($kind, $len, operation.batch, $tier)?))
        };
    }
    let few = (4, 16);
    let many = (4, 64);
    vec![
        Operation::new("engine/store-4k/1", 1, many, scene!(Store, K4, 0)),
        Operation::new("engine/store-4k/32", 32, few, scene!(Store, K4, 0)),
        Operation::new("engine/store-1m/1", 1, few, scene!(Store, M1, 0)),
        Operation::new("engine/store-1m/8", 8, (1, 4), scene!(Store, M1, 0)),
        Operation::new("engine/retrieve-4k/1", 1, many, scene!(Retrieve, K4, 0)),
        Operation::new("engine/retrieve-4k/32", 32, few, scene!(Retrieve, K4, 0)),
        Operation::new("engine/retrieve-1m/1", 1, few, scene!(Retrieve, M1, 0)),
        Operation::new("engine/retrieve-4k-tier/32", 32, few, scene!(Retrieve, K4, 64 << 20)),
        Operation::new("engine/retrieve-1m-tier/1", 1, many, scene!(Retrieve, M1, 64 << 20)),
        Operation::new("engine/exist/32", 32, few, scene!(Exist, K4, 0)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Store,
    Retrieve,
    Exist,
}

struct Engine {
    kind: Kind,
    len: u32,
    batch: u64,
    volume: Volume,
    slot: u16,
    devices: MemoryDevices,
    buffers: Pool,
    scattered: Scattered,
    time: Duration,
}

impl Engine {
    fn new(kind: Kind, len: u32, batch: u64, tier: u64) -> Result<Self> {
        let profile = Profile::new(4, 1)?;
        let members = u16::from(profile.width());
        let buffers = Pool::new(PoolConfig { limit: 256 << 20, shards: 1 });
        let config = VolumeConfig {
            pool: [7; 16],
            secret: Secret([9; 16]),
            geometry: Geometry::new(profile, members, 1, SEGMENT_PAGES, SEGMENTS)?,
            shard: 0,
            buffers: buffers.clone(),
            scratch: 64 << 20,
            index_memory: 16 << 20,
            tier,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let ids: Vec<[u8; 16]> = (0..members).map(|n| [n as u8 + 1; 16]).collect();
        let mut devices = MemoryDevices::new(members, config.geometry.device_bytes());
        write_first_superblocks(&config, &ids, &mut devices)?;
        let present: Vec<_> = ids.into_iter().map(Some).collect();
        let mut volume = Volume::open(config, &present, &mut devices, &mut |_| {})?;
        let slot = volume.attach(NamespaceSpec {
            uuid: [5; 16],
            mode: NamespaceMode::Store,
            durability: Durability::Media,
            limits: KvLimits { kvkml: 16, kvvml: 2 << 20, mnks: 0, novg: 4096 },
            usage: Usage::new(1 << 30, 0),
            reservation: 0,
        })?;
        let mut engine = Self {
            kind,
            len,
            batch,
            volume,
            slot,
            devices,
            buffers,
            scattered: Scattered::new(),
            time: Duration::ZERO,
        };
        for first in (0..engine.keys()).step_by(TOGETHER as usize) {
            let requests = (first..first + TOGETHER).map(|number| engine.store(number)).collect::<Result<Vec<_>>>()?;
            engine.run(requests)?;
        }
        if tier > 0 {
            // Once more, so that the tier has all of them.
            for number in 0..engine.keys() {
                engine.run(vec![KvRequest::Retrieve { key: key(number), raw: false }])?;
            }
        }
        Ok(engine)
    }

    const fn keys(&self) -> u64 {
        if self.len == M1 { LARGE_KEYS } else { KEYS }
    }

    fn store(&self, number: u64) -> Result<KvRequest<PoolBuf>> {
        let mut value = self.buffers.alloc(self.len as usize).context("the pool is empty")?;
        value.fill(number as u8);
        Ok(KvRequest::Store { key: key(number), options: StoreOptions::empty(), value })
    }

    fn run(&mut self, requests: Vec<KvRequest<PoolBuf>>) -> Result<()> {
        let Self { volume, devices, slot, time, .. } = self;
        let wanted = requests.len();
        let mut results = Vec::with_capacity(wanted);
        let mut answers: Vec<(u64, DeviceDone)> = Vec::with_capacity(1024);
        let mut requests = (0..).map(OpId).zip(requests);
        counted(&mut || {
            for (id, request) in requests.by_ref() {
                volume.submit(*slot, id, request);
            }
            loop {
                while let Some(request) = volume.poll_device() {
                    let mut request = Some(request);
                    aside(&mut || answers.extend(request.take().map(|r| (r.token, devices.execute(r)))));
                }
                while let Some(result) = volume.poll() {
                    let mut result = Some(result);
                    aside(&mut || results.extend(result.take()));
                }
                if answers.is_empty() {
                    break;
                }
                for (token, done) in answers.drain(..) {
                    volume.handle_device(token, done);
                }
            }
        });
        *time += Duration::from_millis(1);
        volume.handle_time(*time);
        ensure!(results.len() == wanted, "{} of {wanted} requests are answered", results.len());
        results.iter().try_for_each(|(_, result)| check(result, self.len))
    }
}

impl Scene for Engine {
    fn turn(&mut self) -> Result<()> {
        let mut numbers = std::collections::BTreeSet::new();
        while (numbers.len() as u64) < self.batch {
            numbers.insert(self.scattered.next(self.keys()));
        }
        let requests = numbers
            .into_iter()
            .map(|number| match self.kind {
                Kind::Store => self.store(number),
                Kind::Retrieve => Ok(KvRequest::Retrieve { key: key(number), raw: false }),
                Kind::Exist => Ok(KvRequest::Exist { key: key(number) }),
            })
            .collect::<Result<Vec<_>>>()?;
        self.run(requests)
    }
}

fn check(result: &KvResult<SharedBuf>, len: u32) -> Result<()> {
    match result {
        Ok(KvOutcome::Stored) => Ok(()),
        Ok(KvOutcome::Retrieved(value)) if value.len() == len as usize => Ok(()),
        Ok(KvOutcome::Exists { len: found }) if *found == len => Ok(()),
        other => bail!("a request ended with {other:?}"),
    }
}
