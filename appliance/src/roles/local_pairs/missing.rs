//! A target whose backing cannot be opened: its pair goes on marking what differs, and every use of the file is the same error.

use std::io;

use tidemark_common::storage::DiskFile;

/// Stands for a file that is not there.
#[derive(Debug)]
pub(super) struct Missing(pub(super) String);

impl Missing {
    fn answer<T>(&self) -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::NotFound, self.0.clone()))
    }
}

impl DiskFile for Missing {
    fn read_exact_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<()> {
        self.answer()
    }

    fn read_cached_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        self.answer()
    }

    fn write_all_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        self.answer()
    }

    fn write_direct_at(&self, _data: &[u8], _offset: u64) -> io::Result<bool> {
        self.answer()
    }

    fn sync(&self) -> io::Result<()> {
        self.answer()
    }

    fn size(&self) -> io::Result<u64> {
        self.answer()
    }

    fn grow(&self, _size: u64) -> io::Result<()> {
        self.answer()
    }

    fn zero(&self, _offset: u64, _length: u64, _hole: bool) -> io::Result<()> {
        self.answer()
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.answer()
    }
}
