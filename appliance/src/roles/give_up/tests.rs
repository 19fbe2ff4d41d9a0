//! What is given up, and what is kept of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_common::api::types::DrillSchedule;
use tidemark_common::catalog::HistoryRecord;
use tidemark_common::extent::Extent;
use tidemark_common::history::History;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::journal::{self, Position};
use tidemark_common::nbd::Export;
use tidemark_common::record::{ControlRecord, FrameBuilder, FrameHeader, FrameKind, MarkerRecord, Place, Tip};
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::filter::{self, Filter};

use super::*;
use crate::roles::appliance::Volume;
use crate::service::tests::{
    Faults, add_copy, add_primary, add_volume, appliance, copy_of, copy_record, group_of, volume_in_doubt, with_copy,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_forgotten_follows_until_it_can() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let (appliance, _, ()) = with_copy(directory.path(), &faults, add_copy).await;
    faults.full.store(true, Ordering::Release);
    appliance.delete_pair("g", "east", false).await.unwrap_err();
    assert!(!copy_of(&appliance.group("g").unwrap()).state().is_stopping(), "it runs");
    faults.full.store(false, Ordering::Release);
    let group = appliance.group("g").unwrap();
    appliance.delete_pair("g", "east", false).await.unwrap();
    assert!(appliance.group("g").is_err());
    // As its primary's call, when that came just before.
    group.keeper.update(|record| record.generation = 2).unwrap_err();
    assert_eq!(appliance.catalog.groups().unwrap(), []);
}

fn marker(number: u64, tip: &Tip) -> Bytes {
    let marker = MarkerRecord { number, boundary_seq: tip.seq.0, time_ns: 1, freeze_ns: 1, tag: None };
    ControlRecord::Marker(marker).frame(&Place::at(GroupId([7; 16]), tip)).unwrap().into()
}

fn discard(tip: &Tip) -> Bytes {
    let mut builder = FrameBuilder::new();
    builder.push_zero(Extent { volume: VolumeIndex(1), offset: 0, length: 4096 }, true);
    let seq = tip.seq.next();
    builder.finish(FrameKind::Writes, &Place { first_seq: seq, last_seq: seq, ..Place::at(GroupId([7; 16]), tip) })
}

/// A copy of group 'g', not yet started, with a history: a marker, a write, two markers. Where they lie.
pub(crate) fn add_copy_with_history(appliance: &Appliance) -> [Position; 4] {
    let history = History { milliseconds: 86_400_000, bytes: 0 };
    let frames: [fn(&Tip) -> Bytes; 4] = [|tip| marker(1, tip), discard, |tip| marker(2, tip), |tip| marker(3, tip)];
    let places = add_copy_of(appliance, history, frames);
    let mut batch = Batch::new();
    let record = HistoryRecord { segment: 0, offset: 0, volumes: Vec::new() };
    batch.put_history(GroupId([7; 16]), &record).unwrap();
    appliance.catalog.commit(batch).unwrap();
    places
}

fn add_copy_of<const N: usize>(
    appliance: &Appliance,
    history: History,
    frames: [fn(&Tip) -> Bytes; N],
) -> [Position; N] {
    let record = GroupRecord { history, ..copy_record("g", [7; 16]) };
    appliance.catalog.put_group(&record).unwrap();
    let id = GroupId(record.id);
    let (disk, folder) = (Arc::clone(&appliance.disk), appliance.journal_folder(id));
    let opened = journal::open(disk, &folder, id, appliance.journal_options(), None, &mut |_, _, _| {});
    let (mut writer, mut tip) = (opened.unwrap().writer, Tip::default());
    let places = frames.map(|make| {
        let frame = make(&tip);
        tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
        writer.append(&frame).unwrap()
    });
    writer.sync().unwrap();
    places
}

/// The kernel gives up pages that it could not write, and the journal that has them would go.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_volumes_may_have_dropped_something_is_not_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let add = |appliance: &Appliance| add_copy_of(appliance, History::default(), [|tip: &Tip| marker(1, tip)]);
    let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add).await;
    copy_of(&group).files().insert(volume_in_doubt());
    let refused = appliance.delete_pair("g", "east", false).await.unwrap_err();
    assert!(refused.message.contains("volume 'v' could not be synced"), "{refused:?}");
    assert!(!copy_of(&appliance.group("g").unwrap()).state().is_stopping(), "it is the copy as before");
    appliance.delete_pair("g", "east", false).await.unwrap();
    assert!(appliance.group("g").is_err());
}

