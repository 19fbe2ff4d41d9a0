//! Restores onto volumes that are under way: how far they are, and who ends them.
//!
//! ```text
//! asked for ─▶ verifying ─▶ writing ─▶ done
//!                  │           └─ told to stop, or an error ─▶ half restored (`unfinished`)
//!                  └─ told to stop, or an error ─▶ nothing was changed
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tidemark_backup::restore::Ranges;
use tidemark_backup::stop::Stop;
use tidemark_common::api::backup::types::{RestoreRequest, RestoreState, RestoreStatus};
use tidemark_common::api::types::{CopyProgress, ErrorBody, ErrorKind};
use tidemark_common::clock::Clock;
use tidemark_common::rate::Rate;
use tokio_util::sync::CancellationToken;

use crate::roles::appliance::{Appliance, CANCELLED, refused};

/// A request of a volume that is answered later than that holds up the end of its restore.
const END_LIMIT: Duration = Duration::from_secs(30);

/// When the service stops, all of them together are waited for so long.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Restores under way, by their order.
pub(super) type Restores = BTreeMap<u64, Arc<Restoring>>;

/// One of them.
pub(super) struct Restoring {
    request: RestoreRequest,
    began: Timestamp,
    clock: Arc<dyn Clock>,
    stop: Stop,
    at: Mutex<At>,
    over: CancellationToken,
}

/// How far it is.
struct At {
    state: RestoreState,
    volumes: Vec<String>,
    warnings: Vec<String>,
    done_bytes: u64,
    total_bytes: u64,
    rate: Rate,
}

impl At {
    /// The next part of it begins: with so much before it.
    fn begin(&mut self, state: RestoreState, total_bytes: u64, now: Duration) {
        (self.state, self.done_bytes, self.total_bytes) = (state, 0, total_bytes);
        self.rate = Rate::default();
        let _ = self.rate.progress(now, 0, total_bytes);
    }
}

impl Restoring {
    /// Why it is not gone on with, if it is not.
    pub(super) fn stopped(&self) -> Option<String> {
        self.stop.reason()
    }

    /// So much of the backup was verified.
    pub(super) fn verified(&self, done_bytes: u64, total_bytes: Option<u64>) {
        let mut at = self.at.lock();
        at.done_bytes = done_bytes;
        // A file system may have larger holes than the backup.
        at.total_bytes = total_bytes.map_or(0, |total_bytes| total_bytes.max(done_bytes));
    }

    /// What will be overwritten is known.
    pub(super) fn overwrites(&self, ranges: &Ranges) {
        self.at.lock().volumes = ranges.keys().cloned().collect();
    }

    /// Their names.
    pub(super) fn volumes(&self) -> Vec<String> {
        self.at.lock().volumes.clone()
    }

    /// What it may come to for copies of that.
    pub(super) fn warns(&self, warnings: Vec<String>) {
        for warning in &warnings {
            tracing::warn!(from = %self.request.from, %warning, "a restore may leave a copy behind");
        }
        self.at.lock().warnings = warnings;
    }

    /// What was told of that.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.at.lock().warnings.clone()
    }

    /// From now on, these ranges are neither what was there nor the backup.
    pub(super) fn writes(&self, ranges: &Ranges) {
        let total_bytes = ranges.values().flatten().fold(0_u64, |bytes, (_, length)| bytes.saturating_add(*length));
        self.at.lock().begin(RestoreState::Writing, total_bytes, self.clock.monotonic());
    }

    /// So many bytes more were written, or made to read as zeroes.
    pub(super) fn wrote(&self, bytes: u64) {
        self.at.lock().done_bytes += bytes;
    }

    /// All of it is written, durably.
    pub(super) fn done(&self) {
        self.at.lock().state = RestoreState::Done;
    }

    fn status(&self) -> RestoreStatus {
        let now = self.clock.monotonic();
        let mut at = self.at.lock();
        let (done_bytes, total_bytes) = (at.done_bytes, at.total_bytes);
        let progress = at.rate.progress(now, done_bytes, total_bytes);
        RestoreStatus {
            from: self.request.from.clone(),
            set: self.request.set.clone(),
            onto: self.request.onto.clone(),
            state: at.state,
            volumes: at.volumes.clone(),
            began: self.began,
            // Of what there is no end in sight, there is no time left either.
            progress: CopyProgress { seconds_left: progress.seconds_left.filter(|_| total_bytes > 0), ..progress },
            warnings: at.warnings.clone(),
        }
    }
}

