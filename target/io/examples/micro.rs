//! What the building blocks cost on this machine, in nanoseconds: `cargo run --release -p kvof-io --example micro`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kvof_io::{EventLoop, EventLoopConfig, Pool, PoolConfig, Region};

fn time(name: &str, rounds: u32, mut work: impl FnMut()) {
    // Three runs, of which the quickest was disturbed least.
    let best = (0..3).map(|_| {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        start.elapsed()
    });
    let nanos = best.min().unwrap_or_default().as_nanos() as f64 / f64::from(rounds);
    println!("{name:<48} {nanos:>9.1}");
}

fn main() -> std::io::Result<()> {
    let pool = Pool::new(PoolConfig::new(64 << 20));
    for len in [4096, 128 << 10, 4 << 20] {
        time(&format!("pool: take and return {len} bytes"), 1_000_000, || drop(black_box(pool.alloc(len))));
    }
    time("pool: take, freeze, slice, return 4096 bytes", 1_000_000, || {
        let shared = pool.alloc(4096).map(kvof_io::PoolBuf::freeze);
        black_box(shared.and_then(|s| s.slice(10..20)));
    });
    let other = pool.clone();
    let busy = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            (0..1000).for_each(|_| drop(black_box(other.alloc(4096))));
        }
    });
    time("pool: the same 4096 bytes with another busy core", 1_000_000, || drop(black_box(pool.alloc(4096))));
    busy.join().expect("the busy thread does not panic");

    let region = Region::new(64 << 20)?;
    let mut block = vec![1u8; 128 << 10];
    time("region: copy in 128 KiB, in cache", 10_000, || {
        black_box(region.copy_in(0, &block)).unwrap_or_default();
    });
    time("region: copy out 128 KiB, in cache", 10_000, || {
        black_box(region.copy_out(0, &mut block)).unwrap_or_default();
    });

    let mut event_loop = EventLoop::new(EventLoopConfig::default())?;
    let waker = event_loop.waker();
    let mut events = Vec::new();
    time("loop: a turn with nothing to do", 1_000_000, || {
        event_loop.turn(Some(Duration::ZERO), &mut events).unwrap_or_default();
    });
    time("loop: a wake-up and the turn that reports it", 1_000_000, || {
        waker.wake();
        event_loop.turn(Some(Duration::ZERO), &mut events).unwrap_or_default();
        events.clear();
    });
    println!("ring: {:?}", event_loop.setup());
    Ok(())
}
