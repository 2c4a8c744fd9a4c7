//! A CUDA driver without a GPU, for tests: compiled to `libcuda.so` and found in place of NVIDIA's.
//!
//! Device memory is a range of addresses that no CPU may touch, with its bytes elsewhere. Streams are threads that take
//! their time. What a real driver would punish later it refuses at once: calls without a current context, copies beyond an
//! allocation or from memory that is not pinned, and freeing memory that a copy uses, which ends the process.
//!
//! Environment: `SIMULATED_CUDA_VERSION` (12040), `SIMULATED_CUDA_DEVICES` (2), `SIMULATED_CUDA_INIT` (the result of cuInit),
//! `SIMULATED_CUDA_FAIL_COPY` (the nth asynchronous copy, from 0, breaks the context).

// SAFETY, of every block below: what a caller hands in are pointers that its CUDA call says are valid for what is read or written there, and this
// driver is loaded by the tests of this crate alone; its own addresses are of mappings that it has made and looks up before it uses them.
#![allow(non_snake_case, private_interfaces, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const INVALID_DEVICE: c_int = 101;
const INVALID_CONTEXT: c_int = 201;
const NOT_READY: c_int = 600;
const LAUNCH_FAILED: c_int = 719;

unsafe extern "C" {
    fn mmap(at: *mut c_void, len: usize, access: c_int, flags: c_int, fd: c_int, offset: c_longlong) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
}

#[derive(Default)]
struct Driver {
    /// Device memory by address: bytes, device, copies that use it.
    device: BTreeMap<u64, (Vec<u8>, usize, Arc<AtomicU64>)>,
    /// Pinned memory by address: length, copies that use it.
    pinned: BTreeMap<u64, (usize, Arc<AtomicU64>)>,
    copies: u64,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// A copy has failed: nothing works any more.
static BROKEN: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn number(name: &str, otherwise: i64) -> i64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn devices() -> usize {
    number("SIMULATED_CUDA_DEVICES", 2) as usize
}

fn driver() -> MutexGuard<'static, Option<Driver>> {
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    driver.get_or_insert_with(Driver::default);
    driver
}

fn current() -> Option<usize> {
    CONTEXTS.with_borrow(|stack| stack.last().copied())
}

/// The current context, if it is in order.
fn context() -> Result<usize, c_int> {
    if BROKEN.load(Ordering::SeqCst) {
        return Err(LAUNCH_FAILED);
    }
    current().ok_or(INVALID_CONTEXT)
}

fn result(of: Result<(), c_int>) -> c_int {
    of.err().unwrap_or(SUCCESS)
}

impl Driver {
    /// The device memory that has all of `len` bytes at `at`.
    fn device_at(&mut self, at: u64, len: usize) -> Result<(&mut [u8], usize, &Arc<AtomicU64>), c_int> {
        let (start, (bytes, device, users)) = self.device.range_mut(..=at).next_back().ok_or(INVALID_VALUE)?;
        let from = (at - start) as usize;
        let bytes = bytes.get_mut(from..from + len).ok_or(INVALID_VALUE)?;
        Ok((bytes, *device, users))
    }

    fn pinned_at(&self, at: u64, len: usize) -> Result<&Arc<AtomicU64>, c_int> {
        let (start, (has, users)) = self.pinned.range(..=at).next_back().ok_or(INVALID_VALUE)?;
        if (at - start) as usize + len <= *has { Ok(users) } else { Err(INVALID_VALUE) }
    }
}

fn must_be_idle(users: &Arc<AtomicU64>, what: &str) {
    if users.load(Ordering::SeqCst) != 0 {
        eprintln!("simulated CUDA driver: {what} is freed while a copy uses it");
        std::process::abort();
    }
}

type Work = Box<dyn FnOnce() + Send>;

struct Stream {
    device: usize,
    work: Sender<Work>,
}

