//! A pair, from the primary's side: finds the other appliance, agrees from where to go on, ships, and keeps what comes
//! back. Owns `shipped_seq`, the pair's state, and the place in the journal that must be kept for it.
//!
//! ```text
//! dial ─▶ hello ─▶ welcome ─▶ plan: follow | copy (new or from its cursor) | stop with a reason
//!            └──▶ refused ─▶ fenced | error with a reason | try again
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{CopyProgress, PairState, PairStatus};
use tidemark_common::catalog::{CatalogError, CopyRecord, PairRecord};
use tidemark_common::clock::Clock;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{ApplianceId, Generation, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{JournalError, Position, Reader};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, DialError, Endpoint, LinkError};
use tidemark_common::metrics::{GroupMetrics, PairMetrics, Part};
use tidemark_common::pair::{is_transition_valid, paired_or_behind};
use tidemark_common::record::{Chain, ControlRecord, FrameKind, FrameView, Tip};
use tidemark_common::wire::handshake::{HandshakeError, Versions, read_answer};
use tidemark_common::wire::message::{Hello, Message, Position as Remote, Refusal, Welcome};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cut::CutRequest;
use crate::drain::DrainDesk;
use crate::feeder::{CopyFeed, FeedError, Feeder, Shipment};
use crate::image::Image;

/// Shipments waiting for the link.
const QUEUE: usize = 4;
/// The first pause before another try to connect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// A peer that is silent for longer does not answer; heartbeats are answered at once.
const SILENCE_MAX: Duration = Duration::from_secs(2);

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
    /// For a moment, by this side itself.
    Held,
    Suspended,
    Stop,
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
    peer: String,
    image: Image,
    desk: Arc<DrainDesk>,
    keeper: Arc<GroupKeeper>,
    links: Arc<dyn Links>,
    clock: Arc<dyn Clock>,
    heartbeat: Duration,
    wanted: watch::Sender<(Wanted, u64)>,
    conversing: watch::Sender<bool>,
    view: Mutex<View>,
    metrics: GroupMetrics,
    line: PairMetrics,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What is known of the other side now.
#[derive(Debug)]
struct View {
    state: PairState,
    reason: Option<String>,
    since: jiff::Timestamp,
    connected: bool,
    remote: Remote,
    good_as_of_ms: i64,
    /// When the other side last said something, monotonic.
    heard: Duration,
    /// The oldest place in the journal this pair needs; `None`: it needs nothing.
    holds: Option<Position>,
    sent: VecDeque<(Seq, MarkerNumber, Position)>,
    /// The copy under way: its number and regions.
    copying: Option<(u64, Bitmap)>,
    differential_bytes: u64,
    round_trip: Option<Duration>,
    rate: Rate,
}

impl View {
    /// Bytes of the copy's regions that are durable over there, and in all.
    fn copied(&self) -> (u64, u64) {
        let Some((number, bitmap)) = &self.copying else { return (0, 0) };
        let total = bitmap.bytes();
        let cursor = (VolumeIndex(self.remote.copy_volume), self.remote.copy_offset);
        let done = if self.remote.copy == *number { bitmap.bytes_before(cursor.0, cursor.1) } else { 0 };
        (done, total)
    }
}

/// The speed of a copy over its last seconds.
#[derive(Debug, Default)]
struct Rate {
    points: VecDeque<(Duration, u64)>,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn per_second(&mut self, now: Duration, done: u64) -> f64 {
        self.points.push_back((now, done));
        while self.points.len() > 2
            && self.points.front().is_some_and(|(then, _)| now.saturating_sub(*then).as_secs() > 10)
        {
            self.points.pop_front();
        }
        let Some((then, before)) = self.points.front() else { return 0.0 };
        let seconds = now.saturating_sub(*then).as_secs_f64();
        if seconds > 0.0 { done.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("{0}")]
    Reach(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("the other side ended the conversation")]
    Ended,
    #[error("{0}")]
    Stands(String),
    #[error("stopped")]
    Stopped,
}

impl ShipError {
    /// Whether a record of the journal is not what was written (invariant 9).
    const fn is_damage(&self) -> bool {
        matches!(self, Self::Feed(FeedError::Journal(error)) | Self::Journal(error) if error.is_damage())
    }

