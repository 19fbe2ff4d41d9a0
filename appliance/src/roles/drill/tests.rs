use std::sync::atomic::Ordering;

use tidemark_common::api::types::DrillResult;
use tidemark_common::catalog::{GroupRecord, KeptMarkerRecord, RoleRecord};
use tidemark_common::ids::GroupId;

use super::*;
use crate::service::tests::{Faults, add_image, appliance};

fn under_way(number: u64) -> DrillRecord {
    DrillRecord {
        number,
        group: "g".into(),
        group_id: [7; 16],
        marker: 5,
        marker_ns: 0,
        started_ns: 0,
        took_ms: 0,
        rto_ms: None,
        rpo_ms: None,
        check: None,
        exit_code: None,
        result: DrillResultRecord::Running,
        output: String::new(),
        exports: Vec::new(),
        scheduled: false,
        lag: Vec::new(),
    }
}

/// A kill has left a drill that was under way, and its clone.
#[tokio::test(flavor = "multi_thread")]
async fn drills_left_by_a_kill_hold_up_no_start_on_a_full_disk() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_drill(&under_way(1)).unwrap();
    add_image(&appliance, &clone_name(1), ImageKindRecord::Drill { space_bytes: 0 });

    faults.full.store(true, Ordering::Release);
    appliance.open_drills().await.unwrap();
    let shown = appliance.past_drill(1).unwrap();
    assert!(shown.reason.is_some_and(|reason| reason.starts_with("interrupted")), "it is known how it ended");
    assert_eq!(appliance.images_now().len(), 1, "its clone is listed as long as it is there");

    faults.full.store(false, Ordering::Release);
    appliance.clean_up_drills().await;
    let recorded = appliance.catalog.drill(1).unwrap().unwrap();
    assert!(matches!(recorded.result, DrillResultRecord::Failed { .. }), "{recorded:?}");
    assert!(appliance.images_now().is_empty() && appliance.catalog.images().unwrap().is_empty());
}

/// A copy that no drill proves any more is not said to be proven, whatever the catalogue takes.
#[tokio::test(flavor = "multi_thread")]
async fn how_a_drill_ended_is_known_though_the_catalogue_is_full_and_recorded_later() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_drill(&under_way(1)).unwrap();
    let result = DrillResultRecord::Failed { reason: "the check ended with exit code 1".into() };
    faults.full.store(true, Ordering::Release);
    appliance.keep_drill(&DrillRecord { result, output: "no table".into(), ..under_way(1) });
    let shown = appliance.past_drill(1).unwrap();
    assert_eq!((shown.result, shown.output.as_str()), (DrillResult::Failed, "no table"));
    assert_eq!(appliance.listed_drills().unwrap().len(), 1);
    assert_eq!(appliance.drills.begin("g", None, |_| false).unwrap().this.number, 2, "its number is taken");

    faults.full.store(false, Ordering::Release);
    appliance.clean_up_drills().await;
    assert!(appliance.drills.left.lock().records.is_empty());
    let recorded = appliance.catalog.drill(1).unwrap().unwrap();
    assert!(matches!(recorded.result, DrillResultRecord::Failed { .. }), "{recorded:?}");
}

