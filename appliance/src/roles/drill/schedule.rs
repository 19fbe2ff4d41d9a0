//! Drills that come due by themselves, and how old copies are meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_common::api::types::{DrillResult, DrillRun, DrillSchedule, ErrorBody, GroupDrills};
use tidemark_common::catalog::{Batch, CatalogError, ScheduleRecord};

use super::check_is_one;
use crate::roles::appliance::{Appliance, failed, invalid, not_found};

/// How old copies were is kept for so many looks.
const LAG_POINTS: usize = 600;

impl Appliance {
    /// Notes how old copies are, and runs what is due.
    pub(crate) fn run_due_drills(self: &Arc<Self>) {
        self.note_lag();
        let now = self.now_ns();
        for due in self.due(now) {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.run_scheduled(due).await });
        }
    }

    pub(super) fn note_lag(&self) {
        let groups: BTreeSet<String> = self.groups.read().keys().cloned().collect();
        let now = self.clock.monotonic();
        // Groups come and go: of those that are no more nothing is kept.
        self.drills.lag.lock().retain(|group, _| groups.contains(group));
        for group in groups {
            if let Some(behind) = self.rpo_ms(&group) {
                let mut lag = self.drills.lag.lock();
                let points = lag.entry(group).or_default();
                points.push_back((now, u32::try_from(behind).unwrap_or(u32::MAX)));
                if points.len() > LAG_POINTS {
                    points.pop_front();
                }
            }
        }
    }

    /// Schedules whose time has come; it counts as begun. Of a group that is being rehearsed it comes when that has ended.
    pub(super) fn due(&self, now: i64) -> Vec<ScheduleRecord> {
        // Not under the lock of the schedules: who begins a drill takes that one second.
        let running: BTreeSet<String> = self.drills.running.lock().keys().cloned().collect();
        let mut due = Vec::new();
        for schedule in self.drills.schedules.lock().values_mut() {
            if running.contains(&schedule.group) {
                continue;
            }
            let every = i64::try_from(schedule.every_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            // A clock that was set back does not keep drills from running.
            if now < schedule.last_ns || now.saturating_sub(schedule.last_ns) >= every {
                schedule.last_ns = now;
                due.push(schedule.clone());
            }
        }
        due
    }

    /// That a drill begins, unless the schedule was ended or replaced meanwhile: the catalogue has what came after it then.
    pub(super) fn note_begin(&self, due: &ScheduleRecord) {
        let _alone = self.drills.recording();
        if !self.drills.is_current(due) {
            return;
        }
        if let Err(error) = self.catalog.put_schedule(due) {
            tracing::warn!(group = %due.group, %error, "when the last drill began could not be recorded");
        }
    }

    pub(super) async fn run_scheduled(&self, schedule: ScheduleRecord) {
        let request = DrillRun {
            marker: None,
            check: schedule.check.clone(),
            timeout_ms: schedule.timeout_ms,
            mount: schedule.mount,
        };
        match self.run_drill(&schedule.group, request, Some(&schedule)).await {
            Ok(report) if report.result == DrillResult::Passed => {}
            Ok(report) => tracing::error!(
                group = %schedule.group, drill = report.id, reason = report.reason.as_deref().unwrap_or("unknown"),
                "a scheduled drill has failed: `tidemark drill show` has what the check said"
            ),
            // An operator was faster.
            Err(error) if !self.drills.is_current(&schedule) => {
                tracing::info!(group = %schedule.group, error = %error.message, "a scheduled drill did not run")
            }
            Err(error) => {
                tracing::error!(group = %schedule.group, error = %error.message, "a scheduled drill could not run")
            }
        }
    }

    /// `drill schedule`.
    pub(crate) fn schedule_drill(&self, group: &str, request: &DrillSchedule) -> Result<GroupDrills, ErrorBody> {
        self.group(group)?;
        check_is_one(request.check.as_deref())?;
        if request.every_ms < 1000 || request.timeout_ms == 0 {
            return Err(invalid("--every must be a second or more, and --timeout more than 0"));
        }
        let record = ScheduleRecord {
            group: group.into(),
            every_ms: request.every_ms,
            check: request.check.clone(),
            timeout_ms: request.timeout_ms,
            mount: request.mount,
            last_ns: 0,
        };
        let _alone = self.drills.recording();
        self.catalog.put_schedule(&record).map_err(failed)?;
        self.drills.schedules.lock().insert(group.into(), record);
        Ok(self.drills_of(group))
    }

    /// `drill unschedule`: no drill begins by it from here on; one may be under way.
    pub(crate) fn unschedule_drill(&self, group: &str) -> Result<(), ErrorBody> {
        let _alone = self.drills.recording();
        if !self.drills.schedules.lock().contains_key(group) {
            return Err(not_found(format!("no drills of group '{group}' are scheduled")));
        }
        self.catalog.delete_schedule(group).map_err(failed)?;
        self.drills.schedules.lock().remove(group);
        Ok(())
    }

    /// One step: what forgets a group, and that drills of it come due. One that begins meanwhile does not bring that back, and no group of
    /// that name is rehearsed by it later.
    pub(crate) fn forget_with_schedule(&self, group: &str, mut batch: Batch) -> Result<(), CatalogError> {
        let _alone = self.drills.recording();
        batch.delete_schedule(group)?;
        self.catalog.commit(batch)?;
        self.drills.schedules.lock().remove(group);
        Ok(())
    }
}
