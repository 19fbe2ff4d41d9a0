//! A journal that is damaged: how far it is sound, and how it is emptied. For a copy, whose primary has the rest; a primary's
//! own journal is never cut because of damage.

use std::path::Path;
use std::sync::Arc;

use super::line::{FOLD, SEGMENT, SPARE};
use super::recovery::{Scan, Visit};
use super::{Journal, JournalError, JournalOptions, Position, segment};
use crate::ids::{GroupId, Seq};
use crate::storage::Disk;

/// What of a journal is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound {
    /// The oldest record held.
    pub oldest: Position,
    /// Where the last record before the first bad one ends.
    pub end: Position,
    /// The last number before that place.
    pub seq: Seq,
}

/// How far a journal that nobody has open is sound, and what is in it up to there; `None`: it is empty, or not even what
/// belongs to it can be told. Nothing is changed.
///
/// # Errors
/// [`JournalError`] for whatever is not damage.
pub fn sound(
    disk: Arc<dyn Disk>,
    folder: &Path,
    group: GroupId,
    options: JournalOptions,
    visit: Visit<'_>,
) -> Result<Option<Sound>, JournalError> {
    disk.create_folder(folder).map_err(|source| JournalError::io("open", folder, 0, source))?;
    let journal = Journal::new(disk, folder, group, options);
    let segments = match journal.find_line() {
        Err(error) if error.is_of_the_records() || error.is_unreadable() => return Ok(None),
        found => found?,
    };
    let Some(first) = segments.values().next() else { return Ok(None) };
    let begin = first.begin();
    let mut scan = Scan::of(first.start.tip(), begin, None, visit);
    scan.whole = true;
    let newest = segments.keys().next_back().copied();
    for (number, segment) in &segments {
        match scan.segment(segment, newest == Some(*number)) {
            Err(error) if error.is_of_the_records() || error.is_unreadable() => break,
            read => read?,
        }
    }
    Ok(Some(Sound { oldest: begin, end: scan.end, seq: scan.tip.seq }))
}

/// Empties a journal that nobody has open: newest segment first, each durably, so that whatever is left by a kill is the begin
/// of it.
///
/// # Errors
/// [`JournalError`]; some of it is still there then.
pub fn remove(disk: Arc<dyn Disk>, folder: &Path, group: GroupId, options: JournalOptions) -> Result<(), JournalError> {
    let journal = Journal::new(disk, folder, group, options);
    let folds = journal.numbers(FOLD)?.into_iter().map(segment::fold_name);
    // Segments are numbered from one again: a spare may hold records that were of one with the same number.
    let spares = journal.numbers(SPARE)?.into_iter().map(segment::spare_name);
    for name in folds.chain(spares) {
        let path = folder.join(name);
        journal.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
    }
    let mut numbers = journal.numbers(SEGMENT)?;
    numbers.sort_unstable();
    numbers.into_iter().rev().try_for_each(|number| journal.remove_segments(&[number]))
}
