//! The write buffer's memory: a ring in a file on tmpfs, mapped, so that it outlives the process.
//!
//! ```text
//! 0      header page: who it belongs to; head and tail, each on its own cache line
//! 4096   entries: header (64) | payload | padding to 64 ...
//! ```
//!
//! An entry's header is written before the head is published and its payload before its state becomes `committed`, so after
//! `kill -9` each entry between tail and head is either whole or was never answered (invariant 1). Positions only grow; the
//! place in the file is the position modulo the capacity.
//!
//! All `unsafe` of this crate is here. The file is private to the service and never truncated while it is mapped; its
//! blocks are reserved before they are touched, so a full tmpfs is an error and not a signal.
#![allow(unsafe_code, reason = "shared memory that outlives the process; see the SAFETY of each block")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, GroupId, Seq, VolumeIndex};
use tidemark_common::record::crc32c;

use crate::ring_place::{check_own, close_folder, make_folder};

const MAGIC: u64 = 0x3147_4e49_524d_4454;
const PAGE: u64 = 4096;
const HEAD_AT: usize = 1024;
const TAIL_AT: usize = 2048;
const ENTRY_MAGIC: u32 = 0x454d_4454;
/// Bytes of an entry's header, and the alignment of entries.
pub const ENTRY_BYTES: u64 = 64;
const COMMITTED: u32 = 0x434f_4d54;
/// Blocks are reserved in steps of this size.
const RESERVE_STEP: u64 = 1 << 20;

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Writes its payload.
    Data,
    /// Writes zeroes.
    Zero {
        /// Space may be given back.
        hole: bool,
    },
    /// Fills the end of the ring; has no sequence number.
    Pad,
}

impl EntryKind {
    const fn code(self) -> u32 {
        match self {
            Self::Data => 1,
            Self::Zero { hole: false } => 2,
            Self::Zero { hole: true } => 3,
            Self::Pad => 4,
        }
    }

    const fn of(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Zero { hole: false }),
            3 => Some(Self::Zero { hole: true }),
            4 => Some(Self::Pad),
            _ => None,
        }
    }
}

/// An entry's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it does.
    pub kind: EntryKind,
    /// Its sequence number.
    pub seq: Seq,
    /// Where.
    pub extent: Extent,
    /// Bytes of payload behind the header.
    pub payload_bytes: u32,
    /// Checksum of the payload; known when committed.
    pub payload_check: u32,
}

impl Entry {
    /// Bytes of the ring it takes.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        (ENTRY_BYTES + u64::from(self.payload_bytes)).next_multiple_of(ENTRY_BYTES)
    }
}

