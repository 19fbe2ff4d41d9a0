//! A sorted run: ranges of an index of what the volumes do not have, moved out of memory into a file that has no name.
//!
//! Blocks of 4096 bytes: checksum (4), entries (4), zeroes to 64; then up to 63 entries of 64 bytes in the order of their addresses, none
//! overlapping another. In memory is where each block begins: 16 bytes for 4032. The file is never read after a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::location::{JournalPlace, Location};
use super::{Locate, Piece};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::Position;
use crate::record::crc32c;
use crate::record::view::Chunk;
use crate::storage::{Disk, DiskFile, Open};

const BLOCK: usize = 4096;
const ENTRY: usize = 64;
const PER_BLOCK: usize = BLOCK / ENTRY - 1;
/// Bytes written at once.
const BATCH: usize = 64 * BLOCK;

/// Why a run could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{action} the index of what is not yet in the volumes ({}): {source}", path.display())]
pub struct RunError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// An address, as runs are sorted by.
type Address = (VolumeIndex, u64);

/// A run, whole.
pub struct Run {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Where each block begins.
    firsts: Vec<Address>,
    ranges: usize,
    newest: Position,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("ranges", &self.ranges).field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl Run {
    /// Ranges in it.
    pub(super) const fn ranges(&self) -> usize {
        self.ranges
    }

    /// The newest frame that it refers to.
    pub(super) const fn newest(&self) -> Position {
        self.newest
    }

    /// A range as runs: what lies here and is not yet in the volumes, and what is not here.
    pub(super) fn fill(
        &self,
        extent: Extent,
        written: Position,
        out: &mut Vec<Piece<Location>>,
    ) -> Result<(), RunError> {
        let mut at = extent.offset;
        let piece =
            |offset, end, location| Piece { extent: Extent { offset, length: end - offset, ..extent }, location };
        let first = self.firsts.partition_point(|first| *first <= (extent.volume, extent.offset)).saturating_sub(1);
        let behind = self.firsts.partition_point(|first| *first < (extent.volume, extent.end()));
        for block in first..behind {
            for (there, location) in self.block(block)? {
                let (begin, end) = (there.offset.max(at), there.end().min(extent.end()));
                if there.volume != extent.volume || begin >= end || location.frame() <= Some(written) {
                    continue;
                }
                if at < begin {
                    out.push(piece(at, begin, None));
                }
                out.push(piece(begin, end, Some(location.advance(begin - there.offset))));
                at = end;
            }
        }
        if at < extent.end() {
            out.push(piece(at, extent.end(), None));
        }
        Ok(())
    }

    /// What it holds, in order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Result<Vec<(Extent, Location)>, RunError>> + '_ {
        (0..self.firsts.len()).map(|block| self.block(block))
    }

