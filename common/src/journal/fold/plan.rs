//! What to fold: as many segments, from a first one, as become one interval that is worth it. Reads headers and tables only.

use std::sync::Arc;

use super::super::segment::{FIRST_RECORD, Segment, record_bytes};
use super::super::{Journal, JournalError, Position, ReadFrame};
use super::{FoldRange, RANGES_MAX};
use crate::extent::Extent;
use crate::overlay::location::{JournalPlace, Location, locations};
use crate::overlay::{Locate, Overlay};
use crate::record::view::ExtentKind;
use crate::record::{ControlRecord, FrameHeader, FrameKind, FrameView, Tip};

/// Room for the record of the fold before its marker, bytes.
const RECORD_ROOM: u64 = 1024;

/// Where a folded byte comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// A chunk in the journal.
    Data(JournalPlace),
    /// Zeroes.
    Zero {
        /// Its space may be given back.
        hole: bool,
    },
}

impl Locate for Source {
    fn advance(self, bytes: u64) -> Self {
        match self {
            Self::Data(place) => match Location::Journal(place).advance(bytes) {
                Location::Journal(place) => Self::Data(place),
                _ => self,
            },
            Self::Zero { .. } => self,
        }
    }
}

/// A stretch to fold.
pub(super) struct Plan {
    /// Its segments, in order. The last one has the marker.
    pub segments: Vec<Arc<Segment>>,
    /// Where the history stands at its begin.
    pub from: Tip,
    /// And just before the marker.
    pub to: Tip,
    /// Where the marker's record begins.
    pub marker: Position,
    /// Markers inside.
    pub markers: u64,
    /// The last writer of each byte.
    pub fold: Overlay<Source>,
}

/// A place where the stretch may end.
struct End {
    segments: usize,
    to: Tip,
    marker: Position,
    markers: u64,
}

/// The best stretch from a segment on, and the last segment that was looked at for it.
pub(super) fn plan(
    journal: &Arc<Journal>,
    first: &Arc<Segment>,
    range: &FoldRange,
) -> Result<(Option<Plan>, u64), JournalError> {
    let mut scan = Scan::new(first);
    let mut best: Option<End> = None;
    let mut segment = Some(Arc::clone(first));
    let mut last = first.number;
    while let Some(next) = segment.filter(|next| next.number < range.before.segment) {
        last = next.number;
        scan.segments.push(Arc::clone(&next));
        let whole = scan.segment(journal, &next)?;
        if !scan.fits(range.bytes_max) {
            break;
        }
        if let Some(end) = scan.end.take()
            && scan.is_worth_it()
        {
            best = Some(end);
        }
        if !whole {
            break;
        }
        segment = journal.segment_after(next.number);
    }
    let Some(end) = best else { return Ok((None, last)) };
    // What was taken in behind the end is left out by taking in once more what lies before it.
    let mut again = Scan::new(first);
    let segments: Vec<_> = scan.segments.into_iter().take(end.segments).collect();
    again.stop = Some(end.marker);
    for segment in &segments {
        again.segment(journal, segment)?;
    }
    let last = end.marker.segment;
    let (from, to) = (first.start.tip(), end.to);
    let plan = Plan { segments, from, to, marker: end.marker, markers: end.markers, fold: again.fold };
    Ok((Some(plan), last))
}

