//! One segment file: its header, its records' envelopes, and how a new one comes to be.
//!
//! ```text
//! 0      segment header (checked), in a folded one what was folded (checked), zeroes up to 4096
//! 4096   envelope (32) | frame | padding to 32 | envelope | frame | ...
//! ```
//!
//! In a folded segment records may begin later, behind a hole: those behind the fold stay where they were.
//!
//! The group, the segment's number and the record's offset are mixed into the envelope's checksum, so that what a recycled
//! file held before never looks valid, nor does what a host writes into its volumes. Each envelope says up to where the journal
//! was durable when it was written: that tells a torn tail from damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::{Journal, JournalError, Position};
use crate::ids::{Generation, GroupId, MarkerNumber, Seq};
use crate::limits::are_believed;
use crate::record::{Chain, FrameError, HEADER_BYTES, Tip, crc32c};
use crate::storage::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::storage::pool::Room;
use crate::storage::{DiskFile, Open};

/// Where records begin.
pub(super) const FIRST_RECORD: u64 = 4096;
/// Bytes of an envelope, and the alignment of records.
pub(super) const ENVELOPE_BYTES: usize = 32;
const HEADER_MAGIC: u32 = 0x534d_4454;
const ENVELOPE_MAGIC: u32 = 0x524d_4454;
/// 1: first format. 2: what was folded follows the header.
const FORMAT_VERSION: u32 = 1;
const FOLDED_VERSION: u32 = 2;
/// Zeroes are written in steps of this size.
const ZERO_STEP: usize = 1 << 20;
/// Frames from here on are read past the page cache: as many bytes as Linux reads ahead at once, so that they gain nothing by that.
const DIRECT_BYTES_MIN: usize = 128 << 10;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    pub magic: u32,
    pub version: u32,
    pub number: u64,
    pub group: [u8; 16],
    /// The segment before this one, 0 for none, and where its records end.
    pub previous: u64,
    pub previous_end: u64,
    /// Last sequence number, marker, generation and chain before this segment.
    pub start_seq: u64,
    pub start_marker: u64,
    pub start_generation: u64,
    pub start_chain: [u8; 16],
}

const STORED_HEADER_BYTES: usize = 96;
const _: () = assert!(size_of::<ArchivedSegmentHeader>() == STORED_HEADER_BYTES - 8);

impl SegmentHeader {
    pub(super) fn new(number: u64, group: GroupId, previous: Position, start: &Start) -> Self {
        Self {
            magic: HEADER_MAGIC,
            version: FORMAT_VERSION,
            number,
            group: group.0,
            previous: previous.segment,
            previous_end: previous.offset,
            start_seq: start.seq.0,
            start_marker: start.marker,
            start_generation: start.generation,
            start_chain: start.chain.0,
        }
    }

    fn encode(&self) -> [u8; STORED_HEADER_BYTES] {
        let mut bytes = [0; STORED_HEADER_BYTES];
        if let Ok(archived) = rkyv::to_bytes::<rkyv::rancor::Error>(self) {
            bytes.iter_mut().zip(archived.iter()).for_each(|(to, from)| *to = *from);
        }
        let (checked, check) = bytes.split_at_mut(STORED_HEADER_BYTES - 8);
        check.iter_mut().zip(crc32c(checked).to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let need = STORED_HEADER_BYTES;
        let bytes = bytes.get(..need).ok_or(FrameError::Short { have: bytes.len(), need })?;
        let (checked, check) = bytes.split_at(STORED_HEADER_BYTES - 8);
        if check.get(..4) != Some(crc32c(checked).to_le_bytes().as_slice()) {
            return Err(FrameError::Checksum { part: "segment header" });
        }
        let header = rkyv::from_bytes::<Self, rkyv::rancor::Error>(checked)
            .map_err(|_| FrameError::Malformed { what: "the segment header cannot be read" })?;
        if header.magic != HEADER_MAGIC {
            return Err(FrameError::Magic);
        }
        if header.version != FORMAT_VERSION && header.version != FOLDED_VERSION {
            return Err(FrameError::Version { version: u16::try_from(header.version).unwrap_or(u16::MAX) });
        }
        // The history goes on from there when all before it has left the journal.
        if !are_believed(header.start_seq, header.start_marker, header.start_generation) {
            return Err(FrameError::Malformed {
                what: "the segment begins at a number larger than any that is given out",
            });
        }
        Ok(header)
    }
}

/// What the header of a segment that came out of a fold says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoldHeader {
    /// The fold: all its segments have the same.
    pub id: u64,
    /// The first segment whose records are folded; those from it up to this one's number are replaced.
    pub replaces_from: u64,
    /// Where the first record begins.
    pub first_record: u64,
}

