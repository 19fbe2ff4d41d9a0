//! The catalogue from outside, and what happens when the bytes below it are not what was put there.

mod damage;
mod full_disk;
mod records;
mod survival;

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::clock::SystemClock;

const GROUP: GroupId = GroupId([0xa5; 16]);
const OTHER_GROUP: GroupId = GroupId([0xa6; 16]);

fn open(directory: &Path) -> Result<Catalog, CatalogError> {
    Catalog::open(directory, &SystemClock::new())
}

fn fresh() -> (TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = open(directory.path()).unwrap();
    (directory, catalog)
}

fn peer(name: &str) -> PeerRecord {
    PeerRecord { name: name.into(), id: [7; 32], address: Some("198.51.100.7:7411".into()) }
}

fn volume(name: &str) -> VolumeRecord {
    VolumeRecord {
        name: name.into(),
        size: 64 << 40,
        backing: format!("/var/lib/tidemark/volumes/{name}"),
        owned: true,
        group: Some("pg".into()),
    }
}

fn pair(peer: &str, state: PairStateRecord) -> PairRecord {
    PairRecord {
        peer: peer.into(),
        state,
        reason: Some("the link is down".into()),
        since_ns: -1,
        copy: Some(CopyRecord {
            number: 6,
            start_seq: 7,
            start_marker: 8,
            start_chain: [9; 16],
            start_segment: 10,
            start_offset: 11,
            direct: true,
            end_marker: Some(12),
            cursor_volume: 13,
            cursor_offset: 14,
            done_bytes: 15,
            total_bytes: 16,
        }),
        parted: Some(PartedRecord { marker: 17, seq: 18, chain: [19; 16], segment: 20, offset: 21 }),
        floor: Some((22, 23)),
        counted: Some((24, 25, 26)),
        before: Some(BeforeRecord {
            generation: 27,
            tail: "generation-27-after-17".into(),
            parted: PartedRecord { marker: 28, seq: 29, chain: [30; 16], segment: 31, offset: 32 },
            next_seq: 33,
            marker: 34,
            marker_ns: -35,
            volumes: vec![GroupVolume { index: 36, name: "data".into() }],
        }),
    }
}

fn group(name: &str) -> GroupRecord {
    GroupRecord {
        name: name.into(),
        id: GROUP.0,
        role: RoleRecord::Fenced { by_generation: 9 },
        generation: 3,
        generation_start_seq: 1000,
        interval_ms: 1000,
        on_full: OnFullRecord::Throttle,
        next_volume_index: 2,
        volumes: vec![
            GroupVolume { index: 0, name: "data".into() },
            GroupVolume { index: 1, name: "a-volume-with-a-long-name".into() },
        ],
        pairs: vec![pair("far", PairStateRecord::Resync), pair("near", PairStateRecord::Paired)],
        primary: Some([1; 32]),
        cut: None,
        history: crate::history::History { milliseconds: 5, bytes: 6 },
    }
}

fn applied(seq: u64) -> AppliedRecord {
    AppliedRecord { segment: 1, offset: 4096, seq, marker: 3 }
}

fn marker(number: u64) -> KeptMarkerRecord {
    KeptMarkerRecord { number, boundary_seq: number * 10, time_ns: 1, tag: Some("before the upgrade".into()) }
}

fn numbers(markers: &[KeptMarkerRecord]) -> Vec<u64> {
    markers.iter().map(|m| m.number).collect()
}
