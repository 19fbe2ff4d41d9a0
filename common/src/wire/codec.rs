//! Messages to bytes and back.
//!
//! In: a [`Message`], or bytes from a peer that may be broken or hostile. Out: one envelope, or a message that was
//! whole. The envelope is the same in every version, so that two builds that share no version can still tell each
//! other so. All numbers are little-endian:
//!
//! ```text
//!  0       4        8         12     14     16      20
//!  ┌───────┬────────┬─────────┬──────┬──────┬───────┬──────────────┐
//!  │ TMKC  │ length │ version │ kind │ zero │ crc32c│ body (rkyv)  │
//!  └───────┴────────┴─────────┴──────┴──────┴───────┴──────────────┘
//!            of body                            of bytes 0..16 and the body
//! ```
//!
//! Each kind has its own body, so adding a kind never changes the bytes of another. The checksum is verified before
//! rkyv looks at a body, and rkyv validates before it gives access. Nothing is allocated for a length before the bytes
//! are there, and no more than [`CONTROL_MESSAGE_BYTES_MAX`] ever.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use super::message::{
    DirtyRun, Hello, Message, ON_FULL_VERSION, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Parted, Position, Refused,
    Return, Suspended, TakeOver, Verify, VolumeSpec, Welcome,
};
use crate::history::History;
use crate::limits::{CONTROL_MESSAGE_BYTES_MAX, GENERATION_TOLD_MAX};

/// First bytes of every message.
pub const MAGIC: [u8; 4] = *b"TMKC";
/// Bytes of an envelope before its body.
pub const ENVELOPE_BYTES: usize = 20;
/// Version of the bodies with which versions are negotiated, and of the farewell: in every build, for ever.
const HANDSHAKE_VERSION: u32 = 1;
/// Bytes of what a peer says to people that are taken, at most: more than this product has to say.
const WORDS_BYTES_MAX: usize = 8 << 10;
/// Bytes of the envelope covered by the checksum.
const CHECKED_BYTES: usize = 16;

/// Why a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It would not be accepted at the other end.
    #[error("a {kind:?} message of {bytes} bytes exceeds the {CONTROL_MESSAGE_BYTES_MAX} a peer accepts")]
    TooLong {
        /// Its kind.
        kind: Kind,
        /// Its length, envelope included.
        bytes: usize,
    },
    /// rkyv could not lay it out.
    #[error("cannot lay out a {kind:?} message: {reason}")]
    Layout {
        /// Its kind.
        kind: Kind,
        /// What rkyv says.
        reason: String,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Something else, or a stream out of step.
    #[error("{found:02x?} where a message should begin")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// Longer than any message.
    #[error("a message of {bytes} bytes, more than the {CONTROL_MESSAGE_BYTES_MAX} allowed")]
    TooLong {
        /// Its length, envelope included.
        bytes: u64,
    },
    /// Damaged.
    #[error("a message of kind {kind} with checksum {found:08x} where its content has {computed:08x}")]
    Checksum {
        /// Its kind, if that is not what is damaged.
        kind: u16,
        /// What it says.
        found: u32,
        /// What its bytes have.
        computed: u32,
    },
    /// Whole, of a version this build does not speak.
    #[error(
        "a message of protocol version {found}, and this build speaks {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}: \
         upgrade the older appliance"
    )]
    Version {
        /// The version of its body.
        found: u32,
    },
    /// Whole, of a kind this version does not have.
    #[error("a message of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u16,
    },
    /// Whole, and its body is not one of its kind.
    #[error("a {kind:?} message that makes no sense: {reason}")]
    Body {
        /// The kind.
        kind: Kind,
        /// What rkyv says.
        reason: String,
    },
}

