//! Sending what waits: the queue of a socket, and a pair of connected sockets, whose other end is read aside.

use std::{
    io::Read as _,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use anyhow::{Result, ensure};
use crc_fast::CrcAlgorithm;
use kvof_io::{Pool, PoolConfig, Region, TxQueue, TxSeg};

use super::{Operation, Scene};
use crate::measure::counted;

const HEADER: usize = 24;
const DIGEST: usize = 4;

pub(super) fn operations() -> Vec<Operation> {
    /// `scene!(bytes, with digests)` as a function.
    macro_rules! scene {
        ($len:expr, $digests:expr) => {
            |operation| Ok(Box::new(Tx::new(operation.batch, $len, $digests)?))
        };
    }
    const K4: usize = 4 << 10;
    const K128: usize = 128 << 10;
    vec![
        Operation::new("tx/answer-4k/1", 1, (4, 64), scene!(K4, false)),
        Operation::new("tx/answer-4k/16", 16, (4, 16), scene!(K4, false)),
        Operation::new("tx/answer-4k-digest/16", 16, (4, 16), scene!(K4, true)),
        Operation::new("tx/answer-128k-digest/1", 1, (4, 16), scene!(K128, true)),
    ]
}

/// Answers of a header and so much of a region each, sent with one call.
struct Tx {
    batch: usize,
    len: usize,
    digests: bool,
    region: Region,
    queue: TxQueue,
    pool: Pool,
    near: UnixStream,
    far: UnixStream,
    taken: Vec<u8>,
}

impl Tx {
    fn new(batch: u64, len: usize, digests: bool) -> Result<Self> {
        let batch = usize::try_from(batch)?;
        let (near, far) = UnixStream::pair()?;
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 1 << 20)?;
        let taken = vec![0; batch * (HEADER + len + if digests { DIGEST } else { 0 })];
        let pool = Pool::new(PoolConfig { limit: 1 << 20, shards: 1 });
        Ok(Self { batch, len, digests, region: Region::new(1 << 20)?, queue: TxQueue::new(), pool, near, far, taken })
    }
}

impl Scene for Tx {
    fn turn(&mut self) -> Result<()> {
        let Self { batch, len, digests, region, queue, pool, near, far, taken } = self;
        let (len, digests) = (*len, *digests);
        let slices = (0..*batch).map(|n| region.slice((n * len) as u64, len)).collect::<Result<Vec<_>, _>>()?;
        let mut slices = slices.into_iter();
        let mut sent = None;
        counted(&mut || {
            for slice in slices.by_ref() {
                queue.push_bytes(&[1; HEADER]);
                if digests {
                    queue.push_digested(TxSeg::Region(slice));
                } else {
                    queue.push(TxSeg::Region(slice));
                }
            }
            sent = queue.send(near.as_fd(), pool).ok();
        });
        ensure!(sent.is_some_and(|sent| sent.bytes == taken.len() && !sent.would_block), "the socket took {sent:?}");
        far.read_exact(taken)?;
        let (header, rest) = taken.split_at(HEADER);
        let (data, rest) = rest.split_at(len);
        ensure!(header == [1; HEADER] && data.iter().all(|byte| *byte == 0), "other bytes came");
        let digest = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, data) as u32;
        ensure!(!digests || rest.starts_with(&digest.to_le_bytes()), "another digest came");
        Ok(())
    }
}
