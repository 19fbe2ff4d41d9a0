//! RocksDB as the catalogue uses it: every write synced. It owns the database. Small by configuration: a catalogue is some
//! thousand small records and a few bitmaps, and an appliance has better use for its memory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, IteratorMode, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use rustix::fs::statvfs;

use super::CatalogError;
use super::batch::Change;
use super::store::{Database, Visit};

const WRITE_BUFFER_BYTES: usize = 1 << 20;
const BLOCK_CACHE_BYTES: usize = 512 << 10;
const WAL_BYTES_MAX: u64 = 8 << 20;
const OPEN_FILES_MAX: i32 = 32;
/// A flush and a small compaction need about this much.
const FREE_BYTES_MIN: u64 = 8 * WRITE_BUFFER_BYTES as u64;
/// A stall may take ten seconds: a bitmap of tens of MiB on a busy disk.
const STALL_CHECKS: usize = 1000;
const STALL_CHECK_EVERY: Duration = Duration::from_millis(10);
const INFO_LOG_BYTES: usize = 256 << 10;
/// What names the tables is written anew, short, when it is longer than this. By default at 1 GiB: the start after some months would read all of
/// that before it serves anybody.
const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// An open database.
pub(super) struct Rocks {
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
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    // A record cut short at the end of the log was never answered and is dropped. Anything else wrong with the log may
    // hide answered changes behind it: the default would drop them silently, this refuses to open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

impl Rocks {
    /// Opens the database at `path`, makes it when nothing is there.
    pub(super) fn open(path: PathBuf, options: &Options) -> Result<Self, CatalogError> {
        make_directory(&path).map_err(|error| CatalogError::io("make", &path, &error))?;
        if has_lost_its_root(&path).map_err(|error| CatalogError::io("open", &path, &error))? {
            return Err(CatalogError::FilesDamaged {
                action: "open",
                path,
                reason: "there are tables or logs, and the file CURRENT is missing".into(),
            });
        }
        let database = DB::open(options, &path).map_err(|error| CatalogError::rocksdb("open", &path, &error))?;
        Ok(Self { database, path })
    }

    /// Says whether a stall comes from a full disk.
    fn refuse_without_space(&self) -> Result<(), CatalogError> {
        let space = statvfs(&self.path).map_err(|error| CatalogError::io("write", &self.path, &error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free >= FREE_BYTES_MIN {
            return Ok(());
        }
        let reason = format!("{free} bytes are free, RocksDB needs {FREE_BYTES_MIN} to write its tables");
        Err(CatalogError::NoSpace { action: "write", path: self.path.clone(), reason })
    }

    fn read_error(&self, error: &rocksdb::Error) -> CatalogError {
        CatalogError::rocksdb("read", &self.path, error)
    }
}

impl Database for Rocks {
    /// RocksDB would let a writer wait without end for tables it cannot write, for instance on a full disk; so it is told
    /// not to wait, and the waiting is done here, with an end.
    fn write(&self, changes: &[Change]) -> Result<(), CatalogError> {
        let mut durably = WriteOptions::default();
        durably.set_sync(true);
        durably.set_no_slowdown(true);
        let changes = write_batch(changes);
        for _ in 0..STALL_CHECKS {
            match self.database.write_opt(WriteBatch::from_data(changes.data()), &durably) {
                Err(error) if is_stall(&error) => self.refuse_without_space()?,
                done => return done.map_err(|error| CatalogError::rocksdb("write", &self.path, &error)),
            }
            thread::sleep(STALL_CHECK_EVERY);
        }
        let reason = "RocksDB is too slow in writing its tables, or cannot; its file LOG there says why".into();
        Err(CatalogError::Failed { action: "write", path: self.path.clone(), reason })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogError> {
        self.database.get(key).map_err(|error| self.read_error(&error))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, reverse: bool, visit: Visit<'_>) -> Result<(), CatalogError> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(start);
        if let Some(end) = end {
            bounds.set_iterate_upper_bound(end);
        }
        let mode = if reverse { IteratorMode::End } else { IteratorMode::Start };
        for found in self.database.iterator_opt(mode, bounds) {
            let (key, value) = found.map_err(|error| self.read_error(&error))?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
}

fn write_batch(changes: &[Change]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for change in changes {
        match change {
            Change::Put(key, value) => batch.put(key, value),
            Change::Delete(key) => batch.delete(key),
            Change::DeleteRange(start, end) => batch.delete_range(start, end),
        }
    }
    batch
}

/// Whether RocksDB did nothing and asks to be asked again.
fn is_stall(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Incomplete && error.as_ref().contains("Write stall")
}

/// Makes the directory, closed to others, so that it is there after power loss: RocksDB syncs what is in it, not its name.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        },
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn others_do_not_look_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        for _ in 0..2 {
            make_directory(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0);
        }
    }
}
