//! `kvof delete`: removes keys.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kvof_initiator::{Key, KvNamespace};
use serde::Serialize;

use super::{
    explain,
    keys::{KeyLines, for_each},
};
use crate::{
    cli::{ConnectionArgs, KeyPlace},
    connect::with_kv,
    failure::Exit,
    output::Output,
    units::count,
};

/// Delete a key and its value.
///
/// A key that does not exist is no error, unless the namespace has it so (feature 20h, EDNEK): then the exit code is 3.
#[derive(Debug, Args)]
#[command(
    override_usage = "kvof delete [OPTIONS] [ADDRESS] <KEY>\n       kvof delete [OPTIONS] [ADDRESS] --keys-from <FILE>"
)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    place: KeyPlace,

    /// Delete each key in FILE (- is standard input), one a line as `kvof list` prints them.
    #[arg(long, value_name = "FILE")]
    keys_from: Option<PathBuf>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct One {
    key: String,
    deleted: bool,
}

#[derive(Serialize, Default)]
struct Many {
    deleted: u64,
    missing: u64,
}

pub(crate) fn run(args: &DeleteArgs, output: &mut Output) -> Result<Exit> {
    if let Some(path) = &args.keys_from {
        let address = args.place.resolve_without_key()?;
        let keys = KeyLines::open(path)?;
        return with_kv(&address, &args.connection, async |kv| delete_all(kv, keys, output).await);
    }
    let (address, key) = args.place.resolve()?;
    with_kv(&address, &args.connection, async |kv| {
        kv.delete(key).await.map_err(|error| explain("delete", key, &error))?;
        output.show(&One { key: key.to_string(), deleted: true }, format_args!("deleted {key}"))?;
        Ok(Exit::Success)
    })
}

async fn delete_all(kv: &KvNamespace, keys: impl Iterator<Item = Result<Key>>, output: &mut Output) -> Result<Exit> {
    let mut many = Many::default();
    let one = async |key| match kv.delete(key).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_key_missing() => Ok(false),
        Err(error) => Err(error),
    };
    let result = for_each(keys, one, |_, deleted| {
        *(if deleted { &mut many.deleted } else { &mut many.missing }) += 1;
        Ok(())
    })
    .await;
    // What was done is told even if it was not all.
    let missing = match many.missing {
        0 => String::new(),
        n => format!(", {} did not exist", count(n, "key", "keys")),
    };
    output.show(&many, format_args!("deleted {}{missing}", count(many.deleted, "key", "keys")))?;
    result?;
    Ok(if many.missing == 0 { Exit::Success } else { Exit::KeyMissing })
}
