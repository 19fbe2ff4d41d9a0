//! Drills: a failover rehearsed on a clone, timed and recorded; replication is not touched.
//!
//! ```text
//! clone ─▶ record "running" ─▶ first reads answered (RTO) ─▶ check ─▶ clone deleted ─▶ record with the result
//! ```
//!
//! A record that says "running" at a start was interrupted. Every clone of a drill goes then, also one that has no record yet. A catalogue whose
//! disk takes nothing holds up no start: what cannot be recorded or deleted is tried again.

mod report;
mod schedule;
mod variables;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tidemark_common::api::types::{DrillReport, DrillRun, ErrorBody, ErrorKind, ImageStatus};
use tidemark_common::catalog::{DrillRecord, DrillResultRecord, ImageKindRecord, ScheduleRecord};
use tidemark_common::clock::unix_ns;
use tidemark_common::nbd::Export;
use tidemark_common::{stage, workers};
use tokio_util::sync::CancellationToken;

pub(crate) use self::variables::{URIS, own_variable};
use self::variables::{environment, note_of_unnamed};
use super::appliance::{Appliance, CANCELLED, failed, invalid, refused};
use super::drill_check::{self, Checked};
use super::drill_left;
use super::images::Held;

/// Past drills kept.
const KEPT: usize = 1000;
/// What a check has started, and what is mounted for it, is gone by then, or holds up the end of its drill.
const END_LIMIT: Duration = Duration::from_secs(120);

/// Drills of this appliance.
#[derive(Default)]
pub(crate) struct Drills {
    /// By number; what checks said is left out.
    past: Mutex<BTreeMap<u64, DrillRecord>>,
    /// Of what they have proven: looked up again and again, for status to find here.
    cut: Mutex<report::Cut>,
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

    /// Waits for what a disk may never answer: not for longer than this, nor when the drill is not gone on with.
    async fn answer<T>(&self, limit: Duration, what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::select! {
            biased;
            () = self.drills.stop.cancelled() => {}
            () = self.this.cancelled.cancelled() => {}
            answered = tokio::time::timeout(limit, what) => {
                let late = |_| Err(format!("its volumes did not answer within {limit:?}: see to the disks behind them"));
                return answered.unwrap_or_else(late);
            }
        }
        Err(self.stopped()().unwrap_or(CANCELLED).into())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.drills.running.lock().remove(&self.group);
        self.this.over.cancel();
    }
}

