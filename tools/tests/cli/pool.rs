//! format, verify, dump and replace, on files; the values in them come from the engine.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use kvof_io::{EventLoopConfig, Pool, PoolConfig};
use kvof_kv::{Key, KvLimits, KvRequest, KvStore as _, OpId, StoreOptions};
use kvof_store::{
    device::{driver::UringDriver, standalone::Standalone},
    format::NamespaceMode,
    pool::PoolDevices,
    usage::Usage,
    verify::{Browser, Subject},
    volume::{Durability, NamespaceSpec, VolumeConfig},
};
use tempfile::TempDir;

use crate::support::{Ran, kvof, run};

const NAMESPACE: &str = "3b2e704f-e3fc-5677-a5a2-d84a46a0535c";

struct Rig {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Rig {
    fn new(devices: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let paths = (0..devices).map(|n| folder.path().join(format!("d{n}"))).collect();
        Self { folder, paths }
    }

    /// A pool on `devices` files of 64 MiB.
    fn formatted(devices: usize) -> Self {
        let rig = Self::new(devices);
        rig.kvof(&["format", "--size", "64MiB", "--shards", "1"], &rig.paths).prints();
        rig
    }

    /// Runs `kvof` with `args`, then these paths.
    fn kvof(&self, args: &[&str], paths: &[PathBuf]) -> Ran {
        let (command, options) = args.split_first().unwrap();
        run(kvof().arg(command).args(paths).args(options), b"")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Stores these values and stops cleanly.
    fn store(&self, values: &[(&str, usize)]) {
        let devices = PoolDevices::open(&self.paths).unwrap();
        let label = devices.label();
        let config = VolumeConfig {
            pool: label.pool,
            secret: label.secret,
            geometry: label.geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig::new(32 << 20)),
            scratch: 16 << 20,
            index_memory: 1 << 20,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let spec = NamespaceSpec {
            uuid: NAMESPACE.parse::<uuid::Uuid>().unwrap().into_bytes(),
            mode: NamespaceMode::Store,
            durability: Durability::Media,
            limits: KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 1 },
            usage: Usage::new(1 << 30, 0),
            reservation: 0,
        };
        let driver = UringDriver::new(devices.files(), EventLoopConfig::default()).unwrap();
        let mut store = Standalone::open(config, &devices.uuids(), driver, &spec, &mut |_| ()).unwrap();
        for (n, (key, len)) in values.iter().enumerate() {
            let mut value = store.reserve(*len as u32).unwrap();
            value.copy_from_slice(&bytes(key, *len));
            let key = Key::parse(key).unwrap();
            store.submit(OpId(n as u64), KvRequest::Store { key, options: StoreOptions::default(), value });
            loop {
                if let Some((_, result)) = store.poll() {
                    result.unwrap();
                    break;
                }
                store.pump(Duration::from_millis(100)).unwrap();
            }
        }
        // What was replaced is filled before the end.
        while store.volumes().any(|volume| volume.stats().rebuild.is_some()) {
            store.pump(Duration::from_millis(10)).unwrap();
        }
        store.close().unwrap();
    }

    /// The first byte of a value on its device.
    fn place_of(&self, key: &str) -> (PathBuf, u64) {
        let devices = PoolDevices::open_read_only(&self.paths).unwrap();
        let label = devices.label();
        let subject =
            Subject { pool: label.pool, secret: label.secret, geometry: label.geometry, devices: devices.uuids() };
        let mut io = devices.io().unwrap();
        let (group, entry) = Browser::new(&mut io, &subject, 0).unwrap().find(0, Key::parse(key).unwrap()).unwrap();
        let (column, row, byte) = label.geometry.resolve(entry.location);
        let path = devices.path(label.geometry.member(group, column)).unwrap().to_owned();
        (path, label.geometry.offset(0, group, column, row) + byte as u64)
    }
}

fn bytes(key: &str, len: usize) -> Vec<u8> {
    let seed = key.bytes().fold(7_u64, |sum, byte| sum * 31 + u64::from(byte));
    (0..len as u64).map(|n| (n.wrapping_mul(seed | 1) >> 7) as u8).collect()
}

fn damage(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x80], offset).unwrap();
}

