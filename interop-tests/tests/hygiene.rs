//! What holds for the repository as a whole, beyond what compilers and linters see.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvof_interop::repository;

/// Lines from which a source file should be split.
const LONG: usize = 500;
/// Lines that no source file may have.
const TOO_LONG: usize = 900;
/// Crates whose purpose needs `unsafe`, each with its reason.
const UNSAFE_CRATES: [(&str, &str); 4] = [
    ("target/io", "memory that the kernel reads and writes, io_uring"),
    ("rdma", "verbs, and memory that devices read and write"),
    ("initiator/memory", "memory of callers and of GPUs"),
    ("interop-tests/guest", "the NVMe passthrough ioctls"),
];

/// The files of the repository: those that git tracks and those that it would add.
fn files() -> Vec<String> {
    let git = Command::new("git")
        .current_dir(repository())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .output()
        .expect("git is needed to list the files of the repository");
    assert!(git.status.success(), "git ls-files: {}", String::from_utf8_lossy(&git.stderr));
    let names = String::from_utf8(git.stdout).expect("file names are UTF-8");
    // A tracked file that is deleted in the working tree is still listed.
    let names: Vec<String> =
        names.lines().filter(|name| repository().join(name).is_file()).map(str::to_owned).collect();
    assert!(names.len() > 50, "these cannot be all files: {names:?}");
    names
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    Path::new(name).extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

/// Fails with all findings at once.
#[track_caller]
fn none_found(findings: &str) {
    assert!(findings.is_empty(), "\n{findings}");
}

#[test]
fn target_is_safe_from_cargo() {
    let config = read(".cargo/config.toml");
    assert!(config.lines().any(|line| line.trim() == "target-dir = \".build\""), "Cargo would build into target/");
    let tracked = files();
    for file in ["target/Cargo.toml", "target/src/lib.rs", "target/io/Cargo.toml"] {
        assert!(tracked.iter().any(|name| name == file), "{file} is ignored by git or gone");
    }
    for line in read(".gitignore").lines() {
        let pattern = line.trim().trim_matches('/');
        assert!(
            !matches!(pattern, "target" | "target/*" | "target/**" | "**/target"),
            "{line} in .gitignore hides source"
        );
    }
    let ignored = Command::new("git")
        .current_dir(repository())
        .args(["check-ignore", "--quiet", "--no-index", "target/src/new.rs"])
        .status()
        .expect("git is needed");
    assert_eq!(ignored.code(), Some(1), "git ignores new files in target/");
    assert!(read("Makefile").contains("export CARGO_TARGET_DIR := $(CURDIR)/.build"));
}

#[test]
fn unsafe_code_has_few_addresses() {
    let mut findings = String::new();
    for manifest in files().iter().filter(|name| name.ends_with("Cargo.toml")) {
        let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
        if !read(manifest).contains("[package]") || UNSAFE_CRATES.iter().any(|(name, _)| folder == Path::new(name)) {
            continue;
        }
        for root in ["src/lib.rs", "src/main.rs"].map(|root| folder.join(root)) {
            let root = root.to_string_lossy();
            if repository().join(&*root).exists() && !read(&root).contains("#![forbid(unsafe_code)]") {
                let _ = writeln!(findings, "{root}: lacks #![forbid(unsafe_code)]");
            }
        }
    }
    none_found(&findings);
}

#[test]
fn files_are_short() {
    let mut findings = String::new();
    for name in files().iter().filter(|name| has_extension(name, &["rs", "sh", "py"])) {
        let lines = read(name).lines().count();
        if lines > TOO_LONG {
            let _ = writeln!(findings, "{name}: {lines} lines, at most {TOO_LONG} are allowed; split it");
        } else if lines > LONG {
            println!("{name}: {lines} lines; more than {LONG}, consider splitting it");
        }
    }
    none_found(&findings);
}

#[test]
fn nothing_is_left_to_do_or_built_for_one_machine() {
    // Put together, so that this file does not find itself.
    let words = [
        format!("{}!(", "todo"),
        format!("{}!(", "unimplemented"),
        format!("FIX{}", "ME"),
        format!("XX{}", "X:"),
        format!("target-{}", "cpu=native"),
        format!("march={}", "native"),
    ];
    let mut findings = String::new();
    for name in files() {
        let Ok(text) = fs::read_to_string(repository().join(&name)) else { continue };
        // Prose may say what is forbidden.
        if has_extension(&name, &["md"]) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                let _ = writeln!(findings, "{name}:{}: {word}", number + 1);
            }
        }
    }
    none_found(&findings);
}

