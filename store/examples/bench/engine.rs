//! The engine alone: one volume over files, driven by one thread, without network and target.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kvof_io::{EventLoopConfig, PoolConfig, SharedBuf};
use kvof_kv::{Key, KvLimits, KvOutcome, KvRequest, KvResult, OpId, StoreOptions};
use kvof_store::{
    device::driver::UringDriver,
    ec::Profile,
    format::{NamespaceMode, Uuid},
    pool::{FormatOptions, PoolDevices},
    usage::Usage,
    volume::{Durability, NamespaceSpec, Volume, VolumeConfig, VolumeStats},
};

use crate::report::Turn;

/// The only namespace.
const NAMESPACE: Uuid = *b"kvof bench engin";

/// Files of a pool, all of their bytes written once, so that no later write allocates space.
pub(crate) struct Files {
    pub(crate) paths: Vec<PathBuf>,
}

impl Files {
    pub(crate) fn create(folder: &Path, devices: usize, bytes: u64) -> Result<Self> {
        let paths: Vec<PathBuf> = (0..devices).map(|number| folder.join(format!("device{number}.img"))).collect();
        let page = vec![0xa5; 4 << 20];
        for path in &paths {
            let file = std::fs::File::create(path)?;
            for offset in (0..bytes).step_by(page.len()) {
                let len = (bytes - offset).min(page.len() as u64) as usize;
                std::os::unix::fs::FileExt::write_all_at(&file, page.get(..len).unwrap_or(&page), offset)?;
            }
            file.sync_all()?;
        }
        Ok(Self { paths })
    }

    /// A new pool on the files.
    pub(crate) fn format(&self, profile: &str, segment: Option<u64>) -> Result<()> {
        let profile: Profile = profile.parse()?;
        let options = FormatOptions {
            profile: Some(profile),
            shards: Some(1),
            segment,
            name: "bench".to_owned(),
            force: true,
            ..FormatOptions::default()
        };
        kvof_store::pool::format(&self.paths, &options)?;
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                eprintln!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// An open volume.
pub(crate) struct Engine {
    volume: Volume,
    driver: UringDriver,
    devices: PoolDevices,
    slot: u16,
    buffers: kvof_io::Pool,
}

/// What opening took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) elapsed: Duration,
    pub(crate) keys: u64,
    pub(crate) read: u64,
}

/// What to do with value number `0`…
#[derive(Clone, Copy)]
pub(crate) enum Op {
    Store { number: u64, len: u32 },
    Retrieve { number: u64, len: u32 },
}

/// How the bytes of a value come into the engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// They are there, as a transport leaves them. What fio does with its buffers, too.
    InPlace,
    /// They are copied from elsewhere, as the other stores do.
    Copied,
}

impl Engine {
    pub(crate) fn open(files: &[PathBuf], durability: Durability, index_memory: u64) -> Result<(Self, Opened)> {
        let started = Instant::now();
        let mut devices = PoolDevices::open(files)?;
        let label = devices.label().clone();
        let buffers = kvof_io::Pool::new(PoolConfig::new(256 << 20));
        let config = VolumeConfig {
            pool: label.pool,
            secret: label.secret,
            geometry: label.geometry,
            shard: 0,
            buffers: buffers.clone(),
            scratch: 256 << 20,
            index_memory,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 1,
            scrub_rate: 0,
        };
        let mut read = 0;
        let uuids = devices.uuids();
        let mut volume = Volume::open(config, &uuids, &mut devices, &mut |progress| read = progress.read)?;
        let elapsed = started.elapsed();
        let keys = volume.stats().keys;
        let limits = KvLimits { kvkml: 16, kvvml: 2 << 20, mnks: 0, novg: 0 };
        let slot = volume.attach(NamespaceSpec {
            uuid: NAMESPACE,
            mode: NamespaceMode::Store,
            durability,
            limits,
            usage: Usage::new(1 << 50, 0),
            reservation: 0,
        })?;
        let driver = UringDriver::new(devices.files(), EventLoopConfig::default())?;
        let engine = Self { volume, driver, devices, slot, buffers };
        Ok((engine, Opened { elapsed, keys, read }))
    }

