//! Fabrics commands (section 6): Connect, Property Get and Set, Disconnect, Authentication Send and Receive.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::sqe::PSDT_SGL;
use crate::text::{Hex, Shown};
use crate::{AdminOpcode, FabricsType, Property, SglDescriptor, Sqe, U16, U32, U64};

/// CNTLID in Connect data: any controller of the dynamic controller model.
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// CNTLID in Connect data: any static controller.
pub const CNTLID_STATIC_ANY: u16 = 0xfffe;
/// Largest controller identifier that a controller can have.
pub const CNTLID_MAX: u16 = 0xffef;
/// Smallest SQSIZE of an admin queue, 0's based: 32 entries.
pub const ADMIN_SQSIZE_MIN: u16 = 31;

/// Bytes 0 to 39 of every Fabrics command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FabricsHead {
    /// Opcode: 7Fh.
    pub opcode: u8,
    /// PSDT and reserved bits; see [`Sqe::flags`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// FCTYPE; see [`FabricsType`].
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 19],
    /// SGL1: the data, if the command has any.
    pub sgl1: SglDescriptor,
}
assert_layout!(FabricsHead, 40, opcode @ 0, flags @ 1, cid @ 2, fctype @ 4, sgl1 @ 24);

impl FabricsHead {
    /// The head of a command of type `fctype`.
    #[must_use]
    pub fn new(fctype: FabricsType) -> Self {
        Self { opcode: AdminOpcode::FABRICS.0, flags: PSDT_SGL, fctype: fctype.0, ..Self::default() }
    }
}

bitflags::bitflags! {
    /// CATTR of Connect.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ConnectAttributes: u8 {
        /// Bits 1:0: priority class, if weighted round robin is in use.
        const PRIORITY_CLASS = 0b11;
        /// Bit 2: the host does not want SQ flow control.
        const DISABLE_SQ_FLOW_CONTROL = 1 << 2;
        /// Bit 3: the host may delete this I/O queue with Disconnect.
        const INDIVIDUAL_IO_QUEUE_DELETION = 1 << 3;
        const _ = !0;
    }
}

/// Connect (section 6.3); its data is [`ConnectData`].
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectCmd {
    /// Common part.
    pub head: FabricsHead,
    /// RECFMT: 0.
    pub recfmt: U16,
    /// QID: 0 admin queue, otherwise I/O queue.
    pub qid: U16,
    /// SQSIZE: queue entries, 0's based.
    pub sqsize: U16,
    /// CATTR; see [`ConnectAttributes`].
    pub cattr: u8,
    /// Reserved.
    pub rsvd47: u8,
    /// KATO: keep alive timeout, milliseconds; 0 disables the timer. Reserved for I/O queues.
    pub kato: U32,
    /// Reserved.
    pub rsvd52: [u8; 12],
}
assert_layout!(ConnectCmd, 64, head @ 0, recfmt @ 40, qid @ 42, sqsize @ 44, cattr @ 46, kato @ 48);
command_view!(ConnectCmd);
impl_debug!(ConnectCmd, s => {
    cid: s.head.cid.get(), sgl1: s.head.sgl1, recfmt: s.recfmt.get(), qid: s.qid.get(), sqsize: s.sqsize.get(),
    cattr: s.cattr(), kato: s.kato.get(),
});

impl ConnectCmd {
    /// A Connect of queue `qid` with `sqsize` entries (0's based) and a keep alive timeout of `kato` milliseconds.
    #[must_use]
    pub fn new(qid: u16, sqsize: u16, kato: u32) -> Self {
        Self {
            head: FabricsHead::new(FabricsType::CONNECT),
            recfmt: 0.into(),
            qid: qid.into(),
            sqsize: sqsize.into(),
            cattr: 0,
            rsvd47: 0,
            kato: kato.into(),
            rsvd52: [0; 12],
        }
    }

    /// The attributes, unknown bits kept.
    #[must_use]
    pub const fn cattr(&self) -> ConnectAttributes {
        ConnectAttributes::from_bits_retain(self.cattr)
    }
}

/// Data of Connect (section 6.3, figure "Connect Command - Data").
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID: host identifier, 128 bits.
    pub hostid: [u8; 16],
    /// CNTLID: [`CNTLID_DYNAMIC`] for an admin queue, the controller for an I/O queue.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd18: [u8; 238],
    /// SUBNQN: NVM subsystem NQN, UTF-8, NUL-terminated; see [`crate::Nqn::from_field`].
    pub subnqn: [u8; 256],
    /// HOSTNQN: host NQN, UTF-8, NUL-terminated.
    pub hostnqn: [u8; 256],
    /// Reserved.
    pub rsvd768: [u8; 256],
}
assert_layout!(ConnectData, 1024, hostid @ 0, cntlid @ 16, subnqn @ 256, hostnqn @ 512, rsvd768 @ 768);
zeroed!(ConnectData);
impl_debug!(ConnectData, s => {
    hostid: Hex(&s.hostid), cntlid: s.cntlid.get(), subnqn: Shown(&s.subnqn), hostnqn: Shown(&s.hostnqn),
});

