//! The messages of a pair's control stream. Data streams carry frames as they lie in the journal.
//!
//! A message is never changed once released: a new field is a new version (`PROTOCOL_VERSION`), with its reason in
//! `docs/PROTOCOL.md`.
#![allow(missing_docs, reason = "rkyv's derive makes undocumented mirrors of enum fields")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::history::History;

/// Spoken by this build. 1: first version. 2: [`Message::OnFull`].
pub const PROTOCOL_VERSION: u32 = 2;
/// Oldest version this build still speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;
/// The first with [`Message::OnFull`]: a side of an older one ends the conversation by it.
pub const ON_FULL_VERSION: u32 = 2;

/// A volume as the primary knows it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its index in the group's journal.
    pub index: u32,
    /// Its name, the same on both sides.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// The primary's first message: which pair this connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol version the sender speaks.
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    pub version_max: u32,
    /// The sender's name, for people.
    pub appliance: String,
    /// The group.
    pub group: [u8; 16],
    /// The group's name.
    pub group_name: String,
    /// Which member of a group across appliances the sender is; 0 and 1 for a group on one appliance.
    pub member: u32,
    /// Members of the group.
    pub members: u32,
    /// The sender's generation.
    pub generation: u64,
    /// `true`: the operator asked for this pair just now; the group and its copy volumes are made when they are not there.
    pub create: bool,
    /// The group's volumes.
    pub volumes: Vec<VolumeSpec>,
    /// The interval between cuts, milliseconds.
    pub interval_ms: u64,
    /// The first sequence number of the sender's generation: where its history leaves the one before.
    pub generation_start_seq: u64,
}

/// How far a secondary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct Position {
    /// All frames up to this sequence number are durable here.
    pub durable_seq: u64,
    /// Newest marker whose frames are all durable here.
    pub received_marker: u64,
    /// Newest marker that may be applied.
    pub permitted_marker: u64,
    /// Boundary sequence of `permitted_marker`.
    pub permitted_seq: u64,
    /// Newest marker that is applied.
    pub applied_marker: u64,
    /// The differential copy under way, 0 for none.
    pub copy: u64,
    /// Regions of that copy durable here: those before (volume index, offset).
    pub copy_volume: u32,
    /// See `copy_volume`.
    pub copy_offset: u64,
}

/// The secondary's answer to [`Hello`]: come in.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak from here on.
    pub version: u32,
    /// The secondary's name, for people.
    pub appliance: String,
    /// `false`: it knows nothing of the group yet and needs an initial copy.
    pub has_history: bool,
    /// The generation of what it holds.
    pub generation: u64,
    /// From where to go on.
    pub position: Position,
    /// The chain (see `record::header`) after the last frame it holds: a primary with another chain there has another
    /// history.
    pub chain: [u8; 16],
    /// Bytes its journal can still take. 0: what came last found no room, and none comes back before more is permitted.
    pub journal_free_bytes: u64,
    /// Bytes its journal may hold.
    pub journal_capacity_bytes: u64,
}

/// Why a secondary does not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Refusal {
    /// No common protocol version.
    Version,
    /// The sender's generation is lower: it is fenced.
    Fenced,
    /// The group, or one of its volume names, is used for something else there.
    Conflict,
    /// It does not know the group and the operator did not ask for a pair.
    UnknownGroup,
    /// It cannot hold the copies: sizes, space, limits.
    Resources,
    /// The pair was suspended or deleted there.
    Suspended,
    /// Something in the message makes no sense.
    Malformed,
    /// It is stopping or not ready: try again.
    Unready,
    /// Its journal of the copy is damaged: a first copy, ordered by `create`, mends it.
    Damaged,
}

/// The secondary's other answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Refused {
    /// What kind of refusal.
    pub refusal: Refusal,
    /// What happened and what to do, for people.
    pub message: String,
    /// The secondary's generation for the group, 0 when it has none.
    pub generation: u64,
}

/// The first message of an appliance that was primary until another took over: it wants to be the copy.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Return {
    /// Oldest protocol version the sender speaks.
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    pub version_max: u32,
    /// The group.
    pub group: [u8; 16],
    /// The generation in which the sender was primary.
    pub generation: u64,
}

/// The first message of a primary that hands its group over.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TakeOver {
    /// Oldest protocol version the sender speaks.
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    pub version_max: u32,
    /// The group.
    pub group: [u8; 16],
    /// The sender's generation.
    pub generation: u64,
    /// The marker at which nothing more was written.
    pub marker: u64,
}

