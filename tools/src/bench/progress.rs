//! A bar on standard error, if that is a terminal, for work that takes long.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    load::{End, Load},
    runner::Progress,
};

/// The bar of one load.
pub(super) struct Bar {
    bar: ProgressBar,
    timed: bool,
    last: Progress,
}

impl Bar {
    /// A bar for `load` of `values` values.
    pub(super) fn new(what: String, load: &Load, values: u64) -> Self {
        let (len, timed) = match load.end {
            End::After(time) => (millis(load.warmup + time), true),
            End::Count(count) => (count, false),
            End::Exhausted => (values, false),
        };
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix:30} [{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        Self { bar, timed, last: Progress { done: 0, elapsed: Duration::ZERO } }
    }

    pub(super) fn update(&mut self, now: Progress) {
        let time = now.elapsed.saturating_sub(self.last.elapsed).as_secs_f64();
        // The last look may come soon after the one before.
        if time > 0.05 {
            let rate = now.done.saturating_sub(self.last.done) as f64 / time;
            self.bar.set_message(format!("{rate:.0} op/s"));
            self.last = now;
        }
        self.bar.set_position(if self.timed { millis(now.elapsed) } else { now.done });
    }

    /// Takes the bar away.
    pub(super) fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
