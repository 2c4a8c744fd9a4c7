//! Whose turn it is on a core: small exchanges first, bulk in slices behind them.
//!
//! A core that received a Store of megabytes in one go would let everybody else wait for a millisecond. So whoever has much to
//! move stands in the line for bulk, and that line gets a slice in each turn of the loop, the one connection after the other.
//! Before it come all that have something else to say, and after it the loop looks for news. A connection that has the core to
//! itself gets larger slices.
//!
//! What a small command waits for is therefore at most one slice in each direction, however many connections flood.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Bytes of bulk that are received in one turn of the loop, and as many that are sent in it, where several connections are at work.
pub(super) const SLICE: usize = 256 << 10;
/// The same where one connection has the core to itself.
pub(super) const SLICE_ALONE: usize = 1 << 20;
/// How long ago others must have been at work for a connection to count as alone.
const ALONE: Duration = Duration::from_millis(20);
/// Answers of a connection that are more than this are bulk.
pub(super) const PROMPT: usize = 64 << 10;
/// What each visit counts for at least, bytes: a connection of which little comes costs some time, too.
const VISIT: usize = 4 << 10;

/// How a connection stands in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// It has commands or answers.
    Prompt,
    /// It is in the middle of much data.
    Bulk,
}

/// Those that wait, by their keys. Whoever uses it sees to it that nobody stands in it twice.
#[derive(Debug, Default)]
pub(super) struct Line {
    prompt: VecDeque<usize>,
    bulk: VecDeque<usize>,
    /// Of `prompt`, those that have their chance in this turn.
    invited: usize,
    /// Bytes that bulk may still move in this turn.
    left: usize,
}

impl Line {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.prompt.is_empty() && self.bulk.is_empty()
    }

    /// Puts `key` at the end of its line.
    pub(super) fn push(&mut self, key: usize, class: Class) {
        match class {
            Class::Prompt => self.prompt.push_back(key),
            Class::Bulk => self.bulk.push_back(key),
        }
    }

    /// A turn begins, in which bulk may move `slice` bytes; the last visit may pass that. Who joins from now on as
    /// [`Class::Prompt`] has a chance in the next one.
    pub(super) fn begin(&mut self, slice: usize) {
        self.invited = self.prompt.len();
        self.left = slice;
    }

    /// Who is next in this turn, until [`Self::moved`] says that its slice is used up.
    pub(super) fn next(&mut self) -> Option<(usize, Class)> {
        if self.invited > 0
            && let Some(key) = self.prompt.pop_front()
        {
            self.invited -= 1;
            return Some((key, Class::Prompt));
        }
        if self.left == 0 {
            return None;
        }
        self.bulk.pop_front().map(|key| (key, Class::Bulk))
    }

    /// The last of [`Self::next`] has moved `bytes`.
    pub(super) fn moved(&mut self, bytes: usize, class: Class) {
        if class == Class::Bulk {
            self.left = self.left.saturating_sub(bytes.max(VISIT));
        }
    }
}

/// Whether several connections are at work.
#[derive(Debug, Default)]
pub(super) struct Company {
    last: usize,
    until: Option<Instant>,
}

impl Company {
    /// The connection `key` has been served.
    pub(super) fn served(&mut self, key: usize, now: Instant) {
        if key != self.last {
            self.last = key;
            self.until = Some(now + ALONE);
        }
    }

