//! Controller properties (section 3.1.3). Over fabrics they are read and written by Property Get and Property Set.

open_enum! {
    /// Offset of a property, bytes.
    pub struct Property(u32) {
        /// 8 bytes; see [`Cap`].
        CAP = 0x00, "Controller Capabilities";
        /// 4 bytes; see [`Vs`].
        VS = 0x08, "Version";
        /// 4 bytes; see [`Cc`].
        CC = 0x14, "Controller Configuration";
        /// 4 bytes; see [`Csts`].
        CSTS = 0x1c, "Controller Status";
        /// 4 bytes; written with [`NSSR_RESET`].
        NSSR = 0x20, "NVM Subsystem Reset";
        /// 4 bytes; see [`Crto`].
        CRTO = 0x68, "Controller Ready Timeouts";
    }
}

impl Property {
    /// Bytes of the property: 8 for CAP, 4 for the other ones that exist over fabrics; `None` for any other offset.
    #[must_use]
    pub const fn size(self) -> Option<u8> {
        match self {
            Self::CAP => Some(8),
            Self::VS | Self::CC | Self::CSTS | Self::NSSR | Self::CRTO => Some(4),
            _ => None,
        }
    }
}

/// The value of NSSR that asks for a subsystem reset: "NVMe".
pub const NSSR_RESET: u32 = 0x4e56_4d65;

/// Controller Capabilities (CAP, section 3.1.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Cap(pub u64);

bit_fields! {
    Cap(u64)
    fields {
        /// MQES: most entries of a queue, 0's based.
        mqes / with_mqes: u16 = 0, 16;
        /// AMS: arbitration mechanisms besides round robin; bit 0 weighted round robin, bit 1 vendor specific.
        ams / with_ams: u8 = 17, 2;
        /// TO: worst time to wait for CSTS.RDY to change, units of 500 ms.
        to / with_to: u8 = 24, 8;
        /// DSTRD: doorbell stride; 0 over fabrics.
        dstrd / with_dstrd: u8 = 32, 4;
        /// CSS: command sets; see the single bits `css_nvm`, `css_iocs` and `css_admin_only`.
        css / with_css: u8 = 37, 8;
        /// CPS: controller power scope.
        cps / with_cps: u8 = 46, 2;
        /// MPSMIN: smallest memory page, 2^(12 + MPSMIN) bytes; the unit of MDTS.
        mpsmin / with_mpsmin: u8 = 48, 4;
        /// MPSMAX: largest memory page, 2^(12 + MPSMAX) bytes.
        mpsmax / with_mpsmax: u8 = 52, 4;
    }
    bits {
        /// CQR: queues are contiguous; 1 over fabrics.
        cqr / with_cqr = 16;
        /// NSSRS: NVM Subsystem Reset is supported.
        nssrs / with_nssrs = 36;
        /// CSS bit 0 (CAP bit 37): the NVM command set.
        css_nvm / with_css_nvm = 37;
        /// CSS bit 6 (CAP bit 43): one or more I/O command sets, listed by Identify CNS 1Ch.
        css_iocs / with_css_iocs = 43;
        /// CSS bit 7 (CAP bit 44): no I/O command set.
        css_admin_only / with_css_admin_only = 44;
        /// BPS: boot partitions.
        bps / with_bps = 45;
        /// PMRS: persistent memory region.
        pmrs / with_pmrs = 56;
        /// CMBS: controller memory buffer.
        cmbs / with_cmbs = 57;
        /// NSSS: NVM subsystem shutdown.
        nsss / with_nsss = 58;
        /// CRMS.CRWMS: ready with media; CRTO is valid.
        crwms / with_crwms = 59;
        /// CRMS.CRIMS: ready independent of media.
        crims / with_crims = 60;
    }
}

impl Cap {
    /// Bytes of the smallest memory page, the unit of MDTS.
    #[must_use]
    pub const fn page_size_min(self) -> u32 {
        1 << (12 + self.mpsmin() as u32)
    }

    /// Entries of the largest queue that the controller allows, 1's based.
    #[must_use]
    pub const fn queue_entries_max(self) -> u32 {
        self.mqes() as u32 + 1
    }
}

/// Version (VS, section 3.1.3.2; also the VER field of Identify Controller).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Vs(pub u32);

bit_fields! {
    Vs(u32)
    fields {
        /// TER: tertiary version.
        ter / with_ter: u8 = 0, 8;
        /// MNR: minor version.
        mnr / with_mnr: u8 = 8, 8;
        /// MJR: major version.
        mjr / with_mjr: u16 = 16, 16;
    }
    bits {}
}

impl Vs {
    /// Revision 1.4.0.
    pub const V1_4: Self = Self::new(1, 4, 0);
    /// Revision 2.0.0.
    pub const V2_0: Self = Self::new(2, 0, 0);

    /// Revision `mjr`.`mnr`.`ter`.
    #[must_use]
    pub const fn new(mjr: u16, mnr: u8, ter: u8) -> Self {
        Self(0).with_mjr(mjr).with_mnr(mnr).with_ter(ter)
    }
}

impl core::fmt::Display for Vs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{}", self.mjr(), self.mnr(), self.ter())
    }
}

/// Controller Configuration (CC, section 3.1.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Cc(pub u32);

