//! Status field of a completion (section 3.3.3.2.1): what came of a command, in 15 bits.

/// Status Field without the phase tag: SC in bits 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14.
///
/// This is also the value that Linux returns from its passthrough calls and that `nvme-cli` prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Status(pub u16);

/// Status code type, generic command status.
pub const SCT_GENERIC: u8 = 0;
/// Status code type, command specific status.
pub const SCT_COMMAND_SPECIFIC: u8 = 1;
/// Status code type, media and data integrity errors.
pub const SCT_MEDIA: u8 = 2;
/// Status code type, path related status.
pub const SCT_PATH: u8 = 3;

const DNR: u16 = 1 << 14;
const MORE: u16 = 1 << 13;
const CODE_MASK: u16 = 0x07ff;

macro_rules! statuses {
    ($( $(#[$meta:meta])* $name:ident = $sct:ident, $sc:literal, $text:literal; )*) => {
        impl Status {
            $( $(#[$meta])* #[doc = concat!($text, ".")] pub const $name: Self = Self::new($sct, $sc); )*

            /// The specification's name of this status, or `None` for one that this crate does not know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 & CODE_MASK {
                    $( x if x == Self::$name.0 => Some($text), )*
                    _ => None,
                }
            }

            /// Every status that has a name here.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];
        }
    };
}

statuses! {
    SUCCESS = SCT_GENERIC, 0x00, "Successful Completion";
    INVALID_OPCODE = SCT_GENERIC, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = SCT_GENERIC, 0x02, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = SCT_GENERIC, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = SCT_GENERIC, 0x04, "Data Transfer Error";
    ABORTED_POWER_LOSS = SCT_GENERIC, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = SCT_GENERIC, 0x06, "Internal Error";
    ABORT_REQUESTED = SCT_GENERIC, 0x07, "Command Abort Requested";
    ABORTED_SQ_DELETION = SCT_GENERIC, 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = SCT_GENERIC, 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = SCT_GENERIC, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE_OR_FORMAT = SCT_GENERIC, 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = SCT_GENERIC, 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT = SCT_GENERIC, 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = SCT_GENERIC, 0x0e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = SCT_GENERIC, 0x0f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = SCT_GENERIC, 0x10, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = SCT_GENERIC, 0x11, "SGL Descriptor Type Invalid";
    PRP_OFFSET_INVALID = SCT_GENERIC, 0x13, "PRP Offset Invalid";
    OPERATION_DENIED = SCT_GENERIC, 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = SCT_GENERIC, 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = SCT_GENERIC, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = SCT_GENERIC, 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_INVALID = SCT_GENERIC, 0x1a, "Keep Alive Timeout Invalid";
    SANITIZE_IN_PROGRESS = SCT_GENERIC, 0x1d, "Sanitize In Progress";
    SGL_DATA_BLOCK_GRANULARITY = SCT_GENERIC, 0x1e, "SGL Data Block Granularity Invalid";
    COMMAND_NOT_SUPPORTED_IN_CMB = SCT_GENERIC, 0x1f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = SCT_GENERIC, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = SCT_GENERIC, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = SCT_GENERIC, 0x22, "Transient Transport Error";
    LBA_OUT_OF_RANGE = SCT_GENERIC, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = SCT_GENERIC, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = SCT_GENERIC, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = SCT_GENERIC, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = SCT_GENERIC, 0x84, "Format In Progress";
    INVALID_VALUE_SIZE = SCT_GENERIC, 0x85, "Invalid Value Size";
    INVALID_KEY_SIZE = SCT_GENERIC, 0x86, "Invalid Key Size";
    KEY_DOES_NOT_EXIST = SCT_GENERIC, 0x87, "KV Key Does Not Exist";
    UNRECOVERED_ERROR = SCT_GENERIC, 0x88, "Unrecovered Error";
    KEY_EXISTS = SCT_GENERIC, 0x89, "Key Exists";
    CQ_INVALID = SCT_COMMAND_SPECIFIC, 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_ID = SCT_COMMAND_SPECIFIC, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = SCT_COMMAND_SPECIFIC, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = SCT_COMMAND_SPECIFIC, 0x03, "Abort Command Limit Exceeded";
    AER_LIMIT_EXCEEDED = SCT_COMMAND_SPECIFIC, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_LOG_PAGE = SCT_COMMAND_SPECIFIC, 0x09, "Invalid Log Page";
    FEATURE_NOT_SAVEABLE = SCT_COMMAND_SPECIFIC, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = SCT_COMMAND_SPECIFIC, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = SCT_COMMAND_SPECIFIC, 0x0f, "Feature Not Namespace Specific";
    INVALID_CONTROLLER_ID = SCT_COMMAND_SPECIFIC, 0x1f, "Invalid Controller Identifier";
    IOCS_NOT_SUPPORTED = SCT_COMMAND_SPECIFIC, 0x29, "I/O Command Set Not Supported";
    IOCS_NOT_ENABLED = SCT_COMMAND_SPECIFIC, 0x2a, "I/O Command Set Not Enabled";
    IOCS_COMBINATION_REJECTED = SCT_COMMAND_SPECIFIC, 0x2b, "I/O Command Set Combination Rejected";
    INVALID_IOCS = SCT_COMMAND_SPECIFIC, 0x2c, "Invalid I/O Command Set";
    CONNECT_INCOMPATIBLE_FORMAT = SCT_COMMAND_SPECIFIC, 0x80, "Connect Incompatible Format";
    CONNECT_CONTROLLER_BUSY = SCT_COMMAND_SPECIFIC, 0x81, "Connect Controller Busy";
    CONNECT_INVALID_PARAMETERS = SCT_COMMAND_SPECIFIC, 0x82, "Connect Invalid Parameters";
    CONNECT_RESTART_DISCOVERY = SCT_COMMAND_SPECIFIC, 0x83, "Connect Restart Discovery";
    CONNECT_INVALID_HOST = SCT_COMMAND_SPECIFIC, 0x84, "Connect Invalid Host";
    DISCONNECT_INVALID_QUEUE_TYPE = SCT_COMMAND_SPECIFIC, 0x85, "Invalid Queue Type";
    DISCOVER_RESTART = SCT_COMMAND_SPECIFIC, 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = SCT_COMMAND_SPECIFIC, 0x91, "Authentication Required";
    WRITE_FAULT = SCT_MEDIA, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = SCT_MEDIA, 0x81, "Unrecovered Read Error";
    COMPARE_FAILURE = SCT_MEDIA, 0x85, "Compare Failure";
    INTERNAL_PATH_ERROR = SCT_PATH, 0x00, "Internal Path Error";
    CONTROLLER_PATHING_ERROR = SCT_PATH, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = SCT_PATH, 0x70, "Host Pathing Error";
    HOST_ABORTED = SCT_PATH, 0x71, "Command Aborted By Host";
}

impl Status {
    /// The status with status code type `sct` (0 to 7) and status code `sc`.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct as u16) & 0x7) << 8 | sc as u16)
    }

    /// From the 16-bit field of a completion, whose bit 0 is the phase tag.
    #[must_use]
    pub const fn from_wire(field: u16) -> Self {
        Self(field >> 1)
    }

    /// As the 16-bit field of a completion, phase tag zero.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0 << 1
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Status code type.
    #[must_use]
    pub const fn sct(self) -> u8 {
        ((self.0 >> 8) & 0x7) as u8
    }

    /// Do Not Retry: the same command is expected to fail again.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// More: the Error Information log has details.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// This status with Do Not Retry set.
    #[must_use]
    pub const fn with_dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// Status code type and code alone, for comparison: DNR, M and CRD cleared.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & CODE_MASK)
    }

    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & CODE_MASK == 0
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (SCT {:X}h, SC {:02X}h", self.sct(), self.sc())?,
            None => write!(f, "unknown status (SCT {:X}h, SC {:02X}h", self.sct(), self.sc())?,
        }
        f.write_str(if self.dnr() { ", DNR)" } else { ")" })
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Status({:#06x} {})", self.0, self.name().unwrap_or("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_leaves_the_phase_bit_out() {
        assert_eq!(Status::KEY_DOES_NOT_EXIST.to_wire(), 0x010e);
        assert_eq!(Status::KEY_DOES_NOT_EXIST.with_dnr().to_wire(), 0x810e);
        assert_eq!(Status::from_wire(0x810f), Status::KEY_DOES_NOT_EXIST.with_dnr());
        assert_eq!(Status::CONNECT_INVALID_PARAMETERS.with_dnr().0, 0x4182);
    }

    #[test]
    fn names_are_unique_and_found_whatever_the_flags() {
        for (i, s) in Status::ALL.iter().enumerate() {
            assert!(s.with_dnr().name().is_some());
            assert_eq!(s.with_dnr().code(), *s);
            for t in &Status::ALL[i + 1..] {
                assert_ne!(s, t);
                assert_ne!(s.name(), t.name());
            }
        }
    }
}
