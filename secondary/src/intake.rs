//! Frames from the link into the journal: verified, in order, synced together, then told to permission. Owns
//! `received_seq`. A thread, because it waits for disks; the queue between it and the network is bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_common::catalog::GroupVolume;
use tidemark_common::ids::{Generation, GroupId, Seq};
use tidemark_common::journal::{JournalError, Position, Writer};
use tidemark_common::limits::can_be_followed;
use tidemark_common::metrics::{FrameRejection, GroupMetrics, PairMetrics, Part};
use tidemark_common::record::header::NEVER_GIVEN_OUT;
use tidemark_common::record::{ControlRecord, CopyCheck, FoldCheck, FrameError, FrameHeader, FrameKind, FrameView};
use tidemark_common::volumes::Volumes;
use tokio::sync::mpsc;

use crate::state::{Concern, CopyState};

/// Bytes appended before a sync at most.
const UNSYNCED_BYTES_MAX: usize = 16 << 20;
/// How long a full journal, or a disk that is full or fails, is waited for before the next try.
const RETRY: Duration = Duration::from_millis(200);
/// Tries after which the other side is told why nothing is taken.
pub(crate) const TRIES: u32 = 25;

/// Why a connection's frames are not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The frame is not sound.
    #[error("a frame that came over the link is not sound: {0}")]
    Frame(#[from] FrameError),
    /// The frame is somebody else's.
    #[error("a frame of group {found} came over the connection of group {group}")]
    Group {
        /// The connection's.
        group: GroupId,
        /// The frame's.
        found: GroupId,
    },
    /// The frame is of a newer generation than the connection.
    #[error("a frame of generation {found} came over a connection of generation {generation}")]
    Generation {
        /// The connection's.
        generation: Generation,
        /// The frame's.
        found: Generation,
    },
    /// What came before a marker is not what the primary counted into it.
    #[error("the digest of marker {marker} does not match the frames that came before it: nothing of it is permitted")]
    Digest {
        /// Its number.
        marker: u64,
    },
    /// What came of a copy is not what the primary has read for it.
    #[error(
        "{what}: nothing more of the copy is taken, and none of its markers is permitted before all of it has come"
    )]
    Regions {
        /// What does not belong together.
        what: &'static str,
    },
    /// A write beyond the end of a volume, or to a volume that is not there.
    #[error("a write to volume {volume} at {offset} lies outside the group's volumes")]
    OutOfRange {
        /// The volume's index.
        volume: u32,
        /// Where.
        offset: u64,
    },
    /// The copy volumes could not be made.
    #[error("{0}")]
    Volumes(String),
    /// The journal is full, and nothing in it may be applied.
    #[error(
        "the copy's journal, {} MiB, is full before the end of what must be held at once (one interval between markers, or one \
         resync) has come: raise journal_bytes in the configuration of the copy's appliance and restart that; it goes on by itself",
        capacity_bytes >> 20
    )]
    TooSmall {
        /// Bytes the journal may hold.
        capacity_bytes: u64,
    },
    /// There is no room, and it does not come back by itself.
    #[error("the copy stands: {reason}")]
    Stands {
        /// What keeps it from going on.
        reason: String,
    },
    /// The group stops, or a newer connection took over.
    #[error("stopped")]
    Stopped,
}

impl IntakeError {
    /// When it is the frame's fault: why it was not taken.
    const fn rejection(&self) -> Option<FrameRejection> {
        match self {
            Self::Frame(FrameError::Checksum { .. }) => Some(FrameRejection::Checksum),
            Self::Digest { .. } | Self::Regions { .. } => Some(FrameRejection::Digest),
            Self::Journal(JournalError::Gap { .. }) | Self::Generation { .. } => Some(FrameRejection::Order),
            Self::Frame(_)
            | Self::Group { .. }
            | Self::OutOfRange { .. }
            | Self::Journal(JournalError::TooLarge { .. }) => Some(FrameRejection::Malformed),
            Self::Journal(_) | Self::Volumes(_) | Self::TooSmall { .. } | Self::Stands { .. } | Self::Stopped => None,
        }
    }
}