impl ConnectData {
    /// Connect data with these identities.
    #[must_use]
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &crate::Nqn, hostnqn: &crate::Nqn) -> Self {
        Self { hostid, cntlid: cntlid.into(), subnqn: subnqn.to_field(), hostnqn: hostnqn.to_field(), ..Self::zeroed() }
    }
}

/// Completion dword 0 of a successful Connect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ConnectResult(pub u32);

bit_fields! {
    ConnectResult(u32)
    fields {
        /// CNTLID: the controller that the host is now associated with.
        cntlid / with_cntlid: u16 = 0, 16;
    }
    bits {
        /// AUTHREQ.ATR: authentication (DH-HMAC-CHAP and the like) is required.
        atr / with_atr = 17;
        /// AUTHREQ.ASCR: authentication over a secure channel is required.
        ascr / with_ascr = 18;
    }
}

/// Completion dword 0 of a Connect that failed with Connect Invalid Parameters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ConnectError(pub u32);

bit_fields! {
    ConnectError(u32)
    fields {
        /// IPO: offset of the parameter that is wrong, bytes.
        ipo / with_ipo: u16 = 0, 16;
    }
    bits {
        /// IATTR bit 0: IPO counts from the start of the data (1) or of the queue entry (0).
        in_data / with_in_data = 16;
    }
}

impl ConnectError {
    /// The parameter at byte `ipo` of the queue entry is wrong.
    #[must_use]
    pub const fn command(ipo: u16) -> Self {
        Self(0).with_ipo(ipo)
    }

    /// The parameter at byte `ipo` of the Connect data is wrong.
    #[must_use]
    pub const fn data(ipo: u16) -> Self {
        Self(0).with_ipo(ipo).with_in_data(true)
    }

    /// Names the parameter, for messages to people.
    #[must_use]
    pub const fn parameter(self) -> Option<&'static str> {
        Some(match (self.in_data(), self.ipo()) {
            (false, 40) => "RECFMT",
            (false, 42) => "QID",
            (false, 44) => "SQSIZE",
            (false, 46) => "CATTR",
            (false, 48) => "KATO",
            (true, 0) => "HOSTID",
            (true, 16) => "CNTLID",
            (true, 256) => "SUBNQN",
            (true, 512) => "HOSTNQN",
            _ => return None,
        })
    }
}

/// ATTRIB of Property Get and Property Set, bits 2:0: the property has 4 bytes.
pub const PROPERTY_SIZE_4: u8 = 0;
/// ATTRIB of Property Get, bits 2:0: the property has 8 bytes.
pub const PROPERTY_SIZE_8: u8 = 1;

/// Property Get (section 6.5). The value is in dwords 0 and 1 of the completion.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertyGetCmd {
    /// Common part.
    pub head: FabricsHead,
    /// ATTRIB: size of the property in bits 2:0; [`PROPERTY_SIZE_4`] or [`PROPERTY_SIZE_8`].
    pub attrib: u8,
    /// Reserved.
    pub rsvd41: [u8; 3],
    /// OFST: the property; see [`Property`].
    pub ofst: U32,
    /// Reserved.
    pub rsvd48: [u8; 16],
}
assert_layout!(PropertyGetCmd, 64, head @ 0, attrib @ 40, ofst @ 44);
command_view!(PropertyGetCmd);
impl_debug!(PropertyGetCmd, s => { cid: s.head.cid.get(), property: s.property(), size: s.size() });

impl PropertyGetCmd {
    /// Reads `property`; `None` for one whose size is not known.
    #[must_use]
    pub fn new(property: Property) -> Option<Self> {
        Some(Self {
            head: FabricsHead::new(FabricsType::PROPERTY_GET),
            attrib: attrib_of(property.size()?),
            rsvd41: [0; 3],
            ofst: property.0.into(),
            rsvd48: [0; 16],
        })
    }

    /// The property.
    #[must_use]
    pub const fn property(&self) -> Property {
        Property(self.ofst.get())
    }

    /// Bytes asked for: 4 or 8; `None` for a reserved size.
    #[must_use]
    pub const fn size(&self) -> Option<u8> {
        size_of_attrib(self.attrib)
    }
}

/// Property Set (section 6.6).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertySetCmd {
    /// Common part.
    pub head: FabricsHead,
    /// ATTRIB: size of the property in bits 2:0; [`PROPERTY_SIZE_4`] or [`PROPERTY_SIZE_8`].
    pub attrib: u8,
    /// Reserved.
    pub rsvd41: [u8; 3],
    /// OFST: the property; see [`Property`].
    pub ofst: U32,
    /// VALUE: a 4-byte property uses the low half.
    pub value: U64,
    /// Reserved.
    pub rsvd56: [u8; 8],
}
assert_layout!(PropertySetCmd, 64, head @ 0, attrib @ 40, ofst @ 44, value @ 48);
command_view!(PropertySetCmd);
impl_debug!(PropertySetCmd, s => {
    cid: s.head.cid.get(), property: s.property(), size: s.size(), value: format_args!("{:#x}", s.value.get()),
});

