//! Reading frames: bytes in, checked extents and data out. Nothing here trusts a byte (invariant 10).

use super::header::{FrameHeader, FrameKind};
use super::{FrameError, HEADER_BYTES, crc32c};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::limits::CHUNK_BYTES;

/// Bytes of one entry of the extent table.
pub const EXTENT_ENTRY_BYTES: usize = 24;
/// Bytes of one entry of the chunk table.
pub const CHUNK_ENTRY_BYTES: usize = 16;

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes in the frame.
    Data,
    /// Zeroes.
    Zero {
        /// Space may be given back.
        hole: bool,
    },
}

impl ExtentKind {
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Zero { hole: false } => 1,
            Self::Zero { hole: true } => 2,
        }
    }

    const fn of(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Zero { hole: false }),
            2 => Some(Self::Zero { hole: true }),
            _ => None,
        }
    }
}

/// One extent of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameExtent {
    /// Where it goes.
    pub extent: Extent,
    /// What it holds.
    pub kind: ExtentKind,
    /// Where its data begins among the frame's raw bytes.
    pub raw_offset: u32,
}

/// One chunk of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Where its stored bytes begin, from the begin of the frame.
    pub frame_offset: u32,
    /// Stored bytes.
    pub stored_bytes: u32,
    /// Bytes after decompression.
    pub raw_bytes: u32,
    /// Checksum of the stored bytes.
    pub check: u32,
}

impl Chunk {
    /// Checks stored bytes and makes raw ones of them.
    ///
    /// # Errors
    /// [`FrameError`] when the checksum or the length is wrong.
    pub fn unpack(&self, stored: &[u8], raw: &mut Vec<u8>) -> Result<(), FrameError> {
        let before = raw.len();
        raw.resize(before + self.raw_bytes as usize, 0);
        self.unpack_into(stored, raw.get_mut(before..).unwrap_or_default())
    }

    /// As [`Self::unpack`], into exactly as many bytes as it has raw ones.
    fn unpack_into(&self, stored: &[u8], target: &mut [u8]) -> Result<(), FrameError> {
        if stored.len() != self.stored_bytes as usize {
            return Err(FrameError::Short { have: stored.len(), need: self.stored_bytes as usize });
        }
        if crc32c(stored) != self.check {
            return Err(FrameError::Checksum { part: "data" });
        }
        if stored.len() == target.len() {
            target.copy_from_slice(stored);
            return Ok(());
        }
        match lz4_flex::block::decompress_into(stored, target) {
            Ok(length) if length == target.len() => Ok(()),
            _ => Err(FrameError::Malformed { what: "its data cannot be decompressed" }),
        }
    }
}

