//! Copies that could not be made, and what an old primary is told.

use tidemark_common::catalog::PeerRecord;

use super::*;
use crate::service::tests::{Faults, appliance, hello};

/// Else a person had to delete it there, and to tell the pair.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_could_not_be_made_is_made_on_what_it_left() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let primary = PeerRecord { name: "east".into(), id: [1; 32], address: None };
    appliance.peers.write().insert("east".into(), primary);
    let spec = VolumeSpec { index: 1, name: "v".into(), size: 1 << 20 };
    let called = |group: u8, name: &str| {
        let volumes = vec![spec.clone()];
        Hello { group: [group; 16], group_name: name.into(), create: true, volumes, ..hello() }
    };
    let left = appliance.make_copy_volume("g", &spec).unwrap();
    // As it is undone: it is another one that finds no room.
    faults.full.store(true, Ordering::Release);
    appliance.discard_copy_volume("v").unwrap_err();
    faults.full.store(false, Ordering::Release);
    assert!(appliance.create_copy([1; 32], &called(8, "h")).await.is_err(), "it was not made for that one");
    let copy = appliance.create_copy([1; 32], &called(7, "g")).await.unwrap();
    assert_eq!(appliance.group_of("v").as_deref(), Some("g"));
    assert!(left.is_made_for("g"));
    copy.stop().await;
}

/// Invariant 8: whoever took over and does not run, because a disk of it is missing, is the primary all the same. The old one served on
/// for as long as that lasted, and both had writes of their own.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_is_fenced_by_who_took_over_also_when_that_does_not_run() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let answer = |role, theirs| {
        let record = GroupRecord { role, generation: 2, ..GroupRecord::new("g", [7; 16]) };
        let engine = Engine::Failed("its journal is not there".into());
        let group = Group::new(Arc::new(GroupKeeper::new(appliance.catalog.clone(), record)), engine.clone());
        let refused = appliance.turned_down(&group, &engine, &[1; 32], theirs);
        (refused.refusal, refused.generation)
    };
    assert_eq!(answer(RoleRecord::Primary, 1), (Refusal::Fenced, 2));
    assert_eq!(answer(RoleRecord::Primary, 2), (Refusal::Unready, 2));
    assert_eq!(answer(RoleRecord::Secondary, 1), (Refusal::Unready, 2), "it may be the caller's copy");
}
