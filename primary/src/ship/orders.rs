//! What an operator wants of a pair, and what of this side's own keeps it from sending.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::pair::is_transition_valid;
use tokio::task::block_in_place;

use super::Pair;

/// Between two looks whether a connection has ended, for a thread.
const LOOK: Duration = Duration::from_millis(1);

/// What an operator wants of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Suspended,
    Stop,
    /// As `Stop`: the pair is deleted.
    Delete,
}

/// What a pair's task goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) wanted: Wanted,
    /// How many of this side's own changes keep it from sending anything. No operator's wish overrides them.
    pub(super) held: usize,
    /// Counts changes: a connection under way plans anew.
    pub(super) version: u64,
}

/// A pair that sends nothing while this lives.
#[derive(Debug)]
pub struct Hold(Arc<Pair>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.order(|orders| orders.held -= 1);
    }
}

impl Pair {
    /// Counts what was asked of it: a conversation under way ends when that changes.
    #[must_use]
    pub fn orders(&self) -> u64 {
        self.orders.borrow().version
    }

    /// By the operator: no shipping until [`Self::resume`]. The journal is kept for it as long as it fits.
    ///
    /// # Errors
    /// When the pair's state does not allow it, or it could not be recorded.
    pub fn suspend(&self) -> Result<(), String> {
        let (group, peer) = (self.keeper.name(), &self.peer);
        let reason = format!("suspended by the operator: `tidemark pair resume {group} --to {peer}` goes on");
        self.enter_by_hand(PairState::Suspended, Some(reason), "suspended")?;
        self.want(Wanted::Suspended);
        Ok(())
    }

    /// By the operator: goes on from where it stands.
    ///
    /// # Errors
    /// When the pair's state does not allow it, or it could not be recorded.
    pub fn resume(&self) -> Result<(), String> {
        self.enter_by_hand(self.standing(), None, "resumed")?;
        self.want(Wanted::Run);
        Ok(())
    }

    /// Whether it goes on by itself: nobody has suspended it, and no error keeps it where it is.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let wanted = self.orders.borrow().wanted;
        wanted == Wanted::Run && !matches!(self.view.lock().state, PairState::Suspended | PairState::Error)
    }

    /// By the operator: the image over there is given up, and what differs is written over it.
    ///
    /// # Errors
    /// When nothing differs, the pair's state does not allow it, or it could not be recorded.
    pub fn resume_in_place(self: &Arc<Self>) -> Result<(), String> {
        if self.differences.are_none() && self.differences.copy().is_none() {
            return Err(format!("nothing has to be copied to '{}': its image is not given up", self.peer));
        }
        // A conversation under way would say meanwhile where it stands by what was planned before.
        let _hold = block_in_place(|| self.stand_still());
        let (to, now) = (PairState::InitialCopy, self.view.lock().state);
        if now != to && !is_transition_valid(now, to) {
            return Err(self.refusal("copied in place"));
        }
        self.in_place.store(true, Ordering::Release);
        // A first copy that has begun is in place already, or becomes so where it stands: nothing of it is sent again.
        if !self.differences.copy().is_some_and(|copy| copy.direct && copy.number != 0) {
            block_in_place(|| self.differences.go_in_place()).map_err(|error| error.to_string())?;
        }
        self.enter_by_hand(to, None, "copied in place")?;
        self.want(Wanted::Run);
        Ok(())
    }

    pub(super) fn enter_by_hand(&self, state: PairState, reason: Option<String>, what: &str) -> Result<(), String> {
        if self.enter_if(state, reason, |_, _| true).map_err(|error| error.to_string())? {
            return Ok(());
        }
        Err(self.refusal(what))
    }

    /// Why what an operator wants of the pair is not done.
    fn refusal(&self, what: &str) -> String {
        let view = self.view.lock();
        let why = view.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("the pair with '{}' is {} and cannot be {what}{why}", self.peer, view.state)
    }

    /// Ends [`Self::run`], for good.
    pub fn stop(&self) {
        self.want(Wanted::Stop);
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(|orders| {
            change(orders);
            orders.version += 1;
        });
    }

    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.order(|orders| orders.held += 1);
        Hold(Arc::clone(self))
    }

    /// A stop is for good.
    pub(super) fn want(&self, wanted: Wanted) {
        self.order(|orders| {
            if !matches!(orders.wanted, Wanted::Stop | Wanted::Delete) {
                orders.wanted = wanted;
            }
        });
    }

    /// Nothing is sent while the hold lives: what may have been sent is known, and a connection that goes on plans anew. Waits
    /// until it is so.
    pub(super) fn stand_still(self: &Arc<Self>) -> Hold {
        let hold = self.hold();
        while *self.conversing.borrow() {
            std::thread::sleep(LOOK);
        }
        hold
    }
}
