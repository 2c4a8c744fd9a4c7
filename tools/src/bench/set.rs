//! The working set: which namespace, how many values of a size, and under which keys.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use anyhow::Result;
use kvof_initiator::{Controller, Key, KvNamespace, NvmNamespace};

use super::{
    args::BenchArgs,
    device::{Device, KEY_LEN},
};
use crate::{
    connect::{open_kv, open_nvm},
    failure::{Exit, coded, usage},
    units::size as shown,
};

/// Most values and bytes of a working set whose size was not given.
const VALUES_MAX: u64 = 16_384;
const BYTES_MAX: u64 = 1 << 30;
/// Random prefixes that are tried.
const PREFIX_TRIES: u32 = 8;

/// A namespace, and the names of the values that may be stored there.
pub(super) enum WorkingSet {
    Kv { kv: KvNamespace, prefix: String },
    Nvm { nvm: NvmNamespace, max_transfer: u32 },
}

impl WorkingSet {
    pub(super) async fn open(controller: &Controller, args: &BenchArgs, is_nvm: bool) -> Result<Self> {
        if is_nvm {
            let nvm = open_nvm(controller, args.connection.nsid).await?;
            return Ok(Self::Nvm { nvm, max_transfer: controller.info()?.max_transfer });
        }
        let kv = open_kv(controller, args.connection.nsid).await?;
        if kv.limits().kvkml < KEY_LEN {
            let longest = kv.limits().kvkml;
            let reason = format!("namespace {} takes keys of {longest} bytes, and this needs {KEY_LEN}", kv.nsid());
            return Err(coded(Exit::Failed, reason));
        }
        let prefix = unused_prefix(&kv).await?;
        Ok(Self::Kv { kv, prefix })
    }

    pub(super) const fn nsid(&self) -> u32 {
        match self {
            Self::Kv { kv, .. } => kv.nsid(),
            Self::Nvm { nvm, .. } => nvm.nsid(),
        }
    }

    /// Checks that values of `size` bytes are possible, and gives how many there shall be.
    pub(super) fn check(&self, size: u32, asked: Option<u32>) -> Result<u32> {
        let (longest, room, most) = match self {
            Self::Kv { kv, .. } => {
                let (nsze, nuse) = kv.usage();
                let most = if kv.limits().mnks == 0 { u32::MAX } else { kv.limits().mnks };
                (kv.max_value_len(), nsze.saturating_sub(nuse) / 2, u64::from(most) / 2)
            }
            Self::Nvm { nvm, max_transfer } => {
                if size == 0 || !size.is_multiple_of(nvm.block_size()) {
                    let block = nvm.block_size();
                    return Err(usage(format!(
                        "{size} bytes are not whole blocks of {block} bytes; choose other --sizes"
                    )));
                }
                let bytes = nvm.blocks().saturating_mul(nvm.block_size().into());
                if asked.is_some_and(|keys| u64::from(keys) * u64::from(size) > bytes) {
                    return Err(usage(format!(
                        "--keys of {size} bytes do not fit the namespace, which has {}",
                        shown(bytes)
                    )));
                }
                (*max_transfer, bytes, u64::MAX)
            }
        };
        if size > longest {
            let longest = format!("{} ({longest} bytes)", shown(longest.into()));
            return Err(usage(format!("a command of namespace {} moves {longest}, not {size} bytes", self.nsid())));
        }
        let fits = room.min(BYTES_MAX) / u64::from(size.max(1));
        let count = asked.map_or_else(|| fits.min(most).min(VALUES_MAX), u64::from);
        u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            coded(Exit::Failed, format!("namespace {} has no room for values of {}", self.nsid(), shown(size.into())))
        })
    }

    /// `count` values of `size` bytes.
    pub(super) fn device(&self, size: u32, count: u32) -> Device {
        match self {
            Self::Kv { kv, prefix } => Device::kv(kv.clone(), prefix, count),
            Self::Nvm { nvm, .. } => Device::nvm(nvm.clone(), size, count),
        }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Kv { prefix, .. } => format!("keys {prefix}…"),
            Self::Nvm { nvm, .. } => format!("blocks of {}", shown(nvm.block_size().into())),
        }
    }
}

/// 8 bytes that no key begins with, as far as the first key can tell: there are 2^25 of them, all recognisable.
async fn unused_prefix(kv: &KvNamespace) -> Result<String> {
    for _ in 0..PREFIX_TRIES {
        let mut random = RandomState::new().build_hasher().finish();
        let mut prefix = "kvb".to_owned();
        for _ in 0..5 {
            prefix.extend(char::from_digit((random % 32) as u32, 32));
            random /= 32;
        }
        let first = Key::new(format!("{prefix}{:08x}", 0).as_bytes())?;
        if !kv.exist(first).await? {
            return Ok(prefix);
        }
    }
    Err(coded(
        Exit::Failed,
        "every random prefix is in use; delete what earlier runs have left: keys that begin with kvb",
    ))
}
