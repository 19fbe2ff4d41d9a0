//! What the front end tells about itself, for metrics. Nothing here is asked of an observer but to be quick.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::protocol::{Errno, command};

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestKind {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim,
    /// WRITE_ZEROES.
    Zero,
    /// CACHE.
    Cache,
    /// BLOCK_STATUS.
    Status,
}

impl RequestKind {
    /// Of a command; `None` for one that is not known.
    #[must_use]
    pub const fn of(command: u16) -> Option<Self> {
        Some(match command {
            command::READ => Self::Read,
            command::WRITE => Self::Write,
            command::FLUSH => Self::Flush,
            command::TRIM => Self::Trim,
            command::WRITE_ZEROES => Self::Zero,
            command::CACHE => Self::Cache,
            command::BLOCK_STATUS => Self::Status,
            _ => return None,
        })
    }

    /// For labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Zero => "zero",
            Self::Cache => "cache",
            Self::Status => "status",
        }
    }
}

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// What it was.
    pub kind: RequestKind,
    /// Its length: bytes moved, zeroed, discarded or asked about.
    pub bytes: u64,
    /// From the whole request being here until its reply was handed to the socket's queue.
    pub duration: Duration,
    /// How it was answered.
    pub result: Result<(), Errno>,
}

/// Told of connections.
pub trait Observer: Send + Sync + Debug + 'static {
    /// A connection entered transmission on this export. What is returned is told the rest, so that an implementation looks
    /// up its series once and not for every request.
    fn on_open(&self, export: &str) -> Arc<dyn SessionObserver>;
    /// A connection was turned away: too many of them, or the handshake failed.
    fn on_turned_away(&self) {}
}

/// Told of one connection in transmission.
pub trait SessionObserver: Send + Sync + 'static {
    /// A request was answered.
    fn on_request(&self, answered: &Answered);
    /// The connection ended; `clean` is false when the client broke off or broke the protocol.
    fn on_close(&self, clean: bool);
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn on_open(&self, _export: &str) -> Arc<dyn SessionObserver> {
        Arc::new(Self)
    }
}

impl SessionObserver for Unobserved {
    fn on_request(&self, _answered: &Answered) {}
    fn on_close(&self, _clean: bool) {}
}
