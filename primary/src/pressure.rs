//! A journal that runs full because a pair is slow or away, in this order: what the pair was never sent is folded
//! inside the journal; what does not fit even then goes into the pair's bitmap, and from there into a differential copy. A group
//! may instead slow its hosts ([`crate::throttle`]), but not to a stop for a side that comes no nearer by it: one that does not answer is given up
//! before the journal is full, one that was primary and has not returned at once.
//! Whoever only watches the journal goes first of all. Owns the readers of the journal: the set of pairs, and those who watch.
//!
//! Nobody may stand inside of what is folded (invariant 6): while that lasts, the pairs that are behind read no further. Their
//! connections stay, and what a pair has begun to send up to the next marker stays as it is: however often the journal is
//! folded, an image is always on its way.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tidemark_common::journal::{FoldRange, Journal, JournalError, Position};
use tidemark_common::metrics::GroupMetrics;

use crate::drain::DrainDesk;
use crate::feeder::Reading;
use crate::ship::Pair;
use crate::watch::Watches;
use crate::writeback::Readers;

/// The pairs of a group.
#[derive(Debug)]
pub(crate) struct PairSet {
    pub(crate) pairs: RwLock<Vec<Arc<Pair>>>,
    /// Those who watch what hosts write.
    pub(crate) watches: Arc<Watches>,
    /// Not kept open by whoever still knows of the pairs.
    journal: Weak<Journal>,
    desk: Arc<DrainDesk>,
    metrics: GroupMetrics,
    tried: Mutex<Tried>,
}

/// The last try to fold.
#[derive(Debug, Default)]
struct Tried {
    /// The journal's end then.
    end: Option<Position>,
    /// Space came back.
    helped: bool,
}

/// What may be folded now.
struct Foldable<'a> {
    range: FoldRange,
    /// Keeps the pairs that are behind where they are.
    still: Vec<MutexGuard<'a, Reading>>,
}

impl PairSet {
    pub(crate) fn new(journal: &Arc<Journal>, desk: Arc<DrainDesk>, metrics: GroupMetrics) -> Self {
        let journal = Arc::downgrade(journal);
        let (pairs, watches, tried) = (RwLock::default(), Arc::default(), Mutex::default());
        Self { pairs, watches, journal, desk, metrics, tried }
    }

    /// Folding reads much of the journal: it is tried again when a sixteenth of it is new.
    fn begin_to_fold(&self, journal: &Journal) -> bool {
        let end = journal.durable_end().position;
        let mut tried = self.tried.lock();
        let new = tried.end.map_or(u64::MAX, |tried| journal.bytes_between(tried, end));
        let again = new >= journal.capacity_bytes() / 16 || is_tight(journal) && tried.end != Some(end);
        if again {
            *tried = Tried { end: Some(end), helped: false };
        }
        again
    }

    /// Folds what the pairs that are behind were never sent.
    fn fold(&self, journal: &Arc<Journal>, recorded: Position) -> Result<(), JournalError> {
        let pairs = self.by_need();
        let Some(Foldable { mut range, still: _still }) = self.foldable(&pairs, journal, recorded)? else {
            return Ok(());
        };
        while let Some(folded) = journal.fold(range)? {
            range.after = folded.to;
            self.desk.markers.forget(folded.from, folded.to);
            self.metrics.journal_folded(folded.markers, folded.bytes_before.saturating_sub(folded.bytes_after));
            self.tried.lock().helped = true;
            tracing::info!(
                markers = folded.markers,
                bytes_before = folded.bytes_before,
                bytes_after = folded.bytes_after,
                "intervals between markers were folded in the journal: a pair is behind"
            );
        }
        Ok(())
    }

    /// The pairs that need the journal, the one that is furthest behind first.
    fn by_need(&self) -> Vec<(Position, Arc<Pair>)> {
        let pairs = self.pairs.read();
        let mut pairs: Vec<_> = pairs.iter().filter_map(|pair| Some((pair.holds()?, Arc::clone(pair)))).collect();
        pairs.sort_unstable_by_key(|(holds, _)| *holds);
        pairs
    }

