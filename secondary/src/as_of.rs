//! As of when the copy is good, and how old that makes it. Pure.
//!
//! Markers and heartbeats carry times of the primary's clock, which may jump, and need not agree with the clock here. So the time
//! over there is taken from the newest heartbeat and carried on by the monotonic clock here; when a heartbeat shows that the primary's
//! clock was set, what is known is moved by as much. An age can then be wrong by the time a heartbeat takes, and not by what
//! somebody does to a clock.
//!
//! A heartbeat that is late looks like a clock that was set back: a side that was stopped finds many of them at once. Only a clock stays
//! where it is, so that is waited for; until then, and whenever it cannot be told which of the two it was, the copy is called older and
//! never younger than it is.
//!
//! All of these times come from outside: none of them is too large or too small to be counted with (invariant 10).

use std::time::Duration;

/// A heartbeat that is earlier than this was sent by a clock that was set; one that is later, when those that follow are as late.
const STEP_MS: i64 = 2_000;
/// What is late for so long is not late.
const LATE_MAX: Duration = Duration::from_secs(5);
/// Of how much later a heartbeat is than the one before, such a part counts: the line may only be busy.
const LATER_SHARE: i64 = 8;
/// Heartbeats come every second: a marker that is further ahead of the newest has the time of a clock that is set.
const MARKER_AHEAD_MS: i64 = 5_000;

