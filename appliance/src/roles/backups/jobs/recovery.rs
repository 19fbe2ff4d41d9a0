//! What becomes, at a start, of backups that a kill or a stop interrupted.

use std::sync::Arc;
use std::time::Duration;

use tidemark_backup::destination::{self, TargetKind};
use tidemark_backup::manifest::Manifest;
use tidemark_common::catalog::{BackupRecord, BackupStateRecord};
use tidemark_common::clock::from_unix_ns;

use super::{Job, own_folder, settle};
use crate::roles::appliance::Appliance;

/// How long a start waits until it is known what interrupted backups have left. Their targets may answer later, or never.
const RECOVER_LIMIT: Duration = Duration::from_secs(2);

impl Appliance {
    /// What a kill or a stop interrupted ends here, and what is scheduled waits again. Whatever targets lie on may answer late, or never: no
    /// start of the service waits for that.
    pub(crate) async fn recover_backups(&self) -> Result<(), tidemark_common::catalog::CatalogError> {
        let (mut known, mut looking) = (Vec::new(), Vec::new());
        for record in self.catalog.backups()? {
            match record.state {
                BackupStateRecord::Scheduled => {
                    known.push((record.to.clone(), record.name.clone(), record.state));
                    let (job, readers) = self.new_job(record);
                    self.wait_for_time(job, readers);
                }
                BackupStateRecord::Waiting | BackupStateRecord::Copying => {
                    looking.extend(self.look_at_interrupted(record));
                }
                BackupStateRecord::Done | BackupStateRecord::Failed | BackupStateRecord::Cancelled => {
                    self.backups.ended.lock().insert(record.name.clone(), record.state.into());
                    known.push((record.to, record.name, record.state));
                }
            }
        }
        looking.extend(self.look_at_targets(known));
        let all = async {
            for one in looking {
                let _ = one.await;
            }
        };
        if tokio::time::timeout(RECOVER_LIMIT, all).await.is_err() {
            tracing::warn!("the target of a backup does not answer: what is left there is known later");
        }
        Ok(())
    }

    /// Finds out what the targets of backups are, one after the other.
    fn look_at_targets(&self, known: Vec<(String, String, BackupStateRecord)>) -> Option<tokio::task::JoinHandle<()>> {
        let (this, whose) = (self.this.upgrade()?, self.whose());
        Some(self.runtime.spawn_blocking(move || {
            for (to, name, state) in known {
                let kind = interrupted_kind(&to, &name);
                // Where it took long, one of this name may have been asked for meanwhile.
                this.backups.places.lock().entry(name.clone()).or_insert_with(|| own_folder(&kind));
                // Killed when that was recorded and the interim name was still there.
                if state == BackupStateRecord::Done {
                    settle(&name, Some(&kind), &whose);
                }
            }
        }))
    }

    /// Finds out how a backup ended. Until then it counts as under way, and says why.
    fn look_at_interrupted(&self, mut record: BackupRecord) -> Option<tokio::task::JoinHandle<()>> {
        let this = self.this.upgrade()?;
        let (job, _) = self.new_job(record.clone());
        let why =
            "interrupted: the service ended while it was copied. Its target has not answered yet what is left there";
        job.record.lock().reason = Some(why.into());
        Some(self.runtime.spawn_blocking(move || {
            let kind = this.recover_interrupted(&job, &mut record);
            this.backups.places.lock().insert(record.name.clone(), own_folder(&kind));
            this.conclude(&job, record, Some(&kind));
        }))
    }

    /// Done when it was complete, failed with nothing left otherwise; what its target is.
    fn recover_interrupted(&self, job: &Arc<Job>, record: &mut BackupRecord) -> TargetKind {
        let kind = interrupted_kind(&record.to, &record.name);
        record.ended_ns = Some(self.now_ns());
        let began = record.began_ns.map(from_unix_ns);
        let is_its = |manifest: &Manifest| {
            manifest.name == record.name && manifest.appliance == self.config.name && Some(manifest.began) == began
        };
        let is_complete =
            record.state == BackupStateRecord::Copying && destination::is_complete(&kind, &self.whose(), is_its);
        let kept = if is_complete { destination::keep_name(&kind, &self.whose()) } else { Ok(()) };
        if let Err(why) = &kept {
            tracing::error!(backup = %record.name, %why, "a backup is complete, and its name cannot be made durable");
        }
        if is_complete && kept.is_ok() {
            record.state = BackupStateRecord::Done;
            record.done_bytes = record.total_bytes;
            return kind;
        }
        record.state = BackupStateRecord::Failed;
        // Whoever was asked for meanwhile and goes to the same place has removed it already, and writes there.
        let claimed = self.backups.claim(job, &kind);
        let left = match claimed.and_then(|()| destination::remove_unfinished(&kind, &self.whose())) {
            Ok(()) => "nothing of it is left".to_owned(),
            Err(why) => why,
        };
        record.reason = Some(format!("interrupted: the service ended while it was copied; {left}. Ask for it again"));
        tracing::warn!(backup = %record.name, "a backup was interrupted by the end of the service");
        kind
    }
}

/// What a target was, when it may be half-written or complete now.
fn interrupted_kind(to: &str, name: &str) -> TargetKind {
    let path = std::path::Path::new(to);
    match destination::kind_of(to, name) {
        Ok(kind @ (TargetKind::Device(_) | TargetKind::Stream)) => kind,
        _ if path.is_dir() => TargetKind::Folder(path.join(name)),
        _ => TargetKind::File(path.to_owned()),
    }
}
