//! What a namespace may answer, by what it has acknowledged: the history of every key, from outside the target's process.
//!
//! Each change of a key has a time at which it began and one at which it ended: it was acknowledged, refused, or never
//! answered. A state of a key is possible until a change that began after it had ended is known to have been done, by its
//! acknowledgement or because somebody has read it. Nothing else is assumed of the order of changes that overlap. A change
//! without an answer may or may not have been done, until a read decides; from then on it counts like any other.

use std::fmt;

use crate::content::Content;

/// What is under a key: a value, or nothing.
pub(crate) type State = Option<Content>;

/// What a command saw of a key.
#[derive(Clone, Copy)]
pub(crate) enum Seen<'a> {
    /// There is no such key.
    Missing,
    /// There is one.
    Present,
    /// There is one with this value.
    Value(&'a [u8]),
}

impl Seen<'_> {
    fn is(self, state: State) -> bool {
        match (self, state) {
            (Self::Missing, None) | (Self::Present, Some(_)) => true,
            (Self::Value(bytes), Some(content)) => content.is(bytes),
            _ => false,
        }
    }
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such key"),
            Self::Present => f.write_str("a key"),
            Self::Value(bytes) => {
                write!(f, "a value of {} bytes: {:02x?}…", bytes.len(), bytes.get(..16).unwrap_or(bytes))
            }
        }
    }
}

/// A change that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChangeId(u64);

/// A read that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadId {
    began: u64,
}

#[derive(Clone, Debug)]
struct Change {
    state: State,
    /// Also its name: every event has a time of its own.
    began: u64,
    ended: Option<u64>,
    /// By when it was done for certain.
    done: Option<u64>,
}

/// The history of one key, as far as it matters.
#[derive(Clone, Debug)]
struct History {
    changes: Vec<Change>,
    readers: u32,
}

/// All keys of a namespace, by number.
pub(crate) struct Checker {
    keys: Vec<History>,
    now: u64,
}

