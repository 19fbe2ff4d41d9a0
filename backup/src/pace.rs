//! How fast a backup copies: no faster than the rate given, and, when asked for, only while hosts are quiet; as fast as it goes
//! when what it copies can no longer be kept for it.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::clock::Clock;
use tidemark_common::rate::lasts;

use crate::stop::Stop;

/// Hosts must have been quiet for so long before a backup that runs when they are idle goes on.
pub const QUIET: Duration = Duration::from_millis(200);
/// How soon it is noticed that it has to hurry.
const LOOK: Duration = Duration::from_millis(100);

/// Counts what hosts ask of the volumes.
pub type Asked = Box<dyn Fn() -> u64 + Send>;

/// Whether what is to be copied can no longer be kept for a slow copying.
pub type Hurry = Box<dyn Fn() -> bool + Send>;

/// See the module.
pub struct Pace {
    clock: Arc<dyn Clock>,
    /// Bytes per second.
    rate: Option<u64>,
    /// When the next piece may go, monotonic.
    next: Duration,
    quiet: Option<Quiet>,
    hurry: Option<Hurry>,
}

struct Quiet {
    asked: Asked,
    last: u64,
    since: Duration,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace")
            .field("rate", &self.rate)
            .field("when_idle", &self.quiet.is_some())
            .finish_non_exhaustive()
    }
}

impl Pace {
    /// A pace; without a rate and without a counter, as fast as it goes.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, rate: Option<u64>, when_idle: Option<Asked>) -> Self {
        let now = clock.monotonic();
        let quiet = when_idle.map(|asked| Quiet { last: asked(), asked, since: now });
        Self { clock, rate, next: now, quiet, hurry: None }
    }

    /// The same, but as fast as it goes while this says so.
    #[must_use]
    pub fn hurrying(self, hurry: Hurry) -> Self {
        Self { hurry: Some(hurry), ..self }
    }

    /// Waits until a piece of so many bytes may be copied; whether it is to stop instead, or is over because nobody takes the piece any more.
    #[must_use]
    pub fn wait(&mut self, bytes: u64, stop: &Stop, is_over: &dyn Fn() -> bool) -> bool {
        loop {
            let now = self.clock.monotonic();
            let wait = self.due(now).max(self.quiet.as_mut().map_or(Duration::ZERO, |quiet| quiet.due(now)));
            let hurries = self.hurry.as_ref().is_some_and(|hurry| hurry());
            if hurries {
                // No debt: when the hurry is over, the rate begins anew.
                self.next = now;
            } else if wait.is_zero() {
                self.took(bytes, now);
            }
            if hurries || wait.is_zero() {
                return stop.reason().is_some();
            }
            if stop.wait(wait.min(LOOK)) || is_over() {
                return true;
            }
        }
    }

    fn due(&self, now: Duration) -> Duration {
        if self.rate.is_some() { self.next.saturating_sub(now) } else { Duration::ZERO }
    }

    /// A piece that was late does not let the next ones come sooner than the rate says, but for a tenth of a second.
    fn took(&mut self, bytes: u64, now: Duration) {
        let Some(rate) = self.rate else { return };
        let since = self.next.max(now.saturating_sub(Duration::from_millis(100)));
        self.next = since.saturating_add(lasts(bytes, rate));
    }
}

impl Quiet {
    /// How long to wait at least until hosts count as quiet.
    fn due(&mut self, now: Duration) -> Duration {
        let asked = (self.asked)();
        if asked != self.last {
            self.last = asked;
            self.since = now;
        }
        QUIET.saturating_sub(now.saturating_sub(self.since))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tidemark_common::clock::HandClock;

    use super::*;

    #[test]
    fn the_rate_holds_however_late_pieces_are() {
        let clock = Arc::new(HandClock::default());
        let mut pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, Some(1 << 20), None);
        let mut copied = 0;
        for ms in 0..20_000_u64 {
            clock.set(Duration::from_millis(ms));
            // Every third second nobody comes.
            if (ms / 1000) % 3 != 2 && pace.due(clock.monotonic()).is_zero() {
                pace.took(64 << 10, clock.monotonic());
                copied += 64 << 10;
            }
            let allowed = (ms + 200) * (1 << 20) / 1000 + (64 << 10);
            assert!(copied <= allowed, "{copied} bytes after {ms} ms");
        }
        assert!(copied >= 13 << 20, "{copied}");
    }

    #[test]
    fn a_copying_that_has_to_hurry_waits_for_nothing() {
        let clock = Arc::new(HandClock::default());
        let asked: Asked = Box::new(|| 1);
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, Some(1), Some(asked));
        let mut pace = pace.hurrying(Box::new(|| true));
        // The clock stands: only who hurries comes through.
        for _ in 0..3 {
            assert!(!pace.wait(1 << 20, &Stop::default(), &|| false));
        }
    }

    /// What was copied in a hurry is not paid for by standing still afterwards.
    #[test]
    fn after_a_hurry_the_rate_begins_anew() {
        let clock = Arc::new(HandClock::default());
        let hurries = Arc::new(AtomicU64::new(1));
        let (asked, stop) = (Arc::clone(&hurries), Stop::default());
        let pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, Some(1 << 20), None);
        let mut pace = pace.hurrying(Box::new(move || asked.load(Ordering::Relaxed) == 1));
        for _ in 0..1000 {
            assert!(!pace.wait(1 << 20, &stop, &|| false));
        }
        hurries.store(0, Ordering::Relaxed);
        assert_eq!(pace.due(clock.monotonic()), Duration::ZERO);
        assert!(!pace.wait(1 << 20, &stop, &|| false));
        assert!(pace.due(clock.monotonic()) > Duration::from_millis(800), "the rate counts again");
    }

    #[test]
    fn hosts_that_ask_hold_it_up() {
        let clock = Arc::new(HandClock::default());
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        let counted: Asked = Box::new(move || counter.load(Ordering::Relaxed));
        let mut pace = Pace::new(Arc::clone(&clock) as Arc<dyn Clock>, None, Some(counted));
        let quiet = pace.quiet.as_mut().unwrap();
        assert_eq!(quiet.due(Duration::from_millis(50)), Duration::from_millis(150));
        asked.store(1, Ordering::Relaxed);
        assert_eq!(quiet.due(Duration::from_millis(150)), QUIET);
        assert_eq!(quiet.due(Duration::from_millis(350)), Duration::ZERO);
        asked.store(2, Ordering::Relaxed);
        assert_eq!(quiet.due(Duration::from_millis(351)), QUIET);
    }
}
