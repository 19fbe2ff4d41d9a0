//! `verify`: both sides' images compared at one marker, under load; differences listed, and repaired when asked. A job of the
//! service that goes on where it was after a lost link, a restart of either side, or a break that an operator made (decision 17).
//!
//! ```text
//!             begin                              everything was looked at
//!  nothing ──────────▶ runs (waits for the pair) ─────────────────────────▶ ended
//!                       │ ▲                                                   │ begin: anew
//!   suspend, broken off ▼ │ resume                                            ▼
//!                     stands ──────────────────────────────────────────▶ runs, from the first byte
//! ```
//!
//! Owns the record of each pair's last comparison: in the catalogue first, then here.

mod compare;
mod job;
mod looked;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{
    ComparisonState, ComparisonStatus, ErrorBody, ErrorKind, PairState, PairStatus, VerifyAction, VerifyDifference,
    VerifyReport, VerifyRequest,
};
use tidemark_common::catalog::{PairStateRecord, RoleRecord, VerifyRecord, VerifyStateRecord};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{GroupId, VolumeIndex};
use tidemark_common::limits::REGION_BYTES;
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;
use tidemark_primary::verify::regions;
use tokio_util::sync::CancellationToken;

use super::appliance::{Appliance, CANCELLED, failed, invalid, not_paired, refused};
use compare::LOOK;
use job::{Broken, Job};

/// Differences listed one by one.
const LISTED: usize = 10_000;

/// What a comparison is of: a group, and the peer with the copy.
type Of = (GroupId, String);

/// What one began with: the generation of its group, and the volumes with their sizes.
type BegunWith = (u64, Vec<(u32, u64)>);

/// The last comparison of each pair.
#[derive(Default)]
pub(crate) struct Comparisons {
    known: Mutex<BTreeMap<Of, Known>>,
    /// One is begun at a time.
    beginning: tokio::sync::Mutex<()>,
    /// The service stops: what runs goes on after the next start.
    pub(crate) stop: CancellationToken,
}

struct Known {
    /// As the catalogue has it.
    record: VerifyRecord,
    /// The same for status, which is asked for again and again: it reads no bitmaps, which may be large.
    shown: ComparisonStatus,
    job: Option<Arc<Job>>,
}

impl Known {
    fn of(record: VerifyRecord) -> Self {
        Self { shown: shown(&record), record, job: None }
    }
}

impl Comparisons {
    fn record(&self, of: &Of) -> Option<VerifyRecord> {
        self.known.lock().get(of).map(|known| known.record.clone())
    }

    fn job(&self, of: &Of) -> Option<Arc<Job>> {
        self.known.lock().get(of).and_then(|known| known.job.clone())
    }
}

impl Appliance {
    /// `verify`.
    pub(crate) async fn verify(&self, name: &str, request: &VerifyRequest) -> Result<VerifyReport, ErrorBody> {
        let primary = self.primary(name)?;
        let pair = primary.pair(&request.to);
        let pair = pair.ok_or_else(|| refused(not_paired(name, &request.to)))?;
        if request.rate_bytes_per_second == Some(0) {
            return Err(invalid("at a rate of 0 a comparison never ends"));
        }
        let of = (primary.keeper().id(), request.to.clone());
        self.settle_comparisons().await;
        match request.action {
            VerifyAction::Begin => {
                self.wait_until_up(name, &pair, request.wait_ms).await?;
                let job = self.begin_comparison(&primary, &of, request).await?;
                self.attend_unless_in_background(&job, &pair, request).await
            }
            VerifyAction::Resume => match self.resume_comparison(name, &pair, &of, request).await? {
                Some(job) => self.attend_unless_in_background(&job, &pair, request).await,
                None => self.report(name, &of),
            },
            VerifyAction::Suspend | VerifyAction::Cancel => self.break_off(name, &of, request.action).await,
        }
    }

