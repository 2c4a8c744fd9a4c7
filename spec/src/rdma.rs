//! NVMe/RDMA connection management private data (RDMA section 3): what host and controller tell each other while
//! an RDMA connection is made.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::U16;

/// Record format of all three structures.
pub const RECFMT: u16 = 0;
/// Port that IANA assigned to NVMe/RDMA.
pub const NVME_RDMA_PORT: u16 = 4420;

open_enum! {
    /// Why a connection was refused (STS of [`CmReject`]).
    pub struct CmStatus(u16) {
        /// The private data has the wrong length.
        INVALID_LENGTH = 0x01, "Invalid Private Data Length";
        /// RECFMT is not supported.
        INVALID_RECFMT = 0x02, "Invalid RECFMT";
        /// QID is out of range or in use.
        INVALID_QID = 0x03, "Invalid Queue ID";
        /// HSQSIZE is zero or too large.
        INVALID_HSQSIZE = 0x04, "Invalid HSQSIZE";
        /// HRQSIZE is too small.
        INVALID_HRQSIZE = 0x05, "Invalid HRQSIZE";
        /// Out of memory, queue pairs or registrations.
        NO_RESOURCES = 0x06, "No Resources";
        /// The initiator depth of the request.
        INVALID_IRD = 0x07, "Invalid IRD";
        /// The responder resources of the request.
        INVALID_ORD = 0x08, "Invalid ORD";
        /// CNTLID is not a controller of the subsystem.
        INVALID_CNTLID = 0x09, "Invalid CNTLID";
    }
}

/// Private data of the host's connection request.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CmRequest {
    /// RECFMT: 0.
    pub recfmt: U16,
    /// QID: queue that this connection will carry; 0 is the admin queue.
    pub qid: U16,
    /// HRQSIZE: entries of the host's receive queue, 1's based.
    pub hrqsize: U16,
    /// HSQSIZE: entries of the host's send queue, 0's based; equals SQSIZE of the Connect command.
    pub hsqsize: U16,
    /// CNTLID: the controller, for an I/O queue.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd: [u8; 22],
}
assert_layout!(CmRequest, 32, recfmt @ 0, qid @ 2, hrqsize @ 4, hsqsize @ 6, cntlid @ 8);
zeroed!(CmRequest);
impl_debug!(CmRequest, s => {
    recfmt: s.recfmt.get(), qid: s.qid.get(), hrqsize: s.hrqsize.get(), hsqsize: s.hsqsize.get(), cntlid: s.cntlid.get(),
});

/// Private data of the controller's acceptance.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CmAccept {
    /// RECFMT: 0.
    pub recfmt: U16,
    /// CRQSIZE: entries of the controller's receive queue, 1's based.
    pub crqsize: U16,
    /// Reserved.
    pub rsvd: [u8; 28],
}
assert_layout!(CmAccept, 32, recfmt @ 0, crqsize @ 2);
zeroed!(CmAccept);
impl_debug!(CmAccept, s => { recfmt: s.recfmt.get(), crqsize: s.crqsize.get() });

/// Private data of the controller's refusal.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CmReject {
    /// RECFMT: 0.
    pub recfmt: U16,
    /// STS; see [`CmStatus`].
    pub sts: U16,
}
assert_layout!(CmReject, 4, recfmt @ 0, sts @ 2);
zeroed!(CmReject);
impl_debug!(CmReject, s => { recfmt: s.recfmt.get(), sts: s.status() });

impl CmRequest {
    /// A request for queue `qid` with `hrqsize` receive (1's based) and `hsqsize` send queue entries (0's based), of
    /// controller `cntlid` (0 for an admin queue).
    #[must_use]
    pub fn new(qid: u16, hrqsize: u16, hsqsize: u16, cntlid: u16) -> Self {
        Self {
            qid: qid.into(),
            hrqsize: hrqsize.into(),
            hsqsize: hsqsize.into(),
            cntlid: cntlid.into(),
            ..Self::zeroed()
        }
    }

    /// Reads the request out of CM private data, which the CM may have padded.
    ///
    /// # Errors
    /// The [`CmStatus`] to refuse the connection with: too short, or a record format other than 0.
    pub fn parse(private_data: &[u8]) -> Result<Self, CmStatus> {
        let (request, _) = Self::read_from_prefix(private_data).map_err(|_| CmStatus::INVALID_LENGTH)?;
        if request.recfmt.get() == RECFMT { Ok(request) } else { Err(CmStatus::INVALID_RECFMT) }
    }
}

impl CmAccept {
    /// An acceptance for a receive queue of `crqsize` entries (1's based).
    #[must_use]
    pub fn new(crqsize: u16) -> Self {
        Self { crqsize: crqsize.into(), ..Self::zeroed() }
    }
}

impl CmReject {
    /// A refusal with `status`.
    #[must_use]
    pub fn new(status: CmStatus) -> Self {
        Self { sts: status.0.into(), ..Self::zeroed() }
    }

    /// Why the connection was refused.
    #[must_use]
    pub const fn status(&self) -> CmStatus {
        CmStatus(self.sts.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_as_a_host_sends_it() {
        let mut bytes = [0_u8; 56];
        bytes[2] = 1;
        bytes[4] = 128;
        bytes[6] = 127;
        bytes[8..10].copy_from_slice(&[0x34, 0x12]);
        let r = CmRequest::parse(&bytes).unwrap();
        assert_eq!((r.qid.get(), r.hrqsize.get(), r.hsqsize.get(), r.cntlid.get()), (1, 128, 127, 0x1234));
        assert_eq!(CmRequest::new(1, 128, 127, 0x1234), r);
        assert_eq!(CmRequest::parse(&bytes[..31]), Err(CmStatus::INVALID_LENGTH));
        bytes[0] = 1;
        assert_eq!(CmRequest::parse(&bytes), Err(CmStatus::INVALID_RECFMT));
    }

    #[test]
    fn answers() {
        assert_eq!(CmAccept::new(32).as_bytes()[..4], [0, 0, 32, 0]);
        assert_eq!(CmReject::new(CmStatus::NO_RESOURCES).as_bytes(), [0, 0, 6, 0]);
    }
}
