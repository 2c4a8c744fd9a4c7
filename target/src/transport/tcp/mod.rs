//! NVMe/TCP, sans-IO: [`Connection`] takes received bytes and gives segments to send.
//!
//! Received data goes straight to the memory that keeps it: while a PDU's data is due, [`Connection::recv_place`] is that
//! memory, and only what comes after it passes through the caller's scratch buffer. Between events a connection holds no
//! more than one incomplete PDU header of its own.

mod connection;
mod digest;
mod receive;
mod transfer;
mod transmit;

pub use connection::{Connection, TcpTimers};

/// What a controller offers and tolerates on NVMe/TCP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// Most bytes of in-capsule data of an I/O queue's commands (IOCCSZ says the same in 16-byte units, plus 64).
    pub in_capsule: u32,
    /// MAXH2CDATA: most bytes of one H2CData PDU; a multiple of 4, at least 4096.
    pub maxh2cdata: u32,
    /// Most bytes that one R2T asks for where the host lets several be outstanding.
    pub r2t_length: u32,
    /// Most R2Ts outstanding for one command, whatever the host allows (1's based).
    pub r2t_outstanding: u8,
    /// Bytes that R2Ts have asked for and that are still to come, from which on no further command's data are asked for, where the way to
    /// the host is short.
    pub r2t_window: u32,
    /// The same, however long the way is.
    pub r2t_window_max: u32,
    /// Most bytes of one C2HData PDU; a multiple of 4.
    pub c2h_data: u32,
    /// CPDA: alignment of received data, dwords, 0's based.
    pub cpda: u8,
    /// Grant header digests to hosts that ask.
    pub header_digest: bool,
    /// Grant data digests to hosts that ask.
    pub data_digest: bool,
    /// Bytes that may wait to be sent before no more commands are read.
    pub tx_high_water: usize,
    /// Timeouts.
    pub timers: TcpTimers,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            in_capsule: 8192,
            maxh2cdata: 1 << 20,
            r2t_length: 1 << 20,
            r2t_outstanding: 4,
            r2t_window: 1 << 20,
            r2t_window_max: 256 << 20,
            c2h_data: 1 << 20,
            cpda: 0,
            header_digest: true,
            data_digest: true,
            tx_high_water: 32 << 20,
            timers: TcpTimers::default(),
        }
    }
}
