//! The same operations for threads that wait: [`block_on`] runs any of this crate's futures, and [`BlockingKv`] is a
//! namespace with plain calls, which also makes it a [`KvPort`] for the conformance suite.

use std::future::Future;

use kvof_kv::{Data, Key, KvCommand, KvPort, PortError, PortInfo, Reply, StoreOptions};
use kvof_spec::feature::{FeatureId, KvConfiguration};
use kvof_spec::identify::Cns;
use kvof_spec::{Csi, Status};

use crate::{Controller, Error, KvNamespace, RawCompletion, Result, Retrieved, executor};

/// Runs `future` to its end; the calling thread sleeps meanwhile. Not for use inside an async executor.
pub fn block_on<F: Future>(future: F) -> F::Output {
    executor::block_on(future)
}

/// Runs `future` to its end on the calling thread, which never sleeps: meanwhile it drives the I/O queues of `controller` by
/// [`Controller::progress`]. For a thread with a processor of its own, which wants answers as soon as they are there.
pub fn block_on_polling<F: Future>(controller: &Controller, future: F) -> F::Output {
    executor::spin_on(|| controller.progress(), future)
}

/// A KV namespace with blocking operations, which copy values to and from the caller's slices.
#[derive(Clone, Debug)]
pub struct BlockingKv {
    namespace: KvNamespace,
    name: String,
    polls: bool,
}

impl BlockingKv {
    /// Blocking operations on `namespace`.
    #[must_use]
    pub fn new(namespace: KvNamespace) -> Self {
        let controller = namespace.controller();
        let name = format!("namespace {} of {} at {}", namespace.nsid(), controller.subnqn(), controller.address());
        Self { namespace, name, polls: false }
    }

    /// The same for a thread that never sleeps; see [`block_on_polling`].
    #[must_use]
    pub fn polling(self) -> Self {
        Self { polls: true, ..self }
    }

    fn wait<F: Future>(&self, future: F) -> F::Output {
        if self.polls { block_on_polling(self.namespace.controller(), future) } else { block_on(future) }
    }

    /// The namespace, for operations with buffers of your own.
    #[must_use]
    pub const fn namespace(&self) -> &KvNamespace {
        &self.namespace
    }

    /// See [`KvNamespace::store`].
    ///
    /// # Errors
    /// As there.
    pub fn store(&self, key: Key, value: &[u8], options: StoreOptions) -> Result<()> {
        self.wait(self.namespace.store(key, value.to_vec(), options)).0
    }

    /// See [`KvNamespace::retrieve_vec`].
    ///
    /// # Errors
    /// As there.
    pub fn retrieve(&self, key: Key) -> Result<Vec<u8>> {
        self.wait(self.namespace.retrieve_vec(key))
    }

    /// See [`KvNamespace::retrieve`].
    ///
    /// # Errors
    /// As there.
    pub fn retrieve_into(&self, key: Key, buffer: &mut [u8]) -> Result<Retrieved> {
        let (result, filled) = self.wait(self.namespace.retrieve(key, vec![0u8; buffer.len()]));
        let found = result?;
        copy_prefix(buffer, &filled, found.filled as usize);
        Ok(found)
    }

    /// See [`KvNamespace::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: Key) -> Result<()> {
        self.wait(self.namespace.delete(key))
    }

    /// See [`KvNamespace::exist`].
    ///
    /// # Errors
    /// As there.
    pub fn exist(&self, key: Key) -> Result<bool> {
        self.wait(self.namespace.exist(key))
    }

    /// See [`KvNamespace::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, start: Option<Key>) -> Result<Vec<Key>> {
        self.wait(self.namespace.list(start))
    }
}

impl KvPort for BlockingKv {
    fn info(&self) -> PortInfo {
        PortInfo {
            nsid: self.namespace.nsid(),
            limits: self.namespace.limits(),
            max_transfer: self.namespace.controller().max_transfer(),
            name: self.name.clone(),
        }
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        let completion = match data {
            Data::None => self.wait(self.namespace.submit(command)),
            Data::Out(value) => self.wait(self.namespace.submit_out(command, value.to_vec())).0,
            Data::In(buffer) => {
                let (result, filled) = self.wait(self.namespace.submit_in(command, buffer.to_vec()));
                if let Ok(RawCompletion { received, .. }) = result {
                    copy_prefix(buffer, &filled, received as usize);
                }
                result
            }
        };
        let completion = completion.map_err(failed)?;
        Ok(Reply { status: completion.status, dw0: (completion.result & 0xffff_ffff) as u32 })
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        let value = KvConfiguration::default().with_ednek(on).0;
        let set =
            self.namespace.controller().set_feature(FeatureId::KEY_VALUE_CONFIGURATION, self.namespace.nsid(), value);
        Some(match self.wait(set) {
            Ok(_) => Ok(Status::SUCCESS),
            Err(Error::Status { status, .. }) => Ok(status),
            Err(error) => Err(failed(error)),
        })
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        let get = self.namespace.controller().get_feature(FeatureId::KEY_VALUE_CONFIGURATION, self.namespace.nsid());
        Some(self.wait(get).map(|value| KvConfiguration(value).ednek()).map_err(failed))
    }

    fn admin_identify_namespace(&self) -> Option<Result<Vec<u8>, PortError>> {
        let identify = self.namespace.controller().identify(Cns::IOCS_NAMESPACE, self.namespace.nsid(), Csi::KV);
        Some(self.wait(identify).map_err(failed))
    }
}

fn copy_prefix(to: &mut [u8], from: &[u8], len: usize) {
    for (to, from) in to.iter_mut().zip(from).take(len) {
        *to = *from;
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: Error) -> PortError {
    PortError::Failed(error.to_string())
}
