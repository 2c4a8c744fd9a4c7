//! Memory that operations own while they run: the network reads into it and sends from it, and it comes back with the
//! answer.
//!
//! An operation takes its buffer by value. That is what makes it safe to drop a future at any time: the buffer then
//! stays with the queue until the command is answered or the connection is gone, and only then is it freed.

use std::{any::Any, fmt, mem, sync::Arc};

use kvof_memory::{Buffer, staging::DeviceRange};

/// Memory that a Store can send from. Implement it for your own owned type; the bytes must stay the same while an
/// operation has it.
pub trait IoBuf: Any + Send {
    /// The value, all of it.
    fn as_bytes(&self) -> &[u8];

    /// Its length, bytes.
    fn size(&self) -> usize {
        self.as_bytes().len()
    }
}

/// Memory that a Retrieve can write into. Its length must stay the same while an operation has it.
pub trait IoBufMut: Any + Send {
    /// All of the memory, initialised; its length is the host buffer size of the command.
    fn as_bytes_mut(&mut self) -> &mut [u8];

    /// Its length, bytes.
    fn room(&mut self) -> usize {
        self.as_bytes_mut().len()
    }
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

/// Of device memory, [`IoBuf::as_bytes`] panics; operations of this library do not call it then.
impl IoBuf for Buffer {
    fn as_bytes(&self) -> &[u8] {
        self
    }

    fn size(&self) -> usize {
        self.len()
    }
}

/// Of device memory, [`IoBufMut::as_bytes_mut`] panics; operations of this library do not call it then.
impl IoBufMut for Buffer {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn room(&mut self) -> usize {
        self.len()
    }
}

/// The data of one command, with its direction. A payload passes through many hands, hence the box: it moves as two words.
#[derive(Default)]
pub(crate) enum Payload {
    /// No data.
    #[default]
    None,
    /// Host to controller.
    Out(Box<Held<dyn IoBuf>>),
    /// Controller to host.
    In(Box<Held<dyn IoBufMut>>),
}

/// The caller's buffer, by what can be done with it.
pub(crate) enum Held<D: ?Sized> {
    /// It stays where it is when it moves, and may be device memory.
    Buffer(Buffer),
    /// Can be made a [`Buffer`] and back without a copy.
    Vec(Vec<u8>),
    /// Known by its trait alone.
    Other(Box<D>),
    /// [`Payload::lend`] has given it away.
    Lent {
        /// It was a vector.
        vec: bool,
    },
}

impl<D: ?Sized> Held<D> {
    fn new<B: Any>(buffer: B, boxed: impl FnOnce(B) -> Box<D>) -> Self {
        let mut buffer = Some(buffer);
        let any: &mut dyn Any = &mut buffer;
        if let Some(buffer) = any.downcast_mut::<Option<Buffer>>().and_then(Option::take) {
            return Self::Buffer(buffer);
        }
        if let Some(vec) = any.downcast_mut::<Option<Vec<u8>>>().and_then(Option::take) {
            return Self::Vec(vec);
        }
        Self::Other(boxed(buffer.unwrap_or_else(|| unreachable!("only a buffer or a vector was taken"))))
    }

    fn len(&mut self, other: impl FnOnce(&mut D) -> usize) -> usize {
        match self {
            Self::Buffer(buffer) => buffer.len(),
            Self::Vec(vec) => vec.len(),
            Self::Other(boxed) => other(boxed),
            Self::Lent { .. } => 0,
        }
    }

    fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::Buffer(buffer) => Some(buffer),
            _ => None,
        }
    }

    fn lend(&mut self) -> Option<Buffer> {
        let lent = Self::Lent { vec: matches!(self, Self::Vec(_)) };
        match mem::replace(self, lent) {
            Self::Buffer(buffer) => Some(buffer),
            Self::Vec(vec) => Some(Buffer::from_vec(vec)),
            other => {
                *self = other;
                None
            }
        }
    }

    fn restore(&mut self, buffer: Buffer) {
        debug_assert!(matches!(self, Self::Lent { .. }), "nothing was lent");
        *self = match self {
            // A buffer made of a vector is host memory, which comes back without a copy and without an error.
            Self::Lent { vec: true } => Self::Vec(buffer.into_vec().unwrap_or_default()),
            _ => Self::Buffer(buffer),
        };
    }

    fn take<B: 'static>(self, any: impl FnOnce(Box<D>) -> Box<dyn Any>) -> Option<B> {
        let mut found = None::<B>;
        let slot: &mut dyn Any = &mut found;
        match self {
            Self::Buffer(buffer) => *slot.downcast_mut::<Option<Buffer>>()? = Some(buffer),
            Self::Vec(vec) => *slot.downcast_mut::<Option<Vec<u8>>>()? = Some(vec),
            Self::Other(boxed) => return any(boxed).downcast().ok().map(|b| *b),
            Self::Lent { .. } => return None,
        }
        found
    }
}

