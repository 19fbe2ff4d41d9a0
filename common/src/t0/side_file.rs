//! One side file: saved content in batches, each synced before the next one begins. What was saved comes back after a crash; a
//! batch that was torn was never relied on, because its volume is written only after its sync.
//!
//! ```text
//! 0      "TMSIDE01", group, number, nonce, check          padded to 4096
//! 4096   batch: "TMSAVED1", batch number, entries, payload bytes, checks    64 bytes, its check covers nonce and place
//!        table: entries × (volume, zero?, offset, length, check)           32 bytes each
//!        payload                                                          padded to 4096; the next batch follows
//! ```
//!
//! A torn batch can only be the last one: one that is followed by a younger batch is damage, and is said so. One that is whole when the file is
//! opened again is made durable before anybody goes by it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::concordance::{Saved, SavedPlace};
use crate::extent::Extent;
use crate::ids::{GroupId, VolumeIndex};
use crate::record::crc32c;
use crate::storage::{Disk, DiskFile, Open, is_no_space};

const FILE_MAGIC: &[u8; 8] = b"TMSIDE01";
const BATCH_MAGIC: &[u8; 8] = b"TMSAVED1";
/// Batches begin at multiples of this.
const ALIGN: u64 = 4096;
const BATCH_HEADER: usize = 64;
const ENTRY: usize = 32;
const FILE_HEADER: usize = 64;
/// Bytes of one piece at most: what is read and checked at once.
pub const PIECE_BYTES_MAX: u64 = 64 << 10;
/// Entries of one batch at most.
pub const BATCH_ENTRIES_MAX: usize = 4096;
/// Payload bytes of one batch at most.
pub const BATCH_BYTES_MAX: u64 = 8 << 20;

/// Why a side file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// The disk.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what was written.
    #[error("{} is damaged at {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl SideError {
    /// Whether space is all that is missing.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Content to be saved.
#[derive(Debug)]
pub struct Saving {
    /// Where it lies in the volume; no longer than [`PIECE_BYTES_MAX`] unless it is zeroes.
    pub extent: Extent,
    /// The bytes; `None`: all zeroes.
    pub bytes: Option<Vec<u8>>,
}

struct End {
    at: u64,
    next_batch: u64,
    failed: bool,
}

/// A side file.
pub struct SideFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    number: u64,
    nonce: [u8; 16],
    end: Mutex<End>,
}

impl std::fmt::Debug for SideFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SideError {
    move |source| SideError::Io { action, path: path.to_owned(), source }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |found| u32::from_le_bytes(*found))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |found| u64::from_le_bytes(*found))
}

const fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN).saturating_mul(ALIGN)
}

/// Bytes a batch takes on the disk.
#[must_use]
pub(crate) fn batch_bytes(pieces: &[Saving]) -> u64 {
    let payload: usize = pieces.iter().filter_map(|piece| piece.bytes.as_ref()).map(Vec::len).sum();
    aligned((BATCH_HEADER + pieces.len() * ENTRY + payload) as u64)
}

/// What a batch's header says.
struct Batch {
    number: u64,
    entries: usize,
    table_check: u32,
    payload_bytes: u64,
}

