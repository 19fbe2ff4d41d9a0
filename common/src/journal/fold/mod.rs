//! Folding inside the journal: adjacent intervals between markers become one, with the last writer of each byte, so that what
//! waits for a slow reader shrinks. Order at the markers that are left holds; those inside the fold are gone.
//!
//! ```text
//! before   s1: frames, markers   s2: frames, markers   s3: frames, MARKER, tail
//! after    s1: folded frames (as many segments as they need)   s3: hole, record of the fold, MARKER, tail
//! ```
//!
//! Whatever is folded must have been passed by the updater, and by no other reader: nobody stands inside. The marker at the end
//! and what lies behind it keep their places. In this order, so that a crash leaves the one or the other, never half:
//!
//! 1. the folded segments are written and synced under names of their own;
//! 2. the last one is renamed to the segment it replaces: from here on the line of segments goes through the fold;
//! 3. the others take their names, and what they replace is removed. Recovery finishes this, or whoever folds or trims next.
//!
//! Keeps: 6 (nothing is forgotten), 9 (all that is read is verified, all that is written is checked).

mod plan;
mod write;

use std::sync::Arc;

use super::{Journal, JournalError, Position};

/// Ranges of a fold at most: what its memory grows with.
const RANGES_MAX: usize = 256 << 10;

/// What may be folded.
#[derive(Debug, Clone, Copy)]
pub struct FoldRange {
    /// Only segments behind the one of this place.
    pub after: Position,
    /// Only segments before the one of this place.
    pub before: Position,
    /// Bytes of one fold at most: it has to be taken as a whole.
    pub bytes_max: u64,
}

/// What was folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folded {
    /// Where it began.
    pub from: Position,
    /// The marker at its end, which stayed where it was.
    pub to: Position,
    /// Markers that are gone.
    pub markers: u64,
    /// Bytes on the disk before.
    pub bytes_before: u64,
    /// Bytes on the disk after.
    pub bytes_after: u64,
}

impl Journal {
    /// Folds the oldest stretch of the range that becomes smaller by it. `None`: there is none.
    ///
    /// # Errors
    /// [`JournalError`]; the journal is as it was.
    pub fn fold(self: &Arc<Self>, range: FoldRange) -> Result<Option<Folded>, JournalError> {
        if self.state.lock().fold_failed {
            return Ok(None);
        }
        self.tidy()?;
        let mut after = range.after.segment;
        while let Some(first) = self.segment_after(after).filter(|first| first.number < range.before.segment) {
            // Its history stands before all of that fold: what is folded from here on would be told as if it followed that place.
            if first.is_inside_of_fold() {
                after = first.number;
                continue;
            }
            let (plan, last) = plan::plan(self, &first, &range)?;
            if let Some(plan) = plan
                && let Some(folded) = write::write(self, &plan, range.bytes_max)?
            {
                return Ok(Some(folded));
            }
            after = last;
        }
        Ok(None)
    }
}
