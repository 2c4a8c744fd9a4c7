//! The rules for namespaces.

use std::{
    collections::HashMap,
    fs,
    io::{self, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use kvof_kv::KvLimits;
use toml::Spanned;
use uuid::Uuid;

use super::{
    check::Checker,
    ids, pool,
    tables::NamespaceTable,
    value::{Kind, OptionValue, Size, Storage},
};
use crate::model::{Durability, KvStorageDef, NamespaceDef, NamespaceKindDef, NamespaceMode, PoolUse, StorageDef};

/// Longest key (KVKML): what the command format has room for.
const KEY_MAX: u16 = 16;
/// Optimal value granularity (NOVG), bytes: values start on pages.
const VALUE_GRANULARITY: u32 = 4096;
const BLOCK_DEFAULT: u32 = 4096;
const VALUE_DEFAULT: u32 = 2 << 20;

/// What must not occur twice in a whole configuration.
#[derive(Default)]
pub(super) struct Seen {
    /// Files, by what the system knows them by or by their path.
    files: HashMap<FileIdentity, String>,
    /// UUIDs and NGUIDs.
    ids: HashMap<[u8; 16], String>,
}

#[derive(PartialEq, Eq, Hash)]
enum FileIdentity {
    /// Device and inode of an existing file.
    Existing(u64, u64),
    /// Absolute path of one that does not exist yet.
    New(PathBuf),
}

impl Seen {
    /// Notes that `pool` has a device at `path`, which may be missing; who has it already, or why it cannot be one.
    pub(super) fn device(&mut self, path: &Path, pool: &str) -> Result<Option<String>, String> {
        let identity = match fs::metadata(path) {
            Err(_) => FileIdentity::New(path.to_owned()),
            Ok(_) => identify(path)?,
        };
        Ok(self.files.insert(identity, pool.to_owned()))
    }
}

/// Values of one namespace table that several rules need.
struct Context<'a> {
    key: &'a str,
    table: &'a NamespaceTable,
    span: Range<usize>,
    transfer: u32,
}

impl Checker<'_> {
    /// The namespaces of the subsystem `nqn`, whose key is `key`.
    pub(super) fn namespaces(
        &mut self,
        key: &str,
        nqn: &str,
        tables: &[Spanned<NamespaceTable>],
        transfer: u32,
        seen: &mut Seen,
    ) -> Vec<NamespaceDef> {
        let mut nsids = HashMap::new();
        let mut namespaces = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            let key = format!("{key}.namespace[{index}]");
            let context = Context { key: &key, table: table.get_ref(), span: table.span(), transfer };
            let nsid_key = format!("{key}.nsid");
            let nsid = self.required(&nsid_key, table.get_ref().nsid.as_ref(), &table.span());
            if let Some(nsid) = nsid {
                if matches!(*nsid.get_ref(), 0 | u32::MAX) {
                    self.fault(&nsid_key, nsid, "must be from 1 to 4294967294");
                } else if let Some(first) = nsids.insert(*nsid.get_ref(), index) {
                    let text = format!("namespace[{first}] of this subsystem has this NSID already; choose another");
                    self.fault(&nsid_key, nsid, text);
                }
            }
            let nsid = nsid.map_or(0, |nsid| *nsid.get_ref());
            let kind = self.kind(&context, seen);
            let uuid = self.uuid(&context, nqn, nsid, seen);
            let nguid = self.nguid(&context, nqn, nsid, seen);
            namespaces.extend(kind.map(|kind| NamespaceDef { nsid, uuid, nguid, kind }));
        }
        namespaces
    }

    fn kind(&mut self, context: &Context<'_>, seen: &mut Seen) -> Option<NamespaceKindDef> {
        let Context { key, table, span, .. } = context;
        let kind = self.required(&format!("{key}.kind"), table.kind.as_ref(), span)?;
        match kind.get_ref() {
            Kind::Kv => self.kv(context, seen),
            Kind::Nvm => self.nvm(context, seen),
        }
    }

    fn kv(&mut self, context: &Context<'_>, seen: &mut Seen) -> Option<NamespaceKindDef> {
        let Context { key, table, span, transfer } = context;
        self.only_for("kind = \"nvm\"", &format!("{key}.block_size"), table.block_size.as_ref());
        let size_key = format!("{key}.size");
        let size = self.required(&size_key, table.size.as_ref(), span);
        let bytes = size.map_or(u64::MAX, |size| size.get_ref().0);
        let kvvml = match &table.max_value_size {
            None => VALUE_DEFAULT.min(*transfer),
            Some(value) => {
                let value_key = format!("{key}.max_value_size");
                if value.get_ref().0 == 0 || value.get_ref().0 > u64::from(*transfer) {
                    let most = Size(u64::from(*transfer));
                    let text = format!(
                        "must be from 1B to limits.transfer ({most}), since one command transfers the whole value; \
                         raise limits.transfer for larger ones"
                    );
                    self.fault(&value_key, value, text);
                }
                u32::try_from(value.get_ref().0).unwrap_or(u32::MAX)
            }
        };
        if let Some(size) = size.filter(|_| bytes < u64::from(kvvml)) {
            let text = format!("must hold at least one value of max_value_size ({})", Size(u64::from(kvvml)));
            self.fault(&size_key, size, text);
        }
        let mnks = table.max_keys.as_ref().map_or(0, |keys| *keys.get_ref());
        let limits = KvLimits { kvkml: KEY_MAX, kvvml, mnks, novg: VALUE_GRANULARITY };
        let storage = self.kv_storage(context, (bytes, kvvml), seen)?;
        size?;
        Some(NamespaceKindDef::Kv { limits, size: bytes, storage })
    }

    fn kv_storage(
        &mut self,
        context: &Context<'_>,
        (size, kvvml): (u64, u32),
        seen: &mut Seen,
    ) -> Option<KvStorageDef> {
        let Context { key, table, span, .. } = context;
        let storage_key = format!("{key}.storage");
        let pool = match &table.storage {
            Some(storage) => match storage.get_ref() {
                Storage::Memory => {
                    let only = "storage in a pool";
                    self.only_for(only, &format!("{key}.mode"), table.mode.as_ref());
                    self.only_for(only, &format!("{key}.durability"), table.durability.as_ref());
                    self.only_for(only, &format!("{key}.reservation"), table.reservation.as_ref());
                    return Some(KvStorageDef::Memory);
                }
                Storage::Pool(name) if self.pools.iter().any(|pool| pool.name == *name) => name.clone(),
                Storage::Pool(_) => {
                    let text = format!("there is no such pool; {}", self.pools_there_are());
                    self.fault(&storage_key, storage, text);
                    return None;
                }
                Storage::Path(path) => {
                    let path = self.own_file(&storage_key, storage, path, key, seen);
                    let def = pool::of_file(path, size, kvvml, self.default_pool_limits());
                    let name = def.name.clone();
                    self.pools.push(def);
                    name
                }
            },
            None => {
                let named: Vec<_> = self.pools.iter().filter(|pool| pool.create.is_none()).collect();
                let [only] = named.as_slice() else {
                    let text = format!(
                        "missing; name a pool (\"pool:NAME\"), a file or device of its own, or \"memory\"; {}",
                        self.pools_there_are()
                    );
                    self.fault_at(&storage_key, span, String::new(), text);
                    return None;
                };
                only.name.clone()
            }
        };
        let reservation = table.reservation.as_ref().map_or(0, |size| size.get_ref().0);
        if let Some(given) = table.reservation.as_ref().filter(|_| reservation > size) {
            self.fault(&format!("{key}.reservation"), given, "cannot be more than size; lower it, or raise size");
        }
        let mode = table.mode.as_ref().map_or(NamespaceMode::Store, |mode| mode.get_ref().0);
        let durability = table.durability.as_ref().map_or(Durability::Media, |class| class.get_ref().0);
        Some(KvStorageDef::Pool(PoolUse { pool, mode, durability, reservation }))
    }

    /// The pools of the file, for messages.
    fn pools_there_are(&self) -> String {
        let names = self.pools.iter().filter(|pool| pool.create.is_none() && !pool.name.is_empty());
        let names: Vec<String> = names.map(|pool| format!("{:?}", pool.name)).collect();
        match names.as_slice() {
            [] => "the file has no [[pool]]".to_owned(),
            names => format!("there are {}", names.join(", ")),
        }
    }

    fn nvm(&mut self, context: &Context<'_>, seen: &mut Seen) -> Option<NamespaceKindDef> {
        let Context { key, table, span, .. } = context;
        let only = "kind = \"kv\"";
        self.only_for(only, &format!("{key}.max_value_size"), table.max_value_size.as_ref());
        self.only_for(only, &format!("{key}.max_keys"), table.max_keys.as_ref());
        self.only_for(only, &format!("{key}.mode"), table.mode.as_ref());
        self.only_for(only, &format!("{key}.durability"), table.durability.as_ref());
        self.only_for(only, &format!("{key}.reservation"), table.reservation.as_ref());
        let storage = self.nvm_storage(context, seen);
        let block_size = match &table.block_size {
            None => BLOCK_DEFAULT,
            Some(size) => {
                let bytes = size.get_ref().0;
                if !matches!(bytes, 512 | 4096) {
                    self.fault(&format!("{key}.block_size"), size, "must be 512 or 4096 bytes");
                    return None;
                }
                u32::try_from(bytes).unwrap_or(BLOCK_DEFAULT)
            }
        };
        let storage = storage?;
        let size_key = format!("{key}.size");
        if let Some(size) = &table.size {
            let bytes = size.get_ref().0;
            if bytes == 0 || !bytes.is_multiple_of(u64::from(block_size)) {
                let text = format!("must be a multiple of block_size ({block_size} bytes) and not 0");
                self.fault(&size_key, size, text);
            }
            return Some(NamespaceKindDef::Nvm { block_size, size: bytes, storage });
        }
        let StorageDef::File { path } = &storage else {
            self.required(&size_key, table.size.as_ref(), span);
            return None;
        };
        match file_length(path) {
            Ok(length) if length >= u64::from(block_size) => {
                let size = length - length % u64::from(block_size);
                Some(NamespaceKindDef::Nvm { block_size, size, storage })
            }
            Ok(_) => {
                let text = format!("missing, and {} is empty; give the size that it shall have", path.display());
                self.fault_at(&size_key, span, String::new(), text);
                None
            }
            Err(error) => {
                let text = format!("missing, and {} has none to take: {error}; give the size", path.display());
                self.fault_at(&size_key, span, String::new(), text);
                None
            }
        }
    }

    fn nvm_storage(&mut self, context: &Context<'_>, seen: &mut Seen) -> Option<StorageDef> {
        let Context { key, table, span, .. } = context;
        let storage_key = format!("{key}.storage");
        let storage = self.required(&storage_key, table.storage.as_ref(), span)?;
        match storage.get_ref() {
            Storage::Memory => Some(StorageDef::Memory),
            Storage::Path(path) => {
                let path = self.own_file(&storage_key, storage, path, key, seen);
                Some(StorageDef::File { path })
            }
            Storage::Pool(_) => {
                self.fault(
                    &storage_key,
                    storage,
                    "only KV namespaces lie in pools; name a file, a device or \"memory\"",
                );
                None
            }
        }
    }

    /// Notes that an option is out of place that only a namespace with `what` has.
    fn only_for<T: OptionValue>(&mut self, what: &str, option: &str, value: Option<&Spanned<T>>) {
        if let Some(value) = value {
            self.fault(option, value, format!("only a namespace of {what} has this option; remove it"));
        }
    }

    /// The whole path of a file or device that a namespace has for itself.
    fn own_file(
        &mut self,
        key: &str,
        storage: &Spanned<Storage>,
        path: &Path,
        namespace: &str,
        seen: &mut Seen,
    ) -> PathBuf {
        let path = self.world.folder.join(path);
        match identify(&path) {
            Ok(identity) => {
                if let Some(first) = seen.files.insert(identity, namespace.to_owned()) {
                    let text =
                        format!("{first} uses this file already; two namespaces would destroy each other's data");
                    self.fault(key, storage, text);
                }
            }
            Err(text) => self.fault(key, storage, text),
        }
        path
    }

    fn uuid(&mut self, context: &Context<'_>, nqn: &str, nsid: u32, seen: &mut Seen) -> [u8; 16] {
        let Some(text) = &context.table.uuid else { return ids::namespace_uuid(nqn, nsid) };
        let key = format!("{}.uuid", context.key);
        match Uuid::try_parse(text.get_ref()) {
            Ok(uuid) if !uuid.is_nil() => self.unique(&key, text, uuid.into_bytes(), seen),
            _ => {
                self.fault(&key, text, "must be a UUID such as \"00112233-4455-4677-8899-aabbccddeeff\", not all zero");
                [0; 16]
            }
        }
    }

    fn nguid(&mut self, context: &Context<'_>, nqn: &str, nsid: u32, seen: &mut Seen) -> [u8; 16] {
        let Some(text) = &context.table.nguid else { return ids::namespace_nguid(nqn, nsid) };
        let key = format!("{}.nguid", context.key);
        let digits = text.get_ref().len() == 32 && text.get_ref().bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text.get_ref(), 16) {
            Ok(nguid) if digits && nguid != 0 => self.unique(&key, text, nguid.to_be_bytes(), seen),
            _ => {
                self.fault(&key, text, "must have 32 hexadecimal digits, not all zero");
                [0; 16]
            }
        }
    }

    fn unique(&mut self, key: &str, text: &Spanned<String>, id: [u8; 16], seen: &mut Seen) -> [u8; 16] {
        if let Some(first) = seen.ids.insert(id, key.to_owned()) {
            self.fault(key, text, format!("{first} is the same; hosts ignore namespaces with equal identifiers"));
        }
        id
    }
}

/// What tells the file at `path` from others, or why nothing can be stored there.
fn identify(path: &Path) -> Result<FileIdentity, String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(FileIdentity::Existing(metadata.dev(), metadata.ino())),
        // Two nodes may name one device.
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(FileIdentity::Existing(u64::MAX, metadata.rdev())),
        Ok(_) => Err(format!("{} is neither a file nor a block device; name one of these", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match (fs::canonicalize(folder), path.file_name()) {
                (Ok(folder), Some(name)) => Ok(FileIdentity::New(folder.join(name))),
                _ => Err(format!("there is no folder {}; make it, or name another", folder.display())),
            }
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Bytes of a file or block device.
fn file_length(path: &Path) -> io::Result<u64> {
    // The length that the file system tells of a device is 0; its end tells the truth.
    fs::File::open(path)?.seek(SeekFrom::End(0))
}
