//! What is wrong with a file is said when it is opened: which file, what was found, what to do.

use std::{fs, path::Path, sync::Arc};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::KvLimits;

use super::rig::{LIMITS, Rig, file, kv_namespace, nvm_namespace};
use crate::{
    backend::{OpenError, open},
    model::{Namespace, StorageDef},
};

const SIZE: u64 = 1 << 20;

fn error(ns: &Arc<Namespace>) -> (OpenError, String) {
    let pool = Pool::new(PoolConfig { limit: 4 << 20, shards: 1 });
    let error = open(ns, 2, &pool).expect_err("must not open");
    let text = error.to_string();
    assert!(text.starts_with("namespace 1: "), "{text}");
    (error, text)
}

fn both(path: &Path) -> [Arc<Namespace>; 2] {
    [kv_namespace(LIMITS, SIZE, file(path)), nvm_namespace(4096, SIZE, file(path))]
}

#[test]
fn paths_that_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    for ns in both(&dir.path().join("no/such/file")) {
        let (error, text) = error(&ns);
        assert!(matches!(error, OpenError::Missing { .. }) && text.contains("no/such/file"), "{text}");
    }
    for ns in both(Path::new("/dev/kvof-no-such-device")) {
        let (error, text) = error(&ns);
        assert!(matches!(error, OpenError::Missing { .. }) && text.contains("lsblk"), "{text}");
    }
    assert!(!Path::new("/dev/kvof-no-such-device").exists());
    for ns in both(dir.path()) {
        let (_, text) = error(&ns);
        assert!(text.contains("name a file"), "{text}");
    }
    for ns in both(Path::new("/dev/null")) {
        let (_, text) = error(&ns);
        assert!(text.contains("neither a regular file nor a block device"), "{text}");
    }
}

#[test]
fn sizes_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let (_, text) = error(&nvm_namespace(4096, SIZE + 512, file(&path)));
    assert!(text.contains("1048576 and 1052672"), "{text}");
    assert!(matches!(error(&nvm_namespace(512, 0, StorageDef::Memory)).0, OpenError::Size { .. }));
    assert!(matches!(error(&kv_namespace(LIMITS, SIZE + 1, file(&path))).0, OpenError::Size { .. }));
    let (_, text) = error(&kv_namespace(LIMITS, 4096, file(&path)));
    assert!(text.contains("at least 262144 are needed"), "{text}");
    let (_, text) = error(&kv_namespace(KvLimits { kvvml: 5 << 20, ..LIMITS }, SIZE, file(&path)));
    assert!(text.contains("KVVML"), "{text}");
}

#[test]
fn a_file_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    for ns in both(&path) {
        let first = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
        let (_, text) = error(&ns);
        assert!(text.contains("in use"), "{text}");
        drop(first);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn kv_files_know_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let ns = kv_namespace(LIMITS, SIZE, file(&path));
    // A file system's mark lies at 1080 of an ext4, at 65600 of a btrfs.
    for at in [0, 1080, 65_600] {
        let mut foreign = vec![0; SIZE as usize];
        foreign[at] = 0x53;
        fs::write(&path, &foreign).unwrap();
        let (_, text) = error(&ns);
        assert!(text.contains("holds other data"), "{text}");
        assert!(fs::read(&path).unwrap() == foreign, "nothing of somebody else's may be touched");
    }
    fs::remove_file(&path).unwrap();
    drop(Rig::new(Arc::clone(&ns), 1, 1).unwrap());
    let formatted = fs::read(&path).unwrap();

    let mut def = ns.def.clone();
    def.uuid = [0x33; 16];
    let (_, text) = error(&Namespace::new(def, ns.backend));
    let named = text.contains("11111111-1111-1111-1111-111111111111") && text.contains("33333333-3333");
    assert!(named, "{text}");

    let (_, text) = error(&kv_namespace(LIMITS, SIZE / 2, file(&path)));
    assert!(text.contains("can grow but not shrink"), "{text}");
    drop(Rig::new(kv_namespace(LIMITS, SIZE * 2, file(&path)), 1, 1).unwrap());
    assert!(matches!(error(&ns).0, OpenError::Format { .. }), "it has grown");

    let mut damaged = formatted.clone();
    damaged[20] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(error(&ns).1.contains("damaged"));
    damaged = formatted;
    damaged[8] = 9;
    fs::write(&path, &damaged).unwrap();
    assert!(error(&ns).1.contains("version 9"));
}
