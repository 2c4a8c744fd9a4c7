//! The guest's initramfs: a static busybox, `boot/init` and the few modules that reach the host's root file system.
//!
//! Written uncompressed as a "newc" cpio archive: the emulated processor would spend longer unpacking than copying.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;

/// What the guest must load before it can see the host's files; everything else is loaded from there, by `modprobe`.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

const INIT: &str = include_str!("../boot/init");

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const REGULAR: u32 = 0o100_644;

/// The initramfs for `kernel`, as bytes.
///
/// # Errors
/// When busybox or a module cannot be read.
pub(crate) fn build(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "modules", "lower", "upper", "root"] {
        archive.entry(dir, DIRECTORY, &[])?;
    }
    let busybox =
        fs::read("/bin/busybox").context("no /bin/busybox: install busybox-static (interop-tests/setup.sh does)")?;
    archive.entry("bin/busybox", EXECUTABLE, &busybox)?;
    archive.entry("init", EXECUTABLE, INIT.as_bytes())?;
    let mut list = String::new();
    for file in kernel.module_files(MODULES)? {
        let name = module_file_name(&file)?;
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        archive.entry(&format!("modules/{name}"), REGULAR, &content)?;
        list.push_str(&name);
        list.push('\n');
    }
    archive.entry("modules.list", REGULAR, list.as_bytes())?;
    archive.finish()
}

fn module_file_name(file: &Path) -> Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.ends_with(".ko") {
        bail!(
            "{} is compressed; interop-tests/setup.sh unpacks modules: remove the kernel's folder and run it again",
            file.display()
        );
    }
    Ok(name)
}

/// A "newc" cpio archive: per entry a 110-byte header of hexadecimal fields, the name and the content, each padded to 4 bytes.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too big for a cpio archive"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, checksum (unused)
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_layout_that_the_kernel_unpacks() {
        let mut archive = Archive::default();
        archive.entry("a", REGULAR, b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081a4", "mode");
        assert_eq!(&bytes[54..62], b"00000005", "content size");
        assert_eq!(&bytes[94..102], b"00000002", "name size with its NUL");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..120], b"12345\0\0\0", "content starts and ends on 4 bytes");
        assert_eq!(&bytes[120..126], b"070701", "the next header follows at once");
        assert!(bytes[120..].windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
