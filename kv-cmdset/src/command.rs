//! Commands: from the fields of a submission queue entry to a checked operation.
//!
//! Reserved fields and option bits without a meaning are ignored, as hosts in the field set some of them.

use bitflags::bitflags;
use kvof_spec::{KvOpcode, SglDescriptor, Sqe, Status};

use crate::Key;

/// The fields of a Key Value I/O command, as they are in the submission queue entry and not yet checked (KV section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KvCommand {
    /// Opcode.
    pub opcode: KvOpcode,
    /// Namespace identifier.
    pub nsid: u32,
    /// Key bytes 0 to 7 (CDW2, CDW3) and 8 to 15 (CDW14, CDW15). Those at and after `key_len` have no meaning.
    pub key: [u8; 16],
    /// Key length in bytes (CDW11 bits 7:0), not 0's based.
    pub key_len: u8,
    /// Store or Retrieve options (CDW11 bits 15:8); reserved in the other commands.
    pub options: u8,
    /// CDW10, bytes: value size (Store) or host buffer size (Retrieve, List); reserved in Delete and Exist.
    pub size: u32,
    /// CDW11 bits 31:16, reserved.
    pub cdw11_upper: u16,
    /// CDW12, reserved.
    pub cdw12: u32,
    /// CDW13, reserved.
    pub cdw13: u32,
}

bitflags! {
    /// Options of Store (CDW11 bits 15:8).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct StoreOptions: u8 {
        /// SIKE: store only if the key exists, otherwise KV Key Does Not Exist.
        const MUST_EXIST = 1 << 0;
        /// SINKE: store only if the key does not exist, otherwise Key Exists.
        const MUST_NOT_EXIST = 1 << 1;
        /// The controller shall not compress the value.
        const NO_COMPRESS = 1 << 2;
    }

    /// Options of Retrieve (CDW11 bits 15:8).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct RetrieveOptions: u8 {
        /// Return the value without decompressing it.
        const RAW = 1 << 0;
    }
}

/// What a namespace's KV format allows (KV Format data structure, see [`crate::KvFormat`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvLimits {
    /// KVKML: longest key, bytes, 1 to 16.
    pub kvkml: u16,
    /// KVVML: longest value, bytes.
    pub kvvml: u32,
    /// MNKS: most keys, 0 for no stated maximum.
    pub mnks: u32,
    /// NOVG: optimal value granularity, bytes.
    pub novg: u32,
}

/// A checked operation: what remains to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvOp {
    /// Store `size` bytes under `key`.
    Store {
        /// The key.
        key: Key,
        /// Conditions and hints; no unknown bits.
        options: StoreOptions,
        /// Value size in bytes, at most KVVML.
        size: u32,
    },
    /// Read the value of `key`.
    Retrieve {
        /// The key.
        key: Key,
        /// Without decompression.
        raw: bool,
        /// Host buffer size in bytes; the value is truncated to it.
        buffer: u32,
    },
    /// Remove `key`.
    Delete {
        /// The key.
        key: Key,
    },
    /// Ask whether `key` exists.
    Exist {
        /// The key.
        key: Key,
    },
    /// List keys.
    List {
        /// Where to start; `None` for the first key.
        start: Option<Key>,
        /// Host buffer size in bytes, at least 4.
        buffer: u32,
    },
}

/// Smallest buffer of a List command, bytes: its count of keys.
pub const LIST_BUFFER_MIN: u32 = 4;

impl KvCommand {
    /// A command for `key`; options, size and reserved fields are zero.
    #[must_use]
    pub fn for_key(opcode: KvOpcode, nsid: u32, key: &Key) -> Self {
        // A key has at most 16 bytes.
        #[expect(clippy::cast_possible_truncation, reason = "1 to 16")]
        let key_len = key.len() as u8;
        Self { opcode, nsid, key: key.padded(), key_len, ..Self::default() }
    }

