//! Records that are not data: markers, role changes, the volumes of a group, begin and end of a differential copy.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

use super::build::Place;
use super::header::{Chain, FrameHeader, FrameKind, NEVER_GIVEN_OUT};
use super::{FrameError, FrameView, crc32c};
use crate::ids::{MarkerNumber, Seq, check_tag};
use crate::limits::{TAG_BYTES_MAX, are_believed};
use crate::wire::message::VolumeSpec;

/// The numbered record of a cut.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MarkerRecord {
    /// Its number.
    pub number: u64,
    /// The newest sequence number inside it.
    pub boundary_seq: u64,
    /// Wall clock at the cut, nanoseconds since 1970.
    pub time_ns: i64,
    /// How long the gate was closed, nanoseconds.
    pub freeze_ns: u64,
    /// The operator's text.
    pub tag: Option<String>,
}

/// What a control frame holds. Variants are only ever added, at the end, and none larger than the largest: the archived size is that
/// of all records ever written.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ControlRecord {
    /// A cut.
    Marker(MarkerRecord),
    /// A new generation begins after this frame's sequence number.
    Role {
        /// The new generation.
        generation: u64,
        /// The appliance that is primary from here on.
        appliance: [u8; 32],
        /// Wall clock, nanoseconds since 1970.
        time_ns: i64,
    },
    /// The group's volumes from here on.
    Volumes {
        /// All of them.
        volumes: Vec<VolumeSpec>,
    },
    /// A differential copy begins: nothing from here on may be permitted before its end. Not part of the history.
    CopyBegin {
        /// Its number: that of the marker it begins at.
        copy: u64,
        /// The sequence number the frames go on from; it may be ahead of the frame before.
        start_seq: u64,
        /// The newest marker at the start.
        start_marker: u64,
        /// The chain at the start.
        chain: [u8; 16],
        /// There is no image to keep: apply as it comes.
        direct: bool,
        /// Bytes of all volumes that will be passed.
        total_bytes: u64,
        /// The group's volumes at the start.
        volumes: Vec<VolumeSpec>,
    },
    /// Everything of a differential copy is before this; its first marker to permit is `marker`. Not part of the history.
    CopyEnd {
        /// Its number.
        copy: u64,
        /// The end marker.
        marker: u64,
    },
    /// All regions up to here are before this frame. Not part of the history. Older journals hold it; nobody writes it any more.
    CopyProgress {
        /// The copy.
        copy: u64,
        /// Volume index of the cursor.
        volume: u32,
        /// Offset of the cursor.
        offset: u64,
        /// Bytes passed so far.
        done_bytes: u64,
    },
    /// The folded frames before this stand for all of the history up to this frame's sequence number, marker and chain: they
    /// are applied together or not at all. Not part of the history itself.
    Folded {
        /// The chain where they go on from.
        from_chain: [u8; 16],
        /// How many frames they are.
        frames: u32,
        /// Their [`super::FoldCheck`].
        digest: [u8; 16],
    },
    /// The receiver's image is given up: the copy that begins next is written over it. Not part of the history.
    ImageGivenUp,
    /// All regions of a copy from one place up to another are in the frames of regions since the step before. Not part of the
    /// history.
    CopyStep {
        /// The copy.
        copy: u64,
        /// Volume index of the cursor before.
        from_volume: u32,
        /// Offset of the cursor before.
        from_offset: u64,
        /// Volume index of the cursor.
        volume: u32,
        /// Offset of the cursor.
        offset: u64,
        /// Bytes passed so far.
        done_bytes: u64,
        /// Their [`super::RegionsDigest`].
        digest: [u8; 16],
    },
}

impl ControlRecord {
    const fn is_history(&self) -> bool {
        matches!(self, Self::Marker(_) | Self::Role { .. } | Self::Volumes { .. })
    }

