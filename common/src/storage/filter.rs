//! What tests put before a disk: a filter hears of calls before the disk does, and may have them wait or fail. The disk does all else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Claim, Disk, DiskFile, Open};

/// What hears of the calls to a disk, or to a file.
///
/// # Errors
/// Any of these is the answer to the call; the disk does not hear of it then.
pub trait Filter: Send + Sync + 'static {
    /// A file is opened, and made where that is asked for and it is not there.
    fn before_open(&self, _path: &Path, _how: Open) -> io::Result<()> {
        Ok(())
    }
    /// A folder is made, with those above it.
    fn before_create_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }
    /// The names in a folder are asked for.
    fn before_list(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }
    /// A file is renamed.
    fn before_rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }
    /// A file is removed.
    fn before_remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// The names in a folder are made durable.
    fn before_sync_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }
    /// So many bytes are read by [`DiskFile::read_exact_at`].
    fn before_read(&self, _bytes: usize) -> io::Result<()> {
        Ok(())
    }
    /// Something is written, in any of the ways.
    fn before_write(&self) -> io::Result<()> {
        Ok(())
    }
    /// What was written to a file is made durable.
    fn before_sync(&self) -> io::Result<()> {
        Ok(())
    }
    /// A file becomes as large as this.
    fn before_grow(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }
    /// So many bytes are zeroed.
    fn before_zero(&self, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

/// This disk, and each file that is opened on it, behind a filter.
#[must_use]
pub fn disk(over: Arc<dyn Disk>, filter: &Arc<impl Filter>) -> Arc<dyn Disk> {
    Arc::new(Filtered { over, filter: Arc::clone(filter) as Arc<dyn Filter> })
}

/// This file behind a filter.
#[must_use]
pub fn file(over: Arc<dyn DiskFile>, filter: &Arc<impl Filter>) -> Arc<dyn DiskFile> {
    Arc::new(Filtered { over, filter: Arc::clone(filter) as Arc<dyn Filter> })
}

struct Filtered<T: ?Sized> {
    over: Arc<T>,
    filter: Arc<dyn Filter>,
}

impl Disk for Filtered<dyn Disk> {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.filter.before_open(path, how)?;
        let over = self.over.open(path, how)?;
        Ok(Arc::new(Filtered { over, filter: Arc::clone(&self.filter) }))
    }

    fn claim(&self, path: &Path) -> io::Result<Claim> {
        self.over.claim(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.filter.before_list(folder)?;
        self.over.list(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.filter.before_rename(from, to)?;
        self.over.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.filter.before_remove(path)?;
        self.over.remove(path)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.filter.before_create_folder(folder)?;
        self.over.create_folder(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.filter.before_sync_folder(folder)?;
        self.over.sync_folder(folder)
    }
}

impl DiskFile for Filtered<dyn DiskFile> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.filter.before_read(buffer.len())?;
        self.over.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.over.read_cached_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.filter.before_write()?;
        self.over.write_all_at(data, offset)
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        self.filter.before_write()?;
        self.over.write_direct_at(data, offset)
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.filter.before_write()?;
        self.over.write_parts_at(parts, offset)
    }

    fn write_direct_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<bool> {
        self.filter.before_write()?;
        self.over.write_direct_parts_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.filter.before_sync()?;
        self.over.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.over.size()
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.filter.before_grow(size)?;
        self.over.grow(size)
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        self.filter.before_zero(length)?;
        self.over.zero(offset, length, hole)
    }

    fn gives_back(&self) -> bool {
        self.over.gives_back()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.over.next_data(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryDisk;

    /// Says no to everything it hears of.
    struct Closed;

    fn refused<T>() -> io::Result<T> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    impl Filter for Closed {
        fn before_open(&self, _: &Path, how: Open) -> io::Result<()> {
            if how == Open::Existing { Ok(()) } else { refused() }
        }

        fn before_create_folder(&self, _: &Path) -> io::Result<()> {
            refused()
        }

        fn before_list(&self, _: &Path) -> io::Result<()> {
            refused()
        }

        fn before_rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            refused()
        }

        fn before_remove(&self, _: &Path) -> io::Result<()> {
            refused()
        }

        fn before_sync_folder(&self, _: &Path) -> io::Result<()> {
            refused()
        }

        fn before_read(&self, _: usize) -> io::Result<()> {
            refused()
        }

        fn before_write(&self) -> io::Result<()> {
            refused()
        }

        fn before_sync(&self) -> io::Result<()> {
            refused()
        }

        fn before_grow(&self, _: u64) -> io::Result<()> {
            refused()
        }

        fn before_zero(&self, _: u64) -> io::Result<()> {
            refused()
        }
    }

    #[test]
    fn what_a_filter_refuses_does_not_reach_the_disk() {
        let memory = MemoryDisk::new();
        let (name, folder) = (Path::new("f"), Path::new(""));
        memory.open(name, Open::New).unwrap().write_all_at(b"as it was", 0).unwrap();
        let (content, effects) = (memory.everything(), memory.effects());
        let disk = disk(Arc::new(memory.clone()), &Arc::new(Closed));
        let file = disk.open(name, Open::Existing).unwrap();
        let names = [disk.list(folder).map(drop), disk.rename(name, Path::new("g")), disk.remove(name)];
        let writes = [file.write_all_at(b"other", 0), file.write_parts_at(&[b"other"], 0), file.zero(0, 1, false)];
        let direct = [file.write_direct_at(&[], 0), file.write_direct_parts_at(&[], 0)].map(|done| done.map(drop));
        let others = [file.read_exact_at(&mut [0; 1], 0), file.sync(), disk.sync_folder(folder)];
        let made = [disk.open(Path::new("g"), Open::New).map(drop), disk.create_folder(Path::new("h")), file.grow(100)];
        let mut all = names.into_iter().chain(writes).chain(direct).chain(others).chain(made);
        assert!(all.all(|done| done.unwrap_err().kind() == io::ErrorKind::PermissionDenied));
        assert_eq!((memory.everything(), memory.effects()), (content, effects));
    }
}