/// Kinds of messages, as numbered on the wire. A number is never used for another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`Message::Hello`].
    Hello = 1,
    /// [`Message::Welcome`].
    Welcome = 2,
    /// [`Message::Refused`].
    Refused = 3,
    /// [`Message::Heartbeat`].
    Heartbeat = 4,
    /// [`Message::Ack`].
    Ack = 5,
    /// [`Message::Volumes`].
    Volumes = 6,
    /// [`Message::Goodbye`].
    Goodbye = 7,
    /// [`Message::Return`].
    Return = 8,
    /// [`Message::Parted`].
    Parted = 9,
    /// [`Message::Dirty`].
    Dirty = 10,
    /// [`Message::TakeOver`].
    TakeOver = 11,
    /// [`Message::Agreed`].
    Agreed = 12,
    /// [`Message::Verify`].
    Verify = 13,
    /// [`Message::Held`].
    Held = 14,
    /// [`Message::Ask`].
    Ask = 15,
    /// [`Message::Digests`].
    Digests = 16,
    /// [`Message::History`].
    History = 17,
    /// [`Message::Trouble`].
    Trouble = 18,
    /// [`Message::Suspended`].
    Suspended = 19,
    /// [`Message::OnFull`].
    OnFull = 20,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Heartbeat,
        Self::Ack,
        Self::Volumes,
        Self::Goodbye,
        Self::Return,
        Self::Parted,
        Self::Dirty,
        Self::TakeOver,
        Self::Agreed,
        Self::Verify,
        Self::Held,
        Self::Ask,
        Self::Digests,
        Self::History,
        Self::Trouble,
        Self::Suspended,
        Self::OnFull,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The version in which this build writes its body: the one that brought it, for whoever speaks no newer one.
    const fn version(self) -> u32 {
        match self {
            Self::Hello
            | Self::Welcome
            | Self::Refused
            | Self::Goodbye
            | Self::Return
            | Self::TakeOver
            | Self::Verify
            | Self::Suspended => HANDSHAKE_VERSION,
            Self::Heartbeat
            | Self::Ack
            | Self::Volumes
            | Self::Parted
            | Self::Dirty
            | Self::Agreed
            | Self::Held
            | Self::Ask
            | Self::Digests
            | Self::History
            | Self::Trouble => 1,
            Self::OnFull => ON_FULL_VERSION,
        }
    }

    fn of(number: u16) -> Result<Self, DecodeError> {
        Self::ALL.into_iter().find(|kind| kind.number() == number).ok_or(DecodeError::Kind { kind: number })
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct HeartbeatBody {
    number: u64,
    as_of_ms: i64,
    captured_seq: u64,
    marker: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct AskBody {
    volume: u32,
    offset: u64,
    regions: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct DirtyBody {
    runs: Vec<DirtyRun>,
    whole: bool,
    last: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct AckBody {
    position: Position,
    heartbeat: u64,
    good_as_of_ms: i64,
    journal_free_bytes: u64,
}

/// One message as it goes on the wire.
///
/// # Errors
/// [`EncodeError`] when it is longer than a peer accepts.
pub fn encode(message: &Message) -> Result<Bytes, EncodeError> {
    match message {
        Message::Hello(body) => seal(Kind::Hello, rkyv::to_bytes(body)),
        Message::Welcome(body) => seal(Kind::Welcome, rkyv::to_bytes(body)),
        Message::Refused(body) => seal(Kind::Refused, rkyv::to_bytes(body)),
        &Message::Heartbeat { number, as_of_ms, captured_seq, marker } => {
            seal(Kind::Heartbeat, rkyv::to_bytes(&HeartbeatBody { number, as_of_ms, captured_seq, marker }))
        }
        &Message::Ack { position, heartbeat, good_as_of_ms, journal_free_bytes } => {
            seal(Kind::Ack, rkyv::to_bytes(&AckBody { position, heartbeat, good_as_of_ms, journal_free_bytes }))
        }
        Message::Volumes { volumes } => seal(Kind::Volumes, rkyv::to_bytes(volumes)),
        Message::Goodbye { message } => seal(Kind::Goodbye, rkyv::to_bytes(message)),
        Message::Return(body) => seal(Kind::Return, rkyv::to_bytes(body)),
        Message::Parted(body) => seal(Kind::Parted, rkyv::to_bytes(body)),
        Message::Dirty { runs, whole, last } => {
            let body = DirtyBody { runs: runs.clone(), whole: *whole, last: *last };
            seal(Kind::Dirty, rkyv::to_bytes(&body))
        }
        Message::TakeOver(body) => seal(Kind::TakeOver, rkyv::to_bytes(body)),
        Message::Verify(body) => seal(Kind::Verify, rkyv::to_bytes(body)),
        Message::Held { marker } => seal(Kind::Held, rkyv::to_bytes(marker)),
        &Message::Ask { volume, offset, regions } => {
            seal(Kind::Ask, rkyv::to_bytes(&AskBody { volume, offset, regions }))
        }
        Message::Digests { digests } => seal(Kind::Digests, rkyv::to_bytes(digests)),
        Message::History(history) => seal(Kind::History, rkyv::to_bytes(history)),
        Message::Trouble(what) => seal(Kind::Trouble, rkyv::to_bytes(what)),
        Message::Suspended(body) => seal(Kind::Suspended, rkyv::to_bytes(body)),
        Message::OnFull { throttles } => seal(Kind::OnFull, rkyv::to_bytes(throttles)),
        Message::Agreed { generation } => seal(Kind::Agreed, rkyv::to_bytes(generation)),
    }
}

fn seal(kind: Kind, body: Result<rkyv::util::AlignedVec, rancor::Error>) -> Result<Bytes, EncodeError> {
    let body = body.map_err(|error| EncodeError::Layout { kind, reason: error.to_string() })?;
    let bytes = ENVELOPE_BYTES.saturating_add(body.len());
    let length = u32::try_from(body.len()).ok().filter(|_| bytes <= CONTROL_MESSAGE_BYTES_MAX);
    let length = length.ok_or(EncodeError::TooLong { kind, bytes })?;
    let mut sealed = BytesMut::with_capacity(bytes);
    sealed.put_slice(&MAGIC);
    sealed.put_u32_le(length);
    sealed.put_u32_le(kind.version());
    sealed.put_u16_le(kind.number());
    sealed.put_u16_le(0);
    let check = checksum(&sealed, &body);
    sealed.put_u32_le(check);
    sealed.put_slice(&body);
    Ok(sealed.freeze())
}

/// Takes the first message off the buffer when all of it is there; `None` when it is not yet. The buffer never needs
/// to hold more than [`CONTROL_MESSAGE_BYTES_MAX`].
///
/// # Errors
/// [`DecodeError`]; nothing that follows in the stream can be trusted then.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
    let Some(&envelope) = buffer.first_chunk::<ENVELOPE_BYTES>() else {
        return Ok(None);
    };
    let envelope = Envelope::read(&envelope)?;
    let bytes = ENVELOPE_BYTES + envelope.body_bytes;
    if buffer.len() < bytes {
        return Ok(None);
    }
    let whole = buffer.split_to(bytes);
    let (head, body) = whole.split_at(ENVELOPE_BYTES);
    let computed = checksum(head.get(..CHECKED_BYTES).unwrap_or_default(), body);
    if computed != envelope.check {
        return Err(DecodeError::Checksum { kind: envelope.kind, found: envelope.check, computed });
    }
    let spoken = (PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&envelope.version);
    if !spoken && envelope.version != HANDSHAKE_VERSION {
        return Err(DecodeError::Version { found: envelope.version });
    }
    open(Kind::of(envelope.kind)?, body).map(Some)
}

/// An envelope whose magic and length are good.
struct Envelope {
    body_bytes: usize,
    version: u32,
    kind: u16,
    check: u32,
}

impl Envelope {
    fn read(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self, DecodeError> {
        let [m0, m1, m2, m3, l0, l1, l2, l3, v0, v1, v2, v3, k0, k1, _, _, c0, c1, c2, c3] = *bytes;
        let found = [m0, m1, m2, m3];
        if found != MAGIC {
            return Err(DecodeError::Magic { found });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let fits = usize::try_from(length).ok().filter(|length| *length <= CONTROL_MESSAGE_BYTES_MAX - ENVELOPE_BYTES);
        let body_bytes = fits.ok_or(DecodeError::TooLong { bytes: u64::from(length) + ENVELOPE_BYTES as u64 })?;
        Ok(Self {
            body_bytes,
            version: u32::from_le_bytes([v0, v1, v2, v3]),
            kind: u16::from_le_bytes([k0, k1]),
            check: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }
}

fn open(kind: Kind, body: &[u8]) -> Result<Message, DecodeError> {
    let opened = match kind {
        Kind::Hello => rkyv::from_bytes::<Hello, rancor::Error>(body).map(Message::Hello),
        Kind::Welcome => rkyv::from_bytes::<Welcome, rancor::Error>(body).map(Message::Welcome),
        Kind::Refused => rkyv::from_bytes::<Refused, rancor::Error>(body).map(Message::Refused),
        Kind::Heartbeat => rkyv::from_bytes::<HeartbeatBody, rancor::Error>(body).map(
            |HeartbeatBody { number, as_of_ms, captured_seq, marker }| Message::Heartbeat {
                number,
                as_of_ms,
                captured_seq,
                marker,
            },
        ),
        Kind::Ack => rkyv::from_bytes::<AckBody, rancor::Error>(body).map(
            |AckBody { position, heartbeat, good_as_of_ms, journal_free_bytes }| Message::Ack {
                position,
                heartbeat,
                good_as_of_ms,
                journal_free_bytes,
            },
        ),
        Kind::Volumes => {
            rkyv::from_bytes::<Vec<VolumeSpec>, rancor::Error>(body).map(|volumes| Message::Volumes { volumes })
        }
        Kind::Goodbye => rkyv::from_bytes::<String, rancor::Error>(body).map(|message| Message::Goodbye { message }),
        Kind::Return => rkyv::from_bytes::<Return, rancor::Error>(body).map(Message::Return),
        Kind::Parted => rkyv::from_bytes::<Parted, rancor::Error>(body).map(Message::Parted),
        Kind::Dirty => rkyv::from_bytes::<DirtyBody, rancor::Error>(body)
            .map(|DirtyBody { runs, whole, last }| Message::Dirty { runs, whole, last }),
        Kind::TakeOver => rkyv::from_bytes::<TakeOver, rancor::Error>(body).map(Message::TakeOver),
        Kind::Verify => rkyv::from_bytes::<Verify, rancor::Error>(body).map(Message::Verify),
        Kind::Held => rkyv::from_bytes::<u64, rancor::Error>(body).map(|marker| Message::Held { marker }),
        Kind::Ask => rkyv::from_bytes::<AskBody, rancor::Error>(body)
            .map(|AskBody { volume, offset, regions }| Message::Ask { volume, offset, regions }),
        Kind::Digests => {
            rkyv::from_bytes::<Vec<[u8; 16]>, rancor::Error>(body).map(|digests| Message::Digests { digests })
        }
        Kind::History => rkyv::from_bytes::<History, rancor::Error>(body).map(Message::History),
        Kind::Trouble => rkyv::from_bytes::<String, rancor::Error>(body).map(Message::Trouble),
        Kind::Suspended => rkyv::from_bytes::<Suspended, rancor::Error>(body).map(Message::Suspended),
        Kind::OnFull => rkyv::from_bytes::<bool, rancor::Error>(body).map(|throttles| Message::OnFull { throttles }),
        Kind::Agreed => rkyv::from_bytes::<u64, rancor::Error>(body).map(|generation| Message::Agreed { generation }),
    };
    let message = opened.map_err(|error| DecodeError::Body { kind, reason: error.to_string() })?;
    let generation = generation_of(&message);
    if generation > GENERATION_TOLD_MAX {
        let reason = format!("generation {generation}: generations count from 1 to {GENERATION_TOLD_MAX}");
        return Err(DecodeError::Body { kind, reason });
    }
    Ok(shortened(message))
}

/// What it says to people is kept in the catalogue, logged and shown, each time it is another.
fn shortened(mut message: Message) -> Message {
    match &mut message {
        Message::Refused(Refused { message: words, .. })
        | Message::Suspended(Suspended { message: words, .. })
        | Message::Goodbye { message: words }
        | Message::Trouble(words) => {
            words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
            words.shrink_to_fit();
        }
        _ => {}
    }
    message
}

/// The generation that a message tells: who hears it may take the next one. Of a [`Hello`] more than that is checked.
const fn generation_of(message: &Message) -> u64 {
    match message {
        Message::Welcome(Welcome { generation, .. })
        | Message::Refused(Refused { generation, .. })
        | Message::Return(Return { generation, .. })
        | Message::Parted(Parted { generation, .. })
        | Message::TakeOver(TakeOver { generation, .. })
        | Message::Verify(Verify { generation, .. })
        | Message::Suspended(Suspended { generation, .. })
        | Message::Agreed { generation } => *generation,
        _ => 0,
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(body);
    // A 32-bit checksum, widened by the crate for its 64-bit ones.
    u32::try_from(digest.finalize()).unwrap_or_default()
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
