//! Both copies of a label, and the superblocks that tell which device a member has.

use kvof_io::DiskFile;

use super::{PoolError, io::read_exact};
use crate::{
    device::BlockIo,
    format::{
        FormatError, Label, Member, MemberState, NAMESPACES_MAX, NamespaceMode, NamespaceRecord, PAGE, SUPERBLOCK_LEN,
        Superblock, Uuid,
    },
    geometry::Geometry,
};

/// Most places that are looked at for the second copy of a label when nothing says where it is: a step of 1 MiB each.
const SEARCH_MAX: u64 = 8192;
const STEP: u64 = 1 << 20;

/// A whole label, and what is wrong with one of its copies.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) label: Label,
    /// The copy to write again: where, and what it has instead.
    pub(super) damaged: Option<(u64, PoolError)>,
}

/// The label at `offset`.
pub(super) fn read_copy(file: &DiskFile, offset: u64) -> Result<Label, PoolError> {
    let mut page = super::io::buffer(PAGE)?;
    let failed = |source| PoolError::Io { path: file.path().to_owned(), what: "read the label of", source };
    read_exact(file, offset, &mut page).map_err(failed)?;
    Label::decode(&page).map_err(|source| match source {
        FormatError::Version { version, .. } => PoolError::Version { path: file.path().to_owned(), version },
        source => PoolError::Structure { path: file.path().to_owned(), source },
    })
}

/// The label of a device, from whichever copy is whole. `geometry` is that of its pool, if another device has told it.
///
/// # Errors
/// What the first copy has, if no copy is whole.
pub(super) fn read(file: &DiskFile, geometry: Option<&Geometry>) -> Result<Found, PoolError> {
    match read_copy(file, 0) {
        Ok(label) => {
            let second = label.geometry.second_label();
            let damaged = match read_copy(file, second) {
                Ok(copy) if copy == label => None,
                Ok(_) => {
                    let source = FormatError::Elsewhere { what: "the second label", field: "contents" };
                    Some((second, PoolError::Structure { path: file.path().to_owned(), source }))
                }
                Err(error) => Some((second, error)),
            };
            Ok(Found { label, damaged })
        }
        Err(error @ PoolError::Version { .. }) => Err(error),
        Err(error) => {
            let places = match geometry {
                Some(geometry) => vec![geometry.second_label()],
                None => {
                    let last = file.len().saturating_sub(PAGE as u64) / STEP;
                    (1..=last).rev().take(SEARCH_MAX as usize).map(|step| step * STEP).collect()
                }
            };
            let found = places.into_iter().find_map(|at| {
                // A copy that stands where it belongs, not a picture of a label in somebody's data.
                let label = read_copy(file, at).ok()?;
                (label.geometry.second_label() == at).then_some(label)
            });
            match found {
                Some(label) => Ok(Found { label, damaged: Some((0, error)) }),
                None => Err(error),
            }
        }
    }
}

/// The superblock of a volume that counts, and where it was found.
#[derive(Clone, Debug)]
pub struct NewestSuperblock {
    /// The superblock.
    pub superblock: Superblock,
    /// The member that has it.
    pub member: u16,
    /// The slot.
    pub slot: u64,
}

/// The whole superblock with the highest epoch of a shard, of those that are present and of this pool.
#[must_use]
pub fn newest_superblock(
    io: &mut dyn BlockIo,
    geometry: &Geometry,
    pool: Uuid,
    shard: u16,
) -> Option<NewestSuperblock> {
    let mut newest: Option<NewestSuperblock> = None;
    let mut bytes = vec![0; SUPERBLOCK_LEN];
    for member in 0..io.members() {
        for slot in 0..2 {
            if !io.is_present(member) || io.read(member, geometry.superblock(shard, slot), &mut bytes).is_err() {
                continue;
            }
            let Ok(superblock) = Superblock::decode(&bytes) else { continue };
            let fits = superblock.pool == pool
                && superblock.shard == shard
                && superblock.members.len() == usize::from(geometry.members());
            if fits && newest.as_ref().is_none_or(|newest| newest.superblock.epoch < superblock.epoch) {
                newest = Some(NewestSuperblock { superblock, member, slot });
            }
        }
    }
    newest
}

/// The superblock of a volume that has never held anything.
#[must_use]
pub fn first_superblock(pool: Uuid, shard: u16, devices: &[Uuid]) -> Superblock {
    let free =
        NamespaceRecord { uuid: [0; 16], generation: 0, mode: NamespaceMode::Store, used: false, reservation: 0 };
    Superblock {
        pool,
        shard,
        epoch: 1,
        sequence: 1,
        incarnation: 1,
        stripe: 1,
        // Not clean: the first start looks at every group, and finds nothing in what the devices held before.
        clean: false,
        checkpoint: Vec::new(),
        checkpoint_bytes: 0,
        members: devices.iter().map(|device| Member { device: *device, state: MemberState::Live, since: 0 }).collect(),
        namespaces: vec![free; NAMESPACES_MAX],
    }
}
