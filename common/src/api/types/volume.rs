//! Volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The group it is in.
    pub group: Option<String>,
    /// The file or device behind it.
    pub backing: String,
    /// NBD connections open on it.
    pub connections: u64,
    /// The group whose copy may be made on it, which overwrites it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_to: Option<String>,
    /// What is wrong with what it holds, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `volume create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeCreate {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// An absolute path: a file (made when it is not there) or block device. Without it, a sparse file in DIR.
    pub backing: Option<String>,
}

/// `volume resize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeResize {
    /// Bytes; volumes only grow.
    pub size: u64,
}

/// `volume offer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeOffer {
    /// The group whose copy may be made on the volume; none: no longer.
    pub group: Option<String>,
}
