//! Identify Controller (CNS 01h, section 5.17.2.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{AnaCap, Cmic, ControllerType, Ctratt, Lpa, Oacs, Oaes, Oncs, Sgls, Vwc};
use crate::text::{Shown, TextError, from_field, to_field};
use crate::{Nqn, U16, U32, U128, Vs};

/// Power State Descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PowerStateDescriptor {
    /// MP: maximum power, units of 0.01 W, or of 0.0001 W if `flags` bit 0 (MXPS) is set.
    pub mp: U16,
    /// Reserved.
    pub rsvd2: u8,
    /// Bit 0 MXPS, bit 1 NOPS (non-operational).
    pub flags: u8,
    /// ENLAT: entry latency, microseconds.
    pub enlat: U32,
    /// EXLAT: exit latency, microseconds.
    pub exlat: U32,
    /// RRT: relative read throughput.
    pub rrt: u8,
    /// RRL: relative read latency.
    pub rrl: u8,
    /// RWT: relative write throughput.
    pub rwt: u8,
    /// RWL: relative write latency.
    pub rwl: u8,
    /// IDLP: idle power.
    pub idlp: U16,
    /// IPS: idle power scale, bits 7:6.
    pub ips: u8,
    /// Reserved.
    pub rsvd19: u8,
    /// ACTP: active power.
    pub actp: U16,
    /// APS (bits 7:6) and APW (bits 2:0): active power scale and workload.
    pub apws: u8,
    /// Reserved.
    pub rsvd23: [u8; 9],
}
assert_layout!(PowerStateDescriptor, 32,
    mp @ 0, flags @ 3, enlat @ 4, exlat @ 8, rrt @ 12, idlp @ 16, ips @ 18, actp @ 20, apws @ 22);

