//! One volume of an image as hosts open it: read-only, or one which they may write: a clone's, or a target's that was split.

use std::sync::Arc;

use super::clone::{CloneError, CloneVolume};
use super::image::{Image, ImageError, ImageVolume};
use crate::nbd::{Allocation, Bounds, DiskThreads, Export, ExportInfo, IoError, IoFuture, ZeroMode};
use crate::storage::is_no_space;

/// How far one BLOCK_STATUS looks: clients ask again from where it ends.
pub(super) const STATUS_BYTES: u64 = 32 << 20;
/// What is called data without looking closer, before the next hole is sought.
pub const DATA_STEP: u64 = 64 << 10;

/// A volume of an image.
#[derive(Debug, Clone)]
pub struct ImageExport {
    image: Image,
    volume: ImageVolume,
    description: Arc<str>,
    threads: DiskThreads,
}

impl ImageExport {
    /// One volume of an image; the description is for people.
    #[must_use]
    pub fn new(image: &Image, name: &str, description: &str) -> Option<Self> {
        let volume = image.volume(name)?.clone();
        let threads = DiskThreads::default();
        Some(Self { image: image.clone(), volume, description: description.into(), threads })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, IoError> {
        let this = self.clone();
        match self.threads.run(move || (work(&this), this)).await? {
            (Ok(value), _) => Ok(value),
            (Err(error), this) => {
                tracing::error!(volume = %this.volume.name, %error, "an image cannot be read");
                Err(IoError::Io)
            }
        }
    }

    fn status(&self, offset: u64, length: u64) -> Result<Vec<Allocation>, ImageError> {
        let end = offset + length.min(STATUS_BYTES);
        let zero = self.image.hole(self.volume.index, offset, end - offset)?;
        if zero > 0 {
            return Ok(vec![Allocation { length: zero, hole: true, zero: true }]);
        }
        let mut at = offset;
        while at < end && self.image.hole(self.volume.index, at, (end - at).min(DATA_STEP))? == 0 {
            at = (at + DATA_STEP).min(end);
        }
        Ok(vec![Allocation { length: at - offset, hole: false, zero: false }])
    }
}

fn refuse<T: Send + 'static>() -> IoFuture<'static, T> {
    Box::pin(std::future::ready(Err(IoError::NotPermitted)))
}

impl Export for ImageExport {
    fn info(&self) -> ExportInfo {
        let description = self.description.to_string();
        ExportInfo { size: self.volume.size, read_only: true, gives_back: false, description }
    }

    fn bounds(&self) -> Bounds {
        Bounds { size: self.volume.size, read_only: true }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let length = buffer.len();
            let bytes = self
                .blocking(move |this| {
                    let mut bytes = vec![0; length];
                    this.image.read(this.volume.index, offset, &mut bytes).map(|()| bytes)
                })
                .await?;
            buffer.copy_from_slice(&bytes);
            Ok(())
        })
    }

    fn write<'a>(&'a self, _offset: u64, _data: &'a [u8], _fua: bool) -> IoFuture<'a, ()> {
        refuse()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn trim(&self, _offset: u64, _length: u64, _fua: bool) -> IoFuture<'_, ()> {
        refuse()
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _mode: ZeroMode) -> IoFuture<'_, ()> {
        refuse()
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(self.blocking(move |this| this.status(offset, length)))
    }
}

/// A volume that hosts read and write here, by calls that may wait for disks.
pub trait BlockVolume: Send + Sync + 'static {
    /// Why a request failed.
    type Error: std::fmt::Display + Send + 'static;
    /// Its name.
    fn name(&self) -> &str;
    /// Bytes.
    fn size(&self) -> u64;
    /// Whether what is zeroed need not be written.
    fn gives_back(&self) -> bool {
        true
    }
    /// Fills a buffer.
    ///
    /// # Errors
    /// What happened.
    fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), Self::Error>;
    /// Writes a range.
    ///
    /// # Errors
    /// What happened.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;
    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// What happened.
    fn zero(&self, offset: u64, length: u64) -> Result<(), Self::Error>;
    /// Everything answered before is durable when this returns.
    ///
    /// # Errors
    /// What happened.
    fn flush(&self) -> Result<(), Self::Error>;
    /// How far from the begin of a range it is all zeroes or all not: (bytes, zeroes).
    ///
    /// # Errors
    /// What happened.
    fn status(&self, offset: u64, length: u64) -> Result<(u64, bool), Self::Error>;
    /// What the host is told.
    fn answer(error: &Self::Error) -> IoError;
}

