//! What is said of backups. Nobody who asks waits for a target.

use std::sync::Arc;

use tidemark_backup::copy::Progress;
use tidemark_common::api::backup::types::{BackupInfo, BackupProgress, BackupState, SetCreate};
use tidemark_common::api::types::{ErrorBody, GroupMoment};
use tidemark_common::catalog::BackupRecord;
use tidemark_common::clock::from_unix_ns;
use tidemark_common::ids::check_name;

use super::Job;
use crate::roles::appliance::{Appliance, failed, invalid, not_found};

impl Appliance {
    /// `backup list`. No target is looked at, which may answer late, or never.
    pub(in crate::roles::backups) fn list_backups(&self) -> Result<Vec<BackupInfo>, ErrorBody> {
        let mut listed: std::collections::BTreeMap<String, BackupInfo> = std::collections::BTreeMap::new();
        for record in self.catalog.backups().map_err(failed)? {
            listed.insert(record.name.clone(), self.info(&record, None));
        }
        for (name, (record, _)) in &*self.backups.unrecorded.lock() {
            listed.insert(name.clone(), self.info(record, None));
        }
        let jobs: Vec<_> = self.backups.jobs.lock().values().cloned().collect();
        for job in jobs {
            let record = job.record.lock().clone();
            listed.insert(record.name.clone(), self.info(&record, Some(&job.progress)));
        }
        Ok(listed.into_values().collect())
    }

    fn info(&self, record: &BackupRecord, progress: Option<&Progress>) -> BackupInfo {
        let place = self.backups.places.lock().get(&record.name).cloned().flatten();
        BackupInfo { place, ..told_of(record, progress) }
    }

    /// For status: those that wait or copy.
    pub(crate) fn backups_now(&self) -> Vec<BackupInfo> {
        let jobs: Vec<_> = self.backups.jobs.lock().values().cloned().collect();
        let told = jobs.iter().map(|job| told_of(&job.record.lock(), Some(&job.progress)));
        told.filter(|backup| matches!(backup.state, BackupState::Waiting | BackupState::Copying)).collect()
    }

    /// `backup show`.
    pub(in crate::roles::backups) fn show_backup(&self, name: &str) -> Result<BackupInfo, ErrorBody> {
        let (record, job) = self.find_backup(name)?;
        Ok(self.info(&record, job.as_ref().map(|job| &job.progress)))
    }

    /// What is known of a backup, whatever its target answers, and its job for as long as it is not over.
    pub(super) fn find_backup(&self, name: &str) -> Result<(BackupRecord, Option<Arc<Job>>), ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        let job = self.backups.jobs.lock().get(name).cloned();
        if let Some(job) = job {
            let record = job.record.lock().clone();
            return Ok((record, Some(job)));
        }
        let found = self.known_backup(name).map_err(failed)?;
        let missing = || not_found(format!("there is no backup '{name}': `tidemark backup list` lists the backups"));
        found.map(|record| (record, None)).ok_or_else(missing)
    }
}

/// What is known of a backup without looking at its target.
fn told_of(record: &BackupRecord, progress: Option<&Progress>) -> BackupInfo {
    let told = progress.map(Progress::told).unwrap_or_default();
    let over = BackupState::from(record.state).is_over();
    BackupInfo {
        name: record.name.clone(),
        state: record.state.into(),
        reason: record.reason.clone(),
        sets: record
            .sets
            .iter()
            .map(|set| SetCreate { name: set.name.clone(), extents: set.extents.clone() })
            .collect(),
        order: record.order.clone(),
        to: record.to.clone(),
        place: None,
        at: record.at_ns.map(from_unix_ns),
        rate: record.rate,
        when_idle: record.when_idle,
        while_differential: record.while_differential.into(),
        asked: from_unix_ns(record.asked_ns),
        began: record.began_ns.map(from_unix_ns),
        ended: record.ended_ns.map(from_unix_ns),
        moments: record
            .moments
            .iter()
            .map(|(group, marker, time)| GroupMoment {
                group: group.clone(),
                marker: *marker,
                time: from_unix_ns(*time),
            })
            .collect(),
        progress: BackupProgress {
            done_bytes: if over { record.done_bytes } else { told.done_bytes },
            total_bytes: record.total_bytes,
            bytes_per_second: told.bytes_per_second,
            seconds_left: told.seconds_left,
            member: told.member,
            stalled_seconds: told.stalled.map(|stalled| stalled.as_secs_f64()),
        },
    }
}
