//! Sending what waits: the queue of a socket, and a pair of connected sockets, whose other end is read aside.

use std::{
    io::Read as _,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use anyhow::{Result, ensure};
use kvof_io::{Region, TxQueue, TxSeg};

use super::{Operation, Scene};
use crate::measure::counted;

const HEADER: usize = 24;
const DATA: usize = 4096;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("tx/answer-4k/1", 1, (4, 64), |operation| Ok(Box::new(Tx::new(operation.batch)?))),
        Operation::new("tx/answer-4k/16", 16, (4, 16), |operation| Ok(Box::new(Tx::new(operation.batch)?))),
    ]
}

/// Answers of a header and 4 KiB of a region each, sent with one call.
struct Tx {
    batch: usize,
    region: Region,
    queue: TxQueue,
    near: UnixStream,
    far: UnixStream,
    taken: Vec<u8>,
}

impl Tx {
    fn new(batch: u64) -> Result<Self> {
        let batch = usize::try_from(batch)?;
        let (near, far) = UnixStream::pair()?;
        let taken = vec![0; batch * (HEADER + DATA)];
        Ok(Self { batch, region: Region::new(1 << 20)?, queue: TxQueue::new(), near, far, taken })
    }
}

impl Scene for Tx {
    fn turn(&mut self) -> Result<()> {
        let Self { batch, region, queue, near, far, taken } = self;
        let slices = (0..*batch).map(|n| region.slice((n * DATA) as u64, DATA)).collect::<Result<Vec<_>, _>>()?;
        let mut slices = slices.into_iter();
        let mut sent = None;
        counted(&mut || {
            for slice in slices.by_ref() {
                queue.push_bytes(&[1; HEADER]);
                queue.push(TxSeg::Region(slice));
            }
            sent = queue.send(near.as_fd()).ok();
        });
        ensure!(sent.is_some_and(|sent| sent.bytes == taken.len() && !sent.would_block), "the socket took {sent:?}");
        far.read_exact(taken)?;
        ensure!(taken[..HEADER] == [1; HEADER] && taken[HEADER..HEADER + DATA] == [0; DATA], "other bytes came");
        Ok(())
    }
}