/// A restore is under way for as long as this lives.
pub(super) struct UnderWay {
    appliance: Arc<Appliance>,
    number: u64,
    restoring: Arc<Restoring>,
}

impl UnderWay {
    /// It begins, with verifying.
    pub(super) fn begin(appliance: Arc<Appliance>, request: RestoreRequest) -> Self {
        let (clock, over) = (Arc::clone(&appliance.clock), CancellationToken::new());
        let mut at = At {
            state: RestoreState::Verifying,
            volumes: Vec::new(),
            warnings: Vec::new(),
            done_bytes: 0,
            total_bytes: 0,
            rate: Rate::default(),
        };
        at.begin(RestoreState::Verifying, 0, clock.monotonic());
        let (began, at, stop) = (clock.wall(), Mutex::new(at), Stop::default());
        let restoring = Arc::new(Restoring { request, began, clock, stop, at, over });
        let number = {
            let mut restores = appliance.backups.restores.lock();
            let number = restores.last_key_value().map_or(0, |(last, _)| last + 1);
            restores.insert(number, Arc::clone(&restoring));
            number
        };
        Self { appliance, number, restoring }
    }
}

impl std::ops::Deref for UnderWay {
    type Target = Restoring;

    fn deref(&self) -> &Restoring {
        &self.restoring
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.appliance.backups.restores.lock().remove(&self.number);
        self.restoring.over.cancel();
    }
}

impl Appliance {
    /// Those under way, for status.
    pub(crate) fn restores_now(&self) -> Vec<RestoreStatus> {
        let restores: Vec<_> = self.backups.restores.lock().values().cloned().collect();
        restores.iter().map(|restoring| restoring.status()).collect()
    }

    /// `backup restore --cancel`.
    pub(super) async fn cancel_restore(&self, request: RestoreRequest) -> Result<RestoreStatus, ErrorBody> {
        let RestoreRequest { from, .. } = &request;
        let restores: Vec<_> = self.backups.restores.lock().values().cloned().collect();
        let none =
            || refused(format!("no such restore from {from} is under way: `tidemark status` shows those that are"));
        let restoring = restores.into_iter().find(|one| one.request == request).ok_or_else(none)?;
        restoring.stop.stop(CANCELLED);
        if tokio::time::timeout(END_LIMIT, restoring.over.cancelled()).await.is_err() {
            let told = format!(
                "the restore from {from} is being ended, and what it reads or writes does not answer: see to the disks. `tidemark status` shows \
                 it for as long as it goes on"
            );
            return Err(ErrorBody::new(ErrorKind::Timeout, told));
        }
        let ended = restoring.status();
        if ended.state == RestoreState::Done {
            return Err(refused(format!(
                "the restore from {from} has just ended, and is whole: there is nothing to cancel"
            )));
        }
        Ok(ended)
    }

    /// The service stops: what is under way ends half-way, and says so.
    pub(crate) async fn stop_restores(&self) {
        let restores: Vec<_> = self.backups.restores.lock().values().cloned().collect();
        for restoring in &restores {
            restoring.stop.stop("the service was stopped");
        }
        let over = async {
            for restoring in &restores {
                restoring.over.cancelled().await;
            }
        };
        if tokio::time::timeout(STOP_LIMIT, over).await.is_err() {
            tracing::warn!("a restore waits for what it reads or writes: stopping without its end");
        }
    }
}
