//! SMART / Health Information (LID 02h, section 5.16.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U16, U32, U128};

bitflags::bitflags! {
    /// Critical Warning.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct CriticalWarning: u8 {
        /// Spare below its threshold.
        const SPARE = 1 << 0;
        /// Temperature outside of its thresholds.
        const TEMPERATURE = 1 << 1;
        /// Reliability degraded.
        const DEGRADED = 1 << 2;
        /// Media is read only.
        const READ_ONLY = 1 << 3;
        /// Volatile memory backup failed.
        const VOLATILE_BACKUP = 1 << 4;
        /// Persistent memory region is read only or unreliable.
        const PMR_READ_ONLY = 1 << 5;
        const _ = !0;
    }
}

/// SMART / Health Information log page, 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartHealth {
    /// See [`CriticalWarning`].
    pub critical_warning: u8,
    /// Composite temperature, kelvins.
    pub composite_temperature: U16,
    /// Available spare, percent.
    pub available_spare: u8,
    /// Available spare threshold, percent.
    pub available_spare_threshold: u8,
    /// Percentage used; may exceed 100.
    pub percentage_used: u8,
    /// Endurance group critical warning summary.
    pub endurance_group_warning: u8,
    /// Reserved.
    pub rsvd7: [u8; 25],
    /// Data units read, thousands of 512 bytes, rounded up.
    pub data_units_read: U128,
    /// Data units written, thousands of 512 bytes, rounded up.
    pub data_units_written: U128,
    /// Read commands.
    pub host_read_commands: U128,
    /// Write commands.
    pub host_write_commands: U128,
    /// Time that commands were outstanding, minutes.
    pub controller_busy_time: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Power on hours.
    pub power_on_hours: U128,
    /// Unsafe shutdowns.
    pub unsafe_shutdowns: U128,
    /// Media and data integrity errors.
    pub media_errors: U128,
    /// Error Information entries over the life of the controller.
    pub error_log_entries: U128,
    /// Warning composite temperature time, minutes.
    pub warning_temperature_time: U32,
    /// Critical composite temperature time, minutes.
    pub critical_temperature_time: U32,
    /// Temperature sensors 1 to 8, kelvins; 0 not there.
    pub temperature_sensor: [U16; 8],
    /// Thermal management temperature 1 transitions.
    pub thermal_1_transitions: U32,
    /// Thermal management temperature 2 transitions.
    pub thermal_2_transitions: U32,
    /// Thermal management temperature 1 time, seconds.
    pub thermal_1_time: U32,
    /// Thermal management temperature 2 time, seconds.
    pub thermal_2_time: U32,
    /// Reserved.
    pub rsvd232: [u8; 280],
}
assert_layout!(SmartHealth, 512,
    critical_warning @ 0, composite_temperature @ 1, available_spare @ 3, available_spare_threshold @ 4,
    percentage_used @ 5, endurance_group_warning @ 6, data_units_read @ 32, data_units_written @ 48,
    host_read_commands @ 64, host_write_commands @ 80, controller_busy_time @ 96, power_cycles @ 112,
    power_on_hours @ 128, unsafe_shutdowns @ 144, media_errors @ 160, error_log_entries @ 176,
    warning_temperature_time @ 192, critical_temperature_time @ 196, temperature_sensor @ 200,
    thermal_1_transitions @ 216, thermal_2_transitions @ 220, thermal_1_time @ 224, thermal_2_time @ 228, rsvd232 @ 232);
zeroed!(SmartHealth);
impl_debug!(SmartHealth, s => {
    critical_warning: s.critical_warning(), composite_temperature: s.composite_temperature.get(),
    available_spare: s.available_spare, percentage_used: s.percentage_used,
    data_units_read: s.data_units_read.get(), data_units_written: s.data_units_written.get(),
    host_read_commands: s.host_read_commands.get(), host_write_commands: s.host_write_commands.get(),
    power_on_hours: s.power_on_hours.get(), unsafe_shutdowns: s.unsafe_shutdowns.get(),
    media_errors: s.media_errors.get(), error_log_entries: s.error_log_entries.get(),
});

impl SmartHealth {
    /// The warnings, unknown bits kept.
    #[must_use]
    pub const fn critical_warning(&self) -> CriticalWarning {
        CriticalWarning::from_bits_retain(self.critical_warning)
    }
}
