//! A stopped copy becomes what a primary starts from: its journal cut behind the permitted marker asked for, its role and
//! generation recorded. In this order, whatever stops it in between: what runs next sees nothing beyond the marker
//! (invariant 4).

use std::sync::Arc;

use tidemark_common::catalog::{
    AppliedRecord, Batch, CatalogError, GroupVolume, PairRecord, PairStateRecord, PartedRecord, RoleRecord,
};
use tidemark_common::ids::MarkerNumber;
use tidemark_common::journal::{self, Journal, JournalError, Position, Writer};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::record::{ControlRecord, FrameKind, FrameView};

use crate::group::stand_no_further;
use crate::permission::Permitted;

/// Why a copy was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Before anything is changed: the volumes are recorded as no further than the marker. Broken off behind this, the copy finds again in its
/// journal what lies beyond, and how large the volumes became there.
///
/// # Errors
/// [`CatalogError`]; the copy is as it was.
pub fn stand_at(permitted: &Permitted, keeper: &GroupKeeper) -> Result<(), CatalogError> {
    // A copy that was under way goes with what lies beyond the marker: nobody may go on with half of it.
    let mut batch = Batch::new();
    let (Position { segment, offset }, marker) = (permitted.end, &permitted.marker);
    let at = AppliedRecord { segment, offset, seq: marker.boundary_seq, marker: marker.number };
    // Nothing was written since an older marker whose image is taken though the volumes have passed it.
    stand_no_further(keeper, &mut batch, permitted.end, &at)?;
    keeper.update_with(batch, |record| record.pairs.iter_mut().for_each(|pair| pair.copy = None))
}

/// First: nothing beyond the marker is left. Returns where the histories part, and who writes the journal from now on.
///
/// # Errors
/// [`TakeOverError`].
pub fn cut_behind(
    permitted: &Permitted,
    journal: &Arc<Journal>,
    keeper: &GroupKeeper,
) -> Result<(PartedRecord, Writer), TakeOverError> {
    stand_at(permitted, keeper)?;
    let writer = journal::cut_behind(journal, behind_its_copy(permitted, journal))?;
    let end = writer.journal().durable_end();
    let parted = PartedRecord {
        marker: permitted.marker.number,
        seq: end.seq.0,
        chain: end.chain.0,
        segment: end.position.segment,
        offset: end.position.offset,
    };
    Ok((parted, writer))
}

/// The place to cut at. The end of a copy is said behind the marker that it permits: with that cut away, a takeover that is broken off
/// before the role is recorded would leave a copy that never ended, and so no image.
fn behind_its_copy(permitted: &Permitted, journal: &Arc<Journal>) -> Position {
    let end = permitted.end;
    // What cannot be read there is cut away as before.
    let Ok(Some(frame)) = journal.reader(end).next_frame() else { return end };
    let record = FrameView::new(&frame.bytes).and_then(|view| ControlRecord::of(&view));
    let ends = frame.header.kind == FrameKind::Control && matches!(record, Ok(ControlRecord::CopyEnd { .. }));
    if ends { frame.next } else { end }
}

/// Then: the role, with the volumes of the image. Returns the new generation.
///
/// # Errors
/// [`CatalogError`]; the copy is as it was.
pub fn record_role(
    permitted: &Permitted,
    parted: PartedRecord,
    volumes: Vec<GroupVolume>,
    now_ns: i64,
    keeper: &GroupKeeper,
) -> Result<u64, CatalogError> {
    // What is newer is no part of this history any more, and places of the journal are used again.
    let mut batch = Batch::new();
    batch.delete_markers_after(keeper.id(), MarkerNumber(permitted.marker.number));
    batch.delete_history(keeper.id());
    keeper.update_with(batch, |record| {
        record.role = RoleRecord::Primary;
        // Those that came since the copy was made count.
        record.note_indexes(volumes.iter().map(|volume| volume.index));
        record.generation = record.generation.saturating_add(1);
        record.generation_start_seq = permitted.marker.boundary_seq.saturating_add(1);
        record.primary = None;
        // One that has only begun to come is not served, one that was about to leave is.
        record.volumes = volumes;
        record.pairs = record.pairs.iter().map(|pair| failed_over(pair, parted, now_ns)).collect();
        record.generation
    })
}

