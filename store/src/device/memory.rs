//! Devices in memory: sparse images that cost what was written to them.
//!
//! Chunks of an [`Image`] are shared by its copies until one of them writes, so a copy of a device costs almost nothing:
//! the simulator takes one at every flush, and tests take one to look at what a crash would leave.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use kvof_io::SharedBuf;

use super::{BlockIo, DeviceDone, DeviceOp, DeviceRequest, Devices};

/// Bytes of a chunk. Writes of one page copy one chunk when it is shared.
const CHUNK: usize = 16 << 10;

/// The contents of a device of a fixed length. What was never written reads as zeros.
#[derive(Clone, Debug)]
pub struct Image {
    chunks: Vec<Option<Arc<Vec<u8>>>>,
    len: u64,
}

impl Image {
    /// Zeros.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let chunks = usize::try_from(len.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        Self { chunks: vec![None; chunks], len }
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that its chunks take, those shared with copies included.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.chunks.iter().flatten().count() as u64 * CHUNK as u64
    }

    /// Places of the chunks that were written: the first byte of each and their length, bytes.
    pub fn written(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let place =
            |(n, chunk): (usize, &Option<_>)| chunk.is_some().then_some((n as u64 * CHUNK as u64, CHUNK as u64));
        self.chunks.iter().enumerate().filter_map(place)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        for (at, place, len) in pieces(offset, buf.len()) {
            let Some(to) = buf.get_mut(at..at + len) else { continue };
            match self.chunks.get(place.0).and_then(Option::as_ref).and_then(|c| c.get(place.1..place.1 + len)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        for (at, place, len) in pieces(offset, bytes.len()) {
            let (Some(from), Some(chunk)) = (bytes.get(at..at + len), self.chunks.get_mut(place.0)) else { continue };
            let chunk = Arc::make_mut(chunk.get_or_insert_with(|| Arc::new(vec![0; CHUNK])));
            if let Some(to) = chunk.get_mut(place.1..place.1 + len) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Writes the pieces, one behind the other, from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end; the pieces before are written.
    pub fn write_pieces(&mut self, mut offset: u64, pieces: &[SharedBuf]) -> io::Result<()> {
        for piece in pieces {
            self.write(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        if offset.checked_add(len as u64).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        let text = format!("{len} bytes at offset {offset}: the device has {} bytes", self.len);
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }
}

/// The pieces of a range by chunk: offset in the range, chunk and offset in it, length.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, (usize, usize), usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset + done as u64;
        let within = (at % CHUNK as u64) as usize;
        let now = left.min(CHUNK - within);
        let piece = (done, ((at / CHUNK as u64) as usize, within), now);
        done += now;
        Some(piece)
    })
}

/// Devices in memory. Every operation succeeds at once, unless there is no device or the place is beyond its end.
#[derive(Clone, Debug, Default)]
pub struct MemoryDevices {
    images: Vec<Option<Image>>,
}

impl MemoryDevices {
    /// `members` devices of `len` bytes.
    #[must_use]
    pub fn new(members: u16, len: u64) -> Self {
        Self { images: vec![Some(Image::new(len)); members.into()] }
    }

    /// The contents of a device.
    #[must_use]
    pub fn image(&self, member: u16) -> Option<&Image> {
        self.images.get(usize::from(member)).and_then(Option::as_ref)
    }

    /// Takes a device out.
    pub fn remove(&mut self, member: u16) -> Option<Image> {
        self.images.get_mut(usize::from(member)).and_then(Option::take)
    }

    /// Puts a device in; what was there is dropped. No effect if there is no such place.
    pub fn insert(&mut self, member: u16, image: Image) {
        if let Some(place) = self.images.get_mut(usize::from(member)) {
            *place = Some(image);
        }
    }

    /// Does what a volume asks for.
    #[must_use]
    pub fn execute(&mut self, request: DeviceRequest) -> DeviceDone {
        let member = request.member;
        match request.op {
            DeviceOp::Read { offset, mut buf } => {
                let result = self.read(member, offset, &mut buf);
                DeviceDone::Read { buf, result }
            }
            DeviceOp::Write { offset, bufs } => {
                DeviceDone::Write(self.at(member).and_then(|image| image.write_pieces(offset, &bufs)))
            }
            DeviceOp::Flush => DeviceDone::Flush(self.flush(member)),
        }
    }

    fn at(&mut self, member: u16) -> io::Result<&mut Image> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("there is no device {member}"));
        self.images.get_mut(usize::from(member)).and_then(Option::as_mut).ok_or_else(absent)
    }
}

