//! What is appended, on its way to the segment's file: whole blocks past the page cache where the file system can do that.
//!
//! The last block is written again with each append that adds to it, its durable part with the same bytes; what follows the
//! end in it is zeroes. Owns the content of that block, so that nothing is read back.

use super::JournalError;
use super::segment::Segment;
use crate::storage::aligned::{AlignedBuffer, BLOCK_BYTES};

/// Bytes that wait for more of them at most.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Staging {
    /// The segment it belongs to.
    segment: Option<u64>,
    /// Where its content begins in the file: at a block.
    from: u64,
    content: AlignedBuffer,
    /// Bytes of the content that are in the file.
    written: usize,
}

impl Staging {
    /// Goes on at a place of a segment.
    pub(super) fn at(&mut self, segment: &Segment, offset: u64) -> Result<(), JournalError> {
        if self.segment == Some(segment.number) && self.from + self.content.len() as u64 == offset {
            return Ok(());
        }
        self.segment = None;
        let before = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or(0);
        self.from = offset - before as u64;
        self.content.resize(before);
        segment.read(self.content.as_mut_slice(), self.from)?;
        self.written = before;
        self.segment = Some(segment.number);
        Ok(())
    }

    /// Bytes it has now, for [`Self::cut`].
    pub(super) fn len(&self) -> usize {
        self.content.len()
    }

    /// Adds bytes at the end.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.content.extend_from_slice(bytes);
    }

    /// Adds zeroes up to a place in the file.
    pub(super) fn pad_to(&mut self, offset: u64) {
        self.content.resize(usize::try_from(offset.saturating_sub(self.from)).unwrap_or(0));
    }

    /// Takes back what was added since it had so many bytes. What of it is in the file already lies behind the end.
    pub(super) fn cut(&mut self, length: usize) {
        self.content.resize(length);
        self.written = self.written.min(length);
    }

    /// Whether so much waits that it should be written.
    pub(super) fn is_full(&self) -> bool {
        self.content.len() - self.written > WAITING_BYTES_MAX
    }

    /// Writes what is not in the file.
    pub(super) fn write(&mut self, segment: &Segment) -> Result<(), JournalError> {
        if self.written == self.content.len() {
            return Ok(());
        }
        if !self.write_blocks(segment)? {
            let new = self.content.as_slice().get(self.written..).unwrap_or_default();
            segment.write(new, self.from + self.written as u64)?;
        }
        let whole = self.content.len() - self.content.len() % BLOCK_BYTES;
        self.content.drop_front(whole);
        self.from += whole as u64;
        self.written = self.content.len();
        // A journal that gets little after much keeps no memory for much.
        self.content.shrink(whole);
        Ok(())
    }

    fn write_blocks(&mut self, segment: &Segment) -> Result<bool, JournalError> {
        let length = self.content.len();
        let padded = length.next_multiple_of(BLOCK_BYTES);
        if self.from + padded as u64 > segment.capacity() {
            return Ok(false);
        }
        self.content.resize(padded);
        let done = segment.write_direct(self.content.as_slice(), self.from);
        self.content.resize(length);
        done
    }
}
