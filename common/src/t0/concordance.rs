//! The concordance of an era: which ranges were saved aside, and where they lie. What is not in it was not overwritten in that
//! era.

use std::collections::BTreeMap;

use super::side_file::SideFile;
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::overlay::{Locate, Overlay, Piece};

/// Bytes of memory that a range takes: its entry of 56 and its share of a tree's half-filled nodes.
pub const RANGE_BYTES: u64 = 96;

/// Where the saved content of a range lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It was all zeroes.
    Zero,
    /// In a side file.
    Data(SavedPlace),
}

/// A piece of saved content, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedPlace {
    /// The side file's number.
    pub file: u64,
    /// Where the piece begins there.
    pub at: u64,
    /// Bytes of the whole piece.
    pub length: u32,
    /// Checksum of the whole piece.
    pub check: u32,
    /// Where in the piece.
    pub within: u32,
}

impl Locate for Saved {
    fn advance(self, bytes: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Data(place) => {
                let within = place.within.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
                Self::Data(SavedPlace { within, ..place })
            }
        }
    }
}

/// What one era saved.
#[derive(Debug, Default)]
pub struct Concordance {
    saved: Overlay<Saved>,
    bytes: u64,
}

impl Concordance {
    /// A range was saved. What is known already stays: the first content saved is that of the marker.
    pub fn add(&mut self, extent: Extent, saved: Saved) {
        self.saved.insert_unless(extent, saved, |_| true);
        self.bytes = self.bytes.saturating_add(extent.length);
    }

    /// Takes in what a younger era saved and this one did not.
    pub fn merge(&mut self, younger: &Self) {
        for (extent, saved) in younger.saved.all() {
            self.saved.insert_unless(extent, saved, |_| true);
        }
    }

    /// What a younger era saved and this one did not.
    #[must_use]
    pub fn lacks(&self, younger: &Self) -> Vec<(Extent, Saved)> {
        let mut lacking = Vec::new();
        for (extent, saved) in younger.saved.all() {
            let unsaved = self.saved.pieces(extent).filter(|piece| piece.location.is_none());
            lacking.extend(unsaved.map(|piece| (piece.extent, saved.advance(piece.extent.offset - extent.offset))));
        }
        lacking
    }

    /// What of these ranges is known to lie in one file lies here now.
    pub fn moved(&mut self, from: u64, placed: &[(Extent, Saved)]) {
        let is_there = |saved: Option<Saved>| matches!(saved, Some(Saved::Data(place)) if place.file == from);
        for (extent, saved) in placed {
            let pieces: Vec<Piece<Saved>> = self.saved.pieces(*extent).collect();
            for piece in pieces.into_iter().filter(|piece| is_there(piece.location)) {
                self.saved.insert(piece.extent, saved.advance(piece.extent.offset - extent.offset));
            }
        }
    }

    /// A range as runs: saved ones, and those that are not.
    pub fn pieces(&self, extent: Extent) -> impl Iterator<Item = Piece<Saved>> + '_ {
        self.saved.pieces(extent)
    }

    /// Ranges held: what its memory grows with.
    #[must_use]
    pub const fn ranges(&self) -> usize {
        self.saved.ranges()
    }
}

/// What of an era its only user has copied and will not read again: it need not be saved any more. Ranges that touch are one, so that
/// a volume copied from its begin to its end takes one entry.
#[derive(Debug, Default)]
pub struct Copied(BTreeMap<(VolumeIndex, u64), u64>);

impl Copied {
    /// A range was.
    pub fn add(&mut self, extent: Extent) {
        let volume = extent.volume;
        let (mut begin, mut end) = (extent.offset, extent.end());
        if begin == end {
            return;
        }
        while let Some(((_, touching), its_end)) = self.before(volume, end).filter(|(_, its_end)| *its_end >= begin) {
            self.0.remove(&(volume, touching));
            (begin, end) = (begin.min(touching), end.max(its_end));
        }
        self.0.insert((volume, begin), end);
    }

    /// The last range that begins at an offset or before it.
    fn before(&self, volume: VolumeIndex, offset: u64) -> Option<((VolumeIndex, u64), u64)> {
        self.0.range((volume, 0)..=(volume, offset)).next_back().map(|(key, end)| (*key, *end))
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ranges held: what its memory grows with.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.0.len()
    }

    /// The parts of a range that were.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        let volume = extent.volume;
        let first = self.before(volume, extent.offset).map_or(extent.offset, |((_, begin), _)| begin);
        let touching = self.0.range((volume, first)..(volume, extent.end().max(first)));
        touching.filter_map(move |((_, begin), end)| {
            let (begin, end) = (extent.offset.max(*begin), extent.end().min(*end));
            (begin < end).then(|| Extent { offset: begin, length: end - begin, ..extent })
        })
    }
}

/// The side file of a place.
#[must_use]
pub(crate) fn file_of(files: &[std::sync::Arc<SideFile>], place: &SavedPlace) -> Option<std::sync::Arc<SideFile>> {
    files.iter().find(|file| file.number() == place.file).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(volume: u32, offset: u64, end: u64) -> Extent {
        Extent { volume: VolumeIndex(volume), offset, length: end - offset }
    }

    #[test]
    fn what_was_copied_in_pieces_is_one_range_and_known_exactly() {
        let mut copied = Copied::default();
        for (begin, end) in [(10, 20), (40, 50), (30, 40), (0, 10), (60, 61), (45, 48), (55, 70)] {
            copied.add(extent(1, begin, end));
        }
        copied.add(extent(0, 20, 30));
        copied.add(extent(1, 5, 5));
        assert_eq!(copied.ranges(), 4);
        let within = |copied: &Copied, begin, end| copied.within(extent(1, begin, end)).collect::<Vec<_>>();
        assert_eq!(within(&copied, 0, 100), [extent(1, 0, 20), extent(1, 30, 50), extent(1, 55, 70)]);
        assert_eq!(within(&copied, 15, 35), [extent(1, 15, 20), extent(1, 30, 35)]);
        assert_eq!(within(&copied, 20, 30), [], "not the other volume's");
        copied.add(extent(1, 20, 30));
        assert_eq!((copied.ranges(), within(&copied, 0, 50)), (3, vec![extent(1, 0, 50)]));
    }
}
