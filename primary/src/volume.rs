//! A host's requests on a volume of a group: writes go to the gate, reads to the image.

use std::sync::Arc;

use tidemark_common::extent::Extent;
use tidemark_common::ids::Seq;
use tidemark_common::limits::NBD_STATUS_RUNS_MAX;
use tidemark_common::nbd::{Allocation, Bounds, DiskThreads, Export, ExportInfo, IoError, IoFuture, ZeroMode};
use tidemark_common::volumes::VolumeFile;

use crate::commit::SharedDrain;
use crate::drain::DrainDesk;
use crate::image::{Image, ImageError};

/// How far one BLOCK_STATUS looks: clients ask again from where it ends.
const STATUS_BYTES: u64 = 64 << 30;
/// And how far at once: no more of the index than that is in memory.
const STATUS_STEP: u64 = 1 << 30;

/// One volume of a group, as hosts see it.
#[derive(Debug)]
pub struct CapturedVolume {
    volume: Arc<VolumeFile>,
    image: Image,
    desk: Arc<DrainDesk>,
    drain: Arc<SharedDrain>,
    threads: DiskThreads,
}

impl CapturedVolume {
    /// A volume whose writes are captured.
    #[must_use]
    pub fn new(volume: Arc<VolumeFile>, image: Image, desk: Arc<DrainDesk>, drain: Arc<SharedDrain>) -> Self {
        Self { volume, image, desk, drain, threads: DiskThreads::default() }
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
            if let Some(error) = self.desk.refused() {
                return Err(error);
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
        let read = self.threads.run(move || {
            let mut bytes = vec![0; length];
            image.read(extent, &mut bytes).map(|()| bytes)
        });
        let bytes = read.await?.map_err(|error| report(&error))?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Runs one behind the other, neighbours different.
#[derive(Debug, Default)]
struct Runs(Vec<Allocation>);

impl Runs {
    fn add(&mut self, length: u64, zero: bool) {
        match self.0.last_mut().filter(|last| last.zero == zero) {
            Some(last) => last.length += length,
            None => self.0.push(Allocation { length, hole: zero, zero }),
        }
    }

    /// Whether one answer has no room for more.
    const fn are_enough(&self) -> bool {
        self.0.len() > NBD_STATUS_RUNS_MAX
    }
}

/// What is allocated from the begin of a range on, as far as one answer goes. Asks the disk, which may take its time.
fn status(image: &Image, volume: &VolumeFile, extent: Extent) -> Result<Vec<Allocation>, IoError> {
    let (mut runs, mut at) = (Runs::default(), extent.offset);
    let end = at + extent.length.min(STATUS_BYTES);
    while at < end && !runs.are_enough() {
        let step = Extent { offset: at, length: (end - at).min(STATUS_STEP), ..extent };
        for piece in image.buffer.pieces(step).map_err(|error| report(&error.into()))? {
            match piece.location {
                Some(location) => runs.add(piece.extent.length, location.is_zero()),
                None => base_status(volume, piece.extent, &mut runs)?,
            }
            if runs.are_enough() {
                break;
            }
        }
        at = step.end();
    }
    Ok(runs.0)
}

fn base_status(volume: &VolumeFile, extent: Extent, runs: &mut Runs) -> Result<(), IoError> {
    let mut at = extent.offset;
    while at < extent.end() && !runs.are_enough() {
        let data = volume.file.next_data(at).map_err(|_| IoError::Io)?;
        let (begin, end) = data.unwrap_or((extent.end(), extent.end()));
        let (begin, end) = (begin.clamp(at, extent.end()), end.clamp(at, extent.end()));
        if begin > at {
            runs.add(begin - at, true);
        }
        if end > begin {
            runs.add(end - begin, false);
        }
        at = end.max(at + 1);
    }
    Ok(())
}

fn report(error: &ImageError) -> IoError {
    tracing::error!(%error, "a read failed");
    IoError::Io
}

impl Export for CapturedVolume {
    fn info(&self) -> ExportInfo {
        let description = format!("Tidemark volume {}", self.volume.name);
        ExportInfo { size: self.volume.size(), read_only: false, gives_back: self.volume.gives_back, description }
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

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        let (image, volume, extent) = (self.image.clone(), Arc::clone(&self.volume), self.extent(offset, length));
        Box::pin(async move { self.threads.run(move || status(&image, &volume, extent)).await? })
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::limits::SECTOR_BYTES;
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::storage::{Disk, Open};

    use super::*;

    /// A range may be a whole volume, and a volume may have a hole behind each block.
    #[test]
    fn one_question_is_looked_into_no_further_than_one_answer_goes() {
        let blocks = 3 * NBD_STATUS_RUNS_MAX as u64;
        let size = 2 * blocks * SECTOR_BYTES;
        let file = MemoryDisk::new().open("v".as_ref(), Open::New).unwrap();
        file.grow(size).unwrap();
        for block in 0..blocks {
            file.write_all_at(&[1; 512], 2 * block * SECTOR_BYTES).unwrap();
        }
        let volume = VolumeFile::new(VolumeIndex(1), "v".into(), file, size);
        let mut runs = Runs::default();
        base_status(&volume, Extent { volume: volume.index, offset: 0, length: size }, &mut runs).unwrap();
        let Runs(runs) = runs;
        assert!((NBD_STATUS_RUNS_MAX..NBD_STATUS_RUNS_MAX + 3).contains(&runs.len()), "{}", runs.len());
        let expected = (0..).map(|run| Allocation { length: SECTOR_BYTES, hole: run % 2 == 1, zero: run % 2 == 1 });
        assert!(runs.iter().copied().eq(expected.take(runs.len())));
    }
}
