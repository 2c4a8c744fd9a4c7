//! What connections have to say, and the end of those that are over.

use std::{io, sync::atomic::Ordering};

use super::{
    conn::{Conn, Link},
    core::{Core, Token},
    tcp::Flushed,
    turns::{Class, PROMPT},
};

impl Core {
    /// Sends what connections have to say, and closes those that are over.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let mut moved = false;
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.is_dirty = false;
            }
            moved |= self.flush_one(key)?;
        }
        // Whoever has become dirty meanwhile is looked after in the next round.
        std::mem::swap(&mut dirty, &mut self.dirty);
        self.dirty.append(&mut dirty);
        Ok(moved)
    }

    /// Sends what a connection has to say, unless that is much: then it stands in line. Closes it if it is over. True if
    /// anything moved.
    pub(super) fn flush_one(&mut self, key: usize) -> io::Result<bool> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(false) };
        let flushed = match &mut conn.link {
            Link::Tcp(link) => {
                if link.is_bulky() {
                    if !std::mem::replace(&mut conn.is_sending, true) {
                        self.sending.push(key, Class::Bulk);
                    }
                    Flushed::default()
                } else {
                    link.flush(&mut self.ring, &self.shared.pool, Token::Connection(key).pack(), self.now, PROMPT)?
                }
            }
            Link::Rdma(link) => link.flush(),
        };
        if flushed.resume {
            self.mark_ready(key);
        }
        self.look_after(key);
        Ok(flushed.moved)
    }

    /// Sends some of what connections have that is much, by turns; true if there was any.
    pub(super) fn send_bulk(&mut self) -> io::Result<bool> {
        if self.sending.is_empty() {
            return Ok(false);
        }
        let slice = self.company.slice(self.now);
        self.sending.begin(slice);
        while let Some((key, class)) = self.sending.next() {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.is_sending = false;
            let Link::Tcp(link) = &mut conn.link else { continue };
            let flushed =
                link.flush(&mut self.ring, &self.shared.pool, Token::Connection(key).pack(), self.now, slice)?;
            self.sending.moved(flushed.bytes, class);
            if link.socket.is_some() && link.writable.is_none() && !link.connection.tx().is_empty() {
                conn.is_sending = true;
                self.sending.push(key, class);
            }
            if flushed.resume {
                self.mark_ready(key);
            }
            self.look_after(key);
        }
        if self.is_hungry() {
            self.settle()?;
        }
        Ok(true)
    }

    fn look_after(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.wants_memory() && !conn.is_starved {
            conn.is_starved = true;
            self.starved.push_back(key);
        }
        let Some(reason) = conn.poll_close().cloned() else { return };
        let ended = match &mut conn.link {
            Link::Tcp(link) => link.close(&mut self.ring),
            Link::Rdma(link) => link.disconnect(self.now),
        };
        if ended {
            let peer = conn.transport.peer;
            if reason.is_fault() {
                tracing::warn!(core = self.id, %peer, %reason, "connection ended");
            } else {
                tracing::debug!(core = self.id, %peer, %reason, "connection ended");
            }
        }
        match &conn.link {
            Link::Rdma(_) => self.close_rdma(key),
            Link::Tcp(_) if ended => {
                if let Some(load) = self.shared.loads.get(self.id) {
                    load.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Link::Tcp(_) => {}
        }
        // The key names this connection's operations until the last of them is back.
        if self.conns.get(key).is_some_and(Conn::is_gone) {
            self.conns.remove(key);
        }
    }
}
