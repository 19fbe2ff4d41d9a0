//! Where a history stands, and whether a frame follows it. Pure; the writer, recovery and the receiver all ask here, so
//! that "follows" means one thing (invariants 2, 9).

use super::header::{Chain, FrameHeader, FrameKind};
use crate::ids::{Generation, MarkerNumber, Seq};

/// The newest end of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tip {
    /// Last sequence number.
    pub seq: Seq,
    /// Newest marker.
    pub marker: MarkerNumber,
    /// Generation.
    pub generation: Generation,
    /// The chain.
    pub chain: Chain,
}

impl Tip {
    /// The tip after a frame with this header, which must follow this tip.
    ///
    /// # Errors
    /// What does not follow.
    pub fn follow(&self, header: &FrameHeader) -> Result<Self, &'static str> {
        if header.rebase {
            return Ok(self.after(header));
        }
        if header.chain != self.chain {
            return Err("its chain is another");
        }
        if header.generation < self.generation {
            return Err("its generation is older");
        }
        if header.marker < self.marker {
            return Err("its marker is older");
        }
        let first = match header.kind {
            FrameKind::Writes => Seq(self.seq.0.saturating_add(1)),
            FrameKind::Regions | FrameKind::Control | FrameKind::Folded => self.seq,
        };
        if header.first_seq != first || (header.kind != FrameKind::Writes && header.last_seq != first) {
            return Err("its sequence number is not the next");
        }
        Ok(self.after(header))
    }

    fn after(&self, header: &FrameHeader) -> Self {
        Self {
            seq: header.last_seq,
            marker: header.marker,
            generation: header.generation.max(self.generation),
            chain: header.chain_behind(),
        }
    }
}
