//! What a connected pair is sent, in order: frames of the journal as they lie there and, while a differential copy runs,
//! the content of its regions between them (decision 1). A thread of its own, because it reads disks.
//!
//! Keeps: 6 (nothing is passed over), 7 (only what is durable in the journal; a region waits until all it may contain is).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{JournalError, Position, Reader};
use tidemark_common::limits::CHUNK_BYTES;
use tidemark_common::record::{
    ControlRecord, FrameBuilder, FrameError, FrameHeader, FrameKind, HEADER_BYTES, Place, Tip,
};
use tokio::sync::{mpsc, oneshot};

use crate::cut::{CutError, CutRequest};
use crate::differences::{Differences, DifferencesError};
use crate::drain::DrainDesk;
use crate::image::{Image, ImageError};

/// Bytes of regions sent at once, and of frames between two of them.
const TURN_BYTES: usize = 2 << 20;
/// Extents of one frame of regions at most.
const REGION_EXTENTS: usize = 512;
/// A feeder with nothing to send looks again after this long.
const IDLE: Duration = Duration::from_millis(500);

/// One frame on its way.
#[derive(Debug)]
pub struct Shipment {
    /// Its bytes.
    pub bytes: Bytes,
    /// The last sequence number with it.
    pub seq: Seq,
    /// The newest marker with it.
    pub marker: MarkerNumber,
    /// Where the journal goes on behind it.
    pub next: Position,
}