    /// Store: `size` is the value's length in bytes.
    #[must_use]
    pub fn store(nsid: u32, key: &Key, options: StoreOptions, size: u32) -> Self {
        Self { options: options.bits(), size, ..Self::for_key(KvOpcode::STORE, nsid, key) }
    }

    /// Retrieve into a buffer of `buffer` bytes; 0 asks for the length alone.
    #[must_use]
    pub fn retrieve(nsid: u32, key: &Key, options: RetrieveOptions, buffer: u32) -> Self {
        Self { options: options.bits(), size: buffer, ..Self::for_key(KvOpcode::RETRIEVE, nsid, key) }
    }

    /// Delete.
    #[must_use]
    pub fn delete(nsid: u32, key: &Key) -> Self {
        Self::for_key(KvOpcode::DELETE, nsid, key)
    }

    /// Exist.
    #[must_use]
    pub fn exist(nsid: u32, key: &Key) -> Self {
        Self::for_key(KvOpcode::EXIST, nsid, key)
    }

    /// List from `start` (`None`: from the first key) into a buffer of `buffer` bytes.
    #[must_use]
    pub fn list(nsid: u32, start: Option<&Key>, buffer: u32) -> Self {
        let command = match start {
            Some(key) => Self::for_key(KvOpcode::LIST, nsid, key),
            None => Self { opcode: KvOpcode::LIST, nsid, ..Self::default() },
        };
        Self { size: buffer, ..command }
    }

    /// The fields of `sqe`.
    #[must_use]
    pub fn from_sqe(sqe: &Sqe) -> Self {
        let [k0, k1, k2, k3] = sqe.cdw2.to_bytes();
        let [k4, k5, k6, k7] = sqe.cdw3.to_bytes();
        let [k8, k9, k10, k11] = sqe.cdw14.to_bytes();
        let [k12, k13, k14, k15] = sqe.cdw15.to_bytes();
        let [key_len, options, u0, u1] = sqe.cdw11.to_bytes();
        Self {
            opcode: KvOpcode(sqe.opcode),
            nsid: sqe.nsid.get(),
            key: [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15],
            key_len,
            options,
            size: sqe.cdw10.get(),
            cdw11_upper: u16::from_le_bytes([u0, u1]),
            cdw12: sqe.cdw12.get(),
            cdw13: sqe.cdw13.get(),
        }
    }

    /// The submission queue entry with these fields, `sgl` as its data pointer, PSDT 01b and command identifier 0.
    #[must_use]
    pub fn to_sqe(&self, sgl: SglDescriptor) -> Sqe {
        let [cdw2, cdw3, cdw14, cdw15] = self.key_dwords();
        let mut sqe = Sqe::new(self.opcode);
        sqe.nsid = self.nsid.into();
        sqe.cdw2 = cdw2.into();
        sqe.cdw3 = cdw3.into();
        sqe.sgl1 = sgl;
        sqe.cdw10 = self.size.into();
        sqe.cdw11 = self.cdw11().into();
        sqe.cdw12 = self.cdw12.into();
        sqe.cdw13 = self.cdw13.into();
        sqe.cdw14 = cdw14.into();
        sqe.cdw15 = cdw15.into();
        sqe
    }

