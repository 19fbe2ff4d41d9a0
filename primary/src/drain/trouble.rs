//! A batch that was not drained: what that means, for whom, and whether it goes on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::ids::Seq;
use tidemark_common::journal::JournalError;
use tidemark_common::metrics::Part;
use tidemark_common::nbd::IoError;
use tidemark_common::record::FrameError;

use super::{Drain, Draining};
use crate::cut::CutError;
use crate::ring::RingError;

/// A journal at its capacity makes room by itself. Who wants a marker and has waited so long for that is told; so are hosts where no segment can
/// be made.
const FULL_MAX: Duration = Duration::from_secs(5);

/// Why a batch was not drained.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrainError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("a frame could not be made: {0}")]
    Frame(#[from] FrameError),
    #[error("the write buffer's memory changed: the checksum of write {seq} does not match")]
    Payload { seq: Seq },
}

impl DrainError {
    /// For people: what is full or fails, where, what that means for hosts, and what to do.
    fn told(&self, tried_again: bool) -> String {
        match self {
            Self::Journal(error @ JournalError::Io { path, .. }) if error.is_no_space() => format!(
                "the disk under the journal has no space left: {error}. Hosts get ENOSPC for what they write; what was acknowledged is kept. \
                 Make room on the file system of {}; it goes on by itself",
                path.parent().unwrap_or(path).display()
            ),
            Self::Journal(error @ JournalError::Io { path, .. }) if tried_again => format!(
                "no new segment of the journal can be made: {error}. Hosts wait for some seconds, and get I/O errors then; what was acknowledged is \
                 kept. See to the disk under {}; it is tried again, and goes on by itself",
                path.parent().unwrap_or(path).display()
            ),
            Self::Journal(error @ JournalError::Full { .. }) => format!(
                "{error}. Hosts wait, and it goes on by itself when a part is not needed any more: for pairs, backups and images that keep it, \
                 `tidemark leases` says what ends that; else the volumes' disks are behind. To have more room, raise journal_bytes in the \
                 configuration here and restart it"
            ),
            _ => self.to_string(),
        }
    }
}

impl Drain {
    pub(super) fn recovered(&mut self) {
        self.full_since = None;
        if self.desk.problem.lock().take().is_some() && !self.desk.is_stopping() {
            self.desk.journal_full.store(false, Ordering::Release);
            *self.desk.refused.lock() = None;
            self.buffer.refuse(None);
            if self.logged.ends() {
                tracing::info!(group = %self.group, "the journal takes writes again");
            }
        }
    }

    /// What an error means: space may come back, and a disk that makes no new segment; anything else ends the drain.
    pub(super) fn judge(&mut self, error: &DrainError) -> Draining {
        // Who waited for room in the journal has not waited for a disk that may be back in a moment.
        if self.desk.is_journal_full() != matches!(error, DrainError::Journal(JournalError::Full { .. })) {
            self.full_since = None;
        }
        let (full, tried_again, refused) = match error {
            DrainError::Journal(JournalError::Full { .. }) => (true, true, None),
            DrainError::Journal(error) if error.is_no_space() => (false, true, Some(IoError::NoSpace)),
            // Most that keeps a segment from being made for a moment is over before a host has to know: no descriptor, a path that is switched.
            DrainError::Journal(error) if self.writer.may_try_again(error) => {
                (false, true, self.has_stood_long().then_some(IoError::Io))
            }
            _ => (false, false, None),
        };
        // Before the problem: who sees that looks here for what it means.
        self.desk.journal_full.store(full, Ordering::Release);
        *self.desk.refused.lock() = refused;
        let problem = error.told(tried_again);
        // A journal that empties slowly is full again and again.
        if let Some(left_out) = self.logged.stands_anywhere(&problem, self.clock.monotonic()) {
            tracing::error!(group = %self.group, %problem, left_out, "the drain cannot go on");
        }
        if self.desk.problem.lock().replace(problem).is_none() {
            self.metrics.error(Part::Drain);
        }
        if tried_again && !self.desk.is_stopping() {
            return self.await_space(refused);
        }
        self.give_up(error);
        Draining::Ended
    }

    /// A full disk, or one that fails, is the host's to know; a full journal is ours to solve, hosts only wait.
    fn await_space(&mut self, refused: Option<IoError>) -> Draining {
        if refused.is_some() {
            self.buffer.refuse(refused);
        }
        self.writer.journal().nudge();
        // What was appended before the error can be made durable; when that fails, space helps no more.
        if self.unsynced_bytes > 0
            && let Err(error) = self.sync()
        {
            return self.judge(&error);
        }
        self.full_since.get_or_insert(self.clock.monotonic());
        if refused.is_some() || self.has_stood_long() {
            self.refuse_cuts();
        }
        Draining::NoSpace
    }

    /// Whether nothing could be appended for as long as who waits is kept waiting.
    fn has_stood_long(&self) -> bool {
        let now = self.clock.monotonic();
        self.full_since.is_some_and(|since| now.saturating_sub(since) >= FULL_MAX)
    }

    /// Who waits for a marker is told why there is none. What was cut for them stays a cut nobody waits for, once at each place.
    fn refuse_cuts(&mut self) {
        let problem = self.desk.problem().unwrap_or_default();
        for request in self.pending.iter_mut().filter_map(|cut| cut.request.take()) {
            let _ = request.reply.send(Err(CutError::NoRoom { problem: problem.clone() }));
        }
        let mut last = None;
        self.pending.retain(|cut| last.replace(cut.boundary.seq) != Some(cut.boundary.seq));
    }

    /// Tells hosts and who waits for a marker that nothing more becomes durable.
    fn give_up(&mut self, error: &DrainError) {
        self.buffer.refuse(Some(IoError::Io));
        self.writer.journal().nudge();
        for (_, _, request) in self.unsynced_markers.drain(..) {
            if let Some(request) = request {
                let _ = request.reply.send(Err(CutError::Failed { reason: error.to_string() }));
            }
        }
    }
}