impl Drills {
    /// Nobody else writes a schedule. Who does may wait for the catalogue's disk, and no thread of a runtime waits for them.
    fn recording(&self) -> MutexGuard<'_, ()> {
        self.recording.try_lock().unwrap_or_else(|| workers::wait(|| self.recording.lock()))
    }

    /// Whether a schedule is still the one that came due.
    fn is_current(&self, due: &ScheduleRecord) -> bool {
        self.schedules.lock().get(&due.group).is_some_and(|now| now.last_ns == due.last_ns)
    }

    /// It did not begin: it is due again as soon as no other is under way.
    fn give_back(&self, due: &ScheduleRecord) {
        if let Some(schedule) = self.schedules.lock().get_mut(&due.group) {
            schedule.last_ns = 0;
        }
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
            if let Some(due) = due {
                self.give_back(due);
            }
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
        self.keep_proofs();
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
            match self.catalog.put_drill(&record) {
                Ok(()) => drop(self.drills.left.lock().records.remove(&number)),
                Err(error) => self.say_tried_again(&format!("how drill {number} ended could not be recorded: {error}")),
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
            self.say_tried_again(&format!("the clone of a drill, '{name}', could not be deleted: {}", error.message));
            self.drills.left.lock().clones.push(held);
        }
    }

    /// Cleans up what could not be cleaned up before, and looks whether what was proven still is of its group. Not where schedules are looked
    /// at: it waits for whoever changes something, and for the disk.
    pub(crate) async fn look_after_drills(&self) {
        self.clean_up_drills().await;
        self.keep_proofs();
    }

    /// `drill run`; `due`: by a schedule.
    pub(crate) async fn run_drill(
        &self,
        group: &str,
        request: DrillRun,
        due: Option<&ScheduleRecord>,
    ) -> Result<DrillReport, ErrorBody> {
        if request.timeout_ms == 0 {
            return Err(invalid("with a --timeout of 0 no check can pass: give it some time"));
        }
        check_is_one(request.check.as_deref())?;
        let order = self.clock.monotonic();
        let found = self.group(group)?;
        let running = self.drills.begin(group, due, |name| self.images.held.read().contains_key(name))?;
        if let Some(due) = due {
            self.note_begin(due);
        }
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
        self.keep_drill(&record);
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
        let limit = Duration::from_millis(request.timeout_ms);
        // Of all that follows: what the first reads take, the check has not.
        let until = self.clock.monotonic().saturating_add(limit);
        let checked = match running.answer(limit, self.first_reads(clone)).await {
            Ok(()) => {
                record.rto_ms = Some(millis(self.clock.monotonic().saturating_sub(order)));
                self.check(record, clone, request, running, until).await
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
        until: Duration,
    ) -> Checked {
        let stopped = running.stopped();
        if let Some(reason) = stopped() {
            return Checked { failure: Some(reason.into()), ..Checked::default() };
        }
        let Some(command) = &request.check else { return Checked::default() };
        let left = until.saturating_sub(self.clock.monotonic());
        if left.is_zero() {
            let failure =
                "the first reads took all of the time: see to the disks behind the volumes, or raise --timeout";
            return Checked { failure: Some(failure.into()), ..Checked::default() };
        }
        let folder = match self.make_drill_folder(record.number) {
            Ok(folder) => folder,
            Err(error) => {
                let failure = format!("make a folder in {}: {error}", std::env::temp_dir().display());
                return Checked { failure: Some(failure), ..Checked::default() };
            }
        };
        let note = note_of_unnamed(&clone.volumes);
        let command = if request.mount {
            "exec \"$TIDEMARK\" drill check mounted -- \"$TIDEMARK_DRILL_CHECK\"".into()
        } else {
            command.clone()
        };
        let environment = environment(record, clone, &folder, request);
        let clock = Arc::clone(&self.clock);
        let (tell, told) = tokio::sync::oneshot::channel();
        let started = stage::beside_hosts(&format!("drill {}", record.number), move || {
            let _ = tell.send(drill_check::run(&command, &environment, &folder, left, &*clock, &*stopped));
        });
        let mut checked = match started {
            Ok(()) => told.await.unwrap_or_else(|_| Checked {
                failure: Some("the check ended without an answer".into()),
                ..Checked::default()
            }),
            Err(error) => Checked { failure: Some(format!("no thread for the check: {error}")), ..Checked::default() },
        };
        checked.output.insert_str(0, &note);
        checked
    }

    /// Not below the appliance's directory, which others cannot reach. Where it is, anybody may have made a folder of any name before: its own ends
    /// with what nobody knows.
    fn make_drill_folder(&self, number: u64) -> std::io::Result<PathBuf> {
        let begin = format!("{}{number}-", self.drill_folder_prefix());
        // Others may pass through it: databases do not run as root.
        let permissions = std::fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().prefix(&begin).permissions(permissions.clone()).tempdir()?;
        // Whatever the process's mask has left of them.
        std::fs::set_permissions(folder.path(), permissions)?;
        Ok(folder.keep())
    }

    fn drill_folder_prefix(&self) -> String {
        format!("tidemark-{}-drill-", self.identity.id().short())
    }

    /// What a kill in the middle of a drill leaves is ended beside the service: hosts do not wait for that. No drill can have begun.
    fn end_left_of_drills(&self) {
        let prefix = self.drill_folder_prefix();
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let left: Vec<_> = left.map(|entry| entry.path()).filter(|folder| drill_left::is_own(folder)).collect();
        if left.is_empty() {
            return;
        }
        let clock = Arc::clone(&self.clock);
        let started = stage::beside_hosts("drills left", move || {
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

    /// How a drill has ended is known from here on, and recorded as soon as the catalogue takes it.
    fn keep_drill(&self, record: &DrillRecord) {
        if let Err(error) = self.catalog.put_drill(record) {
            self.say_tried_again(&format!("how drill {} ended could not be recorded: {error}", record.number));
            self.drills.left.lock().records.insert(record.number, record.clone());
        }
        let here: BTreeSet<[u8; 16]> = self.groups.read().values().map(|group| group.keeper.id().0).collect();
        let surplus = {
            let mut past = self.drills.past.lock();
            past.insert(record.number, DrillRecord { output: String::new(), ..record.clone() });
            let oldest = if past.len() > KEPT { oldest_of_no_use(&past, |group| here.contains(&group)) } else { None };
            oldest.inspect(|number| drop(past.remove(number)))
        };
        if let Some(oldest) = surplus {
            self.drills.left.lock().records.remove(&oldest);
            if let Err(error) = self.catalog.delete_drill(oldest) {
                tracing::warn!(drill = oldest, %error, "an old drill could not be removed from the list");
            }
        }
        let passed = record.result == DrillResultRecord::Passed;
        if passed {
            self.drills.cut.lock().insert((record.group_id, record.marker), record.marker_ns);
        }
        tracing::info!(drill = record.number, group = %record.group, marker = record.marker, passed, "a drill has ended");
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
                "drill {number} of group '{group}' is being ended, and something that its check has started or mounted cannot be ended: \
                 look for processes with {number} in TIDEMARK_DRILL, and in the service's log"
            );
            return Err(ErrorBody::new(ErrorKind::Timeout, told));
        }
        self.past_drill(number)
    }
}

/// The oldest drill that says nothing of a group that is here: neither what was proven last, nor how the last one ended. Groups that are
/// rehearsed often leave those of others alone; of groups that were deleted, nothing has to stay.
fn oldest_of_no_use(past: &BTreeMap<u64, DrillRecord>, is_here: impl Fn([u8; 16]) -> bool) -> Option<u64> {
    let (mut ended, mut oldest) = (BTreeSet::new(), None);
    // The newest marker that those looked at have proven, by group.
    let mut proven: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    for (number, drill) in past.iter().rev() {
        let is_last = ended.insert(drill.group_id);
        // One that rehearsed an older marker later has proven less.
        let is_newer = proven.get(&drill.group_id).is_none_or(|marker| *marker < drill.marker);
        let is_proof = drill.result == DrillResultRecord::Passed && is_newer;
        if is_proof {
            proven.insert(drill.group_id, drill.marker);
        }
        if !(is_here(drill.group_id) && (is_last || is_proof)) {
            oldest = Some(*number);
        }
    }
    oldest
}

fn clone_name(number: u64) -> String {
    format!("drill-{number}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
