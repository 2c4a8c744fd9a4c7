//! `kvof discover`: the subsystems that a discovery controller tells of.

use anyhow::Result;
use clap::Args;
use kvof_initiator::{DiscoveryEntry, SubsystemType, blocking::block_on, discover};
use serde::Serialize;

use crate::{
    cli::{HostArgs, Place},
    failure::{Exit, connecting},
    output::{Align, Output, Table},
};

/// List the subsystems that this host may use at ADDRESS.
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Serialize)]
struct Entry<'a> {
    subnqn: &'a str,
    subtype: String,
    transport: &'static str,
    address_family: String,
    traddr: &'a str,
    trsvcid: &'a str,
    portid: u16,
    cntlid: u16,
    admin_queue_entries: u16,
    flags: u16,
    address: Option<String>,
}

pub(crate) fn run(args: &DiscoverArgs, output: &mut Output) -> Result<Exit> {
    let address = args.place.resolve()?;
    let entries = block_on(discover(&address, &args.host.options())).map_err(|error| connecting(&error))?;
    if output.is_json() {
        output.document(&entries.iter().map(document).collect::<Vec<_>>())?;
    } else if entries.is_empty() {
        output.line(format_args!("{address} tells of no subsystem that this host may use"))?;
    } else {
        output.line(table(&entries))?;
    }
    Ok(Exit::Success)
}

fn document(entry: &DiscoveryEntry) -> Entry<'_> {
    Entry {
        subnqn: &entry.subnqn,
        subtype: kind(entry),
        transport: entry.transport(),
        address_family: entry.adrfam.to_string(),
        traddr: &entry.traddr,
        trsvcid: &entry.trsvcid,
        portid: entry.portid,
        cntlid: entry.cntlid,
        admin_queue_entries: entry.asqsz,
        flags: entry.eflags.bits(),
        address: entry.address().map(|a| a.to_string()),
    }
}

fn table(entries: &[DiscoveryEntry]) -> Table {
    let mut table = Table::new(&[
        ("SUBSYSTEM", Align::Left),
        ("ADDRESS", Align::Left),
        ("KIND", Align::Left),
        ("PORT ID", Align::Right),
    ]);
    for entry in entries {
        let address = entry.address().map_or_else(
            || format!("{}://{} {}", entry.transport(), entry.traddr, entry.trsvcid).trim_end().to_owned(),
            |address| address.to_string(),
        );
        table.row(vec![entry.subnqn.clone(), address, kind(entry), entry.portid.to_string()]);
    }
    table
}

fn kind(entry: &DiscoveryEntry) -> String {
    match entry.subtype {
        SubsystemType::NVM => "nvm".to_owned(),
        SubsystemType::CURRENT_DISCOVERY => "discovery".to_owned(),
        SubsystemType::REFERRAL => "referral".to_owned(),
        other => format!("type {}", other.0),
    }
}
