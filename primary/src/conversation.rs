//! What a primary says to a pair's other side and makes of its answers, whatever carries the messages.
//!
//! ```text
//! hello ─▶ welcome ─▶ begin: where to go on ─▶ feeder ─▶ shipments
//!                                              heartbeats ─▶ ◀─ acknowledgements
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::catalog::CatalogError;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, MarkerNumber, Seq};
use tidemark_common::journal::{JournalError, Reader};
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::LinkError;
use tidemark_common::record::{Chain, Tip};
use tidemark_common::wire::handshake::{HandshakeError, Versions};
use tidemark_common::wire::message::{Hello, Message, Position as Remote, Refusal, Welcome};
use tokio::task::block_in_place;

use crate::coalesce::Coalescer;
use crate::differences::DifferencesError;
use crate::feeder::{Feeder, Shipment, TURN_BYTES};
use crate::plan::Plan;
use crate::ship::{Pair, ShipError};

/// A place of the journal that the disk did not give out so often, and for so long, is taken for damaged.
const UNREAD_TIMES: u32 = 3;
const UNREAD_FOR: Duration = Duration::from_secs(10);

impl Pair {
    /// What it says first.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let record = self.keeper.get();
        let create = self.differences.copy().is_some_and(|copy| copy.direct);
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

    /// The other side welcomes it: where to go on, and what sends it from there.
    ///
    /// # Errors
    /// [`ShipError`]: nothing is sent.
    pub async fn begin(&self, welcome: &Welcome) -> Result<Feeder, ShipError> {
        self.view.lock().journal_capacity_bytes = Some(welcome.journal_capacity_bytes);
        // Before anything is planned: an end that was cut until now is known to the plan.
        let sender = block_in_place(|| self.differences.next_sender())?;
        let plan = self.plan(welcome).await?;
        self.welcomed(welcome, &plan)?;
        let Plan { reader, copy, .. } = plan;
        let tip = Tip {
            seq: Seq(welcome.position.durable_seq),
            marker: MarkerNumber(welcome.position.received_marker),
            generation: block_in_place(|| self.generation_at(&reader)),
            chain: Chain(welcome.chain),
        };
        Ok(Feeder {
            image: self.image.clone(),
            desk: Arc::clone(&self.desk),
            differences: Arc::clone(&self.differences),
            sender,
            group: self.keeper.id(),
            reader,
            reading: Arc::clone(&self.reading),
            tip,
            copy,
            ready: Vec::new(),
            held: None,
            since_regions: 0,
            turn_bytes: TURN_BYTES,
            coalescer: Coalescer::new(Arc::clone(&self.clock), self.moment.clone()),
        })
    }

    /// That of the frames which come next: a side that was made primary again has a higher one than what its journal held before.
    fn generation_at(&self, reader: &Reader) -> Generation {
        let next = self.image.journal.reader(reader.position()).next_header();
        next.ok().flatten().map_or_else(|| self.keeper.generation(), |(_, header)| header.generation)
    }

    fn welcomed(&self, welcome: &Welcome, plan: &Plan) -> Result<(), ShipError> {
        let oldest = self.image.journal.oldest();
        let position = {
            let mut view = self.view.lock();
            view.elsewhere = (!plan.is_of_this_history).then_some(welcome.position);
            let position = view.of_this_history(welcome.position);
            view.connect(position, plan.reader.position(), oldest, self.clock.monotonic());
            view.copying = plan.copy.as_ref().map(|copy| (copy.number, copy.bitmap.clone()));
            position
        };
        self.desk.fit_interval(welcome.journal_capacity_bytes, &self.image.buffer);
        self.line.connected();
        self.line.shipped_seq(Seq(position.durable_seq));
        self.show(&position);
        let (now, from_seq) = (self.clock.monotonic(), welcome.position.durable_seq);
        if let Some(left_out) = self.repeats.news(&format!("connected from {from_seq}"), now) {
            tracing::info!(group = %self.keeper.name(), peer = %self.peer, from_seq, left_out, "connected");
        }
        self.enter(self.standing(), None)?;
        Ok(())
    }

    /// A shipment is about to leave.
    pub fn sent(&self, shipment: &Shipment) {
        self.view.lock().send(shipment.seq, shipment.marker, shipment.next);
        self.line.shipped(shipment.bytes.len(), shipment.seq);
        self.line.coalesced(shipment.spared_bytes);
    }

