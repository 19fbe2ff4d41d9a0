//! What a side records that was a primary and returns as the copy, and what it records when it goes back to what it was (decision 18).
//!
//! ```text
//! primary ── record_return ──▶ copy; `before` says what it was, as long as the volumes are that
//! copy ── record_given_up ──▶ copy without that: nothing is served before it is complete
//! copy ── record_as_before ──▶ primary, once the kept tail is the journal again
//! ```
//!
//! Each is one commit: a death leaves what was before it, or what is behind it.

use std::sync::Arc;

use tidemark_common::catalog::{
    AppliedRecord, Batch, BeforeRecord, CatalogError, CopyRecord, PairRecord, PairStateRecord, PartedRecord, RoleRecord,
};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{MarkerNumber, Seq};
use tidemark_common::journal::{Journal, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::record::{Chain, MarkerRecord};
use tidemark_common::updater::AppliedPosition;

use crate::damage::remove_journal;
use crate::group::{SecondaryParts, StartError, stand_no_further};

/// Where a journal is cut of which nothing stays: no record begins there.
pub(crate) const ALL_OF_IT: Position = Position { segment: 0, offset: 0 };

/// Why images end that the volumes had not reached when all of them was to be copied.
const IMAGE_ENDED: &str = "this side returned and was copied as a whole before the image's moment was in its volumes";

/// The number of a copy that is open until the new primary begins one: no marker has it.
pub const NOT_BEGUN: u64 = u64::MAX;

/// What an old primary has that who took over has not.
#[derive(Debug)]
pub struct Tail {
    /// Where its journal is to be cut; `None`: it does not hold the place where the histories parted.
    pub cut: Option<Position>,
    /// The regions that its writes changed.
    pub dirty: Bitmap,
    /// How many writes.
    pub writes: u64,
    /// The newest marker of the old journal.
    pub newest: Option<MarkerRecord>,
    /// The number behind its last write.
    pub next_seq: Seq,
}

impl Tail {
    /// Whether it is known what this side has alone.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether the volumes hold exactly the image of the marker where the histories parted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_known() && self.dirty.is_empty()
    }
}

/// A return that both sides agree on.
#[derive(Debug)]
pub struct Returning {
    /// The id of who took over.
    pub primary: [u8; 32],
    /// With this generation.
    pub generation: u64,
    /// Where the histories parted; the place in the journal does not count.
    pub parted: PartedRecord,
    /// Under which name the tail was kept.
    pub kept: String,
    /// The pair with who took over, as one that is new.
    pub pair: PairRecord,
}

/// One step: from here on it is a copy, whatever happens. With what else is in the batch.
///
/// # Errors
/// [`CatalogError`]; it is what it was then.
pub fn record_return(
    keeper: &GroupKeeper,
    mut batch: Batch,
    returning: Returning,
    tail: &Tail,
) -> Result<(), CatalogError> {
    let id = keeper.id();
    batch.delete_markers_after(id, MarkerNumber(if tail.is_empty() { returning.parted.marker } else { 0 }));
    batch.delete_history(id);
    for pair in keeper.get().pairs {
        batch.delete_bitmap(id, &pair.peer)?;
    }
    let (before, cut) = (before(keeper, &returning, tail), tail.cut.unwrap_or(ALL_OF_IT));
    let Returning { primary, generation, parted, mut pair, .. } = returning;
    if tail.is_empty() {
        pair.state = PairStateRecord::CatchingUp;
    } else {
        // Open from the first moment: nothing is permitted before the new primary has sent what differs.
        pair.copy = Some(CopyRecord { number: NOT_BEGUN, direct: before.is_none(), ..CopyRecord::first(1) });
        pair.before = before;
    }
    keeper.update_with(batch, |record| {
        record.role = RoleRecord::Secondary;
        record.generation = generation;
        record.generation_start_seq = parted.seq.saturating_add(1);
        record.primary = Some(primary);
        record.pairs = vec![pair];
        record.cut = Some((cut.segment, cut.offset));
    })
}

/// The first start of a side that does not hold the place where the histories parted: its journal goes, which was kept aside. What it says
/// of copies and markers is of the history that was left, and its places are used again. Done again after a kill, it comes to the same.
pub(crate) fn remove_old_journal(parts: &SecondaryParts) -> Result<(), StartError> {
    let id = parts.keeper.id();
    let applied = AppliedPosition::of(parts.keeper.catalog().applied(id)?);
    remove_journal(parts, applied.position, IMAGE_ENDED)?;
    let mut batch = Batch::new();
    batch.delete_applied(id);
    parts.keeper.update_with(batch, |record| record.cut = None)?;
    Ok(())
}

