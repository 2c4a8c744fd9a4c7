//! The private data of a host's connection request (RDMA section 3).

use kvof_spec::{
    fabrics::CNTLID_MAX,
    rdma::{CmRequest, CmStatus},
};

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most entries of an admin queue, 1's based.
    pub admin_entries: u16,
    /// Most entries of an I/O queue, 1's based.
    pub queue_entries: u16,
    /// I/O queues of a controller.
    pub io_queues: u16,
}

/// A connection request that may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The queue that the connection will carry; 0 is the admin queue.
    pub qid: u16,
    /// Entries of the host's receive queue, 1's based: responses that may be under way. At least 1.
    pub hrqsize: u16,
    /// Entries of the host's send queue, 0's based: commands that may be outstanding. At least 1.
    pub hsqsize: u16,
    /// The controller, for an I/O queue; 0 where the host does not say.
    pub cntlid: u16,
}

impl Request {
    /// Entries of the submission queue, 1's based: the receive buffers that the controller needs, and CRQSIZE of its
    /// acceptance.
    #[must_use]
    pub const fn entries(&self) -> u16 {
        self.hsqsize.saturating_add(1)
    }
}

/// Checks the private data of a connection request; the CM may have padded it.
///
/// What only Connect can tell is left to it: whether the controller exists, and whether the queue is free.
///
/// # Errors
/// The status to refuse the connection with.
pub fn check_request(private_data: &[u8], limits: &RequestLimits) -> Result<Request, CmStatus> {
    let request = CmRequest::parse(private_data)?;
    let (qid, hrqsize, hsqsize, cntlid) =
        (request.qid.get(), request.hrqsize.get(), request.hsqsize.get(), request.cntlid.get());
    let is_admin = qid == 0;
    if qid > limits.io_queues {
        return Err(CmStatus::INVALID_QID);
    }
    let most = if is_admin { limits.admin_entries } else { limits.queue_entries };
    // HSQSIZE is 0's based, and a queue of one entry can hold no command.
    if hsqsize == 0 || hsqsize >= most {
        return Err(CmStatus::INVALID_HSQSIZE);
    }
    // A receive queue shorter than the send queue is the host's business: no more responses than it has are under way.
    if hrqsize == 0 {
        return Err(CmStatus::INVALID_HRQSIZE);
    }
    // The field is reserved for an admin queue, and hosts that do not know it yet leave it zero.
    if !is_admin && cntlid > CNTLID_MAX {
        return Err(CmStatus::INVALID_CNTLID);
    }
    Ok(Request { qid, hrqsize, hsqsize, cntlid })
}
