//! Lists the subsystems that a discovery controller names, and with `--watch` every change of the list.
//!
//! ```text
//! cargo run -p kvof-initiator --example discover -- 127.0.0.1:8009 [--watch]
//! ```

use kvof_initiator::blocking::block_on;
use kvof_initiator::{Address, ConnectOptions, DiscoveryController, DiscoveryEntry, discover};
use kvof_spec::tcp::NVME_TCP_DISCOVERY_PORT;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else { return Err("usage: discover ADDRESS [--watch]".into()) };
    let watch = arguments.next().is_some_and(|argument| argument == "--watch");
    let address = Address::parse_with_port(&address, NVME_TCP_DISCOVERY_PORT)?;
    let options = ConnectOptions::default();
    block_on(async {
        if !watch {
            show(&discover(&address, &options).await?);
            return Ok(());
        }
        let controller = DiscoveryController::connect(&address, &options).await?;
        let mut seen = 0;
        loop {
            show(&controller.entries().await?);
            seen = controller.changed(seen).await?;
        }
    })
}

fn show(entries: &[DiscoveryEntry]) {
    for entry in entries {
        println!("{} {} {}:{} ({})", entry.subnqn, entry.transport(), entry.traddr, entry.trsvcid, entry.subtype);
    }
    println!("{} entries", entries.len());
}
