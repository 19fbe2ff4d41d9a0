//! Whether all regions of a differential copy have come: their frames are no part of the history, so that one that was left out would
//! not be seen by the chain. Each step of a copy says from where to where it leads and which frames of regions lie between; steps that
//! follow each other from the first byte to the last leave nothing out (invariants 4, 9). Pure; the sender and the receiver ask here.

use super::ControlRecord;
use super::header::{Chain, FrameHeader, FrameKind};

/// A digest over the headers of the frames of regions since the last step of a copy, in their order; the headers hold the checksums of
/// all that is in the frames. Zeroes for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionsDigest(Chain);

impl RegionsDigest {
    /// With one frame more.
    pub fn take(&mut self, header: &FrameHeader) {
        self.0 = self.0.after(&header.encode());
    }

    /// As a record holds it.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        self.0.0
    }
}

/// What has come of a copy over one connection, behind what was durable before.
#[derive(Debug, Default)]
pub struct CopyCheck {
    copy: u64,
    cursor: (u32, u64),
    since: RegionsDigest,
}

impl CopyCheck {
    /// A copy of which all regions before a volume index and offset are durable; 0 for none.
    #[must_use]
    pub fn at(copy: u64, cursor: (u32, u64)) -> Self {
        Self { copy, cursor, ..Self::default() }
    }

