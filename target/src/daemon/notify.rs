//! Tells the service manager how the daemon is doing (the protocol of `sd_notify`), if there is one.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    time::Duration,
};

/// The service manager; does nothing where there is none.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// The one that the environment names in `NOTIFY_SOCKET`.
    pub(super) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(Path::new(&name)) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "cannot notify the service manager");
                None
            }
        });
        Self { socket }
    }

    /// The target accepts connections.
    pub(super) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// The target reads its configuration again, until [`ServiceManager::ready`]. `now` is the monotonic clock in
    /// microseconds, which the manager compares with its own.
    pub(super) fn reloading(&self, now: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The target is at something that takes its time, and will say so again within `patience` (which systemd does not wait for
    /// otherwise).
    pub(super) fn extend(&self, status: &str, patience: Duration) {
        // A status is one line.
        let status = status.replace(char::is_control, " ");
        self.send(&format!("STATUS={status}\nEXTEND_TIMEOUT_USEC={}", patience.as_micros()));
    }

    /// The target is on its way down.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::debug!(%error, state, "the service manager does not listen");
        }
    }
}

fn connect(name: &Path) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the target.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("kvof-notify-test-{}", std::process::id());
        for (listener, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                Path::new(&format!("@{name}")).to_owned(),
            ),
        ] {
            let manager = ServiceManager { socket: Some(connect(&address).unwrap()) };
            manager.ready();
            manager.reloading(17);
            manager.extend("a\nREADY=1", Duration::from_secs(2));
            manager.stopping();
            for wanted in [
                "READY=1\nSTATUS=serving",
                "RELOADING=1\nMONOTONIC_USEC=17",
                "STATUS=a READY=1\nEXTEND_TIMEOUT_USEC=2000000",
                "STOPPING=1",
            ] {
                let mut buffer = [0; 64];
                let length = listener.recv(&mut buffer).unwrap();
                assert_eq!(buffer.get(..length), Some(wanted.as_bytes()));
            }
        }
    }
}
