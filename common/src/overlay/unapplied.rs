//! The index of what the journal or the write buffer has and the volumes do not, in bounded memory: the newest ranges in an overlay, those
//! that grew too many in sorted runs on the disk. A range in memory hides the same range in a run, a newer run hides an older one, and what
//! lies in frames up to `written` counts nowhere, because it is in the volumes.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::location::{Location, forget_applied, index_frame};
use super::run::{Run, RunError, RunWriter};
use super::{Locate, Overlay, Piece};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::{Journal, JournalError, Position};
use crate::record::FrameError;
use crate::storage::Disk;

/// Ranges looked at with one lock on the index: hosts write meanwhile.
const AT_ONCE: usize = 128;

/// The index.
#[derive(Debug, Default)]
pub struct Unapplied {
    memory: Overlay<Location>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    /// All frames up to this one are in the volumes.
    written: Position,
}

impl Unapplied {
    /// Ranges held in memory.
    #[must_use]
    pub const fn in_memory(&self) -> usize {
        self.memory.ranges()
    }

    /// Ranges held on the disk.
    #[must_use]
    pub fn on_disk(&self) -> usize {
        self.runs.iter().map(|run| run.ranges()).sum()
    }

    /// See [`Overlay::insert`].
    pub fn insert(&mut self, extent: Extent, location: Location) {
        self.memory.insert(extent, location);
    }

    /// See [`Overlay::insert_unless`]. What may be newer is in memory.
    pub fn insert_unless(&mut self, extent: Extent, location: Location, newer: impl Fn(&Location) -> bool) {
        self.memory.insert_unless(extent, location, newer);
    }

    /// Writes up to a number are at places in the journal now.
    pub fn move_buffered(&mut self, extent: Extent, location: Location, which: impl Fn(&Location) -> bool) {
        self.memory.replace_if(extent, which, |begin| Some(location.advance(begin - extent.offset)));
    }

    /// A range is in the volume as of all frames up to this one, as all other ranges are.
    pub fn forget(&mut self, extent: Extent, up_to: Position) {
        forget_applied(&mut self.memory, extent, up_to);
        if up_to > self.written {
            self.written = up_to;
            self.runs.retain(|run| run.newest() > up_to);
        }
    }

    /// A range as it is known now; what lies on the disk is looked up by [`Look::pieces`], without the lock on this.
    #[must_use]
    pub fn look(&self, extent: Extent) -> Look {
        Look { pieces: self.memory.pieces(extent).collect(), runs: self.runs.clone(), written: self.written }
    }
}

/// What the index knew of a range.
#[derive(Debug)]
pub struct Look {
    pieces: Vec<Piece<Location>>,
    runs: Vec<Arc<Run>>,
    written: Position,
}

impl Look {
    /// Leaves out the pieces that `done` does by what is known from memory alone.
    pub fn do_now(&mut self, mut done: impl FnMut(&Piece<Location>) -> bool) {
        self.pieces.retain(|piece| piece.location.is_none() || !done(piece));
    }

    /// What is known from memory alone, when that is all there is to know.
    #[must_use]
    pub fn known_now(&self) -> Option<&[Piece<Location>]> {
        self.runs.is_empty().then_some(&*self.pieces)
    }

    /// What was not left out, in order: where it lies, nothing for the volume.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn pieces(self) -> Result<Vec<Piece<Location>>, RunError> {
        let mut pieces = self.pieces;
        for run in self.runs.iter().rev() {
            let mut finer = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece.location {
                    Some(_) => finer.push(piece),
                    None => run.fill(piece.extent, self.written, &mut finer)?,
                }
            }
            pieces = finer;
        }
        Ok(pieces)
    }
}

/// Keeps the memory of an index within bounds; one thread does.
pub struct Spill {
    disk: Arc<dyn Disk>,
    /// Where runs are made; they lose this name at once.
    path: PathBuf,
    ranges_max: usize,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("path", &self.path).field("ranges_max", &self.ranges_max).finish_non_exhaustive()
    }
}

impl Spill {
    /// With the name of a file that is made and removed at once.
    #[must_use]
    pub const fn new(disk: Arc<dyn Disk>, path: PathBuf, ranges_max: usize) -> Self {
        Self { disk, path, ranges_max }
    }

    /// Moves what the journal has to the disk when there is too much of it in memory.
    ///
    /// # Errors
    /// [`RunError`]: the index is as it was.
    pub fn bound(&self, index: &Mutex<Unapplied>) -> Result<(), RunError> {
        if index.lock().in_memory() <= self.ranges_max {
            return Ok(());
        }
        let run = self.sweep(index)?;
        self.publish(index, run)
    }

