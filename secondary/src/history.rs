//! How far back the copy can go (decision 9): its volumes stay behind, at the *floor*, and every marker from there on can be
//! had through an index of the frames in between. Pure: it is told what is there and says where the floor is to be.
//!
//! ```text
//!   trimmed │ floor: the volumes │ frames of the history │ permitted │ received
//!           └── moves on ──▶  as much as asked for lies behind it, the journal needs room, or the set of volumes changes
//! ```
//!
//! The floor is recorded before anything is written beyond it, so that after any death it is known what the volumes may hold.
//! It never goes back (invariant 5 is about what is served, which is the newest permitted marker as ever).

use std::time::Duration;

use tidemark_common::history::History;
use tidemark_common::journal::Position;

/// Of a journal, so much is left to frames that come: an interval is an eighth at most, and so is what is buffered at its cut.
const RESERVE: u64 = 4;
/// Once room is needed, a little more is made, so that it is not needed again at once.
const MORE: u64 = 16;
/// The floor moves in steps of this part of what is asked for.
const STEPS: u64 = 32;
/// And not more often than this.
const STEP_MIN: Duration = Duration::from_millis(200);
/// Nor, when nothing else is needed, more rarely.
const STEP_MAX: Duration = Duration::from_secs(60);

/// Between two markers no more than this part of what is asked for counts.
const GAPS: i64 = 8;
/// Or this much, when that is more: longer than markers are apart.
const GAP_NS: i64 = 60_000_000_000;

/// What is known of the journal.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes it can still take.
    pub free_bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
}

impl Room {
    /// Whether frames that come need what the history holds.
    #[must_use]
    pub const fn is_needed(&self) -> bool {
        self.free_bytes < self.capacity_bytes / RESERVE
    }

    /// Bytes to give back then.
    const fn lacking(&self) -> u64 {
        (self.capacity_bytes / RESERVE + self.capacity_bytes / MORE).saturating_sub(self.free_bytes)
    }
}

/// A marker that is held: where its image ends, when it was cut.
pub type Held = (Position, u64, i64);

/// Where the floor is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The place.
    pub floor: Position,
    /// The journal has no room for as much as was asked for.
    pub shortened: bool,
    /// As much as was asked for is there.
    pub complete: bool,
}

/// How long the floor may stay where it is before it is looked at again, when the journal has room.
#[must_use]
pub fn pause(asked: History) -> Duration {
    let wanted = if asked.milliseconds == 0 { STEP_MAX } else { Duration::from_millis(asked.milliseconds / STEPS) };
    wanted.clamp(STEP_MIN, STEP_MAX)
}

/// The floor for the markers held, oldest first and permitted all. `bytes_from` says what the journal holds from a place on,
/// up to the newest of them.
#[must_use]
pub fn target(
    asked: History,
    floor: Position,
    markers: &[Held],
    room: Room,
    bytes_from: impl Fn(Position) -> u64,
) -> Target {
    let begin = markers.partition_point(|(end, ..)| *end < floor);
    let held = markers.get(begin..).unwrap_or_default();
    if held.is_empty() {
        return Target { floor, shortened: false, complete: false };
    }
    // Of markers old enough, the newest is kept, so that all of the time asked for can be had.
    let by_time = match asked.milliseconds {
        0 => None,
        wanted => old_enough(held, i64::try_from(wanted.saturating_mul(1_000_000)).unwrap_or(i64::MAX)),
    };
    let by_size = match asked.bytes {
        0 => None,
        wanted if bytes_from(floor) < wanted - wanted / STEPS => None,
        wanted => Some(held.partition_point(|(end, ..)| bytes_from(*end) > wanted).min(held.len() - 1)),
    };
    let wished = by_time.max(by_size).unwrap_or(0);
    let needed = if room.is_needed() {
        let keep = bytes_from(floor).saturating_sub(room.lacking());
        held.partition_point(|(end, ..)| bytes_from(*end) > keep).min(held.len() - 1)
    } else {
        0
    };
    let at = held.get(wished.max(needed)).map_or(floor, |(end, ..)| *end);
    let complete = by_time.is_some() || by_size.is_some();
    Target { floor: at.max(floor), shortened: needed > wished, complete }
}

