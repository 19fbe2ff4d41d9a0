//! What runs for a group, and the one place where that changes. In comes what is to run, or that nothing does; out goes a group of which whoever looks
//! finds that, whose volumes are served by that and nobody else, and of which those who wait for it know.
//!
//! Invariant 8: hosts are served by a primary alone. What the catalogue says is recorded by those who change a role, before or behind this as that
//! role needs it; a door is never theirs to settle.

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use tidemark_common::api::types::PairState;
use tidemark_common::keeper::GroupKeeper;

use super::appliance::{Appliance, Engine, Group};

/// What runs for a group. Everybody may look, and nobody but [`Appliance::change_engine`] changes it.
pub(crate) struct Running(RwLock<Engine>);

impl Running {
    pub(super) fn new(engine: Engine) -> Self {
        Self(RwLock::new(engine))
    }

    /// What it is now.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Engine> {
        self.0.read()
    }
}

/// A change under way. Whoever has it puts what came of it into its place before this goes.
#[must_use]
pub(crate) struct Change<'a> {
    appliance: &'a Appliance,
    group: &'a Group,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let is_unended = matches!(&*self.group.engine.read(), Engine::Changing { .. });
        if is_unended {
            let why = "a change of it has ended by a defect of Tidemark, which the service's log names: restart the service, which goes on from \
                       what was recorded";
            self.appliance.change_engine(self.group, Engine::Failed(why.into()));
        }
    }
}

impl Appliance {
    /// A group is becoming something else, and nothing runs for it meanwhile. A panic does not leave it so.
    pub(crate) fn begin_change<'a>(&'a self, group: &'a Group, what: String, pairs: PairState) -> Change<'a> {
        self.change_engine(group, Engine::Changing { what, pairs });
        Change { appliance: self, group }
    }

    /// A group is known here from now on, and this runs for it. Its volumes are in it: what hosts have open leads there.
    pub(crate) fn add_group(&self, keeper: Arc<GroupKeeper>, engine: Engine) -> Arc<Group> {
        let (name, group) = (keeper.name(), Arc::new(Group::new(keeper, engine)));
        self.groups.write().insert(name, Arc::clone(&group));
        self.settle_doors(&group);
        group
    }

    /// Something else runs for a group from now on. Waits for nobody: whoever is inside a door, or keeps hosts out of it, goes on.
    pub(crate) fn change_engine(&self, group: &Group, engine: Engine) {
        // First of all: not one write more is answered by who is not primary.
        if let Engine::Primary(before) = &*group.engine.read()
            && !matches!(engine, Engine::Primary(_))
        {
            before.refuse_hosts();
        }
        let is_fenced = matches!(engine, Engine::Fenced { .. });
        // It goes at the end, when nobody waits to look.
        let _before = std::mem::replace(&mut *group.engine.0.write(), engine);
        // Behind that: a door leads to what is found.
        self.settle_doors(group);
        if is_fenced {
            self.look_for_takers(&group.keeper.name());
        }
    }

    /// What hosts have open of a group leads to what serves it by now, or nowhere.
    pub(super) fn settle_doors(&self, group: &Group) {
        for member in group.keeper.get().volumes {
            self.settle_door_now(&member.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tidemark_common::catalog::{GroupRecord, GroupVolume, PairRecord};
    use tidemark_common::ids::Generation;
    use tidemark_common::nbd::Export;

    use super::*;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance};

    /// Invariant 8. Also where somebody keeps hosts out of the door, as a switchover does, and where one stays inside.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_are_served_by_what_runs_for_a_group_and_by_nobody_else() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let volume = add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        volume.door.write(0, &[1; 512], false).await.unwrap();
        let held = volume.hold_hosts().await.unwrap();
        appliance.change_engine(&group, Engine::Fenced { by: Generation(2) });
        drop(held);
        assert!(volume.door.read(0, &mut [0; 512]).await.is_err(), "hosts belong to who took over");
        let export = primary.export("v").unwrap();
        assert!(export.write(0, &[2; 512], false).await.is_err(), "nor is one answered that was inside");
        tokio::task::block_in_place(|| primary.stop());

        let again = tokio::task::block_in_place(|| appliance.start_primary(&group.keeper, None)).unwrap();
        appliance.change_engine(&group, Engine::Primary(Arc::clone(&again)));
        let mut read = [0; 512];
        volume.door.read(0, &mut read).await.unwrap();
        assert_eq!(read, [1; 512]);
        appliance.change_engine(&group, Engine::Failed("as in a test".into()));
        assert!(volume.door.read(0, &mut [0; 512]).await.is_err(), "what does not run serves nobody");
        tokio::task::block_in_place(|| again.stop());
    }

    /// Status said for ever that it was being changed, that nobody had to do anything, and to try again later.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_ends_by_a_defect_leaves_a_group_that_does_not_run() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        let begin = || appliance.begin_change(&group, "as in a test".into(), PairState::FailedOver);
        let change = begin();
        assert!(matches!(&*group.engine.read(), Engine::Changing { .. }));
        drop(change);
        assert!(matches!(&*group.engine.read(), Engine::Failed(_)));
        let change = begin();
        appliance.change_engine(&group, Engine::Fenced { by: Generation(2) });
        drop(change);
        assert!(matches!(&*group.engine.read(), Engine::Fenced { .. }), "what came of it stays");
        tokio::task::block_in_place(|| primary.stop());
    }

    /// Hosts that had opened its volumes before it was made wrote past it, while status said that it does not run.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_that_is_known_and_does_not_run_serves_nobody() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let volume = add_volume(&appliance, "v").await;
        volume.door.write(0, &[1; 512], false).await.unwrap();
        let volumes = vec![GroupVolume { index: 1, name: "v".into() }];
        let record = GroupRecord { volumes, ..GroupRecord::new("g", [7; 16]) };
        let keeper = Arc::new(GroupKeeper::new(appliance.catalog.clone(), record));
        appliance.add_group(keeper, Engine::Failed("as in a test".into()));
        assert!(volume.door.write(0, &[2; 512], false).await.is_err());
    }

    /// One that could not be made primary again was fenced as before, and nobody asked any more who had taken over: status named them for ever.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_taken_over_is_looked_for_however_a_group_came_to_be_fenced() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        let paired = group.keeper.update(|record| {
            record.pairs.extend(["west", "north"].map(|peer| PairRecord::new(peer, 0)));
        });
        paired.unwrap();
        assert!(!group.looks_for_takers.load(Ordering::Acquire));
        appliance.change_engine(&group, Engine::Fenced { by: Generation(2) });
        assert!(group.looks_for_takers.load(Ordering::Acquire));
        tokio::task::block_in_place(|| primary.stop());
    }
}
