//! Values that are stored once and looked at again, while things happen to what they lie on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use kvof_kv::{Key, KvPort, StoreOptions};

use crate::pattern::Label;

/// The values: so many, each of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) keys: u64,
    pub(crate) size: usize,
}

/// What became of the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// They came back as they were stored.
    pub(crate) right: u64,
    /// They came back with success, and are not what was stored.
    pub(crate) wrong: u64,
    /// They did not come back, by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

/// Stores them all.
///
/// # Errors
/// When a Store is not answered with success.
pub(crate) fn store(port: &dyn KvPort, options: Options) -> Result<()> {
    for number in 0..options.keys {
        let status = port.store(&key(number)?, StoreOptions::empty(), &label(number).value(options.size))?.status;
        ensure!(status.is_success(), "Store of value {number}: {status}");
    }
    Ok(())
}

/// Retrieves them all.
///
/// # Errors
/// When a Retrieve is not answered at all.
pub(crate) fn check(port: &dyn KvPort, options: Options) -> Result<Report> {
    let mut report = Report::default();
    for number in 0..options.keys {
        let mut value = vec![0xa5; options.size];
        let reply = port.retrieve(&key(number)?, &mut value)?;
        if !reply.status.is_success() {
            *report.statuses.entry(reply.status.code().0).or_default() += 1;
        } else if reply.dw0 as usize == value.len() && label(number).wrong_bytes(&value) == 0 {
            report.right += 1;
        } else {
            report.wrong += 1;
        }
    }
    Ok(report)
}

impl Report {
    /// As one line of JSON; statuses are hexadecimal, type and code.
    pub(crate) fn json(&self) -> String {
        let mut statuses = String::new();
        for (status, count) in &self.statuses {
            let comma = if statuses.is_empty() { "" } else { "," };
            let _ = write!(statuses, r#"{comma}"{status:x}":{count}"#);
        }
        format!(r#"{{"right":{},"wrong":{},"statuses":{{{statuses}}}}}"#, self.right, self.wrong)
    }
}

fn key(number: u64) -> Result<Key> {
    Ok(Key::new(&[b"kept".as_slice(), &number.to_be_bytes()].concat())?)
}

const fn label(number: u64) -> Label {
    Label { key: 0x6b65_7074 << 32 | number, version: 1 }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kvof_kv::{Data, KvCommand, KvLimits, PortError, PortInfo, Reply, Status};

    use super::*;

    /// Keeps values, and answers the first Retrieves with a wrong byte and with an error.
    #[derive(Default)]
    struct Fake(Mutex<Vec<(Key, Vec<u8>)>>);

    impl KvPort for Fake {
        fn info(&self) -> PortInfo {
            let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 0 };
            PortInfo { nsid: 1, limits, max_transfer: 1 << 20, name: "fake".into() }
        }

        fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
            let mut values = self.0.lock().unwrap();
            let key = Key::new(&command.key[..12]).unwrap();
            match data {
                Data::Out(bytes) => {
                    values.push((key, bytes.to_vec()));
                    Ok(Reply { status: Status::SUCCESS, dw0: 0 })
                }
                Data::In(bytes) => {
                    let place = values.iter().position(|(stored, _)| *stored == key).unwrap();
                    bytes.copy_from_slice(&values[place].1);
                    bytes[20] ^= u8::from(place == 0);
                    let status = if place == 1 { Status::UNRECOVERED_ERROR } else { Status::SUCCESS };
                    Ok(Reply { status, dw0: u32::try_from(bytes.len()).unwrap() })
                }
                Data::None => Err(PortError::Unsupported("not needed".into())),
            }
        }
    }

    #[test]
    fn right_wrong_and_failed_values_are_told_apart() {
        let (fake, options) = (Fake::default(), Options { keys: 5, size: 100 });
        store(&fake, options).unwrap();
        let report = check(&fake, options).unwrap();
        assert_eq!((report.right, report.wrong), (3, 1));
        assert_eq!(report.json(), r#"{"right":3,"wrong":1,"statuses":{"88":1}}"#);
    }
}
