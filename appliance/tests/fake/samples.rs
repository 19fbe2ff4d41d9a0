//! Appliances in several states, all at the same moment, [`now`].

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use jiff::{SignedDuration, Timestamp};
use tidemark_common::api::backup::types::{
    BackupInfo, BackupProgress, BackupState, RestoreState, RestoreStatus, WhileDifferential,
};
use tidemark_common::api::types::{
    Addresses, ApplianceStatus, BufferStatus, CopyProgress, DrillReport, DrillResult, FreezeStatus, GroupDrills,
    GroupMoment, GroupStatus, ImageKind, ImageState, ImageStatus, JournalStatus, MarkerStatus, Moving, OnFull,
    PairState, PairStatus, PeerStatus, Positions, Role, SideStoreStatus, Standing, Status, VolumeStatus,
};
use tidemark_common::lag::{Lag, LagCause};

/// The moment all samples are of.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap()
}

fn ago(milliseconds: i64) -> Timestamp {
    now() - SignedDuration::from_millis(milliseconds)
}

fn appliance(name: &str, groups: Vec<GroupStatus>) -> Status {
    Status {
        appliance: ApplianceStatus {
            name: name.into(),
            id: "3f2a91c0".repeat(8),
            version: "0.1.0".into(),
            uptime_seconds: 8040.0,
        },
        addresses: Addresses {
            nbd: vec![format!("unix:/srv/{name}/nbd.sock"), "10.0.0.1:10809".into()],
            replication: "10.0.0.1:7411".into(),
            metrics: "127.0.0.1:9411".into(),
        },
        volumes: vec![volume("a", 1 << 30, Some("g")), volume("b", 4 << 30, Some("g"))],
        groups,
        peers: vec![PeerStatus {
            name: "west".into(),
            id: "91c03f2a".repeat(8),
            address: Some("west.example:7411".into()),
        }],
        images: Vec::new(),
        local_pairs: Vec::new(),
        backups: std::collections::BTreeMap::new(),
        backups_under_way: Vec::new(),
        restores: Vec::new(),
        lost_exports: Vec::new(),
        strangers: Vec::new(),
        side_store: SideStoreStatus::default(),
        image_memory: SideStoreStatus::default(),
        clone_store: SideStoreStatus::default(),
        drills: Vec::new(),
    }
}

fn volume(name: &str, size: u64, group: Option<&str>) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        size,
        group: group.map(Into::into),
        backing: format!("/srv/east/volumes/{name}"),
        connections: 1,
        offered_to: None,
        problem: None,
    }
}

fn group(role: Role, pairs: Vec<PairStatus>) -> GroupStatus {
    GroupStatus {
        name: "g".into(),
        id: "0123456789abcdef".repeat(2),
        role,
        generation: 1,
        volumes: vec!["a".into(), "b".into()],
        marker: MarkerStatus { last: 42, time: Some(ago(400)) },
        journal: JournalStatus {
            bytes: 1 << 20,
            capacity_bytes: 10 << 30,
            full_in_seconds: Some(5400.0),
            throttle_ms: 0.0,
        },
        buffer: BufferStatus { bytes: 8 << 20, capacity_bytes: 64 << 20 },
        freeze: FreezeStatus { count: 42, p50_us: 12.0, p99_us: 30.0, max_us: 45.0, abandoned: 0 },
        positions: Positions { captured_seq: 1042, journaled_seq: 1042, applied_seq: 1000 },
        interval_ms: 1000,
        on_full: OnFull::Fold,
        history: None,
        problem: None,
        standing: Vec::new(),
        pairs,
    }
}

fn pair(peer: &str, state: PairState) -> PairStatus {
    PairStatus {
        peer: peer.into(),
        state,
        reason: None,
        since: ago(185_000),
        connected: true,
        stands: false,
        suspended_there: false,
        received_marker: 42,
        permitted_marker: 42,
        applied_marker: 41,
        rpo_seconds: Some(0.4),
        lag_bytes: 4096,
        lag: Lag::default(),
        held: None,
        differential_bytes: 0,
        copy: None,
        verify: None,
        comparison: None,
        round_trip_ms: Some(12.4),
    }
}

/// Everything as it should be.
pub(crate) fn paired() -> Status {
    let mut status = appliance("east", vec![group(Role::Primary, vec![pair("west", PairState::Paired)])]);
    status.volumes.push(volume("scratch", 512 << 20, None));
    status
}

/// The copy side of [`paired`].
pub(crate) fn secondary() -> Status {
    let mut group = group(Role::Secondary, vec![pair("east", PairState::Paired)]);
    group.freeze = FreezeStatus::default();
    group.buffer = BufferStatus::default();
    appliance("west", vec![group])
}

