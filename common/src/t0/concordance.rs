//! The concordance of an era: which ranges were saved aside, and where they lie. What is not in it was not overwritten in that
//! era.

use super::side_file::SideFile;
use crate::extent::Extent;
use crate::overlay::{Locate, Overlay, Piece};

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

/// Ranges that their only user has copied and will not read again: they need not be saved for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Done;

impl Locate for Done {
    fn advance(self, _bytes: u64) -> Self {
        self
    }
}

/// What of an era was copied.
#[derive(Debug, Default)]
pub struct Copied(Overlay<Done>);

impl Copied {
    /// A range was.
    pub fn add(&mut self, extent: Extent) {
        self.0.insert(extent, Done);
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.ranges() == 0
    }

    /// The parts of a range that were.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        self.0.pieces(extent).filter(|piece| piece.location.is_some()).map(|piece| piece.extent)
    }
}

/// The side file of a place.
#[must_use]
pub fn file_of(files: &[std::sync::Arc<SideFile>], place: &SavedPlace) -> Option<std::sync::Arc<SideFile>> {
    files.iter().find(|file| file.number() == place.file).cloned()
}