/// Why feeding stopped.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The volumes.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A frame could not be made.
    #[error("a frame could not be made: {0}")]
    Frame(#[from] FrameError),
    /// The pair's record.
    #[error(transparent)]
    Differences(#[from] DifferencesError),
    /// The end of the copy could not be marked.
    #[error("the end of the copy could not be marked: {0}")]
    Cut(#[from] CutError),
    /// A frame of the journal does not follow the one before.
    #[error("the journal's frame does not follow what was sent: {what}")]
    Order {
        /// What does not follow.
        what: &'static str,
    },
    /// The connection is over, or the group stops.
    #[error("stopped")]
    Stopped,
}

/// The differential copy a feeder sends.
#[derive(Debug)]
pub struct CopyFeed {
    /// Its number.
    pub number: u64,
    /// What to send first: the begin record, when the other side does not have it yet.
    pub begin: Option<ControlRecord>,
    /// The regions.
    pub bitmap: Bitmap,
    /// The next region to look at.
    pub cursor: (VolumeIndex, u64),
    /// The end marker, once it is cut.
    pub end: Option<MarkerNumber>,
}

/// The feeder of one connection.
pub struct Feeder {
    /// What to read.
    pub image: Image,
    /// Whom to ask for a cut.
    pub desk: Arc<DrainDesk>,
    /// Where the copy's end is kept.
    pub differences: Arc<Differences>,
    /// The group.
    pub group: GroupId,
    /// What comes next of the journal.
    pub reader: Reader,
    /// Where the other side's history stands.
    pub tip: Tip,
    /// The copy under way.
    pub copy: Option<CopyFeed>,
    /// Where shipments go.
    pub out: mpsc::Sender<Shipment>,
    /// Set to end.
    pub stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Feeder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeder").field("differences", &self.differences).field("tip", &self.tip).finish_non_exhaustive()
    }
}

impl Feeder {
    /// Feeds until told to stop.
    ///
    /// # Errors
    /// [`FeedError`]: why it cannot go on.
    pub fn run(mut self) -> Result<(), FeedError> {
        self.begin_copy()?;
        while !self.stop.load(Ordering::Acquire) {
            let sent = self.send_journal()?;
            let copied = self.advance_copy()?;
            if !sent && !copied {
                self.image.journal.wait_durable(self.reader.position(), IDLE);
            }
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place {
            group: self.group,
            member: 0,
            generation: self.tip.generation,
            first_seq: self.tip.seq,
            last_seq: self.tip.seq,
            marker: self.tip.marker,
            chain: self.tip.chain,
        }
    }

    fn send(&mut self, bytes: Bytes, header: &FrameHeader) -> Result<(), FeedError> {
        self.tip = self.tip.follow(header).map_err(|what| FeedError::Order { what })?;
        let shipment = Shipment { bytes, seq: self.tip.seq, marker: self.tip.marker, next: self.reader.position() };
        self.out.blocking_send(shipment).map_err(|_| FeedError::Stopped)
    }

    fn send_built(&mut self, frame: Vec<u8>) -> Result<(), FeedError> {
        let header = FrameHeader::decode(frame.get(..HEADER_BYTES).unwrap_or_default())?;
        self.send(Bytes::from(frame), &header)
    }

    fn send_record(&mut self, record: &ControlRecord) -> Result<(), FeedError> {
        let frame = record.frame(&self.place())?;
        self.send_built(frame)
    }

    /// Sends a turn of what the journal has.
    fn send_journal(&mut self) -> Result<bool, FeedError> {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some(frame) = self.reader.next_frame()? else { break };
            bytes += frame.bytes.len();
            self.send(frame.bytes, &frame.header)?;
            self.end_copy_if_reached()?;
        }
        Ok(bytes > 0)
    }

    fn begin_copy(&mut self) -> Result<(), FeedError> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        if let Some(begin) = copy.begin.take() {
            self.send_record(&begin)?;
        }
        self.end_copy_if_reached()
    }

    /// One turn of the copy: regions, then the end marker, then nothing but waiting for it to be sent.
    fn advance_copy(&mut self) -> Result<bool, FeedError> {
        let Some(copy) = &self.copy else { return Ok(false) };
        if copy.end.is_some() {
            return Ok(false);
        }
        match copy.bitmap.next_run(copy.cursor.0, copy.cursor.1) {
            Some(_) => self.send_regions()?,
            None => self.cut_end()?,
        }
        Ok(true)
    }

    fn send_regions(&mut self) -> Result<(), FeedError> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let mut builder = FrameBuilder::new();
        let (mut cursor, mut extents, mut buffer) = (copy.cursor, 0, vec![0; CHUNK_BYTES]);
        while builder.raw_bytes() < TURN_BYTES && extents < REGION_EXTENTS {
            let Some(run) = copy.bitmap.next_run(cursor.0, cursor.1) else { break };
            cursor = self.read_region(run, &mut builder, &mut buffer)?;
            extents += 1;
        }
        let done_bytes = copy.bitmap.bytes_before(cursor.0, cursor.1);
        let progress =
            ControlRecord::CopyProgress { copy: copy.number, volume: cursor.0.0, offset: cursor.1, done_bytes };
        self.wait_until_durable()?;
        if !builder.is_empty() {
            let frame = builder.finish(FrameKind::Regions, &self.place());
            self.send_built(frame)?;
        }
        self.send_record(&progress)?;
        if let Some(copy) = &mut self.copy {
            copy.cursor = cursor;
        }
        Ok(())
    }

    /// Adds the begin of a run of regions, a hole of any length or a chunk of data; returns where the next one begins.
    fn read_region(
        &self,
        run: Extent,
        builder: &mut FrameBuilder,
        buffer: &mut [u8],
    ) -> Result<(VolumeIndex, u64), FeedError> {
        let size = self.image.volumes.get(run.volume).map_or(0, |volume| volume.size());
        let end = run.end().min(size);
        if run.offset >= end {
            return Ok((run.volume, run.end()));
        }
        let left = Extent { length: end - run.offset, ..run };
        let hole = self.image.hole(left)?;
        if hole > 0 {
            let part = Extent { length: hole, ..left };
            builder.push_zero(part, true);
            return Ok((run.volume, if part.end() == size { run.end() } else { part.end() }));
        }
        let length = left.length.min(CHUNK_BYTES as u64 - run.offset % CHUNK_BYTES as u64);
        let part = Extent { length, ..left };
        let target = buffer.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        self.image.read(part, target)?;
        builder.push_data(part, target);
        Ok((run.volume, if part.end() == size { run.end() } else { part.end() }))
    }

    /// Invariant 7: a region read now may hold writes that only the buffer has; a loss of power could take them back.
    fn wait_until_durable(&self) -> Result<(), FeedError> {
        let captured = self.image.buffer.captured();
        self.desk.want(captured, &self.image.buffer);
        while self.image.journal.durable_end().seq < captured {
            if self.stop.load(Ordering::Acquire) {
                return Err(FeedError::Stopped);
            }
            self.image.journal.wait_durable(self.image.journal.durable_end().position, IDLE);
        }
        Ok(())
    }

    fn cut_end(&mut self) -> Result<(), FeedError> {
        let (reply, marker) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag: None, reply }, &self.image.buffer);
        let marker = MarkerNumber(marker.blocking_recv().map_err(|_| FeedError::Stopped)??.marker.number);
        let Some(copy) = &mut self.copy else { return Ok(()) };
        if !self.differences.end_cut(copy.number, marker)? {
            // Another copy has taken its place: this connection is over.
            return Err(FeedError::Stopped);
        }
        copy.end = Some(marker);
        Ok(())
    }

    fn end_copy_if_reached(&mut self) -> Result<(), FeedError> {
        let Some((number, end)) = self.copy.as_ref().and_then(|copy| Some((copy.number, copy.end?))) else {
            return Ok(());
        };
        if self.tip.marker >= end {
            self.copy = None;
            self.send_record(&ControlRecord::CopyEnd { copy: number, marker: end.0 })?;
        }
        Ok(())
    }
}
