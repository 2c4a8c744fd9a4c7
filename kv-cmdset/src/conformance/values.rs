//! Values: every size, whole and truncated.

use kvof_spec::Status;

use super::context::{CaseResult, Context, expect_bytes, expect_eq, skip};
use super::{Case, RETRIEVE, STORE};
use crate::{Data, KvCommand, RetrieveOptions, StoreOptions};

pub(super) const CASES: &[Case] = &[
    Case { name: "value.empty", about: "a value of 0 bytes is a value", reference: STORE, check: empty },
    Case {
        name: "value.sizes",
        about: "values of sizes around every boundary come back whole",
        reference: STORE,
        check: sizes,
    },
    Case {
        name: "value.largest",
        about: "a value of KVVML bytes, or as much as the path can move, comes back whole",
        reference: STORE,
        check: largest,
    },
    Case {
        name: "value.too_large",
        about: "a value of more than KVVML bytes is Invalid Value Size and changes nothing",
        reference: STORE,
        check: too_large,
    },
    Case {
        name: "value.overwrite",
        about: "Store replaces the whole value, shorter or longer",
        reference: STORE,
        check: overwrite,
    },
    Case {
        name: "retrieve.truncated",
        about: "a buffer that is too short gets the start of the value, and DW0 the full length",
        reference: RETRIEVE,
        check: truncated,
    },
    Case {
        name: "retrieve.buffer_0",
        about: "Retrieve with a buffer of 0 bytes gives the length",
        reference: RETRIEVE,
        check: buffer_0,
    },
    Case {
        name: "retrieve.longer_buffer",
        about: "the buffer after the value's end stays as it was",
        reference: RETRIEVE,
        check: longer_buffer,
    },
    Case {
        name: "retrieve.missing",
        about: "Retrieve of a missing key is KV Key Does Not Exist whatever the buffer",
        reference: RETRIEVE,
        check: missing,
    },
    Case {
        name: "retrieve.raw",
        about: "a value stored uncompressed is the same with and without decompression",
        reference: RETRIEVE,
        check: raw,
    },
    Case {
        name: "store.buffer_shorter",
        about: "Store with less data than its value size is refused and stores nothing",
        reference: STORE,
        check: store_buffer_shorter,
    },
    Case {
        name: "store.buffer_longer",
        about: "Store with more data than its value size stores the value size",
        reference: STORE,
        check: store_buffer_longer,
    },
    Case {
        name: "retrieve.buffer_longer",
        about: "Retrieve never transfers more than its buffer size field says",
        reference: RETRIEVE,
        check: retrieve_buffer_longer,
    },
];

fn empty(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"empty")?;
    c.store(&key, &[])?;
    c.expect_exists(&key, 0)?;
    c.expect_value(&key, &[])?;
    c.expect_retrieve(&key, &[], 0)?;
    c.expect_retrieve(&key, &[], 4096)?;
    let value = c.value(100);
    c.store(&key, &value)?;
    c.expect_value(&key, &value)?;
    c.store(&key, &[])?;
    c.expect_value(&key, &[])?;
    c.delete(&key)?;
    c.expect_absent(&key)
}

/// Where sectors, pages, in-capsule data, PDUs and segments end.
const BOUNDARIES: [usize; 9] = [512, 4096, 8192, 16384, 65536, 131_072, 262_144, 524_288, 1 << 20];

fn sizes(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"size")?;
    let around = BOUNDARIES.iter().flat_map(|at| [at - 1, *at, at + 1]);
    let small = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 127, 255, 256, 257];
    for size in small.into_iter().chain(around).filter(|size| *size <= longest) {
        let value = c.value(size);
        c.store(&key, &value)?;
        c.expect_value(&key, &value)?;
        c.expect_exists(&key, size)?;
    }
    Ok(())
}

/// More than this in one buffer would rather test the machine's memory.
const BUFFER_MAX: usize = 64 << 20;

fn largest(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"largest")?;
    let largest = c.longest_value().min(BUFFER_MAX);
    for size in [largest.saturating_sub(1), largest] {
        let value = c.value(size);
        c.store(&key, &value)?;
        c.expect_value(&key, &value)?;
    }
    Ok(())
}

