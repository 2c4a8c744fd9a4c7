//! Stores values side by side, reads them back, checks and deletes them; in host memory, in a region that is registered
//! once, or in the memory of a GPU.
//!
//! ```text
//! cargo run --release -p kvof-initiator --example store_retrieve -- 127.0.0.1:4420 SUBNQN [NSID] [--memory KIND]
//! ```
//!
//! KIND is `host` (the default), `region` or `cuda:N`. Any NVMe/TCP or NVMe/RDMA controller with a KV namespace will do.
//! `kvof discover` or the `discover` example tell the SUBNQN.

use std::time::Instant;

use futures_util::future::join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::memory::cuda::{self, CudaRegion};
use kvof_initiator::{Buffer, ConnectOptions, Controller, Key, KvNamespace, MemoryRegion, StoreOptions};

/// Values, all in flight at once; the library gives each its turn.
const VALUES: usize = 256;
/// Bytes of a value, if the namespace allows as many.
const VALUE_LEN: u32 = 1 << 20;

type Failure = Box<dyn std::error::Error>;

fn main() {
    if let Err(error) = run() {
        eprintln!("store_retrieve: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Failure> {
    let usage = "usage: store_retrieve ADDRESS SUBNQN [NSID] [--memory host|region|cuda:N]";
    let mut plain = Vec::new();
    let mut kind = String::from("host");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--memory" => kind = arguments.next().ok_or(usage)?,
            _ => plain.push(argument),
        }
    }
    let (address, subnqn, nsid) = match plain.as_slice() {
        [address, subnqn] => (address, subnqn, 1),
        [address, subnqn, nsid] => (address, subnqn, nsid.parse()?),
        _ => return Err(usage.into()),
    };
    block_on(async {
        // Before anything is connected: a machine without a GPU says so at once.
        let place: Place = kind.parse()?;
        let controller = Controller::connect(&address.parse()?, subnqn, &ConnectOptions::default()).await?;
        let info = controller.info()?;
        println!("{} {}: {} I/O queues of {}", info.model, info.serial, info.io_queues, info.queue_depth);
        let kv = controller.kv(nsid).await?;
        let len = kv.max_value_len().min(VALUE_LEN) as usize;
        let buffers = place.buffers(len)?;

        let buffers = timed("stored", len, buffers, |n, buffer| store(&kv, n, buffer)).await?;
        let buffers = timed("retrieved", len, buffers, |n, buffer| retrieve(&kv, n, buffer)).await?;
        for (n, buffer) in buffers.iter().enumerate() {
            // Device memory has no slice: this works for every kind.
            let mut bytes = vec![0; len];
            buffer.copy_to_host(0, &mut bytes)?;
            assert!(bytes == value(n, len), "value {n} differs");
            kv.delete(key(n)).await?;
        }
        controller.disconnect().await;
        Ok(())
    })
}

/// Where the values are.
enum Place {
    Host,
    Region,
    Cuda(u32),
}

impl std::str::FromStr for Place {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        match text {
            "host" => Ok(Self::Host),
            "region" => Ok(Self::Region),
            _ => {
                let device = text.strip_prefix("cuda:").and_then(|n| n.parse::<u32>().ok());
                let device = device.ok_or_else(|| format!("--memory is {text:?}: host, region or cuda:N"))?;
                let gpus = cuda::available().map_err(|e| format!("--memory {text}: {e}"))?;
                match gpus.get(device as usize) {
                    Some(gpu) => println!("{text} is {} at {} (dma-buf: {})", gpu.name, gpu.pci, gpu.dma_buf),
                    None => return Err(format!("--memory {text}: there are {} GPUs", gpus.len()).into()),
                }
                Ok(Self::Cuda(device))
            }
        }
    }
}

impl Place {
    /// A buffer of `len` bytes for each value, with the value in it. What is not one by one is made once and cut up:
    /// RDMA then registers it once.
    fn buffers(&self, len: usize) -> Result<Vec<Buffer>, Failure> {
        let mut buffers: Vec<Buffer> = match self {
            Self::Host => (0..VALUES).map(|_| Buffer::new(len)).collect(),
            Self::Region => {
                let region = MemoryRegion::new(VALUES * len)?;
                (0..VALUES).map(|n| region.buffer(n * len, len)).collect::<Result<_, _>>()?
            }
            Self::Cuda(device) => {
                let region = CudaRegion::alloc(*device, VALUES * len)?;
                (0..VALUES).map(|n| region.buffer(n * len, len)).collect::<Result<_, _>>()?
            }
        };
        for (n, buffer) in buffers.iter_mut().enumerate() {
            buffer.copy_from_host(0, &value(n, len))?;
        }
        Ok(buffers)
    }
}

async fn store(kv: &KvNamespace, n: usize, buffer: Buffer) -> Result<Buffer, Failure> {
    // The value is sent from this memory, and comes back for the next use.
    let (result, buffer) = kv.store(key(n), buffer, StoreOptions::empty()).await;
    result?;
    Ok(buffer)
}

async fn retrieve(kv: &KvNamespace, n: usize, mut buffer: Buffer) -> Result<Buffer, Failure> {
    let len = buffer.len();
    buffer.copy_from_host(0, &[0xff; 64][..len.min(64)])?;
    // The value is read into this memory.
    let (result, buffer) = kv.retrieve(key(n), buffer).await;
    assert_eq!(result?.value_len as usize, len);
    Ok(buffer)
}

fn key(n: usize) -> Key {
    Key::new(format!("example-{n}").as_bytes()).expect("it has 1 to 16 bytes")
}

fn value(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at >> 3 ^ n) as u8).collect()
}

/// Does `work` with all buffers at once.
async fn timed<F: Future<Output = Result<Buffer, Failure>>>(
    what: &str,
    len: usize,
    buffers: Vec<Buffer>,
    work: impl Fn(usize, Buffer) -> F,
) -> Result<Vec<Buffer>, Failure> {
    let begun = Instant::now();
    let results = join_all(buffers.into_iter().enumerate().map(|(n, buffer)| work(n, buffer))).await;
    let buffers = results.into_iter().collect::<Result<_, _>>()?;
    let seconds = begun.elapsed().as_secs_f64();
    let gigabytes = (VALUES * len) as f64 / 1e9;
    println!("{what} {VALUES} values of {len} bytes in {seconds:.3} s: {:.2} GB/s", gigabytes / seconds);
    Ok(buffers)
}
