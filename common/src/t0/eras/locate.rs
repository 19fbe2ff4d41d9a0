//! Where a range of an image lies: saved in its era or a younger one, in the journal, or in the volume.

use std::sync::Arc;

use super::{Era, Eras, State, T0Error};
use crate::extent::Extent;
use crate::journal::Journal;
use crate::overlay::Piece;
use crate::overlay::location::Location;
use crate::overlay::unapplied::Look;
use crate::t0::concordance::{Saved, file_of};
use crate::t0::side_file::SideFile;

/// Where a range of an image lies when it is not in the volume.
pub(in crate::t0) enum Place {
    Saved(Saved, Option<Arc<SideFile>>),
    Pending(Location, Arc<Journal>),
}

/// What was found of a range with the lock on the eras; an index may have to be read from the disk, without it.
enum Found {
    Here(Piece<Place>),
    Pending(Look, Arc<Journal>),
}

impl Eras {
    /// A range of the image at the begin of an era: what was saved since, what the volumes miss, and what is in them.
    pub(in crate::t0) fn locate(&self, number: u64, extent: Extent) -> Result<Vec<Piece<Place>>, T0Error> {
        let state = self.state.read();
        let own = state.eras.iter().position(|era| era.number == number).ok_or(T0Error::Gone)?;
        let is_known = state.eras.get(own).is_some_and(|era| state.knows(era));
        let mut located = Vec::new();
        state.locate_in(own, own, extent, &mut located);
        drop(state);
        let mut pieces = Vec::with_capacity(located.len());
        for found in located {
            match found {
                // The volume may be older than the image.
                Found::Here(piece) if piece.location.is_none() && !is_known => return Err(T0Error::NotRunning),
                Found::Here(piece) => pieces.push(piece),
                Found::Pending(look, journal) => pieces.extend(look.pieces()?.into_iter().map(|piece| Piece {
                    extent: piece.extent,
                    location: piece.location.map(|location| Place::Pending(location, Arc::clone(&journal))),
                })),
            }
        }
        Ok(pieces)
    }

    /// Whether any of a range was saved since the begin of an era. Of an era that is gone nobody can tell: from its end on, the volumes are
    /// written without anything being saved for it.
    pub(in crate::t0) fn is_saved(&self, number: u64, extent: Extent) -> Result<bool, T0Error> {
        let state = self.state.read();
        let own = state.eras.iter().position(|era| era.number == number).ok_or(T0Error::Gone)?;
        let mut since = state.eras.iter().skip(own).flat_map(|era| era.concordance.pieces(extent));
        Ok(since.any(|piece| piece.location.is_some()))
    }
}

impl State {
    /// Whether it is known what the volumes lack of an era.
    pub(super) fn knows(&self, era: &Era) -> bool {
        era.pending.is_some() || era.begin <= self.applied
    }

    fn locate_in(&self, own: usize, at: usize, extent: Extent, located: &mut Vec<Found>) {
        let Some(era) = self.eras.get(at) else {
            self.locate_unsaved(own, extent, located);
            return;
        };
        for piece in era.concordance.pieces(extent) {
            match piece.location {
                Some(saved) => {
                    let file = match &saved {
                        Saved::Zero => None,
                        Saved::Data(place) => file_of(&era.files, place),
                    };
                    let location = Some(Place::Saved(saved, file));
                    located.push(Found::Here(Piece { extent: piece.extent, location }));
                }
                None => self.locate_in(own, at + 1, piece.extent, located),
            }
        }
    }

    fn locate_unsaved(&self, own: usize, extent: Extent, located: &mut Vec<Found>) {
        let pending = self.eras.get(own).and_then(|era| era.pending.as_ref()).zip(self.journal.as_ref());
        located.push(match pending {
            None => Found::Here(Piece { extent, location: None }),
            Some((pending, journal)) => Found::Pending(pending.look(extent), Arc::clone(journal)),
        });
    }
}
