//! Memory that direct I/O takes: bytes that begin at a block's border.

use bytes::Bytes;

use super::pool::{POOLED_BYTES_MIN, Pooled};

/// What direct I/O wants of addresses, offsets and lengths: the block size of every disk there is, or a multiple of it.
pub const BLOCK_BYTES: usize = 4096;

/// Whether direct I/O takes this: whole blocks, to and from a border.
#[must_use]
pub fn is_whole_blocks(data: &[u8], offset: u64) -> bool {
    let is_at_border = data.as_ptr().align_offset(BLOCK_BYTES) == 0;
    is_at_border && data.len().is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(BLOCK_BYTES as u64)
}

/// A growing buffer whose first byte lies at a multiple of [`BLOCK_BYTES`].
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// Some bytes before the border, then the content.
    Heap { bytes: Vec<u8>, begin: usize },
    /// The content, then room.
    Pooled { pooled: Pooled, length: usize },
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap { bytes: Vec::new(), begin: 0 }
    }
}

impl AlignedBuffer {
    fn with_capacity(capacity: usize) -> Self {
        let heap = || {
            let mut bytes: Vec<u8> = Vec::with_capacity(capacity + BLOCK_BYTES);
            let begin = bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
            bytes.resize(begin, 0);
            Memory::Heap { bytes, begin }
        };
        Self { memory: Pooled::take(capacity).map_or_else(heap, |pooled| Memory::Pooled { pooled, length: 0 }) }
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap { bytes, begin } => bytes.get(*begin..),
            Memory::Pooled { pooled, length } => pooled.get(..*length),
        }
        .unwrap_or_default()
    }

    /// Bytes of content.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.memory {
            Memory::Heap { bytes, begin } => bytes.len() - *begin,
            Memory::Pooled { length, .. } => *length,
        }
    }

    /// Whether there is no content.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of content there is memory for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Heap { bytes, begin } => bytes.capacity() - begin,
            Memory::Pooled { pooled, .. } => pooled.len(),
        }
    }

    /// Makes room, so that what follows does not move it.
    pub fn reserve(&mut self, more: usize) {
        if self.capacity() - self.len() < more {
            self.move_to((self.len() + more).max(2 * self.len()));
        }
    }

    fn move_to(&mut self, capacity: usize) {
        let mut other = Self::with_capacity(capacity);
        other.extend_from_slice(self.as_slice());
        *self = other;
    }

    /// Adds to the content.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.reserve(more.len());
        match &mut self.memory {
            Memory::Heap { bytes, .. } => bytes.extend_from_slice(more),
            Memory::Pooled { pooled, length } => {
                if let Some(room) = pooled.get_mut(*length..*length + more.len()) {
                    room.copy_from_slice(more);
                    *length += more.len();
                }
            }
        }
    }

    /// Adds zeroes until the content is so long, or takes away what is beyond.
    pub fn resize(&mut self, length: usize) {
        self.reserve(length.saturating_sub(self.len()));
        match &mut self.memory {
            Memory::Heap { bytes, begin } => bytes.resize(*begin + length, 0),
            Memory::Pooled { pooled, length: now } => {
                if let Some(more) = pooled.get_mut(*now..length) {
                    more.fill(0);
                }
                *now = length;
            }
        }
    }

    /// Room for a reader.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap { bytes, begin } => bytes.get_mut(*begin..),
            Memory::Pooled { pooled, length } => pooled.get_mut(..*length),
        }
        .unwrap_or_default()
    }

    /// Takes away the begin of the content.
    pub fn drop_front(&mut self, length: usize) {
        let (all, length) = (self.len(), length.min(self.len()));
        self.as_mut_slice().copy_within(length.., 0);
        self.resize(all - length);
    }

    /// Gives memory back that is many times of what is needed.
    pub fn shrink(&mut self, needed: usize) {
        if self.capacity() / 8 > needed.max(self.len()) + BLOCK_BYTES {
            self.move_to(needed.max(self.len()));
        }
    }

    /// Takes away all content; the memory stays.
    pub fn clear(&mut self) {
        self.resize(0);
    }

    /// Whether the content has a piece of memory of its own, so that a copy of it costs more than another such piece.
    #[must_use]
    pub const fn is_much(&self) -> bool {
        self.len() >= POOLED_BYTES_MIN
    }

    /// The content, to be shared; it holds no more memory than a quarter beyond what it needs.
    #[must_use]
    pub fn freeze(mut self) -> Bytes {
        if self.len() < self.capacity() / 5 * 4 {
            self.move_to(self.len());
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_vector_at_a_border(steps in proptest::collection::vec((0_u8..5, prop_oneof![0_usize..20_000, 50_000_usize..200_000]), 1..30)) {
            let mut buffer = AlignedBuffer::default();
            let mut model: Vec<u8> = Vec::new();
            for (kind, length) in steps {
                match kind {
                    0 => {
                        let more: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                        buffer.extend_from_slice(&more);
                        model.extend_from_slice(&more);
                    }
                    1 => {
                        buffer.resize(length);
                        model.resize(length, 0);
                    }
                    2 => {
                        buffer.drop_front(length);
                        model.drain(..length.min(model.len()));
                    }
                    3 => buffer.shrink(length / 16),
                    _ => {
                        buffer.clear();
                        model.clear();
                    }
                }
                prop_assert!(buffer.as_slice() == model, "{} bytes, {} wanted", buffer.len(), model.len());
                prop_assert!(buffer.is_empty() || buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES) == 0);
            }
            prop_assert!(buffer.freeze() == model);
        }
    }
}