/// Why a ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file system failed.
    #[error("{action} the write buffer {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no place for it.
    #[error(
        "make {}, for the write buffer: {source}. Is the tmpfs that ring_directory in config.toml names there?", folder.display()
    )]
    Folder {
        /// Where it is to lie.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has made it, where everybody may make files.
    #[error(
        "{}, for the write buffer, is of user {uid} and not of this service, and what it holds would be written to volumes: find out who made it, \
         remove it, and restart the service",
        path.display()
    )]
    Foreign {
        /// The folder, or the file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// The file is not what it should be.
    #[error(
        "the write buffer {} cannot be read: {what}. It may hold acknowledged writes: keep the file. To start without them, move it aside, \
         restart the service, and do what it says then",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The ring of one group.
#[derive(Debug)]
pub struct Ring {
    map: MmapRaw,
    file: File,
    path: PathBuf,
    capacity: u64,
}

impl Ring {
    /// Makes a new, empty ring in place of whatever the path holds. It gets that name once it can be understood: what a kill or a full tmpfs leaves
    /// of one that is being made would be taken for one that holds acknowledged writes.
    ///
    /// # Errors
    /// [`RingError::Io`], [`RingError::Folder`], [`RingError::Foreign`].
    pub fn create(path: &Path, capacity: u64, group: GroupId, generation: Generation) -> Result<Self, RingError> {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let draft = path.with_extension("new");
        let made = Self::make(&draft, path, capacity, group, generation);
        made.inspect_err(|_| drop(std::fs::remove_file(&draft)))
    }

    fn make(
        draft: &Path,
        path: &Path,
        capacity: u64,
        group: GroupId,
        generation: Generation,
    ) -> Result<Self, RingError> {
        let io = |action| move |source| RingError::Io { action, path: path.to_owned(), source };
        let _ = std::fs::remove_file(draft);
        let capacity = capacity.next_multiple_of(PAGE);
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.read(true).write(true).create_new(true).open(draft).map_err(io("create"))?;
        file.set_len(PAGE + capacity).map_err(io("size"))?;
        fallocate(&file, FallocateFlags::empty(), 0, PAGE).map_err(|e| io("reserve")(e.into()))?;
        let ring = Self::map(file, path, capacity)?;
        let mut header = Vec::with_capacity(64);
        header.extend_from_slice(&MAGIC.to_le_bytes());
        header.extend_from_slice(&group.0);
        header.extend_from_slice(&generation.0.to_le_bytes());
        header.extend_from_slice(&capacity.to_le_bytes());
        header.extend_from_slice(&crc32c(&header).to_le_bytes());
        ring.copy_in(0, &header);
        std::fs::rename(draft, path).map_err(io("name"))?;
        Ok(ring)
    }

    /// Maps an existing ring, with the generation it is of; `None` when there is none.
    ///
    /// # Errors
    /// [`RingError`]: a ring that cannot be understood is never thrown away.
    pub fn open(path: &Path, group: GroupId) -> Result<Option<(Self, Generation)>, RingError> {
        let io = |action| move |source| RingError::Io { action, path: path.to_owned(), source };
        let damaged = |what| RingError::Damaged { path: path.to_owned(), what };
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open")(error)),
        };
        let found = file.metadata().map_err(io("measure"))?;
        check_own(&found, path)?;
        if let Some(folder) = path.parent() {
            close_folder(folder)?;
        }
        let length = found.len();
        if length < 2 * PAGE {
            return Err(damaged("it is cut short"));
        }
        let ring = Self::map(file, path, length - PAGE)?;
        let header = ring.slice(0, 44).to_vec();
        let (fields, check) = header.split_at(40);
        if check != crc32c(fields).to_le_bytes() {
            return Err(damaged("the checksum of its header does not match"));
        }
        let word =
            |at: usize| fields.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        if word(0) != MAGIC || fields.get(8..24) != Some(group.0.as_slice()) || word(32) != ring.capacity {
            return Err(damaged("it belongs to another group or has another size"));
        }
        ring.check_ends()?;
        Ok(Some((ring, Generation(word(24)))))
    }

    /// What to say when an entry is not what was written.
    #[must_use]
    pub fn damaged(&self, what: &'static str) -> RingError {
        RingError::Damaged { path: self.path.clone(), what }
    }

    /// Head and tail have no checksum, because each write moves the head. What can be said against them is said here.
    fn check_ends(&self) -> Result<(), RingError> {
        let (head, tail) = self.ends();
        let aligned = head.is_multiple_of(ENTRY_BYTES) && tail.is_multiple_of(ENTRY_BYTES);
        if !aligned || head.checked_sub(tail).is_none_or(|held| held > self.capacity) {
            return Err(self.damaged("where its entries begin and end makes no sense"));
        }
        // An entry is committed only once the head has passed it; a pad before.
        let answered = self.is_entry(head)?
            && self.entry(head).is_ok_and(|entry| entry.kind != EntryKind::Pad)
            && self.is_committed(head)?;
        if answered { Err(self.damaged("there are entries behind its end")) } else { Ok(()) }
    }

    /// Whether a place that may have no blocks holds an entry. Read from the file: a touch would want a block for it, and
    /// kill the process when there is none to be had.
    fn is_entry(&self, position: u64) -> Result<bool, RingError> {
        let mut magic = [0; 4];
        let read = self.file.read_exact_at(&mut magic, self.file_offset(position));
        read.map_err(|source| RingError::Io { action: "read", path: self.path.clone(), source })?;
        Ok(magic == ENTRY_MAGIC.to_le_bytes())
    }

    fn map(file: File, path: &Path, capacity: u64) -> Result<Self, RingError> {
        let map = MmapOptions::new().map_raw(&file);
        let map = map.map_err(|source| RingError::Io { action: "map", path: path.to_owned(), source })?;
        Ok(Self { map, file, path: path.to_owned(), capacity })
    }

    /// Bytes for entries.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reserves blocks so that entries up to this many bytes from the begin can be touched. Returns how far they are.
    ///
    /// # Errors
    /// As the system says: a full tmpfs.
    pub fn reserve_blocks(&self, reserved: u64, need: u64) -> io::Result<u64> {
        let upto = need.next_multiple_of(RESERVE_STEP).min(self.capacity);
        if upto > reserved {
            fallocate(&self.file, FallocateFlags::empty(), PAGE + reserved, upto - reserved)?;
        }
        Ok(upto.max(reserved))
    }

    /// Where an entry of so many bytes goes, and the pad before it: entries never wrap. `None` when it does not fit.
    #[must_use]
    pub fn place(&self, head: u64, tail: u64, ring_bytes: u64) -> Option<(u64, Option<u64>)> {
        let left = self.capacity - head % self.capacity;
        let (at, pad) = if ring_bytes > left { (head + left, Some(left)) } else { (head, None) };
        (at + ring_bytes <= tail + self.capacity).then_some((at, pad))
    }

    /// Writes an entry's header with the state "reserved".
    pub fn write_entry(&self, position: u64, entry: &Entry) {
        let mut bytes = [0; 48];
        let mut put = |at: usize, field: &[u8]| bytes.iter_mut().skip(at).zip(field).for_each(|(to, from)| *to = *from);
        put(0, &ENTRY_MAGIC.to_le_bytes());
        put(4, &entry.kind.code().to_le_bytes());
        put(8, &entry.seq.0.to_le_bytes());
        put(16, &entry.extent.volume.0.to_le_bytes());
        put(20, &entry.payload_bytes.to_le_bytes());
        put(24, &entry.extent.offset.to_le_bytes());
        put(32, &entry.extent.length.to_le_bytes());
        let check = entry_check(&bytes, position);
        bytes.iter_mut().skip(40).zip(check.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.state(position).store(0, Ordering::Release);
        self.copy_in(self.file_offset(position), &bytes);
    }

    /// Copies the payload behind its header and notes its checksum.
    pub fn write_payload(&self, position: u64, payload: &[u8]) {
        self.copy_in(self.file_offset(position) + ENTRY_BYTES, payload);
        self.check_word(position).store(crc32c(payload), Ordering::Release);
    }

    /// From here on the entry counts.
    pub fn commit(&self, position: u64) {
        self.state(position).store(COMMITTED, Ordering::Release);
    }

    /// Whether an entry counts.
    ///
    /// # Errors
    /// [`RingError::Damaged`]: an entry whose state is neither may have been answered.
    pub(crate) fn is_committed(&self, position: u64) -> Result<bool, RingError> {
        match self.state(position).load(Ordering::Acquire) {
            COMMITTED => Ok(true),
            0 => Ok(false),
            _ => Err(self.damaged("an entry's state makes no sense")),
        }
    }

    /// Reads an entry's header.
    ///
    /// # Errors
    /// [`RingError::Damaged`].
    pub fn entry(&self, position: u64) -> Result<Entry, RingError> {
        let damaged = |what| self.damaged(what);
        let bytes: [u8; 48] = self.slice(self.file_offset(position), 48).try_into().map_err(|_| damaged("short"))?;
        let long =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let short =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        if short(0) != ENTRY_MAGIC || short(40) != entry_check(&bytes, position) {
            return Err(damaged("an entry's checksum does not match"));
        }
        let kind = EntryKind::of(short(4)).ok_or_else(|| damaged("an entry is of unknown kind"))?;
        let extent = Extent { volume: VolumeIndex(short(16)), offset: long(24), length: long(32) };
        let payload_check = self.check_word(position).load(Ordering::Acquire);
        let entry = Entry { kind, seq: Seq(long(8)), extent, payload_bytes: short(20), payload_check };
        if position % self.capacity + entry.ring_bytes() > self.capacity {
            return Err(damaged("an entry runs over the end"));
        }
        Ok(entry)
    }

    /// A committed entry's payload. The caller keeps the tail from passing it meanwhile.
    #[must_use]
    pub fn payload(&self, position: u64, entry: &Entry) -> &[u8] {
        self.slice(self.file_offset(position) + ENTRY_BYTES, entry.payload_bytes as usize)
    }

    /// Copies payload bytes out, from a position inside a payload. The caller keeps the tail from passing it meanwhile.
    pub(crate) fn copy_out(&self, position: u64, buffer: &mut [u8]) {
        buffer.copy_from_slice(self.slice(self.file_offset(position), buffer.len()));
    }

    /// Head and tail as they were left.
    #[must_use]
    pub fn ends(&self) -> (u64, u64) {
        (self.word(HEAD_AT).load(Ordering::Acquire), self.word(TAIL_AT).load(Ordering::Acquire))
    }

    /// Publishes the head: all entries before it have headers.
    pub fn set_head(&self, head: u64) {
        self.word(HEAD_AT).store(head, Ordering::Release);
    }

    /// Publishes the tail: all entries before it are durable in the journal.
    pub(crate) fn set_tail(&self, tail: u64) {
        self.word(TAIL_AT).store(tail, Ordering::Release);
    }

    fn file_offset(&self, position: u64) -> u64 {
        PAGE + position % self.capacity
    }

    fn pointer(&self, offset: u64, length: usize) -> *mut u8 {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.map.len()), "inside the ring");
        // SAFETY: the assertion above keeps the result inside the mapping.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }

    fn slice(&self, offset: u64, length: usize) -> &[u8] {
        // SAFETY: inside the mapping (`pointer`), which lives as long as `self`. Bytes of a committed entry are not written
        // until the tail passes it, which the drain does only after shutting out readers; recovery and the drain are alone.
        unsafe { std::slice::from_raw_parts(self.pointer(offset, length), length) }
    }

    fn copy_in(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: inside the mapping (`pointer`); the bytes belong to a reserved entry, which only its writer touches until
        // it is committed, or to the header of a ring that nobody else has yet; they cannot overlap the caller's slice.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer(offset, bytes.len()), bytes.len()) };
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned to 8 because the mapping is page aligned and `at` a multiple of 8; only
        // ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.pointer(at as u64, 8).cast()) }
    }

    fn state(&self, position: u64) -> &AtomicU32 {
        self.half_word(self.file_offset(position) + 48)
    }

    fn check_word(&self, position: u64) -> &AtomicU32 {
        self.half_word(self.file_offset(position) + 52)
    }

    fn half_word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned to 4 because entries are aligned to 64; only ever used as an atomic.
        unsafe { AtomicU32::from_ptr(self.pointer(offset, 4).cast()) }
    }
}

