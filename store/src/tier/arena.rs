//! Where the entries of the tier live: nodes in one vector, found by key, each a member of one queue.
//!
//! Written for an exact account of memory: [`Arena::bytes`] is what is allocated, and [`Arena::growth`] says before an
//! insertion what it would add. Buckets are split one at a time (linear hashing), so no insertion rehashes everything.
//!
//! Invariants: a live node has a value, is in exactly one queue and in the chain of its bucket; a free node has no value
//! and hangs in the free list by `next`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use kvof_io::SharedBuf;

use super::{Admit, TierKey};

/// No node.
const NIL: u32 = u32::MAX;
/// The first nodes are allocated together, then a quarter more at a time.
const FIRST_NODES: usize = 16;
/// A namespace slot, a key and a value with what the policy knows about them.
pub(super) struct Node {
    pub(super) key: TierKey,
    pub(super) value: Option<SharedBuf>,
    /// Bytes of memory behind the value.
    pub(super) cost: u64,
    hash: u32,
    /// The next node in the bucket.
    chain: u32,
    prev: u32,
    next: u32,
    /// The number of the queue that the node is in.
    queue: u8,
    /// How often the value was read since it came or was last spared, capped by the policy.
    pub(super) reads: u8,
    /// How it came, until its first read.
    pub(super) why: Admit,
}

/// A doubly linked list of nodes, newest first, with the bytes behind their values.
#[derive(Clone, Copy)]
struct Queue {
    newest: u32,
    oldest: u32,
    bytes: u64,
}

const EMPTY: Queue = Queue { newest: NIL, oldest: NIL, bytes: 0 };

/// Nodes in `QUEUES` queues, found by key.
pub(super) struct Arena<const QUEUES: usize> {
    nodes: Vec<Node>,
    free: u32,
    live: usize,
    /// First node of each bucket. The number of buckets is `round + split`, where `round` is a power of two.
    heads: Vec<u32>,
    round: usize,
    split: usize,
    queues: [Queue; QUEUES],
    /// Keyed at random: hosts choose the keys and must not be able to choose the bucket. No decision depends on it.
    hasher: RandomState,
}

