//! What hosts write again and again crosses the line once: a stretch of an interval waits for its end, or for as much of it as
//! the link takes in a moment, and is sent as folded frames, the last writer of each byte (decision 16).
//!
//! A stretch lies within one interval. So what arrived of one whose connection broke does no harm over there: every marker that
//! can be permitted next counts all of it, and all of it is sent again before that marker.
//!
//! Keeps: 2 (the record behind the folded frames says where the history goes on), 6 (whoever stands before a stretch is sent all of it).

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidemark_common::clock::Clock;
use tidemark_common::extent::Extent;
use tidemark_common::ids::GroupId;
use tidemark_common::journal::{Journal, JournalError, Position, ReadFrame, Reader};
use tidemark_common::overlay::Overlay;
use tidemark_common::overlay::frames::Source;
use tidemark_common::record::fold::fold_digest;
use tidemark_common::record::{
    Chain, ControlRecord, FrameBuilder, FrameError, FrameHeader, FrameKind, FrameView, HEADER_BYTES, Place, Tip,
};

use crate::feeder::FeedError;

/// Bytes of frames of one stretch, whatever the link takes. At most: about what the journal still has in memory. At least: less is not worth the waiting.
const STRETCH_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=40 << 20;
/// Ranges of a stretch at most: what its memory grows with.
const RANGES_MAX: usize = 64 << 10;
/// Data of a stretch at most: what compresses well is taken out and packed again at once.
const RAW_BYTES_MAX: u64 = 256 << 20;
/// What arrived of a stretch whose connection broke lies in the other side's journal beside the whole interval, which may be a half of
/// it: a stretch is no more than this part of an interval.
const PART_OF_INTERVAL_BYTES: u64 = 4;
/// A stretch waits this long at most.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Hosts that write everything once are not waited for; whether they still do is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So much data waited in vain says that they do.
const IN_VAIN_BYTES: u64 = 32 << 20;
/// What is spared by one fold at least.
const SPARED_BYTES_MIN: u64 = 64 << 10;

/// What a stretch may be: kept by whoever sees the pair's link, read by its feeders.
#[derive(Debug, Clone)]
pub struct Moment(Arc<Bounds>);

#[derive(Debug)]
struct Bounds {
    /// What the link takes in a moment.
    bytes_max: AtomicU64,
    /// What a fold spares at least.
    spared_bytes_min: AtomicU64,
}

impl Default for Moment {
    /// Nothing is known of the link.
    fn default() -> Self {
        let (bytes_max, spared_bytes_min) = (*STRETCH_BYTES.start(), SPARED_BYTES_MIN);
        Self(Arc::new(Bounds { bytes_max: bytes_max.into(), spared_bytes_min: spared_bytes_min.into() }))
    }
}

impl Moment {
    /// So much of an interval may it take to send a stretch: the copy is as much older for it.
    const PART_OF_INTERVAL: u32 = 8;
    const TIMES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

    /// The link has so many bytes under way, and each takes so long there and back; no more than so many a second are asked of it.
    pub fn see(&self, window_bytes: u64, round_trip: Duration, limit: Option<NonZeroU64>, interval: Duration) {
        let moment = (interval / Self::PART_OF_INTERVAL).clamp(Self::TIMES.0, Self::TIMES.1);
        let bytes = u128::from(window_bytes) * moment.as_micros() / round_trip.as_micros().max(1);
        let limited = limit.map_or(u128::MAX, |limit| u128::from(limit.get()) * moment.as_millis() / 1000);
        let bytes =
            u64::try_from(bytes.min(limited)).unwrap_or(u64::MAX).clamp(*STRETCH_BYTES.start(), *STRETCH_BYTES.end());
        self.0.bytes_max.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Time goes by. A link that has just had little to do looks slow; one that has become slow goes on looking so.
    pub(crate) fn fade(&self) {
        let fade = |bytes: u64| (bytes - bytes / 8).max(*STRETCH_BYTES.start());
        // Nobody else makes it less.
        let _ = self.0.bytes_max.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| Some(fade(bytes)));
    }

