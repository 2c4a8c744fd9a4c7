//! How an endpoint is made, and what it takes.

/// Capsules begin at multiples of this, so that two of them share no cache line.
/// Fewest work requests of a send queue that an endpoint can work with.
pub(super) const SENDS_MIN: u32 = 16;
const CAPSULE_ALIGN: usize = 64;

/// How an endpoint is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointConfig {
    /// What completions of its work are found by; less than 2^20.
    pub key: u32,
    /// Capsules of the peer that can be received before any is released.
    pub receives: u32,
    /// Most bytes of a received capsule.
    pub receive_size: u32,
    /// Capsules to the peer under way at once; more wait.
    pub sends: u32,
    /// Most bytes of a capsule to the peer.
    pub send_size: u32,
    /// RDMA READs and WRITEs in the send queue at once; more wait.
    pub transfers: u32,
    /// Most RDMA READs at once, of which the peer and the device may allow fewer.
    pub reads: u8,
    /// Most RDMA READs of the peer served at once.
    pub reads_served: u8,
}

impl EndpointConfig {
    /// Bytes of memory for capsules.
    #[must_use]
    pub const fn capsule_memory(&self) -> u64 {
        stride(self.receive_size) * self.receives as u64 + stride(self.send_size) * self.sends as u64
    }

    /// Entries of a completion queue that an endpoint like this reserves, at most.
    #[must_use]
    pub const fn completions(&self) -> u32 {
        self.send_queue().saturating_add(self.receives)
    }

    /// A capsule may come with a bind, and be followed by an invalidation.
    pub(super) const fn send_queue(&self) -> u32 {
        let wanted = self.sends.saturating_mul(3).saturating_add(self.transfers);
        if wanted > SENDS_MIN { wanted } else { SENDS_MIN }
    }
}

pub(super) const fn stride(capsule: u32) -> u64 {
    (capsule as u64).next_multiple_of(CAPSULE_ALIGN as u64)
}