impl SideFile {
    /// Makes a new one, durably, its name too.
    ///
    /// # Errors
    /// [`SideError`]; nothing is left then.
    pub fn create(disk: &dyn Disk, path: &Path, group: GroupId, number: u64) -> Result<Self, SideError> {
        let mut nonce = [0; 16];
        let random = aws_lc_rs::rand::fill(&mut nonce);
        random.map_err(|_| io_error("draw random numbers for", path)(io::ErrorKind::Other.into()))?;
        let file = disk.open(path, Open::New).map_err(io_error("create", path))?;
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend_from_slice(FILE_MAGIC);
        header.extend_from_slice(&group.0);
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&nonce);
        header.resize(FILE_HEADER - 4, 0);
        header.extend_from_slice(&crc32c(&header).to_le_bytes());
        let written = file.write_all_at(&header, 0).and_then(|()| file.sync());
        let named = written.and_then(|()| path.parent().map_or(Ok(()), |folder| disk.sync_folder(folder)));
        if let Err(source) = named {
            let _ = disk.remove(path);
            return Err(io_error("write", path)(source));
        }
        let end = Mutex::new(End { at: ALIGN, next_batch: 1, failed: false });
        Ok(Self { path: path.to_owned(), file, number, nonce, end })
    }

    /// Opens one and shows what it holds, in the order in which it was saved.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        group: GroupId,
        number: u64,
        found: &mut dyn FnMut(Extent, Saved),
    ) -> Result<Self, SideError> {
        let file = disk.open(path, Open::Existing).map_err(io_error("open", path))?;
        let mut header = [0; FILE_HEADER];
        file.read_exact_at(&mut header, 0).map_err(io_error("read", path))?;
        let (checked, check) = header.split_at(FILE_HEADER - 4);
        let right = checked.starts_with(FILE_MAGIC)
            && checked.get(8..24) == Some(&group.0)
            && u64_at(checked, 24) == number
            && u32_at(check, 0) == crc32c(checked);
        if !right {
            let what = "its first bytes are not those of this group's side file";
            return Err(SideError::Damaged { path: path.to_owned(), offset: 0, what });
        }
        let nonce = checked.get(32..48).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let end = Mutex::new(End { at: ALIGN, next_batch: 1, failed: false });
        let side = Self { path: path.to_owned(), file, number, nonce, end };
        side.scan(found)?;
        Ok(side)
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.lock().at
    }

    /// Saves a batch; with `durably`, no loss of power takes it away when this returns. After an error nothing more is ever saved here.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn append(&self, pieces: &[Saving], durably: bool) -> Result<Vec<(Extent, Saved)>, SideError> {
        let mut end = self.end.lock();
        if end.failed {
            return Err(io_error("write", &self.path)(io::Error::other("an earlier write or sync failed")));
        }
        let (bytes, placed) = self.encode(end.at, end.next_batch, pieces);
        let written = self.file.write_all_at(&bytes, end.at);
        let written = if durably { written.and_then(|()| self.file.sync()) } else { written };
        if let Err(source) = written {
            end.failed = true;
            return Err(io_error("write", &self.path)(source));
        }
        end.at += bytes.len() as u64;
        end.next_batch += 1;
        Ok(placed)
    }

    fn encode(&self, at: u64, number: u64, pieces: &[Saving]) -> (Vec<u8>, Vec<(Extent, Saved)>) {
        let mut table = Vec::with_capacity(pieces.len() * ENTRY);
        let mut payload = Vec::new();
        let mut placed = Vec::with_capacity(pieces.len());
        let payload_at = at + (BATCH_HEADER + pieces.len() * ENTRY) as u64;
        for piece in pieces {
            let check = piece.bytes.as_ref().map_or(0, |bytes| crc32c(bytes));
            table.extend_from_slice(&piece.extent.volume.0.to_le_bytes());
            table.extend_from_slice(&u32::from(piece.bytes.is_none()).to_le_bytes());
            table.extend_from_slice(&piece.extent.offset.to_le_bytes());
            table.extend_from_slice(&piece.extent.length.to_le_bytes());
            table.extend_from_slice(&check.to_le_bytes());
            table.extend_from_slice(&[0; 4]);
            let saved = piece.bytes.as_ref().map_or(Saved::Zero, |bytes| {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let begin = payload_at + payload.len() as u64;
                Saved::Data(SavedPlace { file: self.number, at: begin, length, check, within: 0 })
            });
            payload.extend_from_slice(piece.bytes.as_deref().unwrap_or_default());
            placed.push((piece.extent, saved));
        }
        let mut bytes = Vec::with_capacity(BATCH_HEADER + table.len() + payload.len());
        bytes.extend_from_slice(BATCH_MAGIC);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&(pieces.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&table).to_le_bytes());
        bytes.resize(BATCH_HEADER - 4, 0);
        let check = self.header_check(at, &bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes.extend_from_slice(&table);
        bytes.extend_from_slice(&payload);
        bytes.resize(usize::try_from(aligned(bytes.len() as u64)).unwrap_or(bytes.len()), 0);
        (bytes, placed)
    }

    /// The nonce and the place are part of it: what a volume held, or an older batch, is never taken for a header.
    fn header_check(&self, at: u64, header: &[u8]) -> u32 {
        let mut all = Vec::with_capacity(24 + BATCH_HEADER);
        all.extend_from_slice(&self.nonce);
        all.extend_from_slice(&at.to_le_bytes());
        all.extend_from_slice(header.get(..BATCH_HEADER - 4).unwrap_or_default());
        crc32c(&all)
    }

    /// Reads a part of a piece; the whole piece is checked (invariant 9).
    ///
    /// # Errors
    /// [`SideError`].
    pub fn read(&self, place: &SavedPlace, target: &mut [u8]) -> Result<(), SideError> {
        let mut bytes = vec![0; place.length as usize];
        self.file.read_exact_at(&mut bytes, place.at).map_err(io_error("read", &self.path))?;
        let damaged = |what| SideError::Damaged { path: self.path.clone(), offset: place.at, what };
        if crc32c(&bytes) != place.check {
            return Err(damaged("the checksum of saved content does not match"));
        }
        let within = place.within as usize;
        let part = bytes.get(within..within.saturating_add(target.len()));
        target.copy_from_slice(part.ok_or_else(|| damaged("a piece is shorter than its place says"))?);
        Ok(())
    }

    fn scan(&self, found: &mut dyn FnMut(Extent, Saved)) -> Result<(), SideError> {
        let size = self.file.size().map_err(io_error("measure", &self.path))?;
        let mut at = ALIGN;
        let mut last = at;
        let mut expected = 1;
        while let Some(batch) = self.batch_at(at, size)?.filter(|batch| batch.number == expected) {
            let Some(entries) = self.entries(at, &batch, size)? else { break };
            for (extent, saved) in entries {
                found(extent, saved);
            }
            last = at;
            at += aligned((BATCH_HEADER + batch.entries * ENTRY) as u64 + batch.payload_bytes);
            expected += 1;
        }
        self.refuse_younger(at, size, expected)?;
        self.make_durable(last, at.min(size))?;
        let mut end = self.end.lock();
        (end.at, end.next_batch) = (at, expected);
        Ok(())
    }

    /// What the last batch saved is overwritten from here on, and nothing proves that its sync came, or succeeded: a kill leaves what was written.
    /// So it is written once more, the same bytes at the same place, and synced.
    fn make_durable(&self, from: u64, to: u64) -> Result<(), SideError> {
        if from >= to {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, from).map_err(io_error("read", &self.path))?;
        let written = self.file.write_all_at(&bytes, from).and_then(|()| self.file.sync());
        written.map_err(io_error("write", &self.path))
    }

    /// The header at a place, if there is a sound one.
    fn batch_at(&self, at: u64, size: u64) -> Result<Option<Batch>, SideError> {
        if at.saturating_add(BATCH_HEADER as u64) > size {
            return Ok(None);
        }
        let mut header = [0; BATCH_HEADER];
        self.file.read_exact_at(&mut header, at).map_err(io_error("read", &self.path))?;
        if !header.starts_with(BATCH_MAGIC) || u32_at(&header, BATCH_HEADER - 4) != self.header_check(at, &header) {
            return Ok(None);
        }
        Ok(Some(Batch {
            number: u64_at(&header, 8),
            entries: usize::try_from(u64_at(&header, 16)).unwrap_or(usize::MAX),
            payload_bytes: u64_at(&header, 24),
            table_check: u32_at(&header, 32),
        }))
    }

    /// The table of a batch; `None` when it is torn: cut short, or not what its header says, or its content is not there.
    fn entries(&self, at: u64, batch: &Batch, size: u64) -> Result<Option<Vec<(Extent, Saved)>>, SideError> {
        let payload_at = at + (BATCH_HEADER + batch.entries.min(BATCH_ENTRIES_MAX) * ENTRY) as u64;
        if batch.entries > BATCH_ENTRIES_MAX || payload_at.saturating_add(batch.payload_bytes) > size {
            return Ok(None);
        }
        let mut table = vec![0; batch.entries * ENTRY];
        self.file.read_exact_at(&mut table, at + BATCH_HEADER as u64).map_err(io_error("read", &self.path))?;
        if crc32c(&table) != batch.table_check {
            return Ok(None);
        }
        let mut begin = payload_at;
        let mut entries = Vec::with_capacity(batch.entries);
        for entry in table.chunks_exact(ENTRY) {
            let volume = VolumeIndex(u32_at(entry, 0));
            let extent = Extent { volume, offset: u64_at(entry, 8), length: u64_at(entry, 16) };
            let saved = if u32_at(entry, 4) == 1 {
                Saved::Zero
            } else {
                let length = u32::try_from(extent.length).unwrap_or(u32::MAX);
                let place = SavedPlace { file: self.number, at: begin, length, check: u32_at(entry, 24), within: 0 };
                begin += extent.length;
                Saved::Data(place)
            };
            entries.push((extent, saved));
        }
        // Its successor was written only after its sync: only the last one need be looked at.
        let next = at + aligned((BATCH_HEADER + batch.entries * ENTRY) as u64 + batch.payload_bytes);
        let followed = self.batch_at(next, size)?.is_some_and(|next| next.number == batch.number + 1);
        if !followed && self.check_last(at, &entries).is_err() {
            return Ok(None);
        }
        Ok(Some(entries))
    }

    fn check_last(&self, at: u64, entries: &[(Extent, Saved)]) -> Result<(), SideError> {
        for (_, saved) in entries {
            if let Saved::Data(place) = saved {
                if u64::from(place.length) > PIECE_BYTES_MAX {
                    let what = "a piece is longer than pieces are";
                    return Err(SideError::Damaged { path: self.path.clone(), offset: at, what });
                }
                self.read(place, &mut vec![0; place.length as usize])?;
            }
        }
        Ok(())
    }

    /// What lies behind the last sound batch is a torn one at most.
    fn refuse_younger(&self, from: u64, size: u64, torn: u64) -> Result<(), SideError> {
        let mut at = from;
        while at < size {
            if self.batch_at(at, size)?.is_some_and(|batch| batch.number > torn) {
                let what = "a batch cannot be read and a younger one follows it";
                return Err(SideError::Damaged { path: self.path.clone(), offset: from, what });
            }
            at += ALIGN;
        }
        Ok(())
    }
}
