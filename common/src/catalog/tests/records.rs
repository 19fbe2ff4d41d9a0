//! What is put is what is found, also after opening again.

use super::*;
use crate::api::types::{OnFull, PairState, Role};

#[test]
fn records_are_found_again_after_opening() {
    let (directory, catalog) = fresh();
    catalog.put_peer(&peer("far")).unwrap();
    catalog.put_volume(&volume("pg-wal")).unwrap();
    catalog.put_volume(&volume("pg-data")).unwrap();
    catalog.put_group(&group("pg")).unwrap();
    catalog.put_applied(GROUP, &applied(17)).unwrap();
    catalog.put_markers(GROUP, &[marker(1), marker(2)]).unwrap();
    catalog.put_bitmap(GROUP, "far", &[1, 2, 3]).unwrap();
    let made = catalog.appliance().unwrap().unwrap();

    drop(catalog);
    let catalog = open(directory.path()).unwrap();
    assert_eq!(catalog.peers().unwrap(), [peer("far")]);
    assert_eq!(catalog.peer("far").unwrap(), Some(peer("far")));
    assert_eq!(catalog.volumes().unwrap(), [volume("pg-data"), volume("pg-wal")]);
    assert_eq!(catalog.volume("pg-data").unwrap(), Some(volume("pg-data")));
    assert_eq!(catalog.groups().unwrap(), [group("pg")]);
    assert_eq!(catalog.group("pg").unwrap(), Some(group("pg")));
    assert_eq!(catalog.applied(GROUP).unwrap(), Some(applied(17)));
    assert_eq!(catalog.markers(GROUP, 10).unwrap(), [marker(1), marker(2)]);
    assert_eq!(catalog.marker(GROUP, MarkerNumber(2)).unwrap(), Some(marker(2)));
    assert_eq!(catalog.bitmap(GROUP, "far").unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(catalog.appliance().unwrap(), Some(made));
    catalog.verify().unwrap();
}

#[test]
fn the_last_put_counts_and_what_is_deleted_is_gone() {
    let (directory, catalog) = fresh();
    catalog.put_volume(&volume("data")).unwrap();
    let grown = VolumeRecord { size: 65 << 40, group: None, ..volume("data") };
    catalog.put_volume(&grown).unwrap();
    assert_eq!(catalog.volumes().unwrap(), [grown]);
    catalog.put_peer(&peer("far")).unwrap();
    catalog.put_bitmap(GROUP, "far", b"bits").unwrap();

    catalog.delete_volume("data").unwrap();
    catalog.delete_peer("far").unwrap();
    catalog.delete_bitmap(GROUP, "far").unwrap();
    catalog.delete_volume("never-there").unwrap();
    drop(catalog);
    let catalog = open(directory.path()).unwrap();
    assert_eq!(catalog.volumes().unwrap(), []);
    assert_eq!(catalog.peers().unwrap(), []);
    assert_eq!(catalog.bitmap(GROUP, "far").unwrap(), None);
}

#[test]
fn a_restore_is_known_until_it_is_deleted_or_its_volume_is() {
    let (directory, catalog) = fresh();
    let restore = |volume: &str| RestoreRecord {
        volume: volume.into(),
        from: "/backups/b.tar".into(),
        began_ns: 7,
        ranges: vec![(0, 4096), (8192, u64::MAX)],
    };
    let mut batch = Batch::new();
    for volume in ["a", "b", "c"] {
        batch.put_restore(&restore(volume)).unwrap();
    }
    catalog.commit(batch).unwrap();
    let mut batch = Batch::new();
    batch.delete_restore("b").unwrap();
    catalog.commit(batch).unwrap();
    catalog.delete_volume("c").unwrap();
    drop(catalog);
    assert_eq!(open(directory.path()).unwrap().restores().unwrap(), [restore("a")]);
}

#[test]
fn a_deleted_group_leaves_nothing_and_its_neighbour_stays() {
    let (_directory, catalog) = fresh();
    for id in [GROUP, OTHER_GROUP] {
        catalog.put_applied(id, &applied(1)).unwrap();
        catalog.put_markers(id, &[marker(u64::MAX / 10)]).unwrap();
        catalog.put_bitmap(id, "far", b"bits").unwrap();
    }
    catalog.put_group(&group("pg")).unwrap();
    catalog.delete_group("pg", GROUP).unwrap();
    assert_eq!(catalog.group("pg").unwrap(), None);
    assert_eq!(catalog.applied(GROUP).unwrap(), None);
    assert_eq!(catalog.markers(GROUP, 10).unwrap(), []);
    assert_eq!(catalog.bitmap(GROUP, "far").unwrap(), None);
    assert_eq!(catalog.applied(OTHER_GROUP).unwrap(), Some(applied(1)));
    assert_eq!(catalog.markers(OTHER_GROUP, 10).unwrap().len(), 1);
    assert!(catalog.bitmap(OTHER_GROUP, "far").unwrap().is_some());
}

#[test]
fn an_image_of_several_groups_is_put_and_deleted_as_one() {
    let (directory, catalog) = fresh();
    let part = |name: &str, group: u8| ImageRecord {
        name: name.into(),
        kind: ImageKindRecord::T0,
        group: format!("g{group}"),
        group_id: [group; 16],
        era: 7,
        begin: Some((1, 4096)),
        marker: u64::from(group),
        boundary_seq: 5,
        time_ns: 1,
        tag: None,
        created_ns: 2,
        volumes: vec![ImageVolumeRecord { index: 1, name: format!("v{group}"), size: 4096 }],
        broken: None,
    };
    let image = |name: &str, others: &[u8]| ImageRecords {
        first: part(name, 9),
        others: others.iter().map(|group| part(name, *group)).collect(),
    };
    let (mut first, second, third) = (image("a", &[1, 2]), image("a-b", &[3]), image("b", &[]));
    for image in [&first, &second, &third] {
        catalog.put_image(image).unwrap();
    }
    first.set_broken("a part of it is");
    assert!(first.parts().all(|part| part.broken.is_some()));
    catalog.put_image(&first).unwrap();
    drop(catalog);
    let catalog = open(directory.path()).unwrap();
    assert_eq!(catalog.images().unwrap(), [first, second.clone(), third.clone()]);
    catalog.delete_image("a").unwrap();
    assert_eq!(catalog.images().unwrap(), [second, third.clone()]);
    catalog.delete_image("a-b").unwrap();
    catalog.put_image(&image("a-b", &[])).unwrap();
    assert_eq!(catalog.images().unwrap(), [image("a-b", &[]), third], "nothing of the one before");
}

#[test]
fn markers_are_listed_in_order_and_old_ones_go() {
    let (_directory, catalog) = fresh();
    let all: Vec<_> = (1..=12_345).map(marker).collect();
    for some in all.chunks(500) {
        catalog.put_markers(GROUP, some).unwrap();
    }
    catalog.put_markers(OTHER_GROUP, &[marker(1)]).unwrap();
    assert_eq!(numbers(&catalog.markers(GROUP, 3).unwrap()), [12_343, 12_344, 12_345]);
    let kept = catalog.markers(GROUP, usize::MAX).unwrap();
    assert_eq!(kept.first().map(|m| m.number), Some(2_000));
    assert!(kept.len() as u64 >= MARKERS_KEPT);

    let mut batch = Batch::new();
    batch.delete_markers_after(GROUP, MarkerNumber(12_343));
    catalog.commit(batch).unwrap();
    assert_eq!(numbers(&catalog.markers(GROUP, 2).unwrap()), [12_342, 12_343]);
    assert_eq!(numbers(&catalog.markers(OTHER_GROUP, 2).unwrap()), [1]);
}

#[test]
fn a_large_bitmap_goes_in_and_out() {
    let (directory, catalog) = fresh();
    let bytes: Vec<u8> = (0_u32..4 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for _ in 0..3 {
        catalog.put_bitmap(GROUP, "far", &bytes).unwrap();
    }
    drop(catalog);
    assert!(open(directory.path()).unwrap().bitmap(GROUP, "far").unwrap() == Some(bytes));
}

#[test]
fn a_record_larger_than_any_may_be_is_refused() {
    let mut batch = Batch::new();
    let bytes = vec![0; RECORD_BYTES_MAX];
    assert!(matches!(batch.put_bitmap(GROUP, "far", &bytes), Err(CatalogError::TooLarge { .. })));
    assert!(batch.is_empty());
}

#[test]
fn names_that_are_none_are_refused() {
    let (_directory, catalog) = fresh();
    assert!(matches!(catalog.put_volume(&volume("../x")), Err(CatalogError::Name(_))));
    assert!(matches!(catalog.peer(""), Err(CatalogError::Name(_))));
}

#[test]
fn states_are_the_same_words_in_records_and_answers() {
    let states = [
        PairState::InitialCopy,
        PairState::Paired,
        PairState::CatchingUp,
        PairState::Differential,
        PairState::Resync,
        PairState::Suspended,
        PairState::FailedOver,
        PairState::Fenced,
        PairState::Error,
    ];
    for state in states {
        assert_eq!(PairState::from(PairStateRecord::from(state)), state);
    }
    for on_full in [OnFull::Fold, OnFull::Throttle] {
        assert_eq!(OnFull::from(OnFullRecord::from(on_full)), on_full);
    }
    assert_eq!(Role::from(RoleRecord::Fenced { by_generation: 2 }), Role::Fenced);
}

#[test]
fn clones_are_one_catalogue_across_threads() {
    let (_directory, catalog) = fresh();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let catalog = catalog.clone();
            scope.spawn(move || {
                for number in 0..8 {
                    catalog.put_volume(&volume(&format!("v{thread}-{number}"))).unwrap();
                }
            });
        }
    });
    assert_eq!(catalog.volumes().unwrap().len(), 32);
}

