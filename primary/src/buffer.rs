//! The gate and the write buffer: host writes in, acknowledged entries out. Owns `captured_seq`.
//!
//! Order within one capture, and why:
//! 1. number and place are given out under the gate's lock, the header is written and the head published (invariant 2);
//! 2. the payload is copied, without any lock;
//! 3. the index learns of it, unless it knows a newer write there: before the commit, so that the drain, which waits for the
//!    commit, always finds it in the index;
//! 4. the entry is committed; only then is the host answered (invariant 1).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tidemark_common::clock::Clock;
use tidemark_common::extent::Extent;
use tidemark_common::ids::Seq;
use tidemark_common::journal::Position;
use tidemark_common::metrics::GroupMetrics;
use tidemark_common::nbd::IoError;
use tidemark_common::overlay::Piece;
use tidemark_common::overlay::location::Location;
use tidemark_common::overlay::run::RunError;
use tidemark_common::overlay::unapplied::{Look, Spill, Unapplied};
use tokio::sync::Notify;

use crate::cut::PendingCut;
use crate::ring::{ENTRY_BYTES, Entry, EntryKind, Ring};

/// Payload of one entry at most: larger host writes become several.
pub(crate) const PIECE_BYTES_MAX: u64 = 1 << 20;

/// What a cut found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The last sequence number given out.
    pub seq: Seq,
    /// Wall clock while the gate was closed.
    pub time: jiff::Timestamp,
    /// How long it was closed.
    pub frozen: Duration,
}

/// The write buffer of one group.
pub struct Buffer {
    ring: Ring,
    clock: Arc<dyn Clock>,
    gate: Mutex<Gate>,
    index: Mutex<Unapplied>,
    /// Held shared while bytes are copied out of the ring, exclusively while the tail moves.
    pins: RwLock<()>,
    captured: AtomicU64,
    /// Bytes it may hold: those of the ring, or fewer.
    capacity: AtomicU64,
    space: Notify,
    /// The file system of the ring was full when it was last asked for more.
    lacks_space: AtomicBool,
    drain: Bell,
    metrics: GroupMetrics,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("captured", &self.captured()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Gate {
    head: u64,
    tail: u64,
    next_seq: Seq,
    reserved: u64,
    refusing: Option<IoError>,
    /// Cuts made together with other groups' that the drain has not taken over yet.
    noted: VecDeque<PendingCut>,
    /// The drain is gone: no cut gets a marker any more.
    ended: bool,
}

/// A gate that is closed as long as this lives.
#[derive(Debug)]
pub(crate) struct Shut<'a>(MutexGuard<'a, Gate>);

impl Shut<'_> {
    /// The last sequence number given out.
    pub(crate) fn last_seq(&self) -> Seq {
        Seq(self.0.next_seq.0 - 1)
    }

    /// Leaves a cut for the drain. It cannot have passed its boundary: what it takes out of the ring it looks for under this lock.
    pub(crate) fn note(&mut self, cut: PendingCut) {
        if !self.0.ended {
            self.0.noted.push_back(cut);
        }
    }
}

enum Try {
    Done(Seq),
    Full,
    Refused(IoError),
}

/// A host's write that waits for room; counted when the wait is over, however it ends.
struct Stall<'a> {
    buffer: &'a Buffer,
    since: Duration,
}

impl<'a> Stall<'a> {
    fn begin(buffer: &'a Buffer) -> Self {
        Self { buffer, since: buffer.clock.monotonic() }
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        let waited = self.buffer.clock.monotonic().saturating_sub(self.since);
        self.buffer.metrics.buffer_stalled(waited);
    }
}

impl Buffer {
    /// A buffer over a ring whose entries from `tail` to `head` are still to be drained.
    #[must_use]
    pub fn new(ring: Ring, clock: Arc<dyn Clock>, next_seq: Seq, index: Unapplied, metrics: GroupMetrics) -> Self {
        let (head, tail) = ring.ends();
        let reserved = if head >= ring.capacity() { ring.capacity() } else { 0 };
        let gate = Gate { head, tail, next_seq, reserved, refusing: None, noted: VecDeque::new(), ended: false };
        Self {
            gate: Mutex::new(gate),
            captured: AtomicU64::new(next_seq.0.saturating_sub(1)),
            capacity: ring.capacity().into(),
            ring,
            clock,
            index: Mutex::new(index),
            pins: RwLock::new(()),
            space: Notify::new(),
            lacks_space: AtomicBool::new(false),
            drain: Bell::default(),
            metrics,
        }
    }

