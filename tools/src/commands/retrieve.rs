//! `kvof retrieve`: reads the value of a key.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kvof_initiator::{Key, KvCommand, KvNamespace, Status};
use kvof_kv::RetrieveOptions;
use serde::Serialize;

use super::explain;
use crate::{
    cli::{ConnectionArgs, KeyPlace},
    connect::with_kv,
    failure::{Exit, coded, exit_of_status, usage},
    output::Output,
};

/// Print the value of a key, byte for byte; exit code 3 if there is no such key.
///
/// On a terminal only a text is printed, unless --force is given. With --json the value is the member `text` if it is
/// UTF-8, else `hex`.
#[derive(Debug, Args)]
#[command(override_usage = "kvof retrieve [OPTIONS] [ADDRESS] <KEY>")]
pub(crate) struct RetrieveArgs {
    #[command(flatten)]
    place: KeyPlace,

    /// Write the value to FILE; an existing one is replaced.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the value on a terminal whatever it is.
    #[arg(long, conflicts_with = "output")]
    force: bool,

    /// Ask the target for the value as it is stored, without decompressing it.
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Retrieved<'a> {
    key: String,
    length: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

pub(crate) fn run(args: &RetrieveArgs, output: &mut Output) -> Result<Exit> {
    let (address, key) = args.place.resolve()?;
    let value = with_kv(&address, &args.connection, async |kv| match args.raw {
        true => retrieve_raw(kv, key).await,
        false => kv.retrieve_vec(key).await.map_err(|error| explain("retrieve", key, &error)),
    })?;
    if let Some(path) = &args.output {
        std::fs::write(path, &value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if output.is_json() {
        let shown = if args.output.is_none() { Some(&value[..]) } else { None };
        let text = shown.and_then(|value| std::str::from_utf8(value).ok());
        let hex = shown.filter(|_| text.is_none()).map(hex);
        let written = args.output.as_ref().map(|path| path.display().to_string());
        output.document(&Retrieved { key: key.to_string(), length: value.len(), text, hex, output: written })?;
    } else if let Some(path) = &args.output {
        output.line(format_args!("{key}: {} bytes written to {}", value.len(), path.display()))?;
    } else {
        print(key, &value, args.force, output)?;
    }
    Ok(Exit::Success)
}

fn print(key: Key, value: &[u8], force: bool, output: &mut Output) -> Result<()> {
    if !output.is_terminal() {
        return Ok(output.bytes(value)?);
    }
    if !force && !is_printable(value) {
        return Err(usage(format!(
            "the value of {key} ({} bytes) is no text, and a terminal might take it for commands; use --output FILE, a \
             pipe, --json or --force",
            value.len()
        )));
    }
    output.bytes(value)?;
    if !value.is_empty() && !value.ends_with(b"\n") {
        output.bytes(b"\n")?;
    }
    Ok(())
}

fn is_printable(value: &[u8]) -> bool {
    std::str::from_utf8(value)
        .is_ok_and(|text| text.chars().all(|c| matches!(c, '\n' | '\r' | '\t') || !c.is_control()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The whole value with the RAW option: its length first, then its bytes.
async fn retrieve_raw(kv: &KvNamespace, key: Key) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    loop {
        let size = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let command = KvCommand::retrieve(kv.nsid(), &key, RetrieveOptions::RAW, size);
        let (completion, mut value) = kv.submit_in(&command, buffer).await;
        let completion = completion.map_err(|error| explain("retrieve", key, &error))?;
        if completion.status.code() != Status::SUCCESS {
            let reason = match completion.status.code() {
                Status::KEY_DOES_NOT_EXIST => format!("{key} does not exist"),
                _ => format!("cannot retrieve {key}: {}", completion.status),
            };
            return Err(coded(exit_of_status(completion.status), reason));
        }
        let length = (completion.result & 0xffff_ffff) as usize;
        if length <= value.len() {
            value.truncate(length);
            return Ok(value);
        }
        let longest = kv.max_value_len() as usize;
        if length > longest {
            let reason =
                format!("{key} has {length} bytes, and one command of namespace {} moves {longest}", kv.nsid());
            return Err(coded(Exit::Failed, reason));
        }
        // Longer than the last time, so that this ends.
        buffer = vec![0; length];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_not_for_terminals() {
        assert!(is_printable("täglich\t1\r\n".as_bytes()));
        assert!(is_printable(b""));
        for value in [&b"\x1b[2J"[..], b"\0", b"\xff", "\u{9b}2J".as_bytes()] {
            assert!(!is_printable(value), "{value:?}");
        }
        assert_eq!(hex(&[0, 0xff, 0x1a]), "00ff1a");
    }
}
