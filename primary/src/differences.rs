//! What a pair's other side may lack, durably: the differential bitmap, the copy that brings it, and the places of the
//! history where the other side may stand although the journal no longer holds them. The one owner of all three; every
//! change is one step under one lock and one batch of the catalogue.
//!
//! ```text
//!              mark, give up                begin (a cut)              finish (its end is permitted)
//!  nothing ─────────────────▶ differences ────────────────▶ a copy ─────────────────────────────▶ nothing
//!                                   ▲                          │ mark, give up: what arrived is taken out,
//!                                   └──────────────────────────┘ what came is added, the copy begins anew
//! ```
//!
//! A bitmap is worth something only over a known base. So each frame given up leaves its point (sequence number and
//! chain) behind, as far as frames may have been sent; the other side is believed to be the base only when it stands at
//! one of them, or in the journal (two sides are equal only by comparing what they hold, decision 2).
//!
//! Keeps: 6 (what leaves the journal is in the bitmap first), 4 (no copy over a base that is not known).

mod counted;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tidemark_common::catalog::{Batch, CatalogError, CopyRecord, PairRecord};
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{Journal, JournalError, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::record::Chain;
use tidemark_common::wire::message::Position as Remote;

use self::counted::Counted;
pub use self::counted::{Unread, written_since};
pub use self::record::encode_new;
use crate::cut::CutDone;

/// Points kept at most: 24 bytes each. Where more frames were under way, the rest is not recognised, and a person is asked.
const POINTS_MAX: usize = 1 << 20;

/// Why the differences could not be read or changed; they are as they were.
#[derive(Debug, thiserror::Error)]
pub enum DifferencesError {
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The frames to give up or to count cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What the catalogue holds makes no sense. It is never taken for nothing.
    #[error("{what}: `tidemark pair delete {pair}` and `tidemark pair create {pair}` copy everything anew")]
    Unreadable {
        /// The pair as commands name it.
        pair: String,
        /// What is wrong.
        what: String,
    },
    /// The pair is deleted.
    #[error("the pair is deleted")]
    Forgotten,
}

/// How far a copy's regions have arrived: its number, and the cursor before which all are durable over there.
pub type Arrived = (u64, (VolumeIndex, u64));

/// See the module.
#[derive(Debug)]
pub struct Differences {
    keeper: Arc<GroupKeeper>,
    peer: String,
    inner: Mutex<Inner>,
    /// What status asks for, without waiting for whoever changes them.
    shown_bytes: AtomicU64,
    shown_none: AtomicBool,
    /// Counts the connections over which they were sent. Changed only under the lock.
    senders: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    bitmap: Bitmap,
    points: Vec<(Seq, Chain)>,
    /// Since the last copy was complete, frames were given up that could not be read: their points are not among these.
    unread: bool,
    unreadable: Option<String>,
    forgotten: bool,
}

impl Differences {
    /// The differences of a pair whose record is in the catalogue.
    #[must_use]
    pub fn open(keeper: Arc<GroupKeeper>, record: &PairRecord) -> Self {
        let mut inner = match keeper.catalog().bitmap(keeper.id(), &record.peer) {
            Ok(Some(bytes)) => Inner::decode(&bytes),
            Ok(None) => Inner::default(),
            Err(error) => Inner::unreadable(error.to_string()),
        };
        if inner.unreadable.is_none() && inner.bitmap.is_empty() && record.copy.is_some() {
            inner = Inner::unreadable("the bitmap of the copy under way is gone".into());
        }
        let (bytes, none) = (inner.bitmap.bytes(), inner.are_none());
        Self {
            keeper,
            peer: record.peer.clone(),
            inner: Mutex::new(inner),
            shown_bytes: bytes.into(),
            shown_none: none.into(),
            senders: AtomicU64::new(0),
        }
    }

    /// Bytes that may differ, regions counted whole.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shown_bytes.load(Ordering::Acquire)
    }

    /// Whether the other side has everything but what the journal holds for it.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.shown_none.load(Ordering::Acquire)
    }

    /// The regions.
    #[must_use]
    pub fn bitmap(&self) -> Bitmap {
        self.inner.lock().bitmap.clone()
    }

    /// The copy under way.
    #[must_use]
    pub fn copy(&self) -> Option<CopyRecord> {
        self.keeper.pair(&self.peer).and_then(|pair| pair.copy)
    }

    /// Whether they can be read.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub fn check(&self) -> Result<(), DifferencesError> {
        self.lock().map(drop)
    }

    /// Whether the other side may stand at a place of the journal, or, with `None`, before what it holds: not when it lacks what a
    /// copy has brought, which is in no journal.
    #[must_use]
    pub(crate) fn can_stand(&self, at: Option<Position>, says: &Remote) -> bool {
        let Some(pair) = self.keeper.pair(&self.peer) else { return false };
        let floor = pair.floor.map(|(segment, offset)| Position { segment, offset });
        if at.is_some() && at < floor {
            return false;
        }
        pair.counted.is_none_or(|(copy, volume, offset)| {
            let of_copy = |copy: &CopyRecord| {
                let ended = says.copy == 0 && copy.end_marker.is_some_and(|end| says.permitted_marker >= end);
                copy.number != 0 && (copy.number == says.copy || ended)
            };
            // It had begun that copy, and what is behind a copy's begin is permitted with its end: it has all of it, though its
            // answer was lost and its end is forgotten here. A copy that began later began over a side that had what is counted, also when
            // it was taken back since, and nobody here knows how far it had come.
            let over = if says.copy == 0 { says.permitted_marker > copy } else { says.copy > copy };
            over || pair.copy.as_ref().is_some_and(of_copy)
                || says.copy == copy && (says.copy_volume, says.copy_offset) >= (volume, offset)
        })
    }

    /// Whether the other side may stand at this point of the history, by the frames given up.
    #[must_use]
    pub fn knows(&self, seq: Seq, chain: Chain) -> bool {
        self.inner.lock().points.contains(&(seq, chain))
    }

    /// Whether it may stand where frames were given up that could not be read, so that nobody knows that place any more.
    #[must_use]
    pub(crate) fn were_unread(&self) -> bool {
        self.inner.lock().unread
    }

    /// Regions may differ.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub fn mark(&self, regions: &Bitmap, arrived: Option<Arrived>) -> Result<(), DifferencesError> {
        let inner = self.lock()?;
        let mut next = inner.clone();
        let mut pair = self.pair()?;
        let first = next.without_arrived(&mut pair, arrived);
        next.bitmap.merge(regions);
        next.keep_one(first);
        self.keep(inner, next, pair)
    }

    /// Volumes leave a group: what differs of all but `members` is nobody's any more. A copy that has begun passes it over by itself.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub fn keep_only(&self, members: &Bitmap) -> Result<(), DifferencesError> {
        let inner = self.lock()?;
        let mut pair = self.pair()?;
        if pair.copy.as_ref().is_some_and(|copy| copy.number != 0) {
            return Ok(());
        }
        let mut next = inner.clone();
        if !next.keep_only(members) {
            return Ok(());
        }
        if let Some(copy) = &mut pair.copy {
            copy.total_bytes = next.bitmap.bytes();
        }
        self.keep(inner, next, pair)
    }

    /// The other side's image is given up: the next copy is a first one, of what differs.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub(crate) fn go_in_place(&self) -> Result<(), DifferencesError> {
        let inner = self.lock()?;
        let next = inner.clone();
        let mut pair = self.pair()?;
        pair.copy = Some(CopyRecord::first(next.bitmap.bytes()));
        self.keep(inner, next, pair)
    }

    /// The other side, which was primary, returns: what it wrote after the histories parted differs, too. With `dirty` empty it
    /// stands at that place exactly; `everything` is for one that does not know it.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub fn returned(&self, dirty: &Bitmap, everything: Option<&Bitmap>) -> Result<(), DifferencesError> {
        let inner = self.lock()?;
        let mut next = inner.clone();
        next.bitmap.merge(everything.unwrap_or(dirty));
        let overwritten = everything.is_some() || !dirty.is_empty();
        let mut pair = self.pair()?;
        // It has no image to keep then: what it holds never was one of this history.
        pair.copy = overwritten.then(|| CopyRecord::first(next.bitmap.bytes()));
        pair.floor = None;
        pair.counted = None;
        self.keep(inner, next, pair)
    }

    /// The frames from one place to another leave the journal: their regions are marked, and their points kept as far as
    /// they may have been sent. Where they cannot be read, `all` is marked, and what was read of them is not relied on.
    ///
    /// # Errors
    /// [`DifferencesError`]; nothing may be trimmed then.
    pub fn give_up(
        &self,
        journal: &Arc<Journal>,
        (from, up_to): (Position, Position),
        sent_up_to: Position,
        arrived: Option<Arrived>,
        all: &Bitmap,
    ) -> Result<Unread, DifferencesError> {
        // The frames are read before anybody is kept from anything. What happens meanwhile only ever knows of more.
        let mut given_up = Counted::between(journal, from, up_to, Some(sent_up_to))?;
        let unread = given_up.mark_unread(all);
        let inner = self.lock()?;
        let mut next = inner.clone();
        let mut pair = self.pair()?;
        let first = next.without_arrived(&mut pair, arrived);
        next.add(&given_up);
        // Also where hosts wrote nothing: the other side may stand before what is gone, and only a copy brings it behind that.
        let any = || all.next_run(VolumeIndex(0), 0).filter(|_| !given_up.points.is_empty());
        next.keep_one(first.or_else(any));
        next.unread |= unread.is_some();
        self.keep(inner, next, pair)?;
        Ok(unread)
    }

    /// A copy begins at a cut: whatever the frames from a place up to it write may differ, too (`all`, every region of the volumes, where
    /// they cannot be read); and `first`, when nothing the other side may have can be counted on.
    ///
    /// # Errors
    /// [`DifferencesError`]; [`JournalError::Trimmed`] when frames were given up meanwhile: try again.
    pub fn begin(
        &self,
        journal: &Arc<Journal>,
        from: Position,
        cut: &CutDone,
        first: Option<&Bitmap>,
        base: Option<(Seq, Chain)>,
        all: &Bitmap,
    ) -> Result<CopyRecord, DifferencesError> {
        let mut since = Counted::between(journal, from, cut.next, None)?;
        since.mark_unread(all);
        let inner = self.lock()?;
        let mut next = inner.clone();
        let mut pair = self.pair()?;
        if let Some(everything) = first {
            next.bitmap.merge(everything);
            // Whatever it holds is written over: nothing is counted on.
            pair.counted = None;
        }
        since.points.extend(base);
        next.add(&since);
        next.keep_only(all);
        let copy = CopyRecord {
            // The marker's number: no other copy of this history has it.
            number: cut.marker.number,
            start_seq: cut.marker.boundary_seq,
            start_marker: cut.marker.number,
            start_chain: cut.chain.0,
            start_segment: cut.next.segment,
            start_offset: cut.next.offset,
            direct: pair.copy.as_ref().is_some_and(|copy| copy.direct),
            end_marker: None,
            cursor_volume: 0,
            cursor_offset: 0,
            done_bytes: 0,
            total_bytes: next.bitmap.bytes(),
        };
        pair.copy = Some(copy.clone());
        self.keep(inner, next, pair)?;
        Ok(copy)
    }

    /// The other side has the begin of this copy: where it stood before that is no base any more. What is sent to it since then is not among
    /// what the copy was counted for, and leaves the journal when it has come.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub(crate) fn begun_there(&self, number: u64) -> Result<(), DifferencesError> {
        let inner = self.lock()?;
        if inner.points.is_empty() {
            return Ok(());
        }
        let pair = self.pair()?;
        if pair.copy.as_ref().is_none_or(|copy| copy.number != number) {
            return Ok(());
        }
        let next = Inner { points: Vec::new(), ..inner.clone() };
        self.keep(inner, next, pair)
    }

    /// Whether the other side has the begin of the copy under way, as far as is known. One that has nothing yet is sent a begin anew.
    #[must_use]
    pub(crate) fn has_begun_there(&self) -> bool {
        self.copy().is_some_and(|copy| copy.number != 0) && self.inner.lock().points.is_empty()
    }

    /// Somebody begins to send over a new connection: from here on nobody else says where a copy ends. Who did before may not know yet
    /// that its connection is over, and regions that it sent may be sent again.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub(crate) fn next_sender(&self) -> Result<u64, DifferencesError> {
        let _alone = self.lock()?;
        Ok(self.senders.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// The end of a copy is cut. Durable before the other side can hear of it: after a restart this tells a finished copy
    /// from one not begun. `false`: that copy is over, or somebody else sends it now.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub(crate) fn end_cut(&self, number: u64, sender: u64, marker: MarkerNumber) -> Result<bool, DifferencesError> {
        let _alone = self.lock()?;
        if self.senders.load(Ordering::Acquire) != sender {
            return Ok(false);
        }
        let mut ours = false;
        self.keeper.update_pair(&self.peer, |pair| {
            if let Some(copy) = pair.copy.as_mut().filter(|copy| copy.number == number) {
                copy.end_marker = Some(marker.0);
                ours = true;
            }
        })?;
        Ok(ours)
    }

    /// Regions of a copy are sent again: whatever end was cut before is not its end.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub(crate) fn forget_end(&self, number: u64) -> Result<(), DifferencesError> {
        let _alone = self.lock()?;
        self.keeper.update_pair(&self.peer, |pair| {
            if let Some(copy) = pair.copy.as_mut().filter(|copy| copy.number == number) {
                copy.end_marker = None;
            }
        })?;
        Ok(())
    }

    /// The other side permits the end of the copy: nothing differs any more. `false`: it is not that copy's end.
    ///
    /// # Errors
    /// [`DifferencesError`].
    pub fn finish(&self, permitted: MarkerNumber) -> Result<bool, DifferencesError> {
        let inner = self.lock()?;
        let mut pair = self.pair()?;
        let ended = |copy: &CopyRecord| copy.number != 0 && copy.end_marker.is_some_and(|end| permitted.0 >= end);
        let Some(copy) = pair.copy.take().filter(ended) else { return Ok(false) };
        pair.floor = Some((copy.start_segment, copy.start_offset));
        pair.counted = None;
        self.keep(inner, Inner::default(), pair)?;
        Ok(true)
    }

    /// The pair is deleted, and its record with it; whoever still works for it changes nothing any more.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget(&self) -> Result<(), CatalogError> {
        let mut inner = self.inner.lock();
        let mut batch = Batch::new();
        batch.delete_bitmap(self.keeper.id(), &self.peer)?;
        batch.delete_verify(self.keeper.id(), &self.peer)?;
        self.keeper.update_with(batch, |group| group.pairs.retain(|pair| pair.peer != self.peer))?;
        *inner = Inner { forgotten: true, ..Inner::default() };
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Inner>, DifferencesError> {
        let inner = self.inner.lock();
        if inner.forgotten {
            return Err(DifferencesError::Forgotten);
        }
        if let Some(what) = &inner.unreadable {
            let pair = format!("{} --to {}", self.keeper.name(), self.peer);
            return Err(DifferencesError::Unreadable { pair, what: what.clone() });
        }
        Ok(inner)
    }

    fn pair(&self) -> Result<PairRecord, DifferencesError> {
        self.keeper.pair(&self.peer).ok_or(DifferencesError::Forgotten)
    }

    /// Durably, then in memory.
    fn keep(&self, mut inner: MutexGuard<'_, Inner>, next: Inner, changed: PairRecord) -> Result<(), DifferencesError> {
        let mut batch = Batch::new();
        let id = self.keeper.id();
        if next.bitmap.is_empty() && next.points.is_empty() && !next.unread {
            batch.delete_bitmap(id, &self.peer)?;
        } else {
            batch.put_bitmap(id, &self.peer, &next.encode())?;
        }
        self.keeper.update_with(batch, |group| {
            if let Some(pair) = group.pairs.iter_mut().find(|pair| pair.peer == self.peer) {
                pair.copy = changed.copy;
                pair.floor = changed.floor;
                pair.counted = changed.counted;
            }
        })?;
        self.shown_bytes.store(next.bitmap.bytes(), Ordering::Release);
        self.shown_none.store(next.are_none(), Ordering::Release);
        *inner = next;
        Ok(())
    }
}

