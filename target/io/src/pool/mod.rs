//! A bounded pool of page-aligned memory for payloads.
//!
//! Invariants: memory in use plus memory cached for reuse never exceeds the limit; every byte handed out has been initialised (zero at
//! first, whatever its last user left afterwards); a buffer may be dropped on any thread.
//!
//! Why locks, and why they do not hurt: free memory is kept in shards, and a thread always allocates from the shard that its id picks.
//! A buffer goes back to the shard it came from. With a shard per core thread each lock is therefore taken by one thread alone (an
//! uncontended lock is two atomic operations on a cache line that this core already owns); only a buffer dropped on a foreign core, or a
//! pool at its limit that looks for memory elsewhere, meets another thread, for the time of a vector push. The shared counter
//! is written only when memory is obtained from or returned to the system, so reuse touches no line that other cores write.

mod arena;
mod buf;
mod classes;
mod part;
mod shared;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use buf::PoolBuf;
pub use classes::PAGE_SIZE;
pub use part::PoolPart;
pub use shared::SharedBuf;

use kvof_rdma::Registrations;

use crate::mem;
use arena::Arena;
use classes::class_of;

/// How a [`Pool`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Most memory the pool may hold, in use and cached together, in bytes; rounded down to whole pages of 4096 bytes.
    pub limit: usize,
    /// How many free lists to keep; at least the number of threads that allocate, so that they do not share a lock. 0 counts as 1.
    pub shards: usize,
}

impl PoolConfig {
    /// A pool of `limit` bytes with a shard for each processor of the machine.
    pub fn new(limit: usize) -> Self {
        let shards = std::thread::available_parallelism().map_or(1, |n| n.get().min(256));
        Self { limit, shards }
    }
}

/// A bounded pool of page-aligned buffers. Clones share the same memory.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// An empty pool. Memory is taken from the system when it is first asked for.
    pub fn new(config: PoolConfig) -> Self {
        // A quarter of the address space is beyond any machine and keeps class sizes from overflowing.
        let limit = config.limit.min(usize::MAX / 4) & !(PAGE_SIZE - 1);
        let classes = class_of(limit).map_or(0, |(class, _)| class + 1);
        let core =
            Arc::new(Core { limit, arena: OnceLock::new(), reserved: AtomicUsize::new(0), kept: AtomicUsize::new(0) });
        let shards = (0..config.shards.max(1)).map(|_| Arc::new(Shard::new(Arc::clone(&core), classes))).collect();
        Self { inner: Arc::new(Inner { core, shards }) }
    }

    /// A buffer of `len` bytes, aligned to 4096. Its contents are initialised but unspecified. None when the limit leaves no room, when
    /// `len` is beyond the limit, or when the system has no memory. A length of 0 always succeeds and takes no memory.
    pub fn alloc(&self, len: usize) -> Option<PoolBuf> {
        if len == 0 {
            return Some(PoolBuf::empty());
        }
        let core = &*self.inner.core;
        if len > core.limit {
            return None;
        }
        let (class, size) = class_of(len)?;
        // The topmost class would pass the limit when the limit is between two classes: its members have the limit's size then.
        let size = size.min(core.limit);
        let home = self.home()?;
        let chunk = home.take(class, size).or_else(|| self.obtain(home, class, size))?;
        Some(PoolBuf::new(chunk, len, class, Arc::clone(home)))
    }

    /// As [`Self::alloc`], for what can wait: None also where it would leave less than what [`Self::keep`] says for others. Threads that
    /// do so at the same moment may together leave a little less.
    pub fn alloc_patient(&self, len: usize) -> Option<PoolBuf> {
        let kept = self.inner.core.kept.load(Ordering::Relaxed);
        if len > 0 && kept > 0 && self.in_use().saturating_add(len).saturating_add(kept) > self.limit() {
            return None;
        }
        self.alloc(len)
    }

    /// Keeps `bytes` of the limit for [`Self::alloc`].
    pub fn keep(&self, bytes: usize) {
        self.inner.core.kept.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in live buffers, rounded up to their size classes. Exact when no other thread allocates or frees meanwhile.
    pub fn in_use(&self) -> usize {
        self.inner.core.reserved.load(Ordering::Acquire).saturating_sub(self.cached())
    }

    /// Bytes kept for reuse; given up when an allocation of another size needs the room.
    pub fn cached(&self) -> usize {
        self.inner.shards.iter().map(|s| s.cached.load(Ordering::Acquire)).sum()
    }

    /// The most bytes in use and cached together.
    pub fn limit(&self) -> usize {
        self.inner.core.limit
    }

    fn home(&self) -> Option<&Arc<Shard>> {
        let shards = &self.inner.shards;
        shards.get(thread_number() % shards.len().max(1))
    }

    /// The slow way to a chunk: from the system, else from another thread's free list, else by giving up cached memory of other sizes.
    fn obtain(&self, home: &Arc<Shard>, class: usize, size: usize) -> Option<Chunk> {
        let core = &*self.inner.core;
        loop {
            if core.reserve(size) {
                return core.obtain(size).or_else(|| {
                    core.release(size);
                    None
                });
            }
            if let Some(chunk) = self.inner.shards.iter().find_map(|shard| shard.take(class, size)) {
                return Some(chunk);
            }
            let missing = core.reserved.load(Ordering::Acquire).saturating_add(size).saturating_sub(core.limit);
            if missing > 0 && !self.evict(home, missing) {
                return None;
            }
        }
    }

    /// Returns at least `wanted` cached bytes to the system, or all there are; false if there were none.
    fn evict(&self, home: &Arc<Shard>, wanted: usize) -> bool {
        let mut freed = 0;
        for shard in std::iter::once(home).chain(self.inner.shards.iter()) {
            while freed < wanted {
                match shard.evict_one() {
                    Some(size) => freed += size,
                    None => break,
                }
            }
        }
        freed > 0
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limit", &self.limit())
            .field("in_use", &self.in_use())
            .field("cached", &self.cached())
            .finish()
    }
}

