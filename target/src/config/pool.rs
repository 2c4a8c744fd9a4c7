//! The rules for pools.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::{
    check::Checker,
    namespace::Seen,
    tables::PoolTable,
    value::{OptionValue, Size},
};
use crate::model::{FileDef, PoolDef, PoolLimits};

/// Longest name of a pool, bytes.
const NAME_MAX: usize = 64;
/// What the name of a pool begins with that one namespace has for itself.
pub(super) const FILE: &str = "file:";
/// Most devices of a pool.
const DEVICES_MAX: usize = kvof_store::format::MEMBERS_MAX;
const INDEX_DEFAULT: u64 = 1 << 30;
const TIER_DEFAULT: u64 = 256 << 20;
const SCRATCH_MIN: u64 = 1 << 20;
/// Fewest bytes of an index that is worth having.
const INDEX_MIN: u64 = 1 << 20;
/// Smallest and largest segments, bytes.
const SEGMENT: (u64, u64) = (1 << 20, 1 << 30);
/// Groups beside those that the values of a file need: what cleaning and footers work with.
const SPARE_GROUPS: u64 = 12;

/// Bytes of memory that a pool may use beside `reactor.memory`.
pub(super) fn memory(pool: &PoolDef) -> u64 {
    let PoolLimits { index_memory, tier, scratch, .. } = pool.limits;
    index_memory.saturating_add(tier).saturating_add(scratch)
}

/// The pool of one device that a namespace has at `path` for itself: `size` bytes of keys and values, of at most `kvvml`
/// each.
pub(super) fn of_file(path: PathBuf, size: u64, kvvml: u32, limits: PoolLimits) -> PoolDef {
    // A group is one segment: it takes the longest value with its bookkeeping. Of a large file there are some hundreds, which
    // makes those that cleaning needs a small part.
    let longest = u64::from(kvvml).saturating_add(SEGMENT.0 / 4).next_power_of_two();
    let suits = (size / 256).clamp(1, SEGMENT.1 / 4).next_power_of_two();
    let segment = longest.max(suits).clamp(SEGMENT.0, SEGMENT.1);
    let room = size.saturating_add(size / 8).saturating_add(segment.saturating_mul(SPARE_GROUPS));
    let bytes = room.checked_next_multiple_of(SEGMENT.0).unwrap_or(room);
    let create = Some(FileDef { bytes, segment });
    PoolDef { name: format!("{FILE}{}", path.display()), devices: vec![path], create, limits }
}

impl Checker<'_> {
    pub(super) fn pools(&mut self, tables: &[Spanned<PoolTable>], seen: &mut Seen) -> Vec<PoolDef> {
        let mut pools: Vec<PoolDef> = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            let key = format!("pool[{index}]");
            let pool = table.get_ref();
            let name = self.required(&format!("{key}.name"), pool.name.as_ref(), &table.span());
            let name = name.map(|name| {
                let text = name.get_ref();
                if text.is_empty()
                    || text.len() > NAME_MAX
                    || text.starts_with(FILE)
                    || text.chars().any(char::is_control)
                {
                    let text =
                        format!("must have 1 to {NAME_MAX} bytes, no control characters, and not begin with {FILE:?}");
                    self.fault(&format!("{key}.name"), name, text);
                } else if let Some(first) = pools.iter().position(|pool| pool.name == *text) {
                    self.fault(
                        &format!("{key}.name"),
                        name,
                        format!("pool[{first}] has this name already; choose another"),
                    );
                }
                text.clone()
            });
            let devices_key = format!("{key}.devices");
            let devices = self.required(&devices_key, pool.devices.as_ref(), &table.span());
            let mut paths = Vec::new();
            if let Some(devices) = devices {
                if devices.get_ref().0.len() > DEVICES_MAX {
                    self.fault(&devices_key, devices, format!("a pool has at most {DEVICES_MAX} devices"));
                }
                for (at, path) in devices.get_ref().0.iter().enumerate() {
                    paths.push(self.device(&format!("{devices_key}[{at}]"), path, &key, seen));
                }
            }
            let limits = self.pool_limits(&key, pool);
            // What has no name is kept for its place: its problem has been noted.
            pools.push(PoolDef { name: name.unwrap_or_default(), devices: paths, create: None, limits });
        }
        pools
    }

    fn device(&mut self, key: &str, path: &Spanned<String>, pool: &str, seen: &mut Seen) -> PathBuf {
        if path.get_ref().is_empty() {
            self.fault(key, path, "no path; name a block device or a file");
        }
        let full = self.world.folder.join(Path::new(path.get_ref()));
        match seen.device(&full, pool) {
            Ok(None) => {}
            Ok(Some(first)) => self.fault(key, path, format!("{first} uses this device already; name it once")),
            Err(text) => self.fault(key, path, text),
        }
        full
    }

    fn pool_limits(&mut self, key: &str, table: &PoolTable) -> PoolLimits {
        let mut limits = self.default_pool_limits();
        for (name, given, least, place) in [
            ("index_memory", &table.index_memory, INDEX_MIN, &mut limits.index_memory),
            ("tier", &table.tier, 0, &mut limits.tier),
            ("scratch", &table.scratch, SCRATCH_MIN, &mut limits.scratch),
            ("read_ahead", &table.read_ahead, 0, &mut limits.read_ahead),
            ("rebuild_rate", &table.rebuild_rate, 0, &mut limits.rebuild_rate),
            ("scrub_rate", &table.scrub_rate, 0, &mut limits.scrub_rate),
        ] {
            let Some(size) = given else { continue };
            *place = size.get_ref().0;
            if *place < least {
                self.fault(&format!("{key}.{name}"), size, format!("must be at least {}", Size(least).to_toml()));
            }
        }
        limits
    }

    /// What a pool may use when its table does not say.
    pub(super) fn default_pool_limits(&self) -> PoolLimits {
        let table = PoolTable::default();
        let share =
            |most: u64, part: u64| self.world.machine.memory.map_or(most, |have| most.min((have / part) >> 20 << 20));
        PoolLimits {
            index_memory: share(INDEX_DEFAULT, 8).max(INDEX_MIN),
            tier: share(TIER_DEFAULT, 16),
            scratch: table.scratch().get_ref().0,
            read_ahead: table.read_ahead().get_ref().0,
            rebuild_rate: table.rebuild_rate().get_ref().0,
            scrub_rate: table.scrub_rate().get_ref().0,
        }
    }
}