impl<const QUEUES: usize> Arena<QUEUES> {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            live: 0,
            heads: Vec::new(),
            round: 1,
            split: 0,
            queues: [EMPTY; QUEUES],
            hasher: RandomState::new(),
        }
    }

    /// Live nodes.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Nodes for which there is memory.
    pub(super) fn capacity(&self) -> usize {
        self.nodes.capacity()
    }

    /// What [`capacity`](Self::capacity) will be after the next [`insert`](Self::insert).
    pub(super) fn next_capacity(&self) -> usize {
        let full = self.free == NIL && self.nodes.len() == self.nodes.capacity();
        self.nodes.capacity() + if full { step(self.nodes.capacity()) } else { 0 }
    }

    /// Bytes allocated for nodes and buckets.
    pub(super) fn bytes(&self) -> u64 {
        (self.nodes.capacity() * size_of::<Node>() + self.heads.capacity() * size_of::<u32>()) as u64
    }

    /// Bytes that the next [`insert`](Self::insert) would allocate.
    pub(super) fn growth(&self) -> u64 {
        let mut bytes = (self.next_capacity() - self.nodes.capacity()) * size_of::<Node>();
        if self.live >= self.heads.len() && self.heads.len() == self.heads.capacity() {
            bytes += step(self.heads.capacity()) * size_of::<u32>();
        }
        bytes as u64
    }

    /// Bytes behind the values in a queue.
    pub(super) fn queue_bytes(&self, queue: u8) -> u64 {
        self.queues[usize::from(queue)].bytes
    }

    /// The oldest node of a queue.
    pub(super) fn oldest(&self, queue: u8) -> Option<u32> {
        some(self.queues[usize::from(queue)].oldest)
    }

    pub(super) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    pub(super) fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The queue that a node is in.
    pub(super) fn queue_of(&self, at: u32) -> u8 {
        self.node(at).queue
    }

    pub(super) fn find(&self, key: &TierKey) -> Option<u32> {
        if self.live == 0 {
            return None;
        }
        let hash = self.hash(key);
        let mut at = self.heads[self.bucket(hash)];
        while at != NIL {
            let node = self.node(at);
            if node.hash == hash && node.key == *key {
                return Some(at);
            }
            at = node.chain;
        }
        None
    }

    /// Adds a node for a key that has none, as the newest of `queue`.
    pub(super) fn insert(&mut self, queue: u8, key: TierKey, value: SharedBuf, cost: u64, why: Admit) -> u32 {
        debug_assert!(self.find(&key).is_none(), "a key has one node");
        if self.live >= self.heads.len() {
            self.add_bucket();
        }
        let hash = self.hash(&key);
        let bucket = self.bucket(hash);
        let chain = self.heads[bucket];
        let node = Node { key, value: Some(value), cost, hash, chain, prev: NIL, next: NIL, queue, reads: 0, why };
        let at = if self.free == NIL {
            if self.nodes.len() == self.nodes.capacity() {
                self.nodes.reserve_exact(step(self.nodes.capacity()));
            }
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.node(at).next;
            *self.node_mut(at) = node;
            at
        };
        self.heads[bucket] = at;
        self.live += 1;
        self.link(at, queue);
        at
    }

    /// Takes a node out: its key and cost. Its value is let go.
    pub(super) fn remove(&mut self, at: u32) -> (TierKey, u64) {
        self.unlink(at);
        let (hash, chain) = (self.node(at).hash, self.node(at).chain);
        let bucket = self.bucket(hash);
        if self.heads[bucket] == at {
            self.heads[bucket] = chain;
        } else {
            let mut before = self.heads[bucket];
            while self.node(before).chain != at {
                before = self.node(before).chain;
            }
            self.node_mut(before).chain = chain;
        }
        let free = self.free;
        let node = self.node_mut(at);
        node.value = None;
        node.next = free;
        let gone = (node.key, node.cost);
        self.free = at;
        self.live -= 1;
        gone
    }

    /// Makes a node the newest of a queue.
    pub(super) fn move_to(&mut self, at: u32, queue: u8) {
        self.unlink(at);
        self.link(at, queue);
    }

    /// The live nodes of a namespace.
    pub(super) fn of_namespace(&self, slot: u16) -> impl Iterator<Item = u32> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(move |(_, node)| node.value.is_some() && node.key.0 == slot).map(|(at, _)| at as u32)
    }

    /// Gives memory back when three quarters of the nodes are free. The order of every queue stays. True if it did.
    pub(super) fn compact(&mut self) -> bool {
        if self.nodes.capacity() <= FIRST_NODES || self.live > self.nodes.capacity() / 4 {
            return false;
        }
        let mut old = std::mem::replace(self, Self::new());
        std::mem::swap(&mut self.hasher, &mut old.hasher);
        self.nodes.reserve_exact(old.live);
        self.heads.reserve_exact(old.live);
        for (number, queue) in old.queues.into_iter().enumerate() {
            let mut at = queue.oldest;
            while at != NIL {
                let node = &mut old.nodes[at as usize];
                at = node.prev;
                if let Some(value) = node.value.take() {
                    let new = self.insert(number as u8, node.key, value, node.cost, node.why);
                    self.node_mut(new).reads = node.reads;
                }
            }
        }
        true
    }

    /// Panics unless the queues, the chains and the free list are what they should be.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut seen = 0;
        for (number, queue) in self.queues.iter().enumerate() {
            let (mut at, mut older, mut bytes) = (queue.newest, NIL, 0);
            while at != NIL {
                let node = self.node(at);
                assert!(node.value.is_some() && usize::from(node.queue) == number && node.prev == older);
                assert_eq!(self.find(&node.key), Some(at), "a node is found by its key");
                (older, at, bytes, seen) = (at, node.next, bytes + node.cost, seen + 1);
            }
            assert_eq!((older, bytes), (queue.oldest, queue.bytes));
        }
        assert_eq!(seen, self.live);
        let mut free = 0;
        let mut at = self.free;
        while at != NIL {
            assert!(self.node(at).value.is_none());
            (at, free) = (self.node(at).next, free + 1);
        }
        assert_eq!(free + self.live, self.nodes.len());
        assert!(self.heads.len() >= self.live, "chains stay short");
    }

    fn hash(&self, key: &TierKey) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    fn bucket(&self, hash: u32) -> usize {
        let narrow = hash as usize & (self.round - 1);
        if narrow < self.split { hash as usize & (2 * self.round - 1) } else { narrow }
    }

    /// Adds one bucket, which takes its part of the nodes of the bucket at `split`.
    fn add_bucket(&mut self) {
        if self.heads.len() == self.heads.capacity() {
            self.heads.reserve_exact(step(self.heads.capacity()));
        }
        self.heads.push(NIL);
        if self.heads.len() == 1 {
            return;
        }
        let from = self.split;
        self.split += 1;
        let mut at = std::mem::replace(&mut self.heads[from], NIL);
        while at != NIL {
            let (hash, next) = (self.node(at).hash, self.node(at).chain);
            let bucket = self.bucket(hash);
            self.node_mut(at).chain = std::mem::replace(&mut self.heads[bucket], at);
            at = next;
        }
        if self.split == self.round {
            self.round *= 2;
            self.split = 0;
        }
    }

    fn link(&mut self, at: u32, queue: u8) {
        let list = &mut self.queues[usize::from(queue)];
        let newest = std::mem::replace(&mut list.newest, at);
        if newest == NIL {
            list.oldest = at;
        }
        let node = &mut self.nodes[at as usize];
        (node.queue, node.prev, node.next) = (queue, NIL, newest);
        list.bytes += node.cost;
        if newest != NIL {
            self.node_mut(newest).prev = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Node { prev, next, queue, cost, .. } = *self.node(at);
        let list = &mut self.queues[usize::from(queue)];
        list.bytes -= cost;
        if prev == NIL {
            list.newest = next;
        }
        if next == NIL {
            list.oldest = prev;
        }
        if prev != NIL {
            self.node_mut(prev).next = next;
        }
        if next != NIL {
            self.node_mut(next).prev = prev;
        }
    }
}

fn some(at: u32) -> Option<u32> {
    (at != NIL).then_some(at)
}

/// How many more of something there are to be, when there is room for `now`.
fn step(now: usize) -> usize {
    (now / 4).max(FIRST_NODES)
}
