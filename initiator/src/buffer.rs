//! Memory that operations own while they run: the network reads into it and sends from it, and it comes back with the
//! answer.
//!
//! An operation takes its buffer by value. That is what makes it safe to drop a future at any time: the buffer then
//! stays with the queue until the command is answered or the connection is gone, and only then is it freed.

use std::{any::Any, fmt, sync::Arc};

/// Memory that a Store can send from. Implement it for your own owned type; the bytes must stay the same while an
/// operation has it.
pub trait IoBuf: Any + Send {
    /// The value, all of it.
    fn as_bytes(&self) -> &[u8];
}

/// Memory that a Retrieve can write into. Its length must stay the same while an operation has it.
pub trait IoBufMut: Any + Send {
    /// All of the memory, initialised; its length is the host buffer size of the command.
    fn as_bytes_mut(&mut self) -> &mut [u8];
}

macro_rules! io_buf {
    ($($ty:ty),*) => { $(
        impl IoBuf for $ty {
            fn as_bytes(&self) -> &[u8] {
                self
            }
        }
    )* };
}

io_buf!(Vec<u8>, Box<[u8]>, Arc<[u8]>, &'static [u8]);

impl IoBuf for Arc<Vec<u8>> {
    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IoBufMut for Vec<u8> {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl IoBufMut for Box<[u8]> {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Page-aligned memory of a fixed length, zero at first: the buffer for values, ready for direct I/O and GPU copies.
#[derive(PartialEq, Eq)]
pub struct Buffer {
    memory: Memory,
    len: usize,
}

/// Where the bytes of a [`Buffer`] are. Registered (RDMA) and device (GPU) memory become further kinds.
#[derive(PartialEq, Eq)]
enum Memory {
    /// Host memory; the aligned part starts at `start`.
    Host { bytes: Box<[u8]>, start: usize },
}

/// Alignment of a [`Buffer`], bytes.
pub const BUFFER_ALIGN: usize = 4096;

impl Buffer {
    /// A buffer of `len` bytes, all zero, aligned to [`BUFFER_ALIGN`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0u8; len.saturating_add(BUFFER_ALIGN - 1)].into_boxed_slice();
        let start = bytes.as_ptr().addr().wrapping_neg() % BUFFER_ALIGN;
        Self { memory: Memory::Host { bytes, start }, len }
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl core::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Host { bytes, start } => &bytes[*start..*start + self.len],
        }
    }
}

impl core::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Host { bytes, start } => &mut bytes[*start..*start + self.len],
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl IoBuf for Buffer {
    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IoBufMut for Buffer {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// The data of one command, with its direction.
#[derive(Default)]
pub(crate) enum Payload {
    /// No data.
    #[default]
    None,
    /// Host to controller.
    Out(Box<dyn IoBuf>),
    /// Controller to host.
    In(Box<dyn IoBufMut>),
}

impl Payload {
    /// Data to the controller; none if the buffer is empty.
    pub(crate) fn to_controller<B: IoBuf>(buffer: B) -> Self {
        Self::Out(Box::new(buffer))
    }

    /// Data from the controller.
    pub(crate) fn from_controller<B: IoBufMut>(buffer: B) -> Self {
        Self::In(Box::new(buffer))
    }

    /// Bytes of data.
    pub(crate) fn len(&mut self) -> usize {
        match self {
            Self::None => 0,
            Self::Out(b) => b.as_bytes().len(),
            Self::In(b) => b.as_bytes_mut().len(),
        }
    }

    /// `len` bytes to send from `offset`; `None` if the buffer does not have them (any more).
    pub(crate) fn outgoing(&self, offset: usize, len: usize) -> Option<&[u8]> {
        match self {
            Self::Out(b) => b.as_bytes().get(offset..offset.checked_add(len)?),
            _ => None,
        }
    }

    /// `len` bytes to be filled from `offset`; `None` if the buffer does not have them (any more).
    pub(crate) fn incoming(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        match self {
            Self::In(b) => b.as_bytes_mut().get_mut(offset..offset.checked_add(len)?),
            _ => None,
        }
    }

    /// The buffer that went in as a `B`; `None` if it was something else.
    pub(crate) fn take<B: 'static>(self) -> Option<B> {
        let any: Box<dyn Any> = match self {
            Self::None => return None,
            Self::Out(b) => b,
            Self::In(b) => b,
        };
        any.downcast().ok().map(|b| *b)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Payload::None",
            Self::Out(_) => "Payload::Out",
            Self::In(_) => "Payload::In",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_exact() {
        for len in [0, 1, 4095, 4096, 4097, 2 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % BUFFER_ALIGN, 0);
            buffer.fill(7);
            assert_eq!(&*Buffer::from(&*buffer), &*buffer);
        }
    }

    #[test]
    fn a_payload_gives_back_what_it_took() {
        let vec = vec![1u8, 2, 3];
        let at = vec.as_ptr();
        let mut payload = Payload::to_controller(vec);
        assert_eq!(payload.len(), 3);
        assert_eq!(payload.outgoing(1, 2), Some(&[2u8, 3][..]));
        assert_eq!(payload.outgoing(2, 2), None);
        assert!(payload.incoming(0, 1).is_none());
        let back: Vec<u8> = payload.take().unwrap();
        assert_eq!(back.as_ptr(), at);
        assert!(Payload::to_controller(vec![0u8]).take::<Buffer>().is_none());
    }
}