/// A list of a thousand drills had 23 MB of how old copies had been.
#[tokio::test(flavor = "multi_thread")]
async fn how_old_the_copy_was_is_shown_of_one_drill_and_not_listed() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.keep_drill(&DrillRecord { result: DrillResultRecord::Passed, lag: vec![(10, 500)], ..under_way(1) });
    assert!(appliance.listed_drills().unwrap()[0].lag.is_empty());
    assert_eq!(appliance.past_drill(1).unwrap().lag, [(10.0, 0.5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_old_the_copy_of_a_group_was_that_is_no_more_is_forgotten() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.drills.lag.lock().insert("gone".into(), [(Duration::ZERO, 7)].into());
    appliance.note_lag();
    assert!(appliance.drills.lag.lock().is_empty());
}

/// The catalogue's disk does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn status_waits_for_no_disk_to_say_what_is_proven() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let role = RoleRecord::Fenced { by_generation: 2 };
    appliance.catalog.put_group(&GroupRecord { role, ..GroupRecord::new("g", [7; 16]) }).unwrap();
    appliance.start_groups().await.unwrap();
    let proof = DrillRecord { result: DrillResultRecord::Passed, ..under_way(1) };
    appliance.drills.past.lock().insert(1, proof);
    let kept = |time_ns| KeptMarkerRecord { number: 5, boundary_seq: 0, time_ns, tag: None };
    let proven = || appliance.drills_of("g").proven_marker;
    appliance.catalog.put_markers(GroupId([7; 16]), &[kept(0)]).unwrap();
    appliance.keep_proofs();
    assert_eq!(proven(), Some(5));
    // Its number was given again.
    appliance.catalog.put_markers(GroupId([7; 16]), &[kept(1)]).unwrap();
    appliance.keep_proofs();
    assert_eq!(proven(), None);
    let (hang, before) = (faults.hang.lock(), faults.writes.load(Ordering::Acquire));
    let writes = Arc::clone(&appliance);
    let writing = std::thread::spawn(move || writes.catalog.put_drill(&under_way(2)));
    while faults.writes.load(Ordering::Acquire) == before {
        std::thread::yield_now();
    }
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let asks = Arc::clone(&appliance);
    let asking = std::thread::spawn(move || tell.send(asks.drills_of("g").proven_marker));
    let answer = told.recv_timeout(Duration::from_secs(20));
    drop(hang);
    assert_eq!(answer, Ok(None), "nobody waits");
    asking.join().unwrap().unwrap();
    writing.join().unwrap().unwrap();
}

#[test]
fn what_a_group_has_proven_stays_however_often_others_are_rehearsed() {
    let drill = |number, group: u8, passes| {
        let result = DrillResultRecord::Failed { reason: String::new() };
        let result = if passes { DrillResultRecord::Passed } else { result };
        (number, DrillRecord { group_id: [group; 16], result, ..under_way(number) })
    };
    let mut past: BTreeMap<_, _> =
        [drill(1, 1, true), drill(2, 1, true), drill(3, 1, false), drill(4, 2, true), drill(5, 3, false)].into();
    past.extend((6..=9).map(|number| drill(number, 9, number == 7)));
    let gone = std::iter::from_fn(|| oldest_of_no_use(&past, |_| true).inspect(|number| drop(past.remove(number))));
    assert_eq!(gone.collect::<Vec<_>>(), [1, 6, 8]);
    assert_eq!(
        past.into_keys().collect::<Vec<_>>(),
        [2, 3, 4, 5, 7, 9],
        "what was proven last, and how the last ended"
    );
}

/// Somebody rehearsed an older marker last, and status fell back to that when there were many drills.
#[test]
fn the_newest_marker_that_was_proven_stays_whatever_is_rehearsed_later() {
    let drill = |number, marker| {
        let result = DrillResultRecord::Passed;
        (number, DrillRecord { group_id: [1; 16], marker, result, ..under_way(number) })
    };
    let mut past: BTreeMap<_, _> = [drill(1, 90), drill(2, 100), drill(3, 7), drill(4, 5), drill(5, 7)].into();
    let gone = std::iter::from_fn(|| oldest_of_no_use(&past, |_| true).inspect(|number| drop(past.remove(number))));
    assert_eq!(gone.collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(past.into_keys().collect::<Vec<_>>(), [2, 5]);
}

/// Groups that come and go, each rehearsed: the records of all of them were kept, and read by every start.
#[test]
fn drills_of_groups_that_were_deleted_make_room_for_those_of_others() {
    let drill = |number, group: u8| {
        (number, DrillRecord { group_id: [group; 16], result: DrillResultRecord::Passed, ..under_way(number) })
    };
    let mut past: BTreeMap<_, _> = [drill(1, 1), drill(2, 2), drill(3, 3), drill(4, 3)].into();
    let is_here = |group: [u8; 16]| group == [1; 16];
    let gone = std::iter::from_fn(|| oldest_of_no_use(&past, is_here).inspect(|number| drop(past.remove(number))));
    assert_eq!(gone.collect::<Vec<_>>(), [2, 3, 4]);
}

/// A disk that has hung keeps no drill under way: none of its group would follow, and nobody could end it.
#[tokio::test]
async fn what_a_disk_never_answers_ends_with_its_time_or_on_request() {
    let drills = Drills::default();
    let running = drills.begin("g", None, |_| false).unwrap();
    let never = std::future::pending::<Result<(), String>>;
    let late = running.answer(Duration::ZERO, never()).await.unwrap_err();
    assert!(late.contains("did not answer"), "{late}");
    assert_eq!(running.answer(Duration::ZERO, async { Ok(7) }).await, Ok(7));
    running.this.cancelled.cancel();
    assert_eq!(running.answer(Duration::MAX, never()).await, Err(CANCELLED.to_owned()));
    drills.stop.cancel();
    assert!(running.answer(Duration::MAX, never()).await.unwrap_err().contains("the service stopped"));
}

/// Schedules that came due while the disk of the catalogue hung kept all threads that an appliance has for peers and operators.
#[test]
fn who_waits_for_a_schedule_to_be_recorded_keeps_no_thread_of_a_runtime() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let appliance = appliance(directory.path(), &faults);
    let recording = appliance.drills.recording.lock();
    let waits = Arc::clone(&appliance);
    let waiting = runtime.spawn(async move { waits.unschedule_drill("g") });
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move { tell.send(()) });
    let answered = told.recv_timeout(Duration::from_secs(20));
    drop(recording);
    assert_eq!(answered, Ok(()), "no thread is left");
    assert!(runtime.block_on(waiting).unwrap().is_err(), "there is no such schedule");
    drop(inside);
}

