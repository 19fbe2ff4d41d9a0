//! When a journal will be full, if it goes on as in the last minute: on either side.

use std::collections::VecDeque;
use std::time::Duration;

use crate::journal::Journal;
use parking_lot::Mutex;

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two samples.
const STEP: Duration = Duration::from_secs(1);
/// A journal that has not filled any further for so long does not fill.
const QUIET: Duration = Duration::from_secs(10);
/// Less time than this tells nothing.
const SPAN_MIN: Duration = Duration::from_secs(3);

/// The free bytes of the last minute.
#[derive(Debug, Default)]
pub struct Forecast {
    samples: Mutex<VecDeque<(Duration, u64)>>,
}

impl Forecast {
    /// Looks at a journal; the seconds until it is full, 0 when it stands full, `None` when it does not fill.
    pub fn sample(&self, now: Duration, journal: &Journal) -> Option<f64> {
        // Space comes back by whole segments: less than two of them is no trend.
        self.take(now, journal.free_bytes(), 2 * journal.segment_bytes())
    }

    fn take(&self, now: Duration, free: u64, noise: u64) -> Option<f64> {
        let mut samples = self.samples.lock();
        if samples.back().is_none_or(|(last, _)| now.saturating_sub(*last) >= STEP) {
            samples.push_back((now, free));
        }
        while samples.front().is_some_and(|(first, _)| now.saturating_sub(*first) > WINDOW) {
            samples.pop_front();
        }
        let last = now.checked_sub(QUIET).and_then(|then| samples.iter().rev().find(|(at, _)| *at <= then));
        if last.is_some_and(|(_, before)| free >= *before) {
            // One that has no room for another segment fills no further because it is full.
            return (free < noise / 2).then_some(0.0);
        }
        // From where it was freest: what came back in between is no reason to hope.
        let (since, most) = samples.iter().copied().max_by_key(|(_, free)| *free)?;
        seconds_left(now.saturating_sub(since), most, free, noise)
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds_left(span: Duration, before: u64, free: u64, noise: u64) -> Option<f64> {
    let used = before.checked_sub(free).filter(|used| *used > noise)?;
    (span >= SPAN_MIN).then(|| free as f64 / (used as f64 / span.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn after(forecast: &Forecast, samples: impl Iterator<Item = (u64, u64)>) -> Option<f64> {
        samples.map(|(second, free)| forecast.take(Duration::from_secs(second), free * MIB, 8 * MIB)).last().flatten()
    }

    #[test]
    fn a_journal_that_fills_steadily_is_full_when_its_rate_says_so() {
        let left = after(&Forecast::default(), (0..=20).map(|second| (second, 1000 - 10 * second))).unwrap();
        assert!((left - 80.0).abs() < 1.0, "{left}");
    }

    #[test]
    fn space_that_comes_and_goes_by_segments_is_no_trend() {
        assert_eq!(after(&Forecast::default(), (0..120).map(|second| (second, 1000 - second % 8))), None);
        assert_eq!(after(&Forecast::default(), (0..60).map(|second| (second, 500 + second))), None);
    }

    /// After a burst, nothing fills it any more.
    #[test]
    fn hosts_that_are_quiet_fill_no_journal() {
        let forecast = Forecast::default();
        assert!(after(&forecast, (0..=20).map(|second| (second, 1000 - 40 * second))).is_some());
        assert!(after(&forecast, (21..=25).map(|second| (second, 200))).is_some(), "they may go on");
        assert_eq!(after(&forecast, (26..=40).map(|second| (second, 200))), None);
        assert!(after(&forecast, (41..=45).map(|second| (second, 200 - 10 * (second - 40)))).is_some());
    }

    /// Hosts wait for room in it, and it was said not to fill.
    #[test]
    fn a_journal_that_stands_full_does_not_look_like_one_that_does_not_fill() {
        let forecast = Forecast::default();
        assert!(after(&forecast, (0..=30).map(|second| (second, 301 - 10 * second))).is_some());
        assert_eq!(after(&forecast, (31..=120).map(|second| (second, 1))), Some(0.0));
        assert_eq!(after(&forecast, (121..=160).map(|second| (second, 200))), None);
    }

    #[test]
    fn what_was_more_than_a_minute_ago_counts_no_more() {
        let forecast = Forecast::default();
        assert!(after(&forecast, (0..=30).map(|second| (second, 1000 - 20 * second))).is_some());
        assert_eq!(after(&forecast, (31..=100).map(|second| (second, 400))), None);
    }
}
