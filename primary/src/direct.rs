//! A volume in no group: requests go straight to its file, because there is no sequence to keep.

use std::io;
use std::sync::Arc;

use tidemark_common::nbd::{Allocation, Bounds, DiskThreads, Export, ExportInfo, IoError, IoFuture, ZeroMode};
use tidemark_common::t0::export::disk_answer;
use tidemark_common::volumes::VolumeFile;

/// One volume in no group, as hosts see it.
#[derive(Debug)]
pub struct DirectVolume {
    volume: Arc<VolumeFile>,
    threads: DiskThreads,
}

impl DirectVolume {
    /// A volume over its file.
    #[must_use]
    pub fn new(volume: Arc<VolumeFile>) -> Self {
        Self { volume, threads: DiskThreads::default() }
    }

    /// Runs on a thread that may wait for disks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&VolumeFile) -> io::Result<T> + Send + 'static,
    ) -> Result<T, IoError> {
        let volume = Arc::clone(&self.volume);
        match self.threads.run(move || (work(&volume), volume)).await? {
            (Ok(value), _) => Ok(value),
            (Err(error), volume) => {
                tracing::error!(volume = %volume.name, %error, "a request failed");
                Err(io_error(&error))
            }
        }
    }

    async fn change(
        &self,
        fua: bool,
        work: impl FnOnce(&VolumeFile) -> io::Result<()> + Send + 'static,
    ) -> Result<(), IoError> {
        self.blocking(move |volume| {
            volume.change(work)?;
            if fua { volume.sync() } else { Ok(()) }
        })
        .await
    }
}

fn io_error(error: &io::Error) -> IoError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => IoError::NotPermitted,
        _ => disk_answer(error),
    }
}

impl Export for DirectVolume {
    fn info(&self) -> ExportInfo {
        let description = format!("Tidemark volume {} (in no group: not replicated)", self.volume.name);
        ExportInfo { size: self.volume.size(), read_only: false, gives_back: self.volume.gives_back, description }
    }

    fn bounds(&self) -> Bounds {
        Bounds { size: self.volume.size(), read_only: false }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            if self.volume.file.read_cached_at(buffer, offset).map_err(|error| io_error(&error))? {
                return Ok(());
            }
            let length = buffer.len();
            let bytes = self
                .blocking(move |volume| {
                    let mut bytes = vec![0; length];
                    volume.file.read_exact_at(&mut bytes, offset).map(|()| bytes)
                })
                .await?;
            buffer.copy_from_slice(&bytes);
            Ok(())
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()> {
        let data = data.to_vec();
        Box::pin(self.change(fua, move |volume| volume.file.write_all_at(&data, offset)))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(self.blocking(VolumeFile::sync))
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        Box::pin(self.change(fua, move |volume| volume.file.zero(offset, length, true)))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        Box::pin(self.change(mode.fua, move |volume| volume.file.zero(offset, length, !mode.no_hole)))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(self.blocking(move |volume| {
            let end = offset + length;
            let (begin, data_end) = volume.file.next_data(offset)?.unwrap_or((end, end));
            let (begin, data_end) = (begin.clamp(offset, end), data_end.clamp(offset, end));
            let run = |length, zero| Allocation { length, hole: zero, zero };
            let runs = [run(begin - offset, true), run(data_end - begin, false)];
            Ok(runs.into_iter().filter(|run| run.length > 0).collect())
        }))
    }
}
