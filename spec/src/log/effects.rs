//! Commands Supported and Effects (LID 05h, section 5.16.1), one page for each command set (CSI).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::U32;

bitflags::bitflags! {
    /// Commands Supported and Effects data structure: one command.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct CommandEffects: u32 {
        /// CSUPP: the command is supported.
        const CSUPP = 1 << 0;
        /// LBCC: it may change user data.
        const LBCC = 1 << 1;
        /// NCC: it may change a namespace's capabilities.
        const NCC = 1 << 2;
        /// NIC: it may change the inventory of namespaces.
        const NIC = 1 << 3;
        /// CCC: it may change the controller's capabilities.
        const CCC = 1 << 4;
        /// CSE 001b (bits 18:16): no other command to the same namespace may be outstanding.
        const CSE_NAMESPACE = 0b001 << 16;
        /// CSE 010b (bits 18:16): no other command to any namespace may be outstanding.
        const CSE_ALL = 0b010 << 16;
        /// USS: UUID selection is supported.
        const UUID_SELECTION = 1 << 19;
        /// CSP bit 0: the scope is a namespace.
        const SCOPE_NAMESPACE = 1 << 20;
        /// CSP bit 1: the scope is the controller.
        const SCOPE_CONTROLLER = 1 << 21;
        /// CSP bit 2: the scope is an NVM set.
        const SCOPE_NVM_SET = 1 << 22;
        /// CSP bit 3: the scope is an endurance group.
        const SCOPE_ENDURANCE_GROUP = 1 << 23;
        /// CSP bit 4: the scope is a domain.
        const SCOPE_DOMAIN = 1 << 24;
        /// CSP bit 5: the scope is the NVM subsystem.
        const SCOPE_SUBSYSTEM = 1 << 25;
        const _ = !0;
    }
}

/// Commands Supported and Effects log page, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandsSupported {
    /// ACS0 to ACS255: admin commands by opcode; see [`CommandEffects`].
    pub acs: [U32; 256],
    /// IOCS0 to IOCS255: I/O commands by opcode; see [`CommandEffects`].
    pub iocs: [U32; 256],
    /// Reserved.
    pub rsvd2048: [u8; 2048],
}
assert_layout!(CommandsSupported, 4096, acs @ 0, iocs @ 1024, rsvd2048 @ 2048);
zeroed!(CommandsSupported);

impl CommandsSupported {
    /// Effects of admin command `opcode`.
    #[must_use]
    pub fn admin(&self, opcode: impl Into<u8>) -> CommandEffects {
        CommandEffects::from_bits_retain(self.acs[usize::from(opcode.into())].get())
    }

    /// Effects of I/O command `opcode`.
    #[must_use]
    pub fn io(&self, opcode: impl Into<u8>) -> CommandEffects {
        CommandEffects::from_bits_retain(self.iocs[usize::from(opcode.into())].get())
    }

    /// Sets the effects of admin command `opcode`.
    pub fn set_admin(&mut self, opcode: impl Into<u8>, effects: CommandEffects) {
        self.acs[usize::from(opcode.into())] = effects.bits().into();
    }

    /// Sets the effects of I/O command `opcode`.
    pub fn set_io(&mut self, opcode: impl Into<u8>, effects: CommandEffects) {
        self.iocs[usize::from(opcode.into())] = effects.bits().into();
    }
}

/// The commands that are supported, by opcode.
impl core::fmt::Debug for CommandsSupported {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        struct Table<'a>(&'a [U32; 256]);
        impl core::fmt::Debug for Table<'_> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let used = self.0.iter().enumerate().filter(|(_, e)| e.get() != 0);
                f.debug_map()
                    .entries(used.map(|(opcode, e)| (opcode, CommandEffects::from_bits_retain(e.get()))))
                    .finish()
            }
        }
        f.debug_struct("CommandsSupported")
            .field("acs", &Table(&self.acs))
            .field("iocs", &Table(&self.iocs))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdminOpcode, KvOpcode};

    #[test]
    fn tables_are_indexed_by_opcode() {
        let mut page = CommandsSupported::zeroed();
        page.set_io(KvOpcode::STORE, CommandEffects::CSUPP | CommandEffects::LBCC);
        page.set_admin(AdminOpcode::FABRICS, CommandEffects::CSUPP);
        assert_eq!(page.as_bytes()[1024 + 4], 3);
        assert_eq!(page.as_bytes()[0x7f * 4], 1);
        assert_eq!(page.io(KvOpcode::STORE), CommandEffects::CSUPP | CommandEffects::LBCC);
        assert_eq!(page.admin(0xff_u8), CommandEffects::empty());
        assert!(format!("{page:?}").contains("127: CommandEffects(CSUPP)"));
    }
}