#[test]
fn no_toolchain_is_pinned() {
    for file in ["rust-toolchain", "rust-toolchain.toml"] {
        assert!(!repository().join(file).exists(), "{file} would make every machine download that toolchain");
    }
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("rust-version = \""), "the oldest supported Rust is stated in Cargo.toml");
}

#[test]
fn every_crate_takes_versions_and_lints_from_the_workspace() {
    let mut findings = String::new();
    for manifest in files().iter().filter(|name| name.ends_with("Cargo.toml") && !name.starts_with("fuzz/cargo-fuzz/"))
    {
        let text = read(manifest);
        if !text.contains("[package]") {
            continue;
        }
        for wanted in
            ["edition.workspace = true", "rust-version.workspace = true", "license.workspace = true", "[lints]"]
        {
            if !text.contains(wanted) {
                let _ = writeln!(findings, "{manifest}: lacks {wanted}");
            }
        }
        for line in text.lines().skip_while(|line| !line.contains("dependencies]")) {
            if line.contains(" = \"")
                && !line.starts_with(['[', '#'])
                && !line.contains("name =")
                && !line.contains("path =")
            {
                let _ = writeln!(findings, "{manifest}: `{line}`: versions belong into the root Cargo.toml");
            }
        }
    }
    none_found(&findings);
}

#[test]
fn every_dependency_has_a_reason() {
    let reasons = read("docs/decisions/dependencies.md");
    let manifest = read("Cargo.toml");
    let (_, list) = manifest.split_once("[workspace.dependencies]").expect("the workspace has dependencies");
    let (list, _) = list.split_once("\n[").unwrap_or((list, ""));
    let names: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with("kvof-") && !name.starts_with('#'))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    let mut findings = String::new();
    for name in names {
        if !reasons.contains(&format!("`{name}`")) {
            let _ = writeln!(findings, "docs/decisions/dependencies.md does not say what `{name}` is for");
        }
    }
    none_found(&findings);
}

#[test]
fn links_in_documents_resolve() {
    let mut findings = String::new();
    let mut links = 0;
    for name in files().iter().filter(|name| has_extension(name, &["md"])) {
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let text = read(name);
        for link in markdown_links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            links += 1;
            if !repository().join(folder).join(path).exists() {
                let _ = writeln!(findings, "{name}: {link} leads nowhere");
            }
        }
    }
    none_found(&findings);
    assert!(links > 5, "only {links} links were found: is the search broken?");
}

/// Targets of `[text](target)`, outside of code blocks.
fn markdown_links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            links.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        }
    }
    links
}

#[test]
fn paths_that_documents_name_exist() {
    let mut findings = String::new();
    for name in ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/promises.md", "docs/verification.md"] {
        let text = read(name);
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = word.contains('/')
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
                && !word.starts_with('/');
            // Only what begins with a folder of ours; `a/b` may mean anything.
            let first = word.split('/').next().unwrap_or_default();
            if is_path && repository().join(first).is_dir() && !first.is_empty() && !repository().join(word).exists() {
                let _ = writeln!(findings, "{name}: `{word}` does not exist");
            }
        }
    }
    none_found(&findings);
}

#[test]
fn make_targets_that_documents_name_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':').map(|(name, _)| name))
        .collect();
    let mut findings = String::new();
    let mut named = BTreeSet::new();
    for name in files().iter().filter(|name| has_extension(name, &["md"])) {
        let text = read(name);
        let commands = text
            .lines()
            .filter(|line| line.starts_with("make "))
            .chain(text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("make ")))
            .filter_map(|code| code.split_whitespace().nth(1))
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
        for target in commands {
            if !targets.contains(target) {
                let _ = writeln!(findings, "{name}: there is no `make {target}`");
            }
            named.insert(target.to_owned());
        }
    }
    none_found(&findings);
    for target in ["setup", "demo", "test", "interop", "bench", "lint", "fuzz"] {
        assert!(targets.contains(target), "there is no `make {target}`");
    }
    assert!(named.contains("demo") && named.contains("test"), "README names the commands to begin with: {named:?}");
}

#[test]
fn scripts_that_are_called_are_executable() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut findings = String::new();
    for name in files() {
        let path: PathBuf = repository().join(&name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let executable = fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        // The guest's init gets its mode when it is packed.
        if text.starts_with("#!/") && !executable && name != "interop-tests/boot/init" {
            let _ = writeln!(findings, "{name}: has an interpreter but is not executable (chmod +x)");
        }
    }
    none_found(&findings);
}
