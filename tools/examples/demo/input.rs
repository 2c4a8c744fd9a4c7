//! Real data: the largest files that this machine has in its program folders.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use kvof_initiator::Key;

/// One value to store.
pub(crate) struct Value {
    pub(crate) key: Key,
    pub(crate) bytes: Vec<u8>,
}

/// What the demo stores.
pub(crate) struct Input {
    pub(crate) files: usize,
    pub(crate) bytes: usize,
    pub(crate) values: Vec<Value>,
}

impl Input {
    /// Reads files until there are `bytes` of them, the largest first, cut into values of `value_len`. The key of a value
    /// is the number of its file and its place in it.
    pub(crate) fn read(folders: &[PathBuf], bytes: usize, value_len: usize) -> Result<Self> {
        let mut found = Vec::new();
        let defaults = default_folders();
        for folder in if folders.is_empty() { &defaults } else { folders } {
            collect(folder, &mut found);
        }
        found.sort_by(|a, b| b.cmp(a));
        let mut input = Self { files: 0, bytes: 0, values: Vec::new() };
        for (_, path) in found {
            if input.bytes >= bytes {
                break;
            }
            // A file may be unreadable or have gone since it was listed; there are others.
            let Ok(content) = fs::read(&path) else { continue };
            for (place, chunk) in content.chunks(value_len.max(1)).enumerate() {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&(input.files as u64).to_be_bytes());
                key[8..].copy_from_slice(&(place as u64).to_be_bytes());
                let key = Key::new(&key).context("a key of 16 bytes")?;
                input.values.push(Value { key, bytes: chunk.to_vec() });
            }
            input.files += 1;
            input.bytes += content.len();
        }
        ensure!(
            input.bytes >= bytes,
            "only {} bytes of files found; name a folder with more by --from, or ask for less by --mebibytes",
            input.bytes
        );
        Ok(input)
    }
}

fn default_folders() -> Vec<PathBuf> {
    let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup"));
    ["/usr/lib", "/usr/bin", "/usr/share", "/usr/local"].into_iter().map(PathBuf::from).chain(rustup.or(home)).collect()
}

/// Regular files below `folder` with their sizes; links are not followed, so that nothing is met twice.
fn collect(folder: &Path, found: &mut Vec<(u64, PathBuf)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), found),
            Ok(kind) if kind.is_file() => {
                if let Ok(metadata) = entry.metadata() {
                    found.push((metadata.len(), entry.path()));
                }
            }
            _ => {}
        }
    }
}
