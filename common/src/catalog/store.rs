//! RocksDB as the catalogue uses it: sealed values in, verified payloads out, every write synced.
//!
//! It owns the database. Small by configuration: a catalogue is some thousand small records and a few bitmaps, and an
//! appliance has better use for its memory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use super::error::printable;
use super::schema::{Key, KeyRange, Table};
use super::{CatalogError, envelope};

const WRITE_BUFFER_BYTES: usize = 1 << 20;
const BLOCK_CACHE_BYTES: usize = 512 << 10;
const WAL_BYTES_MAX: u64 = 8 << 20;
const OPEN_FILES_MAX: i32 = 32;
const INFO_LOG_BYTES: usize = 256 << 10;

/// An open database.
pub(super) struct Store {
    database: DB,
    path: PathBuf,
}

/// How the catalogue's database is set up.
pub(super) fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(1);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_manifest_preallocation_size(64 << 10);
    // A record cut short at the end of the log was never answered and is dropped. Anything else wrong with the log may
    // hide answered changes behind it: the default would drop them silently, this refuses to open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

impl Store {
    /// Opens the database at `path`, makes it when nothing is there.
    pub(super) fn open(path: PathBuf, options: &Options) -> Result<Self, CatalogError> {
        make_directory(&path).map_err(|error| io_error("make", &path, &error))?;
        if has_lost_its_root(&path).map_err(|error| io_error("open", &path, &error))? {
            return Err(CatalogError::FilesDamaged {
                action: "open",
                path,
                reason: "there are tables or logs, and the file CURRENT is missing".into(),
            });
        }
        let database = DB::open(options, &path).map_err(|error| CatalogError::rocksdb("open", &path, &error))?;
        Ok(Self { database, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Applies all changes or none; they are durable when this returns without an error. After an error they may be
    /// found, all or none, when the catalogue is opened again.
    pub(super) fn write(&self, changes: WriteBatch) -> Result<(), CatalogError> {
        let mut durably = WriteOptions::default();
        durably.set_sync(true);
        self.database.write_opt(changes, &durably).map_err(|error| CatalogError::rocksdb("write", &self.path, &error))
    }

    /// The verified payload under a key, given to `read`, which says nothing when it makes no sense.
    pub(super) fn get<T>(&self, key: &Key, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, CatalogError> {
        let found = self.database.get_pinned(key.bytes());
        match found.map_err(|error| CatalogError::rocksdb("read", &self.path, &error))? {
            Some(sealed) => self.open_record(key.table(), key.bytes(), &sealed, read).map(Some),
            None => Ok(None),
        }
    }

    /// Verified payloads of a range in the order of their keys (or against it), each given to `read`, at most `limit`.
    pub(super) fn scan<T>(
        &self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, CatalogError> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(range.start.clone());
        bounds.set_iterate_upper_bound(range.end.clone());
        let mode = match direction {
            Direction::Forward => IteratorMode::Start,
            Direction::Reverse => IteratorMode::End,
        };
        let mut records = Vec::new();
        for found in self.database.iterator_opt(mode, bounds).take(limit) {
            let (key, sealed) = found.map_err(|error| CatalogError::rocksdb("read", &self.path, &error))?;
            records.push(self.open_record(table, &key, &sealed, &read)?);
        }
        Ok(records)
    }

    /// Whether there is no record at all.
    pub(super) fn is_empty(&self) -> Result<bool, CatalogError> {
        match self.database.iterator(IteratorMode::Start).next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(CatalogError::rocksdb("read", &self.path, &error)),
        }
    }

    /// Refuses keys that are in no table: no build of this format writes such.
    pub(super) fn refuse_foreign_keys(&self) -> Result<(), CatalogError> {
        let mut cursor = self.database.raw_iterator();
        let mut from = Vec::new();
        for table in Table::ALL {
            let range = table.range();
            cursor.seek(&from);
            if let Some(key) = cursor.key().filter(|key| *key < range.start.as_slice()) {
                return Err(self.foreign(key));
            }
            from = range.end;
        }
        cursor.seek(&from);
        if let Some(key) = cursor.key() {
            return Err(self.foreign(key));
        }
        cursor.status().map_err(|error| CatalogError::rocksdb("read", &self.path, &error))
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
    pub(super) const fn database(&self) -> &DB {
        &self.database
    }
}

/// Makes the directory, so that it is there after power loss: RocksDB syncs what is in it, not its name.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether there are tables or logs and the file that leads to them is gone. RocksDB would take this for a new database
/// and delete them.
fn has_lost_its_root(path: &Path) -> io::Result<bool> {
    if path.join("CURRENT").try_exists()? {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        if matches!(Path::new(&entry?.file_name()).extension().and_then(|e| e.to_str()), Some("sst" | "log")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn io_error(action: &'static str, path: &Path, error: &io::Error) -> CatalogError {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CatalogError::NoSpace { action, path, reason },
        _ => CatalogError::Failed { action, path, reason },
    }
}