/// What the volumes hold now, when the tail that was kept has what the journal here is about to lose.
fn before(keeper: &GroupKeeper, returning: &Returning, tail: &Tail) -> Option<BeforeRecord> {
    let (record, newest) = (keeper.get(), tail.newest.as_ref()?);
    let cut = tail.cut.filter(|_| tail.writes > 0)?;
    Some(BeforeRecord {
        generation: record.generation,
        tail: returning.kept.clone(),
        parted: PartedRecord { segment: cut.segment, offset: cut.offset, ..returning.parted },
        next_seq: tail.next_seq.0,
        marker: newest.number,
        marker_ns: newest.time_ns,
        volumes: record.volumes,
    })
}

/// What this side was before it returned, as long as its volumes are that.
#[must_use]
pub fn was_before(keeper: &GroupKeeper) -> Option<BeforeRecord> {
    keeper.get().pairs.into_iter().next()?.before
}

/// The copy that is open is applied as it comes.
pub(crate) fn record_given_up(keeper: &GroupKeeper) -> Result<(), CatalogError> {
    keeper.update(|group| {
        for pair in group.pairs.iter_mut().filter(|pair| pair.before.is_some()) {
            pair.before = None;
            pair.copy.iter_mut().for_each(|copy| copy.direct = true);
        }
    })
}

/// One step: from here on it is primary, with the generation that is answered.
///
/// # Errors
/// [`CatalogError`]; it is what it was then.
pub fn record_as_before(keeper: &GroupKeeper, before: &BeforeRecord, now_ns: i64) -> Result<u64, CatalogError> {
    let (id, parted) = (keeper.id(), before.parted);
    let applied =
        AppliedRecord { segment: parted.segment, offset: parted.offset, seq: parted.seq, marker: parted.marker };
    let mut batch = Batch::new();
    stand_no_further(keeper, &mut batch, parted.place(), &applied)?;
    batch.delete_history(id);
    batch.delete_markers_after(id, MarkerNumber(0));
    keeper.update_with(batch, |record| {
        record.role = RoleRecord::Primary;
        record.generation = record.generation.saturating_add(1);
        record.generation_start_seq = before.next_seq;
        record.primary = None;
        record.cut = None;
        record.volumes.clone_from(&before.volumes);
        for pair in &mut record.pairs {
            pair.copy = None;
            stand_until_returned(&record.name, pair, parted, now_ns);
        }
        record.generation
    })
}

/// Of a side that goes on as primary, as the operator chose: the other side is called, which fences it; then the pair stands until it
/// has returned.
pub fn stand_until_returned(group: &str, pair: &mut PairRecord, parted: PartedRecord, now_ns: i64) {
    pair.since_ns = now_ns;
    pair.state = PairStateRecord::Error;
    pair.reason = Some(format!(
        "this side goes on as primary, as the operator chose: when '{0}' has met it, `tidemark rejoin {group}` on '{0}' makes that side \
         the copy, and keeps what it had alone",
        pair.peer
    ));
    pair.parted = Some(parted);
}

/// Whether a journal holds the place where the histories parted, and ends where it ended.
///
/// # Errors
/// What is missing, for people.
pub fn is_rest_of(journal: &Arc<Journal>, before: &BeforeRecord) -> Result<(), String> {
    let parted = before.parted;
    let found = journal.reader_at_chain(Seq(parted.seq), Chain(parted.chain)).map_err(|error| error.to_string())?;
    let begins = found.is_some_and(|reader| reader.position() == parted.place());
    if begins && journal.durable_end().seq.next().0 == before.next_seq {
        return Ok(());
    }
    Err(format!(
        "the kept tail '{}' is not what it was: it does not hold the writes up to {}",
        before.tail,
        before.next_seq.saturating_sub(1)
    ))
}

/// The journal is that of before: this side is what it was.
///
/// # Errors
/// [`CatalogError`]; it is to be done again.
pub fn record_gone_back(keeper: &GroupKeeper) -> Result<(), CatalogError> {
    keeper.update(|record| record.pairs.iter_mut().for_each(|pair| pair.before = None))
}