#[test]
fn a_comparison_goes_with_its_pair_and_with_its_group() {
    let (directory, catalog) = fresh();
    let verify = VerifyRecord {
        state: VerifyStateRecord::Stands,
        reason: Some("suspended by the operator".into()),
        began_ns: 7,
        generation: 3,
        volumes: vec![(1, 1 << 30), (4, u64::MAX)],
        repair: true,
        rate: Some(1 << 20),
        cursor: (4, 65_536),
        left: vec![1],
        different: vec![2, 3],
        markers: (8, 12),
        differed: Some((9, 11)),
        mends: None,
        resumed: 2,
        resumed_at_bytes: 65_536,
        took_ms: 1500,
    };
    for (group, peer) in [(GROUP, "far"), (GROUP, "farther"), (OTHER_GROUP, "far")] {
        catalog.put_verify(group, peer, &verify).unwrap();
    }
    drop(catalog);
    let catalog = open(directory.path()).unwrap();
    catalog.verify().unwrap();
    assert_eq!(catalog.verify_of(GROUP, "far").unwrap(), Some(verify.clone()));
    catalog.delete_verify(GROUP, "far").unwrap();
    assert_eq!(catalog.verify_of(GROUP, "far").unwrap(), None);
    assert_eq!(catalog.verify_of(GROUP, "farther").unwrap(), Some(verify.clone()));
    catalog.delete_group("pg", GROUP).unwrap();
    assert_eq!(catalog.verify_of(GROUP, "farther").unwrap(), None);
    assert_eq!(catalog.verify_of(OTHER_GROUP, "far").unwrap(), Some(verify));
}

#[test]
fn pairs_of_a_group_that_is_fenced_stand_so_since_then_and_not_since_it_is_said_again() {
    let mut record = GroupRecord { role: RoleRecord::Primary, ..group("pg") };
    record.pairs = vec![pair("west", PairStateRecord::CatchingUp)];
    record.fence(9, 500);
    record.fence(10, 600);
    assert_eq!((record.role, record.pairs[0].since_ns), (RoleRecord::Fenced { by_generation: 10 }, 500));
}
