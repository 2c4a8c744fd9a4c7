//! `kvof dump`: shows what is on the devices of a pool, for whoever looks at bytes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kvof_kv::Key;
use kvof_store::{
    format::{EntryKind, MemberState, NamespaceMode, StripeKind},
    pool::{PoolDevices, PoolIo},
    verify::{Browser, GroupKind, GroupView, StripeView, Subject},
    volume::shard_of,
};
use serde::Serialize;

use super::pool::{PoolDocument, member_path, pool_error, section, subject, uuid, warn};
use crate::{
    failure::{Exit, coded, usage},
    output::{Align, Output, Table},
    units::size,
};

/// Show what is on the devices of a pool that no target has open: labels, superblocks, groups, entries, or a value.
///
/// Without a choice the labels and superblocks are shown. Nothing is written, and devices may be missing.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The devices of the pool, in any order.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Show the label of each device.
    #[arg(long)]
    labels: bool,

    /// Show the superblock of each shard that counts.
    #[arg(long)]
    superblocks: bool,

    /// Show the groups; with --group the stripes of one.
    #[arg(long)]
    groups: bool,

    /// Show the entries: keys, lengths, places, sequence numbers, dead ones too.
    #[arg(long)]
    entries: bool,

    /// Only this group.
    #[arg(long, value_name = "N")]
    group: Option<u32>,

    /// Only this shard.
    #[arg(long, value_name = "N")]
    shard: Option<u16>,

    /// Write the value of this key to standard output, or to the file of --output.
    #[arg(long, value_name = "KEY", value_parser = Key::parse, conflicts_with_all = ["labels", "superblocks", "groups", "entries", "group"])]
    record: Option<Key>,

    /// The namespace of --record, by UUID; needed where there are several.
    #[arg(long, value_name = "UUID", requires = "record")]
    namespace: Option<uuid::Uuid>,

    /// Where the value goes.
    #[arg(short, long, value_name = "FILE", requires = "record")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &DumpArgs, output: &mut Output) -> Result<Exit> {
    let devices = PoolDevices::open_read_only(&args.paths).map_err(|error| pool_error(&error))?;
    let subject = subject(&devices);
    let mut io = devices.io().map_err(|error| pool_error(&error))?;
    warn(devices.problems());
    if let Some(shard) = args.shard.filter(|shard| *shard >= subject.geometry.shards()) {
        return Err(usage(format!("the pool has shards 0 to {}, not {shard}", subject.geometry.shards() - 1)));
    }
    if let Some(group) = args.group.filter(|group| *group >= subject.geometry.groups()) {
        return Err(usage(format!("a shard has groups 0 to {}, not {group}", subject.geometry.groups() - 1)));
    }
    if let Some(key) = args.record {
        return record(args, key, &subject, &mut io, output);
    }
    let none = !(args.labels || args.superblocks || args.groups || args.entries);
    let mut document = Document::default();
    if args.labels || none {
        labels(&devices, &mut document, output)?;
    }
    for shard in shards(args, &subject) {
        if args.superblocks || none {
            superblock(&devices, &browser(&mut io, &subject, shard)?, shard, &mut document, output)?;
        }
        if args.groups || args.entries {
            groups(args, browser(&mut io, &subject, shard)?, shard, &subject, &mut document, output)?;
        }
    }
    if output.is_json() {
        output.document(&document)?;
    }
    Ok(Exit::Success)
}

fn shards(args: &DumpArgs, subject: &Subject) -> Vec<u16> {
    args.shard.map_or_else(|| (0..subject.geometry.shards()).collect(), |shard| vec![shard])
}

fn browser<'a>(io: &'a mut PoolIo, subject: &'a Subject, shard: u16) -> Result<Browser<'a>> {
    Browser::new(io, subject, shard).ok_or_else(|| {
        coded(Exit::Check, format!("no device has a whole superblock of shard {shard}; see `kvof verify`"))
    })
}

#[derive(Serialize, Default)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<PoolDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    superblocks: Vec<SuperblockDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupDocument>,
}

