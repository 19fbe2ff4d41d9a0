//! The JSON that outside scripts rely on (`status --json` and the answers of commands). Fields are added, never changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backup::types::{BackupInfo, RestoreStatus};
use super::local_pair::types::LocalPairStatus;
pub use super::verify::{
    ComparisonState, ComparisonStatus, VerifyAction, VerifyDifference, VerifyReport, VerifyRequest,
};
use crate::history::History;
use crate::lag::Lag;
use crate::lease::JournalHeld;
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
    /// Who called within the last minute with an id that is not trusted here, and was refused.
    #[serde(default)]
    pub strangers: Vec<StrangerStatus>,
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

/// What drills have proven of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupDrills {
    /// The group.
    pub group: String,
    /// The newest marker of which a drill has proven that it can be recovered.
    pub proven_marker: Option<u64>,
    /// When that marker was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub proven_time: Option<Timestamp>,
    /// Seconds since then.
    pub proven_age_seconds: Option<f64>,
    /// Number of the last drill that ended.
    pub last: Option<u64>,
    /// Whether it passed.
    pub last_passed: Option<bool>,
    /// Its time to recovery, seconds.
    pub last_rto_seconds: Option<f64>,
    /// A drill is under way.
    pub running: bool,
    /// Seconds between two scheduled drills.
    pub every_seconds: Option<f64>,
}

/// `drill run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillRun {
    /// The marker; without it, the newest.
    pub marker: Option<u64>,
    /// A command for the shell; without it, the exports are only opened and read.
    pub check: Option<String>,
    /// Milliseconds the check may take.
    pub timeout_ms: u64,
    /// Mount the volumes' file systems for the check.
    #[serde(default)]
    pub mount: bool,
}

/// `drill schedule`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillSchedule {
    /// Milliseconds between two begins.
    pub every_ms: u64,
    /// As for `drill run`.
    pub check: Option<String>,
    /// As for `drill run`.
    pub timeout_ms: u64,
    /// As for `drill run`.
    #[serde(default)]
    pub mount: bool,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrillResult {
    /// It is under way.
    Running,
    /// The image could be used.
    Passed,
    /// It could not; the reason says why.
    Failed,
}

/// A rehearsed failover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillReport {
    /// Its number, for `drill show` and `drill report`.
    pub id: u64,
    /// The name of its clone.
    pub name: String,
    /// The group.
    pub group: String,
    /// The marker rehearsed.
    pub marker: u64,
    /// When that was cut.
    #[schema(value_type = String, format = DateTime)]
    pub marker_time: Timestamp,
    /// When the drill began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// Seconds until it ended; of one under way, so far.
    pub took_seconds: f64,
    /// How it ended.
    pub result: DrillResult,
    /// Why it failed.
    pub reason: Option<String>,
    /// Seconds from the order to the first answered read of every export.
    pub rto_seconds: Option<f64>,
    /// What a disaster at its begin would have lost, seconds.
    pub rpo_seconds: Option<f64>,
    /// The check.
    pub check: Option<String>,
    /// What the check ended with.
    pub check_exit_code: Option<i32>,
    /// What the check said: the begin and the end of it when it said much.
    pub output: String,
    /// The exports rehearsed on; they are gone when it has ended.
    pub exports: Vec<String>,
    /// Whether it was scheduled.
    pub scheduled: bool,
    /// How old the copy was before it began: pairs of seconds before and seconds old.
    pub lag: Vec<(f64, f64)>,
}

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

/// What an appliance is for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Hosts write here.
    Primary,
    /// The copy is here.
    Secondary,
    /// Was primary, met a higher generation: serves nothing.
    Fenced,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// What this appliance is for it.
    pub role: Role,
    /// Counts role changes.
    pub generation: u64,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// The newest marker (on a secondary: the newest received).
    pub marker: MarkerStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The write buffer.
    pub buffer: BufferStatus,
    /// Freezes since the service started.
    pub freeze: FreezeStatus,
    /// Positions of the write path.
    pub positions: Positions,
    /// Milliseconds between cuts.
    pub interval_ms: u64,
    /// What its copies keep behind their newest marker, when that was asked for.
    #[serde(default)]
    pub history: Option<HistoryStatus>,
    /// Set when something needs a person: what happened and what to do.
    pub problem: Option<String>,
    /// For how long each of its positions has stood though there was something to do.
    #[serde(default)]
    pub standing: Vec<Standing>,
    /// Its pairs; on a secondary one, which names the primary.
    pub pairs: Vec<PairStatus>,
}

/// Positions of the write path, sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Positions {
    /// Newest write given a number.
    pub captured_seq: u64,
    /// Durable in the journal here.
    pub journaled_seq: u64,
    /// Written back to the volumes here.
    pub applied_seq: u64,
}

