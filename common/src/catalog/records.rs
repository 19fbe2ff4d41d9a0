//! The records, as they are archived. A field added or changed raises `CATALOG_FORMAT`; `ApplianceRecord` never changes,
//! so that every build can tell a newer catalogue.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

use super::image_records::{
    DrillRecord, ImagePartRecord, ImageRecord, LocalPairRecord, LocalPairStateRecord, ScheduleRecord,
};
use super::schema::Table;
use super::verify_record::VerifyRecord;
use crate::api::backup::types::{BackupState, WhileDifferential};
use crate::api::local_pair::types::LocalPairState;
use crate::api::types::{OnFull, PairState, Role};
use crate::history::History;
use crate::journal::Position;
use crate::wire::message::VolumeSpec;

/// What the catalogue is.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ApplianceRecord {
    /// Layout of all other records.
    pub format: u32,
    /// When it was made, nanoseconds since 1970.
    pub created_ns: i64,
}

/// A trusted appliance.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The name given here.
    pub name: String,
    /// Fingerprint of its certificate.
    pub id: [u8; 32],
    /// `HOST:PORT`, when known.
    pub address: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Absolute path of the file or device.
    pub backing: String,
    /// The file was made here, in DIR, and is deleted with the volume.
    pub owned: bool,
    /// Name of the group it is in.
    pub group: Option<String>,
}

/// What this appliance is for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum RoleRecord {
    /// Hosts write here.
    Primary,
    /// The copy is here.
    Secondary,
    /// Was primary and met a higher generation, or has asked its copy to take over.
    Fenced {
        /// That generation; its own as long as nobody has told another one: then what was asked was not answered.
        by_generation: u64,
    },
}

/// What a group does when its journal is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum OnFullRecord {
    /// Fold, then the differential bitmap.
    Fold,
    /// Slow hosts gently.
    Throttle,
}

/// One volume of a group.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupVolume {
    /// Its index in the group's journal, given out once.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl GroupVolume {
    /// The members that a list of volumes names.
    #[must_use]
    pub fn members(volumes: &[VolumeSpec]) -> Vec<Self> {
        volumes.iter().map(|spec| Self { index: spec.index, name: spec.name.clone() }).collect()
    }
}

/// A consistency group.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its name.
    pub name: String,
    /// Its identity, the same on both sides.
    pub id: [u8; 16],
    /// What this appliance is for it.
    pub role: RoleRecord,
    /// Counts role changes.
    pub generation: u64,
    /// The sequence number after which this generation began.
    pub generation_start_seq: u64,
    /// Milliseconds between cuts.
    pub interval_ms: u64,
    /// What to do when the journal is full.
    pub on_full: OnFullRecord,
    /// The index the next volume gets.
    pub next_volume_index: u32,
    /// Its volumes.
    pub volumes: Vec<GroupVolume>,
    /// Its pairs.
    pub pairs: Vec<PairRecord>,
    /// On a secondary: the primary appliance.
    pub primary: Option<[u8; 32]>,
    /// On a secondary that was primary: its journal is still to be cut here, (segment, offset); at (0, 0), all of it is to go.
    pub cut: Option<(u64, u64)>,
    /// What a copy is to keep behind its newest marker.
    pub history: History,
}

impl GroupRecord {
    /// A group as it begins on its primary, without volumes and pairs.
    #[must_use]
    pub fn new(name: &str, id: [u8; 16]) -> Self {
        Self {
            name: name.into(),
            id,
            role: RoleRecord::Primary,
            generation: 1,
            generation_start_seq: 1,
            interval_ms: 1000,
            on_full: OnFullRecord::Fold,
            next_volume_index: 1,
            volumes: Vec::new(),
            pairs: Vec::new(),
            primary: None,
            cut: None,
            history: History::default(),
        }
    }

    /// An index that a volume of the group has had is never given to another: frames name volumes by it.
    pub fn note_indexes(&mut self, had: impl IntoIterator<Item = u32>) {
        let next = had.into_iter().map(|index| index.saturating_add(1)).max().unwrap_or(0);
        self.next_volume_index = self.next_volume_index.max(next);
    }

