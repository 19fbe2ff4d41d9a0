//! An appliance: who it is, whom it trusts, and who calls it without that.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who an appliance is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApplianceStatus {
    /// Its name.
    pub name: String,
    /// Its id: the fingerprint of its certificate, hexadecimal.
    pub id: String,
    /// The build.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: f64,
}

/// Where an appliance listens, with real port numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Addresses {
    /// NBD addresses, `unix:PATH` or `HOST:PORT`.
    pub nbd: Vec<String>,
    /// QUIC address.
    pub replication: String,
    /// Prometheus address.
    pub metrics: String,
}

/// One trusted appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// The name given here.
    pub name: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// Where to reach it, when known.
    pub address: Option<String>,
}

/// `peer add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerAdd {
    /// Its name here.
    pub name: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// Where to reach it.
    pub address: Option<String>,
}

/// A caller that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StrangerStatus {
    /// The id it showed, hexadecimal. Nothing proves that it holds the key of it.
    pub id: String,
    /// The IP address it called from.
    pub from: String,
    /// How often.
    pub calls: u64,
    /// When it called last.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// What a person may do about it.
    pub advice: String,
}