/// Number of bytes of a stored [`FoldHeader`], behind the segment's header.
const STORED_FOLD_BYTES: usize = 32;

impl FoldHeader {
    fn encode(&self) -> [u8; STORED_FOLD_BYTES] {
        let mut bytes = [0; STORED_FOLD_BYTES];
        let fields = [self.id, self.replaces_from, self.first_record];
        let stored = fields.iter().flat_map(|field| field.to_le_bytes());
        bytes.iter_mut().zip(stored).for_each(|(to, from)| *to = from);
        let (checked, check) = bytes.split_at_mut(STORED_FOLD_BYTES - 8);
        check.iter_mut().zip(crc32c(checked).to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    fn decode(bytes: &[u8; STORED_FOLD_BYTES]) -> Result<Self, FrameError> {
        let (words, _) = bytes.as_chunks::<8>();
        let [id, replaces_from, first_record, check] = words else {
            return Err(FrameError::Short { have: bytes.len(), need: STORED_FOLD_BYTES });
        };
        let (checked, _) = bytes.split_at(STORED_FOLD_BYTES - 8);
        if u64::from_le_bytes(*check) != u64::from(crc32c(checked)) {
            return Err(FrameError::Checksum { part: "segment's fold" });
        }
        let first_record = u64::from_le_bytes(*first_record);
        if first_record < FIRST_RECORD {
            return Err(FrameError::Malformed { what: "its first record lies in the segment header" });
        }
        Ok(Self { id: u64::from_le_bytes(*id), replaces_from: u64::from_le_bytes(*replaces_from), first_record })
    }
}

/// Where the history stands at the begin of a segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Start {
    /// Last sequence number before.
    pub seq: Seq,
    /// Newest marker before.
    pub marker: u64,
    /// Generation.
    pub generation: u64,
    /// The chain.
    pub chain: Chain,
}

impl Start {
    pub(super) const fn of(tip: &Tip) -> Self {
        Self { seq: tip.seq, marker: tip.marker.0, generation: tip.generation.0, chain: tip.chain }
    }

    pub(super) const fn tip(&self) -> Tip {
        Tip {
            seq: self.seq,
            marker: MarkerNumber(self.marker),
            generation: Generation(self.generation),
            chain: self.chain,
        }
    }
}

/// The 32 bytes before each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Envelope {
    pub frame_bytes: u32,
    /// The durable end when it was written.
    pub durable: Position,
    /// The last four bytes of the frame's header: its checksum.
    pub frame_check: [u8; 4],
}

impl Envelope {
    pub(super) fn of(frame: &[u8], durable: Position) -> Self {
        let frame_check = frame.get(..HEADER_BYTES).and_then(|header| header.last_chunk::<4>()).copied();
        Self {
            frame_bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            durable,
            frame_check: frame_check.unwrap_or_default(),
        }
    }

