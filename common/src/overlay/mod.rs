//! A block map over a base: which ranges of a group's volumes are newer elsewhere than in the volume, and where.
//!
//! Written once and used everywhere: what a primary has buffered or not yet written back, what a secondary has not yet
//! applied when it takes over, folding in the drain and in the updater, later T0 copies and clones.

pub mod frames;
pub mod location;
pub mod run;
pub mod unapplied;

use std::collections::{BTreeMap, HashMap};

use crate::extent::Extent;
use crate::ids::VolumeIndex;

/// Where the bytes of a range are. A range may be split, so a location knows where its middle is.
pub trait Locate: Copy {
    /// The location of what begins so many bytes further on.
    #[must_use]
    fn advance(self, bytes: u64) -> Self;
}

/// A run of one volume: at a location, or in the base when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<L> {
    /// The range.
    pub extent: Extent,
    /// Where it is; `None` is the base.
    pub location: Option<L>,
}

#[derive(Debug, Clone, Copy)]
struct Entry<L> {
    end: u64,
    location: L,
}

/// The map: ranges never overlap, the newest insert wins.
#[derive(Debug, Clone)]
pub struct Overlay<L> {
    volumes: HashMap<VolumeIndex, BTreeMap<u64, Entry<L>>>,
    ranges: usize,
}

impl<L: Locate> Default for Overlay<L> {
    fn default() -> Self {
        Self { volumes: HashMap::new(), ranges: 0 }
    }
}

impl<L: Locate> Overlay<L> {
    /// Ranges held: what its memory grows with.
    #[must_use]
    pub const fn ranges(&self) -> usize {
        self.ranges
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges == 0
    }

    /// Puts a range at a location, over whatever was there.
    pub fn insert(&mut self, extent: Extent, location: L) {
        if extent.length == 0 {
            return;
        }
        self.remove_if(extent, |_| true);
        let map = self.volumes.entry(extent.volume).or_default();
        map.insert(extent.offset, Entry { end: extent.end(), location });
        self.ranges += 1;
    }

    /// Puts a range at a location except where something is for which `newer` holds.
    pub fn insert_unless(&mut self, extent: Extent, location: L, newer: impl Fn(&L) -> bool) {
        if self.volumes.get(&extent.volume).is_none_or(|map| is_free(map, extent)) {
            return self.insert(extent, location);
        }
        let pieces: Vec<Piece<L>> = self.pieces(extent).collect();
        for piece in pieces {
            if !piece.location.is_some_and(|there| newer(&there)) {
                self.insert(piece.extent, location.advance(piece.extent.offset - extent.offset));
            }
        }
    }

    /// Where something is in the range for which `which` holds: moves it to what `to` says of its begin, or takes it out.
    pub(crate) fn replace_if(&mut self, extent: Extent, which: impl Fn(&L) -> bool, to: impl Fn(u64) -> Option<L>) {
        let Some(map) = self.volumes.get_mut(&extent.volume) else { return };
        if is_free(map, extent) {
            return;
        }
        let before = map.len();
        let first = map.range(..=extent.offset).next_back().map_or(extent.offset, |(begin, _)| *begin);
        let hit: Vec<(u64, Entry<L>)> = map
            .range(first..extent.end())
            .filter(|(_, entry)| entry.end > extent.offset && which(&entry.location))
            .map(|(begin, entry)| (*begin, *entry))
            .collect();
        for (begin, entry) in hit {
            map.remove(&begin);
            if begin < extent.offset {
                map.insert(begin, Entry { end: extent.offset, location: entry.location });
            }
            if entry.end > extent.end() {
                let location = entry.location.advance(extent.end() - begin);
                map.insert(extent.end(), Entry { end: entry.end, location });
            }
            let inside = begin.max(extent.offset);
            if let Some(location) = to(inside) {
                map.insert(inside, Entry { end: entry.end.min(extent.end()), location });
            }
        }
        self.ranges = self.ranges + map.len() - before;
    }

    /// Takes out of the range whatever `which` holds for.
    pub(crate) fn remove_if(&mut self, extent: Extent, which: impl Fn(&L) -> bool) {
        self.replace_if(extent, which, |_| None);
    }

    /// Takes out of the range whatever is at just this location, which is that of the range's begin.
    pub(crate) fn remove_equal(&mut self, extent: Extent, location: &L)
    where
        L: PartialEq,
    {
        let equal =
            |piece: &Piece<L>| piece.location.as_ref() == Some(&location.advance(piece.extent.offset - extent.offset));
        let equal: Vec<Extent> = self.pieces(extent).filter(equal).map(|piece| piece.extent).collect();
        equal.into_iter().for_each(|extent| self.remove_if(extent, |_| true));
    }

