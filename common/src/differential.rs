//! The differential bitmap: the regions where a pair's two sides may differ.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::limits::REGION_BYTES;

/// Regions of [`REGION_BYTES`] of a group's volumes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bitmap {
    volumes: BTreeMap<VolumeIndex, RoaringBitmap>,
}

/// Why bytes are not a bitmap.
#[derive(Debug, thiserror::Error)]
#[error("the differential bitmap cannot be read: {what}")]
pub struct BitmapError {
    what: String,
}

impl BitmapError {
    /// They end too soon.
    pub(crate) fn short() -> Self {
        Self { what: "it is cut short".into() }
    }
}

impl Bitmap {
    /// Marks all regions a range touches.
    pub fn mark(&mut self, extent: Extent) {
        if extent.length == 0 {
            return;
        }
        let region = |offset: u64| u32::try_from(offset / REGION_BYTES).unwrap_or(u32::MAX);
        let regions = self.volumes.entry(extent.volume).or_default();
        regions.insert_range(region(extent.offset)..=region(extent.end() - 1));
    }

    /// Takes the marks of all regions a range touches away.
    pub fn clear(&mut self, extent: Extent) {
        if let Some(regions) = self.volumes.get_mut(&extent.volume).filter(|_| extent.length > 0) {
            let region = |offset: u64| u32::try_from(offset / REGION_BYTES).unwrap_or(u32::MAX);
            regions.remove_range(region(extent.offset)..=region(extent.end() - 1));
        }
    }

    /// Whether the region of a place is marked.
    #[must_use]
    pub fn is_marked(&self, volume: VolumeIndex, offset: u64) -> bool {
        let region = u32::try_from(offset / REGION_BYTES).unwrap_or(u32::MAX);
        self.volumes.get(&volume).is_some_and(|regions| regions.contains(region))
    }

    /// Marks all that the other marks.
    pub fn merge(&mut self, other: &Self) {
        for (volume, regions) in &other.volumes {
            *self.volumes.entry(*volume).or_default() |= regions;
        }
    }

    /// Takes away all marks before a place, in the order of volumes and addresses.
    pub fn clear_before(&mut self, volume: VolumeIndex, offset: u64) {
        self.volumes.retain(|index, _| *index >= volume);
        if let Some(regions) = self.volumes.get_mut(&volume) {
            regions.remove_range(..u32::try_from(offset / REGION_BYTES).unwrap_or(u32::MAX));
        }
    }

    /// Takes away all marks of volumes that the other marks nothing of; whether there were any.
    pub fn retain_volumes_of(&mut self, other: &Self) -> bool {
        let before = self.bytes();
        self.volumes.retain(|volume, _| other.volumes.contains_key(volume));
        self.bytes() != before
    }

