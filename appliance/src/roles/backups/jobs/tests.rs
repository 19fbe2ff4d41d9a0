//! What befalls a backup before it copies.

use std::sync::atomic::Ordering;

use tidemark_common::api::backup::types::{BackupOrder, WhileDifferential};
use tidemark_common::catalog::SetRecord;

use super::*;
use crate::service::tests::{Faults, appliance};

/// What must not take long at all.
const SOON: Duration = Duration::from_secs(20);

/// Of a set that is there, to a file in the directory.
fn request(directory: &std::path::Path, at: Option<jiff::Timestamp>) -> BackupCreate {
    BackupCreate {
        name: "b".into(),
        sets: vec!["s".into()],
        order: BackupOrder::Given,
        to: directory.join("b.tar").to_str().unwrap().into(),
        at,
        rate: None,
        when_idle: false,
        while_differential: WhileDifferential::Merge,
    }
}

/// The service stops, and it has not begun though its time has come: the next start begins it.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_backup_whose_time_has_come_is_said_to_wait_and_is_not_ended_by_a_stop() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_set(&SetRecord { name: "s".into(), extents: vec!["a".into()] }).unwrap();
    let changing = appliance.changing.lock().await;
    let at = appliance.clock.wall() + jiff::SignedDuration::from_secs(3);
    assert_eq!(
        appliance.create_backup(request(directory.path(), Some(at))).await.unwrap().state,
        BackupState::Scheduled
    );
    let waits = async {
        while appliance.show_backup("b").unwrap().state != BackupState::Waiting {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waits).await.expect("it is said to wait for its time");
    appliance.stop_backups().await;
    let job = appliance.backups.jobs.lock().get("b").cloned().unwrap();
    assert_eq!(job.stop.reason(), None);
    assert_eq!(appliance.catalog.backup("b").unwrap().unwrap().state, BackupStateRecord::Scheduled);
    drop(changing);
}

/// It was listed until the service ended, and could be neither cancelled nor asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_backup_that_could_not_be_recorded_is_none() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_set(&SetRecord { name: "s".into(), extents: vec!["a".into()] }).unwrap();
    let request = request(directory.path(), Some(appliance.clock.wall() + jiff::SignedDuration::from_secs(3600)));
    faults.full.store(true, Ordering::Release);
    appliance.create_backup(request.clone()).await.unwrap_err();
    assert!(appliance.backups.jobs.lock().is_empty());
    faults.full.store(false, Ordering::Release);
    assert_eq!(appliance.create_backup(request).await.unwrap().state, BackupState::Scheduled);
}

/// How long it takes to find what is to be copied, others decide: here, who changes groups.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_has_not_begun_keeps_no_other_waiting_and_is_cancelled() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_set(&SetRecord { name: "s".into(), extents: vec!["a".into()] }).unwrap();
    let request = request(directory.path(), None);
    let changing = appliance.changing.lock().await;
    let here = Arc::clone(&appliance);
    let creating = tokio::spawn(async move { here.create_backup(request).await });
    let job = loop {
        let found = appliance.backups.jobs.lock().get("b").cloned();
        match found {
            Some(job) => break job,
            None => tokio::task::yield_now().await,
        }
    };
    let deleted = tokio::time::timeout(SOON, appliance.delete_backup("another")).await;
    assert!(deleted.expect("it waits for the other").unwrap_err().message.contains("no backup 'another'"));
    let here = Arc::clone(&appliance);
    let cancelling = tokio::spawn(async move { here.cancel_backup("b").await });
    while job.stop.reason().is_none() {
        tokio::task::yield_now().await;
    }
    drop(changing);
    assert!(creating.await.unwrap().is_err());
    assert_eq!(cancelling.await.unwrap().unwrap().state, BackupState::Cancelled);
    assert!(appliance.backups.jobs.lock().is_empty());
}
