//! What the target needs from the kernel, behind an interface that safe code cannot misuse.
//!
//! This is the only crate of the target with `unsafe` code. It offers:
//!
//! * [`Pool`]: page-aligned, bounded memory for payloads ([`PoolBuf`]) that splits into [`PoolPart`]s with owners of their own and freezes
//!   into shareable, immutable [`SharedBuf`]s;
//! * [`Region`]: the memory of a block namespace, shared by every core without a lock;
//! * [`TxQueue`] and [`recv_vectored`]: non-blocking vectored socket I/O straight from and into that memory;
//! * [`EventLoop`]: one io_uring per core thread for socket readiness, disk I/O with owned buffers, and wake-ups;
//! * [`RdmaBuf`]: any of that memory, for RDMA to read and write in place;
//! * [`DiskFile`]: a locked file or block device that the ring reads and writes, or a tool does with blocking calls;
//! * [`listen_tcp`] and friends: the few socket calls of a TCP server.
//!
//! Invariant of the whole crate: memory that the kernel may still write to is owned by the [`EventLoop`] until its completion is seen,
//! and memory handed to safe code has always been initialised.

mod crc32c;
mod disk;
mod event;
mod listen;
mod mem;
mod net;
mod pool;
mod prefetch;
mod rdma;
mod region;
mod ring;
mod thread;
mod waker;

pub use crc32c::Crc32c;
pub use disk::{DiskError, DiskFile, DiskOpenOptions};
pub use event::{Event, EventKind, RejectReason, Rejected, WatchId};
pub use listen::{accept, listen_tcp, local_addr, set_nodelay};
pub use net::{Sent, TxQueue, TxSeg, recv_vectored, round_trip};
pub use pool::{PAGE_SIZE, Pool, PoolBuf, PoolConfig, PoolPart, SharedBuf};
pub use prefetch::prefetch;
pub use rdma::{HeapBuf, RdmaBuf};
pub use region::{Region, RegionError, RegionSlice, publish_writes};
pub use ring::{EventLoop, EventLoopConfig, RingSetup};
pub use thread::pin_thread;
pub use waker::Waker;
