//! A backup from the request to its end.
//!
//! ```text
//! create ─▶ (scheduled) ─▶ images ─▶ members ─▶ waiting ─▶ copying ─▶ done
//!                              │         │          │          ├────▶ failed     the reason is in the record,
//!                              └─────────┴──────────┴──────────┴────▶ cancelled  nothing else is left
//! ```
//!
//! A backup that a kill interrupts is not gone on with: regions that were copied may have been overwritten since, unsaved. It
//! ends as failed when the service comes back.

mod copying;
mod recovery;
mod said;
#[cfg(test)]
mod tests;
mod unrecorded;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_backup::copy::{CopyError, Progress, check_manifest};
use tidemark_backup::destination::{self, TargetKind};
use tidemark_backup::files::room::Share;
use tidemark_backup::manifest::NotKept;
use tidemark_backup::plan::{Member, Order, arrange, data_bytes};
use tidemark_backup::sets::resolve;
use tidemark_backup::stop::Stop;
use tidemark_common::api::backup::ArchiveStream;
use tidemark_common::api::backup::types::{BackupCreate, BackupInfo, BackupState};
use tidemark_common::api::types::{ErrorBody, ErrorKind};
use tidemark_common::catalog::{BackupRecord, BackupStateRecord};
use tidemark_common::clock::unix_ns;
use tidemark_common::ids::{GroupId, check_name};
use tidemark_common::stage;
use tokio::sync::{OwnedSemaphorePermit, watch};

pub(super) use self::unrecorded::Unrecorded;
use super::Backups;
use super::moment::Moment;
use super::sets;
use super::targets::{Pieces, Readers};
use crate::roles::appliance::{Appliance, CANCELLED, failed, invalid, refused};

/// Pieces between an archive and who reads its stream.
const STREAM_PIECES: usize = 8;
/// How often it is looked whether one that waits is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long a cancelled backup may take to let go of its target.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// A backup that is not over.
pub(super) struct Job {
    pub(super) stop: Stop,
    progress: Progress,
    record: Mutex<BackupRecord>,
    /// Who reads the stream comes in here.
    readers: Mutex<Option<mpsc::SyncSender<Pieces>>>,
    over: watch::Sender<bool>,
    /// The eras it uses.
    eras: Mutex<Vec<(GroupId, u64)>>,
    /// What it will not hold as it was, for people; nothing if it will hold all.
    note: OnceLock<String>,
    /// What only it writes, from when its images are made until it is over.
    pub(super) place: OnceLock<PathBuf>,
}

impl Job {
    pub(super) fn state(&self) -> BackupState {
        self.record.lock().state.into()
    }
}

impl Backups {
    /// What a backup's image needs could not be saved: it ends, and says why.
    pub(crate) fn on_era_ended(&self, group: GroupId, era: u64, reason: &str) {
        for job in self.jobs.lock().values() {
            if job.eras.lock().contains(&(group, era)) {
                job.stop.stop(format!("its image could not be kept: {reason}"));
            }
        }
    }

    /// A backup that reads a group, if there is one.
    pub(crate) fn using(&self, group: GroupId) -> Option<String> {
        let jobs = self.jobs.lock();
        let reads = |job: &Arc<Job>| job.eras.lock().iter().any(|(read, _)| *read == group);
        jobs.iter().find(|(_, job)| reads(job)).map(|(name, _)| name.clone())
    }
}

/// What a job needs to copy.
struct Work {
    kind: TargetKind,
    moment: Moment,
    members: Vec<Member>,
    /// Of each set, in their order.
    not_kept: Vec<NotKept>,
    readers: Readers,
    /// The memory that its members take.
    _listed: Share,
}

impl Appliance {
    /// `backup create`.
    pub(super) async fn create_backup(&self, request: BackupCreate) -> Result<BackupInfo, ErrorBody> {
        // Whoever names a target that answers late, or never, waits for it here, where nobody has to wait for him.
        let _ = tokio::task::block_in_place(|| destination::kind_of(&request.to, &request.name));
        let alone = self.backups.changing.lock().await;
        let (record, kind) = tokio::task::block_in_place(|| self.check_request(&request))?;
        let (job, readers) = self.new_job(record.clone());
        if record.at_ns.is_some() {
            // What is not recorded is none, and its name is free.
            self.catalog.put_backup(&record).map_err(failed).inspect_err(|_| self.forget(&request.name))?;
            self.backups.unrecorded.lock().remove(&request.name);
            self.backups.places.lock().insert(request.name.clone(), own_folder(&kind));
            self.wait_for_time(Arc::clone(&job), readers);
            return tokio::task::block_in_place(|| self.show_backup(&request.name));
        }
        // Its name is taken. How long it takes to find what is to be copied, file systems decide: no other backup waits for that.
        drop(alone);
        let work = self.prepare(&job, readers).await.map_err(|why| self.never_began(&job, why))?;
        self.begin(job, work);
        tokio::task::block_in_place(|| self.show_backup(&request.name))
    }

