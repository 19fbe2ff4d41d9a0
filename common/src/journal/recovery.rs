//! Opening a journal after a clean stop, a kill, or a loss of power.
//!
//! Segments are found from the newest backwards by what their headers say came before; files outside that line are
//! leftovers of a cut and go. Then every record is read once. Of one that cannot be taken
//!
//! | its bytes are what was written | it lies in the newest segment | a later record says it was durable | meaning |
//! |---|---|---|---|
//! | yes | | | a newer or broken build's: an error with its place |
//! | no | no | | damage: an error with its place |
//! | no | yes | yes | damage: an error with its place |
//! | no | yes | no | a torn tail: cut, reported; or the end, where nothing was begun |
//!
//! An error changes nothing on the disk. After a cut the journal goes on in a new segment, whose header says where the old
//! one ends, so the torn bytes stay invisible. A segment is durable as a whole before another follows it, which is what the
//! second row stands on.

use std::path::Path;
use std::sync::Arc;

use super::segment::{FIRST_RECORD, Segment, Start, record_bytes};
use super::tail::{Bad, Record, Tail, begun_without_envelope, judge, read_record};
use super::writer::follow;
use super::{DurableEnd, Journal, JournalError, JournalOptions, Position, Writer};
use crate::ids::GroupId;
use crate::record::{ControlRecord, FoldCheck, FrameError, FrameHeader, Tip};
use crate::storage::Disk;

/// What was cut from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Where the first bad record began.
    pub position: Position,
}

/// A journal just opened.
#[derive(Debug)]
pub struct Recovered {
    /// Its one writer.
    pub writer: Writer,
    /// What was cut.
    pub torn: Option<TornTail>,
    /// Where the history stood before the oldest record held.
    pub oldest: Tip,
}

/// What recovery shows of each frame held, oldest first: where its record begins, its header, a control frame's record.
pub type Visit<'a> = &'a mut dyn FnMut(Position, &FrameHeader, Option<&ControlRecord>);

/// Opens the journal in a folder, making it when the folder is empty; with `cut_at`, everything from that position on is
/// left out for good (failover to a marker). The position is where a record begins or the last one ends.
///
/// # Errors
/// [`JournalError`]: damage is never cut away, and a position that is no place between two records is refused.
pub fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    group: GroupId,
    options: JournalOptions,
    cut_at: Option<Position>,
    visit: Visit<'_>,
) -> Result<Recovered, JournalError> {
    disk.create_folder(folder).map_err(|source| JournalError::io("open", folder, 0, source))?;
    let journal = Arc::new(Journal::new(disk, folder, group, options));
    let mut segments = journal.find_line()?;
    if let Some(position) = cut_at {
        if !segments.contains_key(&position.segment) {
            return Err(JournalError::Trimmed { position });
        }
        segments.retain(|number, _| *number <= position.segment);
    }
    let oldest = segments.values().next().map_or_else(Tip::default, |first| first.start.tip());
    let mut scan = Scan::of(oldest, Position::default(), cut_at, visit);
    let newest = segments.keys().next_back().copied();
    for (number, segment) in &segments {
        scan.segment(segment, newest == Some(*number))?;
    }
    let Scan { tip, end, proven, torn, .. } = scan;
    journal.state.lock().segments = segments;
    journal.make_names_durable()?;
    journal.find_spares()?;
    make_durable(&journal, proven, end)?;
    let writer = go_on(&journal, tip, end, torn.is_some() || cut_at.is_some())?;
    let line: Vec<u64> = journal.state.lock().segments.keys().copied().collect();
    journal.name_folds(line.into_iter())?;
    journal.remove_void()?;
    Ok(Recovered { writer, torn, oldest })
}

/// Cuts a journal that nobody writes any more, as [`open`] with a place to cut at does, and goes on with it: only the segment in which
/// that place lies is read. One that is poisoned is opened anew, because nobody knows what its disk holds.
///
/// # Errors
/// [`JournalError`]; nothing is changed before the segment is found to be good.
pub fn cut_behind(journal: &Arc<Journal>, at: Position) -> Result<Writer, JournalError> {
    if journal.poisoned().is_some() {
        let disk = Arc::clone(&journal.disk);
        let opened = open(disk, &journal.folder, journal.group, journal.options, Some(at), &mut |_, _, _| {})?;
        return Ok(opened.writer);
    }
    let segment = journal.segment(at.segment).ok_or(JournalError::Trimmed { position: at })?;
    let mut visit = |_: Position, _: &FrameHeader, _: Option<&ControlRecord>| {};
    let mut scan = Scan::of(segment.start.tip(), segment.begin(), Some(at), &mut visit);
    scan.proven = journal.durable_end().position;
    scan.segment(&segment, true)?;
    let Scan { tip, end, proven, .. } = scan;
    journal.state.lock().segments.retain(|number, _| *number <= at.segment);
    journal.recent.lock().clear();
    make_durable(journal, proven.min(end), end)?;
    let writer = go_on(journal, tip, end, true)?;
    journal.remove_void()?;
    Ok(writer)
}

/// Reads all records, in order.
pub(super) struct Scan<'a> {
    pub(super) tip: Tip,
    /// Where the last good record ends.
    pub(super) end: Position,
    /// What lies before is durable: a later record says so.
    proven: Position,
    torn: Option<TornTail>,
    cut_at: Option<Position>,
    /// All data is read, not only what tells of it.
    pub(super) whole: bool,
    visit: Visit<'a>,
    folds: FoldCheck,
}

