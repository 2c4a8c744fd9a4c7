//! Identify data of the command set (CNS 05h and 06h with CSI 1) and its commands' effects (Log Page 05h, CSI 1).

use kvof_spec::log::CommandEffects;
use kvof_spec::{KvOpcode, U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{KvLimits, KvUsage};

/// One KV format (KV section 4.1.5.1, "KV Format Data Structure").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KvFormat {
    /// KVKML: longest key, bytes, at most 16.
    pub kvkml: U16,
    /// Reserved.
    pub rsvd2: u8,
    /// AFO: additional format options; bits 1:0 are the format's relative performance, 0 the best.
    pub afo: u8,
    /// KVVML: longest value, bytes.
    pub kvvml: U32,
    /// MNKS: most keys, 0 if there is no stated maximum.
    pub mnks: U32,
    /// Reserved.
    pub rsvd12: U32,
}

/// How many formats a namespace can list.
pub const KV_FORMATS_MAX: usize = 16;

/// Identify Namespace for the Key Value command set: CNS 05h, CSI 1 (KV section 4.1.5.1).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyKvNamespace {
    /// NSZE: namespace size, bytes.
    pub nsze: U64,
    /// Reserved.
    pub rsvd8: U64,
    /// NUSE: bytes in use.
    pub nuse: U64,
    /// NSFEAT: namespace features.
    pub nsfeat: u8,
    /// NKVF: number of KV formats, 0's based.
    pub nkvf: u8,
    /// NMIC: bit 0, several controllers may have the namespace attached.
    pub nmic: u8,
    /// RESCAP: reservation capabilities.
    pub rescap: u8,
    /// FPI: format progress.
    pub fpi: u8,
    /// KVFC: index of the current format in bits 3:0 (reserved before revision 1.3, where only format 0 is current).
    pub kvfc: u8,
    /// Reserved.
    pub rsvd30: U16,
    /// NOVG: optimal value granularity, bytes.
    pub novg: U32,
    /// ANAGRPID: ANA group.
    pub anagrpid: U32,
    /// Reserved.
    pub rsvd40: [u8; 3],
    /// NSATTR: bit 0, write protected.
    pub nsattr: u8,
    /// NVMSETID: NVM set.
    pub nvmsetid: U16,
    /// ENDGID: endurance group.
    pub endgid: U16,
    /// NGUID, zero if there is none.
    pub nguid: [u8; 16],
    /// EUI64, zero if there is none.
    pub eui64: [u8; 8],
    /// KVF: the formats.
    pub kvf: [KvFormat; KV_FORMATS_MAX],
    /// Reserved.
    pub rsvd328: [u8; 3512],
    /// Vendor specific.
    pub vs: [u8; 256],
}

/// Identify Controller for the Key Value command set: CNS 06h, CSI 1 (KV section 4.1.5.2).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyKvController {
    /// VER: revision of the command set specification, {tertiary u8, minor u8, major u16}; zero before revision 1.3, where
    /// the field is reserved.
    pub ver: U32,
    /// Reserved.
    pub rsvd4: [u8; 4092],
}

macro_rules! assert_layout {
    ($name:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == 1);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
        };
    };
}

assert_layout!(KvFormat, 16, kvkml @ 0, rsvd2 @ 2, afo @ 3, kvvml @ 4, mnks @ 8, rsvd12 @ 12);
assert_layout!(IdentifyKvNamespace, 4096,
    nsze @ 0, rsvd8 @ 8, nuse @ 16, nsfeat @ 24, nkvf @ 25, nmic @ 26, rescap @ 27, fpi @ 28, kvfc @ 29, rsvd30 @ 30,
    novg @ 32, anagrpid @ 36, rsvd40 @ 40, nsattr @ 43, nvmsetid @ 44, endgid @ 46, nguid @ 48, eui64 @ 64, kvf @ 72,
    rsvd328 @ 328, vs @ 3840);
assert_layout!(IdentifyKvController, 4096, ver @ 0, rsvd4 @ 4);

impl IdentifyKvNamespace {
    /// The data of a namespace with one format and no identifiers; the caller adds NMIC, NGUID and the like.
    #[must_use]
    pub fn new(limits: &KvLimits, usage: &KvUsage) -> Self {
        let format = KvFormat {
            kvkml: limits.kvkml.into(),
            kvvml: limits.kvvml.into(),
            mnks: limits.mnks.into(),
            ..KvFormat::default()
        };
        let mut data = Self::new_zeroed();
        data.nsze = usage.nsze.into();
        data.nuse = usage.nuse.into();
        data.novg = limits.novg.into();
        if let Some(first) = data.kvf.first_mut() {
            *first = format;
        }
        data
    }

    /// The current format: the one that KVFC names.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.kvf.get(usize::from(self.kvfc & 0x0f)).copied().unwrap_or_default()
    }

    /// The limits that hold for the namespace. A KVKML outside of 1 to 16, which no controller may report, is taken
    /// as 16.
    #[must_use]
    pub fn limits(&self) -> KvLimits {
        let format = self.format();
        let longest = 16;
        let kvkml = match format.kvkml.get() {
            len @ 1..=16 => len,
            _ => longest,
        };
        KvLimits { kvkml, kvvml: format.kvvml.get(), mnks: format.mnks.get(), novg: self.novg.get() }
    }

    /// The data that `bytes` start with; `None` if there are fewer than 4096.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Box<Self>> {
        let (data, _) = Self::ref_from_prefix(bytes).ok()?;
        Some(Box::new(*data))
    }
}

impl core::fmt::Debug for IdentifyKvNamespace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("IdentifyKvNamespace")
            .field("nsze", &self.nsze.get())
            .field("nuse", &self.nuse.get())
            .field("nkvf", &self.nkvf)
            .field("novg", &self.novg.get())
            .field("format", &self.format())
            .finish_non_exhaustive()
    }
}

impl IdentifyKvController {
    /// The data of a controller of this crate: VER zero, as in revision 1.0 of the command set.
    #[must_use]
    pub fn new() -> Self {
        Self::new_zeroed()
    }
}

impl Default for IdentifyKvController {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for IdentifyKvController {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("IdentifyKvController").field("ver", &self.ver.get()).finish_non_exhaustive()
    }
}

/// The I/O commands of this command set and their effects: the IOCS part of Log Page 05h with CSI 1 (Base section
/// 5.16.1.6). Every other entry is zero.
pub const COMMAND_EFFECTS: [(KvOpcode, CommandEffects); 5] = [
    (KvOpcode::STORE, WRITES),
    (KvOpcode::RETRIEVE, CommandEffects::CSUPP),
    (KvOpcode::LIST, CommandEffects::CSUPP),
    (KvOpcode::DELETE, WRITES),
    (KvOpcode::EXIST, CommandEffects::CSUPP),
];

/// Linux lets unprivileged programs use a command only if it has no effects beyond these.
const WRITES: CommandEffects = CommandEffects::CSUPP.union(CommandEffects::LBCC);
