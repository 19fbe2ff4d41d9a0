//! Reading a record that may be torn, and judging what lies behind one that is.

use super::reader::{check_binding, read_envelope};
use super::segment::{ENVELOPE_BYTES, Segment, record_bytes};
use super::writer::follow;
use super::{JournalError, Position};
use crate::record::{ControlRecord, FrameError, FrameHeader, FrameKind, FrameView, HEADER_BYTES, Tip};

/// Why a record cannot be taken.
pub(super) enum Bad {
    /// No envelope can be read: none was written, or it is torn or damaged.
    Envelope(FrameError),
    /// Its envelope was written, and part of its frame is not what was written with it: torn or damaged.
    Frame(FrameError),
    /// It is what was written, and makes no sense to this build: never a torn tail, whatever lies behind.
    Sense(FrameError),
    /// The disk failed.
    Journal(JournalError),
}

impl From<FrameError> for Bad {
    /// Sense is asked for only where checksums hold.
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Short { .. } | FrameError::Magic | FrameError::Checksum { .. } => Self::Frame(error),
            FrameError::Version { .. } | FrameError::Malformed { .. } => Self::Sense(error),
        }
    }
}

impl From<JournalError> for Bad {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// A record as recovery takes it.
pub(super) struct Record {
    pub header: FrameHeader,
    /// A control frame's content.
    pub control: Option<ControlRecord>,
    /// The durable end when it was written.
    pub durable: Position,
}

/// Reads one record; with `whole`, all its data is verified as well.
pub(super) fn read_record(segment: &Segment, at: Position, whole: bool) -> Result<Record, Bad> {
    let room = segment.capacity().saturating_sub(at.offset);
    let need = ENVELOPE_BYTES + HEADER_BYTES;
    if room < need as u64 {
        return Err(Bad::Envelope(FrameError::Short { have: usize::try_from(room).unwrap_or(0), need }));
    }
    let mut head = [0; ENVELOPE_BYTES + HEADER_BYTES];
    segment.read(&mut head, at.offset)?;
    let (envelope, header) = head.split_at(ENVELOPE_BYTES);
    let envelope = match read_envelope(envelope, segment.group, at) {
        Err(error @ FrameError::Malformed { .. }) => return Err(Bad::Sense(error)),
        envelope => envelope.map_err(Bad::Envelope)?,
    };
    if record_bytes(envelope.frame_bytes as usize) > room {
        return Err(FrameError::Malformed { what: "it runs over the end of the segment" }.into());
    }
    // Before the header is judged: an old one may lie where a new one was to come.
    check_binding(&envelope, header).map_err(Bad::Frame)?;
    let header = FrameHeader::decode(header)?;
    if header.frame_bytes() != envelope.frame_bytes as usize {
        return Err(FrameError::Malformed { what: "its envelope and header disagree" }.into());
    }
    let durable = envelope.durable;
    if !whole && header.kind != FrameKind::Control {
        return Ok(Record { header, control: None, durable });
    }
    let mut bytes = vec![0; header.frame_bytes()];
    segment.read(&mut bytes, at.offset + ENVELOPE_BYTES as u64)?;
    let view = FrameView::verified(&bytes)?;
    let control = (header.kind == FrameKind::Control).then(|| ControlRecord::of(&view)).transpose()?;
    Ok(Record { header, control, durable })
}

/// What the bytes are that begin with a bad record, in the newest segment.
pub(super) enum Tail {
    /// The end: nothing was written there in this segment.
    End,
    /// A write that was under way.
    Torn,
    /// A later record says that the bad one was durable.
    Damage,
}

/// Judges a record whose bytes are bad; `begun` when its envelope shows that this segment's life wrote it.
pub(super) fn judge(segment: &Segment, at: Position, begun: bool) -> Result<Tail, JournalError> {
    const STEP: u64 = 1 << 20;
    let mut found = if begun { Tail::Torn } else { Tail::End };
    let mut from = at.offset + ENVELOPE_BYTES as u64;
    let mut buffer = Vec::new();
    while from < segment.capacity() {
        let length = STEP.min(segment.capacity() - from);
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        segment.read(&mut buffer, from)?;
        for (index, bytes) in buffer.as_chunks::<ENVELOPE_BYTES>().0.iter().enumerate() {
            let place = Position { offset: from + (index * ENVELOPE_BYTES) as u64, ..at };
            match read_envelope(bytes, segment.group, place) {
                Ok(envelope) if envelope.durable > at => return Ok(Tail::Damage),
                Ok(_) => found = Tail::Torn,
                Err(_) => {}
            }
        }
        from += STEP;
    }
    Ok(found)
}

/// Whether a record was begun at a place without an envelope: the frame behind it is the very next of this history. Else
/// there are zeroes, or old bytes of a recycled file.
pub(super) fn begun_without_envelope(segment: &Segment, at: Position, tip: &Tip) -> Result<bool, JournalError> {
    let begin = at.offset + ENVELOPE_BYTES as u64;
    let mut bytes = [0; HEADER_BYTES];
    if begin + HEADER_BYTES as u64 > segment.capacity() {
        return Ok(false);
    }
    segment.read(&mut bytes, begin)?;
    // The begin of a copy follows anything, so it says nothing here.
    let header = FrameHeader::decode(&bytes).ok().filter(|header| !header.rebase);
    Ok(header.is_some_and(|header| follow(tip, &header, segment.group).is_ok()))
}