fn too_large(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"toolarge")?;
    let before = c.value(33);
    c.store(&key, &before)?;
    let kvvml = c.info.limits.kvvml;
    let mut sizes: Vec<u32> = [1, 3, 4096].iter().filter_map(|more| kvvml.checked_add(*more)).collect();
    sizes.extend([1 << 31, u32::MAX].iter().filter(|size| **size > kvvml));
    if sizes.is_empty() {
        return skip("KVVML is the most that a command can say");
    }
    let room = (c.info.max_transfer as usize).min(BUFFER_MAX);
    for size in sizes {
        let command = KvCommand::store(c.info.nsid, &key, StoreOptions::empty(), size);
        // Where the path cannot move as much, the value size says more than there is data; the value size is wrong first.
        let whole = size as usize <= room;
        let value = c.value(if whole { size as usize } else { room.min(4096) });
        let theirs = [Status::DATA_SGL_LENGTH_INVALID, Status::INVALID_FIELD];
        let reply = c.execute(&command, Data::Out(&value))?;
        let what = format!("Store of {size} bytes, KVVML {kvvml}");
        c.expect_any(what, reply, Status::INVALID_VALUE_SIZE, if whole { &[] } else { &theirs })?;
        c.expect_value(&key, &before)?;
    }
    Ok(())
}

fn overwrite(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"over")?;
    for size in [100, 5000, 4999, 1, 0, 40_000, 8192, 8191, 3, 8193, 40_000, 100] {
        if size <= c.longest_value() {
            let value = c.value(size);
            c.store(&key, &value)?;
            c.expect_value(&key, &value)?;
        }
    }
    Ok(())
}

fn truncated(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"trunc")?;
    for len in [10, 3000, 10_007, 200_003].into_iter().filter(|len| *len <= longest) {
        let value = c.value(len);
        c.store(&key, &value)?;
        let fixed = [1, 2, 3, 4, 5, 100, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 65_535, 65_536, 131_072];
        for buffer in fixed.into_iter().chain([len - 2, len - 1, len]).filter(|buffer| *buffer <= len) {
            c.expect_retrieve(&key, &value, buffer)?;
            // The SGL may well be longer than the buffer size field: there the end of the transfer shows.
            expect_within(c, &key, &value, buffer)?;
        }
    }
    Ok(())
}

/// Retrieve with a size field of `size` and a real buffer of more.
fn expect_within(c: &Context<'_>, key: &crate::Key, value: &[u8], size: usize) -> CaseResult {
    let what = format!("Retrieve of {key:?}, {} bytes, size field {size}, SGL longer", value.len());
    let room = size + 32;
    let (Ok(field), true) = (u32::try_from(size), room <= c.info.max_transfer as usize) else { return Ok(()) };
    let mut bytes = vec![super::context::FILL; room];
    let command = KvCommand::retrieve(c.info.nsid, key, RetrieveOptions::empty(), field);
    let reply = match c.port.execute(&command, Data::In(&mut bytes)) {
        Err(crate::PortError::Unsupported(_)) => return Ok(()),
        other => other?,
    };
    c.expect(&what, reply, Status::SUCCESS)?;
    expect_eq(format_args!("{what}: DW0 (the value's full length)"), reply.dw0 as usize, value.len())?;
    let (head, tail) = bytes.split_at(size.min(value.len()));
    expect_bytes(&what, head, &value[..head.len()])?;
    c.expect_untouched(&what, tail, head.len())
}

fn buffer_0(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"query")?;
    for len in [0, 1, 77, 4096, 100_000].into_iter().filter(|len| *len <= longest) {
        let value = c.value(len);
        c.store(&key, &value)?;
        c.expect_retrieve(&key, &value, 0)?;
    }
    Ok(())
}

fn longer_buffer(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"tail")?;
    for len in [0, 1, 5, 4095, 4096, 9001].into_iter().filter(|len| *len <= longest) {
        let value = c.value(len);
        c.store(&key, &value)?;
        for more in [1, 2, 3, 4, 511, 4096, 70_000] {
            if len + more <= c.info.max_transfer as usize {
                c.expect_retrieve(&key, &value, len + more)?;
            }
        }
    }
    Ok(())
}