    /// Puts a run below what is in memory, which is given back where it says the same.
    fn publish(&self, index: &Mutex<Unapplied>, run: Run) -> Result<(), RunError> {
        let run = Arc::new(run);
        index.lock().runs.push(Arc::clone(&run));
        Self::take_out(index, &run)?;
        self.merge(index)
    }

    /// A run of what is in memory. Hosts go on: what they write meanwhile stays in memory and hides what is in the run.
    fn sweep(&self, index: &Mutex<Unapplied>) -> Result<Run, RunError> {
        let mut run = RunWriter::create(&*self.disk, &self.path)?;
        let mut from = (VolumeIndex(0), 0);
        loop {
            let some: Vec<_> = index.lock().memory.all_from(from).take(AT_ONCE).collect();
            let Some((last, _)) = some.last() else { return run.finish() };
            from = (last.volume, last.end());
            for (extent, location) in &some {
                run.push(*extent, location)?;
            }
        }
    }

    /// Takes out of memory what is there as it is in the run.
    fn take_out(index: &Mutex<Unapplied>, run: &Run) -> Result<(), RunError> {
        for block in run.blocks() {
            let block = block?;
            let mut index = index.lock();
            for (extent, location) in block {
                index.memory.remove_equal(extent, &location);
            }
        }
        Ok(())
    }

    /// Makes one run of two neighbours that are about as large, as long as there are such: their number grows with the logarithm of what they hold.
    fn merge(&self, index: &Mutex<Unapplied>) -> Result<(), RunError> {
        loop {
            let (older, newer, written) = {
                let index = index.lock();
                let alike = |pair: &&[Arc<Run>]| matches!(pair, [older, newer] if older.ranges() <= 2 * newer.ranges());
                let Some([older, newer]) = index.runs.windows(2).rev().find(alike) else { return Ok(()) };
                (Arc::clone(older), Arc::clone(newer), index.written)
            };
            let merged = self.merged(&older, &newer, written)?;
            let mut index = index.lock();
            // One of them may be in the volumes by now.
            let newest = index.written;
            let is_merged = |run: &Arc<Run>| Arc::ptr_eq(run, &older) || Arc::ptr_eq(run, &newer);
            let at = index.runs.iter().position(is_merged);
            index.runs.retain(|run| !is_merged(run));
            if let Some(at) = at.filter(|_| merged.newest() > newest) {
                index.runs.insert(at, Arc::new(merged));
            }
        }
    }

    fn merged(&self, older: &Run, newer: &Run, written: Position) -> Result<Run, RunError> {
        let mut run = RunWriter::create(&*self.disk, &self.path)?;
        let (mut older, mut newer) = (Entries::of(older, written), Entries::of(newer, written));
        let (mut old, mut new) = (older.next()?, newer.next()?);
        loop {
            (old, new) = match (old, new) {
                (None, None) => return run.finish(),
                (Some((extent, location)), None) => {
                    run.push(extent, &location)?;
                    (older.next()?, None)
                }
                (Some((extent, location)), Some(hiding)) if is_before(extent, hiding.0) => {
                    run.push(extent, &location)?;
                    (older.next()?, Some(hiding))
                }
                (Some((extent, location)), Some(hiding)) if begins_before(extent, hiding.0) => {
                    let length = hiding.0.offset - extent.offset;
                    run.push(Extent { length, ..extent }, &location)?;
                    (Some(behind((extent, location), hiding.0.offset)), Some(hiding))
                }
                (old, Some(hiding)) => {
                    run.push(hiding.0, &hiding.1)?;
                    let mut rest = old;
                    while let Some(entry) = rest.filter(|(extent, _)| begins_before(*extent, end_of(hiding.0))) {
                        let hidden = entry.0.end() <= hiding.0.end();
                        rest = if hidden { older.next()? } else { Some(behind(entry, hiding.0.end())) };
                    }
                    (rest, newer.next()?)
                }
            };
        }
    }
}

/// Why a journal could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A frame.
    #[error("a frame of the journal is not sound: {0}")]
    Frame(#[from] FrameError),
}

/// An index that its owner makes grow and others go on from.
pub type SharedIndex = Arc<Mutex<Indexed>>;

/// The index of a stretch of a journal, as far as it has been read.
#[derive(Debug, Default)]
pub struct Indexed {
    index: Mutex<Unapplied>,
    up_to: Position,
}

impl Indexed {
    /// Nothing, at the place that volumes are at.
    #[must_use]
    pub fn from(applied: Position) -> Self {
        Self { index: Mutex::default(), up_to: applied }
    }