#[derive(Default)]
struct Event {
    recorded: AtomicBool,
    over: Arc<AtomicBool>,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: c_uint) -> c_int {
    number("SIMULATED_CUDA_INIT", 0) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    unsafe { *version = number("SIMULATED_CUDA_VERSION", 12_040) as c_int };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, name: *mut *const c_char) -> c_int {
    let text: &[u8] = match code {
        INVALID_VALUE => b"CUDA_ERROR_INVALID_VALUE\0",
        34 => b"CUDA_ERROR_STUB_LIBRARY\0",
        INVALID_CONTEXT => b"CUDA_ERROR_INVALID_CONTEXT\0",
        LAUNCH_FAILED => b"CUDA_ERROR_LAUNCH_FAILED\0",
        _ => return INVALID_VALUE,
    };
    unsafe { *name = text.as_ptr().cast() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    unsafe { *count = devices() as c_int };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    if ordinal < 0 || ordinal as usize >= devices() {
        return INVALID_DEVICE;
    }
    // A handle that is not the ordinal.
    unsafe { *device = ordinal + 50 };
    SUCCESS
}

unsafe fn write_text(text: &str, to: *mut c_char, len: c_int) -> c_int {
    if text.len() + 1 > len as usize {
        return INVALID_VALUE;
    }
    unsafe { to.cast::<u8>().copy_from(text.as_ptr(), text.len()) };
    unsafe { to.cast::<u8>().add(text.len()).write(0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> c_int {
    unsafe { write_text(&format!("Simulated GPU {}", device - 50), name, len) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int) -> c_int {
    unsafe { write_text(&format!("0000:{:02x}:00.0", device - 50), id, len) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _: c_int) -> c_int {
    unsafe { *bytes = 1 << 30 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _: c_int) -> c_int {
    let found = match attribute {
        75 => 9,
        76 => 0,
        // GPUDirect RDMA, its flush options and ordering: none; dma-buf.
        116 => 1,
        117 | 118 => 0,
        124 => 1,
        _ => return INVALID_VALUE,
    };
    unsafe { *value = found };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> c_int {
    unsafe { *context = device as usize + 1000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: usize) -> c_int {
    CONTEXTS.with_borrow_mut(|stack| stack.push(context - 1050));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> c_int {
    match CONTEXTS.with_borrow_mut(Vec::pop) {
        Some(popped) => {
            unsafe { *context = popped + 1050 };
            SUCCESS
        }
        None => INVALID_CONTEXT,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, len: usize) -> c_int {
    result(context().and_then(|device| {
        if len == 0 || len > 1 << 30 {
            return Err(if len == 0 { INVALID_VALUE } else { 2 });
        }
        // PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS: whoever takes it for host memory finds out.
        let address = unsafe { mmap(std::ptr::null_mut(), len, 0, 0x22, -1, 0) } as u64;
        let memory = (vec![0xdd; len], device, Arc::default());
        driver().as_mut().ok_or(999)?.device.insert(address, memory);
        unsafe { *at = address };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: u64) -> c_int {
    result(context().and_then(|_| {
        let (bytes, _, users) = driver().as_mut().ok_or(999)?.device.remove(&at).ok_or(INVALID_VALUE)?;
        must_be_idle(&users, "device memory");
        unsafe { munmap(at as *mut c_void, bytes.len()) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(at: *mut *mut c_void, len: usize, flags: c_uint) -> c_int {
    result(context().and_then(|_| {
        // Portable, or other contexts could not use it.
        if flags & 1 == 0 || len == 0 {
            return Err(INVALID_VALUE);
        }
        let start = Box::leak(vec![0xaa_u8; len].into_boxed_slice()).as_mut_ptr();
        driver().as_mut().ok_or(999)?.pinned.insert(start as u64, (len, Arc::default()));
        unsafe { *at = start.cast() };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(at: *mut c_void) -> c_int {
    result(context().and_then(|_| {
        let (len, users) = driver().as_mut().ok_or(999)?.pinned.remove(&(at as u64)).ok_or(INVALID_VALUE)?;
        must_be_idle(&users, "pinned memory");
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at.cast::<u8>(), len)) });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) -> c_int {
    result(context().and_then(|_| {
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) };
        driver().as_mut().ok_or(999)?.device_at(to, len)?.0.copy_from_slice(from);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) -> c_int {
    result(context().and_then(|_| {
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), len) };
        to.copy_from_slice(driver().as_mut().ok_or(999)?.device_at(from, len)?.0);
        Ok(())
    }))
}

/// Queues a copy between device and pinned memory.
unsafe fn copy_later(host: u64, device: u64, len: usize, to_device: bool, stream: *const Stream) -> Result<(), c_int> {
    let context = context()?;
    let stream = unsafe { &*stream };
    if stream.device != context {
        return Err(INVALID_CONTEXT);
    }
    let mut locked = driver();
    let driver = locked.as_mut().ok_or(999)?;
    let number = driver.copies;
    driver.copies += 1;
    let host_users = Arc::clone(driver.pinned_at(host, len)?);
    let device_users = Arc::clone(driver.device_at(device, len)?.2);
    drop(locked);
    host_users.fetch_add(1, Ordering::SeqCst);
    device_users.fetch_add(1, Ordering::SeqCst);
    let breaks = self::number("SIMULATED_CUDA_FAIL_COPY", -1) == number as i64;
    let work = move || {
        thread::sleep(Duration::from_micros(100 + number % 7 * 150));
        if breaks {
            BROKEN.store(true, Ordering::SeqCst);
        }
        if !BROKEN.load(Ordering::SeqCst) {
            let bytes = unsafe { std::slice::from_raw_parts_mut(host as *mut u8, len) };
            let mut locked = self::driver();
            if let Some(Ok((memory, ..))) = locked.as_mut().map(|d| d.device_at(device, len)) {
                if to_device {
                    memory.copy_from_slice(bytes);
                } else {
                    bytes.copy_from_slice(memory);
                }
            }
        }
        host_users.fetch_sub(1, Ordering::SeqCst);
        device_users.fetch_sub(1, Ordering::SeqCst);
    };
    stream.work.send(Box::new(work)).map_err(|_| 999)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, on: *const Stream) -> c_int {
    result(unsafe { copy_later(from as u64, to, len, true, on) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, on: *const Stream) -> c_int {
    result(unsafe { copy_later(to as u64, from, len, false, on) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(at: u64, byte: u8, len: usize) -> c_int {
    result(context().and_then(|_| {
        driver().as_mut().ok_or(999)?.device_at(at, len)?.0.fill(byte);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, at: u64) -> c_int {
    result(context().and_then(|_| {
        let mut locked = driver();
        let driver = locked.as_mut().ok_or(999)?;
        driver.device_at(at, 1)?;
        let (start, (bytes, ..)) = driver.device.range(..=at).next_back().ok_or(INVALID_VALUE)?;
        unsafe { *base = *start };
        unsafe { *size = bytes.len() };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(value: *mut c_uint, attribute: c_int, at: u64) -> c_int {
    result(context().and_then(|_| {
        let mut locked = driver();
        let driver = locked.as_mut().ok_or(999)?;
        let device = driver.device_at(at, 1).map(|(_, device, _)| device);
        let found = match (attribute, device) {
            // Memory type: 2 is the device's, 1 the host's.
            (2, Ok(_)) => 2,
            (2, Err(_)) if driver.pinned_at(at, 1).is_ok() => 1,
            (9, Ok(device)) => device as c_uint,
            _ => return Err(INVALID_VALUE),
        };
        unsafe { *value = found };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuPointerSetAttribute(_: *const c_void, attribute: c_int, at: u64) -> c_int {
    result(context().and_then(|_| {
        let known = driver().as_mut().ok_or(999)?.device_at(at, 1).is_ok();
        // SYNC_MEMOPS.
        if known && attribute == 6 { Ok(()) } else { Err(INVALID_VALUE) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut Stream, _: c_uint) -> c_int {
    result(context().and_then(|device| {
        let (work, queue) = channel::<Work>();
        thread::spawn(move || queue.into_iter().for_each(|work| work()));
        unsafe { *stream = Box::into_raw(Box::new(Stream { device, work })) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: *const Stream) -> c_int {
    let (done, wait) = channel::<()>();
    let sent = unsafe { &*stream }.work.send(Box::new(move || done.send(()).unwrap_or(())));
    if sent.is_err() || wait.recv().is_err() || BROKEN.load(Ordering::SeqCst) {
        return LAUNCH_FAILED;
    }
    result(context().map(|_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: *mut Stream) -> c_int {
    drop(unsafe { Box::from_raw(stream) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut Event, _: c_uint) -> c_int {
    result(context().map(|_| unsafe { *event = Box::into_raw(Box::default()) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: *mut Event, stream: *const Stream) -> c_int {
    result(context().and_then(|_| {
        let event = unsafe { &mut *event };
        event.recorded.store(true, Ordering::SeqCst);
        event.over = Arc::default();
        let over = Arc::clone(&event.over);
        let work: Work = Box::new(move || over.store(true, Ordering::SeqCst));
        unsafe { &*stream }.work.send(work).map_err(|_| 999)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: *const Event) -> c_int {
    result(context().and_then(|_| {
        let event = unsafe { &*event };
        if !event.recorded.load(Ordering::SeqCst) {
            return Err(INVALID_VALUE);
        }
        if event.over.load(Ordering::SeqCst) { Ok(()) } else { Err(NOT_READY) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut Event) -> c_int {
    drop(unsafe { Box::from_raw(event) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: *const Stream,
    call: unsafe extern "C" fn(*mut c_void),
    with: *mut c_void,
) -> c_int {
    result(context().and_then(|_| {
        let with = with as u64;
        let work = move || {
            if !BROKEN.load(Ordering::SeqCst) {
                unsafe { call(with as *mut c_void) };
            }
        };
        unsafe { &*stream }.work.send(Box::new(work)).map_err(|_| 999)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFlushGPUDirectRDMAWrites(target: c_int, scope: c_int) -> c_int {
    result(context().and_then(|_| if (target, scope) == (0, 100) { Ok(()) } else { Err(INVALID_VALUE) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetHandleForAddressRange(
    handle: *mut c_int,
    at: u64,
    len: usize,
    kind: c_int,
    _: c_ulonglong,
) -> c_int {
    result(context().and_then(|_| {
        let known = driver().as_mut().ok_or(999)?.device_at(at, len).is_ok();
        if !known || kind != 1 || at % 4096 != 0 || len % 4096 != 0 {
            return Err(INVALID_VALUE);
        }
        // There is no dma-buf of memory that does not exist: a descriptor that devices refuse.
        let file = std::fs::File::open("/dev/null").map_err(|_| 999)?;
        unsafe { *handle = std::os::fd::IntoRawFd::into_raw_fd(file) };
        Ok(())
    }))
}
