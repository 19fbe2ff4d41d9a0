//! How fast something goes on: both sides of a pair show the copy under way with it; how long what is held to a rate takes. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::api::types::CopyProgress;

/// What is older does not count.
const WINDOW: Duration = Duration::from_secs(10);

/// How long so many bytes take at a rate, in bytes per second.
#[must_use]
pub fn lasts(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// The speed of a copy over its last seconds.
#[derive(Debug, Default)]
pub struct Rate {
    points: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// So far it is now, of so much: how fast, and how long it will take. Less than before: another copy has begun.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn progress(&mut self, now: Duration, done_bytes: u64, total_bytes: u64) -> CopyProgress {
        if self.points.back().is_some_and(|(_, before)| *before > done_bytes) {
            self.points.clear();
        }
        self.points.push_back((now, done_bytes));
        while self.points.len() > 2 && self.points.front().is_some_and(|(then, _)| now.saturating_sub(*then) > WINDOW) {
            self.points.pop_front();
        }
        let bytes_per_second = self.points.front().map_or(0.0, |(then, before)| {
            let seconds = now.saturating_sub(*then).as_secs_f64();
            if seconds > 0.0 { done_bytes.saturating_sub(*before) as f64 / seconds } else { 0.0 }
        });
        let seconds_left =
            (bytes_per_second > 0.0).then(|| total_bytes.saturating_sub(done_bytes) as f64 / bytes_per_second);
        CopyProgress { done_bytes, total_bytes, bytes_per_second, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_per_second() {
        assert_eq!(lasts(1 << 20, 4 << 20), Duration::from_millis(250));
        assert_eq!(lasts(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn the_last_seconds_count_and_a_copy_that_begins_anew_is_another() {
        let mut rate = Rate::default();
        let at = Duration::from_secs;
        assert_eq!(rate.progress(at(0), 0, 1000), CopyProgress { total_bytes: 1000, ..CopyProgress::default() });
        assert_eq!(rate.progress(at(10), 100, 1000).bytes_per_second, 10.0);
        let now = rate.progress(at(20), 300, 1000);
        assert_eq!((now.bytes_per_second, now.seconds_left), (20.0, Some(35.0)));
        assert_eq!(rate.progress(at(21), 10, 1000).seconds_left, None);
        assert_eq!(rate.progress(at(22), 40, 1000).seconds_left, Some(32.0));
    }
}
