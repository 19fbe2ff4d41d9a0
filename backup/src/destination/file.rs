//! A file: written beside its name, synced, and then named.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::part;

/// Bytes written before the kernel is asked to begin writing them out: a sync at the end finds little left to do.
const FLUSH_BYTES: u64 = 64 << 20;

/// A file that gets its name when it is complete.
#[derive(Debug)]
pub struct NamedLater {
    file: Option<File>,
    path: PathBuf,
    unsynced: u64,
}

impl NamedLater {
    /// Begins it. What lies under its interim name is an earlier try, and goes.
    ///
    /// # Errors
    /// As the system says, with the path.
    pub fn create(path: &Path) -> io::Result<Self> {
        let interim = part(path);
        let file = File::create(&interim)
            .map_err(|error| io::Error::new(error.kind(), format!("create {}: {error}", interim.display())))?;
        Ok(Self { file: Some(file), path: path.to_owned(), unsynced: 0 })
    }

    fn named(&self) -> io::Result<()> {
        let interim = part(&self.path);
        // Whoever made a file of that name meanwhile keeps it.
        std::fs::hard_link(&interim, &self.path)?;
        std::fs::remove_file(&interim)?;
        sync_folder(&self.path)
    }
}

/// Makes the name of a path durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

impl Write for NamedLater {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Err(io::Error::other("the file is complete")) };
        let written = file.write(bytes)?;
        self.unsynced += written as u64;
        if self.unsynced >= FLUSH_BYTES {
            file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    /// The archive is complete.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_all()?;
            return self.named();
        }
        Ok(())
    }
}
