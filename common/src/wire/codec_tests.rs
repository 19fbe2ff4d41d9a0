use proptest::prelude::*;

use super::*;
use crate::limits::GENERATION_MAX;
use crate::wire::message::{DirtyRun, Parted, Refusal, Return, Suspended, TakeOver, Verify};

fn given_out() -> impl Strategy<Value = u64> {
    0..=GENERATION_TOLD_MAX
}

fn volume() -> impl Strategy<Value = VolumeSpec> {
    (any::<u32>(), ".{0,20}", any::<u64>()).prop_map(|(index, name, size)| VolumeSpec { index, name, size })
}

fn position() -> impl Strategy<Value = Position> {
    any::<([u64; 7], u32)>().prop_map(|([a, b, c, d, e, f, g], copy_volume)| Position {
        durable_seq: a,
        received_marker: b,
        permitted_marker: c,
        permitted_seq: d,
        applied_marker: e,
        copy: f,
        copy_volume,
        copy_offset: g,
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    proptest::sample::select(vec![
        Refusal::Version,
        Refusal::Fenced,
        Refusal::Conflict,
        Refusal::UnknownGroup,
        Refusal::Resources,
        Refusal::Suspended,
        Refusal::Malformed,
        Refusal::Unready,
        Refusal::Damaged,
    ])
}

prop_compose! {
    fn hello()(
        (version_min, version_max, member, members) in any::<(u32, u32, u32, u32)>(),
        (group, generation, create) in any::<([u8; 16], u64, bool)>(),
        (interval_ms, generation_start_seq) in any::<(u64, u64)>(),
        (appliance, group_name) in (".{0,30}", ".{0,30}"),
        volumes in proptest::collection::vec(volume(), 0..20),
    ) -> Message {
        Message::Hello(Hello {
            version_min, version_max, appliance, group, group_name, member, members, generation, create, volumes,
            interval_ms, generation_start_seq,
        })
    }
}

prop_compose! {
    fn welcome()(
        (version, has_history) in any::<(u32, bool)>(),
        generation in given_out(),
        (chain, journal_free_bytes, journal_capacity_bytes) in any::<([u8; 16], u64, u64)>(),
        appliance in ".{0,30}",
        position in position(),
    ) -> Message {
        Message::Welcome(Welcome {
            version,
            appliance,
            has_history,
            generation,
            position,
            chain,
            journal_free_bytes,
            journal_capacity_bytes,
        })
    }
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        hello(),
        welcome(),
        (refusal(), ".{0,200}", given_out()).prop_map(|(refusal, message, generation)| Message::Refused(Refused {
            refusal,
            message,
            generation
        })),
        any::<(u64, i64, u64, u64)>().prop_map(|(number, as_of_ms, captured_seq, marker)| Message::Heartbeat {
            number,
            as_of_ms,
            captured_seq,
            marker
        }),
        (position(), any::<(u64, i64, u64)>()).prop_map(
            |(position, (heartbeat, good_as_of_ms, journal_free_bytes))| {
                Message::Ack { position, heartbeat, good_as_of_ms, journal_free_bytes }
            }
        ),
        proptest::collection::vec(volume(), 0..20).prop_map(|volumes| Message::Volumes { volumes }),
        ".{0,200}".prop_map(|message| Message::Goodbye { message }),
        ".{0,200}".prop_map(Message::Trouble),
        (any::<(u32, u32, [u8; 16])>(), given_out()).prop_map(|((version_min, version_max, group), generation)| {
            Message::Return(Return { version_min, version_max, group, generation })
        }),
        (given_out(), any::<(u64, u64, [u8; 16])>()).prop_map(|(generation, (marker, seq, chain))| {
            Message::Parted(Parted { generation, marker, seq, chain })
        }),
        (proptest::collection::vec(any::<(u32, u64, u64)>(), 0..50), any::<(bool, bool)>()).prop_map(
            |(runs, (whole, last))| {
                let run = |(volume, offset, length)| DirtyRun { volume, offset, length };
                Message::Dirty { runs: runs.into_iter().map(run).collect(), whole, last }
            }
        ),
        (any::<(u32, u32, [u8; 16], u64)>(), given_out()).prop_map(
            |((version_min, version_max, group, marker), generation)| {
                Message::TakeOver(TakeOver { version_min, version_max, group, generation, marker })
            }
        ),
        given_out().prop_map(|generation| Message::Agreed { generation }),
        (any::<(u32, u32, [u8; 16])>(), given_out()).prop_map(|((version_min, version_max, group), generation)| {
            Message::Verify(Verify { version_min, version_max, group, generation })
        }),
        (any::<(u32, u32, [u8; 16])>(), given_out(), ".{0,200}").prop_map(
            |((version_min, version_max, group), generation, message)| {
                Message::Suspended(Suspended { version_min, version_max, group, generation, message })
            }
        ),
        any::<u64>().prop_map(|marker| Message::Held { marker }),
        any::<bool>().prop_map(|throttles| Message::OnFull { throttles }),
        any::<(u32, u64, u32)>().prop_map(|(volume, offset, regions)| Message::Ask { volume, offset, regions }),
        proptest::collection::vec(any::<[u8; 16]>(), 0..50).prop_map(|digests| Message::Digests { digests }),
    ]
}

/// Puts the right magic, length and checksum around anything, so that the layers behind them are reached.
fn resealed(version: u32, kind: u16, body: &[u8]) -> BytesMut {
    let mut sealed = BytesMut::new();
    sealed.put_slice(&MAGIC);
    sealed.put_u32_le(u32::try_from(body.len()).unwrap());
    sealed.put_u32_le(version);
    sealed.put_u16_le(kind);
    sealed.put_u16_le(0);
    let check = checksum(&sealed, body);
    sealed.put_u32_le(check);
    sealed.put_slice(body);
    sealed
}

proptest! {
    #[test]
    fn reads_what_it_wrote(messages in proptest::collection::vec(message(), 1..5), cut in any::<prop::sample::Index>()) {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        let (first, second) = bytes.split_at(cut.index(bytes.len()));
        let mut buffer = BytesMut::from(first);
        let mut read = Vec::new();
        while let Some(message) = decode(&mut buffer).unwrap() {
            read.push(message);
        }
        buffer.extend_from_slice(second);
        while let Some(message) = decode(&mut buffer).unwrap() {
            read.push(message);
        }
        prop_assert_eq!(read, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&mut BytesMut::from(&bytes[..]));
    }

    #[test]
    fn any_body_is_survived(
        version in 1..=PROTOCOL_VERSION,
        kind in 0..=u16::try_from(Kind::ALL.len()).unwrap() + 1,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode(&mut resealed(version, kind, &bytes));
    }

    #[test]
    fn a_damaged_body_behind_a_good_checksum_is_survived(
        message in message(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let bytes = encode(&message).unwrap();
        let kind = u16::from_le_bytes([bytes[12], bytes[13]]);
        let mut body = bytes[ENVELOPE_BYTES..].to_vec();
        let at = at.index(body.len());
        body[at] ^= flip;
        if let Ok(Some(other)) = decode(&mut resealed(1, kind, &body)) {
            prop_assert!(encode(&other).unwrap().len() <= CONTROL_MESSAGE_BYTES_MAX);
        }
    }

    #[test]
    fn one_damaged_byte_is_noticed(message in message(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut bytes = BytesMut::from(&encode(&message).unwrap()[..]);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // A longer length waits for bytes that never come; everything else is an error. Never another message.
        prop_assert!(!matches!(decode(&mut bytes), Ok(Some(_))));
    }
}

#[test]
fn a_length_beyond_the_bound_is_refused_from_the_envelope_alone() {
    let mut bytes = BytesMut::from(&resealed(1, 1, &[])[..]);
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(&mut bytes), Err(DecodeError::TooLong { bytes: u64::from(u32::MAX) + 20 }));
}

#[test]
fn too_long_a_message_is_not_sent() {
    let message = Message::Goodbye { message: "x".repeat(CONTROL_MESSAGE_BYTES_MAX) };
    assert!(matches!(encode(&message), Err(EncodeError::TooLong { kind: Kind::Goodbye, .. })));
}

#[test]
fn the_largest_group_fits() {
    let volume = |index: u32| VolumeSpec { index, name: format!("{index:064}"), size: 1 << 40 };
    let volumes = (0..u32::try_from(crate::limits::VOLUMES_MAX).unwrap()).map(volume).collect();
    assert!(encode(&Message::Volumes { volumes }).is_ok());
}

/// A side that is fenced and goes on takes the generation behind the highest one it heard of.
#[test]
fn a_generation_that_none_can_follow_is_refused() {
    // The largest that a journal may hold is none that a peer may tell: the next one could be written, and not be read.
    for generation in [GENERATION_TOLD_MAX + 1, GENERATION_MAX, u64::MAX] {
        let parted = Parted { generation, marker: 11, seq: 12, chain: [0; 16] };
        let refused = Refused { refusal: Refusal::Conflict, message: String::new(), generation };
        let (group, message) = ([1; 16], String::new());
        let suspended = Suspended { version_min: 1, version_max: 1, group, generation, message };
        for message in [
            Message::Parted(parted),
            Message::Refused(refused),
            Message::Suspended(suspended),
            Message::Agreed { generation },
        ] {
            let decoded = decode(&mut BytesMut::from(&encode(&message).unwrap()[..]));
            assert!(matches!(decoded, Err(DecodeError::Body { .. })), "{decoded:?}");
        }
    }
}

/// A faulty copy that said another MiB at each of its calls would fill the disks of its primary: with logs, and with the pair's reason.
#[test]
fn what_a_peer_says_to_people_is_cut_short() {
    let message = "\u{fc}".repeat(WORDS_BYTES_MAX);
    let refused = Refused { refusal: Refusal::Conflict, message: message.clone(), generation: 1 };
    let suspended =
        Suspended { version_min: 1, version_max: 1, group: [1; 16], generation: 1, message: message.clone() };
    for said in [
        Message::Refused(refused),
        Message::Suspended(suspended),
        Message::Trouble(message.clone()),
        Message::Goodbye { message: message.clone() },
    ] {
        let decoded = decode(&mut BytesMut::from(&encode(&said).unwrap()[..])).unwrap().unwrap();
        let words = match decoded {
            Message::Refused(Refused { message: words, .. })
            | Message::Suspended(Suspended { message: words, .. })
            | Message::Trouble(words)
            | Message::Goodbye { message: words } => words,
            other => panic!("{other:?}"),
        };
        assert!(message.starts_with(&words) && words.len() == WORDS_BYTES_MAX, "{}", words.len());
    }
}

#[test]
fn another_version_and_another_kind_are_told_apart_from_damage() {
    let next = PROTOCOL_VERSION + 1;
    assert_eq!(decode(&mut resealed(next, 1, b"whatever")), Err(DecodeError::Version { found: next }));
    assert_eq!(decode(&mut resealed(1, 99, b"whatever")), Err(DecodeError::Kind { kind: 99 }));
}

/// One message of each kind with its bytes as the version writes them that brought it. A difference here is another protocol version.
fn golden() -> Vec<(Kind, Message, &'static str)> {
    let volumes = || vec![VolumeSpec { index: 3, name: "pg-data-volume".into(), size: 1 << 30 }];
    let position = Position {
        durable_seq: 1,
        received_marker: 2,
        permitted_marker: 3,
        permitted_seq: 4,
        applied_marker: 5,
        copy: 6,
        copy_volume: 7,
        copy_offset: 8,
    };
    vec![
        (
            Kind::Hello,
            Message::Hello(Hello {
                version_min: 1,
                version_max: 2,
                appliance: "east".into(),
                group: *b"0123456789abcdef",
                group_name: "payments".into(),
                member: 0,
                members: 1,
                generation: 9,
                create: true,
                volumes: volumes(),
                interval_ms: 1000,
                generation_start_seq: 77,
            }),
            include_str!("../../tests/fixtures/wire/hello.hex"),
        ),
        (
            Kind::Welcome,
            Message::Welcome(Welcome {
                version: 1,
                appliance: "west".into(),
                has_history: true,
                generation: 9,
                position,
                chain: *b"fedcba9876543210",
                journal_free_bytes: 1 << 40,
                journal_capacity_bytes: 1 << 41,
            }),
            include_str!("../../tests/fixtures/wire/welcome.hex"),
        ),
        (
            Kind::Refused,
            Message::Refused(Refused {
                refusal: Refusal::Fenced,
                message: "the group moved on".into(),
                generation: 10,
            }),
            include_str!("../../tests/fixtures/wire/refused.hex"),
        ),
        (
            Kind::Heartbeat,
            Message::Heartbeat { number: 1, as_of_ms: -2, captured_seq: 3, marker: 4 },
            include_str!("../../tests/fixtures/wire/heartbeat.hex"),
        ),
        (
            Kind::Ack,
            Message::Ack { position, heartbeat: 9, good_as_of_ms: 10, journal_free_bytes: 11 },
            include_str!("../../tests/fixtures/wire/ack.hex"),
        ),
        (Kind::Volumes, Message::Volumes { volumes: volumes() }, include_str!("../../tests/fixtures/wire/volumes.hex")),
        (
            Kind::Goodbye,
            Message::Goodbye { message: "the service is stopping".into() },
            include_str!("../../tests/fixtures/wire/goodbye.hex"),
        ),
        (
            Kind::Return,
            Message::Return(Return { version_min: 1, version_max: 1, group: *b"0123456789abcdef", generation: 9 }),
            include_str!("../../tests/fixtures/wire/return.hex"),
        ),
        (
            Kind::Parted,
            Message::Parted(Parted { generation: 10, marker: 11, seq: 12, chain: *b"fedcba9876543210" }),
            include_str!("../../tests/fixtures/wire/parted.hex"),
        ),
        (
            Kind::Dirty,
            Message::Dirty {
                runs: vec![DirtyRun { volume: 1, offset: 65536, length: 131_072 }],
                whole: false,
                last: true,
            },
            include_str!("../../tests/fixtures/wire/dirty.hex"),
        ),
        (
            Kind::TakeOver,
            Message::TakeOver(TakeOver {
                version_min: 1,
                version_max: 1,
                group: *b"0123456789abcdef",
                generation: 9,
                marker: 42,
            }),
            include_str!("../../tests/fixtures/wire/take_over.hex"),
        ),
        (Kind::Agreed, Message::Agreed { generation: 10 }, include_str!("../../tests/fixtures/wire/agreed.hex")),
        (
            Kind::Verify,
            Message::Verify(Verify { version_min: 1, version_max: 1, group: *b"0123456789abcdef", generation: 9 }),
            include_str!("../../tests/fixtures/wire/verify.hex"),
        ),
        (Kind::Held, Message::Held { marker: 42 }, include_str!("../../tests/fixtures/wire/held.hex")),
        (
            Kind::Ask,
            Message::Ask { volume: 1, offset: 65536, regions: 2 },
            include_str!("../../tests/fixtures/wire/ask.hex"),
        ),
        (
            Kind::Digests,
            Message::Digests { digests: vec![*b"0123456789abcdef", *b"fedcba9876543210"] },
            include_str!("../../tests/fixtures/wire/digests.hex"),
        ),
        (
            Kind::History,
            Message::History(History { milliseconds: 86_400_000, bytes: 50 << 30 }),
            include_str!("../../tests/fixtures/wire/history.hex"),
        ),
        (
            Kind::Trouble,
            Message::Trouble("volume 'a' cannot be written: No space left on device".into()),
            include_str!("../../tests/fixtures/wire/trouble.hex"),
        ),
        (
            Kind::Suspended,
            Message::Suspended(Suspended {
                version_min: 1,
                version_max: 1,
                group: *b"0123456789abcdef",
                generation: 9,
                message: "the pair was suspended on 'east'".into(),
            }),
            include_str!("../../tests/fixtures/wire/suspended.hex"),
        ),
        (Kind::OnFull, Message::OnFull { throttles: true }, include_str!("../../tests/fixtures/wire/on_full.hex")),
    ]
}

#[test]
fn the_bytes_are_those_of_the_version_that_brought_them() {
    let golden = golden();
    assert_eq!(golden.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), Kind::ALL, "every kind has a fixture");
    for (kind, message, fixture) in golden {
        let digits: String = fixture.split_whitespace().collect();
        assert_eq!(hex::encode(encode(&message).unwrap()), digits, "{kind:?}");
        let mut bytes = BytesMut::from(&hex::decode(&digits).unwrap()[..]);
        assert_eq!(decode(&mut bytes), Ok(Some(message)), "{kind:?}");
    }
}