impl Payload {
    /// Data to the controller; none if the buffer is empty.
    pub(crate) fn to_controller<B: IoBuf>(buffer: B) -> Self {
        Self::Out(Box::new(Held::new(buffer, |b: B| -> Box<dyn IoBuf> { Box::new(b) })))
    }

    /// Data from the controller.
    pub(crate) fn from_controller<B: IoBufMut>(buffer: B) -> Self {
        Self::In(Box::new(Held::new(buffer, |b: B| -> Box<dyn IoBufMut> { Box::new(b) })))
    }

    /// Bytes of data; 0 while they are lent.
    pub(crate) fn len(&mut self) -> usize {
        match self {
            Self::None => 0,
            Self::Out(held) => held.len(|other| other.size()),
            Self::In(held) => held.len(|other| other.room()),
        }
    }

    /// `len` bytes to send from `offset`; `None` if the buffer does not have them (any more), or the host has not.
    pub(crate) fn outgoing(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let Self::Out(held) = self else { return None };
        let bytes = match &**held {
            Held::Buffer(b) => b.host()?,
            Held::Vec(v) => v,
            Held::Other(b) => b.as_bytes(),
            Held::Lent { .. } => return None,
        };
        bytes.get(offset..offset.checked_add(len)?)
    }

    /// `len` bytes to be filled from `offset`; `None` if the buffer does not have them (any more), or the host has not.
    pub(crate) fn incoming(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        let Self::In(held) = self else { return None };
        let bytes = match &mut **held {
            Held::Buffer(b) => b.host_mut()?,
            Held::Vec(v) => v,
            Held::Other(b) => b.as_bytes_mut(),
            Held::Lent { .. } => return None,
        };
        bytes.get_mut(offset..offset.checked_add(len)?)
    }

    /// The device memory that the data are in, if they are in any.
    pub(crate) fn device_range(&self) -> Option<DeviceRange> {
        match self {
            Self::Out(held) => held.buffer()?.device_range(),
            Self::In(held) => held.buffer()?.device_range(),
            Self::None => None,
        }
    }

    /// Takes the buffer out, for a transport that has to own it: a [`Buffer`], or the memory of a vector, which stays
    /// where it is. `None` for any other type of buffer, of which nobody knows what moving it does. Until
    /// [`Self::restore`] the payload has no bytes.
    pub(crate) fn lend(&mut self) -> Option<Buffer> {
        match self {
            Self::Out(held) => held.lend(),
            Self::In(held) => held.lend(),
            Self::None => None,
        }
    }

    /// Puts back what [`Self::lend`] gave.
    pub(crate) fn restore(&mut self, buffer: Buffer) {
        match self {
            Self::Out(held) => held.restore(buffer),
            Self::In(held) => held.restore(buffer),
            Self::None => debug_assert!(false, "nothing was lent"),
        }
    }

    /// The buffer that went in as a `B`; `None` if it was something else.
    pub(crate) fn take<B: 'static>(self) -> Option<B> {
        match self {
            Self::None => None,
            Self::Out(held) => held.take(|b| b),
            Self::In(held) => held.take(|b| b),
        }
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
        assert!(Payload::to_controller(Buffer::new(1)).take::<Vec<u8>>().is_none());
        let boxed: Box<[u8]> = Box::new([7; 5]);
        let mut payload = Payload::from_controller(boxed);
        assert_eq!((payload.len(), payload.incoming(4, 1)), (5, Some(&mut [7u8][..])));
        assert!(payload.lend().is_none());
        assert_eq!(payload.take::<Box<[u8]>>().unwrap()[..], [7; 5]);
    }

    #[test]
    fn what_is_lent_comes_back_as_what_it_was() {
        let vec = vec![1u8, 2, 3];
        let at = vec.as_ptr();
        let mut payload = Payload::from_controller(vec);
        let mut lent = payload.lend().unwrap();
        lent[0] = 9;
        assert_eq!((payload.len(), payload.incoming(0, 1)), (0, None));
        assert!(payload.lend().is_none());
        payload.restore(lent);
        assert_eq!(payload.incoming(0, 2), Some(&mut [9u8, 2][..]));
        let back: Vec<u8> = payload.take().unwrap();
        assert_eq!((back.as_ptr(), &back[..]), (at, &[9, 2, 3][..]));
        let mut payload = Payload::to_controller(Buffer::from(&b"value"[..]));
        let lent = payload.lend().unwrap();
        assert!(payload.outgoing(0, 1).is_none());
        payload.restore(lent);
        assert_eq!(payload.outgoing(0, 5), Some(&b"value"[..]));
        assert_eq!(&payload.take::<Buffer>().unwrap()[..], b"value");
        // What is lost while it is lent is no buffer of anybody.
        let mut payload = Payload::to_controller(vec![1u8]);
        drop(payload.lend());
        assert!(payload.take::<Vec<u8>>().is_none());
    }
}
