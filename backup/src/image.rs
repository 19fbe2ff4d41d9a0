//! What a backup reads: volumes as they were at a marker.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stop::Stop;

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

/// An image whose reader ends when he is told to, and reads so often at most. What is read of a file system, guests have made: a few blocks
/// that lead to each other, under many names, are read for days.
pub(crate) struct Bounded<'a> {
    image: &'a dyn Image,
    stop: &'a Stop,
    reads: AtomicU64,
    reads_max: u64,
}

impl<'a> Bounded<'a> {
    pub(crate) const fn new(image: &'a dyn Image, stop: &'a Stop, reads_max: u64) -> Self {
        Self { image, stop, reads: AtomicU64::new(0), reads_max }
    }

    fn goes_on(&self) -> Result<(), ImageError> {
        self.stop.reason().map_or(Ok(()), |reason| Err(ImageError(reason)))
    }
}

impl Image for Bounded<'_> {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.goes_on()?;
        if self.reads.fetch_add(1, Ordering::Relaxed) >= self.reads_max {
            return Err(ImageError(format!(
                "to find what is to be copied takes more than {} reads: the file system is damaged, or made for that. Back up the volume or \
                 partition whole",
                self.reads_max
            )));
        }
        self.image.read(offset, buffer)
    }

    fn hole(&self, offset: u64, length: u64) -> Result<u64, ImageError> {
        self.goes_on()?;
        self.image.hole(offset, length)
    }

    fn copied(&self, offset: u64, length: u64) {
        self.image.copied(offset, length);
    }
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

#[cfg(test)]
mod tests {
    use super::memory::Bytes;
    use super::*;

    #[test]
    fn who_reads_ends_when_he_is_told_to_and_reads_so_often_at_most() {
        let (bytes, stop) = (Bytes::new(vec![1; 8192]), Stop::default());
        let image = Bounded::new(&bytes, &stop, 2);
        let mut buffer = [0; 512];
        for _ in 0..2 {
            assert_eq!(image.read(0, &mut buffer), Ok(()));
        }
        assert!(image.read(0, &mut buffer).unwrap_err().0.contains("more than 2 reads"));
        let image = Bounded::new(&bytes, &stop, 2);
        assert_eq!(image.hole(0, 4096), Ok(0));
        stop.stop("cancelled");
        let stopped = ImageError("cancelled".into());
        assert_eq!(image.read(0, &mut buffer), Err(stopped.clone()));
        assert_eq!(image.hole(0, 4096), Err(stopped));
    }
}