impl PropertySetCmd {
    /// Writes `value` to `property`; `None` for one whose size is not known.
    #[must_use]
    pub fn new(property: Property, value: u64) -> Option<Self> {
        Some(Self {
            head: FabricsHead::new(FabricsType::PROPERTY_SET),
            attrib: attrib_of(property.size()?),
            rsvd41: [0; 3],
            ofst: property.0.into(),
            value: value.into(),
            rsvd56: [0; 8],
        })
    }

    /// The property.
    #[must_use]
    pub const fn property(&self) -> Property {
        Property(self.ofst.get())
    }

    /// Bytes to write: 4 or 8; `None` for a reserved size.
    #[must_use]
    pub const fn size(&self) -> Option<u8> {
        size_of_attrib(self.attrib)
    }
}

/// Disconnect (section 6.4): deletes the I/O queue that it comes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DisconnectCmd {
    /// Common part.
    pub head: FabricsHead,
    /// RECFMT: 0.
    pub recfmt: U16,
    /// Reserved.
    pub rsvd42: [u8; 22],
}
assert_layout!(DisconnectCmd, 64, head @ 0, recfmt @ 40);
command_view!(DisconnectCmd);

impl DisconnectCmd {
    /// A Disconnect.
    #[must_use]
    pub fn new() -> Self {
        Self { head: FabricsHead::new(FabricsType::DISCONNECT), recfmt: 0.into(), rsvd42: [0; 22] }
    }
}

impl Default for DisconnectCmd {
    fn default() -> Self {
        Self::new()
    }
}

/// Authentication Send (section 6.2) and Authentication Receive (section 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AuthCmd {
    /// Common part.
    pub head: FabricsHead,
    /// Reserved.
    pub rsvd40: u8,
    /// SPSP0: low byte of the protocol specific field, 1.
    pub spsp0: u8,
    /// SPSP1: high byte of the protocol specific field, 1.
    pub spsp1: u8,
    /// SECP: security protocol, [`SECP_NVME`].
    pub secp: u8,
    /// TL of Authentication Send, AL of Authentication Receive: bytes of data.
    pub length: U32,
    /// Reserved.
    pub rsvd48: [u8; 16],
}
assert_layout!(AuthCmd, 64, head @ 0, spsp0 @ 41, spsp1 @ 42, secp @ 43, length @ 44);
command_view!(AuthCmd);

/// SECP of NVMe in-band authentication.
pub const SECP_NVME: u8 = 0xe9;

impl AuthCmd {
    /// Authentication Send (`AUTH_SEND`) or Receive (`AUTH_RECV`) of `length` bytes.
    #[must_use]
    pub fn new(fctype: FabricsType, length: u32) -> Self {
        Self {
            head: FabricsHead::new(fctype),
            rsvd40: 0,
            spsp0: 1,
            spsp1: 1,
            secp: SECP_NVME,
            length: length.into(),
            rsvd48: [0; 16],
        }
    }
}

/// FCTYPE of a command whose opcode is 7Fh; `None` for any other opcode.
#[must_use]
pub fn fabrics_type(sqe: &Sqe) -> Option<FabricsType> {
    (sqe.opcode == AdminOpcode::FABRICS.0).then(|| FabricsType(sqe.fctype()))
}

const fn attrib_of(size: u8) -> u8 {
    if size == 8 { PROPERTY_SIZE_8 } else { PROPERTY_SIZE_4 }
}

const fn size_of_attrib(attrib: u8) -> Option<u8> {
    match attrib & 0b111 {
        PROPERTY_SIZE_4 => Some(4),
        PROPERTY_SIZE_8 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_error_names_its_parameter() {
        assert_eq!(ConnectError::data(256).0, 0x0001_0100);
        assert_eq!(ConnectError::data(256).parameter(), Some("SUBNQN"));
        assert_eq!(ConnectError::command(44).0, 44);
        assert_eq!(ConnectError::command(44).parameter(), Some("SQSIZE"));
        assert_eq!(ConnectError::command(256).parameter(), None);
    }

    #[test]
    fn property_sizes() {
        let get = PropertyGetCmd::new(Property::CAP).unwrap();
        assert_eq!((get.size(), get.attrib), (Some(8), 1));
        let set = PropertySetCmd::new(Property::CC, 0x0046_0061).unwrap();
        assert_eq!((set.size(), set.attrib), (Some(4), 0));
        assert_eq!(PropertyGetCmd::new(Property(0x1000)), None);
        assert_eq!(size_of_attrib(2), None);
    }

    #[test]
    fn fabrics_type_needs_the_fabrics_opcode() {
        assert_eq!(fabrics_type(&DisconnectCmd::new().to_sqe()), Some(FabricsType::DISCONNECT));
        assert_eq!(fabrics_type(&Sqe::new(AdminOpcode::IDENTIFY)), None);
    }
}
