//! A copy whose journal cannot be read is renewed by its primary (decision 12): first it is told, then it orders a first copy, and
//! what is sound of the journal stays. In comes a primary's call, out goes a copy that runs and has no image yet.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::catalog::RoleRecord;
use tidemark_common::wire::message::{Hello, Refusal, Refused};
use tidemark_secondary::group::Secondary;

use super::appliance::{Appliance, Engine, Failure, Group};

/// What a copy had begun to write is written within this time, or its primary calls again: all that operators change waits meanwhile.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

impl Appliance {
    /// Whether a group is the caller's copy, and its journal is what keeps it from going on. One that is gone altogether may only not be
    /// mounted: then the caller's operator has to have ordered a copy.
    pub(crate) fn is_to_renew(&self, group: &Group, caller: &[u8; 32], hello: &Hello) -> bool {
        let record = group.keeper.get();
        let of_the_caller = record.role == RoleRecord::Secondary
            && record.primary == Some(*caller)
            && record.generation <= hello.generation;
        of_the_caller
            && match &*group.engine.read() {
                Engine::Secondary(secondary) => secondary.state().damage().is_cancelled(),
                Engine::Failed(why) => why.journal.is_some_and(|damaged| damaged || hello.create),
                Engine::Primary(_) | Engine::Fenced { .. } => false,
            }
    }

    /// Tells the primary, or does what it orders.
    pub(crate) async fn renew_copy(
        &self,
        group: &Group,
        caller: &[u8; 32],
        hello: &Hello,
    ) -> Result<Arc<Secondary>, Refused> {
        let (here, name, generation) = (&self.config.name, group.keeper.name(), group.keeper.generation().0);
        let refuse = |refusal, message: String| Refused { refusal, message, generation };
        let engine = group.engine.read().clone();
        let reason = match &engine {
            Engine::Secondary(secondary) => secondary.state().problem().unwrap_or_default(),
            Engine::Failed(why) => why.to_string(),
            Engine::Primary(_) | Engine::Fenced { .. } => String::new(),
        };
        if !hello.create {
            let message = format!(
                "the journal of the copy on '{here}' cannot be read, so it has no image: what it lacks is copied again ({reason})"
            );
            return Err(refuse(Refusal::Damaged, message));
        }
        let _alone = self.changing.lock().await;
        // Held while nothing runs for the group: its counts would begin anew, and nobody would be told of the damage. One that runs has
        // counted it.
        let metrics = self.metrics.group(&name);
        let found_at_start = matches!(&engine, Engine::Failed(why) if why.journal == Some(true));
        if !self.is_to_renew(group, caller, hello) {
            return Err(refuse(Refusal::Unready, format!("group '{name}' has just changed on '{here}'")));
        }
        if let Engine::Secondary(secondary) = engine {
            if !secondary.stop_within(STOPS_WITHIN).await {
                let message = format!(
                    "the copy of group '{name}' on '{here}' is copied again once its disk has answered what was begun before ({reason})"
                );
                return Err(refuse(Refusal::Unready, message));
            }
            *group.engine.write() = Engine::Failed(reason.into());
        }
        let started = tokio::task::block_in_place(|| {
            // Its primary may have been made primary again meanwhile.
            let adopted = group.keeper.update(|record| record.generation = record.generation.max(hello.generation));
            adopted.map_err(|error| Failure { journal: Some(true), ..error.to_string().into() })?;
            self.start_without_image(&group.keeper)
        });
        let (engine, answer) = match started {
            Ok(secondary) => (Engine::Secondary(Arc::clone(&secondary)), Ok(secondary)),
            Err(why) => {
                let message = format!("the copy of group '{name}' on '{here}' could not be begun anew: {why}");
                (Engine::Failed(why), Err(refuse(Refusal::Unready, message)))
            }
        };
        if found_at_start && answer.is_ok() {
            metrics.journal_damaged();
        }
        *group.engine.write() = engine;
        for member in group.keeper.get().volumes {
            self.settle_door(&member.name).await;
        }
        answer
    }
}
