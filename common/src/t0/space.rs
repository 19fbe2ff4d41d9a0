//! What all images of an appliance may take: bytes on the disk for saved content and for indexes of what volumes miss, and memory for knowing
//! where it lies. One owner for all groups and all backups.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Bytes of which there are so many.
#[derive(Debug)]
struct Account {
    capacity: u64,
    used: AtomicU64,
}

impl Account {
    const fn new(capacity: u64) -> Self {
        Self { capacity, used: AtomicU64::new(0) }
    }

    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn found(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    fn has(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.capacity
    }
}

/// Why nothing more can be kept for images, or no further one be begun. The numbers are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The disk space.
    #[error("the side store is full: {used} of the {capacity} bytes that side_store_bytes gives to images are taken")]
    Disk {
        /// Taken now.
        used: u64,
        /// What there may be.
        capacity: u64,
    },
    /// The memory.
    #[error("images take {used} of the {capacity} bytes of memory that memory_bytes in [images] gives to them")]
    Memory {
        /// Taken now.
        used: u64,
        /// What there may be.
        capacity: u64,
    },
}

/// Bytes on disk and in memory, given out and given back.
#[derive(Debug)]
pub struct SideSpace {
    disk: Account,
    memory: Account,
    /// Groups whose volumes wait until something is given back.
    waiting: AtomicI64,
}

impl SideSpace {
    /// So many bytes on the disk for everything, and as much memory as it takes.
    #[must_use]
    pub const fn new(capacity: u64) -> Self {
        Self { disk: Account::new(capacity), memory: Account::new(u64::MAX), waiting: AtomicI64::new(0) }
    }

    /// The same, with so many bytes of memory.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: Account::new(bytes), ..self }
    }

    /// Takes bytes on the disk and in memory, both or none.
    ///
    /// # Errors
    /// [`Full`]: what is missing.
    pub fn take(&self, bytes: u64, memory: u64) -> Result<(), Full> {
        if !self.memory.take(memory) {
            return Err(self.memory_full());
        }
        if !self.disk.take(bytes) {
            self.memory.give(memory);
            return Err(self.disk_full());
        }
        Ok(())
    }

    /// Counts bytes that are taken already, whatever the limit: what a restart finds.
    pub fn found(&self, bytes: u64) {
        self.disk.found(bytes);
    }

    /// Gives bytes on the disk back.
    pub fn give(&self, bytes: u64) {
        self.disk.give(bytes);
    }

    /// Gives memory back.
    pub(crate) fn give_memory(&self, bytes: u64) {
        self.memory.give(bytes);
    }

    /// What somebody has changes from one amount to another, whatever the limits.
    pub(super) fn changed(&self, before: Held, now: Held) {
        self.disk.found(now.disk);
        self.disk.give(before.disk);
        self.memory.found(now.memory);
        self.memory.give(before.memory);
    }

    /// Whether there is room for so many more bytes.
    ///
    /// # Errors
    /// [`Full`]: what is missing.
    pub fn has(&self, bytes: u64, memory: u64) -> Result<(), Full> {
        if !self.disk.has(bytes) {
            return Err(self.disk_full());
        }
        if self.memory.has(memory) { Ok(()) } else { Err(self.memory_full()) }
    }

    /// The volumes of one more group wait until something is given back, or of one fewer.
    pub(super) fn waits(&self, now: bool) {
        self.waiting.fetch_add(if now { 1 } else { -1 }, Ordering::AcqRel);
    }

    /// Whether half of either is taken.
    pub(super) fn is_half_full(&self) -> bool {
        [&self.disk, &self.memory].into_iter().any(|account| account.used() > account.capacity / 2)
    }

    /// Whether volumes, of whichever group, wait until something is given back.
    #[must_use]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn disk_full(&self) -> Full {
        Full::Disk { used: self.used(), capacity: self.capacity() }
    }

    fn memory_full(&self) -> Full {
        Full::Memory { used: self.memory_used(), capacity: self.memory_capacity() }
    }

    /// Bytes taken on the disk now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.disk.used()
    }

    /// Bytes there may be on the disk.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.disk.capacity
    }

    /// Bytes taken in memory now.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.memory.used()
    }

    /// Bytes there may be in memory.
    #[must_use]
    pub const fn memory_capacity(&self) -> u64 {
        self.memory.capacity
    }
}

/// What the eras of a group have in memory, and on the disk beside their files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) disk: u64,
    pub(super) memory: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more_than_there_is() {
        let space = SideSpace::new(100).with_memory(10);
        let taken = |bytes, memory| space.take(bytes, memory).is_ok();
        assert!(taken(60, 0) && !taken(41, 0) && taken(40, 0));
        space.give(60);
        assert!(taken(60, 0) && !taken(u64::MAX, 0));
        space.found(50);
        assert_eq!((space.used(), space.has(0, 0)), (150, Err(Full::Disk { used: 150, capacity: 100 })));
        space.give(150);
        assert!(taken(1, 10));
        assert_eq!(space.take(1, 1), Err(Full::Memory { used: 10, capacity: 10 }));
        assert_eq!((space.used(), space.memory_used()), (1, 10), "both or none");
        space.changed(Held { disk: 1, memory: 10 }, Held { disk: 3, memory: 12 });
        assert_eq!((space.used(), space.memory_used()), (3, 12));
        space.give_memory(9);
        assert_eq!(space.take(101, 1), Err(Full::Disk { used: 3, capacity: 100 }));
        assert_eq!(space.memory_used(), 3, "both or none");
    }
}
