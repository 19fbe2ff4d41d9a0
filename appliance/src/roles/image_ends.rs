//! Images end here: because what they need could not be kept, or did not come back at a start; and what that means for the other parts
//! of an image of several groups. Owned: nothing; who tells is an updater in the middle of a window.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{Batch, ImageRecord, ImageRecords};
use tidemark_common::ids::GroupId;
use tidemark_common::journal::Position;
use tidemark_common::t0::{Eras, ErasWatch};

use super::appliance::Appliance;
use super::images::Held;

/// An era that did not come back, and why.
pub(super) type Lost = (GroupId, u64, String);

impl Appliance {
    /// An image that lost an era is broken and has no use for the others.
    pub(super) fn settle_lost(&self, image: &mut ImageRecords, lost: &[Lost]) -> Result<(), ErrorBody> {
        let is_of = |part: &ImageRecord, (group, era, _): &Lost| part.group_id == group.0 && part.era == *era;
        let found = lost.iter().find(|lost| image.parts().any(|part| is_of(part, lost)));
        let Some((group, _, reason)) = found else { return Ok(()) };
        image.set_broken(&told(image, *group, reason));
        if let Err(error) = self.catalog.put_image(image) {
            // What it lost stays lost, and the next start finds that out again. This one serves all others, also on a full disk.
            tracing::error!(image = %image.first.name, %error, "that it is broken could not be recorded");
        }
        for part in image.parts() {
            self.eras(GroupId(part.group_id))?.leave(part.era);
        }
        Ok(())
    }

    /// An image can no longer be read: hosts get errors, the record says why, its other eras are left.
    fn break_image(&self, held: &Arc<Held>, group: GroupId, reason: &str) {
        let (name, told) = {
            let mut record = held.record.write();
            // It is broken already, or was deleted.
            if !held.leaves() {
                return;
            }
            let told = told(&record, group, reason);
            record.set_broken(&told);
            (record.first.name.clone(), told)
        };
        held.close(&told);
        self.images.ended.fetch_add(1, Ordering::Relaxed);
        tracing::error!(image = %name, reason = %told, "an image is broken");
        // Not here: this is one group's updater in the middle of a window, and another's may come the other way. Nor does it wait for the
        // catalogue's disk.
        if let Some(this) = self.this.upgrade() {
            let held = Arc::clone(held);
            self.runtime.spawn_blocking(move || {
                this.record_broken(&held);
                this.leave_eras(&held, Eras::leave);
            });
        }
    }

    fn record_broken(&self, held: &Held) {
        let is_deleted = held.recording.lock();
        if *is_deleted {
            return;
        }
        let record = held.record.read().clone();
        if let Err(error) = self.catalog.put_image(&record) {
            // The file of the era is gone: a restart finds that out by itself.
            tracing::error!(image = %record.first.name, %error, "that it is broken could not be recorded");
        }
    }

    /// An image has no use for its eras any more. One that is broken may be named by its record still; one that was deleted is not.
    pub(crate) fn leave_eras(&self, held: &Held, leave: impl Fn(&Arc<Eras>, u64)) {
        let used: Vec<_> = held.record.read().parts().map(|part| (GroupId(part.group_id), part.era)).collect();
        for (group, era) in used {
            match self.eras(group) {
                Ok(eras) => leave(&eras, era),
                Err(error) => {
                    tracing::warn!(%group, error = %error.message, "what an image kept goes with the next start")
                }
            }
        }
    }
}

/// Why an image ends; one of several groups says of which of them.
fn told(image: &ImageRecords, group: GroupId, reason: &str) -> String {
    match image.parts().find(|part| part.group_id == group.0) {
        Some(part) if !image.others.is_empty() => format!("group '{}': {reason}", part.group),
        _ => reason.to_owned(),
    }
}

impl ErasWatch for Appliance {
    fn on_era_ended(&self, group: GroupId, era: u64, reason: &str) {
        self.backups.on_era_ended(group, era, reason);
        self.local_pairs_lost_era(group, era, reason);
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        let uses = |part: &ImageRecord| part.group_id == group.0 && part.era == era;
        for held in held.iter().filter(|held| held.record.read().parts().any(uses)) {
            self.break_image(held, group, reason);
        }
    }

    fn on_cut(&self, group: GroupId, place: Position) -> Result<(), String> {
        self.local_pairs_cut(group, place)
    }

    fn on_all_reached(&self, group: GroupId) -> Result<(), String> {
        self.local_pairs_all_reached(group)?;
        let held: Vec<_> = self.images.held.read().values().cloned().collect();
        let mut batch = Batch::new();
        // Locked until that is recorded: nobody deletes one meanwhile.
        let mut locked = Vec::new();
        for held in &held {
            let recording = held.recording.lock();
            let mut record = held.record.write();
            let is_of = |part: &ImageRecord| part.group_id == group.0;
            if !held.is_left() && record.parts().any(is_of) {
                record.parts_mut().filter(|part| is_of(part)).for_each(|part| part.begin = None);
                batch.put_image(&record).map_err(|error| error.to_string())?;
                locked.push(recording);
            }
        }
        self.catalog.commit(batch).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tidemark_common::catalog::ImageKindRecord;

    use super::*;
    use crate::service::tests::{Faults, add_image, appliance};

    /// An image is being deleted, and the catalogue's disk does not answer.
    #[test]
    fn who_opens_an_image_and_who_applies_wait_for_nothing_that_is_recorded_of_it() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let appliance = appliance(directory.path(), &faults);
        add_image(&appliance, "image", ImageKindRecord::T0);
        let (hang, before) = (faults.hang.lock(), faults.writes.load(Ordering::Acquire));
        let deletes = Arc::clone(&appliance);
        let deleted = runtime.spawn(async move { deletes.delete_image("image", true).await });
        while faults.writes.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        let (tell, told) = mpsc::sync_channel(1);
        let asks = Arc::clone(&appliance);
        let asking = std::thread::spawn(move || {
            asks.on_era_ended(GroupId([7; 16]), 1, "no room");
            let _ = tell.send((asks.image_door("image", "a").is_err(), asks.image_exports(), asks.images_now().len()));
        });
        let answer = told.recv_timeout(Duration::from_secs(20));
        drop(hang);
        assert_eq!(answer, Ok((true, Vec::new(), 1)), "nobody waits");
        asking.join().unwrap();
        runtime.block_on(deleted).unwrap().unwrap();
        assert!(appliance.images_now().is_empty() && appliance.catalog.images().unwrap().is_empty());
        drop(inside);
    }
}
