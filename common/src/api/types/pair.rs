//! Pairs: their states, and how each stands.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ComparisonStatus;
use crate::lag::Lag;
use crate::lease::JournalHeld;

/// The states of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// The first copy is under way; there is no usable copy yet.
    InitialCopy,
    /// The copy follows.
    Paired,
    /// The copy is usable and older than it should be; the journal has all that is missing.
    CatchingUp,
    /// The journal could not be kept: differences are in the bitmap.
    Differential,
    /// A differential copy is under way; the old image stays usable.
    Resync,
    /// By the operator.
    Suspended,
    /// The other side has taken over, or this side has.
    FailedOver,
    /// This side met a higher generation.
    Fenced,
    /// Needs a person; the reason says why and what to do.
    Error,
}

impl PairState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::InitialCopy,
        Self::Paired,
        Self::CatchingUp,
        Self::Differential,
        Self::Resync,
        Self::Suspended,
        Self::FailedOver,
        Self::Fenced,
        Self::Error,
    ];

    /// As people and scripts know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InitialCopy => "initial-copy",
            Self::Paired => "paired",
            Self::CatchingUp => "catching-up",
            Self::Differential => "differential",
            Self::Resync => "resync",
            Self::Suspended => "suspended",
            Self::FailedOver => "failed-over",
            Self::Fenced => "fenced",
            Self::Error => "error",
        }
    }
}

impl std::fmt::Display for PairState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One pair, as seen from this side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PairStatus {
    /// The other appliance.
    pub peer: String,
    /// Its state.
    pub state: PairState,
    /// Why it is in that state, when that is not obvious.
    pub reason: Option<String>,
    /// When it came into that state.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Whether the other side answers now.
    pub connected: bool,
    /// It stands until a person does what the reason says, though it is tried again by itself.
    #[serde(default)]
    pub stands: bool,
    /// On a copy: the last that its primary said is that an operator has suspended the pair there.
    #[serde(default)]
    pub suspended_there: bool,
    /// Newest marker whose frames are all durable on the secondary.
    pub received_marker: u64,
    /// Newest marker the secondary may apply.
    pub permitted_marker: u64,
    /// Newest marker the secondary has applied.
    pub applied_marker: u64,
    /// What a disaster now would lose, seconds. `null` while there is no usable copy.
    pub rpo_seconds: Option<f64>,
    /// Bytes captured and not yet durable on the secondary. On a secondary, which does not know them: bytes durable there and not yet applied.
    pub lag_bytes: u64,
    /// Where that waits, and for what.
    #[serde(default)]
    pub lag: Lag,
    /// What of the journal here is kept for it, while it does not follow; on a copy, behind the image that the primary compares with its own.
    #[serde(default)]
    pub held: Option<JournalHeld>,
    /// Bytes marked in the differential bitmap.
    pub differential_bytes: u64,
    /// The differential copy under way.
    pub copy: Option<CopyProgress>,
    /// The comparison under way.
    pub verify: Option<CopyProgress>,
    /// The last comparison, under way, standing or ended, as far as it has got.
    #[serde(default)]
    pub comparison: Option<ComparisonStatus>,
    /// Round trip time of the link, milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// How far a differential copy is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct CopyProgress {
    /// Bytes compared and sent, or skipped as holes.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes of the volumes passed per second, over the last seconds.
    pub bytes_per_second: f64,
    /// Time left, seconds, when it can be told.
    pub seconds_left: Option<f64>,
}

/// `pair create`, `suspend`, `resume`, `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairTarget {
    /// The peer's name.
    pub to: String,
}
