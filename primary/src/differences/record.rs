//! The record of a pair's differences in the catalogue.

use tidemark_common::differential::Bitmap;
use tidemark_common::ids::Seq;
use tidemark_common::record::Chain;

use super::Inner;

const POINT_BYTES: usize = 24;
/// In the number of points as it is recorded: [`Inner::unread`].
const UNREAD: u64 = 1 << 63;

impl Inner {
    /// Number of points, and [`UNREAD`] in it; points, bitmap.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.points.len() * POINT_BYTES);
        let count = self.points.len() as u64 | if self.unread { UNREAD } else { 0 };
        bytes.extend_from_slice(&count.to_le_bytes());
        for (seq, chain) in &self.points {
            bytes.extend_from_slice(&seq.0.to_le_bytes());
            bytes.extend_from_slice(&chain.0);
        }
        bytes.extend_from_slice(&self.bitmap.encode());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let parts = || {
            let (count, rest) = bytes.split_first_chunk::<8>()?;
            let count = u64::from_le_bytes(*count);
            let length = usize::try_from(count & !UNREAD).ok()?.checked_mul(POINT_BYTES)?;
            let (points, bitmap) = rest.split_at_checked(length)?;
            Some((count & UNREAD != 0, points, bitmap))
        };
        let Some((unread, points, bitmap)) = parts() else {
            return Self::unreadable("the differential bitmap is cut short".into());
        };
        let point = |bytes: &[u8]| {
            let (seq, rest) = bytes.split_first_chunk::<8>()?;
            Some((Seq(u64::from_le_bytes(*seq)), Chain(rest.try_into().ok()?)))
        };
        let points = points.chunks_exact(POINT_BYTES).filter_map(point).collect();
        match Bitmap::decode(bitmap) {
            Ok(bitmap) => Self { bitmap, points, unread, ..Self::default() },
            Err(error) => Self::unreadable(error.to_string()),
        }
    }
}

/// The record of a pair's bitmap that says only this.
#[must_use]
pub fn encode_new(bitmap: &Bitmap) -> Vec<u8> {
    Inner { bitmap: bitmap.clone(), ..Inner::default() }.encode()
}
