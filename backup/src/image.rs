//! What a backup reads: volumes as they were at a marker.

/// Why an image cannot be read. Its text says what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(pub String);

/// A volume as it was at a moment. Many may read it at once.
pub trait Image: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Fills the buffer; the range lies inside the size.
    ///
    /// # Errors
    /// [`ImageError`].
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError>;
    /// How far from the offset it certainly reads as zeroes without storage behind it; 0 when there may be data at once.
    ///
    /// # Errors
    /// [`ImageError`].
    fn hole(&self, offset: u64, length: u64) -> Result<u64, ImageError>;
    /// Nobody will read this range any more: it need not be kept when it is overwritten.
    fn copied(&self, offset: u64, length: u64);
}

/// Bytes as an image.
#[cfg(test)]
pub(crate) mod memory {
    use parking_lot::Mutex;

    use super::{Image, ImageError};

    /// An image in memory; blocks of 4 KiB that are all zero count as holes.
    #[derive(Default)]
    pub(crate) struct Bytes {
        pub(crate) bytes: Vec<u8>,
        /// What was said to be copied.
        pub(crate) copied: Mutex<Vec<(u64, u64)>>,
    }

    impl Bytes {
        pub(crate) fn new(bytes: Vec<u8>) -> Self {
            Self { bytes, copied: Mutex::default() }
        }
    }

    impl Image for Bytes {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
            let begin = usize::try_from(offset).unwrap();
            let range = self.bytes.get(begin..begin + buffer.len());
            buffer.copy_from_slice(range.ok_or_else(|| ImageError(format!("nothing at {offset}")))?);
            Ok(())
        }

        fn hole(&self, offset: u64, length: u64) -> Result<u64, ImageError> {
            let begin = usize::try_from(offset).unwrap();
            let end = usize::try_from(offset + length).unwrap();
            let data = self.bytes[begin..end].iter().position(|byte| *byte != 0);
            let hole = data.map_or(end, |at| ((begin + at) / 4096 * 4096).max(begin)) - begin;
            Ok(hole as u64)
        }

        fn copied(&self, offset: u64, length: u64) {
            self.copied.lock().push((offset, length));
        }
    }
}
