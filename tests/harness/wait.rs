//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// Between two looks: short beside what is waited for, long beside what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until the probe gives a value; its error says what was seen instead.
///
/// # Panics
/// When the time is over, with the last thing seen.
pub fn wait_until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= within => panic!("waited {within:?} for {what}; last seen: {seen}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// A probe from a condition and what to say while it does not hold.
pub fn check(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}

/// Lets the real clock run while something is measured (a processor's use, a link's traffic). Not for waiting.
pub fn measure_for(window: Duration) {
    std::thread::sleep(window);
}
