//! Restores that have begun and not ended: what their volumes hold is neither what was there nor the backup.
//!
//! ```text
//! before the first byte is changed ─▶ recorded ─┬─ a restore over the same ranges ends, synced ─▶ forgotten: open to hosts
//!                                               ├─ the operator takes it as it is ───────────────▶ forgotten: open to hosts
//!                                               ├─ all of it is overwritten by a copy ───────────▶ forgotten
//!                                               └─ a kill, a stop, an error ─▶ closed to hosts, a problem in status
//! ```
//!
//! A backup is of one moment, so its volumes are recorded together and forgotten together: one that is whole already is closed
//! for as long as another is not.

use std::collections::BTreeMap;

use tidemark_backup::ranges::{together, without};
use tidemark_backup::restore::Ranges;
use tidemark_common::api::types::{ErrorBody, VolumeStatus};
use tidemark_common::catalog::{Batch, CatalogError, RestoreRecord};
use tidemark_common::ids::check_name;

use super::Backups;
use crate::roles::appliance::{Appliance, failed, invalid, refused};

/// Records of restores, by volume.
pub(super) type Unfinished = BTreeMap<String, RestoreRecord>;

fn reason(record: &RestoreRecord) -> String {
    let (volume, from) = (&record.volume, &record.from);
    let began = jiff::Timestamp::from_nanosecond(record.began_ns.into()).unwrap_or_default();
    format!(
        "volume '{volume}' is half restored: the restore from {from} that began at {began:.0} did not end, and what it holds is partly \
         the backup and partly what was there before. It is closed to hosts until `tidemark backup restore` has restored it again; \
         `tidemark backup restore --give-up {volume}` opens it as it is"
    )
}

impl Backups {
    /// Why nobody may have a volume now: it is being restored, or was and not to the end.
    pub(crate) fn closed_by_restore(&self, volume: &str) -> Option<String> {
        self.being_restored(volume).or_else(|| self.half_restored(volume))
    }

    /// Of a volume that is being restored now: from what.
    pub(crate) fn being_restored(&self, volume: &str) -> Option<String> {
        self.restoring.lock().get(volume).cloned()
    }

    /// Of a volume that nobody restores any more though it is not whole: what happened and what to do.
    pub(crate) fn half_restored(&self, volume: &str) -> Option<String> {
        if self.restoring.lock().contains_key(volume) {
            return None;
        }
        self.unfinished.lock().get(volume).map(reason)
    }

    /// Nobody else does anything to a volume's restore until [`Backups::let_go`].
    pub(super) fn take(&self, volume: &str, doing: String) -> Result<(), String> {
        let mut restoring = self.restoring.lock();
        if let Some(other) = restoring.get(volume) {
            return Err(other.clone());
        }
        restoring.insert(volume.to_owned(), doing);
        Ok(())
    }

    /// The end of [`Backups::take`].
    pub(super) fn let_go(&self, volume: &str) {
        self.restoring.lock().remove(volume);
    }
}

impl Appliance {
    /// Reads those of the catalogue; before any host comes in.
    pub(crate) fn open_restores(&self) -> Result<(), CatalogError> {
        let records: Unfinished =
            self.catalog.restores()?.into_iter().map(|record| (record.volume.clone(), record)).collect();
        for record in records.values() {
            tracing::error!(volume = %record.volume, from = %record.from, "a restore did not end: the volume stays closed to hosts");
        }
        *self.backups.unfinished.lock() = records;
        Ok(())
    }

    /// Records that these ranges are about to be overwritten; what was recorded of their volumes before. Durable when it returns.
    pub(super) fn begin_restore(&self, ranges: &Ranges, from: &str) -> Result<Unfinished, CatalogError> {
        let began_ns = self.now_ns();
        let mut before = self.backups.unfinished.lock().clone();
        before.retain(|volume, _| ranges.contains_key(volume));
        let mut batch = Batch::new();
        let mut begun = Unfinished::new();
        for (volume, ranges) in ranges {
            let held = before.get(volume).map(|record| record.ranges.as_slice()).unwrap_or_default();
            let record =
                RestoreRecord { volume: volume.clone(), from: from.into(), began_ns, ranges: together(held, ranges) };
            batch.put_restore(&record)?;
            begun.insert(volume.clone(), record);
        }
        self.catalog.commit(batch)?;
        self.backups.unfinished.lock().extend(begun);
        Ok(before)
    }

