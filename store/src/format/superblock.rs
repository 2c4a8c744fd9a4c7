//! The superblock of a volume: which devices it trusts, which namespaces it has, and whether it was stopped cleanly.
//!
//! Every live device has it twice. A change goes to the slot that `epoch` picks, so that the other slot still has the state
//! before; the whole one with the highest epoch counts.

use kvof_spec::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, Uuid, VERSION, is_whole, seal};

const WHAT: &str = "the superblock";
const MAGIC: [u8; 8] = *b"kvofSupr";

/// Bytes of a superblock.
pub const SUPERBLOCK_LEN: usize = 16 << 10;
/// Most devices of a pool.
pub const MEMBERS_MAX: usize = 64;
/// Most namespaces of a pool.
pub const NAMESPACES_MAX: usize = 256;
/// Most groups of a checkpoint.
pub const CHECKPOINT_GROUPS_MAX: usize = 256;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    shard: U16,
    members: U16,
    pool: Uuid,
    epoch: U64,
    sequence: U64,
    incarnation: U64,
    stripe: U64,
    clean: u8,
    rsvd0: [u8; 3],
    checkpoint_groups: U32,
    checkpoint_bytes: U64,
    rsvd1: [u8; 16],
    member: [RawMember; MEMBERS_MAX],
    namespace: [RawNamespace; NAMESPACES_MAX],
    checkpoint: [U32; CHECKPOINT_GROUPS_MAX],
    rsvd: [u8; SUPERBLOCK_LEN - 100 - MEMBERS_MAX * 32 - NAMESPACES_MAX * 40 - CHECKPOINT_GROUPS_MAX * 4],
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMember {
    device: Uuid,
    state: u8,
    rsvd: [u8; 3],
    rebuilt: U32,
    since: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawNamespace {
    uuid: Uuid,
    generation: U32,
    mode: u8,
    used: u8,
    rsvd: [u8; 2],
    reservation: U64,
    rsvd2: [u8; 8],
}

const _: () = assert!(size_of::<Raw>() == SUPERBLOCK_LEN && size_of::<RawMember>() == 32);
const _: () = assert!(size_of::<RawNamespace>() == 40);

/// What a volume knows of one of its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The device that has this place.
    pub device: Uuid,
    /// Whether what is on it counts.
    pub state: MemberState,
    /// The first incarnation of a group that is complete on it, for a device that is being filled again.
    pub since: u64,
}

/// Whether what is on a device counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// It has all that was committed.
    Live,
    /// It missed something, or is gone: nothing on it counts.
    Failed,
    /// It is being filled again: groups below `rebuilt` are complete on it, and so are those of incarnation `since` and later.
    Rebuilding {
        /// Groups that are complete, from group 0.
        rebuilt: u32,
    },
}

/// What a full namespace does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamespaceMode {
    /// It refuses: Capacity Exceeded. Nothing is ever dropped.
    Store,
    /// It drops what was stored first and not read since.
    Cache,
}

/// A namespace of the pool. Its slot is its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceRecord {
    /// UUID of the namespace (NIDT 3h).
    pub uuid: Uuid,
    /// Grows when the slot is used again: entries of an earlier generation do not count.
    pub generation: u32,
    /// What it does when it is full.
    pub mode: NamespaceMode,
    /// Whether the slot is in use; a free one keeps its generation.
    pub used: bool,
    /// Bytes that no other namespace can take from it.
    pub reservation: u64,
}

/// The state of a volume that its log does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The pool.
    pub pool: Uuid,
    /// The volume's shard.
    pub shard: u16,
    /// Grows with every change.
    pub epoch: u64,
    /// All sequence numbers in the log are below this if `clean`; else only a lower bound.
    pub sequence: u64,
    /// As `sequence`, of incarnations.
    pub incarnation: u64,
    /// As `sequence`, of stripe numbers.
    pub stripe: u64,
    /// Stopped cleanly: the checkpoint has everything.
    pub clean: bool,
    /// The groups that hold the checkpoint, in order.
    pub checkpoint: Vec<u32>,
    /// Bytes of the checkpoint.
    pub checkpoint_bytes: u64,
    /// The devices, by member number.
    pub members: Vec<Member>,
    /// The namespaces, by slot; at most [`NAMESPACES_MAX`].
    pub namespaces: Vec<NamespaceRecord>,
}

