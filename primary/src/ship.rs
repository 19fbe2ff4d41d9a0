//! A pair, from the primary's side: finds the other appliance, agrees from where to go on, ships, and keeps what comes
//! back. Owns `shipped_seq`, the pair's state, and the place in the journal that must be kept for it.
//!
//! ```text
//! dial ─▶ hello ─▶ welcome ─▶ plan: follow | copy (new or from its cursor) | stop with a reason
//!            └──▶ refused ─▶ fenced | error with a reason | try again
//! ```

mod connection;
mod error;
mod orders;
mod to_copy;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{CatalogError, PairRecord};
use tidemark_common::clock::{Clock, from_unix_ns, unix_ns};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{ApplianceId, Generation};
use tidemark_common::journal::Position;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::Endpoint;
use tidemark_common::metrics::{GroupMetrics, PairMetrics, Part};
use tidemark_common::pair::{goes_by_itself, is_transition_valid};
use tidemark_common::repeats::{Recurring, Repeats};
use tidemark_common::workers;
use tokio::sync::watch;

pub use self::connection::PAUSE_MAX;
pub use self::error::ShipError;
pub use self::orders::Hold;
use self::orders::{Orders, Wanted};
use crate::coalesce::Moment;
use crate::differences::{Differences, everything};
use crate::drain::DrainDesk;
use crate::feeder::Reading;
use crate::image::Image;
use crate::view::View;

/// How an appliance's groups reach others.
pub trait Links: Send + Sync + 'static {
    /// This appliance's endpoint.
    fn endpoint(&self) -> Arc<Endpoint>;
    /// Id and address of a peer.
    ///
    /// # Errors
    /// What is missing and what to do.
    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String>;
    /// This appliance's name.
    fn name(&self) -> String;
    /// A peer has taken over a group with a higher generation: this one serves no more.
    fn fenced(&self, group: &str, peer: &str, generation: Generation);
}

/// Everything a pair is started with.
pub struct PairParts {
    /// What is shipped.
    pub image: Image,
    /// Whom to ask for a cut.
    pub desk: Arc<DrainDesk>,
    /// The group's record.
    pub keeper: Arc<GroupKeeper>,
    /// The way to the peer.
    pub links: Arc<dyn Links>,
    /// The clock seam.
    pub clock: Arc<dyn Clock>,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Where the group's figures go, and this pair's.
    pub metrics: GroupMetrics,
}

