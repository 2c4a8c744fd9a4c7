//! What surrounds the commands: namespace identifiers, opcodes, reserved fields, Identify data.

use kvof_spec::{KvOpcode, Status};

use super::context::{CaseResult, Context, expect_eq, fail, skip};
use super::{COMMANDS, Case, IDENTIFY, Profile};
use crate::{Data, IdentifyKvNamespace, Key, KvCommand, PortError, RetrieveOptions, StoreOptions};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "nsid.zero",
        about: "NSID 0 is Invalid Namespace or Format",
        reference: COMMANDS,
        check: |c| wrong_nsid(c, &[0], Status::INVALID_NAMESPACE_OR_FORMAT, Status::INVALID_FIELD),
    },
    Case {
        name: "nsid.broadcast",
        about: "NSID FFFFFFFFh is Invalid Field in Command",
        reference: COMMANDS,
        check: |c| wrong_nsid(c, &[u32::MAX], Status::INVALID_FIELD, Status::INVALID_NAMESPACE_OR_FORMAT),
    },
    Case {
        name: "nsid.unused",
        about: "an NSID that no namespace has is Invalid Namespace or Format",
        reference: COMMANDS,
        check: |c| {
            let unused = [0x7fff_fff0, 0xffff_fffe, 0x0101_0101];
            wrong_nsid(c, &unused, Status::INVALID_NAMESPACE_OR_FORMAT, Status::INVALID_FIELD)
        },
    },
    Case {
        name: "opcode.unknown",
        about: "opcodes that no command has are Invalid Command Opcode",
        reference: COMMANDS,
        check: unknown_opcode,
    },
    Case {
        name: "reserved.fields",
        about: "reserved fields and option bits do not change what a command does",
        reference: COMMANDS,
        check: reserved_fields,
    },
    Case {
        name: "identify.namespace",
        about: "Identify Namespace for the command set is coherent and gives the limits that hold",
        reference: IDENTIFY,
        check: identify,
    },
];

/// The five commands for `key`, with 16 bytes of data where there are some.
fn all_five(nsid: u32, key: &Key) -> [KvCommand; 5] {
    [
        KvCommand::store(nsid, key, StoreOptions::empty(), 16),
        KvCommand::retrieve(nsid, key, RetrieveOptions::empty(), 16),
        KvCommand::exist(nsid, key),
        KvCommand::list(nsid, None, 16),
        KvCommand::delete(nsid, key),
    ]
}

fn execute(c: &Context<'_>, command: &KvCommand) -> Result<crate::Reply, PortError> {
    let mut buffer = [0xee; 16];
    // Bits 1:0 of the opcode are the direction of its data.
    let data = match command.opcode.0 & 0b11 {
        0b01 => Data::Out(&buffer),
        0b10 => Data::In(&mut buffer),
        _ => Data::None,
    };
    c.port.execute(command, data)
}

fn wrong_nsid(c: &mut Context<'_>, nsids: &[u32], ours: Status, theirs: Status) -> CaseResult {
    let key = c.key(b"nsid")?;
    let value = c.value(16);
    c.store(&key, &value)?;
    for nsid in nsids.iter().filter(|nsid| **nsid != c.info.nsid) {
        for command in all_five(*nsid, &key) {
            let reply = execute(c, &command)?;
            c.expect_any(format_args!("{} with NSID {nsid:#x}", command.opcode), reply, ours, &[theirs])?;
        }
    }
    c.expect_value(&key, &value)
}

/// Opcodes that the command set leaves free: other command sets' reads and writes, reserved ones, vendor specific ones.
const UNKNOWN: [u8; 14] = [0x03, 0x04, 0x05, 0x07, 0x08, 0x09, 0x0a, 0x0c, 0x12, 0x20, 0x41, 0x7e, 0xc0, 0xff];

fn unknown_opcode(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"opcode")?;
    let value = c.value(16);
    c.store(&key, &value)?;
    let mut tried = 0;
    for opcode in UNKNOWN {
        let command = KvCommand { opcode: KvOpcode(opcode), ..KvCommand::exist(c.info.nsid, &key) };
        match execute(c, &command) {
            Err(PortError::Unsupported(_)) => continue,
            other => c.expect(format_args!("opcode {opcode:#04x}"), other?, Status::INVALID_OPCODE)?,
        }
        tried += 1;
    }
    if tried == 0 {
        return skip("this path sends only known opcodes");
    }
    c.expect_value(&key, &value)
}

fn reserved_fields(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"reserved")?;
    for ones in [u32::MAX, 0x0101_0101] {
        let [low, high, ..] = ones.to_le_bytes();
        for mut command in all_five(c.info.nsid, &key) {
            command.cdw12 = ones;
            command.cdw13 = ones;
            command.cdw11_upper = u16::from_le_bytes([low, high]);
            // The option bits that have no meaning: all of them in commands without options.
            command.options |= match command.opcode {
                KvOpcode::STORE => low & !StoreOptions::all().bits(),
                KvOpcode::RETRIEVE => low & !RetrieveOptions::all().bits(),
                _ => low,
            };
            if matches!(command.opcode, KvOpcode::DELETE | KvOpcode::EXIST) {
                command.size = ones;
            }
            let reply = match execute(c, &command) {
                Err(PortError::Unsupported(_)) => continue,
                other => other?,
            };
            let what = format!("{} with reserved bits set", command.opcode);
            c.expect_any(what, reply, Status::SUCCESS, &[Status::INVALID_FIELD])?;
            let length = if command.opcode == KvOpcode::RETRIEVE && reply.status.is_success() { 16 } else { 0 };
            if c.profile == Profile::Kvof {
                expect_eq(format_args!("DW0 of {}", command.opcode), reply.dw0, length)?;
            } else if command.opcode == KvOpcode::STORE && !reply.status.is_success() {
                return Ok(());
            }
        }
        if c.profile == Profile::Kvof {
            c.expect_absent(&key)?;
        }
    }
    Ok(())
}

fn identify(c: &mut Context<'_>) -> CaseResult {
    let Some(bytes) = c.port.admin_identify_namespace() else { return skip("this path has no admin commands") };
    let bytes = bytes?;
    let Some(data) = IdentifyKvNamespace::from_bytes(&bytes) else {
        return fail(format!("Identify gave {} bytes instead of 4096", bytes.len()));
    };
    let format = data.format();
    if !(1..=16).contains(&format.kvkml.get()) {
        return fail(format!("KVKML: expected 1 to 16, got {}", format.kvkml.get()));
    }
    if data.nkvf > 15 || data.kvfc & 0x0f > data.nkvf {
        return fail(format!("NKVF {} (0's based, at most 15) and KVFC {} do not agree", data.nkvf, data.kvfc));
    }
    if let Some(used) = data.kvf.iter().skip(usize::from(data.nkvf) + 1).position(|f| *f != crate::KvFormat::default())
    {
        return fail(format!("KV format {} is not zero, and NKVF is {}", used + usize::from(data.nkvf) + 1, data.nkvf));
    }
    expect_eq("limits by Identify, and as the path gives them", data.limits(), c.info.limits)?;
    if data.nuse.get() > data.nsze.get() {
        return fail(format!("NUSE {} is more than NSZE {}", data.nuse.get(), data.nsze.get()));
    }
    Ok(())
}
