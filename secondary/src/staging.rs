//! Whether a copy finds room in the journal here beside what this side was before it returned, which stays until the copy is complete
//! (decision 18). Beside an image of its own history the primary plans that (`primary/src/plan.rs`); of this one only this side knows. Either
//! way a person says what goes.

use tidemark_common::limits::staging_room_bytes;
use tidemark_common::record::ControlRecord;

use crate::intake::{Intake, IntakeError};

impl Intake {
    /// Whether the record may be taken: a copy that finds no room is not begun.
    pub(crate) fn check_staging(&self, record: Option<&ControlRecord>) -> Result<(), IntakeError> {
        let Some(ControlRecord::CopyBegin { total_bytes, .. }) = record else { return Ok(()) };
        let room = staging_room_bytes(self.writer.journal().capacity_bytes());
        if *total_bytes <= room || !self.keeps_before() {
            return Ok(());
        }
        let reason = format!(
            "{} MiB differ, and the journal on '{}' has {} MiB for them beside what that side was before it returned, which stays until all \
             have come: raise journal_bytes in the configuration there and restart it, or {}",
            total_bytes >> 20,
            self.appliance,
            room >> 20,
            self.how_to_give_up()
        );
        Err(IntakeError::Stands { reason })
    }

    /// Why nothing more is taken: the journal is full of what may not be applied.
    pub(crate) fn too_small(&self) -> IntakeError {
        let capacity_bytes = self.writer.journal().capacity_bytes();
        if !self.keeps_before() {
            return IntakeError::TooSmall { capacity_bytes };
        }
        let reason = format!(
            "the journal on '{}', {} MiB, is full of a copy that is not complete: hosts wrote more meanwhile than there was room for beside \
             what that side was before it returned, which stays until then; raise journal_bytes in the configuration there and restart it (the \
             copy goes on where it stands), or {}",
            self.appliance,
            capacity_bytes >> 20,
            self.how_to_give_up()
        );
        IntakeError::Stands { reason }
    }

    /// Whether that stays also once all that came is durable: the primary may have said just before that it does not.
    fn keeps_before(&self) -> bool {
        let is_given_up = self.untold.iter().any(|(record, _)| matches!(record, ControlRecord::ImageGivenUp));
        self.state.keeps_before() && !is_given_up
    }

