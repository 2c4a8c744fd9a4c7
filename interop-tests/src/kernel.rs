//! The unpacked kernels that `interop-tests/setup.sh` leaves under `.build/guest`, and what loading a module takes.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repository;

/// A kernel image with its modules, unpacked and ready to boot; nothing of it is installed on this machine.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The series people name it by: `6.12`.
    pub series: String,
    /// What `uname -r` prints: `6.12.117+deb12-amd64`.
    pub version: String,
    /// The folder with `vmlinuz`, `config` and `lib/modules`.
    dir: PathBuf,
}

impl Kernel {
    /// Every unpacked kernel, newest series first.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir(cache_dir()) else { return Vec::new() };
        let mut kernels: Vec<Self> = entries
            .flatten()
            .filter_map(|entry| {
                let link = fs::read_link(entry.path()).ok()?;
                let version = link.to_str()?.to_owned();
                let dir = cache_dir().join(&version);
                let series = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
                dir.join("vmlinuz").exists().then_some(Self { series, version, dir })
            })
            .collect();
        kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.sort_key()));
        kernels
    }

    /// The kernel of a series (`6.12`) or of an exact version.
    ///
    /// # Errors
    /// When it is not unpacked; the message names those that are and the script that unpacks them.
    pub fn find(name: &str) -> Result<Self> {
        let all = Self::all();
        if let Some(kernel) = all.iter().find(|kernel| kernel.series == name || kernel.version == name) {
            return Ok(kernel.clone());
        }
        let have: Vec<&str> = all.iter().map(|kernel| kernel.series.as_str()).collect();
        bail!(
            "no kernel {name} in {} (there: {}); interop-tests/setup.sh unpacks them",
            cache_dir().display(),
            if have.is_empty() { "none".to_owned() } else { have.join(", ") }
        )
    }

    /// The compressed kernel image.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The folder with this kernel's modules, `modules.dep` at its top.
    pub fn modules_dir(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.version)
    }

    /// The files that loading `names` needs, in the order they must be loaded; built-in modules need none.
    ///
    /// # Errors
    /// When a module is neither built in nor in `modules.dep`, or those lists cannot be read.
    pub fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let dir = self.modules_dir();
        let read = |list: &str| {
            fs::read_to_string(dir.join(list)).with_context(|| format!("cannot read {}", dir.join(list).display()))
        };
        let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
        let mut seen = HashSet::new();
        let mut files = Vec::new();
        for name in names {
            if builtin.lines().any(|line| module_name(line) == *name) {
                continue;
            }
            let Some((file, needs)) = dependencies
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(file, _)| module_name(file) == *name)
            else {
                bail!("kernel {} has no module {name}", self.version);
            };
            // modules.dep lists the nearest dependency first: what must be loaded first is last.
            for file in needs.split_whitespace().rev().chain([file]) {
                if seen.insert(file) {
                    files.push(dir.join(file));
                }
            }
        }
        Ok(files)
    }

    fn sort_key(&self) -> Vec<u32> {
        self.series.split('.').filter_map(|part| part.parse().ok()).collect()
    }
}

/// Where the unpacked kernels are: `KVOF_GUEST_CACHE`, or `.build/guest` in the repository.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("KVOF_GUEST_CACHE").map_or_else(|| repository().join(".build/guest"), PathBuf::from)
}

fn module_name(path: &str) -> String {
    let file = Path::new(path.trim()).file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_with(dep: &str, builtin: &str) -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Kernel { series: "6.12".into(), version: "6.12.1-test".into(), dir: dir.path().to_owned() };
        fs::create_dir_all(kernel.modules_dir()).unwrap();
        fs::write(kernel.modules_dir().join("modules.dep"), dep).unwrap();
        fs::write(kernel.modules_dir().join("modules.builtin"), builtin).unwrap();
        (dir, kernel)
    }

    #[test]
    fn dependencies_come_before_what_needs_them_and_once() {
        let (_dir, kernel) = kernel_with(
            "a/top-one.ko: a/mid.ko a/base.ko\na/mid.ko: a/base.ko\na/base.ko:\na/other.ko: a/base.ko\n",
            "kernel/x/inside.ko\n",
        );
        let files = kernel.module_files(&["inside", "top_one", "other"]).unwrap();
        let names: Vec<_> = files.iter().map(|file| module_name(file.to_str().unwrap())).collect();
        assert_eq!(names, ["base", "mid", "top_one", "other"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let (_dir, kernel) = kernel_with("", "");
        assert!(kernel.module_files(&["nowhere"]).unwrap_err().to_string().contains("nowhere"));
    }
}