    /// The time and the newest number, so that the other side knows how good its copy is.
    #[must_use]
    pub fn heartbeat(&self, number: u64) -> Message {
        // The time first: what is captured after it may be counted, what was answered before it must be.
        let as_of_ms = self.clock.wall().as_millisecond();
        let captured_seq = self.image.buffer.captured().0;
        let captured_seq = self.view.lock().captured_for_it(captured_seq);
        let marker = self.desk.markers.newest().map_or(0, |marker| marker.number);
        Message::Heartbeat { number, as_of_ms, captured_seq, marker }
    }

    /// What the other side says after its welcome.
    ///
    /// # Errors
    /// [`ShipError`]: the conversation is over.
    pub fn heard(&self, message: Message) -> Result<(), ShipError> {
        match message {
            Message::Ack { position, good_as_of_ms, journal_free_bytes, .. } => {
                let position = {
                    let mut view = self.view.lock();
                    view.room_there(journal_free_bytes);
                    view.of_this_history(position)
                };
                self.acknowledged(&position, good_as_of_ms)
            }
            Message::Trouble(what) => {
                self.note_trouble(what);
                Ok(())
            }
            // The same paths are on both machines: whose they are is said.
            Message::Goodbye { message } => Err(ShipError::Reach(format!("'{}' says: {message}", self.peer()))),
            Message::Refused(refused) => Err(HandshakeError::Refused(refused).into()),
            _ => Err(ShipError::Ended),
        }
    }

    /// What arrives is safe over there, and yet somebody has to look.
    fn note_trouble(&self, what: String) {
        let what = (!what.is_empty()).then_some(what);
        match &what {
            Some(what) => {
                // It comes with each connection that is made while it lasts.
                if let Some(left_out) = self.repeats.news(what, self.clock.monotonic()) {
                    tracing::warn!(group = %self.keeper.name(), peer = %self.peer(), %what, left_out, "the copy has a problem");
                }
            }
            None => tracing::info!(group = %self.keeper.name(), peer = %self.peer(), "the copy's problem is over"),
        }
        self.view.lock().trouble = what;
    }

    fn acknowledged(&self, position: &Remote, good_as_of_ms: i64) -> Result<(), ShipError> {
        self.show(position);
        // Before anything that it has is no longer held for it.
        if position.copy != 0 {
            block_in_place(|| self.differences.begun_there(position.copy))?;
        }
        let (now, age_ms) = (self.clock.monotonic(), self.clock.wall().as_millisecond().saturating_sub(good_as_of_ms));
        let mut view = self.view.lock();
        // The clock here was set back, and the other side does not know yet: it is as old as it was, and older.
        let grown = || view.age.map(|(age, at)| age + now.saturating_sub(at));
        // Zero: nothing over there is good yet.
        let age = if good_as_of_ms == 0 {
            None
        } else {
            u64::try_from(age_ms).map_or_else(|_| grown(), |ms| Some(Duration::from_millis(ms)))
        };
        view.acknowledge(*position, age, now);
        drop(view);
        if position.copy == 0 && self.differences.copy().is_some() {
            block_in_place(|| self.finish_copy(MarkerNumber(position.permitted_marker)))?;
        }
        self.judge();
        Ok(())
    }

    /// The copy is complete over there, when this is the marker at its end.
    pub(crate) fn finish_copy(&self, permitted: MarkerNumber) -> Result<(), ShipError> {
        if self.differences.finish(permitted)? {
            self.in_place.store(false, Ordering::Release);
            self.enter(PairState::CatchingUp, None)?;
        }
        Ok(())
    }

    /// How far the other side is, for the metrics.
    fn show(&self, position: &Remote) {
        self.line.received_seq(Seq(position.durable_seq));
        self.line.permitted_seq(Seq(position.permitted_seq));
    }

