//! Controller properties (section 3.1.3): what Property Get returns, and what Property Set of CC does.
//!
//! A pure state machine. The controller is ready at once when it is enabled, and shut down at once when it is told to:
//! there is no medium to wait for.

use kvof_spec::{Cap, Cc, Csts, Property, Status, Vs, property::Crto};

/// Worst time for CSTS.RDY to change, units of 500 ms. It changes at once; hosts are given time for a slow network.
const READY_TIMEOUT: u8 = 15;

/// The properties of one controller.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    cap: Cap,
    cc: Cc,
    csts: Csts,
    /// Whether I/O queue entry sizes and command sets matter.
    serves_io: bool,
}

/// What a write of CC changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// Nothing but the value.
    None,
    /// The controller is ready.
    Enabled,
    /// CC asks for what the controller does not have: CSTS.CFS is set until the controller is disabled.
    Failed,
    /// Controller level reset.
    Disabled,
    /// Shutdown is complete.
    ShutDown,
}

impl Properties {
    /// An I/O controller that allows queues of up to `queue_entries` entries (1's based).
    pub(super) fn io(queue_entries: u16) -> Self {
        Self::new(queue_entries, Cap::default().with_css_nvm(true).with_css_iocs(true), true)
    }

    /// A discovery controller. It has no I/O queues, but hosts know no other command set to ask for than NVM.
    pub(super) fn discovery(queue_entries: u16) -> Self {
        Self::new(queue_entries, Cap::default().with_css_nvm(true).with_css_admin_only(true), false)
    }

    fn new(queue_entries: u16, cap: Cap, serves_io: bool) -> Self {
        let cap = cap.with_mqes(queue_entries.saturating_sub(1)).with_cqr(true).with_to(READY_TIMEOUT).with_crwms(true);
        Self { cap, cc: Cc::default(), csts: Csts::default(), serves_io }
    }

    pub(super) const fn cc(&self) -> Cc {
        self.cc
    }

    /// Whether the controller processes commands other than Fabrics ones.
    pub(super) const fn is_ready(&self) -> bool {
        self.csts.rdy() && !self.csts.cfs() && self.csts.shst() == Csts::SHST_NORMAL
    }

    /// Sets CSTS.CFS: the association is over.
    pub(super) const fn fail(&mut self) {
        self.csts = self.csts.with_cfs(true);
    }

    /// The value of `property`, read with `size` bytes.
    ///
    /// # Errors
    /// Invalid Field for a property that does not exist here or has another size.
    pub(super) fn get(&self, property: Property, size: Option<u8>) -> Result<u64, Status> {
        let value = match property {
            Property::CAP => self.cap.0,
            Property::VS => Vs::V2_0.0.into(),
            Property::CC => self.cc.0.into(),
            Property::CSTS => self.csts.0.into(),
            Property::CRTO => Crto::default().with_crwmt(READY_TIMEOUT.into()).0.into(),
            _ => return Err(Status::INVALID_FIELD),
        };
        if size.is_none() || size != property.size() {
            return Err(Status::INVALID_FIELD);
        }
        Ok(value)
    }

    /// Writes `value` to `property` with `size` bytes.
    ///
    /// # Errors
    /// Invalid Field for anything but CC with 4 bytes.
    pub(super) fn set(&mut self, property: Property, size: Option<u8>, value: u64) -> Result<Transition, Status> {
        if property != Property::CC || size != Some(4) {
            return Err(Status::INVALID_FIELD);
        }
        // The upper half of the value is reserved for a property of 4 bytes.
        let value = Cc((value & u64::from(u32::MAX)) as u32);
        let old = std::mem::replace(&mut self.cc, value);
        if old.en() && !value.en() {
            self.csts = Csts::default();
            return Ok(Transition::Disabled);
        }
        if !old.en() && value.en() {
            let acceptable = self.accepts(value);
            self.csts = Csts::default().with_rdy(acceptable).with_cfs(!acceptable);
            return Ok(if acceptable { Transition::Enabled } else { Transition::Failed });
        }
        let asks_shutdown = matches!(value.shn(), Cc::SHN_NORMAL | Cc::SHN_ABRUPT);
        if asks_shutdown && self.csts.shst() == Csts::SHST_NORMAL {
            self.csts = self.csts.with_shst(Csts::SHST_COMPLETE);
            return Ok(Transition::ShutDown);
        }
        Ok(Transition::None)
    }