    /// Another side has taken over, or may have: nothing is served here, and that is how it stands with the pairs from now on.
    pub fn fence(&mut self, by_generation: u64, now_ns: i64) {
        if !matches!(self.role, RoleRecord::Fenced { .. }) {
            self.pairs.iter_mut().for_each(|pair| pair.since_ns = now_ns);
        }
        self.role = RoleRecord::Fenced { by_generation };
    }
}

/// From where on a copy keeps its history: its volumes hold nothing of what lies behind.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Segment of the place in the journal.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// The group's volumes from there on.
    pub volumes: Vec<GroupVolume>,
}

impl HistoryRecord {
    /// The place in the journal.
    #[must_use]
    pub const fn place(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }
}

/// The states of a pair, as in [`PairState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum PairStateRecord {
    /// The first copy is under way.
    InitialCopy,
    /// The copy follows.
    Paired,
    /// The copy is behind; the journal has what is missing.
    CatchingUp,
    /// Differences are in the bitmap.
    Differential,
    /// A differential copy is under way.
    Resync,
    /// By the operator.
    Suspended,
    /// The other side has taken over, or this one.
    FailedOver,
    /// This side met a higher generation.
    Fenced,
    /// Needs a person.
    Error,
}

/// A group's relation to one secondary.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PairRecord {
    /// Name of the peer.
    pub peer: String,
    /// Its state.
    pub state: PairStateRecord,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Since when, nanoseconds since 1970.
    pub since_ns: i64,
    /// The differential copy under way.
    pub copy: Option<CopyRecord>,
    /// On a side that took over: where its history left the other side's.
    pub parted: Option<PartedRecord>,
    /// Where the last copy that ended began, (segment, offset): a side that stands before it lacks what that copy brought, which
    /// is in no journal.
    pub floor: Option<(u64, u64)>,
    /// A copy whose regions up to a place, (number, volume, offset), are counted as arrived: the other side has that copy.
    pub counted: Option<(u64, u32, u64)>,
    /// On a side that returned: what it was before, and what its volumes are until the copy is complete.
    pub before: Option<BeforeRecord>,
}

impl PairRecord {
    /// A pair of which nothing is known yet.
    #[must_use]
    pub fn new(peer: &str, since_ns: i64) -> Self {
        Self {
            peer: peer.into(),
            state: PairStateRecord::InitialCopy,
            reason: None,
            since_ns,
            copy: None,
            parted: None,
            floor: None,
            counted: None,
            before: None,
        }
    }
}

/// What a side that returned as the copy was before: a primary, with writes that its new primary never had (decision 18).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BeforeRecord {
    /// Its generation then.
    pub generation: u64,
    /// The kept tail that has the rest of its journal.
    pub tail: String,
    /// Where the histories parted, with the place in the journal here.
    pub parted: PartedRecord,
    /// The number behind its last write.
    pub next_seq: u64,
    /// Its last marker.
    pub marker: u64,
    /// When that was cut, nanoseconds since 1970.
    pub marker_ns: i64,
    /// Its volumes.
    pub volumes: Vec<GroupVolume>,
}

/// Where two histories parted: the last marker both have, and the place behind it in the journal of who took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PartedRecord {
    /// The marker.
    pub marker: u64,
    /// Its boundary.
    pub seq: u64,
    /// The chain behind it.
    pub chain: [u8; 16],
    /// Segment of what follows it here.
    pub segment: u64,
    /// Offset of what follows it here.
    pub offset: u64,
}

impl PartedRecord {
    /// What follows it in the journal here.
    #[must_use]
    pub const fn place(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }
}

/// A differential copy under way.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CopyRecord {
    /// Its number: that of the marker it began at; 0 before it has begun.
    pub number: u64,
    /// The sequence number its frames go on from.
    pub start_seq: u64,
    /// The newest marker at the start.
    pub start_marker: u64,
    /// The chain at the start.
    pub start_chain: [u8; 16],
    /// Segment of the first frame after the start.
    pub start_segment: u64,
    /// Offset of the first frame after the start.
    pub start_offset: u64,
    /// There is no image to keep over there.
    pub direct: bool,
    /// The end marker, once it is cut.
    pub end_marker: Option<u64>,
    /// On the receiving side: regions before this volume index and offset are durable there.
    pub cursor_volume: u32,
    /// See `cursor_volume`.
    pub cursor_offset: u64,
    /// Bytes of regions before the cursor.
    pub done_bytes: u64,
    /// Bytes of regions in all.
    pub total_bytes: u64,
}

