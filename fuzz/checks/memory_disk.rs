//! Files in memory, so that a journal can be damaged and opened thousands of times a second.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tidemark_common::storage::{Disk, DiskFile, Open};

/// All files, by path. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>>);

#[derive(Default)]
pub struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryDisk {
    /// With these files.
    pub fn with(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::default();
        for (path, bytes) in files {
            disk.0.lock().unwrap().insert(path.clone(), Arc::new(MemoryFile(Mutex::new(bytes.clone()))));
        }
        disk
    }

    /// All files as they are now.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.0.lock().unwrap();
        files.iter().map(|(path, file)| (path.clone(), file.0.lock().unwrap().clone())).collect()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock().unwrap();
        let file = match (files.get(path).cloned(), how) {
            (Some(_), Open::New) => return Err(ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(ErrorKind::NotFound.into()),
            (Some(file), _) => file,
            (None, _) => Arc::default(),
        };
        files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let files = self.0.lock().unwrap();
        let inside = files.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.lock().unwrap().remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn create_folder(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.0.lock().unwrap();
        let begin = usize::try_from(offset).map_err(Error::other)?;
        let found = begin.checked_add(buffer.len()).and_then(|end| bytes.get(begin..end));
        buffer.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> Result<bool> {
        self.read_exact_at(buffer, offset).map(|()| true)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let begin = usize::try_from(offset).map_err(Error::other)?;
        let end = begin.checked_add(data.len()).ok_or(ErrorKind::FileTooLarge)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[begin..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(size).map_err(Error::other)?, 0);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, _hole: bool) -> Result<()> {
        let length = usize::try_from(length).map_err(Error::other)?;
        self.write_all_at(&vec![0; length], offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let size = self.size()?;
        Ok((offset < size).then_some((offset, size)))
    }
}
