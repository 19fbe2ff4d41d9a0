//! One freeze over several groups of this appliance: their drains meet, all gates are closed for as long as it takes to note where
//! each group is, and every group has its marker at that one moment (invariants 2 and 3, across groups).
//!
//! ```text
//!  drain of g ── batch ──▶ arrives ┐                      ┌─▶ its cut ──▶ goes on draining
//!  drain of h ── batch ─────▶ arrives ┴ all gates closed ─┴─▶ its cut ──▶ …
//!                                       (boundaries noted)
//! ```
//!
//! While drains wait for each other hosts write on, into their buffers; they are held for the locks alone. A drain that does not come
//! voids the cut, for all.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::buffer::{Boundary, Buffer};

/// How long drains wait for each other: a sync of a slow disk.
pub const MEET_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Meeting {
    arrived: usize,
    boundaries: Option<Vec<Boundary>>,
    is_void: bool,
}

/// One cut of several groups.
#[derive(Debug)]
pub struct Joint {
    /// In one order for everybody.
    buffers: Vec<Arc<Buffer>>,
    meeting: Mutex<Meeting>,
    met: Condvar,
}

impl Joint {
    /// A cut of the groups with these buffers.
    #[must_use]
    pub fn new(buffers: Vec<Arc<Buffer>>) -> Self {
        Self { buffers, meeting: Mutex::default(), met: Condvar::new() }
    }

    /// A drain comes, and waits for the others. `None`: one of them did not come in time.
    #[must_use]
    pub fn meet(&self, member: usize) -> Option<Boundary> {
        let mut meeting = self.meeting.lock();
        meeting.arrived += 1;
        if meeting.arrived == self.buffers.len() && !meeting.is_void {
            meeting.boundaries = Some(Buffer::freeze_all(&self.buffers));
            self.met.notify_all();
        }
        let unmet = |meeting: &mut Meeting| meeting.boundaries.is_none() && !meeting.is_void;
        if self.met.wait_while_for(&mut meeting, unmet, MEET_LIMIT).timed_out() && meeting.boundaries.is_none() {
            meeting.is_void = true;
            self.met.notify_all();
        }
        meeting.boundaries.as_ref()?.get(member).copied()
    }
}
