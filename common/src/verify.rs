//! Digests of a volume's regions: what two sides are compared by.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};

use crate::limits::REGION_BYTES;

/// The digest of a region: the first half of its SHA-256. One flipped bit changes it; nobody has to guess whether it would.
pub type RegionDigest = [u8; 16];

/// The digest of bytes. A region that holds nothing but zeroes, and a hole, have the same.
#[must_use]
pub fn digest(bytes: &[u8]) -> RegionDigest {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    let mut digest = RegionDigest::default();
    let whole = context.finish();
    for (to, from) in digest.iter_mut().zip(whole.as_ref()) {
        *to = *from;
    }
    digest
}

/// Digests the regions from an offset on, at most so many and not beyond the end of the volume. `hole` says how many bytes from
/// a place on certainly read as zeroes, `read` fills a buffer.
///
/// # Errors
/// As `hole` and `read`.
pub fn digests<E: From<io::Error>>(
    size: u64,
    offset: u64,
    count: usize,
    mut hole: impl FnMut(u64, u64) -> Result<u64, E>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<RegionDigest>, E> {
    let mut buffer = vec![0; usize::try_from(REGION_BYTES).unwrap_or(0)];
    let zeroes = digest(&buffer);
    let mut digests = Vec::new();
    let mut at = offset;
    let mut empty_up_to = offset;
    while digests.len() < count && at < size {
        let length = REGION_BYTES.min(size - at);
        let target = buffer.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        if empty_up_to < at + length {
            empty_up_to = at + hole(at, (size - at).min(REGION_BYTES * count as u64))?;
        }
        if empty_up_to >= at + length && length == REGION_BYTES {
            digests.push(zeroes);
        } else {
            read(at, target)?;
            digests.push(digest(target));
        }
        at += length;
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_zeroes_are_the_same_and_one_bit_is_seen() {
        let region = usize::try_from(REGION_BYTES).unwrap();
        let mut data = vec![0; 3 * region + 512];
        data[region + 7] = 1;
        let size = data.len() as u64;
        let of = |data: &[u8], hole: u64| {
            let read = |at: u64, target: &mut [u8]| {
                let at = usize::try_from(at).unwrap();
                target.copy_from_slice(&data[at..at + target.len()]);
                Ok::<(), io::Error>(())
            };
            digests(size, 0, 100, |at, _| Ok(if at == 0 { hole } else { 0 }), read).unwrap()
        };
        let (seen, by_hole) = (of(&data, 0), of(&data, REGION_BYTES));
        assert_eq!((seen.len(), &seen), (4, &by_hole));
        for bit in [0, 8 * region - 1, 8 * (3 * region + 511)] {
            let mut other = data.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(of(&other, 0).iter().zip(&seen).filter(|(one, two)| one != two).count(), 1);
        }
    }
}
