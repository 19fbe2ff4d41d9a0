//! Opening a journal after a clean stop, a kill, or a loss of power.
//!
//! Segments are found from the newest backwards by what their headers say came before; files outside that line are
//! leftovers of a cut and go. Then every record is read once. The first bad one in the newest segment is
//!
//! | a later record says it was durable | meaning | what happens |
//! |---|---|---|
//! | yes | damage | an error with its place; nothing is changed |
//! | no, or there is no later record | a torn tail | cut, counted, reported |
//!
//! and in any older segment it is damage. After a cut the journal goes on in a new segment, whose header says where the
//! old one ends, so the torn bytes stay invisible.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::reader::{check_binding, read_envelope};
use super::segment::{self, ENVELOPE_BYTES, FIRST_RECORD, Segment, Start, number_of, record_bytes};
use super::{DurableEnd, Journal, JournalError, JournalOptions, Position, Writer};
use crate::ids::{Generation, GroupId, MarkerNumber};
use crate::record::{ControlRecord, FrameError, FrameHeader, FrameKind, FrameView, HEADER_BYTES, Tip};
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

/// What recovery shows of each frame held, oldest first.
pub type Visit<'a> = &'a mut dyn FnMut(Position, &FrameHeader, Option<&ControlRecord>);

/// Opens the journal in a folder, making it when the folder is empty; with `cut_at`, everything from that position on is
/// left out for good (failover to a marker).
///
/// # Errors
/// [`JournalError`]: damage is never cut away.
pub fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    group: GroupId,
    options: JournalOptions,
    cut_at: Option<Position>,
    visit: Visit<'_>,
) -> Result<Recovered, JournalError> {
    let io = |source| JournalError::io("open", folder, 0, source);
    disk.create_folder(folder).map_err(io)?;
    let journal = Arc::new(Journal::new(disk, folder, group, options));
    let mut segments = find_segments(&journal)?;
    if let Some(cut) = cut_at {
        segments.retain(|number, _| *number <= cut.segment);
    }
    let oldest = segments.values().next().map_or_else(Tip::default, |first| tip_of(&first.start));
    let scan = scan(&segments, cut_at, visit)?;
    journal.state.lock().segments = segments;
    let writer = go_on(&journal, &scan, cut_at.is_some())?;
    remove_void(&journal)?;
    Ok(Recovered { writer, torn: scan.torn, oldest })
}

fn tip_of(start: &Start) -> Tip {
    Tip {
        seq: start.seq,
        marker: MarkerNumber(start.marker),
        generation: Generation(start.generation),
        chain: start.chain,
    }
}

/// The line of segments that ends with the newest one.
fn find_segments(journal: &Journal) -> Result<BTreeMap<u64, Arc<Segment>>, JournalError> {
    let names = journal.disk.list(&journal.folder);
    let names = names.map_err(|source| JournalError::io("list", &journal.folder, 0, source))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name, ".segment")).collect();
    let mut line: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
    let mut next = numbers.pop();
    let mut end = None;
    while let Some(number) = next {
        let opened = Arc::new(Segment::open(journal, number)?);
        if let Some(end) = end {
            opened.seal(end);
        }
        end = Some(opened.previous.offset);
        let before = opened.previous.segment;
        line.insert(number, opened);
        next = numbers.contains(&before).then_some(before);
    }
    let spares = names.iter().filter(|name| number_of(name, ".spare").is_some());
    let mut usable = Vec::new();
    for name in spares {
        let path = journal.folder.join(name);
        // A spare half made by a killed process is shorter than a segment: of no use.
        let file = journal.disk.open(&path, crate::storage::Open::Existing).and_then(|file| file.size());
        if file.is_ok_and(|size| size == journal.options.segment_bytes) && usable.len() < super::SPARES {
            usable.push(path);
        } else {
            journal.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
        }
    }
    journal.state.lock().spares = usable;
    Ok(line)
}

struct Scan {
    tip: Tip,
    end: Position,
    torn: Option<TornTail>,
}

