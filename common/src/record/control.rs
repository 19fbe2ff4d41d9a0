//! Records that are not data: markers, role changes, the volumes of a group, begin and end of a differential copy.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

use super::build::Place;
use super::header::{Chain, FrameHeader, FrameKind};
use super::{FrameError, FrameView, crc32c};
use crate::ids::{MarkerNumber, Seq};
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

/// What a control frame holds. Variants are only ever added, at the end.
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
        /// Its number, counted per pair.
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
    /// All regions up to here are before this frame. Not part of the history.
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
}

impl ControlRecord {
    const fn is_history(&self) -> bool {
        matches!(self, Self::Marker(_) | Self::Role { .. } | Self::Volumes { .. })
    }

    /// The frame that holds this record, at this place. A marker counts itself; the begin of a copy sets sequence number,
    /// marker and chain to where the copy starts.
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
        rkyv::from_bytes::<Self, rkyv::rancor::Error>(view.tables())
            .map_err(|_| FrameError::Malformed { what: "its record cannot be read" })
    }
}
