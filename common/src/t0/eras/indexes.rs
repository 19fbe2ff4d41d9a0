//! What lies between the volumes and the begin of an era they have not reached: indexed from the journal, going on from what the
//! updater or an earlier image has indexed.

use std::sync::Arc;

use super::{Eras, State, T0Error};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::journal::{Journal, JournalError, Position};
use crate::overlay::unapplied::{IndexError, Indexed, SharedIndex, Spill};

/// Indexes kept of places before the newest: an image of an older moment reads twice a part like this of what lies before it, at most. What they
/// hold of the same stretch is on the disk once for each doubling of their distance.
pub const INDEXES_MAX: usize = 32;

impl Eras {
    /// The updater of the engine that was attached last keeps an index of its own: images that begin behind its end go on from there, so that
    /// beginning one takes no longer when more lies between the volumes and its moment.
    pub fn indexed_by(&self, index: SharedIndex) {
        self.state.write().indexed = Some(index);
    }

    /// The updater's index as it is now, for images of moments before its end: the newest that does not go beyond an image is gone on from.
    /// Of too many, the one goes without which the largest stretch between two remains smallest.
    pub fn keep_index(&self, point: Indexed) {
        let mut state = self.state.write();
        let State { points, journal, applied, .. } = &mut *state;
        points.push(point);
        let Some(journal) = journal.as_ref().filter(|_| points.len() > INDEXES_MAX) else { return };
        let places: Vec<Position> = std::iter::once(*applied).chain(points.iter().map(Indexed::up_to)).collect();
        let apart = |around: &[Position]| match around {
            [before, _, behind] => journal.bytes_between(*before, *behind),
            _ => u64::MAX,
        };
        let least = places.windows(3).enumerate().min_by_key(|(_, around)| apart(around));
        if let Some((at, _)) = least {
            points.remove(at);
        }
    }

    /// Where these indexes end.
    #[must_use]
    pub fn indexes(&self) -> Vec<Position> {
        self.state.read().points.iter().map(Indexed::up_to).collect()
    }

    /// What others have indexed from one place and not beyond another.
    fn known(&self, from: Position, to: Position, spill: &Spill) -> Option<Indexed> {
        let fits = |index: &Indexed| (from..=to).contains(&index.up_to());
        // Whoever keeps an index holds the updater's and asks for the eras: never the other way.
        let updaters = self.state.read().indexed.clone();
        let shared = updaters.and_then(|updaters| {
            let updaters = updaters.lock();
            fits(&updaters).then(|| updaters.share(spill))
        });
        let kept = || self.state.read().points.iter().rev().find(|point| fits(point)).map(|point| point.share(spill));
        shared
            .or_else(kept)?
            .inspect_err(|error| tracing::warn!(%error, "the journal is indexed anew for an image"))
            .ok()
    }

    /// What the frames between two places write; the folder is there.
    pub(super) fn index(&self, journal: &Arc<Journal>, from: Position, to: Position) -> Result<Indexed, T0Error> {
        let _alone = self.indexing.lock();
        let path = self.parts.folder.join("pending.index");
        let spill = Spill::new(Arc::clone(&self.parts.disk), path, self.parts.index_ranges_max);
        let mut index = self.known(from, to, &spill).unwrap_or_else(|| Indexed::from(from));
        index.go_on(journal, to, &spill).map_err(|error| match error {
            IndexError::Journal(error) => T0Error::Journal(error),
            IndexError::Frame(error) => T0Error::Frame(error),
        })?;
        Ok(index)
    }

    pub(super) fn index_until(&self, begin: Position) -> Result<Option<Arc<Indexed>>, T0Error> {
        loop {
            let (journal, applied) = {
                let state = self.state.read();
                (state.journal.clone(), state.applied)
            };
            let Some(journal) = journal.filter(|_| applied < begin) else {
                return if applied > begin { Err(T0Error::Passed) } else { Ok(None) };
            };
            match self.index(&journal, applied, begin) {
                Ok(index) => return Ok(Some(Arc::new(index))),
                // The updater went on meanwhile.
                Err(T0Error::Journal(JournalError::Trimmed { .. })) if self.applied_position() > applied => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells what the frames between the volumes and the begin of an era write to a volume; nothing when they have reached it.
    ///
    /// # Errors
    /// [`T0Error::Index`].
    pub fn each_pending(&self, number: u64, volume: VolumeIndex, tell: impl FnMut(Extent)) -> Result<(), T0Error> {
        let state = self.state.read();
        let pending = state.eras.iter().find(|era| era.number == number).and_then(|era| era.pending.clone());
        drop(state);
        pending.map_or(Ok(()), |pending| Ok(pending.each_range(volume, tell)?))
    }

    /// Ranges in the index of what the volumes miss of an era: in memory, and on the disk.
    #[must_use]
    pub fn pending_ranges(&self, number: u64) -> (usize, usize) {
        let state = self.state.read();
        let pending = state.eras.iter().find(|era| era.number == number).and_then(|era| era.pending.as_ref());
        pending.map_or((0, 0), |pending| pending.ranges())
    }
}
