//! Drills: a failover rehearsed on a clone, timed and recorded; replication is not touched (DESIGN 7).
//!
//! ```text
//! clone ─▶ record "running" ─▶ first reads answered (RTO) ─▶ check ─▶ clone deleted ─▶ record with the result
//! ```
//!
//! A record that says "running" at a start was interrupted. Every clone of a drill goes then, also one that has no record yet. A catalogue whose
//! disk takes nothing holds up no start: what cannot be recorded or deleted is tried again.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{
    DrillReport, DrillResult, DrillRun, DrillSchedule, ErrorBody, ErrorKind, GroupDrills, ImageStatus,
};
use tidemark_common::catalog::{DrillRecord, DrillResultRecord, ImageKindRecord, ScheduleRecord};
use tidemark_common::clock::{from_unix_ns, unix_ns};
use tidemark_common::ids::MarkerNumber;
use tidemark_common::markers::{info, marker_of};
use tidemark_common::nbd::Export;
use tokio_util::sync::CancellationToken;

use super::appliance::{Appliance, CANCELLED, Engine, Group, failed, invalid, not_found, refused};
use super::drill_check::{self, Checked};
use super::drill_left;
use super::images::Held;

/// Past drills kept.
const KEPT: usize = 1000;
/// Between two looks at schedules and at how old copies are.
const TICK: Duration = Duration::from_secs(1);
/// What a check has started, and what is mounted for it, is gone by then, or holds up the end of its drill.
const END_LIMIT: Duration = Duration::from_secs(120);
/// How old copies were is kept for so many looks.
const LAG_POINTS: usize = 600;

/// Drills of this appliance.
#[derive(Default)]
pub(crate) struct Drills {
    /// By number; what checks said is left out.
    past: Mutex<BTreeMap<u64, DrillRecord>>,
    schedules: Mutex<BTreeMap<String, ScheduleRecord>>,
    /// Held while a schedule is written: status asks for schedules and does not wait for a disk.
    recording: Mutex<()>,
    /// The drills under way, by group.
    running: Mutex<BTreeMap<String, UnderWay>>,
    /// How old the copy of a group was: (monotonic, milliseconds), newest last.
    lag: Mutex<BTreeMap<String, VecDeque<(Duration, u32)>>>,
    /// What the catalogue did not take yet.
    left: Mutex<Left>,
    pub(crate) stop: CancellationToken,
}

/// What is left of drills that are over.
#[derive(Default)]
struct Left {
    /// How they ended, by number: not recorded.
    records: BTreeMap<u64, DrillRecord>,
    /// Their clones: not deleted.
    clones: Vec<Arc<Held>>,
}

/// A drill that others know of.
#[derive(Clone, Default)]
struct UnderWay {
    number: u64,
    /// Somebody ends it.
    cancelled: CancellationToken,
    /// Nothing of it is left.
    over: CancellationToken,
}

/// A group is rehearsed for as long as this lives.
struct Running<'a> {
    drills: &'a Drills,
    group: String,
    this: UnderWay,
}

impl Running<'_> {
    /// Why it is not gone on with, if it is not.
    fn stopped(&self) -> Box<dyn Fn() -> Option<&'static str> + Send> {
        let (service, cancelled) = (self.drills.stop.clone(), self.this.cancelled.clone());
        Box::new(move || match (service.is_cancelled(), cancelled.is_cancelled()) {
            (true, _) => Some("interrupted: the service stopped"),
            (_, true) => Some(CANCELLED),
            _ => None,
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.drills.running.lock().remove(&self.group);
        self.this.over.cancel();
    }
}

impl Drills {
    /// Whether a schedule is still the one that came due.
    fn is_current(&self, due: &ScheduleRecord) -> bool {
        self.schedules.lock().get(&due.group).is_some_and(|now| now.last_ns == due.last_ns)
    }