#[derive(Serialize)]
struct LabelDocument {
    member: u16,
    path: String,
    device: Option<String>,
    replaces: Option<String>,
}

#[derive(Serialize)]
struct SuperblockDocument {
    shard: u16,
    epoch: u64,
    clean: bool,
    sequence: u64,
    incarnation: u64,
    stripe: u64,
    checkpoint: Vec<u32>,
    checkpoint_bytes: u64,
    members: Vec<MemberDocument>,
    namespaces: Vec<NamespaceDocument>,
}

#[derive(Serialize)]
struct MemberDocument {
    member: u16,
    path: String,
    device: String,
    state: &'static str,
    rebuilt: Option<u32>,
    since: u64,
}

#[derive(Serialize)]
struct NamespaceDocument {
    slot: usize,
    uuid: String,
    mode: &'static str,
    generation: u32,
    reservation: u64,
}

#[derive(Serialize)]
struct GroupDocument {
    shard: u16,
    group: u32,
    state: &'static str,
    incarnation: u64,
    opened: u64,
    stripes: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<StripeDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entries: Vec<EntryDocument>,
}

#[derive(Serialize)]
struct StripeDocument {
    row: u32,
    kind: &'static str,
    stripe: Option<u64>,
    committed: Option<u64>,
    rows: Option<u32>,
    width: Option<u8>,
    entries: Option<u32>,
    copies: usize,
}

#[derive(Serialize)]
struct EntryDocument {
    key: String,
    kind: &'static str,
    slot: u16,
    generation: u32,
    sequence: u64,
    length: u32,
    column: usize,
    row: u32,
    byte: usize,
    crc: String,
}

fn labels(devices: &PoolDevices, document: &mut Document, output: &mut Output) -> Result<()> {
    let members = devices.label().geometry.members();
    document.labels = (0..members)
        .map(|member| {
            let label = devices.label_of(member);
            LabelDocument {
                member,
                path: member_path(devices, member),
                device: label.map(|label| uuid(label.device)),
                replaces: label.filter(|label| label.replaces != [0; 16]).map(|label| uuid(label.replaces)),
            }
        })
        .collect();
    document.pool = Some(PoolDocument::new(devices.label()));
    if output.is_json() {
        return Ok(());
    }
    output.line(section(devices.label(), false))?;
    let mut table = Table::new(&[
        ("\nMEMBER", Align::Right),
        ("DEVICE", Align::Left),
        ("PATH", Align::Left),
        ("REPLACES", Align::Left),
    ]);
    for label in &document.labels {
        table.row(vec![
            label.member.to_string(),
            label.device.clone().unwrap_or_default(),
            label.path.clone(),
            label.replaces.clone().unwrap_or_default(),
        ]);
    }
    Ok(output.line(table)?)
}

