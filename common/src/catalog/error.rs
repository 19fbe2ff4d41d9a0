//! What can go wrong with the catalogue, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::ErrorKind;

use super::schema::{CATALOG_FORMAT, Table};
use crate::ids::IdError;
use crate::storage::is_no_space;

/// Why the catalogue did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Two processes want the same directory.
    #[error(
        "the catalogue {} is in use by another process: stop the other `tidemark serve` of this directory first",
        path.display()
    )]
    Locked {
        /// The catalogue.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "{action}: no space is left for the catalogue {}. Nothing acknowledged is lost; free space there, and it \
         goes on by itself within some seconds, or when the service is restarted ({reason})",
        path.display()
    )]
    NoSpace {
        /// What was tried.
        action: &'static str,
        /// The catalogue.
        path: PathBuf,
        /// What RocksDB said.
        reason: String,
    },
    /// Written by a newer build.
    #[error(
        "the catalogue {} has format {found}; this build reads {CATALOG_FORMAT}: use the newer build",
        path.display()
    )]
    Newer {
        /// The catalogue.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// One record is not what was put there.
    #[error("the catalogue {} is damaged: record {key}: {what}. What to do: {remedy}", path.display())]
    Damaged {
        /// The catalogue.
        path: PathBuf,
        /// The record's key.
        key: String,
        /// What is wrong with it.
        what: &'static str,
        /// What an operator can do.
        remedy: &'static str,
    },
    /// RocksDB's own files are damaged.
    #[error(
        "{action}: the files of the catalogue {} are damaged ({reason}). What to do: stop the service and restore \
         this directory from a backup; volumes and journals are not touched",
        path.display()
    )]
    FilesDamaged {
        /// What was tried.
        action: &'static str,
        /// The catalogue.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk, or RocksDB, failed otherwise.
    #[error(
        "{action}: the catalogue {} failed ({reason}). Check the disk and the directory's permissions, then restart \
         the service",
        path.display()
    )]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The catalogue.
        path: PathBuf,
        /// What was said.
        reason: String,
    },
    /// A record larger than any may be.
    #[error("record {key} of {bytes} bytes is too large for the catalogue")]
    TooLarge {
        /// The record's key.
        key: String,
        /// Its bytes.
        bytes: usize,
    },
    /// The group is given up or deleted.
    #[error("group '{group}' was given up here: nothing more is recorded of it")]
    Forgotten {
        /// Its name.
        group: String,
    },
    /// A name that cannot be part of a key.
    #[error(transparent)]
    Name(#[from] IdError),
}

impl CatalogError {
    /// What RocksDB said, in our words.
    pub(super) fn rocksdb(action: &'static str, path: &Path, error: &rocksdb::Error) -> Self {
        let path = path.to_owned();
        let reason = error.to_string();
        // The C interface of RocksDB passes text only; these are the texts of its file system layer and of errno.
        let says = |text: &str| reason.contains(text);
        match error.kind() {
            _ if says("No space left on device") || says("Disk quota exceeded") => {
                Self::NoSpace { action, path, reason }
            }
            ErrorKind::IOError if says("lock hold by") || says("While lock file") => Self::Locked { path },
            ErrorKind::Corruption => Self::FilesDamaged { action, path, reason },
            _ => Self::Failed { action, path, reason },
        }
    }

    /// What the system said.
    pub(super) fn io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        if is_no_space(error) { Self::NoSpace { action, path, reason } } else { Self::Failed { action, path, reason } }
    }

    pub(super) fn damaged(path: &Path, table: Table, key: &[u8], what: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), key: printable(key), what, remedy: table.remedy() }
    }

    /// Whether space is all that is missing.
    #[must_use]
    pub const fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// A key as text, whatever its bytes are; keys found on a damaged disk can be long.
pub(super) fn printable(key: &[u8]) -> String {
    const SHOWN: usize = 200;
    let shown = key.get(..SHOWN).unwrap_or(key);
    shown.escape_ascii().to_string()
}
