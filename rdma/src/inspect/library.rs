//! Shared libraries that are opened at run time: whether they are there, and where.

use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
};

/// A library of rdma-core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Library {
    /// `libibverbs.so.1`: devices and queue pairs.
    Verbs,
    /// `librdmacm.so.1`: connections.
    ConnectionManager,
}

impl Library {
    /// The name that it is opened by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verbs => "libibverbs.so.1",
            Self::ConnectionManager => "librdmacm.so.1",
        }
    }

    const fn c_name(self) -> &'static CStr {
        match self {
            Self::Verbs => c"libibverbs.so.1",
            Self::ConnectionManager => c"librdmacm.so.1",
        }
    }
}

/// Opens `library` and says which file it is. It stays open, as it does where it is used.
///
/// # Errors
/// The loader's own words: no such file, a library that it needs in turn, another architecture.
pub fn open_library(library: Library) -> Result<PathBuf, String> {
    // SAFETY: the name is a C string, and both libraries may be opened by any program, at any time, more than once.
    let handle = unsafe { libc::dlopen(library.c_name().as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: takes no argument. Its answer is this thread's, and stays until this thread's next dl call.
        let message = unsafe { libc::dlerror() };
        if message.is_null() {
            return Err(format!("{}: cannot be opened", library.name()));
        }
        // SAFETY: not null, so it is a C string of the loader, copied before any other dl call.
        let message = unsafe { CStr::from_ptr(message) };
        return Err(message.to_string_lossy().into_owned());
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    Ok(mapped(&maps, library.name()).unwrap_or_else(|| PathBuf::from(library.name())))
}

/// The file that is mapped for the library `name`, which is `libX.so.N`; the file's own name may go on with `.N.N`.
fn mapped(maps: &str, name: &str) -> Option<PathBuf> {
    let path_of = |line: &str| Some(Path::new(&line[line.find('/')?..]).to_owned());
    maps.lines().filter_map(path_of).find(|path| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_behind_a_name() {
        let maps = "55d-55e r--p 0 fe:00 1 /usr/bin/kvof\n\
                    7f0-7f1 r--p 0 00:00 0 \n\
                    7f1-7f2 r--p 0 fe:00 2 /usr/lib/libibverbs.so.1x\n\
                    7f2-7f3 r-xp 0 fe:00 3 /usr/lib/a folder/libibverbs.so.1.14.44.0\n";
        let found = mapped(maps, "libibverbs.so.1").unwrap();
        assert_eq!(found, Path::new("/usr/lib/a folder/libibverbs.so.1.14.44.0"));
        assert_eq!(mapped(maps, "librdmacm.so.1"), None);
    }

    #[test]
    fn opening_says_where_or_why_not() {
        for library in [Library::Verbs, Library::ConnectionManager] {
            match open_library(library) {
                Ok(path) => assert!(path.is_absolute() && path.exists(), "{}", path.display()),
                Err(why) => assert!(why.contains(library.name()), "{why}"),
            }
        }
    }
}
