//! The folded segments: written beside the old ones, then put in their place.

use std::sync::Arc;

use super::super::segment::{
    self, ENVELOPE_BYTES, Envelope, FIRST_RECORD, FoldHeader, Segment, SegmentHeader, Start, record_bytes,
};
use super::super::{Journal, JournalError, Position};
use super::Folded;
use super::plan::{Plan, Source};
use crate::limits::FRAME_RAW_BYTES_MAX;
use crate::overlay::location::read_journal;
use crate::record::fold::{FOLDED_FRAMES_MAX, fold_digest};
use crate::record::{Chain, ControlRecord, FrameBuilder, FrameError, FrameHeader, FrameKind, Place};

/// Bytes of the tail copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// Writes what is planned. `None`: it would not become smaller after all.
pub(super) fn write(journal: &Arc<Journal>, plan: &Plan, bytes_max: u64) -> Result<Option<Folded>, JournalError> {
    let mut output = Output::new(journal, plan);
    let done = output.data(bytes_max).and_then(|fits| if fits { output.closing().map(Some) } else { Ok(None) });
    match done {
        Ok(Some(closing)) => output.commit(closing).map(Some),
        Ok(None) => {
            output.discard();
            Ok(None)
        }
        Err(error) => {
            output.discard();
            Err(error)
        }
    }
}

struct Output<'a> {
    journal: &'a Arc<Journal>,
    plan: &'a Plan,
    id: u64,
    builder: FrameBuilder,
    /// Segments of folded frames.
    written: Vec<Segment>,
    digests: Vec<Chain>,
    bytes: u64,
}

impl<'a> Output<'a> {
    fn new(journal: &'a Arc<Journal>, plan: &'a Plan) -> Self {
        // The same marker may end a fold again, then with another chain before it or more segments behind it.
        let id = Chain(plan.to.chain.0).after(&plan.segments.iter().fold(Vec::new(), |mut bytes, segment| {
            bytes.extend_from_slice(&segment.number.to_le_bytes());
            bytes.extend_from_slice(&segment.fold.map_or(0, |fold| fold.id).to_le_bytes());
            bytes
        }));
        let id = id.0.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { journal, plan, id, builder: FrameBuilder::new(), written: Vec::new(), digests: Vec::new(), bytes: 0 }
    }

    /// The folded frames. `false`: they need as much as what they replace, or more than one interval may have.
    fn data(&mut self, bytes_max: u64) -> Result<bool, JournalError> {
        let plan = self.plan;
        for (extent, source) in plan.fold.all() {
            match source {
                Source::Zero { hole } => {
                    self.make_room(0)?;
                    self.builder.push_zero(extent, hole);
                }
                Source::Data(place) => {
                    let length = usize::try_from(extent.length).unwrap_or(FRAME_RAW_BYTES_MAX);
                    self.make_room(length)?;
                    let mut bytes = vec![0; length];
                    if !read_journal(self.journal, &place, &mut bytes)? {
                        let what = "a chunk cannot be read";
                        return Err(self.journal.damaged(place.frame, FrameError::Malformed { what }));
                    }
                    self.builder.push_data(extent, &bytes);
                }
            }
            if self.is_too_large(bytes_max) {
                return Ok(false);
            }
        }
        if !self.builder.is_empty() {
            self.frame()?;
        }
        self.seal()?;
        Ok(!self.is_too_large(bytes_max))
    }

    /// The last segment of the stretch is needed for its end.
    fn is_too_large(&self, bytes_max: u64) -> bool {
        self.bytes > bytes_max
            || self.written.len() >= self.plan.segments.len()
            || self.digests.len() >= FOLDED_FRAMES_MAX
    }

    fn make_room(&mut self, data_bytes: usize) -> Result<(), JournalError> {
        let whole = usize::try_from(self.journal.options.segment_bytes / 4).unwrap_or(usize::MAX);
        let fits = self.builder.fits(data_bytes) && self.builder.raw_bytes() + data_bytes <= whole;
        if fits || self.builder.is_empty() { Ok(()) } else { self.frame() }
    }

    fn frame(&mut self) -> Result<(), JournalError> {
        let frame = self.builder.finish(FrameKind::Folded, &Place::at(self.journal.group, &self.plan.from));
        let need = record_bytes(frame.len());
        let full = |segment: &Segment| segment.used_bytes() + need > self.journal.options.segment_bytes;
        if self.written.last().is_none_or(full) {
            self.next_segment()?;
        }
        let Some(active) = self.written.last() else { return Ok(()) };
        append(self.journal, active, active.used_bytes(), &frame)?;
        active.set_end(active.used_bytes() + need);
        self.bytes += need;
        let header = FrameHeader::decode(&frame).map_err(|source| active.damaged(active.used_bytes(), source))?;
        self.digests.push(Chain::default().after(&header.encode()));
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), JournalError> {
        self.seal()?;
        let number = self.plan.segments.get(self.written.len()).map_or(u64::MAX, |segment| segment.number);
        let segment = self.create(number, FIRST_RECORD)?;
        self.written.push(segment);
        Ok(())
    }