impl Superblock {
    /// Where it belongs: slot 0 or 1.
    #[must_use]
    pub const fn slot(&self) -> u64 {
        self.epoch % 2
    }

    /// Its [`SUPERBLOCK_LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Box::new(Raw::new_zeroed());
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.shard = self.shard.into();
        raw.members = (self.members.len() as u16).into();
        raw.pool = self.pool;
        raw.epoch = self.epoch.into();
        raw.sequence = self.sequence.into();
        raw.incarnation = self.incarnation.into();
        raw.stripe = self.stripe.into();
        raw.clean = self.clean.into();
        raw.checkpoint_groups = (self.checkpoint.len() as u32).into();
        raw.checkpoint_bytes = self.checkpoint_bytes.into();
        for (to, from) in raw.member.iter_mut().zip(&self.members) {
            let (state, rebuilt) = match from.state {
                MemberState::Live => (1, 0),
                MemberState::Failed => (2, 0),
                MemberState::Rebuilding { rebuilt } => (3, rebuilt),
            };
            *to = RawMember {
                device: from.device,
                state,
                rsvd: [0; 3],
                rebuilt: rebuilt.into(),
                since: from.since.into(),
            };
        }
        for (to, from) in raw.namespace.iter_mut().zip(&self.namespaces) {
            to.uuid = from.uuid;
            to.generation = from.generation.into();
            to.mode = match from.mode {
                NamespaceMode::Store => 1,
                NamespaceMode::Cache => 2,
            };
            to.used = from.used.into();
            to.reservation = from.reservation.into();
        }
        for (to, from) in raw.checkpoint.iter_mut().zip(&self.checkpoint) {
            *to = (*from).into();
        }
        let mut bytes = raw.as_bytes().to_vec();
        seal(&mut bytes);
        bytes
    }

    /// Decodes a superblock.
    ///
    /// # Errors
    /// [`FormatError`]: nothing there, another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let absent = FormatError::Absent { what: WHAT };
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| absent)?;
        if raw.magic != MAGIC {
            return Err(absent);
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Version { what: WHAT, version: raw.version.get() });
        }
        if !is_whole(raw.as_bytes()) {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let field = |field, value| FormatError::Field { what: WHAT, field, value };
        let count = usize::from(raw.members.get());
        let members = raw.member.get(..count).ok_or(field("the number of devices", count as u64))?;
        let members: Option<Vec<Member>> = members.iter().map(RawMember::decode).collect();
        let groups = raw.checkpoint_groups.get();
        let checkpoint =
            raw.checkpoint.get(..groups as usize).ok_or(field("the number of checkpoint groups", groups.into()))?;
        Ok(Self {
            pool: raw.pool,
            shard: raw.shard.get(),
            epoch: raw.epoch.get(),
            sequence: raw.sequence.get(),
            incarnation: raw.incarnation.get(),
            stripe: raw.stripe.get(),
            clean: raw.clean != 0,
            checkpoint: checkpoint.iter().map(|group| group.get()).collect(),
            checkpoint_bytes: raw.checkpoint_bytes.get(),
            members: members.ok_or(field("the state of a device", 0))?,
            namespaces: raw.namespace.iter().map(RawNamespace::decode).collect(),
        })
    }
}

impl RawMember {
    fn decode(&self) -> Option<Member> {
        let state = match self.state {
            1 => MemberState::Live,
            2 => MemberState::Failed,
            3 => MemberState::Rebuilding { rebuilt: self.rebuilt.get() },
            _ => return None,
        };
        Some(Member { device: self.device, state, since: self.since.get() })
    }
}

impl RawNamespace {
    fn decode(&self) -> NamespaceRecord {
        NamespaceRecord {
            uuid: self.uuid,
            generation: self.generation.get(),
            mode: if self.mode == 2 { NamespaceMode::Cache } else { NamespaceMode::Store },
            used: self.used != 0,
            reservation: self.reservation.get(),
        }
    }
}