    /// Whether trying again by itself cannot help.
    const fn needs_a_person(&self) -> bool {
        match self {
            Self::Stands(_) | Self::Dial(DialError::WrongPeer { .. } | DialError::Refused { .. }) => true,
            Self::Feed(FeedError::Journal(error)) | Self::Journal(error) => {
                !matches!(error, JournalError::Trimmed { .. })
            }
            Self::Handshake(HandshakeError::Refused(refused)) => {
                !matches!(refused.refusal, Refusal::Unready | Refusal::Suspended)
            }
            _ => false,
        }
    }
}

impl Pair {
    /// A pair as its record says; [`Self::run`] makes it go.
    #[must_use]
    pub fn new(record: &PairRecord, parts: PairParts) -> Self {
        let PairParts { image, desk, keeper, links, clock, heartbeat, metrics } = parts;
        let state = PairState::from(record.state);
        // What the record knows is a lower bound; the other side says more when it is reached.
        let holds = image.journal.oldest();
        let stands = matches!(state, PairState::Suspended | PairState::FailedOver | PairState::Fenced);
        let wanted = if stands { Wanted::Suspended } else { Wanted::Run };
        let view = View {
            state,
            reason: record.reason.clone(),
            since: jiff::Timestamp::from_nanosecond(i128::from(record.since_ns)).unwrap_or_default(),
            connected: false,
            remote: Remote::default(),
            good_as_of_ms: 0,
            heard: Duration::ZERO,
            holds: (state != PairState::FailedOver).then_some(holds),
            sent: VecDeque::new(),
            copying: None,
            differential_bytes: 0,
            round_trip: None,
            rate: Rate::default(),
        };
        let pair = Self {
            peer: record.peer.clone(),
            image,
            desk,
            keeper,
            links,
            clock,
            heartbeat,
            wanted: watch::Sender::new((wanted, 0)),
            conversing: watch::Sender::new(false),
            view: Mutex::new(view),
            line: metrics.pair(&record.peer),
            metrics,
        };
        if let Some(bitmap) = pair.bitmap() {
            let mut view = pair.view.lock();
            view.differential_bytes = bitmap.bytes();
            view.copying = record.copy.as_ref().map(|copy| (copy.number, bitmap));
        }
        pair
    }

    /// The other appliance.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The oldest place in the journal this pair needs.
    #[must_use]
    pub fn holds(&self) -> Option<Position> {
        self.view.lock().holds
    }

    /// By the operator: no shipping until [`Self::resume`]. The journal is kept for it as long as it fits.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub fn suspend(&self) -> Result<(), CatalogError> {
        self.enter(PairState::Suspended, Some("suspended by the operator: `tidemark pair resume` goes on".into()))?;
        self.want(Wanted::Suspended);
        Ok(())
    }

