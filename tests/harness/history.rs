//! The acknowledged history: which writes were sent and answered, in which order a host saw it.
//!
//! One clock ticks for everything: a write's `sent` tick is taken before its bytes leave, its `acked` tick after its answer
//! has come in. So `acked(A) < sent(B)` means that the host had seen A answered before it sent B, on whatever thread.
//!
//! Two writes to the same block are never in flight together; the workload keeps to that and [`History::writes`] checks it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oracle::Verdict;
use crate::stamp::WriteId;

/// A moment, in ticks of a history's clock.
pub type Tick = u64;

/// What a write does to its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stamps them.
    Stamp,
    /// Zeroes them. Only prefilled blocks, and each at most once, else a zero would not tell which write it shows.
    Zero,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its number.
    pub id: WriteId,
    /// Which volume, by its place in the group.
    pub volume: usize,
    /// Its first block.
    pub first: u64,
    /// How many blocks.
    pub blocks: u64,
    /// What it does.
    pub kind: Kind,
    /// When it was sent.
    pub sent: Tick,
    /// When its answer was seen.
    pub acked: Option<Tick>,
    /// A crash or a failover has lost it for good: seeing it again is a violation.
    pub lost: bool,
    /// No image may lack it.
    pub everywhere: bool,
}

impl Write {
    /// The blocks it covers.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.blocks
    }
}

/// All writes of a run.
#[derive(Debug, Default)]
pub struct History {
    clock: AtomicU64,
    writes: Mutex<Vec<Write>>,
    /// Blocks before this one hold data on every volume from the beginning.
    prefilled_to: AtomicU64,
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now: later than everything noted before, earlier than everything noted after.
    pub fn tick(&self) -> Tick {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes a write that is about to be sent.
    pub fn sending(&self, volume: usize, first: u64, blocks: u64, kind: Kind) -> WriteId {
        let mut writes = self.lock();
        let id = writes.len() as WriteId + 1;
        writes.push(Write {
            id,
            volume,
            first,
            blocks,
            kind,
            sent: self.tick(),
            acked: None,
            lost: false,
            everywhere: false,
        });
        id
    }

    /// Notes that its answer has been seen.
    pub fn acknowledged(&self, id: WriteId) {
        let tick = self.tick();
        let mut writes = self.lock();
        let write = &mut writes[id as usize - 1];
        assert!(write.acked.is_none(), "write {id} was answered twice");
        write.acked = Some(tick);
    }

    /// Notes that all blocks before this one hold data on every volume.
    pub fn prefilled(&self, to_block: u64) {
        self.prefilled_to.store(to_block, Ordering::SeqCst);
    }

    /// Notes that no image may lack what was answered so far: it was there, for good, before there was anything to make images of. An empty
    /// image is a legal moment of any history, and no copy may go back to it.
    pub fn everywhere(&self) {
        for write in self.lock().iter_mut() {
            write.everywhere = write.acked.is_some();
        }
    }

    /// See [`Self::prefilled`].
    #[must_use]
    pub fn prefilled_to(&self) -> u64 {
        self.prefilled_to.load(Ordering::SeqCst)
    }

    /// Everything so far.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        self.lock().clone()
    }

    /// Writes answered so far.
    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.lock().iter().filter(|write| write.acked.is_some()).count()
    }

    /// As it was at a moment.
    #[must_use]
    pub fn as_of(&self, moment: Tick) -> Self {
        let mut writes = self.writes();
        writes.retain(|write| write.sent < moment);
        for write in &mut writes {
            write.acked = write.acked.filter(|acked| *acked < moment);
        }
        let clock = self.clock.load(Ordering::SeqCst);
        Self { clock: clock.into(), writes: writes.into(), prefilled_to: self.prefilled_to().into() }
    }

    /// After a crash or a failover the image is what counts: what it holds has happened, the rest never will.
    pub fn settle(&self, verdict: &Verdict) {
        let now = self.tick();
        for write in self.lock().iter_mut().filter(|write| !write.lost) {
            if verdict.holds(write.id) {
                write.acked.get_or_insert(now);
            } else {
                write.lost = true;
            }
        }
    }
}