/// A day of it would be gone, and the volumes be those of yesterday.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_newest_marker_is_in_its_journal_alone_is_given_up_by_force_only() {
    let directory = tempfile::tempdir().unwrap();
    let (appliance, _, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
    let refused = appliance.delete_pair("g", "east", false).await.unwrap_err();
    assert!(refused.message.contains("until marker 3 of") && refused.message.contains("--history off"), "{refused:?}");
    assert!(!copy_of(&appliance.group("g").unwrap()).state().is_stopping(), "it runs");
    appliance.delete_pair("g", "east", true).await.unwrap();
    assert!(appliance.group("g").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_deleted_is_served_until_it_can() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let volume = add_primary(&appliance, "g", "v").await;
    faults.full.store(true, Ordering::Release);
    appliance.delete_group("g").await.unwrap_err();
    volume.door.write(0, &[1; 4096], false).await.unwrap();
    faults.full.store(false, Ordering::Release);
    // How far its volumes are could not be recorded either.
    while appliance.primary("g").unwrap().problem().is_some() {
        tokio::task::yield_now().await;
    }
    appliance.delete_group("g").await.unwrap();
    assert!(appliance.group("g").is_err());
    let mut found = [0; 4096];
    volume.door.read(0, &mut found).await.unwrap();
    assert_eq!(found, [1; 4096], "what hosts wrote meanwhile is in the volume");
}

/// Gives it a primary group 'g' over a volume 'v' whose file is behind this filter.
async fn add_primary_over(appliance: &Appliance, filter: &Arc<impl Filter>) -> Arc<Volume> {
    let added = add_volume(appliance, "v").await;
    let record = appliance.catalog.volume("v").unwrap().unwrap();
    let file = filter::file(Arc::clone(&added.file.file), filter);
    let volume = Appliance::over(&record, file, Arc::clone(&added.claim)).unwrap();
    appliance.volumes.write().insert("v".into(), Arc::clone(&volume));
    appliance.create_group(group_of("g", &["v"])).await.unwrap();
    volume
}

/// It did not run any more, until a restart of the service with all its other groups, and status had forgotten why.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_volumes_disk_is_full_is_not_deleted_and_runs_on() {
    let (directory, faults, full) = (tempfile::tempdir().unwrap(), Arc::default(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let volume = add_primary_over(&appliance, &full).await;
    full.full.store(true, Ordering::Release);
    volume.door.write(0, &[1; 4096], true).await.unwrap();
    let primary = appliance.primary("g").unwrap();
    while primary.problem().is_none() {
        tokio::task::yield_now().await;
    }
    let refused = appliance.delete_group("g").await.unwrap_err();
    assert!(refused.message.contains("is not deleted") && refused.message.contains("volume 'v'"), "{refused:?}");
    assert!(Arc::ptr_eq(&primary, &appliance.primary("g").unwrap()), "it was not stopped");
    full.full.store(false, Ordering::Release);
    while primary.problem().is_some() {
        tokio::task::yield_now().await;
    }
    appliance.delete_group("g").await.unwrap();
    let mut found = [0; 4096];
    volume.door.read(0, &mut found).await.unwrap();
    assert_eq!(found, [1; 4096]);
}

/// The next sync fails.
#[derive(Default)]
struct Unsynced(AtomicBool);

impl Filter for Unsynced {
    fn before_sync(&self) -> io::Result<()> {
        if self.0.swap(false, Ordering::AcqRel) { Err(io::Error::other("as in a test")) } else { Ok(()) }
    }
}

/// As above, when that shows only once it is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_volume_is_not_synced_when_it_is_deleted_runs_again() {
    let (directory, faults, unsynced) = (tempfile::tempdir().unwrap(), Arc::default(), Arc::new(Unsynced::default()));
    let appliance = appliance(directory.path(), &faults);
    let volume = add_primary_over(&appliance, &unsynced).await;
    volume.door.write(0, &[1; 4096], true).await.unwrap();
    unsynced.0.store(true, Ordering::Release);
    let refused = appliance.delete_group("g").await.unwrap_err();
    assert!(refused.message.contains("is not deleted") && refused.message.contains("as in a test"), "{refused:?}");
    volume.door.write(0, &[2; 4096], false).await.unwrap();
    appliance.delete_group("g").await.unwrap();
    let mut found = [0; 4096];
    volume.door.read(0, &mut found).await.unwrap();
    assert_eq!(found, [2; 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_deleted_is_rehearsed_no_more_and_neither_is_another_of_its_name() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    add_primary(&appliance, "g", "v").await;
    let schedule = DrillSchedule { every_ms: 60_000, check: None, timeout_ms: 1000, mount: false };
    appliance.schedule_drill("g", &schedule).unwrap();
    appliance.delete_group("g").await.unwrap();
    assert!(appliance.catalog.schedules().unwrap().is_empty());
    assert!(appliance.unschedule_drill("g").is_err(), "there is none any more");
}

/// Invariant 8: tails of before go with what is set aside, and are listed.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_before_is_listed_when_a_fenced_group_is_given_up() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let role = RoleRecord::Fenced { by_generation: 4 };
    let record = GroupRecord { role, generation: 3, ..GroupRecord::new("g", [7; 16]) };
    appliance.catalog.put_group(&record).unwrap();
    appliance.start_groups().await.unwrap();
    let group = appliance.group("g").unwrap();
    let tail = appliance.lost_folder(group.keeper.id()).join("generation-1-after-marker-5");
    fs::create_dir_all(&tail).unwrap();
    fs::write(tail.join("held"), "").unwrap();
    appliance.forget_group("g", &group, Some(Generation(4))).await.unwrap();
    let listed = appliance.lost("g").unwrap();
    let [lost] = &listed[..] else { panic!("{listed:?}") };
    assert!(lost.name == "generation-1-after-marker-5" && Path::new(&lost.folder).is_dir(), "{lost:?}");
    appliance.discard_lost("g", &lost.name).unwrap();
    assert!(appliance.lost("g").is_err(), "nothing of it is kept any more");
}

/// What becomes durable, in its order.
struct Noting(Mutex<Vec<String>>);

impl Noting {
    fn note(&self, what: &str, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.0.lock().push(format!("{what} {name}"));
    }
}

impl Filter for Noting {
    fn before_rename(&self, from: &Path, _to: &Path) -> io::Result<()> {
        self.note("rename", from);
        Ok(())
    }

    fn before_sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.note("sync", folder);
        Ok(())
    }
}

#[test]
fn a_write_buffer_is_durable_where_it_is_kept_before_its_memory_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (groups, ring) = (directory.path().join("groups"), directory.path().join("07.ring"));
    fs::create_dir_all(groups.join("07")).unwrap();
    fs::write(&ring, "answered").unwrap();
    let noting = Arc::new(Noting(Mutex::default()));
    let disk = filter::disk(Arc::new(SystemDisk), &noting);
    let kept = set_folder_aside(&*disk, &groups.join("07"), &ring, Generation(2)).unwrap().unwrap();
    assert_eq!(fs::read(kept.join("ring")).unwrap(), b"answered");
    assert_eq!(std::mem::take(&mut *noting.0.lock()), ["sync 07", "rename 07", "sync groups"]);
    // Killed behind the rename: whoever goes on forgets the group next.
    assert_eq!(set_folder_aside(&*disk, &groups.join("07"), &ring, Generation(2)).unwrap(), None);
    assert_eq!(*noting.0.lock(), ["sync groups"]);
    let never = directory.path().join("none").join("07");
    assert_eq!(set_folder_aside(&*disk, &never, &ring, Generation(2)).unwrap(), None);
}

#[test]
fn a_name_that_is_taken_is_not_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("07");
    let names: Vec<_> = (0..3)
        .map(|_| {
            let name = free_name(&folder, Generation(2));
            fs::create_dir(&name).unwrap();
            name.file_name().unwrap().to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(names, ["07.fenced-by-2.kept", "07.fenced-by-2-2.kept", "07.fenced-by-2-3.kept"]);
}
