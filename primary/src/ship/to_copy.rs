//! What is copied to the other side from the volumes, because the journal does not have it, is kept for it no longer, or cannot be
//! read (invariant 6).

use std::sync::Arc;

use tidemark_common::api::types::PairState;
use tidemark_common::catalog::PartedRecord;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Seq, VolumeIndex};
use tidemark_common::journal::{JournalError, Position};
use tidemark_common::metrics::Part;
use tidemark_common::record::Chain;
use tidemark_common::wire::message::Position as Remote;
use tokio::task::block_in_place;

use super::Pair;
use super::orders::{Hold, Wanted};
use crate::differences::DifferencesError;

impl Pair {
    /// The journal is full: the pair's frames up to the given place go into its bitmap, durably, and are no longer needed
    /// (invariant 6). The pair is then `differential` and copies by itself when the link is back. For the thread that folds the journal.
    ///
    /// # Errors
    /// When the journal cannot be read or the bitmap not recorded; nothing is given up then.
    pub fn fall_back(self: &Arc<Self>, up_to: Position) -> Result<(), String> {
        let Some(_hold) = self.still_before(up_to) else { return Ok(()) };
        self.give_up(up_to)
    }

    /// Stands still, when the journal is kept for it from before a place.
    fn still_before(self: &Arc<Self>, up_to: Position) -> Option<Hold> {
        // What a fenced one never shipped is nobody else's.
        let is_fenced = self.view.lock().state == PairState::Fenced;
        let needs = self.holds().is_some_and(|holds| holds < up_to);
        (needs && !is_fenced).then(|| self.stand_still())
    }

    /// What the journal holds for it up to a place goes into its bitmap, durably, and is no longer needed. Returns what could not be read.
    fn to_bitmap(&self, up_to: Position) -> Result<Option<JournalError>, DifferencesError> {
        let (holds, sent_up_to, arrived) = {
            let view = self.view.lock();
            (view.holds, view.sent_up_to, view.arrived())
        };
        let journal = &self.image.journal;
        let from = holds.unwrap_or_default().max(journal.oldest());
        let unread = self.differences.give_up(journal, (from, up_to), sent_up_to, arrived, &self.everything())?;
        self.view.lock().give_up(up_to);
        Ok(unread)
    }

    fn give_up(&self, up_to: Position) -> Result<(), String> {
        if self.holds().is_none_or(|holds| holds >= up_to) {
            return Ok(());
        }
        if let Some(damage) = self.to_bitmap(up_to).map_err(|error| error.to_string())? {
            self.tell_damage(&damage);
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
        let up_to = self.image.journal.durable_end().position;
        let Some(_hold) = self.still_before(up_to) else { return Ok(()) };
        // Not while the journal is being folded: what is read of it then is not all there was.
        let _reading = self.reading.lock();
        self.give_up(up_to)
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
        // Not while the journal is being folded.
        let reading = self.reading.lock();
        self.to_bitmap(self.image.journal.durable_end().position)?;
        drop(reading);
        self.tell_damage(damage);
        let reason =
            format!("the journal here is damaged, and what it held for this pair is copied from the volumes: {damage}");
        Ok(self.enter(PairState::Differential, Some(reason))?)
    }

    /// Whether the other side may have another volume than one of this size, or none yet: it was primary, may have grown it alone, and does not
    /// follow yet; or its end is still to be copied, and the copy has not begun there as far as is known.
    pub(crate) fn may_differ_behind(&self, volume: VolumeIndex, size: u64) -> bool {
        if self.keeper.pair(&self.peer).is_some_and(|pair| pair.parted.is_some()) {
            let lacks_nothing = self.differences.are_none() && self.differences.copy().is_none();
            return !(lacks_nothing && matches!(self.view.lock().state, PairState::Paired | PairState::CatchingUp));
        }
        !self.differences.has_begun_there() && self.differences.bitmap().is_marked(volume, size.saturating_sub(1))
    }

    /// A volume comes to the group with data on it, or more of one: nothing more is shipped while the hold lives, and what is
    /// shipped then begins with a copy of it. So no marker that counts it reaches the other side before its content does.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub(crate) async fn hold_for(self: &Arc<Self>, extent: Extent) -> Result<Hold, String> {
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
}