    async fn begin_comparison(
        &self,
        primary: &Primary,
        of: &Of,
        request: &VerifyRequest,
    ) -> Result<Arc<Job>, ErrorBody> {
        let _alone = self.comparisons.beginning.lock().await;
        let name = primary.keeper().name();
        if let Some(job) = self.comparisons.job(of) {
            if job.is_attended() {
                return Err(refused(format!(
                    "group '{name}' is being compared with '{peer}', and somebody waits for the report: wait for it with `tidemark verify {name} \
                     --to {peer} --resume`, or break it off with `--suspend` or `--cancel`",
                    peer = of.1
                )));
            }
            if request.background {
                return Err(refused(format!(
                    "group '{name}' is being compared with '{peer}' already: `tidemark status` shows how far that is, and `tidemark verify {name} --to \
                     {peer} --cancel` ends it",
                    peer = of.1
                )));
            }
            job.end(Broken::Forget("another comparison was begun".into())).await;
        }
        let record = VerifyRecord {
            state: VerifyStateRecord::Runs,
            reason: None,
            began_ns: self.now_ns(),
            generation: primary.keeper().generation().0,
            volumes: primary.volume_sizes().into_iter().map(|(index, size)| (index.0, size)).collect(),
            repair: request.repair,
            rate: request.rate_bytes_per_second,
            cursor: (0, 0),
            left: Vec::new(),
            different: Vec::new(),
            markers: (0, 0),
            differed: None,
            mends: None,
            resumed: 0,
            resumed_at_bytes: 0,
            took_ms: 0,
        };
        self.start_comparison(&name, of, record, !request.background)
    }

    /// `None`: it has ended, and its report is there.
    async fn resume_comparison(
        &self,
        name: &str,
        pair: &Pair,
        of: &Of,
        request: &VerifyRequest,
    ) -> Result<Option<Arc<Job>>, ErrorBody> {
        let peer = &of.1;
        let none = || {
            refused(format!(
                "no comparison of group '{name}' with '{peer}' stands: `tidemark verify {name} --to {peer}` begins one"
            ))
        };
        let record = self.comparisons.record(of).ok_or_else(none)?;
        if let Some(job) = self.comparisons.job(of) {
            let other_rate = request.rate_bytes_per_second.is_some_and(|rate| record.rate != Some(rate));
            if other_rate || request.repair && !record.repair {
                return Err(refused(format!(
                    "the comparison of group '{name}' with '{peer}' runs: `--suspend` it first, then `--resume` it with another rate or with --repair"
                )));
            }
            if !request.background {
                job.attended();
            }
            return Ok(Some(job));
        }
        let mends = request.repair && !record.repair && record.differed.is_some();
        if record.state == VerifyStateRecord::Ended && !mends {
            return Ok(None);
        }
        self.wait_until_up(name, pair, request.wait_ms).await?;
        let _alone = self.comparisons.beginning.lock().await;
        if self.comparisons.job(of).is_some() {
            return Err(refused(format!("the comparison of group '{name}' with '{peer}' has just been begun")));
        }
        let record = self.comparisons.record(of).ok_or_else(none)?;
        let rate = request.rate_bytes_per_second.or(record.rate);
        let repair = record.repair || request.repair;
        let record = VerifyRecord { state: VerifyStateRecord::Runs, reason: None, rate, repair, ..record };
        self.start_comparison(name, of, record, !request.background).map(Some)
    }

    async fn break_off(&self, name: &str, of: &Of, action: VerifyAction) -> Result<VerifyReport, ErrorBody> {
        let peer = &of.1;
        let none = |what| refused(format!("no comparison of group '{name}' with '{peer}' {what}"));
        let job = self.comparisons.job(of);
        if action == VerifyAction::Suspend {
            let job = job.ok_or_else(|| none("runs"))?;
            job.end(Broken::Stands("suspended by the operator".into())).await;
            return self.report(name, of);
        }
        let report = self.report(name, of).map_err(|_| none("is known"))?;
        self.forget_comparison(of, CANCELLED).await?;
        Ok(report)
    }

    /// A pair is deleted, or nobody wants to know any more.
    pub(crate) async fn forget_comparison(&self, of: &Of, why: &str) -> Result<(), ErrorBody> {
        if let Some(job) = self.comparisons.job(of) {
            job.end(Broken::Forget(why.into())).await;
        }
        // Also when whoever ran it could not: who asks for it is told.
        if self.comparisons.record(of).is_some() { self.forget_record(of) } else { Ok(()) }
    }

