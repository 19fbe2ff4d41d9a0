use tidemark_common::api::types::Failover;
use tidemark_common::catalog::Batch;
use tidemark_common::markers::kept;
use tidemark_common::record::{MarkerRecord, Place};

use super::*;
use crate::roles::give_up::tests::add_copy_with_history;
use crate::service::tests::{Faults, add_copy, appliance, copy_record, with_copy};

/// As a kill leaves it right before the cut of a failover to an older marker: what is kept is the journal that the copy goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_journal_still_is_neither_listed_nor_opened_as_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (appliance, _, ()) = with_copy(directory.path(), &Arc::default(), add_copy).await;
    let (journal, lost) = (appliance.journal_folder(GroupId([7; 16])), appliance.lost_folder(GroupId([7; 16])));
    let (same, copied) = (lost.join(tail_name(0, 5)), lost.join(tail_name(0, 6)));
    [&same, &copied].into_iter().for_each(|tail| std::fs::create_dir_all(tail).unwrap());
    for name in appliance.disk.list(&journal).unwrap().into_iter().filter(|name| name.ends_with(".segment")) {
        std::fs::hard_link(journal.join(&name), same.join(&name)).unwrap();
        std::fs::copy(journal.join(&name), copied.join(&name)).unwrap();
    }
    let listed: Vec<String> = appliance.lost("g").unwrap().into_iter().map(|tail| tail.name).collect();
    assert_eq!(listed, [tail_name(0, 6)]);
    let to = directory.path().join("exported").display().to_string();
    let refused = appliance.export_lost("g", &tail_name(0, 5), &LostExport { volume: "v".into(), to }).unwrap_err();
    assert!(refused.message.contains("was lost"), "{refused:?}");
    appliance.stop_groups().await;
}

/// As a kill leaves it right before that cut, where all of it lies in the newest segment, which is copied.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_had_kept_that_did_not_cut_goes_with_the_next_start() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let record = copy_record("g", [7; 16]);
    let id = GroupId(record.id);
    let newest = MarkerRecord { number: 7, boundary_seq: 0, time_ns: 0, freeze_ns: 0, tag: None };
    let mut batch = Batch::new();
    batch.put_group(&record).unwrap();
    batch.put_markers(id, &[kept(&newest)]).unwrap();
    appliance.catalog.commit(batch).unwrap();
    let tails = [tail_name(1, 5), tail_name(1, 7), tail_name(0, 5)].map(|name| appliance.lost_folder(id).join(name));
    tails.iter().for_each(|tail| std::fs::create_dir_all(tail).unwrap());
    appliance.start_groups().await.unwrap();
    assert_eq!(tails.map(|tail| tail.exists()), [false, true, true], "no more than what the copy has");
    appliance.stop_groups().await;
}

/// Killed behind the cut, what came again was less than what was kept, and the next start removed that: only this side had had it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_had_kept_stays_as_long_as_the_journal_does_not_have_all_of_it() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    add_copy_with_history(&appliance);
    let id = GroupId([7; 16]);
    let (journal, lost) = (appliance.journal_folder(id), appliance.lost_folder(id));
    let (same, more) = (lost.join(tail_name(1, 1)), lost.join(tail_name(1, 2)));
    for tail in [&same, &more] {
        std::fs::create_dir_all(tail).unwrap();
        for name in appliance.disk.list(&journal).unwrap().into_iter().filter(|name| name.ends_with(".segment")) {
            std::fs::copy(journal.join(&name), tail.join(&name)).unwrap();
        }
    }
    let (disk, options) = (Arc::clone(&appliance.disk), appliance.journal_options());
    let mut writer = journal::open(disk, &more, id, options, None, &mut |_, _, _| {}).unwrap().writer;
    let tip = writer.tip();
    let marker = MarkerRecord { number: 4, boundary_seq: tip.seq.0, time_ns: 1, freeze_ns: 1, tag: None };
    let frame = ControlRecord::Marker(marker).frame(&Place::at(id, tip)).unwrap();
    writer.append(&frame).unwrap();
    writer.sync().unwrap();
    drop(writer);
    appliance.start_groups().await.unwrap();
    assert_eq!([&same, &more].map(|tail| tail.exists()), [false, true]);
    // Nor is it replaced by what is there now.
    let request = Failover { force: true, marker: Some(2), time: None };
    let told = appliance.fail_over("g", &request).await.unwrap_err();
    assert!(told.message.contains("lost discard g generation-1-after-marker-2"), "{told:?}");
    assert!(more.exists());
    appliance.stop_groups().await;
}