/// A [`BlockVolume`] as hosts open it.
#[derive(Debug)]
pub struct BlockExport<V> {
    volume: Arc<V>,
    description: Arc<str>,
    threads: DiskThreads,
}

/// A volume of a clone.
pub type CloneExport = BlockExport<CloneVolume>;

impl<V: BlockVolume> BlockExport<V> {
    /// A volume; the description is for people.
    #[must_use]
    pub fn new(volume: Arc<V>, description: &str) -> Self {
        Self { volume, description: description.into(), threads: DiskThreads::default() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&V) -> Result<T, V::Error> + Send + 'static,
    ) -> Result<T, IoError> {
        let volume = Arc::clone(&self.volume);
        match self.threads.run(move || (work(&volume), volume)).await? {
            (Ok(value), _) => Ok(value),
            (Err(error), volume) => {
                tracing::error!(volume = %volume.name(), %error, "a request failed");
                Err(V::answer(&error))
            }
        }
    }

    async fn change(
        &self,
        fua: bool,
        work: impl FnOnce(&V) -> Result<(), V::Error> + Send + 'static,
    ) -> Result<(), IoError> {
        self.blocking(move |volume| {
            work(volume)?;
            if fua { volume.flush() } else { Ok(()) }
        })
        .await
    }
}

/// What a host is told of a disk's error.
#[must_use]
pub fn disk_answer(error: &std::io::Error) -> IoError {
    if is_no_space(error) { IoError::NoSpace } else { IoError::Io }
}

impl BlockVolume for CloneVolume {
    type Error = CloneError;

    fn name(&self) -> &str {
        Self::name(self)
    }

    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), CloneError> {
        Self::read(self, offset, target)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), CloneError> {
        Self::write(self, offset, bytes)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), CloneError> {
        Self::zero(self, offset, length)
    }

    fn flush(&self) -> Result<(), CloneError> {
        Ok(Self::flush(self)?)
    }

    fn status(&self, offset: u64, length: u64) -> Result<(u64, bool), CloneError> {
        Self::status(self, offset, length)
    }

    fn answer(error: &CloneError) -> IoError {
        match error {
            CloneError::Full(_) | CloneError::AllFull(_) => IoError::NoSpace,
            CloneError::Io(error) => disk_answer(error),
            CloneError::Image(_) => IoError::Io,
        }
    }
}

impl<V: BlockVolume> Export for BlockExport<V> {
    fn info(&self) -> ExportInfo {
        let (size, description) = (self.volume.size(), self.description.to_string());
        ExportInfo { size, read_only: false, gives_back: self.volume.gives_back(), description }
    }

    fn bounds(&self) -> Bounds {
        Bounds { size: self.volume.size(), read_only: false }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let length = buffer.len();
            let read = self.blocking(move |volume| {
                let mut bytes = vec![0; length];
                volume.read(offset, &mut bytes).map(|()| bytes)
            });
            buffer.copy_from_slice(&read.await?);
            Ok(())
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()> {
        let data = data.to_vec();
        Box::pin(self.change(fua, move |volume| volume.write(offset, &data)))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(self.blocking(V::flush))
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        Box::pin(self.change(fua, move |volume| volume.zero(offset, length)))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        Box::pin(self.change(mode.fua, move |volume| volume.zero(offset, length)))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(self.blocking(move |volume| {
            let (length, zero) = volume.status(offset, length.min(STATUS_BYTES))?;
            Ok(vec![Allocation { length, hole: zero, zero }])
        }))
    }
}
