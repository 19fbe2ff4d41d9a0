//! The catalogue's records over a database: sealed values in, verified payloads out.

use std::path::{Path, PathBuf};

use super::batch::Change;
use super::error::printable;
use super::schema::{Key, KeyRange, Table};
use super::{CatalogError, envelope};
use crate::workers;

/// Told each key and value of a scan; `Ok(false)`: enough.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, CatalogError>;

/// What the catalogue needs of a database.
pub(super) trait Database: Send + Sync {
    /// Applies all changes or none; they are durable when this returns without an error. After an error they may be
    /// found, all or none, when the catalogue is opened again.
    fn write(&self, changes: &[Change]) -> Result<(), CatalogError>;
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogError>;
    /// Visits keys from `start` to before `end` in their order, or against it.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, reverse: bool, visit: Visit<'_>) -> Result<(), CatalogError>;
}

/// An open database and where it lies.
pub(super) struct Store {
    database: Box<dyn Database>,
    path: PathBuf,
}

impl Store {
    pub(super) fn new(database: impl Database + 'static, path: PathBuf) -> Self {
        Self { database: Box::new(database), path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// See [`Database::write`].
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), CatalogError> {
        workers::wait(|| self.database.write(changes))
    }

    /// The verified payload under a key, given to `read`, which says nothing when it makes no sense.
    pub(super) fn get<T>(&self, key: &Key, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, CatalogError> {
        let found = workers::wait(|| self.database.get(key.bytes()))?;
        found.map(|sealed| self.open_record(key.table(), key.bytes(), &sealed, read)).transpose()
    }

    /// Verified payloads of a range in the order of their keys (or against it), each given to `read`, at most `limit`.
    pub(super) fn scan<T>(
        &self,
        table: Table,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, CatalogError> {
        let mut records = Vec::new();
        workers::wait(|| {
            self.database.scan(&range.start, Some(&range.end), reverse, &mut |key, sealed| {
                if records.len() < limit {
                    records.push(self.open_record(table, key, sealed, &read)?);
                }
                Ok(records.len() < limit)
            })
        })?;
        Ok(records)
    }

    /// Whether there is no record at all.
    pub(super) fn is_empty(&self) -> Result<bool, CatalogError> {
        Ok(self.first_key(&[], None)?.is_none())
    }

    /// Refuses keys that are in no table: no build of this format writes such.
    pub(super) fn refuse_foreign_keys(&self) -> Result<(), CatalogError> {
        let mut from = Vec::new();
        for table in Table::ALL {
            let range = table.range();
            self.refuse_keys(&from, Some(&range.start))?;
            from = range.end;
        }
        self.refuse_keys(&from, None)
    }

    fn refuse_keys(&self, start: &[u8], end: Option<&[u8]>) -> Result<(), CatalogError> {
        self.first_key(start, end)?.map_or(Ok(()), |key| Err(self.foreign(&key)))
    }

    fn first_key(&self, start: &[u8], end: Option<&[u8]>) -> Result<Option<Vec<u8>>, CatalogError> {
        let mut first = None;
        self.database.scan(start, end, false, &mut |key, _| {
            first = Some(key.to_vec());
            Ok(false)
        })?;
        Ok(first)
    }

    fn foreign(&self, key: &[u8]) -> CatalogError {
        CatalogError::Damaged {
            path: self.path.clone(),
            key: printable(key),
            what: "no record has such a key",
            remedy: "restore the catalogue from a backup, and let nothing but tidemark write there",
        }
    }

    fn open_record<T>(
        &self,
        table: Table,
        key: &[u8],
        sealed: &[u8],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, CatalogError> {
        envelope::open(table.kind(), key, sealed)
            .and_then(|payload| read(payload).ok_or("its content makes no sense"))
            .map_err(|what| CatalogError::damaged(&self.path, table, key, what))
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> &dyn Database {
        &*self.database
    }
}
