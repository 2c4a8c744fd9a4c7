//! `kvof store`: stores a value under a key.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use kvof_initiator::StoreOptions;
use serde::Serialize;

use super::explain;
use crate::{
    cli::{ConnectionArgs, KeyPlace},
    connect::with_kv,
    failure::{Exit, coded},
    output::Output,
    units::size,
};

/// Store a value under a key, in place of any earlier one.
///
/// The value comes from --value, from --file, or else from standard input.
#[derive(Debug, Args)]
#[command(override_usage = "kvof store [OPTIONS] [ADDRESS] <KEY>")]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    place: KeyPlace,

    /// The value, as a text.
    #[arg(long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    value: Option<String>,

    /// The file that holds the value; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Only if the key does not exist yet; exit code 4 if it does.
    #[arg(long, conflicts_with = "if_exists")]
    if_absent: bool,

    /// Only if the key exists already; exit code 3 if it does not.
    #[arg(long)]
    if_exists: bool,

    /// Ask the target not to compress the value.
    #[arg(long)]
    no_compress: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Stored {
    key: String,
    length: usize,
}

pub(crate) fn run(args: &StoreArgs, output: &mut Output) -> Result<Exit> {
    let (address, key) = args.place.resolve()?;
    let mut options = StoreOptions::empty();
    options.set(StoreOptions::MUST_NOT_EXIST, args.if_absent);
    options.set(StoreOptions::MUST_EXIST, args.if_exists);
    options.set(StoreOptions::NO_COMPRESS, args.no_compress);
    with_kv(&address, &args.connection, async |kv| {
        let longest = kv.max_value_len();
        let value = match &args.value {
            Some(text) => text.clone().into_bytes(),
            None => read(args.file.as_deref().unwrap_or(Path::new("-")), longest)?,
        };
        let length = value.len();
        let (stored, _) = kv.store(key, value, options).await;
        stored.map_err(|error| explain("store", key, &error))?;
        output.show(&Stored { key: key.to_string(), length }, format_args!("stored {key}, {length} bytes"))?;
        Ok(Exit::Success)
    })
}

/// The whole of `path`, which must not be longer than one command moves.
fn read(path: &Path, longest: u32) -> Result<Vec<u8>> {
    let (name, source): (String, Box<dyn Read>) = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            eprintln!("kvof: the value is read from the terminal; Ctrl-D ends it");
        }
        ("standard input".to_owned(), Box::new(io::stdin()))
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut value = Vec::new();
    let limit = u64::from(longest) + 1;
    source.take(limit).read_to_end(&mut value).with_context(|| format!("cannot read {name}"))?;
    if value.len() as u64 >= limit {
        let longest = format!("{} ({longest} bytes)", size(longest.into()));
        return Err(coded(Exit::Failed, format!("{name} is longer than the {longest} that this namespace takes")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_as_long_as_a_value_and_no_longer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 100]).unwrap();
        assert_eq!(read(file.path(), 100).unwrap(), [7; 100]);
        let error = read(file.path(), 99).unwrap_err();
        assert!(error.to_string().contains("longer than the 99 B"), "{error}");
        assert!(read(Path::new("/nowhere/at/all"), 1).is_err());
    }
}
