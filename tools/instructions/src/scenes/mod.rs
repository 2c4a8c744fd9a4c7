//! The operations that are counted, each by the code that does it in the target, the engine and the host library, without
//! sockets, devices, threads and clocks.

mod engine;
mod host;
mod index;
mod rdma;
mod served;
mod tcp;
mod tx;

use anyhow::Result;

/// Something that does one kind of operation over and over.
pub(crate) trait Scene {
    /// Does a batch of operations and looks at what came of them. The operations themselves are inside
    /// [`counted`](crate::measure::counted).
    ///
    /// # Errors
    /// An operation failed, or did something else.
    fn turn(&mut self) -> Result<()>;
}

/// One kind of operation.
pub(crate) struct Operation {
    /// Its name in the committed numbers: where, what, size, and how many at once.
    pub(crate) name: &'static str,
    /// Operations of a turn.
    pub(crate) batch: u64,
    /// Turns before those that count, so that buffers and tables have the size that they keep.
    pub(crate) warm: u32,
    /// Turns that count.
    pub(crate) turns: u32,
    make: fn(&Self) -> Result<Box<dyn Scene>>,
}

impl Operation {
    const fn new(
        name: &'static str,
        batch: u64,
        (warm, turns): (u32, u32),
        make: fn(&Self) -> Result<Box<dyn Scene>>,
    ) -> Self {
        Self { name, batch, warm, turns, make }
    }

    /// Everything that the operation needs.
    ///
    /// # Errors
    /// What a part of it says.
    pub(crate) fn scene(&self) -> Result<Box<dyn Scene>> {
        (self.make)(self)
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Operation> {
    [
        tcp::operations(),
        tx::operations(),
        rdma::operations(),
        host::operations(),
        engine::operations(),
        index::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Numbers in an order that no cache or tree could guess, the same in every run.
pub(crate) struct Scattered(u64);

impl Scattered {
    pub(crate) const fn new() -> Self {
        Self(1)
    }

    /// The next number below `below`.
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        // Knuth's MMIX generator; its upper bits are good enough.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

/// Sixteen bytes that spread over the key space.
pub(crate) fn key(number: u64) -> kvof_kv::Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    kvof_kv::Key::new(&bytes).unwrap_or_else(|error| unreachable!("16 bytes are a key: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_does_what_it_says() {
        let operations = all();
        let names: BTreeSet<&str> = operations.iter().map(|operation| operation.name).collect();
        assert_eq!(names.len(), operations.len(), "two operations of one name");
        for operation in &operations {
            let mut scene = operation.scene().unwrap_or_else(|e| panic!("{}: {e:#}", operation.name));
            for _ in 0..3 {
                scene.turn().unwrap_or_else(|e| panic!("{}: {e:#}", operation.name));
            }
        }
    }
}
