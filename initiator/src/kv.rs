//! A namespace of keys and values.

use std::time::Duration;

use kvof_kv::{IdentifyKvNamespace, Key, KvCommand, KvLimits, ListReader, RetrieveOptions, StoreOptions};
use kvof_spec::identify::Cns;
use kvof_spec::{Csi, KvOpcode, SglDescriptor, Sqe};

use crate::{
    Controller, Error, IoBuf, IoBufMut, RawCompletion, Result,
    controller::Io,
    queue::{Extent, Reply},
};

/// Buffer of one List command, bytes: 800 keys of 16 bytes.
const LIST_BUFFER: usize = 16 << 10;
/// What [`KvNamespace::retrieve_vec`] tries first, bytes.
const FIRST_READ: u32 = 4096;
/// Times that a value which grows meanwhile is read again.
const READS_MAX: u32 = 16;

/// A KV namespace of a connected [`Controller`]. A clone is another handle to the same namespace.
///
/// Operations may run side by side, as many as you like: each waits for a free slot on the least loaded I/O queue.
/// Order is only given by waiting for one before starting the next. None is repeated behind your back: after
/// [`Error::ConnectionLost`] or [`Error::Timeout`] a command may or may not have been executed.
#[derive(Clone, Debug)]
pub struct KvNamespace {
    controller: Controller,
    nsid: u32,
    limits: KvLimits,
    nsze: u64,
    nuse: u64,
    timeout: Option<Duration>,
    repeat: bool,
}

/// What a Retrieve found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retrieved {
    /// Length of the stored value, bytes; more than the buffer has if the value did not fit.
    pub value_len: u32,
    /// Bytes of the value that are in the buffer, from its start.
    pub filled: u32,
}

impl Retrieved {
    /// Whether the buffer was too small for the whole value.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.filled < self.value_len
    }
}

impl KvNamespace {
    pub(crate) async fn open(controller: Controller, nsid: u32) -> Result<Self> {
        let found = controller.namespace(nsid).await?;
        if found.csi != Csi::KV {
            let what = format!("the KV command set in namespace {nsid}; it is of command set {}", found.csi);
            return Err(Error::Unsupported { address: controller.address().to_string(), what });
        }
        let data = controller.identify(Cns::IOCS_NAMESPACE, nsid, Csi::KV).await?;
        let data = IdentifyKvNamespace::from_bytes(&data)
            .ok_or_else(|| Error::invalid_answer("Identify (KV namespace)", "too short"))?;
        let (limits, nsze, nuse) = (data.limits(), data.nsze.get(), data.nuse.get());
        Ok(Self { controller, nsid, limits, nsze, nuse, timeout: None, repeat: false })
    }

    /// The same namespace with another time limit for its operations than [`ConnectOptions::command_timeout`].
    ///
    /// [`ConnectOptions::command_timeout`]: crate::ConnectOptions::command_timeout
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The same namespace, with operations that are repeated when the connection is lost and made again, within their
    /// time limit: Retrieve, Exist, List, Delete, and Store without conditions, which all may be executed twice without
    /// harm as long as nobody else stores under the same key. A conditional Store and [`Self::submit`] are not repeated.
    #[must_use]
    pub fn with_repeats(&self) -> Self {
        Self { repeat: true, ..self.clone() }
    }

    /// Namespace identifier.
    #[must_use]
    pub const fn nsid(&self) -> u32 {
        self.nsid
    }

    /// The controller.
    #[must_use]
    pub const fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Longest key and value, most keys, best granularity; as they were when the namespace was opened.
    #[must_use]
    pub const fn limits(&self) -> KvLimits {
        self.limits
    }

    /// Size of the namespace (NSZE) and how much of it was in use (NUSE) when it was opened, bytes.
    #[must_use]
    pub const fn usage(&self) -> (u64, u64) {
        (self.nsze, self.nuse)
    }

    /// Longest value that one Store or Retrieve moves, bytes: KVVML or [`ControllerInfo::max_transfer`], whichever is less.
    ///
    /// [`ControllerInfo::max_transfer`]: crate::ControllerInfo::max_transfer
    #[must_use]
    pub fn max_value_len(&self) -> u32 {
        self.limits.kvvml.min(self.controller.max_transfer())
    }

    /// Stores `value` under `key`, in place of any earlier value unless `options` forbid it, and gives the buffer back.
    /// It is safe in the namespace, as its durability class has it, when this returns `Ok`.
    ///
    /// # Errors
    /// [`Error::Argument`] if key or value are too long for the namespace; a status, among them
    /// [`Error::is_key_exists`] and [`Error::is_key_missing`] with conditions in `options`.
    pub async fn store<B: IoBuf>(&self, key: Key, value: B, options: StoreOptions) -> (Result<()>, B) {
        let len = match self.check(&key, "value length", value.size(), true) {
            Ok(len) => len,
            Err(error) => return (Err(error), value),
        };
        let sqe = KvCommand::store(self.nsid, &key, options, len).to_sqe(SglDescriptor::default());
        let conditional = options.intersects(StoreOptions::MUST_EXIST | StoreOptions::MUST_NOT_EXIST);
        let io = Io { repeat: self.repeat && !conditional, ..self.io("Store", sqe) };
        let (result, value) = self.controller.io_out(io, value).await;
        (result.map(|_| ()), value)
    }