    pub(super) fn encode(&self, group: GroupId, at: Position) -> [u8; ENVELOPE_BYTES] {
        let mut bytes = [0; ENVELOPE_BYTES];
        let mut put = |from: usize, field: &[u8]| {
            bytes.iter_mut().skip(from).zip(field).for_each(|(to, from)| *to = *from);
        };
        put(0, &ENVELOPE_MAGIC.to_le_bytes());
        put(4, &self.frame_bytes.to_le_bytes());
        put(8, &self.durable.segment.to_le_bytes());
        put(16, &self.durable.offset.to_le_bytes());
        put(24, &self.frame_check);
        let check = envelope_check(&bytes, group, at);
        bytes.iter_mut().skip(28).zip(check.to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    pub(super) fn decode(bytes: &[u8], group: GroupId, at: Position) -> Result<Self, FrameError> {
        let Some(bytes) = bytes.first_chunk::<ENVELOPE_BYTES>() else {
            return Err(FrameError::Short { have: bytes.len(), need: ENVELOPE_BYTES });
        };
        let mut words = [0; ENVELOPE_BYTES / 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [magic, frame_bytes, segment_low, segment_high, offset_low, offset_high, frame_check, check] = words;
        if magic != ENVELOPE_MAGIC {
            return Err(FrameError::Magic);
        }
        if envelope_check(bytes, group, at) != check {
            return Err(FrameError::Checksum { part: "envelope" });
        }
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let durable = Position { segment: wide(segment_low, segment_high), offset: wide(offset_low, offset_high) };
        Ok(Self { frame_bytes, durable, frame_check: frame_check.to_le_bytes() })
    }
}

/// Over the fields, then the group and the place, which are not stored.
fn envelope_check(bytes: &[u8; ENVELOPE_BYTES], group: GroupId, at: Position) -> u32 {
    let mut checked = [0; 60];
    let place = at.segment.to_le_bytes().into_iter().chain(at.offset.to_le_bytes());
    let fields = bytes.iter().take(28).copied().chain(group.0).chain(place);
    checked.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    crc32c(&checked)
}

/// Bytes a frame takes in a segment.
pub(super) const fn record_bytes(frame_bytes: usize) -> u64 {
    (ENVELOPE_BYTES + frame_bytes).next_multiple_of(ENVELOPE_BYTES) as u64
}

pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.segment")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

pub(super) fn fold_name(number: u64) -> String {
    format!("{number:016x}.fold")
}

pub(super) fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)
}

/// A segment in use.
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// Last sequence number before it.
    pub start_seq: Seq,
    pub(super) group: GroupId,
    pub(super) previous: Position,
    pub(super) start: Start,
    pub(super) fold: Option<FoldHeader>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    end: AtomicU64,
    sealed: std::sync::atomic::AtomicBool,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).field("end", &self.used_bytes()).finish_non_exhaustive()
    }
}

impl Segment {
    /// Opens an existing file and reads its header.
    pub(super) fn open(journal: &Journal, number: u64) -> Result<Self, JournalError> {
        Self::open_at(journal, number, journal.folder.join(file_name(number)))
    }

    /// Opens a segment whose file has this path.
    pub(super) fn open_at(journal: &Journal, number: u64, path: PathBuf) -> Result<Self, JournalError> {
        let io = |action, source| JournalError::io(action, &path, 0, source);
        let file = journal.disk.open(&path, Open::Existing).map_err(|source| io("open", source))?;
        let capacity = file.size().map_err(|source| io("measure", source))?;
        let mut bytes = [0; STORED_HEADER_BYTES];
        let damaged = |source| JournalError::Damaged { path: path.clone(), offset: 0, source };
        if capacity < FIRST_RECORD {
            let have = usize::try_from(capacity).unwrap_or_default();
            return Err(damaged(FrameError::Short { have, need: STORED_HEADER_BYTES }));
        }
        file.read_exact_at(&mut bytes, 0).map_err(|source| io("read", source))?;
        let header = SegmentHeader::decode(&bytes).map_err(damaged)?;
        if header.number != number || header.group != journal.group.0 {
            let what = "the segment header belongs to another segment or group";
            return Err(damaged(FrameError::Malformed { what }));
        }
        // Recovery walks this line backwards: it must end.
        if header.previous >= number {
            return Err(damaged(FrameError::Malformed {
                what: "the segment header names a later segment as the one before",
            }));
        }
        let fold = match header.version {
            FOLDED_VERSION => {
                let mut bytes = [0; STORED_FOLD_BYTES];
                file.read_exact_at(&mut bytes, STORED_HEADER_BYTES as u64).map_err(|source| io("read", source))?;
                Some(FoldHeader::decode(&bytes).map_err(damaged)?)
            }
            _ => None,
        };
        if fold.is_some_and(|fold| fold.first_record > capacity || fold.replaces_from > number) {
            return Err(damaged(FrameError::Malformed { what: "the segment header tells of a fold that cannot be" }));
        }
        Ok(Self::with(header, fold, path, file, capacity))
    }

