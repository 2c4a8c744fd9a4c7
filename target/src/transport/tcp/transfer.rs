//! The R2Ts of a command: which parts of its data have been asked for, and how much of each has come.

/// Most R2Ts outstanding for one command; a tag is the command's index times this, plus the R2T's place.
pub(super) const R2T_SLOTS: usize = 4;

/// One outstanding R2T.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Grant {
    /// Offset of the next byte that must come.
    next: u32,
    /// Offset after the last byte that was asked for; a grant is free when this equals `next`.
    end: u32,
}

/// What an H2CData PDU may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferError {
    /// The tag names no outstanding R2T.
    Tag,
    /// The data does not start at a dword.
    Alignment,
    /// The data does not start where the last PDU of this R2T ended.
    Offset,
    /// More data than the R2T asked for.
    Length,
    /// LAST_PDU is set before all data has come.
    Last,
}

/// Transfer of one command's data from the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Transfer {
    grants: [Grant; R2T_SLOTS],
    /// Offset of the first byte that has not been asked for.
    asked: u32,
    len: u32,
    /// Bytes that have come.
    got: u32,
    /// A data digest did not match: the command will fail once its data is in.
    pub(super) corrupt: bool,
}

impl Transfer {
    /// A transfer of `len` bytes, none asked for yet.
    pub(super) fn new(len: u32) -> Self {
        Self { len, ..Self::default() }
    }

    /// The next R2T to send: place, offset and length. `outstanding` is how many may be (1's based), `length` how much
    /// one asks for when more than one may be.
    pub(super) fn next_r2t(&mut self, outstanding: usize, length: u32) -> Option<(usize, u32, u32)> {
        if self.asked >= self.len {
            return None;
        }
        let outstanding = outstanding.clamp(1, R2T_SLOTS);
        let free = self.grants.iter().take(outstanding).position(|g| g.next == g.end)?;
        let left = self.len - self.asked;
        // A host with room for one R2T is asked for everything at once: no round trip between the parts.
        // Where several are, each but the last ends at a dword, since the next one's offset has to be one.
        let ask = if outstanding == 1 { left } else { left.min(length.max(4) & !3) };
        let offset = self.asked;
        self.asked += ask;
        self.grants[free] = Grant { next: offset, end: self.asked };
        Some((free, offset, ask))
    }

    /// Checks an H2CData PDU against the R2T in `place`.
    pub(super) fn check(&self, place: usize, offset: u32, len: u32, last: bool) -> Result<(), TransferError> {
        let grant = self.grants.get(place).filter(|g| g.next < g.end).ok_or(TransferError::Tag)?;
        if !offset.is_multiple_of(4) {
            return Err(TransferError::Alignment);
        }
        if offset != grant.next {
            return Err(TransferError::Offset);
        }
        let left = grant.end - grant.next;
        if len > left {
            return Err(TransferError::Length);
        }
        if last && len < left {
            return Err(TransferError::Last);
        }
        Ok(())
    }

    /// `len` bytes have come for the R2T in `place`, after [`Self::check`].
    pub(super) fn received(&mut self, place: usize, len: u32) {
        if let Some(grant) = self.grants.get_mut(place) {
            grant.next = grant.end.min(grant.next.saturating_add(len));
        }
        self.got = self.got.saturating_add(len);
    }

    /// Whether all data has come.
    pub(super) const fn is_complete(&self) -> bool {
        self.got >= self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_r2t_asks_for_everything() {
        let mut t = Transfer::new(3 << 20);
        assert_eq!(t.next_r2t(1, 4096), Some((0, 0, 3 << 20)));
        assert_eq!(t.next_r2t(1, 4096), None);
        assert_eq!(t.check(0, 0, 1 << 20, true), Err(TransferError::Last));
        assert_eq!(t.check(0, 4, 1, false), Err(TransferError::Offset));
        assert_eq!(t.check(0, 2, 1, false), Err(TransferError::Alignment));
        assert_eq!(t.check(1, 2, 1, false), Err(TransferError::Tag));
        assert_eq!(t.check(1, 0, 1, false), Err(TransferError::Tag));
        assert_eq!(t.check(0, 0, (3 << 20) + 1, false), Err(TransferError::Length));
        t.received(0, 3 << 20);
        assert!(t.is_complete());
        assert_eq!(t.check(0, 3 << 20, 0, true), Err(TransferError::Tag));
    }

    #[test]
    fn several_r2ts_cover_the_data_once_whatever_the_order_of_answers() {
        let mut t = Transfer::new(10_000);
        let mut open = Vec::new();
        let mut seen = vec![0u8; 10_000];
        loop {
            while let Some(r2t) = t.next_r2t(3, 1025) {
                assert!(r2t.1.is_multiple_of(4), "{r2t:?}");
                open.push(r2t);
            }
            assert!(open.len() <= 3);
            let Some((place, offset, len)) = open.pop() else { break };
            for part in [len / 2, len - len / 2] {
                let at = if part == len / 2 && !t.is_complete() && t.check(place, offset, part, false).is_ok() {
                    offset
                } else {
                    offset + len / 2
                };
                t.check(place, at, part, at + part == offset + len).unwrap();
                seen[at as usize..(at + part) as usize].iter_mut().for_each(|b| *b += 1);
                t.received(place, part);
            }
        }
        assert!(t.is_complete());
        assert!(seen.iter().all(|&b| b == 1));
    }
}