    fn create(&self, number: u64, first_record: u64) -> Result<Segment, JournalError> {
        let first = self.plan.segments.first();
        let before_first = first.map_or_else(Position::default, |first| first.previous);
        let previous = self
            .written
            .last()
            .map_or(before_first, |segment| Position { segment: segment.number, offset: segment.used_bytes() });
        let header = SegmentHeader::new(number, self.journal.group, previous, &Start::of(&self.plan.from));
        let replaces_from = first.map_or(number, |first| first.number);
        Segment::create_folded(self.journal, header, FoldHeader { id: self.id, replaces_from, first_record })
    }

    fn seal(&self) -> Result<(), JournalError> {
        let Some(segment) = self.written.last() else { return Ok(()) };
        segment.grow(segment.used_bytes())?;
        segment.sync()
    }

    /// The segment with the record of the fold, the marker, and what lies behind it.
    fn closing(&self) -> Result<Segment, JournalError> {
        let (plan, to) = (self.plan, &self.plan.to);
        let record = ControlRecord::Folded {
            from_chain: plan.from.chain.0,
            frames: u32::try_from(self.digests.len()).unwrap_or(u32::MAX),
            digest: fold_digest(self.digests.iter()).0,
        };
        let old = plan.segments.last().ok_or(JournalError::Trimmed { position: plan.marker })?;
        let frame = record
            .frame(&Place::at(self.journal.group, to))
            .map_err(|source| old.damaged(plan.marker.offset, source))?;
        let first_record = plan.marker.offset.saturating_sub(record_bytes(frame.len()));
        let closing = self.create(old.number, first_record)?;
        append(self.journal, &closing, first_record, &frame)?;
        let (mut at, end) = (plan.marker.offset, old.used_bytes());
        let mut buffer = Vec::new();
        while at < end {
            buffer.resize(usize::try_from((end - at).min(COPY_BYTES)).unwrap_or_default(), 0);
            old.read(&mut buffer, at)?;
            closing.write(&buffer, at)?;
            at += buffer.len() as u64;
        }
        closing.grow(end)?;
        closing.set_end(end);
        closing.sync()?;
        let folder = &self.journal.folder;
        let synced = self.journal.disk.sync_folder(folder);
        synced.map_err(|source| JournalError::io("sync", folder, 0, source))?;
        Ok(closing)
    }

    fn commit(self, closing: Segment) -> Result<Folded, JournalError> {
        let journal = self.journal;
        let path = journal.folder.join(segment::file_name(closing.number));
        let renamed = journal.disk.rename(closing.path(), &path);
        if let Err(source) = renamed {
            // Whether the line goes through the fold now is not known: only the next start looks.
            journal.state.lock().fold_failed = true;
            return Err(JournalError::io("rename", closing.path(), 0, source));
        }
        let held = |segments: &[Arc<Segment>]| segments.iter().map(|segment| segment.held_bytes()).sum();
        let bytes_before = held(&self.plan.segments);
        let name = |number| journal.folder.join(segment::file_name(number));
        let new: Vec<_> =
            self.written.iter().chain([&closing]).map(|new| Arc::new(new.renamed(name(new.number)))).collect();
        let bytes_after = held(&new);
        let mut replaced: Vec<u64> = self.plan.segments.iter().map(|old| old.number).collect();
        replaced.retain(|number| new.iter().all(|new| new.number != *number));
        {
            let mut state = journal.state.lock();
            for old in &self.plan.segments {
                state.segments.remove(&old.number);
            }
            state.segments.extend(new.iter().map(|new| (new.number, Arc::clone(new))));
            state.replaced = Some(replaced);
        }
        // Other frames lie at these places now.
        journal.rest();
        // From here on a restart would finish it: what cannot be done now is no reason to undo it.
        if let Err(error) = journal.tidy() {
            tracing::warn!(%error, "what was folded could not be tidied up; it is tried again before anything is trimmed");
        }
        let from = self.plan.segments.first().map_or(self.plan.marker, |first| first.begin());
        Ok(Folded { from, to: self.plan.marker, markers: self.plan.markers, bytes_before, bytes_after })
    }

    fn discard(&self) {
        let numbers = self.written.iter().map(|segment| segment.number);
        for number in numbers.chain(self.plan.segments.last().map(|last| last.number)) {
            let _ = self.journal.disk.remove(&self.journal.folder.join(segment::fold_name(number)));
        }
    }
}

/// Writes a record at a place.
fn append(journal: &Journal, segment: &Segment, at: u64, frame: &[u8]) -> Result<(), JournalError> {
    let place = Position { segment: segment.number, offset: at };
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + frame.len());
    bytes.extend_from_slice(&Envelope::of(frame, journal.durable_end().position).encode(journal.group, place));
    bytes.extend_from_slice(frame);
    segment.write(&bytes, at)
}
