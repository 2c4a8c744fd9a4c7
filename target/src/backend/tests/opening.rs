//! What is wrong with a file is said when it is opened: which file, what was found, what to do.

use std::{fs, path::Path, sync::Arc};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::KvLimits;

use super::rig::{LIMITS, Rig, file, kv_namespace, new_pool, new_pool_limits, nvm_namespace, pooled};
use crate::{
    backend::{OpenError, OpenPool, PoolId, open},
    model::{Durability, FileDef, KvStorageDef, Namespace, NamespaceMode, PoolDef, PoolUse, StorageDef},
};

const SIZE: u64 = 1 << 20;

fn error(ns: &Arc<Namespace>) -> (OpenError, String) {
    let pool = Pool::new(PoolConfig { limit: 4 << 20, shards: 1 });
    let error = open(ns, 2, &pool).expect_err("must not open");
    let text = error.to_string();
    assert!(text.starts_with("namespace 1: "), "{text}");
    (error, text)
}

#[test]
fn paths_that_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &Path| nvm_namespace(4096, SIZE, file(path));
    let (missing, text) = error(&at(&dir.path().join("no/such/file")));
    assert!(matches!(missing, OpenError::Missing { .. }) && text.contains("no/such/file"), "{text}");
    let (missing, text) = error(&at(Path::new("/dev/kvof-no-such-device")));
    assert!(matches!(missing, OpenError::Missing { .. }) && text.contains("lsblk"), "{text}");
    assert!(!Path::new("/dev/kvof-no-such-device").exists());
    let (_, text) = error(&at(dir.path()));
    assert!(text.contains("name a file"), "{text}");
    let (_, text) = error(&at(Path::new("/dev/null")));
    assert!(text.contains("neither a regular file nor a block device"), "{text}");
}

#[test]
fn sizes_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let (_, text) = error(&nvm_namespace(4096, SIZE + 512, file(&path)));
    assert!(text.contains("1048576 and 1052672"), "{text}");
    assert!(matches!(error(&nvm_namespace(512, 0, StorageDef::Memory)).0, OpenError::Size { .. }));
}

#[test]
fn a_file_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let ns = nvm_namespace(4096, SIZE, file(&path));
    let first = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
    let (_, text) = error(&ns);
    assert!(text.contains("in use"), "{text}");
    drop(first);
}

fn pool_error(def: &PoolDef) -> String {
    let pool = Pool::new(PoolConfig { limit: 4 << 20, shards: 1 });
    let opened = OpenPool::open(def, PoolId(1), 1, &pool, &mut |_| {});
    opened.map(|_| ()).expect_err("must not open").to_string()
}

#[test]
fn a_file_of_its_own_is_made_into_a_pool_only_where_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let of_file = |path: &Path| {
        let create = Some(FileDef { bytes: 32 << 20, segment: 1 << 20 });
        let limits = new_pool_limits();
        PoolDef { name: format!("file:{}", path.display()), devices: vec![path.to_owned()], create, limits }
    };
    // A file system's mark lies at 1080 of an ext4, at 65600 of a btrfs; the last is nobody's.
    for at in [0, 1080, 65_600, 70_000] {
        let mut foreign = vec![0; SIZE as usize];
        foreign[at] = 0x53;
        fs::write(&path, &foreign).unwrap();
        let text = pool_error(&of_file(&path));
        assert!(text.contains("/f") && text.contains("empty the file"), "{text}");
        assert!(fs::read(&path).unwrap() == foreign, "nothing of somebody else's may be touched");
    }
    fs::remove_file(&path).unwrap();
    let text = pool_error(&of_file(&dir.path().join("no/such/file")));
    assert!(text.contains("no/such/file") && text.contains("directory does not exist"), "{text}");
    let text = pool_error(&of_file(Path::new("/dev/kvof-no-such-device")));
    assert!(text.contains("lsblk") && !Path::new("/dev/kvof-no-such-device").exists(), "{text}");
    let text = pool_error(&of_file(dir.path()));
    assert!(text.contains("directory"), "{text}");
    // Empty, though it has a length; and then what it was made into.
    fs::write(&path, vec![0; SIZE as usize]).unwrap();
    let ns = || {
        let pool = of_file(&path).name;
        let used = PoolUse { pool, mode: NamespaceMode::Store, durability: Durability::Media, reservation: 0 };
        kv_namespace(LIMITS, SIZE, KvStorageDef::Pool(used))
    };
    for _ in 0..2 {
        let rig = Rig::in_pool(ns(), &of_file(&path), 1, 1);
        let text = pool_error(&of_file(&path));
        assert!(text.contains("in use"), "{text}");
        rig.close();
    }
    let mut def = ns().def.clone();
    def.uuid = [0x33; 16];
    let pool = Pool::new(PoolConfig { limit: 4 << 20, shards: 1 });
    let mut opened = OpenPool::open(&of_file(&path), PoolId(1), 1, &pool, &mut |_| {}).unwrap();
    assert_eq!(opened.namespaces().into_iter().collect::<Vec<_>>(), [([0x11; 16], (0, 0))]);
    let text = opened.attach(&Namespace::new(def, ns().backend)).expect_err("another namespace").to_string();
    let named = text.contains("11111111-1111-1111-1111-111111111111") && text.contains("33333333-3333");
    assert!(named && text.contains("/f"), "{text}");
}

#[test]
fn a_pool_of_devices_that_are_none_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let devices: Vec<_> = ["a", "b"].iter().map(|name| dir.path().join(name)).collect();
    devices.iter().for_each(|path| fs::write(path, vec![0; 4 << 20]).unwrap());
    let def = PoolDef { name: "flash".into(), devices: devices.clone(), create: None, limits: new_pool_limits() };
    let text = pool_error(&def);
    let command = format!("`kvof format --name flash {} {}`", devices[0].display(), devices[1].display());
    assert!(text.starts_with("pool flash: ") && text.contains(&command), "{text}");
    fs::remove_file(&devices[0]).unwrap();
    let text = pool_error(&PoolDef { name: "it's flash".into(), ..def });
    assert!(text.contains("`kvof format --name 'it'\\''s flash' --size SIZE /"), "{text}");
}

#[test]
fn too_many_missing_devices_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let def = new_pool(dir.path(), (2, 1), 1);
    let ns = || kv_namespace(LIMITS, SIZE, pooled(Durability::Media));
    fs::rename(&def.devices[0], dir.path().join("away0")).unwrap();
    // One may be missing.
    Rig::in_pool(ns(), &def, 1, 1).close();
    fs::rename(&def.devices[2], dir.path().join("away2")).unwrap();
    let text = pool_error(&def);
    assert!(text.contains("pool p") && text.contains("1 of 3 devices") && text.contains("at least 2"), "{text}");
}

#[test]
fn a_namespace_that_its_pool_cannot_have_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let def = new_pool(dir.path(), (1, 0), 1);
    let pool = Pool::new(PoolConfig { limit: 4 << 20, shards: 1 });
    let mut opened = OpenPool::open(&def, PoolId(1), 1, &pool, &mut |_| {}).unwrap();
    let large = kv_namespace(KvLimits { kvvml: 64 << 20, ..LIMITS }, 1 << 30, pooled(Durability::Media));
    let text = opened.attach(&large).expect_err("too large").to_string();
    assert!(text.starts_with("namespace 1: pool p: ") && text.contains("max_value_size"), "{text}");
    let elsewhere = opened.attach(&kv_namespace(LIMITS, SIZE, KvStorageDef::Memory));
    assert!(matches!(elsewhere, Err(OpenError::NoPool { .. })));
}