fn missing(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"missing")?;
    for len in [0, 1, 4096, 65_536].into_iter().filter(|len| *len <= c.info.max_transfer as usize) {
        let mut buffer = vec![super::context::FILL; len];
        let what = format!("Retrieve of a missing key into a buffer of {len}");
        let reply = c.port.retrieve(&key, &mut buffer)?;
        c.expect(&what, reply, Status::KEY_DOES_NOT_EXIST)?;
        c.expect_untouched(&what, &buffer, 0)?;
    }
    Ok(())
}

fn raw(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"raw")?;
    let mut value = vec![b'x'; 3000];
    value.extend(c.value(1000));
    c.store_with(&key, StoreOptions::NO_COMPRESS, &value)?;
    c.expect_value(&key, &value)?;
    let mut buffer = vec![0; value.len()];
    let command = KvCommand::retrieve(c.info.nsid, &key, RetrieveOptions::RAW, 4000);
    let reply = c.execute(&command, Data::In(&mut buffer))?;
    c.expect("Retrieve without decompression", reply, Status::SUCCESS)?;
    expect_eq("DW0 of Retrieve without decompression", reply.dw0 as usize, value.len())?;
    expect_bytes("Retrieve without decompression", &buffer, &value)
}

fn store_buffer_shorter(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"short")?;
    let data = c.value(20_000.min(c.longest_value()));
    let most = u32::try_from(c.longest_value()).unwrap_or(u32::MAX);
    for (len, size) in [(0, 1), (0, 4096), (1, 2), (100, 104), (4096, 4097), (8192, 8193), (9000, 20_000)] {
        if size > most {
            continue;
        }
        let command = KvCommand::store(c.info.nsid, &key, StoreOptions::empty(), size);
        let reply = c.execute(&command, Data::Out(&data[..len]))?;
        let what = format!("Store of {size} bytes with {len} bytes of data");
        c.expect_any(what, reply, Status::DATA_SGL_LENGTH_INVALID, &[Status::INVALID_FIELD])?;
        c.expect_absent(&key)?;
    }
    Ok(())
}

fn store_buffer_longer(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"long")?;
    let data = c.value(20_000.min(c.longest_value()));
    for (len, size) in [(1, 0), (2, 1), (104, 100), (4097, 4096), (8193, 8192), (20_000, 9000), (20_000, 19_999)] {
        let (Some(sent), Some(value)) = (data.get(..len), data.get(..size as usize)) else { continue };
        let command = KvCommand::store(c.info.nsid, &key, StoreOptions::empty(), size);
        let reply = c.execute(&command, Data::Out(sent))?;
        let what = format!("Store of {size} bytes with {len} bytes of data");
        c.expect_any(&what, reply, Status::SUCCESS, &[Status::DATA_SGL_LENGTH_INVALID, Status::INVALID_FIELD])?;
        if reply.status.is_success() {
            c.expect_value(&key, value)?;
            c.delete(&key)?;
        } else {
            c.expect_absent(&key)?;
        }
    }
    Ok(())
}

fn retrieve_buffer_longer(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"within")?;
    let value = c.value(5000.min(c.longest_value()));
    c.store(&key, &value)?;
    for size in [0, 1, 99, 4096, 4999, 6000] {
        expect_within(c, &key, &value, size)?;
    }
    // The other way round, an SGL that is shorter than the size field must not be overrun.
    let mut buffer = vec![super::context::FILL; 96];
    let command = KvCommand::retrieve(c.info.nsid, &key, RetrieveOptions::empty(), 4096);
    let reply = c.execute(&command, Data::In(&mut buffer[..64]))?;
    let what = "Retrieve with a size field of 4096 and an SGL of 64 bytes";
    c.expect_any(what, reply, Status::DATA_SGL_LENGTH_INVALID, &[Status::INVALID_FIELD])?;
    c.expect_untouched(what, &buffer, 0)
}