    fn block(&self, block: usize) -> Result<Vec<(Extent, Location)>, RunError> {
        let mut bytes = [0; BLOCK];
        let read = self.file.read_exact_at(&mut bytes, (block * BLOCK) as u64);
        let error = |source| RunError { action: "read", path: self.path.clone(), source };
        read.map_err(error)?;
        entries(&bytes).ok_or_else(|| error(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match")))
    }
}

/// A run that is being written.
pub(super) struct RunWriter {
    run: Run,
    /// Whole blocks, and the one being filled.
    bytes: Vec<u8>,
    at: u64,
    held: usize,
}

impl RunWriter {
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, RunError> {
        let error = |source| RunError { action: "make", path: path.to_owned(), source };
        let file = disk.open(path, Open::ExistingOrNew).map_err(error)?;
        // Nothing of it is left behind, however this process ends.
        disk.remove(path).map_err(error)?;
        let run = Run { file, path: path.to_owned(), firsts: Vec::new(), ranges: 0, newest: Position::default() };
        Ok(Self { run, bytes: Vec::with_capacity(BATCH), at: 0, held: 0 })
    }

    /// Adds a range behind those before; what lies in the write buffer does not belong here.
    pub(super) fn push(&mut self, extent: Extent, location: &Location) -> Result<(), RunError> {
        let Some(frame) = location.frame() else { return Ok(()) };
        if self.held == 0 {
            self.run.firsts.push((extent.volume, extent.offset));
            self.bytes.resize(self.bytes.len() + ENTRY, 0);
        }
        put(&mut self.bytes, extent, location, frame);
        self.held += 1;
        self.run.ranges += 1;
        self.run.newest = self.run.newest.max(frame);
        if self.held == PER_BLOCK {
            self.end_block();
        }
        if self.bytes.len() >= BATCH && self.held == 0 { self.write() } else { Ok(()) }
    }

    fn end_block(&mut self) {
        let begin = self.bytes.len() - (self.held + 1) * ENTRY;
        self.bytes.resize(begin + BLOCK, 0);
        if let Some(block) = self.bytes.get_mut(begin..) {
            let held = u32::try_from(self.held).unwrap_or(0);
            put_at(block, 4, &held.to_le_bytes());
            let check = crc32c(block.get(4..).unwrap_or_default());
            put_at(block, 0, &check.to_le_bytes());
        }
        self.held = 0;
    }

    fn write(&mut self) -> Result<(), RunError> {
        let written = self.run.file.write_all_at(&self.bytes, self.at);
        written.map_err(|source| RunError { action: "write", path: self.run.path.clone(), source })?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Run, RunError> {
        if self.held > 0 {
            self.end_block();
        }
        self.write()?;
        Ok(self.run)
    }
}

fn put_at(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Volume (4), zeroes or data (4), offset, length (8 each), frame: segment, offset (8 each), chunk (16), place in it (4), 0 (4).
fn put(bytes: &mut Vec<u8>, extent: Extent, location: &Location, frame: Position) {
    let (data, chunk, within) = match location {
        Location::Journal(place) => (1_u32, place.chunk, place.within),
        _ => (0, Chunk::default(), 0),
    };
    bytes.extend(extent.volume.0.to_le_bytes());
    bytes.extend(data.to_le_bytes());
    for field in [extent.offset, extent.length, frame.segment, frame.offset] {
        bytes.extend(field.to_le_bytes());
    }
    for field in [chunk.frame_offset, chunk.stored_bytes, chunk.raw_bytes, chunk.check, within, 0] {
        bytes.extend(field.to_le_bytes());
    }
}

/// The entries of a block; `None` when it is not what was written.
fn entries(block: &[u8; BLOCK]) -> Option<Vec<(Extent, Location)>> {
    let mut head = Fields(block);
    let (check, held) = (head.u32()?, head.u32()?);
    if crc32c(block.get(4..)?) != check {
        return None;
    }
    let entries = block.get(ENTRY..)?.as_chunks::<ENTRY>().0;
    entries.iter().take(held as usize).map(|bytes| entry(bytes)).collect()
}

fn entry(bytes: &[u8]) -> Option<(Extent, Location)> {
    let mut fields = Fields(bytes);
    let (volume, data) = (VolumeIndex(fields.u32()?), fields.u32()?);
    let extent = Extent { volume, offset: fields.u64()?, length: fields.u64()? };
    let frame = Position { segment: fields.u64()?, offset: fields.u64()? };
    let chunk = Chunk {
        frame_offset: fields.u32()?,
        stored_bytes: fields.u32()?,
        raw_bytes: fields.u32()?,
        check: fields.u32()?,
    };
    let place = JournalPlace { frame, chunk, within: fields.u32()? };
    Some((extent, if data == 1 { Location::Journal(place) } else { Location::JournalZero { frame } }))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryDisk;

    fn extent(volume: u32, offset: u64, length: u64) -> Extent {
        Extent { volume: VolumeIndex(volume), offset, length }
    }

    fn zero(offset: u64) -> Location {
        Location::JournalZero { frame: Position { segment: 3, offset } }
    }

    fn data(offset: u64) -> Location {
        let chunk = Chunk { frame_offset: 1, stored_bytes: 2, raw_bytes: 3, check: 4 };
        Location::Journal(JournalPlace { frame: Position { segment: 3, offset }, chunk, within: 5 })
    }

    fn run(ranges: &[(Extent, Location)]) -> Run {
        let disk = MemoryDisk::new();
        disk.create_folder("g".as_ref()).unwrap();
        let mut run = RunWriter::create(&disk, "g/run".as_ref()).unwrap();
        ranges.iter().for_each(|(extent, location)| run.push(*extent, location).unwrap());
        assert!(disk.list("g".as_ref()).unwrap().is_empty(), "it has no name");
        run.finish().unwrap()
    }

    #[test]
    fn more_than_one_batch_reads_as_it_was_written() {
        let ranges: Vec<_> = (0..9000_u64).map(|at| (extent((at / 5000) as u32, at * 10, 7), data(at))).collect();
        let run = run(&ranges);
        assert_eq!(run.ranges(), 9000);
        let read: Vec<_> = run.blocks().flat_map(Result::unwrap).collect();
        assert_eq!(read, ranges);
        for at in [0, 62, 63, 64, 4999, 5000, 8999] {
            let mut out = Vec::new();
            run.fill(extent((at / 5000) as u32, at * 10 + 5, 4), Position::default(), &mut out).unwrap();
            let there =
                Piece { extent: extent((at / 5000) as u32, at * 10 + 5, 2), location: Some(data(at).advance(5)) };
            let gap = Piece { extent: extent((at / 5000) as u32, at * 10 + 7, 2), location: None };
            assert_eq!(out, [there, gap]);
        }
    }

    #[test]
    fn what_is_in_the_volumes_and_what_is_in_no_journal_is_not_there() {
        let buffered = Location::BufferZero { seq: crate::ids::Seq(9) };
        let run = run(&[(extent(1, 0, 10), zero(7)), (extent(1, 10, 10), zero(8)), (extent(1, 20, 10), buffered)]);
        let mut out = Vec::new();
        run.fill(extent(1, 0, 40), Position { segment: 3, offset: 7 }, &mut out).unwrap();
        let piece = |offset, length, location| Piece { extent: extent(1, offset, length), location };
        assert_eq!(out, [piece(0, 10, None), piece(10, 10, Some(zero(8))), piece(20, 20, None)]);
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let run = run(&[(extent(1, 0, 10), zero(7))]);
        for place in [0_u64, 5, 70, 100, 4095] {
            let mut byte = [0];
            run.file.read_exact_at(&mut byte, place).unwrap();
            run.file.write_all_at(&[byte[0] ^ 4], place).unwrap();
            let error = run.fill(extent(1, 0, 1), Position::default(), &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("checksum does not match"), "{error}");
            run.file.write_all_at(&byte, place).unwrap();
        }
        run.fill(extent(1, 0, 1), Position::default(), &mut Vec::new()).unwrap();
    }
}