impl Inner {
    fn unreadable(what: String) -> Self {
        Self { unreadable: Some(what), ..Self::default() }
    }

    fn are_none(&self) -> bool {
        self.unreadable.is_none() && self.bitmap.is_empty()
    }

    /// Takes the regions that have arrived out of the bitmap: from then on only a side that has them is the base. A first copy
    /// begins again as what it was: the other side still has no image to keep. Returns the first of the copy's regions, if there was one.
    fn without_arrived(&mut self, pair: &mut PairRecord, arrived: Option<Arrived>) -> Option<Extent> {
        let mut copy = pair.copy.take()?;
        let first = self.bitmap.next_run(VolumeIndex(0), 0);
        if let Some((number, (volume, offset))) = arrived
            && number == copy.number
            && number != 0
            && (volume, offset) > (VolumeIndex(0), 0)
        {
            self.bitmap.clear_before(volume, offset);
            // What it held before that copy is no base any more.
            self.points.clear();
            pair.counted = Some((number, volume.0, offset));
        }
        copy.number = 0;
        copy.end_marker = None;
        pair.copy = copy.direct.then_some(copy);
        first
    }

    /// Where nothing is left to be copied and the other side still waits for the end of a copy, one that passes this region brings it: also
    /// when one was taken back though all its regions had arrived.
    fn keep_one(&mut self, region: Option<Extent>) {
        if self.bitmap.is_empty()
            && let Some(region) = region
        {
            self.bitmap.mark(Extent { length: REGION_BYTES, ..region });
        }
    }

    /// Forgets all regions but those of these volumes; whether there were any. What differed is not nothing then: the journal still has
    /// when those volumes were members, and a side that followed it would have markers that count them, without what they held
    /// (invariant 4). So one region stays, for the copy that passes that over.
    fn keep_only(&mut self, members: &Bitmap) -> bool {
        let changed = self.bitmap.retain_volumes_of(members);
        if changed {
            self.keep_one(members.next_run(VolumeIndex(0), 0));
        }
        changed
    }

    /// Unites with what was counted apart. Of too many points the newest are kept: that is where the other side stands most often.
    fn add(&mut self, other: &Counted) {
        self.bitmap.merge(&other.bitmap);
        self.points.extend(&other.points);
        let surplus = self.points.len().saturating_sub(POINTS_MAX);
        self.points.drain(..surplus);
    }
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

#[cfg(test)]
mod tests;
