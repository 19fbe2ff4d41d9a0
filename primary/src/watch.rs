//! Places of the journal that somebody other than a pair reads on from: a comparison that watches what hosts write. In comes
//! where each stands, out goes the oldest of them, which the journal keeps (invariant 6). Owns these places.
//!
//! A watcher never costs hosts anything: when the journal runs full, its place is taken away, and it learns of that before it
//! believes what it read.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_common::journal::Position;

/// The places of those who watch.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    places: BTreeMap<u64, Position>,
    next: u64,
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    number: u64,
}

impl Watches {
    /// Keeps the journal from a place on, which must not be older than what the updater has yet to apply.
    pub(crate) fn from(self: &Arc<Self>, place: Position) -> Watch {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.places.insert(number, place);
        Watch { watches: Arc::clone(self), number }
    }

    /// The oldest place watched from.
    pub(crate) fn oldest(&self) -> Option<Position> {
        self.inner.lock().places.values().min().copied()
    }

    /// The journal needs the room: it is kept for nobody here any longer.
    pub(crate) fn lapse(&self) {
        self.inner.lock().places.clear();
    }
}

impl Watch {
    /// What lies before a place was read. `false`: the journal was not kept for this watcher meanwhile.
    #[must_use]
    pub(crate) fn moves_to(&self, place: Position) -> bool {
        self.watches.inner.lock().places.get_mut(&self.number).map(|kept| *kept = place).is_some()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.inner.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_place_is_kept_until_its_watcher_moves_on_ends_or_lapses() {
        let at = |segment| Position { segment, offset: 512 };
        let watches = Arc::new(Watches::default());
        assert_eq!(watches.oldest(), None);
        let (first, second) = (watches.from(at(3)), watches.from(at(5)));
        assert_eq!(watches.oldest(), Some(at(3)));
        assert!(first.moves_to(at(7)));
        assert_eq!(watches.oldest(), Some(at(5)));
        drop(second);
        assert_eq!(watches.oldest(), Some(at(7)));
        watches.lapse();
        assert_eq!(watches.oldest(), None);
        assert!(!first.moves_to(at(8)), "it has to learn that the journal was not kept");
        assert_eq!(watches.oldest(), None);
        let third = watches.from(at(9));
        drop(first);
        assert_eq!(watches.oldest(), Some(at(9)));
        drop(third);
    }
}