    /// Up to where frames have been read.
    #[must_use]
    pub const fn up_to(&self) -> Position {
        self.up_to
    }

    /// What was indexed, if no frame behind a place is among it: newer ranges hide what was there at that place.
    #[must_use]
    pub fn unless_beyond(self, end: Position) -> Self {
        if self.up_to <= end { self } else { Self::default() }
    }

    /// Reads frames up to a place; only their tables. Where the disk takes nothing, what is read stays in memory.
    ///
    /// # Errors
    /// [`IndexError`]; what was read until then stays.
    pub fn go_on(&mut self, journal: &Arc<Journal>, to: Position, spill: &Spill) -> Result<(), IndexError> {
        let mut spills = true;
        let mut reader = journal.reader(self.up_to);
        while let Some(frame) = reader.next_tables_before(to)? {
            let index = self.index.get_mut();
            index_frame(&frame, |extent, location| index.insert(extent, location))?;
            self.up_to = frame.next;
            if let Some(Err(error)) = spills.then(|| spill.bound(&self.index)) {
                tracing::warn!(%error, "the index grows in memory");
                spills = false;
            }
        }
        Ok(())
    }

    /// Takes over another one that begins where this one ends. Its runs are not looked at: what is alike in size is merged when memory is
    /// moved to the disk the next time.
    ///
    /// # Errors
    /// [`RunError`]; this one is as it was, the other is gone.
    pub fn adopt(&mut self, newer: Self, spill: &Spill) -> Result<(), RunError> {
        let (up_to, newer) = (newer.up_to, newer.into_index());
        let index = self.index.get_mut();
        if newer.runs.is_empty() && index.in_memory() > 0 {
            newer.memory.all().for_each(|(extent, location)| index.insert(extent, location));
        } else {
            if index.in_memory() > 0 {
                // It goes below all that is newer.
                let run = spill.sweep(&self.index)?;
                spill.publish(&self.index, run)?;
            }
            let index = self.index.get_mut();
            index.memory = newer.memory;
            index.runs.extend(newer.runs);
        }
        self.up_to = up_to;
        Ok(())
    }

    /// The same for somebody else, who goes on from where it is now. What is in runs is theirs together; what is in memory goes into one
    /// first when it is more than the bound.
    ///
    /// # Errors
    /// [`RunError`]; this one says what it said.
    pub fn share(&self, spill: &Spill) -> Result<Self, RunError> {
        spill.bound(&self.index)?;
        let index = self.index.lock();
        let Unapplied { memory, runs, written } = &*index;
        let index = Mutex::new(Unapplied { memory: memory.clone(), runs: runs.clone(), written: *written });
        Ok(Self { index, up_to: self.up_to })
    }

    /// As [`Self::share`], for somebody who keeps it: all of it is in runs, so that many take little memory.
    ///
    /// # Errors
    /// [`RunError`]; this one says what it said.
    pub fn keep(&self, spill: &Spill) -> Result<Self, RunError> {
        if self.ranges().0 > 0 {
            let run = spill.sweep(&self.index)?;
            spill.publish(&self.index, run)?;
        }
        self.share(spill)
    }

    /// Whether its memory is within bounds: it is not where the disk takes nothing.
    #[must_use]
    pub fn is_bounded(&self, spill: &Spill) -> bool {
        self.index.lock().in_memory() <= 2 * spill.ranges_max
    }

    /// These ranges, and all else in frames up to this one, are in the volumes.
    pub fn forget(&mut self, extents: &[Extent], up_to: Position) {
        let index = self.index.get_mut();
        extents.iter().for_each(|extent| index.forget(*extent, up_to));
    }

    /// A range as it is known now.
    #[must_use]
    pub fn look(&self, extent: Extent) -> Look {
        self.index.lock().look(extent)
    }

    /// Ranges held in memory, and on the disk.
    #[must_use]
    pub fn ranges(&self) -> (usize, usize) {
        let index = self.index.lock();
        (index.in_memory(), index.on_disk())
    }

    /// Tells every range of a volume that was indexed, some of them more than once.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn each_range(&self, volume: VolumeIndex, mut tell: impl FnMut(Extent)) -> Result<(), RunError> {
        let index = self.index.lock();
        index.memory.all().filter(|(extent, _)| extent.volume == volume).for_each(|(extent, _)| tell(extent));
        let runs = index.runs.clone();
        drop(index);
        for run in &runs {
            for block in run.blocks() {
                block?.into_iter().filter(|(extent, _)| extent.volume == volume).for_each(|(extent, _)| tell(extent));
            }
        }
        Ok(())
    }

    /// The index.
    #[must_use]
    pub fn into_index(self) -> Unapplied {
        self.index.into_inner()
    }
}