    /// Makes a segment of a fold, still under another name: a new file, its records to be written. What an earlier try left
    /// there goes first.
    pub(super) fn create_folded(
        journal: &Journal,
        mut header: SegmentHeader,
        fold: FoldHeader,
    ) -> Result<Self, JournalError> {
        header.version = FOLDED_VERSION;
        let path = journal.folder.join(fold_name(header.number));
        let io = |action, source| JournalError::io(action, &path, 0, source);
        if journal.disk.open(&path, Open::Existing).is_ok() {
            journal.disk.remove(&path).map_err(|source| io("remove", source))?;
        }
        let file = journal.disk.open(&path, Open::New).map_err(|source| io("open", source))?;
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&fold.encode());
        file.grow(fold.first_record).map_err(|source| io("grow", source))?;
        file.write_all_at(&bytes, 0).map_err(|source| io("write", source))?;
        let capacity = fold.first_record;
        Ok(Self::with(header, Some(fold), path, file, capacity))
    }

    /// The same segment, all its records written and synced, under the name of a segment and as large as it is.
    pub(super) fn renamed(&self, path: PathBuf) -> Self {
        let end = self.used_bytes();
        Self {
            number: self.number,
            start_seq: self.start_seq,
            group: self.group,
            previous: self.previous,
            start: self.start,
            fold: self.fold,
            path,
            file: Arc::clone(&self.file),
            capacity: end,
            end: AtomicU64::new(end),
            sealed: true.into(),
        }
    }

    /// Gives a file of a fold its whole length: readers look for no byte behind its end.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), JournalError> {
        self.file.grow(bytes).map_err(|source| JournalError::io("grow", &self.path, bytes, source))
    }

    /// The path of its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a new segment: a file whose blocks have been written before, then its header, then its name.
    pub(super) fn create(journal: &Journal, header: SegmentHeader) -> Result<Self, JournalError> {
        let spare = journal.state.lock().spares.pop();
        let from = spare.unwrap_or_else(|| journal.folder.join(spare_name(header.number)));
        let result = Self::create_from(journal, header, &from);
        if result.is_err() {
            // Half a segment would hold the space that may be missing.
            let _ = journal.disk.remove(&from);
        }
        result
    }

    fn create_from(journal: &Journal, header: SegmentHeader, from: &Path) -> Result<Self, JournalError> {
        let path = journal.folder.join(file_name(header.number));
        let io = |action, source| JournalError::io(action, from, 0, source);
        let file = journal.disk.open(from, Open::ExistingOrNew).map_err(|source| io("open", source))?;
        if file.size().map_err(|source| io("measure", source))? != journal.options.segment_bytes {
            Self::write_zeroes(journal, from, file.as_ref())?;
        }
        file.write_all_at(&header.encode(), 0).map_err(|source| io("write", source))?;
        file.sync().map_err(|source| io("sync", source))?;
        let capacity = file.size().map_err(|source| io("measure", source))?;
        // Last, and whether the name is there after a failure is not known, so this is never an error to go on after: frames
        // appended to the segment before would lie behind the end that this header tells. Until here there is no segment.
        journal.disk.rename(from, &path).map_err(|source| io("rename", std::io::Error::other(source)))?;
        Ok(Self::with(header, None, path, file, capacity))
    }

    /// Writes every block, so that later syncs have no metadata to write.
    fn write_zeroes(journal: &Journal, path: &Path, file: &dyn DiskFile) -> Result<(), JournalError> {
        let io = |action, offset, source| JournalError::io(action, path, offset, source);
        let mut zeroes = AlignedBuffer::default();
        zeroes.resize(ZERO_STEP);
        let zeroes = zeroes.as_slice();
        let mut at = 0;
        while at < journal.options.segment_bytes {
            let step = usize::try_from(journal.options.segment_bytes - at).unwrap_or(ZERO_STEP).min(ZERO_STEP);
            let data = zeroes.get(..step).unwrap_or(zeroes);
            let done = file.write_direct_at(data, at);
            done.and_then(|done| if done { Ok(()) } else { file.write_all_at(data, at) })
                .map_err(|source| io("preallocate", at, source))?;
            at += step as u64;
        }
        file.sync().map_err(|source| io("sync", 0, source))
    }

    fn with(
        header: SegmentHeader,
        fold: Option<FoldHeader>,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        capacity: u64,
    ) -> Self {
        Self {
            number: header.number,
            start_seq: Seq(header.start_seq),
            group: GroupId(header.group),
            previous: Position { segment: header.previous, offset: header.previous_end },
            start: Start {
                seq: Seq(header.start_seq),
                marker: header.start_marker,
                generation: header.start_generation,
                chain: Chain(header.start_chain),
            },
            path,
            file,
            capacity,
            end: AtomicU64::new(fold.map_or(FIRST_RECORD, |fold| fold.first_record)),
            sealed: false.into(),
            fold,
        }
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The place of its first record.
    #[must_use]
    pub fn begin(&self) -> Position {
        Position { segment: self.number, offset: self.first_record() }
    }

    /// Where its records begin.
    #[must_use]
    pub fn first_record(&self) -> u64 {
        self.fold.map_or(FIRST_RECORD, |fold| fold.first_record)
    }

    /// Whether it came out of a fold that began in a segment before it.
    pub(super) fn is_inside_of_fold(&self) -> bool {
        self.fold.is_some_and(|fold| self.previous.segment >= fold.replaces_from)
    }

    /// Bytes of the file that take space on the disk.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.capacity - (self.first_record() - FIRST_RECORD)
    }

    /// Bytes from its begin to a place in it, a hole before its records left out.
    pub(super) fn bytes_before(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.first_record() - FIRST_RECORD)
    }

    /// Where its records end.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// No record will be added.
    pub(super) fn seal(&self, end: u64) {
        self.set_end(end);
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether a reader at this offset should go on in the next segment.
    pub(super) fn ends_before(&self, offset: u64) -> bool {
        self.sealed.load(Ordering::Acquire) && offset >= self.used_bytes()
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), JournalError> {
        let result = self.file.read_exact_at(buffer, offset);
        result.map_err(|source| JournalError::io("read", &self.path, offset, source))
    }

    /// A whole frame. A large one comes past the page cache: it is read once, and the copy out of the cache was a third of what shipping it took.
    pub(super) fn frame(&self, length: usize, offset: u64) -> Result<Bytes, JournalError> {
        if let Some(frame) = self.frame_past_cache(length, offset) {
            return Ok(frame);
        }
        let mut bytes = Room::new(length);
        self.read(&mut bytes, offset)?;
        Ok(bytes.freeze())
    }

    /// `None`: it is read the usual way, which also says what is wrong. The blocks at its two ends hold what is not asked for, and the last one may be
    /// written again at the same time, with the same bytes in what is durable of it.
    fn frame_past_cache(&self, length: usize, offset: u64) -> Option<Bytes> {
        if length < DIRECT_BYTES_MIN {
            return None;
        }
        let block = BLOCK_BYTES as u64;
        let end = offset.checked_add(length as u64)?.checked_next_multiple_of(block)?;
        if end > self.capacity {
            return None;
        }
        let before = offset % block;
        let begin = offset - before;
        let mut blocks = Room::new(usize::try_from(end - begin).ok()?);
        let is_read = self.file.read_direct_at(&mut blocks, begin).unwrap_or(false);
        let before = usize::try_from(before).ok()?;
        is_read.then(|| blocks.freeze().slice(before..before + length))
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<(), JournalError> {
        let result = self.file.write_all_at(data, offset);
        result.map_err(|source| JournalError::io("write", &self.path, offset, source))
    }

    /// `Ok(false)`: not written, see [`DiskFile::write_direct_at`].
    pub(super) fn write_direct(&self, data: &[u8], offset: u64) -> Result<bool, JournalError> {
        let result = self.file.write_direct_at(data, offset);
        result.map_err(|source| JournalError::io("write", &self.path, offset, source))
    }

    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync().map_err(|source| JournalError::io("sync", &self.path, 0, source))
    }

    pub(super) fn damaged(&self, offset: u64, source: FrameError) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), offset, source }
    }

    pub(super) fn gap(&self, offset: u64, what: &'static str) -> JournalError {
        JournalError::Gap { path: self.path.clone(), offset, what }
    }
}
