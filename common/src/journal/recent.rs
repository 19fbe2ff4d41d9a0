//! The newest frames of a journal, kept in memory for its readers: what was just appended is shipped and applied next, and is
//! neither read nor verified once more for that. They were verified before they were appended (invariant 9).

use std::collections::VecDeque;

use bytes::Bytes;

use super::Position;

/// Bytes of frames kept at most.
pub(super) const RECENT_BYTES_MAX: usize = 24 << 20;

/// Frames by the place of their record, which only grows.
#[derive(Debug, Default)]
pub(super) struct Recent {
    frames: VecDeque<(Position, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Adds the newest one; the oldest go for it.
    pub(super) fn add(&mut self, at: Position, frame: Bytes) {
        if self.frames.back().is_some_and(|(newest, _)| *newest >= at) {
            self.clear();
        }
        self.bytes += frame.len();
        self.frames.push_back((at, frame));
        while self.bytes > RECENT_BYTES_MAX {
            let Some((_, frame)) = self.frames.pop_front() else { break };
            self.bytes -= frame.len();
        }
    }

    /// The frame of the record that begins at this place.
    pub(super) fn get(&self, at: Position) -> Option<Bytes> {
        let index = self.frames.binary_search_by_key(&at, |(place, _)| *place).ok()?;
        self.frames.get(index).map(|(_, frame)| frame.clone())
    }

    /// Segments before this one are gone.
    pub(super) fn trim(&mut self, segment: u64) {
        while self.frames.front().is_some_and(|(at, _)| at.segment < segment) {
            let Some((_, frame)) = self.frames.pop_front() else { break };
            self.bytes -= frame.len();
        }
    }

    /// Gives the memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    #[test]
    fn the_newest_are_kept_and_the_oldest_go() {
        let mut recent = Recent::default();
        let frame = |tag: u8| Bytes::from(vec![tag; RECENT_BYTES_MAX / 4]);
        for number in 0..6_u8 {
            recent.add(at(u64::from(number)), frame(number));
        }
        assert_eq!(recent.get(at(1)), None);
        for number in 2..6_u8 {
            assert_eq!(recent.get(at(u64::from(number))), Some(frame(number)));
        }
        assert_eq!(recent.get(at(6)), None);
        recent.clear();
        assert_eq!(recent.get(at(5)), None);
    }

    #[test]
    fn a_frame_at_an_older_place_begins_anew() {
        let mut recent = Recent::default();
        recent.add(at(8), Bytes::from_static(b"old"));
        recent.add(at(8), Bytes::from_static(b"new"));
        assert_eq!(recent.get(at(8)), Some(Bytes::from_static(b"new")));
    }
}