impl BlockIo for MemoryDevices {
    fn members(&self) -> u16 {
        self.images.len() as u16
    }

    fn is_present(&self, member: u16) -> bool {
        self.image(member).is_some()
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.at(member)?.read(offset, buf)
    }

    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.at(member)?.write(offset, bytes)
    }

    fn flush(&mut self, member: u16) -> io::Result<()> {
        self.at(member).map(|_| ())
    }
}

/// [`MemoryDevices`] that answer in the order in which they were asked.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    devices: MemoryDevices,
    done: VecDeque<(u16, u64, DeviceDone)>,
    time: Duration,
}

impl MemoryQueue {
    /// Asks these devices.
    #[must_use]
    pub fn new(devices: MemoryDevices) -> Self {
        Self { devices, ..Self::default() }
    }

    /// The devices.
    pub const fn devices(&mut self) -> &mut MemoryDevices {
        &mut self.devices
    }
}

impl Devices for MemoryQueue {
    fn start(&mut self, shard: u16, request: DeviceRequest) {
        let token = request.token;
        let done = self.devices.execute(request);
        self.done.push_back((shard, token, done));
    }

    fn finish(&mut self, _wait: Duration) -> io::Result<Option<(u16, u64, DeviceDone)>> {
        // Time passes with the work: rates of background work are then rates for each operation.
        self.time += Duration::from_micros(1);
        Ok(self.done.pop_front())
    }

    fn now(&self) -> Duration {
        self.time
    }

    fn block_io(&mut self) -> &mut dyn BlockIo {
        &mut self.devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_was_written_and_zeros() {
        let mut image = Image::new(1 << 20);
        let bytes: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
        image.write(12_288, &bytes).unwrap();
        let copy = image.clone();
        image.write(16_384, &[9; 4096]).unwrap();
        let mut back = vec![1; 60_000];
        copy.read(8192, &mut back).unwrap();
        assert!(back[..4096].iter().all(|b| *b == 0) && back[4096..54_096] == bytes && back[54_096..] == [0; 5904]);
        image.read(8192, &mut back).unwrap();
        assert!(back[8192..12_288].iter().all(|b| *b == 9) && back[12_288..54_096] == bytes[8192..]);
        assert_eq!(image.memory(), 4 * CHUNK as u64);
    }

    #[test]
    fn the_end_is_kept() {
        let mut image = Image::new(20_000);
        assert!(image.write(0, &[1; 20_000]).is_ok() && image.read(19_999, &mut [0]).is_ok());
        for (offset, len) in [(20_000, 1), (0, 20_001), (u64::MAX, 2)] {
            let error = image.write(offset, &vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(error.to_string().contains("20000 bytes"), "{error}");
            assert!(image.read(offset, &mut vec![0; len]).is_err());
        }
    }

    #[test]
    fn an_absent_device_answers_with_an_error() {
        let mut devices = MemoryDevices::new(2, 8192);
        let image = devices.remove(1).unwrap();
        assert!(devices.is_present(0) && !devices.is_present(1) && devices.members() == 2);
        let request = |op| DeviceRequest { token: 1, member: 1, op };
        assert!(matches!(devices.execute(request(DeviceOp::Flush)), DeviceDone::Flush(Err(_))));
        let bufs = vec![SharedBuf::from_vec(vec![3; 4096])];
        let write = DeviceOp::Write { offset: 4096, bufs };
        assert!(matches!(devices.execute(request(write)), DeviceDone::Write(Err(_))));
        devices.insert(1, image);
        assert!(matches!(devices.execute(request(DeviceOp::Flush)), DeviceDone::Flush(Ok(()))));
        assert!(devices.write(5, 0, &[]).is_err());
    }
}