/// The answer to [`Return`]: where the new primary's history left the old one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Parted {
    /// The new primary's generation.
    pub generation: u64,
    /// The last marker both have.
    pub marker: u64,
    /// The last sequence number both have.
    pub seq: u64,
    /// The chain there.
    pub chain: [u8; 16],
}

/// The first message of a primary that wants to compare.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Verify {
    /// Oldest protocol version the sender speaks.
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    pub version_max: u32,
    /// The group.
    pub group: [u8; 16],
    /// The sender's generation.
    pub generation: u64,
}

/// The first message of a primary whose operator has suspended the pair, now and then while that lasts.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Suspended {
    /// Oldest protocol version the sender speaks.
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    pub version_max: u32,
    /// The group.
    pub group: [u8; 16],
    /// The sender's generation.
    pub generation: u64,
    /// What happened and what to do, for people.
    pub message: String,
}

/// A run of regions that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DirtyRun {
    /// Index of the volume.
    pub volume: u32,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Everything that crosses a control stream. After [`Hello`] and its answer, the primary sends `Heartbeat`s and
/// `Volumes`, the secondary `Ack`s; either may say `Goodbye`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Message {
    /// Primary: opens the conversation.
    Hello(Hello),
    /// Secondary: come in.
    Welcome(Welcome),
    /// Secondary: not like this.
    Refused(Refused),
    /// Primary, at least once a second: "all writes answered before `as_of` are at or below `captured_seq`".
    Heartbeat {
        /// Counts heartbeats of this connection.
        number: u64,
        /// Wall clock, milliseconds since 1970.
        as_of_ms: i64,
        /// Newest sequence number given out at `as_of_ms`.
        captured_seq: u64,
        /// Newest marker.
        marker: u64,
    },
    /// Secondary, cumulative, after every sync and as an echo to each heartbeat.
    Ack {
        /// How far it is.
        position: Position,
        /// Newest heartbeat seen.
        heartbeat: u64,
        /// The copy is good as of this wall clock, milliseconds since 1970; 0 when there is no usable copy.
        good_as_of_ms: i64,
        /// Bytes its journal can still take.
        journal_free_bytes: u64,
    },
    /// Reserved, sent by nobody: that a group's volumes have changed is told by a record in the journal, in its order.
    Volumes {
        /// All volumes now.
        volumes: Vec<VolumeSpec>,
    },
    /// An old primary: opens a conversation about its return.
    Return(Return),
    /// Answers [`Message::Return`].
    Parted(Parted),
    /// An old primary: what it wrote after they parted, in as many messages as it takes.
    Dirty {
        /// Regions.
        runs: Vec<DirtyRun>,
        /// All regions: it does not know where they parted.
        whole: bool,
        /// Nothing follows.
        last: bool,
    },
    /// A primary: opens a conversation about a planned change of roles.
    TakeOver(TakeOver),
    /// A primary: opens a conversation about what the copy holds; again: at a newer marker.
    Verify(Verify),
    /// Answers [`Message::Verify`]: the copy volumes are the image at this marker, and stay it for as long as the conversation
    /// lasts.
    Held {
        /// The marker.
        marker: u64,
    },
    /// A primary: the digests of the regions from here on.
    Ask {
        /// Index of the volume.
        volume: u32,
        /// Where the first region begins.
        offset: u64,
        /// How many.
        regions: u32,
    },
    /// Answers [`Message::Ask`]; fewer, where the volume ends.
    Digests {
        /// One for each region.
        digests: Vec<[u8; 16]>,
    },
    /// It is done: durably, with this generation.
    Agreed {
        /// The new primary's generation.
        generation: u64,
    },
    /// A primary: what the copy is to keep behind its newest marker; first, and when that changes.
    History(History),
    /// A primary: what the group does when its journal is full, for whoever takes over; once it is not what a copy begins with.
    OnFull {
        /// Hosts are slowed; else the copies fall back to a bitmap.
        throttles: bool,
    },
    /// A secondary: what a person must look at over there although everything arrives; empty: it is over.
    Trouble(String),
    /// A primary: the pair is suspended, and nothing follows; answered by [`Message::Agreed`] where the copy is one still.
    Suspended(Suspended),
    /// Either: the reason for closing, for people.
    Goodbye {
        /// What happened and what to do.
        message: String,
    },
}
