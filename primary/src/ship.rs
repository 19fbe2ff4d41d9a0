//! A pair, from the primary's side: finds the other appliance, agrees from where to go on, ships, and keeps what comes
//! back. Owns `shipped_seq`, the pair's state, and the place in the journal that must be kept for it.
//!
//! ```text
//! dial ─▶ hello ─▶ welcome ─▶ plan: follow | copy (new or from its cursor) | stop with a reason
//!            └──▶ refused ─▶ fenced | error with a reason | try again
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{CatalogError, PairRecord, PartedRecord};
use tidemark_common::clock::{Clock, from_unix_ns, unix_ns};
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{ApplianceId, Generation, Seq};
use tidemark_common::journal::{JournalError, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{
    Connection, ControlReceiver, ControlSender, DialError, Endpoint, LinkError, Parting, Stats,
};
use tidemark_common::metrics::{GroupMetrics, PairMetrics, Part};
use tidemark_common::pair::is_transition_valid;
use tidemark_common::record::Chain;
use tidemark_common::repeats::Repeats;
use tidemark_common::stage;
use tidemark_common::wire::handshake::{HandshakeError, Versions, read_answer};
use tidemark_common::wire::message::{Message, Position as Remote, Refusal};
use tokio::sync::{mpsc, watch};
use tokio::task::block_in_place;

use crate::coalesce::Moment;
use crate::differences::{Differences, DifferencesError, everything};
use crate::drain::DrainDesk;
use crate::feeder::{FeedError, Feeder, Reading};
use crate::image::{Image, ImageError};
use crate::view::View;

/// Shipments waiting for the link.
const QUEUE: usize = 2;
/// The first pause before another try to connect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Between two looks whether a connection has ended, for a thread.
const LOOK: Duration = Duration::from_millis(1);

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

/// What an operator wants of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    Suspended,
    Stop,
    /// As `Stop`: the pair is deleted.
    Delete,
}

/// What a pair's task goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Orders {
    wanted: Wanted,
    /// How many of this side's own changes keep it from sending anything. No operator's wish overrides them.
    held: usize,
    /// Counts changes: a connection under way plans anew.
    version: u64,
}

/// A pair that sends nothing while this lives.
#[derive(Debug)]
pub struct Hold(Arc<Pair>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.order(|orders| orders.held -= 1);
    }
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

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The peer cannot be reached, or it said goodbye.
    #[error("{0}")]
    Reach(String),
    /// Nobody answers.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer refused, or speaks another version.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pair's record.
    #[error(transparent)]
    Differences(#[from] DifferencesError),
    /// What was to be sent.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The peer ended it.
    #[error("the other side ended the conversation")]
    Ended,
    /// A resync finds no room over there.
    #[error(
        "{} MiB differ, and the copy's journal there has {} MiB for them beside the image that is kept until all have come: raise \
         journal_bytes in the configuration there and restart it, or give that image up with `tidemark pair resume {pair} --in-place`; \
         until then it stays usable",
        bytes >> 20, room >> 20
    )]
    Staging {
        /// The pair as commands name it.
        pair: String,
        /// What differs.
        bytes: u64,
        /// What the journal there has for it.
        room: u64,
    },
    /// A resync finds no more room over there.
    #[error(
        "the copy's journal there, {} MiB, is full of a resync that is not complete: hosts wrote more meanwhile than there was \
         room for beside the image that is kept until then; raise journal_bytes in the configuration there and restart it (the \
         resync goes on where it stands), or give that image up with `tidemark pair resume {pair} --in-place`; until then it stays usable",
        capacity_bytes >> 20
    )]
    Outgrown {
        /// The pair as commands name it.
        pair: String,
        /// What the journal there may hold.
        capacity_bytes: u64,
    },
    /// Only a person can help.
    #[error("{0}")]
    Stands(String),
    /// Told to stop.
    #[error("stopped")]
    Stopped,
}

impl ShipError {
    /// The journal's part in it.
    const fn journal(&self) -> Option<&JournalError> {
        match self {
            Self::Journal(error)
            | Self::Differences(DifferencesError::Journal(error))
            | Self::Feed(
                FeedError::Journal(error)
                | FeedError::Image(ImageError::Journal(error))
                | FeedError::Differences(DifferencesError::Journal(error)),
            ) => Some(error),
            _ => None,
        }
    }

