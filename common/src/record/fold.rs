//! Whether the folded frames before a [`ControlRecord::Folded`] are those it stands for: it sets the history forward, so that
//! a frame left out before it would not be seen by the chain (invariants 2, 9). Pure; recovery and the receiver ask here.

use std::collections::VecDeque;

use super::header::{Chain, FrameHeader, FrameKind};
use super::{ControlRecord, Tip};

/// Folded frames of one record at most: far more than a journal's largest interval needs.
pub const FOLDED_FRAMES_MAX: usize = 1 << 16;

/// The folded frames since the history was last continued.
#[derive(Debug, Default)]
pub struct FoldCheck {
    frames: VecDeque<Chain>,
    is_begin_trimmed: bool,
}

impl FoldCheck {
    /// For a journal whose oldest frames may be the rest of a fold.
    #[must_use]
    pub(crate) fn from_the_middle() -> Self {
        Self { is_begin_trimmed: true, ..Self::default() }
    }

    /// Whether a record of a fold may be taken behind what came; others always may. `tip` is where the history stands.
    ///
    /// # Errors
    /// What does not belong together.
    pub fn check(&self, tip: &Tip, record: Option<&ControlRecord>) -> Result<(), &'static str> {
        let Some(ControlRecord::Folded { from_chain, frames, digest }) = record else { return Ok(()) };
        if tip.chain.0 != *from_chain {
            return Err("what is folded goes on from another place");
        }
        // A connection that broke in the middle began them again: the last ones count.
        let surplus = self.frames.len().checked_sub(usize::try_from(*frames).unwrap_or(usize::MAX));
        let Some(surplus) = surplus else {
            return if self.is_begin_trimmed { Ok(()) } else { Err("folded frames are missing") };
        };
        let same = fold_digest(self.frames.iter().skip(surplus)).0 == *digest;
        if same { Ok(()) } else { Err("the folded frames are others") }
    }

    /// A frame is taken; with a control frame, its record.
    pub fn take(&mut self, header: &FrameHeader, record: Option<&ControlRecord>) {
        if header.kind == FrameKind::Folded {
            if self.frames.len() == FOLDED_FRAMES_MAX {
                self.frames.pop_front();
            }
            self.frames.push_back(Chain::default().after(&header.encode()));
        } else if header.history || matches!(record, Some(ControlRecord::Folded { .. })) {
            self.frames.clear();
            self.is_begin_trimmed = false;
        }
    }
}

/// The digest over the digests of folded frames' headers, in their order.
pub fn fold_digest<'a>(frames: impl Iterator<Item = &'a Chain>) -> Chain {
    frames.fold(Chain::default(), |digest, frame| digest.after(&frame.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, GroupId, MarkerNumber, Seq};
    use crate::record::{FrameBuilder, Place};

    const TIP: Tip = Tip { seq: Seq(9), marker: MarkerNumber(4), generation: Generation(1), chain: Chain([7; 16]) };

    fn folded(offset: u64) -> FrameHeader {
        let place = Place {
            group: GroupId([1; 16]),
            member: 0,
            generation: TIP.generation,
            first_seq: TIP.seq,
            last_seq: TIP.seq,
            marker: TIP.marker,
            chain: TIP.chain,
        };
        let mut builder = FrameBuilder::new();
        let extent = crate::extent::Extent { volume: crate::ids::VolumeIndex(1), offset, length: 512 };
        builder.push_data(extent, &[3; 512]);
        FrameHeader::decode(&builder.finish(FrameKind::Folded, &place)).unwrap()
    }

    fn record(headers: &[FrameHeader], from: &Tip) -> ControlRecord {
        let digests: Vec<Chain> = headers.iter().map(|header| Chain::default().after(&header.encode())).collect();
        ControlRecord::Folded {
            from_chain: from.chain.0,
            frames: headers.len().try_into().unwrap(),
            digest: fold_digest(digests.iter()).0,
        }
    }

    fn check(frames: &[&FrameHeader], record: &ControlRecord) -> Result<(), &'static str> {
        let mut check = FoldCheck::default();
        for header in frames {
            check.take(header, None);
        }
        check.check(&TIP, Some(record))
    }

    #[test]
    fn all_of_them_in_their_order_are_taken_also_after_half_of_them() {
        let (a, b, c) = (folded(0), folded(512), folded(1024));
        let all = record(&[a, b, c], &TIP);
        assert_eq!(check(&[&a, &b, &c], &all), Ok(()));
        assert_eq!(check(&[&a, &b, &a, &b, &c], &all), Ok(()));
        assert_eq!(check(&[], &record(&[], &TIP)), Ok(()));
    }

    #[test]
    fn one_left_out_changed_or_out_of_order_is_seen() {
        let (a, b, c) = (folded(0), folded(512), folded(1024));
        let all = record(&[a, b, c], &TIP);
        for wrong in [vec![&a, &b], vec![&a, &c], vec![&b, &a, &c], vec![&a, &b, &b]] {
            assert!(check(&wrong, &all).is_err(), "{wrong:?}");
        }
        let elsewhere = record(&[a, b, c], &Tip { chain: Chain([8; 16]), ..TIP });
        assert!(check(&[&a, &b, &c], &elsewhere).is_err());
    }
}
