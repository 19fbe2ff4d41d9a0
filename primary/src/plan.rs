//! From where a connection goes on: what the other side holds is looked up in the journal and in the points of frames
//! given up, and only then anything is sent.

use std::sync::atomic::Ordering;

use tidemark_common::catalog::{CopyRecord, OnFullRecord};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::Reader;
use tidemark_common::limits::{REGION_BYTES, staging_room_bytes};
use tidemark_common::record::{Chain, ControlRecord};
use tidemark_common::wire::message::Welcome;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use crate::cut::CutRequest;
use crate::feeder::{CopyFeed, FeedError};
use crate::ship::{Pair, ShipError};

/// What a connection begins with.
pub(crate) struct Plan {
    /// What comes next of the journal.
    pub(crate) reader: Reader,
    /// The copy to make or to go on with.
    pub(crate) copy: Option<CopyFeed>,
    /// What the other side holds is of this history, as far as it goes.
    pub(crate) is_of_this_history: bool,
}

/// Where the other side stands.
struct Base {
    /// In the journal, when the journal holds that place.
    held: Option<Reader>,
    /// In this group's history at all.
    known: bool,
    /// The journal cannot be read where that may be.
    unread: bool,
}

impl Pair {
    /// From where to go on, and the copy to make if one is needed.
    pub(crate) async fn plan(&self, welcome: &Welcome) -> Result<Plan, ShipError> {
        self.differences.check()?;
        block_in_place(|| self.let_go())?;
        let base = block_in_place(|| self.base(welcome))?;
        if welcome.position.copy == 0 && base.held.is_some() {
            // It may have ended while its answer was lost.
            block_in_place(|| self.finish_copy(MarkerNumber(welcome.position.permitted_marker)))?;
        }
        let Some(copy) = self.differences.copy() else {
            return self.plan_without_copy(welcome, base).await;
        };
        if copy.number == 0 {
            return self.begin_copy(&copy, base, welcome).await;
        }
        let start = copy.start();
        let bitmap = self.differences.bitmap();
        if welcome.position.copy == copy.number {
            return match base.held {
                Some(reader) if reader.position() >= start => self.go_on(&copy, bitmap, reader, welcome),
                held => self.begin_copy(&copy, Base { held, ..base }, welcome).await,
            };
        }
        // The other side does not have the begin of the copy: it is sent again, over the same base. One that was set back since stands
        // before that, and lacks what the copy was not counted for (invariant 6).
        let is_its_base = self.differences.knows(Seq(welcome.position.durable_seq), Chain(welcome.chain));
        if !base.known || !is_its_base || copy.end_marker.is_some() || self.image.journal.oldest() > start {
            return self.begin_copy(&copy, base, welcome).await;
        }
        let gives_up = self.check_staging(bitmap.bytes(), copy.direct, welcome)?;
        let copy = Some(self.copy_feed(&copy, bitmap, gives_up));
        Ok(Plan { reader: self.image.journal.reader(start), copy, is_of_this_history: true })
    }

    fn base(&self, welcome: &Welcome) -> Result<Base, ShipError> {
        let unknown = Base { held: None, known: false, unread: false };
        if !welcome.has_history {
            // What the volumes held before their first write is in no journal.
            return Ok(unknown);
        }
        let (seq, chain) = (Seq(welcome.position.durable_seq), Chain(welcome.chain));
        // Not while the journal is being folded.
        let _reading = self.reading.lock();
        let (held, unread) = match self.image.journal.reader_at_chain(seq, chain) {
            Ok(held) => (held, false),
            Err(error) if error.is_of_the_records() || error.is_unreadable() => {
                tracing::warn!(group = %self.keeper.name(), peer = %self.peer, %error, "the journal cannot be read where the copy may stand");
                (None, true)
            }
            Err(error) => return Err(error.into()),
        };
        let stands_at = held.as_ref().map(Reader::position);
        if !self.differences.can_stand(stands_at, &welcome.position) {
            return Ok(Base { unread, ..unknown });
        }
        Ok(Base { known: held.is_some() || self.differences.knows(seq, chain), held, unread })
    }

    async fn plan_without_copy(&self, welcome: &Welcome, base: Base) -> Result<Plan, ShipError> {
        match base.held {
            // A copy that nobody here knows of never ends: nothing would ever be permitted.
            Some(reader) if self.differences.are_none() && welcome.position.copy == 0 => {
                Ok(Plan { reader, copy: None, is_of_this_history: true })
            }
            held if base.known && !self.differences.are_none() => self.start_copy(held, None, welcome).await,
            _ => Err(ShipError::Stands(self.no_base(&base, welcome))),
        }
    }

