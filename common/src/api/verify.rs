//! `verify`: what is asked, what it found, and how far a comparison is. Fields are added, never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a [`VerifyRequest`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyAction {
    /// Compare everything; what an earlier comparison had found is forgotten.
    #[default]
    Begin,
    /// Go on where the last comparison stands, wait for one that runs, or tell what one that has ended has found.
    Resume,
    /// Break off the comparison that runs: it stands where it is.
    Suspend,
    /// The same, and forget it.
    Cancel,
}

/// `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// The appliance with the copy.
    pub to: String,
    /// Copy what differs again.
    pub repair: bool,
    /// Bytes of the volumes to compare per second at most; none: as fast as it goes, or as it went.
    #[serde(default)]
    pub rate_bytes_per_second: Option<u64>,
    /// Milliseconds to wait for a pair that is not up; none: it is refused at once.
    #[serde(default)]
    pub wait_ms: Option<u64>,
    /// What to do.
    #[serde(default)]
    pub action: VerifyAction,
    /// Nobody waits for the report: what there is of it is told at once, and the comparison goes on.
    #[serde(default)]
    pub background: bool,
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// The group.
    pub group: String,
    /// The appliance with the copy.
    pub peer: String,
    /// The marker at which the last regions were compared.
    pub marker: u64,
    /// The marker at which the first were: each region was compared at one marker from this one to `marker`.
    #[serde(default)]
    pub from_marker: u64,
    /// Bytes compared, regions counted whole.
    pub compared_bytes: u64,
    /// Bytes that differ, regions counted whole.
    pub different_bytes: u64,
    /// Where, the first ten thousand runs.
    pub differences: Vec<VerifyDifference>,
    /// Bytes that hosts wrote again and again, so that no marker could judge them.
    pub not_compared_bytes: u64,
    /// What differs is copied again: a resync does it now.
    pub repaired: bool,
    /// How much of it: what differed at an older marker, and is the same by now or written all the time, is left alone.
    #[serde(default)]
    pub repaired_bytes: u64,
    /// How long it took, without the time in which nothing could be compared.
    pub took_seconds: f64,
    /// Everything was looked at; `false` for one that was broken off.
    #[serde(default)]
    pub complete: bool,
    /// How often it went on after it was interrupted.
    #[serde(default)]
    pub resumed: u32,
}

/// A run of regions that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyDifference {
    /// The volume.
    pub volume: String,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Where a comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ComparisonState {
    /// It compares, or waits for its pair, and goes on by itself.
    Runs,
    /// It was broken off and goes on when it is asked to.
    Stands,
    /// It has looked at everything.
    Ended,
}

/// How far a comparison is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComparisonStatus {
    /// Where it is.
    pub state: ComparisonState,
    /// Why it does not go on now.
    pub reason: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub began: Timestamp,
    /// Bytes compared, regions counted whole.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// How often it went on after it was interrupted.
    pub resumed: u32,
    /// Bytes that were compared before it last went on.
    pub resumed_at_bytes: u64,
    /// The markers at which the first and the last regions were compared.
    pub from_marker: u64,
    /// See `from_marker`.
    pub marker: u64,
    /// Bytes that differ, regions counted whole.
    pub different_bytes: u64,
    /// How much of it is copied again.
    pub repaired_bytes: u64,
}