fn scan(
    segments: &BTreeMap<u64, Arc<Segment>>,
    cut_at: Option<Position>,
    visit: Visit<'_>,
) -> Result<Scan, JournalError> {
    let mut state = Scan { tip: Tip::default(), end: Position::default(), torn: None };
    let last = segments.keys().next_back().copied();
    for (number, segment) in segments {
        if state.end.segment == 0 {
            state.tip = tip_of(&segment.start);
        } else if tip_of(&segment.start) != state.tip {
            return Err(segment.gap(0, "its header tells another history than the segment before"));
        }
        state.end = Position { segment: *number, offset: FIRST_RECORD };
        let newest = Some(*number) == last;
        let stop = match cut_at {
            Some(cut) if cut.segment == *number => cut.offset,
            _ if newest => segment.capacity(),
            _ => segment.used_bytes(),
        };
        scan_segment(segment, stop, newest && cut_at.is_none(), &mut state, visit)?;
        segment.set_end(state.end.offset);
    }
    Ok(state)
}

fn scan_segment(
    segment: &Segment,
    stop: u64,
    open_end: bool,
    state: &mut Scan,
    visit: Visit<'_>,
) -> Result<(), JournalError> {
    while state.end.offset < stop {
        match read_record(segment, state.end, open_end) {
            Ok((header, record)) => {
                let place = state.end.offset;
                state.tip = state.tip.follow(&header).map_err(|what| segment.gap(place, what))?;
                visit(state.end, &header, record.as_ref());
                state.end.offset += record_bytes(header.frame_bytes());
            }
            Err(Bad::Frame(source)) if open_end => {
                state.torn = match behind(segment, state.end)? {
                    Behind::Nothing if never_begun(&source) => None,
                    Behind::Nothing | Behind::Unsynced => Some(TornTail { position: state.end }),
                    Behind::Durable => return Err(segment.damaged(state.end.offset, source)),
                };
                return Ok(());
            }
            Err(Bad::Frame(source)) => return Err(segment.damaged(state.end.offset, source)),
            Err(Bad::Journal(error)) => return Err(error),
        }
    }
    Ok(())
}

enum Bad {
    Frame(FrameError),
    Journal(JournalError),
}