    /// In the catalogue first: what is still there would come back with the next start.
    fn forget_record(&self, of: &Of) -> Result<(), ErrorBody> {
        self.catalog.delete_verify(of.0, &of.1).map_err(failed)?;
        self.comparisons.known.lock().remove(of);
        Ok(())
    }

    /// In the catalogue first.
    fn keep_comparison(&self, of: &Of, record: VerifyRecord) -> Result<(), ErrorBody> {
        self.catalog.put_verify(of.0, &of.1, &record).map_err(failed)?;
        let now = Known::of(record);
        let mut known = self.comparisons.known.lock();
        match known.get_mut(of) {
            Some(known) => (known.record, known.shown) = (now.record, now.shown),
            None => drop(known.insert(of.clone(), now)),
        }
        Ok(())
    }

    fn start_comparison(
        &self,
        name: &str,
        of: &Of,
        record: VerifyRecord,
        attended: bool,
    ) -> Result<Arc<Job>, ErrorBody> {
        self.keep_comparison(of, record)?;
        let appliance = self.this.upgrade().ok_or_else(|| refused("the service stops"))?;
        let job = Arc::new(Job::new(name, of.clone()));
        if attended {
            job.attended();
        }
        if let Some(known) = self.comparisons.known.lock().get_mut(of) {
            known.job = Some(Arc::clone(&job));
        }
        self.runtime.spawn(appliance.run_comparison(Arc::clone(&job)));
        Ok(job)
    }

