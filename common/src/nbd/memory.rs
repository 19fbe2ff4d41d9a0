//! An export in memory, for tests, examples and measuring the front end alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Allocation, Export, ExportInfo, Exports, IoError, IoFuture, OpenError, ZeroMode};

/// Granularity of what is allocated.
const BLOCK: usize = 4096;

/// Volatile bytes: a flush has nothing to do.
#[derive(Debug)]
pub struct MemoryExport {
    read_only: bool,
    bytes: RwLock<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    bytes: Vec<u8>,
    /// For each block, whether it was written since it was last discarded.
    allocated: Vec<bool>,
}

impl MemoryExport {
    /// Zeroes.
    #[must_use]
    pub fn new(size: usize, read_only: bool) -> Self {
        let bytes = Bytes { bytes: vec![0; size], allocated: vec![false; size.div_ceil(BLOCK)] };
        Self { read_only, bytes: RwLock::new(bytes) }
    }

    /// Changes the size while it is open.
    pub fn resize(&self, size: usize) {
        let mut bytes = self.bytes.write();
        bytes.bytes.resize(size, 0);
        bytes.allocated.resize(size.div_ceil(BLOCK), false);
    }
}

impl Bytes {
    /// The range, or what is wrong with it: the front end asks for nothing outside, unless the size has changed meanwhile.
    fn range(&mut self, offset: u64, length: usize) -> Result<&mut [u8], IoError> {
        let start = usize::try_from(offset).map_err(|_| IoError::Invalid)?;
        let end = start.checked_add(length).ok_or(IoError::Invalid)?;
        self.bytes.get_mut(start..end).ok_or(IoError::Invalid)
    }

    fn mark(&mut self, offset: u64, length: usize, allocated: bool) -> Result<(), IoError> {
        let start = usize::try_from(offset).map_err(|_| IoError::Invalid)?;
        let end = start + length;
        // Discarding a part of a block leaves the block.
        let blocks = if allocated { start / BLOCK..end.div_ceil(BLOCK) } else { start.div_ceil(BLOCK)..end / BLOCK };
        if let Some(blocks) = self.allocated.get_mut(blocks) {
            blocks.fill(allocated);
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, allocated: bool) -> Result<(), IoError> {
        let length = usize::try_from(length).map_err(|_| IoError::Invalid)?;
        self.range(offset, length)?.fill(0);
        self.mark(offset, length, allocated)
    }

    fn runs(&self, offset: u64, length: u64) -> Result<Vec<Allocation>, IoError> {
        let end = offset.checked_add(length).ok_or(IoError::Invalid)?;
        let mut at = offset;
        let mut runs = Vec::new();
        while at < end {
            let block = at / BLOCK as u64;
            let next = (block + 1).saturating_mul(BLOCK as u64).min(end);
            let index = usize::try_from(block).map_err(|_| IoError::Invalid)?;
            let hole = !self.allocated.get(index).ok_or(IoError::Invalid)?;
            runs.push(Allocation { length: next - at, hole, zero: hole });
            at = next;
        }
        Ok(runs)
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, IoError>) -> IoFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Export for MemoryExport {
    fn info(&self) -> ExportInfo {
        let size = self.bytes.read().bytes.len() as u64;
        ExportInfo { size, read_only: self.read_only, gives_back: true, description: "memory".into() }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        let bytes = self.bytes.read();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = bytes.bytes.get(start..start.saturating_add(buffer.len()));
        ready(found.map(|found| buffer.copy_from_slice(found)).ok_or(IoError::Invalid))
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], _fua: bool) -> IoFuture<'a, ()> {
        let mut bytes = self.bytes.write();
        let written = bytes.range(offset, data.len()).map(|range| range.copy_from_slice(data));
        ready(written.and_then(|()| bytes.mark(offset, data.len(), true)))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        ready(Ok(()))
    }

    fn trim(&self, offset: u64, length: u64, _fua: bool) -> IoFuture<'_, ()> {
        ready(self.bytes.write().zero(offset, length, false))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        ready(self.bytes.write().zero(offset, length, mode.no_hole))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        ready(self.bytes.read().runs(offset, length))
    }
}

/// A fixed set of exports.
#[derive(Default, Clone)]
pub struct FixedExports(pub BTreeMap<String, Arc<dyn Export>>);

impl FixedExports {
    /// With one more.
    #[must_use]
    pub fn with(mut self, name: &str, export: Arc<dyn Export>) -> Self {
        self.0.insert(name.into(), export);
        self
    }
}

impl Exports for FixedExports {
    fn list(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.0.get(name).cloned().ok_or_else(|| OpenError::Unknown { name: name.into() })
    }
}
