//! The machine's own disks, by plain positioned system calls.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Disk, DiskFile, Open};

/// Zeroes written at once where a range cannot be zeroed otherwise.
static ZEROES: [u8; 128 << 10] = [0; 128 << 10];

/// The machine's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

/// An open file or device.
#[derive(Debug)]
struct SystemFile {
    file: File,
    device: bool,
}

impl Disk for SystemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.read(true).write(true);
        match how {
            Open::Existing => {}
            Open::New => {
                options.create_new(true);
            }
            Open::ExistingOrNew => {
                options.create(true);
            }
        }
        let file = options.open(path)?;
        let device = file.metadata()?.file_type().is_block_device();
        Ok(Arc::new(SystemFile { file, device }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        to.parent().map_or(Ok(()), |folder| self.sync_folder(folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let is_missing = |above: &&Path| *above != Path::new("") && !above.exists();
        let missing: Vec<&Path> = folder.ancestors().skip(1).take_while(is_missing).collect();
        std::fs::create_dir_all(folder)?;
        // The folder itself may be there and not yet be durable: whoever made it was killed.
        let made = [folder].into_iter().chain(missing);
        made.filter_map(Path::parent)
            .try_for_each(|above| self.sync_folder(if above == Path::new("") { Path::new(".") } else { above }))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl DiskFile for SystemFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let length = buffer.len();
        let mut into = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut into, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == length),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        // A device's metadata says 0; its end does not.
        if self.device { Ok(seek(&self.file, SeekFrom::End(0))?) } else { Ok(self.file.metadata()?.len()) }
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let now = self.size()?;
        if size <= now {
            return Ok(());
        }
        if self.device {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the device has {now} bytes only")));
        }
        self.file.set_len(size)
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        let flags =
            if hole { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE } | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => self.write_zeroes(offset, length),
            result => Ok(result?),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let end = self.size()?;
        if offset >= end {
            return Ok(None);
        }
        let begin = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(None),
            // Devices and some file systems cannot tell: all of it may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, end))),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((begin, seek(&self.file, SeekFrom::Hole(begin))?)))
    }
}

impl SystemFile {
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROES.len());
            self.file.write_all_at(ZEROES.get(..step).unwrap_or(&ZEROES), at)?;
            at += step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        SystemDisk.create_folder(&deep).unwrap();
        SystemDisk.create_folder(&deep).unwrap();
        assert_eq!(SystemDisk.list(&deep).unwrap(), Vec::<String>::new());
        SystemDisk.create_folder(Path::new(".")).unwrap();
        SystemDisk.create_folder(Path::new("src")).unwrap();
        SystemDisk.create_folder(Path::new("/")).unwrap();
    }

    #[test]
    fn zeroes_and_holes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&folder.path().join("f"), Open::New).unwrap();
        file.grow(1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 65536).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some((65536, 73728)));
        file.zero(65536, 4096, true).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some((69632, 73728)));
        file.zero(69632, 4096, false).unwrap();
        let mut read = [9; 8192];
        file.read_exact_at(&mut read, 65536).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        assert_eq!(file.next_data(80000).unwrap(), None);
        assert!(file.read_exact_at(&mut read, (1 << 20) - 4096).is_err());
    }
}