/// Identify Controller data structure, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// VID: PCI vendor identifier.
    pub vid: U16,
    /// SSVID: PCI subsystem vendor identifier.
    pub ssvid: U16,
    /// SN: serial number, ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// MN: model number, ASCII, padded with spaces.
    pub mn: [u8; 40],
    /// FR: firmware revision, ASCII, padded with spaces.
    pub fr: [u8; 8],
    /// RAB: recommended arbitration burst, 2^RAB commands.
    pub rab: u8,
    /// IEEE: OUI of the vendor, little endian.
    pub ieee: [u8; 3],
    /// CMIC; see [`Cmic`].
    pub cmic: u8,
    /// MDTS: longest transfer, 2^MDTS pages of [`crate::Cap::page_size_min`] bytes; 0 no limit.
    pub mdts: u8,
    /// CNTLID: controller identifier.
    pub cntlid: U16,
    /// VER: version; see [`Vs`].
    pub ver: U32,
    /// RTD3R: D3 resume latency, microseconds.
    pub rtd3r: U32,
    /// RTD3E: D3 entry latency, microseconds.
    pub rtd3e: U32,
    /// OAES; see [`Oaes`].
    pub oaes: U32,
    /// CTRATT; see [`Ctratt`].
    pub ctratt: U32,
    /// RRLS: read recovery levels, one bit each.
    pub rrls: U16,
    /// Reserved.
    pub rsvd102: [u8; 9],
    /// CNTRLTYPE; see [`ControllerType`].
    pub cntrltype: u8,
    /// FGUID: FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// CRDT1: command retry delay 1, units of 100 ms.
    pub crdt1: U16,
    /// CRDT2: command retry delay 2, units of 100 ms.
    pub crdt2: U16,
    /// CRDT3: command retry delay 3, units of 100 ms.
    pub crdt3: U16,
    /// Reserved.
    pub rsvd134: [u8; 119],
    /// NVMSR: NVM subsystem report (NVMe-MI).
    pub nvmsr: u8,
    /// VWCI: VPD write cycle information (NVMe-MI).
    pub vwci: u8,
    /// MEC: management endpoint capabilities (NVMe-MI).
    pub mec: u8,
    /// OACS; see [`Oacs`].
    pub oacs: U16,
    /// ACL: Abort commands at a time, 0's based.
    pub acl: u8,
    /// AERL: Asynchronous Event Requests at a time, 0's based.
    pub aerl: u8,
    /// FRMW: bit 0 slot 1 read only, bits 3:1 slots, bit 4 activation without reset.
    pub frmw: u8,
    /// LPA; see [`Lpa`].
    pub lpa: u8,
    /// ELPE: Error Information entries, 0's based.
    pub elpe: u8,
    /// NPSS: power states, 0's based.
    pub npss: u8,
    /// AVSCC: bit 0, vendor specific admin commands have the standard format.
    pub avscc: u8,
    /// APSTA: bit 0, autonomous power state transitions.
    pub apsta: u8,
    /// WCTEMP: warning composite temperature, kelvins.
    pub wctemp: U16,
    /// CCTEMP: critical composite temperature, kelvins.
    pub cctemp: U16,
    /// MTFA: longest time for firmware activation, units of 100 ms.
    pub mtfa: U16,
    /// HMPRE: preferred host memory buffer, units of 4 KiB.
    pub hmpre: U32,
    /// HMMIN: smallest host memory buffer, units of 4 KiB.
    pub hmmin: U32,
    /// TNVMCAP: total capacity, bytes.
    pub tnvmcap: U128,
    /// UNVMCAP: unallocated capacity, bytes.
    pub unvmcap: U128,
    /// RPMBS: replay protected memory block support.
    pub rpmbs: U32,
    /// EDSTT: time of an extended device self-test, minutes.
    pub edstt: U16,
    /// DSTO: device self-test options.
    pub dsto: u8,
    /// FWUG: firmware update granularity, units of 4 KiB; FFh no restriction.
    pub fwug: u8,
    /// KAS: keep alive granularity, units of 100 ms; 0 not supported.
    pub kas: U16,
    /// HCTMA: bit 0, host controlled thermal management.
    pub hctma: U16,
    /// MNTMT: minimum thermal management temperature, kelvins.
    pub mntmt: U16,
    /// MXTMT: maximum thermal management temperature, kelvins.
    pub mxtmt: U16,
    /// SANICAP: sanitize capabilities.
    pub sanicap: U32,
    /// HMMINDS: smallest host memory buffer descriptor, units of 4 KiB.
    pub hmminds: U32,
    /// HMMAXD: most host memory buffer descriptors.
    pub hmmaxd: U16,
    /// NSETIDMAX: largest NVM set identifier.
    pub nsetidmax: U16,
    /// ENDGIDMAX: largest endurance group identifier.
    pub endgidmax: U16,
    /// ANATT: longest ANA transition, seconds.
    pub anatt: u8,
    /// ANACAP; see [`AnaCap`].
    pub anacap: u8,
    /// ANAGRPMAX: largest ANA group identifier.
    pub anagrpmax: U32,
    /// NANAGRPID: ANA groups.
    pub nanagrpid: U32,
    /// PELS: persistent event log size, units of 64 KiB.
    pub pels: U32,
    /// Domain identifier.
    pub domain_id: U16,
    /// Reserved.
    pub rsvd358: [u8; 10],
    /// MEGCAP: largest endurance group capacity, bytes.
    pub megcap: U128,
    /// Reserved.
    pub rsvd384: [u8; 128],
    /// SQES: submission queue entry size, 2^n bytes; required in bits 3:0, largest in bits 7:4.
    pub sqes: u8,
    /// CQES: completion queue entry size, 2^n bytes; required in bits 3:0, largest in bits 7:4.
    pub cqes: u8,
    /// MAXCMD: most commands outstanding on one I/O queue.
    pub maxcmd: U16,
    /// NN: largest namespace identifier.
    pub nn: U32,
    /// ONCS; see [`Oncs`].
    pub oncs: U16,
    /// FUSES: bit 0, Compare and Write.
    pub fuses: U16,
    /// FNA: Format NVM attributes.
    pub fna: u8,
    /// VWC; see [`Vwc`].
    pub vwc: u8,
    /// AWUN: atomic write unit, normal, logical blocks, 0's based.
    pub awun: U16,
    /// AWUPF: atomic write unit, power fail, logical blocks, 0's based.
    pub awupf: U16,
    /// ICSVSCC: bit 0, vendor specific I/O commands have the standard format.
    pub icsvscc: u8,
    /// NWPC: namespace write protection capabilities.
    pub nwpc: u8,
    /// ACWU: atomic compare and write unit, logical blocks, 0's based.
    pub acwu: U16,
    /// CDFS: copy descriptor formats, one bit each.
    pub cdfs: U16,
    /// SGLS; see [`Sgls`].
    pub sgls: U32,
    /// MNAN: most namespaces that the subsystem may have; 0 means NN.
    pub mnan: U32,
    /// MAXDNA: most domain namespace attachments.
    pub maxdna: U128,
    /// MAXCNA: most I/O controller namespace attachments.
    pub maxcna: U32,
    /// Reserved.
    pub rsvd564: [u8; 204],
    /// SUBNQN: NVM subsystem NQN, UTF-8, NUL-terminated.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub rsvd1024: [u8; 768],
    /// IOCCSZ: I/O queue command capsule size, units of 16 bytes; at least 4.
    pub ioccsz: U32,
    /// IORCSZ: I/O queue response capsule size, units of 16 bytes; at least 1.
    pub iorcsz: U32,
    /// ICDOFF: offset of in-capsule data after the queue entry, units of 16 bytes.
    pub icdoff: U16,
    /// FCATT: bit 0 is 0 for the dynamic controller model.
    pub fcatt: u8,
    /// MSDBD: most SGL data block descriptors of a command; 0 no limit.
    pub msdbd: u8,
    /// OFCS: bit 0, Disconnect.
    pub ofcs: U16,
    /// DCTYPE: type of a discovery controller.
    pub dctype: u8,
    /// Reserved.
    pub rsvd1807: [u8; 241],
    /// PSD0 to PSD31: power states.
    pub psd: [PowerStateDescriptor; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}
