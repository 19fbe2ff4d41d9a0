//! Buffers for the data of requests, kept and used again by one connection.
//!
//! Memory that was used once has its pages and need not be zeroed, which is most of the cost of a large request. A buffer
//! never goes from one connection to another, so no host can see another's bytes in it.

use std::ops::{Deref, DerefMut};

use crate::limits::{NBD_REQUEST_BYTES_MAX, NBD_SPARE_BYTES_MAX};

/// Smallest buffer: 4 KiB.
const CLASS_MIN: u32 = 12;
/// A class for each power of two up to the largest request.
const CLASSES: usize = (NBD_REQUEST_BYTES_MAX.ilog2() - CLASS_MIN + 1) as usize;

/// Bytes of one request. What is in it before it is filled is unspecified.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// A power of two, whole class; empty for a request without data.
    bytes: Vec<u8>,
    length: usize,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

/// The spare buffers of one connection.
#[derive(Debug, Default)]
pub(super) struct Spares {
    classes: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

impl Spares {
    /// A buffer of this many bytes, at most the largest request.
    pub(super) fn take(&mut self, length: usize) -> Buffer {
        let size = class_size(length);
        let spare = self.class(size).and_then(Vec::pop);
        if spare.is_some() {
            self.bytes -= size;
        }
        Buffer { bytes: spare.unwrap_or_else(|| vec![0; size]), length }
    }

    /// Keeps a buffer for later, when there is room.
    pub(super) fn put(&mut self, buffer: Buffer) {
        let size = buffer.bytes.len();
        if size == 0 || self.bytes + size > NBD_SPARE_BYTES_MAX {
            return;
        }
        if let Some(class) = self.class(size) {
            class.push(buffer.bytes);
            self.bytes += size;
        }
    }

    /// Gives all memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    fn class(&mut self, size: usize) -> Option<&mut Vec<Vec<u8>>> {
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

    #[test]
    fn buffers_come_back_in_their_size() {
        let mut spares = Spares::default();
        let mut buffer = spares.take(5000);
        assert_eq!(buffer.len(), 5000);
        buffer.fill(7);
        spares.put(buffer);
        assert_eq!(spares.bytes, 8192);
        assert_eq!(spares.take(4096)[..2], [0, 0], "another class");
        assert_eq!(spares.take(8192)[..2], [7, 7], "the same memory");
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        let largest = usize::try_from(NBD_REQUEST_BYTES_MAX).unwrap();
        let many: Vec<_> = (0..40).map(|_| spares.take(1 << 20)).collect();
        let large = spares.take(largest);
        many.into_iter().for_each(|buffer| spares.put(buffer));
        spares.put(large);
        assert_eq!(spares.bytes, NBD_SPARE_BYTES_MAX);
        spares.put(Buffer::default());
        spares.release();
        assert_eq!(spares.bytes, 0);
    }
}
