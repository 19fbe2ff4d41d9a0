//! What past drills and those under way are said to be, and what they have proven of their groups.

use tidemark_common::api::types::{DrillReport, DrillResult, ErrorBody, GroupDrills};
use tidemark_common::catalog::{DrillRecord, DrillResultRecord};
use tidemark_common::clock::{from_unix_ns, unix_ns};
use tidemark_common::ids::MarkerNumber;
use tidemark_common::markers::{info, marker_of};

use super::{KEPT, clone_name};
use crate::roles::appliance::{Appliance, Engine, Group, failed, not_found};

/// What a drill that passed has proven: a marker's number, and when it was cut.
type Proof = (u64, i64);

impl Appliance {
    /// `drill list`, newest first, with those under way.
    pub(crate) fn listed_drills(&self) -> Result<Vec<DrillReport>, ErrorBody> {
        // Asked first: one that ends meanwhile is among the past ones.
        let running: Vec<u64> = self.drills.running.lock().values().map(|drill| drill.number).collect();
        let mut all = self.drills.past.lock().clone();
        for number in running {
            // There is no record before its clone is made.
            if let Some(record) = self.catalog.drill(number).map_err(failed)? {
                all.entry(number).or_insert(DrillRecord { output: String::new(), ..record });
            }
        }
        Ok(all.into_values().rev().map(|record| self.drill_report(record)).collect())
    }

    /// `drill show`.
    pub(crate) fn past_drill(&self, number: u64) -> Result<DrillReport, ErrorBody> {
        let unrecorded = self.drills.left.lock().records.get(&number).cloned();
        let record = match unrecorded {
            Some(record) => Some(record),
            None => self.catalog.drill(number).map_err(failed)?,
        };
        let record = record.ok_or_else(|| {
            not_found(format!("there is no drill {number}: `tidemark drill list` lists the last {KEPT}"))
        })?;
        Ok(self.drill_report(record))
    }

    pub(super) fn drill_report(&self, record: DrillRecord) -> DrillReport {
        let took_ms = match record.result {
            DrillResultRecord::Running => {
                u64::try_from(self.now_ns().saturating_sub(record.started_ns) / 1_000_000).unwrap_or(0)
            }
            _ => record.took_ms,
        };
        let (result, reason) = match record.result {
            DrillResultRecord::Running => (DrillResult::Running, None),
            DrillResultRecord::Passed => (DrillResult::Passed, None),
            DrillResultRecord::Failed { reason } => (DrillResult::Failed, Some(reason)),
        };
        DrillReport {
            id: record.number,
            name: clone_name(record.number),
            group: record.group,
            marker: record.marker,
            marker_time: from_unix_ns(record.marker_ns),
            started: from_unix_ns(record.started_ns),
            took_seconds: seconds(took_ms),
            result,
            reason,
            rto_seconds: record.rto_ms.map(seconds),
            rpo_seconds: record.rpo_ms.map(seconds),
            check: record.check,
            check_exit_code: record.exit_code,
            output: record.output,
            exports: record.exports,
            scheduled: record.scheduled,
            lag: record.lag.iter().map(|(before, behind)| (f64::from(*before), f64::from(*behind) / 1000.0)).collect(),
        }
    }

    /// What drills have proven, for status: groups that have been rehearsed, or are to be.
    pub(crate) fn drills_now(&self) -> Vec<GroupDrills> {
        let names: Vec<String> = self.groups.read().keys().cloned().collect();
        names.iter().map(|group| self.drills_of(group)).collect()
    }

    /// Whether what a drill has proven is still a moment of its group: a failover to an older marker, or a return as the copy, leaves later ones
    /// behind, and their numbers are given again.
    fn is_of_history(&self, group: &Group, (marker, marker_ns): Proof) -> bool {
        let engine = group.engine.read().clone();
        let (newest, held) = match engine {
            Engine::Primary(primary) => (primary.marker(None), primary.marker(Some(marker))),
            Engine::Secondary(secondary) => {
                let newest = secondary.permitted().map(|permitted| info(&permitted.marker));
                (newest, secondary.state().markers.get(marker).as_ref().map(info))
            }
            Engine::Fenced { .. } | Engine::Failed(_) => (None, None),
        };
        let kept = || self.catalog.marker(group.keeper.id(), MarkerNumber(marker)).ok().flatten();
        let held = held.or_else(|| kept().map(|kept| info(&marker_of(&kept))));
        newest.is_none_or(|newest| newest.number >= marker) && held.is_none_or(|held| unix_ns(held.time) == marker_ns)
    }

    pub(super) fn drills_of(&self, group: &str) -> GroupDrills {
        let found = self.group(group).ok();
        let id = found.as_ref().map(|found| found.keeper.id().0).unwrap_or_default();
        // Taken out first: which of them counts is asked of the catalogue's disk, and who begins or ends a drill does not wait for that.
        let (mut passed, last) = {
            let past = self.drills.past.lock();
            let ended =
                past.values().filter(|drill| drill.group_id == id && drill.result != DrillResultRecord::Running);
            let passed = ended.clone().filter(|drill| drill.result == DrillResultRecord::Passed);
            let passed: Vec<Proof> = passed.map(|drill| (drill.marker, drill.marker_ns)).collect();
            let last = ended.max_by_key(|drill| drill.number);
            (passed, last.map(|last| (last.number, last.result == DrillResultRecord::Passed, last.rto_ms)))
        };
        passed.sort_unstable_by_key(|(marker, _)| std::cmp::Reverse(*marker));
        let counts = |proof: &Proof| found.as_ref().is_none_or(|found| self.is_of_history(found, *proof));
        let proven = passed.into_iter().find(counts);
        let time = proven.and_then(|(_, marker_ns)| jiff::Timestamp::from_nanosecond(i128::from(marker_ns)).ok());
        let age = time.map(|time| (self.clock.wall() - time).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0));
        GroupDrills {
            group: group.into(),
            proven_marker: proven.map(|(marker, _)| marker),
            proven_time: time,
            proven_age_seconds: age,
            last: last.map(|(number, ..)| number),
            last_passed: last.map(|(_, passed, _)| passed),
            last_rto_seconds: last.and_then(|(.., rto_ms)| rto_ms).map(seconds),
            running: self.drills.running.lock().contains_key(group),
            every_seconds: self.drills.schedules.lock().get(group).map(|schedule| seconds(schedule.every_ms)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
