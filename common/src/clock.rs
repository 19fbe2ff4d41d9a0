//! The clock seam: the only place that asks the machine what time it is.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// What time it is, for people and for measuring. Simulation replaces it.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock: may jump. For people, and for ages across machines.
    fn wall(&self) -> Timestamp;
    /// Monotonic time since some start: never jumps. For deadlines and durations.
    fn monotonic(&self) -> Duration;
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