/// What the intake asks of the appliance.
pub trait CopyVolumes: Send + Sync + 'static {
    /// Makes or grows the copy volumes so that they are as the primary's.
    ///
    /// # Errors
    /// What happened and what to do.
    fn provide(
        &self,
        group: &str,
        volumes: &[tidemark_common::wire::message::VolumeSpec],
        into: &Volumes,
    ) -> Result<(), String>;

    /// There is no image here but the primary's, whose volumes are as these now: what is behind their sizes is no part of a volume.
    ///
    /// # Errors
    /// What happened and what to do.
    fn fit(&self, volumes: &[tidemark_common::wire::message::VolumeSpec], of: &Volumes) -> Result<(), String>;

    /// The image has these no more, and all that was written to them is in their files: they are volumes in no group.
    ///
    /// # Errors
    /// What happened and what to do.
    fn let_go(&self, group: &str, leaving: &[GroupVolume], of: &Volumes) -> Result<(), String>;

    /// The group's record no longer has these: hosts may use them.
    fn left(&self, volumes: &[GroupVolume]);

    /// Nothing that is not applied is for these, and the group's record does not have them: what came for this group and is none of its volumes
    /// is in no group.
    ///
    /// # Errors
    /// What happened and what to do.
    fn let_strays_go(&self, group: &str, left: &[GroupVolume], of: &Volumes) -> Result<(), String>;
}

/// One connection's intake.
pub struct Intake {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// This appliance's name.
    pub appliance: String,
    /// The generation the connection was welcomed with.
    pub generation: Generation,
    /// The journal's writer, for as long as the connection lasts.
    pub writer: Writer,
    /// The copy volumes.
    pub volumes: Arc<Volumes>,
    /// Who makes them.
    pub provider: Arc<dyn CopyVolumes>,
    /// What is durable goes there.
    pub state: Arc<CopyState>,
    /// Where the group's figures go.
    pub metrics: GroupMetrics,
    /// Where the pair's figures go.
    pub line: PairMetrics,
    /// Records appended and not yet told, with the ends of their frames.
    pub untold: Vec<(ControlRecord, Position)>,
    /// What has come of a fold.
    pub folds: FoldCheck,
    /// What has come of a copy.
    pub copy: CopyCheck,
    /// The frame there was no room for.
    pub waiting: Option<Bytes>,
    /// How often there was none in a row.
    pub refused: u32,
    /// The volumes are no larger than the primary's.
    pub fitted: bool,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// All there was is taken.
    Did,
    /// A frame waits for room in the journal or on the disk.
    NoRoom,
}

/// What keeps frames from being taken, and what to do: there is no room, or the disk makes no new segment.
fn told(error: &JournalError) -> String {
    if error.is_no_space() {
        return error.told();
    }
    format!(
        "no new segment of the copy's journal can be made: {error}. See to the disk under it; it is tried again, and goes on by itself"
    )
}

fn next_frame(batch: &mut VecDeque<Bytes>, frames: &mut mpsc::Receiver<Vec<Bytes>>) -> Option<Bytes> {
    if batch.is_empty() {
        *batch = frames.try_recv().ok()?.into();
    }
    batch.pop_front()
}

/// This side may take over, and counts on from there.
fn check_numbers(header: &FrameHeader, record: Option<&ControlRecord>) -> Result<(), FrameError> {
    let (seq, marker, generation) = record.map_or((0, 0, 0), ControlRecord::numbers);
    let (seq, marker) = (seq.max(header.last_seq.0), marker.max(header.marker.0));
    if can_be_followed(seq, marker, generation.max(header.generation.0)) {
        Ok(())
    } else {
        Err(FrameError::Malformed { what: NEVER_GIVEN_OUT })
    }
}

