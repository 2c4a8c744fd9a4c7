//! Where to do it: the ADDRESS, and the KEY where there is one.

use anyhow::Result;
use clap::Args;
use kvof_initiator::{Address, DEFAULT_PORT, Key, Transport};

use super::connection::TransportArgs;
use crate::failure::{connecting, usage};

const VARIABLE: &str = "KVOF_ADDRESS";

/// The ADDRESS of a target.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The target, HOST:PORT, tcp://HOST:PORT, rdma://HOST:PORT or auto://HOST:PORT [env: KVOF_ADDRESS].
    address: Option<String>,

    #[command(flatten)]
    transport: TransportArgs,
}

impl Place {
    pub(crate) fn resolve(&self) -> Result<Address> {
        address(self.address.as_deref(), from_environment().as_deref(), self.transport.asked())
    }
}

/// The ADDRESS of a target and a KEY. The address may be left out if the environment has it, so a lone argument is the
/// key.
#[derive(Debug, Args)]
pub(crate) struct KeyPlace {
    /// The target, HOST:PORT, tcp://HOST:PORT, rdma://HOST:PORT or auto://HOST:PORT [env: KVOF_ADDRESS].
    #[arg(value_name = "ADDRESS")]
    first: Option<String>,

    /// 1 to 16 bytes: a text, or hexadecimal digits after 0x or hex: (and text:0x… for a text that begins so).
    #[arg(value_name = "KEY")]
    second: Option<String>,

    #[command(flatten)]
    transport: TransportArgs,
}

impl KeyPlace {
    pub(crate) fn resolve(&self) -> Result<(Address, Key)> {
        let (place, key) = self.split(from_environment().as_deref(), false)?;
        Ok((place, key.ok_or_else(missing_key)?))
    }

    /// As [`Self::resolve`], where keys come from elsewhere too: then no KEY is given.
    pub(crate) fn resolve_without_key(&self) -> Result<Address> {
        Ok(self.split(from_environment().as_deref(), true)?.0)
    }

    fn split(&self, environment: Option<&str>, keys_elsewhere: bool) -> Result<(Address, Option<Key>)> {
        let (place, key) = match (&self.first, &self.second) {
            (place, None) if keys_elsewhere => (place.as_deref(), None),
            (_, Some(_)) if keys_elsewhere => return Err(usage("a KEY and --keys-from cannot be used together")),
            (Some(place), Some(key)) => (Some(place.as_str()), Some(key.as_str())),
            (Some(key), None) if environment.is_some() => (None, Some(key.as_str())),
            (Some(only), None) => {
                return Err(usage(format!(
                    "{only:?} alone is not enough: ADDRESS and KEY are needed, or a KEY and {VARIABLE} in the environment"
                )));
            }
            (None, _) => return Err(missing_key()),
        };
        let key = key.map(|key| Key::parse(key).map_err(usage)).transpose()?;
        Ok((address(place, environment, self.transport.asked())?, key))
    }
}

fn missing_key() -> anyhow::Error {
    usage("the KEY is missing")
}

fn address(argument: Option<&str>, environment: Option<&str>, transport: Option<Transport>) -> Result<Address> {
    let text = argument
        .or(environment)
        .ok_or_else(|| usage(format!("the ADDRESS is missing; give it, or set {VARIABLE} in the environment")))?;
    Address::parse(text, transport, DEFAULT_PORT).map_err(|error| connecting(&error))
}

fn from_environment() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit_of};

    fn place(first: &str, second: &str) -> KeyPlace {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        KeyPlace { first: given(first), second: given(second), transport: TransportArgs::default() }
    }

    #[test]
    fn a_lone_argument_is_the_key_only_with_an_address_in_the_environment() {
        let (address, key) = place("host:1", "k").split(Some("other"), false).unwrap();
        assert_eq!((address.to_string().as_str(), key.unwrap().as_bytes()), ("tcp://host:1", &b"k"[..]));
        let (address, key) = place("0x00ff", "").split(Some("other"), false).unwrap();
        assert_eq!((address.to_string().as_str(), key.unwrap().as_bytes()), ("tcp://other:4420", &[0, 0xff][..]));
        let (address, key) = place("host", "").split(Some("other"), true).unwrap();
        assert_eq!((address.host(), key), ("host", None));
    }

    #[test]
    fn a_transport_is_for_addresses_that_say_none() {
        let resolve = |text, transport| address(Some(text), None, transport).map(|a| a.to_string());
        assert_eq!(resolve("host", Some(Transport::Auto)).unwrap(), "auto://host:4420");
        assert_eq!(resolve("rdma://host:1", None).unwrap(), "rdma://host:1");
        let error = resolve("tcp://host", Some(Transport::Rdma)).unwrap_err();
        assert_eq!(exit_of(&error), Exit::Usage, "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_a_usage_error() {
        for (place, environment, elsewhere) in [
            (place("", ""), Some("host"), false),
            (place("", ""), None, true),
            (place("host", ""), None, false),
            (place("host", "seventeen-letters"), None, false),
            (place("host", "0xz"), None, false),
            (place("host:x", "k"), None, false),
            (place("fc://host", "k"), None, false),
            (place("host", "k"), None, true),
        ] {
            let error = place.split(environment, elsewhere).unwrap_err();
            assert_eq!(exit_of(&error), Exit::Usage, "{place:?}: {error}");
        }
    }
}
