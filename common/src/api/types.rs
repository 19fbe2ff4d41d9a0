//! The JSON that outside scripts rely on (`status --json` and the answers of commands). Fields are added, never changed.
//!
//! This file has the whole of `status --json`; the parts of it, and what commands ask and answer, are by subject.

mod appliance;
mod drill;
mod error;
mod group;
mod image;
mod lost;
mod pair;
mod roles;
mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::appliance::{Addresses, ApplianceStatus, PeerAdd, PeerStatus, StrangerStatus};
pub use self::drill::{DrillReport, DrillResult, DrillRun, DrillSchedule, GroupDrills};
pub use self::error::{ErrorBody, ErrorKind};
pub use self::group::{
    BufferStatus, Cut, FreezeStatus, GroupCreate, GroupSet, GroupStatus, GroupVolume, HistoryStatus, JournalStatus,
    MarkerInfo, MarkerStatus, OnFull, Positions, Role, Wait, WaitFor,
};
pub use self::image::{CloneCreate, GroupMoment, ImageKind, ImageState, ImageStatus, SideStoreStatus, T0Create};
pub use self::lost::{LostExport, LostExportStatus, LostRange, LostTail, LostVolume};
pub use self::pair::{CopyProgress, PairState, PairStatus, PairTarget};
pub use self::roles::{Failover, FailoverReport, Rejoin, RejoinReport, Switchover, SwitchoverReport};
pub use self::volume::{VolumeCreate, VolumeOffer, VolumeResize, VolumeStatus};
use super::backup::types::{BackupInfo, RestoreStatus};
use super::local_pair::types::LocalPairStatus;
pub use super::verify::{
    ComparisonState, ComparisonStatus, VerifyAction, VerifyDifference, VerifyReport, VerifyRequest,
};
pub use crate::watchdog::{Moving, Standing};

/// `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Who this is.
    pub appliance: ApplianceStatus,
    /// Where it listens.
    pub addresses: Addresses,
    /// All volumes.
    pub volumes: Vec<VolumeStatus>,
    /// All groups.
    pub groups: Vec<GroupStatus>,
    /// Appliances this one trusts.
    pub peers: Vec<PeerStatus>,
    /// T0 copies and clones: who holds which moment, since when, and what that takes.
    #[serde(default)]
    pub images: Vec<ImageStatus>,
    /// What they take together.
    #[serde(default)]
    pub side_store: SideStoreStatus,
    /// Memory for knowing where that lies, of all images, backups and splits.
    #[serde(default)]
    pub image_memory: SideStoreStatus,
    /// What hosts have written over all clones.
    #[serde(default)]
    pub clone_store: SideStoreStatus,
    /// What drills have proven, by group.
    #[serde(default)]
    pub drills: Vec<GroupDrills>,
    /// Sources and targets on this appliance, by target.
    #[serde(default)]
    pub local_pairs: Vec<LocalPairStatus>,
    /// Backups by their state.
    #[serde(default)]
    pub backups: BTreeMap<String, u64>,
    /// Those that wait or copy now, by name; `place` is left to `backup show`.
    #[serde(default)]
    pub backups_under_way: Vec<BackupInfo>,
    /// Restores onto volumes that are under way.
    #[serde(default)]
    pub restores: Vec<RestoreStatus>,
    /// Exports of what an old primary had alone that are under way, by their file.
    #[serde(default)]
    pub lost_exports: Vec<LostExportStatus>,
    /// Who called within the last minute with an id that is not trusted here, and was refused.
    #[serde(default)]
    pub strangers: Vec<StrangerStatus>,
}