    /// Does the operations, `depth` of them in flight, and checks each answer.
    pub(crate) fn run(&mut self, depth: usize, fill: Fill, mut ops: impl Iterator<Item = Op>) -> Result<Turn> {
        let source: Vec<u8> = if fill == Fill::Copied { vec![0x5a; 4 << 20] } else { Vec::new() };
        let before = self.volume.stats();
        let began = Instant::now();
        let mut turn = Turn::default();
        let mut in_flight = 0;
        let mut waiting = None;
        let mut expected = std::collections::HashMap::with_capacity(depth);
        loop {
            while in_flight < depth {
                let Some(op) = waiting.take().or_else(|| ops.next()) else { break };
                let Some((request, number, len)) = self.request(op, &source)? else {
                    // No memory until something completes.
                    waiting = Some(op);
                    break;
                };
                expected.insert(turn.ops, (number, len));
                self.volume.submit(self.slot, OpId(turn.ops), request);
                turn.ops += 1;
                turn.bytes += u64::from(len);
                in_flight += 1;
            }
            if in_flight == 0 {
                ensure!(waiting.is_none(), "not even one value fits into memory");
                break;
            }
            self.pump(Duration::from_secs(1))?;
            while let Some((id, result)) = self.volume.poll() {
                let (number, len) = expected.remove(&id.0).context("an answer that nobody waits for")?;
                check(number, len, &result)?;
                in_flight -= 1;
            }
            ensure!(began.elapsed() < Duration::from_secs(120), "{in_flight} operations are not answered");
        }
        turn.elapsed = began.elapsed();
        let after = self.volume.stats();
        turn.device_bytes = (after.written_bytes - before.written_bytes) + (after.read_bytes - before.read_bytes);
        Ok(turn)
    }

    /// What was stored is on the medium.
    pub(crate) fn flush(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.volume.flush(OpId(u64::MAX));
        loop {
            self.pump(Duration::from_secs(1))?;
            match self.volume.poll() {
                Some((OpId(u64::MAX), Ok(_))) => return Ok(began.elapsed()),
                Some((id, result)) => bail!("operation {} ended with {result:?} instead of a flush", id.0),
                None => ensure!(began.elapsed() < Duration::from_secs(60), "the flush is not answered"),
            }
        }
    }

    fn pump(&mut self, timeout: Duration) -> Result<()> {
        Ok(self.driver.pump(&mut self.volume, timeout)?)
    }

    pub(crate) fn stats(&self) -> VolumeStats {
        self.volume.stats()
    }

    /// A device stops answering.
    pub(crate) fn lose(&mut self, member: u16) -> Result<()> {
        self.volume.device_failed(member, "taken out for this measurement");
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        while !self.volume.is_idle() {
            self.pump(Duration::from_millis(10))?;
            ensure!(began.elapsed() < Duration::from_secs(60), "the volume does not come to rest");
        }
        Ok(())
    }

    /// A clean stop.
    pub(crate) fn close(mut self) -> Result<()> {
        self.volume.drain();
        self.settle()?;
        self.volume.close(&mut self.devices)?;
        Ok(())
    }

    fn request(&self, op: Op, source: &[u8]) -> Result<Option<(KvRequest<kvof_io::PoolBuf>, u64, u32)>> {
        Ok(Some(match op {
            Op::Store { number, len } => {
                let Some(mut value) = self.buffers.alloc(len as usize) else { return Ok(None) };
                if let Some(source) = source.get(..len as usize) {
                    value.copy_from_slice(source);
                }
                for (to, from) in value.iter_mut().zip(number.to_le_bytes()) {
                    *to = from;
                }
                (KvRequest::Store { key: key(number)?, options: StoreOptions::empty(), value }, number, len)
            }
            Op::Retrieve { number, len } => (KvRequest::Retrieve { key: key(number)?, raw: false }, number, len),
        }))
    }
}

/// Sixteen bytes that spread over the key space.
fn key(number: u64) -> Result<Key> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Ok(Key::new(&bytes)?)
}

fn check(number: u64, len: u32, result: &KvResult<SharedBuf>) -> Result<()> {
    match result {
        Ok(KvOutcome::Stored) => Ok(()),
        Ok(KvOutcome::Retrieved(value)) => {
            let same = value.iter().zip(number.to_le_bytes()).all(|(is, was)| *is == was);
            ensure!(value.len() == len as usize && same, "value {number} came back altered");
            Ok(())
        }
        other => bail!("value {number}: {other:?}"),
    }
}
