//! T0 copies and clones.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What all images take of overwritten content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct SideStoreStatus {
    /// Bytes taken.
    pub bytes: u64,
    /// Bytes there are.
    pub capacity_bytes: u64,
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// Read-only.
    T0,
    /// Writable.
    Clone,
    /// The clone of a drill.
    Drill,
}

/// Whether an image can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    /// It can.
    Ready,
    /// What it needs could not be kept: its exports answer with errors.
    Broken,
}

/// As of when a backup or an image is, for one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMoment {
    /// The group.
    pub group: String,
    /// The marker.
    pub marker: u64,
    /// When it was cut.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
}

/// A T0 copy or a clone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ImageKind,
    /// The group; of several, the one named first.
    pub group: String,
    /// The marker it shows of that group.
    pub marker: u64,
    /// When that was cut.
    #[schema(value_type = String, format = DateTime)]
    pub marker_time: Timestamp,
    /// The markers it shows, one for each of its groups: they are one moment.
    #[serde(default)]
    pub moments: Vec<GroupMoment>,
    /// When the image was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Seconds since then.
    pub age_seconds: f64,
    /// Whether it can be used.
    pub state: ImageState,
    /// Why it cannot.
    pub reason: Option<String>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// A URI for each of them.
    pub exports: Vec<String>,
    /// NBD connections open on it.
    pub connections: u64,
    /// Bytes of overwritten content kept because of it, and of others of about that moment.
    pub saved_bytes: u64,
    /// A clone: bytes written over the image.
    pub written_bytes: u64,
    /// A clone: bytes that may be.
    pub space_bytes: u64,
}

/// `t0 create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct T0Create {
    /// Its name.
    pub name: String,
    /// Groups, and volumes of groups.
    pub of: Vec<String>,
}

/// `clone create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloneCreate {
    /// Its name.
    pub name: String,
    /// The group.
    pub of: String,
    /// The marker; without it, the newest.
    pub marker: Option<u64>,
    /// The newest marker cut by then, instead of a number.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
    /// Bytes that may be written over the image; without it, as the configuration says.
    pub space_bytes: Option<u64>,
}
