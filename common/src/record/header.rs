//! The fixed header of every frame, and the chain that ties each frame to all before it.

use rkyv::{Archive, Deserialize, Serialize};

use super::{FrameError, crc32c};
use crate::ids::{Generation, GroupId, MarkerNumber, Seq};
use crate::limits::{FRAME_EXTENTS_MAX, FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX, are_believed};

/// "TDMF", little endian.
const MAGIC: u32 = 0x464d_4454;
/// Written by this build. 1: first format.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 128;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Captured writes.
    Writes,
    /// Content of regions for a differential copy; only on the wire and in a secondary's journal.
    Regions,
    /// A [`super::ControlRecord`].
    Control,
    /// The last writers of each byte of several intervals between markers, folded while they waited in a journal. Not part of
    /// the history: the [`super::ControlRecord::Folded`] behind the last of them is where it goes on.
    Folded,
}

impl FrameKind {
    /// Whether it holds what hosts wrote, in or instead of the order they wrote it.
    #[must_use]
    pub const fn holds_writes(self) -> bool {
        matches!(self, Self::Writes | Self::Folded)
    }

    const fn code(self) -> u16 {
        match self {
            Self::Writes => 1,
            Self::Regions => 2,
            Self::Control => 3,
            Self::Folded => 4,
        }
    }

    const fn of(code: u16) -> Option<Self> {
        match code {
            1 => Some(Self::Writes),
            2 => Some(Self::Regions),
            3 => Some(Self::Control),
            4 => Some(Self::Folded),
            _ => None,
        }
    }
}

/// A digest over a group's whole history up to some frame: BLAKE3 of the chain before and the frame's header, cut to 128
/// bits. Two sides whose chains agree at a sequence number hold the same history. Frames that are not history (regions
/// and the records of one pair's copy) leave it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain after a frame with this header (its first [`HEADER_BYTES`] as stored).
    #[must_use]
    pub fn after(self, header: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(header);
        let mut chain = [0; 16];
        hasher.finalize_xof().fill(&mut chain);
        Self(chain)
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// The frame belongs to the history and moves the [`Chain`].
    pub history: bool,
    /// The history goes on from this frame's sequence number and chain, whatever was before (begin of a copy, end of a fold).
    pub rebase: bool,
    /// The group.
    pub group: GroupId,
    /// The member of a group across appliances.
    pub member: u32,
    /// The generation that wrote it.
    pub generation: Generation,
    /// The first sequence number in it; frames without writes repeat the last one before them.
    pub first_seq: Seq,
    /// The last sequence number in it.
    pub last_seq: Seq,
    /// Newest marker at the end of this frame.
    pub marker: MarkerNumber,
    /// Extents in the tables.
    pub extents: u32,
    /// Chunks in the tables.
    pub chunks: u32,
    /// Bytes of data before compression.
    pub raw_bytes: u32,
    /// Bytes of the tables or the control record.
    pub table_bytes: u32,
    /// Bytes after the header.
    pub body_bytes: u32,
    /// Checksum of the tables or the control record.
    pub table_check: u32,
    /// The chain before this frame.
    pub chain: Chain,
}

/// The header as it is stored.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(archived = StoredHeader)]
struct Stored {
    magic: u32,
    version: u16,
    kind: u16,
    group: [u8; 16],
    generation: u64,
    first_seq: u64,
    last_seq: u64,
    marker: u64,
    member: u32,
    flags: u32,
    extents: u32,
    chunks: u32,
    raw_bytes: u32,
    table_bytes: u32,
    body_bytes: u32,
    table_check: u32,
    chain: [u8; 16],
    reserved: [u8; 20],
    check: [u8; 4],
}

/// Said of a sequence number, marker or generation.
pub const NEVER_GIVEN_OUT: &str = "it has a number larger than any that is given out";
const HISTORY: u32 = 1;
const REBASE: u32 = 2;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;
const _: () = assert!(size_of::<StoredHeader>() == HEADER_BYTES);