    /// The last sequence number given out.
    #[must_use]
    pub fn captured(&self) -> Seq {
        Seq(self.captured.load(Ordering::Acquire))
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let gate = self.gate.lock();
        gate.head - gate.tail
    }

    /// Bytes it may hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    /// From now on it holds no more than this: what is held when a cut is made is one interval.
    pub(crate) fn hold_at_most(&self, bytes: u64) {
        self.capacity.fetch_min(bytes, Ordering::AcqRel);
    }

    /// Rings when there is something to drain.
    #[must_use]
    pub const fn bell(&self) -> &Bell {
        &self.drain
    }

    /// Captures a write. When this resolves the data survives a kill of the process.
    ///
    /// # Errors
    /// [`IoError`] when the group takes no writes now.
    pub async fn write(&self, extent: Extent, data: &[u8]) -> Result<Seq, IoError> {
        let step = PIECE_BYTES_MAX.min(self.ring.capacity() / 8);
        let mut seq = Seq::default();
        let mut at = extent.offset;
        for piece in data.chunks(usize::try_from(step).unwrap_or(usize::MAX)) {
            let part = Extent { offset: at, length: piece.len() as u64, ..extent };
            seq = self.capture(EntryKind::Data, part, piece).await?;
            at = part.end();
        }
        Ok(seq)
    }

    /// Captures zeroes.
    ///
    /// # Errors
    /// [`IoError`] when the group takes no writes now.
    pub async fn zero(&self, extent: Extent, hole: bool) -> Result<Seq, IoError> {
        self.capture(EntryKind::Zero { hole }, extent, &[]).await
    }

    async fn capture(&self, kind: EntryKind, extent: Extent, payload: &[u8]) -> Result<Seq, IoError> {
        let mut stall = None;
        loop {
            match self.try_capture(kind, extent, payload) {
                Try::Done(seq) => return Ok(seq),
                Try::Refused(error) => return Err(error),
                Try::Full => {}
            }
            stall.get_or_insert_with(|| Stall::begin(self));
            let space = self.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            self.drain.ring();
            // Space may have come between the try and the registration.
            match self.try_capture(kind, extent, payload) {
                Try::Done(seq) => return Ok(seq),
                Try::Refused(error) => return Err(error),
                Try::Full => space.await,
            }
        }
    }

    fn try_capture(&self, kind: EntryKind, extent: Extent, payload: &[u8]) -> Try {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut entry = Entry { kind, seq: Seq::default(), extent, payload_bytes, payload_check: 0 };
        let (position, was_empty, held) = {
            let mut gate = self.gate.lock();
            let was_empty = gate.head == gate.tail;
            let position = match self.reserve(&mut gate, &mut entry) {
                Ok(Some(position)) => position,
                Ok(None) => return Try::Full,
                Err(error) => return Try::Refused(error),
            };
            (position, was_empty, gate.head - gate.tail)
        };
        self.ring.write_payload(position, payload);
        let location = match kind {
            EntryKind::Data => Location::Buffer { seq: entry.seq, position: position + ENTRY_BYTES },
            EntryKind::Zero { .. } | EntryKind::Pad => Location::BufferZero { seq: entry.seq },
        };
        let newer = |there: &Location| there.buffered_seq() > Some(entry.seq);
        self.index.lock().insert_unless(extent, location, newer);
        self.ring.commit(position);
        if held > self.capacity() / 4 {
            self.drain.ring_if_asleep();
        } else if was_empty {
            self.drain.ring_if_fast_asleep();
        }
        Try::Done(entry.seq)
    }

