//! How much memory the data of requests may take: of one connection, and of all of them together.
//!
//! Each connection has a little of its own. What it holds beyond that comes out of one budget, so that many hosts with deep queues, or hosts
//! that take no replies, do not fill the appliance's memory. Where both are used up, a connection still has one request at a time, of any size.
//! It looks again when a request of its own has ended, and every few seconds: nobody waits for another connection, and nothing has to be woken.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{NBD_OWN_BYTES_MAX, NBD_SHARED_BYTES_MAX};

/// What all connections share.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(NBD_SHARED_BYTES_MAX)
    }
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))), bytes }
    }

    /// More than half is used: nothing is kept of it that no request needs now.
    fn is_scarce(&self) -> bool {
        self.free.available_permits() < self.bytes / 2
    }
}

/// What one connection may have.
#[derive(Debug)]
pub(super) struct Allowance {
    own: Arc<Semaphore>,
    shared: Budget,
}

/// Bytes that are taken, until this goes.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
    /// Of what all connections share.
    pub(super) is_shared: bool,
}

impl Allowance {
    pub(super) fn new(shared: &Budget) -> Self {
        Self { own: Arc::new(Semaphore::new(NBD_OWN_BYTES_MAX)), shared: shared.clone() }
    }

    /// Without waiting; `None` when there is not so much.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let bytes = u32::try_from(bytes).ok()?;
        let of = |free: &Arc<Semaphore>| Arc::clone(free).try_acquire_many_owned(bytes).ok();
        if let Some(permit) = of(&self.own) {
            return Some(Taken { _permit: permit, is_shared: false });
        }
        of(&self.shared.free).map(|permit| Taken { _permit: permit, is_shared: true })
    }

    /// Whether others may lack what is kept here of what all share.
    pub(super) fn is_scarce(&self) -> bool {
        self.shared.is_scarce()
    }
}
