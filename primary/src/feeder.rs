//! What a connected pair is sent, in order: frames of the journal as they lie there and, while a differential copy runs,
//! the content of its regions between them (decision 1). A thread of its own, because it reads disks.
//!
//! Keeps: 6 (nothing is passed over), 7 (only what is durable in the journal; a region waits until all it may contain is).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{JournalError, Position, Reader};
use tidemark_common::limits::CHUNK_BYTES;
use tidemark_common::record::{
    ControlRecord, FrameBuilder, FrameError, FrameHeader, FrameKind, HEADER_BYTES, Place, RegionsDigest, Tip,
};
use tokio::sync::{mpsc, oneshot};

use crate::coalesce::{Coalescer, Next, Part};
use crate::cut::{CutDone, CutError, CutRequest};
use crate::differences::{Differences, DifferencesError};
use crate::drain::DrainDesk;
use crate::image::{Image, ImageError};

/// Bytes of regions sent at once, and of frames between two of them.
pub const TURN_BYTES: usize = 2 << 20;
/// Extents of one frame of regions at most.
const REGION_EXTENTS: usize = 512;
/// A feeder with nothing to send looks again after this long.
const IDLE: Duration = Duration::from_millis(500);
/// One that waits for the end of an interval, to send what it has after all, after this.
const LOOK: Duration = Duration::from_millis(100);
/// A frame waits this long at most for others to be sent with it: on its way each costs more than its bytes do.
const COMPANY: Duration = Duration::from_millis(5);

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
    /// Bytes of data that hosts overwrote within their interval, and that were not sent because of that.
    pub spared_bytes: u64,
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
    /// Regions of a copy were not read.
    #[error("{read} bytes of the copy were read where {marked} are marked: it begins again at its last step")]
    Regions {
        /// What was passed.
        read: u64,
        /// What was to be.
        marked: u64,
    },
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
    /// The other side's image is given up for it.
    pub gives_up: bool,
    /// What to send first: the begin record, when the other side does not have it yet.
    pub begin: Option<ControlRecord>,
    /// The regions.
    pub bitmap: Bitmap,
    /// The next region to look at.
    pub cursor: (VolumeIndex, u64),
    /// The end marker, once it is cut.
    pub end: Option<MarkerNumber>,
}

/// How far a pair's feeders have come in the journal. It is locked for each of its steps: who holds the lock keeps it where it is,
/// with the connection as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Nothing from here on was read.
    pub at: Position,
    /// The newest marker before that.
    pub marker: MarkerNumber,
}

/// The feeder of one connection.
pub struct Feeder {
    /// What to read.
    pub image: Image,
    /// Whom to ask for a cut.
    pub desk: Arc<DrainDesk>,
    /// Where the copy's end is kept.
    pub differences: Arc<Differences>,
    /// Which sender of them it is.
    pub(crate) sender: u64,
    /// The group.
    pub group: GroupId,
    /// What comes next of the journal.
    pub reader: Reader,
    /// Where others see how far that is.
    pub reading: Arc<Mutex<Reading>>,
    /// Where the other side's history stands.
    pub tip: Tip,
    /// The copy under way.
    pub copy: Option<CopyFeed>,
    /// Made ready and not yet taken.
    pub ready: Vec<Shipment>,
    /// Regions that wait for the journal.
    pub held: Option<Regions>,
    /// Bytes of frames since the last regions.
    pub since_regions: usize,
    /// [`TURN_BYTES`], unless a simulation wants many small turns.
    pub turn_bytes: usize,
    /// What makes one of what was written more than once.
    pub(crate) coalescer: Coalescer,
}

/// Regions that were read.
#[derive(Debug)]
pub struct Regions {
    builder: FrameBuilder,
    /// Where the next one begins.
    cursor: (VolumeIndex, u64),
    /// What they may hold.
    captured: Seq,
}

/// What came of a step.
#[derive(Debug)]
pub enum Feeding {
    /// Shipments are ready.
    Ready,
    /// Nothing can be sent before the journal is durable beyond this place.
    Journal(Position),
    /// The end of the copy was asked for: [`Feeder::end_is_cut`] is to be told of it.
    Cut(oneshot::Receiver<Result<CutDone, CutError>>),
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
    pub fn run(mut self, out: &mpsc::Sender<Shipment>, stop: &AtomicBool) -> Result<(), FeedError> {
        while !stop.load(Ordering::Acquire) {
            match self.step()? {
                Feeding::Ready => {
                    for shipment in self.ready.drain(..) {
                        out.blocking_send(shipment).map_err(|_| FeedError::Stopped)?;
                    }
                }
                // Regions that wait for the journal hold the whole copy up.
                Feeding::Journal(past) if self.held.is_some() => self.image.journal.wait_durable(past, IDLE),
                Feeding::Journal(past) => {
                    let time = if self.coalescer.is_waiting() { LOOK } else { IDLE };
                    self.image.journal.wait_for_company(past, time, COMPANY);
                }
                Feeding::Cut(marker) => {
                    self.end_is_cut(marker.blocking_recv().map_err(|_| FeedError::Stopped)??)?;
                }
            }
        }
        Ok(())
    }

