//! Values of every size that takes another way through the kernel or the host library, up to the largest that they let through.

use anyhow::{Context, Result, ensure};
use kvof_kv::{Key, KvPort, PortError, Status, StoreOptions};

use crate::pattern::Label;
use crate::port::KERNEL;

/// Stores, retrieves and deletes values up to the largest of the path, then some more. Returns that largest size.
///
/// # Errors
/// When a value does not come back as it was stored, or one that is too long is taken.
pub(crate) fn run(port: &dyn KvPort) -> Result<u32> {
    let info = port.info();
    let largest = info.limits.kvvml.min(info.max_transfer);
    let key = Key::new(b"max-value")?;
    let sizes = sizes(largest);
    for (version, &size) in (0..).zip(&sizes) {
        round_trip(port, &key, size, Label { key: 1, version }).with_context(|| format!("a value of {size} bytes"))?;
    }
    let status = port.delete(&key)?.status;
    ensure!(status.is_success(), "Delete: {status}");

    for more in [1, 512, 4096].into_iter().filter_map(|bytes| largest.checked_add(bytes)) {
        one_too_long(port, &key, more)
            .with_context(|| format!("Store of {more} bytes, {} too many", more - largest))?;
    }
    Ok(largest)
}

/// The target refuses a value beyond KVVML or MDTS. The kernel does not even send one beyond MDTS; it counts in sectors of 512 bytes, though,
/// and leaves the last few bytes to the target.
fn one_too_long(port: &dyn KvPort, key: &Key, len: u32) -> Result<()> {
    let info = port.info();
    let beyond_transfer = len > info.max_transfer;
    match port.store(key, StoreOptions::empty(), &vec![0x5a; len as usize]) {
        Ok(reply) if beyond_transfer => {
            ensure!(
                !info.name.starts_with(KERNEL) || len / 512 <= info.max_transfer / 512,
                "the kernel let it through: {}",
                reply.status
            );
            ensure!(
                [Status::INVALID_FIELD, Status::INVALID_VALUE_SIZE].contains(&reply.status.code()),
                "{}, where Invalid Field (beyond MDTS) or Invalid Value Size was due",
                reply.status
            );
        }
        Ok(reply) => ensure!(
            reply.status.code() == Status::INVALID_VALUE_SIZE,
            "{}, where Invalid Value Size was due",
            reply.status
        ),
        Err(PortError::Unsupported(_)) if beyond_transfer => {}
        Err(error) => return Err(error.into()),
    }
    let status = port.exist(key)?.status;
    ensure!(status.code() == Status::KEY_DOES_NOT_EXIST, "it left something behind: {status}");
    Ok(())
}

fn round_trip(port: &dyn KvPort, key: &Key, size: u32, label: Label) -> Result<()> {
    let value = label.value(size as usize);
    let reply = port.store(key, StoreOptions::empty(), &value)?;
    ensure!(reply.status.is_success(), "Store: {}", reply.status);
    let mut read = vec![0xa5; size as usize];
    let reply = port.retrieve(key, &mut read)?;
    ensure!(reply.status.is_success(), "Retrieve: {}", reply.status);
    ensure!(reply.dw0 == size, "Retrieve says the value has {} bytes", reply.dw0);
    ensure!(read == value, "{} bytes are wrong", label.wrong_bytes(&read));
    Ok(())
}

/// Around every power of two (in-capsule limits, pages and segments end there), and the largest.
fn sizes(largest: u32) -> Vec<u32> {
    let mut sizes: Vec<u32> = (0..32)
        .map(|bit| 1_u32 << bit)
        .flat_map(|power| if power < 512 { vec![power] } else { vec![power - 1, power, power + 1] })
        .chain([0, largest.saturating_sub(1), largest])
        .filter(|size| *size <= largest)
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_up_to_the_largest_and_no_further() {
        let sizes = sizes(8192);
        assert_eq!(sizes.first(), Some(&0));
        assert_eq!(sizes.last(), Some(&8192));
        assert!(sizes.contains(&4095) && sizes.contains(&4097) && !sizes.contains(&8193));
    }
}
