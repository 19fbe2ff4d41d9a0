//! Which files of the folder are the journal: the line of segments that ends with the newest one, each found through what
//! the header of the next says came before it; and spares. Everything else is left over from a cut or a trim.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::segment::{self, Segment, number_of};
use super::{Journal, JournalError};
use crate::storage::Open;

pub(super) const SEGMENT: &str = ".segment";
pub(super) const SPARE: &str = ".spare";
pub(super) const FOLD: &str = ".fold";

/// The number of the segment that a file of this name is; `None`: it is none.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    number_of(name, SEGMENT)
}

impl Journal {
    pub(super) fn numbers(&self, ending: &str) -> Result<Vec<u64>, JournalError> {
        let names = self.disk.list(&self.folder);
        let names = names.map_err(|source| JournalError::io("list", &self.folder, 0, source))?;
        Ok(names.iter().filter_map(|name| number_of(name, ending)).collect())
    }

    /// The line of segments that ends with the newest one; all but that one sealed. Changes nothing on the disk.
    pub(super) fn find_line(&self) -> Result<BTreeMap<u64, Arc<Segment>>, JournalError> {
        let numbers = self.numbers(SEGMENT)?;
        self.state.lock().highest = numbers.iter().max().copied().unwrap_or(0);
        let mut line: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
        let unnamed = self.numbers(FOLD)?;
        let mut next = numbers.iter().max().map(|newest| (*newest, None));
        while let Some((number, fold)) = next {
            let segment = Arc::new(self.open_part(number, fold)?);
            if let Some(after) = line.values().next() {
                segment.seal(after.previous.offset);
            }
            let before = segment.previous.segment;
            let part = segment.fold.filter(|fold| before >= fold.replaces_from);
            let is_there = numbers.contains(&before) || part.is_some() && unnamed.contains(&before);
            next = is_there.then_some((before, part.map(|fold| fold.id)));
            // Trims take segments away in their order: what is older than a missing one was not trimmed. What a fold
            // replaces may still be there.
            let replaced = segment.fold.map_or(number, |fold| fold.replaces_from);
            if next.is_none() && numbers.iter().any(|older| *older < replaced) {
                return Err(segment.gap(0, "the segment before it is missing, and older ones are there"));
            }
            line.insert(number, segment);
        }
        Ok(line)
    }

    /// Opens a segment; with a fold, the one of that fold, which may not have its name yet.
    fn open_part(&self, number: u64, fold: Option<u64>) -> Result<Segment, JournalError> {
        let Some(fold) = fold else { return Segment::open(self, number) };
        let is_part = |segment: &Segment| segment.fold.is_some_and(|found| found.id == fold);
        let unnamed = self.folder.join(segment::fold_name(number));
        if self.disk.open(&unnamed, Open::Existing).is_ok()
            && let Some(segment) = Segment::open_at(self, number, unnamed).ok().filter(is_part)
        {
            return Ok(segment);
        }
        let segment = Segment::open(self, number)?;
        if is_part(&segment) { Ok(segment) } else { Err(segment.gap(0, "it is not part of the fold that names it")) }
    }

    /// Finishes folds: segments of the line take the names of what they replace, and what a fold left unfinished is removed.
    pub(super) fn name_folds(&self, numbers: impl Iterator<Item = u64>) -> Result<(), JournalError> {
        let unnamed = self.numbers(FOLD)?;
        for number in numbers.filter(|number| unnamed.contains(number)) {
            let from = self.folder.join(segment::fold_name(number));
            let part = Segment::open_at(self, number, from.clone()).ok().and_then(|part| part.fold);
            let segment = self.segment(number).and_then(|segment| segment.fold);
            if part.is_some() && part.map(|fold| fold.id) == segment.map(|fold| fold.id) {
                let renamed = self.disk.rename(&from, &self.folder.join(segment::file_name(number)));
                renamed.map_err(|source| JournalError::io("rename", &from, 0, source))?;
            }
        }
        for number in self.numbers(FOLD)? {
            let path = self.folder.join(segment::fold_name(number));
            self.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
        }
        Ok(())
    }

    /// Finishes the last fold that was put in its place, if that is still to be done: its segments take their names, and what they replace
    /// is removed. Others may add segments meanwhile.
    pub(super) fn tidy(&self) -> Result<(), JournalError> {
        let (replaced, line) = {
            let state = self.state.lock();
            let Some(replaced) = state.replaced.clone() else { return Ok(()) };
            (replaced, state.segments.keys().copied().collect::<Vec<_>>())
        };
        self.name_folds(line.into_iter())?;
        self.remove_segments(&replaced)?;
        self.state.lock().replaced = None;
        Ok(())
    }

    /// Removes segment files that are not in the line, the rest of a cut; durably, so that none comes back when a trim has
    /// taken the segment before it.
    pub(super) fn remove_void(&self) -> Result<(), JournalError> {
        let numbers = self.numbers(SEGMENT)?;
        let void: Vec<u64> = numbers.into_iter().filter(|number| self.segment(*number).is_none()).collect();
        self.remove_segments(&void)
    }

    /// Removes segment files, durably.
    pub(super) fn remove_segments(&self, numbers: &[u64]) -> Result<(), JournalError> {
        if numbers.is_empty() {
            return Ok(());
        }
        for number in numbers {
            let path = self.folder.join(segment::file_name(*number));
            match self.disk.remove(&path) {
                // By an earlier try, which could not make that durable.
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(|source| JournalError::io("remove", &path, 0, source))?,
            }
        }
        self.make_names_durable()
    }

    /// The names of its files are durable as they are now. A kill between a rename and the sync behind it leaves them so until power is lost:
    /// what was flushed into a segment meanwhile would be gone with its name, and a trimmed one that is in use again would have its old one.
    pub(super) fn make_names_durable(&self) -> Result<(), JournalError> {
        let synced = self.disk.sync_folder(&self.folder);
        synced.map_err(|source| JournalError::io("sync", &self.folder, 0, source))
    }

    /// Takes over the spares that are whole and removes others: one half made by a killed process is too short.
    pub(super) fn find_spares(&self) -> Result<(), JournalError> {
        for number in self.numbers(SPARE)? {
            let path = self.folder.join(segment::spare_name(number));
            let size = self.disk.open(&path, Open::Existing).and_then(|file| file.size());
            let mut state = self.state.lock();
            if size.is_ok_and(|size| size == self.options.segment_bytes) && state.spares.len() < self.spares_max() {
                state.spares.push(path);
            } else {
                self.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
            }
        }
        Ok(())
    }
}
