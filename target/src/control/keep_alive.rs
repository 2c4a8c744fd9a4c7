//! Keep Alive (section 3.9): whether the host is still there.
//!
//! Traffic based (CTRATT.TBKAS): the timer looks once an interval whether any command came since the last look, so a host
//! that falls silent is noticed after one to two intervals.

use std::time::{Duration, Instant};

/// KAS: granularity of the timer, units of 100 ms.
pub(super) const KAS: u16 = 1;
const GRANULARITY_MS: u32 = KAS as u32 * 100;

/// The timer of one association.
#[derive(Clone, Debug)]
pub(super) struct KeepAlive {
    kato_ms: u32,
    /// Since when traffic has been watched for; `None` while the timer does not run.
    since: Option<Instant>,
}

impl KeepAlive {
    /// A timer that does not run yet. `kato_ms` 0 disables it.
    pub(super) const fn new(kato_ms: u32) -> Self {
        Self { kato_ms: round_up(kato_ms), since: None }
    }

    /// KATO in use, milliseconds, rounded up to the granularity.
    pub(super) const fn kato_ms(&self) -> u32 {
        self.kato_ms
    }

    /// Changes KATO; a running timer starts over.
    pub(super) fn set_kato(&mut self, now: Instant, kato_ms: u32) {
        self.kato_ms = round_up(kato_ms);
        if self.since.is_some() {
            self.start(now);
        }
    }

    /// The controller is enabled: the timer runs from now on.
    pub(super) const fn start(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// The controller is reset or shut down.
    pub(super) const fn stop(&mut self) {
        self.since = None;
    }

    /// When to call [`Self::expired`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.kato_ms {
            0 => None,
            ms => self.since?.checked_add(Duration::from_millis(ms.into())),
        }
    }

    /// Whether an interval has passed in which nothing came; `last_traffic` is when the last command came. If something
    /// came, the next interval begins.
    pub(super) fn expired(&mut self, now: Instant, last_traffic: Instant) -> bool {
        match (self.deadline(), self.since) {
            (Some(deadline), Some(since)) if now >= deadline => {
                if last_traffic <= since {
                    return true;
                }
                self.start(now);
                false
            }
            _ => false,
        }
    }
}

const fn round_up(kato_ms: u32) -> u32 {
    match kato_ms.checked_next_multiple_of(GRANULARITY_MS) {
        Some(ms) => ms,
        None => u32::MAX / GRANULARITY_MS * GRANULARITY_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_up_to_the_granularity() {
        assert_eq!(KeepAlive::new(0).kato_ms(), 0);
        assert_eq!(KeepAlive::new(1).kato_ms(), 100);
        assert_eq!(KeepAlive::new(5000).kato_ms(), 5000);
        assert_eq!(KeepAlive::new(5001).kato_ms(), 5100);
        assert_eq!(KeepAlive::new(u32::MAX).kato_ms(), 4_294_967_200);
    }

    #[test]
    fn expires_after_a_silent_interval() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut timer = KeepAlive::new(1000);
        assert_eq!(timer.deadline(), None);
        timer.start(t0);
        assert_eq!(timer.deadline(), Some(at(1000)));
        assert!(!timer.expired(at(999), t0));
        assert!(!timer.expired(at(1000), at(1)), "something came");
        assert_eq!(timer.deadline(), Some(at(2000)));
        assert!(timer.expired(at(2000), at(1)), "nothing came since the last look");
    }

    #[test]
    fn kato_0_and_a_stopped_timer_never_expire() {
        let t0 = Instant::now();
        let mut timer = KeepAlive::new(0);
        timer.start(t0);
        assert_eq!(timer.deadline(), None);
        assert!(!timer.expired(t0 + Duration::from_secs(1 << 20), t0));
        timer.set_kato(t0, 50);
        assert_eq!(timer.deadline(), Some(t0 + Duration::from_millis(100)));
        timer.stop();
        assert_eq!(timer.deadline(), None);
    }
}