    /// Gives out number and place. Nothing but memory is touched, except while the ring's first lap reserves its blocks.
    fn reserve(&self, gate: &mut Gate, entry: &mut Entry) -> Result<Option<u64>, IoError> {
        if let Some(error) = gate.refusing {
            return Err(error);
        }
        let Some((position, pad)) = self.ring.place(gate.head, gate.tail, entry.ring_bytes()) else { return Ok(None) };
        let end = position + entry.ring_bytes();
        if end - gate.tail > self.capacity() && gate.head > gate.tail {
            return Ok(None);
        }
        if gate.reserved < self.ring.capacity() {
            let need = if end > self.ring.capacity() { self.ring.capacity() } else { end };
            match self.ring.reserve_blocks(gate.reserved, need) {
                Ok(reserved) => gate.reserved = reserved,
                Err(error) => {
                    self.note_lack(&error);
                    // What is held will be drained; with nothing held there is no space to be had.
                    return if gate.head > gate.tail { Ok(None) } else { Err(IoError::NoSpace) };
                }
            }
            self.lacks_space.store(false, Ordering::Release);
        }
        if let Some(pad) = pad {
            let payload_bytes = u32::try_from(pad - ENTRY_BYTES).unwrap_or(u32::MAX);
            let filler = Entry { kind: EntryKind::Pad, seq: Seq::default(), payload_bytes, ..*entry };
            self.ring.write_entry(gate.head, &filler);
            self.ring.commit(gate.head);
        }
        entry.seq = gate.next_seq;
        gate.next_seq = gate.next_seq.next();
        self.ring.write_entry(position, entry);
        gate.head = end;
        self.ring.set_head(end);
        self.captured.store(entry.seq.0, Ordering::Release);
        Ok(Some(position))
    }

    fn note_lack(&self, error: &std::io::Error) {
        if !self.lacks_space.swap(true, Ordering::AcqRel) {
            tracing::error!(path = %self.ring.path().display(), %error, "the write buffer finds no space");
        }
    }

    /// What a person must look at, if anything. Space is asked for again: a lack that is over is shown no longer.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !self.lacks_space.load(Ordering::Acquire) {
            return None;
        }
        let mut gate = self.gate.lock();
        if let Ok(reserved) = self.ring.reserve_blocks(gate.reserved, gate.reserved + 1) {
            gate.reserved = reserved;
            self.lacks_space.store(false, Ordering::Release);
            return None;
        }
        Some(format!(
            "no space for the write buffer {}, a file that may grow to {} MiB: hosts wait, or get ENOSPC. Free space there, or \
             make that file system larger; it goes on by itself",
            self.ring.path().display(),
            self.ring.capacity() >> 20
        ))
    }

    /// The freeze: no number is given out while the boundary is noted. Its cost depends on nothing but the lock.
    #[must_use]
    pub fn freeze(&self) -> Boundary {
        let begin = self.clock.monotonic();
        let gate = self.gate.lock();
        let seq = Seq(gate.next_seq.0 - 1);
        let time = self.clock.wall();
        drop(gate);
        Boundary { seq, time, frozen: self.clock.monotonic().saturating_sub(begin) }
    }

    /// Closes the gate, unless that takes longer than this.
    pub(crate) fn shut(&self, at_most: Duration) -> Option<Shut<'_>> {
        self.gate.try_lock_for(at_most).map(Shut)
    }

    /// The cuts that others have made since this was last asked.
    pub(crate) fn take_noted(&self) -> VecDeque<PendingCut> {
        std::mem::take(&mut self.gate.lock().noted)
    }

    /// Nobody makes markers of cuts any more; who waits for one is told.
    pub(crate) fn end_cuts(&self) {
        let mut gate = self.gate.lock();
        gate.ended = true;
        let noted = std::mem::take(&mut gate.noted);
        drop(gate);
        drop(noted);
    }

    /// From here on writes are answered with this error, or taken again with `None`. Once it is shutting down, it stays so.
    pub fn refuse(&self, error: Option<IoError>) {
        {
            let mut gate = self.gate.lock();
            if gate.refusing != Some(IoError::ShuttingDown) {
                gate.refusing = error;
            }
        }
        self.space.notify_waiters();
    }

    /// Fills the buffer from what is newer than the volumes here and in memory. The rest is told by [`Look::pieces`]: it lies in
    /// the journal or in the volume.
    pub fn read(&self, extent: Extent, buffer: &mut [u8]) -> Look {
        let _pin = self.pins.read();
        let mut look = self.index.lock().look(extent);
        look.do_now(|piece| {
            let target = slice_of(buffer, extent, piece.extent);
            match piece.location {
                Some(Location::Buffer { position, .. }) => self.ring.copy_out(position, target),
                Some(location) if location.is_zero() => target.fill(0),
                _ => return false,
            }
            true
        });
        look
    }

    /// What is newer than the volume in a range, without its bytes.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn pieces(&self, extent: Extent) -> Result<Vec<Piece<Location>>, RunError> {
        let look = self.index.lock().look(extent);
        look.pieces()
    }

    /// Ranges in the index: in memory, and on the disk.
    #[must_use]
    pub fn index_ranges(&self) -> (usize, usize) {
        let index = self.index.lock();
        (index.in_memory(), index.on_disk())
    }

    /// Keeps the index within its bounds.
    ///
    /// # Errors
    /// [`RunError`]; all of it is in memory still.
    pub fn bound_index(&self, spill: &Spill) -> Result<(), RunError> {
        spill.bound(&self.index)
    }

    /// The same in place of the updater, while a volume's disk holds that: see [`Spill::bound_instead`].
    ///
    /// # Errors
    /// [`RunError`]; all of it is known still.
    pub(crate) fn bound_index_instead(&self, spill: &Spill, above: &mut usize) -> Result<(), RunError> {
        spill.bound_instead(&self.index, above)
    }

    /// The updater has written these ranges as of a frame.
    pub fn forget_applied(&self, extents: &[Extent], up_to: Position) {
        for some in extents.chunks(64) {
            let mut index = self.index.lock();
            some.iter().for_each(|extent| index.forget(*extent, up_to));
        }
    }

    /// The drain has made writes durable in the journal up to this number: these ranges are found there from now on.
    pub(crate) fn moved_to_journal(&self, placed: &[(Extent, Location)], up_to: Seq) {
        for some in placed.chunks(64) {
            let mut index = self.index.lock();
            for (extent, location) in some {
                let buffered = |there: &Location| there.buffered_seq().is_some_and(|seq| seq <= up_to);
                index.move_buffered(*extent, *location, buffered);
            }
        }
    }

    /// The next entry to drain at a position, if it is committed and before the next cut that others have noted; pads are passed.
    ///
    /// # Errors
    /// [`crate::ring::RingError`] when the ring's memory is not what was written.
    pub fn entry_at(&self, position: u64) -> Result<Option<(u64, Entry)>, crate::ring::RingError> {
        let mut at = position;
        loop {
            let (head, limit) = {
                let gate = self.gate.lock();
                (gate.head, gate.noted.front().map_or(Seq(u64::MAX), |cut| cut.boundary.seq))
            };
            if at >= head || !self.ring.is_committed(at)? {
                return Ok(None);
            }
            let entry = self.ring.entry(at)?;
            if entry.kind != EntryKind::Pad {
                return Ok((entry.seq <= limit).then_some((at, entry)));
            }
            at += entry.ring_bytes();
        }
    }

    /// The payload of an entry not yet released.
    #[must_use]
    pub fn payload(&self, position: u64, entry: &Entry) -> &[u8] {
        self.ring.payload(position, entry)
    }

    /// Where draining begins.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.gate.lock().tail
    }

    /// Gives back everything before a position: it is durable in the journal and the index says so.
    pub fn release(&self, tail: u64) {
        drop(self.pins.write());
        let mut gate = self.gate.lock();
        gate.tail = tail;
        self.ring.set_tail(tail);
        drop(gate);
        self.space.notify_waiters();
    }
}

