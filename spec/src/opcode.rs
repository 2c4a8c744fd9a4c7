//! Opcodes and command set identifiers.

open_enum! {
    /// Admin command opcodes (section 5, figure "Opcodes for Admin Commands").
    pub struct AdminOpcode(u8) {
        /// Not available over fabrics.
        DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
        /// Not available over fabrics.
        CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
        /// Section 5.16.
        GET_LOG_PAGE = 0x02, "Get Log Page";
        /// Not available over fabrics.
        DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
        /// Not available over fabrics.
        CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
        /// Section 5.17.
        IDENTIFY = 0x06, "Identify";
        /// Section 5.1.
        ABORT = 0x08, "Abort";
        /// Section 5.27.
        SET_FEATURES = 0x09, "Set Features";
        /// Section 5.15.
        GET_FEATURES = 0x0a, "Get Features";
        /// Section 5.2.
        ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
        /// Section 5.23.
        NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
        /// Section 5.12.
        FIRMWARE_COMMIT = 0x10, "Firmware Commit";
        /// Section 5.13.
        FIRMWARE_DOWNLOAD = 0x11, "Firmware Image Download";
        /// Section 5.18.
        KEEP_ALIVE = 0x18, "Keep Alive";
        /// Fabrics commands; the command is in FCTYPE.
        FABRICS = 0x7f, "Fabrics";
        /// Section 5.14.
        FORMAT_NVM = 0x80, "Format NVM";
    }
}

open_enum! {
    /// Fabrics command types (Fabrics, FCTYPE in byte 4 of the command).
    pub struct FabricsType(u8) {
        /// Section 6.6.
        PROPERTY_SET = 0x00, "Property Set";
        /// Section 6.3.
        CONNECT = 0x01, "Connect";
        /// Section 6.5.
        PROPERTY_GET = 0x04, "Property Get";
        /// Section 6.2.
        AUTH_SEND = 0x05, "Authentication Send";
        /// Section 6.1.
        AUTH_RECV = 0x06, "Authentication Receive";
        /// Section 6.4.
        DISCONNECT = 0x08, "Disconnect";
    }
}

open_enum! {
    /// NVM command set I/O opcodes (NVM section 3).
    pub struct NvmOpcode(u8) {
        /// Base section 7.1.
        FLUSH = 0x00, "Flush";
        /// NVM section 3.2.6.
        WRITE = 0x01, "Write";
        /// NVM section 3.2.4.
        READ = 0x02, "Read";
        /// NVM section 3.2.7.
        WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
        /// NVM section 3.2.1.
        COMPARE = 0x05, "Compare";
        /// NVM section 3.2.8.
        WRITE_ZEROES = 0x08, "Write Zeroes";
        /// NVM section 3.2.3.
        DATASET_MANAGEMENT = 0x09, "Dataset Management";
    }
}

open_enum! {
    /// Key Value command set I/O opcodes (KV section 3).
    pub struct KvOpcode(u8) {
        /// Base section 7.1.
        FLUSH = 0x00, "Flush";
        /// KV section 3.2.5.
        STORE = 0x01, "Store";
        /// KV section 3.2.4.
        RETRIEVE = 0x02, "Retrieve";
        /// KV section 3.2.3.
        LIST = 0x06, "List";
        /// KV section 3.2.1.
        DELETE = 0x10, "Delete";
        /// KV section 3.2.2.
        EXIST = 0x14, "Exist";
    }
}

open_enum! {
    /// Command set identifier (CSI).
    pub struct Csi(u8) {
        /// Logical blocks.
        NVM = 0x00, "NVM";
        /// Keys and values.
        KV = 0x01, "Key Value";
        /// Zones.
        ZNS = 0x02, "Zoned Namespace";
        /// Subsystem local memory.
        SLM = 0x03, "Subsystem Local Memory";
        /// Programs.
        COMPUTATIONAL_PROGRAMS = 0x04, "Computational Programs";
    }
}