    /// How much bulk may move in a turn.
    pub(super) fn slice(&self, now: Instant) -> usize {
        if self.until.is_some_and(|until| now < until) { SLICE } else { SLICE_ALONE }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Runs turns until `probe` has been served, with floods that always have more; turns and bytes of bulk before it.
    fn served_after(line: &mut Line, probe: usize) -> (usize, usize) {
        let (mut turns, mut bytes) = (0, 0);
        loop {
            turns += 1;
            line.begin(SLICE);
            while let Some((key, class)) = line.next() {
                if key == probe {
                    return (turns, bytes);
                }
                line.moved(SLICE, class);
                bytes += SLICE;
                line.push(key, Class::Bulk);
            }
            assert!(turns < 100, "it is never its turn");
        }
    }

    #[test]
    fn a_small_exchange_waits_for_no_flood() {
        for floods in [0, 1, 2, 100] {
            let mut line = Line::default();
            (0..floods).for_each(|key| line.push(key, Class::Bulk));
            // One that came when the turn had begun: the rest of that turn is before it, and nothing else.
            line.begin(SLICE);
            line.push(1000, Class::Prompt);
            let mut before = 0;
            while let Some((key, class)) = line.next() {
                assert_eq!(class, Class::Bulk);
                line.moved(SLICE, class);
                line.push(key, class);
                before += SLICE;
            }
            assert!(before <= 2 * SLICE, "{floods} floods move {before} bytes in a turn");
            assert_eq!(served_after(&mut line, 1000), (1, 0), "{floods} floods");
        }
    }

    #[test]
    fn bulk_is_served_by_turns_and_however_many_small_ones_there_are() {
        let mut line = Line::default();
        (0..3).for_each(|key| line.push(key, Class::Bulk));
        let mut order = Vec::new();
        for turn in 0..9 {
            line.begin(SLICE);
            for small in 0..50 {
                line.push(100 + turn * 50 + small, Class::Prompt);
            }
            line.begin(SLICE);
            let mut small = 0;
            while let Some((key, class)) = line.next() {
                match class {
                    Class::Prompt => small += 1,
                    Class::Bulk => {
                        order.push(key);
                        line.push(key, class);
                    }
                }
                line.moved(SLICE, class);
            }
            assert_eq!(small, 50);
        }
        assert_eq!(order, [0, 1, 2].repeat(3));
    }

    #[test]
    fn whoever_always_has_more_to_say_is_served_once_a_turn() {
        let mut line = Line::default();
        line.push(1, Class::Prompt);
        line.push(2, Class::Prompt);
        for _ in 0..5 {
            let mut served = Vec::new();
            line.begin(SLICE);
            while let Some((key, class)) = line.next() {
                served.push(key);
                line.moved(0, class);
                line.push(key, class);
            }
            assert_eq!(served, [1, 2]);
        }
    }

    #[test]
    fn visits_without_bytes_end_a_turn_too() {
        let mut line = Line::default();
        line.push(1, Class::Bulk);
        line.begin(SLICE);
        let mut visits = 0;
        while let Some((key, class)) = line.next() {
            visits += 1;
            line.moved(0, class);
            line.push(key, class);
        }
        assert_eq!(visits, SLICE / VISIT);
    }

    #[test]
    fn a_connection_is_alone_when_others_have_been_silent_for_a_while() {
        let mut company = Company::default();
        let start = Instant::now();
        company.served(5, start);
        company.served(5, start + ALONE);
        assert_eq!(company.slice(start + ALONE), SLICE_ALONE);
        company.served(6, start + ALONE);
        assert_eq!(company.slice(start + ALONE), SLICE);
        assert_eq!(company.slice(start + 2 * ALONE - Duration::from_nanos(1)), SLICE);
        assert_eq!(company.slice(start + 2 * ALONE), SLICE_ALONE);
    }

    proptest! {
        /// Against any mix: nobody is lost, nobody is served twice without standing in line twice, bulk keeps to its share of
        /// a turn, and everybody is served within as many turns as all of bulk needs.
        #[test]
        fn nobody_is_lost_or_left_behind(
            arrivals in prop::collection::vec(prop::collection::vec((any::<bool>(), 1usize..4 * SLICE), 0..6), 1..30),
        ) {
            let mut line = Line::default();
            let mut left: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
            let (mut key, mut turn, mut total) = (0, 0, 0);
            let mut arrivals = arrivals.into_iter();
            loop {
                let new = arrivals.next();
                if new.is_none() && line.is_empty() {
                    break;
                }
                for (bulk, bytes) in new.unwrap_or_default() {
                    line.push(key, if bulk { Class::Bulk } else { Class::Prompt });
                    left.insert(key, (bytes, turn));
                    total += bytes.max(VISIT);
                    key += 1;
                }
                line.begin(SLICE);
                let mut in_turn = 0;
                while let Some((key, class)) = line.next() {
                    let (bytes, since) = left.get_mut(&key).expect("nobody is served who does not wait");
                    let now = (*bytes).min(SLICE);
                    *bytes -= now;
                    line.moved(now, class);
                    if class == Class::Bulk {
                        in_turn += now;
                    } else {
                        prop_assert_eq!(*since, turn, "a small one is served in the turn it came in");
                    }
                    if *bytes > 0 {
                        line.push(key, Class::Bulk);
                    } else {
                        left.remove(&key);
                    }
                }
                prop_assert!(in_turn < 2 * SLICE);
                turn += 1;
                prop_assert!(turn <= 31 + total.div_ceil(VISIT), "turns without progress");
            }
            prop_assert!(left.is_empty());
        }
    }
}