    /// What cannot be backed up as it was asked for is said to who asked, and leaves no record; what was ended meanwhile has one.
    fn never_began(&self, job: &Job, why: String) -> ErrorBody {
        let name = job.record.lock().name.clone();
        match job.stop.reason() {
            Some(reason) => self.end(job, Err(CopyError::Stopped(reason))),
            None => self.forget(&name),
        }
        refused(why)
    }

    fn check_request(&self, request: &BackupCreate) -> Result<(BackupRecord, TargetKind), ErrorBody> {
        check_name(&request.name).map_err(|error| invalid(error.to_string()))?;
        if request.rate == Some(0) {
            return Err(invalid("at a rate of 0 a backup never ends"));
        }
        let (known, now) = (self.known_backup(&request.name).map_err(failed)?, self.clock.wall());
        let running = self.backups.jobs.lock().contains_key(&request.name);
        if running || known.is_some_and(|known| BackupState::from(known.state) == BackupState::Done) {
            return Err(refused(format!(
                "there is a backup '{}' already: use another name, or `tidemark backup delete {}` first",
                request.name, request.name
            )));
        }
        if request.at.is_some_and(|at| at <= now) {
            return Err(invalid("that time is over: without --at it begins now"));
        }
        let mut found = Vec::new();
        for name in &request.sets {
            if request.sets.iter().filter(|other| *other == name).count() > 1 {
                return Err(invalid(format!("set '{name}' is named twice")));
            }
            found.push(self.find_set(name)?);
        }
        if found.is_empty() {
            return Err(invalid("a backup needs at least one --set"));
        }
        let kind = destination::kind_of(&request.to, &request.name).map_err(refused)?;
        let record = BackupRecord {
            name: request.name.clone(),
            sets: found,
            order: request.order.name().into(),
            to: request.to.clone(),
            at_ns: request.at.map(unix_ns),
            rate: request.rate,
            when_idle: request.when_idle,
            while_differential: request.while_differential.into(),
            state: if request.at.is_some() { BackupStateRecord::Scheduled } else { BackupStateRecord::Waiting },
            reason: None,
            asked_ns: unix_ns(now),
            began_ns: None,
            ended_ns: None,
            moments: Vec::new(),
            done_bytes: 0,
            total_bytes: 0,
        };
        Ok((record, kind))
    }

    fn new_job(&self, record: BackupRecord) -> (Arc<Job>, Readers) {
        let (sender, readers) = mpsc::sync_channel(1);
        let name = record.name.clone();
        let job = Arc::new(Job {
            stop: Stop::default(),
            progress: Progress::new(Arc::clone(&self.clock)),
            record: Mutex::new(record),
            readers: Mutex::new(Some(sender)),
            over: watch::Sender::new(false),
            eras: Mutex::default(),
            note: OnceLock::new(),
            place: OnceLock::new(),
        });
        self.backups.jobs.lock().insert(name, Arc::clone(&job));
        (job, readers)
    }

    fn forget(&self, name: &str) {
        if let Some(job) = self.backups.jobs.lock().remove(name) {
            job.over.send_replace(true);
        }
    }

    /// The images of its moment and what is copied of them.
    async fn prepare(&self, job: &Arc<Job>, readers: Readers) -> Result<Work, String> {
        let record = job.record.lock().clone();
        let kind = tokio::task::block_in_place(|| {
            let kind = destination::kind_of(&record.to, &record.name)?;
            self.backups.claim(job, &kind).map(|()| kind)
        })?;
        let found = sets::read(&record.sets)?;
        let moment = {
            // No volume leaves its group between the begin of its image and its being known as read.
            let _alone = self.changing.lock().await;
            let moment = self.moment(&record.name, &sets::volumes(&found), record.while_differential.into()).await?;
            *job.eras.lock() = moment.eras();
            moment
        };
        let (order, stop) = (Order::named(&record.order).unwrap_or_default(), job.stop.clone());
        let mut listed = Share::of(Arc::clone(&self.backups.lists));
        let is_archive = !matches!(kind, TargetKind::Folder(_));
        let (moment, listed, members) = tokio::task::spawn_blocking(move || {
            let members = resolve::members(&found, &moment.images, &stop, &mut listed);
            let members = members.and_then(|found| match is_archive {
                true => check_manifest(&found.0).map(|()| found),
                false => Ok(found),
            });
            (moment, listed, members)
        })
        .await
        .map_err(|error| error.to_string())?;
        let (mut members, not_kept) = members?;
        arrange(&mut members, order);
        let missing: NotKept = not_kept.iter().copied().sum();
        if !missing.is_nothing() {
            tracing::warn!(backup = %record.name, "the backup does not hold all of its directories as it is: {missing}");
            let _ = job.note.set(missing.to_string());
        }
        let now = self.now_ns();
        {
            let mut record = job.record.lock();
            record.began_ns = Some(now);
            record.total_bytes = data_bytes(&members);
            record.reason = job.note.get().cloned();
            record.moments =
                moment.said.iter().map(|said| (said.group.clone(), said.marker, unix_ns(said.time))).collect();
        }
        // Nobody records the end of an earlier one of its name meanwhile.
        let _alone = self.backups.changing.lock().await;
        tokio::task::block_in_place(|| self.enter(job, BackupStateRecord::Waiting))?;
        Ok(Work { kind, moment, members, not_kept, readers, _listed: listed })
    }