/// The pair with the old primary stands; when that comes back, it is refused and fenced, and may return as the copy.
fn failed_over(pair: &PairRecord, parted: PartedRecord, since_ns: i64) -> PairRecord {
    PairRecord {
        state: PairStateRecord::FailedOver,
        reason: Some("this side took over: the old primary is refused and fenced".into()),
        copy: None,
        parted: Some(parted),
        floor: None,
        counted: None,
        before: None,
        since_ns,
        ..pair.clone()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::catalog::{Catalog, GroupRecord};
    use tidemark_common::clock::SystemClock;
    use tidemark_common::record::MarkerRecord;
    use tidemark_common::storage::memory::MemoryDisk;

    use super::*;

    fn copy() -> GroupRecord {
        GroupRecord {
            role: RoleRecord::Secondary,
            generation: 3,
            next_volume_index: 3,
            pairs: vec![PairRecord::new("near", 0)],
            primary: Some([1; 32]),
            ..GroupRecord::new("g", [7; 16])
        }
    }

    /// Invariant 8: the lower generation is fenced, so whoever takes over must have a higher one, durably.
    #[test]
    fn a_taken_over_copy_has_the_next_generation_durably() {
        let disk = MemoryDisk::new();
        let open = |disk: &MemoryDisk| Catalog::open_simulated(disk, "records".as_ref(), &SystemClock::new()).unwrap();
        let catalog = open(&disk);
        catalog.put_group(&copy()).unwrap();
        let keeper = GroupKeeper::new(catalog, copy());
        let marker = MarkerRecord { number: 5, boundary_seq: 40, time_ns: 0, freeze_ns: 0, tag: None };
        let permitted = Permitted { marker, end: Position { segment: 2, offset: 8192 } };
        let parted = PartedRecord { marker: 5, seq: 40, chain: [9; 16], segment: 2, offset: 8192 };
        let members: Vec<_> =
            [(1, "data"), (7, "log")].map(|(index, name)| GroupVolume { index, name: name.into() }).into();
        assert_eq!(record_role(&permitted, parted, members.clone(), 77, &keeper).unwrap(), 4);

        let found = open(&disk.crash(1)).groups().unwrap().remove(0);
        assert_eq!((found.role, found.generation, found.generation_start_seq), (RoleRecord::Primary, 4, 41));
        assert_eq!((found.primary, found.volumes), (None, members));
        assert_eq!(found.next_volume_index, 8, "frames name volumes by their index: none is given out twice");
        assert_eq!(found.pairs[0].state, PairStateRecord::FailedOver, "its old primary is not called");
        assert_eq!((found.pairs[0].parted, found.pairs[0].since_ns), (Some(parted), 77));
    }

    /// A volume may have grown behind the marker, without a write: broken off once it is as large as before, the copy must find that again.
    #[test]
    fn before_anything_is_changed_the_copy_stands_at_the_marker_durably() {
        let open = |disk: &MemoryDisk| Catalog::open_simulated(disk, "records".as_ref(), &SystemClock::new()).unwrap();
        let marker = MarkerRecord { number: 5, boundary_seq: 40, time_ns: 0, freeze_ns: 0, tag: None };
        let permitted = Permitted { marker, end: Position { segment: 2, offset: 8192 } };
        for ((segment, offset), expected) in [((2, 9000), (2, 8192)), ((1, 9000), (1, 9000))] {
            let disk = MemoryDisk::new();
            let catalog = open(&disk);
            catalog.put_group(&copy()).unwrap();
            let keeper = GroupKeeper::new(catalog, copy());
            let mut batch = Batch::new();
            batch.put_applied(keeper.id(), &AppliedRecord { segment, offset, seq: 41, marker: 6 }).unwrap();
            keeper.catalog().commit(batch).unwrap();
            stand_at(&permitted, &keeper).unwrap();
            let found = open(&disk.crash(1)).applied(keeper.id()).unwrap().unwrap();
            assert_eq!((found.segment, found.offset), expected);
        }
    }
}