    /// For simulations, which write little: stretches of so many bytes, folded as soon as they spare so many.
    pub fn set(&self, bytes_max: u64, spared_bytes_min: u64) {
        self.0.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.0.spared_bytes_min.store(spared_bytes_min, Ordering::Relaxed);
    }
}

/// How the frames that come next are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// As they lie in the journal.
    AsTheyAre,
    /// Not before there is more.
    Wait,
    /// Folded, by [`Coalescer::fold`].
    Folded,
}

/// A part of a folded stretch.
pub(crate) enum Part {
    /// Folded frames.
    Frames(Vec<Bytes>),
    /// All of them are made. What stands behind them, where the journal goes on, and bytes of data that were not sent.
    End { record: ControlRecord, to: Tip, next: Position, spared_bytes: u64 },
}

/// Decides for one connection what is folded, and folds it.
pub(crate) struct Coalescer {
    clock: Arc<dyn Clock>,
    moment: Moment,
    /// A whole marker has gone over this connection. Before, frames go as they are: on a line that breaks all the time, each that
    /// arrives is a step, and a stretch that does not arrive whole is none.
    flows: bool,
    /// Hosts write the same again and again: worth the waiting.
    waits: bool,
    /// Data of stretches that were not worth it, since the last one that was.
    in_vain_bytes: u64,
    look_at: Duration,
    scan: Option<Scan>,
    folding: Option<Folding>,
    as_they_are_up_to: Position,
}

impl std::fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescer").field("waits", &self.waits).finish_non_exhaustive()
    }
}

impl Coalescer {
    pub(crate) fn new(clock: Arc<dyn Clock>, moment: Moment) -> Self {
        Self {
            clock,
            moment,
            flows: false,
            waits: true,
            in_vain_bytes: 0,
            look_at: Duration::ZERO,
            scan: None,
            folding: None,
            as_they_are_up_to: Position::default(),
        }
    }

    /// A marker was sent.
    pub(crate) const fn marker_sent(&mut self) {
        self.flows = true;
    }

    /// Whether something waits for more.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waits && self.scan.is_some()
    }

    /// Up to where the journal was looked at, or is being sent.
    pub(crate) fn up_to(&self) -> Position {
        let scanned = self.scan.as_ref().map_or_else(Position::default, |scan| scan.reader.position());
        self.folding.as_ref().map_or(scanned, |folding| folding.end)
    }

    /// How what the journal has from `at` on, where the history stands at `tip`, is sent.
    /// An interval has so many bytes of frames at most.
    pub(crate) fn next(
        &mut self,
        journal: &Arc<Journal>,
        at: Position,
        tip: &Tip,
        interval_bytes: u64,
    ) -> Result<Next, JournalError> {
        if self.folding.is_some() {
            return Ok(Next::Folded);
        }
        if !self.flows || at < self.as_they_are_up_to {
            return Ok(Next::AsTheyAre);
        }
        let now = self.clock.monotonic();
        if self.scan.is_none() && !self.waits && now < self.look_at {
            return Ok(Next::AsTheyAre);
        }
        let mut scan = self.scan.take().unwrap_or_else(|| Scan::new(journal.reader(at), *tip, now));
        if scan.frames == 0 {
            scan.since = now;
        }
        // Where nothing waits, it is looked at what the best link would spare.
        let bounds = &self.moment.0;
        let bytes_max = if self.waits { bounds.bytes_max.load(Ordering::Relaxed) } else { *STRETCH_BYTES.end() };
        let part_bytes = interval_bytes / PART_OF_INTERVAL_BYTES;
        let ended = scan.go_on(journal, bytes_max.min(part_bytes))?;
        let is_over = ended || now.saturating_sub(scan.since) >= WAIT_MAX;
        if !is_over {
            self.scan = Some(scan);
            return Ok(if self.waits { Next::Wait } else { Next::AsTheyAre });
        }
        let is_worth_it = scan.is_worth_it(bounds.spared_bytes_min.load(Ordering::Relaxed));
        let waited = self.waits;
        let seen_bytes = scan.raw_bytes.max(scan.stored_bytes);
        self.in_vain_bytes = if is_worth_it { 0 } else { self.in_vain_bytes.saturating_add(seen_bytes) };
        self.waits = is_worth_it || waited && self.in_vain_bytes < IN_VAIN_BYTES;
        self.look_at = now + LOOK_EVERY;
        if waited && is_worth_it {
            self.folding = Some(Folding::of(scan, Arc::clone(journal), at, part_bytes));
            return Ok(Next::Folded);
        }
        self.as_they_are_up_to = scan.reader.position();
        Ok(Next::AsTheyAre)
    }

    /// Makes the next part of what [`Self::next`] said is folded.
    pub(crate) fn fold(&mut self, group: GroupId) -> Result<Part, FeedError> {
        let Some(folding) = &mut self.folding else { return Ok(Part::Frames(Vec::new())) };
        let part = folding.go_on(group)?;
        if matches!(part, Part::End { .. }) {
            self.folding = None;
        }
        Ok(part)
    }
}

