//! Puts the frames of several streams back into the order in which they were sent.
//!
//! In: what each lane announces and fills. Out: frames by ordinal, without gaps, from 0. It owns the account of bytes held, which
//! never exceeds its bound. Pure: no I/O, no clock.
//!
//! An honest sender numbers frames densely and hands each to one lane, so ordinals on a lane only rise. From this follow all
//! refusals: an ordinal that does not rise or was delivered, one that another lane has, and a gap that no lane can fill any more.
//! A lane whose frame does not fit yet waits; the frame needed next always fits, so waiting ends.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::limits::{FRAME_STORED_BYTES_MAX, REORDER_BYTES_MAX};

/// What keeping a frame costs beside its bytes, so that very many very small ones are bounded too.
const FRAME_OVERHEAD_BYTES: usize = 512;
/// Kept free for the frame needed next.
const RESERVED_BYTES: usize = FRAME_STORED_BYTES_MAX + FRAME_OVERHEAD_BYTES;

/// How a peer broke the order of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A frame that is there already or was delivered.
    #[error("data stream {lane} repeats frame {ordinal}")]
    Repeated {
        /// The stream.
        lane: usize,
        /// The frame.
        ordinal: u64,
    },
    /// Ordinals on one stream fell.
    #[error("data stream {lane} sends frame {ordinal} after {last}")]
    Falling {
        /// The stream.
        lane: usize,
        /// The frame.
        ordinal: u64,
        /// The one before it on this stream.
        last: u64,
    },
    /// Every stream is beyond a frame that never came.
    #[error("frame {ordinal} is missing: every data stream is beyond it")]
    Missing {
        /// The frame.
        ordinal: u64,
    },
}

/// Whether a lane may read the frame it announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Read it, then [`Reorder::fill`].
    Read,
    /// Ask [`Reorder::admit`] again after the next [`Reorder::pop`].
    Wait,
}

#[derive(Debug)]
enum Slot {
    /// Announced, not admitted: costs nothing.
    Waiting,
    /// Being read: charged.
    Reading,
    /// Here: charged.
    Filled(Bytes),
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    /// Nothing announced yet.
    Fresh,
    /// Newest ordinal announced.
    At(u64),
    /// Nothing more will come.
    Ended,
}

/// The frames between those delivered and those not yet begun.
#[derive(Debug)]
pub struct Reorder {
    next: u64,
    held_bytes: usize,
    slots: BTreeMap<u64, Slot>,
    lanes: Vec<Progress>,
}

impl Reorder {
    /// Nothing has come yet, over so many lanes.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self { next: 0, held_bytes: 0, slots: BTreeMap::new(), lanes: vec![Progress::Fresh; lanes] }
    }

    /// Lane `lane` has a frame of so many bytes.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn announce(&mut self, lane: usize, ordinal: u64, length: usize) -> Result<Admission, OrderError> {
        if let Some(progress) = self.lanes.get_mut(lane) {
            match *progress {
                Progress::At(last) if ordinal < last => return Err(OrderError::Falling { lane, ordinal, last }),
                _ => *progress = Progress::At(ordinal),
            }
        }
        if ordinal < self.next || self.slots.contains_key(&ordinal) {
            return Err(OrderError::Repeated { lane, ordinal });
        }
        self.slots.insert(ordinal, Slot::Waiting);
        self.check_gap()?;
        Ok(self.admit(ordinal, length))
    }

    /// Whether a frame announced before may be read now.
    pub fn admit(&mut self, ordinal: u64, length: usize) -> Admission {
        let charge = charge(length);
        let fits = self.held_bytes.saturating_add(charge).saturating_add(RESERVED_BYTES) <= REORDER_BYTES_MAX;
        match self.slots.get_mut(&ordinal) {
            Some(slot @ Slot::Waiting) if fits || ordinal == self.next => {
                *slot = Slot::Reading;
                self.held_bytes = self.held_bytes.saturating_add(charge);
                assert!(self.held_bytes <= REORDER_BYTES_MAX, "invariant 10: the reorder buffer is bounded");
                Admission::Read
            }
            _ => Admission::Wait,
        }
    }

    /// An admitted frame is here.
    pub fn fill(&mut self, ordinal: u64, frame: Bytes) {
        self.slots.insert(ordinal, Slot::Filled(frame));
    }

    /// Lane `lane` ended.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn end(&mut self, lane: usize) -> Result<(), OrderError> {
        if let Some(progress) = self.lanes.get_mut(lane) {
            *progress = Progress::Ended;
        }
        self.check_gap()
    }

    /// The next frame, if it is here.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn pop(&mut self) -> Result<Option<Bytes>, OrderError> {
        match self.slots.first_entry() {
            Some(entry) if *entry.key() == self.next && matches!(entry.get(), Slot::Filled(_)) => {
                let Slot::Filled(frame) = entry.remove() else { return Ok(None) };
                self.held_bytes = self.held_bytes.saturating_sub(charge(frame.len()));
                self.next = self.next.saturating_add(1);
                self.check_gap()?;
                Ok(Some(frame))
            }
            _ => Ok(None),
        }
    }

    /// Every lane has ended, and everything announced was delivered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.slots.is_empty() && self.lanes.iter().all(|progress| matches!(progress, Progress::Ended))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn check_gap(&self) -> Result<(), OrderError> {
        let beyond = |progress: &Progress| match *progress {
            Progress::Fresh => false,
            Progress::At(last) => last >= self.next,
            Progress::Ended => true,
        };
        let comes = self.slots.is_empty() || self.slots.contains_key(&self.next);
        if !comes && self.lanes.iter().all(beyond) { Err(OrderError::Missing { ordinal: self.next }) } else { Ok(()) }
    }
}

fn charge(length: usize) -> usize {
    length.saturating_add(FRAME_OVERHEAD_BYTES)
}

#[cfg(test)]
#[path = "reorder_tests.rs"]
mod tests;
