//! `kvof exist`: whether keys exist, and how long their values are.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kvof_initiator::{Key, KvNamespace};
use serde::Serialize;

use super::keys::{KeyLines, for_each};
use crate::{
    cli::{ConnectionArgs, KeyPlace},
    connect::with_kv,
    failure::Exit,
    output::Output,
};

/// Say whether a key exists; exit code 3 if it does not.
#[derive(Debug, Args)]
#[command(
    override_usage = "kvof exist [OPTIONS] [ADDRESS] <KEY>\n       kvof exist [OPTIONS] [ADDRESS] --keys-from <FILE>"
)]
pub(crate) struct ExistArgs {
    #[command(flatten)]
    place: KeyPlace,

    /// Ask for each key in FILE (- is standard input), one a line as `kvof list` prints them; exit code 3 if any does
    /// not exist.
    #[arg(long, value_name = "FILE")]
    keys_from: Option<PathBuf>,

    /// Tell the length of the value too.
    #[arg(short, long)]
    length: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Answer {
    key: String,
    exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
}

pub(crate) fn run(args: &ExistArgs, output: &mut Output) -> Result<Exit> {
    if let Some(path) = &args.keys_from {
        let address = args.place.resolve_without_key()?;
        let keys = KeyLines::open(path)?;
        return with_kv(&address, &args.connection, async |kv| ask(kv, args.length, keys, output).await);
    }
    let (address, key) = args.place.resolve()?;
    with_kv(&address, &args.connection, async |kv| ask(kv, args.length, std::iter::once(Ok(key)), output).await)
}

async fn ask(
    kv: &KvNamespace,
    length: bool,
    keys: impl Iterator<Item = Result<Key>>,
    output: &mut Output,
) -> Result<Exit> {
    let mut exit = Exit::Success;
    let one = async |key| look(kv, key, length).await;
    for_each(keys, one, |key, found: Option<Option<u32>>| {
        if found.is_none() {
            exit = Exit::KeyMissing;
        }
        let answer = Answer { key: key.to_string(), exists: found.is_some(), length: found.flatten() };
        if output.is_json() {
            output.json_line(&answer)?;
        } else {
            output.line(match found {
                Some(Some(length)) => format!("{key} exists, {length} bytes"),
                Some(None) => format!("{key} exists"),
                None => format!("{key} does not exist"),
            })?;
        }
        Ok(())
    })
    .await?;
    Ok(exit)
}

/// `None` if the key does not exist, else the length of its value if it was asked for.
async fn look(kv: &KvNamespace, key: Key, length: bool) -> kvof_initiator::Result<Option<Option<u32>>> {
    if !length {
        return Ok(kv.exist(key).await?.then_some(None));
    }
    match kv.value_len(key).await {
        Ok(length) => Ok(Some(Some(length))),
        Err(error) if error.is_key_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