    /// Records where the job is now.
    fn enter(&self, job: &Job, state: BackupStateRecord) -> Result<(), String> {
        let record = {
            let mut record = job.record.lock();
            record.state = state;
            record.clone()
        };
        self.catalog.put_backup(&record).map_err(|error| error.to_string())?;
        // An earlier one of its name.
        self.backups.unrecorded.lock().remove(&record.name);
        Ok(())
    }

    /// Waits until its time has come, also when the clock is set meanwhile.
    pub(super) fn wait_for_time(&self, job: Arc<Job>, readers: Readers) {
        let Some(this) = self.this.upgrade() else { return };
        self.runtime.spawn(async move {
            let at = job.record.lock().at_ns.unwrap_or(0);
            while this.now_ns() < at && job.stop.reason().is_none() {
                let left = u64::try_from(at - this.now_ns()).unwrap_or(0);
                tokio::time::sleep(Duration::from_nanos(left).min(Duration::from_millis(500))).await;
            }
            if let Some(reason) = job.stop.reason() {
                this.end(&job, Err(CopyError::Stopped(reason)));
                return;
            }
            // It waits for its time no more, however long it takes to find what is to be copied.
            job.record.lock().state = BackupStateRecord::Waiting;
            match this.prepare(&job, readers).await {
                Ok(work) => this.begin(job, work),
                Err(why) => {
                    let failed = || CopyError::Failed(why);
                    this.end(&job, Err(job.stop.reason().map_or_else(failed, CopyError::Stopped)));
                }
            }
        });
    }

    /// Copies on a thread of its own, as soon as there is memory for it.
    fn begin(&self, job: Arc<Job>, work: Work) {
        let Some(this) = self.this.upgrade() else { return };
        let name = job.record.lock().name.clone();
        self.backups.places.lock().insert(name, own_folder(&work.kind));
        self.runtime.spawn(async move {
            let waited = this.wait_complete(&job.stop, &work.moment).await;
            if let Err(why) = waited {
                drop(work);
                this.end(&job, Err(CopyError::Failed(why)));
                return;
            }
            let Some(permit) = this.memory_for(&job).await else {
                drop(work);
                this.end(&job, Err(CopyError::Stopped(job.stop.reason().unwrap_or_default())));
                return;
            };
            let (here, carried, brings) = (Arc::clone(&this), Arc::clone(&job), work.moment.brings);
            let carry = move || here.carry(&carried, work, permit);
            // Hosts at a target wait for what is being copied to it: whoever does that does not stand behind them.
            let begun =
                if brings { stage::beside_hosts("backup", carry) } else { stage::in_background("backup", carry) };
            if let Err(error) = begun {
                let why = format!("no thread could be started for it: {error}");
                this.end(&job, Err(CopyError::Failed(why)));
            }
        });
    }

    /// Others may copy for ever, to targets that take nothing: `None` when it is to stop instead.
    async fn memory_for(&self, job: &Job) -> Option<OwnedSemaphorePermit> {
        let mut acquiring = pin!(Arc::clone(&self.backups.copyings).acquire_owned());
        while job.stop.reason().is_none() {
            if let Ok(permit) = tokio::time::timeout(LOOK, &mut acquiring).await {
                return permit.ok();
            }
        }
        None
    }

    fn end(&self, job: &Job, outcome: Result<(), CopyError>) {
        self.end_at(job, outcome, None);
    }

    fn end_at(&self, job: &Job, outcome: Result<(), CopyError>, kind: Option<&TargetKind>) {
        let mut ended = job.record.lock().clone();
        ended.ended_ns = Some(self.now_ns());
        ended.done_bytes = job.progress.told().done_bytes;
        (ended.state, ended.reason) = match outcome {
            Ok(()) => (BackupStateRecord::Done, job.note.get().cloned()),
            Err(CopyError::Stopped(reason)) if reason == CANCELLED => (BackupStateRecord::Cancelled, Some(reason)),
            Err(error) => (BackupStateRecord::Failed, Some(error.to_string())),
        };
        if let Some(reason) = ended.reason.as_ref().filter(|_| ended.state != BackupStateRecord::Done) {
            tracing::warn!(backup = %ended.name, %reason, "the backup ended early");
        }
        self.conclude(job, ended, kind);
    }