assert_layout!(IdentifyController, 4096,
    vid @ 0, ssvid @ 2, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73, cmic @ 76, mdts @ 77, cntlid @ 78, ver @ 80,
    rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96, rrls @ 100, cntrltype @ 111, fguid @ 112, crdt1 @ 128, crdt2 @ 130,
    crdt3 @ 132, nvmsr @ 253, vwci @ 254, mec @ 255, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261,
    elpe @ 262, npss @ 263, avscc @ 264, apsta @ 265, wctemp @ 266, cctemp @ 268, mtfa @ 270, hmpre @ 272, hmmin @ 276,
    tnvmcap @ 280, unvmcap @ 296, rpmbs @ 312, edstt @ 316, dsto @ 318, fwug @ 319, kas @ 320, hctma @ 322,
    mntmt @ 324, mxtmt @ 326, sanicap @ 328, hmminds @ 332, hmmaxd @ 336, nsetidmax @ 338, endgidmax @ 340,
    anatt @ 342, anacap @ 343, anagrpmax @ 344, nanagrpid @ 348, pels @ 352, domain_id @ 356, megcap @ 368, sqes @ 512,
    cqes @ 513, maxcmd @ 514, nn @ 516, oncs @ 520, fuses @ 522, fna @ 524, vwc @ 525, awun @ 526, awupf @ 528,
    icsvscc @ 530, nwpc @ 531, acwu @ 532, cdfs @ 534, sgls @ 536, mnan @ 540, maxdna @ 544, maxcna @ 560, subnqn @ 768,
    ioccsz @ 1792, iorcsz @ 1796, icdoff @ 1800, fcatt @ 1802, msdbd @ 1803, ofcs @ 1804, dctype @ 1806, psd @ 2048,
    vs @ 3072);
zeroed!(IdentifyController);
impl_debug!(IdentifyController, s => {
    vid: format_args!("{:#06x}", s.vid.get()), sn: Shown(&s.sn), mn: Shown(&s.mn), fr: Shown(&s.fr), cmic: s.cmic(),
    mdts: s.mdts, cntlid: s.cntlid.get(), ver: format_args!("{}", s.ver()), oaes: s.oaes(), ctratt: s.ctratt(),
    cntrltype: s.cntrltype(), oacs: s.oacs(), aerl: s.aerl, lpa: s.lpa(), kas: s.kas.get(), maxcmd: s.maxcmd.get(),
    nn: s.nn.get(), oncs: s.oncs(), vwc: s.vwc(), sgls: s.sgls(), subnqn: Shown(&s.subnqn), ioccsz: s.ioccsz.get(),
    iorcsz: s.iorcsz.get(), icdoff: s.icdoff.get(), msdbd: s.msdbd,
});

impl IdentifyController {
    /// Sets serial number, model number and firmware revision.
    ///
    /// # Errors
    /// [`TextError`] for one that is longer than 20, 40 and 8 bytes or not printable ASCII.
    pub fn set_names(&mut self, sn: &str, mn: &str, fr: &str) -> Result<(), TextError> {
        (self.sn, self.mn, self.fr) = (to_field(sn)?, to_field(mn)?, to_field(fr)?);
        Ok(())
    }

