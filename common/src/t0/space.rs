//! The bytes that saved content may take: one owner for all images of an appliance.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes on disk for saved content, given out and given back.
#[derive(Debug)]
pub struct SideSpace {
    capacity: u64,
    used: AtomicU64,
}

impl SideSpace {
    /// So many bytes for everything.
    #[must_use]
    pub const fn new(capacity: u64) -> Self {
        Self { capacity, used: AtomicU64::new(0) }
    }

    /// Takes bytes; `false` when they are not there.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Counts bytes that are taken already, whatever the limit: what a restart finds.
    pub fn found(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives bytes back.
    pub fn give(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes there may be.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more_than_there_is() {
        let space = SideSpace::new(100);
        assert!(space.take(60) && !space.take(41) && space.take(40));
        space.give(60);
        assert!(space.take(60) && !space.take(u64::MAX));
        space.found(50);
        assert_eq!((space.used(), space.take(1)), (150, false));
    }
}
