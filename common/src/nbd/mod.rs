//! The NBD front end: one for volumes, T0 copies and clones.
//!
//! It knows the two traits below and nothing of the engine behind them; another front end (vhost-user-blk) would stand
//! on the same traits. Bytes come in from hosts that may be broken or hostile: invariant 10 holds for all of them.

pub mod budget;
mod buffers;
pub mod check;
pub mod connection;
mod execute;
pub mod haggle;
pub mod handshake;
mod input;
pub mod left;
mod listen;
pub mod memory;
pub mod observe;
pub mod options;
mod output;
pub mod protocol;
mod quiet;
pub mod reply;
pub mod request;
pub mod server;
mod session;
mod socket;
mod threads;
pub mod tls;

pub use connection::{ConnectionError, ConnectionOptions, serve};
pub use input::InputError;
pub use listen::BindError;
pub use observe::{Observer, SessionObserver};
pub use server::{Server, ServerOptions};
pub use session::{Patience, SessionError};
pub use socket::HostStream;
pub use threads::DiskThreads;
pub use tls::Tls;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What a request resolves to.
pub type IoFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, IoError>> + Send + 'a>>;

/// Why a request failed, in the words of the protocol's error numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The export is read-only, or this appliance may no longer write it (NBD_EPERM).
    #[error("not permitted")]
    NotPermitted,
    /// The disk failed, or what it holds does not match its checksum (NBD_EIO).
    #[error("input/output error")]
    Io,
    /// Out of range or malformed (NBD_EINVAL; the front end answers NBD_ENOSPC for writes beyond the end).
    #[error("invalid request")]
    Invalid,
    /// No space left (NBD_ENOSPC).
    #[error("no space left")]
    NoSpace,
    /// Cannot be done faster than writing (NBD_ENOTSUP, only for FAST_ZERO).
    #[error("not supported")]
    NotSupported,
    /// The service is stopping, or the export has gone (NBD_ESHUTDOWN).
    #[error("shutting down")]
    ShuttingDown,
}

/// What an export is; may change while it is open (resize).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Writes are refused with NBD_EPERM.
    pub read_only: bool,
    /// What is discarded or zeroed need not be written: only then hosts are told that they may discard, and that zeroes are fast.
    pub gives_back: bool,
    /// For people: NBD_INFO_DESCRIPTION.
    pub description: String,
}

/// What every request is checked against; asked for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes.
    pub size: u64,
    /// Writes are refused with NBD_EPERM.
    pub read_only: bool,
}

/// One run of BLOCK_STATUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Bytes in this run, never 0.
    pub length: u64,
    /// No storage is behind it.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

/// How to write zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroMode {
    /// Keep the space allocated (NBD_CMD_FLAG_NO_HOLE).
    pub no_hole: bool,
    /// Fail with [`IoError::NotSupported`] when it would be no faster than writing (NBD_CMD_FLAG_FAST_ZERO).
    pub fast: bool,
    /// Answer only when it is durable.
    pub fua: bool,
}

/// One open export. Offsets and lengths are inside the size when these are called, lengths are not 0.
///
/// Requests run concurrently; order between them is given only by answers (invariant 2). A flush covers every request
/// answered before it was sent, on any connection of any volume of the group (multi-conn).
pub trait Export: Send + Sync + 'static {
    /// What it is now.
    fn info(&self) -> ExportInfo;
    /// The part of [`Export::info`] that each request needs, without making the texts.
    fn bounds(&self) -> Bounds {
        let ExportInfo { size, read_only, .. } = self.info();
        Bounds { size, read_only }
    }
    /// Fills the buffer from the offset on.
    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()>;
    /// Writes the data at the offset; with `fua` it is durable when this resolves.
    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()>;
    /// Resolves when everything answered before is durable.
    fn flush(&self) -> IoFuture<'_, ()>;
    /// [`Self::flush`] for a client that has nothing else under way: may hold the caller's thread for as long as a disk takes.
    fn flush_alone(&self) -> IoFuture<'_, ()> {
        self.flush()
    }
    /// [`Self::write`] with `fua`, for a client that has nothing else under way: may hold the caller's thread.
    fn write_alone<'a>(&'a self, offset: u64, data: &'a [u8]) -> IoFuture<'a, ()> {
        self.write(offset, data, true)
    }
    /// Discards; a later read gives zeroes.
    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()>;
    /// Writes zeroes.
    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()>;
    /// Brings the range into the page cache; doing nothing is allowed.
    fn cache(&self, _offset: u64, _length: u64) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Runs that together begin at the offset and cover at least its first byte, at most the length. How far to look is the
    /// export's choice: clients ask again from where the runs end, and the range may be all of a large volume.
    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>>;
}

/// Why an export cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No export of that name (NBD_REP_ERR_UNKNOWN).
    #[error("no export '{name}': `tidemark status` lists the volumes")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// It exists and is not served here now (NBD_REP_ERR_POLICY), with what to do.
    #[error("{reason}")]
    Refused {
        /// What and why, and what to do.
        reason: String,
    },
    /// The service is stopping (NBD_REP_ERR_SHUTDOWN).
    #[error("the service is stopping")]
    ShuttingDown,
}

/// All exports of an appliance.
pub trait Exports: Send + Sync + 'static {
    /// Names that can be opened now, sorted.
    fn list(&self) -> Vec<String>;
    /// What [`Exports::open`] would give: for clients that ask about it and do not come in, so nothing changes by it.
    ///
    /// # Errors
    /// As when it is opened.
    fn look(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.open(name)
    }
    /// Opens one; the front end keeps the handle for as long as the connection lives.
    ///
    /// # Errors
    /// [`OpenError`] says which reply to give.
    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError>;
}

#[cfg(test)]
mod tests;
