//! What is measured: keys of a KV namespace, or stretches of blocks of an NVM namespace, by their number.

use kvof_initiator::{Buffer, Controller, Key, KvNamespace, NvmNamespace, Result, StoreOptions};

/// A namespace with a working set of numbered values.
pub(super) enum Device {
    Kv { kv: KvNamespace, keys: Vec<Key> },
    Nvm { nvm: NvmNamespace, values: u64, blocks_a_value: u64 },
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Write,
    Read,
    Exist,
    Delete,
}

/// What came of a command that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// There is a value of the buffer's length, in the buffer if it was read, or nothing more to say.
    Yes,
    /// The key does not exist.
    Missing,
    /// The value has this length instead of the buffer's.
    OtherLength(u32),
}

/// Bytes of a key of the benchmark: the prefix of the run and 8 hexadecimal digits.
pub(super) const KEY_LEN: u16 = 16;

impl Device {
    /// `count` keys that begin with `prefix`.
    pub(super) fn kv(kv: KvNamespace, prefix: &str, count: u32) -> Self {
        let keys = (0..count).filter_map(|i| Key::new(format!("{prefix}{i:08x}").as_bytes()).ok()).collect();
        Self::Kv { kv, keys }
    }

    /// `count` stretches of `size` bytes, which are whole blocks, from the first block on.
    pub(super) fn nvm(nvm: NvmNamespace, size: u32, count: u32) -> Self {
        let blocks_a_value = u64::from(size / nvm.block_size().max(1));
        Self::Nvm { nvm, values: count.into(), blocks_a_value }
    }

    /// Values of the working set.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Kv { keys, .. } => keys.len() as u64,
            Self::Nvm { values, .. } => *values,
        }
    }

    /// The controller that it belongs to.
    pub(super) const fn controller(&self) -> &Controller {
        match self {
            Self::Kv { kv, .. } => kv.controller(),
            Self::Nvm { nvm, .. } => nvm.controller(),
        }
    }

    /// How value number `index` is called.
    pub(super) fn name(&self, index: u64) -> String {
        match self {
            Self::Kv { keys, .. } => match usize::try_from(index).ok().and_then(|i| keys.get(i)) {
                Some(key) => format!("key {key}"),
                None => format!("key number {index}"),
            },
            Self::Nvm { blocks_a_value, .. } => format!("block {}", index * blocks_a_value),
        }
    }

    /// Executes one command on value number `index`, which is in the working set; the buffer comes back.
    pub(super) async fn execute(&self, verb: Verb, index: u64, buffer: Buffer) -> (Result<Found>, Buffer) {
        match self {
            Self::Kv { kv, keys } => {
                let key = keys[index as usize];
                let (result, buffer) = match verb {
                    Verb::Write => {
                        let (result, buffer) = kv.store(key, buffer, StoreOptions::empty()).await;
                        (result.map(|()| Found::Yes), buffer)
                    }
                    Verb::Read => {
                        let (result, buffer) = kv.retrieve(key, buffer).await;
                        let len = buffer.len();
                        let found = result.map(|found| match found.value_len {
                            n if n as usize == len => Found::Yes,
                            n => Found::OtherLength(n),
                        });
                        (found, buffer)
                    }
                    Verb::Exist => {
                        let found = kv.exist(key).await;
                        (found.map(|found| if found { Found::Yes } else { Found::Missing }), buffer)
                    }
                    Verb::Delete => (kv.delete(key).await.map(|()| Found::Yes), buffer),
                };
                match result {
                    Err(error) if error.is_key_missing() => (Ok(Found::Missing), buffer),
                    result => (result, buffer),
                }
            }
            Self::Nvm { nvm, blocks_a_value, .. } => {
                let slba = index * blocks_a_value;
                let (result, buffer) = match verb {
                    Verb::Write => nvm.write(slba, buffer).await,
                    Verb::Read => nvm.read(slba, buffer).await,
                    Verb::Exist | Verb::Delete => (Ok(()), buffer),
                };
                (result.map(|()| Found::Yes), buffer)
            }
        }
    }
}
