//! A consistency group on its secondary: recovery, the connection in use, status, and what a failover needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{
    BufferStatus, FreezeStatus, GroupStatus, HistoryStatus, JournalStatus, MarkerInfo, MarkerStatus, PairState,
    PairStatus, Positions, Role,
};
use tidemark_common::catalog::{AppliedRecord, Batch, CatalogError, CopyRecord, GroupVolume, HistoryRecord};
use tidemark_common::clock::{Clock, from_unix_ns};
use tidemark_common::history::History;
use tidemark_common::ids::{Generation, Seq};
use tidemark_common::journal::{self, Journal, JournalError, JournalOptions, Position, Writer};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::lag::Lag;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, LinkError, Parting};
use tidemark_common::markers::{Markers, info, marker_of};
use tidemark_common::metrics::{GroupMetrics, PairMetrics};
use tidemark_common::overlay::unapplied::{Indexed, SharedIndex, Spill};
use tidemark_common::pair::paired_or_behind;
use tidemark_common::rate::Rate;
use tidemark_common::record::{ControlRecord, CopyCheck, FoldCheck, FrameHeader, MarkerRecord};
use tidemark_common::repeats::Repeats;
use tidemark_common::stage;
use tidemark_common::storage::Disk;
use tidemark_common::t0::{Eras, T0Error};
use tidemark_common::updater::{AppliedPosition, Updater};
use tidemark_common::volumes::Volumes;
use tidemark_common::watchdog::{Movement, Moving};
use tidemark_common::wire::message::{Hello, Message, Welcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::apply::Apply;
use crate::damage::{counts, no_image_before};
use crate::intake::{CopyVolumes, Intake, TRIES};
use crate::permission::{OpenCopy, Permission, Permitted};
use crate::points::{Points, Recovered, sizes_at};
use crate::receive::{self, ReceiveError};
use crate::returned::{ALL_OF_IT, record_given_up, remove_old_journal, was_before};
use crate::state::{Concern, CopyState};

/// A primary sends heartbeats at least once a second; one that is silent for longer than this is not there.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// A primary that can be reached, and has nothing to send or is not taken anything from, calls again within its longest pause and what a
/// call takes.
const CALLS_WITHIN: Duration = Duration::from_secs(10);

/// How long a goodbye may take to arrive.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything a copy is started with.
pub struct SecondaryParts {
    /// The disk seam.
    pub disk: Arc<dyn Disk>,
    /// The clock seam.
    pub clock: Arc<dyn Clock>,
    /// The group's record.
    pub keeper: Arc<GroupKeeper>,
    /// Its copy volumes.
    pub volumes: Arc<Volumes>,
    /// Who makes copy volumes.
    pub provider: Arc<dyn CopyVolumes>,
    /// Folder of the journal's segments.
    pub journal_folder: PathBuf,
    /// Size of the journal.
    pub journal: JournalOptions,
    /// Ranges of the index of what is not yet in the volumes that are held in memory, about 100 bytes each.
    pub index_ranges_max: usize,
    /// This appliance's name.
    pub appliance: String,
    /// Where the group's figures go.
    pub metrics: GroupMetrics,
    /// Where the pair's figures go.
    pub pair_metrics: PairMetrics,
    /// What images of older moments need.
    pub eras: Arc<Eras>,
}

/// Why a copy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A copy volume cannot be used.
    #[error("{0}")]
    Volumes(String),
    /// The images of older moments.
    #[error("the images of this group cannot go on: {0}")]
    Images(#[from] T0Error),
    /// Their record.
    #[error("the images of this group cannot go on: {0}")]
    ImagesRecord(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// Images that had to end could not.
    #[error("the images of this group could not be ended: {0}")]
    ImagesEnd(#[from] std::io::Error),
}

impl StartError {
    /// Whether the journal is what keeps the copy from starting, so that one made anew would help.
    #[must_use]
    pub fn is_of_the_journal(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_damage() || error.is_of_the_records() || error.is_unreadable())
    }

    /// Whether the journal is there and damaged: nobody has to be asked.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_of_the_records() || error.is_short())
    }
}

/// What the newest connection is.
#[derive(Debug, Default)]
struct Current {
    connection: Option<Connection>,
    stop: CancellationToken,
    /// Why the last one ended, for people.
    error: Option<String>,
    /// When the last one ended though the link was well: the primary sends nothing, or this side takes nothing.
    stood: Option<Duration>,
    /// The primary ended the last one because its operator has suspended the pair.
    suspended: bool,
}

impl Current {
    /// A connection has ended, and it is known why.
    fn stands(&mut self, error: String, stood: Option<Duration>) {
        self.error = Some(error);
        self.stood = stood;
        self.suspended = false;
    }

    /// The primary has ended a connection at this time, and said why.
    fn left(&mut self, parting: Parting, reason: String, now: Duration) {
        self.stands(reason, (parting == Parting::SendsNothing).then_some(now));
        self.suspended = parting == Parting::Suspended;
    }

    fn goes_on(&mut self) {
        self.error = None;
        self.stood = None;
        self.suspended = false;
    }
}

/// A running copy.
pub struct Secondary {
    parts: SecondaryParts,
    journal: Arc<Journal>,
    state: Arc<CopyState>,
    /// Held by the connection in use.
    writer: tokio::sync::Mutex<Option<Writer>>,
    current: Mutex<Current>,
    updater: Mutex<Option<JoinHandle<()>>>,
    /// What the updater has indexed.
    indexed: SharedIndex,
    /// The volumes may hold writes up to here since before the last restart.
    floor: Position,
    since: Mutex<(PairState, jiff::Timestamp)>,
    /// How fast a copy under way goes.
    rate: Mutex<Rate>,
    /// What was logged of connections that end again and again.
    repeats: Repeats,
}

impl std::fmt::Debug for Secondary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secondary").field("group", &self.parts.keeper.name()).finish_non_exhaustive()
    }
}

