//! A copy whose journal is damaged (decision 12): what is sound of the journal stays, the image is given up, durably, and the
//! primary copies what the volumes may lack. In comes a copy that nobody runs, out goes one that can be started and has no image.

use std::sync::Arc;

use tidemark_common::catalog::{AppliedRecord, Batch, CopyRecord};
use tidemark_common::ids::MarkerNumber;
use tidemark_common::journal::{self, Position, Sound};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::record::{ControlRecord, FrameHeader};
use tidemark_common::updater::AppliedPosition;

use crate::group::{SecondaryParts, StartError, open_copy};
use crate::permission::Permission;

/// Why images end that lie behind what is left.
const IMAGE_ENDED: &str = "the journal of this copy was damaged before the image's moment was in the volumes";

/// Gives up the image and what cannot be read of the journal. Done again after a kill, it comes to the same.
///
/// # Errors
/// [`StartError`]; whatever was done is found again.
pub fn give_up_image(parts: &SecondaryParts) -> Result<(), StartError> {
    let applied = parts.keeper.catalog().applied(parts.keeper.id())?;
    match place_to_go_on_from(parts, applied.as_ref())? {
        Some(end) => keep_until(parts, end),
        None => empty(parts, AppliedPosition::of(applied).position),
    }
}

/// The end of what is sound, when the primary can say what the volumes lack that have all before it. It cannot while a copy is
/// under way there: what that still had to bring is in no journal. Nor when the volumes were further, who knows in what; nor of a
/// journal with a cut still to be made, which holds another history behind it.
fn place_to_go_on_from(
    parts: &SecondaryParts,
    applied: Option<&AppliedRecord>,
) -> Result<Option<Position>, StartError> {
    let (keeper, id) = (&parts.keeper, parts.keeper.id());
    let at = applied.map_or(Position::default(), AppliedRecord::place);
    let mut permission = Permission::recovered(None, None, open_copy(keeper), at);
    let no_image_before = no_image_before(keeper);
    let mut visit = |begin: Position, header: &FrameHeader, record: Option<&ControlRecord>| {
        let end = journal::end_of(begin, header);
        if let Some(record) = record.filter(|record| begin >= at && counts(record, end, no_image_before)) {
            permission.durable(record, end);
        }
    };
    let sound = journal::sound(Arc::clone(&parts.disk), &parts.journal_folder, id, parts.journal, &mut visit)?;
    // Where an end was cut, the journal goes on in a new segment: then only the numbers tell.
    let holds = |sound: &Sound| {
        (sound.oldest..=sound.end).contains(&at) && applied.is_some_and(|applied| applied.seq <= sound.seq.0)
    };
    let sound = sound.filter(|sound| keeper.get().cut.is_none() && holds(sound));
    Ok(sound.filter(|_| permission.copy().is_none()).map(|sound| sound.end))
}

/// In this order: as long as the journal is not cut, it is damaged, and this is done again.
fn keep_until(parts: &SecondaryParts, end: Position) -> Result<(), StartError> {
    parts.eras.end_after(end, IMAGE_ENDED)?;
    record_no_image(parts, end, false)?;
    let (disk, id) = (Arc::clone(&parts.disk), parts.keeper.id());
    journal::open(disk, &parts.journal_folder, id, parts.journal, Some(end), &mut |_, _, _| {})?;
    tracing::warn!(group = %parts.keeper.name(), at = ?end, "the copy's journal was cut where it was damaged; its image is given up");
    Ok(())
}

/// In this order: a journal that lacks what is recorded as applied is found to be gone, and this is done again.
fn empty(parts: &SecondaryParts, applied: Position) -> Result<(), StartError> {
    remove_journal(parts, applied, IMAGE_ENDED)?;
    record_no_image(parts, Position::default(), true)?;
    tracing::warn!(group = %parts.keeper.name(), "the copy's journal was emptied; its image is given up");
    Ok(())
}

/// The volumes hold all before a place, and are to be written over: images whose moment they have reached go by that alone from now on.
/// Others end.
pub(crate) fn remove_journal(parts: &SecondaryParts, applied: Position, image_ended: &str) -> Result<(), StartError> {
    parts.eras.end_after(applied, image_ended)?;
    parts.eras.all_reached().map_err(StartError::ImagesRecord)?;
    let (disk, id) = (Arc::clone(&parts.disk), parts.keeper.id());
    Ok(journal::remove(disk, &parts.journal_folder, id, parts.journal)?)
}

fn record_no_image(parts: &SecondaryParts, end: Position, forget_applied: bool) -> Result<(), StartError> {
    let id = parts.keeper.id();
    let mut batch = Batch::new();
    batch.delete_markers_after(id, MarkerNumber(0));
    batch.delete_history(id);
    if forget_applied {
        batch.delete_applied(id);
    }
    let none = CopyRecord { start_segment: end.segment, start_offset: end.offset, ..CopyRecord::first(0) };
    parts.keeper.update_with(batch, |record| {
        record.cut = None;
        if let Some(pair) = record.pairs.first_mut() {
            pair.copy = Some(none.clone());
            pair.before = None;
        }
    })?;
    Ok(())
}

/// Up to where the journal says nothing of the image any more.
pub(crate) fn no_image_before(keeper: &GroupKeeper) -> Option<Position> {
    let copy = keeper.get().pairs.into_iter().next()?.copy?;
    (copy.number == 0).then_some(copy.start())
}

/// Whether a record counts: before that place, none may begin or end a copy, or permit what the volumes are beyond.
pub(crate) fn counts(record: &ControlRecord, end: Position, no_image_before: Option<Position>) -> bool {
    let is_of_the_image = matches!(
        record,
        ControlRecord::CopyBegin { .. }
            | ControlRecord::CopyProgress { .. }
            | ControlRecord::CopyStep { .. }
            | ControlRecord::CopyEnd { .. }
            | ControlRecord::ImageGivenUp
    );
    !is_of_the_image || no_image_before.is_none_or(|place| end > place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::OpenCopy;
    use crate::permission::tests::{at, marker};

    /// What a journal says before the place where it was damaged: a copy ended there, but the volumes are beyond it.
    #[test]
    fn nothing_before_the_damage_makes_an_image() {
        let begin = |direct| ControlRecord::CopyBegin {
            copy: 7,
            start_seq: 0,
            start_marker: 0,
            chain: [0; 16],
            direct,
            total_bytes: 0,
            volumes: Vec::new(),
        };
        let end = ControlRecord::CopyEnd { copy: 7, marker: 2 };
        let none = OpenCopy {
            number: 0,
            direct: true,
            cursor: (0, 0),
            done_bytes: 0,
            total_bytes: 0,
            begun: Position::default(),
        };
        let mut permission = Permission::recovered(None, None, Some(none), at(50));
        let mut take = |records: &[(ControlRecord, u64)]| {
            for (record, offset) in records.iter().filter(|(record, end)| counts(record, at(*end), Some(at(400)))) {
                permission.durable(record, at(*offset));
            }
            permission.permitted().map(|permitted| permitted.marker.number)
        };
        let before = [(marker(1), 100), (begin(false), 200), (marker(2), 300), (end.clone(), 400)];
        assert_eq!(take(&before), None);
        assert_eq!(take(&[(marker(3), 500)]), None, "before its primary has copied what it lacks");
        assert_eq!(take(&[(begin(true), 600), (marker(4), 700), (end, 800)]), Some(4));
    }
}