/// Broken off, the command's export goes on: given again, it wrote into the same file, which had its name before all of it was there.
#[tokio::test(flavor = "multi_thread")]
async fn two_exports_do_not_write_one_file_and_one_under_way_is_in_status() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_group(&copy_record("g", [7; 16])).unwrap();
    appliance.start_groups().await.unwrap();
    let id = GroupId([7; 16]);
    let (journal, tail) = (appliance.journal_folder(id), appliance.lost_folder(id).join(tail_name(0, 6)));
    std::fs::create_dir_all(&tail).unwrap();
    for name in appliance.disk.list(&journal).unwrap().into_iter().filter(|name| name.ends_with(".segment")) {
        std::fs::copy(journal.join(&name), tail.join(&name)).unwrap();
    }
    let to = directory.path().join("exported").display().to_string();
    let request = LostExport { volume: "v".into(), to: to.clone() };
    let export = || appliance.export_lost("g", &tail_name(0, 6), &request).unwrap_err().message;
    let under_way = appliance.lost_exports.begin("g", &tail_name(0, 6), &request).unwrap();
    under_way.reaches(1, 4);
    let shown = appliance.status_now().lost_exports;
    assert_eq!(shown.iter().map(|one| (&*one.to, one.progress.done_bytes)).collect::<Vec<_>>(), [(&*to, 1)]);
    assert!(export().contains("is writing") && export().contains(&to), "{}", export());
    drop(under_way);
    assert!(export().contains("knows no volume"), "{}", export());
    assert!(appliance.status_now().lost_exports.is_empty());
    appliance.stop_groups().await;
}

#[test]
fn a_tail_is_named_by_where_it_begins() {
    assert_eq!(parse(&tail_name(3, 41)), Some((3, 41)));
    assert_eq!(parse("something else"), None);
}

#[test]
fn a_tail_reaches_back_to_what_is_not_recorded_as_applied() {
    let at = |segment| Some(Position { segment, offset: 4096 });
    assert_eq!(first_segment(at(7), at(9)), 7, "as always");
    assert_eq!(first_segment(at(7), at(5)), 5, "the record of the rest failed");
    assert_eq!(first_segment(at(7), None), 0);
    assert_eq!(first_segment(None, at(9)), 0, "all of it");
}

#[test]
fn a_volume_is_found_by_what_the_tail_holds_of_it_and_never_by_nothing() {
    let of = |name: &str| (name.to_owned(), 4096);
    let named = Named::from([(0, of("v")), (1, of("w")), (2, of("w")), (3, of("x")), (4, of("x"))]);
    let some = || vec![LostRange { offset: 0, length: 4096 }];
    let written = Ranges::from([(1, some()), (3, some()), (4, some()), (7, some())]);
    assert_eq!(index_of("w", &named, &written), Ok(1), "it came again under another index");
    assert_eq!(index_of("7", &named, &written), Ok(7), "one without a name");
    assert_eq!(index_of("4", &named, &written), Ok(4));
    for (wanted, why) in [("v", "holds nothing"), ("0", "knows no"), ("u", "knows no"), ("x", "--volume 3, --volume 4")]
    {
        let refused = index_of(wanted, &named, &written).unwrap_err();
        assert!(refused.contains(why), "{wanted}: {refused}");
    }
}