    /// A record of the journal that was to be sent cannot be: what the volumes hold can be sent instead.
    pub(crate) const fn damaged_frame(&self) -> Option<&JournalError> {
        match self {
            Self::Feed(FeedError::Journal(error)) if error.is_of_the_records() => Some(error),
            _ => None,
        }
    }

    /// The disk did not give out what was to be sent.
    pub(crate) fn unreadable_frame(&self) -> Option<&JournalError> {
        match self {
            Self::Feed(FeedError::Journal(error)) if error.is_unreadable() => Some(error),
            _ => None,
        }
    }

    /// Whether a record of the journal is not what was written (invariant 9).
    pub(crate) fn is_damage(&self) -> bool {
        self.journal().is_some_and(JournalError::is_damage)
    }

    /// Whether it is tried again by itself, and that helps only once a person has done something.
    pub(crate) fn waits_for_a_person(&self) -> bool {
        let left = matches!(self, Self::Reach(_) | Self::Handshake(HandshakeError::Goodbye { .. }));
        left || matches!(self, Self::Staging { .. } | Self::Outgrown { .. }) || self.needs_a_person()
    }

    /// Whether trying again by itself cannot help.
    pub(crate) fn needs_a_person(&self) -> bool {
        match self {
            Self::Stands(_)
            | Self::Differences(DifferencesError::Unreadable { .. })
            | Self::Dial(DialError::WrongPeer { .. } | DialError::Refused { .. }) => true,
            Self::Handshake(HandshakeError::Refused(refused)) => {
                !matches!(refused.refusal, Refusal::Unready | Refusal::Suspended | Refusal::Damaged)
            }
            _ => self.journal().is_some_and(|error| !matches!(error, JournalError::Trimmed { .. })),
        }
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

    /// Counts what was asked of it: a conversation under way ends when that changes.
    #[must_use]
    pub fn orders(&self) -> u64 {
        self.orders.borrow().version
    }

    /// The oldest place in the journal this pair needs.
    #[must_use]
    pub fn holds(&self) -> Option<Position> {
        self.view.lock().holds
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

    fn enter_by_hand(&self, state: PairState, reason: Option<String>, what: &str) -> Result<(), String> {
        if self.enter(state, reason).map_err(|error| error.to_string())? {
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

    fn hold(self: &Arc<Self>) -> Hold {
        self.order(|orders| orders.held += 1);
        Hold(Arc::clone(self))
    }

    /// A stop is for good.
    fn want(&self, wanted: Wanted) {
        self.order(|orders| {
            if !matches!(orders.wanted, Wanted::Stop | Wanted::Delete) {
                orders.wanted = wanted;
            }
        });
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

    /// Goes into a state, says so, and records it where it must outlive the process. `false`: it does not follow the state
    /// the pair is in.
    pub(crate) fn enter(&self, state: PairState, reason: Option<String>) -> Result<bool, CatalogError> {
        let _alone = self.entering.lock();
        let from = {
            let mut view = self.view.lock();
            if view.state == state {
                view.reason = reason;
                return Ok(true);
            }
            view.state
        };
        if !is_transition_valid(from, state) {
            tracing::warn!(peer = %self.peer, %from, to = %state, "a change of state was refused");
            return Ok(false);
        }
        let now = self.clock.wall();
        // Following and lagging change by themselves; everything else is recorded first.
        let recorded = if state == PairState::Paired { PairState::CatchingUp } else { state };
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
            pair.reason.clone_from(&reason);
        })?;
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

    /// Runs until [`Self::stop`].
    pub async fn run(self: Arc<Self>) {
        let mut orders = self.orders.subscribe();
        let mut pause = PAUSE.0;
        loop {
            let now = *orders.borrow_and_update();
            match now.wanted {
                Wanted::Stop | Wanted::Delete => return,
                Wanted::Run if now.held == 0 => {}
                Wanted::Run | Wanted::Suspended => {
                    let changed = tokio::select! {
                        changed = orders.changed() => changed,
                        () = self.ask_while_suspended() => return,
                    };
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let begin = self.clock.monotonic();
            self.conversing.send_replace(true);
            let result = tokio::select! {
                result = self.converse() => result,
                _ = orders.changed() => Err(ShipError::Stopped),
            };
            // In this order: what its end makes of the pair may be read out of the journal, which whoever waits for the end gives up and trims.
            self.disconnected(result.err());
            self.conversing.send_replace(false);
            if self.view.lock().state == PairState::Fenced {
                return;
            }
            if self.clock.monotonic().saturating_sub(begin) > PAUSE.1 {
                pause = PAUSE.0;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                _ = orders.changed() => pause = PAUSE.0,
            }
        }
    }

    /// One connection, from dialing to its end.
    async fn converse(&self) -> Result<(), ShipError> {
        let (id, address) = self.links.reach(&self.peer).map_err(ShipError::Reach)?;
        let endpoint = self.links.endpoint();
        let connection = endpoint.dial(&address, id).await?;
        // Also when this is broken off by an order.
        let _farewell = Farewell { pair: self, connection: &connection };
        let ended = self.talk(&connection).await;
        let of_the_link = |error: &ShipError| {
            matches!(
                error,
                ShipError::Link(_)
                    | ShipError::Handshake(_)
                    | ShipError::Reach(_)
                    | ShipError::Ended
                    | ShipError::Stopped
            )
        };
        if let Err(error) = &ended
            && !of_the_link(error)
        {
            connection.close_as(Parting::SendsNothing, &format!("'{}' sends nothing: {error}", self.links.name()));
        }
        ended
    }

    async fn talk(&self, connection: &Connection) -> Result<(), ShipError> {
        let (control, mut answers) = connection.open_control().await?;
        control.send(&Message::Hello(self.hello())).await?;
        let answer = answers.recv().await?.ok_or(ShipError::Ended)?;
        let welcome = read_answer(Versions::OURS, answer)?;
        let feeder = self.begin(&welcome).await?;
        self.ship(connection, control, answers, feeder).await
    }

    /// Why it ends a conversation that went well, for the other side and for the people there.
    fn parting(&self) -> (Parting, String) {
        let here = self.links.name();
        match self.orders.borrow().wanted {
            Wanted::Suspended => (Parting::Suspended, self.suspended_here()),
            Wanted::Stop => (Parting::Over, format!("'{here}' was stopped")),
            Wanted::Delete => {
                (Parting::Over, format!("the pair of group '{}' was deleted on '{here}'", self.keeper.name()))
            }
            Wanted::Run => (Parting::Over, format!("'{here}' begins anew")),
        }
    }

    async fn ship(
        &self,
        connection: &Connection,
        control: ControlSender,
        answers: ControlReceiver,
        feeder: Feeder,
    ) -> Result<(), ShipError> {
        let mut data = connection.open_data(DATA_STREAMS).await?;
        let (out, mut shipments) = mpsc::channel(QUEUE);
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop.0);
        let feeding = tokio::task::spawn_blocking(move || stage::named(c"feeder", || feeder.run(&out, &stopping)));
        let sending = async {
            while let Some(shipment) = shipments.recv().await {
                self.sent(&shipment);
                data.send(shipment.bytes).await?;
                self.see_link(&connection.stats());
            }
            Ok::<(), ShipError>(())
        };
        tokio::select! {
            result = sending => {
                result?;
                // The feeder ended: it knows why.
                Err(feeding.await.map_err(|_| ShipError::Stopped)?.err().map_or(ShipError::Ended, ShipError::Feed))
            }
            result = self.listen(answers) => result,
            result = self.beat(connection, control) => result,
        }
    }

    fn see_link(&self, stats: &Stats) {
        self.moment.see(stats.congestion_window_bytes, stats.round_trip, stats.rate_limit, self.desk.interval());
    }

    /// Tells the time and the newest number, so that the other side knows how good its copy is; and what it is to keep.
    async fn beat(&self, connection: &Connection, control: ControlSender) -> Result<(), ShipError> {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0;
        let mut packets = self.line.packets();
        let mut told = None;
        loop {
            ticks.tick().await;
            let history = self.keeper.get().history;
            if told.replace(history) != Some(history) {
                control.send(&Message::History(history)).await?;
            }
            number += 1;
            control.send(&self.heartbeat(number)).await?;
            let stats = connection.stats();
            let filled_and_starved = connection.filled_and_starved();
            packets.now(stats.sent_packets, stats.lost_packets);
            {
                let mut view = self.view.lock();
                view.round_trip = Some(stats.round_trip);
                view.see_link(stats.blocked, filled_and_starved);
            }
            self.moment.fade();
            self.see_link(&stats);
            self.judge();
        }
    }

    async fn listen(&self, mut answers: ControlReceiver) -> Result<(), ShipError> {
        loop {
            self.heard(answers.recv().await?.ok_or(ShipError::Ended)?)?;
        }
    }

    /// The journal is full: the pair's frames up to the given place go into its bitmap, durably, and are no longer needed
    /// (invariant 6). The pair is then `differential` and copies by itself when the link is back.
    ///
    /// # Errors
    /// When the journal cannot be read or the bitmap not recorded; nothing is given up then.
    pub fn fall_back(self: &Arc<Self>, up_to: Position) -> Result<(), String> {
        if self.view.lock().state == PairState::Fenced {
            // What was never shipped is nobody else's.
            return Ok(());
        }
        if self.holds().is_none_or(|holds| holds >= up_to) {
            return Ok(());
        }
        let _hold = self.stand_still();
        let (holds, sent_up_to, arrived) = {
            let view = self.view.lock();
            (view.holds, view.sent_up_to, view.arrived())
        };
        let Some(from) = holds.filter(|holds| *holds < up_to) else { return Ok(()) };
        let from = from.max(self.image.journal.oldest());
        let (journal, all) = (&self.image.journal, self.everything());
        let given_up = self.differences.give_up(journal, (from, up_to), sent_up_to, arrived, &all);
        let unread = given_up.map_err(|error| error.to_string())?;
        self.view.lock().give_up(up_to);
        if let Some(damage) = &unread {
            self.tell_damage(damage);
        }
        let state = self.view.lock().state;
        if !matches!(state, PairState::Suspended | PairState::InitialCopy | PairState::Error | PairState::FailedOver) {
            let reason = "the journal could not be kept for this pair: differences are in the bitmap".to_owned();
            self.enter(PairState::Differential, Some(reason)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// By the operator: the journal is kept for this pair no longer. What it holds for it goes into the bitmap.
    ///
    /// # Errors
    /// When the pair follows, is fenced, or it could not be recorded.
    pub fn release(self: &Arc<Self>) -> Result<(), String> {
        match self.view.lock().state {
            PairState::Paired => {
                return Err(format!("'{}' follows: nothing older than what is under way is kept for it", self.peer));
            }
            PairState::Fenced => {
                return Err(
                    "what this side never shipped is nobody else's: it is kept until the group is given up".into()
                );
            }
            PairState::InitialCopy
            | PairState::CatchingUp
            | PairState::Differential
            | PairState::Resync
            | PairState::Suspended
            | PairState::FailedOver
            | PairState::Error => {}
        }
        self.fall_back(self.image.journal.durable_end().position)
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

    /// What differs of volumes that have left the group is not copied, nor counted.
    pub(crate) fn let_go(&self) -> Result<(), DifferencesError> {
        self.differences.keep_only(&self.everything())
    }

    /// What the journal was kept for, for this pair, cannot be read: it is copied from the volumes.
    fn tell_damage(&self, damage: &JournalError) {
        let group = self.keeper.name();
        tracing::error!(%group, peer = %self.peer, error = %damage, "the journal is damaged; what it held for this pair is copied from the volumes");
        self.metrics.journal_damaged();
        self.metrics.error(Part::Ship);
    }

    /// The journal cannot be read any further for this pair: what it holds for it goes into the bitmap, and is copied from the
    /// volumes. Nothing of the damaged record is sent (invariant 9), nothing behind it is forgotten (6).
    ///
    /// # Errors
    /// When that could not be recorded.
    pub(crate) fn copy_around(&self, damage: &JournalError) -> Result<bool, DifferencesError> {
        let journal = &self.image.journal;
        let (holds, sent_up_to, arrived) = {
            let view = self.view.lock();
            (view.holds, view.sent_up_to, view.arrived())
        };
        let (from, up_to) =
            (holds.unwrap_or_else(|| journal.oldest()).max(journal.oldest()), journal.durable_end().position);
        self.differences.give_up(journal, (from, up_to), sent_up_to, arrived, &self.everything())?;
        self.view.lock().give_up(up_to);
        self.tell_damage(damage);
        let reason =
            format!("the journal here is damaged, and what it held for this pair is copied from the volumes: {damage}");
        Ok(self.enter(PairState::Differential, Some(reason))?)
    }

    /// Nothing is sent while the hold lives: what may have been sent is known, and a connection that goes on plans anew. Waits
    /// until it is so.
    fn stand_still(self: &Arc<Self>) -> Hold {
        let hold = self.hold();
        while *self.conversing.borrow() {
            std::thread::sleep(LOOK);
        }
        hold
    }

    /// The place in the journal behind which nothing was ever sent. `None` when that is not all there is to know: a copy is
    /// under way, or what the other side has is to be looked at as it was.
    pub(crate) fn sent_up_to(&self) -> Option<Position> {
        let view = self.view.lock();
        let follows = matches!(view.state, PairState::Paired | PairState::CatchingUp | PairState::Suspended);
        let complete = self.differences.are_none() && self.differences.copy().is_none();
        (follows && complete).then_some(view.sent_up_to)
    }

    /// A volume comes to the group with data on it, or more of one: nothing more is shipped while the hold lives, and what is
    /// shipped then begins with a copy of it. So no marker that counts it reaches the other side before its content does.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub async fn hold_for(self: &Arc<Self>, extent: Extent) -> Result<Hold, String> {
        let mut regions = Bitmap::default();
        regions.mark(extent);
        self.hold_to_copy(&regions).await
    }

    /// Regions that differ are copied again.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub async fn mend(self: &Arc<Self>, regions: &Bitmap) -> Result<(), String> {
        self.hold_to_copy(regions).await.map(drop)
    }

    async fn hold_to_copy(self: &Arc<Self>, regions: &Bitmap) -> Result<Hold, String> {
        let hold = self.hold();
        let mut conversing = self.conversing.subscribe();
        // The sender is part of this pair: it cannot be gone.
        let _ = conversing.wait_for(|conversing| !conversing).await;
        let arrived = self.view.lock().arrived();
        block_in_place(|| self.differences.mark(regions, arrived)).map_err(|error| error.to_string())?;
        Ok(hold)
    }

    /// The other side, which was primary, returns as the copy: what it wrote after the histories parted, or, with `whole`,
    /// everything, is copied to it.
    ///
    /// # Errors
    /// When the pair's state does not allow it, or it could not be recorded.
    pub fn returned(&self, dirty: &Bitmap, whole: bool) -> Result<(), String> {
        let everything = whole.then(|| self.everything());
        self.differences.returned(dirty, everything.as_ref()).map_err(|error| error.to_string())?;
        let reason = "the other side returns: what it wrote after the failover is copied over".to_owned();
        self.enter_by_hand(PairState::Resync, Some(reason), "taken back")?;
        self.want(Wanted::Run);
        Ok(())
    }

    /// Whether a side whose history left this one's there can be brought on from there, and not only by a copy of everything.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn goes_on_from(&self, parted: &PartedRecord) -> Result<bool, String> {
        let (seq, chain) = (Seq(parted.seq), Chain(parted.chain));
        let says = Remote { durable_seq: parted.seq, permitted_marker: parted.marker, ..Remote::default() };
        let held = {
            // Not while the journal is being folded.
            let _reading = self.reading.lock();
            match self.image.journal.reader_at_chain(seq, chain) {
                // A full copy does not need it.
                Err(error) if error.is_of_the_records() || error.is_unreadable() => None,
                held => held.map_err(|error| error.to_string())?,
            }
        };
        let known = held.is_some() || self.differences.knows(seq, chain);
        Ok(known && self.differences.can_stand(held.map(|reader| reader.position()), &says))
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

/// Tells the other side why a conversation is over, whatever ends it.
struct Farewell<'a> {
    pair: &'a Pair,
    connection: &'a Connection,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let (parting, words) = self.pair.parting();
        self.connection.close_as(parting, &words);
    }
}

/// Tells a thread to stop when the task that needs it is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
