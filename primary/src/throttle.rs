//! Slowing hosts while the journal fills, for groups that would rather wait than let a pair fall behind (`on-full = throttle`).
//! From a half-full journal on every write is held back, at first for 20 µs, at seven eighths for a second, without steps in
//! between: hosts settle at the speed of the slowest pair. No host is held longer than [`DELAY_MAX`] by this.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The shortest time one write is held back. From it to the longest is the range of the finest pacing known, IBM's XRC.
const DELAY_MIN: Duration = Duration::from_micros(20);
/// The longest time one write is held back.
pub const DELAY_MAX: Duration = Duration::from_secs(1);
/// Timers are no finer than this: shorter delays are added up.
const TICK: Duration = Duration::from_millis(1);
/// Writes count once for so many bytes.
const UNIT_BYTES: usize = 64 << 10;

/// The pace of a group's hosts.
#[derive(Debug, Default)]
pub struct Throttle {
    enabled: AtomicBool,
    delay_ns: AtomicU64,
    /// Delays not yet waited.
    owed_ns: AtomicU64,
}

impl Throttle {
    /// Switches it on or off.
    pub fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    /// Whether it is on.
    #[must_use]
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Sets the pace by the journal's free bytes and its capacity. Returns the delay of one write.
    pub fn pace(&self, journal: impl FnOnce() -> (u64, u64)) -> Duration {
        let delay = if self.is_enabled() {
            let (free, capacity) = journal();
            delay(free, capacity)
        } else {
            Duration::ZERO
        };
        self.delay_ns.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
        delay
    }

    /// What one write is held back now.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay_ns.load(Ordering::Acquire))
    }

    /// Holds a write of so many bytes back.
    pub async fn wait(&self, bytes: usize) {
        if let Some(time) = self.owed(bytes) {
            tokio::time::sleep(time).await;
        }
    }

    fn owed(&self, bytes: usize) -> Option<Duration> {
        let delay = self.delay();
        if delay.is_zero() {
            return None;
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let own = delay.saturating_mul(units).min(DELAY_MAX);
        if own >= TICK {
            return Some(own);
        }
        let own = u64::try_from(own.as_nanos()).unwrap_or_default();
        let owed = self.owed_ns.fetch_add(own, Ordering::AcqRel) + own;
        if Duration::from_nanos(owed) < TICK {
            return None;
        }
        // Whoever comes at the same time finds nothing more to wait.
        let taken = self.owed_ns.swap(0, Ordering::AcqRel);
        (taken > 0).then(|| Duration::from_nanos(taken).min(DELAY_MAX))
    }
}

/// Zero while half of the journal is free, then growing by the same factor for each byte used.
#[expect(clippy::cast_precision_loss, reason = "a share needs no precision")]
fn delay(free: u64, capacity: u64) -> Duration {
    let used = 1.0 - free as f64 / capacity.max(1) as f64;
    if used <= 0.5 {
        return Duration::ZERO;
    }
    let share = ((used - 0.5) / 0.375).min(1.0);
    DELAY_MIN.mul_f64((DELAY_MAX.as_secs_f64() / DELAY_MIN.as_secs_f64()).powf(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_half_ends_at_seven_eighths_and_has_no_steps() {
        assert_eq!(delay(50, 100), Duration::ZERO);
        assert_eq!(delay(0, 100), DELAY_MAX);
        assert_eq!(delay(125, 1000), DELAY_MAX);
        let all: Vec<Duration> = (0..=1000).rev().map(|free| delay(free, 1000)).collect();
        assert!(all.iter().zip(all.iter().skip(1)).all(|(one, next)| one <= next));
        let begun = all.iter().filter(|delay| !delay.is_zero());
        let factors = begun.clone().zip(begun.skip(1)).map(|(one, next)| next.as_secs_f64() / one.as_secs_f64());
        assert!(factors.fold(1.0, f64::max) < 1.05, "finer than a twentieth from one thousandth to the next");
    }

    #[test]
    fn delays_shorter_than_a_timers_tick_are_added_up_and_none_is_lost() {
        let throttle = Throttle::default();
        throttle.enable(true);
        let one = throttle.pace(|| (450, 1000));
        assert!(!one.is_zero() && one < TICK, "{one:?}");
        let waited: Duration = (0..10_000).filter_map(|_| throttle.owed(4096)).sum();
        let due = one * 10_000;
        assert!(waited <= due && due - waited < 2 * TICK, "{waited:?} of {due:?}");
    }

    #[test]
    fn large_writes_wait_for_their_bytes_and_nobody_longer_than_a_second() {
        let throttle = Throttle::default();
        throttle.enable(true);
        let one = throttle.pace(|| (300, 1000));
        assert_eq!(throttle.owed(UNIT_BYTES * 3), Some(one * 3));
        throttle.pace(|| (0, 1000));
        assert_eq!(throttle.owed(32 << 20), Some(DELAY_MAX));
    }

    #[test]
    fn a_group_that_keeps_hosts_fast_never_holds_them() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pace(|| (0, 1000)), Duration::ZERO);
        assert_eq!(throttle.owed(4096), None);
        // It slowed them before.
        throttle.enable(true);
        assert_eq!(throttle.pace(|| (0, 1000)), DELAY_MAX);
        throttle.enable(false);
        assert_eq!(throttle.pace(|| (0, 1000)), Duration::ZERO);
        assert_eq!(throttle.owed(4096), None);
    }
}