    /// By the operator: goes on from where it stands.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub fn resume(&self) -> Result<(), CatalogError> {
        self.enter(self.standing(), None)?;
        self.want(Wanted::Run);
        Ok(())
    }

    /// Ends [`Self::run`].
    pub fn stop(&self) {
        self.want(Wanted::Stop);
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.send_modify(|now| *now = (wanted, now.1 + 1));
    }

    /// The state that belongs to what the record says of the pair's data.
    fn standing(&self) -> PairState {
        let record = self.keeper.pair(&self.peer);
        match record.and_then(|record| record.copy) {
            Some(copy) if copy.direct => PairState::InitialCopy,
            Some(_) => PairState::Resync,
            None if self.bitmap().is_some_and(|bitmap| !bitmap.is_empty()) => PairState::Differential,
            None => PairState::CatchingUp,
        }
    }

    fn bitmap(&self) -> Option<Bitmap> {
        let bytes = self.keeper.catalog().bitmap(self.keeper.id(), &self.peer).ok().flatten()?;
        Bitmap::decode(&bytes).ok()
    }

    /// Goes into a state, says so, and records it where it must outlive the process.
    fn enter(&self, state: PairState, reason: Option<String>) -> Result<(), CatalogError> {
        let now = self.clock.wall();
        let mut view = self.view.lock();
        if view.state == state {
            view.reason = reason;
            return Ok(());
        }
        if !is_transition_valid(view.state, state) {
            tracing::warn!(peer = %self.peer, from = ?view.state, to = ?state, "a change of state was refused");
            return Ok(());
        }
        // Following and lagging change by themselves; everything else is recorded first.
        let recorded = if state == PairState::Paired { PairState::CatchingUp } else { state };
        self.keeper.update_pair(&self.peer, |pair| {
            if pair.state != recorded.into() {
                pair.state = recorded.into();
                pair.since_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
            }
            pair.reason.clone_from(&reason);
        })?;
        tracing::info!(group = %self.keeper.name(), peer = %self.peer, from = ?view.state, to = ?state, reason, "pair state");
        view.state = state;
        view.reason = reason;
        view.since = now;
        drop(view);
        self.line.state_changed(state);
        if state == PairState::Error {
            self.metrics.error(Part::Ship);
        }
        Ok(())
    }

    /// Runs until [`Self::stop`].
    pub async fn run(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        let mut pause = PAUSE.0;
        loop {
            let now = *wanted.borrow_and_update();
            match now.0 {
                Wanted::Stop => return,
                Wanted::Held | Wanted::Suspended => {
                    if wanted.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Wanted::Run => {}
            }
            let begin = self.clock.monotonic();
            self.conversing.send_replace(true);
            let result = tokio::select! {
                result = self.converse() => result,
                _ = wanted.changed() => Err(ShipError::Stopped),
            };
            self.conversing.send_replace(false);
            self.disconnected(result.err());
            if self.view.lock().state == PairState::Fenced {
                return;
            }
            if self.clock.monotonic().saturating_sub(begin) > PAUSE.1 {
                pause = PAUSE.0;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                _ = wanted.changed() => pause = PAUSE.0,
            }
        }
    }

    fn disconnected(&self, error: Option<ShipError>) {
        let was = std::mem::replace(&mut self.view.lock().connected, false);
        let Some(error) = error else { return };
        if matches!(error, ShipError::Stopped) {
            return;
        }
        let group = self.keeper.name();
        if was {
            tracing::warn!(%group, peer = %self.peer, %error, "the link is lost; it is tried again");
        } else {
            tracing::debug!(%group, peer = %self.peer, %error, "not connected");
        }
        if let ShipError::Handshake(HandshakeError::Refused(refused)) = &error
            && refused.refusal == Refusal::Fenced
        {
            let reason = format!("{}: hosts belong over there", refused.message);
            let _ = self.enter(PairState::Fenced, Some(reason));
            self.links.fenced(&group, &self.peer, Generation(refused.generation));
            return;
        }
        let (state, reason) = (self.view.lock().state, error.to_string());
        let result = match state {
            PairState::Suspended | PairState::Fenced | PairState::FailedOver => Ok(()),
            _ if error.needs_a_person() => {
                if error.is_damage() && state != PairState::Error {
                    self.metrics.journal_damaged();
                }
                self.enter(PairState::Error, Some(reason))
            }
            PairState::Paired => self.enter(PairState::CatchingUp, Some(reason)),
            state => self.enter(state, Some(reason)),
        };
        if let Err(error) = result {
            tracing::error!(%group, peer = %self.peer, %error, "the pair's state could not be recorded");
            self.metrics.error(Part::Catalog);
        }
    }

    /// One connection, from dialing to its end.
    async fn converse(&self) -> Result<(), ShipError> {
        let (id, address) = self.links.reach(&self.peer).map_err(ShipError::Reach)?;
        let endpoint = self.links.endpoint();
        let connection = endpoint.dial(&address, id).await?;
        let (control, mut answers) = connection.open_control().await?;
        control.send(&Message::Hello(self.hello())).await?;
        let answer = answers.recv().await?.ok_or(ShipError::Ended)?;
        let welcome = read_answer(Versions::OURS, answer)?;
        let (reader, copy) = self.plan(&welcome).await?;
        self.welcomed(&welcome, copy.as_ref(), &reader)?;
        self.ship(&connection, control, answers, reader, copy, &welcome).await
    }

    fn hello(&self) -> Hello {
        let record = self.keeper.get();
        let create = self.keeper.pair(&self.peer).and_then(|pair| pair.copy).is_some_and(|copy| copy.direct);
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            appliance: self.links.name(),
            group: record.id,
            group_name: record.name,
            member: 0,
            members: 1,
            generation: record.generation,
            create,
            volumes: self.image.volumes.specs(),
            interval_ms: record.interval_ms,
            generation_start_seq: record.generation_start_seq,
        }
    }

    /// From where to go on, and the copy to make if one is needed.
    async fn plan(&self, welcome: &Welcome) -> Result<(Reader, Option<CopyFeed>), ShipError> {
        let record = self.keeper.pair(&self.peer).ok_or(ShipError::Stopped)?;
        let (seq, chain) = (Seq(welcome.position.durable_seq), Chain(welcome.chain));
        let Some(copy) = record.copy else {
            let differs = self.bitmap().is_some_and(|bitmap| !bitmap.is_empty());
            if !differs && let Some(reader) = self.image.journal.reader_at_chain(seq, chain)? {
                return Ok((reader, None));
            }
            if !differs {
                return Err(ShipError::Stands(self.other_history(welcome)));
            }
            return self.start_copy(false).await;
        };
        let ended = copy.number != 0 && copy.end_marker.is_some_and(|end| welcome.position.permitted_marker >= end);
        if welcome.position.copy == 0 && ended {
            self.finish_copy()?;
            let reader = self.image.journal.reader_at_chain(seq, chain)?;
            return Ok((reader.ok_or_else(|| ShipError::Stands(self.other_history(welcome)))?, None));
        }
        let bitmap = self.bitmap().unwrap_or_default();
        if copy.number != 0 && welcome.position.copy == copy.number {
            if let Some(reader) = self.image.journal.reader_at_chain(seq, chain)? {
                let cursor = (VolumeIndex(welcome.position.copy_volume), welcome.position.copy_offset);
                let end = copy.end_marker.map(MarkerNumber);
                return Ok((reader, Some(CopyFeed { number: copy.number, begin: None, bitmap, cursor, end })));
            }
            return self.start_copy(copy.direct).await;
        }
        let start = Position { segment: copy.start_segment, offset: copy.start_offset };
        if copy.number == 0 || copy.end_marker.is_some() || self.image.journal.oldest() > start {
            return self.start_copy(copy.direct).await;
        }
        Ok((self.image.journal.reader(start), Some(self.copy_feed(&copy, bitmap))))
    }

    fn other_history(&self, welcome: &Welcome) -> String {
        format!(
            "the copy on {} ends at write {} of a history that is not this group's: neither side was changed. \
             `tidemark pair delete` and `tidemark pair create` copy everything anew",
            self.peer, welcome.position.durable_seq
        )
    }

    fn copy_feed(&self, copy: &CopyRecord, bitmap: Bitmap) -> CopyFeed {
        let begin = ControlRecord::CopyBegin {
            copy: copy.number,
            start_seq: copy.start_seq,
            start_marker: copy.start_marker,
            chain: copy.start_chain,
            direct: copy.direct,
            total_bytes: bitmap.bytes(),
            volumes: self.image.volumes.specs(),
        };
        let cursor = (VolumeIndex(0), 0);
        CopyFeed { number: copy.number, begin: Some(begin), bitmap, cursor, end: None }
    }

    /// Begins a differential copy: a cut, then everything that may differ as of it (DESIGN 5).
    async fn start_copy(&self, direct: bool) -> Result<(Reader, Option<CopyFeed>), ShipError> {
        // Nothing of the journal leaves until the cut's place is known.
        let before = self.view.lock().holds.get_or_insert_with(|| self.image.journal.oldest()).to_owned();
        let (reply, done) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag: None, reply }, &self.image.buffer);
        let done = done.await.map_err(|_| ShipError::Stopped)?.map_err(FeedError::from)?;
        let mut bitmap = self.bitmap().unwrap_or_default();
        if !direct {
            mark_frames(&mut bitmap, self.image.journal.reader(before), done.next)?;
        }
        self.keeper.catalog().put_bitmap(self.keeper.id(), &self.peer, &bitmap.encode())?;
        let mut copy = CopyRecord {
            number: 0,
            start_seq: done.marker.boundary_seq,
            start_marker: done.marker.number,
            start_chain: done.chain.0,
            start_segment: done.next.segment,
            start_offset: done.next.offset,
            direct,
            end_marker: None,
            cursor_volume: 0,
            cursor_offset: 0,
            done_bytes: 0,
            total_bytes: bitmap.bytes(),
        };
        self.keeper.update_pair(&self.peer, |pair| {
            pair.copies += 1;
            copy.number = pair.copies;
            pair.copy = Some(copy.clone());
        })?;
        {
            let mut view = self.view.lock();
            view.holds = Some(done.next);
            view.differential_bytes = bitmap.bytes();
        }
        Ok((self.image.journal.reader(done.next), Some(self.copy_feed(&copy, bitmap))))
    }

    fn finish_copy(&self) -> Result<(), CatalogError> {
        self.keeper.update_pair(&self.peer, |pair| pair.copy = None)?;
        self.keeper.catalog().delete_bitmap(self.keeper.id(), &self.peer)?;
        self.view.lock().differential_bytes = 0;
        self.enter(PairState::CatchingUp, None)
    }

    fn welcomed(&self, welcome: &Welcome, copy: Option<&CopyFeed>, reader: &Reader) -> Result<(), ShipError> {
        {
            let mut view = self.view.lock();
            view.connected = true;
            view.heard = self.clock.monotonic();
            view.remote = welcome.position;
            view.holds = Some(reader.position());
            view.sent.clear();
            view.rate = Rate::default();
            view.copying = copy.map(|copy| (copy.number, copy.bitmap.clone()));
        }
        self.line.connected();
        self.line.shipped_seq(Seq(welcome.position.durable_seq));
        self.show(&welcome.position);
        tracing::info!(group = %self.keeper.name(), peer = %self.peer, from_seq = welcome.position.durable_seq, "connected");
        let direct = self.keeper.pair(&self.peer).and_then(|pair| pair.copy).is_some_and(|copy| copy.direct);
        Ok(match (copy, direct) {
            (Some(_), true) => self.enter(PairState::InitialCopy, None),
            (Some(_), false) => self.enter(PairState::Resync, None),
            (None, _) => self.enter(PairState::CatchingUp, None),
        }?)
    }

    /// How far the other side is, for the metrics.
    fn show(&self, position: &Remote) {
        self.line.received_seq(Seq(position.durable_seq));
        self.line.permitted_seq(Seq(position.permitted_seq));
    }

    async fn ship(
        &self,
        connection: &Connection,
        control: ControlSender,
        answers: ControlReceiver,
        reader: Reader,
        copy: Option<CopyFeed>,
        welcome: &Welcome,
    ) -> Result<(), ShipError> {
        let mut data = connection.open_data(DATA_STREAMS).await?;
        let (out, mut shipments) = mpsc::channel(QUEUE);
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let tip = Tip {
            seq: Seq(welcome.position.durable_seq),
            marker: MarkerNumber(welcome.position.received_marker),
            generation: self.keeper.generation(),
            chain: Chain(welcome.chain),
        };
        let feeder = Feeder {
            image: self.image.clone(),
            desk: Arc::clone(&self.desk),
            keeper: Arc::clone(&self.keeper),
            peer: self.peer.clone(),
            group: self.keeper.id(),
            reader,
            tip,
            copy,
            out,
            stop: Arc::clone(&stop.0),
        };
        let feeding = tokio::task::spawn_blocking(move || feeder.run());
        let sending = async {
            while let Some(shipment) = shipments.recv().await {
                self.sent(&shipment);
                data.send(shipment.bytes).await?;
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

    fn sent(&self, shipment: &Shipment) {
        self.view.lock().sent.push_back((shipment.seq, shipment.marker, shipment.next));
        self.line.shipped(shipment.bytes.len(), shipment.seq);
    }

    /// Tells the time and the newest number, so that the other side knows how good its copy is.
    async fn beat(&self, connection: &Connection, control: ControlSender) -> Result<(), ShipError> {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0;
        let mut packets = self.line.packets();
        loop {
            ticks.tick().await;
            number += 1;
            // The time first: what is captured after it may be counted, what was answered before it must be.
            let as_of_ms = self.clock.wall().as_millisecond();
            let captured_seq = self.image.buffer.captured().0;
            let marker = self.desk.markers.newest().map_or(0, |marker| marker.number);
            control.send(&Message::Heartbeat { number, as_of_ms, captured_seq, marker }).await?;
            let stats = connection.stats();
            packets.now(stats.sent_packets, stats.lost_packets);
            self.view.lock().round_trip = Some(stats.round_trip);
            self.judge();
        }
    }

    async fn listen(&self, mut answers: ControlReceiver) -> Result<(), ShipError> {
        loop {
            match answers.recv().await?.ok_or(ShipError::Ended)? {
                Message::Ack { position, good_as_of_ms, .. } => self.acknowledged(&position, good_as_of_ms)?,
                Message::Goodbye { message } => return Err(ShipError::Reach(message)),
                Message::Refused(refused) => return Err(HandshakeError::Refused(refused).into()),
                _ => return Err(ShipError::Ended),
            }
        }
    }

    fn acknowledged(&self, position: &Remote, good_as_of_ms: i64) -> Result<(), ShipError> {
        self.show(position);
        {
            let mut view = self.view.lock();
            view.remote = *position;
            view.heard = self.clock.monotonic();
            view.good_as_of_ms = good_as_of_ms;
            while let Some((seq, marker, next)) = view.sent.front().copied() {
                if seq.0 > position.durable_seq || marker.0 > position.received_marker {
                    break;
                }
                view.holds = Some(next);
                view.sent.pop_front();
            }
        }
        let copy = self.keeper.pair(&self.peer).and_then(|pair| pair.copy);
        let end = copy.and_then(|copy| copy.end_marker);
        if position.copy == 0 && end.is_some_and(|end| position.permitted_marker >= end) {
            self.finish_copy()?;
        }
        self.judge();
        Ok(())
    }

    /// Paired or catching up, by the age of the copy.
    fn judge(&self) {
        let interval = self.desk.interval().as_secs_f64();
        let age = self.rpo_seconds().unwrap_or(f64::MAX);
        let (state, connected) = {
            let view = self.view.lock();
            (view.state, self.answers(&view))
        };
        if matches!(state, PairState::Paired | PairState::CatchingUp) {
            let next = paired_or_behind(connected, age, interval);
            if next != state && self.enter(next, None).is_err() {
                tracing::error!(peer = %self.peer, "the pair's state could not be recorded");
                self.metrics.error(Part::Catalog);
            }
        }
    }

    /// Whether the other side answers now: a connection may be lost for seconds before that is noticed.
    fn answers(&self, view: &View) -> bool {
        let silent = self.clock.monotonic().saturating_sub(view.heard);
        view.connected && silent <= SILENCE_MAX.max(4 * self.heartbeat)
    }

    /// What a disaster now would lose, seconds: nothing when all that was captured is permitted over there.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn rpo_seconds(&self) -> Option<f64> {
        let captured = self.image.buffer.captured().0;
        let view = self.view.lock();
        if matches!(view.state, PairState::InitialCopy) || view.remote.permitted_marker == 0 || view.good_as_of_ms == 0
        {
            return None;
        }
        if captured <= view.remote.permitted_seq {
            return Some(0.0);
        }
        Some((self.clock.wall().as_millisecond() - view.good_as_of_ms).max(0) as f64 / 1000.0)
    }

    /// For status.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn status(&self) -> PairStatus {
        let rpo_seconds = self.rpo_seconds();
        let now = self.clock.monotonic();
        let journal = &self.image.journal;
        let mut view = self.view.lock();
        let behind = view.holds.map_or(0, |holds| journal.bytes_between(holds, journal.durable_end().position));
        let caught_up = view.remote.durable_seq >= self.image.buffer.captured().0;
        let copying = matches!(view.state, PairState::InitialCopy | PairState::Resync);
        let (done_bytes, total_bytes) = view.copied();
        let bytes_per_second = if copying { view.rate.per_second(now, done_bytes) } else { 0.0 };
        let seconds_left =
            (bytes_per_second > 0.0).then(|| total_bytes.saturating_sub(done_bytes) as f64 / bytes_per_second);
        PairStatus {
            peer: self.peer.clone(),
            state: view.state,
            reason: view.reason.clone().or_else(|| {
                let silent = view.connected && !self.answers(&view);
                silent.then(|| format!("'{}' has not answered for {SILENCE_MAX:?}", self.peer))
            }),
            since: view.since,
            connected: self.answers(&view),
            received_marker: view.remote.received_marker,
            permitted_marker: view.remote.permitted_marker,
            applied_marker: view.remote.applied_marker,
            rpo_seconds,
            lag_bytes: if caught_up { 0 } else { behind + self.image.buffer.bytes() },
            differential_bytes: view.differential_bytes,
            copy: copying.then_some(CopyProgress { done_bytes, total_bytes, bytes_per_second, seconds_left }),
            round_trip_ms: view.round_trip.map(|time| time.as_secs_f64() * 1000.0),
        }
    }

    /// How far the other side is.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.view.lock().remote
    }

    /// The journal is full: the pair's frames up to the given place go into its bitmap, durably, and are no longer needed
    /// (invariant 6). The pair is then `differential` and copies by itself when the link is back.
    ///
    /// # Errors
    /// When the journal cannot be read or the bitmap not recorded; nothing is given up then.
    pub fn fall_back(&self, up_to: Position) -> Result<(), String> {
        let Some(from) = self.holds().filter(|holds| *holds < up_to) else { return Ok(()) };
        let mut bitmap = self.bitmap().unwrap_or_default();
        mark_frames(&mut bitmap, self.image.journal.reader(from), up_to).map_err(|error| error.to_string())?;
        let catalog = self.keeper.catalog();
        catalog.put_bitmap(self.keeper.id(), &self.peer, &bitmap.encode()).map_err(|error| error.to_string())?;
        self.keeper
            .update_pair(&self.peer, |pair| {
                // A first copy begins again as what it was: the other side still has nothing to keep.
                if pair.copy.as_ref().is_none_or(|copy| !copy.direct) {
                    pair.copy = None;
                }
            })
            .map_err(|error| error.to_string())?;
        {
            let mut view = self.view.lock();
            view.holds = Some(up_to);
            view.differential_bytes = bitmap.bytes();
            view.sent.clear();
        }
        let state = self.view.lock().state;
        if !matches!(state, PairState::Suspended | PairState::InitialCopy) {
            let reason = "the journal could not be kept for this pair: differences are in the bitmap".to_owned();
            self.enter(PairState::Differential, Some(reason)).map_err(|error| error.to_string())?;
        }
        // A connection that follows the journal must plan anew.
        let wanted = self.wanted.borrow().0;
        self.want(wanted);
        Ok(())
    }
}

