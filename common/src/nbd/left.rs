//! Connections whose clients have gone while requests of theirs are with a disk. Each has its place among the connections until that disk
//! answers, and a host comes again and again to a disk that hangs: it must not take the places of the hosts of all others.
//!
//! In: whose client has gone, and who wants to come in. Out: who is turned away. Owns the counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Export, Exports, OpenError};
use crate::limits::NBD_CONNECTIONS_MAX;

/// How many there are of each export.
#[derive(Debug)]
pub struct Left {
    counts: Mutex<BTreeMap<String, usize>>,
    max: usize,
}

impl Default for Left {
    fn default() -> Self {
        Self::of(NBD_CONNECTIONS_MAX)
    }
}

impl Left {
    /// Of so many connections at once, they may be a half.
    #[must_use]
    pub fn of(connections_max: usize) -> Self {
        Self { counts: Mutex::default(), max: connections_max.div_ceil(2) }
    }

    /// A client of an export has gone; the answer lives until nothing of it is under way any more.
    pub(super) fn one(self: &Arc<Self>, export: &str) -> One {
        *self.counts.lock().entry(export.to_owned()).or_default() += 1;
        One { left: Arc::clone(self), export: export.to_owned() }
    }

    /// Why nobody comes in to an export now: it has some of them, and there are as many as there may be. Exports that answer have none.
    #[must_use]
    pub fn refusal(&self, export: &str) -> Option<String> {
        let counts = self.counts.lock();
        let here = counts.get(export).filter(|_| counts.values().sum::<usize>() >= self.max)?;
        Some(format!(
            "'{export}' does not answer: {here} connections have gone while requests of theirs were with its disk, and with those of other \
             exports they have half of all connections that there may be. See to the disk"
        ))
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct One {
    left: Arc<Left>,
    export: String,
}

impl Drop for One {
    fn drop(&mut self) {
        let mut counts = self.left.counts.lock();
        if let Some(count) = counts.get_mut(&self.export) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.export);
            }
        }
    }
}

/// Exports, those aside that nobody comes in to now.
pub(super) struct Answering {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) left: Arc<Left>,
}

impl Answering {
    fn check(&self, name: &str) -> Result<(), OpenError> {
        self.left.refusal(name).map_or(Ok(()), |reason| Err(OpenError::Refused { reason }))
    }
}

impl Exports for Answering {
    fn list(&self) -> Vec<String> {
        self.exports.list()
    }

    fn look(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.check(name)?;
        self.exports.look(name)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.check(name)?;
        self.exports.open(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::memory::{FixedExports, MemoryExport};

    #[test]
    fn hosts_of_a_disk_that_hangs_leave_connections_to_those_of_others() {
        let left = Arc::new(Left::of(4));
        let memory = || Arc::new(MemoryExport::new(512, false)) as Arc<dyn Export>;
        let exports = FixedExports::default().with("hangs", memory()).with("other", memory());
        let exports = Answering { exports: Arc::new(exports), left: Arc::clone(&left) };
        let first = left.one("hangs");
        assert!(exports.open("hangs").is_ok(), "there are not many of them yet");
        let second = left.one("hangs");
        assert!(matches!(exports.open("hangs").err(), Some(OpenError::Refused { .. })));
        assert!(exports.open("other").is_ok());
        drop(first);
        assert!(exports.open("hangs").is_ok());
        drop(second);
        assert!(left.counts.lock().is_empty(), "of those that answer nothing is kept");
    }
}
