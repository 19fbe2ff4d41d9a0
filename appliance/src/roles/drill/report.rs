//! What past drills and those under way are said to be, and what they have proven of their groups.

use std::collections::BTreeMap;

use tidemark_common::api::types::{DrillReport, DrillResult, ErrorBody, GroupDrills};
use tidemark_common::catalog::{CatalogError, DrillRecord, DrillResultRecord};
use tidemark_common::clock::{from_unix_ns, unix_ns};
use tidemark_common::ids::MarkerNumber;
use tidemark_common::markers::info;

use super::{Drills, KEPT, clone_name};
use crate::roles::appliance::{Appliance, Engine, Group, failed, not_found};

/// What a drill that passed has proven: a marker's number, and when it was cut.
type Proof = (u64, i64);

/// When markers were cut that drills have proven, by group and number, as the catalogue has it.
pub(super) type Cut = BTreeMap<([u8; 16], u64), i64>;

impl Drills {
    /// What drills have proven of a group, the newest marker first.
    fn proofs(&self, group: [u8; 16]) -> Vec<Proof> {
        let past = self.past.lock();
        let passed = past.values().filter(|drill| drill.group_id == group && drill.result == DrillResultRecord::Passed);
        let mut proofs: Vec<Proof> = passed.map(|drill| (drill.marker, drill.marker_ns)).collect();
        proofs.sort_unstable_by_key(|(marker, _)| std::cmp::Reverse(*marker));
        proofs
    }
}

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
        // Of each that is kilobytes, and `drill show` has it.
        let listed = all.into_values().rev().map(|record| DrillRecord { lag: Vec::new(), ..record });
        Ok(listed.map(|record| self.drill_report(record)).collect())
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
    /// behind, and their numbers are given again. `kept`: when the catalogue says that this marker was cut, if it knows.
    fn is_of_history(&self, group: &Group, (marker, marker_ns): Proof, kept: Option<i64>) -> bool {
        let engine = group.engine.read().clone();
        let (newest, held) = match engine {
            Engine::Primary(primary) => (primary.marker(None), primary.marker(Some(marker))),
            Engine::Secondary(secondary) => {
                let newest = secondary.permitted().map(|permitted| info(&permitted.marker));
                (newest, secondary.state().markers.get(marker).as_ref().map(info))
            }
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => (None, None),
        };
        let cut_ns = held.map(|held| unix_ns(held.time)).or(kept);
        newest.is_none_or(|newest| newest.number >= marker) && cut_ns.is_none_or(|cut_ns| cut_ns == marker_ns)
    }

    /// Asks the catalogue what it says of the markers that drills have proven, for status, which does not wait for its disk.
    pub(super) fn keep_proofs(&self) {
        if let Err(error) = tokio::task::block_in_place(|| self.look_at_proofs()) {
            self.say_tried_again(&format!("what drills have proven could not be looked up: {error}"));
        }
    }

    fn look_at_proofs(&self) -> Result<(), CatalogError> {
        let groups: Vec<_> = self.groups.read().values().cloned().collect();
        let mut cut = Cut::new();
        for group in groups {
            let id = group.keeper.id();
            for proof in self.drills.proofs(id.0) {
                let kept = self.catalog.marker(id, MarkerNumber(proof.0))?.map(|kept| kept.time_ns);
                cut.extend(kept.map(|cut_ns| ((id.0, proof.0), cut_ns)));
                if self.is_of_history(&group, proof, kept) {
                    // It is the one that counts.
                    break;
                }
            }
        }
        *self.drills.cut.lock() = cut;
        Ok(())
    }

    pub(super) fn drills_of(&self, group: &str) -> GroupDrills {
        let found = self.group(group).ok();
        let id = found.as_ref().map(|found| found.keeper.id().0).unwrap_or_default();
        let last = {
            let past = self.drills.past.lock();
            let ended =
                past.values().filter(|drill| drill.group_id == id && drill.result != DrillResultRecord::Running);
            let last = ended.max_by_key(|drill| drill.number);
            last.map(|last| (last.number, last.result == DrillResultRecord::Passed, last.rto_ms))
        };
        let kept = |marker: u64| self.drills.cut.lock().get(&(id, marker)).copied();
        let counts =
            |proof: &Proof| found.as_ref().is_none_or(|found| self.is_of_history(found, *proof, kept(proof.0)));
        let proven = self.drills.proofs(id).into_iter().find(counts);
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
