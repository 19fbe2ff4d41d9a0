//! How a copy starts: its journal is opened, and cut where this side was primary behind it; what it holds is read again; the volumes
//! catch up with what was recorded (invariant 5).

use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{AppliedRecord, Batch, CatalogError, HistoryRecord};
use tidemark_common::ids::Seq;
use tidemark_common::journal::{self, Journal, JournalError, Position, Writer};
use tidemark_common::markers::{Markers, marker_of};
use tidemark_common::overlay::unapplied::SharedIndex;
use tidemark_common::record::{ControlRecord, FrameHeader};
use tidemark_common::repeats::Repeats;
use tidemark_common::stage::OnPanic;
use tidemark_common::t0::T0Error;
use tidemark_common::updater::{AppliedPosition, Updater};

use super::{Secondary, SecondaryParts, open_copy, stand_no_further};
use crate::apply::Apply;
use crate::damage::{counts, no_image_before};
use crate::permission::{Permission, Permitted};
use crate::points::{Points, Recovered, sizes_at};
use crate::returned::{ALL_OF_IT, remove_old_journal, was_before};
use crate::state::{Concern, CopyState};

/// Why a copy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A copy volume cannot be used.
    #[error("{0}")]
    Volumes(String),
    /// The images of older moments.
    #[error("the images of this group cannot go on: {0}")]
    Images(#[from] T0Error),
    /// Their record.
    #[error("the images of this group cannot go on: {0}")]
    ImagesRecord(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// Images that had to end could not.
    #[error("the images of this group could not be ended: {0}")]
    ImagesEnd(#[from] std::io::Error),
}

impl StartError {
    /// What of the journal is in the way: for the copy itself, or for an image whose moment its volumes have not reached.
    const fn of_the_journal(&self) -> Option<&JournalError> {
        match self {
            Self::Journal(error) | Self::Images(T0Error::Journal(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether the journal is what keeps the copy from starting, so that one made anew would help.
    #[must_use]
    pub fn is_of_the_journal(&self) -> bool {
        let is = |error: &JournalError| error.is_damage() || error.is_of_the_records() || error.is_unreadable();
        self.of_the_journal().is_some_and(is)
    }

    /// Whether the journal is there and damaged: nobody has to be asked.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.of_the_journal().is_some_and(|error| error.is_of_the_records() || error.is_short())
    }
}

impl Secondary {
    /// Recovers the copy and starts its updater.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(parts: SecondaryParts) -> Result<Arc<Self>, StartError> {
        let (secondary, apply) = Self::open(parts)?;
        let name = format!("updater {}", secondary.parts.keeper.name());
        let updater = std::thread::Builder::new().name(name).spawn(move || run_updater(apply));
        let updater = updater.map_err(StartError::Thread)?;
        secondary.updater.lock().replace(updater);
        Ok(secondary)
    }

    /// Recovers the copy. Nothing runs: whoever calls this makes its updater go.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(parts: SecondaryParts) -> Result<(Arc<Self>, Apply), StartError> {
        if let Some((segment, offset)) = parts.keeper.get().cut {
            Self::cut_back(&parts, Position { segment, offset })?;
        }
        let applied = AppliedPosition::of(parts.keeper.catalog().applied(parts.keeper.id())?);
        let (writer, held) = Self::recover(&parts)?;
        let journal = Arc::clone(writer.journal());
        let state = Arc::new(Self::known(&parts, applied, &writer, held)?);
        parts.eras.attach(&journal, applied.position)?;
        let updater = caught_up(&parts, &journal, &state, applied);
        let indexed = SharedIndex::default();
        parts.eras.indexed_by(Arc::clone(&indexed));
        let apply = Apply::new(&parts, updater, &journal, &state, &indexed);
        let position = state.position();
        parts.pair_metrics.received_seq(Seq(position.durable_seq));
        parts.pair_metrics.permitted_seq(Seq(position.permitted_seq));
        let (now, began) = (parts.clock.wall(), parts.clock.monotonic());
        let secondary = Self {
            parts,
            journal,
            state,
            writer: tokio::sync::Mutex::new(Some(writer)),
            current: Mutex::default(),
            updater: Mutex::default(),
            indexed,
            since: Mutex::new((PairState::CatchingUp, now)),
            began,
            rate: Mutex::default(),
            repeats: Repeats::default(),
        };
        Ok((Arc::new(secondary), apply))
    }

    /// What is known of the copy: by the catalogue up to where everything is applied, and by the journal's records from there on. Volumes that
    /// came with these are provided.
    fn known(
        parts: &SecondaryParts,
        applied: AppliedPosition,
        writer: &Writer,
        held: Vec<Recovered>,
    ) -> Result<CopyState, StartError> {
        let id = parts.keeper.id();
        let kept = parts.keeper.catalog().markers(id, 1)?.pop();
        let kept = kept.as_ref().map(|kept| Permitted { marker: marker_of(kept), end: applied.position });
        let (before, records): (Vec<_>, Vec<_>) = held.into_iter().partition(|(at, ..)| *at < applied.position);
        // The newest marker before the position: the end of a copy may still refer to it.
        let received = before.iter().rev().find_map(|(_, record, end)| match record {
            ControlRecord::Marker(marker) => Some(Permitted { marker: marker.clone(), end: *end }),
            _ => None,
        });
        let copy = open_copy(&parts.keeper);
        let keeps_before = was_before(&parts.keeper).is_some() && copy.is_some_and(|copy| !copy.direct);
        // A first copy has no image, nor has a side that returned: what is kept then is the newest marker received.
        let image = kept.clone().filter(|_| !keeps_before && !copy.is_some_and(|copy| copy.direct));
        let history = parts.keeper.catalog().history(id)?;
        let floor = history.as_ref().map(HistoryRecord::place);
        let members = history.map_or_else(|| parts.keeper.get().volumes, |held| held.volumes);
        let sizes = sizes_at(&before, &records, &parts.volumes);
        let (mut points, markers) = (Points::new(members, sizes, received.as_ref()), Markers::default());
        if let Some(image) = &image {
            markers.add(Position::default(), image.marker.clone());
        }
        // The marker that the volumes stand at lies before their position.
        if let Some(at) = received.as_ref().filter(|at| image.as_ref().is_some_and(|image| image.marker == at.marker)) {
            markers.add(at.end, at.marker.clone());
        }
        let mut permission = Permission::recovered(received.or_else(|| kept.clone()), image, copy, applied.position);
        if keeps_before {
            permission.keep_before(applied.position);
        }
        let no_image_before = no_image_before(&parts.keeper);
        for (_, record, end) in &records {
            if counts(record, *end, no_image_before) {
                permission.durable(record, *end);
                points.durable(record, *end, &permission, &markers);
            }
            // Those that came and are not yet part of the image: frames for them are held already.
            if let ControlRecord::Volumes { volumes } | ControlRecord::CopyBegin { volumes, .. } = record {
                let name = parts.keeper.name();
                parts.provider.provide(&name, volumes, &parts.volumes).map_err(StartError::Volumes)?;
            }
        }
        permission.set_newest(writer.tip().marker);
        let journal = writer.journal();
        journal.check_goes_on_from(applied.position, applied.seq)?;
        let may_hold = floor.unwrap_or_else(|| permission.limit());
        let (name, clock, durable) = (parts.keeper.name(), Arc::clone(&parts.clock), journal.durable_end());
        let mut state = CopyState::new(name, clock, permission, durable, applied, points);
        state.markers = markers;
        state.may_hold = may_hold;
        state.ask_history(parts.keeper.get().history);
        state.set_floor(floor);
        Ok(state)
    }

    /// The first start after this side was primary: what lies behind the place where the histories parted is cut from the
    /// journal.
    fn cut_back(parts: &SecondaryParts, at: Position) -> Result<(), StartError> {
        if at == ALL_OF_IT {
            return remove_old_journal(parts);
        }
        let id = parts.keeper.id();
        // The places behind the cut are used again: images must not go by them any more.
        parts.eras.all_reached().map_err(StartError::ImagesRecord)?;
        let disk = Arc::clone(&parts.disk);
        let opened = journal::open(disk, &parts.journal_folder, id, parts.journal, Some(at), &mut |_, _, _| {})?;
        let end = opened.writer.journal().durable_end();
        let marker = parts.keeper.catalog().markers(id, 1)?.pop().map_or(0, |kept| kept.number);
        let applied =
            AppliedRecord { segment: end.position.segment, offset: end.position.offset, seq: end.seq.0, marker };
        let mut batch = Batch::new();
        stand_no_further(&parts.keeper, &mut batch, at, &applied)?;
        batch.delete_history(id);
        parts.keeper.update_with(batch, |record| record.cut = None)?;
        Ok(())
    }

    /// Opens the journal: the writer, and the control records that are not yet applied, with their places and ends.
    fn recover(parts: &SecondaryParts) -> Result<(Writer, Vec<Recovered>), StartError> {
        let mut records = Vec::new();
        let mut visit = |at: Position, header: &FrameHeader, record: Option<&ControlRecord>| {
            records.extend(record.map(|record| (at, record.clone(), journal::end_of(at, header))));
        };
        let id = parts.keeper.id();
        let disk = Arc::clone(&parts.disk);
        let opened = journal::open(disk, &parts.journal_folder, id, parts.journal, None, &mut visit)?;
        if let Some(torn) = opened.torn {
            tracing::warn!(group = %parts.keeper.name(), at = ?torn.position, "a torn end of the journal was cut: the primary sends it again");
        }
        Ok((opened.writer, records))
    }
}

/// What the updater's thread does.
fn run_updater(apply: Apply) {
    let state = Arc::clone(&apply.state);
    let _told = OnPanic(move || {
        let problem = "the updater ended by a defect of Tidemark, and the log has its message: nothing more is applied to the copy. Restart the \
                       service: it goes on from the journal, which holds all of it";
        state.set_problem(Concern::Updater, Some(problem.into()));
    });
    apply.run();
}

/// The updater, as far as it was. The position is recorded whenever a segment is left behind, so a kill loses the record of at most this
/// segment and the next: applying them again first, nobody sees the applied marker go back.
fn caught_up(parts: &SecondaryParts, journal: &Arc<Journal>, state: &CopyState, applied: AppliedPosition) -> Updater {
    let updater = Updater::new(Arc::clone(journal), Arc::clone(&parts.volumes), applied).of_all_volumes();
    let updater = updater.saving(Some(Arc::clone(&parts.eras))).past_the_page_cache();
    // A failover is not kept waiting: it reads the journal.
    let mut updater = updater.until(state.left());
    let recorded_segment = applied.position.segment.max(journal.oldest().segment);
    let limit = state.limit();
    while updater.applied().position.segment <= recorded_segment.saturating_add(1) {
        match updater.apply_window(limit) {
            Ok(Some(_)) => state.applied(updater.applied()),
            Ok(None) => break,
            Err(error) => {
                // The updater's thread tries again.
                state.set_problem(Concern::Updater, Some(error.told()));
                break;
            }
        }
    }
    updater
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_common::clock::Clock;
    use tidemark_common::record::MarkerRecord;

    use super::*;
    use crate::apply::tests::copy;

    /// Breaks off whatever asks it.
    struct Broken;

    impl Clock for Broken {
        fn wall(&self) -> jiff::Timestamp {
            unreachable!("as it was to")
        }

        fn monotonic(&self) -> Duration {
            unreachable!("as it was to")
        }
    }

    #[test]
    fn an_updater_that_a_panic_has_ended_is_told() {
        let (secondary, mut apply, _records) = copy();
        let end = secondary.journal().durable_end();
        let marker = MarkerRecord { number: 1, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None };
        secondary.state().durable(&[(ControlRecord::Marker(marker), end.position)], &end);
        apply.keep_history();
        assert!(apply.state.history().floor.is_some());
        // With a floor, it asks for the time first of all.
        apply.clock = Arc::new(Broken);
        std::thread::spawn(move || run_updater(apply)).join().unwrap_err();
        let problem = secondary.state().problem_of(Concern::Updater);
        assert!(problem.is_some_and(|problem| problem.contains("ended by a defect")));
    }
}
