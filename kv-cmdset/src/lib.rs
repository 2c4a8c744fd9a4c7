//! The NVMe Key Value Command Set: what its commands mean, independent of any transport and of any medium.
//!
//! * [`Key`], [`KvCommand`], [`KvOp`]: a submission queue entry becomes a checked operation, or a [`Status`].
//! * [`KvStore`]: what a storage engine offers to a namespace; poll-based, and values are never copied by its shape.
//! * [`respond()`]: the one place that turns an engine's outcome into status, DW0 and bytes to transfer.
//! * [`list`], [`identify`], [`feature`]: the data structures of the command set.
//! * [`model`]: a deliberately plain store, the oracle for every other.
//! * [`KvPort`] and [`conformance`]: a suite that runs against anything that speaks KV, through any path.
//!
//! One command takes this way: [`KvCommand::from_sqe`] → [`KvCommand::validate`] → [`KvOp::check_data_length`] →
//! [`KvStore::reserve`] (Store only) → [`KvStore::submit`] → [`KvStore::poll`] → [`respond()`].
//!
//! # Where implementations disagree
//!
//! The command set leaves little open, but the implementations in the field differ. What this crate does, and what the
//! suite accepts from other targets ([`conformance::Profile::Standard`]):
//!
//! | question | here | also seen, accepted from others |
//! |---|---|---|
//! | status code type of 85h to 89h | 0 (generic) | – |
//! | key length above 16 | Store 86h, the other commands 02h | 86h or 02h for any command |
//! | both store conditions set | key present 89h, absent 87h | 02h |
//! | Delete of a missing key | Success, 87h when EDNEK is 1 | – |
//! | DW0 of Exist | 0 | the value's length |
//! | DW0 of Store | 0 | the value's length |
//! | List order | by length, then bytewise | any order that repeats |
//! | List from a key that does not exist | starts at the next key in that order | starts anywhere |
//! | List bytes after the last entry | untouched | zeros |
//! | entry padding | to a multiple of 4 bytes, zeros | – |
//! | reserved fields, unknown option bits | ignored | refused with 02h |
//! | NSID 0, unused | 0Bh | 02h |
//! | NSID FFFFFFFFh | 02h | 0Bh |
//! | buffer shorter than CDW10 says | 0Fh | 02h |
//! | Flush | not here: a target has it beside these commands | 01h |
//! | reservations | not implemented: 01h | – |
//!
//! The reasons are in `docs/decisions/kv-choices.md`.
#![forbid(unsafe_code)]

pub mod command;
pub mod conformance;
pub mod feature;
pub mod identify;
pub mod key;
pub mod list;
pub mod model;
pub mod port;
pub mod respond;
pub mod store;

pub use command::{KvCommand, KvLimits, KvOp, RetrieveOptions, StoreOptions};
pub use feature::KvConfiguration;
pub use identify::{IdentifyKvController, IdentifyKvNamespace, KvFormat};
pub use key::{Key, KeyParseError, KeySizeError};
pub use list::{KeyList, ListError, ListReader, ListWriter};
pub use port::{Data, KvPort, PortError, PortInfo, Reply};
pub use respond::{KvResponse, Payload, respond};
pub use store::{KvError, KvOutcome, KvRequest, KvResult, KvStore, KvUsage, OpId};

pub use kvof_spec::{KvOpcode, Sqe, Status};
