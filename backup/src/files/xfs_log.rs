//! Whether the log of an XFS file system is empty: its newest record says that the file system was unmounted.

use super::Place;
use crate::bytes::Bytes;

const MAGIC: u32 = 0xfeed_babe;
const UNMOUNTED: u8 = 0x20;
const BLOCK: usize = 512;
/// Bytes of a log that are looked at: the largest there is.
const LOG_BYTES_MAX: u64 = 4 << 30;
const STEP: u64 = 1 << 20;

/// Whether nothing is to be replayed.
pub(super) fn is_clean(place: &Place<'_>, log: u64, length: u64, uuid: &[u8]) -> Result<bool, String> {
    if length > LOG_BYTES_MAX {
        return Err("its XFS log is larger than there are".into());
    }
    // The newest record is the one with the largest number; where it lies says nothing, the log is a ring.
    let mut newest: Option<(u64, u64)> = None;
    let mut at = 0;
    while at < length {
        let bytes = place.read(log + at, usize::try_from(STEP.min(length - at)).unwrap_or(0))?;
        for (block, number) in bytes.chunks_exact(BLOCK).zip(0_u64..) {
            let head = Bytes::new(block, "its log");
            if head.be32(0)? != MAGIC || !matches!(head.be32(8)?, 1 | 2) || head.part(304, 16)? != uuid {
                continue;
            }
            let record = head.be64(16)?;
            if newest.is_none_or(|(before, _)| record > before) {
                newest = Some((record, at + number * BLOCK as u64));
            }
        }
        at += STEP;
    }
    let Some((_, at)) = newest else { return Ok(true) };
    let bytes = place.read(log + at, 2 * BLOCK)?;
    let record = Bytes::new(&bytes, "its log");
    // One operation behind the header: its number, length, client, and flags.
    Ok(record.be32(40)? == 1 && record.u8(BLOCK + 9)? & UNMOUNTED != 0)
}