fn superblock(
    devices: &PoolDevices,
    browser: &Browser<'_>,
    shard: u16,
    document: &mut Document,
    output: &mut Output,
) -> Result<()> {
    let superblock = browser.superblock();
    let members = superblock.members.iter().zip(0..).map(|(member, number)| {
        let (state, rebuilt) = match member.state {
            MemberState::Live => ("live", None),
            MemberState::Failed => ("failed", None),
            MemberState::Rebuilding { rebuilt } => ("rebuilding", Some(rebuilt)),
        };
        let path = member_path(devices, number);
        MemberDocument { member: number, path, device: uuid(member.device), state, rebuilt, since: member.since }
    });
    let used = superblock.namespaces.iter().enumerate().filter(|(_, namespace)| namespace.used);
    let namespaces = used.map(|(slot, namespace)| NamespaceDocument {
        slot,
        uuid: uuid(namespace.uuid),
        mode: match namespace.mode {
            NamespaceMode::Store => "store",
            NamespaceMode::Cache => "cache",
        },
        generation: namespace.generation,
        reservation: namespace.reservation,
    });
    let found = SuperblockDocument {
        shard,
        epoch: superblock.epoch,
        clean: superblock.clean,
        sequence: superblock.sequence,
        incarnation: superblock.incarnation,
        stripe: superblock.stripe,
        checkpoint: superblock.checkpoint.clone(),
        checkpoint_bytes: superblock.checkpoint_bytes,
        members: members.collect(),
        namespaces: namespaces.collect(),
    };
    if !output.is_json() {
        let clean = if found.clean {
            let groups: Vec<String> = found.checkpoint.iter().map(u32::to_string).collect();
            let at = if groups.is_empty() { String::new() } else { format!(" in groups {}", groups.join(", ")) };
            format!("stopped cleanly, checkpoint of {}{at}", size(found.checkpoint_bytes))
        } else {
            "not stopped cleanly, or never used".to_owned()
        };
        output.line(format_args!(
            "\nShard {shard}: epoch {}, {clean}; sequence {}, incarnation {}, stripe {}",
            found.epoch, found.sequence, found.incarnation, found.stripe
        ))?;
        for member in &found.members {
            let rebuilt = member.rebuilt.map(|rebuilt| format!(" ({rebuilt} groups)")).unwrap_or_default();
            output.line(format_args!("  member {:<3} {}{rebuilt}  {}", member.member, member.state, member.path))?;
        }
        for namespace in &found.namespaces {
            output.line(format_args!(
                "  namespace {} {}, {}, generation {}, {} reserved",
                namespace.slot,
                namespace.uuid,
                namespace.mode,
                namespace.generation,
                size(namespace.reservation)
            ))?;
        }
    }
    document.superblocks.push(found);
    Ok(())
}

fn groups(
    args: &DumpArgs,
    mut browser: Browser<'_>,
    shard: u16,
    subject: &Subject,
    document: &mut Document,
    output: &mut Output,
) -> Result<()> {
    let numbers = args.group.map_or(0..subject.geometry.groups(), |group| group..group + 1);
    for group in numbers {
        let Some(view) = browser.group(group) else {
            if args.group.is_some() && !output.is_json() {
                output.line(format_args!("\nShard {shard} group {group}: free"))?;
            }
            continue;
        };
        let entries = if args.entries { browser.entries(group) } else { Vec::new() };
        let entries = entries.iter().map(|entry| {
            let (column, row, byte) = subject.geometry.resolve(entry.location);
            EntryDocument {
                key: entry.key.to_string(),
                kind: match entry.kind {
                    EntryKind::Value => "value",
                    EntryKind::Tombstone => "tombstone",
                },
                slot: entry.slot,
                generation: entry.generation,
                sequence: entry.sequence,
                length: entry.len,
                column,
                row,
                byte,
                crc: format!("{:08x}", entry.crc),
            }
        });
        let headers = view.stripes.iter().filter(|_| args.groups && args.group.is_some()).map(stripe);
        let found = GroupDocument {
            shard,
            group,
            state: match view.kind {
                GroupKind::Open => "open",
                GroupKind::Sealed => "sealed",
                GroupKind::Checkpoint => "checkpoint",
            },
            incarnation: view.incarnation,
            opened: view.opened,
            stripes: view.stripes.len(),
            headers: headers.collect(),
            entries: entries.collect(),
        };
        if output.is_json() {
            document.groups.push(found);
        } else {
            show_group(&found, &view, output)?;
        }
    }
    Ok(())
}

fn stripe(view: &StripeView) -> StripeDocument {
    let header = view.header.as_ref();
    StripeDocument {
        row: view.row,
        kind: match header.map(|header| header.kind) {
            Some(StripeKind::Data) => "data",
            Some(StripeKind::Footer) => "footer",
            Some(StripeKind::Checkpoint) => "checkpoint",
            Some(StripeKind::Freed) => "freed",
            None => "lost",
        },
        stripe: header.map(|header| header.stripe),
        committed: header.map(|header| header.committed),
        rows: header.map(|header| header.rows),
        width: header.map(|header| header.width),
        entries: header.map(|header| header.entries),
        copies: view.copies,
    }
}