impl CopyRecord {
    /// Where the journal goes on from its begin.
    #[must_use]
    pub const fn start(&self) -> Position {
        Position { segment: self.start_segment, offset: self.start_offset }
    }

    /// A first copy that has not begun.
    #[must_use]
    pub const fn first(total_bytes: u64) -> Self {
        Self {
            number: 0,
            start_seq: 0,
            start_marker: 0,
            start_chain: [0; 16],
            start_segment: 0,
            start_offset: 0,
            direct: true,
            end_marker: None,
            cursor_volume: 0,
            cursor_offset: 0,
            done_bytes: 0,
            total_bytes,
        }
    }
}

/// How far a group's updater is: all before this place is in the volumes, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AppliedRecord {
    /// Segment of the next frame.
    pub segment: u64,
    /// Offset of the next frame.
    pub offset: u64,
    /// Newest sequence number applied.
    pub seq: u64,
    /// Newest marker applied.
    pub marker: u64,
}

impl AppliedRecord {
    /// Where the next frame is.
    #[must_use]
    pub const fn place(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }
}

/// Why a volume in no group is not like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum OfferWhy {
    /// An operator lets the copy of a group be made on it.
    Operator,
    /// It was the copy of a volume that left its group, and no host has opened it since: should that volume come back, it is the
    /// copy again.
    Left,
    /// The same, and there are images of it: nobody may write it before they are gone.
    Imaged,
}

/// A volume in no group that a copy may be made on, which overwrites it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct OfferRecord {
    /// The volume.
    pub volume: String,
    /// Name of the group whose copy may have it.
    pub group: String,
    /// Id of the group it left; nothing when an operator offered it.
    pub group_id: Option<[u8; 16]>,
    /// Why.
    pub why: OfferWhy,
}

/// Where the write buffer of a primary lies for as long as it may hold what was answered: from a start to the clean stop after it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RingRecord {
    /// Absolute path of its file.
    pub path: String,
    /// The boot of the machine in which it was made; empty when the system does not tell.
    pub boot: String,
}

/// A marker as the catalogue keeps it, for listing after its frames are trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct KeptMarkerRecord {
    /// Its number.
    pub number: u64,
    /// The newest sequence number inside it.
    pub boundary_seq: u64,
    /// Wall clock at the cut, nanoseconds since 1970.
    pub time_ns: i64,
    /// The operator's text.
    pub tag: Option<String>,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SetRecord {
    /// Its name.
    pub name: String,
    /// Its extents, as operators write them.
    pub extents: Vec<String>,
}

/// Where a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum BackupStateRecord {
    /// It begins at a time.
    Scheduled,
    /// For memory, or for somebody to read its stream.
    Waiting,
    /// It copies.
    Copying,
    /// It is complete.
    Done,
    /// It ended early.
    Failed,
    /// It was ended by the operator.
    Cancelled,
}

/// As in [`crate::api::backup::types::WhileDifferential`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum WhileDifferentialRecord {
    /// Copied to the target first.
    Copy,
    /// Waited for.
    Wait,
    /// Read from the source.
    Merge,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BackupRecord {
    /// Its name.
    pub name: String,
    /// Its sets with their extents, as they were when it was asked for.
    pub sets: Vec<SetRecord>,
    /// The order of its members, by name.
    pub order: String,
    /// Where it goes.
    pub to: String,
    /// When it begins, nanoseconds since 1970.
    pub at_ns: Option<i64>,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Only while hosts are quiet.
    pub when_idle: bool,
    /// What is done about what targets of local pairs still lack.
    pub while_differential: WhileDifferentialRecord,
    /// Where it is.
    pub state: BackupStateRecord,
    /// Why it is there.
    pub reason: Option<String>,
    /// When it was asked for.
    pub asked_ns: i64,
    /// When it began.
    pub began_ns: Option<i64>,
    /// When it ended.
    pub ended_ns: Option<i64>,
    /// As of when: group, marker, nanoseconds since 1970.
    pub moments: Vec<(String, u64, i64)>,
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A restore onto a volume that has begun and not ended: what the volume holds is neither what was there nor the backup.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// The volume.
    pub volume: String,
    /// Where the backup is.
    pub from: String,
    /// When it began, nanoseconds since 1970.
    pub began_ns: i64,
    /// What of the volume it is about, in order and apart: (first byte, bytes).
    pub ranges: Vec<(u64, u64)>,
}

