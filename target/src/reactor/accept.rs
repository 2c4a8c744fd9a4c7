//! TCP connections on their way to a core.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    CoreMessage,
    conn::{Conn, Link, Origin},
    core::{Core, Token},
    tcp::TcpLink,
};
use crate::transport::tcp::Connection;

/// How soon a listener is tried again after accept failed, for want of file descriptors for instance.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections taken at once from one listener.
const ACCEPT_BUDGET: usize = 64;

impl Core {
    /// Takes the connections that wait at a listener, and hands each to the core with the fewest.
    pub(super) fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else { return };
        let mut arrived = Vec::new();
        loop {
            match kvof_io::accept(listener.socket.as_fd()) {
                Ok(Some(accepted)) => arrived.push(accepted),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, listen = %listener.local, "cannot accept connections for now");
                    self.accept_again = Some(self.now + ACCEPT_RETRY);
                    break;
                }
            }
            // The rest waits in the backlog until these have a core.
            if arrived.len() >= ACCEPT_BUDGET {
                self.accept_again = Some(self.now);
                break;
            }
        }
        let portid = listener.portid;
        for (socket, peer) in arrived {
            let limit = self.shared.config.max_connections;
            if self.shared.connections() >= limit {
                tracing::warn!(%peer, limit, "connection refused: max_connections reached");
                continue;
            }
            if let Err(error) = kvof_io::set_nodelay(socket.as_fd()) {
                tracing::debug!(%peer, %error, "connection lost while it was accepted");
                continue;
            }
            let Ok(local) = kvof_io::local_addr(socket.as_fd()) else { continue };
            let core = self.shared.idlest();
            if let Some(load) = self.shared.loads.get(core) {
                load.fetch_add(1, Ordering::Relaxed);
            }
            let origin = Origin { portid, local, peer };
            if core == self.id {
                self.open(socket, origin);
            } else if let Some(mailbox) = self.mailboxes.get(core) {
                mailbox.send(CoreMessage::Accepted { socket, origin });
            }
        }
    }

    /// Serves a connection that is counted as one of this core's.
    pub(super) fn open(&mut self, socket: OwnedFd, origin: Origin) {
        let Some(mailbox) = self.mailboxes.get(self.id).cloned() else { return };
        let entry = self.conns.vacant_entry();
        let key = entry.key();
        let connection = Connection::new(Arc::clone(&self.tcp_settings), self.now);
        let link = TcpLink::new(&mut self.ring, socket, connection, Token::Connection(key).pack());
        let conn = entry.insert(Conn::new(Link::Tcp(Box::new(link)), origin, (mailbox, key)));
        if self.stopping.is_some() {
            conn.drain();
        }
        tracing::debug!(core = self.id, peer = %origin.peer, local = %origin.local, "connection accepted");
        self.mark_ready(key);
        self.mark_dirty(key);
    }
}
