//! The copying itself, on a thread of its own: from the images to the target, with the manifest last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_backup::copy::{CopyError, Copying, copy};
use tidemark_backup::destination;
use tidemark_backup::manifest::{FORMAT, Manifest, SetSaid};
use tidemark_backup::pace::{Asked, Hurry, Pace};
use tidemark_backup::plan::data_bytes;
use tidemark_common::catalog::BackupStateRecord;
use tidemark_common::clock::from_unix_ns;
use tokio::sync::OwnedSemaphorePermit;

use super::{Job, Work};
use crate::roles::appliance::Appliance;
use crate::roles::backups::moment::Moment;
use crate::roles::backups::targets;

/// Tells that a backup has to hurry, and for as long as it does.
fn telling(job: &Arc<Job>, squeezed: impl Fn() -> bool + Send + 'static) -> Hurry {
    let (job, told) = (Arc::clone(job), AtomicBool::new(false));
    Box::new(move || {
        let now = squeezed();
        if told.swap(now, Ordering::AcqRel) != now {
            let mut record = job.record.lock();
            if now {
                let why = "the side store fills (side_store_bytes): it copies as fast as it can, whatever its rate, and once that is full the \
                           volumes are written later, while the journal is less than half full";
                tracing::warn!(backup = %record.name, "{why}");
                record.reason = Some(why.into());
            } else {
                tracing::info!(backup = %record.name, "the side store has room again: the backup keeps to its rate");
                record.reason = job.note.get().cloned();
            }
        }
        now
    })
}

/// A defect of ours ends a backup as any other failure does: it would be under way for ever, and its images would be kept for it.
fn unless_broken(copy: impl FnOnce() -> Result<(), CopyError>) -> Result<(), CopyError> {
    let why = "it ended by a defect of Tidemark, and the log has its message";
    let broken = |_| Err(CopyError::Failed(why.into()));
    // What it worked with is not looked at again.
    catch_unwind(AssertUnwindSafe(copy)).unwrap_or_else(broken)
}

impl Appliance {
    pub(super) fn carry(&self, job: &Arc<Job>, work: Work, permit: OwnedSemaphorePermit) {
        let name = job.record.lock().name.clone();
        let kind = work.kind.clone();
        let outcome = match job.stop.reason() {
            Some(reason) => Err(CopyError::Stopped(reason)),
            None => unless_broken(|| self.copy(job, &work)),
        };
        // Whatever it was waiting for when it was told to stop, that is why it ended.
        let outcome = outcome.map_err(|error| job.stop.reason().map_or(error, CopyError::Stopped));
        let outcome = outcome.inspect_err(|_| {
            if let Err(why) = destination::remove_unfinished(&kind, &self.whose()) {
                tracing::error!(backup = %name, %why, "what is left of a backup must be removed by hand");
            }
        });
        // The images go before the end is said: whoever waits for it finds their space given back.
        drop(work);
        drop(permit);
        self.end_at(job, outcome, Some(&kind));
    }

    fn copy(&self, job: &Arc<Job>, work: &Work) -> Result<(), CopyError> {
        let recorded = CopyError::Failed;
        self.enter(job, BackupStateRecord::Copying).map_err(recorded)?;
        let record = job.record.lock().clone();
        let began = from_unix_ns(record.began_ns.unwrap_or(record.asked_ns));
        let at_target = |source| CopyError::Target { member: record.to.clone(), source };
        job.progress.opens();
        let opened =
            targets::open(&work.kind, &self.whose(), began.as_second(), &job.stop, &self.runtime, &work.readers);
        let mut form = opened.map_err(at_target)?;
        job.progress.begin(data_bytes(&work.members));
        let pace = Pace::new(Arc::clone(&self.clock), record.rate, record.when_idle.then(|| self.asked(&work.moment)));
        let pace = pace.hurrying(telling(job, work.moment.squeezed()));
        let copying = Copying { members: &work.members, pace, stop: &job.stop, progress: &job.progress };
        let members = copy(copying, &work.moment.images, form.as_mut()).map_err(|error| match error {
            CopyError::Target { member, source } => {
                CopyError::Target { member: format!("{member} to {}", record.to), source }
            }
            other => other,
        })?;
        let sets = record.sets.iter().zip(&work.not_kept).map(|(set, not_kept)| SetSaid {
            name: set.name.clone(),
            extents: set.extents.clone(),
            not_kept: *not_kept,
        });
        let manifest = Manifest {
            format: FORMAT,
            name: record.name.clone(),
            appliance: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            began,
            order: record.order.clone(),
            moments: work.moment.said.clone(),
            skew_seconds: work.moment.skew_seconds(),
            sets: sets.collect(),
            members,
        };
        if let Some(reason) = job.stop.reason() {
            return Err(CopyError::Stopped(reason));
        }
        let text = manifest.encode().map_err(|error| recorded(error.to_string()))?;
        job.progress.giving(|| form.finish(&text)).map_err(at_target)
    }

    /// Counts what hosts ask of the volumes.
    fn asked(&self, moment: &Moment) -> Asked {
        let doors: Vec<_> = moment.images.keys().filter_map(|name| self.volume(name).ok()).collect();
        Box::new(move || doors.iter().map(|volume| volume.door.asked()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_a_panic_has_ended_has_failed() {
        let ended = unless_broken(|| panic!("as it was to"));
        assert!(ended.unwrap_err().to_string().contains("defect"));
        unless_broken(|| Ok(())).unwrap();
    }
}