impl Intake {
    /// Takes frames until the queue ends. Gives the writer back.
    pub fn run(mut self, mut frames: mpsc::Receiver<Vec<Bytes>>) -> (Writer, Result<(), IntakeError>) {
        let result = self.take(&mut frames);
        if let Err(error) = &result
            && !self.state.is_stopping()
        {
            self.metrics.error(Part::Receive);
            if let Some(reason) = error.rejection() {
                self.line.frame_rejected(reason);
            }
        }
        (self.leave(), result)
    }

    /// The connection is over. What found no room to become durable is sent again: the next one is told of what is durable.
    pub fn leave(mut self) -> Writer {
        self.writer.take_back();
        self.writer
    }

    fn take(&mut self, frames: &mut mpsc::Receiver<Vec<Bytes>>) -> Result<(), IntakeError> {
        let mut batch = VecDeque::new();
        loop {
            if batch.is_empty() {
                let Some(first) = frames.blocking_recv() else { return Ok(()) };
                batch = first.into();
            }
            // A step may end before all of it is taken.
            while self.step(|| next_frame(&mut batch, frames))? == Taking::NoRoom {
                if frames.is_closed() {
                    // Who sent it is gone, and sends it again: the next connection is not kept waiting for this one.
                    return Ok(());
                }
                self.state.wait_for_room(RETRY);
            }
        }
    }