/// The first copy under way.
pub(crate) fn initial_copy() -> Status {
    let copying = PairStatus {
        since: ago(7_000),
        received_marker: 40,
        permitted_marker: 0,
        applied_marker: 0,
        rpo_seconds: None,
        lag_bytes: 3 << 30,
        copy: Some(CopyProgress {
            done_bytes: 2_700 << 20,
            total_bytes: 5 << 30,
            bytes_per_second: 98.4 * 1_048_576.0,
            seconds_left: Some(24.6),
        }),
        ..pair("west", PairState::InitialCopy)
    };
    appliance("east", vec![group(Role::Primary, vec![copying])])
}

/// Behind after an interruption, with a journal that fills and a marker given up.
pub(crate) fn catching_up() -> Status {
    let behind = PairStatus {
        reason: Some("the link was down for 2 min; 312 MiB are left to send".into()),
        since: ago(3_200),
        received_marker: 31,
        permitted_marker: 31,
        applied_marker: 31,
        rpo_seconds: Some(11.3),
        lag_bytes: 312 << 20,
        lag: Lag {
            unsent_bytes: 237 << 20,
            under_way_bytes: 14 << 20,
            buffer_bytes: 61 << 20,
            unapplied_bytes: Some(0),
            written_bytes_per_second: 4.2 * 1_048_576.0,
            delivered_bytes_per_second: 9.6 * 1_048_576.0,
            seconds_left: Some(57.8),
            cause: Some(LagCause::HostBurst),
        },
        ..pair("west", PairState::CatchingUp)
    };
    let mut group = group(Role::Primary, vec![behind]);
    group.journal.bytes = 7_700 << 20;
    group.buffer.bytes = 61 << 20;
    group.freeze = FreezeStatus { count: 420, p50_us: 14.0, p99_us: 1_850.0, max_us: 50_000.0, abandoned: 2 };
    appliance("east", vec![group])
}

/// Something that needs a person, on the pair and on the group.
pub(crate) fn error() -> Status {
    let broken = PairStatus {
        reason: Some(
            "west refused frame 1017 at segment 12 offset 4096: its checksum does not match, so nothing was applied. Check \
             the disk of west's journal, then run `tidemark pair resume g --to west`"
                .into(),
        ),
        received_marker: 39,
        permitted_marker: 39,
        applied_marker: 39,
        rpo_seconds: Some(3725.0),
        ..pair("west", PairState::Error)
    };
    let mut group = group(Role::Primary, vec![broken]);
    group.problem =
        Some("write /srv/east/volumes/b at 1048576: no space left on device. Make room; writes are retried".into());
    group.journal.bytes = 10 << 30;
    appliance("east", vec![group])
}

/// The former secondary, primary since a failover.
pub(crate) fn failed_over() -> Status {
    let old = PairStatus {
        reason: Some("this side took over at marker 41".into()),
        connected: false,
        stands: false,
        verify: None,
        comparison: None,
        round_trip_ms: None,
        received_marker: 41,
        permitted_marker: 41,
        applied_marker: 41,
        rpo_seconds: None,
        differential_bytes: 96 << 20,
        ..pair("east", PairState::FailedOver)
    };
    let mut group = group(Role::Primary, vec![old]);
    group.generation = 2;
    appliance("west", vec![group])
}

/// The former primary, fenced.
pub(crate) fn fenced() -> Status {
    let mut group = group(Role::Fenced, vec![pair("west", PairState::Fenced)]);
    group.problem = Some("west has generation 2: nothing is served here until `tidemark rejoin g`".into());
    appliance("east", vec![group])
}

/// A group without a pair that has not been cut yet.
pub(crate) fn no_pair() -> Status {
    let mut group = group(Role::Primary, Vec::new());
    group.marker = MarkerStatus { last: 0, time: None };
    group.freeze = FreezeStatus::default();
    group.positions = Positions::default();
    group.buffer.bytes = 0;
    appliance("east", vec![group])
}

/// The other side does not answer.
pub(crate) fn link_down() -> Status {
    let silent = PairStatus {
        connected: false,
        stands: false,
        verify: None,
        comparison: None,
        round_trip_ms: None,
        rpo_seconds: Some(65.0),
        lag_bytes: 800 << 20,
        received_marker: 12,
        permitted_marker: 12,
        applied_marker: 12,
        reason: Some("west.example:7411 does not answer; tried again every 2 s".into()),
        ..pair("west", PairState::CatchingUp)
    };
    let standing = vec![
        Standing { position: Moving::Journal, peer: None, seconds: 0.0 },
        Standing { position: Moving::Ship, peer: Some("west".into()), seconds: 66.0 },
    ];
    appliance("east", vec![GroupStatus { standing, ..group(Role::Primary, vec![silent]) }])
}

