//! Whether two appliances can talk: versions, and whether a first message makes sense in itself.
//!
//! In: a peer's first message. Out: the version to speak, or the refusal to send or report. Pure: what the refusal
//! depends on beyond the message (generations, names in use, space) is decided by the secondary's group.

use std::collections::BTreeSet;

use super::message::{Hello, Message, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Refusal, Refused, VolumeSpec, Welcome};
use crate::ids::check_name;
use crate::limits::{GENERATION_TOLD_MAX, INTERVAL_MS, SECTOR_BYTES, VOLUME_BYTES_MAX, VOLUME_INDEX_MAX, VOLUMES_MAX};

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self { min: PROTOCOL_VERSION_MIN, max: PROTOCOL_VERSION };

    /// What the sender of a [`Hello`] speaks.
    #[must_use]
    pub const fn of(hello: &Hello) -> Self {
        Self { min: hello.version_min, max: hello.version_max }
    }

    /// The newest version in both ranges.
    #[must_use]
    pub fn highest_common(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

/// Why a primary cannot go on with the answer it got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The secondary said why not.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// It chose a version that was not offered.
    #[error("the peer chose protocol version {chosen}, and {} to {} were offered", offered.min, offered.max)]
    VersionNotOffered {
        /// What it chose.
        chosen: u32,
        /// What was offered.
        offered: Versions,
    },
    /// It left.
    #[error("the peer left: {message}")]
    Goodbye {
        /// Its reason.
        message: String,
    },
    /// Neither a welcome nor a refusal.
    #[error("the peer answered with something else than a welcome or a refusal")]
    OutOfTurn,
}

/// Secondary: reads the first message of a conversation. `Ok` has the version to speak and a [`Hello`] that makes sense
/// in itself.
///
/// # Errors
/// The refusal to send.
pub fn read_hello(ours: Versions, first: Message) -> Result<(u32, Hello), Refused> {
    let Message::Hello(hello) = first else {
        return Err(refused(Refusal::Malformed, "the first message must be a Hello".into()));
    };
    let version = agree(ours, Versions::of(&hello))?;
    check_hello(&hello).map_err(|message| refused(Refusal::Malformed, message))?;
    Ok((version, hello))
}

/// The version to speak with somebody who speaks these.
///
/// # Errors
/// The refusal to send.
pub fn agree(ours: Versions, theirs: Versions) -> Result<u32, Refused> {
    ours.highest_common(theirs).ok_or_else(|| {
        let message = format!(
            "no common protocol version: the primary speaks {} to {}, the secondary {} to {}; upgrade the older appliance",
            theirs.min, theirs.max, ours.min, ours.max
        );
        refused(Refusal::Version, message)
    })
}

/// Primary: reads the answer to its [`Hello`].
///
/// # Errors
/// [`HandshakeError`]: the conversation is over.
pub fn read_answer(offered: Versions, answer: Message) -> Result<Welcome, HandshakeError> {
    match answer {
        Message::Welcome(welcome) if (offered.min..=offered.max).contains(&welcome.version) => Ok(welcome),
        Message::Welcome(welcome) => Err(HandshakeError::VersionNotOffered { chosen: welcome.version, offered }),
        Message::Refused(refused) => Err(HandshakeError::Refused(refused)),
        Message::Goodbye { message } => Err(HandshakeError::Goodbye { message }),
        _ => Err(HandshakeError::OutOfTurn),
    }
}

/// Checks that a list of volumes, from [`Hello`] or [`Message::Volumes`], is one this product could have made: names
/// become file names on the secondary, sizes become files.
///
/// # Errors
/// What is wrong, for people.
pub fn check_volumes(volumes: &[VolumeSpec]) -> Result<(), String> {
    if volumes.len() > VOLUMES_MAX {
        return Err(format!("{} volumes, more than the {VOLUMES_MAX} of an appliance", volumes.len()));
    }
    let mut names = BTreeSet::new();
    let mut indexes = BTreeSet::new();
    for VolumeSpec { index, name, size } in volumes {
        check_name(name).map_err(|error| error.to_string())?;
        if *size == 0 || *size > VOLUME_BYTES_MAX || !size.is_multiple_of(SECTOR_BYTES) {
            return Err(format!(
                "volume '{name}' of {size} bytes: a size is a multiple of {SECTOR_BYTES} from {SECTOR_BYTES} to {VOLUME_BYTES_MAX}"
            ));
        }
        if *index > VOLUME_INDEX_MAX {
            return Err(format!("volume '{name}' with index {index}: an index is at most {VOLUME_INDEX_MAX}"));
        }
        if !names.insert(name) || !indexes.insert(index) {
            return Err(format!("volume '{name}' with index {index} is there twice"));
        }
    }
    Ok(())
}