bit_fields! {
    Cc(u32)
    fields {
        /// CSS: selected command sets; `CSS_NVM`, `CSS_IOCS` or `CSS_ADMIN_ONLY`.
        css / with_css: u8 = 4, 3;
        /// MPS: memory page size, 2^(12 + MPS) bytes.
        mps / with_mps: u8 = 7, 4;
        /// AMS: arbitration mechanism; 0 round robin.
        ams / with_ams: u8 = 11, 3;
        /// SHN: shutdown notification; `SHN_NONE`, `SHN_NORMAL` or `SHN_ABRUPT`.
        shn / with_shn: u8 = 14, 2;
        /// IOSQES: size of an I/O submission queue entry, 2^IOSQES bytes; 6.
        iosqes / with_iosqes: u8 = 16, 4;
        /// IOCQES: size of an I/O completion queue entry, 2^IOCQES bytes; 4.
        iocqes / with_iocqes: u8 = 20, 4;
    }
    bits {
        /// EN: enable.
        en / with_en = 0;
        /// CRIME: become ready independent of media.
        crime / with_crime = 24;
    }
}

impl Cc {
    /// CSS 000b: NVM command set.
    pub const CSS_NVM: u8 = 0b000;
    /// CSS 110b: all I/O command sets that the controller supports.
    pub const CSS_IOCS: u8 = 0b110;
    /// CSS 111b: admin commands only.
    pub const CSS_ADMIN_ONLY: u8 = 0b111;
    /// SHN 00b: no shutdown.
    pub const SHN_NONE: u8 = 0b00;
    /// SHN 01b: normal shutdown.
    pub const SHN_NORMAL: u8 = 0b01;
    /// SHN 10b: abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 0b10;
    /// IOSQES of the 64-byte entries that all command sets use.
    pub const IOSQES_64: u8 = 6;
    /// IOCQES of the 16-byte entries that all command sets use.
    pub const IOCQES_16: u8 = 4;
}

/// Controller Status (CSTS, section 3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Csts(pub u32);

bit_fields! {
    Csts(u32)
    fields {
        /// SHST: shutdown status; `SHST_NORMAL`, `SHST_OCCURRING` or `SHST_COMPLETE`.
        shst / with_shst: u8 = 2, 2;
    }
    bits {
        /// RDY: ready.
        rdy / with_rdy = 0;
        /// CFS: controller fatal status.
        cfs / with_cfs = 1;
        /// NSSRO: a subsystem reset occurred.
        nssro / with_nssro = 4;
        /// PP: processing paused.
        pp / with_pp = 5;
        /// ST: the shutdown in SHST is of the whole subsystem.
        st / with_st = 6;
    }
}

impl Csts {
    /// SHST 00b: no shutdown.
    pub const SHST_NORMAL: u8 = 0b00;
    /// SHST 01b: shutdown under way.
    pub const SHST_OCCURRING: u8 = 0b01;
    /// SHST 10b: shutdown complete.
    pub const SHST_COMPLETE: u8 = 0b10;
}

/// Controller Ready Timeouts (CRTO, section 3.1.3), valid if [`Cap::crwms`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Crto(pub u32);

bit_fields! {
    Crto(u32)
    fields {
        /// CRWMT: worst time to ready with media, units of 500 ms.
        crwmt / with_crwmt: u16 = 0, 16;
        /// CRIMT: worst time to ready independent of media, units of 500 ms.
        crimt / with_crimt: u16 = 16, 16;
    }
    bits {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_that_linux_writes() {
        let cc = Cc(0x0046_0061);
        assert!(cc.en());
        assert_eq!((cc.css(), cc.iosqes(), cc.iocqes()), (Cc::CSS_IOCS, Cc::IOSQES_64, Cc::IOCQES_16));
        assert_eq!((cc.mps(), cc.ams(), cc.shn()), (0, 0, Cc::SHN_NONE));
        let built =
            Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
        assert_eq!(built, cc);
        assert_eq!(cc.with_shn(Cc::SHN_NORMAL).0, 0x0046_4061);
    }

    #[test]
    fn capability_bits_are_where_hosts_look() {
        let cap = Cap::default().with_css_nvm(true).with_css_iocs(true);
        assert_eq!(cap.0, 1 << 37 | 1 << 43);
        assert_eq!(cap.css(), 0x41);
        let cap = cap.with_mqes(127).with_cqr(true).with_to(15).with_crwms(true);
        assert_eq!(cap.0, 1 << 59 | 1 << 37 | 1 << 43 | 15 << 24 | 1 << 16 | 127);
        assert_eq!(cap.queue_entries_max(), 128);
        assert_eq!(cap.page_size_min(), 4096);
    }

    #[test]
    fn version_reads_and_prints() {
        assert_eq!(Vs::V2_0.0, 0x0002_0000);
        assert_eq!(Vs::V1_4.0, 0x0001_0400);
        assert_eq!(Vs::new(1, 2, 1).to_string(), "1.2.1");
        assert!(Vs::V1_4 < Vs::V2_0);
    }

    #[test]
    fn status_bits() {
        assert_eq!(Csts::default().with_rdy(true).with_shst(Csts::SHST_COMPLETE).0, 0b1001);
        assert!(Csts(0b10).cfs());
    }

    #[test]
    fn sizes_of_properties() {
        assert_eq!(Property::CAP.size(), Some(8));
        assert_eq!(Property::CSTS.size(), Some(4));
        assert_eq!(Property(0x24).size(), None);
    }
}