/// What a stretch writes, as far as it was looked at.
struct Scan {
    reader: Reader,
    since: Duration,
    from: Tip,
    to: Tip,
    /// Behind its last frame.
    end: Position,
    frames: usize,
    last_writer: Overlay<Source>,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl Scan {
    fn new(reader: Reader, from: Tip, since: Duration) -> Self {
        let end = reader.position();
        let last_writer = Overlay::default();
        Self { reader, since, from, to: from, end, frames: 0, last_writer, raw_bytes: 0, stored_bytes: 0 }
    }

    /// Looks at what the journal has. Whether the stretch is over: there is enough of it, or something comes that is no write of this interval.
    fn go_on(&mut self, journal: &Journal, bytes_max: u64) -> Result<bool, JournalError> {
        while self.stored_bytes < bytes_max && self.raw_bytes < RAW_BYTES_MAX && self.last_writer.ranges() < RANGES_MAX
        {
            let Some(frame) = self.reader.next_tables()? else { return Ok(false) };
            if frame.header.kind != FrameKind::Writes {
                return Ok(true);
            }
            self.take(journal, &frame)?;
        }
        Ok(true)
    }

    fn take(&mut self, journal: &Journal, frame: &ReadFrame) -> Result<(), JournalError> {
        let damaged = |source| journal.damaged(frame.position, source);
        self.last_writer.take_in(self.frames, &FrameView::new(&frame.bytes).map_err(damaged)?);
        self.to = self.to.follow(&frame.header).map_err(|what| damaged(FrameError::Malformed { what }))?;
        self.end = self.reader.position();
        self.frames += 1;
        self.raw_bytes += u64::from(frame.header.raw_bytes);
        self.stored_bytes += frame.header.frame_bytes() as u64;
        Ok(())
    }

    fn spared_bytes(&self) -> u64 {
        let is_data = |source: &Source| matches!(source, Source::Data { .. });
        let left: u64 =
            self.last_writer.all().filter(|(_, source)| is_data(source)).map(|(extent, _)| extent.length).sum();
        self.raw_bytes.saturating_sub(left)
    }

    /// A quarter is spared at least: it costs decompressing and compressing what is left.
    fn is_worth_it(&self, spared_bytes_min: u64) -> bool {
        let spared = self.spared_bytes();
        spared >= spared_bytes_min && spared >= self.raw_bytes / 4
    }
}

/// A stretch that is being folded.
struct Folding {
    journal: Arc<Journal>,
    reader: Reader,
    /// Data of one frame at most, a range that is larger aside.
    frame_bytes_max: usize,
    end: Position,
    from: Tip,
    to: Tip,
    zeroes: Vec<(Extent, bool)>,
    /// What is left of each frame, by its number and the place in its raw data; those that come last first.
    pieces: Vec<(usize, usize, Extent)>,
    /// The number of the frame the reader stands before.
    frame: usize,
    builder: FrameBuilder,
    raw: Vec<u8>,
    digests: Vec<Chain>,
    spared_bytes: u64,
}

impl Folding {
    fn of(scan: Scan, journal: Arc<Journal>, at: Position, frame_bytes_max: u64) -> Self {
        let spared_bytes = scan.spared_bytes();
        let (mut zeroes, mut pieces) = (Vec::new(), Vec::new());
        for (extent, source) in scan.last_writer.all() {
            match source {
                Source::Data { frame, at } => pieces.push((frame, at, extent)),
                Source::Zero { hole } => zeroes.push((extent, hole)),
            }
        }
        pieces.sort_unstable_by_key(|(frame, at, _)| std::cmp::Reverse((*frame, *at)));
        Self {
            reader: journal.reader(at),
            journal,
            frame_bytes_max: usize::try_from(frame_bytes_max).unwrap_or(usize::MAX),
            end: scan.end,
            from: scan.from,
            to: scan.to,
            zeroes,
            pieces,
            frame: 0,
            builder: FrameBuilder::new(),
            raw: Vec::new(),
            digests: Vec::new(),
            spared_bytes,
        }
    }

