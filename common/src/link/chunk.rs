//! What surrounds frames on data streams.
//!
//! A stream begins with its preamble; each frame follows a chunk header. All numbers are little-endian:
//!
//! ```text
//!  preamble   0      4      6      8
//!             ┌──────┬──────┬──────┐
//!             │ TMKD │ lane │lanes │
//!             └──────┴──────┴──────┘
//!  chunk      0      4        8         16     20      24
//!             ┌──────┬────────┬─────────┬──────┬───────┬───────────────┐
//!             │ TMKF │ length │ ordinal │ zero │ crc32c│ frame (length)│
//!             └──────┴────────┴─────────┴──────┴───────┴───────────────┘
//!                                               of 0..20
//! ```
//!
//! The checksum covers the header only: a frame carries its own, from the journal, and TLS authenticates all of it.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::crc32_iscsi;

use crate::limits::FRAME_STORED_BYTES_MAX;

/// Bytes of a preamble.
pub(super) const PREAMBLE_BYTES: usize = 8;
/// Bytes of a chunk header.
pub(super) const HEADER_BYTES: usize = 24;
const PREAMBLE_MAGIC: [u8; 4] = *b"TMKD";
const HEADER_MAGIC: [u8; 4] = *b"TMKF";
const CHECKED_BYTES: usize = 20;

/// Which of how many data streams this one is.
pub(super) fn preamble(lane: u16, lanes: u16) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREAMBLE_BYTES);
    bytes.put_slice(&PREAMBLE_MAGIC);
    bytes.put_u16_le(lane);
    bytes.put_u16_le(lanes);
    bytes.freeze()
}

/// Reads a preamble: (lane, lanes).
pub(super) fn read_preamble(bytes: [u8; PREAMBLE_BYTES]) -> Option<(u16, u16)> {
    let [m0, m1, m2, m3, a, b, c, d] = bytes;
    ([m0, m1, m2, m3] == PREAMBLE_MAGIC).then_some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// What precedes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    /// Counts the frames of a connection from 0, over all its data streams.
    pub(super) ordinal: u64,
    /// Bytes of the frame, 1 to [`FRAME_STORED_BYTES_MAX`].
    pub(super) length: u32,
}

impl ChunkHeader {
    /// Bytes of the frame.
    pub(super) fn bytes(self) -> usize {
        // At most a few MiB, which every usize holds.
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    pub(super) fn write(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        bytes.put_slice(&HEADER_MAGIC);
        bytes.put_u32_le(self.length);
        bytes.put_u64_le(self.ordinal);
        bytes.put_u32_le(0);
        let check = crc32_iscsi(&bytes);
        bytes.put_u32_le(check);
        bytes.freeze()
    }

    /// `None` when this is no header, is damaged, or its length is out of bounds.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (checked, check) = bytes.split_at_checked(CHECKED_BYTES)?;
        if crc32_iscsi(checked).to_le_bytes() != check {
            return None;
        }
        let &[m0, m1, m2, m3, l0, l1, l2, l3, o0, o1, o2, o3, o4, o5, o6, o7, 0, 0, 0, 0] = checked else {
            return None;
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let bounded = usize::try_from(length).is_ok_and(|length| (1..=FRAME_STORED_BYTES_MAX).contains(&length));
        let ordinal = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        (bounded && [m0, m1, m2, m3] == HEADER_MAGIC).then_some(Self { ordinal, length })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_version_1() {
        assert_eq!(&preamble(2, 4)[..], b"TMKD\x02\0\x04\0");
        let header = ChunkHeader { ordinal: 0x0102_0304_0506_0708, length: 0x0001_0203 };
        assert_eq!(hex::encode(header.write()), "544d4b460302010008070605040302010000000063be2072");
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for length in [0, u32::try_from(FRAME_STORED_BYTES_MAX).unwrap() + 1, u32::MAX] {
            assert_eq!(ChunkHeader::read(&ChunkHeader { ordinal: 0, length }.write()), None);
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(ordinal: u64, length in 1_u32..=(5 << 20), lane: u16, lanes: u16) {
            let header = ChunkHeader { ordinal, length };
            prop_assert_eq!(ChunkHeader::read(&header.write()), Some(header));
            let bytes: [u8; PREAMBLE_BYTES] = preamble(lane, lanes)[..].try_into().unwrap();
            prop_assert_eq!(read_preamble(bytes), Some((lane, lanes)));
        }

        #[test]
        fn damage_is_noticed(ordinal: u64, length in 1_u32..=(5 << 20), at in 0..HEADER_BYTES, flip in 1_u8..) {
            let mut bytes = ChunkHeader { ordinal, length }.write().to_vec();
            bytes[at] ^= flip;
            prop_assert_eq!(ChunkHeader::read(&bytes), None);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = ChunkHeader::read(&bytes);
        }
    }
}