impl From<FrameError> for Bad {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<JournalError> for Bad {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// Reads one record; in the newest segment with all its data, since a torn write may have lost any part of it.
fn read_record(segment: &Segment, at: Position, whole: bool) -> Result<(FrameHeader, Option<ControlRecord>), Bad> {
    let room = segment.capacity().saturating_sub(at.offset);
    if room < (ENVELOPE_BYTES + HEADER_BYTES) as u64 {
        return Err(FrameError::Short { have: usize::try_from(room).unwrap_or(0), need: ENVELOPE_BYTES }.into());
    }
    let mut head = [0; ENVELOPE_BYTES + HEADER_BYTES];
    segment.read(&mut head, at.offset)?;
    let (envelope, header) = head.split_at(ENVELOPE_BYTES);
    let envelope = read_envelope(envelope, at)?;
    if record_bytes(envelope.frame_bytes as usize) > room {
        return Err(FrameError::Malformed { what: "it runs over the end of the segment" }.into());
    }
    let header = FrameHeader::decode(header)?;
    if header.frame_bytes() != envelope.frame_bytes as usize {
        return Err(FrameError::Malformed { what: "its envelope and header disagree" }.into());
    }
    if !whole && header.kind != FrameKind::Control {
        check_binding(&envelope, head.get(ENVELOPE_BYTES..).unwrap_or_default())?;
        return Ok((header, None));
    }
    let mut bytes = vec![0; header.frame_bytes()];
    segment.read(&mut bytes, at.offset + ENVELOPE_BYTES as u64)?;
    check_binding(&envelope, &bytes)?;
    let view = FrameView::verified(&bytes)?;
    let record = (header.kind == FrameKind::Control).then(|| ControlRecord::of(&view)).transpose()?;
    Ok((header, record))
}

/// What lies behind a bad record.
enum Behind {
    /// No record.
    Nothing,
    /// Records, none of which says that the bad one was durable.
    Unsynced,
    /// A record that was written when the bad one was durable already.
    Durable,
}

/// Whether a place without a record looks as if no write of this segment ever came there.
fn never_begun(source: &FrameError) -> bool {
    // Old bytes of a recycled file fail on the checksum, which knows the segment's number; a record that was begun
    // fails behind its envelope.
    matches!(source, FrameError::Magic | FrameError::Short { .. } | FrameError::Checksum { part: "envelope" })
}

fn behind(segment: &Segment, bad: Position) -> Result<Behind, JournalError> {
    const STEP: u64 = 1 << 20;
    let mut found = Behind::Nothing;
    let mut from = bad.offset + ENVELOPE_BYTES as u64;
    let mut buffer = Vec::new();
    while from < segment.capacity() {
        let length = STEP.min(segment.capacity() - from);
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        segment.read(&mut buffer, from)?;
        for (index, bytes) in buffer.as_chunks::<ENVELOPE_BYTES>().0.iter().enumerate() {
            let at = Position { offset: from + (index * ENVELOPE_BYTES) as u64, ..bad };
            match read_envelope(bytes, at) {
                Ok(envelope) if envelope.durable > bad => return Ok(Behind::Durable),
                Ok(_) => found = Behind::Unsynced,
                Err(_) => {}
            }
        }
        from += STEP;
    }
    Ok(found)
}

/// The writer behind the last good record: in the same segment when it ends cleanly, else in a new one.
fn go_on(journal: &Arc<Journal>, scan: &Scan, cut: bool) -> Result<Writer, JournalError> {
    let newest = journal.state.lock().segments.values().next_back().cloned();
    let start = Start {
        seq: scan.tip.seq,
        marker: scan.tip.marker.0,
        generation: scan.tip.generation.0,
        chain: scan.tip.chain,
    };
    let (active, at) = match newest {
        // Torn bytes behind the end must never be read as records: only a segment without any may go on.
        Some(segment) if !cut && scan.torn.is_none() => (segment, scan.end.offset),
        Some(segment) => {
            let next = journal.add_segment_beyond(scan.end, &start)?;
            segment.seal(scan.end.offset);
            (next, FIRST_RECORD)
        }
        None => (journal.add_segment(Position::default(), &start)?, FIRST_RECORD),
    };
    // What was read may still be in the page cache only: make it durable before saying so.
    journal.state.lock().segments.values().rev().take(2).try_for_each(|segment| segment.sync())?;
    let end = Position { segment: active.number, offset: at };
    journal.set_durable(DurableEnd { position: end, seq: scan.tip.seq, chain: scan.tip.chain });
    Ok(Writer::new(Arc::clone(journal), active, at, scan.tip))
}

impl Journal {
    /// A new segment with a number above every file in the folder.
    fn add_segment_beyond(&self, previous: Position, start: &Start) -> Result<Arc<Segment>, JournalError> {
        let names = self.disk.list(&self.folder);
        let names = names.map_err(|source| JournalError::io("list", &self.folder, 0, source))?;
        let number = names.iter().filter_map(|name| number_of(name, ".segment")).max().unwrap_or(0) + 1;
        let header = segment::SegmentHeader::new(number, self.group, previous, start);
        let segment = Arc::new(Segment::create(self, header)?);
        self.state.lock().segments.insert(number, Arc::clone(&segment));
        Ok(segment)
    }
}

/// Removes segment files that are not in the line.
fn remove_void(journal: &Journal) -> Result<(), JournalError> {
    let names = journal.disk.list(&journal.folder);
    let names = names.map_err(|source| JournalError::io("list", &journal.folder, 0, source))?;
    for number in names.iter().filter_map(|name| number_of(name, ".segment")) {
        if journal.segment(number).is_none() {
            let path = journal.folder.join(segment::file_name(number));
            journal.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, 0, source))?;
        }
    }
    Ok(())
}
