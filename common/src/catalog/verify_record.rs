//! The record of a comparison. A field added or changed raises `CATALOG_FORMAT`.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

/// Where a comparison is, as in [`crate::api::types::ComparisonState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum VerifyStateRecord {
    /// It goes on by itself.
    Runs,
    /// It goes on when it is asked to.
    Stands,
    /// It has looked at everything.
    Ended,
}

/// A comparison of a pair's two sides: how far it is and what it has found. It never says more than was compared.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// Where it is.
    pub state: VerifyStateRecord,
    /// Why it is there.
    pub reason: Option<String>,
    /// When it began, nanoseconds since 1970.
    pub began_ns: i64,
    /// The generation it is of.
    pub generation: u64,
    /// What is compared: index and bytes of each volume, in the order of indexes.
    pub volumes: Vec<(u32, u64)>,
    /// What differs is to be copied again.
    pub repair: bool,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Everything before this volume index and offset was looked at.
    pub cursor: (u32, u64),
    /// What of that is still to be compared, because hosts wrote there: a [`crate::differential::Bitmap`].
    pub left: Vec<u8>,
    /// What differs: a [`crate::differential::Bitmap`].
    pub different: Vec<u8>,
    /// The oldest and the newest marker compared at; 0: none yet.
    pub markers: (u64, u64),
    /// The oldest and the newest marker at which something differed.
    pub differed: Option<(u64, u64)>,
    /// What differed at one marker and is being copied again: a [`crate::differential::Bitmap`].
    pub mends: Option<Vec<u8>>,
    /// How often it went on after it was interrupted.
    pub resumed: u32,
    /// Bytes compared when it last went on.
    pub resumed_at_bytes: u64,
    /// Milliseconds it has compared for.
    pub took_ms: u64,
}
