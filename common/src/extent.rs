//! Byte ranges of volumes.

use crate::ids::VolumeIndex;

/// A range of bytes of one volume of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The volume.
    pub volume: VolumeIndex,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Extent {
    /// One past the last byte; saturates, so a crafted range is empty rather than wrapped.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}