    /// Serial number.
    ///
    /// # Errors
    /// [`TextError`] if it is not printable ASCII.
    pub fn serial_number(&self) -> Result<&str, TextError> {
        from_field(&self.sn)
    }

    /// Model number.
    ///
    /// # Errors
    /// [`TextError`] if it is not printable ASCII.
    pub fn model_number(&self) -> Result<&str, TextError> {
        from_field(&self.mn)
    }

    /// Firmware revision.
    ///
    /// # Errors
    /// [`TextError`] if it is not printable ASCII.
    pub fn firmware_revision(&self) -> Result<&str, TextError> {
        from_field(&self.fr)
    }

    /// NVM subsystem NQN.
    ///
    /// # Errors
    /// [`crate::nqn::NqnError`] if the field has no valid name.
    pub fn subnqn(&self) -> Result<Nqn, crate::nqn::NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Version.
    #[must_use]
    pub const fn ver(&self) -> Vs {
        Vs(self.ver.get())
    }

    /// Multi-path capabilities, unknown bits kept.
    #[must_use]
    pub const fn cmic(&self) -> Cmic {
        Cmic::from_bits_retain(self.cmic)
    }

    /// Optional asynchronous events, unknown bits kept.
    #[must_use]
    pub const fn oaes(&self) -> Oaes {
        Oaes::from_bits_retain(self.oaes.get())
    }

    /// Controller attributes, unknown bits kept.
    #[must_use]
    pub const fn ctratt(&self) -> Ctratt {
        Ctratt::from_bits_retain(self.ctratt.get())
    }

    /// Controller type.
    #[must_use]
    pub const fn cntrltype(&self) -> ControllerType {
        ControllerType(self.cntrltype)
    }

    /// Optional admin commands, unknown bits kept.
    #[must_use]
    pub const fn oacs(&self) -> Oacs {
        Oacs::from_bits_retain(self.oacs.get())
    }

    /// Log page attributes, unknown bits kept.
    #[must_use]
    pub const fn lpa(&self) -> Lpa {
        Lpa::from_bits_retain(self.lpa)
    }

    /// ANA capabilities, unknown bits kept.
    #[must_use]
    pub const fn anacap(&self) -> AnaCap {
        AnaCap::from_bits_retain(self.anacap)
    }

    /// Optional NVM commands, unknown bits kept.
    #[must_use]
    pub const fn oncs(&self) -> Oncs {
        Oncs::from_bits_retain(self.oncs.get())
    }

    /// Volatile write cache, unknown bits kept.
    #[must_use]
    pub const fn vwc(&self) -> Vwc {
        Vwc::from_bits_retain(self.vwc)
    }

    /// SGL support, unknown bits kept.
    #[must_use]
    pub const fn sgls(&self) -> Sgls {
        Sgls::from_bits_retain(self.sgls.get())
    }

    /// Most bytes of data in an I/O command capsule: IOCCSZ less the 64-byte queue entry and ICDOFF.
    #[must_use]
    pub fn in_capsule_data_max(&self) -> u64 {
        (u64::from(self.ioccsz.get()) * 16).saturating_sub(64 + u64::from(self.icdoff.get()) * 16)
    }

    /// Longest transfer, bytes, for smallest memory pages of `page_size` bytes; `None` for no limit, or one that a
    /// `u64` does not hold.
    #[must_use]
    pub fn transfer_max(&self, page_size: u32) -> Option<u64> {
        match self.mdts {
            0 => None,
            n => u64::from(page_size).checked_mul(1_u64.checked_shl(n.into())?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_bytes() {
        let mut id = IdentifyController::zeroed();
        assert_eq!((id.in_capsule_data_max(), id.transfer_max(4096)), (0, None));
        id.ioccsz = 516.into();
        id.mdts = 8;
        assert_eq!(id.in_capsule_data_max(), 8192);
        assert_eq!(id.transfer_max(4096), Some(1 << 20));
        id.mdts = 63;
        assert_eq!(id.transfer_max(4096), None);
        id.mdts = 255;
        assert_eq!(id.transfer_max(4096), None);
    }

    #[test]
    fn names_are_padded() {
        let mut id = IdentifyController::zeroed();
        id.set_names("S1", "kvof", "0.1").unwrap();
        assert_eq!(id.sn, *b"S1                  ");
        assert_eq!(id.model_number(), Ok("kvof"));
        assert!(id.set_names("S1", "kvof", "0.1.0-alpha").is_err());
    }
}
