//! Asynchronous events (section 5.2): requests that wait, events that happened, and which of them the host wants.
//!
//! Each kind of controller has one event: an I/O controller that namespaces changed, a discovery controller that its log
//! page changed. After an event is reported, it is masked until the host reads the log page that describes it.

use std::collections::VecDeque;

use kvof_spec::{aen::AsyncEvent, feature::AsyncEventConfig};

/// AERL: Asynchronous Event Requests that may wait at a time, 0's based.
pub(super) const AERL: u8 = 3;

/// SMART critical warnings, which may be enabled although none ever happens.
const SMART_WARNINGS: AsyncEventConfig = AsyncEventConfig::SMART_SPARE
    .union(AsyncEventConfig::SMART_TEMPERATURE)
    .union(AsyncEventConfig::SMART_DEGRADED)
    .union(AsyncEventConfig::SMART_READ_ONLY)
    .union(AsyncEventConfig::SMART_VOLATILE_BACKUP)
    .union(AsyncEventConfig::SMART_PMR_READ_ONLY);

/// The events of one controller.
#[derive(Debug)]
pub(super) struct Events {
    event: AsyncEvent,
    notice: AsyncEventConfig,
    config: AsyncEventConfig,
    /// Happened, and not reported yet.
    pending: bool,
    /// Reported, and its log page not read yet.
    masked: bool,
    waiting: VecDeque<u16>,
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
    pub(super) const fn io() -> Self {
        Self::new(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, AsyncEventConfig::NAMESPACE_ATTRIBUTE)
    }

    /// Those of a discovery controller.
    pub(super) const fn discovery() -> Self {
        Self::new(AsyncEvent::DISCOVERY_LOG_CHANGED, AsyncEventConfig::DISCOVERY_LOG_CHANGE)
    }

    const fn new(event: AsyncEvent, notice: AsyncEventConfig) -> Self {
        let config = AsyncEventConfig::empty();
        Self { event, notice, config, pending: false, masked: false, waiting: VecDeque::new() }
    }

    /// Asynchronous Event Configuration.
    pub(super) const fn config(&self) -> AsyncEventConfig {
        self.config
    }

    /// Sets Asynchronous Event Configuration; false, and unchanged, if it names events that do not exist here.
    pub(super) fn configure(&mut self, config: AsyncEventConfig) -> bool {
        let known = self.notice.union(SMART_WARNINGS);
        if !known.contains(config) {
            return false;
        }
        self.config = config;
        true
    }

    /// The event happened.
    pub(super) const fn raise(&mut self) {
        if self.config.contains(self.notice) && !self.masked {
            self.pending = true;
        }
    }

    /// The host read log page `lid` without retaining the event.
    pub(super) const fn log_read(&mut self, lid: u8) {
        if lid == self.event.log_page() {
            self.pending = false;
            self.masked = false;
        }
    }

    /// Takes the Asynchronous Event Request `cid`.
    pub(super) fn request(&mut self, cid: u16) -> Requested {
        if self.waiting.len() > usize::from(AERL) {
            return Requested::LimitExceeded;
        }
        if self.pending && self.waiting.is_empty() {
            return Requested::Completes(self.report());
        }
        self.waiting.push_back(cid);
        Requested::Waits
    }

    /// A request that completes now, and its event.
    pub(super) fn poll(&mut self) -> Option<(u16, AsyncEvent)> {
        if !self.pending {
            return None;
        }
        let cid = self.waiting.pop_front()?;
        Some((cid, self.report()))
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
        self.pending = false;
        self.masked = false;
        std::mem::take(&mut self.waiting)
    }

    const fn report(&mut self) -> AsyncEvent {
        self.pending = false;
        self.masked = true;
        self.event
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
        events.raise();
        assert_eq!(events.poll(), Some((7, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
        assert_eq!(events.request(8), Requested::Waits);
        events.raise();
        assert_eq!(events.poll(), None, "masked");
        events.log_read(0x05);
        events.raise();
        assert_eq!(events.poll(), None, "another page was read");
        events.log_read(0x04);
        assert_eq!(events.poll(), None, "the page told of everything so far");
        events.raise();
        assert_eq!(events.poll(), Some((8, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
    }

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = Events::discovery();
        events.raise();
        assert_eq!(events.request(1), Requested::Waits, "not enabled");
        assert!(events.abort(1));
        assert!(!events.abort(1));
        assert!(events.configure(AsyncEventConfig::DISCOVERY_LOG_CHANGE));
        events.raise();
        assert_eq!(events.request(2), Requested::Completes(AsyncEvent::DISCOVERY_LOG_CHANGED));
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