fn show_group(found: &GroupDocument, view: &GroupView, output: &mut Output) -> Result<()> {
    output.line(format_args!(
        "\nShard {} group {}: {}, incarnation {}, opened with sequence {}, {} headers",
        found.shard,
        found.group,
        found.state,
        found.incarnation,
        found.opened,
        view.stripes.len()
    ))?;
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    if !found.headers.is_empty() {
        let names = ["ROW", "STRIPE", "COMMITTED", "ROWS", "WIDTH", "ENTRIES", "COPIES"];
        let mut columns = vec![("KIND", Align::Left)];
        columns.extend(names.map(|name| (name, Align::Right)));
        let mut table = Table::new(&columns).indented(2);
        for stripe in &found.headers {
            table.row(vec![
                stripe.kind.to_owned(),
                stripe.row.to_string(),
                number(stripe.stripe),
                number(stripe.committed),
                number(stripe.rows.map(u64::from)),
                number(stripe.width.map(u64::from)),
                number(stripe.entries.map(u64::from)),
                stripe.copies.to_string(),
            ]);
        }
        output.line(table)?;
    }
    if !found.entries.is_empty() {
        let mut table = Table::new(&[
            ("KEY", Align::Left),
            ("KIND", Align::Left),
            ("SLOT", Align::Right),
            ("GENERATION", Align::Right),
            ("SEQUENCE", Align::Right),
            ("LENGTH", Align::Right),
            ("COLUMN", Align::Right),
            ("ROW", Align::Right),
            ("BYTE", Align::Right),
            ("CHECKSUM", Align::Left),
        ])
        .indented(2);
        for entry in &found.entries {
            let place = |text: String| if entry.kind == "value" { text } else { "-".to_owned() };
            table.row(vec![
                entry.key.clone(),
                entry.kind.to_owned(),
                entry.slot.to_string(),
                entry.generation.to_string(),
                entry.sequence.to_string(),
                entry.length.to_string(),
                place(entry.column.to_string()),
                place(entry.row.to_string()),
                place(entry.byte.to_string()),
                entry.crc.clone(),
            ]);
        }
        output.line(table)?;
    }
    Ok(())
}

/// Finds a value without the index, in the shard of its key unless another is asked for.
fn record(args: &DumpArgs, key: Key, subject: &Subject, io: &mut PoolIo, output: &mut Output) -> Result<Exit> {
    let mut seen = Vec::new();
    for shard in [args.shard.unwrap_or_else(|| shard_of(&key, subject.geometry.shards()))] {
        let mut browser = browser(io, subject, shard)?;
        let slots: Vec<(u16, uuid::Uuid)> = (0..)
            .zip(&browser.superblock().namespaces)
            .filter(|(_, namespace)| namespace.used)
            .map(|(slot, namespace)| (slot, uuid::Uuid::from_bytes(namespace.uuid)))
            .collect();
        for (slot, namespace) in slots {
            if args.namespace.is_some_and(|wanted| wanted != namespace) {
                continue;
            }
            if let Some((group, entry)) = browser.find(slot, key).filter(|(_, e)| e.kind == EntryKind::Value) {
                seen.push((shard, namespace, group, entry));
            }
        }
    }
    let (shard, _, group, entry) = match seen.as_slice() {
        [] => return Err(coded(Exit::KeyMissing, format!("{key} does not exist"))),
        [one] => *one,
        several => {
            let names: Vec<String> = several.iter().map(|(_, namespace, ..)| namespace.to_string()).collect();
            return Err(usage(format!(
                "{key} is in several namespaces: {}; say which with --namespace",
                names.join(", ")
            )));
        }
    };
    let value = browser(io, subject, shard)?.value(group, &entry);
    let value = value.map_err(|why| coded(Exit::Check, format!("{key} cannot be read: {why}")))?;
    match &args.output {
        Some(path) => {
            fs::write(path, &value).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("{key}: {} bytes written to {}", value.len(), path.display());
        }
        None => output.bytes(&value)?,
    }
    Ok(Exit::Success)
}
