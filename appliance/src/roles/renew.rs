//! A copy whose journal cannot be read is renewed by its primary (decision 12): first it is told, then it orders a first copy, and
//! what is sound of the journal stays. In comes a primary's call, out goes a copy that runs and has no image yet.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::PairState;
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
                Engine::Primary(_) | Engine::Fenced { .. } | Engine::Changing { .. } => false,
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
            Engine::Primary(_) | Engine::Fenced { .. } | Engine::Changing { .. } => String::new(),
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
        if !self.is_to_renew(group, caller, hello) {
            return Err(refuse(Refusal::Unready, format!("group '{name}' has just changed on '{here}'")));
        }
        // Whoever was waited for may have started it again: of two copies over one journal, each writes what the other does not know of.
        let engine = group.engine.read().clone();
        let found_at_start = matches!(&engine, Engine::Failed(why) if why.journal == Some(true));
        if let Engine::Secondary(secondary) = engine
            && !secondary.stop_within(STOPS_WITHIN).await
        {
            let message = format!(
                "the copy of group '{name}' on '{here}' is copied again once its disk has answered what was begun before ({reason})"
            );
            return Err(refuse(Refusal::Unready, message));
        }
        let what = format!("its copy is begun anew, as its primary has ordered ({reason})");
        let _change = self.begin_change(group, what, PairState::InitialCopy);
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
        self.change_engine(group, engine);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tidemark_common::catalog::GroupRecord;

    use super::*;
    use crate::service::tests::{copy_of, copy_record, hello, with_copy};

    /// The one that runs went on beside the new one, over the same journal.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_was_started_while_its_primary_waited_is_stopped_before_it_is_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let add = |appliance: &Appliance| {
            let record = GroupRecord { primary: Some([1; 32]), ..copy_record("g", [7; 16]) };
            appliance.catalog.put_group(&record).unwrap();
        };
        let (appliance, group, ()) = with_copy(directory.path(), &Arc::default(), add).await;
        let hello = Hello { create: true, ..hello() };
        // A failover, that its disk kept waiting, is not over.
        let alone = appliance.changing.lock().await;
        let before = copy_of(&group);
        let mut renewing = pin!(appliance.renew_copy(&group, &[1; 32], &hello));
        assert!(renewing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        before.stop_at_once().await;
        appliance.run_as_copy(&group);
        let again = copy_of(&group);
        again.state().found_damage();
        drop(alone);
        let _ = renewing.await;
        assert!(again.state().is_stopping());
        appliance.stop_groups().await;
    }
}
