//! The committed numbers, and what they were made with.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

const HEAD: &str = "\
# Instructions per operation, by callgrind; `make bench-check UPDATE=1` writes this file, docs/performance.md says what they mean.
# A name says where, what, how large, and how many at once.
";

/// What each operation takes, by name.
pub(crate) type Operations = BTreeMap<String, Cost>;

/// What an operation takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cost {
    /// Instructions.
    pub(crate) instructions: u64,
    /// Of these, atomic read-modify-writes, which cost as much as some dozens of the others.
    pub(crate) atomics: u64,
}

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    pub(crate) toolchain: Toolchain,
    pub(crate) operations: Operations,
}

/// What the numbers depend on beside the code.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Toolchain {
    rustc: String,
    architecture: String,
    libc: String,
    valgrind: String,
}

/// Where the numbers are.
pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.toml")
}

impl Counts {
    pub(crate) const fn empty(toolchain: Toolchain) -> Self {
        Self { toolchain, operations: Operations::new() }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read {}; make bench-check UPDATE=1 makes it", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not as it was written", path.display()))
    }

    /// These numbers, to be renewed in part: all must be made with the same.
    pub(crate) fn made_with(self, toolchain: &Toolchain) -> Result<Self> {
        let different = self.toolchain.differences(toolchain);
        ensure!(
            different.is_empty(),
            "some numbers alone cannot be renewed, since the others were made with something else:\n{}",
            different.join("\n")
        );
        Ok(self)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        text.push_str("\n[toolchain]\n");
        for (name, value) in self.toolchain.parts() {
            let _ = writeln!(text, "{name} = {value:?}");
        }
        text.push_str("\n[operations]\n");
        for (name, Cost { instructions, atomics }) in &self.operations {
            let _ = writeln!(text, "{name:?} = {{ instructions = {instructions}, atomics = {atomics} }}");
        }
        text
    }
}

impl Toolchain {
    /// What there is here.
    pub(crate) fn here() -> Result<Self> {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        Ok(Self {
            rustc: first_line(&rustc)?,
            architecture: std::env::consts::ARCH.to_owned(),
            libc: first_line("ldd")?,
            valgrind: first_line("valgrind")?,
        })
    }

    fn parts(&self) -> [(&'static str, &str); 4] {
        let Self { rustc, architecture, libc, valgrind } = self;
        [("rustc", rustc), ("architecture", architecture), ("libc", libc), ("valgrind", valgrind)]
    }

    /// In what another differs from this, the committed one.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = self.parts().into_iter().zip(other.parts());
        pairs.filter(|(a, b)| a != b).map(|((name, was), (_, is))| format!("  {name}: {was:?}, here {is:?}")).collect()
    }
}

fn first_line(program: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {program} --version; make bench-check installs what is needed"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(rustc: &str) -> Toolchain {
        Toolchain {
            rustc: rustc.to_owned(),
            architecture: "x86_64".to_owned(),
            libc: "ldd (GNU \"libc\") 2.36".to_owned(),
            valgrind: "valgrind-3.19.0".to_owned(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut counts = Counts::empty(toolchain("rustc 1.95.0"));
        counts.operations.insert("tcp/nvm-read-4k/32".to_owned(), Cost { instructions: 812, atomics: 9 });
        counts.operations.insert("index/get/1".to_owned(), Cost { instructions: 64, atomics: 0 });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts.toml");
        counts.write(&path).unwrap();
        assert_eq!(Counts::read(&path).unwrap(), counts);
    }

    #[test]
    fn another_compiler_is_named() {
        let (was, is) = (toolchain("rustc 1.95.0"), toolchain("rustc 1.96.0"));
        assert!(was.differences(&was).is_empty());
        assert_eq!(was.differences(&is), ["  rustc: \"rustc 1.95.0\", here \"rustc 1.96.0\""]);
        let error = Counts::empty(was).made_with(&is).unwrap_err();
        assert!(error.to_string().contains("1.96.0"), "{error}");
    }

    #[test]
    fn the_committed_numbers_are_those_of_the_operations() {
        let committed: Vec<String> = Counts::read(&path()).unwrap().operations.into_keys().collect();
        let mut names: Vec<&str> = crate::scenes::all().iter().map(|operation| operation.name).collect();
        names.sort_unstable();
        assert_eq!(committed, names, "make bench-check UPDATE=1 renews them");
    }
}