    /// Whether nothing is marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.volumes.values().all(RoaringBitmap::is_empty)
    }

    /// Bytes marked, regions counted whole.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.volumes.values().map(|regions| regions.len() * REGION_BYTES).sum()
    }

    /// Bytes marked before a place, regions counted whole.
    #[must_use]
    pub fn bytes_before(&self, volume: VolumeIndex, offset: u64) -> u64 {
        let region = u32::try_from(offset / REGION_BYTES).unwrap_or(u32::MAX);
        let whole: u64 = self.volumes.range(..volume).map(|(_, regions)| regions.len()).sum();
        let part = self.volumes.get(&volume).filter(|_| region > 0).map_or(0, |regions| regions.rank(region - 1));
        (whole + part) * REGION_BYTES
    }

    /// Bytes marked before a place, also those of the region it lies in.
    #[must_use]
    pub fn bytes_up_to(&self, volume: VolumeIndex, offset: u64) -> u64 {
        let inside = if self.is_marked(volume, offset) { offset % REGION_BYTES } else { 0 };
        self.bytes_before(volume, offset) + inside
    }

    /// The first run of marked regions at or after a place, in the order of volumes and addresses; its end may lie beyond
    /// the end of the volume.
    #[must_use]
    pub fn next_run(&self, volume: VolumeIndex, offset: u64) -> Option<Extent> {
        let mut from = u32::try_from(offset.div_ceil(REGION_BYTES)).unwrap_or(u32::MAX);
        // A place inside a marked region belongs to it.
        if !offset.is_multiple_of(REGION_BYTES) {
            from -= 1;
        }
        for (index, regions) in self.volumes.range(volume..) {
            let first = if *index == volume { from } else { 0 };
            let mut run = regions.range(first..);
            if let Some(range) = run.next_range() {
                let begin = (u64::from(*range.start()) * REGION_BYTES).max(if *index == volume { offset } else { 0 });
                let end = (u64::from(*range.end()) + 1) * REGION_BYTES;
                return Some(Extent { volume: *index, offset: begin, length: end - begin });
            }
        }
        None
    }

    /// As bytes for the catalogue.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (volume, regions) in &self.volumes {
            let mut body = Vec::with_capacity(regions.serialized_size());
            // Writing into memory does not fail.
            let _ = regions.serialize_into(&mut body);
            bytes.extend_from_slice(&volume.0.to_le_bytes());
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
        let short = BitmapError::short;
        let mut volumes = BTreeMap::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (volume, tail) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let (length, tail) = tail.split_first_chunk::<8>().ok_or_else(short)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
            let body = tail.get(..length).ok_or_else(short)?;
            let regions =
                RoaringBitmap::deserialize_from(body).map_err(|error| BitmapError { what: error.to_string() })?;
            volumes.insert(VolumeIndex(u32::from_le_bytes(*volume)), regions);
            rest = tail.get(length..).unwrap_or_default();
        }
        Ok(Self { volumes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_cover_exactly_what_was_marked(marks in proptest::collection::vec((0..3_u32, 0..2_000_000_u64, 1..300_000_u64), 0..20)) {
            let mut bitmap = Bitmap::default();
            let mut oracle = std::collections::BTreeSet::new();
            for (volume, offset, length) in marks {
                bitmap.mark(Extent { volume: VolumeIndex(volume), offset, length });
                for region in offset / REGION_BYTES..=(offset + length - 1) / REGION_BYTES { oracle.insert((volume, region)); }
            }
            prop_assert_eq!(&Bitmap::decode(&bitmap.encode()).unwrap(), &bitmap);
            prop_assert_eq!(bitmap.bytes(), oracle.len() as u64 * REGION_BYTES);
            let mut seen = std::collections::BTreeSet::new();
            let (mut volume, mut offset) = (VolumeIndex(0), 0);
            while let Some(run) = bitmap.next_run(volume, offset) {
                prop_assert_eq!(bitmap.bytes_before(run.volume, run.offset), seen.len() as u64 * REGION_BYTES);
                for region in run.offset / REGION_BYTES..run.end() / REGION_BYTES { seen.insert((run.volume.0, region)); }
                (volume, offset) = (run.volume, run.end());
            }
            prop_assert_eq!(seen, oracle);
        }

        #[test]
        fn what_is_cleared_is_what_the_range_touches(marks in proptest::collection::vec((0..2_000_000_u64, 1..300_000_u64), 0..10), offset in 0..2_000_000_u64, length in 0..300_000_u64) {
            let extent = |offset, length| Extent { volume: VolumeIndex(1), offset, length };
            let mut bitmap = Bitmap::default();
            marks.iter().for_each(|(offset, length)| bitmap.mark(extent(*offset, *length)));
            let before = bitmap.clone();
            bitmap.clear(extent(offset, length));
            for region in 0..40 {
                let at = region * REGION_BYTES;
                let touched = length > 0 && offset < at + REGION_BYTES && at < offset + length;
                prop_assert_eq!(bitmap.is_marked(VolumeIndex(1), at), before.is_marked(VolumeIndex(1), at) && !touched);
            }
        }

        #[test]
        fn what_is_cleared_is_what_lies_before(marks in proptest::collection::vec((0..3_u32, 0..2_000_000_u64), 1..20), volume in 0..3_u32, offset in 0..2_000_000_u64) {
            let mut bitmap = Bitmap::default();
            for (volume, offset) in marks {
                bitmap.mark(Extent { volume: VolumeIndex(volume), offset, length: 1 });
            }
            let (all, before) = (bitmap.bytes(), bitmap.bytes_before(VolumeIndex(volume), offset));
            let rest = bitmap.next_run(VolumeIndex(volume), offset / REGION_BYTES * REGION_BYTES);
            bitmap.clear_before(VolumeIndex(volume), offset);
            prop_assert_eq!(bitmap.bytes(), all - before);
            prop_assert_eq!(bitmap.next_run(VolumeIndex(0), 0), rest);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bitmap::decode(&bytes);
        }
    }

    #[test]
    fn a_place_inside_a_region_continues_it() {
        let mut bitmap = Bitmap::default();
        bitmap.mark(Extent { volume: VolumeIndex(1), offset: 0, length: 200_000 });
        let run = bitmap.next_run(VolumeIndex(1), 70_000).unwrap();
        assert_eq!((run.offset, run.end()), (70_000, 262_144));
        let up_to = [0, 70_000, 262_144, 300_000].map(|offset| bitmap.bytes_up_to(VolumeIndex(1), offset));
        assert_eq!(up_to, [0, 70_000, 262_144, 262_144]);
    }
}