    /// The frame that holds this record, at this place. A marker counts itself; the begin of a copy sets sequence number,
    /// marker and chain to where the copy starts, the record of a fold to the place itself, whatever was before.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when the record is larger than a frame may be.
    pub fn frame(&self, place: &Place) -> Result<Vec<u8>, FrameError> {
        let large = FrameError::Malformed { what: "the record is too large" };
        let Ok(body) = rkyv::to_bytes::<rkyv::rancor::Error>(self) else { return Err(large) };
        let Ok(length) = u32::try_from(body.len()) else { return Err(large) };
        let mut header = FrameHeader {
            kind: FrameKind::Control,
            history: self.is_history(),
            rebase: false,
            group: place.group,
            member: place.member,
            generation: place.generation,
            first_seq: place.last_seq,
            last_seq: place.last_seq,
            marker: place.marker,
            extents: 0,
            chunks: 0,
            raw_bytes: 0,
            table_bytes: length,
            body_bytes: length,
            table_check: crc32c(&body),
            chain: place.chain,
        };
        match self {
            Self::Marker(marker) => header.marker = MarkerNumber(marker.number),
            Self::CopyBegin { start_seq, start_marker, chain, .. } => {
                header.rebase = true;
                header.first_seq = Seq(*start_seq);
                header.last_seq = Seq(*start_seq);
                header.marker = MarkerNumber(*start_marker);
                header.chain = Chain(*chain);
            }
            Self::Folded { .. } => header.rebase = true,
            _ => {}
        }
        if header.frame_bytes() > crate::limits::FRAME_STORED_BYTES_MAX {
            return Err(large);
        }
        let mut frame = Vec::with_capacity(header.frame_bytes());
        frame.extend_from_slice(&header.encode());
        frame.extend_from_slice(&body);
        Ok(frame)
    }

