//! Sizes, offsets, constants and bit positions against the C headers of libnvme 1.x (`nvme/types.h`, Debian package
//! libnvme-dev): a second source for every number that this crate states.
//!
//! Skipped without a C compiler or the header, unless `KVOF_REQUIRE_PEERS=1`.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

/// Size of the structure, and offset and size of each field; `ours = theirs` where the names differ.
macro_rules! structure {
    ($checks:ident, $ours:ty, $theirs:literal $(, $field:ident $(= $c_field:ident)?)* $(,)?) => {
        $checks.add(concat!("sizeof(", $theirs, ")"), size_of::<$ours>());
        structure!(@fields $checks, $ours, $theirs $(, $field $(= $c_field)?)*);
    };
    (@fields $checks:ident, $ours:ty, $theirs:literal $(, $field:ident $(= $c_field:ident)?)*) => {
        let zeroed = <$ours>::new_zeroed();
        $(
            #[allow(unused_mut, unused_assignments, reason = "only some fields have another name")]
            let c_field = { let mut name = stringify!($field); $( name = stringify!($c_field); )? name };
            $checks.add(format!("offsetof({}, {c_field})", $theirs), core::mem::offset_of!($ours, $field));
            $checks.add(format!("sizeof((({} *)0)->{c_field})", $theirs), size_of_val(&zeroed.$field));
        )*
    };
}

/// Named values: `OURS = THEIRS`.
macro_rules! codes {
    ($checks:ident, $ty:ty, $prefix:literal, $($ours:ident = $theirs:ident),* $(,)?) => {
        $( $checks.add(concat!("(uint32_t)", $prefix, stringify!($theirs)), <$ty>::$ours.0); )*
    };
}

/// Flags: `OURS = THEIRS`.
macro_rules! flags {
    ($checks:ident, $ty:ty, $prefix:literal, $($ours:ident = $theirs:ident),* $(,)?) => {
        $( $checks.add(concat!("(uint32_t)", $prefix, stringify!($theirs)), <$ty>::$ours.bits()); )*
    };
}

/// Bit ranges: the value with the field all ones against mask and shift; `with_field(ones) = SHIFT, MASK`.
macro_rules! bits {
    ($checks:ident, $ty:ty, $prefix:literal, $($with:ident($ones:expr) = $shift:ident, $mask:ident);* $(;)?) => {
        $( $checks.add(
            concat!("(uint64_t)", $prefix, stringify!($mask), " << ", $prefix, stringify!($shift)),
            <$ty>::default().$with($ones).0,
        ); )*
    };
}

mod bits;
mod codes;
mod layouts;

/// What is compared: a C expression and what this crate says it is.
struct Check {
    c: String,
    ours: u64,
}

struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, c: impl Into<String>, ours: impl TryInto<u64>) {
        let Ok(ours) = ours.try_into() else { panic!("a value that is not a u64") };
        self.0.push(Check { c: c.into(), ours });
    }
}

#[test]
fn agrees_with_libnvme() {
    let mut checks = Checks(Vec::new());
    layouts::structures(&mut checks);
    layouts::log_pages(&mut checks);
    codes::constants(&mut checks);
    codes::statuses(&mut checks);
    bits::identify_flags(&mut checks);
    bits::other_flags(&mut checks);
    bits::properties(&mut checks);

    let theirs = match evaluate(&checks.0) {
        Ok(theirs) => theirs,
        Err(Missing(reason)) => {
            assert!(std::env::var("KVOF_REQUIRE_PEERS").as_deref() != Ok("1"), "KVOF_REQUIRE_PEERS=1, but {reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    assert_eq!(theirs.len(), checks.0.len());
    assert!(theirs.len() > 600, "only {} comparisons", theirs.len());
    let mut wrong = String::new();
    for (check, theirs) in checks.0.iter().zip(theirs) {
        if check.ours != theirs {
            let _ = writeln!(wrong, "{}: libnvme has {theirs:#x}, kvof-spec {:#x}", check.c, check.ours);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Why the comparison is not possible on this machine.
struct Missing(String);

/// The value of each C expression, as a compiled program prints them.
fn evaluate(checks: &[Check]) -> Result<Vec<u64>, Missing> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let run = |args: &[&str]| Command::new(&compiler).args(args).stdin(Stdio::null()).output();
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |name: &str| dir.join(format!("{name}-{}", std::process::id())).to_string_lossy().into_owned();

    let probe = path("libnvme-probe") + ".c";
    std::fs::write(&probe, "#include <nvme/types.h>\n").unwrap();
    let probed = run(&["-E", "-o", "/dev/null", &probe]);
    std::fs::remove_file(&probe).unwrap();
    match probed {
        Err(error) => return Err(Missing(format!("no C compiler: {compiler}: {error}"))),
        Ok(output) if !output.status.success() => {
            return Err(Missing("no nvme/types.h (on Debian: apt install libnvme-dev)".into()));
        }
        Ok(_) => {}
    }

    let mut source = String::from("#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n");
    source.push_str("#include <nvme/types.h>\nint main(void)\n{\n");
    for check in checks {
        writeln!(source, "\tprintf(\"%llu\\n\", (unsigned long long)({}));", check.c).unwrap();
    }
    source.push_str("\treturn 0;\n}\n");
    let (c, program) = (path("libnvme-layout") + ".c", path("libnvme-layout"));
    std::fs::write(&c, source).unwrap();
    let compiled = run(&["-w", "-o", &program, &c]).unwrap();
    let message = String::from_utf8_lossy(&compiled.stderr).into_owned();
    assert!(compiled.status.success(), "this test knows the names of libnvme 1.x, and they do not compile:\n{message}");
    let output = Command::new(&program).output().unwrap();
    for file in [&c, &program] {
        std::fs::remove_file(file).unwrap();
    }
    assert!(output.status.success());
    Ok(String::from_utf8(output.stdout).unwrap().lines().map(|l| l.parse().unwrap()).collect())
}
