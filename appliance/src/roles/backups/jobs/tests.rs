//! What befalls a backup before it copies.

use tidemark_common::api::backup::types::{BackupOrder, WhileDifferential};
use tidemark_common::catalog::SetRecord;

use super::*;
use crate::service::tests::{Faults, appliance};

/// What must not take long at all.
const SOON: Duration = Duration::from_secs(20);

/// How long it takes to find what is to be copied, others decide: here, who changes groups.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_has_not_begun_keeps_no_other_waiting_and_is_cancelled() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    appliance.catalog.put_set(&SetRecord { name: "s".into(), extents: vec!["a".into()] }).unwrap();
    let request = BackupCreate {
        name: "b".into(),
        sets: vec!["s".into()],
        order: BackupOrder::Given,
        to: directory.path().join("b.tar").to_str().unwrap().into(),
        at: None,
        rate: None,
        when_idle: false,
        while_differential: WhileDifferential::Merge,
    };
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
