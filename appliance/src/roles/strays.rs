//! Volumes that were made for a copy and are none of its group's: those that had only begun to come when the copy was taken over, and those
//! that left again before the image had them.

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::GroupVolume;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::volumes::Volumes;

use super::appliance::{Appliance, failed};

/// Takes a member out of a set, unless another one has its index there.
pub(super) fn remove_member(of: &Volumes, member: &GroupVolume) {
    let index = VolumeIndex(member.index);
    if of.get(index).is_some_and(|known| known.name == member.name) {
        of.remove(index);
    }
}

impl Appliance {
    /// Volumes that were made for a group and are not among these.
    fn strays(&self, group: &str, members: &[GroupVolume]) -> Vec<String> {
        let mut strays = self.made_for(|made_for| made_for == group);
        strays.retain(|name| !members.iter().any(|member| member.name == *name));
        strays
    }

    /// Volumes that had only begun to come hold nothing of the image taken over: they go. One that holds something was not made
    /// for this alone, and stays as a volume in no group. What becomes of them keeps nobody from serving the image: one that cannot be
    /// looked at or removed stays closed, and the next start opens it as a volume in no group.
    pub(crate) fn discard_strays(&self, group: &str, members: &[GroupVolume]) {
        for name in self.strays(group, members) {
            if let Err(error) = self.discard_stray(group, &name) {
                tracing::error!(group, volume = %name, error = %error.message, "a volume that is not in the image could not be discarded: it is not served");
            }
        }
    }

    fn discard_stray(&self, group: &str, name: &str) -> Result<(), ErrorBody> {
        let volume = self.volume(name)?;
        let data =
            volume.file.file.next_data(0).map_err(|error| failed(format!("look into volume '{name}': {error}")))?;
        if data.is_some() || self.is_member_of(group, name) {
            tracing::warn!(group, volume = %name, "a volume is not in the image: it stays here as a volume in no group");
            self.set_free(name)?;
            self.settle_door_now(name);
            return Ok(());
        }
        tracing::warn!(group, volume = %name, "the copy of a volume that had only begun is discarded: it is not in the image");
        self.discard_copy_volume(name)
    }

    fn is_member_of(&self, group: &str, name: &str) -> bool {
        let members = self.group(group).map(|group| group.keeper.get().volumes).unwrap_or_default();
        members.iter().any(|member| member.name == name)
    }

    /// Volumes that came to a copy and left again before a marker counted them: its record never had them, and nobody else would let them go.
    /// So it is with one that a kill had kept from being let go.
    pub(super) fn free_strays_of(&self, group: &str, left: &[GroupVolume], of: &Volumes) -> Result<(), String> {
        let _alone = of.changing.lock();
        left.iter().for_each(|member| remove_member(of, member));
        let mut strays = self.made_for(|made_for| made_for == group);
        strays.retain(|name| of.by_name(name).is_none());
        if strays.is_empty() {
            return Ok(());
        }
        let id = self.id_of(group)?;
        for name in strays {
            self.let_left(group, id, &name).map_err(|error| error.message)?;
            self.settle_door_now(&name);
            tracing::info!(group, volume = %name, "a volume left the group before its image had it: it stays here as a volume in no group");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use tidemark_common::catalog::GroupRecord;
    use tidemark_common::keeper::GroupKeeper;
    use tidemark_common::wire::message::VolumeSpec;
    use tidemark_secondary::intake::CopyVolumes;

    use super::*;
    use crate::roles::appliance::{Engine, Group};
    use crate::service::tests::{Faults, appliance, copy_record};

    /// Gives an appliance a copy that does not run.
    pub(crate) fn add_copy(appliance: &Appliance) {
        let record = GroupRecord { next_volume_index: 9, ..copy_record("g", [7; 16]) };
        appliance.catalog.put_group(&record).unwrap();
        let keeper = Arc::new(GroupKeeper::new(appliance.catalog.clone(), record));
        let group = Group::new(keeper, Engine::Failed("it was not started".into()));
        appliance.groups.write().insert("g".into(), Arc::new(group));
    }

    fn spec(index: u32, name: &str) -> VolumeSpec {
        VolumeSpec { index, name: name.into(), size: 1 << 20 }
    }

    fn member(index: u32, name: &str) -> GroupVolume {
        GroupVolume { index, name: name.into() }
    }

    /// Nobody could use it, delete it or take it out of the group: the primary's group has it no more, and the copy's never had it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_left_before_the_image_had_it_is_in_no_group_and_finds_its_copy_again() {
        for was_restarted in [false, true] {
            let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
            let appliance = appliance(directory.path(), &faults);
            add_copy(&appliance);
            let volumes = Volumes::default();
            appliance.provide("g", &[spec(1, "v"), spec(2, "w")], &volumes).unwrap();
            assert!(appliance.delete_volume("w").await.is_err(), "it is the copy's");
            // The journal that is left at a start may tell of it no more.
            let mut left = vec![member(2, "w")];
            if was_restarted {
                volumes.remove(VolumeIndex(2));
                left.clear();
            }
            appliance.let_strays_go("g", &left, &volumes).unwrap();
            assert!(volumes.by_name("w").is_none() && volumes.by_name("v").is_some());
            assert_eq!((appliance.group_of("v").as_deref(), appliance.group_of("w")), (Some("g"), None));
            assert_eq!(appliance.catalog.volume("w").unwrap().unwrap().group, None);
            appliance.provide("g", &[spec(1, "v"), spec(3, "w")], &volumes).unwrap();
            assert_eq!(appliance.group_of("w").as_deref(), Some("g"), "what it left behind is its copy again");
            appliance.let_strays_go("g", &[member(3, "w")], &volumes).unwrap();
            appliance.delete_volume("w").await.unwrap();
        }
    }

    /// Invariant 4: hosts were let into a volume that a copy was being made on.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_comes_again_while_it_is_let_go_is_the_copys() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        let volumes = Volumes::default();
        appliance.provide("g", &[spec(2, "w")], &volumes).unwrap();
        std::thread::scope(|scope| {
            let hang = faults.hang.lock();
            let before = faults.writes.load(Ordering::Acquire);
            let leaves = scope.spawn(|| appliance.let_go("g", &[member(2, "w")], &volumes));
            while faults.writes.load(Ordering::Acquire) == before {
                std::thread::yield_now();
            }
            assert!(volumes.changing.is_locked(), "nobody takes it in before it is let go");
            let comes = scope.spawn(|| appliance.provide("g", &[spec(3, "w")], &volumes));
            drop(hang);
            assert_eq!(leaves.join().unwrap(), Ok(()));
            assert_eq!(comes.join().unwrap(), Ok(()));
        });
        assert!(appliance.volume("w").unwrap().is_made_for("g"));
        assert_eq!(volumes.by_name("w").unwrap().index, VolumeIndex(3));
    }
}
