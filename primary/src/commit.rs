//! Who makes the drain's rounds: the group's thread or, for a host that waits for a commit and has nothing else under way, the host's
//! own task. That saves waking two threads one after the other, which costs as much as the flush of a fast disk.
//!
//! The drain lies behind a lock: one round at a time, in the order of one owner. A task only tries it. Who does not get it, and
//! whose commit would be more than one small append, rings for the thread and waits: so commits of many hosts are made together.
//! A disk that hangs then holds a thread of the runtime, so tasks never hold the last of these; and it may be the one that looked for what comes
//! from hosts, so that another is woken for that (`tidemark_common::workers`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::ids::Seq;
use tidemark_common::journal::Journal;
use tidemark_common::overlay::unapplied::Spill;

use crate::buffer::Buffer;
use crate::drain::{Drain, DrainDesk, Draining, Pause};

/// How long a full journal, or a disk that is full or fails, is waited for before the next try.
const RETRY: Duration = Duration::from_millis(100);

/// A group's drain, for its thread and for hosts.
#[derive(Debug)]
pub struct SharedDrain {
    /// `None`: it has ended, or somebody makes a round under the lock.
    drain: Mutex<Option<Drain>>,
    desk: Arc<DrainDesk>,
    buffer: Arc<Buffer>,
    journal: Arc<Journal>,
}

impl SharedDrain {
    /// Before it runs; `drain` is given to it by [`Self::run`].
    #[must_use]
    pub fn new(desk: Arc<DrainDesk>, buffer: Arc<Buffer>, journal: Arc<Journal>) -> Self {
        Self { drain: Mutex::default(), desk, buffer, journal }
    }

    /// Drains until the desk says stop and the buffer is empty, or the journal fails for good. Hosts go on while a volume's disk holds the
    /// updater, which keeps the index within its bounds: this thread does it then.
    pub fn run(&self, drain: Drain, spill: &Spill) {
        *self.drain.lock() = Some(drain);
        let unless_ended = Lost(self);
        let mut above = 0;
        loop {
            let Some((draining, pause)) = self.round(&mut self.drain.lock()) else { return };
            if let Err(error) = self.buffer.bound_index_instead(spill, &mut above) {
                tracing::warn!(%error, "the index grows in memory; it is tried again");
            }
            match draining {
                Draining::Did => {}
                Draining::Idle => pause.sleep(&self.desk, &self.buffer),
                Draining::NoSpace => self.buffer.bell().sleep(RETRY, false, || true),
                Draining::Ended => break,
            }
        }
        std::mem::forget(unless_ended);
        drop(self.drain.lock().take());
        self.desk.end(&self.buffer);
        self.journal.nudge();
    }

    /// Makes a round here and now, if that is quick: on the caller's thread, which waits for the disk. `false`: it was not made.
    pub fn commit(&self, seq: Seq) -> bool {
        let Some(_turn) = Turn::take() else { return false };
        let Some(mut slot) = self.drain.try_lock() else { return false };
        if !slot.as_ref().is_some_and(Drain::is_quick) {
            return false;
        }
        self.desk.note_wanted(seq);
        // What else comes of it, the thread finds again.
        self.round(&mut slot).is_some_and(|(draining, _)| draining == Draining::Did)
    }

    /// One round. The drain is not there meanwhile: after a panic nobody makes another one with what that left.
    fn round(&self, slot: &mut Option<Drain>) -> Option<(Draining, Pause)> {
        let mut drain = slot.take()?;
        let unless_done = Lost(self);
        let done = (drain.step(), drain.pause());
        std::mem::forget(unless_done);
        *slot = Some(drain);
        Some(done)
    }
}

/// A drain that a panic has taken, or whose thread has, unless this is forgotten before.
struct Lost<'a>(&'a SharedDrain);

impl Drop for Lost<'_> {
    /// Hosts and all who wait are told. Without its thread nobody would do what is no host's to do: it makes no round for one either.
    fn drop(&mut self) {
        let SharedDrain { drain, desk, buffer, journal } = self.0;
        // Whoever makes a round holds it, and has taken the drain out.
        if let Some(mut slot) = drain.try_lock() {
            drop(slot.take());
        }
        desk.lose(buffer);
        journal.nudge();
    }
}

/// Threads of the runtime that wait for a disk now, in all groups.
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Turn;

impl Turn {
    /// `None`: the runtime would have no thread left, or there is none.
    fn take() -> Option<Self> {
        let threads = tokio::runtime::Handle::try_current().ok()?.metrics().num_workers();
        let taken =
            TURNS.try_update(Ordering::AcqRel, Ordering::Relaxed, |turns| (turns + 1 < threads).then_some(turns + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.fetch_sub(1, Ordering::AcqRel);
    }
}