    /// Does what can be done now; what it makes ready is to be sent before the next step.
    ///
    /// # Errors
    /// [`FeedError`]: why it cannot go on.
    pub fn step(&mut self) -> Result<Feeding, FeedError> {
        let reading = Arc::clone(&self.reading);
        let mut reading = reading.lock();
        let done = self.go_on();
        // Only ahead: what was read for a connection that is over may still be on its way.
        let read_up_to = self.read_up_to();
        if read_up_to > reading.at {
            *reading = Reading { at: read_up_to, marker: self.tip.marker };
        }
        done
    }

    fn go_on(&mut self) -> Result<Feeding, FeedError> {
        if self.begin_copy()? {
            return Ok(Feeding::Ready);
        }
        if let Some(turn) = self.held.take() {
            return self.send_regions(turn);
        }
        if self.since_regions < self.turn_bytes && self.send_journal()? {
            return Ok(Feeding::Ready);
        }
        let journal_waits = self.since_regions >= self.turn_bytes;
        self.since_regions = 0;
        match &self.copy {
            Some(copy) if copy.end.is_none() => match copy.bitmap.next_run(copy.cursor.0, copy.cursor.1) {
                Some(_) => {
                    let turn = self.read_regions()?;
                    self.send_regions(turn)
                }
                None => Ok(self.cut_end()),
            },
            _ if journal_waits => self.go_on(),
            _ => Ok(Feeding::Journal(self.read_up_to())),
        }
    }

    /// Nothing of the journal was read from here on.
    fn read_up_to(&self) -> Position {
        self.reader.position().max(self.coalescer.up_to())
    }

    /// What a step made ready, in order.
    pub fn take_ready(&mut self) -> Vec<Shipment> {
        std::mem::take(&mut self.ready)
    }

    fn place(&self) -> Place {
        Place::at(self.group, &self.tip)
    }

    fn send(&mut self, bytes: Bytes, header: &FrameHeader) -> Result<(), FeedError> {
        let tip = self.tip.follow(header).map_err(|what| FeedError::Order { what })?;
        if tip.marker > self.tip.marker {
            self.coalescer.marker_sent();
        }
        self.tip = tip;
        let (Tip { seq, marker, .. }, next) = (self.tip, self.reader.position());
        self.ready.push(Shipment { bytes, seq, marker, next, spared_bytes: 0 });
        Ok(())
    }

    fn send_built(&mut self, frame: Bytes) -> Result<(), FeedError> {
        let header = FrameHeader::decode(frame.get(..HEADER_BYTES).unwrap_or_default())?;
        self.send(frame, &header)
    }

    fn send_record(&mut self, record: &ControlRecord) -> Result<(), FeedError> {
        let frame = record.frame(&self.place())?;
        self.send_built(frame.into())
    }

    /// Sends the next frame of the journal, or a part of what is folded. `false`: there is none.
    fn send_journal(&mut self) -> Result<bool, FeedError> {
        // Regions lie between frames: these go as they are.
        if self.copy.is_none() {
            let interval_bytes = self.desk.interval_bytes();
            match self.coalescer.next(&self.image.journal, self.reader.position(), &self.tip, interval_bytes)? {
                Next::AsTheyAre => {}
                Next::Wait => return Ok(false),
                Next::Folded => return self.send_folded().map(|()| true),
            }
        }
        let Some(frame) = self.reader.next_frame()? else { return Ok(false) };
        self.since_regions += frame.bytes.len();
        self.send(frame.bytes, &frame.header)?;
        self.end_copy_if_reached()?;
        Ok(true)
    }

    fn send_folded(&mut self) -> Result<(), FeedError> {
        match self.coalescer.fold(self.group)? {
            Part::Frames(frames) => frames.into_iter().try_for_each(|frame| self.send_built(frame)),
            Part::End { record, to, next, spared_bytes } => {
                self.reader = self.image.journal.reader(next);
                let frame = record.frame(&Place::at(self.group, &to))?;
                self.send_built(frame.into())?;
                if let Some(last) = self.ready.last_mut() {
                    last.spared_bytes = spared_bytes;
                }
                Ok(())
            }
        }
    }

    /// `false`: it has begun before.
    fn begin_copy(&mut self) -> Result<bool, FeedError> {
        let Some(copy) = &mut self.copy else { return Ok(false) };
        let (gives_up, begin) = (std::mem::take(&mut copy.gives_up), copy.begin.take());
        if !gives_up && begin.is_none() {
            return self.end_copy_if_reached();
        }
        if gives_up {
            self.send_record(&ControlRecord::ImageGivenUp)?;
        }
        if let Some(begin) = begin {
            self.send_record(&begin)?;
        }
        self.end_copy_if_reached()?;
        Ok(true)
    }

