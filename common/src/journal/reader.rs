//! Following a journal: verified frames out, in order, up to the durable end (invariants 7, 9).

use std::sync::Arc;

use bytes::Bytes;

use super::segment::{ENVELOPE_BYTES, Envelope, Segment, record_bytes};
use super::{Journal, JournalError, Position, recent};
use crate::ids::GroupId;
use crate::limits::FRAME_STORED_BYTES_MAX;
use crate::record::{FrameError, FrameHeader, FrameView, HEADER_BYTES};

/// A frame read from the journal, fully verified.
#[derive(Debug, Clone)]
pub struct ReadFrame {
    /// Where its first byte lies.
    pub position: Position,
    /// Where the next record begins.
    pub next: Position,
    /// Its header.
    pub header: FrameHeader,
    /// All its bytes.
    pub bytes: Bytes,
    /// All its data, uncompressed, when that is still in memory.
    pub raw: Option<Bytes>,
}

/// One reader of a journal.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    at: Position,
    segment: Option<Arc<Segment>>,
}

impl Reader {
    pub(super) const fn new(journal: Arc<Journal>, at: Position) -> Self {
        Self { journal, at, segment: None }
    }

    /// Where the next record begins.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.at
    }

    /// The next durable frame; `None` at the durable end.
    ///
    /// # Errors
    /// [`JournalError`]; the reader stays where it was.
    pub fn next_frame(&mut self) -> Result<Option<ReadFrame>, JournalError> {
        self.read_frame().map_err(|error| self.unless_trimmed(error))
    }

    fn read_frame(&mut self) -> Result<Option<ReadFrame>, JournalError> {
        let Some(segment) = self.next_place()? else { return Ok(None) };
        if let Some(frame) = self.recent_frame(&segment)? {
            return Ok(Some(frame));
        }
        let envelope = self.envelope(&segment)?;
        let begin = self.at.offset + ENVELOPE_BYTES as u64;
        let bytes = segment.frame(envelope.frame_bytes as usize, begin)?;
        let view = FrameView::verified(&bytes).map_err(|source| segment.damaged(begin, source))?;
        check_binding(&envelope, &bytes).map_err(|source| segment.damaged(begin, source))?;
        let header = view.header;
        let position = Position { offset: begin, ..self.at };
        self.at.offset += record_bytes(bytes.len());
        Ok(Some(ReadFrame { position, next: self.at, header, bytes, raw: None }))
    }

    /// What was appended a moment ago is still in memory, and was verified before.
    fn recent_frame(&mut self, segment: &Segment) -> Result<Option<ReadFrame>, JournalError> {
        let position = Position { offset: self.at.offset + ENVELOPE_BYTES as u64, ..self.at };
        let Some(recent::Kept { frame: bytes, raw }) = self.journal.kept(position) else { return Ok(None) };
        let header = FrameHeader::decode(&bytes).map_err(|source| segment.damaged(position.offset, source))?;
        self.at.offset += record_bytes(bytes.len());
        Ok(Some(ReadFrame { position, next: self.at, header, bytes, raw }))
    }

    /// The next durable frame's header, the frame itself skipped: (where its record begins, header).
    ///
    /// # Errors
    /// [`JournalError`]; the reader stays where it was.
    pub fn next_header(&mut self) -> Result<Option<(Position, FrameHeader)>, JournalError> {
        self.read_header().map_err(|error| self.unless_trimmed(error))
    }

    fn read_header(&mut self) -> Result<Option<(Position, FrameHeader)>, JournalError> {
        let Some(segment) = self.next_place()? else { return Ok(None) };
        let position = self.at;
        if let Some(frame) = self.recent_frame(&segment)? {
            return Ok(Some((position, frame.header)));
        }
        let envelope = self.envelope(&segment)?;
        let begin = self.at.offset + ENVELOPE_BYTES as u64;
        let mut bytes = [0; HEADER_BYTES];
        segment.read(&mut bytes, begin)?;
        let header = FrameHeader::decode(&bytes).map_err(|source| segment.damaged(begin, source))?;
        check_binding(&envelope, &bytes).map_err(|source| segment.damaged(begin, source))?;
        self.at.offset += record_bytes(envelope.frame_bytes as usize);
        Ok(Some((position, header)))
    }

    /// The next durable frame, at least its header and tables, verified, for an index; with its data only when that is still in memory.
    ///
    /// # Errors
    /// [`JournalError`]; the reader stays where it was.
    pub fn next_tables(&mut self) -> Result<Option<ReadFrame>, JournalError> {
        self.read_tables().map_err(|error| self.unless_trimmed(error))
    }

    /// The same, for frames that begin before a place.
    ///
    /// # Errors
    /// As [`Self::next_tables`].
    pub(crate) fn next_tables_before(&mut self, end: Position) -> Result<Option<ReadFrame>, JournalError> {
        if self.position() >= end {
            return Ok(None);
        }
        Ok(self.next_tables()?.filter(|frame| frame.position < end))
    }

    fn read_tables(&mut self) -> Result<Option<ReadFrame>, JournalError> {
        let Some(segment) = self.next_place()? else { return Ok(None) };
        if let Some(frame) = self.recent_frame(&segment)? {
            return Ok(Some(frame));
        }
        let envelope = self.envelope(&segment)?;
        let begin = self.at.offset + ENVELOPE_BYTES as u64;
        let mut bytes = vec![0; HEADER_BYTES];
        segment.read(&mut bytes, begin)?;
        check_binding(&envelope, &bytes).map_err(|source| segment.damaged(begin, source))?;
        let header = FrameHeader::decode(&bytes).map_err(|source| segment.damaged(begin, source))?;
        bytes.resize(HEADER_BYTES + header.table_bytes as usize, 0);
        segment.read(bytes.get_mut(HEADER_BYTES..).unwrap_or_default(), begin + HEADER_BYTES as u64)?;
        FrameView::new(&bytes).map_err(|source| segment.damaged(begin, source))?;
        let position = Position { offset: begin, ..self.at };
        self.at.offset += record_bytes(envelope.frame_bytes as usize);
        Ok(Some(ReadFrame { position, next: self.at, header, bytes: Bytes::from(bytes), raw: None }))
    }

    /// A trimmed segment's file holds another segment by and by: that is no damage.
    fn unless_trimmed(&self, error: JournalError) -> JournalError {
        if self.journal.segment(self.at.segment).is_none() {
            return JournalError::Trimmed { position: self.at };
        }
        error
    }

    /// The segment in which the next durable record begins, at `self.at`; `None` at the durable end.
    fn next_place(&mut self) -> Result<Option<Arc<Segment>>, JournalError> {
        loop {
            let durable = self.journal.durable_end().position;
            if self.at >= durable {
                return Ok(None);
            }
            let segment = self.current()?;
            if segment.ends_before(self.at.offset) {
                let Some(next) = self.journal.behind(&segment, self.at)? else { return Ok(None) };
                self.at = next.begin();
                self.segment = Some(next);
                continue;
            }
            return Ok(Some(segment));
        }
    }

    fn envelope(&self, segment: &Segment) -> Result<Envelope, JournalError> {
        let mut bytes = [0; ENVELOPE_BYTES];
        segment.read(&mut bytes, self.at.offset)?;
        read_envelope(&bytes, segment.group, self.at).map_err(|source| segment.damaged(self.at.offset, source))
    }

    fn current(&mut self) -> Result<Arc<Segment>, JournalError> {
        if let Some(segment) = self.segment.as_ref().filter(|segment| segment.number == self.at.segment) {
            return Ok(Arc::clone(segment));
        }
        let segment = self.journal.segment(self.at.segment);
        // What lay before the records of a folded segment is folded.
        let segment = segment.filter(|segment| self.at.offset >= segment.first_record());
        let segment = segment.ok_or(JournalError::Trimmed { position: self.at })?;
        self.segment = Some(Arc::clone(&segment));
        Ok(segment)
    }
}

/// Reads an envelope and holds it to the limits.
pub(super) fn read_envelope(bytes: &[u8], group: GroupId, at: Position) -> Result<Envelope, FrameError> {
    let envelope = Envelope::decode(bytes, group, at)?;
    let length = envelope.frame_bytes as usize;
    if !(HEADER_BYTES..=FRAME_STORED_BYTES_MAX).contains(&length) {
        return Err(FrameError::Malformed { what: "its envelope's length is out of range" });
    }
    Ok(envelope)
}

/// The envelope must have been written for this very frame.
pub(super) fn check_binding(envelope: &Envelope, frame: &[u8]) -> Result<(), FrameError> {
    let check = frame.get(..HEADER_BYTES).and_then(|header| header.last_chunk::<4>());
    if check == Some(&envelope.frame_check) {
        Ok(())
    } else {
        Err(FrameError::Malformed { what: "its envelope belongs to another frame" })
    }
}
