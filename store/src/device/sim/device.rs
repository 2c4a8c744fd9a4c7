//! One simulated device: what it shows, what it keeps, and what it does with an operation of a given fate.

use std::{collections::BTreeSet, io, ops::Range, time::Duration};

use kvof_io::SharedBuf;

use super::{EIO, Rng};
use crate::{
    device::memory::Image,
    format::{LABEL_AREA, PAGE, SUPERBLOCK_AREA},
};

/// The smallest part of a write that survives a crash as a whole, bytes.
const SECTOR: usize = 512;

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Good,
    Error(i32),
    /// A page becomes unreadable.
    Bad,
    /// A read that ends early.
    Short,
    /// A write that is answered and not done.
    Lost,
    /// Done at this place instead.
    Elsewhere(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    /// What reads see.
    pub(super) image: Image,
    /// What a loss of power leaves for certain.
    durable: Image,
    /// What was written and not flushed, in its order.
    cache: Vec<Cached>,
    /// Pages that cannot be read.
    bad: BTreeSet<u64>,
    pub(super) alive: bool,
    pub(super) suspect: bool,
    pub(super) hung_until: Duration,
}

#[derive(Clone, Debug)]
struct Cached {
    order: u64,
    offset: u64,
    bytes: std::sync::Arc<Vec<u8>>,
}

impl Device {
    pub(super) fn new(len: u64) -> Self {
        let image = Image::new(len);
        Self {
            durable: image.clone(),
            image,
            cache: Vec::new(),
            bad: BTreeSet::new(),
            alive: true,
            suspect: false,
            hung_until: Duration::ZERO,
        }
    }

    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8], fate: Fate, rng: &mut Rng) -> io::Result<()> {
        let pages = pages(offset, buf.len());
        match fate {
            Fate::Error(code) => {
                rng.fill(buf);
                return Err(io::Error::from_raw_os_error(code));
            }
            Fate::Short => {
                let keep = rng.below(buf.len() as u64) as usize / SECTOR * SECTOR;
                self.image.read(offset, buf.get_mut(..keep).unwrap_or_default())?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Fate::Bad => {
                self.bad.insert(rng.between(pages.start, pages.end.saturating_sub(1)));
            }
            _ => {}
        }
        if self.bad.range(pages).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.image.read(if let Fate::Elsewhere(place) = fate { place } else { offset }, buf)
    }

    pub(super) fn write(
        &mut self,
        offset: u64,
        bufs: &[SharedBuf],
        fate: Fate,
        order: u64,
        rng: &mut Rng,
    ) -> io::Result<()> {
        match fate {
            Fate::Error(code) => {
                self.tear(offset, bufs, Fate::Good, order, rng);
                Err(io::Error::from_raw_os_error(code))
            }
            Fate::Lost => Ok(()),
            Fate::Elsewhere(place) => self.put(place, &concat(bufs), order),
            _ => self.put(offset, &concat(bufs), order),
        }
    }

    /// Some part of a write that was never answered, or was answered with an error.
    pub(super) fn tear(&mut self, offset: u64, bufs: &[SharedBuf], fate: Fate, order: u64, rng: &mut Rng) {
        let offset = match fate {
            Fate::Lost => return,
            Fate::Elsewhere(place) => place,
            _ => offset,
        };
        let bytes = concat(bufs);
        for part in surviving(rng, bytes.len()) {
            // Beyond the end of the device there is nothing to tear.
            let _ = self.put(offset + part.start as u64, bytes.get(part).unwrap_or_default(), order);
        }
    }

    /// `mark`: what was answered before is made durable.
    pub(super) fn flush(&mut self, mark: u64, fate: Fate, rng: &mut Rng) -> io::Result<()> {
        let failed = matches!(fate, Fate::Error(_));
        let (durable, cache) = (&mut self.durable, &mut self.cache);
        cache.retain(|cached| {
            let covered = cached.order < mark;
            if covered && (!failed || rng.one_in(2)) {
                let _ = durable.write(cached.offset, &cached.bytes);
            }
            !covered
        });
        if failed { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        for cached in std::mem::take(&mut self.cache) {
            for part in surviving(rng, cached.bytes.len()) {
                let bytes = cached.bytes.get(part.clone()).unwrap_or_default();
                let _ = self.durable.write(cached.offset + part.start as u64, bytes);
            }
        }
        self.image = self.durable.clone();
    }

    pub(super) fn rot(&mut self, rng: &mut Rng) {
        let written: Vec<(u64, u64)> = self.image.written().collect();
        // Structures that everything hangs on are few: without a preference they would hardly ever be hit.
        let front = written.iter().filter(|(at, _)| *at < LABEL_AREA + SUPERBLOCK_AREA).count();
        let area = if rng.one_in(4) { written.get(..front) } else { written.get(front..) };
        let Some((at, len)) = area.and_then(|area| rng.pick(area)) else { return };
        let len = (*len).min(self.image.len() - at);
        let page = at + rng.below(len / PAGE as u64) * PAGE as u64;
        for _ in 0..rng.between(1, 8) {
            let at = page + rng.below(PAGE as u64);
            let bit = 1 << rng.below(8);
            for image in [&mut self.image, &mut self.durable] {
                let mut byte = [0];
                if image.read(at, &mut byte).is_ok() {
                    let _ = image.write(at, &[byte[0] ^ bit]);
                }
            }
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8], order: u64) -> io::Result<()> {
        self.image.write(offset, bytes)?;
        if !self.bad.is_empty() {
            for page in pages(offset, bytes.len()) {
                self.bad.remove(&page);
            }
        }
        self.cache.push(Cached { order, offset, bytes: bytes.to_vec().into() });
        Ok(())
    }
}

fn concat(bufs: &[SharedBuf]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(bufs.iter().map(|buf| buf.len()).sum());
    bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
    bytes
}

/// The pages of a range of bytes.
fn pages(offset: u64, len: usize) -> Range<u64> {
    offset / PAGE as u64..(offset + len as u64).div_ceil(PAGE as u64)
}

/// The parts of a write of `len` bytes that survive: all, none, a beginning, or any pages or sectors.
fn surviving(rng: &mut Rng, len: usize) -> Vec<Range<usize>> {
    let unit = if rng.one_in(3) { SECTOR } else { PAGE };
    let units = len.div_ceil(unit);
    let mood = rng.below(4);
    let beginning = match mood {
        0 => units,
        1 => 0,
        _ => rng.below(units as u64 + 1) as usize,
    };
    let often = *rng.pick(&[100_000, 500_000, 900_000]).unwrap_or(&500_000);
    let mut parts: Vec<Range<usize>> = Vec::new();
    for n in (0..units).filter(|n| if mood < 3 { *n < beginning } else { rng.per_million(often) }) {
        let (start, end) = (n * unit, ((n + 1) * unit).min(len));
        match parts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}