    /// The conversation is over: what that makes of the pair.
    pub fn disconnected(&self, error: Option<ShipError>) {
        let was = std::mem::replace(&mut self.view.lock().connected, false);
        let Some(error) = error else { return };
        if matches!(error, ShipError::Stopped) {
            return;
        }
        {
            let mut view = self.view.lock();
            view.stands = error.waits_for_a_person();
            // Nobody answers over there: what was to be looked at may be over, and is told again when it is not.
            if matches!(error, ShipError::Dial(_)) {
                view.trouble = None;
            }
        }
        let group = self.keeper.name();
        let now = self.clock.monotonic();
        if let Some(left_out) = was.then(|| self.repeats.news(&error.to_string(), now)).flatten() {
            tracing::warn!(%group, peer = %self.peer, %error, left_out, "the link is lost; it is tried again");
        } else {
            tracing::debug!(%group, peer = %self.peer, %error, "not connected");
        }
        if let ShipError::Handshake(HandshakeError::Refused(refused)) = &error
            && refused.refusal == Refusal::Fenced
            && refused.generation > self.keeper.generation().0
        {
            let reason = format!("{}: hosts belong over there", refused.message);
            let _ = self.enter(PairState::Fenced, Some(reason));
            self.links.fenced(&group, &self.peer, Generation(refused.generation));
            return;
        }
        let reason = self.why(&error);
        let why = reason.clone();
        let state = self.view.lock().state;
        let is_damage = matches!(&error, ShipError::Handshake(HandshakeError::Refused(refused)) if refused.refusal == Refusal::Damaged);
        if let ShipError::Handshake(HandshakeError::Refused(refused)) = &error
            && refused.refusal == Refusal::UnknownGroup
        {
            // It has no image either: what it had said of one holds no more.
            self.view.lock().remote = Remote::default();
        }
        let result = match state {
            PairState::Suspended | PairState::Fenced | PairState::FailedOver => Ok(false),
            _ if is_damage => self.copy_over_damage(reason),
            _ if let Some(damage) = error.damaged_frame().or_else(|| self.stays_unread(&error)) => {
                self.copy_around_or_stand(damage)
            }
            _ if error.needs_a_person() => {
                if error.is_damage() && state != PairState::Error {
                    self.metrics.journal_damaged();
                }
                self.enter(PairState::Error, Some(reason))
            }
            // What a person has to look at is not covered up by what comes after it.
            PairState::Error => Ok(false),
            // What is to be copied may have been found only now.
            PairState::Paired | PairState::CatchingUp => self.enter(self.standing(), Some(reason)),
            state => self.enter(state, Some(reason)),
        };
        if let Err(error) = result {
            self.not_recorded(&error);
            // It is so all the same, and does not follow any more, which needs no record.
            if state == PairState::Paired {
                let _ = self.enter(PairState::CatchingUp, None);
            }
            self.view.lock().reason = Some(format!("{why}. That could not be recorded: {error}"));
        }
    }

    /// Why a conversation ended, for people. A copy that takes nothing more drops its streams before its goodbye is read, and has said before what
    /// its trouble is.
    fn why(&self, error: &ShipError) -> String {
        match (error, &self.view.lock().trouble) {
            (ShipError::Link(LinkError::Abandoned), Some(what)) => format!("'{}' says: {what}", self.peer()),
            _ => error.to_string(),
        }
    }

    /// A path to a disk may come back, a sector does not: what could not be read at the same place for so long and so often is as good
    /// as damaged.
    fn stays_unread<'a>(&self, error: &'a ShipError) -> Option<&'a JournalError> {
        let unread = error.unreadable_frame()?;
        let mut known = self.unread.lock();
        let (at, now) = (self.reading.lock().at, self.clock.monotonic());
        let (since, times) =
            known.filter(|(place, ..)| *place == at).map_or((now, 1), |(_, since, times)| (since, times + 1));
        *known = Some((at, since, times));
        (times >= UNREAD_TIMES && now.saturating_sub(since) >= UNREAD_FOR).then_some(unread)
    }

    fn copy_around_or_stand(&self, damage: &JournalError) -> Result<bool, CatalogError> {
        match block_in_place(|| self.copy_around(damage)) {
            Ok(entered) => Ok(entered),
            Err(DifferencesError::Catalog(error)) => Err(error),
            Err(error) => self.enter(PairState::Error, Some(format!("{error}; and before that: {damage}"))),
        }
    }

    /// The other side's journal is damaged, and it has no image: the next copy is a first one, of what it lacks (decision 12).
    fn copy_over_damage(&self, reason: String) -> Result<bool, CatalogError> {
        let Some((volume, _)) = self.image.volumes.all().first().map(|volume| (volume.index, volume.size())) else {
            return Ok(false);
        };
        // Nothing of what it said of its image holds any more.
        self.view.lock().remote = Remote::default();
        // The bitmap of a copy is never empty: an empty one is one that was lost.
        let mut never_empty = Bitmap::default();
        never_empty.mark(Extent { volume, offset: 0, length: REGION_BYTES });
        let differences = &self.differences;
        let marked = block_in_place(|| differences.mark(&never_empty, None).and_then(|()| differences.go_in_place()));
        match marked {
            Ok(()) => self.enter(PairState::Differential, Some(reason)),
            Err(error) => self.enter(PairState::Error, Some(error.to_string())),
        }
    }
}
