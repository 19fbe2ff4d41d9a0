//! What the eras of a group take beside their files: memory for concordances, for what was copied and for indexes of what the volumes
//! miss, and the disk space of those indexes. Told to the side store with every change, under the lock on what is counted.

use super::concordance::RANGE_BYTES;
use super::eras::{Era, Eras, State};
use super::side_file::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use super::space::{Full, Held};
use crate::overlay::unapplied::Indexed;

/// Ranges of what is indexed on the disk for each place of it that is in memory.
const INDEXED_BLOCK: u64 = 63;
/// Bytes of a range that is indexed on the disk, with its share of its block's header.
const INDEXED_BYTES: u64 = 65;

impl Eras {
    /// Tells the side store what is in memory now, and what indexes take on the disk. Under the lock on what is counted.
    pub(super) fn recount(&self, state: &State) {
        let now = state
            .eras
            .iter()
            .map(Era::held)
            .fold(Held::default(), |sum, held| Held { disk: sum.disk + held.disk, memory: sum.memory + held.memory });
        let before = std::mem::replace(&mut *self.counted.lock(), now);
        if before != now {
            self.parts.space.changed(before, now);
        }
    }

    /// Whether there is room for one more era, which is more than nothing: it would end others at once.
    pub(super) fn has_room(&self, index: Held) -> Result<(), Full> {
        let space = &self.parts.space;
        let batch = BATCH_BYTES_MAX.min(space.capacity() / 8);
        let ranges = (BATCH_ENTRIES_MAX as u64 * RANGE_BYTES).min(space.memory_capacity() / 8);
        space.has(index.disk.saturating_add(batch), index.memory.saturating_add(ranges))
    }
}

impl Era {
    /// What it takes beside its files.
    fn held(&self) -> Held {
        let ranges = (self.concordance.ranges() + self.copied.ranges()) as u64;
        let index = self.pending.as_ref().map_or_else(Held::default, |index| held_by(index));
        Held { memory: index.memory + ranges * RANGE_BYTES, ..index }
    }
}

/// What an index takes. What it has on the disk together with others counts for each of them.
pub(super) fn held_by(index: &Indexed) -> Held {
    let (memory, disk) = index.ranges();
    let (memory, disk) = (memory as u64, disk as u64);
    Held { disk: disk * INDEXED_BYTES, memory: memory * RANGE_BYTES + disk / INDEXED_BLOCK * 16 }
}

impl Drop for Eras {
    fn drop(&mut self) {
        let counted = std::mem::take(&mut *self.counted.lock());
        self.parts.space.changed(counted, Held::default());
        self.squeeze(false);
    }
}
