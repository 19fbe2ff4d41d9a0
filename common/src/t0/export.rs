//! One volume of an image as hosts open it: read-only, or a clone's, which they may write.

use std::sync::Arc;

use super::clone::{CloneError, CloneVolume};
use super::image::{Image, ImageError, ImageVolume};
use crate::nbd::{Allocation, Bounds, Export, ExportInfo, IoError, IoFuture, ZeroMode};

/// How far one BLOCK_STATUS looks: clients ask again from where it ends.
pub(super) const STATUS_BYTES: u64 = 32 << 20;
/// What is called data without looking closer, before the next hole is sought.
pub(super) const DATA_STEP: u64 = 64 << 10;

/// A volume of an image.
#[derive(Debug, Clone)]
pub struct ImageExport {
    image: Image,
    volume: ImageVolume,
    description: Arc<str>,
}

impl ImageExport {
    /// One volume of an image; the description is for people.
    #[must_use]
    pub fn new(image: &Image, name: &str, description: &str) -> Option<Self> {
        let volume = image.volume(name)?.clone();
        Some(Self { image: image.clone(), volume, description: description.into() })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, IoError> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || (work(&this), this)).await {
            Ok((Ok(value), _)) => Ok(value),
            Ok((Err(error), this)) => {
                tracing::error!(volume = %this.volume.name, %error, "an image cannot be read");
                Err(IoError::Io)
            }
            Err(_) => Err(IoError::ShuttingDown),
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
        ExportInfo { size: self.volume.size, read_only: true, description: self.description.to_string() }
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

    fn cache(&self, _offset: u64, _length: u64) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(self.blocking(move |this| this.status(offset, length)))
    }
}

/// A volume of a clone.
#[derive(Debug, Clone)]
pub struct CloneExport {
    volume: Arc<CloneVolume>,
    description: Arc<str>,
}

impl CloneExport {
    /// A clone's volume; the description is for people.
    #[must_use]
    pub fn new(volume: Arc<CloneVolume>, description: &str) -> Self {
        Self { volume, description: description.into() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CloneVolume) -> Result<T, CloneError> + Send + 'static,
    ) -> Result<T, IoError> {
        let volume = Arc::clone(&self.volume);
        match tokio::task::spawn_blocking(move || (work(&volume), volume)).await {
            Ok((Ok(value), _)) => Ok(value),
            Ok((Err(error), volume)) => {
                tracing::error!(volume = %volume.name(), %error, "a request on a clone failed");
                Err(clone_error(&error))
            }
            Err(_) => Err(IoError::ShuttingDown),
        }
    }

    async fn change(
        &self,
        fua: bool,
        work: impl FnOnce(&CloneVolume) -> Result<(), CloneError> + Send + 'static,
    ) -> Result<(), IoError> {
        self.blocking(move |volume| {
            work(volume)?;
            if fua { Ok(volume.flush()?) } else { Ok(()) }
        })
        .await
    }
}

fn clone_error(error: &CloneError) -> IoError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        CloneError::Full(_) => IoError::NoSpace,
        CloneError::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => IoError::NoSpace,
        CloneError::Io(_) | CloneError::Image(_) => IoError::Io,
    }
}

impl Export for CloneExport {
    fn info(&self) -> ExportInfo {
        ExportInfo { size: self.volume.size(), read_only: false, description: self.description.to_string() }
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
        Box::pin(self.blocking(|volume| Ok(volume.flush()?)))
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        Box::pin(self.change(fua, move |volume| volume.zero(offset, length)))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        Box::pin(self.change(mode.fua, move |volume| volume.zero(offset, length)))
    }

    fn cache(&self, _offset: u64, _length: u64) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(self.blocking(move |volume| {
            let (length, zero) = volume.status(offset, length.min(STATUS_BYTES))?;
            Ok(vec![Allocation { length, hole: zero, zero }])
        }))
    }
}