    /// Reads the value of `key` into `buffer`, as much of it as fits, and gives the buffer back.
    ///
    /// # Errors
    /// [`Error::is_key_missing`]; [`Error::Argument`] if the buffer is larger than one command moves.
    pub async fn retrieve<B: IoBufMut>(&self, key: Key, mut buffer: B) -> (Result<Retrieved>, B) {
        let len = match self.check(&key, "buffer length", buffer.room(), false) {
            Ok(len) => len,
            Err(error) => return (Err(error), buffer),
        };
        let sqe = KvCommand::retrieve(self.nsid, &key, RetrieveOptions::empty(), len).to_sqe(SglDescriptor::default());
        let io = Io { extent: Extent::Value, ..self.io("Retrieve", sqe) };
        let (result, buffer) = self.controller.io_in(io, buffer).await;
        (result.and_then(|reply| retrieved(&reply, len)), buffer)
    }

    /// Reads the whole value of `key` into a new vector: one command for a value of up to 4 KiB, two for a longer one.
    ///
    /// # Errors
    /// [`Error::is_key_missing`]; [`Error::Argument`] if the value is longer than one command moves.
    pub async fn retrieve_vec(&self, key: Key) -> Result<Vec<u8>> {
        let mut len = FIRST_READ.min(self.controller.max_transfer());
        for _ in 0..READS_MAX {
            let (result, mut value) = self.retrieve(key, vec![0u8; len as usize]).await;
            let found = result?;
            if !found.is_truncated() {
                value.truncate(found.filled as usize);
                return Ok(value);
            }
            len = found.value_len;
            if len > self.limits.kvvml {
                let reason = format!("a value of {len} bytes in a namespace that takes {} (KVVML)", self.limits.kvvml);
                return Err(Error::invalid_answer("Retrieve", reason));
            }
        }
        Err(Error::invalid_answer("Retrieve", format!("the value was longer at each of {READS_MAX} reads")))
    }

    /// Length of the value of `key`, bytes, without reading it.
    ///
    /// # Errors
    /// [`Error::is_key_missing`].
    pub async fn value_len(&self, key: Key) -> Result<u32> {
        let (result, _) = self.retrieve(key, Vec::new()).await;
        result.map(|found| found.value_len)
    }

    /// Deletes `key`. A key that does not exist is no error, unless the namespace is configured so (feature 20h, EDNEK).
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn delete(&self, key: Key) -> Result<()> {
        self.check(&key, "value length", 0, false)?;
        let sqe = KvCommand::delete(self.nsid, &key).to_sqe(SglDescriptor::default());
        self.controller.io_none(self.io("Delete", sqe)).await.map(|_| ())
    }