    fn how_to_give_up(&self) -> String {
        format!(
            "give that up with `tidemark pair resume {group} --to {here} --in-place` on the primary; until then `tidemark failover {group} \
             --force` on '{here}' goes on with it",
            group = self.name,
            here = self.appliance
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use bytes::Bytes;
    use tidemark_common::catalog::{BeforeRecord, CopyRecord, PartedRecord};
    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::journal::JournalOptions;
    use tidemark_common::record::{FrameHeader, Place, Tip};
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::storage::{Disk, Open};
    use tidemark_common::volumes::VolumeFile;
    use tidemark_common::wire::message::PROTOCOL_VERSION;

    use super::*;
    use crate::apply::tests::{JOURNAL, hello, parts};
    use crate::apply::{Apply, Applying};
    use crate::group::{Secondary, SecondaryParts};
    use crate::intake::Taking;
    use crate::intake::tests::{marker, write};
    use crate::returned::{NOT_BEGUN, was_before};

    const COPY: u64 = 7;
    const VOLUME_BYTES: u64 = 1 << 20;
    const ROOM: u64 = staging_room_bytes(JOURNAL.capacity_bytes);

    /// The disks of a side that returned with writes of its own, before its copy has begun.
    #[derive(Default)]
    struct Site {
        records: MemoryDisk,
        disk: MemoryDisk,
        volume: MemoryDisk,
    }

    impl Site {
        /// It starts, with a journal of this size. Its record has not followed what the journal says since.
        fn start(&self, capacity_bytes: u64) -> (Arc<Secondary>, Apply) {
            let journal = JournalOptions { capacity_bytes, ..JOURNAL };
            let parts = SecondaryParts { journal, ..parts(&self.records, &self.disk, &[]) };
            let file = self.volume.open("v".as_ref(), Open::ExistingOrNew).unwrap();
            file.grow(VOLUME_BYTES).unwrap();
            parts.volumes.insert(VolumeFile::new(VolumeIndex(1), "v".into(), file, VOLUME_BYTES));
            let before = BeforeRecord {
                generation: 1,
                tail: "tail".into(),
                parted: PartedRecord { marker: 0, seq: 0, chain: [0; 16], segment: 0, offset: 0 },
                next_seq: 1,
                marker: 1,
                marker_ns: 0,
                volumes: Vec::new(),
            };
            let recorded = parts.keeper.update(|group| {
                for pair in &mut group.pairs {
                    pair.copy = Some(CopyRecord { number: NOT_BEGUN, direct: false, ..CopyRecord::first(1) });
                    pair.before = Some(before.clone());
                }
            });
            recorded.unwrap();
            Secondary::open(parts).unwrap()
        }
    }

    fn begin(total_bytes: u64) -> ControlRecord {
        ControlRecord::CopyBegin {
            copy: COPY,
            start_seq: 0,
            start_marker: 0,
            chain: [3; 16],
            direct: true,
            total_bytes,
            volumes: Vec::new(),
        }
    }

    fn framed(tip: &mut Tip, record: &ControlRecord, of: &Secondary) -> Bytes {
        let frame = record.frame(&Place::at(of.keeper().id(), tip)).unwrap();
        *tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
        frame.into()
    }

    /// What came of a connection that brings these.
    fn take(secondary: &Secondary, frames: impl Into<VecDeque<Bytes>>) -> Result<Taking, IntakeError> {
        let mut frames = frames.into();
        let (_, mut intake) = secondary.enter(&hello(), PROTOCOL_VERSION).unwrap();
        let taken = intake.step(|| frames.pop_front());
        secondary.leave(intake);
        taken
    }

    fn asks(taken: Result<Taking, IntakeError>, why: &str) {
        let reason = taken.unwrap_err().to_string();
        for word in [why, "journal_bytes", "`tidemark pair resume g --to west --in-place`"] {
            assert!(reason.contains(word), "{word}: {reason}");
        }
    }

    fn held(secondary: &Secondary) -> Vec<u8> {
        let mut bytes = vec![0; 100 << 10];
        secondary.files().get(VolumeIndex(1)).unwrap().file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// It was given up by itself, the only image of what its hosts had written last.
    #[test]
    fn a_copy_that_finds_no_room_beside_what_a_side_was_is_not_begun_before_somebody_says_so() {
        let site = Site::default();
        let (secondary, mut apply) = site.start(JOURNAL.capacity_bytes);
        let end = secondary.journal().durable_end();
        let frame = framed(&mut Tip::default(), &begin(ROOM + 1), &secondary);
        asks(take(&secondary, [frame]), "3 MiB differ");
        let limit = apply.state.limit();
        assert_eq!(apply.step(limit), Applying::Idle);
        assert_eq!(secondary.journal().durable_end(), end, "nothing is sent in vain");
        assert!(secondary.state().keeps_before() && secondary.state().position().copy == NOT_BEGUN);

        let mut tip = Tip::default();
        let frames =
            [&ControlRecord::ImageGivenUp, &begin(ROOM + 1)].map(|record| framed(&mut tip, record, &secondary));
        assert_eq!(take(&secondary, frames).unwrap(), Taking::Did, "one behind the other");
        assert!(!secondary.state().keeps_before() && secondary.state().position().copy == COPY);
    }

    #[test]
    fn a_copy_that_finds_room_beside_what_a_side_was_begins() {
        for (capacity_bytes, total_bytes) in [(JOURNAL.capacity_bytes, ROOM), (2 * JOURNAL.capacity_bytes, ROOM + 1)] {
            let site = Site::default();
            let (secondary, _apply) = site.start(capacity_bytes);
            let frame = framed(&mut Tip::default(), &begin(total_bytes), &secondary);
            assert_eq!(take(&secondary, [frame]).unwrap(), Taking::Did);
            assert!(secondary.state().keeps_before());
        }
    }

    /// A kill just after the operator's word reached the journal finds it there.
    #[test]
    fn a_copy_that_hosts_outgrow_stands_until_somebody_gives_up_what_a_side_was() {
        let site = Site::default();
        let (secondary, mut apply) = site.start(JOURNAL.capacity_bytes);
        let was = held(&secondary);
        let mut tip = Tip::default();
        take(&secondary, [framed(&mut tip, &begin(ROOM), &secondary)]).unwrap();
        // More than a segment: what is applied of it is recorded.
        for _ in 0..6 {
            take(&secondary, [write(&mut tip)]).unwrap();
        }
        take(&secondary, [marker(&mut tip)]).unwrap();
        let refused = loop {
            let mut behind = tip;
            match take(&secondary, [write(&mut behind)]) {
                Ok(Taking::Did) => tip = behind,
                refused => break refused,
            }
        };
        asks(refused, "hosts wrote more");
        let limit = apply.state.limit();
        assert_eq!(apply.step(limit), Applying::Idle);
        let mut behind = tip;
        asks(take(&secondary, [write(&mut behind)]), "hosts wrote more");
        assert!(secondary.state().keeps_before() && held(&secondary) == was);

        let frame = framed(&mut tip, &ControlRecord::ImageGivenUp, &secondary);
        assert_eq!(take(&secondary, [frame]).unwrap(), Taking::Did);
        drop((apply, secondary));
        let (secondary, mut apply) = site.start(JOURNAL.capacity_bytes);
        assert!(!secondary.state().keeps_before());
        let limit = apply.state.limit();
        while apply.step(limit) == Applying::Did {}
        assert!(held(&secondary) != was, "the copy is applied as it comes");
        assert_eq!(was_before(secondary.keeper()), None, "with what is applied of it");
    }
}