impl Secondary {
    /// Recovers the copy and starts its updater.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(parts: SecondaryParts) -> Result<Arc<Self>, StartError> {
        let (secondary, apply) = Self::open(parts)?;
        let name = format!("updater {}", secondary.parts.keeper.name());
        let updater = std::thread::Builder::new().name(name).spawn(move || apply.run());
        let updater = updater.map_err(StartError::Thread)?;
        secondary.updater.lock().replace(updater);
        Ok(secondary)
    }

    /// Recovers the copy. Nothing runs: whoever calls this makes its updater go.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(parts: SecondaryParts) -> Result<(Arc<Self>, Apply), StartError> {
        let id = parts.keeper.id();
        if let Some((segment, offset)) = parts.keeper.get().cut {
            Self::cut_back(&parts, Position { segment, offset })?;
        }
        let record = parts.keeper.catalog().applied(id)?;
        let applied = AppliedPosition::of(record);
        let kept = parts.keeper.catalog().markers(id, 1)?.pop();
        let kept = kept.as_ref().map(|kept| Permitted { marker: marker_of(kept), end: applied.position });
        let (writer, held) = Self::recover(&parts)?;
        let (before, records): (Vec<_>, Vec<_>) = held.into_iter().partition(|(at, ..)| *at < applied.position);
        // The newest marker before the position: the end of a copy may still refer to it.
        let received = before.iter().rev().find_map(|(_, record, end)| match record {
            ControlRecord::Marker(marker) => Some(Permitted { marker: marker.clone(), end: *end }),
            _ => None,
        });
        let copy = open_copy(&parts.keeper);
        let keeps_before = was_before(&parts.keeper).is_some() && copy.is_some_and(|copy| !copy.direct);
        // A first copy has no image, nor has a side that returned: what is kept then is the newest marker received.
        let image = kept.clone().filter(|_| !keeps_before && !copy.is_some_and(|copy| copy.direct));
        let history = parts.keeper.catalog().history(id)?;
        let floor = history.as_ref().map(HistoryRecord::place);
        let members = history.map_or_else(|| parts.keeper.get().volumes, |held| held.volumes);
        let sizes = sizes_at(&before, &records, &parts.volumes);
        let (mut points, markers) = (Points::new(members, sizes, received.as_ref()), Markers::default());
        if let Some(image) = &image {
            markers.add(Position::default(), image.marker.clone());
        }
        // The marker that the volumes stand at lies before their position.
        if let Some(at) = received.as_ref().filter(|at| image.as_ref().is_some_and(|image| image.marker == at.marker)) {
            markers.add(at.end, at.marker.clone());
        }
        let mut permission = Permission::recovered(received.or_else(|| kept.clone()), image, copy, applied.position);
        if keeps_before {
            permission.keep_before(applied.position);
        }
        let no_image_before = no_image_before(&parts.keeper);
        for (_, record, end) in &records {
            if counts(record, *end, no_image_before) {
                permission.durable(record, *end);
                points.durable(record, *end, &permission, &markers);
            }
            // Those that came and are not yet part of the image: frames for them are held already.
            if let ControlRecord::Volumes { volumes } | ControlRecord::CopyBegin { volumes, .. } = record {
                let name = parts.keeper.name();
                parts.provider.provide(&name, volumes, &parts.volumes).map_err(StartError::Volumes)?;
            }
        }
        permission.set_newest(writer.tip().marker);
        let journal = Arc::clone(writer.journal());
        journal.check_goes_on_from(applied.position, applied.seq)?;
        let may_hold = floor.unwrap_or_else(|| permission.limit());
        let mut state = CopyState::new(permission, journal.durable_end(), applied, points);
        state.markers = markers;
        let state = Arc::new(state);
        state.ask_history(parts.keeper.get().history);
        state.set_floor(floor);
        parts.eras.attach(&journal, applied.position)?;
        let updater = Updater::new(Arc::clone(&journal), Arc::clone(&parts.volumes), applied).of_all_volumes();
        let mut updater = updater.saving(Some(Arc::clone(&parts.eras))).past_the_page_cache();
        catch_up(&mut updater, &state, applied.position.segment.max(journal.oldest().segment));
        let path = parts.journal_folder.with_extension("index");
        let spill = Spill::new(Arc::clone(&parts.disk), path, parts.index_ranges_max);
        let indexed = SharedIndex::default();
        parts.eras.indexed_by(Arc::clone(&indexed));
        let apply = Apply {
            updater,
            volumes: Arc::clone(&parts.volumes),
            journal: Arc::clone(&journal),
            state: Arc::clone(&state),
            keeper: Arc::clone(&parts.keeper),
            clock: Arc::clone(&parts.clock),
            metrics: parts.metrics.clone(),
            provider: Arc::clone(&parts.provider),
            eras: Arc::clone(&parts.eras),
            settled: None,
            recorded_marker: 0,
            indexed: Arc::clone(&indexed),
            ahead: None,
            spill,
            may_hold,
            history_seen: None,
            unreadable: 0,
            untrimmed: true,
        };
        let position = state.position();
        parts.pair_metrics.received_seq(Seq(position.durable_seq));
        parts.pair_metrics.permitted_seq(Seq(position.permitted_seq));
        let now = parts.clock.wall();
        let secondary = Self {
            parts,
            journal,
            state,
            writer: tokio::sync::Mutex::new(Some(writer)),
            current: Mutex::default(),
            updater: Mutex::default(),
            indexed,
            floor: may_hold,
            since: Mutex::new((PairState::CatchingUp, now)),
            rate: Mutex::default(),
            repeats: Repeats::default(),
        };
        Ok((Arc::new(secondary), apply))
    }

    /// The first start after this side was primary: what lies behind the place where the histories parted is cut from the
    /// journal.
    fn cut_back(parts: &SecondaryParts, at: Position) -> Result<(), StartError> {
        if at == ALL_OF_IT {
            return remove_old_journal(parts);
        }
        let id = parts.keeper.id();
        // The places behind the cut are used again: images must not go by them any more.
        parts.eras.all_reached().map_err(StartError::ImagesRecord)?;
        let disk = Arc::clone(&parts.disk);
        let opened = journal::open(disk, &parts.journal_folder, id, parts.journal, Some(at), &mut |_, _, _| {})?;
        let end = opened.writer.journal().durable_end();
        let marker = parts.keeper.catalog().markers(id, 1)?.pop().map_or(0, |kept| kept.number);
        let applied =
            AppliedRecord { segment: end.position.segment, offset: end.position.offset, seq: end.seq.0, marker };
        let mut batch = Batch::new();
        // What is recorded is in the volumes for good. What lies between that and the cut is applied again: it may be there only until
        // power is lost, when its record failed.
        let recorded = parts.keeper.catalog().applied(id)?.map_or((0, 0), |found| (found.segment, found.offset));
        // The end may be the begin of a new segment, which lies behind whatever was recorded.
        if recorded >= (at.segment, at.offset) {
            batch.put_applied(id, &applied)?;
        }
        batch.delete_history(id);
        parts.keeper.update_with(batch, |record| record.cut = None)?;
        Ok(())
    }

    /// Opens the journal: the writer, and the control records that are not yet applied, with their places and ends.
    fn recover(parts: &SecondaryParts) -> Result<(Writer, Vec<Recovered>), StartError> {
        let mut records = Vec::new();
        let mut visit = |at: Position, header: &FrameHeader, record: Option<&ControlRecord>| {
            records.extend(record.map(|record| (at, record.clone(), journal::end_of(at, header))));
        };
        let id = parts.keeper.id();
        let disk = Arc::clone(&parts.disk);
        let opened = journal::open(disk, &parts.journal_folder, id, parts.journal, None, &mut visit)?;
        if let Some(torn) = opened.torn {
            tracing::warn!(group = %parts.keeper.name(), at = ?torn.position, "a torn end of the journal was cut: the primary sends it again");
        }
        Ok((opened.writer, records))
    }

    pub(crate) const fn eras(&self) -> &Arc<Eras> {
        &self.parts.eras
    }

    /// The primary says what is to be kept behind the newest marker.
    pub(crate) fn ask_history(&self, asked: History) -> Result<(), CatalogError> {
        self.parts.keeper.update(|record| record.history = asked)?;
        self.state.ask_history(asked);
        Ok(())
    }

    pub(crate) const fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts.clock
    }

    pub(crate) const fn floor(&self) -> Position {
        self.floor
    }

    /// The group's record keeper.
    #[must_use]
    pub const fn keeper(&self) -> &Arc<GroupKeeper> {
        &self.parts.keeper
    }

    /// Its copy volumes' files.
    #[must_use]
    pub const fn files(&self) -> &Arc<Volumes> {
        &self.parts.volumes
    }

    /// What is known of the copy.
    #[must_use]
    pub const fn state(&self) -> &Arc<CopyState> {
        &self.state
    }

    /// Talks with the primary over a connection whose `Hello` was read and found right, until it ends. An older
    /// connection is ended first.
    ///
    /// # Errors
    /// [`ReceiveError`]: why it ended.
    pub async fn serve(
        &self,
        connection: Connection,
        control: ControlSender,
        incoming: ControlReceiver,
        hello: &Hello,
        version: u32,
    ) -> Result<(), ReceiveError> {
        let stop = CancellationToken::new();
        {
            let mut current = self.current.lock();
            current.stop.cancel();
            current.stop = stop.clone();
            if let Some(old) = current.connection.replace(connection.clone()) {
                old.close("a newer connection took over");
            }
        }
        let mut slot = self.writer.lock().await;
        let Some(writer) = slot.take() else { return Err(ReceiveError::Stopped) };
        if stop.is_cancelled() || self.state.is_stopping() {
            *slot = Some(writer);
            return Err(ReceiveError::Stopped);
        }
        if let Err(error) = writer.check() {
            // Not told where it stands: what failed to become durable may be there after a restart.
            *slot = Some(writer);
            let result = Err(ReceiveError::Intake(error.into()));
            self.ended(&connection, control, &result).await;
            return result;
        }
        let damage = self.state.damage();
        control.send(&Message::Welcome(self.welcome(version))).await.inspect_err(|_| stop.cancel()).ok();
        // Why an earlier one ended is over.
        self.current.lock().goes_on();
        let (queue, frames) = mpsc::channel(receive::QUEUE);
        let intake = self.intake(writer, hello);
        let taking = tokio::task::spawn_blocking(move || stage::named(c"intake", || intake.run(frames)));
        let result = tokio::select! {
            result = receive::frames(&connection, queue, stop.clone()) => result,
            result = receive::listen(&connection, incoming, self, &self.parts.pair_metrics) => result,
            result = receive::acknowledge(&control, &self.state, || self.journal.free_bytes()) => result,
            () = stop.cancelled() => Err(ReceiveError::Stopped),
            () = damage.cancelled() => Err(ReceiveError::Damaged(self.state.problem().unwrap_or_default())),
        };
        // The queue is gone with the select: the intake makes durable what it has and gives the writer back.
        let result = match taking.await {
            Ok((writer, taken)) => {
                *slot = Some(writer);
                taken.map_err(ReceiveError::from).and(result)
            }
            Err(_) => Err(ReceiveError::Stopped),
        };
        let result = match result {
            Err(ReceiveError::Link(error)) => Err(ReceiveError::Link(connection.reason_behind(error).await)),
            other => other,
        };
        self.ended(&connection, control, &result).await;
        result
    }

    /// The primary says, with no connection of the pair, that its operator has suspended it.
    pub fn hear_suspended(&self, reason: &str) {
        let now = self.parts.clock.monotonic();
        let mut current = self.current.lock();
        // A connection that is there goes on, or says itself why it ends.
        if current.connection.is_none() {
            current.left(Parting::Suspended, reason.to_owned(), now);
        }
    }

    /// What takes the frames of a connection.
    fn intake(&self, writer: Writer, hello: &Hello) -> Intake {
        self.parts.pair_metrics.connected();
        self.state.heard(self.parts.clock.monotonic());
        // What it was told in the welcome, where the regions go on.
        let durable = self.state.position();
        Intake {
            group: self.parts.keeper.id(),
            name: self.parts.keeper.name(),
            generation: Generation(hello.generation),
            writer,
            volumes: Arc::clone(&self.parts.volumes),
            provider: Arc::clone(&self.parts.provider),
            state: Arc::clone(&self.state),
            metrics: self.parts.metrics.clone(),
            line: self.parts.pair_metrics.clone(),
            untold: Vec::new(),
            waiting: None,
            fitted: false,
            // It stands since an earlier connection: who comes again is told at once.
            refused: self.state.problem_of(Concern::Intake).map_or(0, |_| TRIES),
            folds: FoldCheck::default(),
            copy: CopyCheck::at(durable.copy, (durable.copy_volume, durable.copy_offset)),
        }
    }

    /// The answer to a `Hello` that was found right, and what takes the frames; for whoever carries the messages otherwise.
    /// `None` while another connection has the journal, which is given back with [`Self::leave`], and when it has failed.
    #[must_use]
    pub fn enter(&self, hello: &Hello, version: u32) -> Option<(Welcome, Intake)> {
        let mut slot = self.writer.try_lock().ok()?;
        let writer = slot.take_if(|writer| writer.check().is_ok())?;
        Some((self.welcome(version), self.intake(writer, hello)))
    }

    /// A conversation begun with [`Self::enter`] is over.
    pub fn leave(&self, intake: Intake) {
        if let Ok(mut slot) = self.writer.try_lock() {
            *slot = Some(intake.leave());
        }
    }

    /// The acknowledgement of now.
    #[must_use]
    pub fn acknowledgement(&self) -> Message {
        self.state.acknowledgement(self.journal.free_bytes())
    }

    /// What came last found no room, and none comes back before more is permitted.
    fn is_out_of_room(&self) -> bool {
        self.state.is_refusing_at_rest() && self.journal.is_full()
    }

    fn welcome(&self, version: u32) -> Welcome {
        let position = self.state.position();
        Welcome {
            version,
            appliance: self.parts.appliance.clone(),
            has_history: position.durable_seq > 0 || position.received_marker > 0 || position.copy > 0,
            generation: self.parts.keeper.generation().0,
            position,
            // Behind the same write as the position: a journal that failed may have taken more than it made durable.
            chain: self.state.durable_end().chain.0,
            journal_free_bytes: if self.is_out_of_room() { 0 } else { self.journal.free_bytes() },
            journal_capacity_bytes: self.journal.capacity_bytes(),
        }
    }

    async fn ended(&self, connection: &Connection, control: ControlSender, result: &Result<(), ReceiveError>) {
        if let Err(error) = result {
            if let Some(left_out) = self.repeats.news(&error.to_string(), self.parts.clock.monotonic()) {
                tracing::info!(group = %self.parts.keeper.name(), %error, left_out, "the connection of the primary ended");
            }
            let now = self.parts.clock.monotonic();
            if let ReceiveError::Link(LinkError::PeerClosed { reason, parting }) = error {
                self.current.lock().left(*parting, reason.clone(), now);
            }
            if matches!(error, ReceiveError::Intake(_) | ReceiveError::Damaged(_)) {
                self.current.lock().stands(error.to_string(), Some(now));
                // Closing at once would lose what was not yet acknowledged: the other side is to know why.
                let goodbye = async {
                    control.send(&Message::Goodbye { message: error.to_string() }).await?;
                    control.finish().await
                };
                let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
            }
        }
        connection.close("the conversation is over");
        let mut current = self.current.lock();
        if current.connection.as_ref().is_some_and(|now| now.is(connection)) {
            current.connection = None;
        }
    }

    /// Stops the connection, the intake and the updater, and waits for them. What is permitted and not yet applied stays in
    /// the journal.
    pub async fn stop(&self) {
        self.state.stop();
        {
            let mut current = self.current.lock();
            current.stop.cancel();
            if let Some(connection) = current.connection.take() {
                connection.close("stopping");
            }
        }
        drop(self.writer.lock().await.take());
        let updater = self.updater.lock().take();
        if let Some(updater) = updater {
            let ended = tokio::task::spawn_blocking(move || updater.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                // It broke off in the middle of something.
                *self.indexed.lock() = Indexed::default();
            }
        }
    }

    /// The journal of a copy that is stopped; nobody writes it any more.
    #[must_use]
    pub const fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The index of what is permitted and not applied, as far as there is one, when the copy is stopped to serve a marker.
    #[must_use]
    pub fn take_index(&self, permitted: &Permitted) -> Indexed {
        std::mem::take(&mut *self.indexed.lock()).unless_beyond(permitted.end)
    }

    /// The markers of an image, with the places where they end, oldest first.
    #[must_use]
    pub fn markers_of(&self, permitted: &Permitted) -> Vec<(Position, MarkerRecord)> {
        let mut markers = self.state.markers.places();
        markers.retain(|(_, marker)| marker.number <= permitted.marker.number);
        markers
    }

    /// The newest permitted marker, and where the journal is to be cut to serve it.
    #[must_use]
    pub fn permitted(&self) -> Option<Permitted> {
        self.state.permission().permitted().cloned()
    }

    /// The volumes of the image that would be served.
    #[must_use]
    pub fn volumes(&self) -> Vec<GroupVolume> {
        let permission = self.state.permission();
        permission.volumes().map_or_else(|| self.parts.keeper.get().volumes, |volumes| GroupVolume::members(volumes))
    }

    /// Bytes of the journal beyond a place.
    #[must_use]
    pub fn bytes_beyond(&self, place: Position) -> u64 {
        self.journal.bytes_between(place, self.journal.durable_end().position)
    }

    /// The markers held, newest first; only those that may be applied.
    #[must_use]
    pub fn markers(&self) -> Vec<MarkerInfo> {
        let permitted = self.state.permission().permitted().map_or(0, |permitted| permitted.marker.number);
        self.state.markers.all().into_iter().filter(|marker| marker.number <= permitted).collect()
    }

    /// Whether the primary is connected and was heard lately: a connection may be lost for seconds before that is noticed.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let silent = self.state.last_heard().at.map(|at| self.parts.clock.monotonic().saturating_sub(at));
        self.current.lock().connection.is_some() && silent.is_some_and(|silent| silent <= SILENCE_MAX)
    }

    /// What this side was before it returned is not wanted any more. Recorded before any of the copy is applied.
    ///
    /// # Errors
    /// [`CatalogError`]; it is kept then.
    pub fn give_up_before(&self) -> Result<(), CatalogError> {
        record_given_up(&self.parts.keeper)?;
        self.state.give_up_before();
        Ok(())
    }

    /// Where its positions are.
    #[must_use]
    pub fn movements(&self) -> Vec<Movement> {
        // Here, because somebody looks all the time: a state that comes and goes while nobody asks for it would be no change.
        let (state, _) = self.pair_state(&self.state.permission(), self.is_connected());
        self.in_state_since(state, self.parts.clock.wall());
        let applied = self.state.applied_position().position;
        // Volumes that wait for a backup stand rightly: it is told by the backup, and ends by itself.
        let due = applied < self.state.limit() && !self.parts.eras.is_squeezed();
        vec![Movement { moving: Moving::Apply, peer: None, at: [applied.segment, applied.offset, 0], due }]
    }

    /// For status; `peer` is the primary's name here.
    #[must_use]
    pub fn status(&self, peer: &str) -> GroupStatus {
        let record = self.parts.keeper.get();
        let position = self.state.position();
        let durable = self.state.durable_end();
        let permission = self.state.permission();
        let newest = permission.permitted().map(|permitted| info(&permitted.marker));
        GroupStatus {
            name: record.name,
            id: self.parts.keeper.id().to_string(),
            role: Role::Secondary,
            generation: record.generation,
            volumes: self.volumes().into_iter().map(|volume| volume.name).collect(),
            marker: MarkerStatus { last: position.received_marker, time: newest.map(|marker| marker.time) },
            journal: JournalStatus {
                bytes: self.journal.bytes(),
                capacity_bytes: self.journal.capacity_bytes(),
                full_in_seconds: self.full_in_seconds(),
                throttle_ms: 0.0,
            },
            buffer: BufferStatus::default(),
            freeze: FreezeStatus::default(),
            positions: Positions {
                captured_seq: self.state.last_heard().captured_seq.max(durable.seq.0),
                journaled_seq: durable.seq.0,
                applied_seq: self.state.applied_position().seq.0,
            },
            interval_ms: record.interval_ms,
            history: self.history_status(),
            problem: self.state.problem(),
            standing: Vec::new(),
            pairs: vec![self.pair_status(peer, &permission)],
        }
    }

    /// When the journal will be full; a history that is kept in it goes before that.
    fn full_in_seconds(&self) -> Option<f64> {
        let seconds = self.state.forecast.sample(self.parts.clock.monotonic(), &self.journal);
        seconds.filter(|_| self.state.history().asked.is_off())
    }

    /// What is kept on purpose is no lag.
    fn lags_from(&self) -> Position {
        let applied = self.state.applied_position().position;
        match self.state.history().floor {
            Some(floor) if applied >= floor => self.state.permission().limit(),
            _ => applied,
        }
    }

    /// How far back the copy can go; `None` when nothing was asked for.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn history_status(&self) -> Option<HistoryStatus> {
        let kept = self.state.history();
        if kept.asked.is_off() {
            return None;
        }
        let status = HistoryStatus { asked: kept.asked, shortened: kept.shortened, ..HistoryStatus::default() };
        let Some((floor, permitted)) = kept.floor.zip(self.permitted()) else { return Some(status) };
        let newest_ns = permitted.marker.time_ns;
        let oldest = self.state.markers.oldest_from(floor).unwrap_or(permitted.marker);
        Some(HistoryStatus {
            oldest_marker: Some(oldest.number),
            oldest_time: Some(info(&oldest).time),
            seconds: newest_ns.saturating_sub(oldest.time_ns).max(0) as f64 / 1e9,
            bytes: self.journal.bytes_between(floor, permitted.end),
            ..status
        })
    }

    /// How it stands, and the copy's age in seconds; `None`: there is no image.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn pair_state(&self, permission: &Permission, connected: bool) -> (PairState, Option<f64>) {
        let age = self.state.last_heard().as_of.age(self.parts.clock.monotonic(), self.parts.clock.wall());
        let age = permission.permitted().map(|_| age.as_secs_f64());
        let interval = self.parts.keeper.get().interval_ms as f64 / 1000.0;
        let state = match (permission.copy(), age) {
            (Some(copy), _) if copy.direct => PairState::InitialCopy,
            (Some(_), _) => PairState::Resync,
            (None, None) => PairState::InitialCopy,
            (None, Some(age)) => paired_or_behind(connected, age, interval),
        };
        (state, age)
    }

    fn pair_status(&self, peer: &str, permission: &Permission) -> PairStatus {
        let position = self.state.position();
        let now = self.parts.clock.wall();
        let connected = self.is_connected();
        let (state, age) = self.pair_state(permission, connected);
        let (copy_error, stood, suspended, round_trip) = {
            let current = self.current.lock();
            let round_trip = current.connection.as_ref().map(|connection| connection.stats().round_trip);
            (current.error.clone(), current.stood, current.suspended, round_trip)
        };
        let called = |at: Duration| self.parts.clock.monotonic().saturating_sub(at) <= CALLS_WITHIN;
        // Nobody has called since: it is the link by now.
        let copy_error = copy_error.filter(|_| stood.is_none_or(called));
        let silent = (!connected).then(|| format!("'{peer}' is not connected: `tidemark status` there says why"));
        // A pair that is deleted while nobody can tell it to this side is missed by nobody else.
        let gone = (!connected && !suspended && stood.is_none_or(|at| !called(at))).then(|| {
            let (group, here) = (self.parts.keeper.name(), &self.parts.appliance);
            format!(
                "If '{peer}' has no pair of this group any more: `tidemark pair create {group} --to {here}` there goes on with this copy, \
                 `tidemark pair delete {group} --to {peer}` here gives it up and keeps its volumes"
            )
        });
        let before = permission.keeps_before().then(|| was_before(&self.parts.keeper)).flatten().map(|before| {
            let time = from_unix_ns(before.marker_ns);
            let generation = before.generation;
            format!(
                "Until this copy is complete, a failover here goes on with what this side was when it returned: generation {generation}, all \
                 that its hosts had written behind marker {} of {time:.0}", before.marker
            )
        });
        let copy = permission
            .copy()
            .map(|copy| self.rate.lock().progress(self.parts.clock.monotonic(), copy.done_bytes, copy.total_bytes));
        let lag_bytes = self.journal.bytes_between(self.lags_from(), self.journal.durable_end().position);
        PairStatus {
            peer: peer.into(),
            state,
            reason: joined([
                self.state.problem().or(if connected { None } else { copy_error }).or(silent),
                gone,
                before,
            ]),
            since: self.in_state_since(state, now),
            connected,
            stands: !connected && stood.is_some_and(called),
            suspended_there: !connected && suspended,
            received_marker: position.received_marker,
            permitted_marker: position.permitted_marker,
            applied_marker: position.applied_marker,
            rpo_seconds: age,
            lag_bytes,
            // What waits before it comes here is known over there.
            lag: Lag { unapplied_bytes: Some(lag_bytes), ..Lag::default() },
            held: None,
            differential_bytes: permission.copy().map_or(0, |copy| copy.total_bytes.saturating_sub(copy.done_bytes)),
            copy,
            verify: None,
            comparison: None,
            round_trip_ms: round_trip.map(|time| time.as_secs_f64() * 1000.0),
        }
    }

    fn in_state_since(&self, state: PairState, now: jiff::Timestamp) -> jiff::Timestamp {
        let mut since = self.since.lock();
        if since.0 != state {
            tracing::info!(group = %self.parts.keeper.name(), from = ?since.0, to = ?state, "pair state");
            *since = (state, now);
            self.parts.pair_metrics.state_changed(state);
        }
        since.1
    }
}

