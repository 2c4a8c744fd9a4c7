//! Runs a fuzz body on files: `replay BODY FILE...`.

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .ok_or("usage: replay BODY FILE...; BODY is config, initiator, pdu, rdma_initiator, rdma_target or target")?;
    let body = kvof_fuzz::body(&name)
        .ok_or_else(|| format!("no body {name:?}: config, initiator, pdu, rdma_initiator, rdma_target or target"))?;
    for file in arguments {
        println!("{file}");
        body(&fs::read(&file)?);
    }
    Ok(())
}