#[test]
fn a_pool_is_made_shown_and_checked() {
    let rig = Rig::new(5);
    let text = rig.kvof(&["format", "--size", "64MiB", "--name", "rack 7", "--dry-run"], &rig.paths).prints();
    assert!(text.contains("4+1 on 5 devices, any one device may be lost"), "{text}");
    assert!(text.contains("240 MiB without parity") && text.contains("nothing was changed"), "{text}");
    assert!(!rig.paths[0].exists());
    let made = rig.kvof(&["format", "--size", "64MiB", "--name", "rack 7", "--json"], &rig.paths).json();
    assert_eq!((made["done"].as_bool(), made["pool"]["profile"].as_str()), (Some(true), Some("4+1")));
    assert_eq!(made["devices"].as_array().unwrap().len(), 5);
    assert_eq!(made["index_memory"][0]["value_bytes"], 65536);
    rig.kvof(&["format", "--size", "64MiB"], &rig.paths).fails(1, &["/d0", "rack 7", "--force"]);
    rig.kvof(&["format", "--size", "64MiB", "--force"], &rig.paths).prints();

    let text = rig.kvof(&["verify"], &rig.paths).prints();
    assert!(text.contains("everything is as it should be"), "{text}");
    let text = rig.kvof(&["dump"], &rig.paths).prints();
    assert!(text.contains("member 4   live") && text.contains("/d4"), "{text}");
}

#[test]
fn mistakes_are_usage_errors() {
    let rig = Rig::new(1);
    let folder = [rig.folder.path().to_owned()];
    rig.kvof(&["format"], &folder).fails(2, &["is a directory"]);
    rig.kvof(&["format"], &rig.paths).fails(2, &["/d0 does not exist", "--size"]);
    rig.kvof(&["format"], &[]).fails(2, &["PATH"]);
    rig.kvof(&["format", "--profile", "9"], &rig.paths).fails(2, &["9", "4+1"]);
    rig.kvof(&["format", "--size", "64MiB", "--profile", "2+1"], &rig.paths).fails(2, &["1 devices do not fit"]);
    rig.kvof(&["format", "--size", "1MiB"], &rig.paths).fails(1, &["/d0 has 1048576 bytes"]);
    for command in ["verify", "dump"] {
        rig.kvof(&[command], &rig.paths).fails(1, &["none of the devices", "/d0"]);
        rig.kvof(&[command], &folder).fails(2, &["is a directory"]);
    }
}

#[test]
fn damage_has_exit_codes() {
    let rig = Rig::formatted(5);
    rig.store(&[("small", 100), ("large", 500_000), ("medium", 20_000)]);
    let report = rig.kvof(&["verify", "--json"], &rig.paths).json();
    assert_eq!((report["result"].as_str(), report["records"].as_u64()), (Some("clean"), Some(3)));
    assert_eq!(report["value_bytes"], 520_100);

    let (path, offset) = rig.place_of("large");
    damage(&path, offset + 5000);
    let ran = rig.kvof(&["verify"], &rig.paths).exits(7);
    assert!(ran.out().contains("a scrub writes it again") && ran.out().contains("no value is lost"), "{}", ran.out());
    assert!(ran.out().contains(&path.display().to_string()), "{}", ran.out());
    rig.kvof(&["verify", "--quick"], &rig.paths).exits(0);
    // A device is missing on top: that is one column too many for this value, not for the others.
    let other = rig.paths.iter().find(|other| **other != path).unwrap();
    fs::rename(other, rig.path("away")).unwrap();
    let ran = rig.kvof(&["verify", "--json"], &rig.paths).exits(6);
    let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    let lost: Vec<_> = report["findings"].as_array().unwrap().iter().filter(|f| f["severity"] == "loss").collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(
        (lost[0]["record"]["key"].as_str(), lost[0]["record"]["namespace"].as_str()),
        (Some("large"), Some(NAMESPACE))
    );
    rig.kvof(&["dump", "--record", "large"], &rig.paths).exits(6);
    fs::rename(rig.path("away"), other).unwrap();
    damage(&path, offset + 5000);
    rig.kvof(&["verify"], &rig.paths).prints();
}

