//! Wire formats of NVM Express: base specification, fabrics, and the TCP and RDMA transports.
//!
//! Everything here is a shape: fixed-size little-endian structures that are read from and written to bytes without a
//! copy (`zerocopy`), flags (`bitflags`), and open newtypes for enumerations, which keep values that this crate does
//! not know. There is no I/O, no state and no allocation on the command path.
//!
//! Section numbers refer to the NVM Express Base Specification 2.0 unless another document is named: *Fabrics* (the
//! NVMe over Fabrics material that revision 2.0 folded into Base), *TCP* (NVMe/TCP Transport Specification 1.0),
//! *RDMA* (NVMe/RDMA Transport Specification 1.0), *NVM* (NVM Command Set 1.0) and *KV* (Key Value Command Set 1.0).
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod abort;
pub mod aen;
pub mod cqe;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod io;
pub mod log;
pub mod nqn;
pub mod opcode;
pub mod property;
pub mod rdma;
pub mod sgl;
pub mod sqe;
pub mod status;
pub mod tcp;
pub mod text;

pub use cqe::Cqe;
pub use nqn::Nqn;
pub use opcode::{AdminOpcode, Csi, FabricsType, KvOpcode, NvmOpcode};
pub use property::{Cap, Cc, Csts, Property, Vs};
pub use sgl::SglDescriptor;
pub use sqe::{CommandHead, Sqe};
pub use status::Status;

/// The conversion traits that every structure here implements (`as_bytes`, `read_from_bytes`, `new_zeroed`, …).
pub use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Little-endian wire integers, re-exported so that users name one crate.
pub use zerocopy::little_endian::{U16, U32, U64, U128};
