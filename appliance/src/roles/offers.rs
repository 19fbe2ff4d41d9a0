//! Volumes in no group that a copy may be made on: those an operator offers, and those that were the copy of a volume that left its
//! group. Nothing else of this appliance is ever overwritten by a copy.
//!
//! ```text
//! volume offer ──▶ Operator ─┐                    ┌─▶ the copy of that group has it
//! let go by a copy ─▶ Left ──┼── a copy asks ─────┤
//!                 ▲    └─────┼── a host opens it ──▶ an ordinary volume
//! with images ─▶ Imaged      └── withdrawn ───────▶ an ordinary volume
//!                 (closed to everybody until they are gone)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, RwLock};
use tidemark_common::api::types::{ErrorBody, VolumeOffer, VolumeStatus};
use tidemark_common::catalog::{
    Batch, CatalogError, ImageRecord, ImageVolumeRecord, OfferRecord, OfferWhy, VolumeRecord,
};
use tidemark_common::ids::{GroupId, check_name};
use tidemark_common::wire::message::VolumeSpec;

use super::appliance::{Appliance, Volume, failed, invalid, refused};
use super::door::Closed;

/// All of them, by volume; as the catalogue has them.
#[derive(Default)]
pub(crate) struct Offers {
    all: RwLock<BTreeMap<String, OfferRecord>>,
    /// Held by a copy that takes one up, and by whoever puts a volume to another use or opens it: it is the one or the other. Volumes whose other
    /// use has begun, and is not yet certain.
    taking: Mutex<BTreeSet<String>>,
}

impl Offers {
    /// The offer of a volume, if there is one.
    pub(crate) fn get(&self, volume: &str) -> Option<OfferRecord> {
        self.all.read().get(volume).cloned()
    }

    /// The group whose copy may be made on a volume, as an operator said.
    pub(crate) fn offered_to(&self, volume: &str) -> Option<String> {
        self.get(volume).filter(|offer| offer.why == OfferWhy::Operator).map(|offer| offer.group)
    }

    /// Its record is gone from the catalogue.
    pub(crate) fn forget(&self, volume: &str) {
        self.all.write().remove(volume);
    }
}

/// A volume is being put to another use. No copy is made on it meanwhile; when nothing comes of that, what was said of it before holds again.
#[must_use]
pub(crate) struct Use<'a> {
    appliance: &'a Appliance,
    name: String,
    is_done: bool,
}

impl Use<'_> {
    /// It has that use.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let offers = &self.appliance.offers;
        let mut in_use = offers.taking.lock();
        in_use.remove(&self.name);
        // Of one that could not be taken out of its group again, it holds no more.
        if self.is_done || self.appliance.group_of(&self.name).is_some() {
            offers.forget(&self.name);
            return;
        }
        // Unless a host has opened it since.
        if let Some(offer) = offers.get(&self.name)
            && let Err(error) = self.appliance.catalog.put_offer(&offer)
        {
            tracing::error!(volume = %self.name, %error, "that a copy may be made on it could not be recorded again: it holds until the service ends");
        }
    }
}

impl Appliance {
    /// Reads those of the catalogue; before groups start.
    pub(crate) fn open_offers(&self) -> Result<(), CatalogError> {
        let offers = self.catalog.offers()?.into_iter().map(|offer| (offer.volume.clone(), offer)).collect();
        *self.offers.all.write() = offers;
        Ok(())
    }

    fn put_offer(&self, offer: OfferRecord) -> Result<(), ErrorBody> {
        self.catalog.put_offer(&offer).map_err(failed)?;
        self.offers.all.write().insert(offer.volume.clone(), offer);
        Ok(())
    }

    fn withdraw(&self, volume: &str) -> Result<(), ErrorBody> {
        self.catalog.delete_offer(volume).map_err(failed)?;
        self.offers.forget(volume);
        Ok(())
    }