    /// The next number whose clone's name is free: people may have named images like this, and other groups are rehearsed meanwhile.
    fn begin(
        &self,
        group: &str,
        due: Option<&ScheduleRecord>,
        is_image: impl Fn(&str) -> bool,
    ) -> Result<Running<'_>, ErrorBody> {
        let mut running = self.running.lock();
        // Under this lock: who ends a schedule looks afterwards what is under way, and all that begins later does not.
        if due.is_some_and(|due| !self.is_current(due)) {
            return Err(refused(format!("the schedule of group '{group}' was ended or replaced just now")));
        }
        if running.contains_key(group) {
            return Err(refused(format!(
                "a drill of group '{group}' is under way: wait until it has ended, or end it with `tidemark drill cancel {group}`"
            )));
        }
        let last = self.past.lock().last_key_value().map_or(0, |(last, _)| *last);
        let mut number = last.saturating_add(1);
        while running.values().any(|other| other.number == number) || is_image(&clone_name(number)) {
            number = number.saturating_add(1);
        }
        let this = UnderWay { number, ..UnderWay::default() };
        running.insert(group.to_owned(), this.clone());
        Ok(Running { drills: self, group: group.to_owned(), this })
    }
}

impl Appliance {
    /// What past drills there were. Those that were under way when the service ended have failed, and their clones go.
    pub(crate) async fn open_drills(&self) -> Result<(), ErrorBody> {
        for mut record in self.catalog.drills().map_err(failed)? {
            if record.result == DrillResultRecord::Running {
                let reason = "interrupted: the service was stopped or killed in the middle".to_owned();
                tracing::warn!(drill = record.number, group = %record.group, %reason, "a drill has failed");
                record.result = DrillResultRecord::Failed { reason };
                self.drills.left.lock().records.insert(record.number, record.clone());
            }
            self.drills.past.lock().insert(record.number, DrillRecord { output: String::new(), ..record });
        }
        for schedule in self.catalog.schedules().map_err(failed)? {
            self.drills.schedules.lock().insert(schedule.group.clone(), schedule);
        }
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        let is_of_drill = |held: &Arc<Held>| matches!(held.record.read().first.kind, ImageKindRecord::Drill { .. });
        self.drills.left.lock().clones = held.into_iter().filter(is_of_drill).collect();
        self.clean_up_drills().await;
        self.end_left_of_drills();
        Ok(())
    }

    /// Records how drills have ended and deletes their clones, as far as the catalogue takes it now.
    async fn clean_up_drills(&self) {
        let (records, clones) = {
            let mut left = self.drills.left.lock();
            (left.records.values().cloned().collect::<Vec<_>>(), std::mem::take(&mut left.clones))
        };
        for record in records {
            let number = record.number;
            match tokio::task::block_in_place(|| self.catalog.put_drill(&record)) {
                Ok(()) => drop(self.drills.left.lock().records.remove(&number)),
                Err(error) => self.say_left(&format!("how drill {number} ended could not be recorded: {error}")),
            }
        }
        for clone in clones {
            let name = clone.record.read().first.name.clone();
            // Somebody may have deleted it meanwhile, and another drill have taken its name.
            if self.image(&name).is_ok_and(|held| Arc::ptr_eq(&held, &clone)) {
                self.end_clone(&name).await;
            }
        }
    }

    /// Deletes a drill's clone, or has that tried again.
    async fn end_clone(&self, name: &str) {
        let Ok(held) = self.image(name) else { return };
        if let Err(error) = self.delete_image(name, true).await {
            self.say_left(&format!("the clone of a drill, '{name}', could not be deleted: {}", error.message));
            self.drills.left.lock().clones.push(held);
        }
    }

    fn say_left(&self, what: &str) {
        if let Some(left_out) = self.repeats.news(what, self.clock.monotonic()) {
            tracing::error!(left_out, "{what}; it is tried again by itself");
        }
    }