    /// Whether a copy of so many bytes finds room over there beside the image that is kept until it is complete, and whether that
    /// image has to be given up for it: a first copy was ordered, so that is what it comes to.
    ///
    /// # Errors
    /// [`ShipError::Staging`], [`ShipError::Outgrown`]: only a person can say.
    fn check_staging(&self, bytes: u64, direct: bool, welcome: &Welcome) -> Result<bool, ShipError> {
        let gives_up = self.check_room_left(direct, welcome)?;
        if gives_up || !has_image(welcome) {
            return Ok(gives_up);
        }
        let room = staging_room_bytes(welcome.journal_capacity_bytes);
        match (bytes <= room, direct) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(ShipError::Staging { pair: self.in_commands(), bytes, room }),
        }
    }

    /// The room over there beside the image that is kept, when what differs finds none any more with so many bytes more, as far as is
    /// known here: the pair would stand until a person acts.
    #[must_use]
    pub fn finds_no_room(&self, more: u64) -> Option<u64> {
        let room = {
            let view = self.view.lock();
            // A side without an image has nothing to keep beside a copy.
            view.journal_capacity_bytes.filter(|_| view.remote.permitted_marker > 0).map(staging_room_bytes)?
        };
        let direct = self.differences.copy().is_some_and(|copy| copy.direct);
        let bytes = self.differences.bytes().saturating_add(more.next_multiple_of(REGION_BYTES));
        (!direct && bytes > room).then_some(room)
    }

    /// When so many bytes written at once are more than the journal here keeps for a pair that does not follow, and what differs then
    /// finds no room over there: what is kept here, and that room. `None`: the pair comes through it by itself, or hosts are slowed, as they are
    /// for a side that answers.
    #[must_use]
    pub fn outrun_by(&self, bytes: u64) -> Option<(u64, u64)> {
        // Once only a quarter is free, room is made: `Writeback::trim`.
        let kept = self.image.journal.capacity_bytes() / 4 * 3;
        let falls_back = self.keeper.get().on_full == OnFullRecord::Fold || !self.is_there();
        if bytes > kept && falls_back { Some((kept, self.finds_no_room(bytes)?)) } else { None }
    }

    /// Whether a copy that has begun gives up the image beside it: an operator asked for that, or hosts wrote more meanwhile than
    /// was left for it over there, and a first copy was ordered.
    ///
    /// # Errors
    /// [`ShipError::Outgrown`]: only a person can say.
    fn check_room_left(&self, direct: bool, welcome: &Welcome) -> Result<bool, ShipError> {
        let is_asked = self.in_place.load(Ordering::Acquire);
        if !has_image(welcome) {
            // It may keep what it was before it returned. Only it knows, and says itself when a copy finds no room beside that.
            return Ok(direct && is_asked);
        }
        let full = welcome.journal_free_bytes == 0;
        match (direct, full) {
            (true, _) => Ok(full || is_asked),
            (false, false) => Ok(false),
            (false, true) => {
                Err(ShipError::Outgrown { pair: self.in_commands(), capacity_bytes: welcome.journal_capacity_bytes })
            }
        }
    }

    /// Begins a copy anew: over the base it needs, or, when it is a first copy, over whatever is there.
    async fn begin_copy(&self, copy: &CopyRecord, base: Base, welcome: &Welcome) -> Result<Plan, ShipError> {
        if base.known {
            return self.start_copy(base.held, None, welcome).await;
        }
        if !copy.direct || self.was_put_back(copy, welcome) {
            return Err(ShipError::Stands(self.no_base(&base, welcome)));
        }
        self.start_copy(None, Some(self.everything()), welcome).await
    }

    /// Why nothing can be built on what the other side has. Its image may be the only one of what the damage took here: who
    /// gives it up is a person.
    fn no_base(&self, base: &Base, welcome: &Welcome) -> String {
        if !base.unread && !self.differences.were_unread() {
            return self.other_history(welcome);
        }
        let (peer, pair) = (self.peer(), self.in_commands());
        format!(
            "the journal here is damaged where the copy on {peer} may stand, so what it lacks cannot be told: neither side was changed. When \
             hosts get errors here, or `tidemark status` here shows a problem, take that copy over: `tidemark failover {group} --force` on {peer}. \
             When all is well here, `tidemark pair delete {pair}` and `tidemark pair create {pair}` copy everything anew",
            group = self.keeper.name(),
        )
    }

    /// Whether the first copy that is to go on was ordered once, and the image over there is newer than all there is here: a disk of this
    /// side was put back since, and nobody has asked for that image to be overwritten (invariant 5).
    fn was_put_back(&self, copy: &CopyRecord, welcome: &Welcome) -> bool {
        // One that was just ordered has not begun, or has found that image when it began.
        let found = self.view.lock().elsewhere.map(|there| there.durable_seq);
        let is_ordered = copy.number == 0 || found == Some(welcome.position.durable_seq);
        !is_ordered && has_image(welcome) && self.is_behind(welcome)
    }

    fn is_behind(&self, welcome: &Welcome) -> bool {
        welcome.position.durable_seq > self.image.buffer.captured().0
    }

    fn other_history(&self, welcome: &Welcome) -> String {
        let (peer, ends_at, pair) = (self.peer(), welcome.position.durable_seq, self.in_commands());
        // Then what is said next would overwrite the newest there is.
        let put_back = self.is_behind(welcome).then(|| {
            let group = self.keeper.name();
            format!(
                "It is further than this side: when a disk here was put back to what it was once, the copy has what hosts wrote since, and \
                 `tidemark failover {group} --force` on {peer} takes it over. Otherwise "
            )
        });
        format!(
            "the copy on {peer} ends at write {ends_at} of a history that is not this group's: neither side was changed. {}\
             `tidemark pair delete {pair}` and `tidemark pair create {pair}` copy everything anew",
            put_back.unwrap_or_default(),
        )
    }

    fn copy_feed(&self, copy: &CopyRecord, bitmap: Bitmap, gives_up: bool) -> CopyFeed {
        let begin = ControlRecord::CopyBegin {
            copy: copy.number,
            start_seq: copy.start_seq,
            start_marker: copy.start_marker,
            chain: copy.start_chain,
            direct: copy.direct,
            total_bytes: bitmap.bytes(),
            volumes: self.image.volumes.announced_specs(),
        };
        let cursor = (VolumeIndex(0), 0);
        CopyFeed { number: copy.number, gives_up, begin: Some(begin), bitmap, cursor, end: None }
    }

    /// Begins a differential copy: a cut, then everything that may differ as of it. `held` is where the other
    /// side stands; it may be before what this pair was known to need.
    async fn start_copy(
        &self,
        held: Option<Reader>,
        first: Option<Bitmap>,
        welcome: &Welcome,
    ) -> Result<Plan, ShipError> {
        let direct = self.differences.copy().is_some_and(|copy| copy.direct);
        let bytes = first.as_ref().map_or_else(|| self.differences.bytes(), Bitmap::bytes);
        let gives_up = self.check_staging(bytes, direct, welcome)?;
        let stands_at = held.map(|reader| reader.position());
        {
            // Nothing of the journal leaves until the cut's place is known.
            let mut view = self.view.lock();
            let holds = *view.holds.get_or_insert_with(|| self.image.journal.oldest());
            view.holds = Some(stands_at.map_or(holds, |at| at.min(holds)));
        }
        let (reply, done) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag: None, reply }, &self.image.buffer);
        let done = done.await.map_err(|_| ShipError::Stopped)?.map_err(FeedError::from)?;
        block_in_place(|| {
            let oldest = self.image.journal.oldest();
            let from = self.holds().unwrap_or(oldest).max(oldest);
            // The updater may have asked what pairs need before this one said where the other side stands, and trim it only now: that is
            // an error then, and nothing it lacks is passed over (invariant 6).
            let from = stands_at.map_or(from, |at| from.min(at));
            // Until it has the begin of the copy, the other side stands where it stands now.
            let base = stands_at.map(|_| (Seq(welcome.position.durable_seq), Chain(welcome.chain)));
            let copy =
                self.differences.begin(&self.image.journal, from, &done, first.as_ref(), base, &self.everything())?;
            let bitmap = self.differences.bitmap();
            self.view.lock().holds = Some(done.next);
            Ok(Plan {
                reader: self.image.journal.reader(done.next),
                copy: Some(self.copy_feed(&copy, bitmap, gives_up)),
                is_of_this_history: first.is_none(),
            })
        })
    }

    /// A copy goes on at the other side's cursor. Regions that were only on their way when the end was cut are sent again; they
    /// may hold what is behind that end, so it is forgotten first, durably, and a new one is cut (invariant 4).
    fn go_on(&self, copy: &CopyRecord, bitmap: Bitmap, reader: Reader, welcome: &Welcome) -> Result<Plan, ShipError> {
        let gives_up = self.check_room_left(copy.direct, welcome)?;
        let cursor = (VolumeIndex(welcome.position.copy_volume), welcome.position.copy_offset);
        let complete = bitmap.next_run(cursor.0, cursor.1).is_none();
        if !complete && copy.end_marker.is_some() {
            block_in_place(|| self.differences.forget_end(copy.number))?;
        }
        let end = copy.end_marker.filter(|_| complete).map(MarkerNumber);
        let copy = CopyFeed { number: copy.number, gives_up, begin: None, bitmap, cursor, end };
        Ok(Plan { reader, copy: Some(copy), is_of_this_history: true })
    }
}

/// Whether the other side could be taken over now.
const fn has_image(welcome: &Welcome) -> bool {
    welcome.position.permitted_marker > 0
}

#[cfg(test)]
pub(crate) mod tests;
