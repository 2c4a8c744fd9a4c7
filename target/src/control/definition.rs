//! What a definition must satisfy to be served. The configuration checks more, and says where in its file; this is the
//! last door.

use std::collections::BTreeSet;

use kvof_spec::{Nqn, text};
use uuid::Uuid;

use crate::model::{NamespaceDef, NamespaceKindDef, SubsystemDef, TargetDef};

/// Why a target cannot be served as defined.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefError {
    /// Two ports have the same identifier.
    #[error("port identifier {portid} is given to two ports; give each its own")]
    DuplicatePort {
        /// PORTID.
        portid: u16,
    },
    /// Two subsystems have the same name.
    #[error("subsystem {nqn} is defined twice; give each its own NQN")]
    DuplicateSubsystem {
        /// Its NQN.
        nqn: Nqn,
    },
    /// A subsystem is named as the discovery service is.
    #[error("subsystem {nqn} has the name of the discovery service, which always exists; give it another NQN")]
    ReservedName {
        /// The NQN.
        nqn: Nqn,
    },
    /// Serial or model number does not fit its field.
    #[error("subsystem {nqn}: {field} {text:?}: {error}")]
    Text {
        /// Subsystem.
        nqn: Nqn,
        /// "serial number" or "model number".
        field: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        error: text::TextError,
    },
    /// A namespace identifier is not usable.
    #[error("subsystem {nqn}: NSID {nsid:#x} is reserved; use 1 to 0xfffffffe")]
    ReservedNsid {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
    },
    /// Two namespaces of a subsystem have the same identifier.
    #[error("subsystem {nqn}: NSID {nsid} is given to two namespaces; give each its own")]
    DuplicateNsid {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
    },
    /// Two namespaces have the same UUID or NGUID.
    #[error("subsystem {nqn}, NSID {nsid}: its {kind} is that of another namespace; hosts would ignore one of them")]
    DuplicateIdentifier {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
        /// "UUID" or "NGUID".
        kind: &'static str,
    },
    /// Two namespaces have the same storage.
    #[error("subsystem {nqn}, NSID {nsid}: {storage} holds another namespace; give each its own file")]
    SharedStorage {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
        /// The storage.
        storage: String,
    },
    /// Two pools have the same name.
    #[error("pool {name} is defined twice; give each its own name")]
    DuplicatePool {
        /// Its name.
        name: String,
    },
    /// A namespace lies in a pool that is not defined.
    #[error("subsystem {nqn}, NSID {nsid}: there is no pool {name}; define it, or name another")]
    UnknownPool {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
        /// The pool's name.
        name: String,
    },
    /// A block namespace has a geometry that no host can use.
    #[error(
        "subsystem {nqn}, NSID {nsid}: {size} bytes in blocks of {block_size}: blocks have 512 or 4096 bytes, and the \
         size is a multiple of that and not 0"
    )]
    Geometry {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
        /// Bytes of a block.
        block_size: u32,
        /// Bytes in all.
        size: u64,
    },
    /// A reload changes a namespace that is served.
    #[error("subsystem {nqn}, NSID {nsid}: a namespace cannot change while it is served; remove it first, or restart")]
    NamespaceChanged {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
    },
    /// A reload changes the names of a subsystem that is served.
    #[error("subsystem {nqn}: serial and model number cannot change while it is served; remove it first, or restart")]
    SubsystemChanged {
        /// Subsystem.
        nqn: Nqn,
    },
    /// A reload gives the storage of a namespace that it removes to another one.
    #[error("subsystem {nqn}, NSID {nsid}: {storage} is in use until the namespace that it holds now is removed")]
    StorageInUse {
        /// Subsystem.
        nqn: Nqn,
        /// NSID.
        nsid: u32,
        /// The storage.
        storage: String,
    },
    /// Another reload came in between.
    #[error("the target was changed by another reload in the meantime; try again")]
    Superseded,
}

/// Checks `def` as a whole.
pub(super) fn check(def: &TargetDef) -> Result<(), DefError> {
    let mut portids = BTreeSet::new();
    for port in &def.ports {
        if !portids.insert(port.portid) {
            return Err(DefError::DuplicatePort { portid: port.portid });
        }
    }
    let mut nqns = BTreeSet::new();
    let mut seen = Seen::default();
    for pool in &def.pools {
        if !seen.pools.insert(&pool.name) {
            return Err(DefError::DuplicatePool { name: pool.name.clone() });
        }
    }
    for subsystem in &def.subsystems {
        let nqn = || subsystem.nqn.clone();
        if subsystem.nqn.is_discovery() {
            return Err(DefError::ReservedName { nqn: nqn() });
        }
        if !nqns.insert(&subsystem.nqn) {
            return Err(DefError::DuplicateSubsystem { nqn: nqn() });
        }
        check_text::<20>(subsystem, "serial number", &subsystem.serial)?;
        check_text::<40>(subsystem, "model number", &subsystem.model)?;
        let mut nsids = BTreeSet::new();
        for ns in &subsystem.namespaces {
            if ns.nsid == 0 || ns.nsid == u32::MAX {
                return Err(DefError::ReservedNsid { nqn: nqn(), nsid: ns.nsid });
            }
            if !nsids.insert(ns.nsid) {
                return Err(DefError::DuplicateNsid { nqn: nqn(), nsid: ns.nsid });
            }
            seen.check(&subsystem.nqn, ns)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Seen<'a> {
    uuids: BTreeSet<[u8; 16]>,
    nguids: BTreeSet<[u8; 16]>,
    storage: BTreeSet<String>,
    pools: BTreeSet<&'a String>,
}

impl<'a> Seen<'a> {
    fn check(&mut self, nqn: &Nqn, ns: &'a NamespaceDef) -> Result<(), DefError> {
        let (nqn, nsid) = (nqn.clone(), ns.nsid);
        if ns.uuid != [0; 16] && !self.uuids.insert(ns.uuid) {
            return Err(DefError::DuplicateIdentifier { nqn, nsid, kind: "UUID" });
        }
        if ns.nguid != [0; 16] && !self.nguids.insert(ns.nguid) {
            return Err(DefError::DuplicateIdentifier { nqn, nsid, kind: "NGUID" });
        }
        if let Some(storage) = own_storage(ns)
            && !self.storage.insert(storage.clone())
        {
            return Err(DefError::SharedStorage { nqn, nsid, storage });
        }
        if let Some(pool) = ns.kind.pool()
            && !self.pools.contains(&pool.pool)
        {
            return Err(DefError::UnknownPool { nqn, nsid, name: pool.pool.clone() });
        }
        if let NamespaceKindDef::Nvm { block_size, size, .. } = ns.kind
            && (!matches!(block_size, 512 | 4096) || size == 0 || !size.is_multiple_of(block_size.into()))
        {
            return Err(DefError::Geometry { nqn, nsid, block_size, size });
        }
        Ok(())
    }
}

/// What no other namespace may have at the same time: a file, or a place in a pool.
pub(super) fn own_storage(ns: &NamespaceDef) -> Option<String> {
    let in_pool = || ns.kind.pool().map(|pool| format!("{} in pool {}", Uuid::from_bytes(ns.uuid), pool.pool));
    ns.kind.file().map(|path| path.display().to_string()).or_else(in_pool)
}

fn check_text<const N: usize>(subsystem: &SubsystemDef, field: &'static str, value: &str) -> Result<(), DefError> {
    match text::to_field::<N>(value) {
        Ok(_) => Ok(()),
        Err(error) => Err(DefError::Text { nqn: subsystem.nqn.clone(), field, text: value.into(), error }),
    }
}
