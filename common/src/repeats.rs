//! Lines of a log that would come again and again: each is written once, and then at most once a minute. Of a problem that comes and goes, the
//! end is written, too ([`Recurring`]).
//!
//! In: what is about to be written, and the time. Out: whether it is, and how often it was left out since it last was. Owns no more
//! than a thousand lines: of callers that nobody trusts there may be any number. Pure.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The same line is left out for so long.
const AGAIN: Duration = Duration::from_secs(60);
/// Lines remembered.
const KNOWN_MAX: usize = 1024;

/// What was written of late.
#[derive(Debug, Default)]
pub struct Repeats {
    known: Mutex<HashMap<String, Written>>,
}

#[derive(Debug)]
struct Written {
    /// Monotonic.
    at: Duration,
    left_out: u64,
}

impl Repeats {
    /// Whether a line is written now: how often it was left out since it last was, or `None` when it is left out once more.
    #[must_use]
    pub fn news(&self, line: &str, now: Duration) -> Option<u64> {
        let mut known = self.known.lock();
        let is_young = |written: &Written| now.saturating_sub(written.at) < AGAIN;
        if let Some(written) = known.get_mut(line) {
            if is_young(written) {
                written.left_out = written.left_out.saturating_add(1);
                return None;
            }
            return Some(std::mem::replace(written, Written { at: now, left_out: 0 }).left_out);
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, written| is_young(written));
        }
        // More than that in a minute: better a line twice than memory without bound.
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(line.to_owned(), Written { at: now, left_out: 0 });
        Some(0)
    }
}

/// A problem that stands, goes and comes again, perhaps several times a second.
#[derive(Debug, Default)]
pub struct Recurring {
    begins: Repeats,
    /// Its begin was written, and no end since.
    is_told: AtomicBool,
}

impl Recurring {
    /// It stands, now or still: whether that is written, as [`Repeats::news`] says.
    #[must_use]
    pub fn stands(&self, words: &str, now: Duration) -> Option<u64> {
        let left_out = self.begins.news(words, now)?;
        self.is_told.store(true, Ordering::Release);
        Some(left_out)
    }

    /// The same of what is missing wherever one looks: another place or number in its words makes it no other problem.
    #[must_use]
    pub fn stands_anywhere(&self, words: &str, now: Duration) -> Option<u64> {
        // Numbers of segments are hexadecimal.
        let words: String = words.chars().filter(|character| !character.is_ascii_hexdigit()).collect();
        self.stands(&words, now)
    }

    /// It is over: whether that is written, which it is once for a begin that was.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.is_told.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_problem_that_comes_and_goes_a_begin_and_its_end_are_written_once_a_minute() {
        let (problem, at) = (Recurring::default(), Duration::from_millis);
        assert!(!problem.ends(), "nothing has begun");
        assert_eq!(problem.stands("the journal is full", at(0)), Some(0));
        assert_eq!(problem.stands("the journal is full", at(100)), None, "it stands still");
        assert!(problem.ends());
        for again in 2..590 {
            assert_eq!(problem.stands("the journal is full", at(100 * again)), None);
            assert!(!problem.ends(), "of what was left out, the end is, too");
        }
        assert_eq!(problem.stands("segment 12 is damaged", at(59_000)), Some(0), "another one");
        assert_eq!(problem.stands("segment 13 is damaged", at(59_000)), Some(0), "and another");
        assert!(problem.ends());
        assert_eq!(problem.stands("the journal is full", at(60_000)), Some(589));
        assert!(problem.ends() && !problem.ends(), "its end, though the last one was not long ago");
        assert_eq!(problem.stands_anywhere("write segment 00a at 4096: no space", at(61_000)), Some(0));
        assert_eq!(problem.stands_anywhere("write segment 00b at 512: no space", at(61_000)), None);
    }

    #[test]
    fn a_line_is_written_once_and_then_once_a_minute() {
        let repeats = Repeats::default();
        let at = Duration::from_secs;
        assert_eq!(repeats.news("refused", at(0)), Some(0));
        for second in 1..60 {
            assert_eq!(repeats.news("refused", at(second)), None, "{second}");
        }
        assert_eq!(repeats.news("another", at(59)), Some(0), "another line is news");
        assert_eq!(repeats.news("refused", at(60)), Some(59));
        assert_eq!(repeats.news("refused", at(61)), None);
        assert_eq!(repeats.news("refused", at(500)), Some(1));
    }

    #[test]
    fn of_any_number_of_lines_so_many_are_remembered() {
        let repeats = Repeats::default();
        for number in 0..10 * KNOWN_MAX {
            assert_eq!(repeats.news(&number.to_string(), Duration::ZERO), Some(0));
            assert!(repeats.known.lock().len() <= KNOWN_MAX);
        }
        let last = (10 * KNOWN_MAX - 1).to_string();
        assert_eq!(repeats.news(&last, Duration::ZERO), None, "the newest are among them");
    }
}
