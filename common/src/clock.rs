//! The clock seam: the only place that asks the machine what time it is.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// What time it is, for people and for measuring. Simulation replaces it.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock: may jump. For people, and for ages across machines.
    fn wall(&self) -> Timestamp;
    /// Monotonic time since some start: never jumps. For deadlines and durations.
    fn monotonic(&self) -> Duration;
}

/// Between two looks at a clock: none but the machine's wakes who waits for a time.
const LOOK: Duration = Duration::from_millis(50);

/// What comes within this time by a clock; nothing when that has passed, and what was waited for is given up.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    let end = clock.monotonic().saturating_add(limit);
    let mut what = pin!(what);
    loop {
        match tokio::time::timeout(LOOK, what.as_mut()).await {
            Ok(came) => return Some(came),
            Err(_) if clock.monotonic() >= end => return None,
            Err(_) => {}
        }
    }
}

/// A time as records keep it: nanoseconds since 1970, up to the year 2262.
#[must_use]
pub fn unix_ns(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// The time that a record keeps.
#[must_use]
pub fn from_unix_ns(ns: i64) -> Timestamp {
    // Any number of 64 bits is a time.
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock for tests, beside [`MemoryDisk`](crate::storage::memory::MemoryDisk): it stands until it is set, and for people it is 1970.
#[derive(Debug, Default)]
pub struct HandClock {
    monotonic_ns: AtomicU64,
}

impl HandClock {
    /// From now on it is so long since its start.
    pub fn set(&self, monotonic: Duration) {
        self.monotonic_ns.store(u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn what_comes_until_its_time_has_passed_came_and_is_given_up_then() {
        let (begin, limit) = (Duration::from_secs(5), Duration::from_secs(130));
        for (passed, comes) in [(limit - Duration::from_nanos(1), true), (limit, false)] {
            let clock = HandClock::default();
            clock.set(begin);
            let mut looks = 0;
            // It is looked for once more when the time is what it is to be, and comes behind that.
            let what = poll_fn(|_| {
                looks += 1;
                clock.set(begin + passed);
                if comes && looks > 2 { Poll::Ready(7) } else { Poll::Pending }
            });
            assert_eq!(within(&clock, limit, what).await, comes.then_some(7), "{passed:?}");
        }
        assert_eq!(within(&HandClock::default(), Duration::ZERO, async { 7 }).await, Some(7), "it is there");
    }
}
