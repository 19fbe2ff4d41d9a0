//! What changes a pair's state: operators, and what befalls it. The catalogue first, then memory, then the era that is not
//! needed any more.
//!
//! A host's write that is under way when its target stops being an image would land unmarked behind a resync: whoever takes the
//! image away waits for it first.

use super::bits::{Bits, range};
use super::error::LocalPairError;
use super::pair::{LocalPair, place};
use super::states::{Event, follows, stands};
use crate::catalog::{LocalPairRecord, LocalPairStateRecord as State};
use crate::extent::Extent;
use crate::journal::Position;

impl LocalPair {
    /// `local-pair resync`: everything that may differ is copied from the source.
    ///
    /// # Errors
    /// [`LocalPairError`]; nothing has changed then.
    pub fn resync(&self) -> Result<(), LocalPairError> {
        let _nobody_writes = self.hold_writes()?;
        let _one_change = self.hold_copying()?;
        let mut era = None;
        self.change(|record, bits| {
            era = record.era;
            bits.merge(record.size);
            Ok(LocalPairRecord { era: None, begin: None, ..self.after(record, Event::Resync)? })
        })?;
        self.leave(era);
        Ok(())
    }

    /// `local-pair reverse`: from now on both are closed, and what was written to either since the split is restored. The target
    /// has all of it, so nothing that happens to the source costs what is to be restored.
    ///
    /// # Errors
    /// [`LocalPairError`]; nothing has changed then.
    pub fn reverse(&self) -> Result<(), LocalPairError> {
        let _nobody_writes = self.hold_writes()?;
        let _one_change = self.hold_copying()?;
        let mut era = None;
        self.change(|record, bits| {
            era = record.era;
            let reversed = self.after(record, Event::Reverse)?;
            let bytes = bits.differences.bytes();
            if bytes > 0 { Err(LocalPairError::Lacks { bytes }) } else { Ok(LocalPairRecord { era: None, ..reversed }) }
        })?;
        self.leave(era);
        Ok(())
    }

    /// What is to be restored: complete when the updater has written all that hosts wrote to the source.
    #[must_use]
    pub fn to_restore(&self) -> Vec<Extent> {
        let now = self.now.lock();
        Bits::runs(&now.bits.changed(), 0, super::copier::PIECE_BYTES, u64::MAX, now.record.size)
    }

    /// The source holds what the target does, in its file too.
    ///
    /// # Errors
    /// [`LocalPairError`]; nothing has changed then.
    pub fn restored(&self) -> Result<(), LocalPairError> {
        let _one_change = self.hold_copying()?;
        self.change(|record, bits| {
            *bits = Bits::default();
            Ok(LocalPairRecord { begin: None, ..self.after(record, Event::Restored)? })
        })
    }

    /// Its source is restored no further: it is a copy now, and holds what another side has. Its bits stay: a resync goes on from them.
    ///
    /// # Errors
    /// [`LocalPairError`]; nothing has changed then.
    pub fn give_up_reverse(&self, reason: &str) -> Result<(), LocalPairError> {
        let _one_change = self.hold_copying()?;
        self.change(|record, _| {
            let given_up = self.after(record, Event::GiveUp)?;
            Ok(LocalPairRecord { reason: Some(reason.to_owned()), ..given_up })
        })
    }

    /// Says why it stands still in a state, without leaving it; nothing when it has left it meanwhile, with a reason of its own.
    pub fn stands_because(&self, state: State, reason: Option<String>) {
        let mut now = self.now.lock();
        if now.record.state == state {
            now.record.reason = reason;
            now.tell();
        }
    }

    /// It cannot go on, and says why. Its bits stay: a resync goes on from them. The image of its split does not: nothing is kept for it that
    /// other images need room for.
    pub fn fail(&self, reason: &str) {
        let era = self.stand_still(reason);
        self.leave(era);
    }

    /// The era that is not needed any more.
    fn stand_still(&self, reason: &str) -> Option<u64> {
        let mut era = None;
        let failed = self.change(|record, bits| {
            // What is not synced is not known to be there.
            let unsynced = std::mem::take(&mut bits.unsynced);
            bits.differences.merge(&unsynced);
            let failed = self.after(record, Event::Fail)?;
            era = record.era;
            Ok(LocalPairRecord { era: None, reason: Some(reason.to_owned()), ..failed })
        });
        let record = self.record();
        tracing::error!(source = %record.source, target = %record.target, %reason, "a local pair cannot go on");
        match failed {
            Ok(()) | Err(LocalPairError::Deleted) => {}
            Err(LocalPairError::State { .. }) => self.stands_because(record.state, Some(reason.to_owned())),
            Err(error) => {
                tracing::error!(target = %record.target, %error, "that could not be recorded");
                let mut now = self.now.lock();
                now.record.state = State::Error;
                now.record.reason = Some(reason.to_owned());
                now.tell();
                now.tell_brief(&self.parts);
                // As the catalogue still has it.
                return None;
            }
        }
        era
    }

    /// The era of its split ended: what the target lacks can no longer be read, if it lacks anything.
    pub fn on_era_ended(&self, era: u64, reason: &str) {
        let lacks = {
            let now = self.now.lock();
            now.record.era == Some(era) && stands(now.record.state) && !now.bits.differences.is_empty()
        };
        if lacks {
            let target = self.parts.target.name.clone();
            // It is gone already, and this is the updater in the middle of a window: nothing is left here.
            self.stand_still(&format!(
                "what the target still lacked could not be kept: {reason}. The target is no image: `tidemark local-pair resync {target}` \
                 copies what differs, and a new split makes a new image"
            ));
        }
    }

    /// Places in the journal lose their meaning, durably.
    ///
    /// # Errors
    /// [`LocalPairError::Catalog`].
    pub fn on_all_reached(&self) -> Result<(), LocalPairError> {
        self.change(|record, _| Ok(LocalPairRecord { begin: None, ..record.clone() }))
    }

    /// What lies behind a place is about to be cut from the journal. A target that was split at a later one has what the source will never have
    /// now: nobody knows what differs. And what comes in its place in the journal is to be marked.
    ///
    /// # Errors
    /// [`LocalPairError::Catalog`].
    pub fn on_cut(&self, at: Position) -> Result<(), LocalPairError> {
        let is_later = |record: &LocalPairRecord| place(record).is_some_and(|split| split > at);
        // As it is when whatever is under way is over.
        let is_before = !is_later(&self.now.lock().record);
        if is_before {
            return Ok(());
        }
        self.change(|record, bits| {
            if !follows(record.state) {
                bits.source.mark(range(0, record.size));
            }
            Ok(LocalPairRecord { begin: None, ..record.clone() })
        })
    }

    /// Ends the pair: its record goes first.
    ///
    /// # Errors
    /// [`LocalPairError`]; nothing has changed then.
    pub fn delete(&self) -> Result<(), LocalPairError> {
        let _nobody_writes = self.hold_writes()?;
        let _one_change = self.hold_copying()?;
        let era = {
            let _one_commit = self.kept.lock();
            let mut now = self.now.lock();
            self.parts.catalog.delete_local_pair(&now.record.target)?;
            now.bits = Bits::default();
            now.image = None;
            // Nothing is put into the catalogue for it any more.
            now.record.size = 0;
            now.record.state = State::Error;
            now.tell_brief(&self.parts);
            let era = now.record.era.take();
            now.tell();
            era
        };
        self.leave(era);
        Ok(())
    }
}