/// A frame's bytes with the header and tables verified; the data is verified chunk by chunk as it is read.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    /// The header.
    pub header: FrameHeader,
    bytes: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// Verifies header and tables. The bytes may end after the tables when only those are wanted.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let header = FrameHeader::decode(bytes)?;
        let need = HEADER_BYTES + header.table_bytes as usize;
        let view = Self { header, bytes };
        if bytes.len() < need {
            return Err(FrameError::Short { have: bytes.len(), need });
        }
        if crc32c(view.tables()) != header.table_check {
            return Err(FrameError::Checksum { part: "tables" });
        }
        match header.kind {
            FrameKind::Control => view.check_control()?,
            FrameKind::Writes | FrameKind::Regions | FrameKind::Folded => view.check_tables()?,
        }
        Ok(view)
    }

    /// Verifies everything: header, tables, every chunk.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn verified(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let view = Self::new(bytes)?;
        let need = view.header.frame_bytes();
        if bytes.len() != need {
            return Err(FrameError::Short { have: bytes.len(), need });
        }
        for chunk in view.chunks() {
            if crc32c(view.stored(&chunk)?) != chunk.check {
                return Err(FrameError::Checksum { part: "data" });
            }
        }
        Ok(view)
    }

    /// The tables or the control record.
    #[must_use]
    pub fn tables(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..HEADER_BYTES + self.header.table_bytes as usize).unwrap_or_default()
    }

    fn extent_table(&self) -> &'a [u8] {
        self.tables().get(..self.header.extents as usize * EXTENT_ENTRY_BYTES).unwrap_or_default()
    }

    /// Empty for a control frame, whose tables are its record.
    fn chunk_table(&self) -> &'a [u8] {
        let begin = self.header.extents as usize * EXTENT_ENTRY_BYTES;
        let length = self.header.chunks as usize * CHUNK_ENTRY_BYTES;
        self.tables().get(begin..begin + length).unwrap_or_default()
    }

    /// A control frame is its record, all of it under the checksum of the tables.
    fn check_control(&self) -> Result<(), FrameError> {
        let header = &self.header;
        if header.extents != 0 || header.chunks != 0 || header.raw_bytes != 0 || header.table_bytes != header.body_bytes
        {
            return Err(FrameError::Malformed { what: "a control frame with data" });
        }
        Ok(())
    }

    fn check_tables(&self) -> Result<(), FrameError> {
        let malformed = |what| Err(FrameError::Malformed { what });
        let need = self.header.extents as usize * EXTENT_ENTRY_BYTES + self.header.chunks as usize * CHUNK_ENTRY_BYTES;
        if self.tables().len() != need {
            return malformed("its tables have another length than it says");
        }
        let (mut raw, mut stored) = (0_u64, 0_u64);
        for chunk in self.chunks() {
            let last = raw + u64::from(chunk.raw_bytes) == u64::from(self.header.raw_bytes);
            if chunk.raw_bytes as usize > CHUNK_BYTES || !(last || chunk.raw_bytes as usize == CHUNK_BYTES) {
                return malformed("a chunk has an odd size");
            }
            if u64::from(chunk.frame_offset) != HEADER_BYTES as u64 + need as u64 + stored {
                return malformed("a chunk is out of place");
            }
            raw += u64::from(chunk.raw_bytes);
            stored += u64::from(chunk.stored_bytes);
        }
        if raw != u64::from(self.header.raw_bytes) || need as u64 + stored != u64::from(self.header.body_bytes) {
            return malformed("its chunks do not add up");
        }
        let mut data = 0_u64;
        for entry in self.extent_table().as_chunks::<EXTENT_ENTRY_BYTES>().0 {
            let Some((extent, kind)) = extent_of(entry) else { return malformed("an extent of unknown kind") };
            if extent.offset.checked_add(extent.length).is_none() || extent.length == 0 {
                return malformed("an extent out of range");
            }
            if kind == ExtentKind::Data {
                data = data.saturating_add(extent.length);
            }
        }
        if data != raw {
            return malformed("its extents do not add up");
        }
        Ok(())
    }

    /// The extents, in the order they were captured.
    pub fn extents(&self) -> impl Iterator<Item = FrameExtent> + use<'a> {
        let mut raw_offset = 0;
        self.extent_table().as_chunks::<EXTENT_ENTRY_BYTES>().0.iter().filter_map(extent_of).map(
            move |(extent, kind)| {
                let at = raw_offset;
                if kind == ExtentKind::Data {
                    // The tables are checked: data adds up to raw_bytes, which has 32 bits.
                    raw_offset += u32::try_from(extent.length).unwrap_or(u32::MAX);
                }
                FrameExtent { extent, kind, raw_offset: at }
            },
        )
    }

    /// The chunks, in order; each but the last has [`CHUNK_BYTES`] raw bytes.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + use<'a> {
        let base = u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX).saturating_add(self.header.table_bytes);
        let entries = self.chunk_table().as_chunks::<CHUNK_ENTRY_BYTES>().0.iter();
        entries.take(self.header.chunks as usize).map(move |entry| {
            let [offset, stored_bytes, raw_bytes, check] = words(entry);
            Chunk { frame_offset: base.saturating_add(offset), stored_bytes, raw_bytes, check }
        })
    }

    fn stored(&self, chunk: &Chunk) -> Result<&'a [u8], FrameError> {
        let begin = chunk.frame_offset as usize;
        let end = begin.saturating_add(chunk.stored_bytes as usize);
        self.bytes.get(begin..end).ok_or(FrameError::Short { have: self.bytes.len(), need: end })
    }

    /// All raw data, checked and decompressed, appended to the buffer.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn unpack(&self, raw: &mut Vec<u8>) -> Result<(), FrameError> {
        let before = raw.len();
        raw.resize(before + self.header.raw_bytes as usize, 0);
        self.unpack_into(raw.get_mut(before..).unwrap_or_default())
    }

    /// All raw data, checked and decompressed, into exactly as many bytes.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn unpack_into(&self, target: &mut [u8]) -> Result<(), FrameError> {
        let mut left = target;
        for chunk in self.chunks() {
            let missing = FrameError::Short { have: left.len(), need: chunk.raw_bytes as usize };
            let (part, rest) = left.split_at_mut_checked(chunk.raw_bytes as usize).ok_or(missing)?;
            chunk.unpack_into(self.stored(&chunk)?, part)?;
            left = rest;
        }
        Ok(())
    }
}

fn extent_of(entry: &[u8; EXTENT_ENTRY_BYTES]) -> Option<(Extent, ExtentKind)> {
    let (head, tail) = entry.split_first_chunk::<8>()?;
    let (offset, length) = tail.split_first_chunk::<8>()?;
    let volume = u32::from_le_bytes(*head.first_chunk()?);
    let kind = ExtentKind::of(u32::from_le_bytes(*head.last_chunk()?))?;
    let extent = Extent {
        volume: VolumeIndex(volume),
        offset: u64::from_le_bytes(*offset),
        length: u64::from_le_bytes(*length.first_chunk()?),
    };
    Some((extent, kind))
}

