//! Asynchronous events (section 5.2): requests that wait, events that happened, and which of them the host wants.
//!
//! An I/O controller has two events: namespaces changed, and a critical warning is new. A discovery controller has one: its
//! log page changed. After an event is reported, it is masked until the host reads the log page that describes it.

use std::collections::VecDeque;

use kvof_spec::{aen::AsyncEvent, feature::AsyncEventConfig};

/// AERL: Asynchronous Event Requests that may wait at a time, 0's based.
pub(super) const AERL: u8 = 3;

/// SMART critical warnings. All may be enabled, though only those happen that a pool can give.
pub(super) const SMART_WARNINGS: AsyncEventConfig = AsyncEventConfig::SMART_SPARE
    .union(AsyncEventConfig::SMART_TEMPERATURE)
    .union(AsyncEventConfig::SMART_DEGRADED)
    .union(AsyncEventConfig::SMART_READ_ONLY)
    .union(AsyncEventConfig::SMART_VOLATILE_BACKUP)
    .union(AsyncEventConfig::SMART_PMR_READ_ONLY);

/// The events of one controller.
#[derive(Debug)]
pub(super) struct Events {
    kinds: Vec<Kind>,
    config: AsyncEventConfig,
    waiting: VecDeque<u16>,
}

/// One event.
#[derive(Debug)]
struct Kind {
    event: AsyncEvent,
    /// Any of these asks for it.
    notice: AsyncEventConfig,
    /// Happened, and not reported yet.
    pending: bool,
    /// Reported, and its log page not read yet.
    masked: bool,
}

/// What becomes of a new Asynchronous Event Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Requested {
    /// It waits.
    Waits,
    /// It completes with this event now.
    Completes(AsyncEvent),
    /// Too many wait already.
    LimitExceeded,
}

impl Events {
    /// Those of an I/O controller.
    pub(super) fn io() -> Self {
        Self::new(&[
            (AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, AsyncEventConfig::NAMESPACE_ATTRIBUTE),
            (AsyncEvent::SUBSYSTEM_RELIABILITY, SMART_WARNINGS),
        ])
    }

    /// Those of a discovery controller.
    pub(super) fn discovery() -> Self {
        Self::new(&[
            (AsyncEvent::DISCOVERY_LOG_CHANGED, AsyncEventConfig::DISCOVERY_LOG_CHANGE),
            (AsyncEvent::SUBSYSTEM_RELIABILITY, SMART_WARNINGS),
        ])
    }

    fn new(kinds: &[(AsyncEvent, AsyncEventConfig)]) -> Self {
        let kind = |&(event, notice)| Kind { event, notice, pending: false, masked: false };
        Self { kinds: kinds.iter().map(kind).collect(), config: AsyncEventConfig::empty(), waiting: VecDeque::new() }
    }

    /// Asynchronous Event Configuration.
    pub(super) const fn config(&self) -> AsyncEventConfig {
        self.config
    }

    /// Sets Asynchronous Event Configuration; false, and unchanged, if it names events that do not exist here.
    pub(super) fn configure(&mut self, config: AsyncEventConfig) -> bool {
        let known = self.kinds.iter().fold(AsyncEventConfig::empty(), |known, kind| known | kind.notice);
        if !known.contains(config) {
            return false;
        }
        self.config = config;
        true
    }

    /// What `notices` stand for happened.
    pub(super) fn raise(&mut self, notices: AsyncEventConfig) {
        let wanted = self.config & notices;
        for kind in self.kinds.iter_mut().filter(|kind| kind.notice.intersects(wanted) && !kind.masked) {
            kind.pending = true;
        }
    }

    /// The host read log page `lid` without retaining the event.
    pub(super) fn log_read(&mut self, lid: u8) {
        for kind in self.kinds.iter_mut().filter(|kind| kind.event.log_page() == lid) {
            kind.pending = false;
            kind.masked = false;
        }
    }

    /// Takes the Asynchronous Event Request `cid`.
    pub(super) fn request(&mut self, cid: u16) -> Requested {
        if self.waiting.len() > usize::from(AERL) {
            return Requested::LimitExceeded;
        }
        if self.waiting.is_empty()
            && let Some(event) = self.report()
        {
            return Requested::Completes(event);
        }
        self.waiting.push_back(cid);
        Requested::Waits
    }