type Entry = (Extent, Location);

const fn is_before(extent: Extent, other: Extent) -> bool {
    extent.volume.0 < other.volume.0 || (extent.volume.0 == other.volume.0 && extent.end() <= other.offset)
}

const fn begins_before(extent: Extent, other: Extent) -> bool {
    extent.volume.0 < other.volume.0 || (extent.volume.0 == other.volume.0 && extent.offset < other.offset)
}

const fn end_of(extent: Extent) -> Extent {
    Extent { offset: extent.end(), length: 0, ..extent }
}

/// The part of an entry from an offset on.
fn behind((extent, location): Entry, offset: u64) -> Entry {
    (Extent { offset, length: extent.end() - offset, ..extent }, location.advance(offset - extent.offset))
}

/// The entries of a run that are not in the volumes.
struct Entries<'a> {
    blocks: Box<dyn Iterator<Item = Result<Vec<Entry>, RunError>> + 'a>,
    block: std::vec::IntoIter<Entry>,
    written: Position,
}

impl<'a> Entries<'a> {
    fn of(run: &'a Run, written: Position) -> Self {
        Self { blocks: Box::new(run.blocks()), block: Vec::new().into_iter(), written }
    }

    fn next(&mut self) -> Result<Option<Entry>, RunError> {
        loop {
            let written = self.written;
            if let Some(entry) = self.block.find(|(_, location)| location.frame() > Some(written)) {
                return Ok(Some(entry));
            }
            let Some(block) = self.blocks.next() else { return Ok(None) };
            self.block = block?.into_iter();
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Seq;
    use crate::overlay::location::JournalPlace;
    use crate::record::view::Chunk;
    use crate::storage::disk::SystemDisk;
    use crate::storage::memory::MemoryDisk;

    const SIZE: u64 = 96;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { volume: VolumeIndex((offset / 64) as u32), offset, length }
    }

    /// The frame of a number; each byte of a range has a place of its own in it.
    fn journal(number: u64, within: u64) -> Location {
        let frame = Position { segment: 1, offset: 1000 + number };
        Location::Journal(JournalPlace { frame, chunk: Chunk::default(), within: within as u32 })
    }

    fn spill(ranges_max: usize) -> Spill {
        let disk = Arc::new(MemoryDisk::new());
        disk.create_folder("g".as_ref()).unwrap();
        Spill::new(disk, "g/run".into(), ranges_max)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Frame(u64, u64),
        Buffer(u64, u64),
        Drain,
        Apply(u64),
        Bound,
        /// One half of it, then the other: what is written in between is newer.
        Half,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Within one of the two volumes.
        let range = (0..SIZE, 1..12_u64).prop_map(|(offset, length)| (offset, length.min(64 - offset % 64)));
        (0..10, range, 0..6_u64).prop_map(|(kind, (offset, length), back)| match kind {
            0..=2 => Step::Frame(offset, length),
            3 => Step::Buffer(offset, length),
            4 => Step::Drain,
            5 => Step::Apply(back),
            6 | 7 => Step::Half,
            _ => Step::Bound,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn memory_and_runs_together_are_one_index(steps in proptest::collection::vec(step(), 0..60), ranges_max in 0..6_usize) {
            let (index, spill) = (Mutex::new(Unapplied::default()), spill(ranges_max));
            let mut oracle = [None; 2 * 64];
            let mut buffered: Vec<(u64, Extent)> = Vec::new();
            let (mut number, mut half) = (0, None);
            for step in steps {
                number += 1;
                match step {
                    Step::Frame(offset, length) => {
                        // The drain keeps the order: what is buffered goes first.
                        drain(&index, &mut oracle, &mut buffered, number);
                        number += 1;
                        index.lock().insert(extent(offset, length), journal(number, 0));
                        for byte in 0..length { oracle[(offset + byte) as usize] = Some(journal(number, byte)); }
                    }
                    Step::Buffer(offset, length) => {
                        index.lock().insert(extent(offset, length), Location::Buffer { seq: Seq(number), position: 0 });
                        for byte in 0..length {
                            oracle[(offset + byte) as usize] = Some(Location::Buffer { seq: Seq(number), position: byte });
                        }
                        buffered.push((number, extent(offset, length)));
                    }
                    Step::Drain => drain(&index, &mut oracle, &mut buffered, number),
                    Step::Apply(back) => {
                        let up_to = Position { segment: 1, offset: 1000 + number.saturating_sub(back) };
                        for volume in 0..2 { index.lock().forget(extent(volume * 64, 64), up_to); }
                        for there in &mut oracle {
                            if there.is_some_and(|at: Location| at.frame().is_some_and(|frame| frame <= up_to)) { *there = None; }
                        }
                    }
                    Step::Half => match half.take() {
                        None => half = Some(spill.sweep(&index).unwrap()),
                        Some(run) => spill.publish(&index, run).unwrap(),
                    },
                    Step::Bound if half.is_some() => {}
                    Step::Bound => {
                        spill.bound(&index).unwrap();
                        let index = index.lock();
                        let held = buffered.iter().map(|(_, extent)| extent.length as usize).sum::<usize>();
                        prop_assert!(index.in_memory() <= ranges_max.max(2 * held), "{} in memory", index.in_memory());
                    }
                }
            }
            for (offset, length) in [(0, 64), (64, 64), (10, 30), (63, 1)] {
                prop_assert_eq!(seen(&index, extent(offset, length)), &oracle[offset as usize..(offset + length) as usize]);
            }
        }
    }

    fn drain(
        index: &Mutex<Unapplied>,
        oracle: &mut [Option<Location>],
        buffered: &mut Vec<(u64, Extent)>,
        number: u64,
    ) {
        for (seq, extent) in buffered.drain(..) {
            let of_it = |there: &Location| there.buffered_seq() == Some(Seq(seq));
            index.lock().move_buffered(extent, journal(number, 0), of_it);
            for byte in 0..extent.length {
                let there = &mut oracle[(extent.offset + byte) as usize];
                if there.as_ref().is_some_and(of_it) {
                    *there = Some(journal(number, byte));
                }
            }
        }
    }

    fn seen(index: &Mutex<Unapplied>, extent: Extent) -> Vec<Option<Location>> {
        let look = index.lock().look(extent);
        let bytes = |piece: Piece<Location>| {
            (0..piece.extent.length).map(move |byte| piece.location.map(|location| location.advance(byte)))
        };
        look.pieces().unwrap().into_iter().flat_map(bytes).collect()
    }

    #[test]
    fn indexes_taken_over_one_after_the_other_leave_few_runs() {
        let spill = spill(4);
        let (mut indexed, mut number) = (Indexed::default(), 0);
        let at = |offset| Extent { volume: VolumeIndex(0), offset, length: 1 };
        for _ in 0..200 {
            let mut ahead = Indexed::from(indexed.up_to);
            for _ in 0..11 {
                number += 1;
                ahead.index.get_mut().insert(at(2 * number), journal(number, 0));
                spill.bound(&ahead.index).unwrap();
            }
            ahead.up_to = Position { segment: 1, offset: 1001 + number };
            indexed.adopt(ahead, &spill).unwrap();
            let runs = indexed.index.lock().runs.len();
            assert!(runs <= 12, "{runs} runs of {number} ranges");
        }
        for there in 1..=number {
            assert_eq!(seen(&indexed.index, at(2 * there)), [Some(journal(there, 0))]);
        }
    }

    /// Readers, writers and the one that moves ranges to the disk, all at once.
    #[test]
    fn nothing_is_lost_while_ranges_move() {
        const FRAMES: u64 = 5_000;
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(Arc::new(SystemDisk), folder.path().join("run"), 20);
        let index = Mutex::new(Unapplied::default());
        let (done, mut newest, mut last) = (AtomicBool::new(false), [0; 64], 0);
        std::thread::scope(|threads| {
            let moves = threads.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    spill.bound(&index).unwrap();
                }
            });
            let goes_on = |number: &u64| *number <= FRAMES || index.lock().on_disk() == 0;
            let wrong = (1..).take_while(goes_on).find_map(|number| {
                let (write_at, look_at) = (number * 37 % 64, number * 11 % 64);
                index.lock().insert(extent(write_at, 1), journal(number, 0));
                newest[write_at as usize] = number;
                let newest = newest[look_at as usize];
                let found = seen(&index, extent(look_at, 1));
                let right = moves.is_finished() || found == [(newest > 0).then(|| journal(newest, 0))];
                (!right).then_some((number, look_at, newest, found))
            });
            done.store(true, Ordering::Release);
            assert_eq!(wrong, None);
            last = newest.into_iter().max().unwrap();
        });
        assert!(index.lock().on_disk() > 0);
        let mut index = index.into_inner();
        index.forget(extent(0, 64), Position { segment: 1, offset: 1000 + last });
        assert_eq!((index.in_memory(), index.on_disk()), (0, 0), "what is in the volumes costs nothing");
    }
}