    /// The key as CDW2, CDW3, CDW14 and CDW15: `key[0]` is bits 7:0 of CDW2.
    #[must_use]
    pub const fn key_dwords(&self) -> [u32; 4] {
        let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15] = self.key;
        [
            u32::from_le_bytes([k0, k1, k2, k3]),
            u32::from_le_bytes([k4, k5, k6, k7]),
            u32::from_le_bytes([k8, k9, k10, k11]),
            u32::from_le_bytes([k12, k13, k14, k15]),
        ]
    }

    /// CDW11: key length, options and the reserved upper half.
    #[must_use]
    pub const fn cdw11(&self) -> u32 {
        let [u0, u1] = self.cdw11_upper.to_le_bytes();
        u32::from_le_bytes([self.key_len, self.options, u0, u1])
    }

    /// Checks everything that can be checked without the store or the data, in this order, and says what to do.
    ///
    /// The namespace identifier is not checked: whoever found the namespace has done that.
    ///
    /// # Errors
    /// 1. an opcode other than the five: Invalid Command Opcode;
    /// 2. key length 0 (not List): Invalid Key Size;
    /// 3. key length above 16: Invalid Key Size for Store, Invalid Field in Command for the others;
    /// 4. key length above KVKML: Invalid Key Size;
    /// 5. Store of more than KVVML bytes: Invalid Value Size;
    /// 6. List buffer below 4 bytes: Invalid Field in Command.
    ///
    /// None has DNR set: that is for the layer that completes the command to add.
    pub fn validate(&self, limits: &KvLimits) -> Result<KvOp, Status> {
        match self.opcode {
            KvOpcode::STORE => {
                let key = self.required_key(limits)?;
                if self.size > limits.kvvml {
                    return Err(Status::INVALID_VALUE_SIZE);
                }
                Ok(KvOp::Store { key, options: StoreOptions::from_bits_truncate(self.options), size: self.size })
            }
            KvOpcode::RETRIEVE => {
                let raw = RetrieveOptions::from_bits_truncate(self.options).contains(RetrieveOptions::RAW);
                Ok(KvOp::Retrieve { key: self.required_key(limits)?, raw, buffer: self.size })
            }
            KvOpcode::DELETE => Ok(KvOp::Delete { key: self.required_key(limits)? }),
            KvOpcode::EXIST => Ok(KvOp::Exist { key: self.required_key(limits)? }),
            KvOpcode::LIST => {
                let start = self.key(limits)?;
                if self.size < LIST_BUFFER_MIN {
                    return Err(Status::INVALID_FIELD);
                }
                Ok(KvOp::List { start, buffer: self.size })
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    fn required_key(&self, limits: &KvLimits) -> Result<Key, Status> {
        self.key(limits)?.ok_or(Status::INVALID_KEY_SIZE)
    }

    /// The bytes that the command names as a key, whatever the command and the limits; `None` if their number is that of no key.
    #[must_use]
    pub fn any_key(&self) -> Option<Key> {
        Key::new(self.key.get(..usize::from(self.key_len))?).ok()
    }

    /// The key, or `None` if its length is 0.
    fn key(&self, limits: &KvLimits) -> Result<Option<Key>, Status> {
        if self.key_len == 0 {
            return Ok(None);
        }
        let Some(key) = self.any_key() else {
            return Err(if self.opcode == KvOpcode::STORE { Status::INVALID_KEY_SIZE } else { Status::INVALID_FIELD });
        };
        if u16::from(self.key_len) > limits.kvkml {
            return Err(Status::INVALID_KEY_SIZE);
        }
        Ok(Some(key))
    }
}

impl KvOp {
    /// Most bytes that the command moves, by its own fields (CDW10): from the host for Store, to the host for Retrieve
    /// and List, 0 for Delete and Exist.
    #[must_use]
    pub const fn max_transfer(&self) -> u32 {
        match *self {
            Self::Store { size, .. } => size,
            Self::Retrieve { buffer, .. } | Self::List { buffer, .. } => buffer,
            Self::Delete { .. } | Self::Exist { .. } => 0,
        }
    }

    /// Checks the length of the host's data buffer (its SGL), in bytes, against CDW10. A longer one is legal: only the
    /// first CDW10 bytes are used.
    ///
    /// # Errors
    /// Data SGL Length Invalid if the buffer is shorter than CDW10 says.
    pub const fn check_data_length(&self, sgl_length: u32) -> Result<(), Status> {
        if sgl_length < self.max_transfer() { Err(Status::DATA_SGL_LENGTH_INVALID) } else { Ok(()) }
    }
}
