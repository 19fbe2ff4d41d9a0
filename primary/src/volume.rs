//! A host's requests on a volume of a group: writes go to the gate, reads to the image.

use std::sync::Arc;

use tidemark_common::extent::Extent;
use tidemark_common::ids::Seq;
use tidemark_common::nbd::{Allocation, Bounds, Export, ExportInfo, IoError, IoFuture, ZeroMode};
use tidemark_common::volumes::VolumeFile;

use crate::commit::SharedDrain;
use crate::drain::DrainDesk;
use crate::image::{Image, ImageError};

/// One volume of a group, as hosts see it.
#[derive(Debug)]
pub struct CapturedVolume {
    volume: Arc<VolumeFile>,
    image: Image,
    desk: Arc<DrainDesk>,
    drain: Arc<SharedDrain>,
}

impl CapturedVolume {
    /// A volume whose writes are captured.
    #[must_use]
    pub const fn new(volume: Arc<VolumeFile>, image: Image, desk: Arc<DrainDesk>, drain: Arc<SharedDrain>) -> Self {
        Self { volume, image, desk, drain }
    }

    fn extent(&self, offset: u64, length: u64) -> Extent {
        Extent { volume: self.volume.index, offset, length }
    }

    /// Resolves when everything up to this number is durable in the journal.
    async fn durable(&self, seq: Seq) -> Result<(), IoError> {
        let mut end = self.image.journal.watch_durable();
        if end.borrow().seq >= seq {
            return Ok(());
        }
        self.desk.want(seq, &self.image.buffer);
        loop {
            if end.borrow_and_update().seq >= seq {
                return Ok(());
            }
            if self.image.journal.poisoned().is_some() || self.desk.is_stopped() {
                return Err(IoError::Io);
            }
            if self.desk.is_disk_full() {
                return Err(IoError::NoSpace);
            }
            end.changed().await.map_err(|_| IoError::ShuttingDown)?;
        }
    }

    /// The same for a host that has nothing else under way.
    async fn commit(&self, seq: Seq) -> Result<(), IoError> {
        if self.image.journal.durable_end().seq >= seq {
            return Ok(());
        }
        if self.drain.commit(seq) && self.image.journal.durable_end().seq >= seq {
            return Ok(());
        }
        self.durable(seq).await
    }

    async fn capture(&self, offset: u64, data: &[u8]) -> Result<Seq, IoError> {
        self.desk.throttle.wait(data.len()).await;
        self.image.buffer.write(self.extent(offset, data.len() as u64), data).await
    }

    async fn zero(&self, extent: Extent, hole: bool, fua: bool) -> Result<(), IoError> {
        self.desk.throttle.wait(0).await;
        let seq = self.image.buffer.zero(extent, hole).await?;
        if fua { self.durable(seq).await } else { Ok(()) }
    }

    /// The slow way: on a thread that may wait for disks.
    async fn read_elsewhere(&self, extent: Extent, buffer: &mut [u8]) -> Result<(), IoError> {
        let image = self.image.clone();
        let length = buffer.len();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            image.read(extent, &mut bytes).map(|()| bytes)
        });
        match read.await {
            Ok(Ok(bytes)) => {
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
            Ok(Err(error)) => Err(report(&error)),
            Err(_) => Err(IoError::ShuttingDown),
        }
    }

    fn status(&self, extent: Extent) -> Result<Vec<Allocation>, IoError> {
        let mut runs: Vec<Allocation> = Vec::new();
        let mut add = |length: u64, zero: bool| {
            match runs.last_mut().filter(|last| last.zero == zero) {
                Some(last) => last.length += length,
                None => runs.push(Allocation { length, hole: zero, zero }),
            };
        };
        for piece in self.image.buffer.pieces(extent).map_err(|error| report(&error.into()))? {
            match piece.location {
                Some(location) => add(piece.extent.length, location.is_zero()),
                None => self.base_status(piece.extent, &mut add)?,
            }
        }
        Ok(runs)
    }

    fn base_status(&self, extent: Extent, add: &mut impl FnMut(u64, bool)) -> Result<(), IoError> {
        let mut at = extent.offset;
        while at < extent.end() {
            let data = self.volume.file.next_data(at).map_err(|_| IoError::Io)?;
            let (begin, end) = data.unwrap_or((extent.end(), extent.end()));
            let (begin, end) = (begin.clamp(at, extent.end()), end.clamp(at, extent.end()));
            if begin > at {
                add(begin - at, true);
            }
            if end > begin {
                add(end - begin, false);
            }
            at = end.max(at + 1);
        }
        Ok(())
    }
}

fn report(error: &ImageError) -> IoError {
    tracing::error!(%error, "a read failed");
    IoError::Io
}

impl Export for CapturedVolume {
    fn info(&self) -> ExportInfo {
        let description = format!("Tidemark volume {}", self.volume.name);
        ExportInfo { size: self.volume.size(), read_only: false, description }
    }

    fn bounds(&self) -> Bounds {
        Bounds { size: self.volume.size(), read_only: false }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let extent = self.extent(offset, buffer.len() as u64);
            match self.image.read_now(&self.volume, extent, buffer) {
                Ok(true) => Ok(()),
                Ok(false) => self.read_elsewhere(extent, buffer).await,
                Err(error) => Err(report(&error)),
            }
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let seq = self.capture(offset, data).await?;
            if fua { self.durable(seq).await } else { Ok(()) }
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(self.durable(self.image.buffer.captured()))
    }

    fn flush_alone(&self) -> IoFuture<'_, ()> {
        Box::pin(self.commit(self.image.buffer.captured()))
    }

    fn write_alone<'a>(&'a self, offset: u64, data: &'a [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let seq = self.capture(offset, data).await?;
            self.commit(seq).await
        })
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        Box::pin(self.zero(self.extent(offset, length), true, fua))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        Box::pin(self.zero(self.extent(offset, length), !mode.no_hole, mode.fua))
    }

    fn cache(&self, _offset: u64, _length: u64) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(std::future::ready(self.status(self.extent(offset, length))))
    }
}
