//! A store as plain as can be, the oracle for every other; and a port on any store in the same process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvof_spec::Status;

use crate::{
    Data, Key, KvCommand, KvConfiguration, KvError, KvLimits, KvOp, KvOutcome, KvPort, KvRequest, KvResult, KvStore,
    KvUsage, ListWriter, OpId, PortError, PortInfo, Reply, StoreOptions, respond,
};

/// What a [`ReferenceStore`] allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReferenceConfig {
    /// The format's limits.
    pub limits: KvLimits,
    /// Bytes of keys and values it holds at most.
    pub capacity: u64,
    /// Bytes of values that may be reserved and not yet submitted.
    pub slot_quota: u64,
}

/// Keys and values in a map. A request is done when it is submitted; results wait in order until they are polled.
#[derive(Debug)]
pub struct ReferenceStore {
    config: ReferenceConfig,
    values: BTreeMap<Key, ReferenceValue>,
    nuse: u64,
    reserved: Arc<AtomicU64>,
    done: VecDeque<(OpId, KvResult<ReferenceValue>)>,
}

/// A reserved place of a [`ReferenceStore`]; counts against its quota until it is submitted or dropped.
#[derive(Debug)]
pub struct ReferenceSlot {
    bytes: Vec<u8>,
    reserved: Arc<AtomicU64>,
}

/// A value of a [`ReferenceStore`].
#[derive(Clone, Debug)]
pub struct ReferenceValue(Arc<Vec<u8>>);

impl ReferenceStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: ReferenceConfig) -> Self {
        Self { config, values: BTreeMap::new(), nuse: 0, reserved: Arc::default(), done: VecDeque::new() }
    }

    fn execute(&mut self, request: KvRequest<ReferenceSlot>) -> KvResult<ReferenceValue> {
        match request {
            KvRequest::Store { key, options, value } => self.store(key, options, value),
            KvRequest::Retrieve { key, .. } => {
                self.values.get(&key).cloned().map(KvOutcome::Retrieved).ok_or(KvError::KeyDoesNotExist)
            }
            KvRequest::Delete { key } => {
                let value = self.values.remove(&key).ok_or(KvError::KeyDoesNotExist)?;
                self.nuse -= footprint(&key, value.as_ref());
                Ok(KvOutcome::Deleted)
            }
            KvRequest::Exist { key } => {
                let value = self.values.get(&key).ok_or(KvError::KeyDoesNotExist)?;
                let len = u32::try_from(value.as_ref().len()).map_err(|_| KvError::Internal)?;
                Ok(KvOutcome::Exists { len })
            }
            KvRequest::List { start, max_bytes } => {
                let mut list = ListWriter::new(max_bytes);
                let from = start.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
                for (key, _) in self.values.range((from, std::ops::Bound::Unbounded)) {
                    if !list.push(key) {
                        break;
                    }
                }
                Ok(KvOutcome::Listed(list.finish()))
            }
        }
    }

    fn store(&mut self, key: Key, options: StoreOptions, mut slot: ReferenceSlot) -> KvResult<ReferenceValue> {
        let bytes = core::mem::take(&mut slot.bytes);
        slot.reserved.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        let old = self.values.get(&key);
        if old.is_some() && options.contains(StoreOptions::MUST_NOT_EXIST) {
            return Err(KvError::KeyExists);
        }
        if old.is_none() && options.contains(StoreOptions::MUST_EXIST) {
            return Err(KvError::KeyDoesNotExist);
        }
        let limits = self.config.limits;
        if u32::try_from(bytes.len()).map_or(true, |len| len > limits.kvvml) {
            return Err(KvError::InvalidValueSize);
        }
        if old.is_none() && limits.mnks != 0 && self.values.len() as u64 >= u64::from(limits.mnks) {
            return Err(KvError::CapacityExceeded);
        }
        let without = self.nuse - old.map_or(0, |value| footprint(&key, value.as_ref()));
        let with = without + footprint(&key, &bytes);
        if with > self.config.capacity {
            return Err(KvError::CapacityExceeded);
        }
        self.nuse = with;
        self.values.insert(key, ReferenceValue(Arc::new(bytes)));
        Ok(KvOutcome::Stored)
    }
}

fn footprint(key: &Key, value: &[u8]) -> u64 {
    key.len() as u64 + value.len() as u64
}

impl KvStore for ReferenceStore {
    type Slot = ReferenceSlot;
    type Value = ReferenceValue;

    fn limits(&self) -> KvLimits {
        self.config.limits
    }

    fn usage(&self) -> KvUsage {
        KvUsage { nsze: self.config.capacity, nuse: self.nuse, keys: self.values.len() as u64 }
    }

    fn reserve(&mut self, len: u32) -> Option<ReferenceSlot> {
        let free = self.config.slot_quota.checked_sub(self.reserved.load(Ordering::Relaxed))?;
        if u64::from(len) > free {
            return None;
        }
        self.reserved.fetch_add(u64::from(len), Ordering::Relaxed);
        Some(ReferenceSlot { bytes: vec![0; len as usize], reserved: Arc::clone(&self.reserved) })
    }

