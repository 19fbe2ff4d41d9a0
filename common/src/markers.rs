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