    /// Cleans up what could not be cleaned up before, until the service stops. Not where schedules are looked at: it waits for whoever changes
    /// something, and for the disk.
    pub(crate) async fn tick_left_of_drills(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.drills.stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => self.clean_up_drills().await,
            }
        }
    }

    /// `drill run`; `due`: by a schedule.
    pub(crate) async fn run_drill(
        &self,
        group: &str,
        request: DrillRun,
        due: Option<&ScheduleRecord>,
    ) -> Result<DrillReport, ErrorBody> {
        if request.timeout_ms == 0 {
            return Err(invalid("a check that may take no time at all cannot pass: give it a --timeout"));
        }
        check_is_one(request.check.as_deref())?;
        let order = self.clock.monotonic();
        let found = self.group(group)?;
        let running = self.drills.begin(group, due, |name| self.images.held.read().contains_key(name))?;
        let rpo_ms = self.rpo_ms(group);
        let mut record = DrillRecord {
            number: running.this.number,
            group: group.into(),
            group_id: found.keeper.id().0,
            marker: 0,
            marker_ns: 0,
            started_ns: self.now_ns(),
            took_ms: 0,
            rto_ms: None,
            rpo_ms,
            check: request.check.clone(),
            exit_code: None,
            result: DrillResultRecord::Running,
            output: String::new(),
            exports: Vec::new(),
            scheduled: due.is_some(),
            lag: self.lag_before(group),
        };
        let name = clone_name(record.number);
        match self.create_drill_clone(&name, group, request.marker).await {
            Ok(clone) => self.rehearse(&mut record, &clone, &request, order, &running).await?,
            // What an operator asked for and cannot have is no drill; one that was due and could not begin is.
            Err(error) if due.is_none() => return Err(error),
            Err(error) => record.result = DrillResultRecord::Failed { reason: error.message },
        }
        record.took_ms = millis(self.clock.monotonic().saturating_sub(order));
        self.keep_drill(&record)?;
        Ok(self.drill_report(record))
    }

    async fn rehearse(
        &self,
        record: &mut DrillRecord,
        clone: &ImageStatus,
        request: &DrillRun,
        order: Duration,
        running: &Running<'_>,
    ) -> Result<(), ErrorBody> {
        record.marker = clone.marker;
        record.marker_ns = unix_ns(clone.marker_time);
        record.exports.clone_from(&clone.exports);
        if let Err(error) = self.catalog.put_drill(record) {
            self.end_clone(&clone.name).await;
            return Err(failed(error));
        }
        let checked = match self.first_reads(clone).await {
            Ok(()) => {
                record.rto_ms = Some(millis(self.clock.monotonic().saturating_sub(order)));
                self.check(record, clone, request, running).await
            }
            Err(reason) => Checked { failure: Some(reason), ..Checked::default() },
        };
        let broken = self.image(&clone.name).ok().and_then(|held| held.broken());
        let failure = broken.map(|reason| format!("its clone broke: {reason}")).or(checked.failure);
        record.exit_code = checked.exit_code;
        record.output = checked.output;
        record.result = failure.map_or(DrillResultRecord::Passed, |reason| DrillResultRecord::Failed { reason });
        self.end_clone(&clone.name).await;
        Ok(())
    }

    async fn first_reads(&self, clone: &ImageStatus) -> Result<(), String> {
        for volume in &clone.volumes {
            let door = self.image_door(&clone.name, volume).map_err(|error| error.to_string())?;
            let mut first = vec![0; usize::try_from(door.bounds().size.min(4096)).unwrap_or(0)];
            let read = door.read(0, &mut first).await;
            read.map_err(|error| format!("the first read of volume '{volume}' failed: {error}"))?;
        }
        Ok(())
    }

    async fn check(
        &self,
        record: &DrillRecord,
        clone: &ImageStatus,
        request: &DrillRun,
        running: &Running<'_>,
    ) -> Checked {
        let stopped = running.stopped();
        if let Some(reason) = stopped() {
            return Checked { failure: Some(reason.into()), ..Checked::default() };
        }
        let Some(command) = &request.check else { return Checked::default() };
        let folder = self.drill_folder(record.number);
        // Others may pass through it: databases do not run as root.
        let made = std::fs::DirBuilder::new().mode(0o711).create(&folder);
        if let Err(error) = made {
            return Checked { failure: Some(format!("make {}: {error}", folder.display())), ..Checked::default() };
        }
        let note = note_of_unnamed(&clone.volumes);
        let command = if request.mount {
            "exec \"$TIDEMARK\" drill check mounted -- \"$TIDEMARK_DRILL_CHECK\"".into()
        } else {
            command.clone()
        };
        let environment = environment(record, clone, &folder, request);
        let timeout = Duration::from_millis(request.timeout_ms);
        let clock = Arc::clone(&self.clock);
        let (tell, told) = tokio::sync::oneshot::channel();
        let started = std::thread::Builder::new().name(format!("drill {}", record.number)).spawn(move || {
            let _ = tell.send(drill_check::run(&command, &environment, &folder, timeout, &*clock, &*stopped));
        });
        let mut checked = match started {
            Ok(_) => told.await.unwrap_or_else(|_| Checked {
                failure: Some("the check ended without an answer".into()),
                ..Checked::default()
            }),
            Err(error) => Checked { failure: Some(format!("no thread for the check: {error}")), ..Checked::default() },
        };
        checked.output.insert_str(0, &note);
        checked
    }

    /// Not below the appliance's directory, which others cannot reach.
    fn drill_folder(&self, number: u64) -> PathBuf {
        std::env::temp_dir().join(format!("{}{number}", self.drill_folder_prefix()))
    }

    fn drill_folder_prefix(&self) -> String {
        let id = self.identity.id().to_string();
        format!("tidemark-{}-drill-", id.get(..16).unwrap_or(&id))
    }

    /// What a kill in the middle of a drill leaves is ended beside the service: hosts do not wait for that. No drill can have begun.
    fn end_left_of_drills(&self) {
        let prefix = self.drill_folder_prefix();
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let left: Vec<_> = left.map(|entry| entry.path()).collect();
        if left.is_empty() {
            return;
        }
        let clock = Arc::clone(&self.clock);
        let started = std::thread::Builder::new().name("drills left".into()).spawn(move || {
            for folder in left {
                if let Err(error) = drill_left::end(&folder, &*clock) {
                    tracing::error!(%error, "a drill that was interrupted has left something behind");
                }
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread to end what drills have left: the next start does it");
        }
    }

    fn keep_drill(&self, record: &DrillRecord) -> Result<(), ErrorBody> {
        self.catalog.put_drill(record).map_err(failed)?;
        let oldest = {
            let mut past = self.drills.past.lock();
            past.insert(record.number, DrillRecord { output: String::new(), ..record.clone() });
            if past.len() > KEPT { past.pop_first().map(|(number, _)| number) } else { None }
        };
        if let Some(oldest) = oldest {
            self.catalog.delete_drill(oldest).map_err(failed)?;
        }
        let passed = record.result == DrillResultRecord::Passed;
        tracing::info!(drill = record.number, group = %record.group, marker = record.marker, passed, "a drill has ended");
        Ok(())
    }

    fn rpo_ms(&self, group: &str) -> Option<u64> {
        let status = self.group_status(group).ok()?;
        let seconds = match status.role {
            tidemark_common::api::types::Role::Secondary => status.pairs.first()?.rpo_seconds?,
            // On a primary the marker is cut for the drill: nothing lies behind it.
            _ => 0.0,
        };
        Some(millis(Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }

    fn lag_before(&self, group: &str) -> Vec<(u32, u32)> {
        let now = self.clock.monotonic();
        let lag = self.drills.lag.lock();
        let points = lag.get(group).into_iter().flatten();
        points
            .map(|(at, behind)| (u32::try_from(now.saturating_sub(*at).as_secs()).unwrap_or(u32::MAX), *behind))
            .collect()
    }

    /// Runs what is due and notes how old copies are, until the service stops.
    pub(crate) async fn tick_drills(self: Arc<Self>) {
        while !self.drills.stop.is_cancelled() {
            tokio::select! {
                () = self.drills.stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            self.note_lag();
            let now = self.now_ns();
            for due in self.due(now) {
                let this = Arc::clone(&self);
                tokio::spawn(async move { this.run_scheduled(due).await });
            }
        }
    }

    fn note_lag(&self) {
        let groups: Vec<String> = self.groups.read().keys().cloned().collect();
        let now = self.clock.monotonic();
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

    /// Schedules whose time has come; it counts as begun.
    fn due(&self, now: i64) -> Vec<ScheduleRecord> {
        let mut due = Vec::new();
        for schedule in self.drills.schedules.lock().values_mut() {
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
    fn note_begin(&self, due: &ScheduleRecord) {
        let _alone = self.drills.recording.lock();
        if !self.drills.is_current(due) {
            return;
        }
        if let Err(error) = self.catalog.put_schedule(due) {
            tracing::warn!(group = %due.group, %error, "when the last drill began could not be recorded");
        }
    }

    async fn run_scheduled(&self, schedule: ScheduleRecord) {
        self.note_begin(&schedule);
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
            return Err(invalid("drills follow each other after a second at least, and their check needs some time"));
        }
        let record = ScheduleRecord {
            group: group.into(),
            every_ms: request.every_ms,
            check: request.check.clone(),
            timeout_ms: request.timeout_ms,
            mount: request.mount,
            last_ns: 0,
        };
        let _alone = self.drills.recording.lock();
        self.catalog.put_schedule(&record).map_err(failed)?;
        self.drills.schedules.lock().insert(group.into(), record);
        Ok(self.drills_of(group))
    }

    /// `drill unschedule`: no drill begins by it from here on; one may be under way.
    pub(crate) fn unschedule_drill(&self, group: &str) -> Result<(), ErrorBody> {
        let _alone = self.drills.recording.lock();
        if !self.drills.schedules.lock().contains_key(group) {
            return Err(not_found(format!("no drills of group '{group}' are scheduled")));
        }
        self.catalog.delete_schedule(group).map_err(failed)?;
        self.drills.schedules.lock().remove(group);
        Ok(())
    }

    /// `drill cancel`: answers when nothing of it is left but its record.
    pub(crate) async fn cancel_drill(&self, group: &str) -> Result<DrillReport, ErrorBody> {
        self.group(group)?;
        let under_way = self.drills.running.lock().get(group).cloned();
        let none = || {
            refused(format!("no drill of group '{group}' is under way: `tidemark drill list` lists those that ended"))
        };
        let UnderWay { number, cancelled, over } = under_way.ok_or_else(none)?;
        cancelled.cancel();
        if tokio::time::timeout(END_LIMIT, over.cancelled()).await.is_err() {
            let told = format!(
                "drill {number} of group '{group}' is being ended, and something that its check has started or mounted does not let go: see to the \
                 processes with {number} in TIDEMARK_DRILL, and to the service's log"
            );
            return Err(ErrorBody::new(ErrorKind::Timeout, told));
        }
        self.past_drill(number)
    }

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

    fn drill_report(&self, record: DrillRecord) -> DrillReport {
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
    fn is_of_history(&self, group: &Group, drill: &DrillRecord) -> bool {
        let (newest, held) = match &*group.engine.read() {
            Engine::Primary(primary) => (primary.marker(None), primary.marker(Some(drill.marker))),
            Engine::Secondary(secondary) => {
                let newest = secondary.permitted().map(|permitted| info(&permitted.marker));
                (newest, secondary.state().markers.get(drill.marker).as_ref().map(info))
            }
            Engine::Fenced { .. } | Engine::Failed(_) => (None, None),
        };
        let kept = || self.catalog.marker(group.keeper.id(), MarkerNumber(drill.marker)).ok().flatten();
        let held = held.or_else(|| kept().map(|kept| info(&marker_of(&kept))));
        newest.is_none_or(|newest| newest.number >= drill.marker)
            && held.is_none_or(|held| unix_ns(held.time) == drill.marker_ns)
    }

    fn drills_of(&self, group: &str) -> GroupDrills {
        let found = self.group(group).ok();
        let id = found.as_ref().map(|found| found.keeper.id().0).unwrap_or_default();
        let (proven, last) = {
            let past = self.drills.past.lock();
            let ended =
                past.values().filter(|drill| drill.group_id == id && drill.result != DrillResultRecord::Running);
            let mut passed: Vec<_> = ended.clone().filter(|drill| drill.result == DrillResultRecord::Passed).collect();
            passed.sort_unstable_by_key(|drill| std::cmp::Reverse(drill.marker));
            let counts = |drill: &&DrillRecord| found.as_ref().is_none_or(|found| self.is_of_history(found, drill));
            (passed.into_iter().find(counts).cloned(), ended.max_by_key(|drill| drill.number).cloned())
        };
        let time =
            proven.as_ref().and_then(|proven| jiff::Timestamp::from_nanosecond(i128::from(proven.marker_ns)).ok());
        let age = time.map(|time| (self.clock.wall() - time).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0));
        GroupDrills {
            group: group.into(),
            proven_marker: proven.as_ref().map(|proven| proven.marker),
            proven_time: time,
            proven_age_seconds: age,
            last: last.as_ref().map(|last| last.number),
            last_passed: last.as_ref().map(|last| last.result == DrillResultRecord::Passed),
            last_rto_seconds: last.and_then(|last| last.rto_ms).map(seconds),
            running: self.drills.running.lock().contains_key(group),
            every_seconds: self.drills.schedules.lock().get(group).map(|schedule| seconds(schedule.every_ms)),
        }
    }
}

fn clone_name(number: u64) -> String {
    format!("drill-{number}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// What a check finds in its environment.
fn environment(
    record: &DrillRecord,
    clone: &ImageStatus,
    folder: &std::path::Path,
    request: &DrillRun,
) -> Vec<(String, String)> {
    let program = drill_check::program().map(|path| path.display().to_string()).unwrap_or_else(|_| "tidemark".into());
    let mut all = vec![
        ("TIDEMARK".to_owned(), program),
        ("TIDEMARK_DRILL".to_owned(), record.number.to_string()),
        ("TIDEMARK_DRILL_GROUP".to_owned(), record.group.clone()),
        ("TIDEMARK_DRILL_MARKER".to_owned(), record.marker.to_string()),
        ("TIDEMARK_DRILL_VOLUMES".to_owned(), clone.volumes.join(" ")),
        ("TIDEMARK_DRILL_EXPORTS".to_owned(), clone.exports.join(" ")),
        (drill_left::FOLDER.to_owned(), folder.display().to_string()),
        ("TIDEMARK_DRILL_CHECK".to_owned(), request.check.clone().unwrap_or_default()),
    ];
    let uris: BTreeMap<_, _> = clone.volumes.iter().zip(&clone.exports).collect();
    all.push((URIS.to_owned(), serde_json::to_string(&uris).unwrap_or_default()));
    for (volume, uri) in uris {
        if let Some(end) = own_variable(volume, &clone.volumes) {
            all.push((format!("{URIS}_{end}"), uri.clone()));
        }
    }
    all
}

/// The variable with the URIs of all volumes, a JSON object; with `_` and the end of a volume's own variable: that volume's.
pub(crate) const URIS: &str = "TIDEMARK_DRILL_NBD";

/// A volume's name as the end of a variable's: `pg-data` is `PG_DATA`.
fn variable(volume: &str) -> String {
    volume.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The end of a volume's variables. There is none where another volume would have the same: a check that looks at one volume twice proves
/// nothing of the other.
pub(crate) fn own_variable(volume: &str, volumes: &[String]) -> Option<String> {
    let end = variable(volume);
    (volumes.iter().filter(|other| variable(other) == end).count() <= 1).then_some(end)
}

/// What is said first of a drill in which volumes have no variables of their own.
fn note_of_unnamed(volumes: &[String]) -> String {
    let unnamed: Vec<_> =
        volumes.iter().filter(|volume| own_variable(volume, volumes).is_none()).map(String::as_str).collect();
    if unnamed.is_empty() {
        return String::new();
    }
    format!(
        "volumes {} have no variables of their own, since several would have the same: {URIS} has the URIs of all, a JSON object\n",
        unnamed.join(", ")
    )
}

/// A check that asks nothing would always pass.
fn check_is_one(check: Option<&str>) -> Result<(), ErrorBody> {
    if check.is_some_and(|check| check.trim().is_empty()) {
        return Err(invalid(
            "the check is empty, and would always pass: leave --check out to have only the exports read",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
