//! Asynchronous events (section 5.2.1): what an Asynchronous Event Request completes with.

open_enum! {
    /// Asynchronous Event Type, bits 2:0 of completion dword 0.
    pub struct AsyncEventType(u8) {
        /// Cleared by the Error Information log page.
        ERROR = 0, "Error status";
        /// Cleared by the SMART / Health log page.
        SMART = 1, "SMART / Health status";
        /// See the constants of [`AsyncEvent`].
        NOTICE = 2, "Notice";
        /// Command set specific.
        IO_COMMAND_SET = 6, "I/O Command Specific status";
        /// Vendor specific.
        VENDOR = 7, "Vendor specific";
    }
}

/// Completion dword 0 of an Asynchronous Event Request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct AsyncEvent(pub u32);

bit_fields! {
    AsyncEvent(u32)
    fields {
        /// Asynchronous Event Type; see [`AsyncEventType`].
        event_type / with_event_type: u8 = 0, 3;
        /// Asynchronous Event Information, by type.
        info / with_info: u8 = 8, 8;
        /// Log page that describes the event; reading it with RAE 0 clears the event.
        log_page / with_log_page: u8 = 16, 8;
    }
    bits {}
}

impl AsyncEvent {
    /// Error, persistent internal error (03h); Error Information log.
    pub const PERSISTENT_INTERNAL_ERROR: Self = Self::new(AsyncEventType::ERROR, 0x03, 0x01);
    /// Error, transient internal error (04h); Error Information log.
    pub const TRANSIENT_INTERNAL_ERROR: Self = Self::new(AsyncEventType::ERROR, 0x04, 0x01);
    /// SMART, NVM subsystem reliability (00h).
    pub const SUBSYSTEM_RELIABILITY: Self = Self::new(AsyncEventType::SMART, 0x00, 0x02);
    /// SMART, temperature threshold (01h).
    pub const TEMPERATURE_THRESHOLD: Self = Self::new(AsyncEventType::SMART, 0x01, 0x02);
    /// SMART, spare below threshold (02h).
    pub const SPARE_BELOW_THRESHOLD: Self = Self::new(AsyncEventType::SMART, 0x02, 0x02);
    /// Notice, namespace attribute changed (00h); Changed Namespace List log.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self::new(AsyncEventType::NOTICE, 0x00, 0x04);
    /// Notice, firmware activation starting (01h); Firmware Slot log.
    pub const FIRMWARE_ACTIVATION_STARTING: Self = Self::new(AsyncEventType::NOTICE, 0x01, 0x03);
    /// Notice, asymmetric namespace access change (03h); ANA log.
    pub const ANA_CHANGE: Self = Self::new(AsyncEventType::NOTICE, 0x03, 0x0c);
    /// Notice, discovery log page changed (F0h); Discovery log.
    pub const DISCOVERY_LOG_CHANGED: Self = Self::new(AsyncEventType::NOTICE, 0xf0, 0x70);

    /// The event with these parts.
    #[must_use]
    pub const fn new(event_type: AsyncEventType, info: u8, log_page: u8) -> Self {
        Self(0).with_event_type(event_type.0).with_info(info).with_log_page(log_page)
    }

    /// The event's type.
    #[must_use]
    pub const fn kind(self) -> AsyncEventType {
        AsyncEventType(self.event_type())
    }

    /// The specification's name of the event, or `None` for one that this crate does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::PERSISTENT_INTERNAL_ERROR => "Persistent Internal Error",
            Self::TRANSIENT_INTERNAL_ERROR => "Transient Internal Error",
            Self::SUBSYSTEM_RELIABILITY => "NVM subsystem Reliability",
            Self::TEMPERATURE_THRESHOLD => "Temperature Threshold",
            Self::SPARE_BELOW_THRESHOLD => "Spare Below Threshold",
            Self::NAMESPACE_ATTRIBUTE_CHANGED => "Namespace Attribute Changed",
            Self::FIRMWARE_ACTIVATION_STARTING => "Firmware Activation Starting",
            Self::ANA_CHANGE => "Asymmetric Namespace Access Change",
            Self::DISCOVERY_LOG_CHANGED => "Discovery Log Page Change",
            _ => return None,
        })
    }
}

impl core::fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}, information {:02X}h, log page {:02X}h", self.kind(), self.info(), self.log_page()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dword_zero_of_notices() {
        assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0, 0x0004_0002);
        assert_eq!(AsyncEvent::DISCOVERY_LOG_CHANGED.0, 0x0070_f002);
        assert_eq!(AsyncEvent::ANA_CHANGE.0, 0x000c_0302);
        assert_eq!(AsyncEvent(0x0070_f002).to_string(), "Discovery Log Page Change");
        assert_eq!(AsyncEvent(0x0004_7702).to_string(), "Notice, information 77h, log page 04h");
    }
}