    /// It is over: recorded first, then said. A file keeps its interim name until that is recorded. Nobody who looks at backups waits for its target.
    fn conclude(&self, job: &Job, ended: BackupRecord, kind: Option<&TargetKind>) {
        let (name, state) = (ended.name.clone(), ended.state);
        match self.catalog.put_backup(&ended) {
            Ok(()) if state == BackupStateRecord::Done => settle(&name, kind, &self.whose()),
            Ok(()) => {}
            Err(error) => {
                self.say_unrecorded(&name, &error);
                self.backups.unrecorded.lock().insert(name.clone(), (ended.clone(), kind.cloned()));
            }
        }
        *job.record.lock() = ended;
        self.backups.ended.lock().insert(name.clone(), state.into());
        self.forget(&name);
    }

    /// `backup cancel`.
    pub(super) async fn cancel_backup(&self, name: &str) -> Result<BackupInfo, ErrorBody> {
        let (record, job) = self.find_backup(name)?;
        let Some(job) = job else {
            return Err(refused(format!("backup '{name}' is {} already", BackupState::from(record.state).name())));
        };
        job.stop.stop(CANCELLED);
        let mut over = job.over.subscribe();
        let ended = tokio::time::timeout(CANCEL_LIMIT, over.wait_for(|over| *over)).await;
        if ended.is_err() {
            return Err(ErrorBody::new(
                ErrorKind::Timeout,
                format!(
                    "backup '{name}' is being cancelled, and its target does not let go of what it was given: see to the device"
                ),
            ));
        }
        tokio::task::block_in_place(|| self.show_backup(name))
    }

    /// `backup delete`.
    pub(super) async fn delete_backup(&self, name: &str) -> Result<(), ErrorBody> {
        let _alone = self.backups.changing.lock().await;
        let state = BackupState::from(self.find_backup(name)?.0.state);
        if !state.is_over() {
            return Err(refused(format!(
                "backup '{name}' is {}: `tidemark backup cancel {name}` ends it",
                state.name()
            )));
        }
        self.catalog.delete_backup(name).map_err(failed)?;
        self.backups.unrecorded.lock().remove(name);
        self.backups.ended.lock().remove(name);
        self.backups.places.lock().remove(name);
        Ok(())
    }

    /// Whoever reads a backup to `-`.
    pub(super) fn stream_backup(&self, name: &str) -> Result<ArchiveStream, ErrorBody> {
        let job = self.backups.jobs.lock().get(name).cloned();
        let Some(job) = job.filter(|job| job.record.lock().to == "-") else {
            self.find_backup(name)?;
            return Err(refused(format!("backup '{name}' has no stream to be read now")));
        };
        let readers = job.readers.lock().take();
        let readers = readers.ok_or_else(|| refused(format!("the stream of backup '{name}' is read already")))?;
        let (sender, stream) = tokio::sync::mpsc::channel(STREAM_PIECES);
        readers.try_send(sender).map_err(|_| refused(format!("backup '{name}' has just ended")))?;
        Ok(stream)
    }

    /// The service stops: what is under way ends early, and says why.
    pub(crate) async fn stop_backups(&self) {
        let mut jobs: Vec<_> = self.backups.jobs.lock().values().cloned().collect();
        // What was to begin at a time and has not is begun by the next start.
        jobs.retain(|job| {
            let record = job.record.lock();
            record.at_ns.is_none() || record.began_ns.is_some()
        });
        // All at once: one may wait for what another has.
        jobs.iter().for_each(|job| job.stop.stop("the service was stopped; nothing of it is left. Ask for it again"));
        let all = async {
            for job in &jobs {
                let mut over = job.over.subscribe();
                let _ = over.wait_for(|over| *over).await;
            }
        };
        let _ = tokio::time::timeout(CANCEL_LIMIT, all).await;
    }
}

/// What cannot be removed is in nobody's way: the backup is done.
fn settle(name: &str, kind: Option<&TargetKind>, whose: &str) {
    if let Some(Err(why)) = kind.map(|kind| destination::settle(kind, whose)) {
        tracing::warn!(backup = %name, %why, "the interim name of a finished backup must be removed by hand");
    }
}

fn own_folder(kind: &TargetKind) -> Option<String> {
    match kind {
        TargetKind::Folder(folder) => Some(folder.display().to_string()),
        TargetKind::File(_) | TargetKind::Device(_) | TargetKind::Stream => None,
    }
}