fn entry_check(bytes: &[u8; 48], position: u64) -> u32 {
    let mut checked = [0; 48];
    let fields = bytes.iter().take(40).copied().chain(position.to_le_bytes());
    checked.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    crc32c(&checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, payload_bytes: u32) -> Entry {
        let extent = Extent { volume: VolumeIndex(1), offset: 4096, length: u64::from(payload_bytes) };
        Entry { kind: EntryKind::Data, seq: Seq(seq), extent, payload_bytes, payload_check: 0 }
    }

    #[test]
    fn entries_outlive_the_mapping() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        let group = GroupId([1; 16]);
        let ring = Ring::create(&path, 1 << 20, group, Generation(3)).unwrap();
        ring.reserve_blocks(0, 1 << 20).unwrap();
        ring.write_entry(0, &entry(7, 100));
        ring.write_payload(0, &[5; 100]);
        ring.commit(0);
        ring.write_entry(192, &entry(8, 10));
        ring.set_head(320);
        drop(ring);
        let (ring, generation) = Ring::open(&path, group).unwrap().unwrap();
        assert_eq!((generation, ring.ends()), (Generation(3), (320, 0)));
        let first = ring.entry(0).unwrap();
        assert!(ring.is_committed(0).unwrap() && !ring.is_committed(192).unwrap());
        assert_eq!(ring.payload(0, &first), &[5; 100]);
        assert_eq!(first.payload_check, crc32c(&[5; 100]));
        assert_eq!(ring.entry(192).unwrap().seq, Seq(8));
        assert!(ring.entry(64).is_err(), "no entry begins inside a payload");
        assert!(Ring::open(&path, GroupId([2; 16])).is_err(), "another group's ring");
    }

    #[test]
    fn entries_never_wrap_and_never_overtake_the_tail() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Ring::create(&folder.path().join("ring"), 8192, GroupId([1; 16]), Generation(1)).unwrap();
        assert_eq!(ring.place(0, 0, 8192), Some((0, None)));
        assert_eq!(ring.place(4096, 0, 4160), None, "would overtake");
        assert_eq!(ring.place(4160, 4160, 4096), Some((8192, Some(4032))), "a pad to the end");
        assert_eq!(ring.place(8192, 4096, 4096), Some((8192, None)));
        assert_eq!(ring.place(8192, 4096, 4160), None);
    }

    /// Two entries, the second not committed, in a file of a million bytes.
    fn small_ring(path: &Path) -> Ring {
        let ring = Ring::create(path, 1 << 20, GroupId([1; 16]), Generation(1)).unwrap();
        ring.reserve_blocks(0, 1 << 20).unwrap();
        for (seq, position) in [(7, 0), (8, 192)] {
            ring.write_entry(position, &entry(seq, 100));
            ring.write_payload(position, &[5; 100]);
        }
        ring.commit(0);
        ring.set_head(384);
        ring
    }

    #[test]
    fn ends_that_cannot_be_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        let ring = small_ring(&path);
        let open = || Ring::open(&path, GroupId([1; 16])).map(|found| found.unwrap().0.ends());
        assert_eq!(open().unwrap(), (384, 0));
        // The tail beyond the head, more than fits, between entries, and an answered entry behind the head.
        for (head, tail) in [(64, 128), (1 << 40, 0), (385, 0), (384, 63), (0, 0)] {
            ring.set_head(head);
            ring.set_tail(tail);
            assert!(matches!(open(), Err(RingError::Damaged { .. })), "{head} {tail}");
        }
        // The last entry was never answered: a process may die between its header and the head.
        ring.set_tail(0);
        ring.set_head(192);
        assert_eq!(open().unwrap(), (192, 0));
    }

    #[test]
    fn an_entry_neither_committed_nor_not_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let ring = small_ring(&folder.path().join("ring"));
        ring.state(192).store(1, Ordering::Release);
        assert!(matches!(ring.is_committed(192), Err(RingError::Damaged { .. })));
    }

    /// The next start finds none, and not one that may hold acknowledged writes.
    #[test]
    fn a_ring_that_could_not_be_made_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        // More than a file may have, or than can be mapped.
        let made = Ring::create(&path, 1 << 50, GroupId([1; 16]), Generation(1));
        assert!(matches!(made, Err(RingError::Io { .. })), "{made:?}");
        assert!(Ring::open(&path, GroupId([1; 16])).unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it takes no memory");
    }

    #[test]
    fn a_truncated_ring_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        std::fs::write(&path, [0; 100]).unwrap();
        assert!(matches!(Ring::open(&path, GroupId([1; 16])), Err(RingError::Damaged { .. })));
        std::fs::write(&path, [0; 9000]).unwrap();
        assert!(matches!(Ring::open(&path, GroupId([1; 16])), Err(RingError::Damaged { .. })));
    }
}
