//! Which files of the folder are the journal: the line of segments that ends with the newest one, each found through what
//! the header of the next says came before it; and spares. Everything else is left over from a cut or a trim.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::segment::{self, Segment, number_of};
use super::{Journal, JournalError, SPARES};
use crate::storage::Open;

const SEGMENT: &str = ".segment";
const SPARE: &str = ".spare";

impl Journal {
    fn numbers(&self, ending: &str) -> Result<Vec<u64>, JournalError> {
        let names = self.disk.list(&self.folder);
        let names = names.map_err(|source| JournalError::io("list", &self.folder, 0, source))?;
        Ok(names.iter().filter_map(|name| number_of(name, ending)).collect())
    }

    /// The highest number of any segment's file, in the line or not: the number above it is new.
    pub(super) fn highest_number(&self) -> Result<u64, JournalError> {
        Ok(self.numbers(SEGMENT)?.into_iter().max().unwrap_or(0))
    }

    /// The line of segments that ends with the newest one; all but that one sealed. Changes nothing on the disk.
    pub(super) fn find_line(&self) -> Result<BTreeMap<u64, Arc<Segment>>, JournalError> {
        let numbers = self.numbers(SEGMENT)?;
        let mut line: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
        let mut next = numbers.iter().max().copied();
        while let Some(number) = next {
            let segment = Arc::new(Segment::open(self, number)?);
            if let Some(after) = line.values().next() {
                segment.seal(after.previous.offset);
            }
            let before = segment.previous.segment;
            next = numbers.contains(&before).then_some(before);
            // Trims take segments away in their order: what is older than a missing one was not trimmed.
            if next.is_none() && numbers.iter().any(|older| *older < number) {
                return Err(segment.gap(0, "the segment before it is missing, and older ones are there"));
            }
            line.insert(number, segment);
        }
        Ok(line)
    }

    /// Removes segment files that are not in the line, the rest of a cut; durably, so that none comes back when a trim has
    /// taken the segment before it.
    pub(super) fn remove_void(&self) -> Result<(), JournalError> {
        let numbers = self.numbers(SEGMENT)?;
        let void: Vec<u64> = numbers.into_iter().filter(|number| self.segment(*number).is_none()).collect();
        if void.is_empty() {
            return Ok(());
        }
        for number in void {
            let path = self.folder.join(segment::file_name(number));
            self.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
        }
        let synced = self.disk.sync_folder(&self.folder);
        synced.map_err(|source| JournalError::io("sync", &self.folder, 0, source))
    }

    /// Takes over the spares that are whole and removes others: one half made by a killed process is too short.
    pub(super) fn find_spares(&self) -> Result<(), JournalError> {
        for number in self.numbers(SPARE)? {
            let path = self.folder.join(segment::spare_name(number));
            let size = self.disk.open(&path, Open::Existing).and_then(|file| file.size());
            let mut state = self.state.lock();
            if size.is_ok_and(|size| size == self.options.segment_bytes) && state.spares.len() < SPARES {
                state.spares.push(path);
            } else {
                self.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
            }
        }
        Ok(())
    }
}