impl FrameHeader {
    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(self.body_bytes as usize)
    }

    /// Writes from the host in this frame.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        match self.kind {
            FrameKind::Writes => self.last_seq.0.saturating_sub(self.first_seq.0).saturating_add(1),
            FrameKind::Regions | FrameKind::Control | FrameKind::Folded => 0,
        }
    }

    /// Whether who stands at [`Self::seq_before`] and [`Self::chain`] goes on with this frame.
    #[must_use]
    pub const fn continues_history(&self) -> bool {
        self.history || matches!(self.kind, FrameKind::Folded)
    }

    /// The chain behind this frame: only the history moves it.
    #[must_use]
    pub fn chain_behind(&self) -> Chain {
        if self.history { self.chain.after(&self.encode()) } else { self.chain }
    }

    /// The last sequence number before this frame.
    #[must_use]
    pub const fn seq_before(&self) -> Seq {
        match self.kind {
            FrameKind::Writes => Seq(self.first_seq.0.saturating_sub(1)),
            FrameKind::Regions | FrameKind::Control | FrameKind::Folded => self.first_seq,
        }
    }

    /// The stored form, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let stored = Stored {
            magic: MAGIC,
            version: FORMAT_VERSION,
            kind: self.kind.code(),
            group: self.group.0,
            generation: self.generation.0,
            first_seq: self.first_seq.0,
            last_seq: self.last_seq.0,
            marker: self.marker.0,
            member: self.member,
            flags: if self.history { HISTORY } else { 0 } | if self.rebase { REBASE } else { 0 },
            extents: self.extents,
            chunks: self.chunks,
            raw_bytes: self.raw_bytes,
            table_bytes: self.table_bytes,
            body_bytes: self.body_bytes,
            table_check: self.table_check,
            chain: self.chain.0,
            reserved: [0; 20],
            check: [0; 4],
        };
        let mut bytes = [0; HEADER_BYTES];
        if let Ok(archived) = rkyv::to_bytes::<rkyv::rancor::Error>(&stored) {
            bytes.copy_from_slice(&archived);
        }
        let (checked, check) = bytes.split_at_mut(CHECKED_BYTES);
        check.copy_from_slice(&crc32c(checked).to_le_bytes());
        bytes
    }

    /// Reads a stored header: magic, version and checksum first, then every field against the limits.
    ///
    /// # Errors
    /// [`FrameError`]: which of them failed.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short { have: bytes.len(), need: HEADER_BYTES };
        let bytes = bytes.get(..HEADER_BYTES).ok_or(short)?;
        let stored = rkyv::access::<StoredHeader, rkyv::rancor::Error>(bytes)
            .map_err(|_| FrameError::Malformed { what: "its header cannot be read" })?;
        if stored.magic != MAGIC {
            return Err(FrameError::Magic);
        }
        let (checked, check) = bytes.split_at(CHECKED_BYTES);
        if crc32c(checked).to_le_bytes() != check {
            return Err(FrameError::Checksum { part: "header" });
        }
        let version = stored.version.to_native();
        if version != FORMAT_VERSION {
            return Err(FrameError::Version { version });
        }
        let header = Self {
            kind: FrameKind::of(stored.kind.to_native()).ok_or(FrameError::Malformed { what: "unknown kind" })?,
            history: stored.flags.to_native() & HISTORY != 0,
            rebase: stored.flags.to_native() & REBASE != 0,
            group: GroupId(stored.group),
            member: stored.member.to_native(),
            generation: Generation(stored.generation.to_native()),
            first_seq: Seq(stored.first_seq.to_native()),
            last_seq: Seq(stored.last_seq.to_native()),
            marker: MarkerNumber(stored.marker.to_native()),
            extents: stored.extents.to_native(),
            chunks: stored.chunks.to_native(),
            raw_bytes: stored.raw_bytes.to_native(),
            table_bytes: stored.table_bytes.to_native(),
            body_bytes: stored.body_bytes.to_native(),
            table_check: stored.table_check.to_native(),
            chain: Chain(stored.chain),
        };
        // The chain is taken over the header as this build writes it, so nothing in it may be ignored.
        if stored.flags.to_native() & !(HISTORY | REBASE) != 0 || stored.reserved != [0; 20] {
            return Err(FrameError::Malformed { what: "its header has fields this build does not know" });
        }
        header.check_limits()?;
        header.check_kind()?;
        Ok(header)
    }

    fn check_limits(&self) -> Result<(), FrameError> {
        let malformed = |what| Err(FrameError::Malformed { what });
        if self.frame_bytes() > FRAME_STORED_BYTES_MAX || self.raw_bytes as usize > FRAME_RAW_BYTES_MAX {
            return malformed("larger than a frame may be");
        }
        if self.extents as usize > FRAME_EXTENTS_MAX || self.chunks as usize > FRAME_EXTENTS_MAX {
            return malformed("more extents than a frame may have");
        }
        if self.table_bytes > self.body_bytes {
            return malformed("tables longer than the body");
        }
        if self.first_seq > self.last_seq {
            return malformed("sequence numbers run backwards");
        }
        if !are_believed(self.last_seq.0, self.marker.0, self.generation.0) {
            return malformed(NEVER_GIVEN_OUT);
        }
        Ok(())
    }

    /// Each kind has its own shape; a control frame without this check could carry tables that nobody verified.
    fn check_kind(&self) -> Result<(), FrameError> {
        let fits = match self.kind {
            FrameKind::Writes => self.history && !self.rebase,
            FrameKind::Regions | FrameKind::Folded => !self.history && !self.rebase,
            FrameKind::Control => {
                let empty = self.extents == 0 && self.chunks == 0 && self.raw_bytes == 0;
                empty && self.table_bytes == self.body_bytes && !(self.history && self.rebase)
            }
        };
        if fits { Ok(()) } else { Err(FrameError::Malformed { what: "its fields do not fit its kind" }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Writes,
            history: true,
            rebase: false,
            group: GroupId([3; 16]),
            member: 0,
            generation: Generation(2),
            first_seq: Seq(10),
            last_seq: Seq(12),
            marker: MarkerNumber(4),
            extents: 3,
            chunks: 1,
            raw_bytes: 4096,
            table_bytes: 136,
            body_bytes: 2000,
            table_check: 7,
            chain: Chain([5; 16]),
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(FrameHeader::decode(&header().encode()), Ok(header()));
        assert_eq!(header().writes(), 3);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn limits_hold_for_well_checked_nonsense() {
        let nonsense = [
            FrameHeader { body_bytes: u32::MAX, ..header() },
            FrameHeader { extents: u32::MAX, ..header() },
            FrameHeader { table_bytes: 3000, ..header() },
            FrameHeader { last_seq: Seq(1), ..header() },
            FrameHeader { last_seq: Seq(u64::MAX), ..header() },
            FrameHeader { marker: MarkerNumber(u64::MAX), ..header() },
            FrameHeader { generation: Generation(u64::MAX), ..header() },
            FrameHeader { rebase: true, ..header() },
            FrameHeader { history: false, ..header() },
            FrameHeader { kind: FrameKind::Regions, ..header() },
            FrameHeader { kind: FrameKind::Control, ..header() },
            FrameHeader { kind: FrameKind::Control, table_bytes: 2000, ..header() },
        ];
        for header in nonsense {
            assert!(matches!(FrameHeader::decode(&header.encode()), Err(FrameError::Malformed { .. })));
        }
    }

    #[test]
    fn what_a_newer_build_may_put_there_is_refused() {
        for bit in [60 * 8 + 2, 104 * 8, 123 * 8 + 7] {
            let mut bytes = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let check = crc32c(&bytes[..CHECKED_BYTES]).to_le_bytes();
            bytes[CHECKED_BYTES..].copy_from_slice(&check);
            assert!(matches!(FrameHeader::decode(&bytes), Err(FrameError::Malformed { .. })), "bit {bit}");
        }
    }

    #[test]
    fn the_chain_depends_on_all_before() {
        let one = Chain::default().after(&header().encode());
        let other = Chain([1; 16]).after(&header().encode());
        assert_ne!(one, other);
        assert_ne!(one.after(&header().encode()), one);
    }
}