    /// Those of the catalogue: what ran goes on.
    pub(crate) async fn open_comparisons(&self) {
        let groups: Vec<_> = self.groups.read().values().cloned().collect();
        for group in groups {
            let (record, id) = (group.keeper.get(), group.keeper.id());
            for pair in record.pairs {
                let of = (id, pair.peer.clone());
                match self.catalog.verify_of(id, &pair.peer) {
                    Ok(Some(record)) => drop(self.comparisons.known.lock().insert(of, Known::of(record))),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(group = %record.name, peer = %pair.peer, %error, "the record of a comparison cannot be read, and is removed");
                        if let Err(error) = self.catalog.delete_verify(id, &pair.peer) {
                            tracing::error!(group = %record.name, %error, "it is still in the catalogue");
                        }
                    }
                }
            }
        }
        self.settle_comparisons().await;
        let running: Vec<_> = {
            let known = self.comparisons.known.lock();
            let runs = known.iter().filter(|(_, known)| known.record.state == VerifyStateRecord::Runs);
            runs.map(|(of, known)| (of.clone(), known.record.clone())).collect()
        };
        for (of, record) in running {
            let Some(name) = self.group_by_id(of.0).map(|group| group.keeper.name()) else { continue };
            if let Err(error) = self.start_comparison(&name, &of, record, false) {
                tracing::error!(group = %name, peer = %of.1, error = %error.message, "the comparison does not go on");
            }
        }
    }

    /// Comparisons of what is no more, or no longer what they began with, are over and forgotten.
    pub(crate) async fn settle_comparisons(&self) {
        // Not the bitmaps, which may be large: this is looked at again and again.
        let known: Vec<(Of, BegunWith)> = {
            let known = self.comparisons.known.lock();
            let begun = |record: &VerifyRecord| (record.generation, record.volumes.clone());
            known.iter().map(|(of, known)| (of.clone(), begun(&known.record))).collect()
        };
        for (of, (generation, volumes)) in known {
            let Some(why) = self.why_over(&of, generation, &volumes) else { continue };
            let Err(error) = self.forget_comparison(&of, why).await else {
                tracing::info!(peer = %of.1, why, "a comparison is over");
                continue;
            };
            // It is tried again at the next look.
            let line = format!("{} {why} {}", of.1, error.message);
            if let Some(left_out) = self.repeats.news(&line, self.clock.monotonic()) {
                tracing::error!(peer = %of.1, error = %error.message, left_out, "a comparison could not be removed from the catalogue");
            }
        }
    }

    /// Why a comparison is not of what is there now.
    fn why_over(&self, of: &Of, generation: u64, volumes: &[(u32, u64)]) -> Option<&'static str> {
        let Some(group) = self.group_by_id(of.0) else { return Some("its group was deleted") };
        let record = group.keeper.get();
        let Some(pair) = record.pairs.iter().find(|pair| pair.peer == of.1) else {
            return Some("its pair was deleted");
        };
        if record.role != RoleRecord::Primary || record.generation != generation {
            return Some("the group's roles changed");
        }
        if pair.state == PairStateRecord::InitialCopy {
            return Some("the copy is made anew");
        }
        for (index, size) in volumes {
            let Some(member) = record.volumes.iter().find(|member| member.index == *index) else {
                return Some("a volume left the group");
            };
            // One that cannot be opened now is not another.
            if self.volume(&member.name).is_ok_and(|volume| volume.file.size() != *size) {
                return Some("a volume has another size");
            }
        }
        None
    }

    fn report(&self, name: &str, of: &Of) -> Result<VerifyReport, ErrorBody> {
        let record = self.comparisons.record(of);
        let record = record.ok_or_else(|| refused(format!("the comparison of group '{name}' is over")))?;
        self.report_of(name, of, &record)
    }

    fn report_of(&self, name: &str, of: &Of, record: &VerifyRecord) -> Result<VerifyReport, ErrorBody> {
        let members = self.group(name)?.keeper.get().volumes;
        let (different, left) = (bitmap(&record.different)?, bitmap(&record.left)?);
        let mended = record.mends.as_deref().map(bitmap).transpose()?.unwrap_or_default();
        let mut differences = Vec::new();
        let mut at = (VolumeIndex(0), 0);
        while let Some(run) = different.next_run(at.0, at.1).filter(|_| differences.len() < LISTED) {
            at = (run.volume, run.end());
            let volume = members.iter().find(|member| member.index == run.volume.0);
            let volume = volume.map_or_else(|| run.volume.to_string(), |member| member.name.clone());
            differences.push(VerifyDifference { volume, offset: run.offset, length: run.length });
        }
        Ok(VerifyReport {
            group: name.into(),
            peer: of.1.clone(),
            marker: record.markers.1,
            from_marker: record.markers.0,
            compared_bytes: done_bytes(record, record.cursor),
            different_bytes: different.bytes(),
            differences,
            not_compared_bytes: left.bytes(),
            repaired: !mended.is_empty(),
            repaired_bytes: mended.bytes(),
            took_seconds: Duration::from_millis(record.took_ms).as_secs_f64(),
            complete: record.state == VerifyStateRecord::Ended,
            resumed: record.resumed,
        })
    }

    /// For status.
    pub(crate) fn comparison_of(&self, group: GroupId, pair: PairStatus) -> PairStatus {
        let of = (group, pair.peer.clone());
        let comparison = self.comparisons.known.lock().get(&of).map(|known| known.shown.clone());
        PairStatus { comparison, ..pair }
    }

    /// Nothing can be compared with a side that does not answer, or has no image.
    async fn wait_until_up(&self, name: &str, pair: &Pair, wait_ms: Option<u64>) -> Result<(), ErrorBody> {
        let deadline = wait_ms.map(|wait| self.clock.monotonic() + Duration::from_millis(wait));
        loop {
            let status = pair.status();
            if is_up(&status) {
                return Ok(());
            }
            match deadline.filter(|_| !is_at_rest(status.state)) {
                None => {
                    return Err(refused(format!(
                        "{}: {}",
                        down(name, &status),
                        when_up(name, &status.peer, status.state)
                    )));
                }
                Some(deadline) if self.clock.monotonic() >= deadline => {
                    return Err(ErrorBody::new(ErrorKind::Timeout, down(name, &status)));
                }
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

fn bitmap(bytes: &[u8]) -> Result<Bitmap, ErrorBody> {
    Bitmap::decode(bytes).map_err(failed)
}

fn volumes_of(record: &VerifyRecord) -> Vec<(VolumeIndex, u64)> {
    record.volumes.iter().map(|(index, size)| (VolumeIndex(*index), *size)).collect()
}

/// A place behind all volumes.
const EVERYTHING: (u32, u64) = (u32::MAX, u64::MAX);

/// Bytes of the volumes before a place, regions counted whole.
fn done_bytes(record: &VerifyRecord, (volume, offset): (u32, u64)) -> u64 {
    let before = |(index, size): &(u32, u64)| {
        let whole = regions(*size) * REGION_BYTES;
        match index.cmp(&volume) {
            std::cmp::Ordering::Less => whole,
            std::cmp::Ordering::Equal => whole.min(offset),
            std::cmp::Ordering::Greater => 0,
        }
    };
    record.volumes.iter().map(before).sum()
}

fn shown(record: &VerifyRecord) -> ComparisonStatus {
    ComparisonStatus {
        state: match record.state {
            VerifyStateRecord::Runs => ComparisonState::Runs,
            VerifyStateRecord::Stands => ComparisonState::Stands,
            VerifyStateRecord::Ended => ComparisonState::Ended,
        },
        reason: record.reason.clone(),
        began: from_unix_ns(record.began_ns),
        done_bytes: done_bytes(record, record.cursor),
        total_bytes: done_bytes(record, EVERYTHING),
        resumed: record.resumed,
        resumed_at_bytes: record.resumed_at_bytes,
        from_marker: record.markers.0,
        marker: record.markers.1,
        different_bytes: marked_bytes(&record.different),
        repaired_bytes: record.mends.as_deref().map_or(0, marked_bytes),
    }
}

fn marked_bytes(bytes: &[u8]) -> u64 {
    Bitmap::decode(bytes).map_or(0, |marked| marked.bytes())
}

fn is_up(status: &PairStatus) -> bool {
    status.connected
        && status.permitted_marker > 0
        && matches!(status.state, PairState::Paired | PairState::CatchingUp | PairState::Resync)
}

/// A change of roles has ended the pair. Only a return makes it one again: to wait for that is to wait for a person.
const fn is_at_rest(state: PairState) -> bool {
    matches!(state, PairState::FailedOver | PairState::Fenced)
}

/// What a person does before it can be compared.
fn when_up(group: &str, peer: &str, state: PairState) -> String {
    match state {
        PairState::FailedOver => format!(
            "this side took over from '{peer}', which is no copy now. `tidemark rejoin {group}` on '{peer}' makes it the copy again, and then it \
             can be compared"
        ),
        PairState::Fenced => format!(
            "another side took over. `tidemark rejoin {group}` here makes this side its copy, and then it can be compared from over there"
        ),
        _ => "compare when it is paired, or with --wait".into(),
    }
}

/// What is the matter with a pair that is not up, as `status` has it.
pub(crate) fn down(group: &str, status: &PairStatus) -> String {
    let PairStatus { peer, state, reason, .. } = status;
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    let link = if status.connected { "" } else { " and not connected" };
    format!("the pair of group '{group}' with '{peer}' is {state}{link}{reason}")
}

#[cfg(test)]
mod tests {
    use tidemark_common::catalog::{GroupRecord, PairRecord};

    use super::*;
    use crate::service::tests::{Faults, appliance};

    /// It was advised to wait, for what a person has to do.
    #[test]
    fn nobody_waits_for_a_pair_that_was_failed_over() {
        let told = when_up("g", "east", PairState::FailedOver);
        assert!(told.contains("`tidemark rejoin g` on 'east'") && !told.contains("--wait"), "{told}");
        assert!(when_up("g", "east", PairState::Suspended).contains("--wait"));
        assert!(!when_up("g", "east", PairState::Fenced).contains("--wait"));
    }

    /// With --wait it waited to the last second for what no time brings, and ended as if there had been too little of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_over_a_pair_that_was_failed_over_is_refused_though_it_may_wait() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let west = PairRecord { state: PairStateRecord::FailedOver, ..PairRecord::new("west", 0) };
        let record = GroupRecord { pairs: vec![west], ..GroupRecord::new("g", [7; 16]) };
        appliance.catalog.put_group(&record).unwrap();
        appliance.start_groups().await.unwrap();
        // Over before it is looked at: who waits ends with another answer, and at once.
        let request = VerifyRequest {
            to: "west".into(),
            repair: false,
            rate_bytes_per_second: None,
            wait_ms: Some(0),
            background: false,
            action: VerifyAction::Begin,
        };
        let told = appliance.verify("g", &request).await.unwrap_err();
        assert_ne!(told.kind, ErrorKind::Timeout, "{}", told.message);
        assert!(told.message.contains("this side took over from 'west'"), "{}", told.message);
        assert!(told.message.contains("`tidemark rejoin g` on 'west'"), "{}", told.message);
        appliance.stop_groups().await;
    }
}
