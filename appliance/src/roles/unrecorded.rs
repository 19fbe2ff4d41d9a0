//! What this side is for a group, where the catalogue did not take it: fenced, or primary as before after a switchover that was refused. It is
//! that all the same, and it is recorded as soon as there is room: a restart makes of a group what its record says (invariant 8).

use tidemark_common::catalog::RoleRecord;

use super::appliance::{Appliance, Engine, Group};

impl Appliance {
    /// Records what could not be recorded before.
    pub(crate) fn record_roles(&self) {
        // Nobody changes what a group is meanwhile.
        let Ok(_alone) = self.changing.try_lock() else { return };
        let groups: Vec<_> = self.groups.read().values().cloned().collect();
        for group in groups {
            if let Some(role) = unrecorded(&group) {
                self.record_role(&group, role);
            }
        }
    }

    /// Says what could not be done and is tried until it is: once, however often that is.
    pub(crate) fn say_tried_again(&self, what: &str) {
        if let Some(left_out) = self.repeats.news(what, self.clock.monotonic()) {
            tracing::error!(left_out, "{what}; it is tried again by itself");
        }
    }

    fn record_role(&self, group: &Group, role: RoleRecord) {
        let (name, now_ns) = (group.keeper.name(), self.now_ns());
        let recorded = group.keeper.update(|record| match role {
            RoleRecord::Fenced { by_generation } => record.fence(by_generation, now_ns),
            RoleRecord::Primary | RoleRecord::Secondary => record.role = role,
        });
        match recorded {
            Ok(()) => tracing::info!(group = %name, ?role, "what this side is for the group is recorded now"),
            Err(error) => {
                self.say_tried_again(&format!("what this side is for group '{name}' could not be recorded: {error}"));
            }
        }
    }
}

/// What this side is for a group, when its record says something else.
fn unrecorded(group: &Group) -> Option<RoleRecord> {
    let role = group.keeper.get().role;
    match &*group.engine.read() {
        Engine::Primary(_) if matches!(role, RoleRecord::Fenced { .. }) && group.met().is_none() => {
            Some(RoleRecord::Primary)
        }
        Engine::Fenced { by } => {
            // Nobody had told of this generation when the other side was asked to take over.
            let is_recorded = match role {
                RoleRecord::Fenced { by_generation } => by_generation >= by.0,
                RoleRecord::Primary => false,
                RoleRecord::Secondary => true,
            };
            (!is_recorded).then_some(RoleRecord::Fenced { by_generation: by.0 })
        }
        _ => None,
    }
}