/// The part of a buffer for `whole` that belongs to `part`.
pub(crate) fn slice_of(buffer: &mut [u8], whole: Extent, part: Extent) -> &mut [u8] {
    let begin = usize::try_from(part.offset.saturating_sub(whole.offset)).unwrap_or(usize::MAX);
    let length = usize::try_from(part.length).unwrap_or(usize::MAX);
    buffer.get_mut(begin..begin.saturating_add(length)).unwrap_or_default()
}

/// Wakes one sleeping thread, cheaply when it is awake.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
    asleep: AtomicBool,
    /// The sleep is a short one: what is in no hurry can wait for its end.
    dozing: AtomicBool,
}

impl Bell {
    /// Wakes the sleeper, now or at its next sleep.
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    /// Wakes the sleeper if there is one.
    pub(crate) fn ring_if_asleep(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Whether it was rung and nobody has woken by that.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        *self.rung.lock()
    }

    /// Wakes the sleeper if it sleeps for long.
    pub(crate) fn ring_if_fast_asleep(&self) {
        if self.asleep.load(Ordering::SeqCst) && !self.dozing.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Sleeps until it rings, or so long; not at all when `still` no longer holds once the sleep is announced.
    pub fn sleep(&self, at_most: Duration, short: bool, still: impl FnOnce() -> bool) {
        self.dozing.store(short, Ordering::SeqCst);
        self.asleep.store(true, Ordering::SeqCst);
        if still() {
            let mut rung = self.rung.lock();
            if !*rung {
                self.changed.wait_for(&mut rung, at_most);
            }
            *rung = false;
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}