impl Checker {
    /// Of a namespace without keys; `keys` numbers are used.
    pub(crate) fn new(keys: usize) -> Self {
        let empty = Change { state: None, began: 0, ended: Some(0), done: Some(0) };
        Self { keys: vec![History { changes: vec![empty], readers: 0 }; keys], now: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A change is sent.
    pub(crate) fn begin(&mut self, key: usize, state: State) -> ChangeId {
        let began = self.tick();
        self.keys[key].changes.push(Change { state, began, ended: None, done: None });
        ChangeId(began)
    }

    /// A change was acknowledged.
    pub(crate) fn acknowledged(&mut self, key: usize, id: ChangeId) {
        let now = self.tick();
        let history = &mut self.keys[key];
        if let Some(change) = history.changes.iter_mut().find(|change| change.began == id.0) {
            change.ended = Some(now);
            change.done = Some(change.done.unwrap_or(now));
        }
        history.forget();
    }

    /// A change was refused: it has done nothing.
    ///
    /// # Errors
    /// When its effect was read before.
    pub(crate) fn refused(&mut self, key: usize, id: ChangeId) -> Result<(), String> {
        self.tick();
        let changes = &mut self.keys[key].changes;
        let done = changes.iter().any(|change| change.began == id.0 && change.done.is_some());
        changes.retain(|change| change.began != id.0);
        if done { Err("a change was refused after its effect was seen".to_owned()) } else { Ok(()) }
    }

    /// Nobody will know whether a change was done, but for what is read later.
    pub(crate) fn unanswered(&mut self, key: usize, id: ChangeId) {
        let now = self.tick();
        if let Some(change) = self.keys[key].changes.iter_mut().find(|change| change.began == id.0) {
            change.ended = Some(now);
        }
    }

    /// A command that looks at a key is sent.
    pub(crate) fn look(&mut self, key: usize) -> ReadId {
        self.keys[key].readers += 1;
        ReadId { began: self.tick() }
    }

    /// A command that looks at a key has failed, or has no answer.
    pub(crate) fn seen_nothing(&mut self, key: usize) {
        self.keys[key].readers -= 1;
    }

    /// A command that looks at a key is answered; `own` is the change that it was itself, which it cannot have seen.
    ///
    /// # Errors
    /// When that was not possible.
    pub(crate) fn seen(
        &mut self,
        key: usize,
        read: ReadId,
        own: Option<ChangeId>,
        seen: Seen<'_>,
    ) -> Result<(), String> {
        let now = self.tick();
        let history = &mut self.keys[key];
        history.readers -= 1;
        let own = own.map(|id| id.0);
        let matching: Vec<u64> = history
            .possible(read.began)
            .filter(|change| Some(change.began) != own && seen.is(change.state))
            .map(|change| change.began)
            .collect();
        if matching.is_empty() {
            return Err(format!("{seen}, but {}", history.describe(read.began)));
        }
        if let [only] = matching[..]
            && let Some(change) = history.changes.iter_mut().find(|change| change.began == only)
        {
            change.done = Some(change.done.unwrap_or(now));
        }
        // Nothing changed meanwhile, so that what was not seen is not there.
        let quiet =
            history.readers == 0 && history.changes.iter().all(|change| change.ended.is_some_and(|at| at < read.began));
        if quiet && own.is_none() {
            history.changes.retain(|change| matching.contains(&change.began));
        }
        history.forget();
        Ok(())
    }

    /// Whether a key must, can or cannot be there, while nothing changes.
    ///
    /// # Errors
    /// When `listed` is not possible.
    pub(crate) fn check_listed(&mut self, key: usize, listed: bool) -> Result<(), String> {
        let read = self.look(key);
        self.seen(key, read, None, if listed { Seen::Present } else { Seen::Missing })
    }

    /// Keys whose state only a read can tell.
    pub(crate) fn undecided(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|key| self.keys[*key].possible(self.now).count() > 1).collect()
    }

    /// Number of keys that are there for certain.
    pub(crate) fn present(&self) -> usize {
        self.keys.iter().filter(|history| history.possible(self.now).all(|change| change.state.is_some())).count()
    }
}

impl History {
    /// The changes that a read which began at `time` may see the effect of.
    fn possible(&self, time: u64) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| {
            !self.changes.iter().any(|later| {
                change.ended.is_some_and(|ended| later.began > ended) && later.done.is_some_and(|done| done <= time)
            })
        })
    }

    /// Drops what no read can see any more.
    fn forget(&mut self) {
        if self.readers == 0 && self.changes.len() > 1 {
            let kept: Vec<u64> = self.possible(u64::MAX).map(|change| change.began).collect();
            self.changes.retain(|change| kept.contains(&change.began));
        }
    }

    fn describe(&self, time: u64) -> String {
        let states: Vec<String> = self
            .possible(time)
            .map(|change| {
                let known = match (change.done, change.ended) {
                    (Some(_), _) => "acknowledged",
                    (None, Some(_)) => "without an answer",
                    (None, None) => "in flight",
                };
                match change.state {
                    None => format!("no such key ({known})"),
                    Some(Content { seed, len }) => {
                        let first = Content { seed, len: len.min(16) }.bytes();
                        format!("a value of {len} bytes ({known}): {first:02x?}…")
                    }
                }
            })
            .collect();
        format!("possible was only: {}", states.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: State = Some(Content { seed: 1, len: 20 });
    const B: State = Some(Content { seed: 2, len: 20 });

    fn read(checker: &mut Checker, state: State) -> Result<(), String> {
        let read = checker.look(0);
        let bytes = state.map(Content::bytes);
        let seen = bytes.as_deref().map_or(Seen::Missing, Seen::Value);
        checker.seen(0, read, None, seen)
    }

    fn stored(checker: &mut Checker, state: State) {
        let id = checker.begin(0, state);
        checker.acknowledged(0, id);
    }

    /// Whether a copy of the checker takes this answer.
    fn takes(checker: &Checker, state: State) -> bool {
        read(&mut Checker { keys: checker.keys.clone(), now: checker.now }, state).is_ok()
    }

    #[test]
    fn only_the_last_acknowledged_state_is_right() {
        let mut checker = Checker::new(1);
        assert!(takes(&checker, None) && !takes(&checker, A));
        stored(&mut checker, A);
        assert!(!takes(&checker, None) && takes(&checker, A) && !takes(&checker, B));
        stored(&mut checker, B);
        assert!(!takes(&checker, None) && !takes(&checker, A) && takes(&checker, B));
        stored(&mut checker, None);
        assert!(takes(&checker, None) && !takes(&checker, A) && !takes(&checker, B));
    }

    #[test]
    fn a_change_without_an_answer_is_decided_by_the_first_read() {
        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let id = checker.begin(0, B);
        checker.unanswered(0, id);
        assert_eq!(checker.undecided(), [0]);
        assert!(takes(&checker, A) && takes(&checker, B) && !takes(&checker, None));
        read(&mut checker, B).unwrap();
        assert!(!takes(&checker, A), "it was there, so that it stays");
        assert!(checker.undecided().is_empty());

        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let id = checker.begin(0, B);
        checker.unanswered(0, id);
        read(&mut checker, A).unwrap();
        assert!(!takes(&checker, B), "it was not there, so that it never comes");
    }

    #[test]
    fn what_was_read_while_it_was_in_flight_counts_as_done() {
        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let id = checker.begin(0, B);
        read(&mut checker, B).unwrap();
        checker.unanswered(0, id);
        assert!(!takes(&checker, A) && takes(&checker, B));
    }

    #[test]
    fn changes_that_overlap_end_in_either_order_until_somebody_looks() {
        let mut checker = Checker::new(1);
        let (a, b) = (checker.begin(0, A), checker.begin(0, B));
        checker.acknowledged(0, b);
        checker.acknowledged(0, a);
        assert!(takes(&checker, A) && takes(&checker, B) && !takes(&checker, None));
        read(&mut checker, B).unwrap();
        assert!(!takes(&checker, A) && takes(&checker, B));
    }

    #[test]
    fn a_read_may_see_what_was_replaced_while_it_was_under_way() {
        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let early = checker.look(0);
        stored(&mut checker, B);
        assert!(!takes(&checker, A), "a read that begins now may not");
        let bytes = A.unwrap().bytes();
        checker.seen(0, early, None, Seen::Value(&bytes)).unwrap();
        assert!(takes(&checker, B) && !takes(&checker, A));
    }

    #[test]
    fn what_was_refused_has_not_happened() {
        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let (id, look) = (checker.begin(0, B), checker.look(0));
        checker.seen(0, look, Some(id), Seen::Present).unwrap();
        checker.refused(0, id).unwrap();
        assert!(takes(&checker, A) && !takes(&checker, B));
        assert!(checker.check_listed(0, false).is_err());
        checker.check_listed(0, true).unwrap();
    }

    #[test]
    fn altered_bytes_are_found() {
        let mut checker = Checker::new(1);
        stored(&mut checker, A);
        let mut bytes = A.unwrap().bytes();
        bytes[19] ^= 0x80;
        let look = checker.look(0);
        let error = checker.seen(0, look, None, Seen::Value(&bytes)).unwrap_err();
        assert!(error.contains("a value of 20 bytes"), "{error}");
    }
}
