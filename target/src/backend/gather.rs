//! A List whose keys lie on several cores, and a Flush of storage that does: asked of all, answered once.

use std::collections::BTreeMap;

use kvof_kv::{Key, KvError, KvOutcome, ListWriter, OpId, list::entry_len};

use super::{IoOutcome, IoResult};

/// Requests that wait for other cores.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    lists: BTreeMap<OpId, List>,
    flushes: BTreeMap<OpId, Flush>,
}

#[derive(Debug)]
struct List {
    max_bytes: u32,
    missing: usize,
    keys: Vec<Key>,
    failed: Option<KvError>,
}

#[derive(Debug)]
struct Flush {
    missing: usize,
    result: Result<(), KvError>,
}

impl Gathers {
    /// Begins a List of which `keys` are here and `missing` other cores are asked; its result if there are none.
    pub(super) fn list(&mut self, op: OpId, max_bytes: u32, missing: usize, keys: Vec<Key>) -> Option<IoResult> {
        let list = List { max_bytes, missing, keys, failed: None };
        if missing == 0 {
            return Some(list.finish());
        }
        self.lists.insert(op, list);
        None
    }

    /// Another core's answer to a List; its result when this was the last. Each answer holds all of that core's keys that
    /// can be in the list, so the list is the beginning of their union.
    pub(super) fn keys(&mut self, op: OpId, keys: Result<Vec<Key>, KvError>) -> Option<IoResult> {
        let list = self.lists.get_mut(&op)?;
        match keys {
            Ok(keys) => list.merge(&keys),
            Err(error) => list.failed = Some(error),
        }
        list.missing -= 1;
        if list.missing > 0 { None } else { Some(self.lists.remove(&op)?.finish()) }
    }

    /// Begins a Flush that ends with the `missing`th answer, at least 1.
    pub(super) fn flush(&mut self, op: OpId, missing: usize) {
        self.flushes.insert(op, Flush { missing, result: Ok(()) });
    }

    /// An answer to a Flush; its result when this was the last.
    pub(super) fn flushed(&mut self, op: OpId, result: Result<(), KvError>) -> Option<IoResult> {
        let flush = self.flushes.get_mut(&op)?;
        flush.result = flush.result.and(result);
        flush.missing -= 1;
        if flush.missing > 0 {
            return None;
        }
        let flush = self.flushes.remove(&op)?;
        Some(flush.result.map(|()| IoOutcome::Flushed).map_err(Into::into))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.flushes.is_empty()
    }
}

impl List {
    fn merge(&mut self, more: &[Key]) {
        self.keys = merge(&self.keys, more, self.max_bytes);
    }

    fn finish(self) -> IoResult {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        let mut list = ListWriter::new(self.max_bytes);
        let _ = self.keys.iter().all(|key| list.push(key));
        Ok(IoOutcome::Kv(KvOutcome::Listed(list.finish())))
    }
}

/// The beginning of the union of two ordered sets of keys that a list of `max_bytes` has room for, so that memory does not
/// grow with cores or shards.
pub(super) fn merge(left: &[Key], right: &[Key], max_bytes: u32) -> Vec<Key> {
    let mut room = (max_bytes as usize).saturating_sub(size_of::<u32>());
    let mut merged = Vec::with_capacity(left.len().max(right.len()));
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) if l <= r => left.next(),
            (Some(_), None) => left.next(),
            (_, Some(_)) => right.next(),
            (None, None) => None,
        };
        let Some(key) = next else { break };
        let Some(rest) = room.checked_sub(entry_len(key.len())) else { break };
        room = rest;
        merged.push(*key);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_list_is_the_beginning_of_the_union() {
        let mut gathers = Gathers::default();
        // Room for the count and three entries of 4 bytes.
        assert!(gathers.list(OpId(1), 4 + 3 * 4, 2, vec![key("b"), key("d"), key("f")]).is_none());
        assert!(gathers.keys(OpId(1), Ok(vec![key("e")])).is_none());
        assert!(gathers.keys(OpId(2), Ok(vec![key("x")])).is_none(), "nobody asked");
        let listed = gathers.keys(OpId(1), Ok(vec![key("a"), key("c")]));
        let Some(Ok(IoOutcome::Kv(KvOutcome::Listed(list)))) = listed else { panic!("{listed:?}") };
        let expected = {
            let mut list = ListWriter::new(16);
            assert!(["a", "b", "c"].iter().all(|text| list.push(&key(text))));
            list.finish()
        };
        assert_eq!(list.as_bytes(), expected.as_bytes());
        assert!(gathers.is_empty());
    }

    #[test]
    fn one_core_that_fails_fails_the_request() {
        let mut gathers = Gathers::default();
        assert!(gathers.list(OpId(1), 100, 2, Vec::new()).is_none());
        gathers.flush(OpId(2), 2);
        assert!(gathers.keys(OpId(1), Err(KvError::NotReady)).is_none());
        assert!(matches!(gathers.keys(OpId(1), Ok(Vec::new())), Some(Err(error)) if error == KvError::NotReady.into()));
        assert!(gathers.flushed(OpId(2), Err(KvError::Unrecovered)).is_none());
        let flushed = gathers.flushed(OpId(2), Ok(()));
        assert!(matches!(flushed, Some(Err(error)) if error == KvError::Unrecovered.into()));
        assert!(gathers.is_empty());
    }
}