impl<'a> Scan<'a> {
    /// From a place on, where the history stands as `tip` says.
    pub(super) fn of(tip: Tip, end: Position, cut_at: Option<Position>, visit: Visit<'a>) -> Self {
        let (proven, folds) = (Position::default(), FoldCheck::from_the_middle());
        Self { tip, end, proven, torn: None, cut_at, whole: false, visit, folds }
    }

    pub(super) fn segment(&mut self, segment: &Segment, newest: bool) -> Result<(), JournalError> {
        if segment.start.tip() != self.tip {
            return Err(segment.gap(0, "its header tells another history than the segment before"));
        }
        self.end = segment.begin();
        match self.cut_at {
            Some(cut) if newest => {
                self.up_to(segment, cut.offset, true, "the place to cut at is inside it")?;
            }
            None if newest => self.newest_segment(segment)?,
            _ => self.up_to(segment, segment.used_bytes(), self.whole, "the segment ends inside it")?,
        }
        segment.set_end(self.end.offset);
        Ok(())
    }

    /// Every record up to a place must be good, and one must end there.
    fn up_to(&mut self, segment: &Segment, stop: u64, whole: bool, inside: &'static str) -> Result<(), JournalError> {
        while self.end.offset < stop {
            let begin = self.end.offset;
            match read_record(segment, self.end, whole) {
                Ok(record) => self.take(segment, &record)?,
                Err(Bad::Envelope(source) | Bad::Frame(source) | Bad::Sense(source)) => {
                    return Err(segment.damaged(begin, source));
                }
                Err(Bad::Journal(error)) => return Err(error),
            }
            if self.end.offset > stop {
                return Err(segment.gap(begin, inside));
            }
        }
        Ok(())
    }

    /// In the newest segment all data is read: a torn write may have lost any part of it.
    fn newest_segment(&mut self, segment: &Segment) -> Result<(), JournalError> {
        while self.end.offset < segment.capacity() {
            match read_record(segment, self.end, true) {
                Ok(record) => self.take(segment, &record)?,
                Err(Bad::Envelope(source)) => {
                    let begun = begun_without_envelope(segment, self.end, &self.tip)?;
                    return self.cut_tail(segment, begun, source);
                }
                Err(Bad::Frame(source)) => return self.cut_tail(segment, true, source),
                Err(Bad::Sense(source)) => return Err(segment.damaged(self.end.offset, source)),
                Err(Bad::Journal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut_tail(&mut self, segment: &Segment, begun: bool, source: FrameError) -> Result<(), JournalError> {
        match judge(segment, self.end, begun)? {
            Tail::Damage => return Err(segment.damaged(self.end.offset, source)),
            Tail::Torn => self.torn = Some(TornTail { position: self.end }),
            Tail::End => {}
        }
        Ok(())
    }

    fn take(&mut self, segment: &Segment, record: &Record) -> Result<(), JournalError> {
        let tip = follow(&self.tip, &record.header, segment.group);
        let tip = tip.map_err(|what| segment.gap(self.end.offset, what))?;
        let folded = self.folds.check(&self.tip, record.control.as_ref());
        folded.map_err(|what| segment.gap(self.end.offset, what))?;
        self.folds.take(&record.header, record.control.as_ref());
        self.tip = tip;
        (self.visit)(self.end, &record.header, record.control.as_ref());
        self.proven = self.proven.max(record.durable);
        self.end.offset += record_bytes(record.header.frame_bytes());
        Ok(())
    }
}

/// Makes everything that was read durable, before anybody is told so and before another segment follows. It is written once
/// more from where nothing proves it: after a sync that failed, the system keeps pages it could not write, reads them well,
/// and never writes them, whatever later syncs answer. The same bytes at the same place cannot be torn by this.
fn make_durable(journal: &Journal, proven: Position, end: Position) -> Result<(), JournalError> {
    const STEP: usize = 1 << 20;
    let newest = journal.state.lock().segments.values().next_back().cloned();
    let Some(segment) = newest else { return Ok(()) };
    // A segment is durable as a whole before another follows it.
    let mut at = if proven.segment == segment.number { proven.offset } else { segment.first_record() };
    let mut buffer = Vec::new();
    while at < end.offset {
        buffer.resize(usize::try_from(end.offset - at).unwrap_or(STEP).min(STEP), 0);
        segment.read(&mut buffer, at)?;
        segment.write(&buffer, at)?;
        at += buffer.len() as u64;
    }
    segment.sync()
}

/// The writer behind the last good record: in the same segment when nothing is cut, else in a new one, since torn bytes
/// behind the end must never be read as records.
fn go_on(journal: &Arc<Journal>, tip: Tip, end: Position, cut: bool) -> Result<Writer, JournalError> {
    let newest = journal.state.lock().segments.values().next_back().cloned();
    let (active, at) = match newest {
        Some(segment) if !cut => (segment, end.offset),
        newest => {
            let next = journal.add_segment(end, &Start::of(&tip))?;
            if let Some(segment) = newest {
                segment.seal(end.offset);
            }
            (next, FIRST_RECORD)
        }
    };
    let position = Position { segment: active.number, offset: at };
    journal.set_durable(DurableEnd { position, seq: tip.seq, chain: tip.chain }, true);
    Ok(Writer::new(Arc::clone(journal), active, at, tip))
}
