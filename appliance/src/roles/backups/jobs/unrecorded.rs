//! Ends of backups that the catalogue has not taken: known all the same, and tried again until it takes them.

use std::collections::BTreeMap;

use tidemark_backup::destination::TargetKind;
use tidemark_common::catalog::{BackupRecord, BackupStateRecord, CatalogError};
use tidemark_common::workers;

use super::settle;
use crate::roles::appliance::Appliance;

/// How backups ended, by name, and what their targets are where that is known.
pub(in crate::roles::backups) type Unrecorded = BTreeMap<String, (BackupRecord, Option<TargetKind>)>;

impl Appliance {
    /// What is recorded of a backup, or would be.
    pub(super) fn known_backup(&self, name: &str) -> Result<Option<BackupRecord>, CatalogError> {
        let unrecorded = self.backups.unrecorded.lock().get(name).map(|(record, _)| record.clone());
        unrecorded.map_or_else(|| self.catalog.backup(name), |record| Ok(Some(record)))
    }

    /// Records what could not be recorded before.
    pub(crate) fn record_ends_of_backups(&self) {
        // Nobody deletes one meanwhile, or begins another of its name.
        let Ok(_alone) = self.backups.changing.try_lock() else { return };
        let unrecorded: Vec<_> = self.backups.unrecorded.lock().values().cloned().collect();
        for (record, kind) in unrecorded {
            match self.catalog.put_backup(&record) {
                Ok(()) => {
                    self.backups.unrecorded.lock().remove(&record.name);
                    if record.state == BackupStateRecord::Done {
                        workers::wait(|| settle(&record.name, kind.as_ref(), &self.whose()));
                    }
                }
                Err(error) => self.say_unrecorded(&record.name, &error),
            }
        }
    }

    /// It stays known here.
    pub(super) fn say_unrecorded(&self, backup: &str, error: &CatalogError) {
        self.say_tried_again(&format!("how backup '{backup}' ended could not be recorded: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use tidemark_backup::copy::CopyError;
    use tidemark_common::api::backup::types::BackupState;
    use tidemark_common::catalog::WhileDifferentialRecord;

    use super::*;
    use crate::roles::appliance::CANCELLED;
    use crate::service::tests::{Faults, appliance};

    fn copying(name: &str) -> BackupRecord {
        BackupRecord {
            name: name.into(),
            sets: Vec::new(),
            order: "given".into(),
            to: "-".into(),
            at_ns: None,
            rate: None,
            when_idle: false,
            while_differential: WhileDifferentialRecord::Copy,
            state: BackupStateRecord::Copying,
            reason: None,
            asked_ns: 0,
            began_ns: Some(1),
            ended_ns: None,
            moments: Vec::new(),
            done_bytes: 0,
            total_bytes: 9,
        }
    }

    /// Known as one that is copied, it could be neither cancelled nor deleted.
    #[tokio::test(flavor = "multi_thread")]
    async fn how_a_backup_ended_is_known_though_the_catalogue_is_full_and_recorded_later() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        appliance.catalog.put_backup(&copying("nightly")).unwrap();
        let (job, _readers) = appliance.new_job(copying("nightly"));
        faults.full.store(true, Ordering::Release);
        appliance.end(&job, Err(CopyError::Stopped(CANCELLED.into())));
        appliance.record_ends_of_backups();
        assert_eq!(appliance.show_backup("nightly").unwrap().state, BackupState::Cancelled);
        let listed = appliance.list_backups().unwrap();
        assert_eq!(listed.iter().map(|backup| backup.state).collect::<Vec<_>>(), [BackupState::Cancelled]);

        faults.full.store(false, Ordering::Release);
        appliance.record_ends_of_backups();
        let recorded = appliance.catalog.backup("nightly").unwrap().unwrap();
        assert_eq!(recorded.state, BackupStateRecord::Cancelled);
        assert!(appliance.backups.unrecorded.lock().is_empty());
        appliance.delete_backup("nightly").await.unwrap();
        assert_eq!(appliance.catalog.backup("nightly").unwrap(), None);
    }
}
