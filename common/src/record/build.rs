//! Building frames of data: extents and zero runs in, compressed and checked bytes out.

use bytes::Bytes;

use super::header::{Chain, FrameHeader, FrameKind};
use super::tip::Tip;
use super::view::{CHUNK_ENTRY_BYTES, EXTENT_ENTRY_BYTES, ExtentKind};
use super::{HEADER_BYTES, crc32c};
use crate::extent::Extent;
use crate::ids::{Generation, GroupId, MarkerNumber, Seq};
use crate::limits::{CHUNK_BYTES, FRAME_EXTENTS_MAX, FRAME_RAW_BYTES_MAX};
use crate::storage::aligned::AlignedBuffer;

/// Where a frame stands in its group's history.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: u32,
    /// The generation.
    pub generation: Generation,
    /// The first sequence number in it.
    pub first_seq: Seq,
    /// The last.
    pub last_seq: Seq,
    /// Newest marker before its end.
    pub marker: MarkerNumber,
    /// The chain before it.
    pub chain: Chain,
}

impl Place {
    /// The place of a frame that is no write, where a history stands.
    #[must_use]
    pub const fn at(group: GroupId, tip: &Tip) -> Self {
        let Tip { seq, marker, generation, chain } = *tip;
        Self { group, member: 0, generation, first_seq: seq, last_seq: seq, marker, chain }
    }
}

/// Collects extents until a frame is full. Reused frame after frame, so that its buffers stay.
#[derive(Debug)]
pub struct FrameBuilder {
    extents: Vec<u8>,
    count: u32,
    raw: AlignedBuffer,
    frame: AlignedBuffer,
    packed: Vec<u8>,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            extents: Vec::new(),
            count: 0,
            raw: AlignedBuffer::default(),
            frame: AlignedBuffer::default(),
            packed: Vec::new(),
        }
    }

    /// Makes room for so many bytes of data, so that adding them moves nothing.
    pub fn reserve(&mut self, data_bytes: usize) {
        self.raw.reserve(data_bytes);
    }

    /// Whether an extent with so many bytes of data still fits.
    #[must_use]
    pub fn fits(&self, data_bytes: usize) -> bool {
        self.raw.len() + data_bytes <= FRAME_RAW_BYTES_MAX && (self.count as usize) < FRAME_EXTENTS_MAX
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of data in it.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Adds data; data that is all zero becomes a zero run. Returns whether it stayed data.
    pub fn push_data(&mut self, extent: Extent, data: &[u8]) -> bool {
        debug_assert_eq!(extent.length, data.len() as u64);
        if is_zero(data) {
            self.push_entry(extent, ExtentKind::Zero { hole: false });
            return false;
        }
        self.push_entry(extent, ExtentKind::Data);
        self.raw.extend_from_slice(data);
        true
    }

    /// Adds a zero run of any length.
    pub fn push_zero(&mut self, extent: Extent, hole: bool) {
        self.push_entry(extent, ExtentKind::Zero { hole });
    }

    fn push_entry(&mut self, extent: Extent, kind: ExtentKind) {
        self.extents.extend_from_slice(&extent.volume.0.to_le_bytes());
        self.extents.extend_from_slice(&kind.code().to_le_bytes());
        self.extents.extend_from_slice(&extent.offset.to_le_bytes());
        self.extents.extend_from_slice(&extent.length.to_le_bytes());
        self.count += 1;
    }

    /// As [`Self::finish`]; the raw data is given out as well, for who will want it uncompressed. It begins at a block's border.
    pub fn finish_with_raw(&mut self, kind: FrameKind, place: &Place) -> (Bytes, Bytes) {
        let frame = self.pack(kind, place);
        let raw = Bytes::from_owner(std::mem::take(&mut self.raw));
        self.clear();
        (frame, raw)
    }

    /// Compresses, checks and empties: the frame's bytes. Chunks that do not become smaller by a sixteenth are stored raw.
    pub fn finish(&mut self, kind: FrameKind, place: &Place) -> Bytes {
        let frame = self.pack(kind, place);
        self.clear();
        frame
    }

    fn pack(&mut self, kind: FrameKind, place: &Place) -> Bytes {
        let chunks = self.raw.len().div_ceil(CHUNK_BYTES);
        let table_bytes = self.extents.len() + chunks * CHUNK_ENTRY_BYTES;
        debug_assert_eq!(self.extents.len(), self.count as usize * EXTENT_ENTRY_BYTES);
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.reserve(HEADER_BYTES + table_bytes + self.raw.len());
        frame.resize(HEADER_BYTES);
        frame.extend_from_slice(&self.extents);
        frame.resize(HEADER_BYTES + table_bytes);
        let mut entry_at = HEADER_BYTES + self.extents.len();
        for raw in self.raw.as_slice().chunks(CHUNK_BYTES) {
            let stored = compress(raw, &mut self.packed);
            let entry = chunk_entry(frame.len() - HEADER_BYTES - table_bytes, stored, raw.len());
            frame.extend_from_slice(stored);
            if let Some(slot) = frame.as_mut_slice().get_mut(entry_at..entry_at + CHUNK_ENTRY_BYTES) {
                slot.copy_from_slice(&entry);
            }
            entry_at += CHUNK_ENTRY_BYTES;
        }
        let tables = frame.as_slice().get(HEADER_BYTES..HEADER_BYTES + table_bytes).unwrap_or_default();
        let header = FrameHeader {
            kind,
            history: kind == FrameKind::Writes,
            rebase: false,
            group: place.group,
            member: place.member,
            generation: place.generation,
            first_seq: place.first_seq,
            last_seq: place.last_seq,
            marker: place.marker,
            extents: self.count,
            chunks: narrow(chunks),
            raw_bytes: narrow(self.raw.len()),
            table_bytes: narrow(table_bytes),
            body_bytes: narrow(frame.len() - HEADER_BYTES),
            table_check: crc32c(tables),
            chain: place.chain,
        };
        if let Some(slot) = frame.as_mut_slice().get_mut(..HEADER_BYTES) {
            slot.copy_from_slice(&header.encode());
        }
        // It may be kept for a while; compressed it is half of what was made room for.
        if frame.is_much() {
            return frame.freeze();
        }
        let bytes = Bytes::copy_from_slice(frame.as_slice());
        self.frame = frame;
        bytes
    }

    /// Empties it: nothing of what was added is kept.
    pub fn clear(&mut self) {
        self.extents.clear();
        self.raw.clear();
        self.count = 0;
    }
}

fn compress<'a>(raw: &'a [u8], packed: &'a mut Vec<u8>) -> &'a [u8] {
    packed.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    match lz4_flex::block::compress_into(raw, packed) {
        // Never as long as raw: equal lengths are how a chunk says that it is stored raw.
        Ok(length) if length < raw.len() - raw.len() / 16 => packed.get(..length).unwrap_or(raw),
        _ => raw,
    }
}

fn chunk_entry(offset: usize, stored: &[u8], raw_bytes: usize) -> [u8; CHUNK_ENTRY_BYTES] {
    let mut entry = [0; CHUNK_ENTRY_BYTES];
    let fields = [narrow(offset), narrow(stored.len()), narrow(raw_bytes), crc32c(stored)];
    for (slot, field) in entry.chunks_mut(4).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    entry
}

/// Lengths inside a frame are below its limit, far inside 32 bits.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Whether all bytes are zero. Data that is not zero usually shows it in its first bytes.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|block| block == &[0; 64]) && rest.iter().all(|byte| *byte == 0)
}
