//! The markers a journal holds, on either side.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::api::types::MarkerInfo;
use crate::catalog::KeptMarkerRecord;
use crate::clock::from_unix_ns;
use crate::journal::Position;
use crate::record::MarkerRecord;

/// The markers whose records the journal holds, oldest first.
#[derive(Debug, Default)]
pub struct Markers {
    held: Mutex<VecDeque<(Position, MarkerRecord)>>,
}

impl Markers {
    /// The newest one's place and record.
    pub fn add(&self, at: Position, marker: MarkerRecord) {
        self.held.lock().push_back((at, marker));
    }

    /// Forgets those before the oldest place the journal holds; the newest marker is always known.
    pub fn trim(&self, oldest: Position) {
        let mut held = self.held.lock();
        while held.len() > 1 && held.front().is_some_and(|(at, _)| *at < oldest) {
            held.pop_front();
        }
    }

    /// Forgets those from one place to another, which are folded.
    pub fn forget(&self, from: Position, to: Position) {
        self.held.lock().retain(|(at, _)| *at < from || *at >= to);
    }

    /// The newest one.
    #[must_use]
    pub fn newest(&self) -> Option<MarkerRecord> {
        self.held.lock().back().map(|(_, marker)| marker.clone())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<MarkerRecord> {
        self.held.lock().iter().rev().find(|(_, marker)| marker.number == number).map(|(_, marker)| marker.clone())
    }

    /// All of them with their places, oldest first: numbers and times.
    #[must_use]
    pub fn moments(&self) -> Vec<(Position, u64, i64)> {
        self.held.lock().iter().map(|(at, marker)| (*at, marker.number, marker.time_ns)).collect()
    }

    /// Where one of them lies.
    #[must_use]
    pub fn place(&self, number: u64) -> Option<Position> {
        self.held.lock().iter().rev().find(|(_, marker)| marker.number == number).map(|(at, _)| *at)
    }

    /// Those newer than a number, oldest first.
    #[must_use]
    pub fn after(&self, number: u64) -> Vec<MarkerRecord> {
        let held = self.held.lock();
        let newer = held.iter().rev().take_while(|(_, marker)| marker.number > number);
        let mut newer: Vec<_> = newer.map(|(_, marker)| marker.clone()).collect();
        newer.reverse();
        newer
    }

    /// All with their places, oldest first.
    #[must_use]
    pub fn places(&self) -> Vec<(Position, MarkerRecord)> {
        self.held.lock().iter().cloned().collect()
    }

    /// Those newer than a number whose images end no later than a place, oldest first.
    #[must_use]
    pub fn between(&self, number: u64, end: Position) -> Vec<MarkerRecord> {
        let held = self.held.lock();
        held.iter()
            .filter(|(at, marker)| marker.number > number && *at <= end)
            .map(|(_, marker)| marker.clone())
            .collect()
    }

    /// The oldest one whose image ends no earlier than a place.
    #[must_use]
    pub fn oldest_from(&self, place: Position) -> Option<MarkerRecord> {
        let held = self.held.lock();
        held.get(held.partition_point(|(at, _)| *at < place)).map(|(_, marker)| marker.clone())
    }

    /// The newest one for which something holds, with its place.
    #[must_use]
    pub fn newest_that(&self, holds: impl Fn(Position, &MarkerRecord) -> bool) -> Option<(Position, MarkerRecord)> {
        self.held.lock().iter().rev().find(|(at, marker)| holds(*at, marker)).cloned()
    }

    /// The newest one cut by a time, of those for which something holds. Times are of a clock that may be set: one that is newer by its place, and
    /// was cut while the clock was set back, is older by its time. So none counts that is older than the nearest by more than the leeway.
    #[must_use]
    pub fn cut_by(
        &self,
        time_ns: i64,
        leeway_ns: i64,
        holds: impl Fn(Position, &MarkerRecord) -> bool,
    ) -> Option<(Position, MarkerRecord)> {
        let held = self.held.lock();
        let is_by_then = |at: Position, marker: &MarkerRecord| marker.time_ns <= time_ns && holds(at, marker);
        let by_then = held.iter().filter(|(at, marker)| is_by_then(*at, marker));
        let since_ns = by_then.map(|(_, marker)| marker.time_ns).max()?.saturating_sub(leeway_ns);
        held.iter().rev().find(|(at, marker)| marker.time_ns >= since_ns && is_by_then(*at, marker)).cloned()
    }

    /// All, newest first.
    #[must_use]
    pub fn all(&self) -> Vec<MarkerInfo> {
        self.held.lock().iter().rev().map(|(_, marker)| info(marker)).collect()
    }
}

/// A marker as the catalogue keeps it.
#[must_use]
pub fn kept(marker: &MarkerRecord) -> KeptMarkerRecord {
    KeptMarkerRecord {
        number: marker.number,
        boundary_seq: marker.boundary_seq,
        time_ns: marker.time_ns,
        tag: marker.tag.clone(),
    }
}

/// A marker whose record the journal no longer holds.
#[must_use]
pub fn marker_of(kept: &KeptMarkerRecord) -> MarkerRecord {
    MarkerRecord {
        number: kept.number,
        boundary_seq: kept.boundary_seq,
        time_ns: kept.time_ns,
        freeze_ns: 0,
        tag: kept.tag.clone(),
    }
}

/// A marker for people.
#[must_use]
pub fn info(marker: &MarkerRecord) -> MarkerInfo {
    let time = from_unix_ns(marker.time_ns);
    MarkerInfo { number: marker.number, boundary_seq: marker.boundary_seq, time, tag: marker.tag.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEEWAY: i64 = 20;

    /// The number of the marker cut by a time, of markers of these times.
    fn cut_by(times: &[i64], time: i64) -> Option<u64> {
        let markers = Markers::default();
        for (number, time_ns) in (1..).zip(times) {
            let marker = MarkerRecord { number, boundary_seq: number, time_ns: *time_ns, freeze_ns: 0, tag: None };
            markers.add(Position { segment: 1, offset: number }, marker);
        }
        markers.cut_by(time, LEEWAY, |_, marker| marker.number != 9).map(|(_, marker)| marker.number)
    }

    /// Who asks for the moment before something went wrong must not get one from behind it.
    #[test]
    fn a_marker_cut_while_the_clock_was_set_back_is_none_of_an_earlier_time() {
        let for_a_while = [100, 110, 120, 130, 20, 21, 140, 150, 160];
        let found = [10, 25, 115, 120, 145, 155, 1000].map(|time| cut_by(&for_a_while, time));
        assert_eq!(found, [None, Some(6), Some(2), Some(3), Some(7), Some(8), Some(8)]);
    }

    #[test]
    fn of_two_of_about_the_same_time_the_newer_one_counts_as_after_a_clock_was_set_right() {
        let for_good = [100, 110, 120, 130, 101, 111, 121];
        assert_eq!([105, 110, 115, 1000].map(|time| cut_by(&for_good, time)), [Some(5), Some(5), Some(6), Some(7)]);
        let ahead_for_a_while = [100, 110, 9000, 9010, 120, 130];
        assert_eq!([115, 125, 9005].map(|time| cut_by(&ahead_for_a_while, time)), [Some(2), Some(5), Some(3)]);
    }
}