fn words(entry: &[u8; CHUNK_ENTRY_BYTES]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(entry.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::build::{FrameBuilder, Place};
    use super::super::header::{Chain, FrameKind};
    use super::*;
    use crate::ids::{Generation, GroupId, MarkerNumber, Seq};

    fn place() -> Place {
        Place {
            group: GroupId([1; 16]),
            member: 0,
            generation: Generation(1),
            first_seq: Seq(1),
            last_seq: Seq(9),
            marker: MarkerNumber(0),
            chain: Chain::default(),
        }
    }

    fn extent(volume: u32, offset: u64, length: u64) -> Extent {
        Extent { volume: VolumeIndex(volume), offset, length }
    }

    fn sample() -> Vec<u8> {
        let mut builder = FrameBuilder::new();
        builder.push_data(extent(0, 0, 100_000), &b"tide mark ".repeat(10_000));
        builder.push_zero(extent(1, 4096, 1 << 40), true);
        builder.push_data(extent(2, 8192, 4096), &(0..=255).cycle().take(4096).collect::<Vec<u8>>());
        builder.push_data(extent(2, 0, 4096), &[0; 4096]);
        builder.finish(FrameKind::Writes, &place()).to_vec()
    }

    #[test]
    fn a_frame_gives_back_what_went_in() {
        let bytes = sample();
        assert!(bytes.len() < 20_000, "{} bytes: text compresses", bytes.len());
        let view = FrameView::verified(&bytes).unwrap();
        let extents: Vec<_> = view.extents().collect();
        assert_eq!(extents.len(), 4);
        assert_eq!(extents[1].kind, ExtentKind::Zero { hole: true });
        assert_eq!(extents[2].raw_offset, 100_000);
        assert_eq!(extents[3].kind, ExtentKind::Zero { hole: false });
        let mut raw = Vec::new();
        view.unpack(&mut raw).unwrap();
        assert_eq!(raw.len(), 104_096);
        assert!(raw.starts_with(b"tide mark tide"));
    }

    #[test]
    fn a_control_frame_is_its_record() {
        let record = super::super::ControlRecord::CopyEnd { copy: 7, marker: 9 };
        let bytes = record.frame(&place()).unwrap();
        let view = FrameView::verified(&bytes).unwrap();
        assert_eq!((view.extents().count(), view.chunks().count()), (0, 0));
        assert_eq!(super::super::ControlRecord::of(&view), Ok(record));

        let header = FrameHeader { body_bytes: view.header.body_bytes + 4, ..view.header };
        let unchecked = [&header.encode()[..], view.tables(), b"more"].concat();
        assert!(FrameView::verified(&unchecked).is_err(), "bytes under no checksum");
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_seen() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameView::verified(&bad).is_err(), "bit {bit}");
        }
    }

    /// Fourteen bytes with one match of four are fourteen bytes compressed: as long as stored raw.
    #[test]
    fn short_data_comes_back_whatever_its_length_compressed() {
        for length in 1..40 {
            for run in 0..length {
                let data: Vec<u8> = (0..length).map(|at| if at < run { 200 } else { at + 1 }).collect();
                let mut builder = FrameBuilder::new();
                builder.push_data(extent(0, 0, data.len() as u64), &data);
                let bytes = builder.finish(FrameKind::Writes, &place());
                let mut raw = Vec::new();
                FrameView::verified(&bytes).unwrap().unpack(&mut raw).unwrap();
                assert_eq!(raw, data);
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(FrameView::verified(&bytes).is_err());
        }

        #[test]
        fn well_checked_nonsense_never_panics(
            extents in 0_u32..5000, chunks in 0_u32..5000, raw in any::<u32>(), body in proptest::collection::vec(any::<u8>(), 0..2048),
            tables in 0_usize..2048,
        ) {
            let tables = tables.min(body.len());
            let header = FrameHeader {
                kind: FrameKind::Writes, history: true, rebase: false, group: GroupId([1; 16]), member: 0, generation: Generation(1),
                first_seq: Seq(1), last_seq: Seq(2), marker: MarkerNumber(0), extents, chunks, raw_bytes: raw,
                table_bytes: u32::try_from(tables).unwrap(), body_bytes: u32::try_from(body.len()).unwrap(), table_check: crc32c(&body[..tables]), chain: Chain::default(),
            };
            let mut bytes = header.encode().to_vec();
            bytes.extend_from_slice(&body);
            if let Ok(view) = FrameView::verified(&bytes) {
                let _ = view.extents().count();
                let _ = view.unpack(&mut Vec::new());
            }
        }
    }
}