    /// Behind everything that was read for the pairs that are behind, and before everything that others still need. `None`: what
    /// they need has to stay as it is.
    fn foldable<'a>(
        &self,
        pairs: &'a [(Position, Arc<Pair>)],
        journal: &Arc<Journal>,
        recorded: Position,
    ) -> Result<Option<Foldable<'a>>, JournalError> {
        let before = self.watches.oldest().map_or(recorded, |watched| watched.min(recorded));
        let (mut after, mut before, mut still) = (None, before, Vec::new());
        for (holds, pair) in pairs {
            if after.is_some_and(|after| *holds > after) {
                before = before.min(*holds);
                break;
            }
            let reading = pair.reading.lock();
            let Some(sent_up_to) = pair.sent_up_to() else { return Ok(None) };
            let read_up_to = reading.at.max(sent_up_to).max(journal.oldest());
            let Some(marker) = journal.next_marker(read_up_to, reading.marker)? else { return Ok(None) };
            after = after.max(Some(marker));
            still.push(reading);
        }
        let bytes_max = self.desk.interval_bytes();
        Ok(after.map(|after| Foldable { range: FoldRange { after, before, bytes_max }, still }))
    }

    /// The oldest place a pair needs.
    fn oldest_held(&self) -> Option<Position> {
        self.pairs.read().iter().filter_map(|pair| pair.holds()).min()
    }

    /// Behind the pairs, who watches costs nothing until nothing else helps.
    fn end_watches_that_cost_room(&self) {
        let Some((watched, journal)) = self.watches.oldest().zip(self.journal.upgrade()) else { return };
        if self.oldest_held().is_none_or(|held| watched < held) || is_tight(&journal) {
            self.watches.lapse();
        }
    }

    fn fall_back(&self, journal: &Journal, which: impl Fn(&Pair) -> bool) {
        let up_to = journal.middle();
        let pairs = self.pairs.read().clone();
        for pair in pairs.into_iter().filter(|pair| which(pair)) {
            match pair.fall_back(up_to) {
                Ok(()) if pair.not_given_up.ends() => {
                    tracing::info!(peer = %pair.peer(), "the pair falls back to its bitmap again");
                }
                Ok(()) => {}
                Err(error) => {
                    if let Some(left_out) = pair.not_given_up.stands_anywhere(&error, pair.clock.monotonic()) {
                        tracing::error!(peer = %pair.peer(), %error, left_out, "the pair could not fall back to its bitmap; it is tried again");
                    }
                }
            }
        }
    }
}

impl Readers for PairSet {
    fn oldest_needed(&self) -> Option<Position> {
        self.oldest_held().into_iter().chain(self.watches.oldest()).min()
    }

    fn make_room(&self, record: &mut dyn FnMut() -> Option<Position>) {
        self.end_watches_that_cost_room();
        let Some(journal) = self.journal.upgrade() else { return };
        // Hosts that are never slowed have room made for them instead.
        if self.desk.throttle.is_enabled() {
            let full = is_tight(&journal) || self.desk.is_journal_full();
            // Who is given up begins its connection anew: in vain, while the journal is kept for another one.
            let oldest = self.oldest_held();
            return self.fall_back(&journal, |pair| pair.holds() == oldest && is_waited_for_in_vain(pair, full));
        }
        if self.begin_to_fold(&journal)
            && let Some(recorded) = record()
            && let Err(error) = self.fold(&journal, recorded)
        {
            tracing::warn!(%error, "the journal could not be folded");
            if error.is_damage() {
                self.metrics.journal_damaged();
            }
        }
        if !self.tried.lock().helped || is_tight(&journal) {
            self.fall_back(&journal, |_| true);
        }
    }
}

/// A side that does not answer comes no nearer however slow hosts are: it costs them time until the journal is full, and no more once its
/// history is given up, or where a copy needs none.
fn is_waited_for_in_vain(pair: &Pair, full: bool) -> bool {
    pair.awaits_return() || !pair.is_there() && (full || pair.is_copied_anew())
}

