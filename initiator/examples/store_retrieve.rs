//! Stores values side by side, reads them back into page-aligned buffers, checks and deletes them.
//!
//! ```text
//! cargo run --release -p kvof-initiator --example store_retrieve -- 127.0.0.1:4420 SUBNQN [NSID]
//! ```
//!
//! Any NVMe/TCP controller with a KV namespace will do. `kvof discover` or the `discover` example tell the SUBNQN.

use std::time::Instant;

use futures_util::future::try_join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::{Buffer, ConnectOptions, Controller, Error, Key, KvNamespace, StoreOptions};

/// Values, all in flight at once; the library gives each its turn.
const VALUES: usize = 256;
/// Bytes of a value, if the namespace allows as many.
const VALUE_LEN: u32 = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(subnqn)) = (arguments.next(), arguments.next()) else {
        return Err("usage: store_retrieve ADDRESS SUBNQN [NSID]".into());
    };
    let nsid = arguments.next().map_or(Ok(1), |text| text.parse())?;
    block_on(async {
        let controller = Controller::connect(&address.parse()?, &subnqn, &ConnectOptions::default()).await?;
        let info = controller.info()?;
        println!("{} {}: {} I/O queues of {}", info.model, info.serial, info.io_queues, info.queue_depth);
        let kv = controller.kv(nsid).await?;
        let len = kv.max_value_len().min(VALUE_LEN) as usize;

        timed("stored", len, try_join_all((0..VALUES).map(|n| store(&kv, n, len)))).await?;
        timed("retrieved", len, try_join_all((0..VALUES).map(|n| retrieve(&kv, n, len)))).await?;
        for n in 0..VALUES {
            kv.delete(key(n)).await?;
        }
        controller.disconnect().await;
        Ok(())
    })
}

async fn store(kv: &KvNamespace, n: usize, len: usize) -> Result<(), Error> {
    // The value is sent from this memory, and comes back for the next use.
    let (result, _value) = kv.store(key(n), vec![n as u8; len], StoreOptions::empty()).await;
    result
}

async fn retrieve(kv: &KvNamespace, n: usize, len: usize) -> Result<(), Error> {
    // The socket reads into this memory.
    let (result, buffer) = kv.retrieve(key(n), Buffer::new(len)).await;
    let found = result?;
    assert_eq!(found.value_len as usize, len);
    assert!(buffer.iter().all(|byte| *byte == n as u8), "value {n} differs");
    Ok(())
}

fn key(n: usize) -> Key {
    Key::new(format!("example-{n}").as_bytes()).expect("it has 1 to 16 bytes")
}

async fn timed<T>(what: &str, len: usize, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let begun = Instant::now();
    let result = work.await?;
    let seconds = begun.elapsed().as_secs_f64();
    let gigabytes = (VALUES * len) as f64 / 1e9;
    println!("{what} {VALUES} values of {len} bytes in {seconds:.3} s: {:.2} GB/s", gigabytes / seconds);
    Ok(result)
}