impl Pair {
    /// A volume comes to the group with data on it: nothing more is shipped until [`Self::release`], and what is shipped then
    /// begins with a copy of it. So no marker that counts the volume reaches the other side before its content does.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub async fn hold_for(&self, volume: Extent) -> Result<(), CatalogError> {
        if self.wanted.borrow().0 == Wanted::Run {
            self.want(Wanted::Held);
        }
        let mut conversing = self.conversing.subscribe();
        // The sender is part of this pair: it cannot be gone.
        let _ = conversing.wait_for(|conversing| !conversing).await;
        let mut bitmap = self.bitmap().unwrap_or_default();
        bitmap.mark(volume);
        self.keeper.catalog().put_bitmap(self.keeper.id(), &self.peer, &bitmap.encode())?;
        self.keeper.update_pair(&self.peer, |pair| {
            if let Some(copy) = &mut pair.copy {
                // Begun without the volume: it begins again, as what it was.
                copy.number = 0;
            }
        })?;
        self.view.lock().differential_bytes = bitmap.bytes();
        Ok(())
    }

    /// Goes on after [`Self::hold_for`].
    pub fn release(&self) {
        if self.wanted.borrow().0 == Wanted::Held {
            self.want(Wanted::Run);
        }
    }
}

/// Marks what the frames between two places write.
fn mark_frames(bitmap: &mut Bitmap, mut reader: Reader, up_to: Position) -> Result<(), JournalError> {
    while reader.position() < up_to {
        let Some(frame) = reader.next_frame()? else { break };
        if frame.position >= up_to {
            break;
        }
        if frame.header.kind == FrameKind::Writes
            && let Ok(view) = FrameView::new(&frame.bytes)
        {
            view.extents().for_each(|entry| bitmap.mark(entry.extent));
        }
    }
    Ok(())
}

/// A bitmap with every region of these volumes: the first copy.
#[must_use]
pub fn everything(volumes: &[(VolumeIndex, u64)]) -> Bitmap {
    let mut bitmap = Bitmap::default();
    for (volume, size) in volumes {
        bitmap.mark(Extent { volume: *volume, offset: 0, length: *size });
    }
    bitmap
}

/// Tells a thread to stop when the task that needs it is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
