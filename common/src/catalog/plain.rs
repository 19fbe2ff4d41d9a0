//! The catalogue in one file over the disk seam: what a simulated appliance keeps its records in, so that the faults of its
//! disk meet the catalogue too. Same promise as RocksDB: a batch that was answered survives a loss of power, all of it; one
//! that was not is found whole or not at all.
//!
//! ```text
//! | length | check | number of the batch, changes |  next batch ...
//! ```
//!
//! Every batch is appended and synced alone, so at most the last one is torn; the check covers its number too. It only
//! grows: for runs that end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::CatalogError;
use super::batch::Change;
use super::store::{Database, Visit};
use crate::record::crc32c;
use crate::storage::{Disk, DiskFile, Open};

const HEAD_BYTES: usize = 8;

/// An open catalogue file.
pub(super) struct Plain {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    batches: u64,
    end: u64,
}

impl Plain {
    /// Opens the file, makes it when it is not there.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, CatalogError> {
        let failed = |error: std::io::Error| CatalogError::io("open", path, &error);
        let file = disk.open(path, Open::ExistingOrNew).map_err(failed)?;
        disk.sync_folder(path.parent().unwrap_or(Path::new(""))).map_err(failed)?;
        let mut bytes = vec![0; usize::try_from(file.size().map_err(failed)?).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let mut state = State::default();
        while let Some(batch) = state.next_batch(&bytes) {
            state.end += (HEAD_BYTES + batch.len()) as u64;
            state.apply(decode(batch));
        }
        // A kill leaves what was written and not yet synced, perhaps because a sync failed: from here on it counts, so it is
        // written once more. What was not written again after such a sync would read well and be gone after a loss of power.
        let held = bytes.get(..usize::try_from(state.end).unwrap_or(usize::MAX)).unwrap_or_default();
        file.write_all_at(held, 0).and_then(|()| file.sync()).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), state: Mutex::new(state) })
    }
}

impl State {
    fn next_batch<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let rest = bytes.get(usize::try_from(self.end).ok()?..)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        let batch = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let number = batch.first_chunk::<8>()?;
        let whole = crc32c(batch) == u32::from_le_bytes(*check) && u64::from_le_bytes(*number) == self.batches;
        whole.then_some(batch)
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.batches += 1;
        for change in changes {
            match change {
                Change::Put(key, value) => drop(self.records.insert(key, value)),
                Change::Delete(key) => drop(self.records.remove(&key)),
                Change::DeleteRange(start, end) => self.records.retain(|key, _| *key < start || *key >= end),
            }
        }
    }
}

impl Database for Plain {
    fn write(&self, changes: &[Change]) -> Result<(), CatalogError> {
        let mut state = self.state.lock();
        let batch = encode(state.batches, changes);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + batch.len());
        bytes.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&batch).to_le_bytes());
        bytes.extend_from_slice(&batch);
        let written = self.file.write_all_at(&bytes, state.end).and_then(|()| self.file.sync());
        written.map_err(|error| CatalogError::io("write", &self.path, &error))?;
        state.end += bytes.len() as u64;
        state.apply(changes.to_vec());
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.state.lock().records.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, reverse: bool, visit: Visit<'_>) -> Result<(), CatalogError> {
        let state = self.state.lock();
        let inside = |key: &&Vec<u8>| end.is_none_or(|end| key.as_slice() < end);
        let mut keys: Vec<_> = state.records.range(start.to_vec()..).map(|(key, _)| key).take_while(inside).collect();
        if reverse {
            keys.reverse();
        }
        for key in keys {
            if let Some(value) = state.records.get(key)
                && !visit(key, value)?
            {
                break;
            }
        }
        Ok(())
    }
}

fn encode(number: u64, changes: &[Change]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    for change in changes {
        let (kind, first, second): (u8, &[u8], &[u8]) = match change {
            Change::Put(key, value) => (0, key, value),
            Change::Delete(key) => (1, key, &[]),
            Change::DeleteRange(start, end) => (2, start, end),
        };
        bytes.push(kind);
        for part in [first, second] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// The changes of a batch whose check was right.
fn decode(batch: &[u8]) -> Vec<Change> {
    let mut rest = batch.get(8..).unwrap_or_default();
    let mut changes = Vec::new();
    while let Some((change, behind)) = decode_change(rest) {
        changes.push(change);
        rest = behind;
    }
    changes
}

fn decode_change(bytes: &[u8]) -> Option<(Change, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let part = |bytes: &'_ [u8]| -> Option<(Vec<u8>, usize)> {
        let length = usize::try_from(u32::from_le_bytes(*bytes.first_chunk::<4>()?)).ok()?;
        Some((bytes.get(4..4 + length)?.to_vec(), 4 + length))
    };
    let (first, used) = part(rest)?;
    let rest = rest.get(used..)?;
    let (second, used) = part(rest)?;
    let change = match kind {
        0 => Change::Put(first, second),
        1 => Change::Delete(first),
        _ => Change::DeleteRange(first, second),
    };
    Some((change, rest.get(used..)?))
}
