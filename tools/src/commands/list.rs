//! `kvof list`: the keys of a namespace.

use anyhow::Result;
use clap::Args;
use futures_util::{StreamExt, stream};
use kvof_initiator::{Key, KvNamespace};
use serde::Serialize;

use super::keys::IN_FLIGHT;
use crate::{
    cli::{ConnectionArgs, Place},
    connect::with_kv,
    failure::Exit,
    output::Output,
};

/// List the keys of a namespace, one a line, in the order that the target has them.
///
/// A key is printed so that it can be given back to every kvof command: as text, or as 0x and hexadecimal digits. With
/// --json there is one document a line. Keys that are stored or deleted meanwhile may or may not be listed.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,

    /// Begin with this key, or the next one that exists.
    #[arg(long, value_name = "KEY", value_parser = Key::parse)]
    start: Option<Key>,

    /// List only keys that begin with these bytes, written as a key is. All keys come over the network nevertheless.
    #[arg(long, value_name = "KEY", value_parser = Key::parse)]
    prefix: Option<Key>,

    /// Stop after so many keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Print the length of each value in bytes before its key; costs a command for each.
    #[arg(short, long)]
    length: bool,

    /// Print the number of keys instead of the keys.
    #[arg(long, conflicts_with_all = ["length"])]
    count: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Listed {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
}

#[derive(Serialize)]
struct Counted {
    keys: u64,
}

pub(crate) fn run(args: &ListArgs, output: &mut Output) -> Result<Exit> {
    let address = args.place.resolve()?;
    with_kv(&address, &args.connection, async |kv| {
        let mut pages = kv.keys_from(args.start);
        let mut listed = 0;
        loop {
            let page = pages.next_page().await?;
            if page.is_empty() {
                break;
            }
            let left = usize::try_from(args.limit.map_or(u64::MAX, |limit| limit - listed)).unwrap_or(usize::MAX);
            let begins = |key: &&Key| args.prefix.is_none_or(|prefix| key.as_bytes().starts_with(prefix.as_bytes()));
            let keys: Vec<Key> = page.iter().filter(begins).take(left).copied().collect();
            listed += keys.len() as u64;
            if !args.count {
                print(kv, &keys, args.length, output).await?;
                output.flush()?;
            }
            if Some(listed) == args.limit {
                break;
            }
        }
        if args.count {
            output.show(&Counted { keys: listed }, listed)?;
        }
        Ok(Exit::Success)
    })
}

async fn print(kv: &KvNamespace, keys: &[Key], length: bool, output: &mut Output) -> Result<()> {
    let look = async |key| match length {
        false => Ok(Some(Listed { key: Key::to_string(&key), length: None })),
        true => match kv.value_len(key).await {
            Ok(length) => Ok(Some(Listed { key: key.to_string(), length: Some(length) })),
            // Deleted since it was listed.
            Err(error) if error.is_key_missing() => Ok(None),
            Err(error) => Err(error),
        },
    };
    let mut looked = std::pin::pin!(stream::iter(keys.iter().copied()).map(look).buffered(IN_FLIGHT));
    while let Some(listed) = looked.next().await {
        let Some(listed) = listed? else { continue };
        if output.is_json() {
            output.json_line(&listed)?;
        } else if let Some(length) = listed.length {
            output.line(format_args!("{length:>10}  {}", listed.key))?;
        } else {
            output.line(&listed.key)?;
        }
    }
    Ok(())
}