struct Scan {
    segments: Vec<Arc<Segment>>,
    tip: Tip,
    fold: Overlay<Source>,
    markers: u64,
    /// The newest place in this segment where the stretch may end.
    end: Option<End>,
    /// Go no further than this.
    stop: Option<Position>,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl Scan {
    fn new(first: &Segment) -> Self {
        Self {
            segments: Vec::new(),
            tip: first.start.tip(),
            fold: Overlay::default(),
            markers: 0,
            end: None,
            stop: None,
            raw_bytes: 0,
            stored_bytes: 0,
        }
    }

    /// Takes a segment in. `false`: something in it cannot be folded over.
    fn segment(&mut self, journal: &Arc<Journal>, segment: &Arc<Segment>) -> Result<bool, JournalError> {
        let mut reader = journal.reader(segment.begin());
        loop {
            let at = reader.position();
            if at.segment != segment.number || segment.ends_before(at.offset) || self.stop == Some(at) {
                return Ok(true);
            }
            let Some(frame) = reader.next_tables()? else { return Ok(true) };
            if !self.frame(segment, at, &frame)? {
                return Ok(false);
            }
        }
    }

    fn frame(&mut self, segment: &Segment, at: Position, frame: &ReadFrame) -> Result<bool, JournalError> {
        let view = FrameView::new(&frame.bytes).map_err(|source| segment.damaged(at.offset, source))?;
        match frame.header.kind {
            FrameKind::Control => {
                let record = ControlRecord::of(&view).map_err(|source| segment.damaged(at.offset, source))?;
                if !self.control(at, &record) {
                    return Ok(false);
                }
            }
            FrameKind::Regions => return Ok(false),
            FrameKind::Writes | FrameKind::Folded => self.data(&view, frame),
        }
        self.tip = self.tip.follow(&frame.header).map_err(|what| segment.gap(at.offset, what))?;
        Ok(true)
    }

    /// A record; `false` when nothing is folded over it: it belongs to a place in the order of writes.
    fn control(&mut self, at: Position, record: &ControlRecord) -> bool {
        match record {
            ControlRecord::Marker(_) => {
                if at.offset >= FIRST_RECORD + RECORD_ROOM {
                    let (segments, to, markers) = (self.segments.len(), self.tip, self.markers);
                    self.end = Some(End { segments, to, marker: at, markers });
                }
                self.markers += 1;
                true
            }
            ControlRecord::Folded { .. } => true,
            ControlRecord::Role { .. }
            | ControlRecord::Volumes { .. }
            | ControlRecord::CopyBegin { .. }
            | ControlRecord::CopyEnd { .. }
            | ControlRecord::CopyProgress { .. }
            | ControlRecord::CopyStep { .. }
            | ControlRecord::ImageGivenUp => false,
        }
    }

    fn data(&mut self, view: &FrameView<'_>, frame: &ReadFrame) {
        self.raw_bytes += u64::from(frame.header.raw_bytes);
        self.stored_bytes += stored_bytes(&frame.header);
        for entry in view.extents() {
            if let ExtentKind::Zero { hole } = entry.kind {
                self.fold.insert(entry.extent, Source::Zero { hole });
            }
        }
        let in_journal = |(extent, location): (Extent, Location)| match location {
            Location::Journal(place) => Some((extent, place)),
            _ => None,
        };
        for (extent, place) in locations(view, frame.position).filter_map(in_journal) {
            self.fold.insert(extent, Source::Data(place));
        }
    }

    /// Bytes the fold will take, as the data has compressed so far.
    fn estimate(&self) -> u64 {
        let data: u64 = self
            .fold
            .all()
            .map(|(extent, source)| match source {
                Source::Data(_) => extent.length,
                Source::Zero { .. } => 0,
            })
            .sum();
        let compressed = u128::from(data) * u128::from(self.stored_bytes) / u128::from(self.raw_bytes.max(1));
        u64::try_from(compressed).unwrap_or(u64::MAX) + 32 * self.fold.ranges() as u64
    }

    fn fits(&self, bytes_max: u64) -> bool {
        self.fold.ranges() <= RANGES_MAX && self.estimate() <= bytes_max
    }

    /// At least a quarter smaller, and more than a segment file comes back.
    fn is_worth_it(&self) -> bool {
        let held: u64 = self.segments.iter().map(|segment| segment.held_bytes()).sum();
        self.segments.len() > 1 && self.estimate() < held - held / 4
    }
}

fn stored_bytes(header: &FrameHeader) -> u64 {
    record_bytes(header.frame_bytes()).saturating_sub(u64::from(header.table_bytes))
}