/// Many volumes, several groups and pairs, long names.
pub(crate) fn large() -> Status {
    let mut status = paired();
    let names: Vec<String> = (1..=500).map(|number| format!("vm-{number:03}-disk")).collect();
    status.volumes.extend(names.iter().map(|name| volume(name, 1 << 40, Some("virtual-machines"))));
    let mut machines =
        group(Role::Primary, vec![pair("west", PairState::Paired), pair("far-away-datacentre", PairState::Suspended)]);
    machines.name = "virtual-machines".into();
    machines.volumes = names;
    machines.interval_ms = 250;
    status.groups.push(machines);
    status
}

/// Nothing made yet.
pub(crate) fn empty() -> Status {
    let mut status = appliance("east", Vec::new());
    status.volumes.clear();
    status.peers.clear();
    status
}

/// Every sample with its name.
pub(crate) fn all() -> Vec<(&'static str, Status)> {
    vec![
        ("paired", paired()),
        ("secondary", secondary()),
        ("initial-copy", initial_copy()),
        ("catching-up", catching_up()),
        ("error", error()),
        ("failed-over", failed_over()),
        ("fenced", fenced()),
        ("no-pair", no_pair()),
        ("link-down", link_down()),
        ("large", large()),
        ("empty", empty()),
    ]
}

/// An image of the group `g`.
pub(crate) fn image(name: &str, kind: ImageKind) -> ImageStatus {
    ImageStatus {
        name: name.into(),
        kind,
        group: "g".into(),
        marker: 42,
        marker_time: ago(65_000),
        moments: vec![GroupMoment { group: "g".into(), marker: 42, time: ago(65_000) }],
        created: ago(61_000),
        age_seconds: 61.0,
        state: ImageState::Ready,
        reason: None,
        volumes: vec!["a".into(), "b".into()],
        exports: vec![format!("nbd+unix:///{name}/a?socket=/srv/east/nbd.sock")],
        connections: 0,
        saved_bytes: 1 << 20,
        written_bytes: 8192,
        space_bytes: 1 << 30,
    }
}

/// A restore in the middle.
pub(crate) fn restore() -> RestoreStatus {
    RestoreStatus {
        from: "/backups/monday.tar".into(),
        set: Some("mail".into()),
        onto: None,
        state: RestoreState::Writing,
        volumes: vec!["b".into()],
        began: ago(61_000),
        progress: CopyProgress {
            done_bytes: 1 << 30,
            total_bytes: 4 << 30,
            bytes_per_second: 50.0 * 1_048_576.0,
            seconds_left: Some(61.4),
        },
        warnings: Vec::new(),
    }
}

/// A backup in the middle.
pub(crate) fn backup() -> BackupInfo {
    BackupInfo {
        name: "monday".into(),
        state: BackupState::Copying,
        reason: None,
        sets: Vec::new(),
        order: "given".into(),
        to: "/backups/monday.tar".into(),
        place: None,
        at: None,
        rate: None,
        when_idle: false,
        while_differential: WhileDifferential::Merge,
        asked: ago(61_000),
        began: Some(ago(60_000)),
        ended: None,
        moments: Vec::new(),
        progress: BackupProgress {
            done_bytes: 1 << 30,
            total_bytes: 4 << 30,
            bytes_per_second: 50.0 * 1_048_576.0,
            seconds_left: Some(61.4),
            member: "mail/a".into(),
            stalled_seconds: None,
        },
    }
}

/// A drill that passed.
pub(crate) fn drill() -> DrillReport {
    DrillReport {
        id: 7,
        name: "drill-7".into(),
        group: "g".into(),
        marker: 42,
        marker_time: ago(65_000),
        started: ago(61_000),
        took_seconds: 3.5,
        result: DrillResult::Passed,
        reason: None,
        rto_seconds: Some(0.02),
        rpo_seconds: Some(0.5),
        check: Some("tidemark drill check ext4".into()),
        check_exit_code: Some(0),
        output: "volume 'a' is well\n".into(),
        exports: vec!["nbd+unix:///drill-7/a?socket=/srv/east/nbd.sock".into()],
        scheduled: false,
        lag: Vec::new(),
    }
}

/// What it has proven.
pub(crate) fn drills() -> GroupDrills {
    GroupDrills {
        group: "g".into(),
        proven_marker: Some(42),
        proven_time: Some(ago(65_000)),
        proven_age_seconds: Some(65.0),
        last: Some(7),
        last_passed: Some(true),
        last_rto_seconds: Some(0.02),
        running: false,
        every_seconds: Some(3600.0),
    }
}