    /// Takes in frames until some are made, or all are taken in.
    fn go_on(&mut self, group: GroupId) -> Result<Part, FeedError> {
        let mut made = Vec::new();
        while let Some((extent, hole)) = self.zeroes.pop() {
            self.make_room(0, group, &mut made)?;
            self.builder.push_zero(extent, hole);
        }
        while made.is_empty()
            && let Some((number, ..)) = self.pieces.last().copied()
        {
            self.take_from(number, group, &mut made)?;
        }
        if made.is_empty() && !self.builder.is_empty() {
            self.finish(group, &mut made)?;
        }
        if !made.is_empty() {
            return Ok(Part::Frames(made));
        }
        let record = ControlRecord::Folded {
            from_chain: self.from.chain.0,
            frames: u32::try_from(self.digests.len()).unwrap_or(u32::MAX),
            digest: fold_digest(self.digests.iter()).0,
        };
        Ok(Part::End { record, to: self.to, next: self.end, spared_bytes: self.spared_bytes })
    }

    /// Takes in what is left of a frame.
    fn take_from(&mut self, number: usize, group: GroupId, made: &mut Vec<Bytes>) -> Result<(), FeedError> {
        let gone = || JournalError::Trimmed { position: self.end };
        while self.frame < number {
            self.reader.next_header()?.ok_or_else(gone)?;
            self.frame += 1;
        }
        let frame = self.reader.next_frame()?.ok_or_else(gone)?;
        self.frame += 1;
        let journal = Arc::clone(&self.journal);
        let damaged = |source| journal.damaged(frame.position, source);
        let kept = frame.raw.filter(|raw| raw.len() == frame.header.raw_bytes as usize);
        let mut raw = std::mem::take(&mut self.raw);
        if kept.is_none() {
            raw.clear();
            FrameView::new(&frame.bytes).and_then(|view| view.unpack(&mut raw)).map_err(damaged)?;
        }
        let data = kept.as_deref().unwrap_or(&raw);
        while let Some((_, at, extent)) = self.pieces.pop_if(|(of, ..)| *of == number) {
            let end = at.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX));
            let short = || damaged(FrameError::Malformed { what: "it has less data than its extents" });
            let piece = data.get(at..end).ok_or_else(short)?;
            self.make_room(piece.len(), group, made)?;
            self.builder.push_data(extent, piece);
        }
        self.raw = raw;
        Ok(())
    }

    fn make_room(&mut self, data_bytes: usize, group: GroupId, made: &mut Vec<Bytes>) -> Result<(), FrameError> {
        let fits = self.builder.fits(data_bytes) && self.builder.raw_bytes() + data_bytes <= self.frame_bytes_max;
        if fits || self.builder.is_empty() { Ok(()) } else { self.finish(group, made) }
    }

    fn finish(&mut self, group: GroupId, made: &mut Vec<Bytes>) -> Result<(), FrameError> {
        let frame = self.builder.finish(FrameKind::Folded, &Place::at(group, &self.from));
        let header = FrameHeader::decode(frame.get(..HEADER_BYTES).unwrap_or_default())?;
        self.digests.push(Chain::default().after(&header.encode()));
        made.push(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