    fn submit(&mut self, id: OpId, request: KvRequest<ReferenceSlot>) {
        let result = self.execute(request);
        self.done.push_back((id, result));
    }

    fn poll(&mut self) -> Option<(OpId, KvResult<ReferenceValue>)> {
        self.done.pop_front()
    }
}

impl Drop for ReferenceSlot {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for ReferenceSlot {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for ReferenceSlot {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for ReferenceValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How long [`execute_on`] waits for a store.
const PATIENCE: Duration = Duration::from_secs(60);

/// Executes one command on `store`, which must have nothing else in flight, and waits for it: checks, reserves, fills,
/// submits, polls and copies out what is to be transferred into `data`.
///
/// A store that does not complete the command within a minute, completes another one instead, or has no memory although
/// nothing is in flight gives Internal Error. The namespace identifier is not looked at.
pub fn execute_on<S: KvStore>(
    store: &mut S,
    configuration: KvConfiguration,
    command: &KvCommand,
    data: Data<'_>,
) -> Reply {
    try_execute(store, configuration, command, data).unwrap_or_else(|status| Reply { status, dw0: 0 })
}

fn try_execute<S: KvStore>(
    store: &mut S,
    configuration: KvConfiguration,
    command: &KvCommand,
    data: Data<'_>,
) -> Result<Reply, Status> {
    let op = command.validate(&store.limits())?;
    op.check_data_length(u32::try_from(data.len()).unwrap_or(u32::MAX))?;
    let (out, inward) = match data {
        Data::None => (&[][..], &mut [][..]),
        Data::Out(bytes) => (bytes, &mut [][..]),
        Data::In(bytes) => (&[][..], bytes),
    };
    let request = match op {
        KvOp::Store { size, .. } => {
            let value = usize::try_from(size).ok().and_then(|size| out.get(..size));
            let value = value.ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
            let mut slot = store.reserve(size).ok_or(Status::INTERNAL_ERROR)?;
            if slot.as_mut().len() != value.len() {
                return Err(Status::INTERNAL_ERROR);
            }
            slot.as_mut().copy_from_slice(value);
            op.store_request(slot)
        }
        _ => op.request(),
    };
    let id = OpId(0);
    store.submit(id, request.ok_or(Status::INTERNAL_ERROR)?);
    let result = wait_for(store, id)?;
    let response = respond(&op, result, configuration);
    let bytes = response.data();
    inward.get_mut(..bytes.len()).ok_or(Status::DATA_SGL_LENGTH_INVALID)?.copy_from_slice(bytes);
    Ok(Reply { status: response.status, dw0: response.dw0 })
}

fn wait_for<S: KvStore>(store: &mut S, id: OpId) -> Result<KvResult<S::Value>, Status> {
    let start = Instant::now();
    loop {
        match store.poll() {
            Some((done, result)) if done == id => return Ok(result),
            Some(_) => return Err(Status::INTERNAL_ERROR),
            None if start.elapsed() > PATIENCE => return Err(Status::INTERNAL_ERROR),
            None => std::thread::yield_now(),
        }
    }
}

/// A port on a store in the same process, as a namespace of its own: it checks the namespace identifier, has feature
/// 20h, and does one command at a time.
#[derive(Debug)]
pub struct StorePort<S> {
    nsid: u32,
    max_transfer: u32,
    name: String,
    inner: Mutex<(S, KvConfiguration)>,
}

impl<S: KvStore> StorePort<S> {
    /// `store` as namespace `nsid` behind a path that moves at most `max_transfer` bytes in one command.
    #[must_use]
    pub fn new(store: S, nsid: u32, max_transfer: u32, name: impl Into<String>) -> Self {
        Self { nsid, max_transfer, name: name.into(), inner: Mutex::new((store, KvConfiguration::default())) }
    }

    /// The store, for looking at it between commands.
    pub fn with_store<R>(&self, look: impl FnOnce(&mut S) -> R) -> R {
        look(&mut self.lock().0)
    }

    fn lock(&self) -> MutexGuard<'_, (S, KvConfiguration)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: KvStore + Send> KvPort for StorePort<S> {
    fn info(&self) -> PortInfo {
        let limits = self.lock().0.limits();
        PortInfo { nsid: self.nsid, limits, max_transfer: self.max_transfer, name: self.name.clone() }
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        if data.len() as u64 > u64::from(self.max_transfer) {
            return Err(PortError::Unsupported(format!("{} bytes: at most {}", data.len(), self.max_transfer)));
        }
        let refused = |status| Ok(Reply { status, dw0: 0 });
        if command.nsid == u32::MAX {
            return refused(Status::INVALID_FIELD);
        }
        if command.nsid != self.nsid {
            return refused(Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        let (store, configuration) = &mut *self.lock();
        Ok(execute_on(store, *configuration, command, data))
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        self.lock().1.ednek = on;
        Some(Ok(Status::SUCCESS))
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        Some(Ok(self.lock().1.ednek))
    }

    fn admin_identify_namespace(&self) -> Option<Result<Vec<u8>, PortError>> {
        let store = &self.lock().0;
        let data = crate::IdentifyKvNamespace::new(&store.limits(), &store.usage());
        Some(Ok(zerocopy::IntoBytes::as_bytes(&data).to_vec()))
    }
}
