//! Stamped blocks: every block says which write put it there, and proves that it is whole.
//!
//! ```text
//! 0        8        16       24       32       40                2048             4096
//! | magic  | write  | volume | block  | check  | pseudo-random   | one byte again  |
//! ```
//!
//! The check covers everything else, so a torn or misplaced block is told from a whole one. Half of a block compresses
//! and half does not.

use std::hash::{DefaultHasher, Hasher};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"TIDESTMP";
const FILL_FROM: usize = 40;
const RANDOM_TO: usize = BLOCK_BYTES / 2;

/// Number of a write in its history, from 1.
pub type WriteId = u64;

/// What a block shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It reads as zeroes.
    Zero,
    /// A whole block of this write.
    Stamp(WriteId),
    /// Anything else, and why: nobody wrote that.
    Foreign(String),
}

/// The block that a write puts at this place.
#[must_use]
pub fn stamp(write: WriteId, volume: usize, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&write.to_le_bytes());
    bytes[16..24].copy_from_slice(&(volume as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&block.to_le_bytes());
    fill(&mut bytes, write ^ block.rotate_left(32));
    let check = check(&bytes);
    bytes[32..40].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for piece in bytes[FILL_FROM..RANDOM_TO].chunks_mut(8) {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        piece.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..piece.len()]);
    }
    bytes[RANDOM_TO..].fill(seed.to_le_bytes()[0]);
}

fn check(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes[..32]);
    hasher.write(&bytes[FILL_FROM..]);
    hasher.finish()
}

/// What a block read at this place shows.
#[must_use]
pub fn read(bytes: &[u8], volume: usize, block: u64) -> Content {
    if bytes.iter().all(|byte| *byte == 0) {
        return Content::Zero;
    }
    if bytes.len() != BLOCK_BYTES || bytes[..8] != *MAGIC {
        return Content::Foreign(format!("no stamp; begins with {:02x?}", &bytes[..bytes.len().min(16)]));
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (write, its_volume, its_block) = (word(8), word(16), word(24));
    if word(32) != check(bytes) {
        return Content::Foreign(format!("the stamp of write {write} does not match the rest: torn"));
    }
    if (its_volume, its_block) != (volume as u64, block) {
        return Content::Foreign(format!("a block of write {write} for volume {its_volume} block {its_block}"));
    }
    Content::Stamp(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_write() {
        assert_eq!(read(&stamp(7, 1, 3), 1, 3), Content::Stamp(7));
        assert_eq!(read(&[0; BLOCK_BYTES], 1, 3), Content::Zero);
    }

    #[test]
    fn a_misplaced_block_is_foreign() {
        assert!(matches!(read(&stamp(7, 1, 3), 1, 4), Content::Foreign(_)));
        assert!(matches!(read(&stamp(7, 1, 3), 0, 3), Content::Foreign(_)));
    }

    #[test]
    fn a_block_torn_at_any_sector_is_foreign() {
        let (old, new) = (stamp(6, 1, 3), stamp(7, 1, 3));
        for at in (512..BLOCK_BYTES).step_by(512) {
            let torn = [&new[..at], &old[at..]].concat();
            assert!(matches!(read(&torn, 1, 3), Content::Foreign(_)), "torn at {at}");
        }
    }
}
