//! The target's configuration file.

use std::path::Path;

use kvof_target::config::{Config, ConfigError, Overrides};

/// Reads `data` as a configuration. One that is accepted prints as one that is accepted and prints the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if names_hosts(text) {
        return;
    }
    let read = |text: &str| Config::parse(text, "fuzz.toml", Path::new("/nowhere"), &Overrides::default());
    match read(text) {
        Ok(config) => {
            let printed = config.to_toml();
            let again = read(&printed).unwrap_or_else(|e| panic!("what was printed is refused: {e}\n{printed}"));
            assert_eq!(printed, again.to_toml(), "printing is not stable");
            assert!(!config.summary().is_empty());
        }
        Err(ConfigError::Problems(problems)) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                assert!(!problem.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Whether an address in `text` might be looked up in the network, which a fuzzer must not do.
fn names_hosts(text: &str) -> bool {
    let Ok(table) = toml::from_str::<toml::Table>(text) else { return false };
    let addresses = ["port", "referral"].into_iter().filter_map(|name| table.get(name)?.as_array()).flatten();
    addresses.filter_map(|entry| entry.get("address")?.as_str()).any(|address| {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let is_ip = |text: &str| text.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        !(is_ip(host) || is_ip(address)) && address.bytes().any(|b| b.is_ascii_alphabetic())
    })
}