/// The newest moment of which all writes are in a permitted marker.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsOf {
    /// Milliseconds since 1970 by the primary's clock.
    good_ms: i64,
    /// A heartbeat not yet reached by a permitted marker: (as of, captured).
    waiting: Option<(i64, u64)>,
    /// The time of the newest heartbeat.
    newest_ms: Option<i64>,
    /// The primary's clock less the monotonic clock here, milliseconds; `None` until it is heard.
    ahead_ms: Option<i64>,
    /// The same by heartbeats that were late, or sent by a clock that was set back; and since when.
    late: Option<(i64, Duration)>,
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl AsOf {
    /// What is known from the newest permitted marker alone.
    #[must_use]
    pub(crate) fn of_marker(time_ns: i64) -> Self {
        Self { good_ms: time_ns / 1_000_000, ..Self::default() }
    }

    /// Milliseconds since 1970 by the primary's clock.
    #[must_use]
    pub const fn good_ms(&self) -> i64 {
        self.good_ms
    }

    /// A heartbeat: the primary had given out numbers up to `captured` at this time by its clock. The `first` of a connection says nothing
    /// of what happened to the clocks before.
    pub fn heartbeat(&mut self, first: bool, as_of_ms: i64, captured: u64, permitted: u64, now: Duration) {
        let ahead = as_of_ms.saturating_sub(ms(now));
        let before = self.ahead_ms.unwrap_or(ahead);
        let set_by = ahead.saturating_sub(before);
        if set_by < -STEP_MS {
            let since = self.late.filter(|(late, _)| ahead.abs_diff(*late) <= STEP_MS.unsigned_abs());
            let since = since.map_or(now, |(_, since)| since);
            if now.saturating_sub(since) < LATE_MAX {
                self.late = Some((ahead, since));
            } else {
                self.clock_was_set(set_by);
                self.ahead_ms = Some(ahead);
                self.late = None;
            }
        } else {
            // This clock may have stood while nothing was heard, with the whole machine: what was good did not get any better by that.
            if set_by > STEP_MS && !first {
                self.clock_was_set(set_by);
            }
            self.ahead_ms = Some(if set_by < 0 { before.saturating_add(set_by / LATER_SHARE) } else { ahead });
            self.late = None;
        }
        self.newest_ms = Some(as_of_ms);
        // Older ones say less: the newest that is reached counts, and one that waits is enough to get there.
        if self.waiting.is_none() || captured <= permitted {
            self.waiting = Some((as_of_ms, captured));
        }
    }

    fn clock_was_set(&mut self, by_ms: i64) {
        tracing::warn!(seconds = by_ms / 1000, "the primary's clock was set");
        self.good_ms = self.good_ms.saturating_add(by_ms);
        if let Some((as_of, _)) = &mut self.waiting {
            *as_of = as_of.saturating_add(by_ms);
        }
    }

    /// All writes up to this number are permitted, by a marker of this time.
    pub fn reached(&mut self, permitted: u64, marker_time_ns: i64) {
        let marker_ms = marker_time_ns / 1_000_000;
        if self.newest_ms.is_none_or(|newest| marker_ms <= newest.saturating_add(MARKER_AHEAD_MS)) {
            self.good_ms = self.good_ms.max(marker_ms);
        }
        if let Some((as_of_ms, _)) = self.waiting.take_if(|(_, captured)| *captured <= permitted) {
            self.good_ms = self.good_ms.max(as_of_ms);
        }
    }

    /// How old that is: by the primary's clock, or by the one here until the primary was heard.
    #[must_use]
    pub fn age(&self, now: Duration, wall: jiff::Timestamp) -> Duration {
        let there = self.ahead_ms.map_or_else(|| wall.as_millisecond(), |ahead| ahead.saturating_add(ms(now)));
        Duration::from_millis(u64::try_from(there.saturating_sub(self.good_ms)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const BEGIN_MS: i64 = 1_700_000_000_000;

    /// A wall clock that has nothing to do with the primary's.
    const ELSEWHERE: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn age_ms(as_of: &AsOf, now: u64) -> u64 {
        u64::try_from(as_of.age(at(now), ELSEWHERE).as_millis()).unwrap()
    }

    /// A copy that was good at 1,000 ms, heard at once, and is not any better afterwards.
    fn lagging() -> AsOf {
        let mut as_of = AsOf::default();
        as_of.heartbeat(true, BEGIN_MS, 10, 10, at(1_000));
        as_of.reached(10, (BEGIN_MS - 300) * 1_000_000);
        assert_eq!((as_of.good_ms(), age_ms(&as_of, 1_000)), (BEGIN_MS, 0));
        as_of
    }

    #[test]
    fn what_is_not_permitted_makes_it_older() {
        let mut as_of = lagging();
        for second in 2..60 {
            let now = 1_000 * second;
            as_of.heartbeat(false, BEGIN_MS + i64::try_from(now).unwrap() - 1_000, 20, 10, at(now));
            as_of.reached(10, BEGIN_MS * 1_000_000);
            assert_eq!(age_ms(&as_of, now + 100), now - 900);
        }
        // The oldest heartbeat that was not reached is now.
        as_of.reached(20, (BEGIN_MS + 500) * 1_000_000);
        assert_eq!(age_ms(&as_of, 60_000), 58_000);
    }

    /// Whichever way somebody sets the primary's clock, and sets it right again, the copy is as old as it is.
    #[test]
    fn a_primary_whose_clock_is_set_makes_no_copy_younger_or_older() {
        for jump in [5 * HOUR_MS, -5 * HOUR_MS] {
            let mut as_of = lagging();
            as_of.heartbeat(false, BEGIN_MS + 1_000 + jump, 20, 10, at(2_000));
            assert_eq!(age_ms(&as_of, 2_000), 1_000, "{jump}");
            // What was cut meanwhile has the wrong time, and is permitted when the clock is right again.
            let meanwhile_ns = (BEGIN_MS + 1_500 + jump) * 1_000_000;
            as_of.heartbeat(false, BEGIN_MS + 2_000, 30, 10, at(3_000));
            assert_eq!(age_ms(&as_of, 3_000), 2_000, "{jump}");
            as_of.reached(20, meanwhile_ns);
            assert!((2_000..=3_000).contains(&age_ms(&as_of, 4_000)), "{jump}: {}", age_ms(&as_of, 4_000));
            // It stays right: then that is known, and until then the copy is called too old at most.
            for second in 4..10 {
                as_of.heartbeat(false, BEGIN_MS + second * 1_000, 30, 30, at(1_000 + 1_000 * second.unsigned_abs()));
                as_of.reached(30, (BEGIN_MS + second * 1_000 - 100) * 1_000_000);
            }
            assert_eq!(age_ms(&as_of, 11_000), 1_000, "{jump}");
        }
    }

    #[test]
    fn a_primary_whose_clock_was_set_back_for_good_is_believed_after_a_while() {
        let mut as_of = lagging();
        for second in 1..=20 {
            let now = 1_000 + 1_000 * second;
            let there = BEGIN_MS - HOUR_MS + i64::try_from(now).unwrap() - 1_000;
            as_of.heartbeat(false, there, 20, 10, at(now));
            assert_eq!(age_ms(&as_of, now), now - 1_000);
        }
        as_of.heartbeat(false, BEGIN_MS - HOUR_MS + 21_000, 20, 20, at(22_000));
        as_of.reached(20, (BEGIN_MS - HOUR_MS + 20_500) * 1_000_000);
        assert_eq!(age_ms(&as_of, 22_000), 0, "good as of the heartbeat");
    }

    /// A side that was stopped for 45 s finds what came meanwhile all at once, and then the connection is another.
    #[test]
    fn heartbeats_that_were_late_make_no_copy_younger() {
        let mut as_of = lagging();
        for second in 1..=10 {
            as_of.heartbeat(false, BEGIN_MS + 1_000 * second, 100, 10, at(46_000));
            assert_eq!(age_ms(&as_of, 46_000), 45_000);
        }
        // A marker of 8 s after the begin.
        as_of.reached(90, (BEGIN_MS + 8_000) * 1_000_000);
        assert_eq!(age_ms(&as_of, 46_000), 37_000);
        as_of.heartbeat(true, BEGIN_MS + 46_000, 200, 90, at(47_000));
        assert_eq!(age_ms(&as_of, 47_000), 38_000);
    }

    /// The whole machine stood for an hour, its clocks as well, and the copy is an hour older for it.
    #[test]
    fn a_machine_that_stood_still_makes_no_copy_younger() {
        let mut as_of = lagging();
        as_of.heartbeat(true, BEGIN_MS + HOUR_MS, 100, 10, at(2_000));
        assert_eq!(age_ms(&as_of, 2_000), 3_600_000);
    }

    /// Invariant 10: whatever a heartbeat or a marker says of the time.
    #[test]
    fn no_time_is_too_large_or_too_small() {
        const TIMES: [i64; 5] = [i64::MIN, i64::MIN + 1, 0, BEGIN_MS, i64::MAX];
        for (first, second) in TIMES.iter().flat_map(|first| TIMES.iter().map(move |second| (*first, *second))) {
            let mut as_of = AsOf::of_marker(second);
            for (heartbeat, said) in (0..).zip([first, second, BEGIN_MS, second, first, first]) {
                let now = at(1_000 * heartbeat);
                as_of.heartbeat(heartbeat == 0, said, 10, 10, now);
                as_of.reached(10, first);
                as_of.reached(20, second);
                let _ = (as_of.good_ms(), as_of.age(now, ELSEWHERE));
            }
        }
    }

    #[test]
    fn before_the_primary_is_heard_the_clock_here_is_all_there_is() {
        let as_of = AsOf::of_marker(BEGIN_MS * 1_000_000);
        let wall = jiff::Timestamp::from_millisecond(BEGIN_MS + 7_000).unwrap();
        assert_eq!(as_of.age(at(3), wall), at(7_000));
        assert_eq!(as_of.age(at(3), ELSEWHERE), Duration::ZERO);
    }
}