/// The newest marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkerStatus {
    /// Its number, 0 before the first.
    pub last: u64,
    /// When it was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
}

/// A journal's fill.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct JournalStatus {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// On a primary: seconds until it is full, if it goes on as in the last minute; none when it does not fill.
    pub full_in_seconds: Option<f64>,
    /// On a primary: what every write of a host is held back because the journal fills, milliseconds.
    pub throttle_ms: f64,
}

/// A write buffer's fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct BufferStatus {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
}

/// The freeze histogram in short.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct FreezeStatus {
    /// Freezes.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Longest, microseconds.
    pub max_us: f64,
    /// Markers given up because the freeze limit was reached.
    pub abandoned: u64,
}

/// The states of DESIGN section 6.
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
    /// Bytes captured and not yet durable on the secondary.
    pub lag_bytes: u64,
    /// Where that waits, and for what.
    #[serde(default)]
    pub lag: Lag,
    /// What of the journal here is kept for it, while it does not follow.
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

/// One marker held (`tidemark markers`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkerInfo {
    /// Its number.
    pub number: u64,
    /// The newest sequence number inside it.
    pub boundary_seq: u64,
    /// When it was cut.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The operator's text.
    pub tag: Option<String>,
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

/// `on-full` of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// Keep hosts at full speed: fold, then the differential bitmap.
    #[default]
    Fold,
    /// Slow hosts gently.
    Throttle,
}

/// `group create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupCreate {
    /// Its name.
    pub name: String,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// Milliseconds between cuts.
    pub interval_ms: u64,
    /// What to do when the journal is full.
    #[serde(default)]
    pub on_full: OnFull,
    /// What its copies are to keep behind their newest marker.
    #[serde(default)]
    pub history: History,
}

/// `group set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSet {
    /// What its copies are to keep behind their newest marker.
    pub history: History,
}

/// What a copy keeps behind its newest marker.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryStatus {
    /// What was asked for.
    pub asked: History,
    /// The oldest marker that can be cloned or failed over to; none on a primary, and while there is no usable copy.
    pub oldest_marker: Option<u64>,
    /// When that was cut.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_time: Option<Timestamp>,
    /// Seconds from then until the newest marker.
    pub seconds: f64,
    /// Bytes of the journal that are kept for it.
    pub bytes: u64,
    /// It is shorter than asked for, because the journal has no room for more.
    pub shortened: bool,
}

/// `group add`, `group remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupVolume {
    /// The volume's name.
    pub volume: String,
}

/// `volume offer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeOffer {
    /// The group whose copy may be made on the volume; none: no longer.
    pub group: Option<String>,
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

/// `pair create`, `suspend`, `resume`, `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairTarget {
    /// The peer's name.
    pub to: String,
}

/// `cut`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Cut {
    /// Text kept with the marker, at most 200 bytes without control characters.
    pub tag: Option<String>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    /// The secondary has its frames durably.
    Received,
    /// The copy volumes hold it.
    #[default]
    Applied,
}

/// `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// The peer's name; without it, all pairs (on a secondary: this side itself).
    pub to: Option<String>,
    /// The marker; without it, the newest now.
    pub marker: Option<u64>,
    /// What for.
    #[serde(default, rename = "for")]
    pub wait_for: WaitFor,
    /// Milliseconds to wait at most.
    pub timeout_ms: u64,
}

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
}

/// Writes of an old primary that never reached the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostTail {
    /// Its name, for `lost export` and `lost discard`.
    pub name: String,
    /// The generation in which they were written.
    pub generation: u64,
    /// The last marker both sides had.
    pub after_marker: u64,
    /// How many writes.
    pub writes: u64,
    /// Where they are kept.
    pub folder: String,
    /// What they wrote.
    pub volumes: Vec<LostVolume>,
    /// Why it cannot be read, when it cannot: what it holds is not known then, and nothing of it is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a lost tail wrote on one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostVolume {
    /// Its name, when the group still has it.
    pub name: Option<String>,
    /// Its index in the group's journal.
    pub index: u32,
    /// Bytes of all ranges.
    pub bytes: u64,
    /// The ranges, in order.
    pub ranges: Vec<LostRange>,
}

/// A range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostRange {
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// `lost export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostExport {
    /// The volume.
    pub volume: String,
    /// Absolute path of a file that is not there yet.
    pub to: String,
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

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What happened, where, and what to do.
    pub message: String,
    /// `refused`, `not-found`, `timeout`, `failed`.
    pub kind: ErrorKind,
}

/// Kinds of error answers; each has an HTTP status and an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request makes no sense (400, exit 1).
    Invalid,
    /// No such thing (404, exit 1).
    NotFound,
    /// Not in this state (409, exit 1).
    Refused,
    /// Time ran out (408, exit 4).
    Timeout,
    /// It was tried and failed (500, exit 1).
    Failed,
}