/// What is to be said, one after the other.
fn joined<const N: usize>(parts: [Option<String>; N]) -> Option<String> {
    let said: Vec<String> = parts.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(". "))
}

/// The position is recorded whenever a segment is left behind, so a kill loses the record of at most this segment and the next:
/// applying them again first, nobody sees the applied marker go back.
fn catch_up(updater: &mut Updater, state: &CopyState, recorded_segment: u64) {
    let limit = state.limit();
    while updater.applied().position.segment <= recorded_segment.saturating_add(1) {
        match updater.apply_window(limit) {
            Ok(Some(_)) => state.applied(updater.applied()),
            Ok(None) => break,
            Err(error) => {
                // The updater's thread tries again.
                state.set_problem(Concern::Updater, Some(error.told()));
                break;
            }
        }
    }
}

pub(crate) fn open_copy(keeper: &GroupKeeper) -> Option<OpenCopy> {
    let copy = keeper.get().pairs.into_iter().next()?.copy?;
    Some(OpenCopy {
        number: copy.number,
        direct: copy.direct,
        cursor: (copy.cursor_volume, copy.cursor_offset),
        done_bytes: copy.done_bytes,
        total_bytes: copy.total_bytes,
        begun: Position::default(),
    })
}

/// Keeps a copy under way and the set of volumes in the catalogue, for when the journal no longer has their records.
pub(crate) fn record_copy(
    keeper: &GroupKeeper,
    batch: Batch,
    copy: Option<&OpenCopy>,
    members: &[GroupVolume],
) -> Result<(), CatalogError> {
    let record = copy.map(|copy| CopyRecord {
        number: copy.number,
        direct: copy.direct,
        cursor_volume: copy.cursor.0,
        cursor_offset: copy.cursor.1,
        done_bytes: copy.done_bytes,
        ..CopyRecord::first(copy.total_bytes)
    });
    keeper.update_with(batch, |group| {
        if let Some(pair) = group.pairs.first_mut() {
            // One without a number stands for a damaged journal: it knows up to where.
            if record.as_ref().is_none_or(|record| record.number != 0) {
                pair.copy = record;
            }
            if pair.copy.as_ref().is_none_or(|copy| copy.direct) {
                pair.before = None;
            }
        }
        if group.volumes != members {
            group.volumes = members.to_vec();
        }
    })
}