    /// The range as runs in order, without gaps: located ones and those in the base.
    pub fn pieces(&self, extent: Extent) -> impl Iterator<Item = Piece<L>> + '_ {
        let map = self.volumes.get(&extent.volume);
        let first =
            map.and_then(|map| map.range(..=extent.offset).next_back()).map_or(extent.offset, |(begin, _)| *begin);
        let mut entries = map.map(|map| map.range(first..extent.end())).into_iter().flatten().peekable();
        let mut at = extent.offset;
        std::iter::from_fn(move || {
            while entries.peek().is_some_and(|(_, entry)| entry.end <= at) {
                entries.next();
            }
            if at >= extent.end() {
                return None;
            }
            let (end, location) = match entries.peek() {
                Some((begin, entry)) if **begin <= at => {
                    (entry.end.min(extent.end()), Some(entry.location.advance(at - **begin)))
                }
                Some((begin, _)) => (**begin, None),
                None => (extent.end(), None),
            };
            let piece = Piece { extent: Extent { volume: extent.volume, offset: at, length: end - at }, location };
            at = end;
            Some(piece)
        })
    }

    /// Everything held, by volume and address.
    pub fn all(&self) -> impl Iterator<Item = (Extent, L)> + '_ {
        self.all_from((VolumeIndex(0), 0))
    }

    /// Everything held that begins at an address or behind it.
    pub(crate) fn all_from(&self, from: (VolumeIndex, u64)) -> impl Iterator<Item = (Extent, L)> + '_ {
        let mut volumes: Vec<_> = self.volumes.keys().copied().filter(|volume| *volume >= from.0).collect();
        volumes.sort_unstable();
        volumes.into_iter().flat_map(move |volume| {
            let begin = if volume == from.0 { from.1 } else { 0 };
            self.volumes.get(&volume).into_iter().flat_map(move |map| map.range(begin..)).map(move |(begin, entry)| {
                (Extent { volume, offset: *begin, length: entry.end - begin }, entry.location)
            })
        })
    }
}

/// Whether nothing is in the range, by one look: what begins last before its end has ended before it.
fn is_free<L>(map: &BTreeMap<u64, Entry<L>>, extent: Extent) -> bool {
    map.range(..extent.end()).next_back().is_none_or(|(_, entry)| entry.end <= extent.offset)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A location that says which write and which of its bytes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct At(u32, u64);

    impl Locate for At {
        fn advance(self, bytes: u64) -> Self {
            Self(self.0, self.1 + bytes)
        }
    }

    const SIZE: usize = 64;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { volume: VolumeIndex(3), offset, length }
    }

    fn bytes(overlay: &Overlay<At>, offset: u64, length: u64) -> Vec<Option<At>> {
        let mut seen = Vec::new();
        for piece in overlay.pieces(extent(offset, length)) {
            assert_eq!(piece.extent.offset, offset + seen.len() as u64, "runs follow each other");
            seen.extend((0..piece.extent.length).map(|byte| piece.location.map(|at| at.advance(byte))));
        }
        seen
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u64),
        InsertUnless(u64, u64, u32),
        RemoveUpTo(u64, u64, u32),
        Move(u64, u64, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..SIZE as u64, 1..24_u64).prop_map(|(offset, length)| (offset, length.min(SIZE as u64 - offset)));
        (0..4, range, 0..40_u32).prop_map(|(kind, (offset, length), which)| match kind {
            0 => Step::Insert(offset, length),
            1 => Step::InsertUnless(offset, length, which),
            2 => Step::RemoveUpTo(offset, length, which),
            _ => Step::Move(offset, length, which),
        })
    }

    proptest! {
        #[test]
        fn agrees_with_an_array(steps in proptest::collection::vec(step(), 0..40), from in 0..SIZE as u64) {
            let mut overlay = Overlay::default();
            let mut oracle = [None; SIZE];
            for (number, step) in steps.iter().enumerate() {
                let number = number as u32;
                match *step {
                    Step::Insert(offset, length) => {
                        overlay.insert(extent(offset, length), At(number, 0));
                        for byte in 0..length { oracle[(offset + byte) as usize] = Some(At(number, byte)); }
                    }
                    Step::InsertUnless(offset, length, which) => {
                        overlay.insert_unless(extent(offset, length), At(number, 0), |at| at.0 > which);
                        for byte in 0..length {
                            let slot = &mut oracle[(offset + byte) as usize];
                            if !slot.is_some_and(|at: At| at.0 > which) { *slot = Some(At(number, byte)); }
                        }
                    }
                    Step::RemoveUpTo(offset, length, which) => {
                        overlay.remove_if(extent(offset, length), |at| at.0 <= which);
                        for byte in 0..length {
                            let slot = &mut oracle[(offset + byte) as usize];
                            if slot.is_some_and(|at: At| at.0 <= which) { *slot = None; }
                        }
                    }
                    Step::Move(offset, length, which) => {
                        overlay.replace_if(extent(offset, length), |at| at.0 == which, |begin| Some(At(1000 + number, begin - offset)));
                        for byte in 0..length {
                            let slot = &mut oracle[(offset + byte) as usize];
                            if slot.is_some_and(|at: At| at.0 == which) { *slot = Some(At(1000 + number, byte)); }
                        }
                    }
                }
            }
            prop_assert_eq!(bytes(&overlay, 0, SIZE as u64), oracle.to_vec());
            prop_assert_eq!(bytes(&overlay, from, SIZE as u64 - from), oracle[from as usize..].to_vec());
            let held: u64 = overlay.all().map(|(extent, _)| extent.length).sum();
            prop_assert_eq!(held as usize, oracle.iter().flatten().count());
            prop_assert_eq!(overlay.all().count(), overlay.ranges());
        }
    }
}
