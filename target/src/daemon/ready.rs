//! The ready file: tells scripts and tests, as JSON, that the target accepts connections, and where.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::model::PortDef;

/// A file that exists while the target accepts connections.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Writes the file; `ports` have the addresses that are really bound. The file appears complete or not at all.
    pub(super) fn write(path: &Path, ports: &[PortDef]) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", process::id()));
        let temporary = PathBuf::from(temporary);
        fs::write(&temporary, json(ports)).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            // It may not exist.
            let _ = fs::remove_file(&temporary);
        })?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Someone else may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

fn json(ports: &[PortDef]) -> String {
    let mut out = format!("{{\"pid\":{},\"ports\":[", process::id());
    for (index, port) in ports.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        // Writing to a String cannot fail, and addresses have nothing that JSON would escape.
        let _ = write!(
            out,
            "{comma}{{\"portid\":{},\"transport\":\"{}\",\"address\":\"{}\"}}",
            port.portid, port.transport, port.listen
        );
    }
    out.push_str("]}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TransportKind;

    #[test]
    fn says_where_and_disappears() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready");
        let port = |portid, transport, listen: &str| PortDef {
            portid,
            transport,
            listen: listen.parse().unwrap(),
            advertise: None,
        };
        let ports = [port(1, TransportKind::Tcp, "127.0.0.1:5"), port(2, TransportKind::Rdma, "[::1]:6")];
        let file = ReadyFile::write(&path, &ports).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["pid"], process::id());
        assert_eq!(value["ports"][1]["address"], "[::1]:6");
        assert_eq!((&value["ports"][0]["transport"], &value["ports"][1]["transport"]), (&"tcp".into(), &"rdma".into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(file);
        assert!(!path.exists());
    }
}
