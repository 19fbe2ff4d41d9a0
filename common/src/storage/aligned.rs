//! Memory that direct I/O takes: bytes that begin at a block's border.

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
    /// Some bytes before the border, then the content.
    bytes: Vec<u8>,
    begin: usize,
}

impl AlignedBuffer {
    fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + BLOCK_BYTES);
        let begin = bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        bytes.resize(begin, 0);
        Self { bytes, begin }
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.begin..).unwrap_or_default()
    }

    /// Bytes of content.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.begin
    }

    /// Whether there is no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room, so that what follows does not move it.
    pub fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            let mut larger = Self::with_capacity((self.len() + more).max(2 * self.len()));
            larger.bytes.extend_from_slice(self.as_slice());
            *self = larger;
        }
    }

    /// Adds to the content.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    /// Adds zeroes until the content is so long, or takes away what is beyond.
    pub fn resize(&mut self, length: usize) {
        self.reserve(length.saturating_sub(self.len()));
        self.bytes.resize(self.begin + length, 0);
    }

    /// Room for a reader.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.begin..).unwrap_or_default()
    }

    /// Takes away the begin of the content.
    pub fn drop_front(&mut self, length: usize) {
        let length = length.min(self.len());
        self.bytes.copy_within(self.begin + length.., self.begin);
        self.bytes.truncate(self.bytes.len() - length);
    }

    /// Gives memory back that is many times of what is needed.
    pub fn shrink(&mut self, needed: usize) {
        if self.bytes.capacity() / 8 > needed.max(self.len()) + BLOCK_BYTES {
            let mut smaller = Self::with_capacity(needed.max(self.len()));
            smaller.bytes.extend_from_slice(self.as_slice());
            *self = smaller;
        }
    }

    /// Takes away all content; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.begin);
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
        fn it_is_a_vector_at_a_border(steps in proptest::collection::vec((0_u8..5, 0_usize..20_000), 1..30)) {
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
                prop_assert_eq!(buffer.as_slice(), &model[..]);
                prop_assert!(buffer.is_empty() || buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES) == 0);
            }
        }
    }
}
