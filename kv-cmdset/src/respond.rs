//! From an engine's outcome to a completion: status, DW0 and the bytes to transfer.

use kvof_spec::Status;

use crate::{KeyList, KvConfiguration, KvError, KvOp, KvOutcome};

/// How a command completes.
#[derive(Debug)]
pub struct KvResponse<V> {
    /// Status, without DNR.
    pub status: Status,
    /// Completion dword 0: the full length of the value for Retrieve, otherwise 0.
    pub dw0: u32,
    /// What the transferred bytes are taken from; `None` if there are none.
    pub payload: Option<Payload<V>>,
    /// How many bytes to transfer from the start of `payload`: at most its length and CDW10.
    pub transfer: u32,
}

/// The source of bytes for the host.
#[derive(Debug)]
pub enum Payload<V> {
    /// A value (Retrieve).
    Value(V),
    /// Encoded keys (List).
    List(KeyList),
}

impl<V: AsRef<[u8]>> AsRef<[u8]> for Payload<V> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Value(value) => value.as_ref(),
            Self::List(list) => list.as_bytes(),
        }
    }
}

impl<V> KvResponse<V> {
    /// A completion without data and with DW0 zero.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self { status, dw0: 0, payload: None, transfer: 0 }
    }
}

impl<V: AsRef<[u8]>> KvResponse<V> {
    /// The bytes to transfer.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let all = self.payload.as_ref().map_or(&[][..], AsRef::as_ref);
        usize::try_from(self.transfer).ok().and_then(|n| all.get(..n)).unwrap_or(all)
    }
}

/// The completion of `op` with the store's `result`.
///
/// * Retrieve: DW0 is the value's full length, and as much is transferred as the host's buffer takes; a truncated value
///   is still Success. With a buffer of 0 bytes, [`KvOutcome::Exists`] says as much as the value would.
/// * Delete of a missing key is Success unless `configuration` says otherwise.
/// * An outcome of another operation than `op` is the store's fault: Internal Error.
#[must_use]
pub fn respond<V: AsRef<[u8]>>(
    op: &KvOp,
    result: Result<KvOutcome<V>, KvError>,
    configuration: KvConfiguration,
) -> KvResponse<V> {
    let outcome = match (op, result) {
        (KvOp::Delete { .. }, Err(KvError::KeyDoesNotExist)) if !configuration.ednek => {
            return KvResponse::status(Status::SUCCESS);
        }
        (_, Err(error)) => return KvResponse::status(error.into()),
        (_, Ok(outcome)) => outcome,
    };
    match (op, outcome) {
        (KvOp::Store { .. }, KvOutcome::Stored)
        | (KvOp::Delete { .. }, KvOutcome::Deleted)
        | (KvOp::Exist { .. }, KvOutcome::Exists { .. }) => KvResponse::status(Status::SUCCESS),
        (KvOp::Retrieve { buffer: 0, .. }, KvOutcome::Exists { len }) => {
            KvResponse { dw0: len, ..KvResponse::status(Status::SUCCESS) }
        }
        (KvOp::Retrieve { buffer, .. }, KvOutcome::Retrieved(value)) => {
            let Ok(length) = u32::try_from(value.as_ref().len()) else {
                return KvResponse::status(Status::INTERNAL_ERROR);
            };
            KvResponse {
                status: Status::SUCCESS,
                dw0: length,
                payload: Some(Payload::Value(value)),
                transfer: length.min(*buffer),
            }
        }
        (KvOp::List { buffer, .. }, KvOutcome::Listed(list)) => match u32::try_from(list.as_bytes().len()) {
            Ok(length) if length <= *buffer => {
                KvResponse { status: Status::SUCCESS, dw0: 0, payload: Some(Payload::List(list)), transfer: length }
            }
            _ => KvResponse::status(Status::INTERNAL_ERROR),
        },
        _ => KvResponse::status(Status::INTERNAL_ERROR),
    }
}
