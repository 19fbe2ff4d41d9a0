//! A batch: entries of the buffer folded to the last writer of each byte, as one frame.

use tidemark_common::extent::Extent;
use tidemark_common::ids::Seq;
use tidemark_common::metrics::Drained;
use tidemark_common::overlay::location::{Location, locations};
use tidemark_common::overlay::{Locate, Overlay};
use tidemark_common::record::{FrameKind, FrameView, Place, crc32c};

use super::trouble::DrainError;
use super::{Drain, bytes};
use crate::ring::{Entry, EntryKind};

/// Raw bytes of a batch at most; one frame.
const BATCH_BYTES: usize = tidemark_common::limits::FRAME_RAW_BYTES_MAX;
/// Entries of a batch at most: folding can split each into two ranges more.
const BATCH_ENTRIES: usize = 1300;

const _: () = assert!(BATCH_ENTRIES * 3 < tidemark_common::limits::FRAME_EXTENTS_MAX, "a folded batch fits a frame");

/// Where in a batch a byte comes from.
#[derive(Debug, Clone, Copy)]
struct FromEntry {
    index: usize,
    offset: u64,
}

impl Locate for FromEntry {
    fn advance(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

impl Drain {
    /// Gathers, folds and appends one frame; `false` when nothing is there to gather before the next cut.
    pub(super) fn append_batch(&mut self) -> Result<bool, DrainError> {
        let (entries, next) = self.gather()?;
        let Some((_, last)) = entries.last() else { return Ok(false) };
        let last_seq = last.seq;
        let kept_bytes = self.build(&entries)?;
        let tip = self.writer.tip();
        let place = Place { first_seq: tip.seq.next(), last_seq, ..Place::at(self.group, tip) };
        let (frame, raw) = self.builder.finish_with_raw(FrameKind::Writes, &place);
        let at = self.writer.append_with_raw(frame.clone(), raw)?;
        let placed: Vec<(Extent, Location)> = locations(&FrameView::new(&frame)?, at).collect();
        self.buffer.moved_to_journal(&placed, last_seq);
        self.position = next;
        self.unsynced_bytes += frame.len();
        self.since_cut_bytes += frame.len() as u64;
        self.count(&entries, kept_bytes, frame.len());
        Ok(true)
    }

    fn count(&self, entries: &[(u64, Entry)], kept_bytes: usize, stored_bytes: usize) {
        let raw_bytes: usize = entries.iter().map(|(_, entry)| entry.payload_bytes as usize).sum();
        let folded_bytes = raw_bytes.saturating_sub(kept_bytes);
        self.metrics.drained(Drained { raw_bytes, stored_bytes, folded_bytes });
    }

    /// Committed entries from the drain's position on, not beyond the next cut, and where the one after them begins.
    fn gather(&self) -> Result<(Vec<(u64, Entry)>, u64), DrainError> {
        let limit = self.pending.front().map_or(Seq(u64::MAX), |cut| cut.boundary.seq);
        let mut entries: Vec<(u64, Entry)> = Vec::new();
        let (mut next, mut raw) = (self.position, 0);
        // Frames leave some of a segment unused: small journals have small ones.
        let bytes_max = BATCH_BYTES.min(bytes(self.desk.interval_bytes() / 4));
        while let Some((position, entry)) = self.buffer.entry_at(next)? {
            raw += entry.payload_bytes as usize;
            if entry.seq > limit || entries.len() == BATCH_ENTRIES || raw > bytes_max {
                break;
            }
            next = position + entry.ring_bytes();
            entries.push((position, entry));
        }
        Ok((entries, next))
    }

    /// Folds entries into the builder. Returns the bytes that were not superseded.
    fn build(&mut self, entries: &[(u64, Entry)]) -> Result<usize, DrainError> {
        let mut kept_bytes = 0;
        let mut fold = Overlay::default();
        self.builder.reserve(entries.iter().map(|(_, entry)| entry.payload_bytes as usize).sum());
        let mut is_checked = vec![false; entries.len()];
        for (index, (_, entry)) in entries.iter().enumerate() {
            fold.insert(entry.extent, FromEntry { index, offset: 0 });
        }
        for (extent, from) in fold.all() {
            let Some((position, entry)) = entries.get(from.index) else { continue };
            match entry.kind {
                EntryKind::Data => {
                    let begin = usize::try_from(from.offset).unwrap_or(usize::MAX);
                    let end = begin.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX));
                    let payload = self.buffer.payload(*position, entry);
                    // Just before it is copied, so that it comes from memory once.
                    let was_checked =
                        is_checked.get_mut(from.index).is_some_and(|checked| std::mem::replace(checked, true));
                    if !was_checked && crc32c(payload) != entry.payload_check {
                        self.builder.clear();
                        return Err(DrainError::Payload { seq: entry.seq });
                    }
                    let payload = payload.get(begin..end).unwrap_or_default();
                    self.builder.push_data(extent, payload);
                    kept_bytes += payload.len();
                }
                EntryKind::Zero { hole } => self.builder.push_zero(extent, hole),
                EntryKind::Pad => {}
            }
        }
        Ok(kept_bytes)
    }
}
