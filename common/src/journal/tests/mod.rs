//! Journals on a disk that fails on purpose, and what must come back from them. One file per question; this one has
//! what all of them need: frames that follow a tip, a journal opened, everything it holds.

mod append;
mod chain;
mod crash;
mod cut;
mod damage;
mod direct;
mod fold;
mod golden;
mod images;
mod index;
mod refusal;
mod sound;
mod space;
mod torn;
mod trim;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Journal, JournalError, JournalOptions, Position, Recovered, Writer};
use crate::extent::Extent;
use crate::ids::{Generation, GroupId, MarkerNumber, Seq, VolumeIndex};
use crate::record::{ControlRecord, FrameBuilder, FrameKind, MarkerRecord, Place, Tip};
use crate::storage::memory::MemoryDisk;
use crate::wire::message::VolumeSpec;

const GROUP: GroupId = GroupId([7; 16]);
const SEGMENT_BYTES: u64 = 16 << 10;
/// What a frame made by [`writes`] with 3000 bytes takes, so that four fill a segment.
const QUARTER: usize = 2800;

fn folder() -> PathBuf {
    PathBuf::from("/journal")
}

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT_BYTES, capacity_bytes: 64 * SEGMENT_BYTES }
}

fn try_open(disk: &MemoryDisk, cut_at: Option<Position>) -> Result<Recovered, JournalError> {
    super::open(Arc::new(disk.clone()), &folder(), GROUP, options(), cut_at, &mut |_, _, _| {})
}

fn open(disk: &MemoryDisk) -> Recovered {
    try_open(disk, None).unwrap()
}

/// A new journal on a new disk.
fn fresh() -> (MemoryDisk, Writer) {
    let disk = MemoryDisk::new();
    let writer = open(&disk).writer;
    (disk, writer)
}

/// Opens the journal again with everything unsynced still there, as after `kill -9`.
fn reopened(disk: &MemoryDisk) -> Vec<Held> {
    held(open(disk).writer.journal())
}

/// A frame where it lies.
#[derive(Clone, PartialEq, Eq)]
struct Held {
    position: Position,
    bytes: Bytes,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}+{}", self.position.segment, self.position.offset, self.bytes.len())
    }
}

/// Every durable frame, oldest first.
fn held(journal: &Arc<Journal>) -> Vec<Held> {
    try_held(journal).unwrap()
}

fn try_held(journal: &Arc<Journal>) -> Result<Vec<Held>, JournalError> {
    let mut reader = journal.reader(Position::default());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(Held { position: frame.position, bytes: frame.bytes });
    }
    Ok(frames)
}

/// Appends a frame; what a reader should see of it.
fn append(writer: &mut Writer, frame: Vec<u8>) -> Held {
    let position = writer.append(&frame).unwrap();
    Held { position, bytes: frame.into() }
}

/// Appends and syncs so many frames, four to a segment.
fn fill(writer: &mut Writer, frames: usize) -> Vec<Held> {
    let all = (0..frames).map(|_| {
        let frame = writes(writer.tip(), 1, QUARTER);
        append(writer, frame)
    });
    let all = all.collect();
    writer.sync().unwrap();
    all
}

fn path_of(segment: u64) -> PathBuf {
    folder().join(super::segment::file_name(segment))
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    crate::storage::Disk::list(disk, Path::new("/journal")).unwrap()
}

fn place(tip: &Tip, writes: u64) -> Place {
    Place {
        group: GROUP,
        member: 0,
        generation: tip.generation,
        first_seq: Seq(tip.seq.0 + 1),
        last_seq: Seq(tip.seq.0 + writes),
        marker: tip.marker,
        chain: tip.chain,
    }
}

/// Bytes that do not compress, others at every sequence number.
fn noise(tip: &Tip, length: usize) -> Vec<u8> {
    let mut state = tip.seq.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..length).map(|_| next()).collect()
}

/// A frame of so many host writes with so many bytes of data together.
fn writes(tip: &Tip, count: u64, data_bytes: usize) -> Vec<u8> {
    data_frame(FrameKind::Writes, tip, &place(tip, count), data_bytes)
}

/// A frame of a differential copy.
fn regions(tip: &Tip, data_bytes: usize) -> Vec<u8> {
    let place = Place { first_seq: tip.seq, last_seq: tip.seq, ..place(tip, 0) };
    data_frame(FrameKind::Regions, tip, &place, data_bytes)
}

fn data_frame(kind: FrameKind, tip: &Tip, place: &Place, data_bytes: usize) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    let extent = |offset, length| Extent { volume: VolumeIndex(1), offset, length };
    builder.push_zero(extent(1 << 30, 8192), true);
    if data_bytes > 0 {
        builder.push_data(extent(tip.seq.0 * 4096, data_bytes as u64), &noise(tip, data_bytes));
    }
    builder.finish(kind, place).to_vec()
}

fn control(tip: &Tip, record: &ControlRecord) -> Vec<u8> {
    record.frame(&Place { first_seq: tip.seq, ..place(tip, 0) }).unwrap()
}

fn marker(tip: &Tip) -> Vec<u8> {
    let number = tip.marker.0 + 1;
    let boundary_seq = tip.seq.0;
    control(
        tip,
        &ControlRecord::Marker(MarkerRecord { number, boundary_seq, time_ns: 1, freeze_ns: 30_000, tag: None }),
    )
}

/// A new generation, whose frames carry it.
fn role(tip: &Tip) -> Vec<u8> {
    let generation = tip.generation.next();
    let place = Place { generation, first_seq: tip.seq, ..place(tip, 0) };
    ControlRecord::Role { generation: generation.0, appliance: [3; 32], time_ns: 2 }.frame(&place).unwrap()
}

fn volumes() -> Vec<VolumeSpec> {
    vec![VolumeSpec { index: 1, name: "data".into(), size: 1 << 40 }]
}

/// The begin of a copy from another place of another history.
fn copy_begin(tip: &Tip, start_seq: u64, chain: [u8; 16]) -> Vec<u8> {
    let start_marker = tip.marker.0 + 3;
    control(
        tip,
        &ControlRecord::CopyBegin {
            copy: 1,
            start_seq,
            start_marker,
            chain,
            direct: false,
            total_bytes: 1,
            volumes: volumes(),
        },
    )
}