    /// Reads the record of a control frame whose tables are verified.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn of(view: &FrameView<'_>) -> Result<Self, FrameError> {
        let record = rkyv::from_bytes::<Self, rkyv::rancor::Error>(view.tables())
            .map_err(|_| FrameError::Malformed { what: "its record cannot be read" })?;
        let (seq, marker, generation) = record.numbers();
        if are_believed(seq, marker, generation) {
            Ok(record.with_plain_tag())
        } else {
            Err(FrameError::Malformed { what: NEVER_GIVEN_OUT })
        }
    }

    /// Whoever has written it, a tag is one line of plain text, and no more is held of it: each marker of the journal has one in memory, and people
    /// list them.
    fn with_plain_tag(mut self) -> Self {
        if let Self::Marker(MarkerRecord { tag: Some(tag), .. }) = &mut self
            && check_tag(tag).is_err()
        {
            tag.retain(|letter| !letter.is_control());
            tag.truncate(tag.floor_char_boundary(TAG_BYTES_MAX));
            tag.shrink_to_fit();
        }
        self
    }

    /// The sequence number, the marker and the generation that it names beside its header, 0 for none.
    #[must_use]
    pub const fn numbers(&self) -> (u64, u64, u64) {
        match self {
            Self::Marker(MarkerRecord { number, boundary_seq, .. }) => (*boundary_seq, *number, 0),
            Self::Role { generation, .. } => (0, 0, *generation),
            Self::CopyBegin { start_seq, start_marker, .. } => (*start_seq, *start_marker, 0),
            Self::CopyEnd { marker, .. } => (0, *marker, 0),
            Self::Volumes { .. }
            | Self::CopyProgress { .. }
            | Self::Folded { .. }
            | Self::ImageGivenUp
            | Self::CopyStep { .. } => (0, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, GroupId};

    fn place() -> Place {
        Place {
            group: GroupId([1; 16]),
            member: 0,
            generation: Generation(3),
            first_seq: Seq(9),
            last_seq: Seq(9),
            marker: MarkerNumber(4),
            chain: Chain([7; 16]),
        }
    }

    fn records() -> Vec<ControlRecord> {
        let volumes = vec![VolumeSpec { index: 0, name: "data".into(), size: 1 << 40 }];
        vec![
            ControlRecord::Marker(MarkerRecord {
                number: 5,
                boundary_seq: 9,
                time_ns: -1,
                freeze_ns: 31_000,
                tag: Some("before the upgrade".into()),
            }),
            ControlRecord::Role { generation: 4, appliance: [0xab; 32], time_ns: 1 },
            ControlRecord::Volumes { volumes: volumes.clone() },
            ControlRecord::CopyBegin {
                copy: 1,
                start_seq: 20,
                start_marker: 6,
                chain: [9; 16],
                direct: true,
                total_bytes: 1 << 40,
                volumes,
            },
            ControlRecord::CopyProgress { copy: 1, volume: 0, offset: 65536, done_bytes: 65536 },
            ControlRecord::CopyEnd { copy: 1, marker: 7 },
            ControlRecord::Folded { from_chain: [2; 16], frames: 2, digest: [3; 16] },
            ControlRecord::ImageGivenUp,
            ControlRecord::CopyStep {
                copy: 1,
                from_volume: 0,
                from_offset: 0,
                volume: 0,
                offset: 65536,
                done_bytes: 65536,
                digest: [4; 16],
            },
        ]
    }

    #[test]
    fn every_record_comes_back_from_its_frame() {
        for record in records() {
            let frame = record.frame(&place()).unwrap();
            let view = FrameView::verified(&frame).unwrap();
            assert_eq!(ControlRecord::of(&view), Ok(record.clone()));
            assert_eq!(view.extents().count() + view.chunks().count(), 0, "{record:?}");
            view.unpack(&mut Vec::new()).unwrap();
        }
    }

    /// Whoever takes over gives out the next ones.
    #[test]
    fn a_record_with_a_number_that_nothing_can_follow_is_refused() {
        let marker = |number, boundary_seq| {
            ControlRecord::Marker(MarkerRecord { number, boundary_seq, time_ns: 0, freeze_ns: 0, tag: None })
        };
        let begin = |start_seq, start_marker| ControlRecord::CopyBegin {
            copy: 1,
            start_seq,
            start_marker,
            chain: [9; 16],
            direct: true,
            total_bytes: 0,
            volumes: Vec::new(),
        };
        for record in [
            marker(u64::MAX, 9),
            marker(5, u64::MAX),
            ControlRecord::Role { generation: u64::MAX, appliance: [0; 32], time_ns: 1 },
            begin(u64::MAX, 6),
            begin(20, u64::MAX),
            ControlRecord::CopyEnd { copy: 1, marker: u64::MAX },
        ] {
            let frame = record.frame(&place()).unwrap();
            let read = FrameView::verified(&frame).and_then(|view| ControlRecord::of(&view));
            assert_eq!(read, Err(FrameError::Malformed { what: NEVER_GIVEN_OUT }), "{record:?}");
        }
    }

    /// A faulty primary would fill the memory of its copy with them, and lead the terminal of whoever lists them.
    #[test]
    fn a_tag_is_a_short_line_of_plain_text_whoever_has_written_it() {
        let read = |tag: &str| {
            let tag = Some(tag.to_owned());
            let marker = MarkerRecord { number: 5, boundary_seq: 9, time_ns: 1, freeze_ns: 1, tag };
            let frame = ControlRecord::Marker(marker).frame(&place()).unwrap();
            match FrameView::verified(&frame).and_then(|view| ControlRecord::of(&view)) {
                Ok(ControlRecord::Marker(marker)) => marker.tag.unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read("before the upgrade"), "before the upgrade");
        assert_eq!(read("one\n\u{1b}[2Jtwo"), "one[2Jtwo");
        assert_eq!(read(&"\u{e4}".repeat(TAG_BYTES_MAX)).len(), TAG_BYTES_MAX);
    }

    #[test]
    fn records_have_the_size_that_older_journals_have() {
        assert_eq!(size_of::<ArchivedControlRecord>(), 58);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        for record in records() {
            let good = record.frame(&place()).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(FrameView::verified(&bad).is_err(), "bit {bit} of {record:?}");
            }
        }
    }

    #[test]
    fn a_marker_counts_itself_and_a_copy_sets_the_history() {
        let headers: Vec<_> =
            records().iter().map(|r| FrameHeader::decode(&r.frame(&place()).unwrap()).unwrap()).collect();
        assert_eq!((headers[0].marker, headers[0].history, headers[0].rebase), (MarkerNumber(5), true, false));
        assert_eq!((headers[3].marker, headers[3].history, headers[3].rebase), (MarkerNumber(6), false, true));
        assert_eq!((headers[3].last_seq, headers[3].chain), (Seq(20), Chain([9; 16])));
        assert_eq!((headers[5].marker, headers[5].history), (MarkerNumber(4), false));
        assert_eq!((headers[6].marker, headers[6].history, headers[6].rebase), (MarkerNumber(4), false, true));
        assert_eq!((headers[6].last_seq, headers[6].chain), (Seq(9), Chain([7; 16])));
    }
}