    /// Whether `key` exists.
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn exist(&self, key: Key) -> Result<bool> {
        self.check(&key, "value length", 0, false)?;
        let sqe = KvCommand::exist(self.nsid, &key).to_sqe(SglDescriptor::default());
        match self.controller.io_none(self.io("Exist", sqe)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_key_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One page of keys, in the namespace's order, from `start` on, `start` itself included if it exists; `None`: from
    /// the first. An empty page: there are no more.
    ///
    /// # Errors
    /// [`Error::InvalidAnswer`] for a list that is malformed.
    pub async fn list(&self, start: Option<Key>) -> Result<Vec<Key>> {
        let len = LIST_BUFFER.min(self.controller.max_transfer() as usize);
        let sqe = KvCommand::list(self.nsid, start.as_ref(), len as u32).to_sqe(SglDescriptor::default());
        let (result, page) = self.controller.io_in(self.io("List", sqe), vec![0u8; len]).await;
        let received = result?.received as usize;
        let invalid = |e: kvof_kv::ListError| Error::invalid_answer("List", e.to_string());
        // A controller without any key may send nothing at all.
        if received == 0 {
            return Ok(Vec::new());
        }
        let reader = ListReader::new(page.get(..received).unwrap_or_default()).map_err(invalid)?;
        reader.collect::<Result<_, _>>().map_err(invalid)
    }

    /// All keys, page by page: call [`Keys::next_page`] until it is empty. Keys that are stored or deleted meanwhile
    /// may or may not be seen.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys_from(None)
    }

    /// As [`Self::keys`], from `start` on, `start` itself included if it exists; `None`: from the first.
    #[must_use]
    pub fn keys_from(&self, start: Option<Key>) -> Keys {
        Keys { namespace: self.clone(), from: start, continued: false, done: false }
    }

    /// Sends `command` as it is, with `value` as its data, and gives the completion, whatever its status.
    ///
    /// # Errors
    /// Whatever prevents a completion; an error status is a completion.
    pub async fn submit_out<B: IoBuf>(&self, command: &KvCommand, value: B) -> (Result<RawCompletion>, B) {
        let sqe = command.to_sqe(SglDescriptor::default());
        let (result, value) = self.controller.io_out(self.raw(sqe), value).await;
        (RawCompletion::from_result(result), value)
    }

    /// Sends `command` as it is, reads its data into `buffer`, and gives the completion, whatever its status.
    ///
    /// # Errors
    /// Whatever prevents a completion; an error status is a completion.
    pub async fn submit_in<B: IoBufMut>(&self, command: &KvCommand, buffer: B) -> (Result<RawCompletion>, B) {
        let sqe = command.to_sqe(SglDescriptor::default());
        let (result, buffer) = self.controller.io_in(self.raw(sqe), buffer).await;
        (RawCompletion::from_result(result), buffer)
    }

    /// Sends `command` as it is, without data, and gives the completion, whatever its status.
    ///
    /// # Errors
    /// Whatever prevents a completion; an error status is a completion.
    pub async fn submit(&self, command: &KvCommand) -> Result<RawCompletion> {
        let sqe = command.to_sqe(SglDescriptor::default());
        RawCompletion::from_result(self.controller.io_none(self.raw(sqe)).await)
    }

    const fn io(&self, name: &'static str, sqe: Sqe) -> Io {
        Io { name, sqe, timeout: self.timeout, repeat: self.repeat, extent: Extent::Buffer }
    }

    const fn raw(&self, sqe: Sqe) -> Io {
        let extent = if sqe.opcode == KvOpcode::RETRIEVE.0 { Extent::Value } else { Extent::Buffer };
        Io { name: "KV command", sqe, timeout: self.timeout, repeat: false, extent }
    }

    /// Checks a key and a length before anything is sent.
    fn check(&self, key: &Key, what: &'static str, len: usize, is_value: bool) -> Result<u32> {
        if key.len() > usize::from(self.limits.kvkml) {
            let rule = format!("keys of namespace {} have 1 to {} bytes (KVKML)", self.nsid, self.limits.kvkml);
            return Err(Error::argument("key length", key.len(), rule));
        }
        let (max_transfer, rule) = self.controller.transfer_limit();
        let (limit, name) = if is_value && self.limits.kvvml < max_transfer {
            (self.limits.kvvml, "KVVML")
        } else {
            (max_transfer, rule)
        };
        u32::try_from(len).ok().filter(|len| *len <= limit).ok_or_else(|| {
            Error::argument(what, len, format!("one command of namespace {} moves {limit} bytes ({name})", self.nsid))
        })
    }
}

/// Makes sense of a Retrieve's completion into a buffer of `len` bytes.
fn retrieved(reply: &Reply, len: u32) -> Result<Retrieved> {
    let filled = reply.received;
    let value_len = match reply.cqe.dw0.get() {
        // Some controllers leave dword 0 empty; then what came is all that is known.
        0 => filled,
        value_len => value_len,
    };
    if filled != value_len.min(len) {
        let reason = format!("{filled} bytes came of a value of {value_len} bytes for a buffer of {len}");
        return Err(Error::invalid_answer("Retrieve", reason));
    }
    Ok(Retrieved { value_len, filled })
}

/// Walks through the keys of a namespace.
#[derive(Clone, Debug)]
pub struct Keys {
    namespace: KvNamespace,
    from: Option<Key>,
    /// `from` was the last key of the page before, and is not to be given again.
    continued: bool,
    done: bool,
}

impl Keys {
    /// The next keys; none: that was all.
    ///
    /// # Errors
    /// As [`KvNamespace::list`]; [`Error::InvalidAnswer`] also if the controller lists the same page again and again.
    pub async fn next_page(&mut self) -> Result<Vec<Key>> {
        if self.done {
            return Ok(Vec::new());
        }
        let mut page = self.namespace.list(self.from).await?;
        if self.continued && page.first() == self.from.as_ref() {
            page.remove(0);
        }
        match page.last() {
            Some(last) if self.continued && Some(last) == self.from.as_ref() => {
                let reason = format!("the page from {last} on ends with that key");
                return Err(Error::invalid_answer("List", reason));
            }
            Some(last) => (self.from, self.continued) = (Some(*last), true),
            None => self.done = true,
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use kvof_spec::{Cqe, Status};

    use super::*;

    fn reply(dw0: u32, received: u32) -> Reply {
        Reply { cqe: Cqe::new(0, Status::SUCCESS).with_result(u64::from(dw0)), received }
    }

    #[test]
    fn a_retrieve_says_how_long_the_value_is() {
        assert_eq!(retrieved(&reply(10, 10), 16).unwrap(), Retrieved { value_len: 10, filled: 10 });
        let cut = retrieved(&reply(100, 16), 16).unwrap();
        assert!(cut.is_truncated());
        assert_eq!(retrieved(&reply(100, 0), 0).unwrap(), Retrieved { value_len: 100, filled: 0 });
        assert_eq!(retrieved(&reply(0, 7), 16).unwrap(), Retrieved { value_len: 7, filled: 7 });
        assert!(retrieved(&reply(10, 9), 16).is_err());
        assert!(retrieved(&reply(100, 15), 16).is_err());
    }
}
