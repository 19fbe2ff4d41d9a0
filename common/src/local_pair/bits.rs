//! What differs between a source and its target: three bitmaps, and what a crash must find of them.

use crate::differential::{Bitmap, BitmapError};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::limits::REGION_BYTES;

/// The one volume of a pair's bitmaps.
pub const VOLUME: VolumeIndex = VolumeIndex(0);
/// Marks for a host's writes to a target are made so many bytes at a time, because each costs a commit.
const AHEAD_STEP: u64 = 16 << 20;
/// Bytes marked ahead at most: what a crash makes a resync copy too much.
const AHEAD_BYTES_MAX: u64 = 1 << 30;

/// A range of a pair.
#[must_use]
pub const fn range(offset: u64, length: u64) -> Extent {
    Extent { volume: VOLUME, offset, length }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bits {
    /// Where the target's file lacks what the target is to show.
    pub differences: Bitmap,
    /// Copied to the target and not yet synced there: to a crash they still differ.
    pub unsynced: Bitmap,
    /// Where the source was written since the split.
    pub source: Bitmap,
    /// Where hosts wrote the target since the split.
    pub target: Bitmap,
    /// Where they may write before the next commit.
    ahead: Bitmap,
}

impl Bits {
    /// All of a volume differs.
    #[must_use]
    pub fn everything(size: u64) -> Self {
        let mut bits = Self::default();
        bits.differences.mark(range(0, size));
        bits
    }

    /// What either side has written since the split.
    #[must_use]
    pub fn changed(&self) -> Bitmap {
        let mut both = self.source.clone();
        both.merge(&self.target);
        both
    }

    /// Whether a crash would know of a write to the target here.
    #[must_use]
    pub(crate) fn is_ahead(&self, extent: Extent) -> bool {
        holds(&self.ahead, extent)
    }

    /// Marks ahead what surrounds a range. Whoever commits that must not let the target be marked in between: when there is
    /// too much of it, what was marked ahead before is forgotten but for what was written.
    pub(crate) fn go_ahead(&mut self, extent: Extent) {
        if self.ahead.bytes() >= AHEAD_BYTES_MAX {
            self.ahead = Bitmap::default();
        }
        let begin = extent.offset / AHEAD_STEP * AHEAD_STEP;
        let end = extent.end().div_ceil(AHEAD_STEP) * AHEAD_STEP;
        self.ahead.mark(range(begin, end - begin));
    }

    /// Everything that may differ between the volumes differs, and nothing else is known: what follows a split. What hosts wrote
    /// to the target behind the source's end is no difference.
    pub fn merge(&mut self, size: u64) {
        let Self { differences, unsynced, source, target, ahead: _ } = std::mem::take(self);
        self.differences = differences;
        for other in [unsynced, source, target] {
            self.differences.merge(&other);
        }
        let behind = size.div_ceil(REGION_BYTES) * REGION_BYTES;
        self.differences.clear(range(behind, u64::MAX - behind));
    }

    /// The target stands from now on: what it lacks stays, and nobody has written to either since.
    #[must_use]
    pub fn split(&self) -> Self {
        let mut differences = self.differences.clone();
        differences.merge(&self.unsynced);
        Self { differences, ..Self::default() }
    }

    /// Marked regions, as runs of at most `piece` bytes within `size`, at most `bytes` in all: from a place on, and from the
    /// begin when nothing follows it.
    #[must_use]
    pub fn runs(bitmap: &Bitmap, from: u64, piece: u64, bytes: u64, size: u64) -> Vec<Extent> {
        let mut runs = Vec::new();
        let (mut at, mut left) = (from, bytes);
        while let Some(run) = bitmap.next_run(VOLUME, at).filter(|run| left > 0 && run.offset < size) {
            let end = run.end().min(size).min(run.offset.saturating_add(piece.min(left)));
            runs.push(range(run.offset, end - run.offset));
            left = left.saturating_sub(end - run.offset);
            at = end;
        }
        if runs.is_empty() && from > 0 { Self::runs(bitmap, 0, piece, bytes, size) } else { runs }
    }

    /// As bytes for the catalogue: to a crash, what is not synced differs, and what may be written is.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut differences = self.differences.clone();
        differences.merge(&self.unsynced);
        let mut target = self.target.clone();
        target.merge(&self.ahead);
        let mut bytes = Vec::new();
        for part in [&differences, &self.source, &target] {
            let body = part.encode();
            bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BitmapError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BitmapError> {
        let mut rest = bytes;
        let mut next = || {
            let (length, tail) = rest.split_first_chunk::<8>().ok_or_else(BitmapError::short)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| BitmapError::short())?;
            let body = tail.get(..length).ok_or_else(BitmapError::short)?;
            rest = tail.get(length..).unwrap_or_default();
            Bitmap::decode(body)
        };
        Ok(Self { differences: next()?, source: next()?, target: next()?, ..Self::default() })
    }
}

/// Whether all regions of a range are marked.
#[must_use]
pub fn holds(bitmap: &Bitmap, extent: Extent) -> bool {
    let first = extent.offset / REGION_BYTES * REGION_BYTES;
    bitmap.next_run(VOLUME, first).is_some_and(|run| run.offset == first && run.end() >= extent.end())
}

/// A range as runs, each with whether it is marked.
#[must_use]
pub fn pieces(bitmap: &Bitmap, extent: Extent) -> Vec<(Extent, bool)> {
    let mut pieces = Vec::new();
    let mut at = extent.offset;
    while at < extent.end() {
        let run = bitmap.next_run(VOLUME, at);
        let (begin, end) = run.map_or((extent.end(), extent.end()), |run| (run.offset, run.end()));
        let (begin, end) = (begin.clamp(at, extent.end()), end.clamp(at, extent.end()));
        pieces.push((range(at, begin - at), false));
        pieces.push((range(begin, end - begin), true));
        at = end;
    }
    pieces.retain(|(piece, _)| piece.length > 0);
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const R: u64 = REGION_BYTES;

    proptest! {
        #[test]
        fn pieces_cover_a_range_and_say_what_is_marked(
            marks in proptest::collection::vec((0..30 * R, 1..4 * R), 0..8), offset in 0..30 * R, length in 1..10 * R
        ) {
            let mut bitmap = Bitmap::default();
            marks.iter().for_each(|(offset, length)| bitmap.mark(range(*offset, *length)));
            let mut at = offset;
            for (piece, marked) in pieces(&bitmap, range(offset, length)) {
                prop_assert_eq!(piece.offset, at);
                for place in (piece.offset..piece.end()).step_by(4096) {
                    prop_assert_eq!(bitmap.is_marked(VOLUME, place), marked);
                }
                prop_assert_eq!(bitmap.is_marked(VOLUME, piece.end() - 1), marked);
                at = piece.end();
            }
            prop_assert_eq!(at, offset + length);
            let all = (offset / R..=(offset + length - 1) / R).all(|region| bitmap.is_marked(VOLUME, region * R));
            prop_assert_eq!(holds(&bitmap, range(offset, length)), all);
        }

        #[test]
        fn runs_are_marked_and_no_longer_than_asked_for(
            marks in proptest::collection::vec((0..30 * R, 1..4 * R), 0..8), from in 0..30 * R, piece in 1..4_u64, count in 1..9_u64
        ) {
            let mut bitmap = Bitmap::default();
            marks.iter().for_each(|(offset, length)| bitmap.mark(range(*offset, *length)));
            let size = 31 * R + 512;
            let runs = Bits::runs(&bitmap, from / R * R, piece * R, count * R, size);
            prop_assert!(runs.iter().map(|run| run.length).sum::<u64>() <= count * R);
            prop_assert!(runs.iter().all(|run| run.length <= piece * R && run.end() <= size && holds(&bitmap, *run)));
            prop_assert_eq!(runs.is_empty(), bitmap.next_run(VOLUME, 0).is_none_or(|run| run.offset >= size));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bits::decode(&bytes);
        }
    }

    /// What a host's write does; whether no commit was needed.
    fn write(bits: &mut Bits, extent: Extent) -> bool {
        let known = bits.is_ahead(extent);
        bits.target.mark(extent);
        if !known {
            bits.go_ahead(extent);
        }
        known
    }

    #[test]
    fn a_crash_finds_what_is_not_synced_and_what_may_have_been_written() {
        let mut bits = Bits::default();
        bits.differences.mark(range(0, 1));
        bits.unsynced.mark(range(2 * R, 1));
        bits.source.mark(range(3 * R, 1));
        assert!(!write(&mut bits, range(20 << 20, 4096)), "it must be committed first");
        let found = Bits::decode(&bits.encode()).unwrap();
        assert_eq!((found.differences.bytes(), found.source.bytes()), (2 * R, R));
        assert!(holds(&found.target, range(16 << 20, 16 << 20)), "all that is answered without another commit");
        assert_eq!(bits.target.bytes(), R, "without a crash, no more than was written");
        assert!(write(&mut bits, range(31 << 20, 4096)));
        assert!(!write(&mut bits, range((32 << 20) - 4096, 8192)), "the end of it is not known");
        bits.merge(19 << 20);
        assert_eq!(bits.differences.bytes(), 3 * R, "what lies behind the end of the source is no difference");
        assert!(bits.unsynced.is_empty() && bits.source.is_empty() && bits.target.is_empty());
        assert!(!bits.is_ahead(range(20 << 20, 4096)), "a new split begins anew");
    }

    #[test]
    fn what_is_marked_ahead_is_bounded() {
        let mut bits = Bits::default();
        for step in 0..200 {
            assert!(!write(&mut bits, range(step * AHEAD_STEP, 4096)));
        }
        let found = Bits::decode(&bits.encode()).unwrap();
        assert!(found.target.bytes() <= AHEAD_BYTES_MAX + AHEAD_STEP + 200 * R, "{}", found.target.bytes());
        assert!(
            (0..200).all(|step| found.target.is_marked(VOLUME, step * AHEAD_STEP)),
            "what was written stays marked"
        );
    }
}
