//! Buffers for the data of requests, kept and used again by one connection.
//!
//! Memory that was used once has its pages and need not be zeroed, which is most of the cost of a large request. A buffer
//! never goes from one connection to another, so no host can see another's bytes in it. What there may be of them: [`super::budget`].

use std::ops::{Deref, DerefMut};

use super::budget::{Allowance, Budget, Taken};
use crate::limits::{NBD_REQUEST_BYTES_MAX, NBD_SPARE_BYTES_MAX};

/// Smallest buffer: 4 KiB.
const CLASS_MIN: u32 = 12;
/// A class for each power of two up to the largest request.
const CLASSES: usize = (NBD_REQUEST_BYTES_MAX.ilog2() - CLASS_MIN + 1) as usize;

/// Bytes of one request. What is in it before it is filled is unspecified.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    memory: Memory,
    length: usize,
}

/// What a buffer lies in.
#[derive(Debug, Default)]
struct Memory {
    /// A power of two, whole class; empty for a request without data.
    bytes: Vec<u8>,
    /// Of what it is taken; `None`: of nothing, for a request that is the only one.
    taken: Option<Taken>,
}

impl Memory {
    fn is_shared(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.is_shared)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

/// The spare buffers of one connection.
#[derive(Debug)]
pub(super) struct Spares {
    allowance: Allowance,
    classes: [Vec<Memory>; CLASSES],
    bytes: usize,
    /// Those of `bytes` that are of what all connections share.
    shared_bytes: usize,
}

impl Spares {
    pub(super) fn new(budget: &Budget) -> Self {
        Self { allowance: Allowance::new(budget), classes: Default::default(), bytes: 0, shared_bytes: 0 }
    }

    /// A buffer of this many bytes, at most the largest request; `None` when there is no memory for it now. For `the_only` one under way there
    /// always is.
    pub(super) fn take(&mut self, length: usize, the_only: bool) -> Option<Buffer> {
        if length == 0 {
            return Some(Buffer::default());
        }
        let size = class_size(length);
        let memory = match self.class(size).and_then(Vec::pop) {
            Some(spare) => {
                self.bytes -= size;
                self.shared_bytes -= if spare.is_shared() { size } else { 0 };
                spare
            }
            None => self.allocate(size, the_only)?,
        };
        Some(Buffer { memory, length })
    }

    fn allocate(&mut self, size: usize, the_only: bool) -> Option<Memory> {
        let mut taken = self.allowance.take(size);
        if taken.is_none() {
            // What is kept for requests of other sizes goes first.
            self.release();
            taken = self.allowance.take(size);
        }
        (taken.is_some() || the_only).then(|| Memory { bytes: vec![0; size], taken })
    }

    /// Keeps a buffer for later, when there is room.
    pub(super) fn put(&mut self, buffer: Buffer) {
        let Buffer { memory, .. } = buffer;
        let (size, is_shared) = (memory.bytes.len(), memory.is_shared());
        if memory.taken.is_none() {
            return;
        }
        let is_scarce = self.allowance.is_scarce();
        if is_scarce {
            self.release_shared();
        }
        if self.bytes + size > NBD_SPARE_BYTES_MAX || is_scarce && is_shared {
            return;
        }
        if let Some(class) = self.class(size) {
            class.push(memory);
            self.bytes += size;
            self.shared_bytes += if is_shared { size } else { 0 };
        }
    }

    /// Gives all memory back.
    pub(super) fn release(&mut self) {
        self.classes = Default::default();
        (self.bytes, self.shared_bytes) = (0, 0);
    }

    /// Gives back what others may lack.
    fn release_shared(&mut self) {
        if self.shared_bytes > 0 {
            self.classes.iter_mut().for_each(|class| class.retain(|memory| !memory.is_shared()));
            self.bytes -= std::mem::take(&mut self.shared_bytes);
        }
    }

    fn class(&mut self, size: usize) -> Option<&mut Vec<Memory>> {
        let index = size.ilog2().checked_sub(CLASS_MIN)?;
        self.classes.get_mut(usize::try_from(index).ok()?)
    }
}

fn class_size(length: usize) -> usize {
    length.next_power_of_two().max(1 << CLASS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NBD_OWN_BYTES_MAX;

    const LARGEST: usize = NBD_REQUEST_BYTES_MAX as usize;

    #[test]
    fn buffers_come_back_in_their_size() {
        let mut spares = Spares::new(&Budget::default());
        let mut buffer = spares.take(5000, false).unwrap();
        assert_eq!(buffer.len(), 5000);
        buffer.fill(7);
        spares.put(buffer);
        assert_eq!(spares.bytes, 8192);
        assert_eq!(spares.take(4096, false).unwrap()[..2], [0, 0], "another class");
        assert_eq!(spares.take(8192, false).unwrap()[..2], [7, 7], "the same memory");
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::new(&Budget::default());
        let many: Vec<_> = (0..40).map(|_| spares.take(1 << 20, false).unwrap()).collect();
        let large = spares.take(LARGEST, false).unwrap();
        many.into_iter().for_each(|buffer| spares.put(buffer));
        spares.put(large);
        assert_eq!(spares.bytes, NBD_SPARE_BYTES_MAX);
        spares.put(Buffer::default());
        spares.release();
        assert_eq!((spares.bytes, spares.shared_bytes), (0, 0));
    }

    #[test]
    fn beyond_its_own_a_connection_has_of_what_all_share_and_always_one_request() {
        let budget = Budget::of(NBD_OWN_BYTES_MAX);
        let [mut greedy, mut other] = [(); 2].map(|()| Spares::new(&budget));
        let own = greedy.take(NBD_OWN_BYTES_MAX, false).unwrap();
        let shared = greedy.take(NBD_OWN_BYTES_MAX, false).unwrap();
        assert!(!own.memory.is_shared() && shared.memory.is_shared());
        assert!(greedy.take(1, false).is_none());
        greedy.put(own);
        assert!(greedy.take(1, false).is_some(), "what is kept for another size goes for it");

        let own = other.take(NBD_OWN_BYTES_MAX, false);
        assert!(own.is_some(), "whatever others have");
        assert!(other.take(1, false).is_none());
        let large = other.take(LARGEST, true).unwrap();
        other.put(large);
        assert_eq!(other.bytes, 0, "what is of nothing is not kept");
        drop(shared);
        assert!(other.take(NBD_OWN_BYTES_MAX, false).is_some());
    }

    #[test]
    fn what_others_may_lack_is_not_kept() {
        let budget = Budget::of(4 * NBD_OWN_BYTES_MAX);
        let [mut quiet, mut busy] = [(); 2].map(|()| Spares::new(&budget));
        let two: Vec<_> = (0..2).map(|_| quiet.take(NBD_OWN_BYTES_MAX, false).unwrap()).collect();
        two.into_iter().for_each(|buffer| quiet.put(buffer));
        assert_eq!((quiet.bytes, quiet.shared_bytes), (2 * NBD_OWN_BYTES_MAX, NBD_OWN_BYTES_MAX));

        let three: Vec<_> = (0..3).map(|_| busy.take(NBD_OWN_BYTES_MAX, false).unwrap()).collect();
        let small = quiet.take(1, false).unwrap();
        quiet.put(small);
        assert_eq!(quiet.shared_bytes, 0);
        drop(three);
        let five: Vec<_> = (0..5).map(|_| busy.take(NBD_OWN_BYTES_MAX, false)).collect();
        assert!(five.iter().all(Option::is_some), "its own, and all that is shared");
    }
}
