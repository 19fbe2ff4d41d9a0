//! The newest frames of a journal, kept in memory for its readers: what was just appended is shipped and applied next, and is
//! neither read nor verified once more for that. They were verified before they were appended (invariant 9). Of frames that
//! were built here, the data they were built of is kept beside them, until the volumes have it: it need not be decompressed.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Position;
use crate::storage::aligned::BLOCK_BYTES;

/// Bytes of frames kept at most, where they come from a peer: what comes in an interval of 250 ms, at 250 MB/s. An interval is applied
/// as soon as all of it is there, and what is here no more has to be read from the disk.
pub(super) const RECENT_BYTES_MAX: usize = 64 << 20;
/// Bytes kept at most where frames are built, raw data included: they are applied at once, and what is on its way to peers
/// needs memory, too.
const BUILT_BYTES_MAX: usize = 44 << 20;
/// Bytes of raw data among them at most.
pub(super) const RAW_BYTES_MAX: usize = 32 << 20;

/// What raw data costs: it begins at a block's border.
fn cost(raw: Option<&Bytes>) -> usize {
    raw.map_or(0, |raw| raw.len() + BLOCK_BYTES)
}

/// A frame in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its bytes.
    pub(super) frame: Bytes,
    /// All its data, uncompressed.
    pub(super) raw: Option<Bytes>,
}

/// Frames by the place of their record, which only grows.
#[derive(Debug, Default)]
pub(super) struct Recent {
    frames: VecDeque<(Position, Kept)>,
    bytes: usize,
    /// So many at the front have no raw data any more.
    without_raw: usize,
    raw_bytes: usize,
    /// Frames are built here.
    has_raw: bool,
}

impl Recent {
    /// Adds the newest one; the oldest go for it.
    pub(super) fn add(&mut self, at: Position, frame: Bytes, raw: Option<Bytes>) {
        if self.frames.back().is_some_and(|(newest, _)| *newest >= at) {
            self.clear();
        }
        self.bytes += frame.len();
        self.raw_bytes += cost(raw.as_ref());
        self.has_raw |= raw.is_some();
        self.frames.push_back((at, Kept { frame, raw }));
        while self.raw_bytes > RAW_BYTES_MAX && self.drop_raw() {}
        let bytes_max = if self.has_raw { BUILT_BYTES_MAX } else { RECENT_BYTES_MAX };
        while self.bytes + self.raw_bytes > bytes_max && self.pop() {}
    }

    /// The frame of the record that begins at this place.
    pub(super) fn get(&self, at: Position) -> Option<Kept> {
        let index = self.frames.binary_search_by_key(&at, |(place, _)| *place).ok()?;
        self.frames.get(index).map(|(_, kept)| kept.clone())
    }

    /// Segments before this one are gone.
    pub(super) fn trim(&mut self, segment: u64) {
        while self.frames.front().is_some_and(|(at, _)| at.segment < segment) && self.pop() {}
    }

    /// Nobody wants the raw data of frames before this place any more.
    pub(super) fn forget_raw(&mut self, before: Position) {
        while self.frames.get(self.without_raw).is_some_and(|(at, _)| *at < before) && self.drop_raw() {}
    }

    /// Whether it keeps nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives the memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn pop(&mut self) -> bool {
        let Some((_, kept)) = self.frames.pop_front() else { return false };
        self.bytes -= kept.frame.len();
        self.raw_bytes -= cost(kept.raw.as_ref());
        self.without_raw = self.without_raw.saturating_sub(1);
        true
    }

    fn drop_raw(&mut self) -> bool {
        let Some((_, kept)) = self.frames.get_mut(self.without_raw) else { return false };
        self.raw_bytes -= cost(kept.raw.take().as_ref());
        self.without_raw += 1;
        true
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
            recent.add(at(u64::from(number)), frame(number), None);
        }
        assert_eq!(recent.get(at(1)), None);
        for number in 2..6_u8 {
            assert_eq!(recent.get(at(u64::from(number))), Some(Kept { frame: frame(number), raw: None }));
        }
        assert_eq!(recent.get(at(6)), None);
        recent.clear();
        assert_eq!(recent.get(at(5)), None);
    }

    #[test]
    fn raw_data_goes_first_and_when_the_volumes_have_it() {
        let mut recent = Recent::default();
        let raw = |tag: u8| Some(Bytes::from(vec![tag; RAW_BYTES_MAX / 4 - BLOCK_BYTES]));
        let has_raw = |recent: &Recent| -> Vec<bool> {
            (0..8).map(|number| recent.get(at(number)).unwrap().raw.is_some()).collect()
        };
        for number in 0..8_u8 {
            recent.add(at(u64::from(number)), Bytes::from_static(b"frame"), raw(number));
        }
        assert_eq!(has_raw(&recent), [false, false, false, false, true, true, true, true]);
        assert_eq!(recent.get(at(6)).unwrap().raw, raw(6));
        recent.forget_raw(at(6));
        assert_eq!(has_raw(&recent), [false, false, false, false, false, false, true, true]);
        assert_eq!(recent.raw_bytes, RAW_BYTES_MAX / 2);
        recent.trim(2);
        assert_eq!((recent.bytes, recent.raw_bytes, recent.without_raw), (0, 0, 0));
    }

    #[test]
    fn a_frame_at_an_older_place_begins_anew() {
        let mut recent = Recent::default();
        recent.add(at(8), Bytes::from_static(b"old"), None);
        recent.add(at(8), Bytes::from_static(b"new"), None);
        assert_eq!(recent.get(at(8)).unwrap().frame, Bytes::from_static(b"new"));
    }
}
