//! Which of several frames wrote each byte last, and where in that frame's data it lies.

use super::{Locate, Overlay};
use crate::record::FrameView;
use crate::record::view::ExtentKind;

/// Where a byte comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A frame, by its number among them, and a place in its raw data.
    Data {
        /// The frame's number.
        frame: usize,
        /// The place in all of its data, uncompressed.
        at: usize,
    },
    /// Zeroes.
    Zero {
        /// Their space may be given back.
        hole: bool,
    },
}

impl Locate for Source {
    fn advance(self, bytes: u64) -> Self {
        match self {
            Self::Data { frame, at } => {
                Self::Data { frame, at: at.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)) }
            }
            Self::Zero { .. } => self,
        }
    }
}

impl Overlay<Source> {
    /// Takes in what a frame writes, over what those before it wrote.
    pub fn take_in(&mut self, frame: usize, view: &FrameView<'_>) {
        for entry in view.extents() {
            let source = match entry.kind {
                ExtentKind::Data => Source::Data { frame, at: entry.raw_offset as usize },
                ExtentKind::Zero { hole } => Source::Zero { hole },
            };
            self.insert(entry.extent, source);
        }
    }
}