fn check_hello(hello: &Hello) -> Result<(), String> {
    for name in [&hello.appliance, &hello.group_name] {
        check_name(name).map_err(|error| error.to_string())?;
    }
    if hello.member >= hello.members {
        return Err(format!("member {} of a group of {}: members count from 0", hello.member, hello.members));
    }
    if !(1..=GENERATION_TOLD_MAX).contains(&hello.generation) {
        return Err(format!("generation {}: generations count from 1 to {GENERATION_TOLD_MAX}", hello.generation));
    }
    if !INTERVAL_MS.contains(&hello.interval_ms) {
        let (least, most) = INTERVAL_MS.into_inner();
        return Err(format!("{} ms between cuts: it must be from {least} to {most}", hello.interval_ms));
    }
    check_volumes(&hello.volumes)
}

fn refused(refusal: Refusal, message: String) -> Refused {
    Refused { refusal, message, generation: 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            appliance: "east".into(),
            group: [7; 16],
            group_name: "g".into(),
            member: 0,
            members: 1,
            generation: 1,
            create: false,
            volumes: vec![VolumeSpec { index: 0, name: "a".into(), size: 1 << 20 }],
            interval_ms: 1000,
            generation_start_seq: 1,
        }
    }

    fn welcome(version: u32) -> Message {
        Message::Welcome(Welcome {
            version,
            appliance: "west".into(),
            has_history: false,
            generation: 0,
            position: crate::wire::message::Position::default(),
            chain: [0; 16],
            journal_free_bytes: 0,
            journal_capacity_bytes: 0,
        })
    }

    fn refusal(first: Message) -> Refusal {
        read_hello(Versions { min: 2, max: 3 }, first).unwrap_err().refusal
    }

    #[test]
    fn a_good_hello_passes() {
        assert_eq!(read_hello(Versions::OURS, Message::Hello(hello())), Ok((1, hello())));
    }

    #[test]
    fn disjoint_versions_are_refused_as_such() {
        assert_eq!(refusal(Message::Hello(hello())), Refusal::Version);
        assert_eq!(refusal(Message::Hello(Hello { version_min: 4, version_max: 9, ..hello() })), Refusal::Version);
        assert_eq!(refusal(Message::Hello(Hello { version_min: 3, version_max: 2, ..hello() })), Refusal::Version);
    }

    #[test]
    fn an_unfit_hello_is_malformed() {
        let volume = |index, name: &str, size| VolumeSpec { index, name: name.into(), size };
        let unfit = [
            Hello { appliance: "../x".into(), ..hello() },
            Hello { group_name: String::new(), ..hello() },
            Hello { members: 0, ..hello() },
            Hello { member: 1, ..hello() },
            Hello { generation: 0, ..hello() },
            Hello { generation: u64::MAX, ..hello() },
            Hello { interval_ms: 0, ..hello() },
            Hello { interval_ms: u64::MAX, ..hello() },
            Hello { volumes: vec![volume(u32::MAX, "a", 512)], ..hello() },
            Hello { volumes: vec![volume(0, "a/b", 512)], ..hello() },
            Hello { volumes: vec![volume(0, "a", 0)], ..hello() },
            Hello { volumes: vec![volume(0, "a", 513)], ..hello() },
            Hello { volumes: vec![volume(0, "a", u64::MAX - 511)], ..hello() },
            Hello { volumes: vec![volume(0, "a", 512), volume(0, "b", 512)], ..hello() },
            Hello { volumes: vec![volume(0, "a", 512), volume(1, "a", 512)], ..hello() },
        ];
        for bad in unfit {
            let refused = read_hello(Versions::OURS, Message::Hello(bad.clone())).unwrap_err();
            assert_eq!(refused.refusal, Refusal::Malformed, "{bad:?}");
        }
        assert_eq!(refusal(Message::Goodbye { message: String::new() }), Refusal::Malformed);
    }

    #[test]
    fn an_answer_must_be_one() {
        let offered = Versions { min: 1, max: 2 };
        assert!(read_answer(offered, welcome(2)).is_ok());
        assert!(matches!(read_answer(offered, welcome(3)), Err(HandshakeError::VersionNotOffered { chosen: 3, .. })));
        let no = Refused { refusal: Refusal::Fenced, message: "fenced".into(), generation: 9 };
        assert_eq!(read_answer(offered, Message::Refused(no.clone())), Err(HandshakeError::Refused(no)));
        assert_eq!(read_answer(offered, Message::Hello(hello())), Err(HandshakeError::OutOfTurn));
    }

    proptest! {
        #[test]
        fn the_highest_common_version_is_found(a in 0_u32..9, b in 0_u32..9, c in 0_u32..9, d in 0_u32..9) {
            let (ours, theirs) = (Versions { min: a, max: b }, Versions { min: c, max: d });
            let oracle = (0..9).rev().find(|v| (a..=b).contains(v) && (c..=d).contains(v));
            prop_assert_eq!(ours.highest_common(theirs), oracle);
            prop_assert_eq!(theirs.highest_common(ours), oracle);
        }
    }
}