/// Hosts are about to wait.
fn is_tight(journal: &Journal) -> bool {
    journal.free_bytes() < journal.capacity_bytes() / 16
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tidemark_common::api::types::PairState;
    use tidemark_common::catalog::{CopyRecord, GroupRecord, OnFullRecord, PairRecord, PairStateRecord, PartedRecord};
    use tidemark_common::extent::Extent;
    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::journal::JournalOptions;

    use super::*;
    use crate::differences::{encode_new, everything};
    use crate::drain::Draining;
    use crate::group::{Primary, Stages};
    use crate::plan::tests::noise;
    use crate::rig::{SIZE, group_of, parts_in};
    use crate::throttle::DELAY_MAX;
    use crate::writeback::WritingBack;

    /// A group that slows its hosts, with these pairs, whose other sides are not there.
    fn slowing(directory: &Path, pairs: Vec<PairRecord>) -> (Arc<Primary>, Stages) {
        let group = GroupRecord { on_full: OnFullRecord::Throttle, pairs, ..group_of(&["a"]) };
        let journal = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 16 << 20 };
        let (parts, options) = parts_in(directory, group, journal);
        let all = encode_new(&everything(&[(VolumeIndex(1), SIZE)]));
        for pair in parts.keeper.get().pairs.iter().filter(|pair| pair.copy.is_some()) {
            parts.keeper.catalog().put_bitmap(parts.keeper.id(), &pair.peer, &all).unwrap();
        }
        Primary::open(parts, options).unwrap()
    }

    /// Writes 64 KiB that do not compress, of a volume that has sixteen times that, drains them and writes them back: for how long the next
    /// write of a host is held back.
    async fn write(primary: &Primary, stages: &mut Stages, number: u64) -> Duration {
        let extent = Extent { volume: VolumeIndex(1), offset: (number % 16) << 16, length: 64 << 10 };
        // Nobody has to wait here for what hosts are held back.
        primary.image().buffer.write(extent, &noise(number)).await.unwrap();
        primary.want_durable(primary.image().buffer.captured());
        let drained = loop {
            match stages.drain.step() {
                Draining::Did => {}
                drained => break drained,
            }
        };
        assert_ne!(drained, Draining::NoSpace, "write {number}: hosts stand");
        let limit = stages.writeback.image.journal.durable_end().position;
        while stages.writeback.step(limit) == WritingBack::Did {}
        stages.writeback.drain.throttle.delay()
    }

    /// A side that took over a group that slows its hosts would have stopped them, for a side that may never come back.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_are_not_slowed_for_a_side_that_was_primary_and_has_not_returned() {
        let parted = PartedRecord { marker: 0, seq: 0, chain: [0; 16], segment: 0, offset: 0 };
        for state in [PairStateRecord::FailedOver, PairStateRecord::Error] {
            let directory = tempfile::tempdir().unwrap();
            let record = PairRecord { state, parted: Some(parted), ..PairRecord::new("east", 0) };
            let (primary, mut stages) = slowing(directory.path(), vec![record]);
            // Beyond half of the journal hosts would be slowed.
            for number in 0..160 {
                assert_eq!(write(&primary, &mut stages, number).await, Duration::ZERO, "{state:?}, write {number}");
            }
            assert!(primary.pair("east").unwrap().status().differential_bytes > 0, "what it lacks is known");
        }
    }

    /// They came to a stop, for as long as it was away.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_are_slowed_for_a_side_that_is_away_until_the_journal_is_full_and_not_any_more_then() {
        let directory = tempfile::tempdir().unwrap();
        let record = PairRecord { state: PairStateRecord::CatchingUp, ..PairRecord::new("west", 0) };
        let (primary, mut stages) = slowing(directory.path(), vec![record]);
        let pair = primary.pair("west").unwrap();
        let (mut slowest, mut number) = (Duration::ZERO, 0);
        while pair.status().differential_bytes == 0 {
            slowest = slowest.max(write(&primary, &mut stages, number).await);
            number += 1;
        }
        assert_eq!(slowest, DELAY_MAX, "its history was kept as long as there was room for it");
        assert_eq!(pair.status().state, PairState::Differential);
        for number in number..number + 256 {
            assert_eq!(write(&primary, &mut stages, number).await, Duration::ZERO, "write {number}");
        }
    }

    /// They were slowed again and again, to a write in a second, for a copy that begins anew whatever the journal was kept for.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_are_not_slowed_for_a_copy_that_begins_anew_when_its_side_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let (state, first) = (PairStateRecord::InitialCopy, CopyRecord::first(SIZE));
        let record = PairRecord { state, copy: Some(first.clone()), ..PairRecord::new("west", 0) };
        let (primary, mut stages) = slowing(directory.path(), vec![record]);
        for number in 0..160 {
            assert_eq!(write(&primary, &mut stages, number).await, Duration::ZERO, "write {number}");
        }

        // One that has begun goes on with what the journal has, as long as there is room for it.
        let directory = tempfile::tempdir().unwrap();
        let begun = CopyRecord { number: 7, direct: false, ..first };
        let record = PairRecord { state: PairStateRecord::Resync, copy: Some(begun), ..PairRecord::new("west", 0) };
        let (primary, mut stages) = slowing(directory.path(), vec![record]);
        let pair = primary.pair("west").unwrap();
        let (mut slowest, mut number) = (Duration::ZERO, 0);
        while !pair.view.lock().given_up {
            slowest = slowest.max(write(&primary, &mut stages, number).await);
            number += 1;
        }
        assert_eq!(slowest, DELAY_MAX);
        for number in number..number + 256 {
            assert_eq!(write(&primary, &mut stages, number).await, Duration::ZERO, "write {number}");
        }
    }

    /// It could not have come back: each time, its connection begins anew.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_side_that_is_away_is_not_given_up_again_and_again_while_the_journal_is_kept_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let record = |peer| PairRecord { state: PairStateRecord::CatchingUp, ..PairRecord::new(peer, 0) };
        let (primary, mut stages) = slowing(directory.path(), vec![record("west"), record("south")]);
        let (west, south) = (primary.pair("west").unwrap(), primary.pair("south").unwrap());
        {
            let mut view = west.view.lock();
            (view.connected, view.heard) = (true, west.clock.monotonic() + Duration::from_secs(3600));
        }
        // Room is looked for from six MiB on.
        for number in 0..112 {
            write(&primary, &mut stages, number).await;
        }
        south.fall_back(primary.image().journal.middle()).unwrap();
        assert_eq!(south.status().state, PairState::Differential);
        let begun = south.orders();
        for number in 112..144 {
            write(&primary, &mut stages, number).await;
        }
        assert_eq!((south.orders(), west.status().differential_bytes), (begun, 0));
    }
}