    /// Whether the controller can be enabled with this configuration.
    fn accepts(&self, cc: Cc) -> bool {
        let css = match cc.css() {
            Cc::CSS_NVM => self.cap.css_nvm(),
            Cc::CSS_IOCS => self.cap.css_iocs(),
            Cc::CSS_ADMIN_ONLY => self.cap.css_admin_only(),
            _ => false,
        };
        let sizes = !self.serves_io || (cc.iosqes() == Cc::IOSQES_64 && cc.iocqes() == Cc::IOCQES_16);
        css && sizes && cc.mps() == 0 && cc.ams() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: u64 = 0x0046_0060;

    fn csts(p: &Properties) -> Csts {
        Csts(p.get(Property::CSTS, Some(4)).unwrap() as u32)
    }

    #[test]
    fn echoes_the_whole_configuration() {
        let mut p = Properties::io(128);
        assert_eq!(p.set(Property::CC, Some(4), LINUX), Ok(Transition::None));
        assert_eq!(p.get(Property::CC, Some(4)), Ok(LINUX));
        assert_eq!(p.set(Property::CC, Some(4), LINUX | 1), Ok(Transition::Enabled));
        assert_eq!(p.get(Property::CC, Some(4)), Ok(LINUX | 1));
        assert!(csts(&p).rdy() && p.is_ready());
    }

    #[test]
    fn refuses_other_properties_and_sizes() {
        let mut p = Properties::io(128);
        for (property, size) in [
            (Property::CAP, Some(4)),
            (Property::VS, Some(8)),
            (Property::CC, Some(8)),
            (Property::CC, None),
            (Property::NSSR, Some(4)),
            (Property(0x24), Some(4)),
            (Property(0xffff_ffff), Some(8)),
        ] {
            assert_eq!(p.get(property, size), Err(Status::INVALID_FIELD), "{property:?} {size:?}");
            assert_eq!(p.set(property, size, 1), Err(Status::INVALID_FIELD), "{property:?} {size:?}");
        }
        for read_only in [Property::VS, Property::CSTS, Property::CRTO] {
            assert_eq!(p.set(read_only, Some(4), 1), Err(Status::INVALID_FIELD));
        }
        assert_eq!(p.set(Property::CAP, Some(8), 1), Err(Status::INVALID_FIELD));
        assert_eq!(p.get(Property::VS, Some(4)), Ok(0x0002_0000));
        assert_eq!(p.get(Property::CRTO, Some(4)), Ok(15));
    }

    #[test]
    fn capabilities() {
        let cap = Cap(Properties::io(1024).get(Property::CAP, Some(8)).unwrap());
        assert_eq!((cap.mqes(), cap.css(), cap.to()), (1023, 0x41, 15));
        assert!(cap.cqr() && cap.crwms() && !cap.crims() && !cap.nssrs());
        assert_eq!((cap.mpsmin(), cap.mpsmax(), cap.dstrd(), cap.ams()), (0, 0, 0, 0));
        let cap = Cap(Properties::discovery(32).get(Property::CAP, Some(8)).unwrap());
        assert_eq!((cap.mqes(), cap.css()), (31, 0x81));
    }

    #[test]
    fn a_configuration_that_it_does_not_have_is_fatal_until_disabled() {
        for cc in [
            LINUX & !0x70 | 0x10,         // CSS 001b
            LINUX & !0x70 | 0x70,         // CSS 111b
            LINUX | 1 << 7,               // MPS 8 KiB
            LINUX | 1 << 11,              // AMS weighted round robin
            LINUX & !0xf_0000 | 7 << 16,  // IOSQES
            LINUX & !0xf0_0000 | 5 << 20, // IOCQES
        ] {
            let mut p = Properties::io(128);
            assert_eq!(p.set(Property::CC, Some(4), cc | 1), Ok(Transition::Failed), "{cc:#x}");
            assert!(csts(&p).cfs() && !csts(&p).rdy() && !p.is_ready());
            assert_eq!(p.set(Property::CC, Some(4), cc), Ok(Transition::Disabled));
            assert_eq!(csts(&p).0, 0);
            assert_eq!(p.set(Property::CC, Some(4), LINUX | 1), Ok(Transition::Enabled));
        }
        for cc in [0_u64, 0x70, LINUX & !0x70] {
            let mut p = Properties::discovery(32);
            assert_eq!(p.set(Property::CC, Some(4), cc | 1), Ok(Transition::Enabled), "{cc:#x}");
        }
        assert_eq!(Properties::discovery(32).set(Property::CC, Some(4), LINUX | 1), Ok(Transition::Failed));
    }

    #[test]
    fn shutdown_completes_at_once_and_ends_with_a_reset() {
        for shn in [1_u64 << 14, 2 << 14] {
            let mut p = Properties::io(128);
            p.set(Property::CC, Some(4), LINUX | 1).unwrap();
            assert_eq!(p.set(Property::CC, Some(4), LINUX | 1 | shn), Ok(Transition::ShutDown));
            assert_eq!(csts(&p).shst(), Csts::SHST_COMPLETE);
            assert!(!p.is_ready());
            assert_eq!(p.set(Property::CC, Some(4), LINUX | 1 | shn), Ok(Transition::None));
            assert_eq!(p.set(Property::CC, Some(4), LINUX), Ok(Transition::Disabled));
            assert_eq!(csts(&p).shst(), Csts::SHST_NORMAL);
        }
    }
}
