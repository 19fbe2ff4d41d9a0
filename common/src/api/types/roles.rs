//! Changes of roles: `failover`, `rejoin` and `switchover`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::group::MarkerInfo;

/// `failover`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Failover {
    /// Also when the primary was heard within the last second.
    #[serde(default)]
    pub force: bool,
    /// An older marker that is held; without it, the newest.
    #[serde(default)]
    pub marker: Option<u64>,
    /// The newest marker cut by then, instead of a number.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
}

/// What `failover` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverReport {
    /// The group.
    pub group: String,
    /// The new generation.
    pub generation: u64,
    /// The marker whose image is served.
    pub marker: MarkerInfo,
    /// The copy is good as of then.
    #[schema(value_type = String, format = DateTime)]
    pub good_as_of: Timestamp,
    /// Seconds between `good_as_of` and now.
    pub age_seconds: f64,
    /// Sequence numbers received beyond the marker and left out: their marker never came, or an older one was asked for.
    pub dropped_writes: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Writes behind the marker that the primary was heard to have given numbers to: those dropped, and those that never came.
    pub missing_writes_known: u64,
    /// Milliseconds from the request until the volumes were served.
    pub took_ms: f64,
    /// NBD export names now served.
    pub exports: Vec<String>,
    /// Where what came after an older marker is kept (`tidemark lost`).
    #[serde(default)]
    pub kept: Option<String>,
    /// This side had returned as the copy, which was not complete: what is served is what it was before.
    #[serde(default)]
    pub went_back: bool,
}

/// `rejoin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Rejoin {
    /// Goes on as primary with what this side has: who has taken over is fenced, and may return.
    #[serde(default)]
    pub as_primary: bool,
    /// So also when who has taken over does not answer.
    #[serde(default)]
    pub force: bool,
}

/// What `rejoin` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RejoinReport {
    /// The group.
    pub group: String,
    /// Who is primary now. This appliance itself, when nobody had taken over.
    pub primary: String,
    /// Its generation.
    pub generation: u64,
    /// The last marker both sides have.
    pub marker: u64,
    /// This side no longer knew where the histories parted: everything is copied.
    pub whole: bool,
    /// Writes after that marker that never reached the other side, as far as the journal still has them.
    pub lost_writes: u64,
    /// Bytes of those, and of the regions (64 KiB each) that were written and have left the journal.
    pub lost_bytes: u64,
    /// The folder in which they are kept, when there are any.
    pub kept: Option<String>,
    /// Who had not taken over, when that is why this appliance is primary as before.
    #[serde(default)]
    pub not_taken_over_by: Option<String>,
}
/// `switchover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Switchover {
    /// The appliance that becomes primary.
    pub to: String,
    /// Hosts wait at most so long for the copy to have everything.
    pub timeout_ms: u64,
}

/// What `switchover` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SwitchoverReport {
    /// The group.
    pub group: String,
    /// Who is primary now.
    pub primary: String,
    /// Its generation.
    pub generation: u64,
    /// The marker at which the roles changed; nothing was written after it.
    pub marker: u64,
    /// How long hosts were held.
    pub hosts_waited_ms: f64,
    /// The whole of it.
    pub took_ms: f64,
    /// Why this side is not the copy yet, when it is not.
    pub problem: Option<String>,
}