struct Inner {
    core: Arc<Core>,
    shards: Box<[Arc<Shard>]>,
}

struct Core {
    limit: usize,
    /// Where the chunks are, but for those that it has no gap for. Made when memory is first asked for.
    arena: OnceLock<Option<Arena>>,
    /// Bytes obtained from the system and not yet returned: in use, cached, or on the way between the two.
    reserved: AtomicUsize,
    /// Bytes that those who can wait leave to others.
    kept: AtomicUsize,
}

impl Core {
    fn reserve(&self, size: usize) -> bool {
        self.reserved
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| now.checked_add(size).filter(|n| *n <= self.limit))
            .is_ok()
    }

    fn release(&self, size: usize) {
        self.reserved.fetch_sub(size, Ordering::AcqRel);
    }

    /// New memory, for which there is room in the limit.
    fn obtain(&self, size: usize) -> Option<Chunk> {
        let arena = self.arena.get_or_init(|| Arena::new(self.limit)).as_ref();
        let start = arena.and_then(|arena| arena.take(size)).or_else(|| from_system(size))?;
        Some(Chunk { start, size, registrations: Registrations::new() })
    }

    /// Gives the memory of a chunk back, and its room in the limit.
    fn discard(&self, chunk: Chunk) {
        let Chunk { start, size, registrations } = chunk;
        // Devices let go of it first.
        drop(registrations);
        match self.arena.get().and_then(Option::as_ref).filter(|arena| arena.contains(start)) {
            // SAFETY: `obtain` took it from this arena with this size, and the chunk was its only owner.
            Some(arena) => unsafe { arena.give_back(start, size) },
            // SAFETY: it is not the arena's, so `obtain` had it from the system with this size; the chunk was its only owner.
            None => unsafe { to_system(start, size) },
        }
        self.release(size);
    }
}

/// The free lists of one thread (of several, when there are more threads than shards). Its own cache lines, so that
/// neighbours do not disturb each other.
#[repr(align(128))]
struct Shard {
    core: Arc<Core>,
    /// Bytes in `free`; written under its lock, read without.
    cached: AtomicUsize,
    free: Mutex<Vec<Vec<Chunk>>>,
}

impl Shard {
    fn new(core: Arc<Core>, classes: usize) -> Self {
        let free = Mutex::new((0..classes).map(|_| Vec::new()).collect());
        Self { core, cached: AtomicUsize::new(0), free }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Chunk>>> {
        // Nothing panics while the lock is held, and a half-done push or pop of a vector does not exist.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, class: usize, size: usize) -> Option<Chunk> {
        if self.cached.load(Ordering::Relaxed) < size {
            return None;
        }
        let mut free = self.lock();
        let chunk = free.get_mut(class)?.pop()?;
        self.cached.fetch_sub(size, Ordering::AcqRel);
        Some(chunk)
    }

    fn give_back(&self, chunk: Chunk, class: usize) {
        let size = chunk.size;
        let mut free = self.lock();
        if let Some(list) = free.get_mut(class) {
            list.push(chunk);
            self.cached.fetch_add(size, Ordering::AcqRel);
        } else {
            drop(free);
            self.core.discard(chunk);
        }
    }

    /// Returns one cached chunk, of the largest class that has any, to the system; its size in bytes.
    fn evict_one(&self) -> Option<usize> {
        if self.cached.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let chunk = {
            let mut free = self.lock();
            let chunk = free.iter_mut().rev().find_map(Vec::pop)?;
            self.cached.fetch_sub(chunk.size, Ordering::AcqRel);
            chunk
        };
        let size = chunk.size;
        self.core.discard(chunk);
        Some(size)
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        while self.evict_one().is_some() {}
    }
}

/// Memory of a pool: `size` initialised bytes (a multiple of the page size) at a page boundary, owned by this value. It goes back by
/// [`Core::discard`]; dropped, it is lost.
struct Chunk {
    start: NonNull<u8>,
    size: usize,
    /// RDMA keys, made when first needed and kept while the memory is: a free list gives memory out with them.
    registrations: Registrations,
}

// SAFETY: a chunk owns its memory, which has no tie to the thread that obtained it.
unsafe impl Send for Chunk {}
// SAFETY: a shared reference to a chunk gives no access to its memory; `PoolBuf` lends that under the usual borrow rules.
unsafe impl Sync for Chunk {}

/// `size` zeroed bytes of their own, where an arena has no room.
fn from_system(size: usize) -> Option<NonNull<u8>> {
    if size >= mem::HUGE_PAGE {
        return mem::map_zeroed(size).ok();
    }
    // SAFETY: the layout's size is not zero: sizes are whole pages.
    NonNull::new(unsafe { alloc_zeroed(layout(size)?) })
}

/// Gives back what [`from_system`] gave.
///
/// # Safety
/// It gave `start` for this size, and nobody uses the memory any more.
unsafe fn to_system(start: NonNull<u8>, size: usize) {
    if size >= mem::HUGE_PAGE {
        // SAFETY: mapped with this size, and promised by the caller.
        unsafe { mem::unmap(start, size) };
    } else if let Some(layout) = layout(size) {
        // SAFETY: allocated with this very layout, and promised by the caller.
        unsafe { dealloc(start.as_ptr(), layout) };
    }
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, PAGE_SIZE).ok().filter(|l| l.size() > 0)
}

/// A small number for the calling thread, in order of first use, so that threads spread over the shards evenly.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER
        .try_with(|n| {
            if n.get() == usize::MAX {
                n.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            n.get()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