    /// Whether a record may be taken behind what came.
    ///
    /// # Errors
    /// What is missing or does not belong together.
    pub fn check(&self, record: Option<&ControlRecord>) -> Result<(), &'static str> {
        match record {
            Some(ControlRecord::CopyProgress { .. }) => Err("a step of a copy does not say what came with it"),
            Some(ControlRecord::CopyStep { copy, from_volume, from_offset, digest, .. }) => {
                if !self.is_open(*copy) {
                    return Err("a step of a copy that has not begun");
                }
                if (*from_volume, *from_offset) != self.cursor {
                    return Err("a step of a copy does not go on from the one before: regions are missing");
                }
                if *digest == self.since.bytes() {
                    Ok(())
                } else {
                    Err("the regions that came are not those of their copy's step")
                }
            }
            Some(ControlRecord::CopyEnd { copy, .. }) if !self.is_open(*copy) => {
                Err("the end of a copy that has not begun")
            }
            Some(ControlRecord::CopyEnd { .. }) if self.since != RegionsDigest::default() => {
                Err("regions came behind the last step of their copy")
            }
            _ => Ok(()),
        }
    }

    /// 0 is no copy: a side that has given its image up waits for one, and the end of that would make an image of what it has.
    const fn is_open(&self, copy: u64) -> bool {
        copy != 0 && copy == self.copy
    }

    /// A frame is taken; with a control frame, its record.
    pub fn take(&mut self, header: &FrameHeader, record: Option<&ControlRecord>) {
        match record {
            Some(ControlRecord::CopyBegin { copy, .. }) => *self = Self::at(*copy, (0, 0)),
            Some(ControlRecord::CopyStep { copy, volume, offset, .. }) => *self = Self::at(*copy, (*volume, *offset)),
            Some(ControlRecord::CopyEnd { .. }) => *self = Self::default(),
            _ if header.kind == FrameKind::Regions => self.since.take(header),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Extent;
    use crate::ids::{GroupId, VolumeIndex};
    use crate::record::{FrameBuilder, Place, Tip};

    const TIP: Tip = Tip {
        seq: crate::ids::Seq(9),
        marker: crate::ids::MarkerNumber(4),
        generation: crate::ids::Generation(1),
        chain: Chain([7; 16]),
    };

    fn regions(offset: u64, byte: u8) -> FrameHeader {
        let mut builder = FrameBuilder::new();
        builder.push_data(Extent { volume: VolumeIndex(1), offset, length: 512 }, &[byte; 512]);
        FrameHeader::decode(&builder.finish(FrameKind::Regions, &Place::at(GroupId([1; 16]), &TIP))).unwrap()
    }

    fn step(from: (u32, u64), to: (u32, u64), frames: &[&FrameHeader]) -> ControlRecord {
        let mut since = RegionsDigest::default();
        frames.iter().for_each(|header| since.take(header));
        ControlRecord::CopyStep {
            copy: 5,
            from_volume: from.0,
            from_offset: from.1,
            volume: to.0,
            offset: to.1,
            done_bytes: 0,
            digest: since.bytes(),
        }
    }

    fn header(record: &ControlRecord) -> FrameHeader {
        FrameHeader::decode(&record.frame(&Place::at(GroupId([1; 16]), &TIP)).unwrap()).unwrap()
    }

    /// What a check says of a record behind some frames.
    fn said(check: &mut CopyCheck, frames: &[&FrameHeader], record: &ControlRecord) -> Result<(), &'static str> {
        frames.iter().for_each(|frame| check.take(frame, None));
        check.check(Some(record))?;
        check.take(&header(record), Some(record));
        Ok(())
    }

    #[test]
    fn steps_with_all_their_regions_are_taken_one_behind_the_other() {
        let (a, b, c) = (regions(0, 1), regions(512, 2), regions(1024, 3));
        let mut check = CopyCheck::at(5, (0, 0));
        assert_eq!(said(&mut check, &[&a, &b], &step((0, 0), (1, 1024), &[&a, &b])), Ok(()));
        assert_eq!(said(&mut check, &[], &step((1, 1024), (1, 2048), &[])), Ok(()), "a hole of the bitmap's");
        assert_eq!(said(&mut check, &[&c], &step((1, 2048), (2, 0), &[&c])), Ok(()));
        assert_eq!(said(&mut check, &[], &ControlRecord::CopyEnd { copy: 5, marker: 9 }), Ok(()));
    }

    #[test]
    fn regions_left_out_altered_out_of_order_or_between_steps_are_seen() {
        let (a, b, other) = (regions(0, 1), regions(512, 2), regions(512, 9));
        let both = step((0, 0), (1, 1024), &[&a, &b]);
        for wrong in [vec![], vec![&a], vec![&b], vec![&b, &a], vec![&a, &other], vec![&a, &b, &b]] {
            assert!(said(&mut CopyCheck::at(5, (0, 0)), &wrong, &both).is_err(), "{wrong:?}");
        }
        let frames = [&a, &b];
        assert!(said(&mut CopyCheck::at(4, (0, 0)), &frames, &both).is_err(), "of another copy");
        assert!(said(&mut CopyCheck::at(5, (1, 512)), &frames, &both).is_err(), "a step is missing before it");
        let progress = ControlRecord::CopyProgress { copy: 5, volume: 1, offset: 1024, done_bytes: 1024 };
        assert!(said(&mut CopyCheck::at(5, (0, 0)), &frames, &progress).is_err(), "it does not say what came");
        let end = ControlRecord::CopyEnd { copy: 5, marker: 9 };
        assert!(said(&mut CopyCheck::at(5, (0, 0)), &frames, &end).is_err(), "no step stands for them");
    }

    #[test]
    fn steps_and_ends_of_what_has_not_begun_are_seen() {
        for (open, copy) in [(0, 0), (0, 5), (4, 5), (u64::MAX, 0)] {
            let end = ControlRecord::CopyEnd { copy, marker: 9 };
            assert!(said(&mut CopyCheck::at(open, (0, 0)), &[], &end).is_err(), "{open} {copy}");
            let step = ControlRecord::CopyStep {
                copy,
                from_volume: 0,
                from_offset: 0,
                volume: 1,
                offset: 1024,
                done_bytes: 0,
                digest: RegionsDigest::default().bytes(),
            };
            assert!(said(&mut CopyCheck::at(open, (0, 0)), &[], &step).is_err(), "{open} {copy}");
        }
    }
}
