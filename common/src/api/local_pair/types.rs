//! What is said of pairs on one appliance.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `local-pair create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalPairCreate {
    /// A volume of a group.
    pub source: String,
    /// A volume in no group, at least as large; what it holds is overwritten.
    pub target: String,
    /// Bytes per second copied at most.
    pub rate: Option<u64>,
}

/// `local-pair split`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalPairSplit {
    /// Targets of pairs whose sources are of one group.
    pub targets: Vec<String>,
}

/// Where a pair on one appliance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LocalPairState {
    /// The volume is in no pair.
    Simplex,
    /// The first copy is under way: the target is no image yet.
    Copy,
    /// The target follows the source, and is no image while it does.
    Pair,
    /// The target is the image at a marker, and what hosts wrote over it since.
    Split,
    /// What differs is copied to the target, which is no image meanwhile.
    Resync,
    /// What differs is written back to the source; both are closed to hosts meanwhile.
    Reverse,
    /// Needs a person: the reason says what happened and what to do.
    Error,
}

impl LocalPairState {
    /// All of a pair, in the order in which a pair comes to them.
    pub const ALL: [Self; 6] = [Self::Copy, Self::Pair, Self::Split, Self::Resync, Self::Reverse, Self::Error];

    /// As people and scripts know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simplex => "simplex",
            Self::Copy => "copy",
            Self::Pair => "pair",
            Self::Split => "split",
            Self::Resync => "resync",
            Self::Reverse => "reverse",
            Self::Error => "error",
        }
    }
}

/// A pair on one appliance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LocalPairStatus {
    /// The source volume; empty when the volume asked for is in no pair.
    pub source: String,
    /// The source's group.
    pub group: String,
    /// The target volume, which names the pair.
    pub target: String,
    /// Where it is.
    pub state: LocalPairState,
    /// Why it is there, when that is not obvious.
    pub reason: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Bytes compared.
    pub size: u64,
    /// Bytes still to be copied to the target, regions counted whole.
    pub differential_bytes: u64,
    /// Bytes of the source written since the split, regions counted whole.
    pub source_changed_bytes: u64,
    /// Bytes of the target written since the split, regions counted whole.
    pub target_changed_bytes: u64,
    /// The marker of the split, while it is split or goes back.
    pub marker: Option<u64>,
    /// When that was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub marker_time: Option<Timestamp>,
    /// Bytes per second copied at most.
    pub rate: u64,
    /// How a host opens the target, when it can.
    pub export: Option<String>,
    /// NBD connections open on the target.
    pub connections: u64,
    /// Bytes of overwritten content kept because of it.
    pub saved_bytes: u64,
}