    /// A request that completes now, and its event.
    pub(super) fn poll(&mut self) -> Option<(u16, AsyncEvent)> {
        let cid = *self.waiting.front()?;
        let event = self.report()?;
        self.waiting.pop_front();
        Some((cid, event))
    }

    /// Takes the waiting request `cid` out; false if there is none.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != cid);
        self.waiting.len() < before
    }

    /// The controller is reset: nothing is wanted any more. Returns the requests that waited.
    pub(super) fn reset(&mut self) -> VecDeque<u16> {
        self.config = AsyncEventConfig::empty();
        for kind in &mut self.kinds {
            (kind.pending, kind.masked) = (false, false);
        }
        std::mem::take(&mut self.waiting)
    }

    fn report(&mut self) -> Option<AsyncEvent> {
        let kind = self.kinds.iter_mut().find(|kind| kind.pending)?;
        (kind.pending, kind.masked) = (false, true);
        Some(kind.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_once_until_the_log_page_is_read() {
        let mut events = Events::io();
        assert!(events.configure(AsyncEventConfig::NAMESPACE_ATTRIBUTE));
        assert_eq!(events.request(7), Requested::Waits);
        assert_eq!(events.poll(), None);
        events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.poll(), Some((7, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
        assert_eq!(events.request(8), Requested::Waits);
        events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.poll(), None, "masked");
        events.log_read(0x05);
        events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.poll(), None, "another page was read");
        events.log_read(0x04);
        assert_eq!(events.poll(), None, "the page told of everything so far");
        events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.poll(), Some((8, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
    }

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = Events::discovery();
        events.raise(AsyncEventConfig::DISCOVERY_LOG_CHANGE);
        assert_eq!(events.request(1), Requested::Waits, "not enabled");
        assert!(events.abort(1));
        assert!(!events.abort(1));
        assert!(events.configure(AsyncEventConfig::DISCOVERY_LOG_CHANGE));
        events.raise(AsyncEventConfig::DISCOVERY_LOG_CHANGE);
        assert_eq!(events.request(2), Requested::Completes(AsyncEvent::DISCOVERY_LOG_CHANGED));
    }

    #[test]
    fn a_warning_is_an_event_of_its_own_that_the_host_asks_for_by_its_bit() {
        let mut events = Events::io();
        assert!(events.configure(AsyncEventConfig::SMART_DEGRADED | AsyncEventConfig::NAMESPACE_ATTRIBUTE));
        events.raise(AsyncEventConfig::SMART_READ_ONLY);
        assert_eq!(events.request(1), Requested::Waits, "not asked for");
        events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.poll(), Some((1, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
        // Masking one does not mask the other.
        events.raise(AsyncEventConfig::SMART_DEGRADED);
        assert_eq!(events.request(2), Requested::Completes(AsyncEvent::SUBSYSTEM_RELIABILITY));
        events.raise(AsyncEventConfig::SMART_DEGRADED);
        assert_eq!(events.request(3), Requested::Waits, "masked");
        events.log_read(0x02);
        events.raise(AsyncEventConfig::SMART_DEGRADED);
        assert_eq!(events.poll(), Some((3, AsyncEvent::SUBSYSTEM_RELIABILITY)));
    }

    #[test]
    fn limit_and_reset() {
        let mut events = Events::io();
        for cid in 0..4 {
            assert_eq!(events.request(cid), Requested::Waits);
        }
        assert_eq!(events.request(4), Requested::LimitExceeded);
        assert_eq!(events.reset(), [0, 1, 2, 3]);
        assert_eq!(events.request(4), Requested::Waits);
    }

    #[test]
    fn only_known_events_can_be_enabled() {
        let mut events = Events::io();
        assert!(!events.configure(AsyncEventConfig::DISCOVERY_LOG_CHANGE));
        assert!(!events.configure(AsyncEventConfig::from_bits_retain(1 << 20)));
        assert!(events.configure(SMART_WARNINGS | AsyncEventConfig::NAMESPACE_ATTRIBUTE));
        assert_eq!(events.config().bits(), 0x13f);
    }
}
