//! A stopped copy becomes what a primary starts from: its journal cut behind the newest permitted marker, its role and
//! generation recorded. In this order, whatever stops it in between: what runs next sees nothing beyond the marker
//! (invariant 4).

use std::path::Path;
use std::sync::Arc;

use tidemark_common::catalog::{CatalogError, GroupVolume, PairRecord, PairStateRecord, PartedRecord, RoleRecord};
use tidemark_common::journal::{self, JournalError, JournalOptions};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::storage::Disk;

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

/// First: nothing beyond the marker is left. Returns where the histories part.
///
/// # Errors
/// [`TakeOverError`].
pub fn cut_behind(
    permitted: &Permitted,
    disk: Arc<dyn Disk>,
    folder: &Path,
    options: JournalOptions,
    keeper: &GroupKeeper,
) -> Result<PartedRecord, TakeOverError> {
    // A copy that was under way goes with what lies beyond the marker: nobody may go on with half of it.
    keeper.update(|record| record.pairs.iter_mut().for_each(|pair| pair.copy = None))?;
    let opened = journal::open(disk, folder, keeper.id(), options, Some(permitted.end), &mut |_, _, _| {})?;
    let end = opened.writer.journal().durable_end();
    Ok(PartedRecord {
        marker: permitted.marker.number,
        seq: end.seq.0,
        chain: end.chain.0,
        segment: end.position.segment,
        offset: end.position.offset,
    })
}

/// Then: the role, with the volumes of the image. Returns the new generation.
///
/// # Errors
/// [`CatalogError`]; the copy is as it was.
pub fn record_role(
    permitted: &Permitted,
    parted: PartedRecord,
    volumes: Vec<GroupVolume>,
    keeper: &GroupKeeper,
) -> Result<u64, CatalogError> {
    keeper.update(|record| {
        record.role = RoleRecord::Primary;
        record.generation = record.generation.saturating_add(1);
        record.generation_start_seq = permitted.marker.boundary_seq.saturating_add(1);
        record.primary = None;
        // One that has only begun to come is not served, one that was about to leave is.
        record.volumes = volumes;
        record.pairs = record.pairs.iter().map(|pair| failed_over(pair, parted)).collect();
        record.generation
    })
}

/// The pair with the old primary stands; when that comes back, it is refused and fenced, and may return as the copy.
fn failed_over(pair: &PairRecord, parted: PartedRecord) -> PairRecord {
    PairRecord {
        state: PairStateRecord::FailedOver,
        reason: Some("this side took over: the old primary is refused and fenced".into()),
        copy: None,
        parted: Some(parted),
        floor: None,
        counted: None,
        ..pair.clone()
    }
}