/// One pair of a primary's group.
pub struct Pair {
    pub(crate) peer: String,
    pub(crate) image: Image,
    pub(crate) desk: Arc<DrainDesk>,
    pub(crate) keeper: Arc<GroupKeeper>,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) heartbeat: Duration,
    orders: watch::Sender<Orders>,
    conversing: watch::Sender<bool>,
    /// The operator gives up the other side's image.
    pub(crate) in_place: AtomicBool,
    pub(crate) differences: Arc<Differences>,
    pub(crate) view: Mutex<View>,
    /// Where its feeder is in the journal. Taken before the view.
    pub(crate) reading: Arc<Mutex<Reading>>,
    /// Where the disk did not give out the journal last, since when, and how often in a row.
    pub(crate) unread: Mutex<Option<(Position, Duration, u32)>>,
    /// What its link takes in a moment.
    pub(crate) moment: Moment,
    /// What was logged of connections that come and go.
    pub(crate) repeats: Repeats,
    /// What was logged of a state that could not be recorded.
    pub(crate) unrecorded: Recurring,
    /// What was logged of a journal that could not be given up for it.
    pub(crate) not_given_up: Recurring,
    /// That of the group when it was started: of another, it records nothing.
    generation: u64,
    /// Held while the state changes, so that the view is free while that is recorded.
    entering: Mutex<()>,
    pub(crate) metrics: GroupMetrics,
    pub(crate) line: PairMetrics,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Pair {
    /// A pair as its record says; [`Self::run`] makes it go.
    #[must_use]
    pub fn new(record: &PairRecord, parts: PairParts) -> Self {
        let PairParts { image, desk, keeper, links, clock, heartbeat, metrics } = parts;
        let state = PairState::from(record.state);
        let stands = matches!(state, PairState::Suspended | PairState::FailedOver | PairState::Fenced);
        let wanted = if stands { Wanted::Suspended } else { Wanted::Run };
        // Whether it followed or lagged when the service ended is not recorded.
        let since = if state == PairState::CatchingUp { clock.wall() } else { from_unix_ns(record.since_ns) };
        let generation = keeper.generation().0;
        let differences = Arc::new(Differences::open(Arc::clone(&keeper), record));
        let mut view = View::new(state, record.reason.clone(), since);
        // What the journal holds is a lower bound; the other side says more when it is reached.
        view.holds = Some(image.journal.oldest());
        // Until then, anything may have been sent before this start.
        view.sent_up_to = image.journal.durable_end().position;
        view.written.at = view.sent_up_to;
        view.delivered.at = image.journal.oldest();
        if let (PairState::FailedOver, Some(parted)) = (state, record.parted) {
            // The other side may return: it has what both had, and was sent nothing since.
            view.holds = view.holds.map(|oldest| oldest.max(parted.place()));
            view.sent_up_to = parted.place();
        }
        view.copying = record.copy.as_ref().map(|copy| (copy.number, differences.bitmap()));
        Self {
            peer: record.peer.clone(),
            image,
            desk,
            keeper,
            links,
            clock,
            heartbeat,
            orders: watch::Sender::new(Orders { wanted, held: 0, version: 0 }),
            conversing: watch::Sender::new(false),
            in_place: AtomicBool::new(false),
            differences,
            view: Mutex::new(view),
            reading: Arc::default(),
            unread: Mutex::default(),
            moment: Moment::default(),
            repeats: Repeats::default(),
            unrecorded: Recurring::default(),
            not_given_up: Recurring::default(),
            generation,
            entering: Mutex::new(()),
            line: metrics.pair(&record.peer),
            metrics,
        }
    }

    /// The other appliance.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The pair as commands name it.
    pub(crate) fn in_commands(&self) -> String {
        format!("{} --to {}", self.keeper.name(), self.peer)
    }

    /// The oldest place in the journal this pair needs.
    #[must_use]
    pub fn holds(&self) -> Option<Position> {
        self.view.lock().holds
    }

    /// Whether the other side was primary and has not returned: nothing is sent to it before a person has done something there.
    pub(crate) fn awaits_return(&self) -> bool {
        let (state, has_image) = {
            let view = self.view.lock();
            (view.state, view.remote.permitted_marker > 0)
        };
        // Where the histories parted stays recorded: who has said since that it has an image of this one has returned.
        let was_primary = || self.keeper.pair(&self.peer).is_some_and(|pair| pair.parted.is_some());
        state == PairState::FailedOver || state == PairState::Error && !has_image && was_primary()
    }

    /// The state that belongs to what is known of the pair's data.
    pub(crate) fn standing(&self) -> PairState {
        match self.differences.copy() {
            Some(copy) if copy.direct => PairState::InitialCopy,
            Some(_) => PairState::Resync,
            None if self.differences.are_none() => PairState::CatchingUp,
            None => PairState::Differential,
        }
    }

    /// Whether what the other side lacks is copied anew, whatever of the journal is kept for it from now on: nothing of a copy has begun, or what
    /// it would go on with was given up.
    pub(crate) fn is_copied_anew(&self) -> bool {
        match self.differences.copy() {
            Some(copy) => copy.number == 0 || self.view.lock().given_up,
            None => !self.differences.are_none(),
        }
    }

    /// Goes into a state by what has happened, says so, and records it where it must outlive the process. `false`: it does not follow the
    /// state the pair is in.
    pub(crate) fn enter(&self, state: PairState, reason: Option<String>) -> Result<bool, CatalogError> {
        self.enter_if(state, reason, goes_by_itself)
    }

    /// The same for whoever may only go from some states to others.
    fn enter_if(
        &self,
        state: PairState,
        reason: Option<String>,
        may: fn(PairState, PairState) -> bool,
    ) -> Result<bool, CatalogError> {
        if let Some(_alone) = self.entering.try_lock()
            && self.stays(state, reason.as_ref())
        {
            return Ok(true);
        }
        // A catalogue whose disk does not answer keeps who changes it, and no thread that others are heard by.
        let _alone = workers::wait(|| self.entering.lock());
        if self.stays(state, reason.as_ref()) { Ok(true) } else { self.change_state(state, reason, may) }
    }

    /// Whether it is in this state already. The reason may be another one.
    fn stays(&self, state: PairState, reason: Option<&String>) -> bool {
        let mut view = self.view.lock();
        let stays = view.state == state;
        if stays {
            view.reason = reason.cloned();
        }
        stays
    }

    /// A state could not be recorded. It is tried again.
    pub(crate) fn not_recorded(&self, error: &CatalogError) {
        self.metrics.error(Part::Catalog);
        if let Some(left_out) = self.unrecorded.stands(&error.to_string(), self.clock.monotonic()) {
            let (group, peer) = (self.keeper.name(), &self.peer);
            tracing::error!(%group, %peer, %error, left_out, "the pair's state could not be recorded; it is tried again");
        }
    }

    fn change_state(
        &self,
        state: PairState,
        reason: Option<String>,
        may: fn(PairState, PairState) -> bool,
    ) -> Result<bool, CatalogError> {
        let from = self.view.lock().state;
        // Whoever waited here until an operator's suspension was recorded has looked at the pair before that.
        if !is_transition_valid(from, state) || !may(from, state) {
            tracing::warn!(peer = %self.peer, %from, to = %state, "a change of state was refused");
            return Ok(false);
        }
        let now = self.clock.wall();
        // Following and lagging change by themselves; everything else is recorded first. Why it lags is not: a link is lost whether the catalogue
        // takes that or not, and who finds it so next says why.
        let recorded = if state == PairState::Paired { PairState::CatchingUp } else { state };
        let why = reason.clone().filter(|_| recorded != PairState::CatchingUp);
        let is_recorded = |pair: PairRecord| pair.state == recorded.into() && pair.reason == why;
        // What is recorded already waits for nobody who changes the catalogue, whose disk may hang: heartbeats come by here.
        if !self.keeper.pair(&self.peer).is_some_and(is_recorded) {
            self.keeper.update(|group| {
                // A conversation may outlive its engine: what it was told then says nothing of what an operator has made of the group.
                if group.generation != self.generation {
                    return;
                }
                let Some(pair) = group.pairs.iter_mut().find(|pair| pair.peer == self.peer) else { return };
                if pair.state != recorded.into() {
                    pair.state = recorded.into();
                    pair.since_ns = unix_ns(now);
                }
                pair.reason = why;
            })?;
        }
        tracing::info!(group = %self.keeper.name(), peer = %self.peer, %from, to = %state, reason, "pair state");
        {
            let mut view = self.view.lock();
            view.state = state;
            view.reason = reason;
            view.since = now;
        }
        self.line.state_changed(state);
        if state == PairState::Error {
            self.metrics.error(Part::Ship);
        }
        Ok(true)
    }

    /// What its link takes in a moment: for whoever sees the link.
    #[must_use]
    pub const fn moment(&self) -> &Moment {
        &self.moment
    }

    /// Every region of the group's volumes.
    pub(crate) fn everything(&self) -> Bitmap {
        let sizes: Vec<_> = self.image.volumes.all().iter().map(|volume| (volume.index, volume.size())).collect();
        everything(&sizes)
    }

    /// The place in the journal behind which nothing was ever sent. `None` when that is not all there is to know: a copy is
    /// under way, or what the other side has is to be looked at as it was.
    pub(crate) fn sent_up_to(&self) -> Option<Position> {
        let view = self.view.lock();
        let follows = matches!(view.state, PairState::Paired | PairState::CatchingUp | PairState::Suspended);
        let complete = self.differences.are_none() && self.differences.copy().is_none();
        (follows && complete).then_some(view.sent_up_to)
    }

    /// The pair is deleted.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub fn forget(&self) -> Result<(), CatalogError> {
        self.differences.forget()?;
        self.want(Wanted::Delete);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
