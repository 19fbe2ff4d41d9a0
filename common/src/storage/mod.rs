//! The disk seam: every file the product reads or writes goes through these two traits, so that simulation can put a
//! faulty disk under the engines. Volumes, journal segments and the ring's file are [`DiskFile`]s; RocksDB is not.

pub mod aligned;
pub mod disk;
pub mod filter;
pub mod memory;
pub mod pool;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It must be there.
    Existing,
    /// It must not be there.
    New,
    /// Either.
    ExistingOrNew,
}

/// Whether space is all that is missing.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Every other user of a file or device is kept out until this is dropped. It ends with the process, however that ends.
#[derive(Debug, Default)]
pub struct Claim {
    _held: Option<File>,
}

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Opens for reading and writing.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Keeps other users of a file or device out. It can be opened as often as is wanted meanwhile. Nobody else is there on a
    /// simulated disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] when somebody has claimed it before, this process too; else as the system says.
    fn claim(&self, _path: &Path) -> io::Result<Claim> {
        Ok(Claim::default())
    }
    /// Names in a folder, sorted.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Renames and makes the new name durable.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it, durably.
    ///
    /// # Errors
    /// As the system says.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// A file or block device.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills the buffer; the file ending early is an error.
    ///
    /// # Errors
    /// As the system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer only if that needs no waiting for the disk; `false` when it would.
    ///
    /// # Errors
    /// As the system says.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Fills whole blocks past the page cache, into memory that begins at a block's border ([`aligned`]). `Ok(false)`: these are no
    /// whole blocks, or the file takes no such reads; [`Self::read_exact_at`] does it.
    ///
    /// # Errors
    /// As the system says; what is in the buffer is unspecified then.
    fn read_direct_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Writes all of it.
    ///
    /// # Errors
    /// As the system says.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Writes whole blocks past the page cache, out of memory that begins at a block's border ([`aligned`]). `Ok(false)`: these
    /// are no whole blocks, or the file takes no such writes; [`Self::write_all_at`] does it. Readers see what is written,
    /// and [`Self::sync`] makes it durable as any other write.
    ///
    /// # Errors
    /// As the system says; part of it may be written.
    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool>;
    /// Writes parts one behind the other, as [`Self::write_all_at`] writes what they are together.
    ///
    /// # Errors
    /// As the system says; part of it may be written.
    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_all_at(&parts.concat(), offset)
    }
    /// Writes parts one behind the other, as [`Self::write_direct_at`] writes what they are together; each part is whole blocks.
    ///
    /// # Errors
    /// As the system says; part of it may be written.
    fn write_direct_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<bool> {
        if !parts.iter().all(|part| aligned::is_whole_blocks(part, offset)) {
            return Ok(false);
        }
        let mut whole = aligned::AlignedBuffer::default();
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        self.write_direct_at(whole.as_slice(), offset)
    }
    /// Makes what was written durable.
    ///
    /// # Errors
    /// As the system says. After an error nothing can be said of what was written since the last success.
    fn sync(&self) -> io::Result<()>;
    /// Bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size(&self) -> io::Result<u64>;
    /// Grows a file; a device must be as large already.
    ///
    /// # Errors
    /// As the system says.
    fn grow(&self, size: u64) -> io::Result<()>;
    /// Makes a range read as zeroes; with `hole` its space is given back where that can be done.
    ///
    /// # Errors
    /// As the system says.
    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()>;
    /// Whether that can be done without writing the range.
    fn gives_back(&self) -> bool {
        true
    }
    /// The first run of data at or after the offset, as (begin, end); `None` when only a hole follows.
    ///
    /// # Errors
    /// As the system says.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>>;
}
