//! Writes the seeds to `fuzz/corpus`, or to the folder that is given: run it after the form of an input has changed.

use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder =
        std::env::args_os().nth(1).map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/corpus").into(), PathBuf::from);
    let seeds = kvof_fuzz::seeds::seeds();
    for (body, name, bytes) in &seeds {
        let folder = folder.join(body);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    println!("{} seeds in {}", seeds.len(), folder.display());
    Ok(())
}