/// A drill took up to twice its time: the check had all of it, whatever the first reads had taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_has_what_the_first_reads_have_left_of_the_time() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let record = under_way(1);
    add_image(&appliance, &clone_name(1), ImageKindRecord::Drill { space_bytes: 0 });
    let clone = appliance.images_now().remove(0);
    let running = appliance.drills.begin("g", None, |_| false).unwrap();
    let request = DrillRun { marker: None, check: Some("true".into()), timeout_ms: 600_000, mount: false };
    let over = appliance.clock.monotonic();
    let checked = appliance.check(&record, &clone, &request, &running, over).await;
    assert!(checked.failure.is_some_and(|failure| failure.contains("raise --timeout")));
}

#[test]
fn a_schedule_that_was_ended_or_replaced_begins_no_drill() {
    let drills = Drills::default();
    let due =
        ScheduleRecord { group: "g".into(), every_ms: 1000, check: None, timeout_ms: 1000, mount: false, last_ns: 5 };
    let refusal = |drills: &Drills| drills.begin("g", Some(&due), |_| false).err().map(|error| error.message);
    assert!(refusal(&drills).is_some_and(|message| message.contains("ended or replaced")));
    drills.schedules.lock().insert("g".into(), ScheduleRecord { last_ns: 0, ..due.clone() });
    assert!(refusal(&drills).is_some_and(|message| message.contains("ended or replaced")));
    assert!(drills.begin("g", None, |_| false).is_ok(), "who asks for one by hand gets it");
    drills.schedules.lock().insert("g".into(), due.clone());
    assert_eq!(refusal(&drills), None);
}

/// One that fell due while another was under way was left out until its next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_falls_due_while_another_is_under_way_begins_when_that_has_ended() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let role = RoleRecord::Fenced { by_generation: 2 };
    appliance.catalog.put_group(&GroupRecord { role, ..GroupRecord::new("g", [7; 16]) }).unwrap();
    appliance.start_groups().await.unwrap();
    let schedule =
        ScheduleRecord { group: "g".into(), every_ms: 1000, check: None, timeout_ms: 1000, mount: false, last_ns: 7 };
    appliance.catalog.put_schedule(&schedule).unwrap();
    appliance.drills.schedules.lock().insert("g".into(), schedule);
    let now = 3_600_000_000_000;
    let other = appliance.drills.begin("g", None, |_| false).unwrap();
    assert!(appliance.due(now).is_empty(), "its time comes when that has ended");
    drop(other);
    let mut due = appliance.due(now);
    assert_eq!((due.len(), appliance.due(now).len()), (1, 0), "it counts as begun");

    // An operator is faster.
    let other = appliance.drills.begin("g", None, |_| false).unwrap();
    appliance.run_scheduled(due.remove(0)).await;
    assert_eq!(appliance.catalog.schedules().unwrap()[0].last_ns, 7, "it has not begun, for the next start either");
    drop(other);
    assert_eq!(appliance.due(now).len(), 1);
}

#[test]
fn volumes_that_would_share_a_variable_have_none() {
    let volumes = ["u", "U", "a.b", "a-b", "pg-data"].map(str::to_owned);
    let ends: Vec<_> = volumes.iter().map(|volume| own_variable(volume, &volumes)).collect();
    assert_eq!(ends, [None, None, None, None, Some("PG_DATA".to_owned())]);
    let note = note_of_unnamed(&volumes);
    assert!(note.starts_with("volumes u, U, a.b, a-b have no variables"), "{note}");
    assert_eq!(note_of_unnamed(&volumes[3..]), "");
}

/// Any user of the machine could make the folder of the next drill before it, and of each after that: none passed.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_made_the_folder_of_a_drill_before() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let folders = [(); 2].map(|()| appliance.make_drill_folder(7).unwrap());
    assert_ne!(folders[0], folders[1]);
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&appliance.drill_folder_prefix()), "a start finds what a kill has left: {name}");
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o711);
        std::fs::remove_dir(folder).unwrap();
    }
}