    /// `volume offer`.
    pub(crate) async fn offer_volume(&self, name: &str, request: &VolumeOffer) -> Result<VolumeStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        self.volume(name)?;
        self.refuse_imaged(name)?;
        match &request.group {
            None => self.withdraw(name)?,
            Some(group) => {
                check_name(group).map_err(|error| invalid(error.to_string()))?;
                self.refuse_in_local_pair(name, "offered to a copy")?;
                // Of what a copy is just taking up, the offer would outlive that use.
                let _taking = self.offers.taking.lock();
                if let Some(holder) = self.group_of(name) {
                    return Err(refused(format!(
                        "volume '{name}' is in group '{holder}': only a volume in no group can become a copy"
                    )));
                }
                self.put_offer(OfferRecord {
                    volume: name.into(),
                    group: group.clone(),
                    group_id: None,
                    why: OfferWhy::Operator,
                })?;
            }
        }
        self.volume_status(name)
    }

    /// Whether the copy of a group may be made on this volume.
    pub(crate) fn is_offered(&self, volume: &str, group: &str, id: GroupId) -> bool {
        let offered = self.offers.get(volume).map(|offer| match offer.why {
            OfferWhy::Operator => offer.group == group,
            OfferWhy::Left => offer.group_id == Some(id.0),
            OfferWhy::Imaged => false,
        });
        offered.unwrap_or_else(|| self.is_left_over_of(group, volume))
    }

    /// Whether a volume was made for a copy that did not come to be, and could not be taken back then because the catalogue took nothing.
    fn is_left_over_of(&self, group: &str, volume: &str) -> bool {
        !self.groups.read().contains_key(group) && self.volume(volume).is_ok_and(|volume| volume.is_made_for(group))
    }

    /// A volume that is offered becomes the copy of a group: from here on it is closed to hosts, and what it holds is overwritten.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub(crate) fn adopt(&self, group: &str, spec: &VolumeSpec) -> Result<Arc<Volume>, String> {
        let (name, here) = (&spec.name, &self.config.name);
        let text = |error: ErrorBody| error.message;
        let in_use = self.offers.taking.lock();
        if in_use.contains(name) {
            return Err(format!("volume '{name}' on '{here}' is just being put to another use"));
        }
        if !self.is_offered(name, group, self.id_of(group)?) {
            return Err(self.taken(name, group));
        }
        let old = self.volume(name).map_err(text)?;
        self.refuse_in_local_pair(name, "made a copy").map_err(text)?;
        if let Some(reason) = self.backups.being_restored(name) {
            return Err(reason);
        }
        if let Some(holder) = self.group_of(name) {
            return Err(format!("volume '{name}' on '{here}' is in group '{holder}'"));
        }
        let connections = old.door.connections.load(Ordering::Relaxed);
        if connections > 0 {
            return Err(format!(
                "volume '{name}' on '{here}' is offered to the copy of group '{group}', and hosts are connected to it: disconnect \
                 them there; the pair goes on by itself then"
            ));
        }
        let record = self.catalog.volume(name).map_err(|error| error.to_string())?;
        let record = record.ok_or_else(|| format!("there is no volume '{name}' on '{here}'"))?;
        // A larger file or device stays as it is behind its first bytes; a smaller one grows, if it can, when the copy is provided.
        let record = VolumeRecord { size: record.size.min(spec.size), group: Some(group.into()), ..record };
        // It is open here already: nobody may claim it twice.
        let adopted = Self::over(&record, Arc::clone(&old.file.file), Arc::clone(&old.claim)).map_err(text)?;
        let mut batch = Batch::new();
        let kept = batch.put_volume(&record).and_then(|()| batch.delete_offer(name));
        // The copy overwrites all of it.
        let kept = kept.and_then(|()| batch.delete_restore(name));
        kept.and_then(|()| self.catalog.commit(batch)).map_err(|error| error.to_string())?;
        let reason = format!("volume '{name}' is the copy of group '{group}' now");
        old.door.lead_to_now(Arc::new(Closed { size: old.file.size(), reason }));
        self.volumes.write().insert(name.clone(), Arc::clone(&adopted));
        self.offers.forget(name);
        self.restore_is_forgotten(name);
        tracing::warn!(group, volume = %name, backing = %record.backing, "the copy is made on a volume that was offered: what it held is overwritten");
        Ok(adopted)
    }

    /// A copy that could not be made gives a volume that was offered back: the next try finds it again. Not one that it had not come to when
    /// somebody else put it to use.
    pub(crate) fn give_back(&self, offer: &OfferRecord) -> Result<(), ErrorBody> {
        let _alone = self.offers.taking.lock();
        let name = &offer.volume;
        let is_taken_up = self.volume(name).is_ok_and(|volume| volume.made_for.read().is_some());
        if !is_taken_up && self.offers.get(name).is_none() {
            return Ok(());
        }
        // One step: a host may open it once it is free, and what is not free is not offered.
        let freed = self.catalog.volume(name).map_err(failed)?.map(|record| VolumeRecord { group: None, ..record });
        let mut batch = Batch::new();
        let kept = batch.put_offer(offer).and_then(|()| freed.map_or(Ok(()), |record| batch.put_volume(&record)));
        kept.and_then(|()| self.catalog.commit(batch)).map_err(failed)?;
        self.offers.all.write().insert(name.clone(), offer.clone());
        if let Ok(volume) = self.volume(name) {
            *volume.made_for.write() = None;
        }
        self.settle_door_now(name);
        Ok(())
    }

    /// A copy lets a volume go that left its group. While there are images of it nobody may write it.
    pub(crate) fn let_left(&self, group: &str, id: GroupId, name: &str) -> Result<(), ErrorBody> {
        let why = if self.is_imaged(id, name) { OfferWhy::Imaged } else { OfferWhy::Left };
        // In this order: once it is free, a host may open it.
        self.put_offer(OfferRecord { volume: name.into(), group: group.into(), group_id: Some(id.0), why })?;
        self.set_free(name)
    }

    /// Images of a volume of a group, or backups that read it.
    fn is_imaged(&self, id: GroupId, name: &str) -> bool {
        !self.images_of(id, Some(name)).is_empty() || self.backups.using(id).is_some()
    }

    /// A volume comes to a group again, as another member, and what reads it as it was does not know what is written to that one.
    ///
    /// # Errors
    /// What still shows it.
    pub(crate) fn check_former(
        &self,
        group: &str,
        id: GroupId,
        spec: &VolumeSpec,
        was_other: bool,
    ) -> Result<(), String> {
        let held = self.images.held.read();
        let other = |record: &ImageRecord| {
            let former = |volume: &ImageVolumeRecord| (volume.name == spec.name) != (volume.index == spec.index);
            record.group_id == id.0 && record.broken.is_none() && record.volumes.iter().any(former)
        };
        let image = held.iter().find(|(_, held)| held.record.read().parts().any(other)).map(|(name, _)| name.clone());
        let Some(user) = image.or_else(|| self.backups.using(id).filter(|_| was_other)) else { return Ok(()) };
        Err(format!(
            "volume '{}' has come to group '{group}' in the place of one that left, and on '{}' '{user}' still shows that as it was: delete it \
             there, or let it end; the pair goes on by itself then",
            spec.name, self.config.name
        ))
    }

    /// Opens volumes whose images are gone.
    pub(crate) fn free_imaged(&self) {
        let imaged: Vec<OfferRecord> =
            self.offers.all.read().values().filter(|offer| offer.why == OfferWhy::Imaged).cloned().collect();
        for offer in imaged {
            let Some(id) = offer.group_id.map(GroupId).filter(|id| !self.is_imaged(*id, &offer.volume)) else {
                continue;
            };
            tracing::info!(group = %offer.group, %id, volume = %offer.volume, "the images of a volume that left its group are gone: it can be used");
            let name = offer.volume.clone();
            match self.put_offer(OfferRecord { why: OfferWhy::Left, ..offer }) {
                Ok(()) => self.settle_door_now(&name),
                Err(error) => {
                    tracing::error!(volume = %name, error = %error.message, "it stays closed until the next try")
                }
            }
        }
    }

    /// Why a volume in no group is closed, if it is.
    pub(crate) fn imaged(&self, name: &str) -> Option<String> {
        let offer = self.offers.get(name).filter(|offer| offer.why == OfferWhy::Imaged)?;
        let id = GroupId(offer.group_id?);
        let users = self.images_of(id, Some(name)).into_iter().chain(self.backups.using(id)).collect::<Vec<_>>();
        Some(format!(
            "volume '{name}' left group '{}', and '{}' still shows what it held: it stays as it is until that is deleted or done",
            offer.group,
            users.join("', '")
        ))
    }

    pub(crate) fn refuse_imaged(&self, name: &str) -> Result<(), ErrorBody> {
        self.imaged(name).map_or(Ok(()), |reason| Err(refused(reason)))
    }

    fn refuse_adopted(&self, name: &str) -> Result<(), ErrorBody> {
        self.group_of(name).map_or(Ok(()), |group| {
            Err(refused(format!("volume '{name}' has just become the copy of group '{group}'")))
        })
    }

    /// A volume is put to another use: what was said of it before that must not have it overwritten when that use is over.
    pub(crate) fn put_to_use(&self, name: &str) -> Result<Use<'_>, ErrorBody> {
        let mut in_use = self.offers.taking.lock();
        self.refuse_adopted(name)?;
        let is_left_over = self.volume(name)?.made_for.read().is_some();
        if is_left_over {
            // Of a copy that did not come to be: its next try would take it, whoever has it by then.
            self.set_free(name)?;
            self.settle_door_now(name);
        }
        if self.offers.get(name).is_some() {
            self.catalog.delete_offer(name).map_err(failed)?;
        }
        in_use.insert(name.to_owned());
        Ok(Use { appliance: self, name: name.to_owned(), is_done: false })
    }

    /// A volume goes, and with its record what was said of it: as long as it is known, that holds.
    pub(crate) fn forget_unless_adopted(&self, name: &str, volume: &Volume) -> Result<(), ErrorBody> {
        let _alone = self.offers.taking.lock();
        self.refuse_adopted(name)?;
        self.forget_volume(name, volume)
    }

    /// The same for a volume that is about to be restored, which may be in a group: what has become a copy is not served.
    pub(crate) fn put_to_restore(&self, name: &str) -> Result<(), String> {
        let _alone = self.offers.taking.lock();
        self.served(name)?;
        if self.offers.get(name).is_some() { self.withdraw(name).map_err(|error| error.message) } else { Ok(()) }
    }

    /// Somebody else than a copy is about to write a volume: that is never taken for what a copy left behind. A copy that is just taking it up is
    /// waited for: whether it is served is to be asked behind this.
    pub(crate) fn opened_by_a_host(&self, name: &str) -> Result<(), String> {
        let is_left = || self.offers.get(name).is_some_and(|offer| offer.why == OfferWhy::Left);
        if !is_left() {
            return Ok(());
        }
        // A catalogue whose disk does not answer keeps who opens this, and no thread that the hosts of other volumes are served by.
        tokio::task::block_in_place(|| {
            // Whoever records it again, because nothing came of another use, finds it or finds it gone.
            let _alone = self.offers.taking.lock();
            if is_left() { self.withdraw(name).map_err(|error| error.message) } else { Ok(()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use tidemark_common::nbd::Exports;

    use super::*;
    use crate::roles::exports::Served;
    use crate::roles::strays::tests::add_copy;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance, group_of};

    const ID: GroupId = GroupId([7; 16]);

    fn spec(name: &str) -> VolumeSpec {
        VolumeSpec { index: 1, name: name.into(), size: 1 << 20 }
    }

    /// Else the copy would have to be told again, by a person.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_is_refused_leaves_what_a_copy_left_behind_to_it() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_volume(&appliance, "w").await;
        appliance.let_left("g", ID, "w").unwrap();
        appliance.create_group(group_of("h", &["w", "nosuch"])).await.unwrap_err();
        assert!(appliance.is_offered("w", "g", ID));
        appliance.create_group(group_of("h", &["w"])).await.unwrap();
        assert!(!appliance.is_offered("w", "g", ID));
    }

    /// As a program does that lists all exports.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_asks_about_a_volume_leaves_it_to_the_copy_and_one_that_opens_it_does_not() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_volume(&appliance, "w").await;
        appliance.let_left("g", ID, "w").unwrap();
        let exports = Served(Arc::clone(&appliance));
        assert!(exports.look("w").is_ok());
        assert!(appliance.is_offered("w", "g", ID));
        assert!(exports.open("w").is_ok());
        assert!(!appliance.is_offered("w", "g", ID));
    }

    /// The pair it was offered to may wait for it still, and would overwrite what the group had written at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_in_a_group_since_it_was_offered_is_overwritten_by_no_copy() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let offer = VolumeOffer { group: Some("g".into()) };
        for name in ["w", "x"] {
            add_volume(&appliance, name).await;
            appliance.offer_volume(name, &offer).await.unwrap();
            assert!(appliance.is_offered(name, "g", ID));
        }
        appliance.create_group(group_of("h", &["w"])).await.unwrap();
        appliance.delete_group("h").await.unwrap();
        assert!(!appliance.is_offered("w", "g", ID));
        add_primary(&appliance, "p", "v").await;
        appliance.add_to_group("p", "x", false).await.unwrap();
        assert!(!appliance.is_offered("x", "g", ID));
    }

    /// Between the look at the offer and its taking up, either may come.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_becomes_a_copy_or_is_put_to_another_use_and_never_both() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        for name in ["w", "x"] {
            add_volume(&appliance, name).await;
            appliance.offer_volume(name, &VolumeOffer { group: Some("other".into()) }).await.unwrap();
        }
        appliance.let_left("g", ID, "w").unwrap();
        appliance.adopt("g", &spec("w")).unwrap();
        assert!(appliance.put_to_use("w").err().unwrap().message.contains("group 'g'"));
        appliance.let_left("g", ID, "x").unwrap();
        let used = appliance.put_to_use("x").unwrap();
        assert!(appliance.adopt("g", &spec("x")).is_err(), "somebody else is about to have it");
        used.done();
        assert!(appliance.adopt("g", &spec("x")).is_err(), "somebody else has it");
        appliance.delete_volume("x").await.unwrap();
    }

    /// Once it was that copy no more, and anything else, another copy of that name overwrote it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_a_copy_takes_up_meanwhile_is_not_offered() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        add_volume(&appliance, "w").await;
        appliance.let_left("g", ID, "w").unwrap();
        let (runtime, offer) = (tokio::runtime::Handle::current(), VolumeOffer { group: Some("g".into()) });
        std::thread::scope(|scope| {
            let hang = faults.hang.lock();
            let before = faults.writes.load(Ordering::Acquire);
            let adopts = scope.spawn(|| appliance.adopt("g", &spec("w")).is_ok());
            while faults.writes.load(Ordering::Acquire) == before {
                std::thread::yield_now();
            }
            let offers = scope.spawn(|| runtime.block_on(appliance.offer_volume("w", &offer)));
            while appliance.changing.try_lock().is_ok() {
                std::thread::yield_now();
            }
            // Whoever does not wait for the copy comes by here.
            (0..10_000).for_each(|_| std::thread::yield_now());
            drop(hang);
            assert!(adopts.join().unwrap());
            assert!(offers.join().unwrap().unwrap_err().message.contains("is in group 'g'"));
        });
        assert!(appliance.offers.get("w").is_none() && appliance.catalog.offers().unwrap().is_empty());
    }

    /// The next try wrote to it beside the hosts that had it by then.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_copy_that_could_not_be_made_has_left_is_not_taken_for_it_when_it_has_another_use() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        appliance.make_copy_volume("g", &spec("v")).unwrap();
        assert!(appliance.is_offered("v", "g", ID));
        appliance.create_group(group_of("h", &["v"])).await.unwrap();
        assert!(!appliance.is_offered("v", "g", ID));
        assert_eq!(appliance.catalog.volume("v").unwrap().unwrap().group, None, "nor behind a restart");
        assert!(Served(Arc::clone(&appliance)).open("v").is_ok());
    }

    /// The copy that it was of would have to be told again, by a person.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_offer_holds_again_when_nothing_comes_of_another_use() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_volume(&appliance, "w").await;
        appliance.let_left("g", ID, "w").unwrap();
        let holds = || appliance.is_offered("w", "g", ID) && appliance.catalog.offers().unwrap().len() == 1;
        // Its ring's folder has no place to be.
        std::fs::write(appliance.ring_folder(), "in the way").unwrap();
        appliance.create_group(group_of("h", &["w"])).await.unwrap_err();
        assert!(holds(), "it is in no group");
        std::fs::remove_file(appliance.ring_folder()).unwrap();
        // The name that its file has before it goes is taken.
        let taken = appliance.own_backing("w").with_extension("img.deleted");
        std::fs::create_dir_all(taken.join("by a folder")).unwrap();
        appliance.delete_volume("w").await.unwrap_err();
        assert!(holds(), "it is known still");
        // Nothing comes of it, and a host has it by then.
        add_volume(&appliance, "x").await;
        appliance.let_left("g", ID, "x").unwrap();
        let used = appliance.put_to_use("x").unwrap();
        appliance.opened_by_a_host("x").unwrap();
        drop(used);
        assert!(!appliance.is_offered("x", "g", ID));
        assert!(appliance.catalog.offers().unwrap().iter().all(|offer| offer.volume != "x"));
    }

    /// With the disk of the catalogue, the hosts of all other volumes stood.
    #[test]
    fn a_host_that_opens_what_a_copy_left_keeps_no_thread_of_its_runtime() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.enter();
        let appliance = appliance(directory.path(), &faults);
        runtime.block_on(add_volume(&appliance, "w"));
        appliance.let_left("g", ID, "w").unwrap();
        let exports = Served(Arc::clone(&appliance));
        // Somebody else is recording what becomes of an offer.
        let taking = appliance.offers.taking.lock();
        let opening = runtime.spawn(async move { exports.open("w").is_ok() });
        let (tell, told) = sync_channel(1);
        runtime.spawn(async move { tell.send(()) });
        let answered = told.recv_timeout(Duration::from_secs(20));
        drop(taking);
        assert_eq!(answered, Ok(()), "no thread is left");
        assert!(runtime.block_on(opening).unwrap());
        drop(inside);
    }

    /// What a host had written to it by then was overwritten, and nobody was told.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_is_opened_by_a_host_or_becomes_a_copy_and_never_both() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        add_volume(&appliance, "w").await;
        appliance.let_left("g", ID, "w").unwrap();
        let exports = Served(Arc::clone(&appliance));
        std::thread::scope(|scope| {
            let hang = faults.hang.lock();
            let before = faults.writes.load(Ordering::Acquire);
            let opens = scope.spawn(|| exports.open("w").is_ok());
            while faults.writes.load(Ordering::Acquire) == before {
                std::thread::yield_now();
            }
            assert!(appliance.offers.taking.is_locked(), "no copy takes it up meanwhile");
            let adopts = scope.spawn(|| appliance.adopt("g", &spec("w")).is_ok());
            drop(hang);
            assert_eq!((opens.join().unwrap(), adopts.join().unwrap()), (true, false));
        });
        appliance.let_left("g", ID, "w").unwrap();
        appliance.adopt("g", &spec("w")).unwrap();
        assert!(exports.open("w").is_err(), "it is the copy");
    }

    /// A host that had it open by then had its writes overwritten once it was gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_could_not_be_made_gives_back_what_it_had_and_no_more() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        for name in ["w", "x"] {
            add_volume(&appliance, name).await;
            appliance.let_left("g", ID, name).unwrap();
        }
        let offered = ["w", "x"].map(|name| appliance.offers.get(name).unwrap());
        let exports = Served(Arc::clone(&appliance));
        exports.open("w").unwrap();
        appliance.adopt("g", &spec("x")).unwrap();
        appliance.groups.write().remove("g");
        offered.iter().for_each(|offer| appliance.give_back(offer).unwrap());
        assert_eq!(["w", "x"].map(|name| appliance.is_offered(name, "g", ID)), [false, true]);
        assert!(exports.open("x").is_ok(), "it is a volume in no group again");
    }

    /// A host that opened it in the moment before had its writes overwritten by the next try.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_copy_gives_back_is_opened_by_no_host_before_it_is_offered_again() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        add_volume(&appliance, "x").await;
        appliance.let_left("g", ID, "x").unwrap();
        let offered = [appliance.offers.get("x").unwrap()];
        appliance.adopt("g", &spec("x")).unwrap();
        let record = appliance.catalog.group("g").unwrap().unwrap();
        let exports = Served(Arc::clone(&appliance));
        std::thread::scope(|scope| {
            let taking = appliance.offers.taking.lock();
            let undoes = scope.spawn(|| appliance.undo_copy(&record, &[spec("x")], &offered));
            while appliance.catalog.group("g").unwrap().is_some() {
                std::thread::yield_now();
            }
            for _ in 0..10_000 {
                assert!(exports.look("x").is_err(), "it is the copy's still");
                std::thread::yield_now();
            }
            drop(taking);
            undoes.join().unwrap();
        });
        assert!(appliance.is_offered("x", "g", ID) && exports.open("x").is_ok());
        assert!(!appliance.is_offered("x", "g", ID), "the host has it");
    }
}