/// A record that has its own table.
pub(super) trait Record: Sized {
    const TABLE: Table;

    /// The archived bytes; nothing when it is larger than an archive can be.
    fn encode(&self) -> Option<Vec<u8>>;

    /// The record of archived bytes; nothing when they make no sense.
    fn decode(payload: &[u8]) -> Option<Self>;
}

macro_rules! records {
    ($($record:ty => $table:ident),* $(,)?) => {
        $(impl Record for $record {
            const TABLE: Table = Table::$table;

            fn encode(&self) -> Option<Vec<u8>> {
                rkyv::to_bytes::<rkyv::rancor::Failure>(self).ok().map(|bytes| bytes.into_vec())
            }

            fn decode(payload: &[u8]) -> Option<Self> {
                rkyv::from_bytes::<Self, rkyv::rancor::Failure>(payload).ok()
            }
        })*

        /// Whether the payload of a record of this table makes sense.
        pub(super) fn is_readable(table: Table, payload: &[u8]) -> bool {
            match table {
                $(Table::$table => <$record>::decode(payload).is_some(),)*
                // The bytes of a bitmap are not ours to read.
                Table::Bitmap | Table::LocalBits => true,
            }
        }
    };
}
records! {
    ApplianceRecord => Appliance,
    AppliedRecord => Applied,
    DrillRecord => Drill,
    BackupRecord => Backup,
    GroupRecord => Group,
    HistoryRecord => History,
    ImagePartRecord => ImagePart,
    ImageRecord => Image,
    KeptMarkerRecord => Marker,
    LocalPairRecord => LocalPair,
    OfferRecord => Offer,
    PeerRecord => Peer,
    RestoreRecord => Restore,
    RingRecord => Ring,
    ScheduleRecord => Schedule,
    SetRecord => Set,
    VerifyRecord => Verify,
    VolumeRecord => Volume,
}

macro_rules! same_states {
    ($record:ident, $api:ident: $($state:ident),*) => {
        impl From<$api> for $record {
            fn from(state: $api) -> Self {
                match state {
                    $($api::$state => Self::$state),*
                }
            }
        }

        impl From<$record> for $api {
            fn from(state: $record) -> Self {
                match state {
                    $($record::$state => Self::$state),*
                }
            }
        }
    };
}
same_states!(PairStateRecord, PairState:
    InitialCopy, Paired, CatchingUp, Differential, Resync, Suspended, FailedOver, Fenced, Error);
same_states!(OnFullRecord, OnFull: Fold, Throttle);
same_states!(WhileDifferentialRecord, WhileDifferential: Copy, Wait, Merge);
same_states!(BackupStateRecord, BackupState: Scheduled, Waiting, Copying, Done, Failed, Cancelled);

impl From<LocalPairStateRecord> for LocalPairState {
    fn from(state: LocalPairStateRecord) -> Self {
        match state {
            LocalPairStateRecord::Copy => Self::Copy,
            LocalPairStateRecord::Pair => Self::Pair,
            LocalPairStateRecord::Split => Self::Split,
            LocalPairStateRecord::Resync => Self::Resync,
            LocalPairStateRecord::Reverse => Self::Reverse,
            LocalPairStateRecord::Error => Self::Error,
        }
    }
}

impl From<RoleRecord> for Role {
    fn from(role: RoleRecord) -> Self {
        match role {
            RoleRecord::Primary => Self::Primary,
            RoleRecord::Secondary => Self::Secondary,
            RoleRecord::Fenced { .. } => Self::Fenced,
        }
    }
}