    /// These ranges are whole, durably. What an earlier restore left half and this one did not touch still is.
    pub(super) fn end_restore(&self, ranges: &Ranges, before: Unfinished) -> Result<(), CatalogError> {
        let mut batch = Batch::new();
        let mut left = before;
        left.retain(|volume, record| {
            record.ranges = without(&record.ranges, ranges.get(volume).map(Vec::as_slice).unwrap_or_default());
            !record.ranges.is_empty()
        });
        for volume in ranges.keys() {
            match left.get(volume) {
                Some(record) => batch.put_restore(record)?,
                None => batch.delete_restore(volume)?,
            }
        }
        self.catalog.commit(batch)?;
        let mut unfinished = self.backups.unfinished.lock();
        unfinished.retain(|volume, _| !ranges.contains_key(volume));
        unfinished.extend(left);
        Ok(())
    }

    /// What a volume holds comes from elsewhere now, all of it: no restore of before says anything of it.
    pub(crate) fn forget_restore(&self, volume: &str) -> Result<(), CatalogError> {
        if self.backups.unfinished.lock().contains_key(volume) {
            let mut batch = Batch::new();
            batch.delete_restore(volume)?;
            self.catalog.commit(batch)?;
        }
        self.restore_is_forgotten(volume);
        Ok(())
    }

    /// The record is gone from the catalogue.
    pub(crate) fn restore_is_forgotten(&self, volume: &str) {
        self.backups.unfinished.lock().remove(volume);
    }

    /// Nobody else takes a volume away while it is restored.
    pub(crate) fn refuse_being_restored(&self, volume: &str) -> Result<(), ErrorBody> {
        self.backups.being_restored(volume).map_or(Ok(()), |reason| Err(refused(reason)))
    }

    /// Nothing else is done with a volume that is being restored, from a backup or from its target, or is half restored.
    pub(crate) fn refuse_half_restored(&self, volume: &str) -> Result<(), ErrorBody> {
        let restored = self.backups.closed_by_restore(volume).or_else(|| self.local_pairs.restored(volume));
        restored.map_or(Ok(()), |reason| Err(refused(reason)))
    }

    /// Takes the moment of an image of these volumes. What is neither what was there nor what is restored is shown by none. Asked before the moment,
    /// because a restore may end while it is waited for (a restore is what fills journals), and behind it, because one may begin: who begins later
    /// changes nothing of that.
    pub(crate) async fn moment_of_whole<T>(
        &self,
        volumes: &[String],
        image: &str,
        moment: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        let neither = |error: ErrorBody| refused(format!("{}. {image} of it now would hold neither", error.message));
        let are_whole = || volumes.iter().try_for_each(|volume| self.refuse_half_restored(volume)).map_err(neither);
        are_whole()?;
        let taken = moment.await?;
        are_whole()?;
        Ok(taken)
    }

    /// `backup restore --give-up`.
    pub(super) fn give_up_restore(&self, name: &str) -> Result<VolumeStatus, ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        self.volume(name)?;
        self.backups.take(name, format!("volume '{name}' is being opened as it is")).map_err(refused)?;
        let given_up = match self.backups.unfinished.lock().contains_key(name) {
            true => Ok(()),
            false => Err(refused(format!("volume '{name}' is not half restored: there is nothing to give up"))),
        };
        let given_up = given_up.and_then(|()| self.forget_restore(name).map_err(failed));
        self.backups.let_go(name);
        given_up?;
        tracing::warn!(volume = %name, "an operator takes a volume as it is that was restored only half");
        self.volume_status(name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::service::tests::{appliance, leave_half_restored};

    /// Its moment lay in the middle of what was restored, and nobody knew of that any more, or not yet.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_image_has_a_moment_before_which_a_restore_began_and_behind_which_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        let (volumes, image) = (["v".to_owned()], "An image");
        let ends = async {
            appliance.forget_restore("v").unwrap();
            Ok(())
        };
        let begins = async {
            leave_half_restored(&appliance, "v");
            Ok(())
        };
        leave_half_restored(&appliance, "v");
        appliance.moment_of_whole(&volumes, image, ends).await.unwrap_err();
        appliance.forget_restore("v").unwrap();
        appliance.moment_of_whole(&volumes, image, async { Ok(()) }).await.unwrap();
        let why = appliance.moment_of_whole(&volumes, image, begins).await.unwrap_err().message;
        assert!(why.contains("'v' is half restored") && why.contains("An image of it now would hold neither"), "{why}");
    }
}
