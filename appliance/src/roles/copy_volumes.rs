//! The volumes of a copy: made, or taken from what is offered, grown and let go as its primary's are.

use std::io;
use std::sync::Arc;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{GroupVolume, VolumeRecord};
use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, VolumeIndex, check_name};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_common::wire::handshake::check_volumes;
use tidemark_common::wire::message::VolumeSpec;
use tidemark_secondary::intake::CopyVolumes;

use super::appliance::{Appliance, Volume, invalid};
use super::strays::remove_member;

impl CopyVolumes for Appliance {
    fn provide(&self, group: &str, specs: &[VolumeSpec], into: &Volumes) -> Result<(), String> {
        let text = |error: ErrorBody| error.message;
        // They come in frames too, which nobody has looked at.
        check_volumes(specs)?;
        let id = self.id_of(group)?;
        let _alone = into.changing.lock();
        self.note_indexes(group, specs)?;
        for spec in specs {
            // One of another name is of a history that was left: nothing that comes is for it.
            let known = into.get(VolumeIndex(spec.index)).filter(|known| known.name == spec.name);
            let was_other = into.by_name(&spec.name).is_some_and(|known| known.index.0 != spec.index);
            self.check_former(group, id, spec, was_other)?;
            let volume = match self.volume(&spec.name) {
                Ok(volume) if into.by_name(&spec.name).is_some() || volume.is_made_for(group) => volume,
                Ok(_) if self.imaged(&spec.name).is_some() => return Err(self.imaged(&spec.name).unwrap_or_default()),
                Ok(_) if self.is_offered(&spec.name, group, id) => self.adopt(group, spec)?,
                Ok(_) => return Err(self.taken(&spec.name, group)),
                Err(_) => self.make_copy_volume(group, spec).map_err(text)?,
            };
            if spec.size > volume.file.size() {
                let cleared = match &known {
                    Some(known) => self.clear_growth(id, known, (volume.file.size(), spec.size), into),
                    // All of it is copied.
                    None => Ok(()),
                };
                let grow = |grown: io::Result<()>| {
                    grown.map_err(|error| {
                        format!(
                            "grow volume '{}' on '{}' ({}) to the {} bytes that the primary's has: {error}",
                            spec.name, self.config.name, volume.backing, spec.size
                        )
                    })
                };
                // As the updater knows it: what it learns of a failing disk counts there.
                grow(cleared.and_then(|()| known.as_ref().unwrap_or(&volume.file).make_room(spec.size)))?;
                self.record_size(&spec.name, spec.size).map_err(|error| error.to_string())?;
                // Behind its record: what is written there by then would be taken for what the file held before, at the next start.
                grow(volume.file.grow(spec.size))?;
            }
            match known {
                Some(known) => {
                    known.grow(spec.size).map_err(|error| format!("grow volume '{}': {error}", spec.name))?
                }
                None => {
                    into.insert(VolumeFile::new(
                        VolumeIndex(spec.index),
                        spec.name.clone(),
                        Arc::clone(&volume.file.file),
                        volume.file.size(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn fit(&self, volumes: &[VolumeSpec], of: &Volumes) -> Result<(), String> {
        self.shrink_to(volumes, of, "a volume that only this side had grown is as large as its primary's again")
    }

    fn left(&self, volumes: &[GroupVolume]) {
        volumes.iter().for_each(|member| self.settle_door_now(&member.name));
    }

    fn let_strays_go(&self, group: &str, left: &[GroupVolume], of: &Volumes) -> Result<(), String> {
        self.free_strays_of(group, left, of)
    }

    fn let_go(&self, group: &str, leaving: &[GroupVolume], of: &Volumes) -> Result<(), String> {
        let _alone = of.changing.lock();
        for member in leaving {
            remove_member(of, member);
            if of.by_name(&member.name).is_some() {
                // It has come again, as another member of the group.
                continue;
            }
            let id = self.id_of(group)?;
            self.break_local_pairs_of(id, &member.name);
            self.let_left(group, id, &member.name).map_err(|error| error.message)?;
            tracing::info!(group, volume = %member.name, "a volume left the group with its image: it stays here as a volume in no group");
        }
        Ok(())
    }
}

impl Appliance {
    /// Volumes that are larger than these, durably, end where these do.
    pub(super) fn shrink_to(&self, volumes: &[VolumeSpec], of: &Volumes, why: &str) -> Result<(), String> {
        for spec in volumes {
            let known = of.get(VolumeIndex(spec.index)).filter(|known| known.size() > spec.size);
            let Some(known) = known else { continue };
            let volume = self.volume(&spec.name).map_err(|error| error.message)?;
            self.record_size(&spec.name, spec.size).map_err(|error| error.to_string())?;
            tracing::warn!(volume = %spec.name, was = known.size(), is = spec.size, "{why}");
            volume.file.shrink(spec.size);
            known.shrink(spec.size);
        }
        Ok(())
    }

    /// A volume that a copy does not get.
    pub(super) fn taken(&self, name: &str, group: &str) -> String {
        let here = &self.config.name;
        format!(
            "there is a volume '{name}' on '{here}' already, and the copy of group '{group}' is to have that name. On '{here}': \
             `tidemark volume offer {name} --group {group}` lets the copy be made on it, which overwrites it, or `tidemark volume delete \
             {name}` when nobody needs what is in it; the pair goes on by itself then"
        )
    }

    fn note_indexes(&self, group: &str, specs: &[VolumeSpec]) -> Result<(), String> {
        // One that is just being started has known of them since they came.
        let Ok(found) = self.group(group) else { return Ok(()) };
        let noted = found.keeper.update(|record| record.note_indexes(specs.iter().map(|spec| spec.index)));
        noted.map_err(|error| error.to_string())
    }

    /// A copy volume grows over what its file holds already: there the primary's has zeroes, or what is copied. Images may show it.
    fn clear_growth(&self, id: GroupId, known: &VolumeFile, (old, new): (u64, u64), of: &Volumes) -> io::Result<()> {
        let held = known.file.size()?.min(new);
        let data = known.file.next_data(old)?.filter(|(begin, _)| *begin < held);
        let Some((offset, _)) = data else { return Ok(()) };
        known.grow(new)?;
        let extent = Extent { volume: known.index, offset, length: held - offset };
        let eras = self.eras(id).map_err(|error| io::Error::other(error.message))?;
        // The updater writes nothing meanwhile.
        let _window = eras.window();
        if !eras.save(eras.applied_position(), &[extent], of, false)? {
            return Err(io::Error::other("what images show there cannot be saved now"));
        }
        known.change(|known| known.file.zero(extent.offset, extent.length, true))?;
        known.sync()
    }

    /// Also of a group that is just being started.
    pub(super) fn id_of(&self, group: &str) -> Result<GroupId, String> {
        if let Ok(found) = self.group(group) {
            return Ok(found.keeper.id());
        }
        let record = self.catalog.group(group).map_err(|error| error.to_string())?;
        record.map(|record| GroupId(record.id)).ok_or_else(|| format!("there is no group '{group}'"))
    }

    pub(super) fn discard_copy_volume(&self, name: &str) -> Result<(), ErrorBody> {
        let made = self.volume(name)?;
        if !made.owned {
            // Somebody else's file: it was offered.
            self.set_free(name)?;
            self.settle_door_now(name);
            return Ok(());
        }
        // What cannot be forgotten stays known.
        self.forget_volume(name, &made)
    }

    pub(super) fn make_copy_volume(&self, group: &str, spec: &VolumeSpec) -> Result<Arc<Volume>, ErrorBody> {
        check_name(&spec.name).map_err(|error| invalid(error.to_string()))?;
        let backing = self.own_backing(&spec.name);
        let record = VolumeRecord {
            name: spec.name.clone(),
            size: spec.size,
            backing: backing.to_string_lossy().into_owned(),
            owned: true,
            group: Some(group.into()),
        };
        self.make_volume(&record)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::service::tests::{Faults, appliance, copy_record};

    /// Invariant 4: the next start would clear what was applied behind the recorded end.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_volume_that_grew_is_recorded_so_though_the_catalogue_was_full() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        appliance.catalog.put_group(&copy_record("g", [7; 16])).unwrap();
        let volumes = Volumes::default();
        let spec = |size| [VolumeSpec { index: 1, name: "v".into(), size }];
        appliance.provide("g", &spec(1 << 20), &volumes).unwrap();
        faults.full.store(true, Ordering::Release);
        appliance.provide("g", &spec(2 << 20), &volumes).unwrap_err();
        faults.full.store(false, Ordering::Release);
        appliance.provide("g", &spec(2 << 20), &volumes).unwrap();
        assert_eq!(appliance.catalog.volume("v").unwrap().unwrap().size, 2 << 20);
        let sizes = (appliance.volume("v").unwrap().file.size(), volumes.by_name("v").unwrap().size());
        assert_eq!(sizes, (2 << 20, 2 << 20));
    }
}