    /// Takes what there is, makes it durable together and tells it. A frame that finds no room is kept for the next step: that
    /// slows the sender and nothing else. What may free room is told first: the marker that permits it may lie in the same
    /// batch.
    ///
    /// # Errors
    /// [`IntakeError`]: nothing more is taken.
    pub fn step(&mut self, mut next: impl FnMut() -> Option<Bytes>) -> Result<Taking, IntakeError> {
        let mut bytes = 0;
        let mut refused = Ok(());
        while bytes < UNSYNCED_BYTES_MAX
            && let Some(frame) = self.waiting.take().or_else(&mut next)
        {
            bytes += frame.len();
            refused = self.accept(&frame);
            if refused.is_err() {
                self.waiting = Some(frame);
                break;
            }
        }
        // What came before a bad frame counts: the state says what the journal holds.
        match self.tell().and(refused) {
            Ok(()) => Ok(Taking::Did),
            Err(IntakeError::Journal(error)) if self.writer.may_try_again(&error) && !self.state.is_stopping() => {
                self.await_room(&error).map(|()| Taking::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// What is appended becomes durable, and is told. What filled a segment is durable though what came behind it finds no room: it is taken
    /// back by nobody, and the next connection goes on behind it.
    fn tell(&mut self) -> Result<(), IntakeError> {
        let synced = self.writer.sync();
        let end = self.writer.journal().durable_end();
        let durable = self.untold.partition_point(|(_, behind)| *behind <= end.position);
        let told: Vec<_> = self.untold.drain(..durable).collect();
        self.metrics.markers_permitted(self.state.durable(&told, &end));
        if told.iter().any(|(record, _)| matches!(record, ControlRecord::CopyEnd { .. })) {
            self.fitted = false;
        }
        synced?;
        self.fit_volumes()?;
        let position = self.state.position();
        self.line.received_seq(Seq(position.durable_seq));
        self.line.permitted_seq(Seq(position.permitted_seq));
        Ok(())
    }

    /// A side that returned may have volumes that it had grown alone. What is behind the primary's would come back when those grow. Here, where
    /// they are grown, too: one after the other.
    fn fit_volumes(&mut self) -> Result<(), IntakeError> {
        if self.fitted {
            return Ok(());
        }
        let permission = self.state.permission();
        if permission.copy().is_some() || permission.permitted().is_none() {
            return Ok(());
        }
        // They come with a copy; without one, in the record that a side which took over writes for one that returns.
        let Some(volumes) = permission.received_volumes() else { return Ok(()) };
        self.provider.fit(volumes, &self.volumes).map_err(IntakeError::Volumes)?;
        self.fitted = true;
        Ok(())
    }

    fn accept(&mut self, frame: &Bytes) -> Result<(), IntakeError> {
        let view = FrameView::verified(frame)?;
        if view.header.group != self.group {
            return Err(IntakeError::Group { group: self.group, found: view.header.group });
        }
        if view.header.generation > self.generation {
            return Err(IntakeError::Generation { generation: self.generation, found: view.header.generation });
        }
        let record = match view.header.kind {
            FrameKind::Control => Some(ControlRecord::of(&view)?),
            FrameKind::Writes | FrameKind::Regions | FrameKind::Folded => {
                self.check_ranges(&view)?;
                None
            }
        };
        check_numbers(&view.header, record.as_ref())?;
        if let Some(ControlRecord::Volumes { volumes } | ControlRecord::CopyBegin { volumes, .. }) = &record {
            self.provider.provide(&self.name, volumes, &self.volumes).map_err(IntakeError::Volumes)?;
        }
        if let Some(ControlRecord::Marker(marker)) = &record
            && !view.header.rebase
            && view.header.chain != self.writer.tip().chain
        {
            return Err(IntakeError::Digest { marker: marker.number });
        }
        self.folds.check(self.writer.tip(), record.as_ref()).map_err(|what| FrameError::Malformed { what })?;
        self.copy.check(record.as_ref()).map_err(|what| IntakeError::Regions { what })?;
        self.check_staging(record.as_ref())?;
        match record {
            // The journal may be full of what was staged to keep that image.
            Some(ControlRecord::ImageGivenUp) => self.writer.append_to_free(frame.clone())?,
            _ => self.writer.append_later(frame.clone())?,
        };
        self.folds.take(&view.header, record.as_ref());
        self.copy.take(&view.header, record.as_ref());
        self.state.taken();
        self.refused = 0;
        self.line.received(frame.len());
        self.untold.extend(record.map(|record| (record, self.writer.end())));
        Ok(())
    }

    fn check_ranges(&self, view: &FrameView<'_>) -> Result<(), IntakeError> {
        for entry in view.extents() {
            let size = self.volumes.get(entry.extent.volume).map_or(0, |volume| volume.size());
            if entry.extent.end() > size {
                return Err(IntakeError::OutOfRange { volume: entry.extent.volume.0, offset: entry.extent.offset });
            }
        }
        Ok(())
    }

    /// A full journal that nothing can make room in is too small.
    fn await_room(&mut self, error: &JournalError) -> Result<(), IntakeError> {
        // In this order: what the updater gave back before it rested counts.
        let too_small = error.is_journal_full() && self.state.is_at_rest() && self.writer.journal().is_full();
        let standing = self.state.problem_of(Concern::Intake);
        let told = told(error);
        let problem = match (too_small, standing) {
            (true, _) => self.too_small().to_string(),
            // It is full still: what was said of that says more.
            (false, Some(standing)) if error.is_journal_full() => standing,
            (false, None) if error.is_journal_full() => format!(
                "{error}, by volumes here that have not taken what it holds. It goes on by itself as they take it, and the primary keeps what comes \
                 until then. When it comes to that often, look at the volumes' disks, and at `tidemark leases` for what keeps it; or raise \
                 journal_bytes in the configuration here and restart it"
            ),
            (false, _) => told.clone(),
        };
        if self.state.no_room(error.is_journal_full(), problem) {
            self.metrics.error(Part::Journal);
        }
        if too_small {
            return Err(self.too_small());
        }
        self.refused = self.refused.saturating_add(1);
        // A full journal empties as long as the updater goes on; a full disk may not.
        let held_up = if error.is_journal_full() { self.state.problem_of(Concern::Updater) } else { Some(told) };
        match held_up {
            Some(reason) if self.refused > TRIES => Err(IntakeError::Stands { reason }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tidemark_common::clock::SystemClock;
    use tidemark_common::extent::Extent;
    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::journal::{self, JournalOptions};
    use tidemark_common::limits::{GENERATION_MAX, MARKER_MAX, SEQ_MAX};
    use tidemark_common::metrics::Metrics;
    use tidemark_common::record::{FrameBuilder, MarkerRecord, Place, Tip};
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::storage::{Disk, Open};
    use tidemark_common::updater::AppliedPosition;
    use tidemark_common::volumes::VolumeFile;
    use tidemark_common::wire::message::VolumeSpec;

    use super::*;
    use crate::permission::Permission;
    use crate::points::Points;

    const GROUP: GroupId = GroupId([7; 16]);
    const SEGMENT_BYTES: u64 = 512 << 10;
    /// Five of them fill a segment, and leave a little room.
    const DATA_BYTES: usize = 100 << 10;

    /// They are as they are to be.
    pub(crate) struct AsTheyAre;

    impl CopyVolumes for AsTheyAre {
        fn provide(&self, _: &str, _: &[VolumeSpec], _: &Volumes) -> Result<(), String> {
            Ok(())
        }

        fn fit(&self, _: &[VolumeSpec], _: &Volumes) -> Result<(), String> {
            Ok(())
        }

        fn let_go(&self, _: &str, _: &[GroupVolume], _: &Volumes) -> Result<(), String> {
            Ok(())
        }

        fn left(&self, _: &[GroupVolume]) {}

        fn let_strays_go(&self, _: &str, _: &[GroupVolume], _: &Volumes) -> Result<(), String> {
            Ok(())
        }
    }

    /// A write that does not compress.
    pub(crate) fn write(tip: &mut Tip) -> Bytes {
        let mut state = tip.seq.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        };
        let data: Vec<u8> = (0..DATA_BYTES).map(|_| next()).collect();
        let mut builder = FrameBuilder::new();
        builder.push_data(Extent { volume: VolumeIndex(1), offset: 0, length: data.len() as u64 }, &data);
        let seq = tip.seq.next();
        let frame =
            builder.finish(FrameKind::Writes, &Place { first_seq: seq, last_seq: seq, ..Place::at(GROUP, tip) });
        *tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
        frame
    }

    pub(crate) fn marker(tip: &mut Tip) -> Bytes {
        let (number, boundary_seq) = (tip.marker.0 + 1, tip.seq.0);
        let marker = MarkerRecord { number, boundary_seq, time_ns: 1, freeze_ns: 1, tag: None };
        let frame = ControlRecord::Marker(marker).frame(&Place::at(GROUP, tip)).unwrap();
        *tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
        frame.into()
    }

    /// The first segment is made of a spare that has its blocks, the second of one that has none: a file system that copies on write, or a
    /// thin volume, may refuse to write where something was before.
    fn intake(disk: &MemoryDisk) -> Intake {
        disk.create_folder("/journal".as_ref()).unwrap();
        for (number, has_blocks) in [(0xfe, false), (0xff, true)] {
            let spare = disk.open(format!("/journal/{number:016x}.spare").as_ref(), Open::New).unwrap();
            spare.grow(SEGMENT_BYTES).unwrap();
            if has_blocks {
                spare.write_all_at(&vec![1; 512 << 10], 0).unwrap();
            }
        }
        let options = JournalOptions { segment_bytes: SEGMENT_BYTES, capacity_bytes: 8 * SEGMENT_BYTES };
        let opened =
            journal::open(Arc::new(disk.clone()), "/journal".as_ref(), GROUP, options, None, &mut |_, _, _| {});
        let writer = opened.unwrap().writer;
        let volumes = Volumes::default();
        let file = MemoryDisk::new().open("v".as_ref(), Open::New).unwrap();
        volumes.insert(VolumeFile::new(VolumeIndex(1), "v".into(), file, 1 << 20));
        let durable = writer.journal().durable_end();
        let clock = Arc::new(SystemClock::new());
        let (permission, applied) = (Permission::default(), AppliedPosition::default());
        let state = CopyState::new("g".into(), clock, permission, durable, applied, Points::default());
        let metrics = Metrics::new("west", "0", jiff::Timestamp::UNIX_EPOCH).group("g");
        Intake {
            group: GROUP,
            name: "g".into(),
            appliance: "west".into(),
            generation: Generation(1),
            writer,
            volumes: Arc::new(volumes),
            provider: Arc::new(AsTheyAre),
            state: Arc::new(state),
            line: metrics.pair("east"),
            metrics,
            untold: Vec::new(),
            folds: FoldCheck::default(),
            copy: CopyCheck::default(),
            waiting: None,
            refused: 0,
            fitted: true,
        }
    }

    /// Otherwise the primary is told of a place before it, and what it sends from there is refused, over every connection.
    #[test]
    fn what_filled_a_segment_is_told_though_what_came_behind_it_finds_no_room() {
        let disk = MemoryDisk::new();
        let mut intake = intake(&disk);
        let mut tip = Tip::default();
        let mut frames: VecDeque<Bytes> = (0..4).map(|_| write(&mut tip)).collect();
        frames.push_back(marker(&mut tip));
        let held = tip;
        frames.extend([write(&mut tip), write(&mut tip)]);
        // As much as the header of a segment takes.
        disk.limit_space(Some(disk.used_bytes() + 1024));
        assert_eq!(intake.step(|| frames.pop_front()).unwrap(), Taking::NoRoom);
        assert!(frames.is_empty(), "all of them were appended");
        let (state, journal) = (Arc::clone(&intake.state), Arc::clone(intake.writer.journal()));
        assert_eq!(state.durable_end(), journal.durable_end());
        assert_eq!(state.durable_end().seq, held.seq.next());
        assert_eq!(state.position().permitted_marker, 1);
        let writer = intake.leave();
        assert_eq!(writer.tip().chain, state.durable_end().chain, "where the next connection goes on");
    }

    /// As on a disk whose path is switched: the primary was sent away, over every connection, until a restart.
    #[test]
    fn a_segment_that_cannot_be_made_for_a_moment_ends_no_conversation() {
        let disk = MemoryDisk::new();
        let mut intake = intake(&disk);
        let mut tip = Tip::default();
        let mut frames: VecDeque<Bytes> = (0..5).map(|_| write(&mut tip)).collect();
        assert_eq!(intake.step(|| frames.pop_front()).unwrap(), Taking::Did);
        disk.fail_next_sync(std::io::ErrorKind::Other);
        frames.push_back(write(&mut tip));
        assert_eq!(intake.step(|| frames.pop_front()).unwrap(), Taking::NoRoom);
        assert!(intake.state.problem().is_some_and(|problem| problem.contains("no new segment")));
        assert_eq!(intake.step(|| None).unwrap(), Taking::Did);
        assert_eq!((intake.state.problem(), intake.state.durable_end().seq), (None, tip.seq));
    }

    /// The writes of whoever took over then would be in the journal, and not be read there any more.
    #[test]
    fn the_last_numbers_that_a_journal_may_hold_are_not_taken_from_a_peer() {
        let begin = |start_seq, start_marker| ControlRecord::CopyBegin {
            copy: 1,
            start_seq,
            start_marker,
            chain: [9; 16],
            direct: true,
            total_bytes: 0,
            volumes: Vec::new(),
        };
        let role = ControlRecord::Role { generation: GENERATION_MAX, appliance: [0; 32], time_ns: 1 };
        for record in [begin(SEQ_MAX, 1), begin(1, MARKER_MAX), role] {
            let mut frames = VecDeque::from([Bytes::from(record.frame(&Place::at(GROUP, &Tip::default())).unwrap())]);
            let refused = intake(&MemoryDisk::new()).step(|| frames.pop_front());
            assert!(
                matches!(refused, Err(IntakeError::Frame(FrameError::Malformed { .. }))),
                "{record:?}: {refused:?}"
            );
        }
    }
}