#[test]
fn values_are_read_from_a_pool_that_nobody_serves() {
    let rig = Rig::formatted(3);
    rig.store(&[("a", 0), ("b", 100), ("c", 300_000), ("b", 70_000)]);
    for (key, len) in [("a", 0), ("b", 70_000), ("c", 300_000)] {
        let ran = rig.kvof(&["dump", "--record", key], &rig.paths).exits(0);
        assert!(ran.bytes() == bytes(key, len), "{key}");
    }
    // Without a device they are made again.
    fs::remove_file(&rig.paths[1]).unwrap();
    let out = rig.path("out");
    let to = out.display().to_string();
    let ran = rig.kvof(&["dump", "--record", "c", "--namespace", NAMESPACE, "--output", &to], &rig.paths).exits(0);
    assert!(ran.err().contains("300000 bytes written to"), "{}", ran.err());
    assert!(fs::read(&out).unwrap() == bytes("c", 300_000));
    rig.kvof(&["dump", "--record", "nothing"], &rig.paths).exits(3);
    let ran = rig.kvof(&["dump", "--groups", "--entries", "--json"], &rig.paths).exits(0);
    let document: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    let groups = document["groups"].as_array().unwrap();
    let entries: usize = groups.iter().filter_map(|group| group["entries"].as_array()).map(Vec::len).sum();
    assert_eq!(entries, 4, "the one that was replaced is still there");
    let group = groups.iter().find(|group| group["state"] == "open").unwrap()["group"].to_string();
    let text = rig.kvof(&["dump", "--groups", "--group", &group], &rig.paths).exits(0).out();
    assert!(text.contains("COMMITTED") && text.contains("data"), "{text}");
    rig.kvof(&["dump", "--group", "100000", "--groups"], &rig.paths).exits(2);
}

#[test]
fn a_namespace_is_removed() {
    let rig = Rig::formatted(5);
    rig.store(&[("one", 100), ("two", 300_000)]);
    let remove = |namespace: &str, paths: &[PathBuf], more: &[&str]| {
        let mut command = kvof();
        command.arg("remove-namespace").arg(namespace).arg("--pool").args(paths).args(more);
        run(&mut command, b"")
    };
    let text = remove(NAMESPACE, &rig.paths, &["--dry-run"]).prints();
    assert!(text.contains("2 keys") && text.contains("nothing was changed"), "{text}");
    let other = remove("00000000-0000-4000-8000-000000000000", &rig.paths, &[]);
    assert!(other.err().contains("has no namespace"), "{}", other.err());
    let some = remove(NAMESPACE, &rig.paths[1..], &[]);
    assert!(some.err().contains("member 0"), "{}", some.err());
    assert!(rig.kvof(&["dump", "--record", "two"], &rig.paths).out().len() > 100_000, "it is still there");
    assert!(remove(NAMESPACE, &rig.paths, &[]).prints().contains("was removed: 2 keys"));
    assert!(remove(NAMESPACE, &rig.paths, &[]).err().contains("has no namespace"));
    assert!(rig.kvof(&["verify"], &rig.paths).prints().contains("everything is as it should be"));
    assert!(!rig.kvof(&["dump", "--record", "two"], &rig.paths).err().is_empty(), "it is gone");
}

#[test]
fn a_device_is_replaced() {
    let mut rig = Rig::formatted(3);
    rig.store(&[("k", 200_000)]);
    fs::remove_file(&rig.paths[1]).unwrap();
    let ran = rig.kvof(&["verify"], &rig.paths).exits(7);
    assert!(ran.out().contains("device-missing") && ran.out().contains("kvof replace"), "{}", ran.out());
    let left = [rig.paths[0].clone(), rig.paths[2].clone()];
    let new = rig.path("new");
    let arguments = |more: &[&str]| {
        let mut command = kvof();
        command.arg("replace").arg(&new).arg("--pool").args(&left).args(more);
        run(&mut command, b"")
    };
    arguments(&[]).fails(2, &["/new does not exist", "--size"]);
    let text = arguments(&["--size", "64MiB", "--dry-run"]).prints();
    assert!(text.contains("would take the place of member 1"), "{text}");
    let document = arguments(&["--size", "64MiB", "--json"]).json();
    assert_eq!(document["member"], 1);
    rig.paths[1] = new;
    let ran = rig.kvof(&["verify"], &rig.paths).exits(7);
    assert!(ran.out().contains("device-other"), "{}", ran.out());
    // The engine fills it.
    rig.store(&[("other", 10)]);
    rig.kvof(&["verify"], &rig.paths).prints();
    fs::remove_file(&rig.paths[0]).unwrap();
    let ran = rig.kvof(&["dump", "--record", "k"], &rig.paths).exits(0);
    assert!(ran.bytes() == bytes("k", 200_000));
}