    fn read_regions(&self) -> Result<Regions, FeedError> {
        let Some(copy) = &self.copy else { return Err(FeedError::Stopped) };
        let mut builder = FrameBuilder::new();
        let (mut cursor, mut extents, mut buffer) = (copy.cursor, 0, vec![0; CHUNK_BYTES]);
        let mut read = 0;
        while builder.raw_bytes() < self.turn_bytes && extents < REGION_EXTENTS {
            let Some(run) = copy.bitmap.next_run(cursor.0, cursor.1) else { break };
            cursor = self.read_region(run, &mut builder, &mut buffer)?;
            read += cursor.1 - run.offset;
            extents += 1;
        }
        all_are_read(&copy.bitmap, copy.cursor, cursor, read)?;
        // Invariant 7: a region read now may hold writes that only the buffer has; a loss of power could take them back.
        let captured = self.image.buffer.captured();
        self.desk.want(captured, &self.image.buffer);
        Ok(Regions { builder, cursor, captured })
    }

    /// Sends regions that were read, and how far the copy is with them; once the journal has what they may hold.
    fn send_regions(&mut self, mut regions: Regions) -> Result<Feeding, FeedError> {
        let durable = self.image.journal.durable_end();
        if durable.seq < regions.captured {
            self.held = Some(regions);
            return Ok(Feeding::Journal(durable.position));
        }
        let mut step = RegionsDigest::default();
        if !regions.builder.is_empty() {
            let frame = regions.builder.finish(FrameKind::Regions, &self.place());
            step.take(&FrameHeader::decode(frame.get(..HEADER_BYTES).unwrap_or_default())?);
            self.send_built(frame)?;
        }
        let Some(copy) = &mut self.copy else { return Err(FeedError::Stopped) };
        let from = std::mem::replace(&mut copy.cursor, regions.cursor);
        let (number, (volume, offset)) = (copy.number, copy.cursor);
        let done_bytes = copy.bitmap.bytes_before(volume, offset);
        self.send_record(&ControlRecord::CopyStep {
            copy: number,
            from_volume: from.0.0,
            from_offset: from.1,
            volume: volume.0,
            offset,
            done_bytes,
            digest: step.bytes(),
        })?;
        Ok(Feeding::Ready)
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

    fn cut_end(&self) -> Feeding {
        let (reply, marker) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag: None, reply }, &self.image.buffer);
        Feeding::Cut(marker)
    }

    /// What a step asked for is done.
    ///
    /// # Errors
    /// [`FeedError`]: why it cannot go on.
    pub fn end_is_cut(&mut self, done: CutDone) -> Result<(), FeedError> {
        let marker = MarkerNumber(done.marker.number);
        let Some(copy) = &mut self.copy else { return Ok(()) };
        if !self.differences.end_cut(copy.number, self.sender, marker)? {
            // Another copy, or another connection, has taken its place: this one is over.
            return Err(FeedError::Stopped);
        }
        copy.end = Some(marker);
        Ok(())
    }

    /// `false`: the copy's end is not reached, or there is no copy.
    fn end_copy_if_reached(&mut self) -> Result<bool, FeedError> {
        let Some((number, end)) = self.copy.as_ref().and_then(|copy| Some((copy.number, copy.end?))) else {
            return Ok(false);
        };
        if self.tip.marker < end {
            return Ok(false);
        }
        self.copy = None;
        self.send_record(&ControlRecord::CopyEnd { copy: number, marker: end.0 })?;
        Ok(true)
    }
}

/// Whether what was read of a copy is what is marked from one place to another, counted in another way: a region passed over would
/// be equal over there by word alone (invariant 6).
fn all_are_read(bitmap: &Bitmap, from: (VolumeIndex, u64), to: (VolumeIndex, u64), read: u64) -> Result<(), FeedError> {
    let marked = bitmap.bytes_up_to(to.0, to.1).saturating_sub(bitmap.bytes_up_to(from.0, from.1));
    if read == marked { Ok(()) } else { Err(FeedError::Regions { read, marked }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_was_passed_over_is_noticed() {
        const REGION: u64 = 65_536;
        let mut bitmap = Bitmap::default();
        for (volume, offset, length) in [(1, 0, 3 * REGION), (1, 9 * REGION, REGION), (2, 4096, 1)] {
            bitmap.mark(Extent { volume: VolumeIndex(volume), offset, length });
        }
        let (begin, end) = ((VolumeIndex(0), 0), (VolumeIndex(2), REGION));
        assert!(all_are_read(&bitmap, begin, end, 5 * REGION).is_ok());
        assert!(all_are_read(&bitmap, begin, end, 4 * REGION).is_err(), "one is missing");
        // A hole may end inside of a region.
        let inside = (VolumeIndex(1), 2 * REGION + 512);
        assert!(all_are_read(&bitmap, begin, inside, 2 * REGION + 512).is_ok());
        assert!(all_are_read(&bitmap, inside, end, 3 * REGION - 512).is_ok());
        assert!(all_are_read(&bitmap, inside, (VolumeIndex(2), 0), REGION).is_err(), "the rest of it is missing");
    }
}