/// The newest marker that is so old. What lies between two of them counts up to a part of that only: their times are of the primary's clock, and
/// one that is set forward must not cost all of the history. Behind a long loss of the link more is kept for that than was asked for.
fn old_enough(held: &[Held], wanted_ns: i64) -> Option<usize> {
    let most = (wanted_ns / GAPS).max(GAP_NS);
    let mut age_ns: i64 = 0;
    for (number, (before, behind)) in held.iter().zip(held.iter().skip(1)).enumerate().rev() {
        age_ns = age_ns.saturating_add(behind.2.saturating_sub(before.2).clamp(0, most));
        if age_ns >= wanted_ns {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const PLENTY: Room = Room { free_bytes: 900, capacity_bytes: 1000 };

    /// A marker each second, each interval of ten bytes.
    fn markers(count: u64) -> Vec<Held> {
        (1..=count).map(|n| (at(n * 10), n, i64::try_from(n).unwrap() * SECOND)).collect()
    }

    const fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn floor(asked: History, from: Position, count: u64, room: Room) -> Target {
        target(asked, from, &markers(count), room, |place| (count * 10).saturating_sub(place.offset))
    }

    #[test]
    fn the_floor_is_the_newest_marker_that_is_old_enough() {
        let asked = History { milliseconds: 5_000, bytes: 0 };
        assert_eq!(floor(asked, at(10), 4, PLENTY), Target { floor: at(10), shortened: false, complete: false });
        assert_eq!(floor(asked, at(10), 20, PLENTY), Target { floor: at(150), shortened: false, complete: true });
        assert_eq!(floor(asked, at(180), 20, PLENTY).floor, at(180), "it never goes back");
    }

    #[test]
    fn a_size_bounds_it_as_well_and_the_lesser_of_both_counts() {
        let both = |milliseconds, bytes| floor(History { milliseconds, bytes }, at(10), 20, PLENTY).floor;
        assert_eq!(both(0, 40), at(160));
        assert_eq!(both(10_000, 40), at(160));
        assert_eq!(both(2_000, 40), at(180));
        assert_eq!(both(0, 5), at(200), "of an interval that is larger, its end is left");
    }

    #[test]
    fn a_journal_that_fills_takes_from_the_history() {
        let asked = History { milliseconds: 1_000_000, bytes: 0 };
        let tight = Room { free_bytes: 240, capacity_bytes: 1000 };
        assert_eq!(floor(asked, at(10), 50, tight), Target { floor: at(90), shortened: true, complete: false });
        let full = Room { free_bytes: 0, capacity_bytes: 1000 };
        assert_eq!(floor(asked, at(10), 20, full).floor, at(200), "all of it, when that is needed");
    }

    #[test]
    fn a_clock_that_went_back_costs_no_more_than_it_must() {
        let asked = History { milliseconds: 5_000, bytes: 0 };
        let mut held = markers(20);
        held.iter_mut().skip(10).for_each(|marker| marker.2 -= 8 * SECOND);
        let found = target(asked, at(10), &held, PLENTY, |_| 0);
        assert!(found.floor >= at(70) && found.floor <= at(150), "{found:?}");
    }

    #[test]
    fn a_clock_that_is_set_forward_costs_a_part_of_the_history_at_most() {
        let asked = History { milliseconds: 3_600_000, bytes: 0 };
        let mut held = markers(5_000);
        held.iter_mut().skip(4_000).for_each(|marker| marker.2 += 365 * 86_400 * SECOND);
        let found = target(asked, at(10), &held, PLENTY, |_| 0);
        // An eighth of an hour counts for the second in which it was set.
        assert_eq!(found, Target { floor: at(18_490), shortened: false, complete: true });
        let left = held.iter().rev().take_while(|(end, ..)| *end > found.floor).count();
        assert!((3_000..3_600).contains(&left), "{left} seconds");
    }
}
