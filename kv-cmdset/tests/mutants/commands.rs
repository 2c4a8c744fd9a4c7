//! Faults in what surrounds the commands.

use kvof_kv::{KvOpcode, KvPort, Status};

use super::{Mutant, NSID, altered, is, mutant, status};

pub(super) fn mutants() -> Vec<Mutant> {
    vec![
        mutant("the NSID is not looked at", &["nsid.zero", "nsid.broadcast", "nsid.unused"], |i, c, d| {
            altered(i, c, d, |c| c.nsid = NSID)
        }),
        mutant("NSID FFFFFFFFh means each namespace", &["nsid.broadcast"], |i, c, d| {
            altered(i, c, d, |c| {
                if c.nsid == u32::MAX {
                    c.nsid = NSID;
                }
            })
        }),
        mutant("unknown opcodes succeed", &["opcode.unknown"], |i, c, d| {
            let reply = i.port.execute(c, d)?;
            if reply.status == Status::INVALID_OPCODE { status(Status::SUCCESS) } else { Ok(reply) }
        }),
        mutant("the opcode has seven bits", &["opcode.unknown"], |i, c, d| {
            altered(i, c, d, |c| {
                if c.opcode.0 == 0x41 {
                    c.opcode = KvOpcode::EXIST;
                }
            })
        }),
        mutant("CDW12 must be zero", &["reserved.fields"], |i, c, d| {
            if c.cdw12 != 0 { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("option bit 3 is SIKE too", &["reserved.fields"], |i, c, d| {
            altered(i, c, d, |c| c.options |= if is(c, KvOpcode::STORE) { c.options >> 3 & 1 } else { 0 })
        }),
        mutant("the key length has 16 bits", &["reserved.fields"], |i, c, d| {
            if c.cdw11_upper != 0 { status(Status::INVALID_KEY_SIZE) } else { i.port.execute(c, d) }
        }),
        Mutant {
            identify: |bytes| bytes[25] = 16,
            ..mutant("NKVF is more than there can be", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
        Mutant {
            identify: |bytes| bytes[76..80].copy_from_slice(&4096_u32.to_le_bytes()),
            ..mutant("KVVML of Identify is not what holds", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
        Mutant {
            identify: |bytes| bytes[88] = 16,
            ..mutant("there are more formats than NKVF says", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
    ]
}
